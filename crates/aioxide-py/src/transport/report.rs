//! What the log and the loop's exception handler are told of a transport's troubles.
//!
//! May touch: asyncio's logger and the loop's exception handler. Messages and keys are asyncio's.
#![forbid(unsafe_code)]

use super::base::{Fields, fields};
use crate::ffi::call::{dict, dict_set, int, string};
use crate::ffi::exception::while_handling;
use crate::ffi::object::none;
use crate::ffi::{Obj, R, Raised, Ref, builtin, error};
use crate::state::state;
use aioxide_core::stream::Rules;

/// `_fatal_error(exc, message)`: an everyday event is only logged in debug mode, anything else goes
/// to the exception handler; then the connection is given up. This is where `exc` is handled.
pub fn fatal(transport: Obj<'_>, exc: Obj<'_>, message: &str) -> R<()> {
    while_handling(exc, || fatal_handled(transport, exc, message))
}

/// As `fatal`, for an exception that somebody else handles, or nobody.
pub fn fatal_handled(transport: Obj<'_>, exc: Obj<'_>, message: &str) -> R<()> {
    let this = fields(transport);
    super::write::settle(transport, this)?;
    if !is_everyday(this, exc)? {
        tell_handler(transport, this, exc, message)?;
    } else if this.debug() {
        let message = string(message)?;
        log_debug_of("%r: %s", &[transport, message.obj()], Some(exc))?;
    }
    super::stream::force_close(transport, this, exc)
}

/// Whether `exc` is an `OSError`; of a pipe that is read only the one of a terminal that hung up.
fn is_everyday(this: &Fields, exc: Obj<'_>) -> R<bool> {
    if !error::given_matches(exc, builtin::os_error().ptr()) {
        return Ok(false);
    }
    if this.rules != Rules::ReadPipe {
        return Ok(true);
    }
    let number = exc.getattr(state().names.errno.obj())?;
    number.obj().equals(int(libc::EIO.into())?.obj())
}

/// A failed callback: exceptions that must leave the loop come back, others are fatal.
pub fn fatal_callback(transport: Obj<'_>, raised: Raised, message: &str) -> R<()> {
    if raised.is_exit() {
        return Err(raised);
    }
    let exc = raised.take();
    fatal(transport, exc.obj(), message)
}

/// A failed callback that does not end the connection: `pause_writing` and `resume_writing`.
pub fn report_callback(transport: Obj<'_>, raised: Raised, message: &str) -> R<()> {
    if raised.is_exit() {
        return Err(raised);
    }
    let exc = raised.take();
    let this = fields(transport);
    while_handling(exc.obj(), || {
        tell_handler(transport, this, exc.obj(), message)
    })
}

fn tell_handler(transport: Obj<'_>, this: &Fields, exc: Obj<'_>, message: &str) -> R<()> {
    let names = &state().names;
    let protocol = this.protocol.get_or_none();
    let Some(event_loop) = this.event_loop.get() else {
        return Ok(());
    };
    call_handler(
        event_loop.obj(),
        message,
        &[
            (names.exception.obj(), exc),
            (names.transport.obj(), transport),
            (names.protocol.obj(), protocol.obj()),
        ],
    )
}

/// An exception that a callback of ours let out, as `asyncio.Handle` reports one of its own.
/// `SystemExit` and `KeyboardInterrupt` come back.
pub fn report_escaped(transport: Obj<'_>, raised: Raised, method: &str) -> R<()> {
    if raised.is_exit() {
        return Err(raised);
    }
    let exc = raised.take();
    let Some(event_loop) = fields(transport).event_loop.get() else {
        Raised::throw(exc).write_unraisable(transport);
        return Ok(());
    };
    let name = super::surface::transport_name(fields(transport));
    let message = format!("Exception in callback {name}.{method}()");
    let names = &state().names;
    let items = [
        (names.exception.obj(), exc.obj()),
        (names.transport.obj(), transport),
    ];
    while_handling(exc.obj(), || {
        call_handler(event_loop.obj(), &message, &items)
    })
}

/// `loop.call_exception_handler({'message': message, **items})`.
pub fn call_handler(event_loop: Obj<'_>, message: &str, items: &[(Obj<'_>, Obj<'_>)]) -> R<()> {
    let names = &state().names;
    let context = dict()?;
    dict_set(context.obj(), names.message.obj(), string(message)?.obj())?;
    for (name, value) in items {
        dict_set(context.obj(), *name, *value)?;
    }
    event_loop
        .call_method1(names.call_exception_handler.obj(), context.obj())
        .map(drop)
}

/// `logger.warning(text)`.
pub fn log_warning(text: &str) -> R<()> {
    let text = string(text)?;
    state()
        .asyncio
        .logger
        .obj()
        .call_method1(state().names.warning.obj(), text.obj())
        .map(drop)
}

/// `logger.info("%r was closed by peer", transport)`.
pub fn log_peer_closed(transport: Obj<'_>) -> R<()> {
    let format = string("%r was closed by peer")?;
    let method = state().asyncio.logger.obj().getattr_str(c"info")?;
    method.obj().call(&[format.obj(), transport]).map(drop)
}

/// `logger.debug(format, *args)`.
pub fn log_debug(format: &str, args: &[Obj<'_>]) -> R<()> {
    log_debug_of(format, args, None)
}

/// `logger.debug(format, *args, exc_info=exc)`.
pub fn log_debug_of(format: &str, args: &[Obj<'_>], exc: Option<Obj<'_>>) -> R<()> {
    let logger = state().asyncio.logger.obj();
    let format = string(format)?;
    let mut values = vec![format.obj()];
    values.extend(args);
    values.push(exc.unwrap_or_else(none));
    let name: Ref = crate::ffi::call::interned(c"exc_info")?;
    let kwnames = crate::ffi::call::tuple(&[name.obj()])?;
    let method = logger.getattr_str(c"debug")?;
    method.obj().call_kw(&values, kwnames.obj()).map(drop)
}
