"""`python -m aioxide` alone: the asyncio REPL with top-level await, on aioxide."""

import os
import pty
import re
import subprocess
import sys

import pytest


def session(lib, text, *, options=(), env=None):
    """Run a REPL session from a pipe."""
    module = "asyncio" if lib.kind == "asyncio" else "aioxide"
    done = subprocess.run(
        [sys.executable, *options, "-m", module],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        env={
            **os.environ,
            "PYTHON_COLORS": "0",
            "TERM": "dumb",
            "PYTHON_BASIC_REPL": "1",
            **(env or {}),
        },
    )
    out = re.sub(r"0x[0-9a-f]+", "0x", done.stdout)
    # The REPL's file is the module's own; where its thread met the result is a matter of time.
    out = re.sub(r"'/\S+/__main__.py'", "'MAIN'", out)
    err = re.sub(r'(/_base.py", line) \d+', r"\1", done.stderr)
    return done.returncode, out, re.sub(r"0x[0-9a-f]+", "0x", err)


@pytest.mark.parametrize(
    "text",
    [
        "1 + 1\nx = 5\nx\nx + 1\n__name__\nimport sys\nsys.argv\n",
        (
            "await asyncio.sleep(0, 'asyncio is imported')\nimport asyncio\n"
            "await asyncio.sleep(0, 'slept')\nawait asyncio.create_task(asyncio.sleep(0, 'task'))\n"
            "asyncio.get_running_loop().create_future()\n"
            "async with asyncio.timeout(100):\n    print('in a timeout')\n\n"
        ),
        "async def f():\n    return 'from f'\n\nawait f()\n",
        (
            "1/0\n'goes on'\nraise LookupError('message')\nthis is no python\n"
            "raise KeyboardInterrupt\n'goes on'\n"
        ),
        "import contextvars\nv = contextvars.ContextVar('v')\ntoken = v.set(1)\nv.get()\n",
        "exit(3)\n",
        "import sys; sys.exit(4)\n",
        "raise SystemExit\n",
        "",
    ],
)
def test_sessions(lib, text):
    lib.note(session(lib, text))


def test_the_loop_is_ours(lib):
    code = "import asyncio\nprint(type(asyncio.get_running_loop()).__module__.partition('.')[0])\n"
    status, out, err = session(lib, code)
    assert lib.module.__name__ in out.split(), (status, out, err)


def test_tasks_go_on_between_lines(lib):
    code = (
        "import asyncio\n"
        "async def ticks():\n"
        "    for _ in range(3):\n"
        "        await asyncio.sleep(0)\n"
        "    return 'ticked'\n"
        "\n"
        "task = asyncio.create_task(ticks())\n"
        "await task\n"
        "task.done()\n"
    )
    lib.note(session(lib, code))


def test_startup_file(lib, tmp_path):
    startup = tmp_path / "startup.py"
    startup.write_text("started = 'from the startup file'\n")
    lib.note(session(lib, "started\n", env={"PYTHONSTARTUP": str(startup)}))


def test_on_a_terminal(lib):
    """With a terminal as its input the REPL prompts and ends at Ctrl-D."""
    module = "asyncio" if lib.kind == "asyncio" else "aioxide"
    parent, child = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=child,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHON_COLORS": "0", "TERM": "dumb", "PYTHON_BASIC_REPL": "1"},
        ) as program:
            os.write(parent, b"await asyncio.sleep(0, 'slept on a terminal')\n")
            seen = b""
            while b"'slept on a terminal'\n" not in seen.replace(b"\r", b""):
                piece = os.read(program.stdout.fileno(), 4096)
                assert piece, seen
                seen += piece
            os.write(parent, b"\x04")
            program.stdout.read()
            lib.note(program.wait(timeout=30))
    finally:
        os.close(parent)
        os.close(child)
