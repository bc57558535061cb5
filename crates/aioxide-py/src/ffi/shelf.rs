//! Large `bytes` objects that are used again when nobody has them any more.
//!
//! Duty: the C library gives the end of its heap back to the kernel as soon as 128 KiB of it are
//! free, so that a server of large messages would have the kernel clear the same pages again for
//! each of them. The shelf keeps a reference to what it handed out; what only the shelf refers to
//! is the next place. May touch: `bytes` objects that nobody else refers to. Invariants: the shelf
//! has at most [`SHELF_BYTES_MAX`]; an object that somebody else refers to is never written to; no
//! object is freed under the borrow. *Source*: mallopt(3), `M_TRIM_THRESHOLD`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;

use pyo3_ffi as c;

use super::bytes::{self, is_unshared};
use super::error::R;
use super::object::Ref;

/// Contents of this size come from the shelf: smaller ones are cheaper to allocate than to find.
pub const LARGE_BYTES_MIN: usize = 8 * 1024;

/// The most that is kept. What one turn receives is about half of it, see `KEPT_BYTES_MAX`; more
/// would no longer fit a processor's own cache.
const SHELF_BYTES_MAX: usize = 1024 * 1024;

/// A place is used for contents of at least this share of it: somebody may keep them for long.
const ROOM_SHARE_MIN: usize = 2;

/// A `bytes` object that was made with room for so many bytes.
struct Place {
    object: Ref,
    room: usize,
}

impl Place {
    /// Its first `len` bytes, to be written to.
    #[allow(
        clippy::mut_from_ref,
        reason = "the memory is Python's, and this place is off the shelf"
    )]
    fn room(&self, len: usize) -> &mut [MaybeUninit<u8>] {
        debug_assert!(is_unshared(&self.object));
        // SAFETY: a bytes object of ours, made with that much room; nobody else refers to it, so
        // nobody sees it change.
        unsafe {
            let room = c::PyBytes_AsString(self.object.ptr()).cast();
            std::slice::from_raw_parts_mut(room, len.min(self.room))
        }
    }

    /// Its first `len` bytes are its content from now on; the hash is unknown again.
    fn set_len(&self, len: usize) {
        debug_assert!(is_unshared(&self.object) && len <= self.room);
        let object = self.object.ptr();
        // SAFETY: as in `room`, which leaves space for the zero behind the content.
        unsafe {
            c::PyBytes_AsString(object).add(len).write(0);
            (*object.cast::<c::PyVarObject>()).ob_size = len as isize;
            #[allow(deprecated, reason = "deprecated for who has no bytes of his own")]
            let hash = &raw mut (*object.cast::<c::PyBytesObject>()).ob_shash;
            hash.write(-1);
        }
    }
}

/// The same bytes, seen as perhaps initialised ones.
fn as_room(content: &[u8]) -> &[MaybeUninit<u8>] {
    // SAFETY: every initialised byte is a perhaps initialised one; borrowed as long as `content`.
    unsafe { std::slice::from_raw_parts(content.as_ptr().cast(), content.len()) }
}

/// The objects that were handed out, least recently used first.
#[derive(Default)]
pub struct Shelf(RefCell<Places>);

#[derive(Default)]
struct Places {
    queue: VecDeque<Place>,
    /// The sum of their rooms.
    bytes: usize,
}

impl Places {
    /// The place that was used last if it is free, for it may still be in the processor's cache;
    /// else the one that was not used for longest, if it is free or too much is here.
    fn take(&mut self, wanted: usize) -> Option<Place> {
        let is_free = |place: Option<&Place>| place.is_some_and(|place| is_unshared(&place.object));
        let taken = if is_free(self.queue.back()) {
            self.queue.pop_back()
        } else if is_free(self.queue.front()) || self.bytes + wanted > SHELF_BYTES_MAX {
            self.queue.pop_front()
        } else {
            None
        };
        self.bytes -= taken.as_ref().map_or(0, |place| place.room);
        taken
    }

    fn put(&mut self, place: Place) {
        self.bytes += place.room;
        self.queue.push_back(place);
    }
}

impl Shelf {
    /// A `bytes` object with a copy of `content`: one that nobody has any more, or a new one.
    pub fn copy(&self, content: &[u8]) -> R<Ref> {
        self.join(content, &[])
    }

    /// The same of two contents, one behind the other.
    fn join(&self, first: &[u8], second: &[u8]) -> R<Ref> {
        let len = first.len() + second.len();
        let place = self.find(len)?;
        let (front, back) = place.room(len).split_at_mut(first.len());
        front.copy_from_slice(as_room(first));
        back.copy_from_slice(as_room(second));
        place.set_len(len);
        Ok(self.hand_out(place))
    }

    /// What `receive` puts into a place for `most` bytes, as many as it says, and what it received
    /// elsewhere behind that, as one object: the place itself, or a copy if the place is too small
    /// or much too large.
    pub fn receive<'a>(
        &self,
        most: usize,
        receive: impl FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<(usize, &'a [u8])>,
    ) -> R<io::Result<Ref>> {
        let place = self.find(most)?;
        let received = receive(place.room(most));
        let (len, behind) = match received {
            Ok((len, behind)) => (len.min(most), behind),
            Err(error) => {
                self.put(place);
                return Ok(Err(error));
            }
        };
        place.set_len(len);
        let whole = len + behind.len();
        if behind.is_empty() && len >= LARGE_BYTES_MIN && len * ROOM_SHARE_MIN >= place.room {
            return Ok(Ok(self.hand_out(place)));
        }
        // Nobody else writes to it while it is off the shelf.
        let content = bytes::slice(place.object.obj()).unwrap_or_default();
        let copied = match whole {
            LARGE_BYTES_MIN.. => self.join(content, behind),
            _ => bytes::new(content),
        };
        self.put(place);
        copied.map(Ok)
    }

    /// A place for `len` bytes that nobody else refers to. Those in its way that are of no use are
    /// forgotten.
    fn find(&self, len: usize) -> R<Place> {
        loop {
            // Bound to a name, so that a place is dropped when nothing is borrowed.
            let taken = self.0.borrow_mut().take(len);
            let Some(place) = taken else {
                let object = bytes::new_unwritten(len)?;
                return Ok(Place { object, room: len });
            };
            let fits = len <= place.room && place.room <= len.saturating_mul(ROOM_SHARE_MIN);
            if fits && is_unshared(&place.object) {
                return Ok(place);
            }
        }
    }

    fn hand_out(&self, place: Place) -> Ref {
        let handed = place.object.clone();
        self.put(place);
        handed
    }

    fn put(&self, place: Place) {
        if place.room <= SHELF_BYTES_MAX {
            self.0.borrow_mut().put(place);
        }
    }
}
