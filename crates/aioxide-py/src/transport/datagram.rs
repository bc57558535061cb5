//! Datagram transports: opening, receiving, and what they know beyond a stream's fields.
//!
//! Duty: receive what is there and deliver it one by one, in asyncio's order. May touch: the
//! fields, the loop's receive batch, the protocol. `datagram_send` sends, `datagram_class` makes
//! the Python type; closing, losing and reporting are every transport's.
//!
//! Several datagrams come with one system call. asyncio's loop delivers one for each turn, so that
//! a task woken by the first runs before the second is delivered. That order is kept: delivery goes
//! on at once only while nothing was scheduled meanwhile; otherwise the rest is *held*, and goes on
//! behind what was scheduled. Nothing is delivered while paused, or after closing; what is held
//! then goes with the transport.
//!
//! Invariants: datagrams are delivered in the order of their arrival, each once; no more is
//! received while some are held; a turn delivers at most one batch; the place of the batch is taken
//! out of the loop while Python runs, not borrowed.
//!
//! *Source*: asyncio `selector_events._SelectorDatagramTransport`.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;

use aioxide_core::backend::Readiness;
use aioxide_core::backend::sys::{RECEIVE_BATCH_MAX, SocketAddress};

use super::address;
use super::base::{Fields, HeldLoop, fields};
use super::datagram_send::transmit;
use super::descriptor::SocketKind;
use super::open::{Opening, open_socket};
use super::report::{self, fatal_callback};
use super::stream::run_in;
use crate::ffi::object::{none, none_ref};
use crate::ffi::{Obj, R, Raised, Ref, Slot, builtin, bytes, socket};
use crate::state::state;

/// What asyncio counts for a datagram's header: from 3.13 on.
pub const HEADER_BYTES: u32 = if cfg!(Py_3_13) { 8 } else { 0 };

/// The least room of a batch: one more than the usual one tells whether there is more to come.
const ROOM_MIN: usize = 2;

/// How datagrams are moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// By methods of the socket object: another family, or a class with methods of its own.
    #[default]
    Methods,
    /// IPv4 or IPv6: several at once.
    Internet,
    /// Unix: a datagram may be larger than a place of the batch, so they come one by one.
    Unix,
}

/// Where a datagram that waits is to go.
pub struct Target {
    /// The address as Python has it.
    pub object: Ref,
    /// The kernel's form; `None` where the socket object is to send.
    pub address: Option<SocketAddress>,
}

/// What a datagram transport knows beyond a stream's fields.
pub struct Datagrams {
    route: Cell<Route>,
    /// The socket's family.
    pub family: Cell<i32>,
    /// `_address`: the remote address that the transport was made with.
    pub remote: Slot,
    /// That address is true, as Python has it.
    pub has_remote: Cell<bool>,
    /// The socket is connected, so datagrams are sent without an address.
    pub has_peer: Cell<bool>,
    /// The last address that was converted, in both forms: most come again at once.
    known: RefCell<Option<SocketAddress>>,
    known_object: Slot,
    /// Received and not yet delivered.
    held: RefCell<VecDeque<(Ref, Ref)>>,
    /// How many datagrams the next call may receive.
    room: Cell<usize>,
    /// The last turn that delivered.
    delivery_turn: Cell<Option<u64>>,
}

impl Datagrams {
    /// State of a transport that is not open yet.
    pub fn new() -> Datagrams {
        Datagrams {
            route: Cell::default(),
            family: Cell::new(libc::AF_UNSPEC),
            remote: Slot::empty(),
            has_remote: Cell::new(false),
            has_peer: Cell::new(false),
            known: RefCell::new(None),
            known_object: Slot::empty(),
            held: RefCell::default(),
            room: Cell::new(ROOM_MIN),
            delivery_turn: Cell::new(None),
        }
    }

    /// The slots, for the collector.
    pub fn slots(&self) -> [&Slot; 2] {
        [&self.remote, &self.known_object]
    }

    /// Drops what a lost transport has no use for, what was not delivered among it.
    pub fn let_go(&self) {
        let held = std::mem::take(&mut *self.held.borrow_mut());
        drop(held);
        self.known.replace(None);
        self.known_object.clear();
    }

    /// Whether the kernel is asked directly.
    pub fn is_native(&self) -> bool {
        self.route.get() != Route::Methods
    }

    /// An address as Python has it.
    fn to_python(&self, address: &SocketAddress) -> R<Ref> {
        let is_known = match &*self.known.borrow() {
            Some(known) => known.as_bytes() == address.as_bytes(),
            None => false,
        };
        if is_known {
            return Ok(self.known_object.get_or_none());
        }
        let Some(object) = address::to_python(address)? else {
            // A sender without a name has no address at all.
            return Ok(none_ref());
        };
        self.remember(*address, object.obj());
        Ok(object)
    }

    /// An address as the kernel has it; `None` where the socket object must be asked.
    pub fn to_kernel(&self, object: Obj<'_>) -> R<Option<SocketAddress>> {
        if self.known_object.ptr() == object.ptr() {
            return Ok(*self.known.borrow());
        }
        let Some(address) = address::from_python(self.family.get(), object)? else {
            return Ok(None);
        };
        self.remember(address, object);
        Ok(Some(address))
    }

    fn remember(&self, address: SocketAddress, object: Obj<'_>) {
        // Without its other form while that is exchanged, which may run anything.
        self.known.replace(None);
        self.known_object.set(Some(object.to_ref()));
        self.known.replace(Some(address));
    }
}

/// Opens `transport` on a datagram socket, sending to `remote` if that is given.
pub fn open(transport: Obj<'_>, sock: Obj<'_>, remote: Obj<'_>, opening: &Opening<'_>) -> R<()> {
    let this = fields(transport);
    let own = this.datagrams()?;
    own.has_remote.set(remote.is_true()?);
    own.remote.set(Some(remote.to_ref()));
    open_socket(transport, sock, opening)?;
    let peername = builtin::dict_get(this.full_extra()?.obj(), state().names.peername.obj())?;
    let has_peer = peername.map_or(Ok(false), |name| name.obj().is_true())?;
    own.has_peer.set(has_peer);
    if socket::has_stock_methods(sock)? && this.descriptor.is_visible() {
        let family = SocketKind::of(sock)?.family;
        own.family.set(family);
        own.route.set(match family {
            libc::AF_INET | libc::AF_INET6 => Route::Internet,
            libc::AF_UNIX => Route::Unix,
            _ => Route::Methods,
        });
    }
    Ok(())
}

impl Fields {
    /// What only datagram transports have; RuntimeError for others.
    #[inline]
    pub fn datagrams(&self) -> R<&Datagrams> {
        match &self.datagrams {
            Some(own) => Ok(own),
            None => Err(Raised::runtime("not a datagram transport")),
        }
    }
}

// ---- events -------------------------------------------------------------------------------------

/// The loop reports readiness, or delivery goes on. *Errors*: only `SystemExit` and
/// `KeyboardInterrupt`.
pub fn handle_ready(transport: Obj<'_>, readiness: Readiness) -> R<()> {
    let this = fields(transport);
    if readiness.wakes_reader() && this.with(|stream| stream.handle_readable()) {
        let result = run_in(this.read_context.get(), || read_ready(transport, this));
        result.or_else(|raised| report::report_escaped(transport, raised, "_read_ready"))?;
    }
    if readiness.wakes_writer() && this.with(|stream| stream.wants_write() && stream.handle_drain())
    {
        let result = run_in(this.write_context.get(), || transmit(transport, this));
        result.or_else(|raised| report::report_escaped(transport, raised, "_sendto_ready"))?;
    }
    Ok(())
}

/// `_read_ready()`: a batch and its delivery, at most one for each turn.
pub fn read_ready(transport: Obj<'_>, this: &Fields) -> R<()> {
    let own = this.datagrams()?;
    let turn = this.turn();
    if turn.is_some() && own.delivery_turn.replace(turn) == turn {
        // Continued and reported readable at once: what the first delivery woke comes first.
        return Ok(());
    }
    if !own.held.borrow().is_empty() {
        return deliver_held(transport, this, own);
    }
    match own.route.get() {
        Route::Internet => receive_batch(transport, this, own),
        Route::Unix => receive_singly(transport, this, own),
        Route::Methods => receive_by_method(transport, this),
    }
}

/// Has delivery go on in the next turn, behind what is scheduled already.
pub fn go_on_later(this: &Fields) -> R<()> {
    let Some(own) = &this.datagrams else {
        return Ok(());
    };
    if own.held.borrow().is_empty() {
        return Ok(());
    }
    match this.token.get() {
        Some(token) => this.in_loop(|native| native.report(token, Readiness::READABLE)),
        None => Ok(()),
    }
}

// ---- receiving ----------------------------------------------------------------------------------

/// Whether the next datagram may follow at once: `native` had scheduled `before`.
fn may_go_on(this: &Fields, native: &HeldLoop, before: (usize, usize, bool)) -> bool {
    native.scheduled() == before && this.with(|stream| stream.handle_readable())
}

/// Calls `datagram_received()`. *Errors*: only `SystemExit` and `KeyboardInterrupt`.
fn deliver(transport: Obj<'_>, this: &Fields, data: Obj<'_>, sender: Obj<'_>) -> R<()> {
    let protocol = this.protocol.get_or_none();
    let name = state().names.datagram_received.obj();
    match protocol
        .obj()
        .call_method(name, &[protocol.obj(), data, sender])
    {
        Ok(_) => Ok(()),
        Err(raised) => report::report_escaped(transport, raised, "_read_ready"),
    }
}

/// One system call, and the delivery of what it gave.
fn receive_batch(transport: Obj<'_>, this: &Fields, own: &Datagrams) -> R<()> {
    let native = this.hold_loop()?;
    let mut batch = native.transports().take_batch();
    let room = own.room.get();
    let count = match this
        .descriptor
        .with(&this.socket, |fd| batch.receive(fd, room))
    {
        Ok(count) => count,
        Err(error) => {
            native.transports().give_batch(batch);
            own.room.set(ROOM_MIN);
            return receive_failed(this, &error);
        }
    };
    // Room for twice what came: many small wakes stay cheap, and a burst is soon read in few.
    own.room.set((2 * count).clamp(ROOM_MIN, RECEIVE_BATCH_MAX));
    let before = native.scheduled();
    let mut result = Ok(());
    let mut next = 0;
    while let Some((content, sender)) = batch.get(next) {
        next += 1;
        let data = native.transports().copy(content)?;
        let sender = own.to_python(sender)?;
        result = deliver(transport, this, data.obj(), sender.obj());
        native.transports().keep(data);
        if result.is_err() || !may_go_on(this, &native, before) {
            break;
        }
    }
    let mut rest = VecDeque::new();
    while let Some((content, sender)) = batch.get(next) {
        next += 1;
        rest.push_back((bytes::new(content)?, own.to_python(sender)?));
    }
    native.transports().give_batch(batch);
    if !rest.is_empty() {
        own.held.borrow_mut().extend(rest);
        go_on_later(this)?;
    }
    result
}

fn deliver_held(transport: Obj<'_>, this: &Fields, own: &Datagrams) -> R<()> {
    let native = this.hold_loop()?;
    let before = native.scheduled();
    loop {
        let first = own.held.borrow_mut().pop_front();
        let Some((data, sender)) = first else {
            return Ok(());
        };
        let result = deliver(transport, this, data.obj(), sender.obj());
        if result.is_err() || !may_go_on(this, &native, before) {
            go_on_later(this)?;
            return result;
        }
    }
}

/// One system call for each datagram, as many as the wakes before let expect.
fn receive_singly(transport: Obj<'_>, this: &Fields, own: &Datagrams) -> R<()> {
    let native = this.hold_loop()?;
    let before = native.scheduled();
    let room = own.room.get();
    for count in 0..room {
        let place = native.transports();
        let received = this
            .descriptor
            .with(&this.socket, |fd| Ok(place.receive_from(fd)));
        let (data, sender) = match received.unwrap_or_else(|error| Ok(Err(error)))? {
            Ok(received) => received,
            Err(error) => {
                own.room.set(count.max(1));
                return receive_failed(this, &error);
            }
        };
        let sender = own.to_python(&sender)?;
        deliver(transport, this, data.obj(), sender.obj())?;
        if !may_go_on(this, &native, before) {
            return Ok(());
        }
    }
    own.room.set((2 * room).min(RECEIVE_BATCH_MAX));
    Ok(())
}

/// `socket.recvfrom(max_size)`.
fn receive_by_method(transport: Obj<'_>, this: &Fields) -> R<()> {
    let socket = this.descriptor.socket(&this.socket)?;
    let size = transport.getattr_str(c"max_size")?;
    let received = socket
        .obj()
        .getattr_str(c"recvfrom")
        .and_then(|recvfrom| recvfrom.obj().call1(size.obj()));
    let pair = match received {
        Ok(pair) => pair,
        Err(raised) if builtin::is_would_block(&raised) => {
            drop(raised.take());
            return Ok(());
        }
        Err(raised) if raised.matches(builtin::os_error().ptr()) => {
            let exc = raised.take();
            return tell_error(this, exc.obj());
        }
        Err(raised) => {
            let message = "Fatal read error on datagram transport";
            return fatal_callback(transport, raised, message);
        }
    };
    let iterator = builtin::iter(pair.obj())?;
    let data = builtin::next(iterator.obj())?.unwrap_or_else(none_ref);
    let sender = builtin::next(iterator.obj())?.unwrap_or_else(none_ref);
    deliver(transport, this, data.obj(), sender.obj())
}

fn receive_failed(this: &Fields, error: &io::Error) -> R<()> {
    if error.kind() == io::ErrorKind::WouldBlock {
        return Ok(());
    }
    let exc = Raised::os_error(error).take();
    tell_error(this, exc.obj())
}

/// `protocol.error_received(exc)`; what that raises comes out.
pub fn tell_error(this: &Fields, exc: Obj<'_>) -> R<()> {
    let protocol = this.protocol.get_or_none();
    let name = state().names.error_received.obj();
    protocol.obj().call_method1(name, exc).map(drop)
}

/// What `_buffer` and others show of a missing address.
pub fn or_none<'a>(object: Option<Obj<'a>>) -> Obj<'a> {
    object.unwrap_or_else(none)
}
