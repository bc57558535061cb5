//! System calls on sockets: accepting, addresses, shutting down, options.
//!
//! May touch: libc; the invariants are those of `sys`, which shows these as its own.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, c_void, sockaddr, sockaddr_storage, socklen_t};

use super::{check, uninterrupted};

/// A socket address as the kernel gave it: its bytes, family first.
#[derive(Copy, Clone)]
pub struct SocketAddress {
    storage: sockaddr_storage,
    len: usize,
}

impl SocketAddress {
    /// An address of which the first `len` bytes count; a longer length says that it was cut.
    pub(super) fn new(storage: sockaddr_storage, len: usize) -> Self {
        let len = len.min(size_of::<sockaddr_storage>());
        Self { storage, len }
    }

    /// The address of these bytes, as [`SocketAddress::as_bytes`] gave them.
    #[must_use]
    pub fn from_bytes(raw: &[u8]) -> Self {
        // SAFETY: a sockaddr_storage of zeros is a valid one of family AF_UNSPEC.
        let mut storage: sockaddr_storage = unsafe { mem::zeroed() };
        let len = raw.len().min(size_of::<sockaddr_storage>());
        // SAFETY: `len` bytes are readable there and writable here, and any bytes are valid ones.
        unsafe {
            (&raw mut storage)
                .cast::<u8>()
                .copy_from_nonoverlapping(raw.as_ptr(), len);
        }
        Self::new(storage, len)
    }

    /// Where the kernel finds the address, and its length.
    pub(super) fn as_raw(&self) -> (*const sockaddr, socklen_t) {
        let start = (&raw const self.storage).cast::<sockaddr>();
        (start, self.len as socklen_t)
    }

    /// The address's bytes in the kernel's layout, `sa_family` first; empty for a peer that has
    /// none. A Unix path is as long as the kernel says: it may be abstract, or lack its final zero.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let start = (&raw const self.storage).cast::<u8>();
        debug_assert!(self.len <= size_of::<sockaddr_storage>());
        // SAFETY: `storage` is fully initialised (it began as zeros), has no padding that was not,
        // and `len` is at most its size; the slice borrows `self`.
        unsafe { std::slice::from_raw_parts(start, self.len) }
    }

    /// The address family (`AF_INET`, `AF_INET6`, `AF_UNIX`); `AF_UNSPEC` for an empty address.
    #[must_use]
    pub fn family(&self) -> i32 {
        if self.len < size_of::<libc::sa_family_t>() {
            return libc::AF_UNSPEC;
        }
        i32::from(self.storage.ss_family)
    }

    /// Lets `call` write an address, and takes what else it returns.
    pub(super) fn fill<T>(
        call: impl FnOnce(*mut sockaddr, *mut socklen_t) -> io::Result<T>,
    ) -> io::Result<(Self, T)> {
        // SAFETY: a sockaddr_storage of zeros is a valid one of family AF_UNSPEC.
        let mut storage: sockaddr_storage = unsafe { mem::zeroed() };
        let room = size_of::<sockaddr_storage>();
        let mut len = room as socklen_t;
        let result = call((&raw mut storage).cast::<sockaddr>(), &raw mut len)?;
        Ok((Self::new(storage, len as usize), result))
    }
}

impl std::fmt::Debug for SocketAddress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SocketAddress({:?})", self.as_bytes())
    }
}

/// Which direction of a socket to shut.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Shutdown {
    /// Nothing more will be received.
    Read,
    /// Nothing more will be sent: the peer sees the end of the stream.
    Write,
    /// Both.
    Both,
}

/// `TCP_LISTEN`, the state of a listening socket. *Source*: Linux's `tcp_states.h`.
const TCP_LISTEN: u8 = 10;

/// Accepts a connection: the new socket, non-blocking and closed on exec, and its peer's address.
/// *Source*: `accept4(2)`.
///
/// # Errors
/// `WouldBlock` when nobody waits; `ECONNABORTED` when the peer has gone again; `EMFILE`,
/// `ENFILE`, `ENOBUFS`, `ENOMEM` when the process or the machine is out of something.
pub fn accept(fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, SocketAddress)> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let (address, socket) = uninterrupted(|| {
        SocketAddress::fill(|address, len| {
            // SAFETY: `address` points at `*len` writable bytes, both live until the call is over.
            check(unsafe { libc::accept4(fd.as_raw_fd(), address, len, flags) })
        })
    })?;
    // SAFETY: the call above has just made this descriptor, so nobody else owns it.
    Ok((unsafe { OwnedFd::from_raw_fd(socket) }, address))
}

/// How many connections wait to be accepted, and how many may: what the kernel tells of a listening
/// TCP socket; `None` of any other. *Source*: `TCP_INFO` of `tcp(7)`; Linux's `tcp_get_info`.
#[must_use]
pub fn waiting(fd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    // The front of `struct tcp_info`: eight single bytes, the state first; after four numbers the
    // unacknowledged and the acknowledged segments, which these two stand for here.
    let mut info = [0_u32; 8];
    let mut len = size_of_val(&info) as socklen_t;
    let value = (&raw mut info).cast::<c_void>();
    // SAFETY: `value` points at `len` writable bytes, both live until the call is over.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            value,
            &raw mut len,
        )
    };
    let [head, .., count, count_max] = info;
    (result == 0 && head.to_ne_bytes()[0] == TCP_LISTEN).then_some((count, count_max))
}

/// The address that a socket is bound to. *Source*: `getsockname(2)`.
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, `ENOBUFS`.
pub fn local_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddress> {
    let (address, _) = SocketAddress::fill(|address, len| {
        // SAFETY: `address` points at `*len` writable bytes, both live until the call is over.
        check(unsafe { libc::getsockname(fd.as_raw_fd(), address, len) })
    })?;
    Ok(address)
}

/// The address that a socket is connected to. *Source*: `getpeername(2)`.
///
/// # Errors
/// `ENOTCONN` before connecting and after a reset; as [`local_address`].
pub fn peer_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddress> {
    let (address, _) = SocketAddress::fill(|address, len| {
        // SAFETY: `address` points at `*len` writable bytes, both live until the call is over.
        check(unsafe { libc::getpeername(fd.as_raw_fd(), address, len) })
    })?;
    Ok(address)
}

/// Shuts one or both directions of a connection. *Source*: `shutdown(2)`.
///
/// # Errors
/// `ENOTCONN` when there is no connection (any more).
pub fn shutdown(fd: BorrowedFd<'_>, how: Shutdown) -> io::Result<()> {
    let how = match how {
        Shutdown::Read => libc::SHUT_RD,
        Shutdown::Write => libc::SHUT_WR,
        Shutdown::Both => libc::SHUT_RDWR,
    };
    // SAFETY: the call takes no pointer.
    check(unsafe { libc::shutdown(fd.as_raw_fd(), how) }).map(drop)
}

/// Takes the error that is pending on a socket, if any. *Source*: `SO_ERROR` of `socket(7)`.
///
/// # Errors
/// `EBADF`, `ENOTSOCK`: the question itself failed.
pub fn take_error(fd: BorrowedFd<'_>) -> io::Result<Option<io::Error>> {
    let mut number: c_int = 0;
    let mut len = size_of::<c_int>() as socklen_t;
    let value = (&raw mut number).cast::<c_void>();
    // SAFETY: `value` points at `len` writable bytes, both live until the call is over.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            value,
            &raw mut len,
        )
    })?;
    Ok((number != 0).then(|| io::Error::from_raw_os_error(number)))
}

/// Makes a TCP socket send small segments at once. *Source*: `TCP_NODELAY` of `tcp(7)`.
///
/// # Errors
/// `ENOPROTOOPT`, `EOPNOTSUPP` for a socket that is not TCP.
pub fn set_nodelay(fd: BorrowedFd<'_>) -> io::Result<()> {
    let yes: c_int = 1;
    let value = (&raw const yes).cast::<c_void>();
    let len = size_of::<c_int>() as socklen_t;
    // SAFETY: `value` points at `len` readable bytes that live until the call is over.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            value,
            len,
        )
    };
    check(result).map(drop)
}
