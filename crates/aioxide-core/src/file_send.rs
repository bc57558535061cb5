//! A file on its way into a socket, without io: how much to send next, and what an outcome means.
//!
//! Duty: count. The caller sends, waits for room and moves the file's position. Invariants: no send
//! is larger than [`CHUNK_MAX_BYTES`], so that a fast reader cannot keep the loop to itself; a
//! failure counts as "not available" exactly while nothing has been sent, because the caller can
//! then still go another way.
//!
//! *Source*: asyncio `unix_events._sock_sendfile_native_impl`.
#![forbid(unsafe_code)]

use std::io;

/// Bytes sent at most for one report of readiness: far more than a socket buffer usually has room
/// for, and yet a fraction of a millisecond.
pub const CHUNK_MAX_BYTES: u64 = 512 * 1024;

/// How far a file has got.
#[derive(Clone, Copy, Debug)]
pub struct FileSend {
    /// Where in the file the next byte is.
    offset: i64,
    /// Bytes still to send; `None` sends up to the file's end.
    left: Option<u64>,
    /// Bytes sent.
    sent: u64,
    /// Whether the sender has waited for room before.
    waited: bool,
}

/// What to do after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try again when there is room.
    Wait,
    /// All was sent, or the file has ended.
    Done,
    /// This file cannot be sent to this socket so; nothing was sent.
    Unavailable,
    /// The attempt's error is the outcome.
    Failed,
    /// As `Failed`, and the connection had gone while the sender waited.
    Disconnected,
}

impl FileSend {
    /// From `offset` on, `count` bytes or all there is.
    #[must_use]
    pub fn new(offset: i64, count: Option<u64>) -> Self {
        Self {
            offset,
            left: count,
            sent: 0,
            waited: false,
        }
    }

    /// Where in the file the next byte is.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Bytes sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether the sender has waited for room before.
    #[must_use]
    pub fn has_waited(&self) -> bool {
        self.waited
    }

    /// How much to send now.
    #[must_use]
    pub fn next_len(&self) -> usize {
        let len = self.left.unwrap_or(CHUNK_MAX_BYTES).min(CHUNK_MAX_BYTES);
        usize::try_from(len).unwrap_or(usize::MAX)
    }

    /// An attempt's outcome.
    ///
    /// The first success always waits, even when it was all: a caller that awaits gives others a
    /// turn.
    pub fn handle_outcome(&mut self, outcome: &io::Result<usize>) -> Verdict {
        let verdict = match outcome {
            Ok(0) => Verdict::Done,
            Ok(len) => {
                let len = *len as u64;
                self.sent += len;
                self.offset = self.offset.saturating_add_unsigned(len);
                self.left = self.left.map(|left| left.saturating_sub(len));
                if self.left == Some(0) && self.waited {
                    Verdict::Done
                } else {
                    Verdict::Wait
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Verdict::Wait,
            Err(_) if self.sent == 0 => Verdict::Unavailable,
            Err(error) if error.kind() == io::ErrorKind::NotConnected && self.waited => {
                Verdict::Disconnected
            }
            Err(_) => Verdict::Failed,
        };
        self.waited = true;
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(errno: i32) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn a_count_is_kept_to_the_byte() {
        let mut send = FileSend::new(7, Some(CHUNK_MAX_BYTES + 10));
        assert_eq!(send.next_len(), CHUNK_MAX_BYTES as usize);
        assert_eq!(
            send.handle_outcome(&Ok(CHUNK_MAX_BYTES as usize)),
            Verdict::Wait
        );
        assert_eq!(send.next_len(), 10);
        assert_eq!(send.handle_outcome(&error(libc::EAGAIN)), Verdict::Wait);
        assert_eq!(send.handle_outcome(&Ok(4)), Verdict::Wait);
        assert_eq!(
            (send.next_len(), send.offset()),
            (6, 11 + CHUNK_MAX_BYTES as i64)
        );
        assert_eq!(send.handle_outcome(&Ok(6)), Verdict::Done);
        assert_eq!(send.sent(), CHUNK_MAX_BYTES + 10);
    }

    #[test]
    fn without_a_count_the_end_of_the_file_is_the_end() {
        let mut send = FileSend::new(0, None);
        assert_eq!(send.handle_outcome(&Ok(5)), Verdict::Wait);
        assert_eq!(send.next_len(), CHUNK_MAX_BYTES as usize);
        assert_eq!(send.handle_outcome(&Ok(0)), Verdict::Done);
        assert_eq!((send.sent(), send.offset()), (5, 5));
    }

    #[test]
    fn all_at_once_still_waits_and_then_sends_nothing() {
        let mut send = FileSend::new(0, Some(5));
        assert_eq!(send.handle_outcome(&Ok(5)), Verdict::Wait);
        assert_eq!(send.next_len(), 0);
        assert_eq!(send.handle_outcome(&Ok(0)), Verdict::Done);
        assert_eq!(send.sent(), 5);
    }

    #[test]
    fn a_failure_is_final_once_something_was_sent() {
        let mut send = FileSend::new(0, None);
        assert_eq!(send.handle_outcome(&error(libc::EAGAIN)), Verdict::Wait);
        assert_eq!(
            send.handle_outcome(&error(libc::EINVAL)),
            Verdict::Unavailable
        );
        assert_eq!(
            send.handle_outcome(&error(libc::ENOTCONN)),
            Verdict::Unavailable
        );
        assert_eq!(send.handle_outcome(&Ok(1)), Verdict::Wait);
        assert_eq!(send.handle_outcome(&error(libc::EPIPE)), Verdict::Failed);
        assert_eq!(
            send.handle_outcome(&error(libc::ENOTCONN)),
            Verdict::Disconnected
        );
        assert_eq!((send.sent(), send.offset()), (1, 1));
    }

    #[test]
    fn an_offset_at_the_limit_does_not_wrap() {
        let mut send = FileSend::new(i64::MAX - 1, None);
        assert_eq!(send.handle_outcome(&Ok(5)), Verdict::Wait);
        assert_eq!(send.offset(), i64::MAX);
    }
}
