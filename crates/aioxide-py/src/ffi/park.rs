//! Threads that the interpreter ends while they wait for the GIL, before Python 3.14.
//!
//! When the interpreter exits, those versions end a daemon thread that asks for the GIL with
//! `pthread_exit`, which unwinds its stack. That must not run our destructors (they would touch
//! reference counts without the GIL) and must not reach a `catch_unwind` (glibc then aborts the
//! process). So the innermost frame that calls into Python parks the thread for good, which is what
//! 3.14 does by itself. *Source*: `PyThread_exit_thread`; PEP 788's account of it.

use pyo3_ffi as c;

use super::object::PyObject;

/// Calls into the interpreter that may be unwound through; otherwise as in `pyo3_ffi`.
pub mod unwinding {
    use super::{PyObject, c};

    #[allow(missing_docs)]
    unsafe extern "C-unwind" {
        pub fn PyObject_CallNoArgs(callable: *mut PyObject) -> *mut PyObject;
        pub fn PyObject_Call(
            callable: *mut PyObject,
            args: *mut PyObject,
            kwargs: *mut PyObject,
        ) -> *mut PyObject;
        pub fn PyObject_Vectorcall(
            callable: *mut PyObject,
            args: *const *mut PyObject,
            nargsf: usize,
            kwnames: *mut PyObject,
        ) -> *mut PyObject;
        pub fn PyObject_VectorcallMethod(
            name: *mut PyObject,
            args: *const *mut PyObject,
            nargsf: usize,
            kwnames: *mut PyObject,
        ) -> *mut PyObject;
        pub fn PyIter_Send(
            iter: *mut PyObject,
            arg: *mut PyObject,
            result: *mut *mut PyObject,
        ) -> c::PySendResult;
        pub fn PyEval_RestoreThread(thread: *mut c::PyThreadState);
    }
}

/// On the stack while Python runs; dropped only if the stack is unwound meanwhile.
struct Parking;

impl Drop for Parking {
    fn drop(&mut self) {
        // A panic goes on to whoever catches it.
        while !std::thread::panicking() {
            // SAFETY: suspends this thread until a signal arrives; no precondition.
            unsafe { libc::pause() };
        }
    }
}

/// Runs `body` without the GIL. `body` touches nothing of Python's and does not panic; the caller
/// holds no borrow.
#[inline]
pub fn detached<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: the thread is attached (module rule of `ffi`), and attached again below.
    let thread = unsafe { c::PyEval_SaveThread() };
    let value = body();
    // SAFETY: the state saved above, on the same thread.
    calling(|| unsafe { unwinding::PyEval_RestoreThread(thread) });
    value
}

/// Runs `call`, which calls into Python. If the interpreter ends this thread meanwhile, it sleeps
/// for ever instead.
#[inline]
pub fn calling<T>(call: impl FnOnce() -> T) -> T {
    if cfg!(Py_3_14) {
        return call();
    }
    let parking = Parking;
    let value = call();
    std::mem::forget(parking);
    value
}
