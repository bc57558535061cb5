//! TLS: the app-facing transport and the protocol below it, over any transport.
//!
//! Rooms: `fields` (both types' fields, how a connection begins), `engine` (OpenSSL by way of
//! Python's own objects), `limits`, `run` (the core's decisions carried out), `timers`, `read` and
//! `write` (plaintext in and out), `report` (fatal errors), `transport`, `protocol` and
//! `attributes` (the Python types). What to do is decided by `aioxide_core::tls`.
//!
//! Invariants: no borrow is held while Python runs, and almost everything here may run Python: the
//! library calls SNI, ALPN, keylog and message callbacks, and a protocol may close, abort, write or
//! replace itself from any of its own. Ciphertext from a native transport passes through the loop's
//! shared buffers, so an idle connection owns no memory but what OpenSSL keeps.

mod attributes;
mod direct;
mod engine;
mod fields;
mod limits;
mod protocol;
mod read;
mod report;
mod run;
mod timers;
mod transport;
mod write;

pub use engine::Ssl;
pub use fields::{Making, accept};
pub use protocol::{build_type as build_tls_protocol_type, is_native};
pub use read::receive;
pub use transport::build_type as build_tls_transport_type;
