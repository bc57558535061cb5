//! Native functions and methods that return a coroutine, as an `async def` does.
//!
//! They bind like Python functions, and `asyncio.iscoroutinefunction`, `inspect` and
//! `unittest.mock` see coroutine functions in them. May touch: nothing but their arguments.
//! *Source*: `inspect.markcoroutinefunction`, `asyncio.coroutines._is_coroutine`.

use std::cell::Cell;
use std::ffi::c_int;

use pyo3_ffi as c;

use crate::ffi::builtin::{bound_method, type_name};
use crate::ffi::call::{import, interned, string};
use crate::ffi::class::{Class, attribute, noargs};
use crate::ffi::{Args, Obj, PyObject, R, Raised, Ref, layout};
use crate::future;
use crate::state::state;

/// What a coroutine function is made of.
pub struct Function {
    /// `__name__`.
    pub name: &'static str,
    /// `__qualname__`; what follows its last dot is the name.
    pub qualname: &'static str,
    /// The signature that `inspect` shows, as `(delay, result=None)`; methods begin with `self`.
    pub signature: &'static str,
    /// `__doc__`.
    pub doc: &'static str,
    /// Makes the coroutine. A method's instance is the first argument, a function has none.
    pub call: Call,
}

/// How a function is called.
pub enum Call {
    /// A function of a module.
    Function(fn(Args<'_>) -> R<Ref>),
    /// A method.
    Method(Method),
}

/// Makes the coroutine of a method.
type Method = fn(Obj<'_>, Args<'_>) -> R<Ref>;

#[repr(C)]
struct Fields {
    vectorcall: Cell<Option<c::vectorcallfunc>>,
    /// What a method calls; nothing in a function.
    method: Cell<Option<Method>>,
    /// The class whose method it is: the first argument is an instance. The class lives as long as
    /// the module, whose types are never freed.
    receiver: Cell<*mut c::PyTypeObject>,
    function: Cell<Option<&'static Function>>,
    weakrefs: Cell<*mut PyObject>,
}

const OFFSET: usize = size_of::<PyObject>();

fn fields(function: Obj<'_>) -> &Fields {
    // SAFETY: only instances of this module's final type come here.
    unsafe { layout::fields(function.ptr(), OFFSET) }
}

fn definition(function: Obj<'_>) -> R<&'static Function> {
    let function = fields(function).function.get();
    function.ok_or_else(|| Raised::runtime("a coroutine function without a definition"))
}

unsafe extern "C" fn call(
    function: *mut PyObject,
    args: *const *mut PyObject,
    nargsf: usize,
    kwnames: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let function = unsafe { Obj::from_ptr(function) };
    // SAFETY: no precondition.
    let positional = unsafe { c::PyVectorcall_NARGS(nargsf) } as isize;
    crate::ffi::error::guard(|| match fields(function).method.get() {
        Some(call) if positional > 0 => {
            // SAFETY: there is a first argument, alive.
            let this = unsafe { Obj::from_ptr(*args) };
            check_receiver(function, this)?;
            // SAFETY: the rest of a well-formed vectorcall array.
            call(this, unsafe {
                Args::new(args.add(1), positional - 1, kwnames)
            })
        }
        Some(_) => Err(missing_self(definition(function)?)),
        None => match definition(function)?.call {
            // SAFETY: a well-formed vectorcall array.
            Call::Function(call) => call(unsafe { Args::new(args, positional, kwnames) }),
            Call::Method(_) => Err(missing_self(definition(function)?)),
        },
    })
}

#[inline]
fn check_receiver(function: Obj<'_>, this: Obj<'_>) -> R<()> {
    let class = fields(function).receiver.get();
    // The class that users see is right below the one with the methods, or one further.
    // SAFETY: an object keeps its type alive, and a type its bases.
    let (base, next) = unsafe {
        let base = (*this.type_ptr()).tp_base;
        (base, base.as_ref().map(|base| base.tp_base))
    };
    if base == class || next == Some(class) || this.is_instance_of_type(class) {
        return Ok(());
    }
    Err(wrong_receiver(definition(function)?, this))
}

#[cold]
fn wrong_receiver(function: &Function, this: Obj<'_>) -> Raised {
    let got = match type_name(this) {
        Ok(got) => got,
        Err(raised) => return raised,
    };
    let class = function.qualname.split('.').next().unwrap_or_default();
    Raised::type_error(&format!(
        "descriptor '{}' for 'aioxide.{class}' objects doesn't apply to a '{got}' object",
        function.name
    ))
}

#[cold]
fn missing_self(function: &Function) -> Raised {
    Raised::type_error(&format!(
        "{}() missing 1 required positional argument: 'self'",
        function.qualname
    ))
}

/// `tp_descr_get`: binds to an instance, as a Python function does.
unsafe extern "C" fn bind(
    function: *mut PyObject,
    instance: *mut PyObject,
    _class: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: live objects; looked up on the class, the instance is null.
    let (function, instance) = unsafe { (Obj::from_ptr(function), Obj::from_nullable(instance)) };
    crate::ffi::error::guard(|| match instance {
        Some(instance) => bound_method(function, instance),
        None => Ok(function.to_ref()),
    })
}

fn get_name(function: Obj<'_>) -> R<Ref> {
    string(definition(function)?.name)
}

fn get_qualname(function: Obj<'_>) -> R<Ref> {
    string(definition(function)?.qualname)
}

fn get_doc(function: Obj<'_>) -> R<Ref> {
    string(definition(function)?.doc)
}

fn get_module(_function: Obj<'_>) -> R<Ref> {
    string("aioxide")
}

fn get_signature(function: Obj<'_>) -> R<Ref> {
    let text = string(definition(function)?.signature)?;
    let inspect = import(c"inspect")?;
    let class = inspect.obj().getattr_str(c"Signature")?;
    let parse = inspect.obj().getattr_str(c"_signature_fromstr")?;
    parse.obj().call(&[class.obj(), function, text.obj()])
}

/// The mark that `inspect.iscoroutinefunction` looks for, where it has one.
fn get_inspect_mark(_function: Obj<'_>) -> R<Ref> {
    let inspect = import(c"inspect")?;
    // The second is its name in 3.12.
    for name in [c"_is_coroutine_mark", c"_is_coroutine_marker"] {
        if let Some(mark) = inspect.obj().getattr_opt(interned(name)?.obj())? {
            return Ok(mark);
        }
    }
    Err(no_attribute("_is_coroutine_marker"))
}

/// The mark that `asyncio.iscoroutinefunction` looks for.
fn get_asyncio_mark(_function: Obj<'_>) -> R<Ref> {
    let mark = import(c"asyncio.coroutines")?
        .obj()
        .getattr_opt(interned(c"_is_coroutine")?.obj())?;
    mark.ok_or_else(|| no_attribute("_is_coroutine"))
}

#[cold]
fn no_attribute(name: &str) -> Raised {
    // SAFETY: a static of the interpreter.
    let class = unsafe { c::PyExc_AttributeError };
    Raised::builtin(
        class,
        &format!("coroutine function has no attribute '{name}'"),
    )
}

unsafe extern "C" fn repr(function: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter passes a live instance.
    let function = unsafe { Obj::from_ptr(function) };
    crate::ffi::error::guard(|| {
        let name = definition(function)?.qualname;
        string(&format!("<function {name} at {:p}>", function.ptr()))
    })
}

/// Pickled by name, as functions are.
fn reduce(function: Obj<'_>) -> R<Ref> {
    get_qualname(function)
}

unsafe extern "C" fn traverse(
    function: *mut PyObject,
    visit: c::visitproc,
    arg: *mut std::ffi::c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let function = unsafe { Obj::from_ptr(function) };
    let mut visitor = crate::ffi::class::Visitor::new(visit, arg);
    visitor.visit(function.type_ptr().cast());
    visitor.status()
}

unsafe extern "C" fn dealloc(function: *mut PyObject) {
    // SAFETY: an instance of ours without references, which holds none itself.
    unsafe {
        let class = c::Py_TYPE(function);
        c::PyObject_GC_UnTrack(function.cast());
        c::PyObject_ClearWeakRefs(function);
        future::free_instance(function, class);
    }
}

/// Creates the type.
pub fn build_type() -> R<Ref> {
    Class::new(c"aioxide.CoroutineFunction", OFFSET + size_of::<Fields>())
        .flags(
            c::Py_TPFLAGS_DISALLOW_INSTANTIATION
                | c::Py_TPFLAGS_HAVE_VECTORCALL
                | c::Py_TPFLAGS_METHOD_DESCRIPTOR,
        )
        .slot(c::Py_tp_call, c::PyVectorcall_Call as *mut _)
        .slot(c::Py_tp_descr_get, bind as *mut _)
        .slot(c::Py_tp_repr, repr as *mut _)
        .slot(c::Py_tp_traverse, traverse as *mut _)
        .slot(c::Py_tp_dealloc, dealloc as *mut _)
        .vectorcall(OFFSET + std::mem::offset_of!(Fields, vectorcall))
        .weakrefs(OFFSET + std::mem::offset_of!(Fields, weakrefs))
        .methods([noargs!(c"__reduce__", reduce, c"Pickles by name.")])
        .attributes([
            attribute!(c"__name__", get_name, c"The name."),
            attribute!(c"__qualname__", get_qualname, c"The name with its class."),
            attribute!(c"__doc__", get_doc, c"The documentation."),
            attribute!(c"__module__", get_module, c"Where it can be imported from."),
            attribute!(c"__signature__", get_signature, c"What inspect shows."),
            attribute!(
                c"_is_coroutine_marker",
                get_inspect_mark,
                c"inspect's mark."
            ),
            attribute!(c"_is_coroutine", get_asyncio_mark, c"asyncio's mark."),
        ])
        .build(None)
}

/// The callable of a definition, for a function, or for a method of `receiver`.
pub fn create(class: Obj<'_>, function: &'static Function, receiver: Option<Obj<'_>>) -> R<Ref> {
    // SAFETY: a ready type of ours; the fields are filled before anyone sees the object.
    let made = unsafe { Ref::steal(c::PyType_GenericAlloc(class.ptr().cast(), 0)) }?;
    let this = fields(made.obj());
    this.vectorcall.set(Some(call));
    if let (Call::Method(method), Some(receiver)) = (&function.call, receiver) {
        this.method.set(Some(*method));
        this.receiver.set(receiver.ptr().cast());
    }
    this.function.set(Some(function));
    Ok(made)
}

/// Gives `class` its coroutine methods.
pub fn add_methods(class: Obj<'_>, maker: Obj<'_>, methods: &[&'static Function]) -> R<()> {
    for method in methods {
        let name = string(method.name)?;
        class.setattr(name.obj(), create(maker, method, Some(class))?.obj())?;
    }
    Ok(())
}

/// Gives the module its coroutine functions.
pub fn export(module: Obj<'_>, functions: &[&'static Function]) -> R<()> {
    let maker = state().types.coroutine_function.obj();
    for function in functions {
        let name = string(function.name)?;
        module.setattr(name.obj(), create(maker, function, None)?.obj())?;
    }
    Ok(())
}
