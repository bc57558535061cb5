"""Types of the extension module ``aioxide._aioxide``, which is built from ``crates/aioxide-py``.

Signatures are asyncio's where asyncio has them. Names with an underscore are for the package
``aioxide`` only. ``tests/test_tidy.py`` and stubtest compare this file with the built module.
"""

import asyncio
import socket
import ssl
import sys
from abc import ABCMeta
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from contextvars import Context
from typing import Any, Protocol, TypeVar, TypeVarTuple, final
from weakref import WeakSet

from _typeshed import SupportsDunderGT, SupportsDunderLT
from typing_extensions import Buffer, disjoint_base

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_Ts = TypeVarTuple("_Ts")
_Ordered = TypeVar("_Ordered", bound=SupportsDunderLT[Any] | SupportsDunderGT[Any])

class _HasFileno(Protocol):
    def fileno(self) -> int: ...

_FileDescriptorLike = int | _HasFileno
_Coroutine = Generator[Any, None, _T_co] | Coroutine[Any, Any, _T_co]
_TaskFactory = Callable[..., asyncio.Future[Any]]

__version__: str

def _set_metaclass(cls: type, meta: type, /) -> None: ...
def _note_made() -> None: ...
async def sleep(delay: float, result: _T = ...) -> _T: ...
def gather(
    *coros_or_futures: Any, return_exceptions: bool = False
) -> asyncio.Future[list[Any]]: ...
async def wait_for(fut: Awaitable[_T], timeout: float | None) -> _T: ...
async def wait(
    fs: Iterable[asyncio.Future[_T]],
    *,
    timeout: float | None = None,
    return_when: str = "ALL_COMPLETED",
) -> tuple[set[asyncio.Future[_T]], set[asyncio.Future[_T]]]: ...
async def to_thread(func: Callable[..., _T], /, *args: Any, **kwargs: Any) -> _T: ...
def as_completed(fs: Iterable[Awaitable[_T]], *, timeout: float | None = None) -> Any: ...
def shield(arg: Awaitable[_T]) -> asyncio.Future[_T]: ...
def timeout(delay: float | None) -> Timeout: ...
def timeout_at(when: float | None) -> Timeout: ...

@final
class Timeout(asyncio.Timeout, metaclass=ABCMeta):  # type: ignore[misc]
    def __init__(self, when: float | None) -> None: ...

if sys.version_info < (3, 14):
    def _native_tasks() -> list[Task[Any]]: ...

@disjoint_base
class Handle(asyncio.Handle):
    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None = None,
    ) -> None: ...
    def get_context(self) -> Context: ...

@disjoint_base
class TimerHandle(asyncio.TimerHandle):
    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None = None,
    ) -> None: ...
    def get_context(self) -> Context: ...

@disjoint_base
class Future(asyncio.Future[_T]):
    def __init__(self, *, loop: asyncio.AbstractEventLoop | None = None) -> None: ...

@disjoint_base
class Task(asyncio.Task[_T_co]):
    def __init__(
        self,
        coro: _Coroutine[_T_co],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        name: object = None,
        context: Context | None = None,
        eager_start: bool = False,
    ) -> None: ...
    def get_context(self) -> Context: ...

@final
class JobQueue:
    """The work queue of an executor whose jobs may come from, and answer to, a loop."""

    def work(self) -> Any: ...
    def submit(
        self,
        is_full: bool,
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[_T],
        function: Callable[[*_Ts], _T],
        *args: *_Ts,
    ) -> bool | None: ...
    def put(self, item: object, /) -> None: ...
    def get_nowait(self) -> Any: ...
    def needs_worker(self) -> bool: ...
    def arrive(self) -> None: ...
    def idle_count(self) -> int: ...
    def close(self, cancel: bool, /) -> None: ...
    def empty(self) -> bool: ...
    def qsize(self) -> int: ...

@final
class Clients:
    """The transports of a server, as a weak set."""

    def add(self, transport: asyncio.WriteTransport, /) -> None: ...
    def discard(self, transport: asyncio.WriteTransport, /) -> None: ...
    def copy(self) -> WeakSet[asyncio.WriteTransport]: ...
    def __iter__(self) -> Iterator[asyncio.WriteTransport]: ...
    def __len__(self) -> int: ...

@disjoint_base
class Loop:
    """The native part of ``aioxide.Loop``; not an event loop by itself."""

    slow_callback_duration: float
    _thread_id: int | None
    _debug: bool
    _stopping: bool
    @property
    def _hold_tasks(self) -> bool: ...
    @property
    def _current_handle(self) -> asyncio.Handle | None: ...
    @property
    def _ready(self) -> list[asyncio.Handle]: ...
    @property
    def _scheduled(self) -> list[asyncio.TimerHandle]: ...
    def __init__(self, *, hold_tasks: bool = True) -> None: ...
    # Running and closing.
    def _run(self) -> None: ...
    def _run_once(self) -> None: ...
    def _close(self) -> None: ...
    def _check_closed(self) -> None: ...
    def stop(self) -> None: ...
    def is_running(self) -> bool: ...
    def is_closed(self) -> bool: ...
    def get_debug(self) -> bool: ...
    def time(self) -> float: ...
    # Callbacks.
    def call_soon(
        self,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.Handle: ...
    def call_soon_threadsafe(
        self,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.Handle: ...
    def call_later(
        self,
        delay: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle: ...
    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle: ...
    def _timer_handle_cancelled(self, value: asyncio.TimerHandle, /) -> None: ...
    def _write_to_self(self) -> None: ...
    # Futures and tasks.
    def create_future(self) -> asyncio.Future[Any]: ...
    def create_task(
        self,
        coro: _Coroutine[_T],
        *,
        name: object = None,
        context: Context | None = None,
        eager_start: bool | None = None,
        **kwargs: Any,
    ) -> asyncio.Task[_T]: ...
    def set_task_factory(self, factory: _TaskFactory | None) -> None: ...
    def get_task_factory(self) -> _TaskFactory | None: ...
    # Descriptors. The underscored ones do not ask whether a transport uses the descriptor.
    def add_reader(
        self,
        fd: _FileDescriptorLike,
        callback: Callable[[*_Ts], Any],
        *args: *_Ts,
    ) -> None: ...
    def remove_reader(self, fd: _FileDescriptorLike) -> bool: ...
    def add_writer(
        self,
        fd: _FileDescriptorLike,
        callback: Callable[[*_Ts], Any],
        *args: *_Ts,
    ) -> None: ...
    def remove_writer(self, fd: _FileDescriptorLike) -> bool: ...
    def _add_reader(
        self, fd: _FileDescriptorLike, callback: Callable[..., Any], *args: Any
    ) -> asyncio.Handle: ...
    def _remove_reader(self, value: _FileDescriptorLike, /) -> bool: ...
    def _add_writer(
        self, fd: _FileDescriptorLike, callback: Callable[..., Any], *args: Any
    ) -> asyncio.Handle: ...
    def _remove_writer(self, value: _FileDescriptorLike, /) -> bool: ...
    # The caller's sockets.
    async def sock_recv(self, sock: socket.socket, n: int) -> bytes: ...
    async def sock_recv_into(self, sock: socket.socket, buf: Buffer) -> int: ...
    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]: ...
    async def sock_recvfrom_into(
        self, sock: socket.socket, buf: Buffer, nbytes: int = 0
    ) -> tuple[int, Any]: ...
    async def sock_sendall(self, sock: socket.socket, data: Buffer) -> None: ...
    async def sock_sendto(self, sock: socket.socket, data: Buffer, address: Any) -> int: ...
    async def sock_connect(self, sock: socket.socket, address: Any) -> None: ...
    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]: ...
    def _sock_settle(self, value: int, /) -> None: ...
    # Transports and servers.
    @property
    def _native_transports(self) -> list[tuple[int, asyncio.BaseTransport]]: ...
    @property
    def _watched(
        self,
    ) -> list[tuple[int, int, asyncio.Handle | None, asyncio.Handle | None]]: ...
    def _native_transport(self, value: int, /) -> StreamTransport | None: ...
    def _start_serving(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: ssl.SSLContext | None = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None: ...
    def _stop_serving(self, value: socket.socket, /) -> None: ...
    def _send_file(
        self,
        target: socket.socket | StreamTransport,
        file: _HasFileno,
        fileno: int,
        offset: int,
        count: int | None,
        seeks_always: bool,
        future: asyncio.Future[int],
    ) -> None: ...

@final
class StreamTransport(asyncio.Transport):
    max_size: int
    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        *,
        context: Context | None = None,
    ) -> None: ...

@final
class ReadPipeTransport(asyncio.ReadTransport):
    max_size: int
    def _serve_process(self, transport: asyncio.SubprocessTransport, fd: int) -> None: ...
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None: ...

@final
class WritePipeTransport(asyncio.Transport):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None: ...

@final
class DatagramTransport(asyncio.Transport, asyncio.DatagramTransport):
    max_size: int
    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
        *,
        context: Context | None = None,
    ) -> None: ...

@final
class TlsProtocol(asyncio.BufferedProtocol):
    max_size: int
    @property
    def _is_direct(self) -> bool: ...
    @property
    def _incoming(self) -> ssl.MemoryBIO: ...
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        app_protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext | None,
        waiter: asyncio.Future[None] | None,
        server_side: bool = False,
        server_hostname: str | None = None,
        call_connection_made: bool = True,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None: ...
    def _get_app_transport(self) -> SSLTransport: ...

@final
class SSLTransport(asyncio.Transport):
    def set_read_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def get_read_buffer_limits(self) -> tuple[int, int]: ...
    def get_read_buffer_size(self) -> int: ...

# Locks, queues and groups: subclasses of asyncio's with their methods, every one of them native.
class Lock(asyncio.Lock, metaclass=ABCMeta): ...
class Event(asyncio.Event, metaclass=ABCMeta): ...
class Condition(asyncio.Condition, metaclass=ABCMeta): ...
class Semaphore(asyncio.Semaphore, metaclass=ABCMeta): ...
class BoundedSemaphore(Semaphore, asyncio.BoundedSemaphore): ...
class Barrier(asyncio.Barrier, metaclass=ABCMeta): ...
class Queue(asyncio.Queue[_T], metaclass=ABCMeta): ...
class TaskGroup(asyncio.TaskGroup, metaclass=ABCMeta): ...
class PriorityQueue(Queue[_Ordered], asyncio.PriorityQueue[_Ordered]): ...
class LifoQueue(Queue[_T], asyncio.LifoQueue[_T]): ...
class StreamReader(asyncio.StreamReader, metaclass=ABCMeta): ...
class StreamWriter(asyncio.StreamWriter, metaclass=ABCMeta): ...
class StreamReaderProtocol(asyncio.StreamReaderProtocol, metaclass=ABCMeta): ...
