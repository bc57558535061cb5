//! Sessions of OpenSSL as they begin: how the session of one of `_ssl`'s objects is found.
//!
//! Duty: remember the sessions that begin on a thread that watches, until they end or the watch
//! does. May touch: the addresses, and a session that has not ended. OpenSSL calls in here, on any
//! thread, with or without the GIL.

use std::cell::Cell;
use std::ffi::{c_int, c_long, c_void};
use std::ptr::NonNull;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// A session that began on a thread that watches.
///
/// A lock would be copied by a fork while somebody holds it: OpenSSL makes sessions without the
/// GIL. So the entries are claimed and given back by their thread alone, and a session that ends
/// takes itself out, unless it is just looked at: then it waits for these few instructions.
struct Entry {
    /// The thread that claimed it; 0 if nobody did.
    thread: AtomicUsize,
    /// The session's address while it lives, or 0; with `LOOKED_AT` while it must not end.
    session: AtomicUsize,
}

/// A thread rarely watches more than one session at a time, and what finds no entry goes without.
static ENTRIES: [Entry; 16] = [const {
    Entry {
        thread: AtomicUsize::new(0),
        session: AtomicUsize::new(0),
    }
}; 16];

/// Sessions are aligned allocations: the lowest bit is free.
const LOOKED_AT: usize = 1;

thread_local! {
    /// How many `watch` calls of this thread are under way. Its address stands for the thread.
    static WATCHES: Cell<u32> = const { Cell::new(0) };
}

fn this_thread() -> usize {
    WATCHES.with(|watches| std::ptr::from_ref(watches).addr())
}

/// OpenSSL made a session, on this thread.
///
/// # Safety
/// A callback for `CRYPTO_get_ex_new_index`: called for sessions only.
pub unsafe extern "C" fn begun(
    session: *mut c_void,
    _value: *mut c_void,
    _data: *mut c_void,
    _index: c_int,
    _argl: c_long,
    _argp: *mut c_void,
) {
    if WATCHES.get() == 0 {
        return;
    }
    let thread = this_thread();
    let claim = |entry: &&Entry| {
        let claimed = entry.thread.compare_exchange(0, thread, AcqRel, Relaxed);
        claimed.is_ok()
    };
    if let Some(entry) = ENTRIES.iter().find(claim) {
        entry.session.store(session.expose_provenance(), Release);
    }
}

/// OpenSSL is about to free a session, on any thread.
///
/// # Safety
/// As above.
pub unsafe extern "C" fn ended(
    session: *mut c_void,
    _value: *mut c_void,
    _data: *mut c_void,
    _index: c_int,
    _argl: c_long,
    _argp: *mut c_void,
) {
    let session = session.addr();
    for entry in &ENTRIES {
        while entry.session.load(Relaxed) & !LOOKED_AT == session {
            let removed = entry.session.compare_exchange(session, 0, AcqRel, Relaxed);
            if removed.is_ok() {
                break;
            }
            std::hint::spin_loop();
        }
    }
}

/// While it lives, the sessions that begin on this thread are remembered.
pub struct Watch(());

impl Watch {
    /// Begins to watch. Watches may lie within one another.
    pub fn new() -> Watch {
        WATCHES.set(WATCHES.get() + 1);
        Watch(())
    }

    /// The session that began on this thread, has not ended, and of which `is_it` holds. `is_it`
    /// only looks at the session, and ends none.
    pub fn find(&self, is_it: impl Fn(*mut c_void) -> bool) -> Option<NonNull<c_void>> {
        let thread = this_thread();
        ENTRIES.iter().find_map(|entry| {
            if entry.thread.load(Relaxed) != thread {
                return None;
            }
            let address = entry.session.load(Acquire);
            let looked_at = address | LOOKED_AT;
            let look = entry
                .session
                .compare_exchange(address, looked_at, AcqRel, Relaxed);
            if look.is_err() {
                return None;
            }
            // It does not end until the mark is taken away, and it began on this very thread: it
            // is whole.
            let session = NonNull::new(std::ptr::with_exposed_provenance_mut::<c_void>(address));
            let found = session.filter(|session| is_it(session.as_ptr()));
            entry.session.store(address, Release);
            found
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHES.set(WATCHES.get() - 1);
        if WATCHES.get() > 0 {
            return;
        }
        let thread = this_thread();
        for entry in &ENTRIES {
            if entry.thread.load(Relaxed) == thread {
                entry.session.store(0, Release);
                entry.thread.store(0, Release);
            }
        }
    }
}
