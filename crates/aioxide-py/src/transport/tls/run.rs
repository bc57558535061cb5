//! Running the core's decisions: events of the transport below, and the actions they call for.
//!
//! Duty: feed events to the core, carry out the actions that come back one after the other, and
//! report what became of them. May touch: engine, transports, protocol, timers, waiter.
//! Invariants: the core is borrowed for one question at a time; a failure skips what it makes void
//! and no more.
//!
//! *Source*: asyncio `sslproto.SSLProtocol`.
#![forbid(unsafe_code)]

use aioxide_core::tls::{Action, App, State, Step};

use super::fields::{Fields, app_fields, fields};
use super::read::{self, End, Input};
use super::timers::{arm, cancel_timer};
use super::{report, write};
use crate::ffi::call::dict_set;
use crate::ffi::exception::while_handling;
use crate::ffi::object::{boolean, none, none_ref};
use crate::ffi::{Obj, R, Raised, Ref, builtin, error};
use crate::state::state;
use crate::transport::base;
use crate::transport::report::log_debug;

// ---- events of the transport below --------------------------------------------------------------

/// `connection_made(transport)`: begins the handshake.
pub fn connection_made(protocol: Obj<'_>, transport: Obj<'_>) -> R<Ref> {
    let this = fields(protocol);
    let is_stream = transport.type_obj().ptr() == state().types.stream_transport.ptr();
    if is_lost(transport, is_stream) {
        return stillborn(this);
    }
    this.is_over_stream.set(is_stream);
    this.transport.set(Some(transport.to_ref()));
    let was_paused = was_paused(transport, is_stream)?;
    if this.debug()? {
        log_debug("%r starts SSL handshake", &[protocol])?;
        this.handshake_start.set(now(this)?);
    }
    match this.with(|tls| tls.handle_connected(was_paused)) {
        Ok(step) => run(protocol, this, step, &mut Input::default()).map(|()| none_ref()),
        Err(state) => Err(Raised::runtime(&format!(
            "cannot switch state from {} to {}",
            state_name(state),
            state_name(State::Handshake)
        ))),
    }
}

/// Whether one of our transports was lost between the upgrade's call and its beginning.
fn is_lost(transport: Obj<'_>, is_stream: bool) -> bool {
    if is_stream {
        return base::fields(transport).event_loop.is_empty();
    }
    if transport.type_obj().ptr() != state().types.tls_transport.ptr() {
        return false;
    }
    let below = app_fields(transport).protocol.get();
    below.is_none_or(|below| fields(below.obj()).with(|tls| tls.app()) == App::Lost)
}

/// There is nothing to upgrade: nobody else will say so.
fn stillborn(this: &Fields) -> R<Ref> {
    this.with(|tls| tls.handle_stillborn());
    this.lose_app_transport();
    this.app.clear();
    let message = crate::ffi::call::string("Connection lost")?;
    let exc = builtin::connection_reset_error().call1(message.obj())?;
    wake(this, Some(exc.obj())).map(|()| none_ref())
}

/// Whether the transport told its protocol so far, which is the one above, to pause writing.
fn was_paused(transport: Obj<'_>, is_stream: bool) -> R<bool> {
    if is_stream {
        return Ok(base::fields(transport).with(|stream| stream.is_protocol_paused()));
    }
    let told = transport.getattr_opt(state().names._protocol_paused.obj())?;
    Ok(told.is_some_and(|told| told.obj().is(boolean(true).obj())))
}

/// The state as asyncio's enumeration shows it.
pub fn state_name(state: State) -> &'static str {
    match state {
        State::Unwrapped => "SSLProtocolState.UNWRAPPED",
        State::Handshake => "SSLProtocolState.DO_HANDSHAKE",
        State::Wrapped => "SSLProtocolState.WRAPPED",
        State::Flushing => "SSLProtocolState.FLUSHING",
        State::Shutdown => "SSLProtocolState.SHUTDOWN",
    }
}

fn now(this: &Fields) -> R<f64> {
    let event_loop = this.event_loop.get_or_none();
    let time = event_loop.obj().call_method0(state().names.time.obj())?;
    time.obj().to_f64()
}

/// `eof_received()`.
pub fn eof_received(protocol: Obj<'_>) -> R<Ref> {
    let this = fields(protocol);
    let done = end_of_stream(protocol, this);
    if let Err(raised) = done {
        if !raised.is_ordinary() {
            return Err(raised);
        }
        let exc = raised.take();
        if let Some(transport) = this.transport.get() {
            transport.obj().call_method0(state().names.close.obj())?;
        }
        return Err(Raised::throw(exc));
    }
    Ok(if this.with(|tls| tls.keeps_open()) {
        boolean(true)
    } else {
        none_ref()
    })
}

fn end_of_stream(protocol: Obj<'_>, this: &Fields) -> R<()> {
    let is_handshake = this.with(|tls| tls.state()) == State::Handshake;
    let step = this.with(|tls| tls.handle_eof());
    if this.debug()? {
        log_debug("%r received EOF", &[protocol])?;
    }
    if is_handshake {
        let exc = builtin::connection_reset_error().call0()?;
        return handshake_failed(protocol, this, exc);
    }
    run(protocol, this, step, &mut Input::default())
}

/// `connection_lost(exc)`: gives everything up and lets everything go.
pub fn connection_lost(protocol: Obj<'_>, exc: Obj<'_>) -> R<Ref> {
    let this = fields(protocol);
    let mut spent = Vec::new();
    let tell = this.with(|tls| tls.handle_lost(&mut spent));
    drop(spent);
    this.engine.take_outgoing()?;
    this.mark_closed();
    if tell {
        let app = this.app.get_or_none();
        let lost = app.obj().getattr(state().names.connection_lost.obj())?;
        this.call_soon(lost.obj(), &[exc])?;
    }
    this.lose_app_transport();
    for slot in [&this.transport, &this.app, &this.lent] {
        slot.clear();
    }
    this.is_over_stream.set(false);
    wake(this, Some(exc).filter(|exc| !exc.is_none()))?;
    cancel_timer(&this.shutdown_timer)?;
    cancel_timer(&this.handshake_timer)?;
    Ok(none_ref())
}

/// `pause_writing()`.
pub fn pause_writing(protocol: Obj<'_>) -> R<Ref> {
    fields(protocol).with(|tls| tls.handle_pause_writing());
    Ok(none_ref())
}

/// `resume_writing()`.
pub fn resume_writing(protocol: Obj<'_>) -> R<Ref> {
    let this = fields(protocol);
    let step = this.with(|tls| tls.handle_resume_writing());
    run(protocol, this, step, &mut Input::default()).map(|()| none_ref())
}

// ---- closing ------------------------------------------------------------------------------------

/// `_start_shutdown()`.
pub fn start_shutdown(protocol: Obj<'_>) -> R<Ref> {
    let this = fields(protocol);
    let step = this.with(|tls| tls.handle_close());
    run(protocol, this, step, &mut Input::default()).map(|()| none_ref())
}

/// `_abort(exc)`.
pub fn abort(protocol: Obj<'_>, exc: Obj<'_>) -> R<Ref> {
    let this = fields(protocol);
    this.with(|tls| tls.handle_abort());
    force_close(this, exc).map(|()| none_ref())
}

/// `transport._force_close(exc)`, or `abort()` where a transport has no such method.
pub fn force_close(this: &Fields, exc: Obj<'_>) -> R<()> {
    let names = &state().names;
    let Some(transport) = this.transport.get() else {
        return Ok(());
    };
    if cfg!(not(Py_3_13)) && exc.is_none() {
        // What asyncio calls there, and what transports of others are sure to have.
        return transport.obj().call_method0(names.abort.obj()).map(drop);
    }
    match transport.obj().getattr_opt(names._force_close.obj())? {
        Some(force_close) => force_close.obj().call1(exc).map(drop),
        None => transport.obj().call_method0(names.abort.obj()).map(drop),
    }
}

/// What was paused, or read into a full buffer, goes on.
pub fn resumed(protocol: Obj<'_>) -> R<Ref> {
    let this = fields(protocol);
    let step = this.with(|tls| tls.handle_resumed());
    run(protocol, this, step, &mut Input::default()).map(|()| none_ref())
}

/// `_do_read()`.
pub fn read_on(protocol: Obj<'_>) -> R<Ref> {
    let this = fields(protocol);
    let step = this.with(|tls| tls.handle_read_on());
    run(protocol, this, step, &mut Input::default()).map(|()| none_ref())
}

// ---- actions ------------------------------------------------------------------------------------

/// Carries out a step. `input` is ciphertext that came in and is not in the engine yet.
pub fn run(protocol: Obj<'_>, this: &Fields, mut step: Step, input: &mut Input<'_>) -> R<()> {
    while let Some(action) = this.with(|tls| tls.poll_action(&mut step)) {
        if let Err(raised) = act(protocol, this, action, &mut step, input) {
            if !raised.is_ordinary() || !step.unwind() {
                return Err(raised);
            }
            let exc = raised.take();
            report::fatal(protocol, exc.obj(), "Fatal error on SSL protocol")?;
        }
    }
    Ok(())
}

fn act(
    protocol: Obj<'_>,
    this: &Fields,
    action: Action,
    step: &mut Step,
    input: &mut Input<'_>,
) -> R<()> {
    match action {
        Action::Handshake => handshake(protocol, this, step, input),
        Action::Read => {
            match read::deliver(this, input)? {
                End::Drained => {}
                End::Eof => this.with(|tls| tls.handle_read_eof(step)),
                End::Full => {
                    if this.with(|tls| tls.handle_read_full(step)) {
                        let read_on = protocol.getattr(state().names._do_read.obj())?;
                        this.call_soon(read_on.obj(), &[])?;
                    }
                }
            }
            Ok(())
        }
        Action::Encrypt => write::encrypt(this, step),
        Action::Send => write::send(this),
        Action::MeasureOutgoing => {
            let len = this.engine.outgoing_len()?;
            this.with(|tls| tls.handle_outgoing(len));
            Ok(())
        }
        Action::MeasureIncoming => {
            input.feed_all(&this.engine)?;
            let len = this.engine.incoming_len()?;
            this.with(|tls| tls.handle_incoming(step, len));
            Ok(())
        }
        Action::Shutdown => shutdown(protocol, this, step, input),
        Action::Complete => complete(protocol, this, step),
        Action::ConnectionMade
        | Action::PauseProtocol
        | Action::ResumeProtocol
        | Action::TellEof => {
            // The protocol may close, and the shutdown that begins is to see all that came.
            input.feed_all(&this.engine)?;
            tell(protocol, this, action)
        }
        _ => tell(protocol, this, action),
    }
}

/// The actions that have no outcome.
fn tell(protocol: Obj<'_>, this: &Fields, action: Action) -> R<()> {
    let names = &state().names;
    match action {
        Action::ArmHandshakeTimer => {
            let name = names._check_handshake_timeout.obj();
            let timer = arm(protocol, this, &this.handshake_seconds, name)?;
            this.handshake_timer.set(Some(timer));
            Ok(())
        }
        Action::ArmShutdownTimer => {
            let name = names._check_shutdown_timeout.obj();
            let timer = arm(protocol, this, &this.shutdown_seconds, name)?;
            this.shutdown_timer.set(Some(timer));
            Ok(())
        }
        Action::DisarmHandshakeTimer => cancel_timer(&this.handshake_timer),
        Action::DisarmShutdownTimer => cancel_timer(&this.shutdown_timer),
        Action::ConnectionMade => {
            let (app, above) = (this.app.get_or_none(), this.app_transport(protocol)?);
            let name = names.connection_made.obj();
            app.obj().call_method1(name, above.obj()).map(drop)
        }
        Action::WakeWaiter => wake(this, None),
        Action::PauseProtocol => ask_app(protocol, this, names.pause_writing.obj(), "pause"),
        Action::ResumeProtocol => ask_app(protocol, this, names.resume_writing.obj(), "resume"),
        Action::PauseTransport => call_transport(this, names.pause_reading.obj()),
        Action::ResumeTransport => call_transport(this, names.resume_reading.obj()),
        Action::TellEof => tell_eof(protocol, this),
        Action::MarkClosed => {
            this.mark_closed();
            Ok(())
        }
        Action::CloseTransport => match this.transport.get() {
            Some(transport) => {
                let close = transport.obj().getattr(names.close.obj())?;
                this.call_soon(close.obj(), &[])
            }
            None => Ok(()),
        },
        Action::ForceClose => {
            this.mark_closed();
            force_close(this, none())
        }
        _ => Ok(()),
    }
}

fn call_transport(this: &Fields, name: Obj<'_>) -> R<()> {
    match this.transport.get() {
        Some(transport) => transport.obj().call_method0(name).map(drop),
        None => Ok(()),
    }
}

fn ask_app(protocol: Obj<'_>, this: &Fields, name: Obj<'_>, what: &str) -> R<()> {
    let Some(app) = this.app.get() else {
        return Ok(());
    };
    match app.obj().call_method0(name) {
        Err(raised) if !raised.is_exit() => {
            let exc = raised.take();
            let message = format!("protocol.{what}_writing() failed");
            while_handling(exc.obj(), || {
                report::tell_handler(protocol, &this.app_transport, exc.obj(), &message)
            })
        }
        result => result.map(drop),
    }
}

fn tell_eof(protocol: Obj<'_>, this: &Fields) -> R<()> {
    let Some(app) = this.app.get() else {
        return Ok(());
    };
    let answer = app.obj().call_method0(state().names.eof_received.obj());
    match answer.and_then(|answer| answer.obj().is_true()) {
        Ok(false) => Ok(()),
        Ok(true) => crate::transport::report::log_warning(
            "returning true from eof_received() has no effect when using ssl",
        ),
        Err(raised) if raised.is_exit() => Err(raised),
        Err(raised) => {
            let exc = raised.take();
            report::fatal(protocol, exc.obj(), "Error calling eof_received()")
        }
    }
}

/// `_wakeup_waiter(exc)`.
pub fn wake(this: &Fields, exc: Option<Obj<'_>>) -> R<()> {
    let names = &state().names;
    let Some(waiter) = this.waiter.get() else {
        return Ok(());
    };
    let cancelled = waiter.obj().call_method0(names.cancelled.obj())?;
    if !cancelled.obj().is_true()? {
        match exc {
            Some(exc) => waiter.obj().call_method1(names.set_exception.obj(), exc)?,
            None => waiter.obj().call_method1(names.set_result.obj(), none())?,
        };
    }
    this.waiter.clear();
    Ok(())
}

// ---- handshake and shutdown ---------------------------------------------------------------------

fn handshake(protocol: Obj<'_>, this: &Fields, step: &mut Step, input: &mut Input<'_>) -> R<()> {
    write::prepare(this);
    input.feed_piece(&this.engine)?;
    loop {
        match this.engine.handshake() {
            Ok(true) => {
                this.with(|tls| tls.handle_handshake(step, true));
                return Ok(());
            }
            Ok(false) if input.feed_piece(&this.engine)? => {}
            Ok(false) => {
                this.with(|tls| tls.handle_handshake(step, false));
                return Ok(());
            }
            Err(raised) if raised.matches(super::engine::ssl()?.error.ptr()) => {
                return handshake_failed(protocol, this, raised.take());
            }
            Err(raised) => return Err(raised),
        }
    }
}

fn handshake_failed(protocol: Obj<'_>, this: &Fields, exc: Ref) -> R<()> {
    let step = this.with(|tls| tls.handle_handshake_failed());
    run(protocol, this, step, &mut Input::default())?;
    let certificate = super::engine::ssl()?.certificate_error.ptr();
    let message = if error::given_matches(exc.obj(), certificate) {
        "SSL handshake failed on verifying the certificate"
    } else {
        "SSL handshake failed"
    };
    report::fatal(protocol, exc.obj(), message)?;
    wake(this, Some(exc.obj()))
}

/// The handshake is done: what it found out becomes extra info.
fn complete(protocol: Obj<'_>, this: &Fields, step: &mut Step) -> R<()> {
    let found = match this.engine.findings() {
        Ok(found) => found,
        Err(raised) if raised.is_ordinary() => {
            // Whatever failed voids the rest, as a failed handshake would.
            while step.unwind() {}
            return handshake_failed(protocol, this, raised.take());
        }
        Err(raised) => return Err(raised),
    };
    if this.debug()? {
        let taken = (now(this)? - this.handshake_start.get()) * 1e3;
        let taken = crate::ffi::call::float(taken)?;
        log_debug("%r: SSL handshake took %.1f ms", &[protocol, taken.obj()])?;
    }
    let names = &state().names;
    let [peercert, cipher, compression] = &found;
    let object = this.engine.object();
    let extra = this.extra.get_or_none();
    for (name, value) in [
        (&names.peercert, peercert),
        (&names.cipher, cipher),
        (&names.compression, compression),
        (&names.ssl_object, &object),
    ] {
        dict_set(extra.obj(), name.obj(), value.obj())?;
    }
    Ok(())
}

fn shutdown(protocol: Obj<'_>, this: &Fields, step: &mut Step, input: &mut Input<'_>) -> R<()> {
    input.feed_piece(&this.engine)?;
    loop {
        match this.engine.shutdown() {
            Ok(true) => {
                this.with(|tls| tls.handle_shutdown(step, true));
                return Ok(());
            }
            Ok(false) if input.feed_piece(&this.engine)? => {}
            Ok(false) => {
                this.with(|tls| tls.handle_shutdown(step, false));
                return Ok(());
            }
            Err(raised) if raised.matches(super::engine::ssl()?.error.ptr()) => {
                let exc = raised.take();
                if this.with(|tls| tls.handle_shutdown_failed()) {
                    cancel_timer(&this.shutdown_timer)?;
                }
                return report::fatal(protocol, exc.obj(), report::ON_TRANSPORT);
            }
            Err(raised) => return Err(raised),
        }
    }
}

/// Whether the transport above counts as closed, or the one below does.
pub fn is_closing(transport: Obj<'_>) -> R<bool> {
    let above = app_fields(transport);
    if above.is_closed.get() {
        return Ok(true);
    }
    let Some(protocol) = above.protocol.get() else {
        return Ok(true);
    };
    let Some(below) = fields(protocol.obj()).transport.get() else {
        return Ok(false);
    };
    let closing = below.obj().call_method0(state().names.is_closing.obj())?;
    closing.obj().is_true()
}
