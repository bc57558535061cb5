//! Who owns a transport's descriptor, and how it is used and closed.
//!
//! Duty: [`Descriptor`] is the ownership as a type. A descriptor that the loop accepted is an
//! `OwnedFd` until somebody asks for a socket object; then, and for sockets handed in by a caller,
//! the Python socket owns it, as a pipe's file object does. May touch: that descriptor and that
//! object.
//!
//! Invariants: a descriptor is closed exactly once, by its owner; one that a Python object has
//! given up (closed or detached behind the transport's back) is never used again, because its
//! number may already name somebody else's file.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use aioxide_core::backend::sys;

use crate::ffi::call::int;
use crate::ffi::{Obj, R, Ref, Slot, socket};
use crate::state::state;

/// Family, type and protocol of a socket, as its constructor takes them.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketKind {
    /// `AF_*`
    pub family: i32,
    /// `SOCK_*`
    pub kind: i32,
    /// `IPPROTO_*`
    pub proto: i32,
}

impl SocketKind {
    /// Asks a socket object.
    pub fn of(socket: Obj<'_>) -> R<SocketKind> {
        let asyncio = &state().asyncio;
        let is_plain = socket.type_obj().is(asyncio.socket_class.obj());
        let number = |name: &std::ffi::CStr| {
            // The class in Python makes an enumeration's member of it, for a microsecond.
            let value = if is_plain {
                let member = asyncio.socket_base.obj().getattr_str(name)?;
                member.obj().getattr_str(c"__get__")?.obj().call1(socket)?
            } else {
                socket.getattr_str(name)?
            };
            small(value.obj())
        };
        Ok(SocketKind {
            family: number(c"family")?,
            kind: number(c"type")?,
            proto: small(socket.getattr_str(c"proto")?.obj())?,
        })
    }

    /// Whether small segments should be sent at once. *Source*: asyncio `base_events._set_nodelay`.
    pub fn is_tcp(&self) -> bool {
        [libc::AF_INET, libc::AF_INET6].contains(&self.family)
            && self.kind == libc::SOCK_STREAM
            && self.proto == libc::IPPROTO_TCP
    }
}

/// A number of the kernel's; one that it cannot have given is none that is known here.
fn small(number: Obj<'_>) -> R<i32> {
    Ok(i32::try_from(number.to_i64()?).unwrap_or(-1))
}

/// The owner of a transport's descriptor.
enum Owner {
    /// Nobody (any more).
    Closed,
    /// The transport: accepted by the loop, no socket object was ever asked for.
    Transport(OwnedFd),
    /// The Python socket or file; `is_visible` says that its descriptor can be looked at.
    Object {
        /// See [`socket::is_readable`].
        is_visible: bool,
    },
}

/// A transport's descriptor with its owner.
pub struct Descriptor {
    owner: RefCell<Owner>,
    /// The number, kept after closing: reprs still show it.
    fd: Cell<RawFd>,
    kind: Cell<SocketKind>,
}

impl Default for Descriptor {
    fn default() -> Self {
        Descriptor {
            owner: RefCell::new(Owner::Closed),
            fd: Cell::new(-1),
            kind: Cell::new(SocketKind::default()),
        }
    }
}

impl Descriptor {
    /// Takes over an accepted descriptor.
    pub fn own(&self, fd: OwnedFd, kind: SocketKind) {
        self.fd.set(fd.as_raw_fd());
        self.kind.set(kind);
        self.owner.replace(Owner::Transport(fd));
    }

    /// Uses `object`, a socket that owns its descriptor, and keeps it in `slot`.
    pub fn adopt(&self, object: Obj<'_>, slot: &Slot) -> R<()> {
        let fileno = object
            .call_method0(state().names.fileno.obj())?
            .obj()
            .to_i64()?;
        let fd = RawFd::try_from(fileno).unwrap_or(-1);
        self.fd.set(fd);
        self.owner.replace(Owner::Object {
            is_visible: socket::is_readable(object, fd),
        });
        slot.set(Some(object.to_ref()));
        Ok(())
    }

    /// Uses a pipe, which owns its descriptor: a file object, a socket, or anything with
    /// `fileno()` and `close()`. `slot` keeps what shows the descriptor, if anything does: the raw
    /// file below a buffered one.
    pub fn adopt_pipe(&self, pipe: Obj<'_>, slot: &Slot) -> R<()> {
        self.adopt(pipe, slot)?;
        if socket::is_readable(pipe, self.number()) {
            return Ok(());
        }
        match raw_file(pipe) {
            Ok(raw) if socket::is_readable(raw.obj(), self.number()) => {
                slot.set(Some(raw));
                self.owner.replace(Owner::Object { is_visible: true });
            }
            Ok(_) => {}
            Err(raised) => drop(raised.take()),
        }
        Ok(())
    }

    /// Gives the descriptor back to whoever lent it: it is neither used nor closed from here on.
    pub fn release(&self) {
        self.owner.replace(Owner::Closed);
    }

    /// The number, -1 before there was one.
    pub fn number(&self) -> RawFd {
        self.fd.get()
    }

    /// Whether a Python object owns the descriptor and can be seen to have it still.
    pub fn is_visible(&self) -> bool {
        matches!(*self.owner.borrow(), Owner::Object { is_visible: true })
    }

    /// Whether nobody owns a descriptor here (any more).
    pub fn is_closed(&self) -> bool {
        matches!(*self.owner.borrow(), Owner::Closed)
    }

    /// Runs `io` on the descriptor; `EBADF` where the socket has given it up. `io` calls no Python.
    #[inline]
    pub fn with<T>(
        &self,
        slot: &Slot,
        io: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let fd = self.fd.get();
        match &*self.owner.borrow() {
            Owner::Transport(owned) => io(owned.as_fd()),
            Owner::Object { is_visible } => socket::with(slot, fd, *is_visible, io),
            Owner::Closed => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    /// The socket object, made now if the transport owned the descriptor itself. After closing it
    /// is the closed socket, or one that never had a descriptor.
    pub fn socket(&self, slot: &Slot) -> R<Ref> {
        if let Some(object) = slot.get() {
            return Ok(object);
        }
        let class = state().asyncio.socket_class.obj();
        let owned = match self.owner.replace(Owner::Closed) {
            Owner::Transport(owned) => owned,
            other => {
                self.owner.replace(other);
                let object =
                    class.call_method1(crate::ffi::call::interned(c"__new__")?.obj(), class)?;
                slot.set(Some(object.clone()));
                return Ok(object);
            }
        };
        match self.wrap(class, owned.as_raw_fd()) {
            Ok(object) => {
                // The socket object owns the number from here on.
                let fd = owned.into_raw_fd();
                let is_visible = socket::is_readable(object.obj(), fd);
                self.owner.replace(Owner::Object { is_visible });
                slot.set(Some(object.clone()));
                Ok(object)
            }
            Err(raised) => {
                self.owner.replace(Owner::Transport(owned));
                Err(raised)
            }
        }
    }

    /// `socket.socket(family, type, proto, fd)`, non-blocking. If it fails, `fd` stays open.
    fn wrap(&self, class: Obj<'_>, fd: RawFd) -> R<Ref> {
        let SocketKind {
            family,
            kind,
            proto,
        } = self.kind.get();
        let [family, kind, proto] = [int(family.into())?, int(kind.into())?, int(proto.into())?];
        let fileno = int(fd.into())?;
        let object = class.call(&[family.obj(), kind.obj(), proto.obj(), fileno.obj()])?;
        let zero = int(0)?;
        let timeout = object.obj().getattr_str(c"settimeout")?;
        if let Err(raised) = timeout.obj().call1(zero.obj()) {
            // The object goes, the descriptor stays.
            let exc = raised.take();
            object.obj().call_method0(state().names.detach.obj())?;
            return Err(crate::ffi::Raised::throw(exc));
        }
        Ok(object)
    }

    /// Closes, once; a second call does nothing. `slot` holds the owner. Errors are the owner's.
    pub fn close(&self, slot: &Slot) -> R<()> {
        match self.owner.replace(Owner::Closed) {
            Owner::Closed => Ok(()),
            Owner::Transport(owned) => {
                drop(owned);
                Ok(())
            }
            Owner::Object { .. } => match slot.get() {
                Some(object) => object
                    .obj()
                    .call_method0(state().names.close.obj())
                    .map(drop),
                None => Ok(()),
            },
        }
    }

    /// Sends small segments at once where the socket is TCP.
    pub fn set_nodelay(&self, slot: &Slot) -> R<()> {
        let kind = match slot.get() {
            Some(object) => SocketKind::of(object.obj())?,
            None => self.kind.get(),
        };
        if !kind.is_tcp() {
            return Ok(());
        }
        self.with(slot, sys::set_nodelay)
            .map_err(|error| crate::ffi::Raised::os_error(&error))
    }
}

/// The raw file below a buffered or text file.
fn raw_file(file: Obj<'_>) -> R<Ref> {
    let names = &state().names;
    match file.getattr_opt(names.raw.obj())? {
        Some(raw) => Ok(raw),
        None => file
            .getattr(names.buffer.obj())?
            .obj()
            .getattr(names.raw.obj()),
    }
}
