//! The fields of `TlsProtocol` and `SSLTransport`, and how a connection begins.
//!
//! May touch: the fields, and the context that makes the session. Invariants: the protocol holds
//! transports and protocol above only while connected, so that a closed connection is no circle;
//! the transport above holds the protocol for good.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use aioxide_core::backend::sys::SocketAddress;
use aioxide_core::stream::Rules;
use aioxide_core::tls::Tls;

use super::engine::Engine;
use super::{protocol, transport};
use crate::event_loop;
use crate::ffi::call::{dict, dict_set, float};
use crate::ffi::object::none;
use crate::ffi::{Obj, PyObject, R, Raised, Ref, Slot, bytes, layout};
use crate::state::state;
use crate::transport::base;
use crate::transport::descriptor::SocketKind;
use crate::transport::open::{self, Opening};

/// Seconds until a handshake is given up. *Source*: asyncio `constants`.
const HANDSHAKE_SECONDS: f64 = 60.0;

/// Seconds until a shutdown is given up. *Source*: asyncio `constants`.
const SHUTDOWN_SECONDS: f64 = 30.0;

/// Plaintext that waits to be encrypted: a `bytes` object, held and not copied.
pub struct Chunk(pub Ref);

impl AsRef<[u8]> for Chunk {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        bytes::slice(self.0.obj()).unwrap_or_default()
    }
}

/// How the application's protocol takes data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Taker {
    /// By `data_received()`.
    #[default]
    Data,
    /// By `get_buffer()` and `buffer_updated()`.
    Buffer,
    /// It is a `TlsProtocol`: TLS in TLS.
    Tls,
}

/// The fields of a TLS protocol, behind those of `asyncio.BufferedProtocol`.
pub struct Fields {
    pub tls: RefCell<Tls<Chunk>>,
    pub engine: Engine,
    pub event_loop: Slot,
    /// The protocol above; emptied when the connection is lost.
    pub app: Slot,
    pub taker: Cell<Taker>,
    /// The transport above; emptied when the connection is lost.
    pub app_transport: Slot,
    pub had_app_transport: Cell<bool>,
    /// The transport below, between `connection_made()` and `connection_lost()`.
    pub transport: Slot,
    /// The transport below is a native stream.
    pub is_over_stream: Cell<bool>,
    /// A future that is done with the handshake.
    pub waiter: Slot,
    /// What `get_extra_info` knows beyond the transport below.
    pub extra: Slot,
    /// The `SSLContext`.
    pub context: Slot,
    pub is_server: Cell<bool>,
    pub server_hostname: Slot,
    pub handshake_seconds: Slot,
    pub shutdown_seconds: Slot,
    pub handshake_timer: Slot,
    pub shutdown_timer: Slot,
    /// Loop time, in debug mode.
    pub handshake_start: Cell<f64>,
    /// Low and high water of writes as they were set, where they are no plain ints.
    pub write_limits: Slot,
    /// The same of reads.
    pub read_limits: Slot,
    /// What `get_buffer()` lends to transports of other kinds.
    pub lent: Slot,
    pub dict: Cell<*mut PyObject>,
    pub weakrefs: Cell<*mut PyObject>,
}

/// The fields of a TLS transport, behind those of `asyncio.Transport`.
#[derive(Default)]
pub struct AppFields {
    pub event_loop: Slot,
    /// The `TlsProtocol`.
    pub protocol: Slot,
    /// Closing, or the connection is lost: nothing to warn about.
    pub is_closed: Cell<bool>,
    /// `close()` was called on the closed transport: once the connection is lost, whoever keeps the
    /// transport is to keep neither session nor context, as with asyncio.
    pub is_closed_twice: Cell<bool>,
    pub dict: Cell<*mut PyObject>,
    pub weakrefs: Cell<*mut PyObject>,
}

impl AppFields {
    /// `close()` of a closed transport: after the connection's loss it lets go at once.
    pub fn close_again(&self) {
        self.is_closed_twice.set(true);
        let is_lost = |below: &Ref| fields(below.obj()).app_transport.is_empty();
        if self.protocol.get().as_ref().is_some_and(is_lost) {
            self.protocol.clear();
        }
    }
}

static OFFSET: AtomicUsize = AtomicUsize::new(0);
static APP_OFFSET: AtomicUsize = AtomicUsize::new(0);

/// Sets where the protocol's fields begin: once, when the type is made.
pub fn set_offset(offset: usize) {
    OFFSET.store(offset, Ordering::Relaxed);
}

/// The same for the transport.
pub fn set_app_offset(offset: usize) {
    APP_OFFSET.store(offset, Ordering::Relaxed);
}

/// The fields of a TLS protocol.
#[inline]
pub fn fields<'a>(protocol: Obj<'a>) -> &'a Fields {
    let offset = OFFSET.load(Ordering::Relaxed);
    // SAFETY: only instances of the type come here (its own methods, what `protocol::allocate` made
    // and what passed `protocol::is_native`), and their fields were written before anybody saw
    // them.
    unsafe { layout::fields(protocol.ptr(), offset) }
}

/// The fields of a TLS transport.
#[inline]
pub fn app_fields<'a>(transport: Obj<'a>) -> &'a AppFields {
    let offset = APP_OFFSET.load(Ordering::Relaxed);
    // SAFETY: as above, by `transport`.
    unsafe { layout::fields(transport.ptr(), offset) }
}

/// What a connection is made of.
pub struct Making<'a> {
    pub event_loop: Obj<'a>,
    pub app: Obj<'a>,
    /// The `SSLContext`; a false one means a default for clients.
    pub context: Obj<'a>,
    pub waiter: Option<Obj<'a>>,
    pub is_server: bool,
    pub server_hostname: Option<Obj<'a>>,
    /// The protocol above is yet to be told of its connection.
    pub tells_made: bool,
    pub handshake_seconds: Option<Obj<'a>>,
    pub shutdown_seconds: Option<Obj<'a>>,
}

/// A new TLS protocol, not connected yet.
pub fn create(making: &Making<'_>) -> R<Ref> {
    let class = state().types.tls_protocol.obj();
    let object = protocol::allocate(class)?;
    begin(object.obj(), making)?;
    Ok(object)
}

/// `__init__`.
pub fn begin(protocol: Obj<'_>, making: &Making<'_>) -> R<()> {
    let this = fields(protocol);
    let ssl = super::engine::ssl()?;
    let handshake = seconds(making.handshake_seconds, "handshake", HANDSHAKE_SECONDS)?;
    let shutdown = seconds(making.shutdown_seconds, "shutdown", SHUTDOWN_SECONDS)?;
    let context = if making.context.is_true()? {
        making.context.to_ref()
    } else if making.is_server {
        return Err(Raised::value_error(
            "Server side SSL needs a valid SSLContext",
        ));
    } else {
        let context = ssl.module.obj().getattr_str(c"create_default_context")?;
        let context = context.obj().call0()?;
        let unnamed = match making.server_hostname {
            Some(name) => !name.is_true()?,
            None => true,
        };
        if unnamed {
            let check = crate::ffi::call::interned(c"check_hostname")?;
            let off = crate::ffi::object::boolean(false);
            context.obj().setattr(check.obj(), off.obj())?;
        }
        context
    };
    let hostname = match making.server_hostname {
        Some(name) if !making.is_server && name.is_true()? => Some(name.to_ref()),
        _ => None,
    };
    let extra = dict()?;
    dict_set(extra.obj(), state().names.sslcontext.obj(), context.obj())?;
    this.tls.replace(Tls::new(!making.tells_made));
    this.extra.set(Some(extra));
    this.waiter.set(making.waiter.map(Obj::to_ref));
    this.event_loop.set(Some(making.event_loop.to_ref()));
    this.handshake_seconds.set(Some(handshake));
    this.shutdown_seconds.set(Some(shutdown));
    this.is_server.set(making.is_server);
    this.set_app(making.app)?;
    let name = hostname.as_ref().map_or_else(none, Ref::obj);
    this.engine.open(context.obj(), making.is_server, name)?;
    this.server_hostname.set(hostname);
    this.context.set(Some(context));
    this.app_transport(protocol).map(drop)
}

/// A limit as given, or its default.
fn seconds(given: Option<Obj<'_>>, what: &str, default: f64) -> R<Ref> {
    let Some(given) = given else {
        return float(default);
    };
    if given.is_at_most(crate::ffi::call::int(0)?.obj())? {
        let shown = crate::ffi::call::text(given.str()?.obj())?;
        return Err(Raised::value_error(&format!(
            "ssl_{what}_timeout should be a positive number, got {shown}"
        )));
    }
    Ok(given.to_ref())
}

impl Fields {
    /// Fields of a protocol that is not begun.
    pub fn new() -> Fields {
        Fields {
            tls: RefCell::new(Tls::new(false)),
            engine: Engine::default(),
            event_loop: Slot::empty(),
            app: Slot::empty(),
            taker: Cell::default(),
            app_transport: Slot::empty(),
            had_app_transport: Cell::new(false),
            transport: Slot::empty(),
            is_over_stream: Cell::new(false),
            waiter: Slot::empty(),
            extra: Slot::empty(),
            context: Slot::empty(),
            is_server: Cell::new(false),
            server_hostname: Slot::empty(),
            handshake_seconds: Slot::empty(),
            shutdown_seconds: Slot::empty(),
            handshake_timer: Slot::empty(),
            shutdown_timer: Slot::empty(),
            handshake_start: Cell::new(0.0),
            write_limits: Slot::empty(),
            read_limits: Slot::empty(),
            lent: Slot::empty(),
            dict: Cell::new(std::ptr::null_mut()),
            weakrefs: Cell::new(std::ptr::null_mut()),
        }
    }

    /// The fields that hold objects, for the collector.
    pub fn slots(&self) -> [&Slot; 15] {
        [
            &self.event_loop,
            &self.app,
            &self.app_transport,
            &self.transport,
            &self.waiter,
            &self.extra,
            &self.context,
            &self.server_hostname,
            &self.handshake_seconds,
            &self.shutdown_seconds,
            &self.handshake_timer,
            &self.shutdown_timer,
            &self.write_limits,
            &self.read_limits,
            &self.lent,
        ]
    }

    /// Runs `body` on the core's state. `body` calls no Python and drops no chunk.
    #[inline]
    pub fn with<T>(&self, body: impl FnOnce(&mut Tls<Chunk>) -> T) -> T {
        body(&mut self.tls.borrow_mut())
    }

    /// Whether the loop is in debug mode.
    pub fn debug(&self) -> R<bool> {
        event_loop::debug_of(self.event_loop.get_or_none().obj())
    }

    /// `_set_app_protocol()`.
    pub fn set_app(&self, app: Obj<'_>) -> R<()> {
        let buffered = state().asyncio.buffered_protocol_class.obj();
        self.taker.set(if protocol::is_native(app) {
            Taker::Tls
        } else if app.isinstance(buffered)? {
            Taker::Buffer
        } else {
            Taker::Data
        });
        self.app.set(Some(app.to_ref()));
        Ok(())
    }

    /// The transport above, made at the first call.
    pub fn app_transport(&self, protocol: Obj<'_>) -> R<Ref> {
        if let Some(made) = self.app_transport.get() {
            return Ok(made);
        }
        if self.had_app_transport.replace(true) {
            return Err(Raised::runtime("the connection is lost"));
        }
        let made = transport::create(self.event_loop.get_or_none().obj(), protocol)?;
        self.app_transport.set(Some(made.clone()));
        Ok(made)
    }

    /// The transport above counts as closed: its end earns no warning.
    pub fn mark_closed(&self) {
        if let Some(above) = self.app_transport.get() {
            app_fields(above.obj()).is_closed.set(true);
        }
    }

    /// The connection is lost: the transport above is closed, and lets go if it is to.
    pub fn lose_app_transport(&self) {
        self.mark_closed();
        if let Some(above) = self.app_transport.take() {
            let above = app_fields(above.obj());
            if above.is_closed_twice.get() {
                above.protocol.clear();
            }
        }
    }

    /// `loop.call_soon(function, *args)`.
    pub fn call_soon(&self, function: Obj<'_>, args: &[Obj<'_>]) -> R<()> {
        let event_loop = self.event_loop.get_or_none();
        let mut values = vec![event_loop.obj(), function];
        values.extend(args);
        let name = state().names.call_soon.obj();
        event_loop.obj().call_method(name, &values).map(drop)
    }
}

/// TLS over a connection that the loop accepted. The order of what happens is asyncio's; nobody
/// waits for the handshake.
pub fn accept(
    fd: OwnedFd,
    kind: SocketKind,
    peer: &SocketAddress,
    making: &Making<'_>,
    opening: &Opening<'_>,
) -> R<()> {
    let made = create(making)?;
    let opening = Opening {
        protocol: made.obj(),
        ..*opening
    };
    let class = state().types.stream_transport.obj();
    let fields_below = base::Fields::new(Rules::Socket);
    let stream = crate::transport::class::allocate(class, fields_below)?;
    open::open_accepted(stream.obj(), fd, kind, peer, &opening).inspect_err(|_| {
        fields(made.obj()).mark_closed();
        open::discard(stream.obj());
    })
}
