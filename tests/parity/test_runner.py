"""run and Runner: set up, contexts, Ctrl-C, what is cancelled and closed at the end."""

import asyncio
import contextvars
import itertools
import os
import signal
import sys
import threading

import pytest

# 3.11 has neither loop_factory of run() nor the other novelties of 3.12.
HAS_FACTORY = sys.version_info >= (3, 12)

var = contextvars.ContextVar("var", default="unset")


def runner_of(lib, **options):
    """Make a runner: asyncio's on a stock loop, or aioxide's own."""
    if lib.kind == "asyncio":
        return asyncio.Runner(**options)
    return lib.module.Runner(**options)


async def result(value="result"):
    """Return a value after one turn."""
    await asyncio.sleep(0)
    return value


def on_right_loop(lib):
    """Tell whether the running loop is of the kind that `run` promises."""
    loop = asyncio.get_running_loop()
    return lib.kind == "asyncio" or isinstance(loop, lib.module.Loop)


def test_run(lib):
    async def main():
        assert on_right_loop(lib)
        return await result(5)

    lib.note(lib.module.run(main()))
    lib.note(lib.module.run(main(), debug=None))
    lib.catch(asyncio.get_running_loop)


def test_run_debug(lib):
    async def main():
        return asyncio.get_running_loop().get_debug()

    for debug in (None, True, False):
        lib.note(lib.module.run(main(), debug=debug))


def test_run_refuses(lib):
    for bad in (5, None, result, "text"):
        error = lib.catch(lib.module.run, bad)
        lib.trace[-1] = str(lib.trace[-1]).split(" got ")[0].split("0x")[0]
        assert isinstance(error, (TypeError, ValueError))


def test_run_takes_futures_or_not(lib):
    class Awaitable:
        def __await__(self):
            yield
            return "awaited"

    lib.catch(lib.module.run, Awaitable())
    if "got" in str(lib.trace[-1]):
        lib.trace[-1] = str(lib.trace[-1]).split("got")[0]


def test_run_raises(lib):
    async def main():
        raise LookupError("out")

    lib.catch(lib.module.run, main())


def test_run_cancels_what_is_left(lib):
    async def stays(name):
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            lib.note(name, "cancelled")
            raise

    async def main():
        asyncio.create_task(stays("a"))
        asyncio.create_task(stays("b"))
        await asyncio.sleep(0)

    lib.module.run(main())
    lib.trace.sort(key=repr)


def test_run_reports_errors_of_what_is_left(lib):
    async def stays():
        try:
            await asyncio.sleep(100)
        finally:
            raise LookupError("while being cancelled")

    async def main():
        asyncio.create_task(stays())
        await asyncio.sleep(0)

    lib.module.run(main())
    lib.note([line.split("\n")[0] for line in lib.logged()])


def test_run_with_a_task_that_will_not_end_at_once(lib):
    async def stays():
        for _ in range(3):
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                lib.note("again")
                await asyncio.sleep(0)
                return "gave in"

    async def main():
        asyncio.create_task(stays())
        await asyncio.sleep(0)

    lib.module.run(main())


@pytest.mark.skipif(not HAS_FACTORY, reason="3.12 brought loop_factory")
def test_run_with_a_factory(lib):
    made = []

    def factory():
        made.append(lib.new_loop())
        return made[-1]

    async def main():
        assert asyncio.get_running_loop() is made[0]
        return "made"

    lib.note(lib.module.run(main(), loop_factory=factory), made[0].is_closed())


def test_own_run_takes_a_factory_on_every_python(lib):
    lib.stock_defect(not HAS_FACTORY, "3.12 brought loop_factory")
    made = []

    async def main():
        return asyncio.get_running_loop() is made[0]

    def factory():
        made.append(lib.new_loop())
        return made[-1]

    lib.note(lib.module.run(main(), loop_factory=factory))


def test_nested_run(lib):
    async def main():
        inner = result()
        lib.catch(lib.module.run, inner)
        inner.close()
        runner = runner_of(lib)
        inner = result()
        lib.catch(runner.run, inner)
        inner.close()
        runner.close()

    lib.stock_defect(sys.version_info[:3] == (3, 13, 0), "3.13.0 forgets the running loop")
    lib.module.run(main())


def test_runner_runs_many(lib):
    with runner_of(lib) as runner:
        lib.note(runner.run(result(1)), runner.run(result(2)))
        loop = runner.get_loop()
        lib.note(loop.is_closed(), runner.get_loop() is loop)

        async def main():
            return asyncio.get_running_loop() is loop and on_right_loop(lib)

        lib.note(runner.run(main()))
    lib.note(loop.is_closed())
    late = result()
    lib.catch(runner.run, late)
    late.close()
    lib.catch(runner.get_loop)
    lib.note(runner.close())


def test_runner_contexts(lib):
    async def change(value):
        old = var.get()
        var.set(value)
        return old

    with runner_of(lib) as runner:
        lib.note(runner.run(change("a")), runner.run(change("b")), var.get())
        own = contextvars.Context()
        lib.note(runner.run(change("c"), context=own), own[var], runner.run(change("d")))


def test_runner_debug(lib):
    for debug in (None, True, False):
        with runner_of(lib, debug=debug) as runner:
            lib.note(runner.get_loop().get_debug())


def test_runner_sets_the_event_loop(lib):
    with runner_of(lib) as runner:
        lib.catch(_current)
        runner.run(result())
        lib.note(_current() is runner.get_loop())
    lib.catch(_current)
    lib.warnings_taken()


def _current():
    return (
        asyncio.get_event_loop_policy().get_event_loop()
        if sys.version_info < (3, 14)
        else (asyncio.get_event_loop())
    )


def test_runner_left_by_an_error(lib):
    try:
        with runner_of(lib) as runner:
            loop = runner.get_loop()
            raise LookupError("body")
    except LookupError as exc:
        lib.note(exc, loop.is_closed())


def test_runner_shuts_the_executor_down(lib):
    async def main():
        return await asyncio.to_thread(threading.current_thread)

    with runner_of(lib) as runner:
        thread = runner.run(main())
    lib.note(thread.is_alive())


def test_ctrl_c_cancels_the_main_task(lib):
    async def main():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(100)
        except asyncio.CancelledError as exc:
            lib.note("cancelled", exc, asyncio.current_task().cancelling())
            raise

    lib.catch(lib.module.run, main())
    lib.note(signal.getsignal(signal.SIGINT) is signal.default_int_handler)


def test_ctrl_c_while_the_loop_sleeps(lib):
    async def main():
        timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            await asyncio.sleep(100)
        finally:
            timer.join()
            lib.note("cleaned")

    lib.catch(lib.module.run, main())


def test_ctrl_c_twice(lib):
    async def main():
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            lib.note("first")
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0)
            lib.note("not reached")

    lib.catch(lib.module.run, main())
    lib.logged()
    assert "not reached" not in lib.trace


def test_ctrl_c_swallowed(lib):
    async def main():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()
            return "swallowed"

    lib.catch(lib.module.run, main())


def test_ctrl_c_turned_into_an_error(lib):
    async def main():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise LookupError("instead")

    lib.catch(lib.module.run, main())


def test_ctrl_c_in_a_callback(lib):
    async def main():
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
        await asyncio.sleep(100)

    lib.catch(lib.module.run, main())


def test_ctrl_c_in_a_busy_program(lib):
    async def main():
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
        for _ in itertools.count():
            await asyncio.sleep(0)

    lib.catch(lib.module.run, main())


def test_own_sigint_handler_stays(lib):
    calls = []
    old = signal.signal(signal.SIGINT, lambda *args: calls.append("mine"))
    try:

        async def main():
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0)
            return "went on"

        lib.note(lib.module.run(main()), calls)
    finally:
        signal.signal(signal.SIGINT, old)


def test_ctrl_c_outside_of_run(lib):
    """run_until_complete has no handler of its own: the interrupt is raised where it strikes."""

    async def main():
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10):
            await asyncio.sleep(0)
        lib.note("not reached")

    task = lib.loop.create_task(main())
    try:
        lib.loop.run_until_complete(task)
    except KeyboardInterrupt:
        lib.note("interrupted")
    if not task.done():
        task.cancel()
        lib.turns(3)
    else:
        lib.note(type(task.exception()).__name__)
    lib.trace = [t for t in lib.trace if t in ("interrupted", "not reached")]


@pytest.mark.parametrize("asleep", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt, LookupError])
def test_a_signal_handler_that_raises(lib, asleep, error):
    """What a plain Python signal handler raises leaves run_forever, wherever the loop was."""

    def handler(number, frame):
        raise error("from the handler")

    def send():
        os.kill(os.getpid(), signal.SIGUSR1)

    loop = lib.loop
    old = signal.signal(signal.SIGUSR1, handler)
    try:
        if asleep:
            timer = threading.Timer(0.05, send)
            loop.call_soon(timer.start)
            limit = loop.call_later(10, loop.stop)
            lib.catch(loop.run_forever)
            limit.cancel()
            timer.join()
        else:
            seen = lib.contexts()
            loop.call_soon(send)
            stop = loop.call_soon(loop.stop)
            lib.catch(loop.run_forever)
            stop.cancel()
            lib.note([c["exception"] for c in seen])
        lib.note(loop.is_running(), loop.run_until_complete(result("usable")))
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_a_signal_handler_that_schedules(lib):
    """A handler may call the loop from wherever it struck, also out of the loop's sleep."""
    loop = lib.loop

    def handler(number, frame):
        lib.note("handler")
        loop.call_soon_threadsafe(loop.stop)

    old = signal.signal(signal.SIGUSR1, handler)
    try:
        timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1))
        loop.call_soon(timer.start)
        loop.run_forever()
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_exit_status_of_programs(lib):
    code = (
        "import asyncio, os, signal, sys\n"
        "async def main():\n"
        "    print('started', flush=True)\n"
        "    {}\n"
        "    await asyncio.sleep(100)\n"
        "LIB.run(main())\n"
    )
    for line in ("sys.exit(3)", "os.kill(os.getpid(), signal.SIGINT)", "raise LookupError('x')"):
        done = lib.program(code.format(line))
        last = done.stderr.strip().splitlines()[-1:] or [""]
        lib.note(line, done.returncode, done.stdout, last)
