//! The public methods of a stream transport: what it takes from Python and what it answers.
//!
//! Duty: bind arguments, ask the core or `stream` and `write`, build results. May touch: what they
//! touch. Whoever asks for a size gets the truth: held writes leave first.

#![forbid(unsafe_code)]

use super::base::{Fields, fields};
use super::{stream, write};
use crate::ffi::call::{tuple, uint};
use crate::ffi::object::{boolean, none, none_ref};
use crate::ffi::{Args, Obj, R, Raised, Ref, Signature, builtin};
use crate::state::state;

// ---- what it says about itself ------------------------------------------------------------------

/// What sockets' transports are called, without the module.
pub fn transport_name(this: &Fields) -> &'static str {
    match this.datagrams {
        Some(_) => "DatagramTransport",
        None => "StreamTransport",
    }
}

/// `<StreamTransport fd=7 read=polling write=<idle, bufsize=0>>`; pipes: see `pipe::describe`.
pub fn describe(transport: Obj<'_>) -> R<String> {
    let this = fields(transport);
    if this.is_pipe() {
        return Ok(super::pipe::describe(this));
    }
    write::settle(transport, this)?;
    let fd = this.descriptor.number();
    let mut words = vec![String::from(transport_name(this))];
    let (closing, reads, writes, size) = this.with(|stream| {
        let size = stream.queue().size_bytes();
        (
            stream.is_closing(),
            stream.wants_read(),
            stream.wants_write(),
            size,
        )
    });
    if this.descriptor.is_closed() {
        words.push("closed".into());
    } else if closing {
        words.push("closing".into());
    }
    words.push(format!("fd={fd}"));
    let is_open = this.in_loop(|native| !native.is_closed());
    if is_open.or_else(|raised| {
        drop(raised.take());
        R::Ok(false)
    })? {
        let state = |polls| if polls { "polling" } else { "idle" };
        words.push(format!("read={}", state(reads)));
        words.push(format!("write=<{}, bufsize={size}>", state(writes)));
    }
    Ok(format!("<{}>", words.join(" ")))
}

const GET_EXTRA_INFO: Signature = Signature {
    name: "get_extra_info",
    params: &["name", "default"],
    positional: 2,
    required: 1,
};

pub fn get_extra_info(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    if let Some(own) = state().asyncio.extra_info.replaced(transport)? {
        return args.pass_on(own.obj());
    }
    let [name, default] = args.bind::<2>(&GET_EXTRA_INFO)?;
    let name = name.unwrap_or(none());
    let this = fields(transport);
    let is_socket = !this.is_pipe() && name.equals(state().names.socket.obj())?;
    if is_socket {
        write::settle(transport, this)?;
    }
    if let Some(found) = builtin::dict_get(this.known_extra()?.obj(), name)? {
        return Ok(found);
    }
    if is_socket {
        if let Some(found) = builtin::dict_get(this.full_extra()?.obj(), name)? {
            return Ok(found);
        }
    }
    Ok(default.unwrap_or(none()).to_ref())
}

const SET_PROTOCOL: Signature = Signature {
    name: "set_protocol",
    params: &["protocol"],
    positional: 1,
    required: 1,
};

pub fn set_protocol(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    fields(transport)
        .set_protocol(only(&args, &SET_PROTOCOL)?)
        .map(|()| none_ref())
}

pub fn get_protocol(transport: Obj<'_>) -> R<Ref> {
    Ok(fields(transport).protocol.get_or_none())
}

pub fn is_closing(transport: Obj<'_>) -> R<Ref> {
    Ok(boolean(
        fields(transport).with(|stream| stream.is_closing()),
    ))
}

pub fn is_reading(transport: Obj<'_>) -> R<Ref> {
    Ok(boolean(
        fields(transport).with(|stream| stream.is_reading()),
    ))
}

pub fn can_write_eof(_transport: Obj<'_>) -> R<Ref> {
    Ok(boolean(true))
}

const WRITE: Signature = Signature {
    name: "write",
    params: &["data"],
    positional: 1,
    required: 1,
};

pub fn write(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    write::write(transport, only(&args, &WRITE)?)
}

const WRITELINES: Signature = Signature {
    name: "writelines",
    params: &["list_of_data"],
    positional: 1,
    required: 1,
};

pub fn writelines(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    write::writelines(transport, only(&args, &WRITELINES)?)
}

/// The one argument of a method that has one, by position or name.
#[inline]
pub fn only<'a>(args: &Args<'a>, signature: &Signature) -> R<Obj<'a>> {
    if let ([value], false) = (args.positional(), args.has_named()) {
        return Ok(*value);
    }
    args.bind::<1>(signature)
        .map(|[value]| value.unwrap_or(none()))
}

// ---- flow control -------------------------------------------------------------------------------

pub fn get_write_buffer_size(transport: Obj<'_>) -> R<Ref> {
    let this = fields(transport);
    write::settle(transport, this)?;
    uint(this.with(|stream| stream.queue().size_bytes()) as u64)
}

pub fn get_write_buffer_limits(transport: Obj<'_>) -> R<Ref> {
    let (low, high) = fields(transport).with(|stream| stream.limits());
    tuple(&[uint(low as u64)?.obj(), uint(high as u64)?.obj()])
}

const LIMITS: Signature = Signature {
    name: "set_write_buffer_limits",
    params: &["high", "low"],
    positional: 2,
    required: 0,
};

pub fn set_write_buffer_limits(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let this = fields(transport);
    let [high, low] = args
        .bind::<2>(&LIMITS)?
        .map(|limit| limit.filter(|limit| !limit.is_none()));
    let number = |limit: Option<Obj<'_>>| limit.map(builtin::saturating_i64).transpose();
    let (high_bytes, low_bytes) = (number(high)?, number(low)?);
    let step = match this.with(|stream| stream.handle_limits(high_bytes, low_bytes)) {
        Ok(step) => step,
        Err(error) => {
            let shown = |given: Option<Obj<'_>>, derived: i64| {
                given.map_or_else(|| Ok(derived.to_string()), Obj::repr)
            };
            let high = shown(high, error.high_bytes)?;
            let low = shown(low, error.low_bytes)?;
            return Err(Raised::value_error(&format!(
                "high ({high}) must be >= low ({low}) must be >= 0"
            )));
        }
    };
    stream::run(transport, this, step, none()).map(|()| none_ref())
}
