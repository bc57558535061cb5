//! asyncio's own futures and tasks on a loop that runs nothing: for looking at what they are like.
//!
//! Made by calls, not from Python source: at import compiling it would cost more than all else of
//! the looking. May touch: nothing that outlives the objects; the coroutine is closed at once.

use pyo3_ffi as c;

use super::call::{import, interned, tuple};
use super::class::{noargs, varargs};
use super::error::{R, Raised, check};
use super::function::Function;
use super::object::{Obj, Ref, boolean, none_ref};
use super::{Args, Slot};

/// What futures and tasks are made with.
pub struct Stock<'a> {
    future_class: Obj<'a>,
    task_class: Obj<'a>,
    /// A loop that is never in debug mode, never runs, and takes callbacks without calling them.
    pub stub_loop: Ref,
    /// A coroutine that was closed before it began.
    pub coro: Ref,
    kw_loop: Ref,
}

fn always_false(_loop: Obj<'_>) -> R<Ref> {
    Ok(boolean(false))
}

fn nothing(_loop: Obj<'_>, _args: Args<'_>) -> R<Ref> {
    Ok(none_ref())
}

/// A new object with an identity, attributes and a hash: a module.
fn thing(name: &std::ffi::CStr) -> R<Ref> {
    // SAFETY: a C string.
    unsafe { Ref::steal(c::PyModule_New(name.as_ptr())) }
}

/// A coroutine of asyncio's own, closed: any will do, this one is in no place that programs patch.
fn closed_coroutine() -> R<Ref> {
    let class = import(c"asyncio.base_events")?
        .obj()
        .getattr_str(c"BaseEventLoop")?;
    let function = class.obj().getattr_str(c"shutdown_asyncgens")?;
    let coro = function.obj().call1(super::object::none())?;
    coro.obj().call_method0(interned(c"close")?.obj())?;
    Ok(coro)
}

impl<'a> Stock<'a> {
    /// The two classes are `_asyncio.Future` and `_asyncio.Task`.
    pub fn new(future_class: Obj<'a>, task_class: Obj<'a>) -> R<Stock<'a>> {
        let stub_loop = thing(c"loop")?;
        let own = [
            (c"get_debug", noargs!(c"get_debug", always_false, c"")),
            (c"is_running", noargs!(c"is_running", always_false, c"")),
            (c"call_soon", varargs!(c"call_soon", nothing, c"")),
        ];
        for (name, definition) in own {
            let function = Function::new(definition).bind(super::object::none())?;
            stub_loop
                .obj()
                .setattr(interned(name)?.obj(), function.obj())?;
        }
        Ok(Stock {
            future_class,
            task_class,
            stub_loop,
            coro: closed_coroutine()?,
            kw_loop: tuple(&[interned(c"loop")?.obj()])?,
        })
    }

    /// `Future(loop=...)`.
    pub fn future(&self) -> R<Ref> {
        let args = [self.stub_loop.obj()];
        self.future_class.call_kw(&args, self.kw_loop.obj())
    }

    /// `future.__init__(loop=...)`, once more.
    pub fn initialise_again(&self, future: &Ref) -> R<Ref> {
        let function = future.obj().getattr_str(c"__init__")?;
        let args = [self.stub_loop.obj()];
        function.obj().call_kw(&args, self.kw_loop.obj())
    }

    /// `Task(coro, loop=..., name=name, context=context)`, which is not missed when it goes.
    pub fn task(&self, name: Obj<'_>, context: Obj<'_>) -> R<Ref> {
        let names = tuple(&[
            interned(c"loop")?.obj(),
            interned(c"name")?.obj(),
            interned(c"context")?.obj(),
        ])?;
        let args = [self.coro.obj(), self.stub_loop.obj(), name, context];
        let task = self.task_class.call_kw(&args, names.obj())?;
        let flag = interned(c"_log_destroy_pending")?;
        task.obj().setattr(flag.obj(), boolean(false).obj())?;
        Ok(task)
    }

    /// A future with a callback, and what it holds: the callback and the callback's context.
    pub fn waiting(&self, context: Obj<'_>) -> R<(Ref, Ref)> {
        let (future, waiter) = (self.future()?, always_new()?);
        let add = future.obj().getattr_str(c"add_done_callback")?;
        let names = tuple(&[interned(c"context")?.obj()])?;
        add.obj().call_kw(&[waiter.obj(), context], names.obj())?;
        Ok((future, waiter))
    }

    /// A future with a result, and the result.
    pub fn finished(&self) -> R<(Ref, Ref)> {
        let (future, result) = (self.future()?, thing(c"result")?);
        let set = interned(c"set_result")?;
        future.obj().call_method1(set.obj(), result.obj())?;
        Ok((future, result))
    }

    /// A future that was cancelled with a message, and the message.
    pub fn cancelled(&self) -> R<(Ref, Ref)> {
        let (future, message) = (self.future()?, thing(c"message")?);
        let cancel = interned(c"cancel")?;
        future.obj().call_method1(cancel.obj(), message.obj())?;
        Ok((future, message))
    }

    /// A future with an exception that was raised, the exception, and where it was raised.
    pub fn failed(&self) -> R<(Ref, Ref, Ref)> {
        let future = self.future()?;
        let exception = super::builtin::value_error().call0()?;
        let traceback = traceback()?;
        // SAFETY: an exception and a traceback, of which it takes a reference of its own.
        check(unsafe { c::PyException_SetTraceback(exception.ptr(), traceback.ptr()) })?;
        let set = interned(c"set_exception")?;
        future.obj().call_method1(set.obj(), exception.obj())?;
        let flag = interned(c"_log_traceback")?;
        future.obj().setattr(flag.obj(), boolean(false).obj())?;
        Ok((future, exception, traceback))
    }
}

/// A callable that is like no other.
fn always_new() -> R<Ref> {
    Function::new(varargs!(c"waiter", nothing, c"")).bind(super::object::none())
}

/// A traceback that names the code which imports the module.
fn traceback() -> R<Ref> {
    // SAFETY: the thread is attached; borrowed, or null where no Python code runs.
    let frame = unsafe { Obj::from_nullable(c::PyEval_GetFrame().cast()) };
    let frame = frame.ok_or_else(|| Raised::runtime("the import was not begun by Python code"))?;
    let class = import(c"types")?.obj().getattr_str(c"TracebackType")?;
    let (last_instruction, line) = (super::call::int(0)?, super::call::int(1)?);
    let args = [
        super::object::none(),
        frame,
        last_instruction.obj(),
        line.obj(),
    ];
    class.obj().call(&args)
}

/// The one empty word of `future` that `future.<name>` reads, and that its type shows the
/// collector: found by putting something there. `name` reads its word and looks at no other one.
pub fn find_read_word(future: Obj<'_>, size: usize, name: &std::ffi::CStr) -> R<Option<usize>> {
    let (name, sought) = (interned(name)?, thing(c"sought")?);
    for offset in (super::layout::HEAD_BYTES..size).step_by(super::layout::WORD) {
        if super::layout::word_at(future, offset) != 0 {
            continue;
        }
        // SAFETY: within the object; as long as it is there, what is there is a reference.
        let word: &Slot = unsafe { super::layout::slot(future, offset) };
        word.set(Some(sought.clone()));
        let found = future.getattr(name.obj());
        let is_visited = super::layout::is_visited(future, sought.obj());
        word.clear();
        if found?.obj().is(sought.obj()) && is_visited {
            return Ok(Some(offset));
        }
    }
    Ok(None)
}
