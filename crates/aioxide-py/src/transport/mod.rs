//! Transports and servers: the Python side of byte streams and datagrams.
//!
//! Rooms: `base` (a transport's fields, losing), `open`, `stream` (reading, closing, running what
//! the core decides), `write`, `class` (the Python type), `surface` and `private` (its methods),
//! `inherited` (what programs replace in asyncio's classes), `pipe` and `pipe_class` (what ends of
//! pipes do differently, and their types), `datagram`, `datagram_send` and `datagram_class` (the
//! same of datagrams), `report` (fatal errors and what the exception handler is told), `server`
//! (accepting), `sendfile`, `seldom` (what few transports need), `descriptor` (who closes what),
//! `address`, `tls` (TLS over any transport). What to do is decided by `aioxide_core::stream`; this
//! room does the io and calls the protocol.
//!
//! Invariants: no borrow is held while Python code runs, so a protocol may close, abort, write,
//! pause, or replace itself from any callback; a transport is registered with its loop exactly
//! while it wants readiness, and only then (or while bytes wait to be flushed) kept alive by it.

mod address;
mod base;
mod class;
mod clients;
mod datagram;
mod datagram_class;
mod datagram_send;
mod descriptor;
mod inherited;
mod open;
mod pipe;
mod pipe_class;
mod private;
mod report;
mod seldom;
mod sendfile;
mod server;
mod stream;
mod surface;
mod tls;
mod write;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use aioxide_core::backend::sys::{self, ReceiveBatch, SocketAddress};
use aioxide_core::buf::{READ_MAX_BYTES, ReceiveBuffer};
use aioxide_core::stream::Rules;

use crate::ffi::bytes::Spare;
use crate::ffi::shelf::{LARGE_BYTES_MIN, Shelf};
use crate::ffi::{Obj, PyObject, R, Ref, bytes};
use crate::state::state;
use address::Ends;

pub use class::{build_type, loop_methods};
pub use clients::build_type as build_clients_type;
pub use datagram_class::build_type as build_datagram_type;
pub use inherited::Inherited;
pub use pipe_class::{build_read_pipe_type, build_write_pipe_type};
pub use report::{call_handler, log_debug};
pub use sendfile::build_type as build_file_sender_type;
pub use tls::{Ssl, build_tls_protocol_type, build_tls_transport_type};
pub use write::write as write_stream;

/// Whether `transport` is a native one over a socket whose methods nobody replaced: it may be used
/// directly.
#[inline]
pub fn is_plain_stream(transport: Obj<'_>) -> bool {
    let class = state().types.stream_transport.ptr().cast();
    transport.type_ptr() == class && base::fields(transport).dict.get().is_null()
}

/// `transport.is_closing()` of such a one.
#[inline]
pub fn is_stream_closing(transport: Obj<'_>) -> bool {
    base::fields(transport).with(|stream| stream.is_closing())
}

/// A place for ciphertext that grew beyond this is not kept.
const CIPHER_BYTES_MAX: usize = 256 * 1024;

/// What is expected to be at least as long is received where it stays. Measured: an echo of 16 KiB
/// is 2 % dearer so, for the read in two parts, one of 27 KB 1 % cheaper, one of 100 KiB 8 %.
const STRAIGHT_BYTES_MIN: usize = 24 * 1024;

/// What all transports of one loop share; lives in the loop.
#[derive(Default)]
pub struct PerLoop {
    /// Landing place of small reads, made at the first one.
    receive: RefCell<Option<ReceiveBuffer>>,
    /// What was received last and is nobody's any more.
    spare: Spare,
    /// The same of large reads, which whoever got them may have for longer.
    shelf: Shelf,
    /// Bytes received since the last poll that somebody has kept.
    kept_bytes: Cell<usize>,
    /// How long the next read is expected to be if the last was a large one, else zero.
    large_len: Cell<usize>,
    /// Landing place of datagrams, made at the first ones; taken out while they are delivered.
    batch: RefCell<Option<Box<ReceiveBatch>>>,
    /// A `bytearray` where TLS plaintext is collected, made at the first need.
    plain: RefCell<Option<Ref>>,
    /// Where TLS ciphertext waits while it is sent; taken out meanwhile.
    cipher: RefCell<Vec<u8>>,
    /// The address that connections were accepted on last, in the kernel's form and in Python's.
    local: RefCell<Option<(Box<[u8]>, Ref)>>,
    /// The transport that uses each descriptor, by number, null for none; not kept alive by this
    /// table.
    by_fd: RefCell<Vec<*mut PyObject>>,
}

impl PerLoop {
    /// Receives once into the shared place and copies what came into `bytes` of the exact size; or
    /// straight into those, where it is expected to be large. The outer error is Python's, the
    /// inner one the kernel's.
    #[inline]
    fn receive(&self, fd: BorrowedFd<'_>, rules: Rules) -> R<io::Result<Ref>> {
        if self.expects_more_than_a_copy() && rules == Rules::Socket {
            return self.receive_expected(fd);
        }
        let mut place = self.receive.borrow_mut();
        let place = place.get_or_insert_default();
        let received = match rules {
            Rules::Socket => place.receive(fd),
            Rules::ReadPipe | Rules::WritePipe => place.read(fd),
        };
        match received {
            Ok(content) => self.copy(content).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    /// The same for what is expected to be large: it is received where it stays, unless it is
    /// longer than expected.
    #[inline(never)]
    fn receive_expected(&self, fd: BorrowedFd<'_>) -> R<io::Result<Ref>> {
        let mut place = self.receive.borrow_mut();
        let place = place.get_or_insert_default();
        let received = self
            .shelf
            .receive(self.large_len.get(), |room| place.receive_behind(fd, room))?;
        if let Ok(data) = &received {
            self.note_len(bytes::slice(data.obj()).map_or(0, <[u8]>::len));
        }
        Ok(received)
    }

    /// The same for somebody who takes pieces of `len` bytes: the first is received where it stays,
    /// and what came behind it is put into `rest`, so that no piece is cut out of a larger one.
    fn receive_pieces(
        &self,
        fd: BorrowedFd<'_>,
        len: usize,
        rest: &mut Vec<Ref>,
    ) -> R<io::Result<Ref>> {
        let mut place = self.receive.borrow_mut();
        let place = place.get_or_insert_default();
        let mut behind: &[u8] = &[];
        let first = self.shelf.receive(len, |room| {
            let (in_first, others) = place.receive_behind(fd, room)?;
            behind = others;
            Ok((in_first, &[]))
        })?;
        let Ok(first) = first else {
            return Ok(first);
        };
        for piece in behind.chunks(len) {
            rest.push(self.copy(piece)?);
        }
        self.note_len(bytes::slice(first.obj()).map_or(0, <[u8]>::len));
        Ok(Ok(first))
    }

    /// Whether the next read is expected to be a large one.
    #[inline]
    fn expects_large(&self) -> bool {
        self.large_len.get() > 0
    }

    /// Whether it is expected to be so large that to copy it is dearer than to find it a place.
    #[inline]
    fn expects_more_than_a_copy(&self) -> bool {
        self.large_len.get() >= STRAIGHT_BYTES_MIN
    }

    /// So much was received. What is shorter than expected lowers the expectation a little only:
    /// messages are received in pieces of any length.
    #[inline]
    fn note_len(&self, len: usize) {
        self.large_len.set(match len {
            LARGE_BYTES_MIN.. => len.max(self.large_len.get() - self.large_len.get() / 64),
            _ => 0,
        });
    }

    /// What was received, for a protocol to look at: a copy of `content` in `bytes` of its size.
    #[inline]
    fn copy(&self, content: &[u8]) -> R<Ref> {
        self.note_len(content.len());
        if content.len() >= LARGE_BYTES_MIN {
            return self.shelf.copy(content);
        }
        self.spare.copy(content)
    }

    /// The protocol has looked; what it did not keep is for the next read.
    #[inline]
    fn keep(&self, data: Ref) {
        self.spare.keep(data);
    }

    /// Somebody has kept so many bytes of what was received.
    #[inline]
    fn note_kept(&self, bytes: usize) {
        self.kept_bytes.set(self.kept_bytes.get() + bytes);
    }

    /// What was kept since the last call.
    #[inline]
    pub fn take_kept_bytes(&self) -> usize {
        self.kept_bytes.take()
    }

    /// As `receive`, from a socket and at most `max` bytes.
    #[inline]
    pub fn receive_some(&self, fd: BorrowedFd<'_>, max: usize) -> R<io::Result<Ref>> {
        if max >= LARGE_BYTES_MIN && self.expects_large() {
            return self.receive_large(fd, max);
        }
        let mut place = self.receive.borrow_mut();
        match place.get_or_insert_default().receive_some(fd, max) {
            Ok(content) => {
                self.note_kept(content.len());
                if content.len() >= LARGE_BYTES_MIN {
                    self.copy(content).map(Ok)
                } else {
                    bytes::new(content).map(Ok)
                }
            }
            Err(error) => Ok(Err(error)),
        }
    }

    fn receive_large(&self, fd: BorrowedFd<'_>, max: usize) -> R<io::Result<Ref>> {
        let max = max.min(READ_MAX_BYTES);
        let received = self.shelf.receive(max, |room| {
            let len = sys::recv(fd, room)?;
            Ok((len, &[]))
        })?;
        if let Ok(data) = &received {
            let len = bytes::slice(data.obj()).map_or(0, <[u8]>::len);
            self.note_len(len);
            self.note_kept(len);
        }
        Ok(received)
    }

    /// Receives one datagram into the shared place: its content, copied, and its sender. The outer
    /// error is Python's, the inner one the kernel's.
    fn receive_from(&self, fd: BorrowedFd<'_>) -> R<io::Result<(Ref, SocketAddress)>> {
        let mut place = self.receive.borrow_mut();
        match place.get_or_insert_default().receive_from(fd) {
            Ok((content, sender)) => bytes::new(content).map(|data| Ok((data, sender))),
            Err(error) => Ok(Err(error)),
        }
    }

    /// The place for datagrams; `give_batch` brings it back.
    fn take_batch(&self) -> Box<ReceiveBatch> {
        self.batch.borrow_mut().take().unwrap_or_default()
    }

    /// See `take_batch`.
    fn give_batch(&self, batch: Box<ReceiveBatch>) {
        let other = self.batch.borrow_mut().replace(batch);
        drop(other);
    }

    /// Takes the receive buffer out, for whoever calls Python while it holds what came; give it
    /// back by `put_receive`.
    fn take_receive(&self) -> ReceiveBuffer {
        self.receive.borrow_mut().take().unwrap_or_default()
    }

    fn put_receive(&self, place: ReceiveBuffer) {
        *self.receive.borrow_mut() = Some(place);
    }

    /// Takes the place for plaintext out, of `len` bytes; give it back by `put_plain`.
    fn take_plain(&self, len: usize) -> R<Ref> {
        let kept = self.plain.borrow_mut().take();
        kept.map_or_else(|| bytes::new_array(len), Ok)
    }

    /// Takes the place for ciphertext that leaves out, empty; give it back by `put_cipher`.
    fn take_cipher(&self) -> Vec<u8> {
        self.cipher.take()
    }

    fn put_cipher(&self, mut place: Vec<u8>) {
        place.clear();
        if place.capacity() <= CIPHER_BYTES_MAX {
            self.cipher.replace(place);
        }
    }

    fn put_plain(&self, place: Ref) {
        let old = self.plain.borrow_mut().replace(place);
        drop(old);
    }

    /// The ends of an accepted connection, in their small form if they have one.
    fn ends(&self, local: &SocketAddress, peer: &SocketAddress) -> R<Option<Ends>> {
        let known = match &*self.local.borrow() {
            Some((raw, name)) if **raw == *local.as_bytes() => Some(name.clone()),
            _ => None,
        };
        if let Some(name) = known {
            return Ok(Ends::new(name, peer));
        }
        let Some(name) = address::to_python(local)? else {
            return Ok(None);
        };
        let old = self
            .local
            .replace(Some((local.as_bytes().into(), name.clone())));
        drop(old);
        Ok(Ends::new(name, peer))
    }

    /// Notes that `transport` uses `fd`, until `detach`.
    fn attach(&self, fd: RawFd, transport: Obj<'_>) {
        let Ok(index) = usize::try_from(fd) else {
            return;
        };
        let mut by_fd = self.by_fd.borrow_mut();
        if by_fd.len() <= index {
            by_fd.resize(index + 1, std::ptr::null_mut());
        }
        by_fd[index] = transport.ptr();
    }

    /// Forgets `transport`, unless another one uses `fd` by now.
    fn detach(&self, fd: RawFd, transport: Obj<'_>) {
        let mut by_fd = self.by_fd.borrow_mut();
        let index = usize::try_from(fd).unwrap_or(usize::MAX);
        if let Some(found) = by_fd.get_mut(index) {
            if *found == transport.ptr() {
                *found = std::ptr::null_mut();
            }
        }
    }

    /// The transport that uses `fd`.
    pub fn transport(&self, fd: RawFd) -> Option<Ref> {
        let index = usize::try_from(fd).ok()?;
        let found = self.by_fd.borrow().get(index).copied();
        // SAFETY: a transport detaches itself before it dies, so the pointer is alive.
        found
            .and_then(|found| unsafe { Obj::from_nullable(found) })
            .map(Obj::to_ref)
    }

    /// Every transport, with its descriptor.
    pub fn all(&self) -> Vec<(RawFd, Ref)> {
        let by_fd = self.by_fd.borrow();
        let owned = |(fd, &found): (RawFd, &*mut PyObject)| {
            // SAFETY: as in `transport`.
            let transport = unsafe { Obj::from_nullable(found) };
            transport.map(|transport| (fd, transport.to_ref()))
        };
        (0..).zip(by_fd.iter()).filter_map(owned).collect()
    }
}
