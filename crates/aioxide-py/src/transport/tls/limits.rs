//! Limits of buffers as Python gives them: any numbers that compare.
//!
//! Duty: derive a missing limit from the other, refuse a contradiction, and give the core whole
//! bytes. Touches nothing but the numbers. *Source*: asyncio `sslproto.add_flowcontrol_defaults`.
#![forbid(unsafe_code)]

use crate::ffi::call::{int, tuple, uint};
use crate::ffi::{Obj, R, Raised, Ref, builtin};

/// Ratio of the high to the low limit where a caller gives only one of them.
const HIGH_TO_LOW: i64 = 4;

/// A high and a low limit that do not contradict each other.
pub struct Limits {
    high: Ref,
    low: Ref,
}

impl Limits {
    /// What was given, completed. ValueError unless `high >= low >= 0`.
    pub fn of(given: [Option<Obj<'_>>; 2], default: u32) -> R<Limits> {
        let [high, low] = given.map(|limit| limit.filter(|limit| !limit.is_none()));
        let ratio = int(HIGH_TO_LOW)?;
        let high = match (high, low) {
            (Some(high), _) => high.to_ref(),
            (None, Some(low)) => builtin::multiply(ratio.obj(), low)?,
            (None, None) => int(default.into())?,
        };
        let low = match low {
            Some(low) => low.to_ref(),
            None => builtin::floor_divide(high.obj(), ratio.obj())?,
        };
        let limits = Limits { high, low };
        let zero = int(0)?;
        let in_order = limits.low.obj().is_at_most(limits.high.obj())?
            && zero.obj().is_at_most(limits.low.obj())?;
        if in_order {
            Ok(limits)
        } else {
            Err(limits.refused())
        }
    }

    /// High and low in bytes that mean the same to whole sizes: the high one rounded up, the low
    /// one down.
    pub fn bytes(&self) -> R<(i64, i64)> {
        let high = if self.high.obj().is_int() {
            builtin::saturating_i64(self.high.obj())?
        } else {
            let negative = builtin::negate(self.high.obj())?;
            builtin::saturating_i64(negative.obj())?.saturating_neg()
        };
        Ok((high, builtin::saturating_i64(self.low.obj())?))
    }

    /// `(low, high)` as they were given, unless plain ints say the same.
    pub fn shown(&self) -> R<Option<Ref>> {
        if self.high.obj().is_int() && self.low.obj().is_int() {
            return Ok(None);
        }
        tuple(&[self.low.obj(), self.high.obj()]).map(Some)
    }

    /// The ValueError of a contradiction.
    pub fn refused(&self) -> Raised {
        let shown = |limit: &Ref| limit.obj().repr();
        match (shown(&self.high), shown(&self.low)) {
            (Ok(high), Ok(low)) => Raised::value_error(&format!(
                "high ({high}) must be >= low ({low}) must be >= 0"
            )),
            (Err(raised), _) | (_, Err(raised)) => raised,
        }
    }
}

/// `(low, high)`.
pub fn pair((low, high): (usize, usize)) -> R<Ref> {
    tuple(&[uint(low as u64)?.obj(), uint(high as u64)?.obj()])
}
