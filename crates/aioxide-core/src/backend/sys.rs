//! Every system call of the core, each as a small safe function.
//!
//! May touch: libc, and nothing of this crate. This is the crate's room for unsafe code.
//! Invariants: who owns a descriptor is its type (`OwnedFd` is closed once, by its owner;
//! `BorrowedFd` is never closed; a `RawFd` is a number that epoll is asked about and that may name
//! nothing); a call that a signal interrupts is repeated, as PEP 475 has it, except for a wait,
//! whose caller runs signal handlers; errors are `io::Error`s with the kernel's number.

use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use libc::{c_int, c_void};

pub use self::datagram::{
    DATAGRAM_MAX_BYTES, RECEIVE_BATCH_MAX, ReceiveBatch, SEND_BATCH_MAX, recv_from, send_batch,
    send_to,
};
pub use self::file::{FileKind, file_kind, set_nonblocking};
pub use self::socket::{
    Shutdown, SocketAddress, accept, local_address, peer_address, set_nodelay, shutdown,
    take_error, waiting,
};

mod datagram;
mod file;
mod socket;

/// Buffers that one vectored send takes at most. *Source*: `IOV_MAX` of Linux.
pub const VECTORED_MAX: usize = 1024;

/// epoll's mask for "reading would not block".
pub const EPOLL_READABLE: u32 = libc::EPOLLIN as u32;
/// epoll's mask for "writing would not block".
pub const EPOLL_WRITABLE: u32 = libc::EPOLLOUT as u32;
/// epoll's mask for an error, reported without being asked for.
pub const EPOLL_ERROR: u32 = libc::EPOLLERR as u32;
/// epoll's mask for a hangup, reported without being asked for.
pub const EPOLL_HANGUP: u32 = libc::EPOLLHUP as u32;

// ---- results ------------------------------------------------------------------------------------

/// The result of a call that returns -1 for failure.
#[inline]
fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The result of a call that returns a number of bytes or -1.
#[inline]
fn check_len(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Repeats `call` while a signal interrupts it.
#[inline]
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            result => return result,
        }
    }
}

fn has_errno(error: &io::Error, numbers: &[c_int]) -> bool {
    error
        .raw_os_error()
        .is_some_and(|number| numbers.contains(&number))
}

/// True when epoll says that the number is registered already.
#[must_use]
pub fn is_already_registered(error: &io::Error) -> bool {
    has_errno(error, &[libc::EEXIST])
}

/// True when epoll says that the number is not registered: it was closed and given out again.
#[must_use]
pub fn is_not_registered(error: &io::Error) -> bool {
    has_errno(error, &[libc::ENOENT])
}

/// True when epoll has nothing to forget: the number is closed, reused, or of no pollable file.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    has_errno(error, &[libc::EBADF, libc::ENOENT, libc::EPERM])
}

/// True when the kernel lacks a call, or a sandbox's filter pretends that it does.
#[must_use]
pub fn is_unsupported(error: &io::Error) -> bool {
    has_errno(error, &[libc::ENOSYS, libc::EPERM])
}

// ---- time ---------------------------------------------------------------------------------------

/// Nanoseconds of `CLOCK_MONOTONIC`. *Source*: `clock_gettime(2)`.
#[inline]
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a live timespec of ours that the call may write.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    debug_assert_eq!(result, 0, "CLOCK_MONOTONIC exists on every Linux");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

// ---- eventfd ------------------------------------------------------------------------------------

/// A new eventfd, non-blocking, closed on exec. *Source*: `eventfd(2)`.
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointer.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: the call above has just made this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes an eventfd readable; async-signal-safe. One that is so already stays so.
///
/// # Errors
/// The kernel's.
pub fn eventfd_set(fd: BorrowedFd<'_>) -> io::Result<()> {
    let one = 1_u64.to_ne_bytes();
    match write(fd, &one) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        result => result.map(drop),
    }
}

/// Makes an eventfd unreadable. One that is so already stays so.
///
/// # Errors
/// The kernel's.
pub fn eventfd_reset(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut count = [MaybeUninit::uninit(); 8];
    match read(fd, &mut count) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        result => result.map(drop),
    }
}

// ---- epoll --------------------------------------------------------------------------------------

/// What to change about a number in an epoll instance.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum EpollChange {
    /// Register it.
    Add,
    /// Change its mask and data.
    Modify,
    /// Forget it.
    Delete,
}

/// A new epoll instance, closed on exec. *Source*: `epoll_create1(2)`.
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn epoll_create() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointer.
    let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    // SAFETY: the call above has just made this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the number of `old` name what `new` does, closed on exec; what it named is closed.
/// *Source*: `dup3(2)`.
///
/// # Errors
/// `EBUSY` in a race with `open`; the kernel's.
pub fn replace(old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> io::Result<()> {
    uninterrupted(|| {
        // SAFETY: the call takes no pointer. The number of `old` stays open, and its owner stays
        // the owner of what it names now.
        check(unsafe { libc::dup3(new.as_raw_fd(), old.as_raw_fd(), libc::O_CLOEXEC) })
    })
    .map(drop)
}

/// Changes what `epoll` says of the number `fd`. *Source*: `epoll_ctl(2)`.
///
/// # Errors
/// `EBADF`, `EEXIST`, `ENOENT`, `EPERM`, `ENOMEM`, `ENOSPC`.
pub fn epoll_change(
    epoll: BorrowedFd<'_>,
    change: EpollChange,
    fd: RawFd,
    mask: u32,
    data: u64,
) -> io::Result<()> {
    let operation = match change {
        EpollChange::Add => libc::EPOLL_CTL_ADD,
        EpollChange::Modify => libc::EPOLL_CTL_MOD,
        EpollChange::Delete => libc::EPOLL_CTL_DEL,
    };
    let mut event = libc::epoll_event {
        events: mask,
        u64: data,
    };
    // SAFETY: `event` is a live epoll_event of ours; the kernel reads it during the call only.
    let result = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, fd, &raw mut event) };
    check(result).map(drop)
}

/// Room for the kernel's events, filled by one wait and read after it.
#[derive(Default)]
pub struct EpollBuffer {
    events: Vec<libc::epoll_event>,
}

impl std::fmt::Debug for EpollBuffer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

impl EpollBuffer {
    /// No events; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { events: Vec::new() }
    }

    /// Mask and data of each event of the last wait.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.events.iter().map(|event| (event.events, event.u64))
    }

    /// Empties the buffer, makes room, and lets `wait` fill it: it gets the start of the room and
    /// its length, and says how many events the kernel has written there.
    fn fill(
        &mut self,
        capacity: usize,
        wait: impl FnOnce(*mut libc::epoll_event, c_int) -> c_int,
    ) -> io::Result<()> {
        self.events.clear();
        self.events.reserve(capacity);
        let room = c_int::try_from(capacity).unwrap_or(c_int::MAX);
        let len = check(wait(self.events.as_mut_ptr(), room))?;
        debug_assert!(len as usize <= self.events.capacity());
        // SAFETY: the kernel has initialised the first `len` events, and `len` is at most `room`,
        // which was reserved above.
        unsafe { self.events.set_len(len as usize) };
        Ok(())
    }
}

/// Waits for events, for `timeout_ms` milliseconds at most (-1: no limit). *Source*:
/// `epoll_wait(2)`.
///
/// # Errors
/// `EINTR` when a signal came; the buffer is empty after any error.
pub fn epoll_wait_ms(
    epoll: BorrowedFd<'_>,
    buffer: &mut EpollBuffer,
    capacity: usize,
    timeout_ms: i32,
) -> io::Result<()> {
    buffer.fill(capacity, |events, room| {
        // SAFETY: `events` has room for `room` events, and `room` is positive.
        unsafe { libc::epoll_wait(epoll.as_raw_fd(), events, room, timeout_ms) }
    })
}

/// Waits for events, for `timeout` at most, to the nanosecond. *Source*: `epoll_pwait2(2)`.
///
/// # Errors
/// `EINTR` when a signal came; `ENOSYS` before Linux 5.11, `EPERM` from a sandbox that does not
/// know the call. The buffer is empty after any error.
pub fn epoll_wait_ns(
    epoll: BorrowedFd<'_>,
    buffer: &mut EpollBuffer,
    capacity: usize,
    timeout: Duration,
) -> io::Result<()> {
    let limit = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    buffer.fill(capacity, |events, room| {
        // By number: C libraries learned of this call long after the kernel did.
        // SAFETY: `events` has room for `room` events; `limit` lives until the call is over; with
        // a null signal mask the kernel does not look at the mask's size.
        let result = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                epoll.as_raw_fd(),
                events,
                room,
                &raw const limit,
                std::ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        result as c_int
    })
}

// ---- bytes --------------------------------------------------------------------------------------

/// Receives into `buffer`, and returns how many of its first bytes are now filled; 0 is the end of
/// the stream (or an empty buffer). *Source*: `recv(2)`.
///
/// # Errors
/// `WouldBlock` when nothing is there; the connection's.
#[inline]
pub fn recv(fd: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    let (start, len) = (buffer.as_mut_ptr().cast::<c_void>(), buffer.len());
    uninterrupted(|| {
        // SAFETY: `start` and `len` describe memory that we may write during the call.
        check_len(unsafe { libc::recv(fd.as_raw_fd(), start, len, 0) })
    })
}

/// Receives into `first` and, what does not fit there, into `second`; returns how many bytes came.
/// *Source*: `readv(2)`, which is `recvmsg(2)` without more to ask or to tell.
///
/// # Errors
/// As [`recv`].
pub fn recv_both(
    fd: BorrowedFd<'_>,
    first: &mut [MaybeUninit<u8>],
    second: &mut [MaybeUninit<u8>],
) -> io::Result<usize> {
    let place = |room: &mut [MaybeUninit<u8>]| libc::iovec {
        iov_base: room.as_mut_ptr().cast::<c_void>(),
        iov_len: room.len(),
    };
    let places = [place(first), place(second)];
    uninterrupted(|| {
        // SAFETY: two places that describe memory that we may write during the call.
        check_len(unsafe { libc::readv(fd.as_raw_fd(), places.as_ptr(), 2) })
    })
}

/// Reads into `buffer`, and returns how many of its first bytes are now filled; 0 is the end (or an
/// empty buffer). *Source*: `read(2)`.
///
/// # Errors
/// `WouldBlock` when nothing is there; the file's.
#[inline]
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    let (start, len) = (buffer.as_mut_ptr().cast::<c_void>(), buffer.len());
    uninterrupted(|| {
        // SAFETY: `start` and `len` describe memory that we may write during the call.
        check_len(unsafe { libc::read(fd.as_raw_fd(), start, len) })
    })
}

/// Sends from `bytes` and returns how many went; never raises `SIGPIPE`. *Source*: `send(2)`.
///
/// # Errors
/// `WouldBlock` when there is no room; the connection's, `EPIPE` among them.
#[inline]
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let (start, len) = (bytes.as_ptr().cast::<c_void>(), bytes.len());
    uninterrupted(|| {
        // SAFETY: `start` and `len` describe memory that stays readable during the call.
        check_len(unsafe { libc::send(fd.as_raw_fd(), start, len, libc::MSG_NOSIGNAL) })
    })
}

/// Sends from the first [`VECTORED_MAX`] of `chunks`, in order, and returns how many bytes went;
/// never raises `SIGPIPE`. *Source*: `sendmsg(2)`.
///
/// # Errors
/// As [`send`].
#[inline]
pub fn send_vectored(fd: BorrowedFd<'_>, chunks: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: a msghdr of zeros is a valid one: no address, no data, no control data.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    // `IoSlice` has the layout of `iovec` on Unix, by its documentation; the kernel only reads.
    message.msg_iov = chunks.as_ptr().cast_mut().cast::<libc::iovec>();
    message.msg_iovlen = chunks.len().min(VECTORED_MAX) as _;
    uninterrupted(|| {
        // SAFETY: `message` points at that many chunks, each of them readable during the call.
        let result =
            unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        check_len(result)
    })
}

/// Writes from `bytes` and returns how many went; a pipe without a reader raises `SIGPIPE`, which
/// Python ignores. *Source*: `write(2)`.
///
/// # Errors
/// `WouldBlock` when there is no room; the file's.
#[inline]
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let (start, len) = (bytes.as_ptr().cast::<c_void>(), bytes.len());
    uninterrupted(|| {
        // SAFETY: `start` and `len` describe memory that stays readable during the call.
        check_len(unsafe { libc::write(fd.as_raw_fd(), start, len) })
    })
}

/// Writes from the first [`VECTORED_MAX`] of `chunks`, in order, and returns how many bytes went;
/// for pipes. *Source*: `writev(2)`.
///
/// # Errors
/// As [`fn@write`].
#[inline]
pub fn write_vectored(fd: BorrowedFd<'_>, chunks: &[IoSlice<'_>]) -> io::Result<usize> {
    let start = chunks.as_ptr().cast::<libc::iovec>();
    let len = chunks.len().min(VECTORED_MAX) as c_int;
    uninterrupted(|| {
        // SAFETY: `IoSlice` has the layout of `iovec` on Unix; `start` and `len` describe the
        // chunks, each of them readable during the call.
        check_len(unsafe { libc::writev(fd.as_raw_fd(), start, len) })
    })
}

// ---- files --------------------------------------------------------------------------------------

/// Sends up to `len` bytes of `file`, from `offset` on, to `socket`, and returns how many went; 0
/// is the end of the file. The file's own position stays. *Source*: `sendfile(2)`.
///
/// # Errors
/// `WouldBlock` when there is no room; `EINVAL`, `ENOSYS`, `ENOTSOCK`, `EOVERFLOW`, `ESPIPE` for
/// what cannot be sent so; the connection's, the file's.
pub fn send_file(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    offset: i64,
    len: usize,
) -> io::Result<usize> {
    let mut position = libc::off_t::from(offset);
    uninterrupted(|| {
        // SAFETY: `position` is a live off_t of ours that the call may write.
        check_len(unsafe {
            libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &raw mut position, len)
        })
    })
}

/// Moves the position of `file` to `offset`, in bytes from its start. *Source*: `lseek(2)`.
///
/// # Errors
/// `ESPIPE` for a pipe or a socket, `EINVAL` for an offset that the file cannot have.
pub fn seek_to(file: BorrowedFd<'_>, offset: i64) -> io::Result<()> {
    let offset = libc::off_t::from(offset);
    // SAFETY: the call takes no pointer.
    let reached = unsafe { libc::lseek(file.as_raw_fd(), offset, libc::SEEK_SET) };
    if reached < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(all(test, not(miri)))]
mod tests;
