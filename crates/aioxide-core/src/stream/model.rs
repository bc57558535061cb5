//! asyncio's transport told in the plainest way, to compare the stream with.
//!
//! One flat buffer, every write tried at once, nothing deferred. Here too: the kernel, the calls
//! and what a protocol sees, which `driver.rs` shares.
#![forbid(unsafe_code)]

use super::Rules;

/// A socket's sending side: accepts up to `free` bytes, or fails for good.
#[derive(Clone, Debug, Default)]
pub(super) struct Kernel {
    pub(super) free: usize,
    pub(super) broken: bool,
    pub(super) out: Vec<u8>,
}

pub(super) enum Sent {
    Some(usize),
    Blocked,
    Failed,
}

impl Kernel {
    pub(super) fn send<'a>(&mut self, slices: impl Iterator<Item = &'a [u8]>) -> Sent {
        if self.broken {
            return Sent::Failed;
        }
        let mut sent = 0;
        for slice in slices {
            let part = &slice[..slice.len().min(self.free)];
            self.out.extend(part);
            self.free -= part.len();
            sent += part.len();
        }
        if sent == 0 {
            Sent::Blocked
        } else {
            Sent::Some(sent)
        }
    }
}

/// What a protocol saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Pause,
    Resume,
    Shutdown,
    Warn,
    LostSoon,
    LostNow,
}

/// A call by the user, from outside or from within a protocol callback.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    Write(usize),
    Lines(usize, usize),
    WriteEof,
    Close,
    Abort,
    Limits(i64, i64),
    PauseReading,
    ResumeReading,
    Size,
}

/// One step of a test run.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Call(Call),
    Eof(bool),
    /// Ends the turn; then the kernel frees bytes or breaks, and reports if it is writable. In the
    /// next turn other entries wait if it is `busy`.
    EndTurn {
        freed: usize,
        broken: bool,
        busy: bool,
    },
}

pub(super) fn data(seed: &mut u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|_| {
            *seed = seed.wrapping_add(1);
            *seed
        })
        .collect()
}

/// asyncio's transport, told plainly.
#[derive(Default)]
pub(super) struct Model {
    pub(super) rules: Rules,
    pub(super) kernel: Kernel,
    pub(super) seen: Vec<Seen>,
    pub(super) reactions: Vec<Call>,
    pub(super) seed: u8,
    pub(super) buffer: Vec<u8>,
    pub(super) high: usize,
    pub(super) low: usize,
    pub(super) protocol_paused: bool,
    pub(super) reading_paused: bool,
    pub(super) reader: bool,
    pub(super) writer: bool,
    pub(super) closing: bool,
    pub(super) eof: bool,
    pub(super) lost: bool,
    pub(super) conn_lost: u32,
}

impl Model {
    fn called(&mut self, seen: Seen) {
        self.seen.push(seen);
        if let Some(call) = self.reactions.pop() {
            self.call(call);
        }
    }

    fn is_pipe(&self) -> bool {
        self.rules != Rules::Socket
    }

    fn lose(&mut self, seen: Seen) {
        self.lost = true;
        self.conn_lost += u32::from(!self.is_pipe());
        self.seen.push(seen);
    }

    fn force_close(&mut self) {
        if self.lost {
            return;
        }
        self.buffer.clear();
        (self.reader, self.writer, self.closing) = (false, false, true);
        self.lose(Seen::LostSoon);
    }

    fn failed(&mut self) {
        self.buffer.clear();
        self.conn_lost += u32::from(self.is_pipe());
        self.writer = false;
        self.force_close();
    }

    fn close(&mut self) {
        if self.closing {
            return;
        }
        self.closing = true;
        self.reader &= self.is_pipe() && !self.buffer.is_empty();
        if self.buffer.is_empty() {
            self.writer = false;
            self.lose(Seen::LostSoon);
        }
    }

    fn maybe_pause(&mut self) {
        if self.buffer.len() > self.high && !self.protocol_paused {
            self.protocol_paused = true;
            self.called(Seen::Pause);
        }
    }

    fn lost_write(&mut self) -> bool {
        let refuses = self.closing && self.is_pipe();
        if !(self.lost || refuses) {
            return false;
        }
        self.seen
            .extend((self.conn_lost >= 5).then_some(Seen::Warn));
        self.conn_lost += 1;
        true
    }

    fn write(&mut self, mut chunk: Vec<u8>) {
        if self.eof || chunk.is_empty() || self.lost_write() {
            return;
        }
        if self.buffer.is_empty() {
            match self.kernel.send(std::iter::once(&chunk[..])) {
                Sent::Some(len) => drop(chunk.drain(..len)),
                Sent::Blocked => {}
                Sent::Failed => return self.failed(),
            }
            if chunk.is_empty() {
                return;
            }
            self.writer = true;
        }
        self.buffer.extend(chunk);
        self.maybe_pause();
    }

    fn lines(&mut self, chunks: Vec<Vec<u8>>) {
        if self.eof || self.lost_write() {
            return;
        }
        self.buffer.extend(chunks.concat());
        if self.buffer.is_empty() {
            return;
        }
        self.write_ready();
        if !self.buffer.is_empty() {
            self.writer = true;
            self.maybe_pause();
        }
    }

    fn write_ready(&mut self) {
        if self.lost {
            return;
        }
        match self.kernel.send(std::iter::once(&self.buffer[..])) {
            Sent::Blocked => return,
            Sent::Some(len) => drop(self.buffer.drain(..len)),
            Sent::Failed => return self.failed(),
        }
        if self.protocol_paused && self.buffer.len() <= self.low {
            self.protocol_paused = false;
            self.called(Seen::Resume);
        }
        if self.buffer.is_empty() {
            self.writer = false;
            if self.closing && !self.lost {
                self.reader = false;
                self.lose(Seen::LostNow);
            } else if self.eof && !self.lost {
                self.seen.push(Seen::Shutdown);
            }
        }
    }

    fn call(&mut self, call: Call) {
        match call {
            Call::Write(len) => {
                let chunk = data(&mut self.seed, len);
                self.write(chunk);
            }
            Call::Lines(count, len) => {
                let chunks: Vec<_> = (0..count).map(|_| data(&mut self.seed, len)).collect();
                if self.is_pipe() {
                    self.write(chunks.concat());
                } else {
                    self.lines(chunks);
                }
            }
            Call::WriteEof if self.is_pipe() => self.close(),
            Call::PauseReading | Call::ResumeReading if self.is_pipe() => {}
            Call::WriteEof => {
                if !self.closing && !self.eof {
                    self.eof = true;
                    self.seen
                        .extend(self.buffer.is_empty().then_some(Seen::Shutdown));
                }
            }
            Call::Close => self.close(),
            Call::Abort => self.force_close(),
            Call::Limits(high, low) => {
                if high >= low && low >= 0 {
                    (self.high, self.low) = (high as usize, low as usize);
                    self.maybe_pause();
                }
            }
            Call::PauseReading => {
                if !self.closing && !self.reading_paused {
                    (self.reading_paused, self.reader) = (true, false);
                }
            }
            Call::ResumeReading => {
                if !self.closing && self.reading_paused {
                    (self.reading_paused, self.reader) = (false, true);
                }
            }
            Call::Size => {}
        }
    }

    pub(super) fn apply(&mut self, op: &Op) {
        match *op {
            Op::Call(call) => self.call(call),
            Op::Eof(keep_open) => {
                if self.reader && !self.lost {
                    if self.is_pipe() {
                        self.force_close();
                    } else if keep_open {
                        self.reader = false
                    } else {
                        self.close()
                    }
                }
            }
            Op::EndTurn { freed, broken, .. } => {
                self.kernel.free += freed;
                self.kernel.broken |= broken;
                if self.writer {
                    self.write_ready();
                }
            }
        }
    }
}
