"""`python -m aioxide`: scripts, -m, -c and stdin run as under Python itself, only on aioxide.

Every body launches the same program twice: `python ARGS` and `python -m aioxide ARGS`.
"""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import zipfile

import pytest

# What a program can see of itself.
LOOK = """
import asyncio, json, sys
async def loop_kind():
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]
main = sys.modules["__main__"]
print(json.dumps({
    "argv": sys.argv,
    "name": __name__,
    "file": globals().get("__file__"),
    "package": globals().get("__package__"),
    "spec": getattr(globals().get("__spec__"), "name", None),
    "cached": globals().get("__cached__") is None,
    "is_main": vars(main) is globals(),
    "names": sorted(set(globals()) - {"asyncio", "json", "sys", "loop_kind", "main"}),
    "path0": sys.path[0],
    "builtins": type(__builtins__).__name__,
    "doc": __doc__,
    "loader": globals()["__loader__"] is not None,
    "kind": asyncio.run(loop_kind()),
}))
"""


def launch(lib, *args, stdin=None, cwd=None, options=(), env=None):
    """Run Python, or Python with `-m aioxide`, with arguments of a user."""
    through = [] if lib.kind == "asyncio" else ["-m", "aioxide"]
    return subprocess.run(
        [sys.executable, *options, *through, *args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})},
    )


def seen_by(lib, done):
    """Read what a LOOK program printed; check and drop the kind of its loop."""
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen.pop("kind") == lib.module.__name__
    return seen


def tidy(text):
    """Drop line markers that differ between versions from an error text."""
    return re.sub(r"^\s*[\^~]+\s*$", "", text, flags=re.MULTILINE)


@pytest.fixture
def script(tmp_path):
    """Write program files into a directory of the test's own."""

    def write(text, name="program.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return str(path)

    # The directory differs between the two runs of a body; a body notes paths relative to it.
    write.directory = str(tmp_path)
    return write


def relative(seen, script):
    """Replace the test's directory in what a program has seen."""
    return json.loads(json.dumps(seen).replace(script.directory, "DIR"))


@pytest.mark.parametrize("args", [(), ("a", "b c"), ("-x", "--help", "-m", "-c"), ("--", "-")])
def test_script(lib, script, args):
    path = script(LOOK)
    lib.note(relative(seen_by(lib, launch(lib, path, *args)), script))


def test_script_by_a_relative_path(lib, script):
    script(LOOK)
    done = launch(lib, "program.py", "x", cwd=script.directory)
    lib.note(relative(seen_by(lib, done), script))
    script(LOOK, "sub/other.py")
    done = launch(lib, "sub/other.py", cwd=script.directory)
    lib.note(relative(seen_by(lib, done), script))


def test_script_by_a_link(lib, script):
    path = script(LOOK, "real/program.py")
    link = os.path.join(script.directory, "link.py")
    os.symlink(path, link)
    lib.note(relative(seen_by(lib, launch(lib, link)), script))


def test_script_imports_its_neighbours(lib, script):
    script("value = 'neighbour'\n", "neighbour.py")
    path = script(
        "import neighbour, __main__\nprint(neighbour.value, __main__.__file__ == __file__)"
    )
    done = launch(lib, path)
    lib.note(done.returncode, done.stdout, done.stderr)


def test_directory_and_zip_file(lib, script):
    script(LOOK, "app/__main__.py")
    directory = os.path.join(script.directory, "app")
    lib.note(relative(seen_by(lib, launch(lib, directory, "x")), script))
    packed = os.path.join(script.directory, "app.zip")
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("__main__.py", LOOK)
    lib.note(relative(seen_by(lib, launch(lib, packed, "x")), script))


@pytest.mark.parametrize("args", [(), ("a", "-m"), ("-h",)])
def test_module(lib, script, args):
    script(LOOK, "module.py")
    done = launch(lib, "-m", "module", *args, cwd=script.directory)
    lib.note(relative(seen_by(lib, done), script))


def test_package(lib, script):
    script("value = 1\n", "package/__init__.py")
    script("from . import value\n" + LOOK, "package/__main__.py")
    script("from . import value\n" + LOOK, "package/part.py")
    for name in ("package", "package.part"):
        done = launch(lib, "-m", name, "x", cwd=script.directory)
        lib.note(relative(seen_by(lib, done), script))


@pytest.mark.parametrize("args", [(), ("a", "-c"), ("-m", "x")])
def test_code(lib, script, args):
    done = launch(lib, "-c", LOOK, *args, cwd=script.directory)
    lib.note(relative(seen_by(lib, done), script))


def test_code_joined_to_its_option(lib):
    for args in (("-cprint('joined')",), ("-mplatform",)):
        done = launch(lib, *args)
        lib.note(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("args", [("-",), ("-", "a", "b")])
def test_stdin(lib, script, args):
    done = launch(lib, *args, stdin=LOOK, cwd=script.directory)
    lib.note(relative(seen_by(lib, done), script))


def test_stdin_of_a_program(lib, script):
    path = script("print(input(), input())")
    done = launch(lib, path, stdin="one\ntwo\n")
    lib.note(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit()",
        "import sys; sys.exit(3)",
        "import sys; sys.exit('a message')",
        "raise SystemExit(None)",
        "raise SystemExit(7)",
        "raise KeyboardInterrupt",
        "import os; os._exit(9)",
        "1/0",
        "raise LookupError('message')",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
        "import atexit; atexit.register(print, 'at exit')",
        "import asyncio; asyncio.run(asyncio.sleep(0)); raise SystemExit(5)",
        "assert False, 'assertion'",
        "this is no python",
        "import threading; threading.Thread(target=print, args=('thread',)).start()",
        "raise SystemExit(300)",
        "raise GeneratorExit",
        "raise ExceptionGroup('group', [ValueError(1)])",
        "import missing_module_of_nobody",
        "import sys; print(sys.flags.dev_mode, sys.warnoptions)",
    ],
)
def test_exit_status_and_words(lib, script, code):
    # Half of the programs as a file, half on the command line.
    args = (script(code),) if len(code) % 2 else ("-c", code)
    done = launch(lib, *args)
    stderr = tidy(done.stderr.replace(script.directory, "DIR"))
    lib.note(done.returncode, done.stdout, stderr.splitlines())


def test_tracebacks_begin_with_the_program(lib, script):
    path = script(
        """
        import asyncio

        async def inner():
            raise LookupError("inner")

        def main():
            asyncio.get_event_loop_policy
            raise LookupError("outer")

        main()
        """
    )
    done = launch(lib, path)
    lib.note(done.returncode, done.stderr.replace(script.directory, "DIR").splitlines())
    done = launch(lib, "-m", "program", cwd=script.directory)
    lib.note(done.returncode, done.stderr.replace(script.directory, "DIR").splitlines()[-3:])


def test_missing_things(lib, script):
    for args in (
        ("missing.py",),
        ("-m", "missing_module"),
        ("-m", "missing_package.part"),
        ("-m", "json.missing"),
    ):
        done = launch(lib, *args, cwd=script.directory)
        stderr = done.stderr.replace(script.directory, "DIR")
        lib.note(done.returncode, done.stdout, stderr.splitlines()[-1:])
    done = launch(lib, script.directory)
    lib.note(done.returncode, bool(done.stderr))


def test_options_without_argument(lib):
    for option in ("-c", "-m"):
        done = launch(lib, option)
        lib.note(done.returncode, done.stdout)
        assert "rgument expected" in done.stderr


def test_options_of_python(lib, script):
    path = script("import sys\nprint(sys.flags.dev_mode, sys.flags.optimize, sys.warnoptions)")
    for options in (("-X", "dev"), ("-O",), ("-W", "error"), ("-I",), ("-P",), ("-s",)):
        done = launch(lib, path, options=options)
        lib.note(done.returncode, done.stdout, done.stderr)


def test_multiprocessing_from_a_script(lib, script):
    path = script(
        """
        import asyncio, concurrent.futures, multiprocessing, sys

        class Local:
            def __init__(self, value):
                self.value = value

        def work(thing):
            return thing.value * 2

        async def main():
            loop = asyncio.get_running_loop()
            context = multiprocessing.get_context(sys.argv[1])
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
                return await loop.run_in_executor(pool, work, Local(21))

        if __name__ == "__main__":
            print(asyncio.run(main()))
        """
    )
    for method in ("spawn", "forkserver", "fork"):
        done = launch(lib, path, method, options=("-W", "ignore"))
        lib.note(method, done.returncode, done.stdout, done.stderr)
        done = launch(lib, "-m", "program", method, cwd=script.directory, options=("-W", "ignore"))
        lib.note(method, done.returncode, done.stdout, done.stderr)


def test_children_run_on_the_same_loop(lib, script):
    path = script(
        """
        import asyncio, multiprocessing, sys

        def work():
            async def kind():
                return type(asyncio.get_running_loop()).__module__.partition(".")[0]
            print(asyncio.run(kind()), flush=True)

        if __name__ == "__main__":
            process = multiprocessing.get_context(sys.argv[1]).Process(target=work)
            process.start()
            process.join()
            sys.exit(process.exitcode)
        """
    )
    for method in ("spawn", "fork"):
        done = launch(lib, path, method, options=("-W", "ignore"))
        assert (done.returncode, done.stdout) == (0, f"{lib.module.__name__}\n"), done.stderr


def test_pickling_of_main_classes(lib, script):
    path = script(
        """
        import pickle

        class Thing:
            pass

        print(type(pickle.loads(pickle.dumps(Thing()))) is Thing, Thing.__module__)
        """
    )
    done = launch(lib, path)
    lib.note(done.returncode, done.stdout, done.stderr)


def test_ctrl_c(lib, script):
    path = script(
        """
        import asyncio

        async def main():
            print("ready", flush=True)
            try:
                await asyncio.sleep(100)
            finally:
                print("cleaned", flush=True)

        asyncio.run(main())
        """
    )
    through = [] if lib.kind == "asyncio" else ["-m", "aioxide"]
    with subprocess.Popen(
        [sys.executable, *through, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout.readline() == "ready\n"
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=30)
        lib.note(program.returncode, out, err.splitlines()[-1:])


def test_loop_factories_of_servers(lib, script):
    """What uvicorn and others write: the stock loop asked for by name means aioxide here."""
    path = script(
        """
        import asyncio

        async def kind():
            return type(asyncio.get_running_loop()).__module__.partition(".")[0]

        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            print(runner.run(kind()))
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            print(runner.run(kind()))
        loop = asyncio.new_event_loop()
        print(loop.run_until_complete(kind()))
        loop.close()
        """
    )
    done = launch(lib, path)
    assert done.stdout.split() == [lib.module.__name__] * 3, done.stderr


def test_help_and_version(lib):
    lib.stock_defect(True, "these are aioxide's own words")
    done = launch(lib, "-h")
    assert done.returncode == 0
    assert "usage: python -m aioxide" in done.stdout
    done = launch(lib, "--version")
    assert done.stdout.startswith("aioxide ")
    done = launch(lib, "--no-such-option")
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_profilers_and_debuggers_can_run_through(lib, script):
    """cProfile, trace and pdb start programs by name; so they must start under `-m aioxide`."""
    path = script("import asyncio\nasync def main(): print('profiled')\nasyncio.run(main())")
    done = launch(lib, "-m", "cProfile", "-o", os.devnull, path)
    lib.note(done.returncode, done.stdout, done.stderr)
    done = launch(lib, "-m", "unittest", "-q", "missing_case", cwd=script.directory)
    lib.note(done.returncode)
