//! The least caller of a TLS machine that keeps its contract, and the comparison with the model.
//!
//! Shared by the property test and the fuzz target, which include this file, `model.rs` and
//! `world.rs`.
#![forbid(unsafe_code)]

use super::model::{Call, Model, Op, Seen, data};
use super::world::{Engine, PIECE, World};
use super::{Action, App, State, Step, Tls, WritePlan};

/// The machine under test with the least caller that obeys its contract.
pub(super) struct Driver {
    pub(super) tls: Tls<Vec<u8>>,
    pub(super) world: World,
    pub(super) seen: Vec<Seen>,
    pub(super) reactions: Vec<Call>,
    pub(super) seed: u8,
    pub(super) pushed: usize,
    pub(super) spent: Vec<Vec<u8>>,
    pub(super) scheduled: usize,
}

impl Driver {
    fn new(is_upgrade: bool, world: World, reactions: &[Call]) -> Self {
        Self {
            tls: Tls::new(is_upgrade),
            world,
            seen: Vec::new(),
            reactions: reactions.to_vec(),
            seed: 0,
            pushed: 0,
            spent: Vec::new(),
            scheduled: 0,
        }
    }

    pub(super) fn run(&mut self, mut step: Step) {
        while let Some(action) = self.tls.poll_action(&mut step) {
            if self.act(action, &mut step) {
                continue;
            }
            if step.unwind() {
                self.seen.push(Seen::Fatal);
            } else {
                self.seen.push(Seen::Escaped);
            }
        }
    }

    /// False if the action failed.
    fn act(&mut self, action: Action, step: &mut Step) -> bool {
        match action {
            Action::ArmHandshakeTimer => self.seen.push(Seen::Arm(true)),
            Action::DisarmHandshakeTimer => self.seen.push(Seen::Disarm(true)),
            Action::ArmShutdownTimer => self.seen.push(Seen::Arm(false)),
            Action::DisarmShutdownTimer => self.seen.push(Seen::Disarm(false)),
            Action::Handshake => self.handshake(step),
            Action::Complete => {}
            Action::ConnectionMade => self.called(Seen::Made),
            Action::WakeWaiter => self.seen.push(Seen::Woken),
            Action::Read => return self.read(step),
            Action::Encrypt => self.encrypt(step),
            Action::Send => {
                if self.world.send() {
                    self.tls.handle_pause_writing();
                }
                self.tls.handle_outgoing(0);
            }
            Action::MeasureOutgoing => self.tls.handle_outgoing(self.world.outgoing),
            Action::MeasureIncoming => self.tls.handle_incoming(step, self.world.incoming_len()),
            Action::PauseProtocol => self.called(Seen::Pause),
            Action::ResumeProtocol => self.called(Seen::Resume),
            Action::PauseTransport => self.seen.push(Seen::PauseTransport),
            Action::ResumeTransport => self.seen.push(Seen::ResumeTransport),
            Action::TellEof => self.called(Seen::Eof),
            Action::MarkClosed => self.seen.push(Seen::MarkClosed),
            Action::Shutdown => self.shutdown(step),
            Action::CloseTransport => self.seen.push(Seen::CloseTransport),
            Action::ForceClose => self.seen.push(Seen::ForceClose),
        }
        true
    }

    fn called(&mut self, seen: Seen) {
        self.seen.push(seen);
        if let Some(call) = self.reactions.pop() {
            self.call(call);
        }
    }

    fn handshake(&mut self, step: &mut Step) {
        match self.world.handshake() {
            Engine::Again => self.tls.handle_handshake(step, false),
            Engine::Done => self.tls.handle_handshake(step, true),
            _ => self.fail_handshake(),
        }
    }

    fn fail_handshake(&mut self) {
        let step = self.tls.handle_handshake_failed();
        self.run(step);
        self.seen.extend([Seen::Fatal, Seen::Woken]);
    }

    fn read(&mut self, step: &mut Step) -> bool {
        let (total, end) = self.world.read();
        if matches!(end, Engine::Failed) {
            return false;
        }
        if total > 0 {
            self.called(Seen::Data(total));
        }
        if matches!(end, Engine::Eof) {
            self.tls.handle_read_eof(step);
        }
        true
    }

    fn encrypt(&mut self, step: &mut Step) {
        let piece: Vec<u8> = self
            .tls
            .backlog()
            .slices()
            .flatten()
            .copied()
            .take(PIECE)
            .collect();
        assert!(!piece.is_empty());
        match self.world.encrypt(&piece) {
            Engine::Done => self
                .tls
                .handle_encrypted(step, piece.len(), false, &mut self.spent),
            _ => self.tls.handle_encrypt_blocked(step),
        }
    }

    fn shutdown(&mut self, step: &mut Step) {
        match self.world.shutdown() {
            Engine::Done => self.tls.handle_shutdown(step, true),
            Engine::Again => self.tls.handle_shutdown(step, false),
            _ => {
                if self.tls.handle_shutdown_failed() {
                    self.seen.push(Seen::Disarm(false));
                }
                self.seen.push(Seen::Fatal);
            }
        }
    }

    pub(super) fn call(&mut self, call: Call) {
        let step = match call {
            Call::Write(len) => return self.write(len),
            Call::Close => self.tls.handle_close(),
            Call::Abort => {
                self.tls.handle_abort();
                return self.seen.push(Seen::ForceClose);
            }
            Call::PauseReading => return self.tls.handle_pause_reading(),
            Call::ResumeReading => {
                self.scheduled += usize::from(self.tls.handle_resume_reading());
                return;
            }
            Call::WriteLimits(high, low) => self
                .tls
                .handle_write_limits(Some(high), Some(low))
                .unwrap_or_default(),
            Call::ReadLimits(high, low) => self
                .tls
                .handle_read_limits(Some(high), Some(low))
                .unwrap_or_default(),
        };
        self.run(step);
    }

    fn write(&mut self, len: usize) {
        let chunk = data(&mut self.seed, len);
        match self.tls.handle_write() {
            WritePlan::Lost { warn } => self.seen.extend(warn.then_some(Seen::Warn)),
            WritePlan::Queue => {
                self.pushed += usize::from(self.tls.handle_queued(chunk).is_ok());
                let step = self.tls.handle_write_end();
                self.run(step);
            }
        }
    }

    pub(super) fn apply(&mut self, op: Op) {
        match op {
            Op::Call(call) => self.call(call),
            _ if self.world.is_lost => {}
            Op::Receive(record) => {
                self.world.incoming.push_back(record);
                let step = self.tls.handle_received();
                self.run(step);
            }
            Op::Eof => {
                let step = self.tls.handle_eof();
                if self.tls.state() == State::Handshake {
                    self.fail_handshake();
                }
                self.run(step);
                self.seen.push(Seen::KeptOpen(self.tls.keeps_open()));
            }
            Op::Drain(len) => {
                if self.world.drain(len) {
                    let step = self.tls.handle_resume_writing();
                    self.run(step);
                }
            }
            Op::Block => self.world.blocked = true,
            Op::Turn => {
                for _ in 0..std::mem::take(&mut self.scheduled) {
                    let step = self.tls.handle_resumed();
                    self.run(step);
                }
            }
            Op::HandshakeTimeout => {
                let fails = self.tls.handle_handshake_timeout();
                self.seen.extend(fails.then_some(Seen::Fatal));
            }
            Op::ShutdownTimeout => {
                let fails = self.tls.handle_shutdown_timeout();
                self.seen.extend(fails.then_some(Seen::ForceClose));
            }
            Op::Lost => {
                self.world.is_lost = true;
                self.world.outgoing = 0;
                let tell = self.tls.handle_lost(&mut self.spent);
                self.seen.extend(tell.then_some(Seen::Lost));
            }
        }
    }

    /// Invariant 1: what the protocol was told comes once each, in order.
    fn check_grammar(&self) {
        let of = |wanted: Seen| self.seen.iter().filter(|seen| **seen == wanted).count();
        assert!(of(Seen::Made) <= 1 && of(Seen::Eof) <= 1 && of(Seen::Lost) <= 1);
        assert!(of(Seen::CloseTransport) <= 1);
    }
}

/// How a run begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) is_upgrade: bool,
    pub(super) was_paused: bool,
    pub(super) flights: usize,
}

/// Runs `ops` on machine and model. Panics where they disagree.
pub(super) fn agree(start: Start, ops: &[Op], reactions: &[Call]) {
    let world = World {
        flights: start.flights,
        told: start.was_paused,
        queue: if start.was_paused { 50 } else { 0 },
        ..World::default()
    };
    let mut driver = Driver::new(start.is_upgrade, world.clone(), reactions);
    let mut model = model(start, world, reactions);
    for limits in [Call::WriteLimits(30, 10), Call::ReadLimits(20, 5)] {
        driver.call(limits);
        model.call(limits);
    }
    let step = driver.tls.handle_connected(start.was_paused);
    driver.run(step.expect("nothing happened yet"));
    model.connect(start.was_paused);
    assert!(driver.tls.state() == State::Unwrapped || driver.tls.handle_connected(false).is_err());
    for &op in ops {
        driver.apply(op);
        model.apply(op);
        let tls = &driver.tls;
        assert_eq!(&driver.seen, &model.seen);
        assert_eq!((tls.state(), tls.app()), (model.state, model.app));
        assert_eq!(tls.backlog().size_bytes(), model.backlog.len());
        assert_eq!(driver.world.wire, model.world.wire);
        assert_eq!(driver.world.outgoing, model.world.outgoing);
        assert_eq!(driver.world.queue, model.world.queue);
        assert_eq!(tls.is_protocol_paused(), model.app_paused);
        assert_eq!(
            tls.is_transport_reading_paused(),
            model.transport_reading_paused
        );
        assert_eq!(tls.is_transport_paused(), model.transport_paused);
        assert_eq!(tls.conn_lost(), model.conn_lost);
        assert_eq!(driver.scheduled, model.scheduled);
        // Invariant 3: plaintext that can leave has left. After a failure there is only the loss.
        let can_leave = tls.state() == State::Wrapped
            && !tls.is_transport_paused()
            && !driver.seen.contains(&Seen::Fatal);
        assert!(!can_leave || tls.backlog().is_empty() || driver.world.blocked);
        driver.check_grammar();
    }
    driver.tls.handle_lost(&mut driver.spent);
    assert_eq!(driver.spent.len(), driver.pushed);
}

fn model(start: Start, world: World, reactions: &[Call]) -> Model {
    Model {
        world,
        seen: Vec::new(),
        reactions: reactions.to_vec(),
        seed: 0,
        state: State::Unwrapped,
        app: if start.is_upgrade {
            App::Made
        } else {
            App::Init
        },
        backlog: std::collections::VecDeque::new(),
        write_limits: (0, 0),
        read_limits: (0, 0),
        app_paused: false,
        inherited: false,
        reading_paused: false,
        transport_reading_paused: false,
        transport_paused: false,
        eof: false,
        awaits_reader: false,
        handshake_timer: false,
        shutdown_timer: false,
        close_asked: false,
        conn_lost: 0,
        scheduled: 0,
    }
}
