//! Calls, attributes and the few conversions that the hot types need.
//!
//! Every function may run Python code: callers hold no borrow of loop state across one.

use std::ffi::CStr;

use pyo3_ffi as c;

use super::error::{R, Raised, check};
use super::object::{Obj, PyObject, Ref};
use super::park::{calling, unwinding};

fn pointers(args: &[Obj<'_>]) -> *const *mut PyObject {
    // `Obj` is a transparent non-null pointer.
    args.as_ptr().cast()
}

impl<'a> Obj<'a> {
    /// `self()`.
    #[inline]
    pub fn call0(self) -> R<Ref> {
        // SAFETY: alive; the result is owned or null with an error.
        calling(|| unsafe { Ref::steal(unwinding::PyObject_CallNoArgs(self.ptr())) })
    }

    /// `self(arg)`.
    #[inline]
    pub fn call1(self, arg: Obj<'_>) -> R<Ref> {
        self.call(&[arg])
    }

    /// `self(*args)`.
    #[inline]
    pub fn call(self, args: &[Obj<'_>]) -> R<Ref> {
        // SAFETY: callee and arguments are alive; no offset flag, so the slice is not written to.
        calling(|| unsafe {
            Ref::steal(unwinding::PyObject_Vectorcall(
                self.ptr(),
                pointers(args),
                args.len(),
                std::ptr::null_mut(),
            ))
        })
    }

    /// `self(*args[..n], **{kwnames[i]: args[n + i]})` with `kwnames` a tuple of strings.
    pub fn call_kw(self, args: &[Obj<'_>], kwnames: Obj<'_>) -> R<Ref> {
        // SAFETY: as in `call`; the caller passes as many values as names (checked).
        let names = unsafe { c::PyTuple_GET_SIZE(kwnames.ptr()) } as usize;
        debug_assert!(names <= args.len());
        // SAFETY: see above.
        calling(|| unsafe {
            Ref::steal(unwinding::PyObject_Vectorcall(
                self.ptr(),
                pointers(args),
                args.len() - names,
                kwnames.ptr(),
            ))
        })
    }

    /// `self(*args, **kwargs)` with a tuple and a dict.
    pub fn call_dict(self, args: Obj<'_>, kwargs: Option<Obj<'_>>) -> R<Ref> {
        let kwargs = kwargs.map_or(std::ptr::null_mut(), Obj::ptr);
        // SAFETY: all alive; a null dict means no keywords.
        calling(|| unsafe { Ref::steal(unwinding::PyObject_Call(self.ptr(), args.ptr(), kwargs)) })
    }

    /// `args[0].name(*args[1..])`, where `self` is `args[0]`.
    #[inline]
    pub fn call_method(self, name: Obj<'_>, args: &[Obj<'_>]) -> R<Ref> {
        debug_assert!(args.first().is_some_and(|first| first.is(self)));
        // SAFETY: all alive; the first argument is the receiver as VectorcallMethod wants it.
        calling(|| unsafe {
            Ref::steal(unwinding::PyObject_VectorcallMethod(
                name.ptr(),
                pointers(args),
                args.len(),
                std::ptr::null_mut(),
            ))
        })
    }

    /// `self.name()`.
    #[inline]
    pub fn call_method0(self, name: Obj<'_>) -> R<Ref> {
        self.call_method(name, &[self])
    }

    /// `self.name(arg)`.
    #[inline]
    pub fn call_method1(self, name: Obj<'_>, arg: Obj<'_>) -> R<Ref> {
        self.call_method(name, &[self, arg])
    }

    /// As `call_method`, the last arguments named by the tuple `kwnames`.
    pub fn call_method_kw(self, name: Obj<'_>, args: &[Obj<'_>], kwnames: Obj<'_>) -> R<Ref> {
        // SAFETY: a tuple, alive.
        let names = unsafe { c::PyTuple_GET_SIZE(kwnames.ptr()) } as usize;
        // SAFETY: as in `call_method`.
        calling(|| unsafe {
            Ref::steal(unwinding::PyObject_VectorcallMethod(
                name.ptr(),
                pointers(args),
                args.len() - names,
                kwnames.ptr(),
            ))
        })
    }

    /// `self.name`.
    #[inline]
    pub fn getattr(self, name: Obj<'_>) -> R<Ref> {
        // SAFETY: both alive.
        unsafe { Ref::steal(c::PyObject_GetAttr(self.ptr(), name.ptr())) }
    }

    /// `self.name` by a C string: for import time.
    pub fn getattr_str(self, name: &CStr) -> R<Ref> {
        // SAFETY: alive, NUL-terminated.
        unsafe { Ref::steal(c::PyObject_GetAttrString(self.ptr(), name.as_ptr())) }
    }

    /// `getattr(self, name, None)` without raising AttributeError; other errors pass.
    pub fn getattr_opt(self, name: Obj<'_>) -> R<Option<Ref>> {
        match self.getattr(name) {
            Ok(value) => Ok(Some(value)),
            // SAFETY: a static of the interpreter.
            Err(raised) if raised.matches(unsafe { c::PyExc_AttributeError }) => {
                drop(raised.take());
                Ok(None)
            }
            Err(raised) => Err(raised),
        }
    }

    /// `self.name = value`.
    pub fn setattr(self, name: Obj<'_>, value: Obj<'_>) -> R<()> {
        // SAFETY: all alive.
        check(unsafe { c::PyObject_SetAttr(self.ptr(), name.ptr(), value.ptr()) })
    }

    /// Python's truth value.
    #[inline]
    pub fn is_true(self) -> R<bool> {
        // SAFETY: static objects.
        let (yes, no) = unsafe { (c::Py_True(), c::Py_False()) };
        if self.ptr() == yes || self.ptr() == no {
            return Ok(self.ptr() == yes);
        }
        // SAFETY: alive.
        let status = unsafe { c::PyObject_IsTrue(self.ptr()) };
        check(status).map(|()| status != 0)
    }

    /// `self == other`, by rich comparison.
    pub fn equals(self, other: Obj<'_>) -> R<bool> {
        // SAFETY: both alive.
        let status = unsafe { c::PyObject_RichCompareBool(self.ptr(), other.ptr(), c::Py_EQ) };
        check(status).map(|()| status != 0)
    }

    /// `self <= other`.
    pub fn is_at_most(self, other: Obj<'_>) -> R<bool> {
        // SAFETY: both alive.
        let status = unsafe { c::PyObject_RichCompareBool(self.ptr(), other.ptr(), c::Py_LE) };
        check(status).map(|()| status != 0)
    }

    /// `isinstance(self, class)`.
    pub fn isinstance(self, class: Obj<'_>) -> R<bool> {
        // SAFETY: both alive.
        let status = unsafe { c::PyObject_IsInstance(self.ptr(), class.ptr()) };
        check(status).map(|()| status != 0)
    }

    /// `callable(self)`.
    pub fn is_callable(self) -> bool {
        // SAFETY: alive.
        unsafe { c::PyCallable_Check(self.ptr()) != 0 }
    }

    /// `repr(self)` as Rust text.
    pub fn repr(self) -> R<String> {
        // SAFETY: alive.
        text(unsafe { Ref::steal(c::PyObject_Repr(self.ptr())) }?.obj())
    }

    /// `str(self)`.
    pub fn str(self) -> R<Ref> {
        // SAFETY: alive.
        unsafe { Ref::steal(c::PyObject_Str(self.ptr())) }
    }

    /// `float(self)`.
    #[inline]
    pub fn to_f64(self) -> R<f64> {
        // SAFETY: alive.
        let value = unsafe { c::PyFloat_AsDouble(self.ptr()) };
        if value == -1.0 {
            error_occurred().map(|()| value)
        } else {
            Ok(value)
        }
    }

    /// `operator.index(self)` as a C long; OverflowError where it does not fit.
    pub fn to_i64(self) -> R<i64> {
        // SAFETY: alive.
        let value = unsafe { c::PyLong_AsLongLong(self.ptr()) };
        if value == -1 {
            error_occurred().map(|()| value)
        } else {
            Ok(value)
        }
    }

    /// Whether this is an instance of `int`.
    pub fn is_int(self) -> bool {
        // SAFETY: alive.
        unsafe { c::PyLong_Check(self.ptr()) != 0 }
    }

    /// Whether this is exactly `int`.
    pub fn is_exact_int(self) -> bool {
        // SAFETY: alive.
        unsafe { c::PyLong_CheckExact(self.ptr()) != 0 }
    }

    /// Whether this is exactly `bytes`.
    pub fn is_exact_bytes(self) -> bool {
        // SAFETY: alive.
        unsafe { c::PyBytes_CheckExact(self.ptr()) != 0 }
    }

    /// Whether this is exactly `float`.
    pub fn is_exact_float(self) -> bool {
        // SAFETY: alive.
        unsafe { c::PyFloat_CheckExact(self.ptr()) != 0 }
    }

    /// Whether this is exactly `str`.
    pub fn is_exact_str(self) -> bool {
        // SAFETY: alive.
        unsafe { c::PyUnicode_CheckExact(self.ptr()) != 0 }
    }
}

fn error_occurred() -> R<()> {
    // SAFETY: reads the indicator.
    if unsafe { c::PyErr_Occurred() }.is_null() {
        Ok(())
    } else {
        Err(Raised::from_indicator())
    }
}

/// A Python string.
pub fn string(text: &str) -> R<Ref> {
    // SAFETY: pointer and length describe valid UTF-8.
    unsafe {
        Ref::steal(c::PyUnicode_FromStringAndSize(
            text.as_ptr().cast(),
            text.len() as isize,
        ))
    }
}

/// An interned Python string, for names.
pub fn interned(name: &CStr) -> R<Ref> {
    // SAFETY: NUL-terminated.
    unsafe { Ref::steal(c::PyUnicode_InternFromString(name.as_ptr())) }
}

/// The text of a Python string, copied; lone surrogates become escapes.
pub fn text(string: Obj<'_>) -> R<String> {
    // SAFETY: alive; a bytes object or an error comes back.
    let bytes = unsafe {
        Ref::steal(c::PyUnicode_AsEncodedString(
            string.ptr(),
            c"utf-8".as_ptr(),
            c"backslashreplace".as_ptr(),
        ))
    }?;
    // SAFETY: a bytes object: its buffer lives as long as `bytes`.
    let slice = unsafe {
        std::slice::from_raw_parts(
            c::PyBytes_AsString(bytes.ptr()).cast::<u8>(),
            c::PyBytes_Size(bytes.ptr()) as usize,
        )
    };
    Ok(String::from_utf8_lossy(slice).into_owned())
}

/// A Python float.
pub fn float(value: f64) -> R<Ref> {
    // SAFETY: no precondition.
    unsafe { Ref::steal(c::PyFloat_FromDouble(value)) }
}

/// A Python int.
pub fn int(value: i64) -> R<Ref> {
    // SAFETY: no precondition.
    unsafe { Ref::steal(c::PyLong_FromLongLong(value)) }
}

/// A Python int, unsigned.
pub fn uint(value: u64) -> R<Ref> {
    // SAFETY: no precondition.
    unsafe { Ref::steal(c::PyLong_FromUnsignedLongLong(value)) }
}

/// A tuple of the given objects.
pub fn tuple(items: &[Obj<'_>]) -> R<Ref> {
    // SAFETY: no precondition; the new tuple's items are filled before anyone sees it.
    let tuple = unsafe { Ref::steal(c::PyTuple_New(items.len() as isize)) }?;
    for (index, item) in items.iter().enumerate() {
        // SAFETY: the index is in range and its item still unset; the reference is given away.
        unsafe { c::PyTuple_SetItem(tuple.ptr(), index as isize, item.to_ref().into_ptr()) };
    }
    Ok(tuple)
}

/// Item `index` of a tuple, borrowed; the caller knows that it exists.
pub fn tuple_item<'a>(tuple: Obj<'a>, index: usize) -> Obj<'a> {
    // SAFETY: the caller passes a tuple and an index below its size.
    unsafe { Obj::from_ptr(c::PyTuple_GetItem(tuple.ptr(), index as isize)) }
}

/// The items of exactly a `tuple` of `N`; `None` for anything else.
pub fn exact_tuple<'a, const N: usize>(object: Obj<'a>) -> Option<[Obj<'a>; N]> {
    // SAFETY: alive.
    let is_tuple = unsafe { c::PyTuple_CheckExact(object.ptr()) } != 0;
    if !is_tuple || tuple_len(object) != N {
        return None;
    }
    Some(std::array::from_fn(|index| tuple_item(object, index)))
}

/// The text of exactly a `str`, not copied; `None` for anything else and for lone surrogates.
pub fn utf8(string: Obj<'_>) -> Option<&str> {
    if !string.is_exact_str() {
        return None;
    }
    let mut length = 0;
    // SAFETY: a string, alive; the buffer that comes back is the string's own and lives as long.
    let data = unsafe { c::PyUnicode_AsUTF8AndSize(string.ptr(), &raw mut length) };
    if data.is_null() {
        drop(Raised::from_indicator().take());
        return None;
    }
    // SAFETY: `length` bytes at `data`, see above.
    let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length as usize) };
    std::str::from_utf8(bytes).ok()
}

/// The number of items of a tuple.
pub fn tuple_len(tuple: Obj<'_>) -> usize {
    // SAFETY: the caller passes a tuple.
    unsafe { c::PyTuple_Size(tuple.ptr()) as usize }
}

/// A new list of the given objects.
pub fn list(items: &[Ref]) -> R<Ref> {
    // SAFETY: no precondition.
    let list = unsafe { Ref::steal(c::PyList_New(0)) }?;
    for item in items {
        // SAFETY: both alive; Append takes its own reference.
        check(unsafe { c::PyList_Append(list.ptr(), item.ptr()) })?;
    }
    Ok(list)
}

/// A new list that takes the given objects over.
pub fn list_of(items: Vec<Ref>) -> R<Ref> {
    // SAFETY: no precondition; nobody sees the list before its items are filled.
    let list = unsafe { Ref::steal(c::PyList_New(items.len() as isize)) }?;
    for (index, item) in items.into_iter().enumerate() {
        // SAFETY: the index is in range and its item still unset; the reference is given away.
        unsafe { c::PyList_SET_ITEM(list.ptr(), index as isize, item.into_ptr()) };
    }
    Ok(list)
}

/// `list.append(item)`.
pub fn list_append(list: Obj<'_>, item: Obj<'_>) -> R<()> {
    // SAFETY: both alive; Append takes its own reference.
    check(unsafe { c::PyList_Append(list.ptr(), item.ptr()) })
}

/// The number of items of a list.
pub fn list_len(list: Obj<'_>) -> usize {
    // SAFETY: the caller passes a list.
    unsafe { c::PyList_Size(list.ptr()) as usize }
}

/// Item `index` of a list, if it has so many.
pub fn list_item(list: Obj<'_>, index: usize) -> Option<Ref> {
    if index >= list_len(list) {
        return None;
    }
    // SAFETY: a list and an index in range; the item is borrowed, then owned.
    unsafe { Obj::from_nullable(c::PyList_GET_ITEM(list.ptr(), index as isize)) }.map(Obj::to_ref)
}

/// A new dict.
pub fn dict() -> R<Ref> {
    // SAFETY: no precondition.
    unsafe { Ref::steal(c::PyDict_New()) }
}

/// `dict[key] = value`.
pub fn dict_set(dict: Obj<'_>, key: Obj<'_>, value: Obj<'_>) -> R<()> {
    // SAFETY: all alive, `dict` is one.
    check(unsafe { c::PyDict_SetItem(dict.ptr(), key.ptr(), value.ptr()) })
}

/// `key in dict`.
pub fn dict_has(dict: Obj<'_>, key: Obj<'_>) -> R<bool> {
    // SAFETY: both alive; anything that is no dict is refused with an error.
    let status = unsafe { c::PyDict_Contains(dict.ptr(), key.ptr()) };
    check(status).map(|()| status != 0)
}

/// `import name`, without looking for a replaced `__import__`: at import this is done often.
pub fn import(name: &CStr) -> R<Ref> {
    let name = interned(name)?;
    let none = std::ptr::null_mut();
    // SAFETY: a string, no globals, no list of names, not relative; new or null with an error.
    let package = unsafe {
        Ref::steal(c::PyImport_ImportModuleLevelObject(
            name.ptr(),
            none,
            none,
            none,
            0,
        ))
    }?;
    // SAFETY: a string; new, or null where somebody removed it from `sys.modules` at once.
    match unsafe { Ref::steal_opt(c::PyImport_GetModule(name.ptr())) } {
        Some(module) => Ok(module),
        None => Ok(package),
    }
}
