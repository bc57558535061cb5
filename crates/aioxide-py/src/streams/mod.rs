//! Streams: `StreamReader`, `StreamWriter` and `StreamReaderProtocol`, native.
//!
//! Rooms: `life` (memory and the collector), `parts` (attributes that are fields, loops and
//! futures), `reader` (what was received, and who waits for it), `read` and `until` (its
//! coroutines), `reader_class`; `protocol` (between transport and reader, with flow control),
//! `connection` (how a connection begins and ends), `protocol_class`; `writer`, `start_tls`,
//! `writer_class`; `about` (what the running asyncio does, and its classes).
//!
//! Each type derives from asyncio's of the same name. Where an object is exactly of a native type,
//! has no attributes of its own and nobody replaced a method on the class ("plain"), one native
//! part calls the other directly; anything else goes by name, so that whatever a subclass or a mock
//! overrides is called as asyncio calls it.
//!
//! *Source*: `asyncio.streams`.

mod about;
mod connection;
mod life;
mod parts;
mod protocol;
mod protocol_class;
mod read;
mod reader;
mod reader_class;
mod start_tls;
mod until;
mod writer;
mod writer_class;

pub use about::{Streams, export, finish, note_made};
pub use protocol::{deliver, piece_len};
