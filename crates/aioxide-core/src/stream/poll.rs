//! The way out of a stream: the actions that a step comes to, one at a time.
//!
//! Duty: carry a step from test to test. Touches the stream's state and nothing else. Invariant:
//! every condition is tested when its action is due, because the caller may have run anything
//! since the step began.
#![forbid(unsafe_code)]

use super::{Action, Phase, Step, Stream};

impl<C: AsRef<[u8]>> Stream<C> {
    /// The next action of `step`, or `None` when it is done.
    pub fn poll_action(&mut self, step: &mut Step) -> Option<Action> {
        if std::mem::take(&mut step.interest) {
            return Some(Action::Interest);
        }
        if std::mem::take(&mut step.lost) {
            return Some(Action::ScheduleLost);
        }
        while step.phase != Phase::Done {
            let (phase, action) = self.advance(step.phase);
            step.phase = phase;
            if action.is_some() {
                return action;
            }
        }
        None
    }

    /// Whether all of `step`, which follows a send, is to carry on: no action, nothing to wait for.
    pub fn is_settled(&self, step: &Step) -> bool {
        let is_armed = self.want_write || self.disarm_due;
        let is_busy = is_armed || self.watched || self.lost || self.closing || self.eof;
        step.phase == Phase::Sent
            && !step.interest
            && !step.lost
            && self.queue.is_empty()
            && !self.flow.is_paused()
            && !is_busy
    }

    /// One test of a step: the phase after it, and the action it calls for.
    fn advance(&mut self, phase: Phase) -> (Phase, Option<Action>) {
        match phase {
            Phase::Done => (Phase::Done, None),
            Phase::Queued => self.advance_queued(),
            Phase::Grown => {
                let size = self.queue.size_bytes();
                if self.flush_due {
                    // The kernel would have it by now: no reason to pause before it says no.
                    let send = self.is_too_much_to_hold(size);
                    return (Phase::Done, send.then_some(Action::Send));
                }
                let pause = self.flow.should_pause(size);
                (Phase::Done, pause.then_some(Action::PauseProtocol))
            }
            Phase::Sent => {
                // Who is resumed now finds nothing that waits for the kernel. Whether the kernel is
                // still to say when there is room shows after that.
                if self.queue.is_empty() {
                    self.disarm_due |= std::mem::take(&mut self.want_write);
                }
                let resume = self.flow.should_resume(self.queue.size_bytes());
                (Phase::Drained, resume.then_some(Action::ResumeProtocol))
            }
            Phase::Drained => self.advance_drained(),
            Phase::Empty => self.advance_empty(),
            Phase::Flush => (Phase::Done, Some(Action::Send)),
            Phase::Shutdown => (Phase::Done, Some(Action::ShutdownWrite)),
        }
    }

    fn advance_queued(&mut self) -> (Phase, Option<Action>) {
        if self.want_write || self.flush_due {
            return (Phase::Grown, None);
        }
        self.flush_due = true;
        if self.is_too_much_to_hold(self.queue.size_bytes()) {
            return (Phase::Done, Some(Action::Send));
        }
        (Phase::Done, Some(Action::FlushLater))
    }

    /// After a send and a possible `resume_writing()`, which may have written, closed or aborted.
    fn advance_drained(&mut self) -> (Phase, Option<Action>) {
        if self.queue.is_empty() {
            // A closing stream has nothing left to watch: what a write pipe reads is its reader.
            let ends = self.closing && std::mem::take(&mut self.want_read);
            let armed = std::mem::take(&mut self.disarm_due) | std::mem::take(&mut self.want_write);
            let changed = armed || ends;
            return (Phase::Empty, changed.then_some(Action::Interest));
        }
        if self.flush_due {
            return (Phase::Done, None);
        }
        let armed = std::mem::replace(&mut self.want_write, true);
        self.disarm_due = false;
        (Phase::Grown, (!armed).then_some(Action::Interest))
    }

    fn advance_empty(&mut self) -> (Phase, Option<Action>) {
        if std::mem::take(&mut self.watched) {
            return (Phase::Empty, Some(Action::Emptied));
        }
        if self.lost {
            return (Phase::Done, None);
        }
        if self.closing {
            self.count_lost();
            return (Phase::Done, Some(Action::LoseNow));
        }
        (Phase::Done, self.eof.then_some(Action::ShutdownWrite))
    }
}
