//! A session's two ways of ciphertext in memory of our own: what OpenSSL calls a BIO.
//!
//! Duty: lend a session the ciphertext that just came in where it lies, keep what it leaves of it,
//! and collect what it writes in a place that whoever sends takes whole. So ciphertext is copied
//! once each way, by OpenSSL, and an idle session owns no memory here. May touch: the memory of
//! buffers that it made, and ciphertext while it is lent.
//!
//! Invariants: a wire lives as long as one of its buffer's references, of which the session's
//! `SSL*` has two and `Attached` one; lent ciphertext is taken back before the loan ends, whatever
//! ends it; nothing here runs Python, and no callback panics.
//!
//! *Source*: OpenSSL's manual pages of `BIO_meth_new` and `BIO_s_mem`.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::openssl::Functions;

/// `BIO_TYPE_SOURCE_SINK`: where ciphertext begins and ends.
const SOURCE_SINK: c_int = 0x0400;

/// `BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY`: how the last call went.
const RETRY_FLAGS: c_int = 0x0f;

/// `BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY`: there is nothing to read yet.
const RETRY_READ: c_int = 0x09;

/// `BIO_CTRL_*` that are answered: the end, both sizes, flushing, and copying for `SSL_dup`.
const EOF: c_int = 2;
const PENDING: c_int = 10;
const FLUSH: c_int = 11;
const DUP: c_int = 12;
const UNSENT: c_int = 13;

const NAME: &CStr = c"aioxide";

/// The kind of buffer, and the functions that its callbacks call: one library per process.
struct Kind {
    method: NonNull<c_void>,
    data: unsafe extern "C-unwind" fn(*mut c_void) -> *mut c_void,
    set_flags: unsafe extern "C-unwind" fn(*mut c_void, c_int),
    clear_flags: unsafe extern "C-unwind" fn(*mut c_void, c_int),
}

// SAFETY: addresses of functions and of a table that nobody changes any more.
unsafe impl Send for Kind {}
// SAFETY: as above.
unsafe impl Sync for Kind {}

static KIND: OnceLock<Option<Kind>> = OnceLock::new();

fn kind() -> Option<&'static Kind> {
    KIND.get()?.as_ref()
}

/// Makes the kind of buffer in `library`, once; whether it is there.
pub fn prepare(library: &Functions) -> bool {
    let make = || {
        // SAFETY: plain calls of the library; the name is never freed.
        let method = unsafe {
            let index = (library.buffer_index)() | SOURCE_SINK;
            NonNull::new((library.kind_new)(index, NAME.as_ptr()))?
        };
        let kind = method.as_ptr();
        // SAFETY: a fresh table, and functions of the types that it takes.
        let set = unsafe {
            (library.kind_set_read)(kind, read as *mut c_void)
                & (library.kind_set_write)(kind, write as *mut c_void)
                & (library.kind_set_ctrl)(kind, ctrl as *mut c_void)
                & (library.kind_set_destroy)(kind, destroy as *mut c_void)
        };
        (set == 1).then_some(Kind {
            method,
            data: library.buffer_data,
            set_flags: library.buffer_set_flags,
            clear_flags: library.buffer_clear_flags,
        })
    };
    KIND.get_or_init(make).is_some()
}

// ---- the wire -----------------------------------------------------------------------------------

/// Ciphertext on its way in: what was kept, then what is lent.
struct Incoming {
    kept: Vec<u8>,
    /// So much of the front of `kept` is read.
    kept_read: usize,
    /// Lent memory, and how much of it is unread.
    lent: *const u8,
    lent_len: usize,
}

/// Ciphertext of one session.
pub struct Wire {
    incoming: RefCell<Incoming>,
    outgoing: RefCell<Vec<u8>>,
    /// The sizes of both. Atomic, because they may be asked for while a method of the session's
    /// owner runs without the GIL on the loop's thread.
    incoming_len: AtomicUsize,
    outgoing_len: AtomicUsize,
}

impl Wire {
    fn new() -> Wire {
        Wire {
            incoming: RefCell::new(Incoming {
                kept: Vec::new(),
                kept_read: 0,
                lent: std::ptr::null(),
                lent_len: 0,
            }),
            outgoing: RefCell::default(),
            incoming_len: AtomicUsize::new(0),
            outgoing_len: AtomicUsize::new(0),
        }
    }

    /// Bytes that the session has not read.
    #[inline]
    pub fn incoming_len(&self) -> usize {
        self.incoming_len.load(Relaxed)
    }

    /// Bytes that the session wrote and nobody took.
    #[inline]
    pub fn outgoing_len(&self) -> usize {
        self.outgoing_len.load(Relaxed)
    }

    /// Keeps a copy of `ciphertext` for the session to read.
    pub fn keep(&self, ciphertext: &[u8]) {
        let mut incoming = self.incoming.borrow_mut();
        incoming.keep_lent();
        incoming.keep(ciphertext);
        self.note(&incoming);
    }

    /// Lends `ciphertext` while `body` runs; what is left of it then is kept.
    pub fn lend<T>(&self, ciphertext: &[u8], body: impl FnOnce() -> T) -> T {
        let loan = Loan(self);
        {
            let mut incoming = self.incoming.borrow_mut();
            incoming.keep_lent();
            incoming.lent = ciphertext.as_ptr();
            incoming.lent_len = ciphertext.len();
            self.note(&incoming);
        }
        let value = body();
        drop(loan);
        value
    }

    /// Takes all that the session has not read.
    pub fn take_incoming(&self) -> Vec<u8> {
        let mut incoming = self.incoming.borrow_mut();
        incoming.keep_lent();
        let mut kept = std::mem::take(&mut incoming.kept);
        kept.drain(..std::mem::take(&mut incoming.kept_read));
        self.note(&incoming);
        kept
    }

    /// Takes all that the session wrote.
    pub fn take_outgoing(&self) -> Vec<u8> {
        self.outgoing_len.store(0, Relaxed);
        self.outgoing.take()
    }

    /// Gives an empty place for what the session writes next, unless it has one; gives it back
    /// then.
    pub fn give_place(&self, place: Vec<u8>) -> Option<Vec<u8>> {
        debug_assert!(place.is_empty());
        let mut outgoing = self.outgoing.borrow_mut();
        if outgoing.capacity() > 0 {
            return Some(place);
        }
        *outgoing = place;
        None
    }

    fn note(&self, incoming: &Incoming) {
        self.incoming_len.store(incoming.len(), Relaxed);
    }

    /// Reads into `room`: how much of it. Nothing if somebody else is at it.
    fn read(&self, room: &mut [MaybeUninit<u8>]) -> usize {
        let Ok(mut incoming) = self.incoming.try_borrow_mut() else {
            return 0;
        };
        let read = incoming.read(room);
        self.note(&incoming);
        read
    }

    /// Collects `ciphertext`; false if there is no memory for it.
    fn write(&self, ciphertext: &[u8]) -> bool {
        let Ok(mut outgoing) = self.outgoing.try_borrow_mut() else {
            return false;
        };
        if outgoing.try_reserve(ciphertext.len()).is_err() {
            return false;
        }
        outgoing.extend_from_slice(ciphertext);
        self.outgoing_len.store(outgoing.len(), Relaxed);
        true
    }
}

/// A loan under way.
struct Loan<'a>(&'a Wire);

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.0.incoming.borrow_mut().keep_lent();
    }
}

impl Incoming {
    fn len(&self) -> usize {
        self.kept.len() - self.kept_read + self.lent_len
    }

    fn keep(&mut self, ciphertext: &[u8]) {
        if ciphertext.is_empty() {
            return;
        }
        self.kept.drain(..std::mem::take(&mut self.kept_read));
        self.kept.extend_from_slice(ciphertext);
    }

    /// Ends the loan: what is unread is kept.
    fn keep_lent(&mut self) {
        if self.lent_len > 0 {
            // SAFETY: lent memory, and the loan, whose `lend` holds the slice, has not ended.
            let rest = unsafe { std::slice::from_raw_parts(self.lent, self.lent_len) };
            self.keep(rest);
        }
        self.lent = std::ptr::null();
        self.lent_len = 0;
    }

    fn read(&mut self, room: &mut [MaybeUninit<u8>]) -> usize {
        let kept = self.kept.len() - self.kept_read;
        if kept > 0 {
            let count = kept.min(room.len());
            // SAFETY: within `kept`, which is no part of `room`.
            unsafe {
                let source = self.kept.as_ptr().add(self.kept_read);
                source.copy_to_nonoverlapping(room.as_mut_ptr().cast(), count);
            }
            self.kept_read += count;
            if count == kept {
                // No memory stays with a session that has read everything.
                (self.kept, self.kept_read) = (Vec::new(), 0);
            }
            return count;
        }
        let count = self.lent_len.min(room.len());
        if count > 0 {
            // SAFETY: within what is lent and unread, which is no part of `room`.
            unsafe {
                self.lent
                    .copy_to_nonoverlapping(room.as_mut_ptr().cast(), count);
                self.lent = self.lent.add(count);
            }
            self.lent_len -= count;
        }
        count
    }
}

// ---- the buffer ---------------------------------------------------------------------------------

/// A session's buffer in place of the two that it had, which are kept for its way back.
pub struct Attached {
    library: &'static Functions,
    /// One reference to each is ours.
    buffer: NonNull<c_void>,
    old_incoming: NonNull<c_void>,
    old_outgoing: NonNull<c_void>,
    wire: NonNull<Wire>,
    is_attached: Cell<bool>,
}

impl Attached {
    /// Gives `session` a wire in place of its buffers; nothing happens if that is impossible.
    ///
    /// # Safety
    /// `session` is alive, nobody uses it meanwhile, and it began with the two buffers.
    pub unsafe fn new(library: &'static Functions, session: *mut c_void) -> Option<Attached> {
        let kind = kind()?;
        // SAFETY: the caller's session; a new buffer with three references: two for the session,
        // which takes them over and gives its own of the old ones up, and one for us.
        unsafe {
            let old_incoming = NonNull::new((library.incoming)(session))?;
            let old_outgoing = NonNull::new((library.outgoing)(session))?;
            let buffer = NonNull::new((library.buffer_new)(kind.method.as_ptr()))?;
            let wire = NonNull::from(Box::leak(Box::new(Wire::new())));
            (library.buffer_set_data)(buffer.as_ptr(), wire.as_ptr().cast());
            (library.buffer_set_init)(buffer.as_ptr(), 1);
            for kept in [old_incoming, old_outgoing, buffer, buffer] {
                (library.buffer_up_ref)(kept.as_ptr());
            }
            (library.set_incoming)(session, buffer.as_ptr());
            (library.set_outgoing)(session, buffer.as_ptr());
            Some(Attached {
                library,
                buffer,
                old_incoming,
                old_outgoing,
                wire,
                is_attached: Cell::new(true),
            })
        }
    }

    /// The wire.
    #[inline]
    pub fn wire(&self) -> &Wire {
        // SAFETY: it lives as long as our reference to its buffer, and is only ever shared.
        unsafe { self.wire.as_ref() }
    }

    /// Gives `session` its own buffers back, with all that is on the wire in them.
    ///
    /// # Safety
    /// `session` is the one of `new`, and is alive.
    pub unsafe fn give_back(&self, session: *mut c_void) {
        if !self.is_attached.replace(false) {
            return;
        }
        let (incoming, outgoing) = (self.wire().take_incoming(), self.wire().take_outgoing());
        for (buffer, content) in [(self.old_incoming, incoming), (self.old_outgoing, outgoing)] {
            // In pieces, for a length is a C int.
            for piece in content.chunks(1 << 30) {
                let len = c_int::try_from(piece.len()).unwrap_or(0);
                // SAFETY: a buffer of ours to keep alive, and readable memory.
                unsafe { (self.library.buffer_write)(buffer.as_ptr(), piece.as_ptr().cast(), len) };
            }
        }
        // SAFETY: the caller's session; it takes over a reference to each.
        unsafe {
            (self.library.buffer_up_ref)(self.old_incoming.as_ptr());
            (self.library.buffer_up_ref)(self.old_outgoing.as_ptr());
            (self.library.set_incoming)(session, self.old_incoming.as_ptr());
            (self.library.set_outgoing)(session, self.old_outgoing.as_ptr());
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        for buffer in [self.buffer, self.old_incoming, self.old_outgoing] {
            // SAFETY: our reference; what is freed with the last one runs no Python.
            unsafe { (self.library.buffer_free)(buffer.as_ptr()) };
        }
    }
}

/// The wire of a buffer of our kind.
///
/// # Safety
/// `buffer` is one, and alive for `'a`.
unsafe fn wire_of<'a>(buffer: *mut c_void) -> Option<(&'static Kind, &'a Wire)> {
    let kind = kind()?;
    // SAFETY: the caller's buffer; its data is a wire, or null before `Attached::new` put it there.
    unsafe { Some((kind, (kind.data)(buffer).cast::<Wire>().as_ref()?)) }
}

/// OpenSSL reads: 1, or -1 to be asked again.
///
/// # Safety
/// A callback for `BIO_meth_set_read_ex`.
unsafe extern "C" fn read(
    buffer: *mut c_void,
    target: *mut c_char,
    len: usize,
    got: *mut usize,
) -> c_int {
    // SAFETY: OpenSSL passes a buffer of our kind.
    let Some((kind, wire)) = (unsafe { wire_of(buffer) }) else {
        return 0;
    };
    // SAFETY: as above; writable memory of that size, and a place for the count.
    unsafe {
        (kind.clear_flags)(buffer, RETRY_FLAGS);
        let room = std::slice::from_raw_parts_mut(target.cast::<MaybeUninit<u8>>(), len);
        *got = wire.read(room);
        if *got == 0 {
            (kind.set_flags)(buffer, RETRY_READ);
            return -1;
        }
    }
    1
}

/// OpenSSL writes: 1, or -1 if there is no memory.
///
/// # Safety
/// A callback for `BIO_meth_set_write_ex`.
unsafe extern "C" fn write(
    buffer: *mut c_void,
    source: *const c_char,
    len: usize,
    put: *mut usize,
) -> c_int {
    // SAFETY: OpenSSL passes a buffer of our kind.
    let Some((kind, wire)) = (unsafe { wire_of(buffer) }) else {
        return 0;
    };
    // SAFETY: as above; readable memory of that size, and a place for the count.
    unsafe {
        (kind.clear_flags)(buffer, RETRY_FLAGS);
        if !wire.write(std::slice::from_raw_parts(source.cast::<u8>(), len)) {
            return -1;
        }
        *put = len;
    }
    1
}

/// OpenSSL asks or tells; what is not known is answered with 0.
///
/// # Safety
/// A callback for `BIO_meth_set_ctrl`.
unsafe extern "C" fn ctrl(
    buffer: *mut c_void,
    what: c_int,
    _number: c_long,
    _pointer: *mut c_void,
) -> c_long {
    // SAFETY: OpenSSL passes a buffer of our kind.
    let Some((_, wire)) = (unsafe { wire_of(buffer) }) else {
        return 0;
    };
    let size = |len| c_long::try_from(len).unwrap_or(c_long::MAX);
    match what {
        FLUSH | DUP => 1,
        EOF => (wire.incoming_len() == 0).into(),
        PENDING => size(wire.incoming_len()),
        UNSENT => size(wire.outgoing_len()),
        _ => 0,
    }
}

/// The last reference goes.
///
/// # Safety
/// A callback for `BIO_meth_set_destroy`.
unsafe extern "C" fn destroy(buffer: *mut c_void) -> c_int {
    // SAFETY: OpenSSL passes a buffer of our kind; its wire was leaked by `Attached::new`, and
    // nobody else has a reference to either.
    unsafe {
        if let Some((_, wire)) = wire_of(buffer) {
            drop(Box::from_raw(std::ptr::from_ref(wire).cast_mut()));
        }
    }
    1
}
