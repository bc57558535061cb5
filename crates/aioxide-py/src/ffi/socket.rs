//! The descriptor inside a Python socket or file object, looked at without calling it.
//!
//! May touch: one word of such an object, read-only. Where that word lies is not promised by
//! CPython, so each object is compared once with its own `fileno()` before the word is trusted.

use std::ffi::{c_char, c_int};
use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use super::error::{R, check};
use super::object::{Obj, PyObject, Slot};
use crate::state::state;

/// `_socket.socket` and `_io.FileIO` keep their descriptor first, right behind the object head.
const OFFSET: usize = size_of::<PyObject>();

/// The word, if `owner` is an instance of `socket.socket` or `io.FileIO`.
#[inline]
fn word(owner: Obj<'_>) -> Option<RawFd> {
    let asyncio = &state().asyncio;
    let is_known = [&asyncio.socket_class, &asyncio.file_class]
        .iter()
        .any(|class| owner.is_instance_of_type(class.ptr().cast()));
    // SAFETY: instances of both are larger than an object head and one int, and the GIL orders
    // this read with the writes of `close()` and `detach()`.
    is_known.then(|| unsafe { owner.ptr().cast::<u8>().add(OFFSET).cast::<RawFd>().read() })
}

/// Whether the descriptor of `owner`, known to be `fd`, can be looked at.
pub fn is_readable(owner: Obj<'_>, fd: RawFd) -> bool {
    word(owner) == Some(fd)
}

/// Runs `io` on `fd`, the descriptor of the object in `slot`; `EBADF` where the object has given it
/// up. One that is not `is_readable` is trusted to have it still. `io` calls no Python.
#[inline]
pub fn with<T>(
    slot: &Slot,
    fd: RawFd,
    is_readable: bool,
    io: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
) -> io::Result<T> {
    // SAFETY: the slot keeps the object alive during this call.
    let owner = unsafe { Obj::from_nullable(slot.ptr()) };
    let is_there = !is_readable || owner.and_then(word) == Some(fd);
    if fd < 0 || !is_there {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: open, as its owner was just seen or is trusted to have it, and `io` runs no code that
    // could close it.
    io(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Whether `socket` moves datagrams by the methods of `socket.socket`, so that nobody sees it when
/// the kernel is asked directly. Runs no Python code for classes without a metaclass of their own.
pub fn has_stock_methods(socket: Obj<'_>) -> R<bool> {
    let stock = state().asyncio.socket_class.obj();
    if !socket.is_instance_of_type(stock.ptr().cast()) {
        return Ok(false);
    }
    for name in [c"recvfrom", c"send", c"sendto"] {
        let of_class = socket.type_obj().getattr_str(name)?;
        if !of_class.obj().is(stock.getattr_str(name)?.obj()) {
            return Ok(false);
        }
    }
    Ok(true)
}

unsafe extern "C" {
    fn PySys_Audit(event: *const c_char, format: *const c_char, ...) -> c_int;
}

/// Tells audit hooks, if there are any, what `socket.sendto()` would tell them.
#[inline]
pub fn audit_sendto(socket: Obj<'_>, address: Obj<'_>) -> R<()> {
    // SAFETY: NUL-terminated texts, and as many live objects as the format names.
    check(unsafe {
        PySys_Audit(
            c"socket.sendto".as_ptr(),
            c"OO".as_ptr(),
            socket.ptr(),
            address.ptr(),
        )
    })
}
