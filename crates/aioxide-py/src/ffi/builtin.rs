//! The interpreter's own classes, and dicts: small things that need a raw call.
//!
//! May touch: the dicts given. Dict functions raise SystemError for what is no dict.

use pyo3_ffi as c;

use super::error::{R, Raised, check};
use super::object::{Obj, Ref};

/// `OSError`.
pub fn os_error<'a>() -> Obj<'a> {
    // SAFETY: a static of the interpreter.
    unsafe { Obj::from_ptr(c::PyExc_OSError) }
}

/// Whether the exception is one of those that asyncio takes for "not now".
pub fn is_would_block(raised: &Raised) -> bool {
    // SAFETY: statics of the interpreter.
    let classes = unsafe { [c::PyExc_BlockingIOError, c::PyExc_InterruptedError] };
    classes.into_iter().any(|class| raised.matches(class))
}

/// `ConnectionError`.
pub fn connection_error<'a>() -> Obj<'a> {
    // SAFETY: a static of the interpreter.
    unsafe { Obj::from_ptr(c::PyExc_ConnectionError) }
}

/// `BrokenPipeError()`.
pub fn broken_pipe() -> R<Ref> {
    // SAFETY: a static of the interpreter.
    unsafe { Obj::from_ptr(c::PyExc_BrokenPipeError) }.call0()
}

/// AssertionError with `message`.
pub fn assertion(message: &str) -> Raised {
    // SAFETY: a static of the interpreter.
    Raised::builtin(unsafe { c::PyExc_AssertionError }, message)
}

/// `bytearray(object)`.
pub fn bytearray(object: Obj<'_>) -> R<Ref> {
    // SAFETY: alive.
    unsafe { Ref::steal(c::PyByteArray_FromObject(object.ptr())) }
}

/// `ImportError`.
pub fn import_error<'a>() -> Obj<'a> {
    // SAFETY: a static of the interpreter.
    unsafe { Obj::from_ptr(c::PyExc_ImportError) }
}

/// `ConnectionResetError`.
pub fn connection_reset_error<'a>() -> Obj<'a> {
    // SAFETY: a static of the interpreter.
    unsafe { Obj::from_ptr(c::PyExc_ConnectionResetError) }
}

/// `ConnectionAbortedError`.
pub fn connection_aborted_error<'a>() -> Obj<'a> {
    // SAFETY: a static of the interpreter.
    unsafe { Obj::from_ptr(c::PyExc_ConnectionAbortedError) }
}

/// `TimeoutError`.
pub fn timeout_error<'a>() -> Obj<'a> {
    // SAFETY: a static of the interpreter.
    unsafe { Obj::from_ptr(c::PyExc_TimeoutError) }
}

/// Raises `NotImplementedError`.
pub fn not_implemented() -> Raised {
    // SAFETY: a static of the interpreter.
    unsafe { c::PyErr_SetNone(c::PyExc_NotImplementedError) };
    Raised::from_indicator()
}

/// `super(type(object), object)`: its attributes as its type's bases have them.
pub fn super_of(object: Obj<'_>) -> R<Ref> {
    // SAFETY: a static of the interpreter.
    let class = unsafe { Obj::from_ptr((&raw mut c::PySuper_Type).cast()) };
    class.call(&[object.type_obj(), object])
}

/// `left // right`.
pub fn floor_divide(left: Obj<'_>, right: Obj<'_>) -> R<Ref> {
    // SAFETY: both alive.
    unsafe { Ref::steal(c::PyNumber_FloorDivide(left.ptr(), right.ptr())) }
}

/// Whether the object is exactly a list, tuple, set or dict.
pub fn is_plain_collection(object: Obj<'_>) -> bool {
    // SAFETY: alive.
    unsafe {
        c::PyList_CheckExact(object.ptr()) != 0
            || c::PyTuple_CheckExact(object.ptr()) != 0
            || c::PyAnySet_CheckExact(object.ptr()) != 0
            || c::PyDict_CheckExact(object.ptr()) != 0
    }
}

/// `set()`.
pub fn set_new() -> R<Ref> {
    // SAFETY: null means empty.
    unsafe { Ref::steal(c::PySet_New(std::ptr::null_mut())) }
}

/// `set(iterable)`.
pub fn set_from(iterable: Obj<'_>) -> R<Ref> {
    // SAFETY: alive.
    unsafe { Ref::steal(c::PySet_New(iterable.ptr())) }
}

/// `set.discard(item)`.
pub fn set_remove(set: Obj<'_>, item: Obj<'_>) -> R<()> {
    // SAFETY: both alive.
    check(unsafe { c::PySet_Discard(set.ptr(), item.ptr()) })
}

/// `set.add(item)`.
pub fn set_add(set: Obj<'_>, item: Obj<'_>) -> R<()> {
    // SAFETY: both alive.
    check(unsafe { c::PySet_Add(set.ptr(), item.ptr()) })
}

/// `item in container`.
pub fn contains(container: Obj<'_>, item: Obj<'_>) -> R<bool> {
    // SAFETY: both alive.
    let status = unsafe { c::PySequence_Contains(container.ptr(), item.ptr()) };
    check(status).map(|()| status != 0)
}

/// `left * right`.
pub fn multiply(left: Obj<'_>, right: Obj<'_>) -> R<Ref> {
    // SAFETY: both alive.
    unsafe { Ref::steal(c::PyNumber_Multiply(left.ptr(), right.ptr())) }
}

/// `-number`.
pub fn negate(number: Obj<'_>) -> R<Ref> {
    // SAFETY: alive.
    unsafe { Ref::steal(c::PyNumber_Negative(number.ptr())) }
}

/// `object[start:]`.
pub fn slice_from(object: Obj<'_>, start: usize) -> R<Ref> {
    // SAFETY: alive; a sequence or an error.
    unsafe {
        Ref::steal(c::PySequence_GetSlice(
            object.ptr(),
            start as isize,
            isize::MAX,
        ))
    }
}

/// Whether `object` is a `bytearray` or a `memoryview`, subclasses included.
pub fn is_mutable_bytes(object: Obj<'_>) -> bool {
    // SAFETY: alive.
    unsafe { c::PyByteArray_Check(object.ptr()) != 0 || c::PyMemoryView_Check(object.ptr()) != 0 }
}

/// The weak reference to `object` that all share who ask for one without a callback.
#[inline]
pub fn weakref(object: Obj<'_>) -> R<Ref> {
    // SAFETY: alive; no callback.
    unsafe { Ref::steal(c::PyWeakref_NewRef(object.ptr(), std::ptr::null_mut())) }
}

/// Whether `object` is exactly `bytes`, a `bytearray` or a `memoryview`.
#[inline]
pub fn is_stock_bytes(object: Obj<'_>) -> bool {
    // SAFETY: alive.
    object.is_exact_bytes()
        || unsafe {
            c::PyByteArray_CheckExact(object.ptr()) != 0 || c::PyMemoryView_Check(object.ptr()) != 0
        }
}

/// The name of the object's type, without its module.
pub fn type_name(object: Obj<'_>) -> R<String> {
    super::call::text(object.type_obj().getattr_str(c"__name__")?.obj())
}

/// The name of the object's type with its module, unless that is the interpreter's own.
/// *Source*: `PyType_GetFullyQualifiedName`.
pub fn full_type_name(object: Obj<'_>) -> R<String> {
    let class = object.type_obj();
    let text_of = |name| super::call::text(class.getattr_str(name)?.obj());
    let (module, name) = (text_of(c"__module__")?, text_of(c"__qualname__")?);
    Ok(match module.as_str() {
        "builtins" | "__main__" => name,
        _ => format!("{module}.{name}"),
    })
}

/// `len(object)`.
pub fn len(object: Obj<'_>) -> R<usize> {
    // SAFETY: alive.
    let len = unsafe { c::PyObject_Size(object.ptr()) };
    usize::try_from(len).map_err(|_| Raised::from_indicator())
}

/// `object[index]`.
pub fn item(object: Obj<'_>, index: usize) -> R<Ref> {
    // SAFETY: alive; a sequence or an error.
    unsafe { Ref::steal(c::PySequence_GetItem(object.ptr(), index as isize)) }
}

/// `iter(object)`.
pub fn iter(object: Obj<'_>) -> R<Ref> {
    // SAFETY: alive.
    unsafe { Ref::steal(c::PyObject_GetIter(object.ptr())) }
}

/// `next(iterator)`, or `None` at its end.
pub fn next(iterator: Obj<'_>) -> R<Option<Ref>> {
    // SAFETY: an iterator, alive; null means the end or an error.
    let item = unsafe { Ref::steal_opt(c::PyIter_Next(iterator.ptr())) };
    // SAFETY: only reads the indicator.
    if item.is_none() && !unsafe { c::PyErr_Occurred() }.is_null() {
        return Err(Raised::from_indicator());
    }
    Ok(item)
}

/// `dict.get(key)`.
pub fn dict_get(dict: Obj<'_>, key: Obj<'_>) -> R<Option<Ref>> {
    // SAFETY: both alive; the result is borrowed from the dict, or null with or without an error.
    let found = unsafe { Obj::from_nullable(c::PyDict_GetItemWithError(dict.ptr(), key.ptr())) };
    // SAFETY: only reads the indicator.
    if found.is_none() && !unsafe { c::PyErr_Occurred() }.is_null() {
        return Err(Raised::from_indicator());
    }
    Ok(found.map(Obj::to_ref))
}

/// Whether this is a function of an extension module, and no replacement in Python.
pub fn is_builtin_function(function: Obj<'_>) -> bool {
    // SAFETY: alive.
    unsafe { c::PyCFunction_CheckExact(function.ptr()) != 0 }
}

/// `del dict[key]`.
pub fn dict_remove(dict: Obj<'_>, key: Obj<'_>) -> R<()> {
    // SAFETY: both alive.
    check(unsafe { c::PyDict_DelItem(dict.ptr(), key.ptr()) })
}

/// `memoryview(object)`.
pub fn memoryview(object: Obj<'_>) -> R<Ref> {
    // SAFETY: alive.
    unsafe { Ref::steal(c::PyMemoryView_FromObject(object.ptr())) }
}

/// An `int` as i64; one that does not fit becomes the nearest limit. A `float` is rounded down.
pub fn saturating_i64(number: Obj<'_>) -> R<i64> {
    if !number.is_int() {
        return Ok(number.to_f64()?.floor() as i64);
    }
    let mut overflow = 0;
    // SAFETY: an int, alive, and an out-parameter of ours.
    let value = unsafe { c::PyLong_AsLongLongAndOverflow(number.ptr(), &raw mut overflow) };
    Ok(match overflow {
        0 => value,
        1.. => i64::MAX,
        _ => i64::MIN,
    })
}

unsafe extern "C" {
    /// `types.MethodType(function, instance)`; part of the stable API, not declared by `pyo3_ffi`.
    fn PyMethod_New(function: *mut c::PyObject, instance: *mut c::PyObject) -> *mut c::PyObject;
}

/// `function` bound to `instance`, as a Python function binds.
pub fn bound_method(function: Obj<'_>, instance: Obj<'_>) -> R<Ref> {
    // SAFETY: both alive; the result is owned or null with an error.
    unsafe { Ref::steal(PyMethod_New(function.ptr(), instance.ptr())) }
}

/// Whether the object is equal to itself only and hashed by its address.
#[inline]
pub fn has_identity(object: Obj<'_>) -> bool {
    let plain = &raw const c::PyBaseObject_Type;
    // SAFETY: an object keeps its type alive; `object` is a static type.
    let (class, plain) = unsafe { (&*object.type_ptr(), &*plain) };
    let address = |hash: Option<c::hashfunc>| hash.map(|function| function as usize);
    let compare = |function: Option<c::richcmpfunc>| function.map(|function| function as usize);
    address(class.tp_hash) == address(plain.tp_hash)
        && compare(class.tp_richcompare) == compare(plain.tp_richcompare)
}

/// Everything that an iterable gives.
pub fn collect(iterable: Option<Obj<'_>>) -> R<Vec<Ref>> {
    let mut items = Vec::new();
    if let Some(iterable) = iterable {
        let iterator = iter(iterable)?;
        while let Some(item) = next(iterator.obj())? {
            items.push(item);
        }
    }
    Ok(items)
}

/// The items of a dict; nothing for what is no dict.
pub fn dict_items(dict: Obj<'_>) -> Vec<(Ref, Ref)> {
    let mut items = Vec::new();
    // SAFETY: alive.
    if unsafe { c::PyDict_Check(dict.ptr()) } == 0 {
        return items;
    }
    let (mut position, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: a dict that nobody changes during this loop; key and value are borrowed.
    while unsafe { c::PyDict_Next(dict.ptr(), &mut position, &mut key, &mut value) } != 0 {
        // SAFETY: the dict keeps both alive.
        items.push(unsafe { (Obj::from_ptr(key).to_ref(), Obj::from_ptr(value).to_ref()) });
    }
    items
}

/// `object.__repr__(object)`.
pub fn object_repr(object: Obj<'_>) -> R<Ref> {
    // SAFETY: a static of the interpreter.
    let repr = unsafe { c::PyBaseObject_Type.tp_repr };
    match repr {
        // SAFETY: the base's own function, for any object.
        Some(repr) => unsafe { Ref::steal(repr(object.ptr())) },
        None => Err(Raised::type_error("object has no repr")),
    }
}

/// A comparison that Python knows.
#[derive(Copy, Clone)]
#[repr(i32)]
pub enum Comparison {
    /// `<`
    Less = c::Py_LT,
    /// `<=`
    AtMost = c::Py_LE,
    /// `==`
    Equal = c::Py_EQ,
    /// `>`
    Greater = c::Py_GT,
    /// `>=`
    AtLeast = c::Py_GE,
}

/// The truth of `left <comparison> right`.
pub fn compare(left: Obj<'_>, comparison: Comparison, right: Obj<'_>) -> R<bool> {
    // SAFETY: both alive.
    let result = unsafe {
        Ref::steal(c::PyObject_RichCompare(
            left.ptr(),
            right.ptr(),
            comparison as i32,
        ))
    }?;
    result.obj().is_true()
}

/// `left + right`.
pub fn add(left: Obj<'_>, right: Obj<'_>) -> R<Ref> {
    // SAFETY: both alive.
    unsafe { Ref::steal(c::PyNumber_Add(left.ptr(), right.ptr())) }
}

/// `list(iterable)`.
pub fn to_list(iterable: Obj<'_>) -> R<Ref> {
    // SAFETY: alive; a new list or an error.
    unsafe { Ref::steal(c::PySequence_List(iterable.ptr())) }
}

/// The value of exactly an `int` that fits; nothing for anything else.
pub fn small_int(number: Obj<'_>) -> Option<i64> {
    if !number.is_exact_int() {
        return None;
    }
    let mut overflow = 0;
    // SAFETY: an int, alive, and an out-parameter of ours; an exact int raises nothing.
    let value = unsafe { c::PyLong_AsLongLongAndOverflow(number.ptr(), &raw mut overflow) };
    (overflow == 0).then_some(value)
}

/// `ValueError`.
pub fn value_error<'a>() -> Obj<'a> {
    // SAFETY: a static of the interpreter.
    unsafe { Obj::from_ptr(c::PyExc_ValueError) }
}

/// Makes `before` the context of `exception`, as raising it while `before` is handled does.
pub fn chain_context(exception: Obj<'_>, before: Obj<'_>) {
    // SAFETY: both are exceptions; the context comes owned or null.
    let context = unsafe { Ref::steal_opt(c::PyException_GetContext(exception.ptr())) };
    if context.is_none() && !exception.is(before) {
        // SAFETY: takes over the reference to `before`.
        unsafe { c::PyException_SetContext(exception.ptr(), before.to_ref().into_ptr()) };
    }
}

/// `IndexError`.
pub fn index_error<'a>() -> Obj<'a> {
    // SAFETY: a static of the interpreter.
    unsafe { Obj::from_ptr(c::PyExc_IndexError) }
}

/// `AttributeError`.
pub fn attribute_error<'a>() -> Obj<'a> {
    // SAFETY: a static of the interpreter.
    unsafe { Obj::from_ptr(c::PyExc_AttributeError) }
}

/// `BaseExceptionGroup`.
pub fn base_exception_group<'a>() -> Obj<'a> {
    // SAFETY: a static of the interpreter.
    unsafe { Obj::from_ptr(c::PyExc_BaseExceptionGroup) }
}

/// `isinstance(exception, (SystemExit, KeyboardInterrupt))`.
pub fn is_exit(exception: Obj<'_>) -> bool {
    // SAFETY: statics of the interpreter.
    let classes = unsafe { [c::PyExc_SystemExit, c::PyExc_KeyboardInterrupt] };
    classes
        .into_iter()
        .any(|class| exception.is_instance_of_type(class.cast()))
}

/// `issubclass(class, GeneratorExit)`.
pub fn is_generator_exit(class: Obj<'_>) -> R<bool> {
    // SAFETY: a static of the interpreter.
    is_subclass(class, unsafe { Obj::from_ptr(c::PyExc_GeneratorExit) })
}

/// `issubclass(class, base)`.
pub fn is_subclass(class: Obj<'_>, base: Obj<'_>) -> R<bool> {
    // SAFETY: both alive.
    let status = unsafe { c::PyObject_IsSubclass(class.ptr(), base.ptr()) };
    check(status).map(|()| status != 0)
}

/// `isinstance(object, list)`.
pub fn is_list(object: Obj<'_>) -> bool {
    // SAFETY: alive.
    unsafe { c::PyList_Check(object.ptr()) != 0 }
}
