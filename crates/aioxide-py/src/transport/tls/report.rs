//! What the log and the loop's exception handler are told of a TLS connection's troubles.
//!
//! May touch: asyncio's logger and the loop's exception handler. Messages and keys are asyncio's.
#![forbid(unsafe_code)]

use super::fields::fields;
use super::run::force_close;
use crate::ffi::call::string;
use crate::ffi::exception::while_handling;
use crate::ffi::{Obj, R, Slot, builtin, error};
use crate::state::state;
use crate::transport::report::{call_handler, log_debug_of};

/// The message of failures that have no better one.
pub const ON_TRANSPORT: &str = "Fatal error on transport";

/// `_fatal_error(exc, message)`: forces the transport below closed; an `OSError` is an everyday
/// event and only logged in debug mode, anything else goes to the exception handler. This is where
/// `exc` is handled.
pub fn fatal(protocol: Obj<'_>, exc: Obj<'_>, message: &str) -> R<()> {
    while_handling(exc, || fatal_handled(protocol, exc, message))
}

/// As `fatal`, for an exception that somebody else handles, or nobody.
pub fn fatal_handled(protocol: Obj<'_>, exc: Obj<'_>, message: &str) -> R<()> {
    let this = fields(protocol);
    force_close(this, exc)?;
    if error::given_matches(exc, builtin::os_error().ptr()) {
        if this.debug()? {
            let message = string(message)?;
            log_debug_of("%r: %s", &[protocol, message.obj()], Some(exc))?;
        }
        return Ok(());
    }
    if error::given_matches(exc, state().asyncio.cancelled_error.ptr()) {
        return Ok(());
    }
    tell_handler(protocol, &this.transport, exc, message)
}

/// Reports to the exception handler; `transport` is the one concerned.
pub fn tell_handler(protocol: Obj<'_>, transport: &Slot, exc: Obj<'_>, message: &str) -> R<()> {
    let names = &state().names;
    let event_loop = fields(protocol).event_loop.get_or_none();
    let transport = transport.get_or_none();
    call_handler(
        event_loop.obj(),
        message,
        &[
            (names.exception.obj(), exc),
            (names.transport.obj(), transport.obj()),
            (names.protocol.obj(), protocol),
        ],
    )
}
