//! The event loop of aioxide without Python: what runs when, and what the kernel is asked.
//!
//! The crate map, from the bottom up:
//! - [`backend`]: the kernel's readiness, in a contract; `sys` holds every system call.
//! - [`clock`]: the sole reader of time. [`slab`]: tokens, and the registrations they name.
//! - [`timers`], [`ready`], [`inbox`]: what is due later, what runs next, what other threads send.
//! - [`doze`], [`spin`]: how a thread waits for another, and whether awake for a moment.
//! - [`turn`]: one turn of the loop over these.
//! - [`buf`], [`flow`], [`stream`]: a byte stream without io, and where its bytes wait.
//! - [`datagram`]: the same for datagrams.
//! - [`tls`]: a TLS connection without io, over any transport and any library.
//! - [`file_send`]: a file on its way into a socket.
//! - [`chunks`]: what a stream reader has received and nobody has read yet.
//! - [`stats`], [`heartbeat`]: what other threads may read while the loop runs.
//!
//! Invariants: no Python anywhere; entries are generic, moved in and handed back, never dropped
//! behind the caller's back; unsafe code lives in `backend/sys` (and `buf.rs`).

#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "aioxide needs Linux: its only backend is epoll (crates/aioxide-core/src/backend/mod.rs says \
     what another one would have to do)"
);

pub mod backend;
pub mod buf;
pub mod chunks;
pub mod clock;
pub mod datagram;
pub mod doze;
pub mod file_send;
pub mod flow;
pub mod heartbeat;
pub mod inbox;
pub mod ready;
pub mod slab;
pub mod spin;
pub mod stats;
pub mod stream;
pub mod timers;
pub mod tls;
pub mod turn;
