"""Runs one program on one loop: `python -m lessons MODULE NAME LOOP`.

Prints `passed`, or `failed:` with the exception, as the last line of standard output.
"""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import importlib
import inspect
import os
import signal
import sys
import traceback

from . import CONTROL, LESSONS


def new_event_loop(name: str) -> asyncio.AbstractEventLoop:
    """Make a loop of the named package."""
    if name == CONTROL:
        return asyncio.SelectorEventLoop()
    loop: asyncio.AbstractEventLoop = importlib.import_module(name).new_event_loop()
    return loop


def main() -> None:
    """Run the program that the command line names."""
    module, name, loop = sys.argv[1:]
    faulthandler.enable()
    # A shell's background jobs inherit that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    importlib.import_module(f"{__package__}.{module}")
    program = LESSONS[name].program
    new = functools.partial(new_event_loop, loop)
    new().close()
    try:
        if inspect.iscoroutinefunction(program):
            with asyncio.Runner(loop_factory=new) as runner:
                runner.run(program())
        else:
            program(new)
    except BaseException as error:
        traceback.print_exc()
        what = f"failed: {type(error).__name__}: {error}".replace("\n", " ")
    else:
        what = "passed"
    print(what, flush=True)
    # What a broken loop left behind must not keep the process.
    sys.stderr.flush()
    os._exit(0)


main()
