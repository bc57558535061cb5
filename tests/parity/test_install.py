"""install(), the policy, new_event_loop: how a program that knows only asyncio runs on aioxide.

Each body is a program of its own, since install() changes the whole process.
"""

import sys
import textwrap

import pytest

HAS_FACTORY = sys.version_info >= (3, 12)

PROLOGUE = """
import asyncio, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
if LIB.__name__ == "aioxide":
    assert LIB.install() is None
    LIB.install()

def note(*values):
    print(*values)

def ours(loop):
    return LIB.__name__ == "asyncio" or isinstance(loop, LIB.Loop)

def stock(loop):
    return isinstance(loop, asyncio.SelectorEventLoop)

async def main():
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    return ours(loop), LIB.__name__ == "asyncio" or isinstance(task, LIB.Task)
"""

BODIES = {
    "run": "note(asyncio.run(main()))",
    "run_debug": "note(asyncio.run(main(), debug=True))",
    "own_run": "note(LIB.run(main()))",
    "runner": """
with asyncio.Runner() as runner:
    note(runner.run(main()), ours(runner.get_loop()))
with asyncio.Runner(debug=True) as runner:
    note(runner.run(main()), runner.get_loop().get_debug())
""",
    "new_event_loop": """
loop = asyncio.new_event_loop()
note(ours(loop), loop.run_until_complete(main()))
loop.close()
""",
    "set_and_get": """
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
note(asyncio.get_event_loop() is loop)
loop.close()
asyncio.set_event_loop(None)
try:
    asyncio.get_event_loop()
except RuntimeError as exc:
    note(exc)
""",
    "get_event_loop_makes_one_where_python_does": """
try:
    loop = asyncio.get_event_loop()
    note(ours(loop))
    loop.close()
except RuntimeError as exc:
    note(exc)
""",
    "threads": """
import threading
def work():
    try:
        asyncio.get_event_loop()
    except RuntimeError as exc:
        note(exc)
    note(asyncio.run(main()))
thread = threading.Thread(target=work, name="worker")
thread.start()
thread.join()
""",
    "explicit_factory_counts": """
class Mine(asyncio.SelectorEventLoop):
    pass
async def kind():
    return type(asyncio.get_running_loop()).__name__
with asyncio.Runner(loop_factory=Mine) as runner:
    note(runner.run(kind()))
""",
    "policy_set_later_counts": """
class Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self):
        note("asked")
        return super().new_event_loop()
asyncio.set_event_loop_policy(Policy())
loop = asyncio.new_event_loop()
note(stock(loop))
loop.close()
with asyncio.Runner() as runner:
    note(stock(runner.get_loop()))
""",
    "policy_reset": """
asyncio.set_event_loop_policy(None)
loop = asyncio.new_event_loop()
note(stock(loop))
loop.close()
""",
    "policy_class": """
policy = asyncio.get_event_loop_policy()
note(isinstance(policy, asyncio.AbstractEventLoopPolicy))
note(isinstance(policy, asyncio.DefaultEventLoopPolicy))
loop = policy.new_event_loop()
policy.set_event_loop(loop)
note(ours(loop), policy.get_event_loop() is loop)
try:
    policy.set_event_loop("loop")
except (TypeError, AssertionError) as exc:
    note(type(exc).__name__)
policy.set_event_loop(None)
loop.close()
""",
    "isolated_test_case": """
import unittest
class Case(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        # Debug mode is on, and tells of whatever a busy machine makes slow.
        asyncio.get_running_loop().slow_callback_duration = 1000
    async def test(self):
        note(await main())
done = unittest.TextTestRunner(stream=open("/dev/null", "w")).run(
    unittest.defaultTestLoader.loadTestsFromTestCase(Case))
note(done.wasSuccessful())
""",
    "subprocess_watcher": """
async def child():
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print('child')", stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    note(out, process.returncode)
asyncio.run(child())
""",
    "running_twice": """
note(asyncio.run(main()))
note(asyncio.run(main()))
""",
}


@pytest.mark.parametrize("body", BODIES)
def test_programs(lib, body):
    if sys.version_info >= (3, 16) and "policy" in body:
        pytest.skip("3.16 has no policies")
    done = lib.program(PROLOGUE + BODIES[body])
    assert done.returncode == 0, done.stderr
    lib.note(done.stdout.splitlines(), done.stderr.splitlines())
    assert done.stdout


@pytest.mark.skipif(not HAS_FACTORY, reason="3.12 brought loop_factory")
def test_run_with_a_factory_of_the_program(lib):
    done = lib.program(
        PROLOGUE
        + "class Mine(asyncio.SelectorEventLoop): pass\n"
        + "async def kind(): return type(asyncio.get_running_loop()).__name__\n"
        + "note(asyncio.run(kind(), loop_factory=Mine))\n"
    )
    lib.note(done.returncode, done.stdout, done.stderr)


def test_import_alone_changes_nothing(lib):
    done = lib.program(
        "import asyncio, sys\n"
        "loop = asyncio.new_event_loop()\n"
        "print(type(loop).__module__, type(loop).__name__)\n"
        "loop.close()\n"
        "async def main():\n"
        "    return type(asyncio.get_running_loop()).__module__\n"
        "print(asyncio.run(main()))\n"
        "print(asyncio.Task.__module__, asyncio.Future.__module__)\n"
        "print(asyncio.Runner.__init__.__module__)\n"
        "print(sys.stderr.write(''))\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("asyncio.unix_events")
    lib.note(done.stdout, done.stderr)


def test_import_warns_of_nothing(lib):
    done = lib.program("print('imported')", env={"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"})
    lib.note(done.returncode, done.stdout, done.stderr)


def test_new_event_loop_of_the_module(lib):
    loop = lib.module.new_event_loop()
    lib.loops.append(loop)
    lib.note(loop.is_running(), loop.is_closed())
    if lib.native_loop:
        assert type(loop) is lib.module.Loop


def test_policy_of_the_module(lib):
    lib.stock_defect(True, "asyncio has no such name")
    if sys.version_info >= (3, 16):
        pytest.skip("3.16 has no policies")
    policy = lib.module.EventLoopPolicy()
    loop = policy.new_event_loop()
    lib.loops.append(loop)
    assert type(loop) is lib.module.Loop


EXITS = {
    "closed": "loop = LIB.new_event_loop(); loop.call_soon(print); loop.close()",
    "cancelled task": """
        loop = LIB.new_event_loop()
        task = loop.create_task(asyncio.sleep(1))
        loop.call_soon(loop.stop)
        loop.run_forever()
        task.cancel()
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
    """,
    "kept handle": """
        kept = LIB.new_event_loop()
        handle = kept.call_later(5, print)
        kept.close()
    """,
    "hard exit in a callback": """
        loop = LIB.new_event_loop()
        loop.call_soon(os._exit, 3)
        loop.run_forever()
    """,
    "exit in a callback": """
        loop = LIB.new_event_loop()
        loop.call_soon(sys.exit, 4)
        loop.run_forever()
    """,
    "open loop with all kinds of work": """
        loop = LIB.new_event_loop()
        loop.call_soon(print)
        loop.call_later(5, print)
        future = loop.create_future()
        future.add_done_callback(print)
        loop.add_reader(0, print)
    """,
    "loop running in a daemon thread": """
        loop = LIB.new_event_loop()
        ready = threading.Event()
        loop.call_soon(ready.set)
        threading.Thread(target=loop.run_forever, daemon=True).start()
        ready.wait()
    """,
    "busy daemon thread": """
        loop = LIB.new_event_loop()
        ready = threading.Event()
        def again():
            ready.set()
            loop.call_soon(again)
        loop.call_soon(again)
        threading.Thread(target=loop.run_forever, daemon=True).start()
        ready.wait()
    """,
    "scheduling from atexit": """
        import atexit
        loop = LIB.new_event_loop()
        atexit.register(loop.close)
        atexit.register(loop.run_until_complete, asyncio.sleep(0))
    """,
    "destructor at the very end": """
        class Last:
            def __init__(self, loop):
                self.loop = loop
            def __del__(self):
                try:
                    self.loop.call_soon(print)
                    self.loop.create_future().set_result(1)
                except Exception:
                    pass
        sys.last = Last(LIB.new_event_loop())
    """,
    "suspended generator": """
        async def numbers():
            try:
                yield 1
            finally:
                print("closed")
        async def main():
            global kept
            kept = numbers()
            await kept.asend(None)
        LIB.run(main())
    """,
    "many loops": """
        for _ in range(50):
            LIB.run(asyncio.sleep(0))
    """,
}


@pytest.mark.parametrize("name", EXITS)
def test_interpreter_exits(lib, name):
    """A program may end at any point of a loop's life without a crash."""
    code = "import asyncio, os, sys, threading\n" + textwrap.dedent(EXITS[name])
    done = lib.program(code, env={"PYTHONWARNINGS": "ignore"})
    lib.note(done.returncode, done.stdout)
    assert "Fatal" not in done.stderr
    assert "panicked" not in done.stderr
