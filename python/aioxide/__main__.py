"""`python -m aioxide`: run an unmodified program on aioxide.

    python -m aioxide script.py ARGS      a file, a directory or a zip file, as `python script.py`
    python -m aioxide -m module ARGS      as `python -m module`
    python -m aioxide -c CODE ARGS        as `python -c CODE`
    python -m aioxide - ARGS              a program read from standard input
    python -m aioxide                     the asyncio REPL, with top-level await
    python -m aioxide --no-accelerate ... asyncio's own primitives on aioxide's loop

The program is to see what it sees under Python itself: `sys.argv`, `sys.path[0]`, a `__main__`
module of its own (which stays `sys.modules["__main__"]` until the end, so that pickling and
multiprocessing find it), exit status, and tracebacks that begin with its own first line. Python's
own options go before `-m aioxide`.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import io
import linecache
import os
import pkgutil
import runpy
import sys
import textwrap
import types
from collections.abc import Callable

from aioxide import __version__
from aioxide.installing import adopt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_USAGE = """\
usage: python -m aioxide [--no-accelerate] [-h | -V | -c CODE | -m MODULE | FILE | -] [ARG ...]

Run a Python program on aioxide, a drop-in replacement of asyncio's event loop.

  FILE       run a script, or a directory or zip file with a __main__.py in it
  -m MODULE  run a module, as python -m does
  -c CODE    run the program given as a string
  -          run the program read from standard input
  -h         show this help
  -V         show the version

  --no-accelerate  leave asyncio's own sleep, gather, Lock, Queue and so on in their place;
                   else the program gets aioxide's native ones

Without arguments: an asyncio REPL with top-level await, on aioxide.
Options of Python itself go before: python -X dev -m aioxide FILE.
"""

_NO_ACCELERATE = "--no-accelerate"

_runpy: Any = runpy

#: Exit status of Python for a command line it does not understand and for a missing file.
_STATUS_USAGE = 2


def _program_name() -> str:
    """Return the name that Python was called by, which begins its own error messages."""
    return sys.orig_argv[0] if sys.orig_argv else sys.executable


def _new_main() -> dict[str, Any]:
    """Put a fresh `__main__` in the place of this file's; return its namespace."""
    module = types.ModuleType("__main__")
    namespace = vars(module)
    namespace["__builtins__"] = builtins
    namespace["__loader__"] = importlib.machinery.BuiltinImporter
    if sys.version_info < (3, 14):
        namespace["__annotations__"] = {}
    sys.modules["__main__"] = module
    return namespace


def _name_file(namespace: dict[str, Any], path: str) -> None:
    """Tell `__main__` the file it comes from, as Python does of a script."""
    namespace["__file__"] = path
    if sys.version_info < (3, 15):
        namespace["__cached__"] = None


def _set_path0(entry: str) -> None:
    """Replace the directory that Python has put first for `-m aioxide` by the program's own."""
    if not sys.flags.safe_path:
        sys.path[0] = entry


def _stays_interactive() -> bool:
    """Whether Python goes on with its prompt after the program, and shows SystemExit too."""
    return bool(sys.flags.inspect or os.environ.get("PYTHONINSPECT"))


def _run(program: Callable[[], object]) -> None:
    """Run `program`; an exception is shown without the frames of this file.

    It goes on to Python all the same, which sets the exit status (and dies of SIGINT after a
    KeyboardInterrupt); only the hook that shows it gets the shorter traceback.
    """
    try:
        program()
    except BaseException as error:
        if isinstance(error, SystemExit) and not _stays_interactive():
            raise
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
            traceback = traceback.tb_next
        hook = sys.excepthook

        def show(kind: type[BaseException], value: BaseException, _: object) -> None:
            sys.excepthook = hook
            sys.last_traceback = traceback
            hook(kind, value.with_traceback(traceback), traceback)

        sys.excepthook = show
        raise


def _execute(source: bytes | str, filename: str, namespace: dict[str, Any]) -> None:
    """Compile and run the text of a program, with no future statements but its own."""
    exec(compile(source, filename, "exec", dont_inherit=True), namespace)


def _run_module(name: str, *, alter_argv: bool = True) -> None:
    """Run a module as `__main__` by the very function that Python's `-m` calls."""
    _new_main()
    _run(lambda: _runpy._run_module_as_main(name, alter_argv))


def _run_code(code: str) -> None:
    """Run the program given on the command line."""
    namespace = _new_main()
    _set_path0("")
    if sys.version_info >= (3, 14):
        code = textwrap.dedent(code)
    source = code + "\n"

    def program() -> None:
        compiled = compile(source, "<string>", "exec", dont_inherit=True)
        if sys.version_info >= (3, 13):
            # So that tracebacks show the lines of the program, which no file has.
            register: Any = getattr(linecache, "_register_code", None)
            if register is not None:
                register(
                    compiled if sys.version_info >= (3, 14) else "<string>", source, "<string>"
                )
        exec(compiled, namespace)

    _run(program)


def _run_stdin() -> None:
    """Run the program that standard input gives until its end."""
    namespace = _new_main()
    _name_file(namespace, "<stdin>")
    _set_path0("")
    _run(lambda: _execute(sys.stdin.buffer.read(), "<stdin>", namespace))


def _run_file(path: str) -> None:
    """Run a script, source or compiled, or the `__main__` of a directory or zip file."""
    full = os.path.join(os.getcwd(), path)
    if pkgutil.get_importer(full) is not None:
        if sys.flags.safe_path:
            sys.path.insert(0, full)
        else:
            sys.path[0] = full
        _run_module("__main__", alter_argv=False)
        return
    try:
        with io.open_code(full) as file:
            code = pkgutil.read_code(file)
            file.seek(0)
            source = file.read()
    except OSError as error:
        print(
            f"{_program_name()}: can't open file {full!r}: [Errno {error.errno}] {error.strerror}",
            file=sys.stderr,
        )
        sys.exit(_STATUS_USAGE)
    namespace = _new_main()
    _name_file(namespace, full)
    _set_path0(os.path.dirname(os.path.realpath(full)))
    if code is None:
        namespace["__loader__"] = importlib.machinery.SourceFileLoader("__main__", full)
        _run(lambda: _execute(source, full, namespace))
    else:
        compiled = code
        namespace["__loader__"] = importlib.machinery.SourcelessFileLoader("__main__", full)
        _run(lambda: exec(compiled, namespace))


def _run_repl() -> None:
    """The asyncio REPL of this version of Python; its loop is aioxide's by `adopt`."""
    sys.argv = [sys.argv[0]]
    _run_module("asyncio", alter_argv=False)


def _complain(complaint: str) -> NoReturn:
    """Refuse a command line, saying why."""
    print(complaint, _USAGE, sep="\n", end="", file=sys.stderr)
    sys.exit(_STATUS_USAGE)


def main(arguments: list[str]) -> None:
    """Do what the command line after `python -m aioxide` asks for."""
    accelerate = arguments[:1] != [_NO_ACCELERATE]
    if not accelerate:
        arguments = arguments[1:]
    first, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if first in ("-h", "--help"):
        print(_USAGE, end="")
        return
    if first in ("-V", "--version"):
        print(f"aioxide {__version__} (Python {sys.version.split()[0]})")
        return
    option, value = first[:2], first[2:]
    if option in ("-c", "-m") and not value:
        if not rest:
            _complain(f"Argument expected for the {option} option")
        value, *rest = rest
    if first == "--":
        first, rest = (rest[0], rest[1:]) if rest else ("", [])
    elif first.startswith("-") and first != "-" and option not in ("-c", "-m"):
        _complain(f"unknown option {first}")

    adopt(accelerate)
    if not first or (first == "-" and sys.stdin is not None and sys.stdin.isatty()):
        _run_repl()
    elif option == "-m":
        sys.argv = ["-m", *rest]
        _run_module(value)
    elif option == "-c":
        sys.argv = ["-c", *rest]
        _run_code(value)
    else:
        sys.argv = [first, *rest]
        if first == "-":
            _run_stdin()
        else:
            _run_file(first)


if __name__ == "__main__":
    main(sys.argv[1:])
