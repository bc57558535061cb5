//! The value of a small `int`, read where the interpreter has it.
//!
//! A call into the interpreter for each comparison is most of what a heap of numbers costs. May
//! touch: nothing. Invariant: the place is used only if it was seen to hold the right values at
//! import. *Source*: `cpython/longintrepr.h`, which is a public header.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3_ffi as c;

use super::call::int;
use super::error::R;
use super::object::Obj;

/// An `int` of one digit.
#[repr(C)]
struct Compact {
    head: c::PyObject,
    /// The sign in the lowest two bits (0 positive, 1 zero, 2 negative), three bits further the
    /// number of digits. Before 3.12 a number of digits with the sign.
    tag: usize,
    digit: u32,
}

/// Whether the place holds what it should.
static KNOWN: AtomicBool = AtomicBool::new(false);

/// The value of exactly an `int` of one digit; nothing for anything else.
#[inline]
pub fn compact(number: Obj<'_>) -> Option<i64> {
    if number.type_ptr() != &raw mut c::PyLong_Type || !KNOWN.load(Ordering::Relaxed) {
        return None;
    }
    // SAFETY: an int, which has at least this size.
    let (tag, digit) = unsafe {
        let number = number.ptr().cast::<Compact>();
        ((*number).tag, i64::from((*number).digit))
    };
    if cfg!(Py_3_12) {
        (tag < 2 << 3).then(|| (1 - (tag & 3) as i64) * digit)
    } else {
        let count = tag as isize;
        (count.unsigned_abs() <= 1).then(|| count as i64 * digit)
    }
}

/// Looks whether the place holds what it should.
pub fn probe() -> R<()> {
    KNOWN.store(true, Ordering::Relaxed);
    let one_digit = (1 << 30) - 1;
    for value in [0, 1, -1, 255, -5, -1000, one_digit, -one_digit] {
        if compact(int(value)?.obj()) != Some(value) {
            KNOWN.store(false, Ordering::Relaxed);
        }
    }
    for value in [one_digit + 1, -one_digit - 1, i64::MAX, i64::MIN] {
        if compact(int(value)?.obj()).is_some() {
            KNOWN.store(false, Ordering::Relaxed);
        }
    }
    Ok(())
}
