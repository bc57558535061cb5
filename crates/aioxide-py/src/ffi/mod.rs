//! The room of unsafe Python calls: references, calls, errors, types, memory layout.
//!
//! Everything outside this room speaks `Ref` (owned), `Obj` (borrowed) and `R<T>` (a result whose
//! error is "the Python error indicator is set"). One rule carries all SAFETY comments here:
//! **a `Ref` or an `Obj` exists only on a thread that is attached to the interpreter**; they are
//! neither `Send` nor `Sync`, and the few types that cross threads say why they may.

pub mod args;
pub mod buffer;
pub mod builtin;
pub mod bytes;
pub mod call;
pub mod class;
pub mod compact_int;
pub mod context;
pub mod current;
pub mod error;
pub mod exception;
pub mod frames;
pub mod function;
pub mod gil;
pub mod heap;
pub mod layout;
pub mod light_context;
pub mod object;
pub mod openssl;
pub mod openssl_watch;
mod openssl_wire;
pub mod park;
pub mod python_method;
pub mod raising;
pub mod references;
pub mod registry;
pub mod sequence;
pub mod set;
pub mod shelf;
pub mod socket;
pub mod stage;
pub mod stock;
pub mod stop;
pub mod trash;
pub mod values;
pub mod weak;

pub use args::{Args, Signature};
pub use error::{R, Raised};
pub use object::{Obj, PyObject, Ref, Slot};
