//! Methods with the manners of Python functions, for what asyncio writes in Python.
//!
//! May touch: nothing but their arguments. Invariant: wrong arguments, and assignments to what is a
//! property there, are refused in the words of Python functions and properties.

use std::ffi::CStr;

use super::args::{Args, Signature};
use super::builtin::attribute_error;
use super::error::{R, Raised};
use super::object::{Obj, PyObject, Ref};

/// Refuses arguments of a method that takes none.
///
/// # Safety
/// What a FASTCALL | KEYWORDS function received.
#[cold]
pub unsafe fn refuse(
    signature: &Signature,
    args: *const *mut PyObject,
    count: isize,
    kwnames: *mut PyObject,
) -> R<()> {
    // SAFETY: by the contract.
    let args = unsafe { Args::new(args, count, kwnames) };
    args.bind_python::<0>(signature).map(drop)
}

/// The argument of a method that takes one.
///
/// # Safety
/// What a FASTCALL | KEYWORDS function received.
#[inline]
pub unsafe fn only<'a>(
    signature: &Signature,
    args: *const *mut PyObject,
    count: isize,
    kwnames: *mut PyObject,
) -> R<Obj<'a>> {
    // SAFETY: by the contract.
    let args = unsafe { Args::new(args, count, kwnames) };
    if let Some([only]) = args.exactly::<1>() {
        return Ok(only);
    }
    let [only] = args.bind_python::<1>(signature)?;
    only.ok_or_else(|| Raised::runtime("a required argument is missing"))
}

/// A static C string of a text that ends in a zero.
pub const fn c_text(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("a zero is missing, or in the middle"),
    }
}

/// A signature all of whose parameters must be given.
pub const fn all_required(name: &'static str, params: &'static [&'static str]) -> Signature {
    Signature {
        name,
        params,
        positional: params.len(),
        required: params.len(),
    }
}

/// What a property without a setter says.
#[cold]
pub fn no_setter(object: Obj<'_>, name: &str, deletes: bool) -> Raised {
    let class = object.type_obj().getattr_str(c"__qualname__");
    match class.and_then(|class: Ref| super::call::text(class.obj())) {
        Ok(class) => {
            let missing = if deletes { "deleter" } else { "setter" };
            let message = format!("property '{name}' of '{class}' object has no {missing}");
            Raised::new(attribute_error(), &message)
        }
        Err(raised) => raised,
    }
}

/// `Class.name()` from `fn(Obj) -> R<Ref>`, or `Class.name(param)` from `fn(Obj, Obj) -> R<Ref>`,
/// as asyncio's Python method of that name would take its arguments.
macro_rules! python_method {
    (@signature $class:literal, $name:ident, $($param:ident)?) => {
        $crate::ffi::python_method::all_required(
            concat!($class, ".", stringify!($name)),
            &[$(stringify!($param))?],
        )
    };
    (@method $name:ident, $raw:expr, $doc:expr) => {{
        const NAME: &std::ffi::CStr =
            $crate::ffi::python_method::c_text(concat!(stringify!($name), "\0"));
        const DOC: &std::ffi::CStr = $crate::ffi::python_method::c_text($doc);
        let function = pyo3_ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: $raw };
        let flags = pyo3_ffi::METH_FASTCALL | pyo3_ffi::METH_KEYWORDS;
        $crate::ffi::class::method(NAME, function, flags, DOC)
    }};
    ($class:literal, $name:ident(), $function:path, $doc:literal) => {{
        const SIGNATURE: $crate::ffi::Signature =
            $crate::ffi::python_method::python_method!(@signature $class, $name,);
        unsafe extern "C" fn raw(
            this: *mut pyo3_ffi::PyObject,
            args: *const *mut pyo3_ffi::PyObject,
            count: isize,
            kwnames: *mut pyo3_ffi::PyObject,
        ) -> *mut pyo3_ffi::PyObject {
            // SAFETY: the interpreter passes a live instance.
            let this = unsafe { $crate::ffi::Obj::from_ptr(this) };
            $crate::ffi::error::guard(|| {
                if count != 0 || !kwnames.is_null() {
                    // SAFETY: as the interpreter passed them.
                    unsafe {
                        $crate::ffi::python_method::refuse(&SIGNATURE, args, count, kwnames)
                    }?;
                }
                $function(this)
            })
        }
        $crate::ffi::python_method::python_method!(
            @method $name, raw, concat!("($self)\n", $doc, "\0")
        )
    }};
    ($class:literal, $name:ident($param:ident), $function:path, $doc:literal) => {{
        const SIGNATURE: $crate::ffi::Signature =
            $crate::ffi::python_method::python_method!(@signature $class, $name, $param);
        unsafe extern "C" fn raw(
            this: *mut pyo3_ffi::PyObject,
            args: *const *mut pyo3_ffi::PyObject,
            count: isize,
            kwnames: *mut pyo3_ffi::PyObject,
        ) -> *mut pyo3_ffi::PyObject {
            // SAFETY: the interpreter passes a live instance.
            let this = unsafe { $crate::ffi::Obj::from_ptr(this) };
            $crate::ffi::error::guard(|| {
                // SAFETY: as the interpreter passed them.
                let only = unsafe {
                    $crate::ffi::python_method::only(&SIGNATURE, args, count, kwnames)
                }?;
                $function(this, only)
            })
        }
        $crate::ffi::python_method::python_method!(
            @method $name, raw, concat!("($self, ", stringify!($param), ")\n", $doc, "\0")
        )
    }};
}

/// A read-only attribute from `fn(Obj) -> R<Ref>`, as a property without a setter.
macro_rules! property {
    ($name:ident, $getter:path, $doc:literal) => {{
        fn set(
            object: $crate::ffi::Obj<'_>,
            value: Option<$crate::ffi::Obj<'_>>,
        ) -> $crate::ffi::R<()> {
            let name = stringify!($name);
            Err($crate::ffi::python_method::no_setter(
                object,
                name,
                value.is_none(),
            ))
        }
        const NAME: &std::ffi::CStr =
            $crate::ffi::python_method::c_text(concat!(stringify!($name), "\0"));
        $crate::ffi::class::attribute!(NAME, $getter, set, $doc)
    }};
}

pub(crate) use {property, python_method};
