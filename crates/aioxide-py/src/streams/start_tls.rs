//! `StreamWriter.start_tls()`: the connection goes on over TLS.
//!
//! May touch: the writer's transport, and what its protocol is told.
#![forbid(unsafe_code)]

use super::life::own;
use super::parts::put;
use super::writer::{BEGIN, KIND_DRAIN, OWNER, Writer, is_plain};
use crate::ffi::call::{dict, dict_set, string, tuple};
use crate::ffi::object::{boolean, none, none_ref};
use crate::ffi::{Args, Obj, R, Ref, Signature};
use crate::state::state;
use crate::sync::coroutine::{self, Frame, Kind, Next, Resumed};
use crate::sync::function::{Call, Function};

/// The context, the other arguments and the protocol.
const CONTEXT: usize = 1;
const ARGUMENTS: usize = 2;
const PROTOCOL: usize = 3;

/// `start_tls(sslcontext, *, ...)`.
pub static START_TLS: Function = Function {
    name: "start_tls",
    qualname: "StreamWriter.start_tls",
    signature: "(self, sslcontext, *, server_hostname=None, ssl_handshake_timeout=None, \
                ssl_shutdown_timeout=None)",
    doc: "Upgrades the connection to TLS.",
    call: Call::Method(start_tls),
};

/// The same before 3.12.
pub static START_TLS_BEFORE: Function = Function {
    name: "start_tls",
    qualname: "StreamWriter.start_tls",
    signature: "(self, sslcontext, *, server_hostname=None, ssl_handshake_timeout=None)",
    doc: "Upgrades the connection to TLS.",
    call: Call::Method(start_tls),
};

static KIND_START_TLS: Kind = Kind {
    name: "start_tls",
    qualname: "StreamWriter.start_tls",
    body: start_tls_body,
    quick: None,
};

const START_TLS_OPTIONS: [&str; 4] = [
    "sslcontext",
    "server_hostname",
    "ssl_handshake_timeout",
    "ssl_shutdown_timeout",
];

fn start_tls(writer: Obj<'_>, args: Args<'_>) -> R<Ref> {
    const SIGNATURE: Signature = Signature {
        name: "StreamWriter.start_tls",
        params: &START_TLS_OPTIONS,
        positional: 1,
        required: 1,
    };
    const BEFORE: Signature = Signature {
        name: "StreamWriter.start_tls",
        params: &[
            START_TLS_OPTIONS[0],
            START_TLS_OPTIONS[1],
            START_TLS_OPTIONS[2],
        ],
        positional: 1,
        required: 1,
    };
    let takes_shutdown = state().streams.quirks.tls_takes_shutdown_timeout;
    let [context, name, handshake, shutdown] = if takes_shutdown {
        args.bind_python::<4>(&SIGNATURE)?
    } else {
        let [context, name, handshake] = args.bind_python::<3>(&BEFORE)?;
        [context, name, handshake, None]
    };
    let kwargs = dict()?;
    for (key, value) in START_TLS_OPTIONS[1..]
        .iter()
        .zip([name, handshake, shutdown])
    {
        if takes_shutdown || *key != "ssl_shutdown_timeout" {
            dict_set(kwargs.obj(), string(key)?.obj(), value.unwrap_or(none()))?;
        }
    }
    let locals = [
        Some(writer.to_ref()),
        context.map(Obj::to_ref),
        Some(kwargs),
    ];
    coroutine::create(&KIND_START_TLS, locals)
}

fn start_tls_body(frame: &Frame, resumed: Resumed) -> R<Next> {
    let writer = frame.slots[OWNER].get_or_none();
    let this: &Writer = own(writer.obj());
    let names = &state().names;
    let kwargs = frame.slots[ARGUMENTS].get_or_none();
    match frame.stage.get() {
        BEGIN => {
            let protocol = this.protocol.get_or_none();
            let callback = protocol.obj().getattr(names._client_connected_cb.obj())?;
            let server_side = boolean(!callback.obj().is_none());
            dict_set(
                kwargs.obj(),
                string("server_side")?.obj(),
                server_side.obj(),
            )?;
            frame.slots[PROTOCOL].set(Some(protocol));
            frame.stage.set(1);
            let drain = if is_plain(writer.obj()) {
                coroutine::create(&KIND_DRAIN, [Some(writer.clone())])?
            } else {
                writer.obj().call_method0(names.drain.obj())?
            };
            Ok(Next::Await(drain))
        }
        1 => {
            drop(resumed.value()?);
            let (transport, protocol) = (
                this.transport.get_or_none(),
                frame.slots[PROTOCOL].get_or_none(),
            );
            let context = frame.slots[CONTEXT].get_or_none();
            let args = tuple(&[transport.obj(), protocol.obj(), context.obj()])?;
            let event_loop = this.event_loop.get_or_none();
            let start = event_loop.obj().getattr_str(c"start_tls")?;
            frame.stage.set(2);
            let started = start.obj().call_dict(args.obj(), Some(kwargs.obj()))?;
            Ok(Next::Await(started))
        }
        _ => {
            let transport = resumed.value()?;
            put(&this.transport, transport.obj());
            let protocol = frame.slots[PROTOCOL].get_or_none();
            if state().streams.quirks.keeps_writer {
                let name = names._replace_writer.obj();
                protocol.obj().call_method1(name, writer.obj())?;
            } else {
                let name = names._replace_transport.obj();
                protocol.obj().call_method1(name, transport.obj())?;
            }
            Ok(Next::Return(none_ref()))
        }
    }
}
