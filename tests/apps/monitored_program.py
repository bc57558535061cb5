"""A program under aiomonitor that also asks its monitor, and prints the answers as JSON.

aiomonitor hooks the task factory, runs a loop of its own in a thread (aiohttp for the browser,
telnet for the terminal) and from there looks at and cancels this loop's tasks.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import aiomonitor
import httpx
import telnetlib3
from servers import free_ports

HOST = "127.0.0.1"


async def wait_forever() -> None:
    """Be a task to be looked at."""
    await asyncio.Event().wait()


async def ask_terminal(port: int) -> str:
    """Type a command at the telnet prompt and give what is shown."""
    reader, writer = await telnetlib3.open_connection(HOST, port, encoding="utf8", cols=200)
    shown = await reader.readuntil(b">>>")
    writer.write("ps\r")
    while "tasks running" not in (text := shown.decode(errors="replace")):
        shown += (await reader.read(4096)).encode()
    writer.close()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


async def ask_browser(url: str) -> dict[str, Any]:
    """Read the list of tasks, cancel one and ask for one that does not exist."""
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
        tasks = (await http.post("/api/live-tasks", data={"filter": "waiting"})).json()["tasks"]
        (waiting,) = tasks
        query = {"task_id": waiting["task_id"]}
        trace = (await http.get("/trace-running", params=query)).text
        cancelled = (await http.delete("/api/task", params=query)).status_code
        missing = (await http.delete("/api/task", params={"task_id": "1"})).status_code
    return {
        "coroutine": waiting["coro"],
        "state": waiting["state"],
        "created": waiting["created_location"],
        "traced": "wait_forever" in trace,
        "cancelled": cancelled,
        "missing": missing,
    }


async def main() -> dict[str, Any]:
    """Start the monitor, be looked at, and stop it."""
    loop = asyncio.get_running_loop()
    terminal, browser, console = free_ports(3)
    ports = {"port": terminal, "webui_port": browser, "console_port": console}
    with aiomonitor.start_monitor(loop, host=HOST, hook_task_factory=True, **ports) as monitor:
        task = asyncio.create_task(wait_forever(), name="waiting")
        await asyncio.sleep(0)
        found = await ask_browser(f"http://{HOST}:{browser}")
        await asyncio.wait([task])
        kinds = {
            f"{type(each).__module__}.{type(each).__qualname__}"
            for each in (loop, monitor._ui_loop)
        }
        shown = await ask_terminal(terminal)
    return {
        **found,
        "loops": sorted(kinds),
        "ended": task.cancelled(),
        "shown": "main" in shown,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
