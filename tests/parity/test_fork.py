"""Fork: the child has no running loop, may make its own, and disturbs the parent's in nothing."""

from __future__ import annotations

import sys
from typing import Any

import pytest

PROLOGUE = """
import asyncio, importlib.machinery, os, signal, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
def child_of(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as exc:
            print("child failed:", repr(exc), flush=True)
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
def slow_import_of(slow):
    # Not in find_spec(): a fork waits for the lock that is held there.
    begun, ends = threading.Event(), threading.Event()
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name != slow or begun.is_set():
                return None
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            execute = spec.loader.exec_module
            def exec_module(module):
                begun.set()
                assert ends.wait(10)
                execute(module)
            spec.loader.exec_module = exec_module
            return spec
    sys.meta_path.insert(0, Finder())
    return begun, ends
"""

PROGRAMS = {
    "no running loop in the child": """
async def main():
    def work():
        try:
            asyncio.get_running_loop()
        except RuntimeError as exc:
            print(exc)
        print(asyncio._get_running_loop())
    print(child_of(work))
    await asyncio.sleep(0.01)
    print("parent goes on")
LIB.run(main())
""",
    "the child runs a loop of its own": """
async def main():
    async def inner():
        await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection(*where)
        writer.write(b"from the child")
        writer.close()
        await writer.wait_closed()
        return "done"
    def work():
        print(LIB.run(inner()))
    got = asyncio.get_running_loop().create_future()
    async def served(reader, writer):
        got.set_result(await reader.read())
        writer.close()
    server = await asyncio.start_server(served, "127.0.0.1", 0)
    where = server.sockets[0].getsockname()
    print(child_of(work))
    print(await got)
    server.close()
LIB.run(main())
""",
    "a pool thread's job survives in the parent": """
async def main():
    loop = asyncio.get_running_loop()
    print(await loop.run_in_executor(None, lambda: 5))
    def work():
        print(LIB.run(asyncio.to_thread(lambda: "thread in the child")))
    print(child_of(work))
    print(await asyncio.to_thread(lambda: "thread in the parent"))
LIB.run(main())
""",
    "a fork while loops in other threads have jobs": """
import gc
ends = threading.Event()
async def busy():
    loop = asyncio.get_running_loop()
    while not ends.is_set():
        await asyncio.gather(*(loop.run_in_executor(None, int) for _ in range(3)))
threads = [threading.Thread(target=lambda: LIB.run(busy())) for _ in range(2)]
for thread in threads:
    thread.start()
async def many():
    return await asyncio.gather(*(asyncio.to_thread(str, n) for n in range(20)))
def work():
    # The parent's loops and pools end here as garbage, whatever their threads held.
    signal.alarm(30)
    gc.collect()
    assert LIB.run(many()) == [str(n) for n in range(20)]
codes = [child_of(work) for _ in range(10)]
ends.set()
for thread in threads:
    thread.join()
assert codes == [0] * 10, codes
""",
    "a fork while another thread imports what jobs need": """
begun, ends = slow_import_of("concurrent.futures.thread")
done = []
def jobs():
    done.append(LIB.run(asyncio.to_thread(str, 1)))
threads = [threading.Thread(target=jobs)]
threads[0].start()
assert begun.wait(10)
def work():
    signal.alarm(30)
    jobs()
codes = [child_of(work) for _ in range(2)]
# Not before: CPython's own fork releases what an import registers while it is under way.
ends.set()
threads[0].join()
jobs()
assert (codes, done) == ([0] * 2, ["1"] * 2), (codes, done)
""",
    "a fork while another thread imports what connections need": """
begun, ends = slow_import_of("aioxide.connect")
def connects():
    async def main():
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.close()
        server.close()
    LIB.run(main())
thread = threading.Thread(target=connects)
thread.start()
begun.wait(10 if LIB is not asyncio else 0.1)
def work():
    signal.alarm(30)
    connects()
codes = [child_of(work) for _ in range(2)]
ends.set()
thread.join()
connects()
assert codes == [0] * 2, codes
""",
    "a fork inside a job": """
async def main():
    def work():
        signal.alarm(30)
        print(LIB.run(asyncio.to_thread(lambda: "thread in the child")))
    loop = asyncio.get_running_loop()
    for _ in range(3):
        print(await loop.run_in_executor(None, child_of, work))
LIB.run(main())
""",
    "the child's exit takes nothing from the parent": """
async def main():
    loop = asyncio.get_running_loop()
    r, w = os.pipe()
    got = loop.create_future()
    loop.add_reader(r, lambda: got.done() or got.set_result(os.read(r, 10)))
    await asyncio.sleep(0)
    print(child_of(lambda: None))
    os.write(w, b"x")
    print(await got)
    loop.call_later(0.01, print, "timer fires")
    await asyncio.sleep(0.02)
    loop.remove_reader(r)
LIB.run(main())
""",
    "the child closes its copy of the loop": """
loop = LIB.new_event_loop()
r, w = os.pipe()
calls = []
loop.add_reader(r, lambda: calls.append(os.read(r, 10)))
def work():
    loop.close()
    print(loop.is_closed())
print(child_of(work))
os.write(w, b"x")
loop.call_later(0.05, loop.stop)
loop.run_forever()
print(calls, loop.is_closed())
loop.close()
""",
    "signals of the child stay with the child": """
async def main():
    loop = asyncio.get_running_loop()
    calls = []
    loop.add_signal_handler(signal.SIGUSR1, calls.append, "signal")
    def work():
        os.kill(os.getpid(), signal.SIGUSR1)
    print(child_of(work))
    await asyncio.sleep(0.02)
    print(calls)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.sleep(0.02)
    print(calls)
    loop.remove_signal_handler(signal.SIGUSR1)
LIB.run(main())
""",
    "current_task is none in the child": """
async def main():
    def work():
        print(asyncio.current_task(asyncio.new_event_loop()))
        try:
            print(asyncio.current_task())
        except RuntimeError as exc:
            print(exc)
        try:
            asyncio.all_tasks()
        except RuntimeError as exc:
            print(exc)
    print(child_of(work))
LIB.run(main())
""",
    "multiprocessing by fork": """
import multiprocessing
def job(q):
    q.put(LIB.run(asyncio.sleep(0.01, "from the job")))
async def main():
    context = multiprocessing.get_context("fork")
    q = context.Queue()
    p = context.Process(target=job, args=(q,))
    p.start()
    print(await asyncio.to_thread(q.get))
    await asyncio.to_thread(p.join)
    print(p.exitcode)
LIB.run(main())
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_fork(lib: Any, name: str) -> None:
    """The program says and leaves the same on every kind."""
    if name.startswith("signals") and sys.version_info < (3, 12):
        return  # The parent of stock asyncio hears its child's signals there.
    hangs = "have jobs" in name or "what jobs need" in name
    lib.stock_defect(hangs, "its child hangs now and then")
    done = lib.program(PROLOGUE + PROGRAMS[name])
    lib.note(done.stdout, done.returncode)
    assert done.returncode == 0, done.stderr
    assert "child failed" not in done.stdout, done.stdout
