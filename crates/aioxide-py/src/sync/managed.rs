//! `async with` of locks, conditions and semaphores: what leaving does, and the tables they share.
//!
//! May touch: what is released. *Source*: `asyncio.locks._ContextManagerMixin`.

#![forbid(unsafe_code)]

use super::coroutine::{self, Frame, Kind, Next, Quickly, Resumed};
use super::{condition, lock, semaphore};
use crate::ffi::object::{none, none_ref};
use crate::ffi::{Args, Obj, R, Ref, Signature};
use crate::state::state;

/// A coroutine method of a primitive: name, qualified name, signature, documentation, function.
macro_rules! coroutine_method {
    ($name:literal, $qualname:literal, $signature:literal, $doc:literal, $function:path) => {
        crate::sync::function::Function {
            name: $name,
            qualname: $qualname,
            signature: $signature,
            doc: $doc,
            call: crate::sync::function::Call::Method($function),
        }
    };
}
pub(super) use coroutine_method;

/// The arguments of a method that takes none, for its errors.
pub const fn no_arguments(name: &'static str) -> Signature {
    Signature {
        name,
        params: &[],
        positional: 0,
        required: 0,
    }
}

/// Refuses arguments.
#[inline]
pub fn check_none(args: &Args<'_>, signature: &Signature) -> R<()> {
    if args.is_empty() {
        return Ok(());
    }
    args.bind_python::<0>(signature).map(drop)
}

/// The one argument of a method that takes exactly one.
#[inline]
pub fn only<'a>(args: &Args<'a>, signature: &Signature) -> R<Obj<'a>> {
    if let Some([only]) = args.exactly::<1>() {
        return Ok(only);
    }
    let [only] = args.bind_python::<1>(signature)?;
    Ok(only.unwrap_or(none()))
}

/// The arguments of `__aenter__`.
pub const ENTER: Signature = no_arguments("_ContextManagerMixin.__aenter__");

const EXIT: Signature = Signature {
    name: "_ContextManagerMixin.__aexit__",
    params: &["exc_type", "exc", "tb"],
    positional: 3,
    required: 3,
};

static KIND: Kind = Kind {
    name: "__aexit__",
    qualname: "_ContextManagerMixin.__aexit__",
    body,
    quick: Some(release_quickly),
};

fn body(frame: &Frame, _resumed: Resumed) -> R<Next> {
    release(frame.slots[0].get_or_none().obj())?;
    Ok(Next::Return(none_ref()))
}

/// `self.release()`, mostly of a lock for which nobody waits.
fn release_quickly(this: Obj<'_>, _frame: &Frame) -> R<Quickly> {
    let sync = &state().sync;
    let class = this.type_ptr();
    if class == sync.semaphore.leaf.ptr().cast() && semaphore::has_own_release(this)? {
        semaphore::release(this)?;
    } else if class != sync.lock.leaf.ptr().cast() || !lock::release_quickly(this) {
        release(this)?;
    }
    Ok(Quickly::Return(none_ref()))
}

/// `self.release()`.
fn release(this: Obj<'_>) -> R<()> {
    let sync = &state().sync;
    if sync.lock.is_core_of(this) && lock::has_own_release(this)? {
        return lock::release(this);
    }
    if sync.semaphore.is_core_of(this) && semaphore::has_own_release(this)? {
        return semaphore::release(this);
    }
    if sync.condition.is_core_of(this) && condition::has_plain_lock(this)? {
        return condition::release(this);
    }
    this.call_method0(state().names.release.obj()).map(drop)
}

/// `__aexit__(exc_type, exc, tb)`.
pub fn exit_method(this: Obj<'_>, args: Args<'_>) -> R<Ref> {
    if args.exactly::<3>().is_none() {
        args.bind_python::<3>(&EXIT)?;
    }
    coroutine::create(&KIND, [Some(this.to_ref())])
}
