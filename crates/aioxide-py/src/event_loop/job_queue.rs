//! The Python type `JobQueue`: an executor's work queue that also takes jobs of loops.
//!
//! May touch: the memory of queue objects. Invariant: the fields are written before anybody sees
//! the object and dropped once, in `tp_dealloc`.

use super::jobs::{Jobs, Submitted};
use crate::ffi::call::{import, uint};
use crate::ffi::class::{Visitor, noargs, onearg, varargs};
use crate::ffi::object::{boolean, none_ref};
use crate::ffi::values::{self, OFFSET, Values};
use crate::ffi::{Args, Obj, R, Raised, Ref, layout};

fn fields<'a>(queue: Obj<'a>) -> &'a Jobs {
    // SAFETY: only instances of this module's final type come here.
    unsafe { layout::fields(queue.ptr(), OFFSET) }
}

fn work(queue: Obj<'_>) -> R<Ref> {
    Ok(fields(queue).work())
}

fn submit(queue: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [is_full, event_loop, future, call @ ..] = args.positional() else {
        return Err(Raised::type_error(
            "submit() takes whether the executor is full, a loop, a future and what to call",
        ));
    };
    let is_full = is_full.is_true()?;
    Ok(
        match fields(queue).submit(is_full, *event_loop, *future, call)? {
            Submitted::Queued => boolean(true),
            Submitted::Refused => boolean(false),
            Submitted::NeedsWorker => none_ref(),
        },
    )
}

fn put(queue: Obj<'_>, item: Obj<'_>) -> R<Ref> {
    fields(queue).put(item.to_ref());
    Ok(none_ref())
}

fn get_nowait(queue: Obj<'_>) -> R<Ref> {
    match fields(queue).take_object() {
        Some(object) => Ok(object),
        None => {
            let empty = import(c"queue")?.obj().getattr_str(c"Empty")?;
            Err(Raised::throw(empty.obj().call0()?))
        }
    }
}

fn needs_worker(queue: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(queue).needs_worker()))
}

fn close(queue: Obj<'_>, cancel: Obj<'_>) -> R<Ref> {
    fields(queue).close(cancel.is_true()?);
    Ok(none_ref())
}

fn arrive(queue: Obj<'_>) -> R<Ref> {
    fields(queue).arrive();
    Ok(none_ref())
}

fn empty(queue: Obj<'_>) -> R<Ref> {
    Ok(boolean(fields(queue).len() == 0))
}

fn idle_count(queue: Obj<'_>) -> R<Ref> {
    uint(fields(queue).idle_count() as u64)
}

fn qsize(queue: Obj<'_>) -> R<Ref> {
    uint(fields(queue).len() as u64)
}

impl Values for Jobs {
    fn visit(&self, visitor: &mut Visitor) {
        Jobs::visit(self, visitor);
    }

    fn clear(&self) {
        Jobs::clear(self);
    }
}

/// Creates the type.
pub fn build_type() -> R<Ref> {
    values::public_class::<Jobs>(c"aioxide._aioxide.JobQueue")
        .doc(
            c"JobQueue()\n--\n\n\
              The work queue of an executor whose jobs may come from, and answer to, a loop.",
        )
        .methods([
            noargs!(
                c"work",
                work,
                c"($self, /)\nRuns jobs in this thread; returns the next item that is none."
            ),
            varargs!(
                c"submit",
                submit,
                c"Queues function(*args) for a future of a loop. False if it cannot,\n\
                  None if a thread must be started first."
            ),
            noargs!(
                c"arrive",
                arrive,
                c"($self, /)\nThe thread that was expected is there, or never will be."
            ),
            noargs!(
                c"idle_count",
                idle_count,
                c"($self, /)\nThe number of threads that wait for work."
            ),
            noargs!(c"empty", empty, c"($self, /)\nWhether nothing is queued."),
            onearg!(
                c"put",
                put,
                c"($self, item, /)\nQueues an item that work() is to return."
            ),
            noargs!(
                c"get_nowait",
                get_nowait,
                c"($self, /)\nTakes out an item that was put; queue.Empty if none."
            ),
            noargs!(
                c"needs_worker",
                needs_worker,
                c"($self, /)\nWhether a thread should be started, which is expected from then on."
            ),
            onearg!(
                c"close",
                close,
                c"($self, cancel, /)\nRefuses jobs; cancels those that wait, or not."
            ),
            noargs!(c"qsize", qsize, c"($self, /)\nThe number of queued items."),
        ])
        .build(None)
}
