//! `create_future` and `create_task`, with task factories.
//!
//! May touch: the loop's task factory. asyncio's own eager factory gets the native eager path.

#![forbid(unsafe_code)]

use super::{LoopFields, fields};
use crate::ffi::call::{dict, dict_set, tuple};
use crate::ffi::object::{none, none_ref};
use crate::ffi::{Args, Obj, R, Raised, Ref, Signature};
use crate::future;
use crate::state::state;
use crate::task::{self, Options};

/// `loop.create_future()`.
pub fn create_future(event_loop: Obj<'_>) -> R<Ref> {
    future::create(event_loop, fields(event_loop))
}

/// `event_loop.create_future()` of any loop.
pub fn create_future_on(event_loop: Obj<'_>) -> R<Ref> {
    match super::native(event_loop) {
        Some(native) => create_future_with(event_loop, native),
        None => event_loop.call_method0(state().names.create_future.obj()),
    }
}

/// `event_loop.create_future()` of a native loop.
#[inline]
pub fn create_future_with(event_loop: Obj<'_>, native: &LoopFields) -> R<Ref> {
    if native.makes_futures.get() {
        future::create(event_loop, native)
    } else {
        event_loop.call_method0(state().names.create_future.obj())
    }
}

/// `loop.create_task(coro, *, name=None, context=None, eager_start=None, **kwargs)`.
pub fn create_task(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let this = fields(event_loop);
    let (coro, [name, context, eager], rest) = parse(&args)?;
    this.check_open()?;
    let factory = this.task_factory.get();
    let is_eager_factory = match (&factory, &state().asyncio.eager_task_factory) {
        (Some(factory), Some(eager)) => factory.obj().is(eager.obj()),
        _ => false,
    };
    if let Some(factory) = factory
        && !is_eager_factory
    {
        return from_factory(event_loop, factory.obj(), coro, &args);
    }
    if !rest.is_empty() {
        return from_class(event_loop, coro, &args);
    }
    let eager = match eager {
        Some(eager) if !eager.is_none() => eager.is_true()?,
        _ => is_eager_factory,
    };
    task::create(
        event_loop,
        this,
        &Options {
            coro,
            name,
            context,
            eager,
        },
    )
}

impl LoopFields {
    /// Whether `loop.create_task(coro)` would do nothing but make a native task: the loop is open,
    /// does not debug, has no factory, and nobody replaced the method.
    #[inline]
    pub fn makes_tasks_directly(&self) -> bool {
        let plain = self.is_direct() && !self.debug() && !self.is_closed();
        plain && self.makes_tasks.get() && self.task_factory.is_empty()
    }
}

/// `loop.create_task(coro)` where `makes_tasks_directly`.
#[inline]
pub fn create_plain_task(event_loop: Obj<'_>, native: &LoopFields, coro: Obj<'_>) -> R<Ref> {
    let options = Options {
        coro,
        name: None,
        context: None,
        eager: false,
    };
    task::create(event_loop, native, &options)
}

type Parsed<'a> = (Obj<'a>, [Option<Obj<'a>>; 3], Vec<(Obj<'a>, Obj<'a>)>);

fn parse<'a>(args: &Args<'a>) -> R<Parsed<'a>> {
    match (args.positional(), args.has_named()) {
        ([coro], false) => Ok((*coro, [None; 3], Vec::new())),
        ([coro], true) => {
            let (known, rest) = args.keyword(["name", "context", "eager_start"])?;
            Ok((*coro, known, rest))
        }
        ([], true) => {
            let ([coro, name, context, eager], rest) =
                args.keyword(["coro", "name", "context", "eager_start"])?;
            let coro = coro.ok_or_else(missing_coro)?;
            Ok((coro, [name, context, eager], rest))
        }
        ([], false) => Err(missing_coro()),
        (given, _) => Err(Raised::type_error(&format!(
            "create_task() takes 2 positional arguments but {} were given",
            given.len() + 1
        ))),
    }
}

#[cold]
fn missing_coro() -> Raised {
    Raised::type_error("create_task() missing 1 required positional argument: 'coro'")
}

/// The keyword arguments but `coro`, as a dict.
fn keywords(args: &Args<'_>) -> R<Ref> {
    let kwargs = dict()?;
    let ([_coro], rest) = args.keyword(["coro"])?;
    for (name, value) in rest {
        dict_set(kwargs.obj(), name, value)?;
    }
    Ok(kwargs)
}

/// Calls the user's factory the way the running Python's loop does.
fn from_factory(event_loop: Obj<'_>, factory: Obj<'_>, coro: Obj<'_>, args: &Args<'_>) -> R<Ref> {
    let positional = tuple(&[event_loop, coro])?;
    if state().quirks.factory_takes_kwargs {
        return factory.call_dict(positional.obj(), Some(keywords(args)?.obj()));
    }
    let ([_coro, name, context], rest) = args.keyword(["coro", "name", "context"])?;
    let kwargs = dict()?;
    if let Some(context) = context.filter(|context| !context.is_none()) {
        dict_set(kwargs.obj(), state().names.context.obj(), context)?;
    }
    for (key, value) in rest {
        dict_set(kwargs.obj(), key, value)?;
    }
    let task = factory.call_dict(positional.obj(), Some(kwargs.obj()))?;
    if let Some(name) = name.filter(|name| !name.is_none())
        && let Some(set_name) = task.obj().getattr_opt(state().names.set_name.obj())?
    {
        set_name.obj().call1(name)?;
    }
    Ok(task)
}

/// Unknown keywords: the class says what it does not take.
fn from_class(event_loop: Obj<'_>, coro: Obj<'_>, args: &Args<'_>) -> R<Ref> {
    let kwargs = keywords(args)?;
    let ([given], _rest) = args.keyword(["loop"])?;
    if given.is_some() {
        return Err(Raised::type_error(
            "create_task() got multiple values for keyword argument 'loop'",
        ));
    }
    let key = crate::ffi::call::interned(c"loop")?;
    dict_set(kwargs.obj(), key.obj(), event_loop)?;
    state()
        .types
        .task
        .obj()
        .call_dict(tuple(&[coro])?.obj(), Some(kwargs.obj()))
}

const SET_TASK_FACTORY: Signature = Signature {
    name: "set_task_factory",
    params: &["factory"],
    positional: 1,
    required: 1,
};

/// `loop.set_task_factory(factory)`.
pub fn set_task_factory(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [factory] = args.bind::<1>(&SET_TASK_FACTORY)?;
    let factory = factory.unwrap_or(none());
    if !factory.is_none() && !factory.is_callable() {
        return Err(Raised::type_error(
            "task factory must be a callable or None",
        ));
    }
    let this: &LoopFields = fields(event_loop);
    this.task_factory
        .set((!factory.is_none()).then(|| factory.to_ref()));
    Ok(none_ref())
}

/// `loop.get_task_factory()`.
pub fn get_task_factory(event_loop: Obj<'_>) -> R<Ref> {
    Ok(fields(event_loop)
        .task_factory
        .get()
        .unwrap_or_else(|| none().to_ref()))
}
