"""The native primitives in asyncio's place: what is put where, by whom, and how it is undone."""

import asyncio
import inspect
import subprocess
import sys

import pytest

import aioxide
from aioxide import primitives


def holders(wanted):
    """Give the places in asyncio's modules where an object is, as `module.name`."""
    return sorted(
        f"{module.__name__}.{name}"
        for module_name, module in list(sys.modules.items())
        if module_name.partition(".")[0] == "asyncio" and module is not None
        for name, value in list(vars(module).items())
        if value is wanted
    )


# Where asyncio's own futures and tasks stay: what its own loops make comes from there.
KEPT = {
    "Future": ["asyncio.futures.Future", "asyncio.futures._CFuture"],
    "Task": ["asyncio.tasks.Task", "asyncio.tasks._CTask"],
}
# Before 3.13 inspect knows Python functions only.
is_coroutine_function = (
    inspect.iscoroutinefunction if sys.version_info >= (3, 13) else asyncio.iscoroutinefunction
)


@pytest.fixture
def accelerated():
    """Have the natives in place, for one test."""
    primitives.accelerate()
    yield
    primitives.decelerate()


def test_the_module_names_natives_whoever_asks():
    for name, native in primitives.NATIVE.items():
        assert getattr(aioxide, name) is native
        assert getattr(asyncio, name) is primitives.STOCK[name] is not native


def test_every_place_is_known(accelerated):
    for name, native in primitives.NATIVE.items():
        stock = KEPT.get(name, [])
        assert holders(primitives.STOCK[name]) == stock, name
        places = [f"asyncio.{home}.{name}" for home in primitives.TABLE[name]]
        assert holders(native) == sorted([f"asyncio.{name}", *places])


def test_back_again():
    before = {name: holders(stock) for name, stock in primitives.STOCK.items()}
    primitives.accelerate()
    primitives.accelerate()
    primitives.decelerate()
    primitives.decelerate()
    assert before == {name: holders(stock) for name, stock in primitives.STOCK.items()}
    for native in primitives.NATIVE.values():
        assert holders(native) == []


def test_what_others_have_replaced_stays(monkeypatch):
    async def sleep(delay, result=None):
        return "theirs"

    monkeypatch.setattr(asyncio, "sleep", sleep)
    primitives.accelerate()
    try:
        assert asyncio.sleep is sleep
        assert asyncio.tasks.sleep is aioxide.sleep
    finally:
        primitives.decelerate()
    assert asyncio.sleep is sleep


def test_natives_look_like_what_they_replace():
    for name, native in primitives.NATIVE.items():
        stock = primitives.STOCK[name]
        assert native.__name__ == stock.__name__
        assert native.__qualname__ == stock.__qualname__
        assert native.__doc__
        assert is_coroutine_function(native) == is_coroutine_function(stock), name
        assert inspect.isclass(native) == inspect.isclass(stock)
        if not inspect.isclass(stock):
            theirs = [(p.name, p.kind, p.default) for p in parameters(stock)]
            assert [(p.name, p.kind, p.default) for p in parameters(native)] == theirs, name


def parameters(function):
    """Give the parameters of a function's signature, in order."""
    return inspect.signature(function).parameters.values()


def test_classes_answer_for_each_other():
    for name, native in primitives.NATIVE.items():
        stock = primitives.STOCK[name]
        if inspect.isclass(native):
            assert issubclass(native, stock)
            assert issubclass(stock, native)
            assert not issubclass(int, native)
            assert not isinstance(5, native)


@pytest.mark.parametrize("loop_class", [asyncio.SelectorEventLoop, aioxide.Loop])
def test_classes_that_are_called(accelerated, loop_class):
    """Who calls the classes gets native ones on any loop; asyncio's own loops make their own."""

    async def answer():
        await asyncio.sleep(0)
        return 42

    async def main():
        loop = asyncio.get_running_loop()
        task = asyncio.Task(answer(), loop=loop, name="by class")
        future = asyncio.Future()
        assert type(task) is aioxide.Task
        assert type(future) is aioxide.Future
        made = loop.create_task(answer()), loop.create_future()
        assert [isinstance(one, asyncio.Future) for one in made] == [True, True]
        assert isinstance(made[0], asyncio.Task)
        natives = loop_class is aioxide.Loop
        assert [type(one).__module__ == "aioxide" for one in made] == [natives, natives]
        loop.call_soon(made[1].set_result, 7)
        loop.call_soon(future.set_result, 8)
        assert task in asyncio.all_tasks()
        return await asyncio.gather(task, *made, future)

    with asyncio.Runner(loop_factory=loop_class) as runner:
        assert runner.run(main()) == [42, 42, 7, 8]


def test_eager_tasks_by_class(accelerated):
    """As aiohttp's server starts each request's."""
    if sys.version_info < (3, 12):
        with pytest.raises(TypeError):
            asyncio.tasks.Task(None, eager_start=True)

    async def inner():
        return asyncio.current_task()

    async def main():
        loop = asyncio.get_running_loop()
        task = asyncio.Task(inner(), loop=loop, eager_start=True)
        assert task.done()
        assert task.result() is task
        assert asyncio.current_task() is not task
        with pytest.raises(ZeroDivisionError):
            await asyncio.Task(fails(), loop=loop, eager_start=True)
        assert asyncio.current_task() is not task

    async def fails():
        raise ZeroDivisionError

    aioxide.run(main())


def test_future_and_task_of_others_stay(monkeypatch):
    """Tools that need Python's own tasks (`nest_asyncio`) put them there."""
    monkeypatch.setattr(asyncio, "Task", asyncio.tasks._PyTask)
    primitives.accelerate()
    try:
        assert asyncio.Task is asyncio.tasks._PyTask
        assert asyncio.Future is aioxide.Future
    finally:
        primitives.decelerate()


PLACES = """
import asyncio, aioxide
def native():
    names = aioxide.primitives.TABLE
    return sorted({getattr(asyncio, n) is getattr(aioxide, n) for n in names})
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print(native())", [False]),
        ("aioxide.run(asyncio.sleep(0)); print(native())", [False]),
        ("aioxide.install(); print(native())", [True]),
        ("aioxide.install(accelerate=True); print(native())", [True]),
        ("aioxide.install(accelerate=False); print(native())", [False]),
        ("aioxide.install(); aioxide.install(accelerate=False); print(native())", [False]),
        ("aioxide.install(accelerate=False); aioxide.install(); print(native())", [True]),
    ],
)
def test_install(code, expected):
    done = subprocess.run(
        [sys.executable, "-c", PLACES + code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == str(expected), done.stderr


CHILD = """
import multiprocessing
def child(queue):
    queue.put(native())
if __name__ == "__main__":
    print(native())
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    print(queue.get())
    process.join()
"""


@pytest.mark.parametrize(("options", "expected"), [((), True), (("--no-accelerate",), False)])
def test_command_line(tmp_path, options, expected):
    """The option is for aioxide, whatever follows is the program's; its children follow it."""
    path = tmp_path / "program.py"
    path.write_text(PLACES + CHILD)
    done = subprocess.run(
        [sys.executable, "-m", "aioxide", *options, str(path), "--no-accelerate"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == [f"[{expected}]"] * 2, done.stderr
    code = "import sys; print(sys.argv)"
    done = subprocess.run(
        [sys.executable, "-m", "aioxide", *options, "-c", code, "--no-accelerate"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "['-c', '--no-accelerate']"
