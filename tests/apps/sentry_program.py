"""A program that Sentry watches: it prints, as JSON, what would have been sent.

Sentry's asyncio integration wraps every task by a task factory of its own, and asks asyncio's and
the factory's keyword arguments to be what they are on this Python.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
from typing import Any

import sentry_sdk
from sentry_sdk.integrations.asyncio import AsyncioIntegration, enable_asyncio_integration
from sentry_sdk.transport import Transport

number = contextvars.ContextVar("number", default=0)


class Kept(Transport):
    """Keeps envelopes instead of sending them."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.items: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Any) -> None:
        """Keep the events of an envelope."""
        self.items += [item.payload.json for item in envelope.items if item.payload.json]


async def work(value: int) -> int:
    """Wait a little and double; odd numbers below zero are refused."""
    number.set(value)
    sentry_sdk.set_tag("value", value)
    await asyncio.sleep(0)
    assert number.get() == value
    if value < 0:
        raise ValueError(f"refused {value}")
    return value * 2


async def main(kept: Kept) -> dict[str, Any]:
    """Run tasks of every kind under a transaction."""
    enable_asyncio_integration()
    loop = asyncio.get_running_loop()
    with sentry_sdk.start_transaction(name="order"):
        doubled = await asyncio.gather(*map(work, range(5)))
        named = asyncio.create_task(work(7), name="seven")
        doubled.append(await named)
        context = contextvars.copy_context()
        context.run(number.set, 1)
        doubled.append(await asyncio.create_task(work(8), context=context))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(work(-1))
                group.create_task(work(9))
        except* ValueError as caught:
            refused = [str(error) for error in caught.exceptions]
        try:
            async with asyncio.timeout(0.01):
                await asyncio.create_task(asyncio.Event().wait())
        except TimeoutError:
            refused.append("late")
    spans = [item for item in kept.items if item.get("type") == "transaction"]
    errors = [item for item in kept.items if "exception" in item]
    return {
        "loop": f"{type(loop).__module__}.{type(loop).__qualname__}",
        "doubled": doubled,
        "refused": refused,
        "spans": sorted(span["description"] for item in spans for span in item["spans"]),
        "errors": [
            (error["exception"]["values"][-1]["value"], error["tags"]["value"]) for error in errors
        ],
    }


if __name__ == "__main__":
    transport = Kept()
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:1/1",
        transport=transport,
        traces_sample_rate=1.0,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[AsyncioIntegration()],
    )
    print(json.dumps(asyncio.run(main(transport))))
