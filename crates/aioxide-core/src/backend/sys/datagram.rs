//! System calls that move whole datagrams, several at once where the kernel can, with addresses.
//!
//! May touch: libc; the invariants are those of `sys`, which shows these as its own. None of these
//! calls blocks, whatever the socket's mode, and a datagram is received or sent whole.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_uint, c_void, iovec, mmsghdr, sockaddr_storage, socklen_t};

use super::socket::SocketAddress;
use super::{check, check_len, uninterrupted};

/// Room for one datagram of a batch: more than UDP can carry (65,507 bytes over IPv4, 65,527 over
/// IPv6) or a raw IP socket can give (65,535).
pub const DATAGRAM_MAX_BYTES: usize = 64 * 1024;

/// Datagrams received by one call at most: enough to share the call's cost, few enough that other
/// descriptors and timers do not wait long.
pub const RECEIVE_BATCH_MAX: usize = 16;

/// Datagrams sent by one call at most: the kernel's limit is 1024 (`UIO_MAXIOV`), the gain is had
/// much earlier, and the headers lie on the stack.
pub const SEND_BATCH_MAX: usize = 32;

/// Room for the datagrams of one call, and what the last call put there.
///
/// One per loop. Its memory is mapped when first touched, so small datagrams cost a page each.
pub struct ReceiveBatch {
    bytes: Box<[u8]>,
    /// Where the kernel writes the senders; what is behind their lengths is from earlier calls.
    addresses: Box<[sockaddr_storage; RECEIVE_BATCH_MAX]>,
    /// Length of each datagram, and its sender.
    received: Vec<(usize, SocketAddress)>,
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self {
            bytes: vec![0; RECEIVE_BATCH_MAX * DATAGRAM_MAX_BYTES].into_boxed_slice(),
            // SAFETY: addresses of zeros are valid ones of family AF_UNSPEC.
            addresses: Box::new(unsafe { mem::zeroed() }),
            received: Vec::with_capacity(RECEIVE_BATCH_MAX),
        }
    }
}

impl std::fmt::Debug for ReceiveBatch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(&self.received).finish()
    }
}

impl ReceiveBatch {
    /// Receives what is there, up to `room` datagrams (1 to [`RECEIVE_BATCH_MAX`]), and returns
    /// how many came. Those of the call before are gone. *Source*: `recvmmsg(2)`.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; an error that is pending on the socket. One that comes
    /// up behind the first datagram is reported by the next call.
    pub fn receive(&mut self, fd: BorrowedFd<'_>, room: usize) -> io::Result<usize> {
        let room = room.clamp(1, RECEIVE_BATCH_MAX);
        self.received.clear();
        let mut vectors = [const { MaybeUninit::<iovec>::uninit() }; RECEIVE_BATCH_MAX];
        let mut headers = [const { MaybeUninit::<mmsghdr>::uninit() }; RECEIVE_BATCH_MAX];
        let places = self.bytes.chunks_exact_mut(DATAGRAM_MAX_BYTES).take(room);
        let parts = self
            .addresses
            .iter_mut()
            .zip(&mut vectors)
            .zip(&mut headers);
        for (place, ((address, vector), header)) in places.zip(parts) {
            let vector = vector.write(iovec {
                iov_base: place.as_mut_ptr().cast::<c_void>(),
                iov_len: place.len(),
            });
            // SAFETY: a header of zeros is a valid one that points nowhere.
            let header = header.write(unsafe { mem::zeroed() });
            header.msg_hdr.msg_name = (&raw mut *address).cast::<c_void>();
            header.msg_hdr.msg_namelen = size_of::<sockaddr_storage>() as socklen_t;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        let headers = headers.as_mut_ptr().cast::<mmsghdr>();
        let count = uninterrupted(|| {
            // SAFETY: `room` headers, each of which points at an address, a vector and bytes of
            // ours that live and are not otherwise used until the call is over; no time limit.
            check(unsafe {
                libc::recvmmsg(
                    fd.as_raw_fd(),
                    headers,
                    room as c_uint,
                    libc::MSG_DONTWAIT as _,
                    std::ptr::null_mut(),
                )
            })
        })?;
        // SAFETY: the first `room` headers were written above, and `count` is at most `room`.
        let headers = unsafe { std::slice::from_raw_parts(headers, room.min(count as usize)) };
        let filled = headers.iter().zip(self.addresses.iter());
        self.received.extend(filled.map(|(header, address)| {
            let address = SocketAddress::new(*address, header.msg_hdr.msg_namelen as usize);
            (header.msg_len as usize, address)
        }));
        Ok(self.received.len())
    }

    /// Datagram `index` of the last call, and its sender.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<(&[u8], &SocketAddress)> {
        let (len, address) = self.received.get(index)?;
        let start = index * DATAGRAM_MAX_BYTES;
        let content = self.bytes.get(start..start + len)?;
        Some((content, address))
    }
}

/// Receives one datagram into `buffer` and returns how many of its first bytes are now filled, and
/// the sender; what does not fit is lost. *Source*: `recvfrom(2)`.
///
/// # Errors
/// `WouldBlock` when nothing is there; an error that is pending on the socket.
pub fn recv_from(
    fd: BorrowedFd<'_>,
    buffer: &mut [MaybeUninit<u8>],
) -> io::Result<(usize, SocketAddress)> {
    let (start, len) = (buffer.as_mut_ptr().cast::<c_void>(), buffer.len());
    let (address, len) = uninterrupted(|| {
        SocketAddress::fill(|address, address_len| {
            // SAFETY: `start` and `len` describe memory that we may write during the call, and so
            // do `address` and `*address_len`.
            check_len(unsafe {
                libc::recvfrom(
                    fd.as_raw_fd(),
                    start,
                    len,
                    libc::MSG_DONTWAIT,
                    address,
                    address_len,
                )
            })
        })
    })?;
    Ok((len, address))
}

/// Sends one datagram to `address`, or to the connected peer; never raises `SIGPIPE`. *Source*:
/// `sendto(2)`.
///
/// # Errors
/// `WouldBlock` when there is no room; an error that is pending on the socket; the datagram's own.
#[inline]
pub fn send_to(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    address: Option<&SocketAddress>,
) -> io::Result<()> {
    let (start, len) = (bytes.as_ptr().cast::<c_void>(), bytes.len());
    let (name, name_len) = address.map_or((std::ptr::null(), 0), SocketAddress::as_raw);
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    uninterrupted(|| {
        // SAFETY: `start` and `len`, and `name` and `name_len`, describe memory that stays readable
        // during the call; no address is a null pointer and no length.
        check_len(unsafe { libc::sendto(fd.as_raw_fd(), start, len, flags, name, name_len) })
    })?;
    Ok(())
}

/// Sends the first [`SEND_BATCH_MAX`] of `datagrams`, each to its address or to the connected peer,
/// and returns how many went, in order; never raises `SIGPIPE`. *Source*: `sendmmsg(2)`.
///
/// # Errors
/// Those of the first datagram, as [`send_to`]; one that stops a later datagram shows when that is
/// the first.
pub fn send_batch<'a>(
    fd: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = (&'a [u8], Option<&'a SocketAddress>)>,
) -> io::Result<usize> {
    // SAFETY: vectors and headers of zeros are valid ones that point nowhere.
    let mut vectors: [iovec; SEND_BATCH_MAX] = unsafe { mem::zeroed() };
    // SAFETY: as above.
    let mut headers: [mmsghdr; SEND_BATCH_MAX] = unsafe { mem::zeroed() };
    let mut count = 0;
    let parts = vectors.iter_mut().zip(&mut headers);
    for ((vector, header), (bytes, address)) in parts.zip(datagrams) {
        let (name, name_len) = address.map_or((std::ptr::null(), 0), SocketAddress::as_raw);
        vector.iov_base = bytes.as_ptr().cast_mut().cast::<c_void>();
        vector.iov_len = bytes.len();
        header.msg_hdr.msg_name = name.cast_mut().cast::<c_void>();
        header.msg_hdr.msg_namelen = name_len;
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    if count == 0 {
        return Ok(0);
    }
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    let sent = uninterrupted(|| {
        // SAFETY: `count` headers, each of which points at bytes and an address that the caller
        // lends for the call; the kernel only reads them.
        check(unsafe { libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count, flags as _) })
    })?;
    Ok(sent as usize)
}

impl SocketAddress {
    /// An IPv4 address.
    #[must_use]
    pub fn inet4(host: Ipv4Addr, port: u16) -> Self {
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: port.to_be(),
            sin_addr: libc::in_addr {
                s_addr: u32::from(host).to_be(),
            },
            sin_zero: [0; 8],
        };
        Self::of(&address, size_of_val(&address))
    }

    /// An IPv6 address; `flow` is the flow information, `scope` the number of an interface.
    #[must_use]
    pub fn inet6(host: Ipv6Addr, port: u16, flow: u32, scope: u32) -> Self {
        let address = libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: port.to_be(),
            sin6_flowinfo: flow.to_be(),
            sin6_addr: libc::in6_addr {
                s6_addr: host.octets(),
            },
            sin6_scope_id: scope,
        };
        Self::of(&address, size_of_val(&address))
    }

    /// A Unix address: a path, or an abstract name, which is empty or begins with a zero byte.
    /// `None` for one that is too long.
    #[must_use]
    pub fn unix(name: &[u8]) -> Option<Self> {
        // SAFETY: an address of zeros is a valid one.
        let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
        let is_path = name.first().is_some_and(|&byte| byte != 0);
        // A path ends with a zero byte, an abstract name with its length.
        let len = name.len() + usize::from(is_path);
        if len > address.sun_path.len() {
            return None;
        }
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (place, &byte) in address.sun_path.iter_mut().zip(name) {
            *place = byte as libc::c_char;
        }
        let start = mem::offset_of!(libc::sockaddr_un, sun_path);
        Some(Self::of(&address, start + len))
    }

    /// The first `len` bytes of `address`.
    fn of<T>(address: &T, len: usize) -> Self {
        // SAFETY: a sockaddr_storage of zeros is a valid one of family AF_UNSPEC.
        let mut storage: sockaddr_storage = unsafe { mem::zeroed() };
        assert!(size_of::<T>() <= size_of::<sockaddr_storage>() && len <= size_of::<T>());
        let target = (&raw mut storage).cast::<u8>();
        // SAFETY: both are live, `T` is one of the address types above, none of which has padding,
        // and no larger than the storage, by the assertion.
        unsafe { target.copy_from_nonoverlapping((&raw const *address).cast::<u8>(), len) };
        Self::new(storage, len)
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::io::ErrorKind;
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::backend::sys::local_address;

    fn bound(host: &str) -> (UdpSocket, SocketAddress) {
        let socket = UdpSocket::bind((host, 0)).expect("a free port");
        let address = local_address(socket.as_fd()).expect("bound");
        (socket, address)
    }

    fn send_all(fd: BorrowedFd<'_>, datagrams: &[(Vec<u8>, Option<SocketAddress>)]) -> usize {
        let lent = datagrams
            .iter()
            .map(|(bytes, address)| (&bytes[..], address.as_ref()));
        send_batch(fd, lent).expect("room")
    }

    #[test]
    fn a_batch_goes_and_comes_in_order_with_its_senders() {
        let ((near, near_address), (far, far_address)) = (bound("127.0.0.1"), bound("127.0.0.1"));
        let datagrams: Vec<_> = (0..40_usize)
            .map(|index| (vec![index as u8; index], Some(far_address)))
            .collect();
        assert_eq!(send_all(near.as_fd(), &datagrams), SEND_BATCH_MAX);
        let rest = &datagrams[SEND_BATCH_MAX..];
        assert_eq!(send_all(near.as_fd(), rest), rest.len());
        let mut batch = ReceiveBatch::default();
        let mut seen = Vec::new();
        for room in [1, 3, 99, 99, 99] {
            let count = batch
                .receive(far.as_fd(), room)
                .expect("something is there");
            for index in 0..count {
                let (bytes, sender) = batch.get(index).expect("one of the batch");
                assert_eq!(sender.as_bytes(), near_address.as_bytes());
                seen.push(bytes.to_vec());
            }
            assert!(batch.get(count).is_none());
        }
        let sent: Vec<_> = datagrams.into_iter().map(|(bytes, _)| bytes).collect();
        assert_eq!(seen, sent);
        let error = batch.receive(far.as_fd(), 9).expect_err("nothing is left");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(batch.get(0).is_none());
    }

    #[test]
    fn the_largest_datagram_fits() {
        let ((near, _), (far, far_address)) = (bound("127.0.0.1"), bound("127.0.0.1"));
        let most = vec![7; 65_507];
        send_to(near.as_fd(), &most, Some(&far_address)).expect("room");
        let error = send_to(near.as_fd(), &[7; 65_508], Some(&far_address));
        let error = error.expect_err("too long for UDP");
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        let mut batch = ReceiveBatch::default();
        assert_eq!(batch.receive(far.as_fd(), 16).expect("one"), 1);
        assert_eq!(batch.get(0).expect("one").0, most);
    }

    #[test]
    fn a_bad_datagram_stops_a_batch_and_then_shows() {
        let ((near, _), (far, far_address)) = (bound("127.0.0.1"), bound("127.0.0.1"));
        let datagrams = [
            (b"one".to_vec(), Some(far_address)),
            (vec![0; 70_000], Some(far_address)),
            (b"two".to_vec(), Some(far_address)),
        ];
        assert_eq!(send_all(near.as_fd(), &datagrams), 1);
        let rest = datagrams[1..]
            .iter()
            .map(|(bytes, address)| (&bytes[..], address.as_ref()));
        let error = send_batch(near.as_fd(), rest).expect_err("too long for UDP");
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        assert_eq!(send_all(near.as_fd(), &datagrams[2..]), 1);
        assert_eq!(send_all(near.as_fd(), &[]), 0);
        let mut batch = ReceiveBatch::default();
        assert_eq!(batch.receive(far.as_fd(), 16).expect("two"), 2);
    }

    #[test]
    fn a_refusal_is_told_once() {
        let (near, _) = bound("127.0.0.1");
        let (far, _) = bound("127.0.0.1");
        near.connect(far.local_addr().expect("bound")).expect("UDP");
        drop(far);
        send_to(near.as_fd(), b"x", None).expect("nobody has refused yet");
        let mut batch = ReceiveBatch::default();
        let error = batch.receive(near.as_fd(), 16).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let error = batch.receive(near.as_fd(), 16).expect_err("told once");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn addresses_are_the_kernels() {
        let (_socket, address) = bound("127.0.0.1");
        let port = u16::from_be_bytes([address.as_bytes()[2], address.as_bytes()[3]]);
        let made = SocketAddress::inet4(Ipv4Addr::LOCALHOST, port);
        assert_eq!(made.as_bytes(), address.as_bytes());
        if let Ok(socket) = UdpSocket::bind(("::1", 0)) {
            let address = local_address(socket.as_fd()).expect("bound");
            let Ok(SocketAddr::V6(known)) = socket.local_addr() else {
                panic!("an IPv6 socket");
            };
            let made = SocketAddress::inet6(Ipv6Addr::LOCALHOST, known.port(), 0, 0);
            assert_eq!(made.as_bytes(), address.as_bytes());
        }
        let full = SocketAddress::inet6(Ipv6Addr::LOCALHOST, 7, 0x0102_0304, 5);
        assert_eq!(full.as_bytes()[4..8], [1, 2, 3, 4]);
        assert_eq!(full.as_bytes()[24..], 5_u32.to_ne_bytes());
    }

    #[test]
    fn unix_names_are_paths_or_abstract() {
        let abstract_name = SocketAddress::unix(b"\0name").expect("short");
        assert_eq!(&abstract_name.as_bytes()[2..], b"\0name");
        let path = SocketAddress::unix(b"/tmp/x").expect("short");
        assert_eq!(&path.as_bytes()[2..], b"/tmp/x\0");
        assert_eq!(path.family(), libc::AF_UNIX);
        assert_eq!(SocketAddress::unix(b"").expect("short").as_bytes().len(), 2);
        assert!(SocketAddress::unix(&[b'x'; 107]).is_some());
        assert!(SocketAddress::unix(&[b'x'; 108]).is_none());
        assert!(SocketAddress::unix(&[0; 108]).is_some());
        assert!(SocketAddress::unix(&[0; 109]).is_none());
    }

    #[test]
    fn an_unnamed_sender_has_an_empty_address() {
        let (near, far) = UnixDatagram::pair().expect("a socket pair");
        send_to(near.as_fd(), &[1; 100_000], None).expect("room");
        let mut room = vec![MaybeUninit::uninit(); 200_000];
        let (len, sender) = recv_from(far.as_fd(), &mut room).expect("one");
        assert_eq!((len, sender.as_bytes().len()), (100_000, 0));
        // The socket blocks, the call does not.
        let error = recv_from(far.as_fd(), &mut room).expect_err("nothing is there");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}
