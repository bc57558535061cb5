//! `gather(*aws, return_exceptions=False)`.
//!
//! May touch: what it is given. Invariants: an argument that was given before is the same child;
//! children are made and listened to in the order of the arguments, each before the next is made.
//! *Source*: `asyncio.gather`, `asyncio.ensure_future`.

#![forbid(unsafe_code)]

use super::{Listener, child, gathering};
use crate::event_loop::{self, LoopFields};
use crate::ffi::args::unexpected_keyword;
use crate::ffi::builtin::{dict_get, has_identity};
use crate::ffi::call::{dict, dict_set, list_of, uint};
use crate::ffi::object::none;
use crate::ffi::{Args, Obj, R, Ref};
use crate::future;
use crate::state::state;
use crate::task;

/// `gather(*coros_or_futures, return_exceptions=False)`.
pub fn gather(_module: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let ([return_exceptions], rest) = args.keyword(["return_exceptions"])?;
    if let Some((name, _)) = rest.first() {
        return Err(unexpected_keyword("gather", *name));
    }
    let return_exceptions = return_exceptions.map_or(Ok(false), Obj::is_true)?;
    let awaitables = args.positional();
    if awaitables.is_empty() {
        return gather_nothing();
    }
    let event_loop = state().asyncio.find_running_loop.obj().call0()?;
    let outer = gathering::allocate()?;
    let caller = child::current_task(event_loop.obj())?;
    gathering::fields(outer.obj()).begin(return_exceptions, caller);
    let mut gather = Gather::new(outer, event_loop, awaitables)?;
    for index in 0..awaitables.len() {
        gather.take(index)?;
    }
    gather.finish()
}

fn gather_nothing() -> R<Ref> {
    let names = &state().names;
    let event_loop = state().asyncio.get_event_loop.obj().call0()?;
    let outer = event_loop.obj().call_method0(names.create_future.obj())?;
    let empty = list_of(Vec::new())?;
    outer
        .obj()
        .call_method1(names.set_result.obj(), empty.obj())?;
    Ok(outer)
}

/// A gather that collects its children.
struct Gather<'a> {
    outer: Ref,
    /// The running loop, else the first child's; `None` until one is known.
    event_loop: Ref,
    /// Whether tasks may be made on the loop without a call of its `create_task`.
    direct: bool,
    awaitables: &'a [Obj<'a>],
    seen: Seen,
    children: Vec<Ref>,
    /// Children that were done when they were given: their turn comes at the end.
    done: Vec<Ref>,
    /// How many different ones there are.
    different: usize,
}

impl<'a> Gather<'a> {
    fn new(outer: Ref, event_loop: Ref, awaitables: &'a [Obj<'a>]) -> R<Gather<'a>> {
        // From 3.14 on every child belongs to the running loop; before, to the first one's.
        let event_loop = if cfg!(Py_3_14) {
            event_loop
        } else {
            none().to_ref()
        };
        let mut gather = Gather {
            outer,
            event_loop,
            direct: false,
            awaitables,
            seen: Seen::new(awaitables)?,
            children: Vec::with_capacity(awaitables.len()),
            done: Vec::new(),
            different: 0,
        };
        gather.look_at_loop();
        Ok(gather)
    }

    fn look_at_loop(&mut self) {
        let native = event_loop::native(self.event_loop.obj());
        self.direct = native.is_some_and(LoopFields::makes_tasks_directly);
    }

    fn direct_loop(&self) -> Option<&LoopFields> {
        // Only a native loop is direct.
        self.direct
            .then(|| event_loop::fields(self.event_loop.obj()))
    }

    fn take(&mut self, index: usize) -> R<()> {
        let given = self.awaitables[index];
        if let Some(earlier) = self.seen.find_or_add(self.awaitables, index)? {
            self.children.push(self.children[earlier].clone());
            return Ok(());
        }
        let child = self.ensure_future(given)?;
        self.different += 1;
        if self.event_loop.obj().is_none() {
            self.event_loop = state().asyncio.futures_get_loop.obj().call1(child.obj())?;
            self.look_at_loop();
        }
        // 3.11 has no eager tasks: there a callback of its own comes for these, too.
        if cfg!(Py_3_12) && child::is_done(child.obj())? {
            self.done.push(child.clone());
        } else {
            if cfg!(Py_3_14) {
                let caller = gathering::fields(self.outer.obj()).caller();
                child::add_edge(child.obj(), caller.as_ref())?;
            }
            child::listen(child.obj(), self.outer.obj(), Listener::Gather)?;
        }
        self.children.push(child);
        Ok(())
    }

    /// `ensure_future(given, loop=loop)`.
    fn ensure_future(&self, given: Obj<'_>) -> R<Ref> {
        if let Some(native) = self.direct_loop() {
            if task::is_exact_coroutine(given) {
                let child = event_loop::create_plain_task(self.event_loop.obj(), native, given)?;
                task::fields(child.obj()).keep_quiet();
                return Ok(child);
            }
            if future::is_native(given)
                && future::fields(given).event_loop.ptr() == self.event_loop.ptr()
            {
                return Ok(given.to_ref());
            }
        }
        let (function, kwnames) = (&state().asyncio.ensure_future, &state().kw_loop);
        let args = [given, self.event_loop.obj()];
        let child = function.obj().call_kw(&args, kwnames.obj())?;
        if !child.obj().is(given) {
            // Made here, so nobody else can see to it that it is awaited.
            let name = state().names._log_destroy_pending.obj();
            child
                .obj()
                .setattr(name, crate::ffi::object::boolean(false).obj())?;
        }
        Ok(child)
    }

    fn finish(self) -> R<Ref> {
        future::initialise(self.outer.obj(), Some(self.event_loop))?;
        let outer = gathering::fields(self.outer.obj());
        outer.complete_children(list_of(self.children)?, self.different);
        for child in self.done {
            gathering::child_done(self.outer.obj(), child.obj())?;
        }
        Ok(self.outer)
    }
}

/// Which arguments came before. Coroutines and futures are equal exactly when they are the same
/// object, so a table of addresses will do; anything else is asked for its hash, by a dict.
enum Seen {
    /// Few arguments: the ones before are looked through.
    Few,
    /// Open addressing by address: index of the argument plus one, 0 for a free place.
    Table(Vec<u32>),
    /// A dict from argument to index.
    Dict(Ref),
}

/// Up to so many arguments looking through them is cheaper than a table.
const FEW: usize = 8;

impl Seen {
    fn new(awaitables: &[Obj<'_>]) -> R<Seen> {
        if !awaitables.iter().all(|given| has_identity(*given)) {
            return dict().map(Seen::Dict);
        }
        if awaitables.len() <= FEW {
            return Ok(Seen::Few);
        }
        let places = (awaitables.len() * 2).next_power_of_two();
        Ok(Seen::Table(vec![0; places]))
    }

    /// The index of the first argument equal to the one at `index`, if that is an earlier one.
    fn find_or_add(&mut self, awaitables: &[Obj<'_>], index: usize) -> R<Option<usize>> {
        let given = awaitables[index];
        match self {
            Seen::Few => Ok(awaitables[..index].iter().position(|one| one.is(given))),
            Seen::Table(places) => {
                let mask = places.len() - 1;
                let mut place = scatter(given.ptr() as usize) & mask;
                loop {
                    match places[place] as usize {
                        0 => {
                            places[place] = index as u32 + 1;
                            return Ok(None);
                        }
                        taken if awaitables[taken - 1].is(given) => return Ok(Some(taken - 1)),
                        _ => place = (place + 1) & mask,
                    }
                }
            }
            Seen::Dict(seen) => {
                if let Some(earlier) = dict_get(seen.obj(), given)? {
                    return Ok(Some(earlier.obj().to_i64()? as usize));
                }
                dict_set(seen.obj(), given, uint(index as u64)?.obj())?;
                Ok(None)
            }
        }
    }
}

/// Spreads addresses, whose low bits are all alike (Fibonacci hashing).
#[inline]
fn scatter(address: usize) -> usize {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    ((address as u64).wrapping_mul(GOLDEN) >> 32) as usize
}
