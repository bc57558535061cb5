//! High and low water of a write queue.
//!
//! Duty: keep a transport's two limits and remember whether its protocol was told to pause.
//! Touches nothing but its own fields; the caller supplies the queue's size, and calls the
//! protocol after the borrow of this value has ended.
//!
//! Invariants: `high_bytes >= low_bytes`; a pause and a resume alternate, beginning with a pause.
//!
//! ```text
//!   size > high            size <= low, after a send
//!   flowing ──────► paused ──────► flowing
//! ```
#![forbid(unsafe_code)]

/// High water, in bytes, of a transport whose limits were never set (asyncio's default).
pub const HIGH_WATER_DEFAULT_BYTES: u32 = 64 * 1024;

/// Ratio of the high to the low limit where a caller gives only one of them (asyncio's rule).
const HIGH_TO_LOW: i64 = 4;

/// Limits that contradict each other: not `high >= low >= 0`.
///
/// Carries both numbers, the derived one included, so that the message can name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsError {
    /// The high limit in bytes, given or derived.
    pub high_bytes: i64,
    /// The low limit in bytes, given or derived.
    pub low_bytes: i64,
}

/// Limits of one write queue and the paused flag of its protocol.
///
/// *Source*: asyncio `transports._FlowControlMixin`.
#[derive(Clone, Debug)]
pub struct Flow {
    paused: bool,
    high_bytes: usize,
    low_bytes: usize,
    /// High limit where neither is given; short, as every connection has one.
    default_bytes: u32,
    /// Reaching the high limit is enough: a queue must not exceed it otherwise.
    inclusive: bool,
}

impl Default for Flow {
    fn default() -> Self {
        let high_bytes = HIGH_WATER_DEFAULT_BYTES as usize;
        Self {
            paused: false,
            high_bytes,
            low_bytes: high_bytes / HIGH_TO_LOW as usize,
            default_bytes: HIGH_WATER_DEFAULT_BYTES,
            inclusive: false,
        }
    }
}

impl Flow {
    /// Limits that already pause when the high one is reached, by anything but an empty queue.
    ///
    /// *Source*: asyncio `sslproto`, where an empty queue can also pause if the limit is 0.
    pub fn reaching(default_bytes: u32) -> Self {
        let mut flow = Self {
            default_bytes,
            inclusive: true,
            ..Self::default()
        };
        // The default of the caller's own constant cannot contradict itself.
        let valid = flow.set_limits(None, None);
        debug_assert_eq!(valid, Ok(()));
        flow
    }

    /// Notes that the protocol was told to pause by somebody else.
    pub fn inherit_pause(&mut self) {
        self.paused = true;
    }

    /// Replaces the limits, both in bytes; a missing one is derived from the other as asyncio does.
    ///
    /// The protocol is neither paused nor resumed here: ask [`Flow::should_pause`] next. On error
    /// nothing changes.
    ///
    /// # Errors
    /// [`LimitsError`] unless `high >= low >= 0`.
    pub fn set_limits(&mut self, high: Option<i64>, low: Option<i64>) -> Result<(), LimitsError> {
        let high_bytes = match (high, low) {
            (Some(high), _) => high,
            (None, Some(low)) => low.saturating_mul(HIGH_TO_LOW),
            (None, None) => self.default_bytes.into(),
        };
        let low_bytes = low.unwrap_or_else(|| high_bytes.div_euclid(HIGH_TO_LOW));
        let error = LimitsError {
            high_bytes,
            low_bytes,
        };
        if high_bytes < low_bytes {
            return Err(error);
        }
        let low = usize::try_from(low_bytes).map_err(|_| error)?;
        let high = usize::try_from(high_bytes).map_err(|_| error)?;
        (self.low_bytes, self.high_bytes) = (low, high);
        Ok(())
    }

    /// The limits in bytes as `(low, high)`, the order in which asyncio reports them.
    pub fn limits(&self) -> (usize, usize) {
        (self.low_bytes, self.high_bytes)
    }

    /// Whether `size_bytes` is above the high limit, told to the protocol already or not.
    pub fn is_over(&self, size_bytes: usize) -> bool {
        size_bytes > self.high_bytes
            || (self.inclusive && size_bytes > 0 && size_bytes == self.high_bytes)
    }

    /// Whether the high limit is lower than asyncio's own: somebody wants to know early of bytes
    /// that wait.
    pub fn is_tight(&self) -> bool {
        self.high_bytes < HIGH_WATER_DEFAULT_BYTES as usize
    }

    /// Whether the protocol was told to pause and not yet to resume.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// True once, when a growing queue passed the high limit: the caller now pauses the protocol.
    #[must_use]
    pub fn should_pause(&mut self, size_bytes: usize) -> bool {
        let pause = !self.paused && self.is_over(size_bytes);
        self.paused |= pause;
        pause
    }

    /// As [`Flow::should_pause`], when the limits were just set: a limit of 0 that is reached at
    /// once pauses even for an empty queue, as asyncio does.
    #[must_use]
    pub fn should_pause_now(&mut self, size_bytes: usize) -> bool {
        let is_reached = self.inclusive && size_bytes >= self.high_bytes;
        let pause = !self.paused && (is_reached || self.is_over(size_bytes));
        self.paused |= pause;
        pause
    }

    /// True once, when a shrinking queue reached the low limit: the caller resumes the protocol.
    #[must_use]
    pub fn should_resume(&mut self, size_bytes: usize) -> bool {
        let resume = self.paused && size_bytes <= self.low_bytes;
        self.paused &= !resume;
        resume
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_asyncios() {
        assert_eq!(Flow::default().limits(), (16 * 1024, 64 * 1024));
        let mut flow = Flow::default();
        assert_eq!(flow.set_limits(None, None), Ok(()));
        assert_eq!(flow.limits(), (16 * 1024, 64 * 1024));
    }

    #[test]
    fn missing_limit_is_derived() {
        let mut flow = Flow::default();
        assert_eq!(flow.set_limits(Some(101), None), Ok(()));
        assert_eq!(flow.limits(), (25, 101));
        assert_eq!(flow.set_limits(None, Some(5)), Ok(()));
        assert_eq!(flow.limits(), (5, 20));
        assert_eq!(flow.set_limits(Some(0), None), Ok(()));
        assert_eq!(flow.limits(), (0, 0));
        assert_eq!(flow.set_limits(None, Some(i64::MAX)), Ok(()));
        assert_eq!(flow.limits(), (i64::MAX as usize, i64::MAX as usize));
    }

    #[test]
    fn reaching_is_enough_unless_empty() {
        let mut flow = Flow::reaching(40);
        assert_eq!(flow.limits(), (10, 40));
        assert!(!flow.should_pause(39));
        assert!(flow.should_pause(40));
        assert!(flow.should_resume(10));
        assert_eq!(flow.set_limits(Some(0), None), Ok(()));
        assert!(!flow.should_pause(0));
        assert!(flow.should_pause(1));
        assert!(flow.should_resume(0));
    }

    #[test]
    fn bad_limits_change_nothing() {
        let mut flow = Flow::default();
        let cases = [
            (Some(1), Some(2), 1, 2),
            (Some(-1), None, -1, -1),
            (None, Some(-1), -4, -1),
            (Some(5), Some(-1), 5, -1),
        ];
        for (high, low, high_bytes, low_bytes) in cases {
            assert_eq!(
                flow.set_limits(high, low),
                Err(LimitsError {
                    high_bytes,
                    low_bytes
                })
            );
            assert_eq!(flow.limits(), (16 * 1024, 64 * 1024));
        }
    }

    #[test]
    fn pause_and_resume_alternate() {
        let mut flow = Flow::default();
        assert_eq!(flow.set_limits(Some(10), Some(4)), Ok(()));
        assert!(!flow.should_resume(0));
        assert!(!flow.should_pause(10));
        assert!(flow.should_pause(11));
        assert!(!flow.should_pause(99));
        assert!(flow.is_paused());
        assert!(!flow.should_resume(5));
        assert!(flow.should_resume(4));
        assert!(!flow.should_resume(4));
    }
}
