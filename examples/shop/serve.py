"""Serve the tea shop on aioxide: `python serve.py [--port PORT] [--data DIR]`."""

import argparse
import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn

import aioxide
from app import app, data_dir

GREETING = """\
The tea shop is open: {url}

  curl '{url}/'                         which event loop is this?
  curl '{url}/products'                 the shelf, from SQLite
  curl '{url}/products.csv'             the same from a blocking function, in a thread
  curl '{url}/products/7'               a page gathered by a TaskGroup ...
  curl '{url}/products/7?within=0'      ... which gets no time here
  curl '{url}/offers'                   many calls to ourselves, four at a time
  curl '{url}/gift?budget=5000'         CPU-bound work, in a process pool
  curl '{url}/orders' --json '{{"product_id": 7, "quantity": 2}}'
  curl '{url}/orders/1?wait=5'          the order, once the packing room is done with it
  curl '{url}/orders'                   all orders, counted

The database is {database}
Ctrl-C closes the shop.
"""


STOPS = {signal.SIGINT, signal.SIGTERM}


class Server(uvicorn.Server):
    """A server that hears of a signal only when it can end in good order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the server serves, those included that came before."""
        with super().capture_signals():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            yield


def main() -> None:
    """Read the command line, listen, and serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description="Serve the tea shop on aioxide.")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--data", type=Path, help=f"folder of the database (default: {data_dir()})")
    options = parser.parse_args()
    if options.data:
        os.environ["SHOP_DATA"] = str(options.data)
    try:
        listener = socket.create_server(("127.0.0.1", options.port))
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        parser.exit(1, f"cannot listen on port {options.port}: {reason}\n")

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops us as Ctrl-C does
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    with listener, contextlib.suppress(KeyboardInterrupt):
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        print(GREETING.format(url=url, database=data_dir() / "shop.db"), flush=True)
        server = Server(uvicorn.Config(app, log_level="warning"))
        with contextlib.closing(server.serve(sockets=[listener])) as serving:
            aioxide.run(serving)
    print("The tea shop is closed.")


if __name__ == "__main__":
    main()
