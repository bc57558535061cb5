//! What a stream reader has received and nobody has read yet.
//!
//! Duty: keep chunks in order and give their bytes out again, without copying where a read takes
//! exactly one chunk. Chunks wait in a queue; a search needs them in one piece and joins them then,
//! and what arrives while that piece lasts is appended to it, so that a search over many small
//! chunks costs no more than their bytes. May touch: nothing else. Invariants: `len` is the sum of
//! what can be read; the queue is empty while the joined piece is not; `start` counts the bytes
//! already read of the first chunk or of the joined piece; every chunk is handed back to the
//! caller, never dropped here (it can be a Python object).
//!
//! *Source*: `asyncio.StreamReader._buffer`.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

#[cfg(test)]
mod tests;

/// A joined piece of at most this capacity is kept for the next time: an idle connection should
/// hold little.
const JOINED_KEPT_MAX: usize = 4096;

/// Received bytes that wait to be read.
pub struct Chunks<C> {
    queue: VecDeque<C>,
    joined: Vec<u8>,
    start: usize,
    len: usize,
}

impl<C> Default for Chunks<C> {
    fn default() -> Self {
        Chunks {
            queue: VecDeque::new(),
            joined: Vec::new(),
            start: 0,
            len: 0,
        }
    }
}

impl<C: AsRef<[u8]>> Chunks<C> {
    /// The number of bytes that can be read.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing can be read.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds what was received. A chunk that was copied, or is empty, comes back.
    #[inline]
    pub fn push(&mut self, chunk: C) -> Option<C> {
        let added = chunk.as_ref().len();
        if added == 0 {
            return Some(chunk);
        }
        self.len += added;
        if self.joined.is_empty() {
            self.queue.push_back(chunk);
            return None;
        }
        if self.start > self.joined.len() / 2 {
            self.joined.drain(..self.start);
            self.start = 0;
        }
        self.joined.extend_from_slice(chunk.as_ref());
        Some(chunk)
    }

    /// Takes the first chunk if it is, as a whole, what a read of up to `len_max` bytes gives.
    #[inline]
    pub fn take_whole(&mut self, len_max: usize) -> Option<C> {
        let first = self.queue.front()?;
        let len = first.as_ref().len();
        let fits = len == len_max || (len < len_max && self.queue.len() == 1);
        if self.start != 0 || !fits {
            return None;
        }
        self.len -= len;
        self.queue.pop_front()
    }

    /// The bytes in order, piece by piece.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let joined = self.joined.get(self.start..).unwrap_or_default();
        let queued = self.queue.iter().enumerate().map(|(index, chunk)| {
            let skip = if index == 0 { self.start } else { 0 };
            chunk.as_ref().get(skip..).unwrap_or_default()
        });
        let joined = Some(joined).filter(|piece| !piece.is_empty());
        joined.into_iter().chain(queued)
    }

    /// All bytes in one piece; `spent` gets the chunks that were copied for it.
    pub fn contiguous(&mut self, mut spent: impl FnMut(C)) -> &[u8] {
        if self.queue.len() > 1 {
            let mut joined = std::mem::take(&mut self.joined);
            joined.reserve(self.len);
            self.slices()
                .for_each(|piece| joined.extend_from_slice(piece));
            self.joined = joined;
            self.start = 0;
            self.queue.drain(..).for_each(&mut spent);
        }
        self.slices().next().unwrap_or_default()
    }

    /// Counts the first `len` bytes, or all there are, as read; `spent` gets the chunks that are
    /// used up.
    pub fn consume(&mut self, len: usize, mut spent: impl FnMut(C)) {
        let mut left = len.min(self.len);
        self.len -= left;
        if !self.joined.is_empty() {
            self.start += left;
            if self.len == 0 {
                self.reset();
            }
            return;
        }
        while let Some(first) = self.queue.front() {
            let rest = first.as_ref().len() - self.start;
            if left < rest {
                self.start += left;
                return;
            }
            left -= rest;
            self.start = 0;
            if let Some(first) = self.queue.pop_front() {
                spent(first);
            }
        }
    }

    /// Forgets everything; `spent` gets the chunks.
    pub fn clear(&mut self, spent: impl FnMut(C)) {
        self.consume(self.len, spent);
    }

    fn reset(&mut self) {
        self.start = 0;
        if self.joined.capacity() > JOINED_KEPT_MAX {
            self.joined = Vec::new();
        } else {
            self.joined.clear();
        }
    }
}
