//! Functions without a class, for callbacks: a definition, bound to what it is about.
//!
//! May touch: the definitions, which are leaked on purpose.

use pyo3_ffi as c;

use super::error::R;
use super::object::{Obj, Ref};

/// A method as a function of its own, whose first argument is bound: for callbacks.
pub struct Function(*mut c::PyMethodDef);

impl Function {
    /// Keeps the definition for good.
    pub fn new(definition: c::PyMethodDef) -> Function {
        Function(Box::leak(Box::new(definition)))
    }

    /// The function with `this` as its first argument.
    pub fn bind(&self, this: Obj<'_>) -> R<Ref> {
        // SAFETY: a leaked definition and a live object.
        unsafe {
            Ref::steal(c::PyCFunction_NewEx(
                self.0,
                this.ptr(),
                std::ptr::null_mut(),
            ))
        }
    }
}
