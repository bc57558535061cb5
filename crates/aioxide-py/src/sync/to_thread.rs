//! `to_thread`: the front; the loop's `run_in_executor` does the rest. *Source*:
//! `asyncio.to_thread`.

#![forbid(unsafe_code)]

use super::coroutine::{self, Frame, Kind, Next, Resumed};
use super::function::{Call, Function};
use crate::ffi::call::{dict, dict_set, tuple, tuple_item, tuple_len};
use crate::ffi::object::none;
use crate::ffi::{Args, Obj, R, Raised, Ref, context, current};
use crate::state::state;

/// `to_thread(func, /, *args, **kwargs)`.
pub static TO_THREAD: Function = Function {
    name: "to_thread",
    qualname: "to_thread",
    signature: "(func, /, *args, **kwargs)",
    doc: "Asynchronously run function *func* in a separate thread.\n\n\
          Any *args and **kwargs are passed to it, and it runs in a copy of the current context. \
          The coroutine gives its result.",
    call: Call::Function(to_thread),
};

static KIND: Kind = Kind {
    name: "to_thread",
    qualname: "to_thread",
    body,
    quick: None,
};

const POSITIONAL: usize = 0;
const NAMED: usize = 1;

fn to_thread(args: Args<'_>) -> R<Ref> {
    if args.positional().is_empty() {
        return Err(Raised::type_error(
            "to_thread() missing 1 required positional argument: 'func'",
        ));
    }
    let mut named = None;
    if args.has_named() {
        let kwargs = dict()?;
        for (name, value) in args.named() {
            dict_set(kwargs.obj(), name, value)?;
        }
        named = Some(kwargs);
    }
    coroutine::create(&KIND, [Some(tuple(args.positional())?), named])
}

fn body(frame: &Frame, resumed: Resumed) -> R<Next> {
    if frame.stage.get() != 0 {
        return resumed.value().map(Next::Return);
    }
    frame.stage.set(1);
    let event_loop = current::loop_required()?;
    let run_context = context::copy_current()?;
    let names = &state().names;
    let run = run_context.obj().getattr(names.run.obj())?;
    let given = frame.slots[POSITIONAL].take().unwrap_or(tuple(&[])?);
    let args: Vec<Obj<'_>> = std::iter::once(run.obj())
        .chain((0..tuple_len(given.obj())).map(|index| tuple_item(given.obj(), index)))
        .collect();
    let named = frame.slots[NAMED].take();
    let partial = state().waiting.partial.obj();
    let call = partial.call_dict(tuple(&args)?.obj(), named.as_ref().map(Ref::obj))?;
    let args = [event_loop.obj(), none(), call.obj()];
    let name = names.run_in_executor.obj();
    event_loop.obj().call_method(name, &args).map(Next::Await)
}
