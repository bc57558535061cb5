"""Private names of asyncio's loop that programs reach for, and globals that tests replace."""

import asyncio
import unittest.mock

import pytest


def test_ready_and_scheduled_list_the_handles(lib):
    loop = lib.loop
    soon = loop.call_soon(print)
    later = loop.call_later(3600, print)
    cancelled = loop.call_later(3601, print)
    cancelled.cancel()
    assert list(loop._ready) == [soon]
    assert later in loop._scheduled
    lib.note(len(loop._ready), len(loop._scheduled), cancelled in loop._scheduled)
    soon.cancel()
    later.cancel()


def test_ready_lists_the_steps_of_tasks(lib):
    async def main():
        other = asyncio.ensure_future(asyncio.sleep(0))
        lib.note(len(lib.loop._ready))
        assert all(isinstance(handle, asyncio.Handle) for handle in lib.loop._ready)
        await other

    lib.loop.run_until_complete(main())
    lib.note(len(lib.loop._ready))


def test_a_run_loop_of_others_making(lib):
    # From 3.13 on, asyncio's run loop comes in three parts.
    loop = lib.loop
    if not hasattr(loop, "_run_forever_setup"):
        lib.note([0, 1, 2])
        return
    seen = []
    for number in range(3):
        loop.call_soon(seen.append, number)
    loop._run_forever_setup()
    try:
        assert asyncio.get_running_loop() is loop
        loop.call_soon(lambda: loop.call_soon(seen.append, "next turn"))
        loop._run_once()
        lib.note(list(seen))
        loop._run_once()
        assert seen[-1] == "next turn"
    finally:
        loop._run_forever_cleanup()


def test_run_once_sees_input_and_timers(lib):
    import socket

    loop = lib.loop
    left, right = socket.socketpair()
    with left, right:
        seen = []
        loop.add_reader(left, seen.append, "read")
        right.send(b"x")
        loop._run_once()
        loop.call_later(0.001, seen.append, "timer")
        loop.remove_reader(left)
        loop._run_once()
        if len(seen) < 2:  # woken early by the granularity of the clock
            loop._run_once()
        lib.note(seen)


@pytest.mark.parametrize("where", ["instance", "class"])
def test_a_replaced_run_once_is_asked(lib, where):
    base = type(lib.loop)
    turns = []

    def counting(loop):
        turns.append(loop)
        base._run_once(loop)

    if where == "class":
        loop = type("Counting", (base,), {"_run_once": counting})()
    else:
        loop = base()
        loop._run_once = lambda: counting(loop)
    try:
        assert loop.run_until_complete(asyncio.sleep(0, "done")) == "done"
        assert set(turns) == {loop}
        before = len(turns)
        loop.call_soon(loop.stop)
        loop.run_forever()
        lib.note(len(turns) - before)
        with pytest.raises(ZeroDivisionError):
            loop._run_once = lambda: 1 // 0
            loop.run_forever()
        lib.note(loop.is_running())
        del loop._run_once
    finally:
        loop.close()


def test_a_replaced_logger_is_asked(lib):
    def fail():
        raise ZeroDivisionError

    with unittest.mock.patch("asyncio.base_events.logger") as logger:
        lib.loop.call_soon(fail)
        lib.loop.run_until_complete(asyncio.sleep(0))
    lib.note(logger.error.call_count, logger.error.call_args.kwargs["exc_info"][0])


def test_a_replaced_logger_hears_of_slow_callbacks(lib):
    loop = lib.loop
    loop.set_debug(True)
    loop.slow_callback_duration = 0
    with unittest.mock.patch("asyncio.base_events.logger") as logger:
        loop.run_until_complete(asyncio.sleep(0))
    lib.note(logger.warning.called, logger.warning.call_args.args[0])
    loop.set_debug(False)


def test_replaced_sockets_are_made(lib):
    refused = OSError("no socket for you")
    loop = lib.loop
    with unittest.mock.patch("asyncio.base_events.socket.socket", side_effect=refused) as made:
        lib.catch(
            loop.run_until_complete,
            loop.create_connection(asyncio.Protocol, "127.0.0.1", 9),
        )
    lib.note(made.call_count)
    with unittest.mock.patch("asyncio.unix_events.socket") as module:
        module.socket.side_effect = refused
        lib.catch(
            loop.run_until_complete,
            loop.create_unix_connection(asyncio.Protocol, "/nowhere"),
        )


def test_replaced_signal_functions_are_called(lib):
    import signal

    loop = lib.loop
    before = signal.getsignal(signal.SIGHUP)
    with unittest.mock.patch("asyncio.unix_events.signal") as module:
        module.NSIG = signal.NSIG
        module.valid_signals = signal.valid_signals
        module.SIGINT = signal.SIGINT
        loop.add_signal_handler(signal.SIGHUP, print)
        lib.note(module.signal.call_count, module.siginterrupt.call_args.args)
        lib.note(loop.remove_signal_handler(signal.SIGHUP), module.signal.call_count)
    assert signal.getsignal(signal.SIGHUP) == before


def test_a_pipe_can_be_taken_away(lib):
    import os

    async def main():
        source, sink = (os.fdopen(fd, mode, 0) for fd, mode in zip(os.pipe(), ("rb", "wb")))
        reader, _ = await lib.loop.connect_read_pipe(asyncio.Protocol, source)
        writer, _ = await lib.loop.connect_write_pipe(asyncio.Protocol, sink)
        return reader, writer, source, sink

    reader, writer, source, sink = lib.loop.run_until_complete(main())
    lib.loop.close()
    reader._pipe = None
    writer._pipe = None
    lib.note(reader._pipe, writer._pipe, source.closed, sink.closed)
    del reader, writer
    source.close()
    sink.close()
