//! Tests of the system calls, on descriptors that each test makes for itself.
//!
//! May touch: the loopback interface, pipes and socket pairs; one test handles a signal of its own.

use std::io::{ErrorKind, IoSlice};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::backend::epoll::Epoll;
use crate::backend::{Backend, Events};

fn stream_pair() -> (UnixStream, UnixStream) {
    let (first, second) = UnixStream::pair().expect("a socket pair");
    first.set_nonblocking(true).expect("a live socket");
    second.set_nonblocking(true).expect("a live socket");
    (first, second)
}

fn recv_all(fd: BorrowedFd<'_>) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let mut room = [MaybeUninit::uninit(); 64];
        match recv(fd, &mut room) {
            Ok(0) => return all,
            // SAFETY: `recv` has filled the first `len` bytes.
            Ok(len) => all.extend(room[..len].iter().map(|byte| unsafe { byte.assume_init() })),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn bytes_go_through_in_order() {
    let (near, far) = stream_pair();
    assert_eq!(send(near.as_fd(), b"one ").expect("room"), 4);
    let chunks = [
        IoSlice::new(b"two "),
        IoSlice::new(b""),
        IoSlice::new(b"three"),
    ];
    assert_eq!(send_vectored(near.as_fd(), &chunks).expect("room"), 9);
    assert_eq!(write_vectored(near.as_fd(), &chunks[..1]).expect("room"), 4);
    assert_eq!(write(near.as_fd(), b"four").expect("room"), 4);
    assert_eq!(recv_all(far.as_fd()), b"one two threetwo four");
    assert_eq!(
        send_vectored(near.as_fd(), &[]).expect("nothing to send"),
        0
    );
}

#[test]
fn more_chunks_than_the_kernel_takes_are_a_short_send() {
    let (near, far) = stream_pair();
    let chunks = vec![IoSlice::new(b"x"); VECTORED_MAX + 100];
    let sent = send_vectored(near.as_fd(), &chunks).expect("room");
    assert!(sent <= VECTORED_MAX && sent > 0, "{sent}");
    assert_eq!(recv_all(far.as_fd()).len(), sent);
    assert_eq!(
        write_vectored(near.as_fd(), &chunks).expect("room"),
        VECTORED_MAX
    );
}

#[test]
fn a_peer_that_left_is_an_error_and_no_signal() {
    let (near, far) = stream_pair();
    drop(far);
    let chunks = [IoSlice::new(b"x")];
    for result in [
        send(near.as_fd(), b"x"),
        send_vectored(near.as_fd(), &chunks),
    ] {
        assert_eq!(
            result.expect_err("nobody reads").kind(),
            ErrorKind::BrokenPipe
        );
    }
    assert_eq!(
        recv(near.as_fd(), &mut [MaybeUninit::uninit(); 1]).expect("the end"),
        0
    );
}

#[test]
fn an_empty_stream_would_block_and_a_shut_one_ends() {
    let (near, far) = stream_pair();
    let mut room = [MaybeUninit::uninit(); 8];
    let error = recv(near.as_fd(), &mut room).expect_err("nothing there");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    let error = read(near.as_fd(), &mut room).expect_err("nothing there");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    shutdown(far.as_fd(), Shutdown::Write).expect("a connection");
    assert_eq!(recv(near.as_fd(), &mut room).expect("the end"), 0);
    shutdown(near.as_fd(), Shutdown::Read).expect("a connection");
    shutdown(near.as_fd(), Shutdown::Both).expect("a connection");
}

#[test]
fn accepting_tells_the_peer_and_owns_the_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a live socket");
    let error = accept(listener.as_fd()).expect_err("nobody has connected");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);

    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
    let (server, peer) = accept(listener.as_fd()).expect("the client waits");
    let bytes_of = |address: SocketAddr| {
        let mut bytes = (libc::AF_INET as u16).to_ne_bytes().to_vec();
        bytes.extend(address.port().to_be_bytes());
        bytes.extend([127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    };
    let client_address = client.local_addr().expect("connected");
    assert_eq!(peer.as_bytes(), bytes_of(client_address));
    assert_eq!(peer.family(), libc::AF_INET);
    let seen = peer_address(server.as_fd()).expect("connected");
    assert_eq!(seen.as_bytes(), peer.as_bytes());
    let local = local_address(server.as_fd()).expect("bound");
    assert_eq!(
        local.as_bytes(),
        bytes_of(client.peer_addr().expect("connected"))
    );

    set_nodelay(server.as_fd()).expect("a TCP socket");
    assert!(take_error(server.as_fd()).expect("a socket").is_none());
    let error = recv(server.as_fd(), &mut [MaybeUninit::uninit(); 1]).expect_err("nothing there");
    assert_eq!(
        error.kind(),
        ErrorKind::WouldBlock,
        "accepted sockets do not block"
    );
}

#[test]
fn a_nameless_peer_has_a_family_only() {
    let (near, _far) = stream_pair();
    let address = peer_address(near.as_fd()).expect("connected");
    assert_eq!(address.family(), libc::AF_UNIX);
    assert_eq!(address.as_bytes().len(), size_of::<libc::sa_family_t>());
    assert!(set_nodelay(near.as_fd()).is_err());
}

#[test]
fn a_refused_connection_leaves_its_error_once() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
    let (server, _) = listener.accept().expect("the client waits");
    send(client.as_fd(), b"unread").expect("room");
    // The server closes with bytes unread, which resets the client.
    let mut byte = [MaybeUninit::uninit(); 1];
    recv(server.as_fd(), &mut byte).expect("six bytes");
    drop(server);
    let error = take_error(client.as_fd())
        .expect("a socket")
        .expect("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(take_error(client.as_fd()).expect("a socket").is_none());
    let error = peer_address(client.as_fd()).expect_err("reset");
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
}

#[test]
fn an_eventfd_is_set_and_reset_any_number_of_times() {
    let event = eventfd().expect("a descriptor");
    eventfd_reset(event.as_fd()).expect("unset stays unset");
    for _ in 0..3 {
        eventfd_set(event.as_fd()).expect("set stays set");
    }
    // Fill the counter to where the kernel would block.
    let most = (u64::MAX - 4).to_ne_bytes();
    write(event.as_fd(), &most).expect("room for just that");
    eventfd_set(event.as_fd()).expect("a full counter is set");
    eventfd_reset(event.as_fd()).expect("set");
    let error = read(event.as_fd(), &mut [MaybeUninit::uninit(); 8]).expect_err("unset");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_signal_ends_a_wait_without_an_error() {
    static CAUGHT: AtomicBool = AtomicBool::new(false);
    extern "C" fn catch(_signal: c_int) {
        CAUGHT.store(true, Ordering::Release);
    }
    // SAFETY: a sigaction of zeros is valid: no flags (so calls are interrupted), nothing blocked.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = catch as extern "C" fn(c_int) as usize;
    // SAFETY: `action` is live and its handler only stores to an atomic.
    let result = unsafe { libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut()) };
    assert_eq!(result, 0);

    // SAFETY: the call takes nothing.
    let sleeper = unsafe { libc::pthread_self() };
    let has_returned = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !has_returned.load(Ordering::Acquire) {
                // SAFETY: the scope keeps `sleeper` alive.
                unsafe { libc::pthread_kill(sleeper, libc::SIGUSR2) };
                std::thread::yield_now();
            }
        });
        let backend = Epoll::new().expect("descriptors");
        let mut events = Events::new();
        backend.wait(&mut events, None).expect("no error");
        assert!(events.interrupted() && events.is_empty() && !events.woken());
        let limit = Some(Duration::from_secs(3600));
        backend.wait(&mut events, limit).expect("no error");
        assert!(events.interrupted(), "also with the finer timeout");
        has_returned.store(true, Ordering::Release);
    });
    assert!(CAUGHT.load(Ordering::Acquire));
}

#[test]
fn files_are_told_apart() {
    let (near, _far) = stream_pair();
    assert_eq!(file_kind(near.as_fd()).expect("open"), FileKind::Socket);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    assert_eq!(file_kind(writer.as_fd()).expect("open"), FileKind::Pipe);
    let null = std::fs::File::open("/dev/null").expect("on every Linux");
    assert_eq!(file_kind(null.as_fd()).expect("open"), FileKind::CharDevice);
    let folder = std::fs::File::open("/").expect("on every Linux");
    assert_eq!(file_kind(folder.as_fd()).expect("open"), FileKind::Other);

    set_nonblocking(reader.as_fd()).expect("open");
    let mut room = [MaybeUninit::uninit(); 4];
    let error = read(reader.as_fd(), &mut room).expect_err("nothing is there");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(write(writer.as_fd(), b"ab").expect("room"), 2);
    assert_eq!(read(reader.as_fd(), &mut room).expect("two bytes"), 2);
}

#[test]
fn a_file_is_sent_from_where_one_says_and_its_position_stays() {
    use std::io::{Read, Seek};

    let (near, mut far) = stream_pair();
    let mut file = std::fs::File::open("/proc/self/exe").expect("this program");
    let mut start = [0; 64];
    file.read_exact(&mut start).expect("longer than that");
    let sent = send_file(near.as_fd(), file.as_fd(), 4, 60).expect("room");
    assert_eq!(sent, 60);
    let mut got = [0; 60];
    far.read_exact(&mut got).expect("as much");
    assert_eq!(got, start[4..]);
    assert_eq!(file.stream_position().expect("a position"), 64);
    seek_to(file.as_fd(), 9).expect("a place in it");
    assert_eq!(file.stream_position().expect("a position"), 9);
    let end = file.metadata().expect("a size").len();
    let at_end = send_file(near.as_fd(), file.as_fd(), end as i64, 9).expect("nothing to send");
    assert_eq!(at_end, 0);
    let refused = send_file(near.as_fd(), near.as_fd(), 0, 9).expect_err("no file");
    assert!(matches!(
        refused.raw_os_error(),
        Some(libc::EINVAL | libc::ESPIPE)
    ));
    let refused = seek_to(near.as_fd(), 0).expect_err("no file");
    assert_eq!(refused.raw_os_error(), Some(libc::ESPIPE));
}

#[test]
fn a_listening_tcp_socket_tells_who_waits() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let (none, room) = waiting(listener.as_fd()).expect("told");
    assert!(none == 0 && room > 2);
    let client = TcpStream::connect(address).expect("a connection");
    let _other = TcpStream::connect(address).expect("a connection");
    assert_eq!(waiting(listener.as_fd()), Some((2, room)));
    assert_eq!(waiting(client.as_fd()), None);
    let (stream, _) = UnixStream::pair().expect("a pair");
    assert_eq!(waiting(stream.as_fd()), None);
}
