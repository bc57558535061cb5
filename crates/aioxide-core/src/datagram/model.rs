//! asyncio's datagram transport told in the plainest way, to compare the real one with.
//!
//! One datagram at a time, flags as asyncio names them. Here too: the kernel, the calls and what a
//! protocol sees, which `driver.rs` shares.
#![forbid(unsafe_code)]

/// What a datagram of this length is to the kernel: an error, each time.
pub(super) const BAD_LEN: usize = 13;

/// What each datagram counts beyond its bytes.
pub(super) const HEADER_BYTES: usize = 8;

/// A socket's sending side: takes datagrams while they fit into `free` bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Kernel {
    pub(super) free: usize,
    pub(super) out: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Done,
    Blocked,
    Failed,
}

impl Kernel {
    pub(super) fn send(&mut self, datagram: &[u8]) -> Sent {
        if datagram.len() == BAD_LEN {
            return Sent::Failed;
        }
        if datagram.len() + 1 > self.free {
            return Sent::Blocked;
        }
        self.free -= datagram.len() + 1;
        self.out.push(datagram.to_vec());
        Sent::Done
    }
}

/// What a protocol saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Pause,
    Resume,
    Error,
    Warn,
    LostSoon,
    LostNow,
}

/// A call by the user, from outside or from within a protocol callback.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    Send(usize),
    Close,
    Abort,
    Limits(i64, i64),
    PauseReading,
    ResumeReading,
}

/// One step of a test run.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Call(Call),
    /// The kernel frees bytes, and reports if it is writable.
    Ready {
        freed: usize,
    },
}

pub(super) fn data(seed: &mut u8, len: usize) -> Vec<u8> {
    *seed = seed.wrapping_add(1);
    vec![*seed; len]
}

/// asyncio's transport, told plainly.
#[derive(Default)]
pub(super) struct Model {
    pub(super) kernel: Kernel,
    pub(super) has_remote: bool,
    pub(super) seen: Vec<Seen>,
    /// What the protocol does in `pause_writing` and `resume_writing`, last first.
    pub(super) reactions: Vec<Call>,
    pub(super) seed: u8,
    pub(super) buffer: Vec<Vec<u8>>,
    pub(super) high: usize,
    pub(super) low: usize,
    pub(super) protocol_paused: bool,
    pub(super) reading_paused: bool,
    pub(super) reader: bool,
    pub(super) writer: bool,
    pub(super) closing: bool,
    pub(super) conn_lost: u32,
}

impl Model {
    pub(super) fn size(&self) -> usize {
        self.buffer.iter().map(|one| one.len() + HEADER_BYTES).sum()
    }

    fn called(&mut self, seen: Seen) {
        self.seen.push(seen);
        if let Some(call) = self.reactions.pop() {
            self.call(call);
        }
    }

    fn maybe_pause(&mut self) {
        if self.size() > self.high && !self.protocol_paused {
            self.protocol_paused = true;
            self.called(Seen::Pause);
        }
    }

    fn send(&mut self, datagram: Vec<u8>) {
        if self.conn_lost > 0 && self.has_remote {
            self.seen
                .extend((self.conn_lost >= 5).then_some(Seen::Warn));
            self.conn_lost += 1;
            return;
        }
        if self.buffer.is_empty() {
            match self.kernel.send(&datagram) {
                Sent::Done => return,
                Sent::Failed => return self.seen.push(Seen::Error),
                // A lost transport would keep it for ever.
                Sent::Blocked if self.conn_lost > 0 => return,
                Sent::Blocked => self.writer = true,
            }
        }
        self.buffer.push(datagram);
        self.maybe_pause();
    }

    fn write_ready(&mut self) {
        while !self.buffer.is_empty() {
            let datagram = self.buffer.remove(0);
            match self.kernel.send(&datagram) {
                Sent::Done => {}
                Sent::Failed => return self.seen.push(Seen::Error),
                Sent::Blocked => {
                    self.buffer.insert(0, datagram);
                    break;
                }
            }
        }
        if self.protocol_paused && self.size() <= self.low {
            self.protocol_paused = false;
            self.called(Seen::Resume);
        }
        if self.buffer.is_empty() {
            self.writer = false;
            if self.closing && self.conn_lost == 0 {
                self.conn_lost += 1;
                self.seen.push(Seen::LostNow);
            }
        }
    }

    pub(super) fn call(&mut self, call: Call) {
        match call {
            Call::Send(len) => {
                let datagram = data(&mut self.seed, len);
                self.send(datagram);
            }
            Call::Close => {
                if !self.closing {
                    (self.closing, self.reader) = (true, false);
                    if self.buffer.is_empty() {
                        self.conn_lost += 1;
                        self.writer = false;
                        self.seen.push(Seen::LostSoon);
                    }
                }
            }
            Call::Abort => {
                if self.conn_lost == 0 {
                    self.buffer.clear();
                    (self.reader, self.writer, self.closing) = (false, false, true);
                    self.conn_lost += 1;
                    self.seen.push(Seen::LostSoon);
                }
            }
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
        }
    }

    pub(super) fn apply(&mut self, op: &Op) {
        match *op {
            Op::Call(call) => self.call(call),
            Op::Ready { freed } => {
                self.kernel.free += freed;
                if self.writer {
                    self.write_ready();
                }
            }
        }
    }
}
