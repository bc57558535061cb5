//! The OpenSSL that Python's `_ssl` has loaded, and the sessions of `_ssl`'s objects in it.
//!
//! Duty: call the public functions of that very library on the session (`SSL*`) that a C object
//! of `_ssl` owns. No other library is loaded or linked, no memory of `_ssl`'s objects is read: a
//! session is learned from OpenSSL itself, which reports each new one to whoever has registered
//! for it, and it is known to be an object's by the object's address, which `_ssl` keeps with it.
//!
//! Invariants: a session is touched only while a reference to its owner is held, with the GIL held
//! (so that no method of the owner runs meanwhile on this thread, and none starts on another), and
//! by one call at a time. Whatever is neither done nor in want of more input is `Outcome::Ask`: the
//! error queue stays as it is, and the owner's own method is asked to say what happened.
//!
//! *Source*: OpenSSL's manual pages of the functions named in `Functions`.

use std::cell::{Cell, OnceCell};
use std::ffi::{CStr, c_char, c_int, c_long, c_ulong, c_void};
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null_mut};

use super::error::R;
use super::object::{Ref, Slot};
use super::openssl_watch::{Watch, begun, ended};
pub use super::openssl_wire::Wire;
use super::openssl_wire::{self, Attached};
use super::park::calling;

/// What a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// So many bytes; never none.
    Done(usize),
    /// More ciphertext is needed.
    Again,
    /// An end or an error, or this session may not be driven now: the owner's own method knows.
    Ask,
}

/// `SSL_ERROR_WANT_READ`.
const WANT_READ: c_int = 2;

/// `CRYPTO_EX_INDEX_SSL`: data of users that sessions carry.
const EX_INDEX_SSL: c_int = 0;

/// Where `SSL_set_app_data` puts what `_ssl` says: the owner's address.
const APP_DATA: c_int = 0;

/// `TLS1_3_VERSION`.
const TLS_1_3: c_int = 0x0304;

type Callback = unsafe extern "C" fn(
    parent: *mut c_void,
    value: *mut c_void,
    data: *mut c_void,
    index: c_int,
    argl: c_long,
    argp: *mut c_void,
);

macro_rules! functions {
    ($($field:ident = $name:literal: fn($($arg:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions used, by their C names. Some call back into Python.
        pub(super) struct Functions {
            $(pub(super) $field: unsafe extern "C-unwind" fn($($arg),*) $(-> $result)?,)*
        }

        impl Functions {
            /// Looks all of them up in the library `handle` and what it depends on; `None` if one
            /// is missing, or if the process has another one that `_ssl` may be bound to.
            fn look_up(handle: NonNull<c_void>) -> Option<Functions> {
                Some(Functions {
                    $($field: {
                        let found = find(handle, $name)?;
                        // SAFETY: a function of that name has this signature in every OpenSSL 3.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C-unwind" fn($($arg),*) $(-> $result)?,
                            >(found)
                        }
                    },)*
                })
            }
        }
    };
}

functions! {
    read = c"SSL_read_ex": fn(*mut c_void, *mut c_void, usize, *mut usize) -> c_int;
    write = c"SSL_write_ex": fn(*mut c_void, *const c_void, usize, *mut usize) -> c_int;
    get_error = c"SSL_get_error": fn(*const c_void, c_int) -> c_int;
    pending = c"SSL_pending": fn(*const c_void) -> c_int;
    version = c"SSL_version": fn(*const c_void) -> c_int;
    app_data = c"SSL_get_ex_data": fn(*const c_void, c_int) -> *mut c_void;
    context = c"SSL_get_SSL_CTX": fn(*const c_void) -> *mut c_void;
    incoming = c"SSL_get_rbio": fn(*const c_void) -> *mut c_void;
    outgoing = c"SSL_get_wbio": fn(*const c_void) -> *mut c_void;
    keylog = c"SSL_CTX_get_keylog_callback": fn(*const c_void) -> *mut c_void;
    buffer_write = c"BIO_write": fn(*mut c_void, *const c_void, c_int) -> c_int;
    buffer_read = c"BIO_read": fn(*mut c_void, *mut c_void, c_int) -> c_int;
    buffer_len = c"BIO_ctrl_pending": fn(*mut c_void) -> usize;
    buffer_new = c"BIO_new": fn(*const c_void) -> *mut c_void;
    buffer_up_ref = c"BIO_up_ref": fn(*mut c_void) -> c_int;
    buffer_free = c"BIO_free": fn(*mut c_void) -> c_int;
    buffer_data = c"BIO_get_data": fn(*mut c_void) -> *mut c_void;
    buffer_set_data = c"BIO_set_data": fn(*mut c_void, *mut c_void);
    buffer_set_init = c"BIO_set_init": fn(*mut c_void, c_int);
    buffer_set_flags = c"BIO_set_flags": fn(*mut c_void, c_int);
    buffer_clear_flags = c"BIO_clear_flags": fn(*mut c_void, c_int);
    buffer_index = c"BIO_get_new_index": fn() -> c_int;
    kind_new = c"BIO_meth_new": fn(c_int, *const c_char) -> *mut c_void;
    kind_set_read = c"BIO_meth_set_read_ex": fn(*mut c_void, *mut c_void) -> c_int;
    kind_set_write = c"BIO_meth_set_write_ex": fn(*mut c_void, *mut c_void) -> c_int;
    kind_set_ctrl = c"BIO_meth_set_ctrl": fn(*mut c_void, *mut c_void) -> c_int;
    kind_set_destroy = c"BIO_meth_set_destroy": fn(*mut c_void, *mut c_void) -> c_int;
    set_incoming = c"SSL_set0_rbio": fn(*mut c_void, *mut c_void);
    set_outgoing = c"SSL_set0_wbio": fn(*mut c_void, *mut c_void);
    peek_error = c"ERR_peek_error": fn() -> c_ulong;
    clear_errors = c"ERR_clear_error": fn();
    new_index = c"CRYPTO_get_ex_new_index": fn(
        c_int, c_long, *mut c_void, Option<Callback>, *mut c_void, Option<Callback>
    ) -> c_int;
}

fn find(handle: NonNull<c_void>, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: an open handle and a C string.
    let found = unsafe { libc::dlsym(handle.as_ptr(), name.as_ptr()) };
    // SAFETY: a C string; looks in what every library of the process is bound to first.
    let global = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null() && (global.is_null() || global == found)).then_some(found)
}

/// The library.
pub struct Library(pub(super) Functions);

impl Library {
    /// The library that the extension module at `path` is bound to; `None` unless the module is
    /// loaded already and all that is needed is there. Once per process: OpenSSL keeps a
    /// registration for good.
    pub fn of_module(path: &CStr) -> Option<&'static Library> {
        let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD;
        // SAFETY: a C string; nothing is loaded. The handle is kept: the module stays.
        let handle = NonNull::new(unsafe { libc::dlopen(path.as_ptr(), flags) })?;
        let functions = Functions::look_up(handle)?;
        if !openssl_wire::prepare(&functions) {
            return None;
        }
        let (none, argl) = (null_mut(), 0);
        // SAFETY: both callbacks are of this library, which is never unloaded.
        let index = calling(|| unsafe {
            (functions.new_index)(EX_INDEX_SSL, argl, none, Some(begun), none, Some(ended))
        });
        (index >= 0).then(|| &*Box::leak(Box::new(Library(functions))))
    }
}

// ---- a session ----------------------------------------------------------------------------------

/// The session of an object of `_ssl`'s, or none.
#[derive(Default)]
pub struct Session {
    /// The object. What follows means something only while it is here.
    owner: Slot,
    session: Cell<Option<(&'static Library, NonNull<c_void>)>>,
    /// Its ciphertext, once it has a wire; with one it stays for good.
    attached: OnceCell<Attached>,
    /// A call is under way: a callback of the user's runs in it.
    is_busy: Cell<bool>,
    /// The library may report keys while data flows. `_ssl` then keeps what goes wrong about it in
    /// the owner, for the owner's method to raise.
    may_log_keys: Cell<bool>,
}

/// A session in use: its owner is alive.
struct Live {
    library: &'static Functions,
    session: *mut c_void,
    _owner: Ref,
}

impl Session {
    /// Runs `make`, which returns what it made and its owner-to-be, and takes the owner's session
    /// if it began in there.
    pub fn find<T>(
        &self,
        library: &'static Library,
        make: impl FnOnce() -> R<T>,
        owner: impl FnOnce(&T) -> R<Option<Ref>>,
    ) -> R<T> {
        let watch = Watch::new();
        let made = make()?;
        if let Some(owner) = owner(&made)? {
            let is_owners = |session: *mut c_void| {
                // SAFETY: a session that has not ended, and does not meanwhile.
                let data = unsafe { (library.0.app_data)(session, APP_DATA) };
                data == owner.ptr().cast()
            };
            if let Some(session) = watch.find(is_owners) {
                // `_ssl` notes an object in its own session alone, and frees that with the object:
                // from here on the owner keeps it alive.
                self.session.set(Some((library, session)));
                self.may_log_keys.set(true);
                self.owner.set(Some(owner));
            }
        }
        drop(watch);
        Ok(made)
    }

    /// Lets go: the session is its owner's alone again, with the buffers that it began with.
    pub fn forget(&self) {
        if let (Some(live), Some(attached)) = (self.live(), self.attached.get()) {
            // SAFETY: the session that was given the wire, alive.
            unsafe { attached.give_back(live.session) };
        }
        self.owner.clear();
    }

    /// Puts a wire in place of the session's buffers, which nobody used yet.
    pub fn attach(&self) -> bool {
        let Some(live) = self.live().filter(|_| !self.is_used()) else {
            return false;
        };
        // SAFETY: a live session that was just made, with buffers as `try_buffers` found them.
        let made = unsafe { Attached::new(live.library, live.session) };
        made.is_some_and(|made| self.attached.set(made).is_ok())
    }

    /// Whether a session was driven before: the next one is not.
    pub fn is_used(&self) -> bool {
        self.attached.get().is_some()
    }

    /// The ciphertext of a session that is driven.
    #[inline]
    pub fn wire(&self) -> Option<&Wire> {
        if self.is_found() {
            self.attached.get().map(Attached::wire)
        } else {
            None
        }
    }

    /// The field that holds the owner, for the collector.
    pub fn slot(&self) -> &Slot {
        &self.owner
    }

    /// Whether there is a session.
    pub fn is_found(&self) -> bool {
        !self.owner.is_empty()
    }

    fn live(&self) -> Option<Live> {
        let owner = self.owner.get()?;
        let (library, session) = self.session.get()?;
        Some(Live {
            library: &library.0,
            session: session.as_ptr(),
            _owner: owner,
        })
    }

    /// The handshake is done: from TLS 1.3 on there is no other.
    pub fn note_established(&self) {
        if let Some(live) = self.live() {
            // SAFETY: a live session.
            let version = unsafe { (live.library.version)(live.session) };
            self.may_log_keys.set(version < TLS_1_3);
        }
    }

    /// Decrypts into `room`: what is written is `Done`'s first bytes of it.
    pub fn read(&self, room: &mut [MaybeUninit<u8>]) -> Outcome {
        self.drive(|live, len| {
            let target = room.as_mut_ptr().cast();
            // SAFETY: a live session, and memory of that size to write to.
            unsafe { (live.library.read)(live.session, target, room.len(), len) }
        })
    }

    /// Encrypts the front of `plaintext`.
    pub fn write(&self, plaintext: &[u8]) -> Outcome {
        self.drive(|live, len| {
            let source = plaintext.as_ptr().cast();
            // SAFETY: a live session, and memory of that size to read from.
            unsafe { (live.library.write)(live.session, source, plaintext.len(), len) }
        })
    }

    fn drive(&self, call: impl FnOnce(&Live, &mut usize) -> c_int) -> Outcome {
        let Some(live) = self.live() else {
            return Outcome::Ask;
        };
        if self.may_log_keys.get() && live.logs_keys() {
            return Outcome::Ask;
        }
        if self.is_busy.replace(true) {
            return Outcome::Again;
        }
        let mut len = 0;
        let outcome = calling(|| {
            // SAFETY: functions of the thread's own queue. What somebody else left in it would be
            // taken for an error of this call.
            unsafe {
                if (live.library.peek_error)() != 0 {
                    (live.library.clear_errors)();
                }
            }
            let status = call(&live, &mut len);
            if status > 0 {
                return Outcome::Done(len);
            }
            // SAFETY: the same session, directly after the call, on the same thread.
            match unsafe { (live.library.get_error)(live.session, status) } {
                WANT_READ => Outcome::Again,
                _ => Outcome::Ask,
            }
        });
        self.is_busy.set(false);
        outcome
    }

    /// Whether there is neither unread ciphertext nor a decrypted rest.
    pub fn is_drained(&self) -> Option<bool> {
        let live = self.live()?;
        let unread = self.wire()?.incoming_len();
        // SAFETY: a live session.
        Some(unread == 0 && unsafe { (live.library.pending)(live.session) } <= 0)
    }

    /// Whether the session reads from `incoming` and writes to `outgoing`, as tried with a byte
    /// before anything else went through them.
    pub fn try_buffers(
        &self,
        put: impl FnOnce(&[u8]) -> R<()>,
        outgoing_len: impl FnOnce() -> R<usize>,
    ) -> R<bool> {
        let Some(live) = self.live() else {
            return Ok(false);
        };
        let (incoming, outgoing) = (live.incoming(), live.outgoing());
        let len = live.library.buffer_len;
        // SAFETY: the session's own buffers, if it has any: the functions take a null pointer too.
        if incoming == outgoing || unsafe { len(incoming) + len(outgoing) } > 0 {
            return Ok(false);
        }
        put(b"i")?;
        let mut byte = 0u8;
        let place = (&raw mut byte).cast::<c_void>();
        // SAFETY: as above; one byte of memory.
        let came = unsafe { (live.library.buffer_read)(incoming, place, 1) } == 1 && byte == b'i';
        if !came {
            return Ok(false);
        }
        // SAFETY: as above.
        let put = unsafe { (live.library.buffer_write)(outgoing, place, 1) } == 1;
        let seen = outgoing_len()? == 1;
        // SAFETY: as above.
        let back = unsafe { (live.library.buffer_read)(outgoing, place, 1) } == 1;
        Ok(put && seen && back)
    }
}

impl Live {
    fn incoming(&self) -> *mut c_void {
        // SAFETY: a live session.
        unsafe { (self.library.incoming)(self.session) }
    }

    fn outgoing(&self) -> *mut c_void {
        // SAFETY: a live session.
        unsafe { (self.library.outgoing)(self.session) }
    }

    fn logs_keys(&self) -> bool {
        // SAFETY: a live session, which keeps its context.
        unsafe {
            let context = (self.library.context)(self.session);
            !(self.library.keylog)(context).is_null()
        }
    }
}
