//! System calls on descriptors of any kind: what they are, and whether they block.
//!
//! May touch: libc; the invariants are those of `sys`, which shows these as its own.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::c_int;

use super::check;

/// What a descriptor names.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum FileKind {
    /// A pipe or FIFO.
    Pipe,
    /// A socket.
    Socket,
    /// A character device: a terminal, `/dev/null`.
    CharDevice,
    /// Anything else: a regular file, a directory, a block device.
    Other,
}

/// What `fd` names. *Source*: `fstat(2)`.
///
/// # Errors
/// `EBADF`; `EOVERFLOW`.
pub fn file_kind(fd: BorrowedFd<'_>) -> io::Result<FileKind> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `status` has room for one stat of ours, which the call fills.
    check(unsafe { libc::fstat(fd.as_raw_fd(), status.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it has filled all of it.
    let mode = unsafe { status.assume_init() }.st_mode;
    Ok(match mode & libc::S_IFMT {
        libc::S_IFIFO => FileKind::Pipe,
        libc::S_IFSOCK => FileKind::Socket,
        libc::S_IFCHR => FileKind::CharDevice,
        _ => FileKind::Other,
    })
}

/// Makes calls on `fd` say `WouldBlock` rather than wait. The mode belongs to the open file, so
/// whoever shares it sees the same. *Source*: `FIONBIO` of `ioctl(2)`.
///
/// # Errors
/// `EBADF`, `ENOTTY`.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut yes: c_int = 1;
    // SAFETY: `yes` is a live int of ours, which the kernel reads during the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &raw mut yes) }).map(drop)
}
