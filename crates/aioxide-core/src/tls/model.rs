//! asyncio's TLS protocol told in the plainest way, to compare the machine with.
//!
//! Plain recursion where the machine has steps. Here too: the calls and what everybody sees, which
//! `driver.rs` shares.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::world::{Engine, PIECE, Record, World};
use super::{App, State};

/// What anybody saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Arm(bool),
    Disarm(bool),
    Made,
    Data(usize),
    Eof,
    Pause,
    Resume,
    PauseTransport,
    ResumeTransport,
    Woken,
    MarkClosed,
    Warn,
    Fatal,
    Escaped,
    CloseTransport,
    ForceClose,
    Lost,
    KeptOpen(bool),
}

/// A call by the user, from outside or from within a protocol callback.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    Write(usize),
    Close,
    Abort,
    PauseReading,
    ResumeReading,
    WriteLimits(i64, i64),
    ReadLimits(i64, i64),
}

/// One step of a test run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    Call(Call),
    Receive(Record),
    Eof,
    Drain(usize),
    Block,
    /// What was scheduled runs.
    Turn,
    HandshakeTimeout,
    ShutdownTimeout,
    Lost,
}

pub(super) fn data(seed: &mut u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|_| {
            *seed = seed.wrapping_add(1);
            *seed
        })
        .collect()
}

pub(super) struct Failed;

/// The protocol, told plainly.
pub(super) struct Model {
    pub(super) world: World,
    pub(super) seen: Vec<Seen>,
    pub(super) reactions: Vec<Call>,
    pub(super) seed: u8,
    pub(super) state: State,
    pub(super) app: App,
    pub(super) backlog: VecDeque<u8>,
    /// High, low.
    pub(super) write_limits: (usize, usize),
    pub(super) read_limits: (usize, usize),
    pub(super) app_paused: bool,
    pub(super) inherited: bool,
    pub(super) reading_paused: bool,
    pub(super) transport_reading_paused: bool,
    pub(super) transport_paused: bool,
    pub(super) eof: bool,
    pub(super) awaits_reader: bool,
    pub(super) handshake_timer: bool,
    pub(super) shutdown_timer: bool,
    pub(super) close_asked: bool,
    pub(super) conn_lost: u32,
    pub(super) scheduled: usize,
}

impl Model {
    fn called(&mut self, seen: Seen) {
        self.seen.push(seen);
        if let Some(call) = self.reactions.pop() {
            self.call(call);
        }
    }

    pub(super) fn connect(&mut self, was_paused: bool) {
        self.state = State::Handshake;
        self.transport_paused = was_paused;
        self.inherited = was_paused && self.app == App::Made;
        self.app_paused = self.inherited;
        self.handshake_timer = true;
        self.seen.push(Seen::Arm(true));
        self.handshake();
    }

    fn handshake(&mut self) {
        match self.world.handshake() {
            Engine::Again => self.process_outgoing(),
            Engine::Done => {
                self.disarm_handshake();
                self.state = State::Wrapped;
                if self.app == App::Init {
                    self.app = App::Made;
                    self.called(Seen::Made);
                }
                self.seen.push(Seen::Woken);
                self.do_read();
            }
            _ => self.handshake_failed(),
        }
    }

    fn disarm_handshake(&mut self) {
        if std::mem::take(&mut self.handshake_timer) {
            self.seen.push(Seen::Disarm(true));
        }
    }

    fn handshake_failed(&mut self) {
        self.state = State::Unwrapped;
        self.disarm_handshake();
        self.seen.extend([Seen::Fatal, Seen::Woken]);
    }

    fn established(&self) -> bool {
        matches!(self.state, State::Wrapped | State::Flushing)
    }

    fn do_read(&mut self) {
        if self.established() && self.try_read().is_err() {
            self.seen.push(Seen::Fatal);
        }
    }

    fn try_read(&mut self) -> Result<(), Failed> {
        if !self.reading_paused && self.app == App::Made {
            let (total, end) = self.world.read();
            if matches!(end, Engine::Failed) {
                return Err(Failed);
            }
            if total > 0 {
                self.called(Seen::Data(total));
            }
            if matches!(end, Engine::Eof) {
                self.tell_eof();
                self.start_shutdown()?;
            }
            if self.backlog.is_empty() {
                self.process_outgoing();
            } else {
                self.do_write();
            }
        } else if self.backlog.is_empty() {
            self.process_outgoing();
        } else {
            self.do_write();
        }
        self.control_reading();
        Ok(())
    }

    fn do_write(&mut self) {
        while !self.transport_paused && self.established() && !self.backlog.is_empty() {
            let piece: Vec<u8> = self.backlog.iter().copied().take(PIECE).collect();
            if !matches!(self.world.encrypt(&piece), Engine::Done) {
                break;
            }
            self.backlog.drain(..piece.len());
            if !self.backlog.is_empty() {
                self.send();
            }
        }
        self.process_outgoing();
    }

    fn send(&mut self) {
        if self.world.send() {
            self.transport_paused = true;
        }
    }

    fn process_outgoing(&mut self) {
        if !self.transport_paused {
            self.send();
        }
        self.control_writing();
    }

    fn control_writing(&mut self) {
        let size = self.world.outgoing + self.backlog.len();
        if size > 0 && size >= self.write_limits.0 && !self.app_paused {
            self.app_paused = true;
            self.called(Seen::Pause);
        } else if size <= self.write_limits.1 && self.app_paused && !self.inherited {
            self.app_paused = false;
            self.called(Seen::Resume);
        }
    }

    fn new_limits(&mut self) {
        if self.world.outgoing + self.backlog.len() >= self.write_limits.0 && !self.app_paused {
            self.app_paused = true;
            self.called(Seen::Pause);
        } else {
            self.control_writing();
        }
    }

    fn control_reading(&mut self) {
        let size = self.world.incoming_len();
        if size > 0 && size >= self.read_limits.0 && !self.transport_reading_paused {
            self.transport_reading_paused = true;
            self.seen.push(Seen::PauseTransport);
        } else if size <= self.read_limits.1 && self.transport_reading_paused {
            self.transport_reading_paused = false;
            self.seen.push(Seen::ResumeTransport);
        }
    }

    fn tell_eof(&mut self) {
        if self.app == App::Made {
            self.app = App::Eof;
            self.called(Seen::Eof);
        }
    }

    fn start_shutdown(&mut self) -> Result<(), Failed> {
        match self.state {
            State::Wrapped => {
                self.state = State::Flushing;
                self.seen.push(Seen::MarkClosed);
                self.arm_shutdown();
                self.flush()
            }
            State::Flushing if self.awaits_reader => {
                self.awaits_reader = false;
                self.seen.push(Seen::MarkClosed);
                self.arm_shutdown();
                self.flush()
            }
            State::Handshake => {
                self.state = State::Unwrapped;
                self.seen.push(Seen::ForceClose);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn arm_shutdown(&mut self) {
        if !std::mem::replace(&mut self.shutdown_timer, true) {
            self.seen.push(Seen::Arm(false));
        }
    }

    fn flush(&mut self) -> Result<(), Failed> {
        self.do_read();
        if !self.backlog.is_empty() {
            self.do_write();
        }
        self.flushed()
    }

    fn flushed(&mut self) -> Result<(), Failed> {
        if self.state != State::Flushing {
            return Ok(());
        }
        if self.backlog.is_empty() {
            self.state = State::Shutdown;
            return self.shutdown();
        }
        if self.eof {
            if !self.reading_paused {
                self.tell_eof();
            }
            self.arm_shutdown();
        }
        Ok(())
    }

    fn shutdown(&mut self) -> Result<(), Failed> {
        if self.state != State::Shutdown {
            return Ok(());
        }
        let end = if self.eof {
            Engine::Done
        } else {
            self.world.shutdown()
        };
        match end {
            Engine::Done => {
                self.send();
                self.control_writing();
                self.tell_eof();
                if !std::mem::replace(&mut self.close_asked, true) {
                    self.arm_shutdown();
                    self.seen.push(Seen::CloseTransport);
                }
                Ok(())
            }
            Engine::Again => {
                self.process_outgoing();
                Ok(())
            }
            _ => {
                if std::mem::take(&mut self.shutdown_timer) {
                    self.seen.push(Seen::Disarm(false));
                }
                self.seen.push(Seen::Fatal);
                Ok(())
            }
        }
    }

    fn resumed(&mut self) {
        self.awaits_reader &= self.reading_paused;
        let done = match self.state {
            State::Wrapped => {
                self.do_read();
                Ok(())
            }
            State::Flushing => self.flush(),
            State::Shutdown => self.shutdown(),
            _ => Ok(()),
        };
        if done.is_err() {
            self.seen.push(Seen::Escaped);
        }
    }

    pub(super) fn call(&mut self, call: Call) {
        match call {
            Call::Write(len) => self.write(len),
            Call::Close => {
                if self.start_shutdown().is_err() {
                    self.seen.push(Seen::Escaped);
                }
            }
            Call::Abort => {
                self.state = State::Unwrapped;
                self.seen.push(Seen::ForceClose);
            }
            Call::PauseReading => self.reading_paused = true,
            Call::ResumeReading => {
                self.scheduled += usize::from(std::mem::take(&mut self.reading_paused));
            }
            Call::WriteLimits(high, low) => {
                if high >= low && low >= 0 {
                    self.write_limits = (high as usize, low as usize);
                    self.new_limits();
                }
            }
            Call::ReadLimits(high, low) => {
                if high >= low && low >= 0 {
                    self.read_limits = (high as usize, low as usize);
                    self.control_reading();
                }
            }
        }
    }

    fn write(&mut self, len: usize) {
        let chunk = data(&mut self.seed, len);
        match self.state {
            State::Wrapped => {
                self.backlog.extend(chunk);
                self.do_write();
            }
            State::Handshake => self.backlog.extend(chunk),
            _ => {
                if self.conn_lost >= 5 {
                    self.seen.push(Seen::Warn);
                }
                self.conn_lost += 1;
            }
        }
    }

    pub(super) fn apply(&mut self, op: Op) {
        match op {
            Op::Call(call) => self.call(call),
            _ if self.world.is_lost => {}
            Op::Receive(record) => {
                self.world.incoming.push_back(record);
                match self.state {
                    State::Handshake => self.handshake(),
                    _ => self.resumed(),
                }
            }
            Op::Eof => self.transport_eof(),
            Op::Drain(len) => {
                if self.world.drain(len) {
                    self.resume_writing();
                }
            }
            Op::Block => self.world.blocked = true,
            Op::Turn => {
                for _ in 0..std::mem::take(&mut self.scheduled) {
                    self.resumed();
                }
            }
            Op::HandshakeTimeout if self.state == State::Handshake => self.seen.push(Seen::Fatal),
            Op::ShutdownTimeout if matches!(self.state, State::Flushing | State::Shutdown) => {
                self.seen.push(Seen::ForceClose);
            }
            Op::HandshakeTimeout | Op::ShutdownTimeout => {}
            Op::Lost => self.lost(),
        }
    }

    fn transport_eof(&mut self) {
        self.eof = true;
        let done = match self.state {
            State::Handshake => {
                self.handshake_failed();
                Ok(())
            }
            State::Wrapped => {
                self.state = State::Flushing;
                self.awaits_reader = self.reading_paused;
                if self.reading_paused {
                    Ok(())
                } else {
                    self.flush()
                }
            }
            State::Flushing => {
                if !self.backlog.is_empty() {
                    self.do_write();
                }
                self.flushed()
            }
            State::Shutdown => self.shutdown(),
            State::Unwrapped => Ok(()),
        };
        if done.is_err() {
            self.seen.push(Seen::Escaped);
        }
        self.seen
            .push(Seen::KeptOpen(self.state == State::Flushing));
    }

    fn resume_writing(&mut self) {
        self.transport_paused = false;
        self.inherited = false;
        if !self.established() || self.backlog.is_empty() {
            self.process_outgoing();
        } else {
            self.do_write();
        }
        if self.state == State::Flushing && !self.awaits_reader && self.flushed().is_err() {
            self.seen.push(Seen::Escaped);
        }
    }

    fn lost(&mut self) {
        self.world.is_lost = true;
        self.world.outgoing = 0;
        self.backlog.clear();
        self.conn_lost += 1;
        if self.state != State::Handshake && matches!(self.app, App::Made | App::Eof) {
            self.app = App::Lost;
            self.seen.push(Seen::Lost);
        }
        self.state = State::Unwrapped;
        (self.handshake_timer, self.shutdown_timer) = (false, false);
    }
}
