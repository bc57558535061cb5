//! Building of hand-written types: slots, methods and attributes, all guarded against panics.
//!
//! May touch: type objects, at import only. The tables handed to CPython are leaked on purpose:
//! a static type table lives as long as the process.

use std::ffi::{CStr, CString, c_int, c_uint, c_void};
use std::ptr::null_mut;

use pyo3_ffi as c;

use super::error::R;
use super::object::{Obj, PyObject, Ref};

/// What one native type is made of.
pub struct Class {
    name: &'static CStr,
    basic_size: usize,
    flags: std::ffi::c_ulong,
    slots: Vec<c::PyType_Slot>,
    methods: Vec<c::PyMethodDef>,
    attributes: Vec<c::PyGetSetDef>,
    members: Vec<c::PyMemberDef>,
}

impl Class {
    /// A type of `basic_size` bytes. `name` is `module.Class`.
    pub fn new(name: &'static CStr, basic_size: usize) -> Class {
        Class {
            name,
            basic_size,
            flags: c::Py_TPFLAGS_DEFAULT | c::Py_TPFLAGS_HAVE_GC,
            slots: Vec::new(),
            methods: Vec::new(),
            attributes: Vec::new(),
            members: Vec::new(),
        }
    }

    /// Adds type flags.
    pub fn flags(mut self, flags: std::ffi::c_ulong) -> Class {
        self.flags |= flags;
        self
    }

    /// Adds a slot.
    pub fn slot(mut self, slot: c_int, function: *mut c_void) -> Class {
        self.slots.push(c::PyType_Slot {
            slot,
            pfunc: function,
        });
        self
    }

    /// Adds the type's docstring.
    pub fn doc(self, doc: &'static CStr) -> Class {
        self.slot(c::Py_tp_doc, doc.as_ptr().cast_mut().cast())
    }

    /// Adds methods.
    pub fn methods(mut self, methods: impl IntoIterator<Item = c::PyMethodDef>) -> Class {
        self.methods
            .extend(methods.into_iter().map(with_text_signature));
        self
    }

    /// Adds computed attributes.
    pub fn attributes(mut self, list: impl IntoIterator<Item = c::PyGetSetDef>) -> Class {
        self.attributes.extend(list);
        self
    }

    /// Gives instances a `__dict__` and weak references, stored at the given offsets.
    pub fn dict_and_weakrefs(self, dict_offset: usize, weaklist_offset: usize) -> Class {
        self.place(c"__dictoffset__", dict_offset)
            .weakrefs(weaklist_offset)
    }

    /// Gives instances weak references, stored at the given offset.
    pub fn weakrefs(self, offset: usize) -> Class {
        self.place(c"__weaklistoffset__", offset)
    }

    /// Lets instances be called through the function pointer at the given offset.
    pub fn vectorcall(self, offset: usize) -> Class {
        self.place(c"__vectorcalloffset__", offset)
    }

    /// Tells the interpreter where instances keep something of its own.
    fn place(mut self, name: &'static CStr, offset: usize) -> Class {
        self.members.push(c::PyMemberDef {
            name: name.as_ptr(),
            type_code: c::Py_T_PYSSIZET,
            offset: offset as isize,
            flags: c::Py_READONLY,
            doc: std::ptr::null(),
        });
        self
    }

    /// Creates the type under `base` (`object` if none).
    pub fn build(self, base: Option<Obj<'_>>) -> R<Ref> {
        self.build_under(base.as_slice())
    }

    /// Creates the type under `bases`, in this order.
    pub fn build_under(mut self, bases: &[Obj<'_>]) -> R<Ref> {
        self.methods.push(c::PyMethodDef::zeroed());
        let methods = Box::leak(self.methods.into_boxed_slice());
        self.slots.push(c::PyType_Slot {
            slot: c::Py_tp_methods,
            pfunc: methods.as_mut_ptr().cast(),
        });
        self.attributes.push(c::PyGetSetDef::default());
        let attributes = Box::leak(self.attributes.into_boxed_slice());
        self.slots.push(c::PyType_Slot {
            slot: c::Py_tp_getset,
            pfunc: attributes.as_mut_ptr().cast(),
        });
        if !self.members.is_empty() {
            self.members.push(c::PyMemberDef::default());
            let members = Box::leak(self.members.into_boxed_slice());
            self.slots.push(c::PyType_Slot {
                slot: c::Py_tp_members,
                pfunc: members.as_mut_ptr().cast(),
            });
        }
        self.slots.push(c::PyType_Slot {
            slot: 0,
            pfunc: null_mut(),
        });
        let slots = Box::leak(self.slots.into_boxed_slice());
        let mut spec = c::PyType_Spec {
            name: self.name.as_ptr(),
            basicsize: self.basic_size as c_int,
            itemsize: 0,
            flags: self.flags as c_uint,
            slots: slots.as_mut_ptr(),
        };
        let tuple = super::call::tuple(bases)?;
        let parents = Some(&tuple).filter(|_| !bases.is_empty());
        let parents = parents.map_or(null_mut(), Ref::ptr);
        // SAFETY: the spec is complete and its tables are leaked, so they outlive the type; the
        // tuple lives until the end of this function.
        unsafe { Ref::steal(c::PyType_FromSpecWithBases(&mut spec, parents)) }
    }
}

/// Adds to `class` methods whose receiver may be any instance of `receiver`, a base of `class`.
pub fn add_methods_of(
    class: Obj<'_>,
    receiver: Obj<'_>,
    methods: impl IntoIterator<Item = c::PyMethodDef>,
) -> R<()> {
    for method in methods {
        let method = with_text_signature(method);
        let name = method.ml_name;
        let definition: *mut c::PyMethodDef = Box::leak(Box::new(method));
        // SAFETY: a type object and a leaked definition.
        let descriptor =
            unsafe { Ref::steal(c::PyDescr_NewMethod(receiver.ptr().cast(), definition)) }?;
        // SAFETY: method names are static C strings.
        let name = super::call::interned(unsafe { CStr::from_ptr(name) })?;
        class.setattr(name.obj(), descriptor.obj())?;
    }
    Ok(())
}

/// Adds the class methods that type tables cannot express: `__class_getitem__`.
pub fn generic_alias() -> c::PyMethodDef {
    c::PyMethodDef {
        ml_name: c"__class_getitem__".as_ptr(),
        ml_meth: c::PyMethodDefPointer {
            PyCFunction: c::Py_GenericAlias,
        },
        ml_flags: c::METH_O | c::METH_CLASS,
        ml_doc: c"See PEP 585".as_ptr(),
    }
}

/// Gives a method the text that `inspect.signature` reads, if its docstring has none: it may begin
/// with a line `($self, /, ...)`; methods with no or one argument get theirs by themselves.
pub fn with_text_signature(mut method: c::PyMethodDef) -> c::PyMethodDef {
    // SAFETY: table entries hold static C strings.
    let text = |text| unsafe { CStr::from_ptr(text) }.to_bytes();
    let (name, doc) = (text(method.ml_name), text(method.ml_doc));
    let line = doc.iter().position(|byte| *byte == b'\n');
    let (first, rest) = line.map_or((doc, doc), |end| (&doc[..end], &doc[end + 1..]));
    let (signature, text): (&[u8], &[u8]) = match line {
        Some(_) if first.starts_with(b"(") => (first, rest),
        Some(_) if rest.starts_with(b"--\n") => return method,
        _ if method.ml_flags == c::METH_NOARGS => (b"($self, /)", doc),
        _ if method.ml_flags == c::METH_O => (b"($self, value, /)", doc),
        _ => return method,
    };
    // Done for each method at each import: without formatting.
    if let Ok(full) = CString::new([name, signature, b"\n--\n\n", text].concat()) {
        method.ml_doc = Box::leak(full.into_boxed_c_str()).as_ptr();
    }
    method
}

/// `__dict__`, for types whose instances have one.
pub fn dict_attribute() -> c::PyGetSetDef {
    c::PyGetSetDef {
        name: c"__dict__".as_ptr(),
        get: Some(c::PyObject_GenericGetDict),
        set: Some(c::PyObject_GenericSetDict),
        doc: c"The attributes of the instance.".as_ptr(),
        closure: null_mut(),
    }
}

/// The version of the object's type: changes whenever the type or a base changes, and no two types
/// share one. 0: the type has none at the moment.
#[inline]
pub fn type_version(object: Obj<'_>) -> u32 {
    // SAFETY: an object keeps its type alive.
    unsafe { (*object.type_ptr()).tp_version_tag }
}

/// The version of a type: changes whenever the type or a base changes. 0: it has none at the
/// moment.
#[inline]
pub fn type_version_of(class: Obj<'_>) -> u32 {
    // SAFETY: the caller passes a type object.
    unsafe { (*class.ptr().cast::<c::PyTypeObject>()).tp_version_tag }
}

/// A method table entry; used by the macros below.
pub const fn method(
    name: &'static CStr,
    function: c::PyMethodDefPointer,
    flags: c_int,
    doc: &'static CStr,
) -> c::PyMethodDef {
    c::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: function,
        ml_flags: flags,
        ml_doc: doc.as_ptr(),
    }
}

/// A static method definition that is bound to one object after the other; two bindings to the same
/// object are equal.
pub struct Definition(c::PyMethodDef);

// SAFETY: never written to; its pointers are to static text and functions.
unsafe impl Sync for Definition {}

impl Definition {
    /// Wraps what the macros below give.
    pub const fn new(method: c::PyMethodDef) -> Definition {
        Definition(method)
    }

    /// The function with `receiver` as its `self`.
    pub fn bind(&'static self, receiver: Obj<'_>) -> R<Ref> {
        let definition = std::ptr::from_ref(&self.0).cast_mut();
        // SAFETY: a static definition, which is only read, and a live `self`.
        unsafe { Ref::steal(c::PyCFunction_NewEx(definition, receiver.ptr(), null_mut())) }
    }
}

/// `name()`: a method without arguments from `fn(Obj) -> R<Ref>`.
macro_rules! noargs {
    ($name:literal, $function:path, $doc:literal) => {{
        unsafe extern "C" fn raw(
            this: *mut pyo3_ffi::PyObject,
            _unused: *mut pyo3_ffi::PyObject,
        ) -> *mut pyo3_ffi::PyObject {
            // SAFETY: the interpreter passes a live instance.
            let this = unsafe { $crate::ffi::Obj::from_ptr(this) };
            $crate::ffi::error::guard(|| $function(this))
        }
        let function = pyo3_ffi::PyMethodDefPointer { PyCFunction: raw };
        $crate::ffi::class::method($name, function, pyo3_ffi::METH_NOARGS, $doc)
    }};
}

/// `name(x)`: a method with one positional argument from `fn(Obj, Obj) -> R<Ref>`.
macro_rules! onearg {
    ($name:literal, $function:path, $doc:literal) => {{
        unsafe extern "C" fn raw(
            this: *mut pyo3_ffi::PyObject,
            arg: *mut pyo3_ffi::PyObject,
        ) -> *mut pyo3_ffi::PyObject {
            // SAFETY: the interpreter passes live objects.
            let (this, arg) = unsafe {
                (
                    $crate::ffi::Obj::from_ptr(this),
                    $crate::ffi::Obj::from_ptr(arg),
                )
            };
            $crate::ffi::error::guard(|| $function(this, arg))
        }
        let function = pyo3_ffi::PyMethodDefPointer { PyCFunction: raw };
        $crate::ffi::class::method($name, function, pyo3_ffi::METH_O, $doc)
    }};
}

/// `name(*args, **kwargs)`: a vectorcall method from `fn(Obj, Args) -> R<Ref>`.
macro_rules! varargs {
    ($name:literal, $function:path, $doc:literal) => {{
        unsafe extern "C" fn raw(
            this: *mut pyo3_ffi::PyObject,
            args: *const *mut pyo3_ffi::PyObject,
            nargs: isize,
            kwnames: *mut pyo3_ffi::PyObject,
        ) -> *mut pyo3_ffi::PyObject {
            // SAFETY: the interpreter passes a live instance and a well-formed vectorcall array.
            let (this, args) = unsafe {
                (
                    $crate::ffi::Obj::from_ptr(this),
                    $crate::ffi::Args::new(args, nargs, kwnames),
                )
            };
            $crate::ffi::error::guard(|| $function(this, args))
        }
        let function = pyo3_ffi::PyMethodDefPointer {
            PyCFunctionFastWithKeywords: raw,
        };
        let flags = pyo3_ffi::METH_FASTCALL | pyo3_ffi::METH_KEYWORDS;
        $crate::ffi::class::method($name, function, flags, $doc)
    }};
}

/// A read-only attribute from `fn(Obj) -> R<Ref>`, or one with a setter
/// `fn(Obj, Option<Obj>) -> R<()>` (`None` deletes).
macro_rules! attribute {
    (@getter $function:path) => {{
        unsafe extern "C" fn raw(
            this: *mut pyo3_ffi::PyObject,
            _closure: *mut std::ffi::c_void,
        ) -> *mut pyo3_ffi::PyObject {
            // SAFETY: the interpreter passes a live instance.
            let this = unsafe { $crate::ffi::Obj::from_ptr(this) };
            $crate::ffi::error::guard(|| $function(this))
        }
        raw
    }};
    ($name:expr, $getter:path, $doc:literal) => {
        pyo3_ffi::PyGetSetDef {
            name: $name.as_ptr(),
            get: Some($crate::ffi::class::attribute!(@getter $getter)),
            set: None,
            doc: $doc.as_ptr(),
            closure: std::ptr::null_mut(),
        }
    };
    ($name:expr, $getter:path, $setter:path, $doc:literal) => {{
        unsafe extern "C" fn raw_set(
            this: *mut pyo3_ffi::PyObject,
            value: *mut pyo3_ffi::PyObject,
            _closure: *mut std::ffi::c_void,
        ) -> std::ffi::c_int {
            // SAFETY: the interpreter passes live objects; null means deletion.
            let (this, value) = unsafe {
                ($crate::ffi::Obj::from_ptr(this), $crate::ffi::Obj::from_nullable(value))
            };
            $crate::ffi::error::guard_status(|| $setter(this, value))
        }
        pyo3_ffi::PyGetSetDef {
            name: $name.as_ptr(),
            get: Some($crate::ffi::class::attribute!(@getter $getter)),
            set: Some(raw_set),
            doc: $doc.as_ptr(),
            closure: std::ptr::null_mut(),
        }
    }};
}

pub(crate) use {attribute, noargs, onearg, varargs};

/// A `tp_init` slot from `fn(Obj, args: Obj, kwargs: Option<Obj>) -> R<()>`.
macro_rules! initializer {
    ($function:path) => {{
        unsafe extern "C" fn raw(
            this: *mut pyo3_ffi::PyObject,
            args: *mut pyo3_ffi::PyObject,
            kwargs: *mut pyo3_ffi::PyObject,
        ) -> std::ffi::c_int {
            // SAFETY: the interpreter passes a live instance, a tuple, and a dict or null.
            let (this, args, kwargs) = unsafe {
                (
                    $crate::ffi::Obj::from_ptr(this),
                    $crate::ffi::Obj::from_ptr(args),
                    $crate::ffi::Obj::from_nullable(kwargs),
                )
            };
            $crate::ffi::error::guard_status(|| $function(this, args, kwargs))
        }
        raw as *mut std::ffi::c_void
    }};
}
pub(crate) use initializer;

/// A slot that takes the instance alone, from `fn(Obj) -> R<Ref>`.
macro_rules! unary {
    ($function:path) => {{
        unsafe extern "C" fn raw(this: *mut pyo3_ffi::PyObject) -> *mut pyo3_ffi::PyObject {
            // SAFETY: the interpreter passes a live instance.
            let this = unsafe { $crate::ffi::Obj::from_ptr(this) };
            $crate::ffi::error::guard(|| $function(this))
        }
        raw as *mut std::ffi::c_void
    }};
}
pub(crate) use unary;

/// Binds a tuple and a dict to `signature`: for `tp_init`. The returned references are owned.
pub fn bind_tuple<const N: usize>(
    args: Obj<'_>,
    kwargs: Option<Obj<'_>>,
    signature: &super::Signature,
) -> R<[Option<Ref>; N]> {
    let bound = super::Args::of_call(args, kwargs).bind::<N>(signature)?;
    Ok(bound.map(|value| value.map(Obj::to_ref)))
}

/// As `bind_tuple`, with the texts of Python functions.
pub fn bind_tuple_python<const N: usize>(
    args: Obj<'_>,
    kwargs: Option<Obj<'_>>,
    signature: &super::Signature,
) -> R<[Option<Ref>; N]> {
    let bound = super::Args::of_call(args, kwargs).bind_python::<N>(signature)?;
    Ok(bound.map(|value| value.map(Obj::to_ref)))
}

/// A visitor for `tp_traverse`.
pub struct Visitor {
    visit: c::visitproc,
    arg: *mut c_void,
    status: c_int,
}

impl Visitor {
    /// Wraps what `tp_traverse` received.
    pub fn new(visit: c::visitproc, arg: *mut c_void) -> Visitor {
        Visitor {
            visit,
            arg,
            status: 0,
        }
    }

    /// Visits one reference, unless an earlier visit asked to stop. Null is skipped.
    pub fn visit(&mut self, object: *mut PyObject) {
        if self.status == 0 && !object.is_null() {
            // SAFETY: the collector's own callback with its own argument; the object is alive.
            self.status = unsafe { (self.visit)(object, self.arg) };
        }
    }

    /// Visits the content of a field.
    pub fn slot(&mut self, slot: &super::Slot) {
        self.visit(slot.ptr());
    }

    /// Runs another type's traverse function on the same visitor.
    pub fn base(&mut self, traverse: Option<c::traverseproc>, object: *mut PyObject) {
        if let (Some(traverse), 0) = (traverse, self.status) {
            // SAFETY: the base type's own function on an instance of a subtype.
            self.status = unsafe { traverse(object, self.visit, self.arg) };
        }
    }

    /// The status for the collector.
    pub fn status(&self) -> c_int {
        self.status
    }
}
