//! What all primitives share: the instance's dict, the loop it is bound to, and whether Python code
//! replaced any of its methods.
//!
//! A primitive is two types: a native *core* with the fields, and under it a *leaf* that has the
//! core and asyncio's class as its bases, so that `isinstance` holds and the private methods that
//! asyncio writes in Python work on the attributes of ours. May touch: the fields of one primitive.
//! Invariant: a method that a subclass, the class or the instance replaced is called wherever
//! asyncio's code would call it.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};

use pyo3_ffi as c;

use crate::event_loop::{self, LoopFields};
use crate::ffi::builtin::{self, dict_get};
use crate::ffi::call::{dict, dict_set, interned, string, tuple};
use crate::ffi::class::{Class, Visitor, type_version};
use crate::ffi::object::none_ref;
use crate::ffi::{Obj, PyObject, R, Raised, Ref, Slot, current, layout, trash};
use crate::future::free_instance;
use crate::state::state;

/// Where the fields begin: right behind the object head.
const OFFSET: usize = size_of::<PyObject>();

/// The first fields of every primitive.
#[repr(C)]
pub struct Bound {
    dict: Slot,
    weakrefs: Cell<*mut PyObject>,
    /// The loop of the first wait. *Source*: `asyncio.mixins._LoopBoundMixin`.
    event_loop: Slot,
    /// The native loop behind it, if futures may be made on it directly.
    native: Cell<*const LoopFields>,
    /// Version of the type for which `replaced` was found: what the type replaces.
    seen_version: Cell<u32>,
    replaced: Cell<u32>,
}

/// The fields of a primitive, as the life cycle below needs them. `repr(C)`, `Bound` first.
pub trait Fields: Sized + 'static {
    /// The fields of an instance whose `__init__` has not run.
    fn fresh() -> Self;
    /// Visits every reference but those in `Bound`.
    fn visit(&self, visitor: &mut Visitor);
    /// Drops every reference but those in `Bound`.
    fn clear(&self);
}

/// One kind of primitive.
pub struct Family {
    /// The native type.
    pub core: Ref,
    /// The class that users see.
    pub leaf: Ref,
    /// asyncio's class.
    pub stock: Ref,
    /// The methods that other methods call: name, and what the leaf has.
    methods: Vec<(Ref, Ref)>,
}

impl Family {
    /// Makes the leaf `name` under `bases`, the core first, and asyncio's class of that name.
    /// `methods` are those that other methods call: bit `i` of `replaced` is for the one at `i`.
    pub fn new(name: &CStr, bases: &[Obj<'_>], methods: &[&CStr]) -> R<Family> {
        let stock = stock(name)?;
        let bases: Vec<Obj<'_>> = bases.iter().copied().chain([stock.obj()]).collect();
        let leaf = leaf(name, &bases)?;
        let own = methods.iter().map(|name| {
            let name = interned(name)?;
            let method = leaf.obj().getattr(name.obj())?;
            Ok((name, method))
        });
        Ok(Family {
            methods: own.collect::<R<Vec<_>>>()?,
            core: bases[0].to_ref(),
            stock: stock.clone(),
            leaf,
        })
    }

    /// Whether `object` has the native fields.
    #[inline]
    pub fn is_core_of(&self, object: Obj<'_>) -> bool {
        object.type_ptr() == self.leaf.ptr().cast()
            || object.is_instance_of_type(self.core.ptr().cast())
    }

    /// What asyncio's own code does, on the attributes of a native object: `Class.name(*args)`.
    #[cold]
    pub fn as_stock(&self, name: &Ref, args: &[Obj<'_>]) -> R<Ref> {
        self.stock.obj().getattr(name.obj())?.obj().call(args)
    }
}

/// The fields of a primitive.
#[inline]
pub fn fields<'a, F: Fields>(this: Obj<'a>) -> &'a F {
    // SAFETY: methods get instances from their own descriptors, others check the type first; the
    // fields were written before `tp_new` returned.
    unsafe { layout::fields(this.ptr(), OFFSET) }
}

#[inline]
fn bound(this: Obj<'_>) -> &Bound {
    // SAFETY: every primitive's fields begin with `Bound`.
    unsafe { layout::fields(this.ptr(), OFFSET) }
}

impl Bound {
    /// Bound to no loop.
    pub fn fresh() -> Bound {
        Bound {
            dict: Slot::empty(),
            weakrefs: Cell::new(std::ptr::null_mut()),
            event_loop: Slot::empty(),
            native: Cell::new(std::ptr::null()),
            seen_version: Cell::new(0),
            replaced: Cell::new(0),
        }
    }

    fn bind(&self, event_loop: Option<Obj<'_>>) {
        let native = event_loop.and_then(event_loop::native);
        self.native
            .set(native.map_or(std::ptr::null(), std::ptr::from_ref));
        self.event_loop.set(event_loop.map(Obj::to_ref));
    }

    #[inline]
    fn has_attributes(&self) -> bool {
        // SAFETY: a dict, alive while the field holds it.
        !self.dict.is_empty() && unsafe { c::PyDict_Size(self.dict.ptr()) } > 0
    }
}

/// Which of the family's methods the type or the instance replaces, as bits.
#[inline(always)]
pub fn replaced(this: Obj<'_>, family: &Family) -> R<u32> {
    let bound = bound(this);
    let version = type_version(this);
    if version == 0 || version != bound.seen_version.get() {
        look_at_type(this, family)?;
    }
    let by_type = bound.replaced.get();
    if bound.has_attributes() {
        return Ok(by_type | by_instance(bound, family)?);
    }
    Ok(by_type)
}

/// As `replaced`, where nothing has to be looked at.
#[inline(always)]
pub fn surely_replaced(this: Obj<'_>) -> Option<u32> {
    let bound = bound(this);
    let version = type_version(this);
    let is_known = version != 0 && version == bound.seen_version.get() && !bound.has_attributes();
    is_known.then(|| bound.replaced.get())
}

#[cold]
fn look_at_type(this: Obj<'_>, family: &Family) -> R<()> {
    let bound = bound(this);
    let mut replaced = 0;
    for (index, (name, method)) in family.methods.iter().enumerate() {
        let found = this.type_obj().getattr(name.obj())?;
        if !found.obj().is(method.obj()) {
            replaced |= 1 << index;
        }
    }
    bound.replaced.set(replaced);
    bound.seen_version.set(type_version(this));
    Ok(())
}

/// An entry of the instance's dict hides a method of that name.
#[cold]
fn by_instance(bound: &Bound, family: &Family) -> R<u32> {
    let dict = bound.dict.get_or_none();
    let mut replaced = 0;
    for (index, (name, _)) in family.methods.iter().enumerate() {
        if dict_get(dict.obj(), name.obj())?.is_some() {
            replaced |= 1 << index;
        }
    }
    Ok(replaced)
}

/// The entry of the instance's dict under `name`.
pub fn own_attribute(this: Obj<'_>, name: &Ref) -> R<Option<Ref>> {
    match bound(this).dict.get() {
        Some(dict) => dict_get(dict.obj(), name.obj()),
        None => Ok(None),
    }
}

/// Sets or removes an entry of the instance's dict.
pub fn set_own_attribute(this: Obj<'_>, name: &Ref, value: Option<Obj<'_>>) -> R<()> {
    let slot = &bound(this).dict;
    if slot.is_empty() {
        slot.set(Some(dict()?));
    }
    let dict = slot.get_or_none();
    match value {
        Some(value) => dict_set(dict.obj(), name.obj(), value),
        None => builtin::dict_remove(dict.obj(), name.obj()),
    }
}

/// A future on the loop that the primitive is bound to; binds it to the running loop at first.
/// RuntimeError if that is another one. *Source*: `asyncio.mixins._LoopBoundMixin._get_loop`.
#[inline]
pub fn create_future(this: Obj<'_>) -> R<Ref> {
    let event_loop = running_loop_of(this)?;
    // SAFETY: points into the loop that the field beside it keeps alive, which is the running one.
    match unsafe { bound(this).native.get().as_ref() } {
        Some(native) => event_loop::create_future_with(event_loop.obj(), native),
        None => event_loop::create_future_on(event_loop.obj()),
    }
}

fn running_loop_of(this: Obj<'_>) -> R<Ref> {
    let running = current::running_loop()?;
    let bound = bound(this);
    if bound.event_loop.is_empty() && !running.obj().is_none() {
        bound.bind(Some(running.obj()));
    }
    if bound.event_loop.is_empty() || bound.event_loop.ptr() == running.ptr() {
        return Ok(running);
    }
    Err(other_loop(this))
}

#[cold]
fn other_loop(this: Obj<'_>) -> Raised {
    match this.repr() {
        Ok(repr) => Raised::runtime(&format!("{repr} is bound to a different event loop")),
        Err(raised) => raised,
    }
}

/// `_get_loop()`.
pub fn get_loop_method(this: Obj<'_>) -> R<Ref> {
    running_loop_of(this)
}

/// `_loop`.
pub fn get_loop(this: Obj<'_>) -> R<Ref> {
    Ok(bound(this).event_loop.get_or_none())
}

/// `_loop = value`.
pub fn set_loop(this: Obj<'_>, value: Option<Obj<'_>>) -> R<()> {
    let value = value.filter(|value| !value.is_none());
    bound(this).bind(value);
    Ok(())
}

/// `object.__repr__` without its brackets, and what is known of the state.
pub fn repr_with(this: Obj<'_>, state: &str, waiters: usize) -> R<Ref> {
    let plain = crate::ffi::call::text(builtin::object_repr(this)?.obj())?;
    let inner = plain.strip_prefix('<').unwrap_or(&plain);
    let inner = inner.strip_suffix('>').unwrap_or(inner);
    string(&if waiters > 0 {
        format!("<{inner} [{state}, waiters:{waiters}]>")
    } else {
        format!("<{inner} [{state}]>")
    })
}

// ---- copying and pickling -----------------------------------------------------------------------

/// The state as asyncio's instances have it in their dict: the named attributes and the dict.
pub fn get_state(this: Obj<'_>, names: &[&CStr]) -> R<Ref> {
    let found = dict()?;
    for name in names {
        let name = interned(name)?;
        let value = this.getattr(name.obj())?;
        dict_set(found.obj(), name.obj(), value.obj())?;
    }
    let bound = bound(this);
    if let Some(event_loop) = bound.event_loop.get() {
        dict_set(found.obj(), state().names._loop.obj(), event_loop.obj())?;
    }
    if let Some(own) = bound.dict.get() {
        for (key, value) in builtin::dict_items(own.obj()) {
            dict_set(found.obj(), key.obj(), value.obj())?;
        }
    }
    Ok(found)
}

/// `__setstate__`: sets every attribute that the state names.
pub fn set_state(this: Obj<'_>, found: Obj<'_>) -> R<Ref> {
    for (key, value) in builtin::dict_items(found) {
        this.setattr(key.obj(), value.obj())?;
    }
    Ok(none_ref())
}

// ---- life ---------------------------------------------------------------------------------------

/// `tp_new`.
unsafe extern "C" fn new<F: Fields>(
    class: *mut c::PyTypeObject,
    _args: *mut PyObject,
    _kwargs: *mut PyObject,
) -> *mut PyObject {
    crate::ffi::error::guard(|| {
        let fresh = F::fresh();
        // SAFETY: a ready type of ours or a subclass of one.
        let this = unsafe { Ref::steal(c::PyType_GenericAlloc(class, 0)) }?;
        // SAFETY: fresh memory of an instance, fields at this offset; written once, before anybody
        // else sees the object, and nothing between allocation and here runs the collector.
        unsafe { this.ptr().byte_add(OFFSET).cast::<F>().write(fresh) };
        Ok(this)
    })
}

unsafe extern "C" fn traverse<F: Fields>(
    this: *mut PyObject,
    visit: c::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let this = unsafe { Obj::from_ptr(this) };
    let mut visitor = Visitor::new(visit, arg);
    visitor.visit(this.type_ptr().cast());
    visitor.slot(&bound(this).dict);
    visitor.slot(&bound(this).event_loop);
    fields::<F>(this).visit(&mut visitor);
    visitor.status()
}

unsafe extern "C" fn clear<F: Fields>(this: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let this = unsafe { Obj::from_ptr(this) };
    bound(this).dict.clear();
    bound(this).bind(None);
    fields::<F>(this).clear();
    0
}

unsafe extern "C" fn dealloc<F: Fields>(this: *mut PyObject) {
    // SAFETY: the interpreter calls this once, for an instance without references.
    unsafe { trash::bounded(this, free::<F>) }
}

/// Takes an instance apart.
///
/// # Safety
/// `this` is an instance of ours without references.
unsafe fn free<F: Fields>(this: *mut PyObject) {
    // SAFETY: an instance of ours with no references left: ours to take apart, once.
    unsafe {
        let class = c::Py_TYPE(this);
        c::PyObject_GC_UnTrack(this.cast());
        c::PyObject_ClearWeakRefs(this);
        clear::<F>(this);
        this.byte_add(OFFSET).cast::<F>().drop_in_place();
        free_instance(this, class);
    }
}

// ---- types --------------------------------------------------------------------------------------

/// A core type with fields `F`; what is its own is still to be added.
pub fn core<F: Fields>(name: &'static CStr) -> Class {
    use crate::ffi::class::{attribute, onearg};
    use crate::ffi::python_method::python_method;
    Class::new(name, OFFSET + size_of::<F>())
        .flags(c::Py_TPFLAGS_BASETYPE)
        .slot(c::Py_tp_new, new::<F> as *mut _)
        .slot(c::Py_tp_traverse, traverse::<F> as *mut _)
        .slot(c::Py_tp_clear, clear::<F> as *mut _)
        .slot(c::Py_tp_dealloc, dealloc::<F> as *mut _)
        .dict_and_weakrefs(
            OFFSET + std::mem::offset_of!(Bound, dict),
            OFFSET + std::mem::offset_of!(Bound, weakrefs),
        )
        .attributes([
            attribute!(
                c"_loop",
                get_loop,
                set_loop,
                c"The loop of the first wait, or None."
            ),
            crate::ffi::class::dict_attribute(),
        ])
        .methods([
            python_method!(
                "_LoopBoundMixin",
                _get_loop(),
                get_loop_method,
                "The running loop; RuntimeError if it is not the one of the first wait."
            ),
            onearg!(c"__setstate__", set_state, c"For copy and pickle."),
        ])
}

/// The class that users see: `bases` are the core and asyncio's class, whose docstring it takes.
fn leaf(name: &CStr, bases: &[Obj<'_>]) -> R<Ref> {
    let namespace = dict()?;
    let stock = bases[bases.len() - 1];
    let entries = [
        (c"__module__", string("aioxide")?),
        (c"__slots__", tuple(&[])?),
        (c"__doc__", stock.getattr_str(c"__doc__")?),
    ];
    for (key, value) in entries {
        dict_set(namespace.obj(), interned(key)?.obj(), value.obj())?;
    }
    let name = interned(name)?;
    // SAFETY: a static of the interpreter.
    let class = unsafe { Obj::from_ptr((&raw mut c::PyType_Type).cast()) };
    class.call(&[name.obj(), tuple(bases)?.obj(), namespace.obj()])
}

/// asyncio's class of that name.
pub fn stock(name: &CStr) -> R<Ref> {
    crate::ffi::call::import(c"asyncio")?
        .obj()
        .getattr_str(name)
}
