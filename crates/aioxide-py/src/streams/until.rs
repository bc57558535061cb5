//! `readuntil`, `readline` and iteration over lines: a reader's searches for separators.
//!
//! Duty: look for the nearest end of a separator within the limit. May touch: the reader. What was
//! searched in vain is not searched again: `Frame::number` says from where to go on.
#![forbid(unsafe_code)]

use super::life::own;
use super::read::{
    ARGUMENT, Attempt, BEGIN, CALLED, READER, WAITS, attempt_again, finish_read, incomplete,
    signature, wait, waited,
};
use super::reader::{Reader, check_exception, is_plain, resume_if_read};
use crate::ffi::call::{int, string};
use crate::ffi::{Args, Obj, R, Raised, Ref, Signature, builtin, bytes, raising, sequence};
use crate::state::state;
use crate::sync::coroutine::{self, Frame, Kind, Next, Resumed};
use crate::sync::function::{Call, Function};

/// `readuntil(separator=b'\n')`.
pub static READUNTIL: Function = Function {
    name: "readuntil",
    qualname: "StreamReader.readuntil",
    signature: "(self, separator=b'\\n')",
    doc: "Reads up to and with a separator; LimitOverrunError if it is too far away.",
    call: Call::Method(readuntil),
};

fn readuntil(reader: Obj<'_>, args: Args<'_>) -> R<Ref> {
    const SIGNATURE: Signature = signature("readuntil", &["separator"], 0);
    let [separator] = args.bind_python::<1>(&SIGNATURE)?;
    let locals = [Some(reader.to_ref()), separator.map(Obj::to_ref)];
    coroutine::create(&KIND_READUNTIL, locals)
}

static KIND_READUNTIL: Kind = Kind {
    name: "readuntil",
    qualname: "StreamReader.readuntil",
    body: |frame, resumed| attempt_again(frame, resumed, "readuntil", try_readuntil),
    quick: None,
};

const NOT_FOUND: &str = "Separator is not found, and chunk exceed the limit";
const TOO_LONG: &str = "Separator is found, but chunk is longer than limit";

fn try_readuntil(frame: &Frame, reader: Obj<'_>, this: &Reader) -> R<Attempt> {
    let from = if frame.stage.get() == BEGIN {
        begin_readuntil(frame)?;
        check_exception(this)?;
        0
    } else {
        usize::try_from(frame.number.get()).unwrap_or(0)
    };
    let separators = frame.slots[ARGUMENT].get();
    match search(this, separators.as_ref().map(Ref::obj), from)? {
        Search::Found { end } => finish_read(reader, this, end).map(Attempt::Done),
        Search::Overrun { message, consumed } => Err(Raised::throw(overrun(message, consumed)?)),
        Search::Missing { .. } if this.eof.get() => Err(incomplete(
            this.take(usize::MAX)?.obj(),
            crate::ffi::object::none(),
        )),
        Search::Missing { next } => {
            frame.number.set(next as i64);
            Ok(Attempt::Wait)
        }
    }
}

fn overrun(message: &str, consumed: usize) -> R<Ref> {
    let (message, consumed) = (string(message)?, int(consumed as i64)?);
    let class = state().streams.limit_overrun_error.obj();
    class.call(&[message.obj(), consumed.obj()])
}

/// Looks at the separator given. A tuple becomes one in the order of length, from 3.13 on.
fn begin_readuntil(frame: &Frame) -> R<()> {
    let Some(given) = frame.slots[ARGUMENT].get() else {
        return Ok(());
    };
    let mut shortest = given.clone();
    if cfg!(Py_3_13) && sequence::is_tuple(given.obj()) {
        let sorted = sequence::sorted_by_len(given.obj())?;
        if crate::ffi::call::tuple_len(sorted.obj()) == 0 {
            return Err(Raised::value_error(
                "Separator should contain at least one element",
            ));
        }
        shortest = crate::ffi::call::tuple_item(sorted.obj(), 0).to_ref();
        frame.slots[ARGUMENT].set(Some(sorted));
    }
    if builtin::len(shortest.obj())? == 0 {
        return Err(Raised::value_error(
            "Separator should be at least one-byte string",
        ));
    }
    Ok(())
}

/// What a search for the next separator gave.
enum Search {
    /// It ends there.
    Found { end: usize },
    /// It is too far away.
    Overrun {
        message: &'static str,
        consumed: usize,
    },
    /// It is not there yet; up to `next` nobody need look again.
    Missing { next: usize },
}

/// Looks for the separator, or the nearest end of several, from `from` on.
fn search(this: &Reader, separators: Option<Obj<'_>>, from: usize) -> R<Search> {
    let Some(separators) = separators else {
        return search_any(this, &[&b"\n"[..]], from);
    };
    if !(cfg!(Py_3_13) && sequence::is_tuple(separators)) {
        if let Some(separator) = bytes::slice(separators) {
            return search_any(this, &[separator], from);
        }
        let views = [view(this, separators, from)?];
        return search_any(this, &views.each_ref().map(AsRef::as_ref), from);
    }
    let count = crate::ffi::call::tuple_len(separators);
    let views = (0..count)
        .map(|index| view(this, crate::ffi::call::tuple_item(separators, index), from))
        .collect::<R<Vec<_>>>()?;
    let slices: Vec<&[u8]> = views.iter().map(AsRef::as_ref).collect();
    search_any(this, &slices, from)
}

/// The separator's bytes, copied; what has none says so in `bytearray.find`'s words, as soon as
/// there is something to search.
fn view(this: &Reader, separator: Obj<'_>, from: usize) -> R<Vec<u8>> {
    match crate::ffi::buffer::Buffer::readable(separator) {
        Ok(buffer) => Ok(buffer.as_slice().to_vec()),
        Err(raised) => {
            raised.clear();
            let len = builtin::len(separator)?;
            if this.len() - from.min(this.len()) >= len {
                let array = bytes::array_of(b"")?;
                let find = array.obj().getattr_str(c"find")?;
                find.obj().call1(separator)?;
            }
            Ok(vec![0; len])
        }
    }
}

/// `separators` come in the order of length.
fn search_any(this: &Reader, separators: &[&[u8]], from: usize) -> R<Search> {
    let (Some(shortest), Some(longest)) = (separators.first(), separators.last()) else {
        return Ok(Search::Missing { next: from });
    };
    let limit = usize::try_from(this.limit_bytes.get()).unwrap_or(usize::MAX);
    this.edit(|chunks| {
        let len = chunks.len();
        if len < from.saturating_add(shortest.len()) {
            return Ok(Search::Missing { next: from });
        }
        let content = chunks.contiguous(drop);
        let mut found: Option<(usize, usize)> = None;
        for separator in separators {
            if let Some(start) = bytes::find(&content[from..], separator) {
                let end = from + start + separator.len();
                if found.is_none_or(|(best, _)| end < best) {
                    found = Some((end, from + start));
                }
            }
        }
        if let Some((end, start)) = found {
            if start > limit {
                return Ok(Search::Overrun {
                    message: TOO_LONG,
                    consumed: start,
                });
            }
            return Ok(Search::Found { end });
        }
        let next = (len + 1).saturating_sub(longest.len());
        if next > limit {
            return Ok(Search::Overrun {
                message: NOT_FOUND,
                consumed: next,
            });
        }
        Ok(Search::Missing { next })
    })
}

/// `readline()`.
pub static READLINE: Function = Function {
    name: "readline",
    qualname: "StreamReader.readline",
    signature: "(self)",
    doc: "Reads a line with its end; the rest at the end; ValueError for one that is too long.",
    call: Call::Method(|reader, args| {
        const SIGNATURE: Signature = signature("readline", &[], 0);
        let [] = args.bind_python::<0>(&SIGNATURE)?;
        coroutine::create(&KIND_READLINE, [Some(reader.to_ref())])
    }),
};

static KIND_READLINE: Kind = Kind {
    name: "readline",
    qualname: "StreamReader.readline",
    body: readline,
    quick: None,
};

fn readline(frame: &Frame, resumed: Resumed) -> R<Next> {
    let reader = frame.slots[READER].get_or_none();
    let this: &Reader = own(reader.obj());
    if is_plain(reader.obj()) && frame.stage.get() != CALLED {
        return attempt_again(frame, resumed, "readuntil", try_readline);
    }
    match (frame.stage.get(), resumed) {
        (BEGIN, _) => {
            frame.stage.set(CALLED);
            let end = bytes::new(b"\n")?;
            let line = reader
                .obj()
                .call_method1(state().names.readuntil.obj(), end.obj())?;
            Ok(Next::Await(line))
        }
        (WAITS, resumed) => {
            // It became a subclass's, so to say, while it waited.
            drop(waited(frame, this, resumed)?);
            match try_readline(frame, reader.obj(), this)? {
                Attempt::Done(line) => Ok(Next::Return(line)),
                Attempt::Wait => wait(frame, reader.obj(), this, "readuntil"),
            }
        }
        (_, Resumed::Value(line)) => Ok(Next::Return(line)),
        (_, Resumed::Raised(exc)) => readline_failed(reader.obj(), this, exc).map(Next::Return),
    }
}

fn try_readline(frame: &Frame, reader: Obj<'_>, this: &Reader) -> R<Attempt> {
    let from = if frame.stage.get() == BEGIN {
        check_exception(this)?;
        0
    } else {
        usize::try_from(frame.number.get()).unwrap_or(0)
    };
    match search_any(this, &[b"\n"], from)? {
        Search::Found { end } => finish_read(reader, this, end).map(Attempt::Done),
        Search::Overrun { message, consumed } => {
            let exc = overrun(message, consumed)?;
            readline_failed(reader, this, exc).map(Attempt::Done)
        }
        Search::Missing { .. } if this.eof.get() => this.take(usize::MAX).map(Attempt::Done),
        Search::Missing { next } => {
            frame.number.set(next as i64);
            Ok(Attempt::Wait)
        }
    }
}

/// What becomes of an exception of `readuntil`.
#[cold]
fn readline_failed(reader: Obj<'_>, this: &Reader, exc: Ref) -> R<Ref> {
    let streams = &state().streams;
    if exc.obj().isinstance(streams.incomplete_read_error.obj())? {
        return exc.obj().getattr_str(c"partial");
    }
    if !exc.obj().isinstance(streams.limit_overrun_error.obj())? {
        return Err(Raised::throw(exc));
    }
    let consumed = exc.obj().getattr_str(c"consumed")?.obj().to_i64()?;
    let consumed = usize::try_from(consumed).unwrap_or(0);
    this.edit(|chunks| {
        let ends_there = chunks.contiguous(drop).get(consumed) == Some(&b'\n');
        if ends_there {
            chunks.consume(consumed + 1, drop);
        } else {
            chunks.clear(drop);
        }
        Ok(())
    })?;
    resume_if_read(reader, this)?;
    let args = exc.obj().getattr_str(c"args")?;
    let message = crate::ffi::call::tuple_item(args.obj(), 0).to_ref();
    let error = builtin::value_error().call1(message.obj())?;
    builtin::chain_context(error.obj(), exc.obj());
    Err(Raised::throw(error))
}

// ---- iteration ----------------------------------------------------------------------------------

static KIND_NEXT: Kind = Kind {
    name: "__anext__",
    qualname: "StreamReader.__anext__",
    body: |frame, resumed| {
        let reader = frame.slots[READER].get_or_none();
        let line = if is_plain(reader.obj()) && frame.stage.get() != CALLED {
            readline(frame, resumed)?
        } else if frame.stage.get() == BEGIN {
            frame.stage.set(CALLED);
            let line = reader.obj().call_method0(state().names.readline.obj())?;
            return Ok(Next::Await(line));
        } else {
            Next::Return(resumed.value()?)
        };
        match line {
            Next::Return(line) if bytes::slice(line.obj()).is_some_and(<[u8]>::is_empty) => {
                Err(raising::stop_async_iteration())
            }
            other => Ok(other),
        }
    },
    quick: None,
};

/// `__anext__()`: the next line.
pub fn next(reader: Obj<'_>) -> R<Ref> {
    coroutine::create(&KIND_NEXT, [Some(reader.to_ref())])
}
