//! Sending datagrams: what leaves at once, what waits, and how the queue leaves.
//!
//! Duty: `sendto()`, and the sends at readiness, many with one system call. May touch: the
//! descriptor, the protocol's `error_received()`. Invariants: a failed send loses its datagram and
//! nothing else; a buffer that its owner may change is copied when it has to wait; no queue is
//! borrowed while Python runs.
//!
//! *Source*: asyncio `selector_events._SelectorDatagramTransport`.
#![forbid(unsafe_code)]

use std::io;

use aioxide_core::backend::sys::{self, SocketAddress};
use aioxide_core::stream::WritePlan;

use super::base::{Chunk, Fields, fields};
use super::datagram::{Datagrams, Target, tell_error};
use super::report::fatal_callback;
use super::stream::run;
use super::write::lost_write;
use crate::ffi::buffer::Buffer;
use crate::ffi::object::{none, none_ref};
use crate::ffi::{Args, Obj, R, Raised, Ref, Signature, builtin, bytes, socket};

const SEND_FAILED: &str = "Fatal write error on datagram transport";

/// Where one datagram goes.
struct Destination<'a> {
    /// The address as Python has it; None for the connected peer.
    object: Obj<'a>,
    /// How the kernel gets it.
    how: How,
}

/// How a datagram is addressed.
enum How {
    /// The socket is connected.
    Peer,
    /// In the kernel's form.
    To(SocketAddress),
    /// The socket object knows how: an odd family, a name to look up, or something to refuse.
    Method,
}

/// What became of one send.
enum Outcome {
    Sent,
    Blocked,
    /// An `OSError`, for the protocol.
    Failed(Ref),
    /// Another exception.
    Fatal(Raised),
}

const SENDTO: Signature = Signature {
    name: "sendto",
    params: &["data", "addr"],
    positional: 2,
    required: 1,
};

/// `sendto(data, addr=None)`.
pub fn sendto(transport: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [data, addr] = match (args.positional(), args.has_named()) {
        ([data, addr], false) => [Some(*data), Some(*addr)],
        ([data], false) => [Some(*data), None],
        _ => args.bind::<2>(&SENDTO)?,
    };
    let data = data.unwrap_or(none());
    let this = fields(transport);
    let own = this.datagrams()?;
    if bytes::slice(data).is_none() && !builtin::is_mutable_bytes(data) {
        let name = builtin::type_name(data)?;
        return Err(Raised::type_error(&format!(
            "data argument must be a bytes-like object, not '{name}'"
        )));
    }
    // Before 3.13 an empty datagram is not sent.
    if cfg!(not(Py_3_13)) && !data.is_true()? {
        return Ok(none_ref());
    }
    let remote = own.remote.get();
    let object = match &remote {
        Some(remote) if own.has_remote.get() => {
            check_remote(remote.obj(), addr)?;
            remote.obj()
        }
        _ => addr.unwrap_or(none()),
    };
    send(transport, this, own, data, object)
}

/// ValueError for an address other than the one the transport was made with.
fn check_remote(remote: Obj<'_>, addr: Option<Obj<'_>>) -> R<()> {
    match addr {
        Some(addr) if !addr.is_none() && !addr.is(remote) && !addr.equals(remote)? => {
            let shown = crate::ffi::call::text(remote.str()?.obj())?;
            Err(Raised::value_error(&format!(
                "Invalid address: must be None or {shown}"
            )))
        }
        _ => Ok(()),
    }
}

fn send(
    transport: Obj<'_>,
    this: &Fields,
    own: &Datagrams,
    data: Obj<'_>,
    object: Obj<'_>,
) -> R<Ref> {
    // A lost transport without a remote address is asyncio's only until its socket is gone.
    let counts_lost = own.has_remote.get() || this.descriptor.is_closed();
    let plan = this.with(|stream| stream.handle_sendto(counts_lost));
    if let WritePlan::Lost { warn } = plan {
        return lost_write(this, warn);
    }
    let to = match destination(this, own, object) {
        Ok(to) => to,
        Err(raised) => return conclude(transport, this, Outcome::Fatal(raised)),
    };
    if plan == WritePlan::SendNow {
        match send_one(this, data, &to) {
            Outcome::Sent => return Ok(none_ref()),
            Outcome::Blocked => {}
            other => return conclude(transport, this, other),
        }
    }
    let chunk = chunk(data, &to)?;
    let queued = this.with(|stream| match plan {
        WritePlan::SendNow => stream.handle_datagram_unsent(chunk),
        _ => stream.handle_queued(chunk),
    });
    match queued {
        Ok(step) => run(transport, this, step, none())?,
        Err(refused) => drop(refused),
    }
    Ok(none_ref())
}

/// Tells who is to know of a failed send.
#[cold]
fn conclude(transport: Obj<'_>, this: &Fields, outcome: Outcome) -> R<Ref> {
    match outcome {
        Outcome::Sent | Outcome::Blocked => {}
        Outcome::Failed(exc) => tell_error(this, exc.obj())?,
        Outcome::Fatal(raised) if raised.matches(builtin::os_error().ptr()) => {
            tell_error(this, raised.take().obj())?;
        }
        Outcome::Fatal(raised) => fatal_callback(transport, raised, SEND_FAILED)?,
    }
    Ok(none_ref())
}

/// How a datagram for `object` is addressed.
#[inline]
fn destination<'a>(this: &Fields, own: &Datagrams, object: Obj<'a>) -> R<Destination<'a>> {
    let how = if !own.is_native() {
        How::Method
    } else if own.has_peer.get() {
        How::Peer
    } else {
        match own.to_kernel(object)? {
            Some(address) => {
                let socket = this.descriptor.socket(&this.socket)?;
                socket::audit_sendto(socket.obj(), object)?;
                How::To(address)
            }
            None => How::Method,
        }
    };
    Ok(Destination { object, how })
}

fn chunk(data: Obj<'_>, to: &Destination<'_>) -> R<Chunk> {
    let data = match bytes::slice(data) {
        Some(_) => data.to_ref(),
        // As `bytes(data)` does, also for views that are not contiguous.
        None => bytes::of_buffer(data)?,
    };
    let address = match to.how {
        How::To(address) => Some(address),
        How::Peer | How::Method => None,
    };
    let by_method = matches!(to.how, How::Method);
    let target = (by_method || address.is_some()).then(|| {
        Box::new(Target {
            object: to.object.to_ref(),
            address,
        })
    });
    Ok(Chunk { data, target })
}

/// Tries one datagram.
#[inline]
fn send_one(this: &Fields, data: Obj<'_>, to: &Destination<'_>) -> Outcome {
    let address = match &to.how {
        How::Peer => None,
        How::To(address) => Some(address),
        How::Method => return send_by_method(this, data, to.object),
    };
    this.poll_next_turn();
    if let Some(content) = bytes::slice(data) {
        return outcome(
            this.descriptor
                .with(&this.socket, |fd| sys::send_to(fd, content, address)),
        );
    }
    match Buffer::readable(data) {
        Ok(buffer) => outcome(this.descriptor.with(&this.socket, |fd| {
            sys::send_to(fd, buffer.as_slice(), address)
        })),
        Err(raised) => Outcome::Fatal(raised),
    }
}

fn outcome(sent: io::Result<()>) -> Outcome {
    match sent {
        Ok(()) => Outcome::Sent,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Outcome::Blocked,
        Err(error) => Outcome::Failed(Raised::os_error(&error).take()),
    }
}

/// `socket.send(data)` or `socket.sendto(data, address)`.
fn send_by_method(this: &Fields, data: Obj<'_>, address: Obj<'_>) -> Outcome {
    let tried = || -> R<Ref> {
        let has_peer = this.datagrams()?.has_peer.get();
        let socket = this.descriptor.socket(&this.socket)?;
        if has_peer {
            socket.obj().getattr_str(c"send")?.obj().call1(data)
        } else {
            let sendto = socket.obj().getattr_str(c"sendto")?;
            sendto.obj().call(&[data, address])
        }
    };
    match tried() {
        Ok(_) => Outcome::Sent,
        Err(raised) if builtin::is_would_block(&raised) => {
            drop(raised.take());
            Outcome::Blocked
        }
        Err(raised) if raised.matches(builtin::os_error().ptr()) => Outcome::Failed(raised.take()),
        Err(raised) => Outcome::Fatal(raised),
    }
}

// ---- the queue ----------------------------------------------------------------------------------

/// Sends the queue as far as it goes.
pub fn transmit(transport: Obj<'_>, this: &Fields) -> R<()> {
    while this.with(|stream| stream.handle_drain() && !stream.queue().is_empty()) {
        let failed = match send_queued(this) {
            Outcome::Sent => continue,
            Outcome::Blocked => break,
            failed => failed,
        };
        // The rest is tried at the next readiness.
        return conclude(transport, this, failed).map(drop);
    }
    let step = this.with(|stream| stream.handle_drained());
    run(transport, this, step, none())
}

/// Sends what one call takes from the front of the queue; a datagram that fails leaves it too.
fn send_queued(this: &Fields) -> Outcome {
    let mut spent = Vec::new();
    let first = this.with(|stream| {
        let mut chunks = stream.queue().iter();
        chunks.next().and_then(Chunk::by_method)
    });
    if let Some((data, object)) = first {
        let outcome = send_by_method(this, data.obj(), object.obj());
        if !matches!(outcome, Outcome::Blocked) {
            // Whatever the method did meanwhile, only this one datagram is done with.
            this.with(|stream| {
                let first = stream.queue().iter().next();
                if first.is_some_and(|chunk| chunk.data.obj().is(data.obj())) {
                    stream.handle_datagrams_sent(1, &mut spent);
                }
            });
        }
        return outcome;
    }
    this.poll_next_turn();
    let sent = this.descriptor.with(&this.socket, |fd| {
        let stream = this.stream.borrow();
        let batch = stream.queue().iter().map_while(Chunk::as_datagram);
        sys::send_batch(fd, batch)
    });
    match sent {
        Ok(count) => {
            this.with(|stream| stream.handle_datagrams_sent(count, &mut spent));
            Outcome::Sent
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Outcome::Blocked,
        Err(error) => {
            this.with(|stream| stream.handle_datagrams_sent(1, &mut spent));
            Outcome::Failed(Raised::os_error(&error).take())
        }
    }
}

impl Chunk {
    /// Data and address of a datagram that the socket object is to send.
    fn by_method(&self) -> Option<(Ref, Ref)> {
        let target = self.target.as_ref()?;
        match target.address {
            None => Some((self.data.clone(), target.object.clone())),
            Some(_) => None,
        }
    }

    /// Bytes and address of a datagram that the kernel is given; `None` where the socket object is
    /// to send it.
    fn as_datagram(&self) -> Option<(&[u8], Option<&SocketAddress>)> {
        match &self.target {
            None => Some((self.as_ref(), None)),
            Some(target) => {
                let address = target.address.as_ref()?;
                Some((self.as_ref(), Some(address)))
            }
        }
    }
}
