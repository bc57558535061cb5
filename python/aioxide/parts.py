"""The parts of the loop that are read at their first use, so that a program starts sooner.

Most programs need few of them. Until one of its attributes is asked for, a part is a row of `DOORS`
here; then its module is imported, and what the mixin has takes the doors' places.
"""

from __future__ import annotations

import os
import sys
from _thread import get_ident
from importlib import _bootstrap, import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from .children import Children
    from .connect import Connect
    from .datagram import Datagram
    from .descriptors import Descriptors
    from .dns import Dns
    from .executor import Executor
    from .pipes import Pipes
    from .process import Processes
    from .sendfile import Sendfile
    from .serve import Serve
    from .signals import Signals
    from .tls import Tls

#: (module, mixin) -> every attribute of the mixin.
DOORS: dict[tuple[str, str], tuple[str, ...]] = {
    ("children", "Children"): (
        "_children",
        "_uses_pidfds",
        "_watch_child",
        "_child_ended",
        "_close_children",
    ),
    ("connect", "Connect"): (
        "_connect_sock",
        "_connect_any",
        "_race",
        "create_connection",
        "_resolve_some",
        "_create_connection_transport",
        "create_unix_connection",
        "connect_accepted_socket",
    ),
    ("datagram", "Datagram"): (
        "create_datagram_endpoint",
        "_datagram_candidates",
        "_open_datagram_socket",
        "_make_datagram_transport",
    ),
    ("descriptors", "Descriptors"): (
        "_entered_transports",
        "_transports",
        "_selector",
        "_ensure_fd_no_transport",
    ),
    ("dns", "Dns"): (
        "_lookups",
        "_lookups_waiting",
        "_getaddrinfo_debug",
        "getaddrinfo",
        "getnameinfo",
        "_asks_directly",
        "_look_up",
        "_wait_for_lookup",
        "_lookup_done",
        "_lookup_back",
        "_end_lookup",
        "_begin_lookups",
        "_lookups_max",
        "_ensure_resolved",
    ),
    ("executor", "Executor"): (
        "_check_default_executor",
        "_get_default_executor",
        "run_in_executor",
        "set_default_executor",
        "_join_executor",
        "_do_shutdown",
    ),
    ("pipes", "Pipes"): (
        "_make_read_pipe_transport",
        "_make_write_pipe_transport",
        "connect_read_pipe",
        "connect_write_pipe",
        "_pipe_connected",
    ),
    ("process", "Processes"): (
        "subprocess_exec",
        "subprocess_shell",
        "_log_subprocess",
        "_make_subprocess_transport",
        "_start_process",
        "_watch_transport",
        "_child_watcher_callback",
    ),
    ("sendfile", "Sendfile"): (
        "sock_sendfile",
        "_check_sendfile_params",
        "_sock_sendfile_native",
        "_sock_sendfile_fallback",
        "sendfile",
        "_sendfile_native",
        "_sendfile_fallback",
    ),
    ("serve", "Serve"): (
        "_unix_server_sockets",
        "_create_server_getaddrinfo",
        "_listen_socket",
        "_listen_sockets",
        "create_server",
        "create_unix_server",
        "_begin_serving",
        "_stop_serving",
    ),
    ("signals", "Signals"): (
        "_handle_signal",
        "add_signal_handler",
        "remove_signal_handler",
        "_release_wakeup_fd",
        "_check_signal",
    ),
    ("tls", "Tls"): (
        "_make_socket_transport",
        "_make_ssl_transport",
        "_accept_ssl",
        "_begin_ssl",
        "start_tls",
    ),
}


#: The threads that import a module of this package just now, as often as they do.
_readers: list[int] = []


def read(module: str) -> ModuleType:
    """Import a module of this package, at its first use; any thread."""
    thread = get_ident()
    _readers.append(thread)
    try:
        return import_module(f"{__package__}.{module}")
    finally:
        _readers.remove(thread)


def _forget_unfinished() -> None:
    """In a forked child: what other threads had begun to import is imported anew when wanted.

    Otherwise the child would wait for ever for threads that it does not have. *Source*:
    `importlib._bootstrap._ModuleLock`.
    """
    gone = set(_readers) - {get_ident()}
    _readers[:] = [thread for thread in _readers if thread not in gone]
    locks: dict[str, Any] = getattr(_bootstrap, "_module_locks", {}) if gone else {}
    for name, reference in list(locks.items()):
        lock = reference()
        if getattr(lock, "owner", None) not in gone:
            continue
        del locks[name]
        spec = getattr(sys.modules.get(name), "__spec__", None)
        if getattr(spec, "_initializing", False):
            del sys.modules[name]


os.register_at_fork(after_in_child=_forget_unfinished)


class Door:
    """Stands for an attribute of a mixin that has not been imported yet."""

    def __init__(self, part: tuple[str, str], name: str) -> None:
        self._part = part
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Return what the mixin has under the name, as if it had been there from the first."""
        found = _open(self._part)[self._name]
        bind = getattr(type(found), "__get__", None)
        return found if bind is None else bind(found, instance, owner)


def _open(part: tuple[str, str]) -> dict[str, Any]:
    """Import a mixin, put its attributes in the places of their doors, and return them.

    A place where somebody has put something else meanwhile stays theirs.
    """
    module, mixin = part
    found: dict[str, Any] = vars(getattr(read(module), mixin))
    for name in DOORS[part]:
        if isinstance(vars(Parts).get(name), Door):
            setattr(Parts, name, found[name])
    return found


if TYPE_CHECKING:

    class Parts(
        Dns,
        Sendfile,
        Connect,
        Datagram,
        Descriptors,
        Executor,
        Serve,
        Signals,
        Tls,
        Pipes,
        Processes,
        Children,
    ):
        """Their attributes, imported or not."""

else:

    class Parts:
        """Their attributes, imported or not."""

        for _part, _names in DOORS.items():
            for _name in _names:
                locals()[_name] = Door(_part, _name)
        del _part, _names, _name
