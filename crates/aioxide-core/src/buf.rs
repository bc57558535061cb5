//! Buffers of a byte stream: where a read lands, and what waits to be written.
//!
//! Duty: [`ReceiveBuffer`] is the one landing place of reads, owned by a loop and lent to one
//! transport at a time; [`WriteQueue`] keeps chunks in order until they are sent. Datagrams use
//! both: theirs are chunks that leave whole.
//! May touch: `sys::recv`, `sys::read` and `sys::recv_from`, for the landing place alone.
//!
//! Invariants: the queue never drops a chunk: each one pushed is handed back exactly once, by
//! [`WriteQueue::advance`] or [`WriteQueue::clear`], because a chunk may be a Python object and
//! dropping one is the caller's business. No queued chunk counts nothing.
#![allow(
    unsafe_code,
    reason = "one view of initialised bytes as perhaps-uninitialised ones"
)]

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use crate::backend::sys::{self, SocketAddress};

/// Most bytes that one read may return (asyncio's `_SelectorTransport.max_size`).
pub const READ_MAX_BYTES: usize = 256 * 1024;

/// Landing place of reads, one per loop, [`READ_MAX_BYTES`] long.
///
/// What lands here is copied into an object of its own size. Reading straight into a large final
/// object instead saves that copy, and costs more: the object is mapped anew, its pages are cleared
/// by the kernel one fault at a time, and it is unmapped or shortened soon after. Measured over
/// messages of 100 KiB the copy wins by a factor of four, at 1 MiB still by a third. Pages that no
/// read ever reached are never touched, so a loop that sees only small reads does not pay for the
/// whole.
#[derive(Debug)]
pub struct ReceiveBuffer {
    bytes: Box<[u8]>,
}

impl Default for ReceiveBuffer {
    fn default() -> Self {
        Self {
            bytes: vec![0; READ_MAX_BYTES].into_boxed_slice(),
        }
    }
}

impl ReceiveBuffer {
    /// Receives once from `fd` and returns what came, at most [`READ_MAX_BYTES`]; nothing is the
    /// end of the stream.
    ///
    /// # Errors
    /// As [`sys::recv`], `WouldBlock` among them.
    #[inline]
    pub fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<&[u8]> {
        let len = sys::recv(fd, self.room())?;
        Ok(&self.bytes[..len.min(self.bytes.len())])
    }

    /// The same, at most `max` bytes.
    ///
    /// # Errors
    /// As [`sys::recv`], `WouldBlock` among them.
    #[inline]
    pub fn receive_some(&mut self, fd: BorrowedFd<'_>, max: usize) -> io::Result<&[u8]> {
        let room = self.room();
        let max = max.min(room.len());
        let len = sys::recv(fd, &mut room[..max])?;
        Ok(&self.bytes[..len.min(max)])
    }

    /// Receives once from `fd` into `first`, and here what does not fit there: how many bytes are
    /// in `first` now, and the others. At most [`READ_MAX_BYTES`] in all if `first` is no longer.
    ///
    /// # Errors
    /// As [`sys::recv`], `WouldBlock` among them.
    pub fn receive_behind(
        &mut self,
        fd: BorrowedFd<'_>,
        first: &mut [MaybeUninit<u8>],
    ) -> io::Result<(usize, &[u8])> {
        let room = self.room();
        let max = room.len().saturating_sub(first.len());
        let len = sys::recv_both(fd, first, &mut room[..max])?;
        let in_first = len.min(first.len());
        Ok((in_first, &self.bytes[..(len - in_first).min(max)]))
    }

    /// As [`ReceiveBuffer::receive`], of a descriptor that need not be a socket.
    ///
    /// # Errors
    /// As [`sys::read`], `WouldBlock` among them.
    #[inline]
    pub fn read(&mut self, fd: BorrowedFd<'_>) -> io::Result<&[u8]> {
        let len = sys::read(fd, self.room())?;
        Ok(&self.bytes[..len.min(self.bytes.len())])
    }

    /// Receives one datagram from `fd`, cut to [`READ_MAX_BYTES`], and its sender.
    ///
    /// # Errors
    /// As [`sys::recv_from`], `WouldBlock` among them.
    pub fn receive_from(&mut self, fd: BorrowedFd<'_>) -> io::Result<(&[u8], SocketAddress)> {
        let (len, sender) = sys::recv_from(fd, self.room())?;
        Ok((&self.bytes[..len.min(self.bytes.len())], sender))
    }

    /// The place as the system calls want it: they only ever write bytes that the kernel gave.
    fn room(&mut self) -> &mut [MaybeUninit<u8>] {
        let room: *mut [u8] = &raw mut *self.bytes;
        // SAFETY: the same bytes, borrowed as long as `self`; they are initialised, and stay so
        // because only this module sees the slice and hands it to calls that write.
        unsafe { &mut *(room as *mut [MaybeUninit<u8>]) }
    }
}

/// Chunks that wait to be sent, in order; the first may be partly sent.
///
/// The first has a place of its own, as most queues hold no other: nothing is allocated for it.
#[derive(Debug)]
pub struct WriteQueue<C> {
    first: Option<C>,
    /// Those behind it; empty while there is no first. Made when there is one: most connections
    /// are idle, and need a word for it.
    #[allow(clippy::box_collection, reason = "a word instead of four")]
    rest: Option<Box<VecDeque<C>>>,
    /// Bytes of the first chunk that are sent already; less than its length.
    sent_bytes: usize,
    /// Unsent bytes of all chunks, headers included.
    size_bytes: usize,
    /// What each chunk counts beyond its bytes.
    header_bytes: u32,
}

impl<C> Default for WriteQueue<C> {
    fn default() -> Self {
        Self {
            first: None,
            rest: None,
            sent_bytes: 0,
            size_bytes: 0,
            header_bytes: 0,
        }
    }
}

impl<C> WriteQueue<C> {
    /// A queue of which each chunk counts `header_bytes` beyond its own: datagrams, which leave
    /// whole, by [`WriteQueue::advance_chunks`].
    pub fn with_header(header_bytes: u32) -> Self {
        Self {
            header_bytes,
            ..Self::default()
        }
    }
}

impl<C: AsRef<[u8]>> WriteQueue<C> {
    /// Unsent bytes, and the header of each chunk.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The unsent bytes, if one chunk has them all.
    #[inline]
    pub fn only_slice(&self) -> Option<&[u8]> {
        let first = self.first.as_ref().filter(|_| self.is_single())?;
        first.as_ref().get(self.sent_bytes..)
    }

    /// Appends `chunk`, of which the first `sent` bytes left already.
    ///
    /// # Errors
    /// Gives the chunk back when nothing of it is left to send: an empty chunk could never be
    /// drained. The same if `sent` is not zero and the queue is not empty, which would reorder
    /// bytes.
    pub fn push(&mut self, chunk: C, sent: usize) -> Result<(), C> {
        let len = chunk.as_ref().len() + self.header_bytes as usize;
        if sent >= len || (sent > 0 && !self.is_empty()) {
            return Err(chunk);
        }
        self.size_bytes += len - sent;
        if self.is_empty() {
            self.sent_bytes = sent;
            self.first = Some(chunk);
        } else {
            self.rest.get_or_insert_default().push_back(chunk);
        }
        Ok(())
    }

    /// The unsent bytes in order, one slice per chunk, for a vectored send.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let sent = self.sent_bytes;
        self.iter().enumerate().map(move |(index, chunk)| {
            let bytes = chunk.as_ref();
            if index == 0 {
                bytes.get(sent..).unwrap_or_default()
            } else {
                bytes
            }
        })
    }

    /// Notes that the first `len` unsent bytes left; chunks sent to their end move to `spent`.
    ///
    /// A `len` beyond what is queued empties the queue and is otherwise ignored.
    pub fn advance(&mut self, len: usize, spent: &mut impl Extend<C>) {
        let mut left = len;
        while left > 0 {
            let Some(front) = &self.first else {
                return;
            };
            let unsent = front.as_ref().len().saturating_sub(self.sent_bytes);
            if left < unsent {
                self.sent_bytes += left;
                self.size_bytes -= left;
                return;
            }
            left -= unsent;
            self.size_bytes -= unsent;
            self.sent_bytes = 0;
            spent.extend(self.pop());
        }
    }

    /// Notes that the first `count` chunks left whole; they move to `spent`.
    pub fn advance_chunks(&mut self, count: usize, spent: &mut impl Extend<C>) {
        for _ in 0..count {
            let Some(front) = self.pop() else {
                return;
            };
            let len = front.as_ref().len() + self.header_bytes as usize;
            self.size_bytes -= len - std::mem::take(&mut self.sent_bytes);
            spent.extend(Some(front));
        }
    }

    /// Moves every chunk to `spent`, sent or not.
    pub fn clear(&mut self, spent: &mut impl Extend<C>) {
        spent.extend(self.first.take());
        if let Some(rest) = &mut self.rest {
            spent.extend(rest.drain(..));
        }
        self.sent_bytes = 0;
        self.size_bytes = 0;
    }

    /// The chunks, for a garbage collector that must see what the queue keeps alive.
    pub fn iter(&self) -> impl Iterator<Item = &C> {
        self.first
            .iter()
            .chain(self.rest.iter().flat_map(|rest| rest.iter()))
    }

    fn pop(&mut self) -> Option<C> {
        let next = self.rest.as_mut().and_then(|rest| rest.pop_front());
        std::mem::replace(&mut self.first, next)
    }

    /// Whether nothing is behind the first.
    fn is_single(&self) -> bool {
        self.rest.as_ref().is_none_or(|rest| rest.is_empty())
    }
}

/// Chunks that have left, on their way out of a borrow: a response's two need no allocation.
#[derive(Debug)]
pub struct Spent<C> {
    few: [Option<C>; 2],
    more: Vec<C>,
}

impl<C> Default for Spent<C> {
    fn default() -> Self {
        Self {
            few: [None, None],
            more: Vec::new(),
        }
    }
}

impl<C> Extend<C> for Spent<C> {
    #[inline]
    fn extend<I: IntoIterator<Item = C>>(&mut self, chunks: I) {
        for chunk in chunks {
            match self.few.iter_mut().find(|place| place.is_none()) {
                Some(place) => *place = Some(chunk),
                None => self.more.push(chunk),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::fd::AsFd;

    fn unsent(queue: &WriteQueue<Vec<u8>>) -> Vec<u8> {
        queue.slices().flatten().copied().collect()
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs a kernel")]
    fn receive_returns_what_came_then_the_end() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        ours.set_nonblocking(true).expect("a mode of ours");
        let mut buffer = ReceiveBuffer::default();
        let error = buffer.receive(ours.as_fd()).expect_err("nothing is there");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(
            sys::send(theirs.as_fd(), b"abc").expect("room for three bytes"),
            3
        );
        assert_eq!(buffer.receive(ours.as_fd()).expect("three bytes"), b"abc");
        drop(theirs);
        assert_eq!(buffer.receive(ours.as_fd()).expect("the end"), b"");
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs a kernel")]
    fn what_does_not_fit_in_front_lands_behind() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        let mut buffer = ReceiveBuffer::default();
        let mut first = [MaybeUninit::new(0); 4];
        for (sent, in_first, behind) in [
            (b"abc".as_slice(), 3, b"".as_slice()),
            (b"abcdef", 4, b"ef"),
        ] {
            sys::send(theirs.as_fd(), sent).expect("room for so few");
            let received = buffer.receive_behind(ours.as_fd(), &mut first);
            assert_eq!(received.expect("some bytes"), (in_first, behind));
        }
        drop(theirs);
        let received = buffer.receive_behind(ours.as_fd(), &mut first);
        assert_eq!(received.expect("the end"), (0, b"".as_slice()));
    }

    #[test]
    fn refused_chunks_come_back() {
        let mut queue = WriteQueue::default();
        assert_eq!(queue.push(b"".to_vec(), 0), Err(b"".to_vec()));
        assert_eq!(queue.push(b"ab".to_vec(), 2), Err(b"ab".to_vec()));
        assert_eq!(queue.push(b"ab".to_vec(), 1), Ok(()));
        assert_eq!(queue.push(b"cd".to_vec(), 1), Err(b"cd".to_vec()));
        assert_eq!(unsent(&queue), b"b");
    }

    #[test]
    fn advance_past_the_end_only_empties() {
        let mut queue = WriteQueue::default();
        assert_eq!(queue.push(b"abc".to_vec(), 0), Ok(()));
        let mut spent = Vec::new();
        queue.advance(99, &mut spent);
        assert_eq!((queue.size_bytes(), spent.len()), (0, 1));
        queue.advance(1, &mut spent);
        assert!(queue.is_empty());
    }

    #[test]
    fn spent_keeps_all_alive() {
        let chunk = std::rc::Rc::new(());
        let mut spent = Spent::default();
        for _ in 0..5 {
            spent.extend(Some(chunk.clone()));
        }
        assert_eq!(std::rc::Rc::strong_count(&chunk), 6);
    }

    #[test]
    fn datagrams_count_their_headers_and_leave_whole() {
        let mut queue = WriteQueue::with_header(8);
        assert_eq!(queue.push(b"".to_vec(), 0), Ok(()));
        assert_eq!(queue.push(b"abc".to_vec(), 0), Ok(()));
        assert_eq!(queue.size_bytes(), 19);
        let mut spent = Vec::new();
        queue.advance_chunks(1, &mut spent);
        assert_eq!((queue.size_bytes(), spent.len()), (11, 1));
        queue.advance_chunks(9, &mut spent);
        assert_eq!((queue.size_bytes(), spent.len()), (0, 2));
        assert!(queue.is_empty());
    }

    proptest! {
        #[test]
        fn queue_is_a_flat_buffer(
            ops in prop::collection::vec((0usize..3, 0usize..40), 0..80),
        ) {
            let mut queue = WriteQueue::default();
            let mut model: Vec<u8> = Vec::new();
            let (mut pushed, mut spent) = (0usize, Vec::new());
            let mut next = 0u8;
            for (kind, n) in ops {
                match kind {
                    0 => {
                        let chunk: Vec<u8> =
                            (0..n).map(|_| { next = next.wrapping_add(1); next }).collect();
                        model.extend(&chunk);
                        pushed += usize::from(queue.push(chunk, 0).is_ok());
                    }
                    1 => {
                        queue.advance(n, &mut spent);
                        model.drain(..n.min(model.len()));
                    }
                    _ if n == 0 => {
                        queue.clear(&mut spent);
                        model.clear();
                    }
                    _ => {}
                }
                prop_assert_eq!(queue.size_bytes(), model.len());
                prop_assert_eq!(queue.is_empty(), model.is_empty());
                prop_assert_eq!(&unsent(&queue), &model);
                let only = (queue.iter().count() == 1).then_some(&model[..]);
                prop_assert_eq!(queue.only_slice(), only);
            }
            queue.clear(&mut spent);
            prop_assert_eq!(spent.len(), pushed);
        }
    }
}
