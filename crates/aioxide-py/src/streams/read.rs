//! The coroutines of a stream reader, and two of them: `read` and `readexactly`.
//!
//! Duty: each is an attempt that gives the result or asks to wait for more, and is made again when
//! more has come. May touch: the reader. A subclass's `_wait_for_data` and `read` are called
//! where asyncio calls them.
#![forbid(unsafe_code)]

use super::life::own;
use super::reader::{self, Reader, check_exception, is_plain, resume_if_read};
use super::until;
use crate::ffi::call::{int, list, string};
use crate::ffi::{Obj, R, Raised, Ref, Signature, builtin, bytes, sequence};
use crate::state::state;
use crate::sync::coroutine::{self, Frame, Kind, Next, Resumed};
use crate::sync::function::{Call, Function};

// ---- waiting ------------------------------------------------------------------------------------

/// Every coroutine's first slot: the reader.
pub const READER: usize = 0;
/// The second: the argument.
pub const ARGUMENT: usize = 1;
/// The blocks that `read(-1)` has read.
const BLOCKS: usize = 2;

/// Stages. The body's own first call is `BEGIN`.
pub const BEGIN: u8 = 0;
/// The body itself waits in `reader._waiter`.
pub const WAITS: u8 = 1;
/// A method of a subclass waits.
pub const CALLED: u8 = 2;

/// What an attempt gave.
pub enum Attempt {
    /// The result.
    Done(Ref),
    /// More is needed.
    Wait,
}

/// Waits for more data.
pub fn wait(frame: &Frame, reader: Obj<'_>, this: &Reader, method: &str) -> R<Next> {
    if is_plain(reader) {
        let waiter = reader::begin_waiting(this, method)?;
        frame.stage.set(WAITS);
        return Ok(Next::Await(waiter));
    }
    frame.stage.set(CALLED);
    let method = string(method)?;
    let waiting = reader.call_method1(state().names._wait_for_data.obj(), method.obj())?;
    Ok(Next::Await(waiting))
}

/// What every body does first when it goes on after waiting.
pub fn waited(frame: &Frame, this: &Reader, resumed: Resumed) -> R<Ref> {
    if frame.stage.get() == WAITS {
        this.waiter.clear();
    }
    resumed.value()
}

/// Goes on with attempts: at the beginning, and whenever more has come.
pub fn attempt_again(
    frame: &Frame,
    resumed: Resumed,
    method: &str,
    attempt: fn(&Frame, Obj<'_>, &Reader) -> R<Attempt>,
) -> R<Next> {
    let reader = frame.slots[READER].get_or_none();
    let this: &Reader = own(reader.obj());
    if frame.stage.get() != BEGIN {
        drop(waited(frame, this, resumed)?);
    }
    match attempt(frame, reader.obj(), this)? {
        Attempt::Done(result) => Ok(Next::Return(result)),
        Attempt::Wait => wait(frame, reader.obj(), this, method),
    }
}

/// `_wait_for_data(func_name)`.
pub static WAIT_FOR_DATA: Function = Function {
    name: "_wait_for_data",
    qualname: "StreamReader._wait_for_data",
    signature: "(self, func_name)",
    doc: "Waits until something is fed; resumes a paused transport.",
    call: Call::Method(|reader, args| {
        const SIGNATURE: Signature = signature("_wait_for_data", &["func_name"], 1);
        let [name] = args.bind_python::<1>(&SIGNATURE)?;
        coroutine::create(&KIND_WAIT, [Some(reader.to_ref()), name.map(Obj::to_ref)])
    }),
};

static KIND_WAIT: Kind = Kind {
    name: "_wait_for_data",
    qualname: "StreamReader._wait_for_data",
    body: |frame, resumed| {
        let reader = frame.slots[READER].get_or_none();
        let this: &Reader = own(reader.obj());
        if frame.stage.get() != BEGIN {
            return waited(frame, this, resumed).map(Next::Return);
        }
        let name = frame.slots[ARGUMENT].get_or_none().obj().str()?;
        let name = crate::ffi::call::text(name.obj())?;
        let waiter = reader::begin_waiting(this, &name)?;
        frame.stage.set(WAITS);
        Ok(Next::Await(waiter))
    },
    quick: None,
};

pub const fn signature(
    name: &'static str,
    params: &'static [&'static str],
    required: usize,
) -> Signature {
    Signature {
        name,
        params,
        positional: params.len(),
        required,
    }
}

// ---- read ---------------------------------------------------------------------------------------

/// `read(n=-1)`.
pub static READ: Function = Function {
    name: "read",
    qualname: "StreamReader.read",
    signature: "(self, n=-1)",
    doc: "Reads up to n bytes, at least one unless at the end; all until the end by default.",
    call: Call::Method(|reader, args| {
        const SIGNATURE: Signature = signature("read", &["n"], 0);
        let [len] = args.bind_python::<1>(&SIGNATURE)?;
        coroutine::create(&KIND_READ, [Some(reader.to_ref()), len.map(Obj::to_ref)])
    }),
};

static KIND_READ: Kind = Kind {
    name: "read",
    qualname: "StreamReader.read",
    body: read,
    quick: None,
};

fn read(frame: &Frame, resumed: Resumed) -> R<Next> {
    let reader = frame.slots[READER].get_or_none();
    let this: &Reader = own(reader.obj());
    if frame.stage.get() != BEGIN {
        let value = waited(frame, this, resumed)?;
        if !frame.slots[BLOCKS].is_empty() {
            let called = frame.stage.get() == CALLED;
            return read_on(frame, reader.obj(), this, called.then_some(value));
        }
        let len = usize::try_from(frame.number.get()).unwrap_or(0);
        return finish_read(reader.obj(), this, len).map(Next::Return);
    }
    check_exception(this)?;
    let len = match frame.slots[ARGUMENT].get() {
        Some(len) => length(len.obj())?,
        None => -1,
    };
    frame.number.set(len);
    match usize::try_from(len) {
        Ok(0) => bytes::new(b"").map(Next::Return),
        Ok(len) => {
            this.asked.set(len);
            if this.eof.get() || this.len() > 0 {
                return finish_read(reader.obj(), this, len).map(Next::Return);
            }
            wait(frame, reader.obj(), this, "read")
        }
        Err(_) => {
            frame.slots[BLOCKS].set(Some(list(&[])?));
            read_all(frame, reader.obj(), this)
        }
    }
}

/// A length that Python code gave; TypeError for what cannot be one.
fn length(len: Obj<'_>) -> R<i64> {
    if !len.is_int() {
        // Compared first, as asyncio does: most types say no in their own words.
        sequence::is_less(len, int(0)?.obj())?;
        return len.to_i64();
    }
    builtin::saturating_i64(len)
}

pub fn finish_read(reader: Obj<'_>, this: &Reader, len: usize) -> R<Ref> {
    let data = this.take(len)?;
    resume_if_read(reader, this)?;
    Ok(data)
}

/// `read(-1)`: blocks of the limit's size until there are no more. A subclass's `read` is asked.
fn read_all(frame: &Frame, reader: Obj<'_>, this: &Reader) -> R<Next> {
    if is_plain(reader) {
        check_exception(this)?;
        if this.eof.get() || this.len() > 0 {
            return read_on(frame, reader, this, None);
        }
        return wait(frame, reader, this, "read");
    }
    frame.stage.set(CALLED);
    let limit = reader.getattr(state().names._limit.obj())?;
    let block = reader.call_method1(state().names.read.obj(), limit.obj())?;
    Ok(Next::Await(block))
}

/// Adds a block, and goes on. `read`: what a subclass's `read` gave.
fn read_on(frame: &Frame, reader: Obj<'_>, this: &Reader, read: Option<Ref>) -> R<Next> {
    let mut block = read;
    // Who goes on after waiting takes what is there, as the `read` that waited would.
    let mut checks = false;
    loop {
        let next = match block.take() {
            Some(next) => next,
            None => {
                if std::mem::replace(&mut checks, true) {
                    check_exception(this)?;
                }
                let limit = usize::try_from(this.limit_bytes.get()).unwrap_or(usize::MAX);
                finish_read(reader, this, limit)?
            }
        };
        let blocks = frame.slots[BLOCKS].get_or_none();
        if !next.obj().is_true()? {
            let empty = bytes::new(b"")?;
            let join = empty.obj().getattr_str(c"join")?;
            return join.obj().call1(blocks.obj()).map(Next::Return);
        }
        sequence::append(blocks.obj(), next.obj())?;
        if !is_plain(reader) || !(this.eof.get() || this.len() > 0) {
            return read_all(frame, reader, this);
        }
    }
}

// ---- readexactly --------------------------------------------------------------------------------

/// `readexactly(n)`.
pub static READEXACTLY: Function = Function {
    name: "readexactly",
    qualname: "StreamReader.readexactly",
    signature: "(self, n)",
    doc: "Reads exactly n bytes; IncompleteReadError if the end comes first.",
    call: Call::Method(|reader, args| {
        const SIGNATURE: Signature = signature("readexactly", &["n"], 1);
        let [len] = args.bind_python::<1>(&SIGNATURE)?;
        let locals = [Some(reader.to_ref()), len.map(Obj::to_ref)];
        coroutine::create(&KIND_READEXACTLY, locals)
    }),
};

static KIND_READEXACTLY: Kind = Kind {
    name: "readexactly",
    qualname: "StreamReader.readexactly",
    body: |frame, resumed| attempt_again(frame, resumed, "readexactly", try_readexactly),
    quick: None,
};

fn try_readexactly(frame: &Frame, reader: Obj<'_>, this: &Reader) -> R<Attempt> {
    if frame.stage.get() == BEGIN {
        let len = length(frame.slots[ARGUMENT].get_or_none().obj())?;
        if len < 0 {
            return Err(Raised::value_error(
                "readexactly size can not be less than zero",
            ));
        }
        check_exception(this)?;
        frame.number.set(len);
    }
    let len = usize::try_from(frame.number.get()).unwrap_or(0);
    if len == 0 {
        return bytes::new(b"").map(Attempt::Done);
    }
    if this.len() >= len {
        return finish_read(reader, this, len).map(Attempt::Done);
    }
    if this.eof.get() {
        let wanted = frame.slots[ARGUMENT].get_or_none();
        return Err(incomplete(this.take(usize::MAX)?.obj(), wanted.obj()));
    }
    Ok(Attempt::Wait)
}

pub fn incomplete(partial: Obj<'_>, expected: Obj<'_>) -> Raised {
    let class = state().streams.incomplete_read_error.obj();
    match class.call(&[partial, expected]) {
        Ok(exc) => Raised::throw(exc),
        Err(raised) => raised,
    }
}

/// The coroutine methods of a reader.
pub static METHODS: [&Function; 5] = [
    &WAIT_FOR_DATA,
    &READ,
    &READEXACTLY,
    &until::READUNTIL,
    &until::READLINE,
];
