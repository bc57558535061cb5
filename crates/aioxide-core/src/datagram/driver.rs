//! The least caller of a datagram transport that keeps its contract, and the comparison with the
//! model.
//!
//! Shared by the property test and the fuzz target, which both include this file and `model.rs`.
#![forbid(unsafe_code)]

use super::model::{Call, HEADER_BYTES, Kernel, Model, Op, Seen, Sent, data};
use super::{Action, Step, Stream, WritePlan};

/// Datagrams in one send at most: few, so that runs see more than one batch.
const BATCH_MAX: usize = 3;

/// The transport under test with the least caller that obeys its contract.
pub(super) struct Driver {
    pub(super) stream: Stream<Vec<u8>>,
    pub(super) kernel: Kernel,
    has_remote: bool,
    pub(super) seen: Vec<Seen>,
    reactions: Vec<Call>,
    seed: u8,
    pub(super) pushed: usize,
    pub(super) spent: Vec<Vec<u8>>,
    /// Read and write interest as last registered.
    interest: (bool, bool),
}

impl Driver {
    pub(super) fn new(kernel: Kernel, has_remote: bool, reactions: Vec<Call>) -> Self {
        let mut driver = Self {
            stream: Stream::of_datagrams(HEADER_BYTES as u32),
            kernel,
            has_remote,
            seen: Vec::new(),
            reactions,
            seed: 0,
            pushed: 0,
            spent: Vec::new(),
            interest: (false, false),
        };
        let step = driver.stream.handle_start();
        driver.run(step);
        driver
    }

    fn run(&mut self, mut step: Step) {
        while let Some(action) = self.stream.poll_action(&mut step) {
            match action {
                Action::Interest => {
                    self.interest = (self.stream.wants_read(), self.stream.wants_write());
                }
                Action::PauseProtocol => self.called(Seen::Pause),
                Action::ResumeProtocol => self.called(Seen::Resume),
                Action::ScheduleLost => self.seen.push(Seen::LostSoon),
                Action::LoseNow => self.seen.push(Seen::LostNow),
                other => panic!("{other:?}: not with datagrams"),
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
        while self.stream.handle_drain() && !self.stream.queue().is_empty() {
            let mut sent = 0;
            let mut stopped = Sent::Done;
            for datagram in self.stream.queue().iter().take(BATCH_MAX) {
                stopped = self.kernel.send(datagram);
                if stopped != Sent::Done {
                    break;
                }
                sent += 1;
            }
            if sent > 0 {
                self.stream.handle_datagrams_sent(sent, &mut self.spent);
                continue;
            }
            if stopped == Sent::Blocked {
                break;
            }
            self.stream.handle_datagrams_sent(1, &mut self.spent);
            return self.seen.push(Seen::Error);
        }
        let step = self.stream.handle_drained();
        self.run(step);
    }

    fn send(&mut self, datagram: Vec<u8>) {
        let queued = match self.stream.handle_sendto(self.has_remote) {
            WritePlan::Lost { warn } => return self.seen.extend(warn.then_some(Seen::Warn)),
            WritePlan::Queue => self.stream.handle_queued(datagram),
            WritePlan::SendNow => match self.kernel.send(&datagram) {
                Sent::Done => return,
                Sent::Failed => return self.seen.push(Seen::Error),
                Sent::Blocked => self.stream.handle_datagram_unsent(datagram),
            },
            WritePlan::AfterEof | WritePlan::Nothing => panic!("not with datagrams"),
        };
        if let Ok(step) = queued {
            self.pushed += 1;
            self.run(step);
        } else {
            assert!(self.stream.conn_lost() > 0);
        }
    }

    pub(super) fn call(&mut self, call: Call) {
        let step = match call {
            Call::Send(len) => {
                let datagram = data(&mut self.seed, len);
                return self.send(datagram);
            }
            Call::PauseReading => self.stream.handle_pause_reading().unwrap_or_default(),
            Call::ResumeReading => self.stream.handle_resume_reading().unwrap_or_default(),
            Call::Limits(high, low) => self
                .stream
                .handle_limits(Some(high), Some(low))
                .unwrap_or_default(),
            Call::Close => self.stream.handle_close(),
            Call::Abort => self.stream.handle_fatal(&mut self.spent),
        };
        self.run(step);
    }

    pub(super) fn apply(&mut self, op: &Op) {
        match *op {
            Op::Call(call) => self.call(call),
            Op::Ready { freed } => {
                self.kernel.free += freed;
                if self.stream.handle_drain() {
                    self.transmit();
                }
            }
        }
    }
}

/// Runs `ops` on transport and model, from `free` bytes of room in the kernel. Panics where they
/// disagree.
pub(super) fn agree(ops: &[Op], reactions: &[Call], free: usize, has_remote: bool) {
    let kernel = Kernel {
        free,
        out: Vec::new(),
    };
    let mut driver = Driver::new(kernel.clone(), has_remote, reactions.to_vec());
    let mut model = Model {
        kernel,
        has_remote,
        reactions: reactions.to_vec(),
        high: 60,
        low: 20,
        reader: true,
        ..Model::default()
    };
    driver.call(Call::Limits(60, 20));
    for op in ops {
        driver.apply(op);
        model.apply(op);
        let stream = &driver.stream;
        assert!(stream.queue().is_empty() || stream.wants_write());
        assert!(!stream.is_flush_due());
        assert_eq!(driver.interest, (stream.wants_read(), stream.wants_write()));
        assert_eq!(&driver.seen, &model.seen);
        assert_eq!(&driver.kernel.out, &model.kernel.out);
        assert_eq!(stream.is_closing(), model.closing);
        assert_eq!(stream.wants_read(), model.reader);
        assert_eq!(stream.wants_write(), model.writer);
        assert_eq!(stream.is_protocol_paused(), model.protocol_paused);
        assert_eq!(stream.queue().size_bytes(), model.size());
        assert_eq!(stream.conn_lost(), model.conn_lost);
    }
    let step = driver.stream.handle_fatal(&mut driver.spent);
    driver.run(step);
    assert_eq!(driver.spent.len(), driver.pushed);
}
