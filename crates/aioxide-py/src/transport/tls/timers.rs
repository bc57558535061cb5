//! The two timers of a TLS connection: of its handshake and of its shutdown.
//!
//! May touch: the loop's timers, and the connection whose time is up.
#![forbid(unsafe_code)]

use super::fields::{Fields, fields};
use super::report;
use super::run::force_close;
use crate::ffi::object::none_ref;
use crate::ffi::{Obj, R, Ref, Slot, builtin};
use crate::state::state;

/// Starts a timer of `seconds` that calls the protocol's method `name`.
pub fn arm(protocol: Obj<'_>, this: &Fields, seconds: &Slot, name: Obj<'_>) -> R<Ref> {
    let (event_loop, seconds) = (this.event_loop.get_or_none(), seconds.get_or_none());
    let check = protocol.getattr(name)?;
    let args = [event_loop.obj(), seconds.obj(), check.obj()];
    event_loop
        .obj()
        .call_method(state().names.call_later.obj(), &args)
}

/// Cancels a timer, if there is one.
pub fn cancel_timer(timer: &Slot) -> R<()> {
    match timer.take() {
        Some(timer) => timer
            .obj()
            .call_method0(state().names.cancel.obj())
            .map(drop),
        None => Ok(()),
    }
}

/// The handshake took too long.
pub fn check_handshake_timeout(protocol: Obj<'_>) -> R<Ref> {
    let this = fields(protocol);
    if !this.with(|tls| tls.handle_handshake_timeout()) {
        return Ok(none_ref());
    }
    let seconds = this.handshake_seconds.get_or_none();
    let seconds = crate::ffi::call::text(seconds.obj().str()?.obj())?;
    let message = crate::ffi::call::string(&format!(
        "SSL handshake is taking longer than {seconds} seconds: aborting the connection"
    ))?;
    let exc = builtin::connection_aborted_error().call1(message.obj())?;
    report::fatal_handled(protocol, exc.obj(), report::ON_TRANSPORT)?;
    // Behind the loss of the connection, which says so first where there is one to lose.
    let wake = protocol.getattr(state().names._wakeup_waiter.obj())?;
    this.call_soon(wake.obj(), &[exc.obj()])
        .map(|()| none_ref())
}

/// The shutdown took too long.
pub fn check_shutdown_timeout(protocol: Obj<'_>) -> R<Ref> {
    let this = fields(protocol);
    if this.with(|tls| tls.handle_shutdown_timeout()) {
        let message = crate::ffi::call::string("SSL shutdown timed out")?;
        let exc = builtin::timeout_error().call1(message.obj())?;
        force_close(this, exc.obj())?;
    }
    Ok(none_ref())
}
