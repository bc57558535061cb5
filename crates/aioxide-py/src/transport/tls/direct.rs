//! Whether the library that Python's `_ssl` has loaded can be called directly, found out once.
//!
//! Duty: look at the platform and the library, then rehearse on sessions of our own what is relied
//! on: that a session is found, that its buffers are the `MemoryBIO`s it was given, and that the
//! methods of `_ssl` report a failure of ours as if it were theirs. May touch: the `ssl` module and
//! the environment. Invariant: where one of these is not so, everything goes through Python's
//! objects, and nothing but speed is lost.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::ffi::CString;
use std::mem::MaybeUninit;

use super::engine::{Engine, Ssl};
use crate::ffi::call::{import, int, text};
use crate::ffi::object::none;
use crate::ffi::openssl::{Library, Outcome};
use crate::ffi::{Obj, R, Ref, bytes};
use crate::state::state;

/// Set to `0` where everything is to go through Python's objects.
const SWITCH: &str = "AIOXIDE_DIRECT_TLS";

/// What is known of the library.
#[derive(Clone, Copy, Default)]
enum Finding {
    #[default]
    NotLooked,
    /// It can be called directly.
    Direct(&'static Library),
    No,
}

/// The finding, for this process.
#[derive(Default)]
pub struct Direct(Cell<Finding>);

impl Direct {
    /// The library, if sessions may be driven directly. The first call looks.
    pub fn library(&self, ssl: &Ssl) -> Option<&'static Library> {
        match self.0.get() {
            Finding::Direct(library) => Some(library),
            Finding::No => None,
            Finding::NotLooked => {
                // A session that begins meanwhile, on another thread, is not driven directly.
                self.0.set(Finding::No);
                let found = look(ssl).unwrap_or_else(|raised| {
                    raised.clear();
                    None
                });
                self.0.set(found.map_or(Finding::No, Finding::Direct));
                found
            }
        }
    }
}

/// Looks, and rehearses.
fn look(ssl: &Ssl) -> R<Option<&'static Library>> {
    // Without a GIL nothing keeps two threads from one session.
    if cfg!(Py_GIL_DISABLED) || !cfg!(target_os = "linux") {
        return Ok(None);
    }
    if std::env::var_os(SWITCH).is_some_and(|value| value == "0") {
        return Ok(None);
    }
    // Others share the names of the functions, and promise less about them.
    let version = text(ssl.module.obj().getattr_str(c"OPENSSL_VERSION")?.obj())?;
    if !version.starts_with("OpenSSL 3.") {
        return Ok(None);
    }
    // Built in, it may be bound to anything.
    let path = import(c"_ssl")?.obj().getattr_str(c"__file__")?;
    let Ok(path) = CString::new(text(path.obj())?) else {
        return Ok(None);
    };
    let Some(library) = Library::of_module(&path) else {
        return Ok(None);
    };
    Ok(rehearse(ssl, library)?.then_some(library))
}

/// A record with an empty ClientHello, which no server says: a session that reads it is in error
/// for good, as one is that data broke.
const WRONG_HELLO: &[u8] = b"\x16\x03\x01\x00\x04\x01\x00\x00\x00";

/// How a session is asked.
#[derive(Clone, Copy)]
enum Asked {
    Read,
    Write,
}

/// Whether reading and writing fail in the same words if we fail first.
fn rehearse(ssl: &Ssl, library: &'static Library) -> R<bool> {
    for asked in [Asked::Read, Asked::Write] {
        let (alone, behind_us) = (
            failure(ssl, None, asked)?,
            failure(ssl, Some(library), asked)?,
        );
        let (Some(alone), Some(behind_us)) = (alone, behind_us) else {
            return Ok(false);
        };
        let same_type = alone.obj().type_obj().is(behind_us.obj().type_obj());
        let args = c"args";
        let (left, right) = (
            alone.obj().getattr_str(args)?,
            behind_us.obj().getattr_str(args)?,
        );
        let reason = c"reason";
        let named = !alone.obj().getattr_str(reason)?.obj().is_none();
        if !same_type || !named || !left.obj().equals(right.obj())? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The SSLError of a client session that was told the wrong thing, as `_ssl`'s method raises it;
/// with a library, after the same call of ours. `None` if anything is not as it should be.
fn failure(ssl: &Ssl, library: Option<&'static Library>, asked: Asked) -> R<Option<Ref>> {
    let kind = ssl.module.obj().getattr_str(c"PROTOCOL_TLS_CLIENT")?;
    let context = ssl
        .module
        .obj()
        .getattr_str(c"SSLContext")?
        .obj()
        .call1(kind.obj())?;
    let off = int(0)?;
    for name in [c"check_hostname", c"verify_mode"] {
        let name = crate::ffi::call::interned(name)?;
        context.obj().setattr(name.obj(), off.obj())?;
    }
    let engine = Engine::default();
    engine.open_with(ssl, library, context.obj(), false, none())?;
    if library.is_some() != engine.is_native() {
        return Ok(None);
    }
    engine.feed(WRONG_HELLO)?;
    if library.is_some() {
        let outcome = match asked {
            Asked::Read => engine.session().read(&mut [MaybeUninit::uninit(); 1]),
            Asked::Write => engine.session().write(b"?"),
        };
        if outcome != Outcome::Ask {
            return Ok(None);
        }
    }
    let names = &state().names;
    let answer = match asked {
        Asked::Read => {
            let one = int(1)?;
            engine
                .driven()
                .obj()
                .call_method1(names.read.obj(), one.obj())
        }
        Asked::Write => {
            let data = bytes::new(b"?")?;
            engine
                .driven()
                .obj()
                .call_method1(names.write.obj(), data.obj())
        }
    };
    match answer {
        Err(raised) if raised.matches(ssl.error.ptr()) => Ok(Some(raised.take())),
        Err(raised) => Err(raised),
        Ok(_) => Ok(None),
    }
}

/// Whether `context` may want to hear of messages: then its exceptions are `_ssl`'s to raise.
pub fn has_listener(context: Obj<'_>) -> R<bool> {
    let listener = context.getattr_opt(state().names._msg_callback.obj())?;
    Ok(listener.is_none_or(|listener| !listener.obj().is_none()))
}
