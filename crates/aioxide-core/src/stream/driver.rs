//! The least caller of a stream that keeps its contract, and the comparison with the model.
//!
//! Shared by the property test and the fuzz target, which both include this file and `model.rs`.
#![forbid(unsafe_code)]

use super::model::{Call, Kernel, Model, Op, Seen, Sent, data};
use super::{Action, Moment, Rules, Step, Stream, WritePlan};

/// The stream under test with the least caller that obeys its contract.
#[derive(Default)]
pub(super) struct Driver {
    pub(super) rules: Rules,
    pub(super) stream: Stream<Vec<u8>>,
    pub(super) kernel: Kernel,
    pub(super) seen: Vec<Seen>,
    pub(super) reactions: Vec<Call>,
    pub(super) seed: u8,
    pub(super) turn: u64,
    pub(super) is_busy: bool,
    pub(super) pushed: usize,
    pub(super) spent: Vec<Vec<u8>>,
    pub(super) flushes: usize,
    /// Read and write interest as last registered.
    pub(super) interest: (bool, bool),
}

impl Driver {
    pub(super) fn run(&mut self, mut step: Step) {
        while let Some(action) = self.stream.poll_action(&mut step) {
            match action {
                Action::Interest => {
                    self.interest = (self.stream.wants_read(), self.stream.wants_write());
                }
                Action::FlushLater => self.flushes += 1,
                Action::Send => self.transmit(),
                Action::PauseProtocol => self.called(Seen::Pause),
                Action::ResumeProtocol => self.called(Seen::Resume),
                Action::Emptied => {}
                Action::ShutdownWrite => self.seen.push(Seen::Shutdown),
                Action::ScheduleLost => self.seen.push(Seen::LostSoon),
                Action::LoseNow => self.seen.push(Seen::LostNow),
            }
        }
        assert!(step.is_done());
    }

    fn called(&mut self, seen: Seen) {
        self.seen.push(seen);
        if let Some(call) = self.reactions.pop() {
            self.call(call);
        }
    }

    fn transmit(&mut self) {
        let step = match self.kernel.send(self.stream.queue().slices()) {
            Sent::Some(len) => self.stream.handle_sent(len, &mut self.spent),
            Sent::Blocked => self.stream.handle_blocked(),
            Sent::Failed => {
                let step = self.stream.handle_send_failed(&mut self.spent);
                self.run(step);
                self.stream.handle_fatal(&mut self.spent)
            }
        };
        self.run(step);
    }

    fn flush(&mut self) {
        // A resumed protocol may have written again.
        while self.stream.handle_flush() {
            self.transmit();
        }
    }

    fn write(&mut self, chunk: Vec<u8>) {
        match self.stream.handle_write(chunk.len(), self.moment()) {
            WritePlan::AfterEof | WritePlan::Nothing => {}
            WritePlan::Lost { warn } => self.seen.extend(warn.then_some(Seen::Warn)),
            WritePlan::Queue => {
                self.pushed += 1;
                let step = match self.stream.handle_held(chunk) {
                    Ok(is_first) => return self.flushes += usize::from(is_first),
                    Err(chunk) => self.stream.handle_queued(chunk),
                };
                self.run(step.expect("a plan never queues nothing"));
            }
            WritePlan::SendNow => {
                let sent = match self.kernel.send(std::iter::once(&chunk[..])) {
                    Sent::Some(len) if len == chunk.len() => return,
                    Sent::Some(len) => len,
                    Sent::Blocked => 0,
                    Sent::Failed => {
                        if self.is_pipe() {
                            let step = self.stream.handle_send_failed(&mut self.spent);
                            self.run(step);
                        }
                        let step = self.stream.handle_fatal(&mut self.spent);
                        return self.run(step);
                    }
                };
                self.pushed += 1;
                let step = self
                    .stream
                    .handle_unsent(chunk, sent)
                    .expect("something is unsent");
                self.run(step);
            }
        }
    }

    /// Each write to a pipe is one of its own. What is held for a broken kernel fails later than
    /// asyncio's: the model could not agree.
    fn moment(&self) -> Option<Moment> {
        let is_held = !self.is_pipe() && !self.kernel.broken;
        is_held.then_some(Moment {
            turn: self.turn + 1,
            is_busy: self.is_busy,
            is_answer: !self.is_busy,
        })
    }

    fn is_pipe(&self) -> bool {
        self.rules != Rules::Socket
    }

    fn lines(&mut self, chunks: Vec<Vec<u8>>) {
        match self.stream.handle_writelines() {
            WritePlan::Lost { warn } => self.seen.extend(warn.then_some(Seen::Warn)),
            WritePlan::Queue => {
                for chunk in chunks {
                    self.pushed += usize::from(self.stream.handle_line(chunk).is_ok());
                }
                let step = self.stream.handle_lines_end(self.moment());
                self.run(step);
            }
            _ => {}
        }
    }

    pub(super) fn call(&mut self, call: Call) {
        let step = match call {
            Call::Write(len) => {
                let chunk = data(&mut self.seed, len);
                return self.write(chunk);
            }
            Call::Lines(count, len) => {
                let chunks: Vec<_> = (0..count).map(|_| data(&mut self.seed, len)).collect();
                if self.is_pipe() {
                    return self.write(chunks.concat());
                }
                return self.lines(chunks);
            }
            Call::PauseReading | Call::ResumeReading if self.is_pipe() => return,
            Call::Size => return self.flush(),
            Call::PauseReading => self.stream.handle_pause_reading().unwrap_or_default(),
            Call::ResumeReading => self.stream.handle_resume_reading().unwrap_or_default(),
            Call::Limits(high, low) => self
                .stream
                .handle_limits(Some(high), Some(low))
                .unwrap_or_default(),
            Call::WriteEof | Call::Close | Call::Abort => {
                self.flush();
                match call {
                    Call::WriteEof => self.stream.handle_write_eof(),
                    Call::Close => self.stream.handle_close(),
                    _ => self.stream.handle_fatal(&mut self.spent),
                }
            }
        };
        self.run(step);
    }

    pub(super) fn apply(&mut self, op: &Op) {
        match *op {
            Op::Call(call) => self.call(call),
            Op::Eof(keep_open) => {
                if self.stream.handle_readable() {
                    self.flush();
                    let step = if self.is_pipe() {
                        self.stream.handle_fatal(&mut self.spent)
                    } else {
                        self.stream.handle_eof_reply(keep_open)
                    };
                    self.run(step);
                }
            }
            Op::EndTurn {
                freed,
                broken,
                busy,
            } => {
                self.flush();
                self.turn += 1;
                self.is_busy = busy;
                self.kernel.free += freed;
                self.kernel.broken |= broken;
                if self.stream.handle_writable() {
                    self.transmit();
                    self.flush();
                }
            }
        }
    }
}

/// Runs `ops` on stream and model under `rules`, from `free` bytes of room in the kernel; the end
/// of the last turn is added. Panics where they disagree.
pub(super) fn agree(rules: Rules, ops: &[Op], reactions: &[Call], free: usize) {
    let kernel = Kernel {
        free,
        ..Kernel::default()
    };
    let mut driver = Driver {
        rules,
        stream: Stream::new(rules),
        kernel: kernel.clone(),
        reactions: reactions.to_vec(),
        ..Driver::default()
    };
    let mut model = Model {
        rules,
        kernel,
        reactions: reactions.to_vec(),
        high: 30,
        low: 10,
        ..Model::default()
    };
    driver.call(Call::Limits(30, 10));
    let step = driver.stream.handle_start();
    driver.run(step);
    model.reader = true;
    let end = Op::EndTurn {
        freed: 0,
        broken: false,
        busy: false,
    };
    for op in ops.iter().chain([&end]) {
        driver.apply(op);
        model.apply(op);
        let stream = &driver.stream;
        let way_out = stream.wants_write() || stream.is_flush_due();
        assert_eq!(!stream.queue().is_empty(), way_out);
        assert!(!(stream.wants_write() && stream.is_flush_due()));
        assert_eq!(driver.interest, (stream.wants_read(), stream.wants_write()));
        assert_eq!(&driver.seen, &model.seen);
        assert_eq!(stream.is_closing(), model.closing);
        assert_eq!(stream.wants_read(), model.reader);
        assert_eq!(stream.is_protocol_paused(), model.protocol_paused);
        if matches!(op, Op::EndTurn { .. } | Op::Call(Call::Size)) {
            assert_eq!(&driver.kernel.out, &model.kernel.out);
            assert_eq!(stream.queue().size_bytes(), model.buffer.len());
            assert_eq!(stream.wants_write(), model.writer);
            assert_eq!(stream.conn_lost(), model.conn_lost);
        }
    }
    let step = driver.stream.handle_fatal(&mut driver.spent);
    driver.run(step);
    assert_eq!(driver.spent.len(), driver.pushed);
}
