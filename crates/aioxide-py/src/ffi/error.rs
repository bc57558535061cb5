//! The Python error indicator as a Rust `Result`, and panics as Python exceptions.
//!
//! Invariant: whoever holds a `Raised` holds the promise that the indicator is set; it is used up
//! by returning it to C or by `take`.

use std::any::Any;
use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3_ffi as c;

use super::object::{Obj, PyObject, Ref, none};

/// "A Python exception is set on this thread."
#[must_use]
#[derive(Debug)]
pub struct Raised(());

/// The result of everything that may run Python code.
pub type R<T> = Result<T, Raised>;

impl Raised {
    /// The indicator was set by C.
    #[inline]
    pub fn from_indicator() -> Raised {
        Raised(())
    }

    /// Raises `class(message)`.
    #[cold]
    pub fn new(class: Obj<'_>, message: &str) -> Raised {
        match super::call::string(message) {
            // SAFETY: both are alive; SetObject takes its own references.
            Ok(text) => unsafe { c::PyErr_SetObject(class.ptr(), text.ptr()) },
            Err(raised) => return raised,
        }
        Raised(())
    }

    /// Raises one of the interpreter's own exception classes.
    #[cold]
    pub fn builtin(class: *mut PyObject, message: &str) -> Raised {
        // SAFETY: the built-in exception classes are never freed.
        Raised::new(unsafe { Obj::from_ptr(class) }, message)
    }

    /// `RuntimeError(message)`.
    #[cold]
    pub fn runtime(message: &str) -> Raised {
        // SAFETY: a static of the interpreter.
        Raised::builtin(unsafe { c::PyExc_RuntimeError }, message)
    }

    /// `TypeError(message)`.
    #[cold]
    pub fn type_error(message: &str) -> Raised {
        // SAFETY: a static of the interpreter.
        Raised::builtin(unsafe { c::PyExc_TypeError }, message)
    }

    /// `ValueError(message)`.
    #[cold]
    pub fn value_error(message: &str) -> Raised {
        // SAFETY: a static of the interpreter.
        Raised::builtin(unsafe { c::PyExc_ValueError }, message)
    }

    /// `OverflowError(message)`.
    #[cold]
    pub fn overflow(message: &str) -> Raised {
        // SAFETY: a static of the interpreter.
        Raised::builtin(unsafe { c::PyExc_OverflowError }, message)
    }

    /// `RecursionError`, worded as CPython's.
    #[cold]
    pub fn recursion() -> Raised {
        // SAFETY: a static of the interpreter.
        let class = unsafe { c::PyExc_RecursionError };
        Raised::builtin(
            class,
            "maximum recursion depth exceeded while calling a Python object",
        )
    }

    /// The `OSError` (or its subclass) of an I/O error, with errno and strerror.
    #[cold]
    pub fn os_error(error: &std::io::Error) -> Raised {
        match error.raw_os_error() {
            Some(errno) => {
                // SAFETY: errno is thread-local and read at once by the next call.
                unsafe { *libc::__errno_location() = errno };
                // SAFETY: a static of the interpreter.
                unsafe { c::PyErr_SetFromErrno(c::PyExc_OSError) };
                Raised(())
            }
            // SAFETY: a static of the interpreter.
            None => Raised::builtin(unsafe { c::PyExc_OSError }, &error.to_string()),
        }
    }

    /// Raises an exception instance.
    pub fn throw(exc: Ref) -> Raised {
        #[cfg(Py_3_12)]
        // SAFETY: an exception instance whose reference is given away.
        unsafe {
            c::PyErr_SetRaisedException(exc.into_ptr());
        }
        #[cfg(not(Py_3_12))]
        // SAFETY: as above; Restore takes the three references.
        unsafe {
            let traceback = c::PyException_GetTraceback(exc.ptr());
            let class = exc.obj().type_obj().to_ref();
            c::PyErr_Restore(class.into_ptr(), exc.into_ptr(), traceback);
        }
        Raised(())
    }

    /// Raises an exception instance as `raise exc` does: what is being handled becomes its context.
    pub fn raise(exc: Ref) -> Raised {
        // SAFETY: an exception instance, alive; SetObject takes its own references.
        unsafe { c::PyErr_SetObject(exc.obj().type_obj().ptr(), exc.ptr()) };
        Raised(())
    }

    /// Raises an exception instance as `raise exc from None` does.
    pub fn raise_from_none(exc: Ref) -> Raised {
        // SAFETY: an exception instance, alive; no cause is given.
        unsafe { c::PyException_SetCause(exc.ptr(), std::ptr::null_mut()) };
        Raised::raise(exc)
    }

    /// Clears the indicator and returns the exception, normalized, with its traceback.
    pub fn take(self) -> Ref {
        #[cfg(Py_3_12)]
        // SAFETY: the indicator is set (type invariant), so this returns an owned exception.
        let exc = unsafe { Ref::steal_opt(c::PyErr_GetRaisedException()) };
        #[cfg(not(Py_3_12))]
        let exc = take_triple();
        exc.unwrap_or_else(|| {
            debug_assert!(false, "Raised without an exception");
            none().to_ref()
        })
    }

    /// Clears the indicator without a look at the exception.
    pub fn clear(self) {
        // SAFETY: the thread is attached.
        unsafe { c::PyErr_Clear() }
    }

    /// Whether the exception is an `Exception`, which `except Exception` would catch.
    pub fn is_ordinary(&self) -> bool {
        // SAFETY: a static of the interpreter.
        self.matches(unsafe { c::PyExc_Exception })
    }

    /// Whether the exception is of `class` (an exception class or a tuple of such).
    pub fn matches(&self, class: *mut PyObject) -> bool {
        // SAFETY: the indicator is set; `class` is alive.
        unsafe { c::PyErr_ExceptionMatches(class) != 0 }
    }

    /// Whether the exception must leave the loop: `SystemExit` or `KeyboardInterrupt`.
    pub fn is_exit(&self) -> bool {
        // SAFETY: statics of the interpreter.
        let (system_exit, interrupt) = unsafe { (c::PyExc_SystemExit, c::PyExc_KeyboardInterrupt) };
        self.matches(system_exit) || self.matches(interrupt)
    }

    /// Reports the exception through `sys.unraisablehook`: for places that cannot raise.
    pub fn write_unraisable(self, about: Obj<'_>) {
        // SAFETY: the indicator is set; `about` is alive.
        unsafe { c::PyErr_WriteUnraisable(about.ptr()) }
    }
}

#[cfg(not(Py_3_12))]
fn take_triple() -> Option<Ref> {
    use std::ptr::null_mut;
    let (mut class, mut value, mut traceback) = (null_mut(), null_mut(), null_mut());
    // SAFETY: out-parameters; the three references become ours.
    unsafe { c::PyErr_Fetch(&mut class, &mut value, &mut traceback) };
    // SAFETY: owned references or null, as Fetch left them.
    unsafe { c::PyErr_NormalizeException(&mut class, &mut value, &mut traceback) };
    // SAFETY: each is owned or null.
    let (class, value, traceback) = unsafe {
        (
            Ref::steal_opt(class),
            Ref::steal_opt(value),
            Ref::steal_opt(traceback),
        )
    };
    drop(class);
    if let (Some(value), Some(traceback)) = (&value, &traceback) {
        // SAFETY: both alive; takes its own reference to the traceback.
        unsafe { c::PyException_SetTraceback(value.ptr(), traceback.ptr()) };
    }
    value
}

/// Saves a pending exception around code that must run without one, such as a finalizer.
pub struct SavedError(Option<Ref>);

impl SavedError {
    /// Clears the indicator, remembering what it held.
    pub fn save() -> SavedError {
        // SAFETY: only reads the indicator.
        let set = !unsafe { c::PyErr_Occurred() }.is_null();
        SavedError(set.then(|| Raised(()).take()))
    }

    /// Puts the remembered exception back.
    pub fn restore(self) {
        if let Some(exc) = self.0 {
            // The indicator is set again; whoever was unwinding still carries its own `Raised`.
            drop(Raised::throw(exc));
        }
    }
}

/// `err` if C reported failure by a non-zero status.
#[inline]
pub fn check(status: std::ffi::c_int) -> R<()> {
    if status < 0 { Err(Raised(())) } else { Ok(()) }
}

/// Whether the exception instance is of `class`.
pub fn given_matches(exc: Obj<'_>, class: *mut PyObject) -> bool {
    // SAFETY: both are alive.
    unsafe { c::PyErr_GivenExceptionMatches(exc.ptr(), class) != 0 }
}

/// Runs a method body for C: an error or a panic becomes a null pointer with the indicator set.
#[inline]
pub fn guard(body: impl FnOnce() -> R<Ref>) -> *mut PyObject {
    match catch_unwind(AssertUnwindSafe(|| super::park::calling(body))) {
        Ok(Ok(value)) => value.into_ptr(),
        Ok(Err(raised)) => {
            drop(raised);
            std::ptr::null_mut()
        }
        Err(panic) => {
            raise_panic(&*panic);
            std::ptr::null_mut()
        }
    }
}

/// As `guard`, for slots that return a status.
#[inline]
pub fn guard_status(body: impl FnOnce() -> R<()>) -> std::ffi::c_int {
    match catch_unwind(AssertUnwindSafe(|| super::park::calling(body))) {
        Ok(Ok(())) => 0,
        Ok(Err(raised)) => {
            drop(raised);
            -1
        }
        Err(panic) => {
            raise_panic(&*panic);
            -1
        }
    }
}

#[cold]
fn raise_panic(panic: &(dyn Any + Send)) {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown cause");
    // SAFETY: a static of the interpreter.
    let class = unsafe { c::PyExc_SystemError };
    drop(Raised::builtin(class, &format!("aioxide panicked: {text}")));
}

/// Warns `ResourceWarning(message, source=source)`; a warning turned into an error is reported as
/// unraisable, as CPython's finalizers do.
pub fn resource_warning(source: Obj<'_>, message: &CStr) {
    // SAFETY: `source` is alive, both strings are NUL-terminated; the format takes one string.
    let status =
        unsafe { c::PyErr_ResourceWarning(source.ptr(), 1, c"%s".as_ptr(), message.as_ptr()) };
    if status < 0 {
        Raised(()).write_unraisable(source);
    }
}
