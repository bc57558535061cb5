"""`import aioxide as asyncio`: every public name, submodule, signature and class relation."""

import asyncio
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

# What aioxide has in its own right, and so is not asyncio's object.
OWN = {
    "AbstractEventLoop": False,
    "EventLoop": True,
    "Future": True,
    "Handle": True,
    "Runner": True,
    "Server": True,
    "Task": True,
    "TimerHandle": True,
    "new_event_loop": True,
    "run": True,
}


@pytest.fixture
def aioxide():
    """Give the module under test."""
    import aioxide

    return aioxide


def test_every_public_name(aioxide):
    missing = [n for n in asyncio.__all__ if not hasattr(aioxide, n)]
    assert missing == []
    listed = set(aioxide.__all__)
    assert set(asyncio.__all__) <= listed
    assert [n for n in aioxide.__all__ if not hasattr(aioxide, n)] == []
    assert len(listed) == len(aioxide.__all__)


def test_names_outside_of_all(aioxide):
    """Some public names of asyncio are not in its __all__; programs use them all the same."""
    for name in dir(asyncio):
        if not name.startswith("_") and name not in ("sys", "warnings", "selectors"):
            assert hasattr(aioxide, name), name


def test_own_names(aioxide):
    for name in ("Loop", "Task", "Future", "install", "run", "new_event_loop", "__version__"):
        assert hasattr(aioxide, name)
    if sys.version_info < (3, 16):
        assert hasattr(aioxide, "EventLoopPolicy")


def test_other_names_are_the_very_same(aioxide):
    import warnings

    different = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in asyncio.__all__:
            if getattr(aioxide, name) is not getattr(asyncio, name):
                different.append(name)
    streams = importlib.import_module("aioxide._streams")
    native = {*aioxide.primitives.NATIVE, *streams.FUNCTIONS}
    own = {n for n, own in OWN.items() if own} | native
    assert set(different) <= own, different


def test_submodules(aioxide):
    code = "import sys\nimport aioxide as asyncio\n"
    public = [
        m.name
        for m in pkgutil.iter_modules(asyncio.__path__)
        if not m.name.startswith(("_", "windows", "proactor", "tools"))
    ]
    loaded = [n for n in public if hasattr(asyncio, n)]
    for name in loaded:
        assert getattr(aioxide, name) is getattr(asyncio, name), name
    code += "".join(f"asyncio.{n}\n" for n in loaded if n not in ("__main__",))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_star_import():
    code = "from aioxide import *\nrun(sleep(0))\nprint(Queue, TaskGroup, timeout, install)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["Task", "Future", "Handle", "TimerHandle", "Runner", "Server"])
def test_classes(aioxide, name):
    ours, stock = getattr(aioxide, name), getattr(asyncio, name, None)
    if stock is None:
        stock = getattr(asyncio.base_events, name)
    assert issubclass(ours, stock)
    assert ours.__name__ == name
    assert ours.__qualname__ == name
    for attribute in dir(stock):
        if not attribute.startswith("_"):
            assert hasattr(ours, attribute), attribute


def test_loop_has_every_method(aioxide):
    assert issubclass(aioxide.Loop, asyncio.AbstractEventLoop)
    for name in dir(asyncio.AbstractEventLoop):
        if name.startswith("_"):
            continue
        stock = getattr(asyncio.AbstractEventLoop, name)
        assert getattr(aioxide.Loop, name) is not stock, f"{name} is not implemented"
    for name in dir(asyncio.SelectorEventLoop):
        if not name.startswith("_"):
            assert hasattr(aioxide.Loop, name), name


@pytest.mark.parametrize("owner", ["Loop", "Task", "Future", "Runner"])
def test_signatures(aioxide, owner):
    """Every parameter that asyncio names may be given by that name."""
    stock_owner = asyncio.SelectorEventLoop if owner == "Loop" else getattr(asyncio, owner)
    different = []
    for name, stock in inspect.getmembers(stock_owner):
        if name.startswith("_") or not callable(stock):
            continue
        ours = getattr(getattr(aioxide, owner), name)
        try:
            theirs, mine = inspect.signature(stock), inspect.signature(ours)
        except (TypeError, ValueError):
            continue
        for parameter in theirs.parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                continue
            # asyncio's own classes disagree about this name: the documented one is `nbytes`.
            if (name, parameter.name) == ("sock_recv", "n"):
                continue
            takes_all = any(p.kind is p.VAR_KEYWORD for p in mine.parameters.values())
            if parameter.name not in mine.parameters and not takes_all:
                different.append(f"{name}({parameter.name})")
    assert different == []


def test_coroutine_methods_are_coroutine_functions(aioxide):
    for name, stock in inspect.getmembers(asyncio.SelectorEventLoop):
        if inspect.iscoroutinefunction(stock) and not name.startswith("_"):
            # Before 3.12 inspect sees none but Python's own.
            asks = inspect if sys.version_info >= (3, 12) else asyncio
            assert asks.iscoroutinefunction(getattr(aioxide.Loop, name)), name


def test_text_signatures_of_native_types(aioxide):
    for owner in (aioxide.Task, aioxide.Future):
        for name in ("result", "exception", "cancel", "done", "add_done_callback", "get_loop"):
            ours = list(inspect.signature(getattr(owner, name)).parameters)
            try:
                method = getattr(getattr(asyncio, owner.__name__), name)
                stock = list(inspect.signature(method).parameters)
            except ValueError:
                # The text that stock has for this method is not one that `inspect` can read.
                assert name == "add_done_callback"
                stock = ["self", "fn", "context"]
            assert ours == stock, name
            assert getattr(owner, name).__doc__


def test_types_cannot_be_pickled_or_copied_by_chance(lib):
    import copy
    import pickle

    future = lib.loop.create_future()
    for call in (lambda: pickle.dumps(future), lambda: copy.copy(future)):
        try:
            call()
        except TypeError:
            lib.note("TypeError")
        except Exception as exc:
            lib.note("other", type(exc).__name__)
        else:
            lib.note("worked")
    future.cancel()


def test_main_attributes_of_modules(aioxide):
    assert aioxide.Task.__module__.startswith("aioxide")
    assert aioxide.Future.__module__.startswith("aioxide")
    assert aioxide.Loop.__module__.startswith("aioxide")
    assert isinstance(aioxide.__version__, str)
    assert aioxide.__doc__


def test_py_typed(aioxide):
    import importlib.resources

    assert importlib.resources.files("aioxide").joinpath("py.typed").is_file()
