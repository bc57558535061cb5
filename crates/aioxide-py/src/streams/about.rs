//! What the running version's streams do, and the classes and types that the others need.
//!
//! May touch: asyncio's modules, at import. Differences between versions are read off asyncio's own
//! classes, because some came with a bugfix release.
#![forbid(unsafe_code)]

use std::cell::Cell;

use super::{connection, protocol_class, read, reader_class, writer, writer_class};
use crate::ffi::call::{import, string};
use crate::ffi::class::type_version_of;
use crate::ffi::function::Function;
use crate::ffi::{Obj, R, Ref, builtin, sequence};
use crate::state::{State, state};
use crate::sync::function::add_methods;

/// asyncio's classes, the native types, and what differs between versions.
pub struct Streams {
    pub reader_class: Ref,
    pub limit_overrun_error: Ref,
    pub incomplete_read_error: Ref,
    pub reader: Ref,
    pub writer: Ref,
    pub protocol: Ref,
    /// The done callback of a connection's task.
    pub task_done: Function,
    pub quirks: Quirks,
    /// Versions of reader, writer and protocol as they were made.
    versions: [Cell<u32>; 3],
}

/// Behaviour of `asyncio.streams` that changed.
pub struct Quirks {
    /// `StreamWriter.__del__` closes and warns.
    pub writer_warns: bool,
    /// A protocol keeps the writer it made, and `start_tls` hands the writer over.
    pub keeps_writer: bool,
    /// `start_tls` tells the reader of its new transport.
    pub reader_changes_transport: bool,
    /// An exception of a plain `client_connected_cb` goes to the exception handler.
    pub reports_callback: bool,
    /// A cancelled handler's transport is closed.
    pub closes_cancelled: bool,
    /// `start_tls` takes `ssl_shutdown_timeout`.
    pub tls_takes_shutdown_timeout: bool,
}

/// Notes the native types as they are now: as they were made.
pub fn note_made() {
    let streams = &state().streams;
    for (class, version) in streams.classes().into_iter().zip(&streams.versions) {
        // Looked up once, so that the type has a version.
        drop(class.obj().getattr_str(c"__doc__"));
        version.set(type_version_of(class.obj()));
    }
}

/// Whether the native types are as they were made. Once somebody replaced an attribute of one,
/// everything goes by name.
#[inline]
pub fn is_intact() -> bool {
    let streams = &state().streams;
    let mut classes = streams.classes().into_iter().zip(&streams.versions);
    classes
        .all(|(class, version)| version.get() != 0 && type_version_of(class.obj()) == version.get())
}

/// Gives the types their coroutine methods, which look at the state that holds the types.
pub fn finish(state: &State) -> R<()> {
    let (streams, maker) = (&state.streams, state.types.coroutine_function.obj());
    add_methods(streams.reader.obj(), maker, &read::METHODS)?;
    let coroutines = writer_class::coroutines(&streams.quirks);
    add_methods(streams.writer.obj(), maker, &coroutines)?;
    add_methods(streams.protocol.obj(), maker, &[&writer::DRAIN_HELPER])
}

/// Adds the types to the module.
pub fn export(module: Obj<'_>) -> R<()> {
    let streams = &state().streams;
    for (name, class) in [
        ("StreamReader", &streams.reader),
        ("StreamWriter", &streams.writer),
        ("StreamReaderProtocol", &streams.protocol),
    ] {
        module.setattr(string(name)?.obj(), class.obj())?;
    }
    Ok(())
}

impl Streams {
    /// Looks asyncio's classes up and builds the native types.
    pub fn new() -> R<Streams> {
        let streams = import(c"asyncio.streams")?;
        let exceptions = import(c"asyncio.exceptions")?;
        let stock = |name| streams.obj().getattr_str(name);
        let stock_reader = stock(c"StreamReader")?;
        let stock_writer = stock(c"StreamWriter")?;
        let stock_protocol = stock(c"StreamReaderProtocol")?;
        let quirks = Quirks::look(stock_reader.obj(), stock_writer.obj(), stock_protocol.obj())?;
        Ok(Streams {
            limit_overrun_error: exceptions.obj().getattr_str(c"LimitOverrunError")?,
            incomplete_read_error: exceptions.obj().getattr_str(c"IncompleteReadError")?,
            reader: reader_class::build(stock_reader.obj())?,
            writer: writer_class::build(stock_writer.obj(), &quirks)?,
            protocol: protocol_class::build(stock_protocol.obj(), quirks.keeps_writer)?,
            task_done: protocol_class::task_done(),
            reader_class: stock_reader,
            quirks,
            versions: Default::default(),
        })
    }

    /// The native types, in the order of `versions`.
    #[inline]
    fn classes(&self) -> [&Ref; 3] {
        [&self.reader, &self.writer, &self.protocol]
    }
}

impl Quirks {
    fn look(reader: Obj<'_>, writer: Obj<'_>, protocol: Obj<'_>) -> R<Quirks> {
        let has = |class: Obj<'_>, name: &str| -> R<bool> {
            let name = string(name)?;
            Ok(class.getattr_opt(name.obj())?.is_some())
        };
        let code = protocol
            .getattr_str(c"connection_made")?
            .obj()
            .getattr_str(c"__code__")?;
        let consts = code.obj().getattr_str(c"co_consts")?;
        let message = string(connection::CALLBACK_FAILED)?;
        let tls_defaults = writer
            .getattr_str(c"start_tls")?
            .obj()
            .getattr_str(c"__kwdefaults__")?;
        Ok(Quirks {
            writer_warns: has(writer, "__del__")?,
            keeps_writer: has(protocol, "_replace_writer")?,
            reader_changes_transport: has(reader, "_replace_transport")?,
            reports_callback: sequence::contains(consts.obj(), message.obj())?,
            closes_cancelled: uses(consts.obj(), "cancelled")?,
            tls_takes_shutdown_timeout: sequence::contains(
                tls_defaults.obj(),
                string("ssl_shutdown_timeout")?.obj(),
            )?,
        })
    }
}

/// Whether a function inside of the one with these constants uses `name`.
fn uses(consts: Obj<'_>, name: &str) -> R<bool> {
    let name = string(name)?;
    let co_names = string("co_names")?;
    let items = builtin::iter(consts)?;
    while let Some(item) = builtin::next(items.obj())? {
        if let Some(names) = item.obj().getattr_opt(co_names.obj())?
            && sequence::contains(names.obj(), name.obj())?
        {
            return Ok(true);
        }
    }
    Ok(false)
}
