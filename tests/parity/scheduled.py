"""Callbacks in a row, in one run, and what tells in which context something dies."""

import contextvars

var = contextvars.ContextVar("var", default="unset")

WAYS = ["call_soon", "call_soon_threadsafe", "call_later", "call_at"]


class Value:
    """Something that weak references can refer to."""


class Last:
    """Notes what the variable is when the object dies."""

    def __init__(self, lib):
        self.lib = lib

    def __del__(self):
        self.lib.note("died with", var.get())

    def method(self, *args):
        self.lib.note("called with", args)


class LastList(list):
    """The same, with methods that are C's."""

    def __init__(self, lib):
        self.last = Last(lib)


def nothing(*args):
    """Return at once."""


def run_inside(lib, body, turns=4):
    """Run a function in a turn, and more turns after it, in one run."""

    def count(left):
        if left:
            lib.loop.call_soon(count, left - 1)
        else:
            lib.loop.stop()

    lib.loop.call_soon(body)
    lib.loop.call_soon(count, turns - 1)
    lib.loop.run_forever()


def schedule(lib, method, *args):
    """Schedule a call for the next turn, in one of the ways there are."""
    when = {"call_later": [-1], "call_at": [0]}.get(method, [])
    return getattr(lib.loop, method)(*when, *args)
