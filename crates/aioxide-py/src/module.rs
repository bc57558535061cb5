//! Module creation: one per process, in the main interpreter.
//!
//! May touch: the module object, at import.

use std::ffi::{c_int, c_void};

use pyo3_ffi as c;

use crate::ffi::object::none_ref;
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref};
use crate::state;

/// `_set_metaclass(class, meta)`: makes `meta` the class of a native type, so that
/// `isinstance(stock_future, aioxide.Future)` can be answered in Python.
fn set_metaclass(_module: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [class, meta] = args.positional() else {
        return Err(Raised::type_error("a class and a metaclass were expected"));
    };
    // SAFETY: alive; `type` is a static of the interpreter.
    let is_meta = unsafe {
        c::PyType_Check(meta.ptr()) != 0
            && c::PyType_IsSubtype(meta.ptr().cast(), &raw mut c::PyType_Type) != 0
    };
    // SAFETY: alive; the flags of what is a type object.
    let is_ours = unsafe {
        c::PyType_Check(class.ptr()) != 0
            && (*class.ptr().cast::<c::PyTypeObject>()).tp_flags & c::Py_TPFLAGS_HEAPTYPE != 0
    };
    if !is_meta || !is_ours {
        return Err(Raised::type_error("a class and a metaclass were expected"));
    }
    let new = meta.to_ref().into_ptr();
    // SAFETY: a subclass of `type` without fields of its own has the layout of `type`; a type
    // object holds a reference to its class if that is on the heap.
    let old = unsafe { std::mem::replace(&mut (*class.ptr()).ob_type, new.cast()) };
    // SAFETY: the reference that the type object held; `type` itself is immortal or counted.
    let was_heap = unsafe { (*old).tp_flags & c::Py_TPFLAGS_HEAPTYPE != 0 };
    if was_heap {
        // SAFETY: as above.
        drop(unsafe { Ref::steal_opt(old.cast()) });
    }
    Ok(none_ref())
}

/// `_note_made()`: the native types are as they stay, unless somebody patches them.
fn note_made(_module: Obj<'_>) -> R<Ref> {
    crate::streams::note_made();
    crate::sync::note_made();
    Ok(none_ref())
}

/// `_native_tasks()`: every native task alive, before Python 3.14.
#[cfg(not(Py_3_14))]
fn native_tasks(_module: Obj<'_>) -> R<Ref> {
    crate::ffi::call::list(&state::state().all_tasks.tasks())
}

/// `_show_sockets_as(cls)`: a subclass of asyncio's `TransportSocket`. The first one stays.
fn show_sockets_as(_module: Obj<'_>, class: Obj<'_>) -> R<Ref> {
    let known = &state::state().asyncio.shown_socket;
    known.set(class.to_ref()).unwrap_or_else(drop);
    Ok(none_ref())
}

fn methods() -> Vec<c::PyMethodDef> {
    let own = [
        crate::ffi::class::varargs!(
            c"gather",
            crate::sync::gather::gather,
            c"gather($module, /, *coros_or_futures, return_exceptions=False)\n--\n\n\
              Return a future of the list of all results, or of the first exception."
        ),
        crate::ffi::class::varargs!(
            c"_set_metaclass",
            set_metaclass,
            c"($module, cls, meta, /)\nSets the class of a native type."
        ),
        crate::ffi::class::onearg!(
            c"_show_sockets_as",
            show_sockets_as,
            c"($module, cls, /)\nSays of what class a transport's extra info 'socket' is; once."
        ),
        crate::ffi::class::noargs!(
            c"_note_made",
            note_made,
            c"Tells that the native types are complete: what is changed from now on is a patch."
        ),
        #[cfg(not(Py_3_14))]
        crate::ffi::class::noargs!(
            c"_native_tasks",
            native_tasks,
            c"Every native task that may be pending, for asyncio.all_tasks."
        ),
    ];
    own.into_iter()
        .chain(crate::sync::methods())
        .map(crate::ffi::class::with_text_signature)
        .chain([c::PyMethodDef::zeroed()])
        .collect()
}

fn is_main_interpreter() -> bool {
    // SAFETY: the thread is attached.
    unsafe { c::PyInterpreterState_Get() == c::PyInterpreterState_Main() }
}

fn import_error(message: &str) -> Raised {
    // SAFETY: a static of the interpreter.
    Raised::builtin(unsafe { c::PyExc_ImportError }, message)
}

fn execute(module: Obj<'_>) -> R<()> {
    if !is_main_interpreter() {
        return Err(import_error("aioxide does not support subinterpreters"));
    }
    if !state::is_initialised() {
        state::init()?;
    }
    let types = &state::state().types;
    let exported = [
        (c"Loop", &types.event_loop),
        (c"Future", &types.future),
        (c"Task", &types.task),
        (c"Handle", &types.handle),
        (c"TimerHandle", &types.timer_handle),
        (c"JobQueue", &types.job_queue),
        (c"Clients", &types.clients),
        (c"Lookout", &types.lookout),
        (c"StreamTransport", &types.stream_transport),
        (c"DatagramTransport", &types.datagram_transport),
        (c"ReadPipeTransport", &types.read_pipe_transport),
        (c"WritePipeTransport", &types.write_pipe_transport),
        (c"TlsProtocol", &types.tls_protocol),
        (c"SSLTransport", &types.tls_transport),
    ];
    for (name, object) in exported {
        // SAFETY: all alive; AddObjectRef takes its own reference.
        crate::ffi::error::check(unsafe {
            c::PyModule_AddObjectRef(module.ptr(), name.as_ptr(), object.ptr())
        })?;
    }
    crate::sync::export(module)?;
    crate::streams::export(module)?;
    crate::event_loop::export()?;
    for (name, text) in [
        (c"__version__", env!("CARGO_PKG_VERSION")),
        (c"_build", env!("AIOXIDE_BUILD")),
    ] {
        let text = crate::ffi::call::string(text)?;
        // SAFETY: as above.
        crate::ffi::error::check(unsafe {
            c::PyModule_AddObjectRef(module.ptr(), name.as_ptr(), text.ptr())
        })?;
    }
    Ok(())
}

unsafe extern "C" fn exec_slot(module: *mut PyObject) -> c_int {
    // SAFETY: the import machinery passes the new module.
    let module = unsafe { Obj::from_ptr(module) };
    crate::ffi::error::guard_status(|| execute(module))
}

/// The entry point that the import machinery calls.
///
/// # Safety
/// Called by the import machinery only, with the thread attached.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn PyInit__aioxide() -> *mut PyObject {
    let mut slots = vec![c::PyModuleDef_Slot {
        slot: c::Py_mod_exec,
        value: exec_slot as *mut c_void,
    }];
    #[cfg(Py_3_12)]
    slots.push(c::PyModuleDef_Slot {
        slot: c::Py_mod_multiple_interpreters,
        value: c::Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED,
    });
    // Free-threaded builds re-enable the GIL for us: loop state relies on it.
    #[cfg(Py_3_13)]
    slots.push(c::PyModuleDef_Slot {
        slot: c::Py_mod_gil,
        value: c::Py_MOD_GIL_USED,
    });
    slots.push(c::PyModuleDef_Slot {
        slot: 0,
        value: std::ptr::null_mut(),
    });
    let definition = Box::new(c::PyModuleDef {
        m_base: c::PyModuleDef_HEAD_INIT,
        m_name: c"_aioxide".as_ptr(),
        m_doc: c"The native half of aioxide.".as_ptr(),
        m_size: 0,
        m_methods: Box::leak(methods().into_boxed_slice()).as_mut_ptr(),
        m_slots: Box::leak(slots.into_boxed_slice()).as_mut_ptr(),
        m_traverse: None,
        m_clear: None,
        m_free: None,
    });
    // SAFETY: a complete definition, leaked so that it outlives the module.
    unsafe { c::PyModuleDef_Init(Box::leak(definition)) }
}
