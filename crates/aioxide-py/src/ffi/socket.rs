//! The descriptor inside a Python socket object, looked at without calling it.
//!
//! May touch: one word of a socket object, read-only. Where that word lies is not promised by
//! CPython, so each socket is compared once with its own `fileno()` before the word is trusted.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use super::object::{Obj, PyObject, Slot};
use crate::state::state;

/// `_socket.socket` keeps its descriptor first, right behind the object head.
const OFFSET: usize = size_of::<PyObject>();

/// The word, if `socket` is an instance of `socket.socket`.
#[inline]
fn word(socket: Obj<'_>) -> Option<RawFd> {
    let class = state().asyncio.socket_class.ptr().cast();
    // SAFETY: instances of `socket.socket` are larger than an object head and one int, and the
    // GIL orders this read with the writes of `close()` and `detach()`.
    socket
        .is_instance_of_type(class)
        .then(|| unsafe { socket.ptr().cast::<u8>().add(OFFSET).cast::<RawFd>().read() })
}

/// Whether the descriptor of `socket`, known to be `fd`, can be looked at.
pub fn is_readable(socket: Obj<'_>, fd: RawFd) -> bool {
    word(socket) == Some(fd)
}

/// Runs `io` on `fd`, the descriptor of the socket in `slot`; `EBADF` where the socket has given it
/// up. A socket that is not `is_readable` is trusted to have it still. `io` calls no Python.
#[inline]
pub fn with<T>(
    slot: &Slot,
    fd: RawFd,
    is_readable: bool,
    io: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
) -> io::Result<T> {
    // SAFETY: the slot keeps the socket alive during this call.
    let socket = unsafe { Obj::from_nullable(slot.ptr()) };
    let is_there = !is_readable || socket.and_then(word) == Some(fd);
    if fd < 0 || !is_there {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: open, as its owner was just seen or is trusted to have it, and `io` runs no code that
    // could close it.
    io(unsafe { BorrowedFd::borrow_raw(fd) })
}
