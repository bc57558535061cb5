//! The Python type `Clients`: which transports a server has accepted, without keeping them alive.
//!
//! asyncio has a `WeakSet` here: a weak reference and an entry for each connection, 185 bytes at
//! ten thousand of them. A transport of ours leaves by itself before it dies, so a pointer to it,
//! and its place in this table kept with the transport, do the same.
//!
//! May touch: its own memory, and where a transport notes its place. Invariants: `places` holds
//! exactly the transports whose `clients` names this object, each at the place that it notes; all
//! of them are alive, because a transport leaves in `tp_clear` and at the beginning of
//! `tp_dealloc`. Everything else that a caller adds is in `others`, a `WeakSet` made for it.

use std::cell::RefCell;

use pyo3_ffi as c;

use super::base;
use crate::ffi::call::{import, list};
use crate::ffi::class::{Visitor, noargs, onearg};
use crate::ffi::object::none_ref;
use crate::ffi::values::{self, OFFSET, Values};
use crate::ffi::{Obj, PyObject, R, Ref, Slot, builtin, error, layout};
use crate::state::state;

/// What the object knows.
#[derive(Default)]
struct Fields {
    places: RefCell<Vec<*mut PyObject>>,
    others: Slot,
}

fn fields<'a>(clients: Obj<'a>) -> &'a Fields {
    // SAFETY: only instances of this module's final type come here.
    unsafe { layout::fields(clients.ptr(), OFFSET) }
}

/// Takes a transport off the list that it is on, if any. `transport` is alive or about to die.
pub fn leave(transport: &base::Fields) {
    let Some(clients) = transport.clients.take() else {
        return;
    };
    let place = transport.client_place.get() as usize;
    let moved = {
        let mut places = fields(clients.obj()).places.borrow_mut();
        if place < places.len() {
            places.swap_remove(place);
        }
        places.get(place).copied()
    };
    // SAFETY: by the invariant of the table, the one that moved is a live transport.
    if let Some(moved) = moved.and_then(|moved| unsafe { Obj::from_nullable(moved) }) {
        base::fields(moved).client_place.set(place as u32);
    }
}

/// Whether `transport` is noted in `clients` itself.
fn has(clients: Obj<'_>, transport: Obj<'_>) -> bool {
    is_ours(transport)
        && base::fields(transport)
            .clients
            .get()
            .is_some_and(|other| other.obj().is(clients))
}

fn is_ours(object: Obj<'_>) -> bool {
    object.type_ptr() == state().types.stream_transport.ptr().cast()
}

fn weak_set() -> R<Ref> {
    import(c"weakref")?.obj().getattr_str(c"WeakSet")
}

fn add(clients: Obj<'_>, transport: Obj<'_>) -> R<Ref> {
    let this = fields(clients);
    if has(clients, transport) {
        return Ok(none_ref());
    }
    if is_ours(transport) && base::fields(transport).clients.is_empty() {
        let mut places = this.places.borrow_mut();
        if let Ok(place) = u32::try_from(places.len()) {
            let noted = base::fields(transport);
            noted.client_place.set(place);
            noted.clients.set(Some(clients.to_ref()));
            places.push(transport.ptr());
            return Ok(none_ref());
        }
    }
    let others = match this.others.get() {
        Some(others) => others,
        None => {
            let others = weak_set()?.obj().call0()?;
            this.others.set(Some(others.clone()));
            others
        }
    };
    others.obj().getattr_str(c"add")?.obj().call1(transport)
}

fn discard(clients: Obj<'_>, transport: Obj<'_>) -> R<Ref> {
    if has(clients, transport) {
        leave(base::fields(transport));
        return Ok(none_ref());
    }
    match fields(clients).others.get() {
        Some(others) => others.obj().getattr_str(c"discard")?.obj().call1(transport),
        None => Ok(none_ref()),
    }
}

fn copy(clients: Obj<'_>) -> R<Ref> {
    let this = fields(clients);
    // SAFETY: by the invariant of the table, these are live transports.
    let owned = |&place: &*mut PyObject| unsafe { Obj::from_nullable(place) }.map(Obj::to_ref);
    let mut all: Vec<Ref> = this.places.borrow().iter().filter_map(owned).collect();
    if let Some(others) = this.others.get() {
        all.extend(builtin::collect(Some(others.obj()))?);
    }
    weak_set()?.obj().call1(list(&all)?.obj())
}

fn len(clients: Obj<'_>) -> R<usize> {
    let this = fields(clients);
    let others = this.others.get();
    let others = others.map_or(Ok(0), |others| builtin::len(others.obj()))?;
    Ok(this.places.borrow().len() + others)
}

// ---- the type -----------------------------------------------------------------------------------

impl Values for Fields {
    fn visit(&self, visitor: &mut Visitor) {
        visitor.slot(&self.others);
    }

    fn clear(&self) {
        self.others.clear();
    }
}

unsafe extern "C" fn length(clients: *mut PyObject) -> c::Py_ssize_t {
    let mut found = -1;
    let status = error::guard_status(|| {
        // SAFETY: the interpreter passes a live instance.
        found = len(unsafe { Obj::from_ptr(clients) })? as c::Py_ssize_t;
        Ok(())
    });
    if status < 0 { -1 } else { found }
}

unsafe extern "C" fn iterate(clients: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let clients = unsafe { Obj::from_ptr(clients) };
    error::guard(|| builtin::iter(copy(clients)?.obj()))
}

/// Creates the type.
pub fn build_type() -> R<Ref> {
    values::public_class::<Fields>(c"aioxide._aioxide.Clients")
        .doc(c"Clients()\n--\n\nThe transports of a server, as a weak set.")
        .slot(c::Py_tp_iter, iterate as *mut _)
        .slot(c::Py_sq_length, length as *mut _)
        .methods([
            onearg!(
                c"add",
                add,
                c"($self, transport, /)\nAdds a transport, without keeping it alive."
            ),
            onearg!(
                c"discard",
                discard,
                c"($self, transport, /)\nTakes a transport out, if it is there."
            ),
            noargs!(
                c"copy",
                copy,
                c"($self, /)\nThe transports that are alive, in a WeakSet."
            ),
        ])
        .build(None)
}
