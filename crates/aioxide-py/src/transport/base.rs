//! A stream transport's fields: what it knows about itself, how it ends.
//!
//! May touch: the fields, the loop it belongs to, and its server. Invariants: `connection_lost` is
//! called at most once, and after it the descriptor is closed, loop, protocol and server are let
//! go; whoever changes the core's interest brings the registration in line before anything else.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::address::Ends;
use super::datagram::{self, Datagrams, HEADER_BYTES, Target};
use super::descriptor::Descriptor;
use super::open::Opening;
use super::seldom::Seldom;
use super::sendfile;
use super::stream::handle_ready;
use crate::event_loop::{self, LoopFields};
use crate::ffi::call::{dict, dict_set};
use crate::ffi::{Obj, PyObject, R, Raised, Ref, Slot, builtin, bytes, context, layout};
use crate::handle::Callback;
use crate::state::state;
use aioxide_core::backend::Interest;
use aioxide_core::slab::Token;
use aioxide_core::stream::{Rules, Stream};

/// Bytes that wait to be written: a `bytes` object, held and not copied.
pub struct Chunk {
    /// The bytes.
    pub data: Ref,
    /// Where a datagram goes, unless to a connected peer; streams have none.
    pub target: Option<Box<Target>>,
}

impl Chunk {
    /// A part of a stream.
    pub fn new(data: Ref) -> Chunk {
        Chunk { data, target: None }
    }
}

impl AsRef<[u8]> for Chunk {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        bytes::slice(self.data.obj()).unwrap_or_default()
    }
}

/// A native loop, kept alive while this is held: for who asks it several things in a row.
pub struct HeldLoop(Ref);

impl std::ops::Deref for HeldLoop {
    type Target = LoopFields;

    #[inline]
    fn deref(&self) -> &LoopFields {
        event_loop::fields(self.0.obj())
    }
}

/// The fields of a stream transport, behind those of its asyncio base.
pub struct Fields {
    /// Whether this is a socket, or an end of a pipe.
    pub rules: Rules,
    /// What a datagram transport has beyond this; `None` for streams and pipes.
    pub datagrams: Option<Box<Datagrams>>,
    pub stream: RefCell<Stream<Chunk>>,
    pub descriptor: Descriptor,
    /// Registration with the loop, while there is interest.
    pub token: Cell<Option<Token>>,
    /// The protocol is a `BufferedProtocol`.
    pub is_buffered: Cell<bool>,
    /// The protocol is our `TlsProtocol`: ciphertext goes there without a buffer of its own.
    pub is_tls: Cell<bool>,
    /// A protocol was set: it is told of the lost connection.
    pub is_connected: Cell<bool>,
    /// `server._attach` was called and `_detach` not yet.
    pub is_attached: Cell<bool>,
    /// Emptied when the connection is lost.
    pub event_loop: Slot,
    /// Emptied when the connection is lost.
    pub protocol: Slot,
    /// Emptied when the connection is lost.
    pub server: Slot,
    /// The server's list that this transport is on, and its place there.
    pub clients: Slot,
    pub client_place: Cell<u32>,
    /// What `get_extra_info` knows; 'socket' joins when somebody asks.
    pub extra: Slot,
    /// What an accepted connection learnt, as long as nobody has asked.
    pub ends: Cell<Option<Ends>>,
    /// The Python socket, if there is one, or the raw file of a pipe. Outlives the connection,
    /// closed.
    pub socket: Slot,
    /// The context given to the constructor: everything runs in it.
    pub context: Slot,
    /// The context in which data is delivered.
    pub read_context: Slot,
    /// The context in which a full queue drains.
    pub write_context: Slot,
    /// What few transports need.
    pub seldom: Seldom,
    /// `__dict__`, the interpreter's.
    pub dict: Cell<*mut PyObject>,
    /// Weak references, the interpreter's.
    pub weakrefs: Cell<*mut PyObject>,
}

static OFFSET: AtomicUsize = AtomicUsize::new(0);

/// Sets where the fields begin: once, when the type is made.
pub fn set_offset(offset: usize) {
    OFFSET.store(offset, Ordering::Relaxed);
}

/// The fields of a stream transport.
#[inline]
pub fn fields<'a>(transport: Obj<'a>) -> &'a Fields {
    let offset = OFFSET.load(Ordering::Relaxed);
    // SAFETY: only instances of the type come here (its own methods, the loop's registrations and
    // what `class::allocate` made), and their fields were written before anybody saw them.
    unsafe { layout::fields(transport.ptr(), offset) }
}

impl Fields {
    /// Fields of a transport that is not open yet.
    pub fn new(rules: Rules) -> Fields {
        Fields {
            rules,
            datagrams: None,
            stream: RefCell::new(Stream::new(rules)),
            descriptor: Descriptor::default(),
            token: Cell::new(None),
            is_buffered: Cell::new(false),
            is_tls: Cell::new(false),
            is_connected: Cell::new(false),
            is_attached: Cell::new(false),
            event_loop: Slot::empty(),
            protocol: Slot::empty(),
            server: Slot::empty(),
            clients: Slot::empty(),
            client_place: Cell::new(0),
            extra: Slot::empty(),
            ends: Cell::new(None),
            socket: Slot::empty(),
            context: Slot::empty(),
            read_context: Slot::empty(),
            write_context: Slot::empty(),
            seldom: Seldom::default(),
            dict: Cell::new(std::ptr::null_mut()),
            weakrefs: Cell::new(std::ptr::null_mut()),
        }
    }

    /// The same for a datagram transport.
    pub fn of_datagrams() -> Fields {
        Fields {
            datagrams: Some(Box::new(Datagrams::new())),
            stream: RefCell::new(Stream::of_datagrams(HEADER_BYTES)),
            ..Fields::new(Rules::Socket)
        }
    }

    /// Runs `body` on the core's state. `body` calls no Python and drops no chunk.
    #[inline]
    pub fn with<T>(&self, body: impl FnOnce(&mut Stream<Chunk>) -> T) -> T {
        body(&mut self.stream.borrow_mut())
    }

    /// Runs `body` on the native loop; RuntimeError where there is none (any more).
    #[inline]
    pub fn in_loop<T>(&self, body: impl FnOnce(&LoopFields) -> T) -> R<T> {
        let event_loop = self.event_loop.get();
        match event_loop
            .as_ref()
            .and_then(|event_loop| event_loop::native(event_loop.obj()))
        {
            Some(native) => Ok(body(native)),
            None => Err(Raised::runtime("the transport has no event loop")),
        }
    }

    /// The native loop; RuntimeError where there is none (any more).
    #[inline]
    pub fn hold_loop(&self) -> R<HeldLoop> {
        // Only native loops come into the field.
        match self.event_loop.get() {
            Some(event_loop) => Ok(HeldLoop(event_loop)),
            None => Err(Raised::runtime("the transport has no event loop")),
        }
    }

    /// Whether the loop is in debug mode; false where there is none.
    pub fn debug(&self) -> bool {
        match self.event_loop.get() {
            Some(event_loop) => event_loop::native(event_loop.obj()).is_some_and(LoopFields::debug),
            None => false,
        }
    }

    /// Whether this is an end of a pipe.
    #[inline]
    pub fn is_pipe(&self) -> bool {
        self.rules != Rules::Socket
    }

    /// The number of the loop's turn, or `None` while it does not run.
    #[inline]
    pub fn turn(&self) -> Option<u64> {
        let event_loop = self.event_loop.get()?;
        let native = event_loop::native(event_loop.obj())?;
        native.is_in_turn().then(|| native.turn_number())
    }

    /// Stores loop, server, context and extra info; returns the latter.
    pub fn begin(&self, opening: &Opening<'_>) -> R<Ref> {
        self.begin_bare(opening)?;
        let extra = opening
            .extra
            .map_or_else(dict, |extra| Ok(extra.to_ref()))?;
        let socket = state().names.socket.obj();
        if !self.is_pipe() && builtin::dict_get(extra.obj(), socket)?.is_some() {
            // Ours is another one, made when somebody asks.
            builtin::dict_remove(extra.obj(), socket)?;
        }
        self.extra.set(Some(extra.clone()));
        Ok(extra)
    }

    /// Stores loop, server and context.
    pub fn begin_bare(&self, opening: &Opening<'_>) -> R<()> {
        if !self.event_loop.is_empty() {
            return Err(Raised::runtime("the transport is open already"));
        }
        if event_loop::native(opening.event_loop).is_none() {
            return Err(Raised::type_error("loop must be an aioxide loop"));
        }
        self.event_loop.set(Some(opening.event_loop.to_ref()));
        self.server.set(opening.server.map(Obj::to_ref));
        self.context.set(opening.context.map(Obj::to_ref));
        Ok(())
    }

    /// `set_protocol()`.
    pub fn set_protocol(&self, protocol: Obj<'_>) -> R<()> {
        let class = state().asyncio.buffered_protocol_class.obj();
        let is_buffered = !self.is_pipe() && protocol.isinstance(class)?;
        self.is_buffered.set(is_buffered);
        self.is_tls
            .set(is_buffered && super::tls::is_native(protocol));
        self.is_connected.set(true);
        self.forget_process();
        self.protocol.set(Some(protocol.to_ref()));
        Ok(())
    }

    fn forget_process(&self) {
        if let Some(known) = self.seldom.known() {
            known.process.clear();
        }
    }

    /// `server._attach`.
    pub fn attach_to(&self, transport: Obj<'_>, server: Obj<'_>) -> R<()> {
        let name = state().names._attach.obj();
        if takes_transport(server)? {
            server.call_method1(name, transport)?;
        } else {
            server.call_method0(name)?;
        }
        self.is_attached.set(true);
        Ok(())
    }

    /// `server._detach`, once, if the server was attached to.
    pub fn detach_from_server(&self, transport: Obj<'_>) -> R<()> {
        let server = self.server.take();
        let Some(server) = server.filter(|_| self.is_attached.replace(false)) else {
            return Ok(());
        };
        let name = state().names._detach.obj();
        if takes_transport(server.obj())? {
            server.obj().call_method1(name, transport).map(drop)
        } else {
            server.obj().call_method0(name).map(drop)
        }
    }

    /// The context for something registered now: the given one, or a copy of the current one.
    fn new_context(&self) -> R<Ref> {
        self.context.get().map_or_else(context::copy_current, Ok)
    }

    /// Something leaves: has the loop poll in its next turn.
    #[inline]
    pub fn poll_next_turn(&self) {
        event_loop::poll_next_turn(&self.event_loop);
    }

    /// `loop.call_soon(function, *args)` in the transport's context.
    pub fn call_soon(&self, function: Obj<'_>, args: &[Obj<'_>]) -> R<()> {
        let context = self.context.get();
        let callback = Callback {
            function,
            args,
            context: context.as_ref().map(Ref::obj),
        };
        self.in_loop(|native| native.call_soon(&callback))?
            .map(drop)
    }

    /// Brings the registration with the loop in line with the core's interest.
    pub fn sync_interest(&self, transport: Obj<'_>) -> R<()> {
        if self.is_pipe() {
            return super::pipe::sync_watch(transport, self);
        }
        let (reads, writes) = self.with(|stream| (stream.wants_read(), stream.wants_write()));
        for (wanted, slot) in [(reads, &self.read_context), (writes, &self.write_context)] {
            match (wanted, slot.is_empty()) {
                (true, true) => slot.set(Some(self.new_context()?)),
                (false, false) => slot.clear(),
                _ => {}
            }
        }
        let mut interest = Interest::NONE;
        if reads {
            interest = interest.with(Interest::READABLE);
        }
        if writes {
            interest = interest.with(Interest::WRITABLE);
        }
        self.register(transport, interest)?;
        if reads && self.datagrams.is_some() {
            // After a pause, what was received before it comes first.
            datagram::go_on_later(self)?;
        }
        Ok(())
    }

    fn register(&self, transport: Obj<'_>, interest: Interest) -> R<()> {
        let (token, fd) = (self.token.get(), self.descriptor.number());
        let on_ready = match self.datagrams {
            Some(_) => datagram::handle_ready,
            None => handle_ready,
        };
        let registered = self.in_loop(|native| match token {
            _ if native.is_closed() && interest.is_none() => Ok(None),
            None if interest.is_none() => Ok(None),
            None => {
                native.check_open()?;
                native
                    .register_native(fd, interest, transport.to_ref(), on_ready)
                    .map(Some)
            }
            Some(token) if interest.is_none() => native.deregister_native(token).map(|()| None),
            Some(token) => native.rearm_native(token, interest).map(|()| Some(token)),
        })??;
        self.token.set(registered);
        Ok(())
    }

    /// `_call_connection_lost(exc)`: tells the protocol, then closes and lets everything go.
    pub fn lose(&self, transport: Obj<'_>, exc: Obj<'_>) -> R<()> {
        let told = match self.protocol.get().filter(|_| self.is_connected.get()) {
            Some(protocol) => protocol
                .obj()
                .call_method1(state().names.connection_lost.obj(), exc)
                .map(drop),
            None => Ok(()),
        };
        // Python's `finally`: the first failure is what comes out, after all was done.
        let error = told.err().map(Raised::take);
        let steps: [&dyn Fn() -> R<()>; 4] = [
            &|| self.let_go(transport),
            &|| self.detach_from_server(transport),
            &|| self.fail_empty_waiter(),
            &|| match self.seldom.known().and_then(|known| known.sender.take()) {
                Some(sender) => sendfile::handle_lost(sender.obj()),
                None => Ok(()),
            },
        ];
        let mut first = error;
        for step in steps {
            if let Err(raised) = step() {
                let raised = raised.take();
                first.get_or_insert(raised);
            }
        }
        first.map_or(Ok(()), |exc| Err(Raised::throw(exc)))
    }

    /// Closes the descriptor and drops what the transport refers to.
    fn let_go(&self, transport: Obj<'_>) -> R<()> {
        self.forget(transport);
        self.poll_next_turn();
        self.event_loop.clear();
        for slot in [
            &self.read_context,
            &self.write_context,
            &self.context,
            &self.protocol,
        ] {
            slot.clear();
        }
        self.forget_process();
        if let Some(own) = &self.datagrams {
            own.let_go();
        }
        self.close_descriptor()
    }

    /// Closes the descriptor, once.
    pub fn close_descriptor(&self) -> R<()> {
        self.descriptor.close(match self.is_pipe() {
            true => &self.seldom.make().pipe,
            false => &self.socket,
        })
    }

    /// Leaves the loop's table of descriptors: the transport is about to die.
    pub fn forget(&self, transport: Obj<'_>) {
        if let Some(event_loop) = self.event_loop.get() {
            if let Some(native) = event_loop::native(event_loop.obj()) {
                native
                    .transports()
                    .detach(self.descriptor.number(), transport);
            }
        }
    }

    fn fail_empty_waiter(&self) -> R<()> {
        let Some(waiter) = self.seldom.empty_waiter() else {
            return Ok(());
        };
        if waiter
            .obj()
            .call_method0(state().names.done.obj())?
            .obj()
            .is_true()?
        {
            return Ok(());
        }
        let message = crate::ffi::call::string("Connection is closed by peer")?;
        let exc = builtin::connection_error().call1(message.obj())?;
        waiter
            .obj()
            .getattr_str(c"set_exception")?
            .obj()
            .call1(exc.obj())
            .map(drop)
    }

    /// Extra info as it was given or learnt, without 'socket'.
    pub fn known_extra(&self) -> R<Ref> {
        if let Some(extra) = self.extra.get() {
            return Ok(extra);
        }
        let extra = match self.ends.take() {
            Some(ends) => ends.into_extra()?,
            None => dict()?,
        };
        self.extra.set(Some(extra.clone()));
        Ok(extra)
    }

    /// Extra info with 'socket' in it.
    pub fn full_extra(&self) -> R<Ref> {
        let extra = self.known_extra()?;
        if self.is_pipe() {
            return Ok(extra);
        }
        let name = state().names.socket.obj();
        let known = builtin::dict_get(extra.obj(), name)?;
        if known.is_none() && self.descriptor.number() >= 0 {
            let socket = self.descriptor.socket(&self.socket)?;
            let asyncio = &state().asyncio;
            let class = asyncio.shown_socket.get();
            let shown = class.unwrap_or(&asyncio.transport_socket).obj();
            dict_set(extra.obj(), name, shown.call1(socket.obj())?.obj())?;
        }
        Ok(extra)
    }
}

/// Whether `server._attach` takes the transport: always from 3.13 on; before, where a subclass
/// brings its own.
fn takes_transport(server: Obj<'_>) -> R<bool> {
    if cfg!(Py_3_13) {
        return Ok(true);
    }
    let name = state().names._attach.obj();
    let stock = crate::ffi::call::import(c"asyncio.base_events")?
        .obj()
        .getattr_str(c"Server")?;
    let of_stock = stock.obj().getattr(name)?;
    let of_class = server.type_obj().getattr(name)?;
    Ok(!of_class.obj().is(of_stock.obj()))
}
