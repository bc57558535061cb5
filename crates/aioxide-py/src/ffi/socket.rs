//! The descriptor inside a Python socket or file object, looked at without calling it.
//!
//! May touch: words of such an object, read-only. Where they lie is not promised by CPython, so
//! each object is compared once with its own `fileno()` before the first word is trusted, and the
//! place of a socket's timeout is looked for in a socket with a known one.

use std::ffi::{c_char, c_int};
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::OnceLock;

use super::error::{R, check};
use super::layout::basic_size;
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

/// Where sockets keep what a loop asks of each; found at the first need.
#[derive(Copy, Clone)]
struct SocketPlaces {
    /// The timeout in nanoseconds; 0 for a non-blocking socket.
    timeout: usize,
}

/// `None` where a probe with known content did not find it: then no socket is a plain one.
fn places() -> Option<SocketPlaces> {
    static PLACES: OnceLock<Option<SocketPlaces>> = OnceLock::new();
    if let Some(places) = PLACES.get() {
        return *places;
    }
    // Without a socket to look at (no descriptor left), the next one asks again.
    match probe() {
        Ok(places) => *PLACES.get_or_init(|| places),
        Err(raised) => {
            raised.clear();
            None
        }
    }
}

#[cold]
fn probe() -> R<Option<SocketPlaces>> {
    const KNOWN_SECONDS: f64 = 86_413.25;
    const KNOWN_NS: i64 = 86_413_250_000_000;
    let base = state().asyncio.socket_base.obj();
    let socket = base.call0()?;
    let number = socket.obj().call_method0(state().names.fileno.obj())?;
    let set = |seconds: f64| {
        let seconds = super::call::float(seconds)?;
        let method = socket.obj().getattr_str(c"settimeout")?;
        method.obj().call1(seconds.obj()).map(drop)
    };
    // SAFETY: a socket object, and offsets within its size.
    let read =
        |offset: usize| unsafe { socket.ptr().cast::<u8>().add(offset).cast::<i64>().read() };
    set(KNOWN_SECONDS)?;
    let mut found = (OFFSET..basic_size(base) - size_of::<i64>() + 1)
        .step_by(size_of::<i64>())
        .filter(|offset| read(*offset) == KNOWN_NS);
    let (timeout, other) = (found.next(), found.next());
    set(0.0)?;
    // SAFETY: as above; the first word behind the head.
    let fd = unsafe { socket.ptr().cast::<u8>().add(OFFSET).cast::<RawFd>().read() };
    let is_fd_known = number.obj().to_i64()? == i64::from(fd);
    let timeout = timeout.filter(|offset| other.is_none() && is_fd_known && read(*offset) == 0);
    drop(socket.obj().call_method0(state().names.close.obj())?);
    Ok(timeout.map(|timeout| SocketPlaces { timeout }))
}

/// The descriptor of an open, non-blocking instance of `socket.socket` itself; `None` for any other
/// object. Calls no Python but once, to look around.
#[inline]
pub fn plain_number(object: Obj<'_>) -> Option<RawFd> {
    if object.type_ptr() != state().asyncio.socket_class.ptr().cast() {
        return None;
    }
    let places = places()?;
    // SAFETY: an instance of the class that was probed.
    let (fd, timeout_ns) = unsafe {
        let start = object.ptr().cast::<u8>();
        (
            start.add(OFFSET).cast::<RawFd>().read(),
            start.add(places.timeout).cast::<i64>().read(),
        )
    };
    (fd >= 0 && timeout_ns == 0).then_some(fd)
}

/// The descriptor of a `socket.socket`; `EBADF` if it was closed. No Python code may run while it
/// is used.
#[inline]
pub fn borrow(socket: Obj<'_>) -> io::Result<BorrowedFd<'_>> {
    match word(socket) {
        // SAFETY: open, since its owner has it; nobody closes it while no Python code runs.
        Some(fd) if fd >= 0 => Ok(unsafe { BorrowedFd::borrow_raw(fd) }),
        _ => Err(io::Error::from_raw_os_error(libc::EBADF)),
    }
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
