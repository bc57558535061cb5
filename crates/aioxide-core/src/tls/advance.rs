//! The way out of the machine: one test of a step after the other, and the action it calls for.
//!
//! Duty: `poll_action`, and what a timer means when it fires. May touch: the machine's fields, and
//! the rest of the step in hand. Invariant: a test looks at the state when it is due and at nothing
//! remembered.
#![forbid(unsafe_code)]

use super::step::Phase;
use super::{Action, App, State, Step, Tls};

/// Timers.
impl<C: AsRef<[u8]>> Tls<C> {
    /// The handshake timer fired: whether the connection is to fail.
    #[must_use]
    pub fn handle_handshake_timeout(&self) -> bool {
        self.state == State::Handshake
    }

    /// The shutdown timer fired: whether the transport is to be forced closed.
    #[must_use]
    pub fn handle_shutdown_timeout(&self) -> bool {
        matches!(self.state, State::Flushing | State::Shutdown)
    }
}

/// The way out.
impl<C: AsRef<[u8]>> Tls<C> {
    /// The next action of `step`, or `None` when it is done.
    pub fn poll_action(&mut self, step: &mut Step) -> Option<Action> {
        while let Some(phase) = step.pop() {
            let action = self.advance(phase, step);
            if action.is_some() {
                return action;
            }
        }
        None
    }

    fn advance(&mut self, phase: Phase, step: &mut Step) -> Option<Action> {
        match phase {
            Phase::GuardEnd => None,
            Phase::ArmHandshake => arm(&mut self.handshake_armed, Action::ArmHandshakeTimer),
            Phase::DisarmHandshake => {
                disarm(&mut self.handshake_armed, Action::DisarmHandshakeTimer)
            }
            Phase::ArmShutdown => arm(&mut self.shutdown_armed, Action::ArmShutdownTimer),
            Phase::Handshake => (self.state == State::Handshake).then_some(Action::Handshake),
            Phase::Complete => Some(Action::Complete),
            Phase::Made => self.advance_app(App::Init, App::Made, Action::ConnectionMade),
            Phase::Wake => Some(Action::WakeWaiter),
            Phase::DoRead => self.advance_read(step),
            Phase::ReadMore => self.is_readable().then_some(Action::Read),
            Phase::Written if self.backlog.is_empty() => self.advance_send(step, false),
            Phase::Written | Phase::Encrypt => self.advance_encrypt(step),
            Phase::Backlog if self.backlog.is_empty() => None,
            Phase::Backlog => self.advance_encrypt(step),
            Phase::Send => self.advance_send(step, false),
            Phase::SendAll => self.advance_send(step, true),
            Phase::SendPiece => (!self.transport_paused).then_some(Action::Send),
            Phase::ControlWriting => self.advance_control(),
            Phase::NewLimits => {
                step.push(&[Phase::ControlLimits]);
                Some(Action::MeasureOutgoing)
            }
            Phase::ControlLimits => {
                let size = self.outgoing_bytes + self.backlog.size_bytes();
                let pause = self.writing.should_pause_now(size);
                if pause {
                    Some(Action::PauseProtocol)
                } else {
                    self.advance_resume(size)
                }
            }
            Phase::ControlReading => Some(Action::MeasureIncoming),
            Phase::PauseTransport => Some(Action::PauseTransport),
            Phase::ResumeTransport => Some(Action::ResumeTransport),
            Phase::TellEof => self.advance_app(App::Made, App::Eof, Action::TellEof),
            Phase::StartShutdown => self.advance_start_shutdown(step),
            Phase::Flush => {
                let rest = [
                    Phase::DoRead,
                    Phase::Backlog,
                    Phase::GuardEnd,
                    Phase::Flushed,
                ];
                step.push(&rest);
                None
            }
            Phase::Flushed => self.advance_flushed(step),
            Phase::Shutdown => self.advance_shutdown(step),
            Phase::ShutdownDone => {
                if !std::mem::replace(&mut self.is_transport_closed, true) {
                    // The transport flushes before it closes, which a peer that does not read can
                    // delay for ever: the timer goes on until the connection is lost.
                    step.push(&[Phase::ArmShutdown, Phase::CloseTransport]);
                }
                None
            }
            Phase::CloseTransport => Some(Action::CloseTransport),
        }
    }

    fn advance_app(&mut self, from: App, to: App, action: Action) -> Option<Action> {
        if self.app != from {
            return None;
        }
        self.app = to;
        Some(action)
    }

    fn advance_read(&mut self, step: &mut Step) -> Option<Action> {
        if !self.is_established() {
            return None;
        }
        if !self.is_readable() {
            // The end of the handshake, and what was written before, do not wait for the reader.
            step.push(&[Phase::Written, Phase::ControlReading, Phase::GuardEnd]);
            return None;
        }
        step.push(&[Phase::Written, Phase::ControlReading, Phase::GuardEnd]);
        Some(Action::Read)
    }

    fn advance_encrypt(&mut self, step: &mut Step) -> Option<Action> {
        if self.transport_paused || self.backlog.is_empty() || !self.is_established() {
            return self.advance_send(step, false);
        }
        Some(Action::Encrypt)
    }

    fn advance_send(&mut self, step: &mut Step, anyway: bool) -> Option<Action> {
        step.push(&[Phase::ControlWriting]);
        Some(if anyway || !self.transport_paused {
            Action::Send
        } else {
            Action::MeasureOutgoing
        })
    }

    fn advance_control(&mut self) -> Option<Action> {
        let size = self.outgoing_bytes + self.backlog.size_bytes();
        if self.writing.should_pause(size) {
            return Some(Action::PauseProtocol);
        }
        self.advance_resume(size)
    }

    fn advance_resume(&mut self, size: usize) -> Option<Action> {
        let resume = !self.pause_inherited && self.writing.should_resume(size);
        resume.then_some(Action::ResumeProtocol)
    }

    fn advance_start_shutdown(&mut self, step: &mut Step) -> Option<Action> {
        match self.state {
            State::Wrapped => {
                self.state = State::Flushing;
                step.push(&[Phase::ArmShutdown, Phase::Flush]);
                Some(Action::MarkClosed)
            }
            // The protocol closes instead of reading what is left.
            State::Flushing if std::mem::take(&mut self.awaits_reader) => {
                step.push(&[Phase::ArmShutdown, Phase::Flush]);
                Some(Action::MarkClosed)
            }
            State::Handshake => {
                self.state = State::Unwrapped;
                Some(Action::ForceClose)
            }
            _ => None,
        }
    }

    /// All is read and written, as far as the transport takes it.
    fn advance_flushed(&mut self, step: &mut Step) -> Option<Action> {
        if self.state != State::Flushing {
            return None;
        }
        if self.backlog.is_empty() {
            self.state = State::Shutdown;
            step.push(&[Phase::Shutdown]);
        } else if self.eof {
            step.push(&[Phase::ArmShutdown]);
            // All was read, unless the protocol does not read: then the end comes behind the rest.
            if !self.reading_paused {
                step.push(&[Phase::TellEof]);
            }
        }
        None
    }

    fn advance_shutdown(&mut self, step: &mut Step) -> Option<Action> {
        if self.state != State::Shutdown {
            return None;
        }
        if self.eof {
            self.handle_shutdown(step, true);
            return None;
        }
        Some(Action::Shutdown)
    }
}

fn arm(armed: &mut bool, action: Action) -> Option<Action> {
    (!std::mem::replace(armed, true)).then_some(action)
}

fn disarm(armed: &mut bool, action: Action) -> Option<Action> {
    std::mem::take(armed).then_some(action)
}
