//! Jobs: functions that block, on their way to a thread and back.
//!
//! Duty: [`Jobs`] hands calls to worker threads, and their outcomes to the loop's inbox. It stands
//! behind the work queue of an executor, which keeps its threads, their names and its shutdown;
//! what others submit to that executor comes out of `work` as it went in.
//!
//! ```text
//!   loop thread                                  worker
//!   submit: job into the queue, worker off       SPINNING: looks, without the GIL, for a moment
//!     the idle list: ANNOUNCED ───────────────►  (a PARKED one is woken at once)
//!   about to sleep: lets go of the GIL, ──────►  WOKEN: takes the GIL, takes the job, runs it
//!     looks for a moment, then sleeps            lets go of the GIL
//!   inbox ◄────────────────────────────────────  outcome into the inbox; wakes the loop if asleep
//! ```
//!
//! Invariants: queue and idle list are touched with the GIL held only, so they need no lock; nobody
//! wakes a thread that would only wait for the GIL; whoever takes a worker off the idle list wakes
//! it. *Source*: `concurrent.futures.thread._worker`, `asyncio.futures._chain_future`.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::Thread;

use aioxide_core::backend::Backend;
use aioxide_core::backend::epoll::Epoll;
use aioxide_core::spin::{Spin, spin_until};

use super::{Entry, LoopFields};
use crate::ffi::class::Visitor;
use crate::ffi::{Obj, R, Ref, park};
use crate::future;
use crate::state::state;

/// A call on its way to a thread.
struct Job {
    event_loop: Ref,
    future: Ref,
    function: Ref,
    args: Box<[Ref]>,
}

/// What a thread takes out of the queue.
enum Item {
    Job(Job),
    /// An executor's own work item, or None: time to look whether to end.
    Object(Ref),
}

/// How a job ended.
enum Outcome {
    Result(Ref),
    Exception(Ref),
    /// It never ran.
    Cancelled,
}

/// A job's outcome, as it travels through the loop's inbox.
pub struct Finished {
    future: Ref,
    outcome: Outcome,
}

/// What an idle worker waits for.
const SPINNING: u8 = 0;
const PARKED: u8 = 1;
/// There is work, but the loop that sent it still holds the GIL.
const ANNOUNCED: u8 = 2;
const WOKEN: u8 = 3;

/// A worker that waits for work.
pub struct Sleeper {
    thread: Thread,
    state: AtomicU8,
}

impl Sleeper {
    fn new() -> Arc<Sleeper> {
        Arc::new(Sleeper {
            thread: std::thread::current(),
            state: AtomicU8::new(SPINNING),
        })
    }

    /// There is work. True: the worker is awake and waits for [`Sleeper::wake`].
    fn announce(&self) -> bool {
        if self.state.swap(ANNOUNCED, Ordering::AcqRel) == SPINNING {
            return true;
        }
        self.wake();
        self.thread.unpark();
        false
    }

    /// The GIL is free now.
    pub fn wake(&self) {
        self.state.store(WOKEN, Ordering::Release);
    }

    /// Waits, without the GIL, until there is work. `spins`: awake at first. True: it came then.
    fn wait(&self, spins: bool) -> bool {
        let is_woken = || self.state.load(Ordering::Acquire) == WOKEN;
        if spins && spin_until(is_woken) {
            return true;
        }
        let parked =
            self.state
                .compare_exchange(SPINNING, PARKED, Ordering::AcqRel, Ordering::Acquire);
        if parked.is_err() {
            // Announced: the loop is busy, so the GIL must be asked for.
            return true;
        }
        while !is_woken() {
            std::thread::park();
        }
        false
    }
}

/// An outcome that is still to be sent.
struct Reply {
    /// Keeps the inbox alive.
    event_loop: Ref,
    entry: Entry,
    backend: Option<Arc<Epoll>>,
}

impl Reply {
    /// Puts the outcome into the loop's inbox; with or without the GIL. What comes back is to be
    /// dropped with it: a loop that was closed meanwhile takes nothing.
    fn send(self) -> (Ref, Option<Entry>) {
        let pushed = super::fields(self.event_loop.obj()).inbox.push(self.entry);
        if let (Ok(true), Some(backend)) = (&pushed, &self.backend) {
            // An eventfd that counts up cannot fail; if it did, the loop would sleep on, as it
            // does when asyncio's self-pipe fails.
            backend.wake().unwrap_or_default();
        }
        (self.event_loop, pushed.err())
    }
}

/// The jobs of one executor and the workers that wait for them.
pub struct Jobs {
    items: RefCell<VecDeque<Item>>,
    idle: RefCell<Vec<Arc<Sleeper>>>,
    spin: RefCell<Spin>,
    /// A worker waits awake: one is enough.
    is_spinning: Cell<bool>,
    /// Workers that were woken or started and have not looked into the queue yet.
    expected: Cell<usize>,
    closed: Cell<bool>,
}

impl Default for Jobs {
    fn default() -> Self {
        Jobs {
            items: RefCell::default(),
            idle: RefCell::default(),
            spin: RefCell::new(Spin::of_process()),
            is_spinning: Cell::new(false),
            expected: Cell::new(0),
            closed: Cell::new(false),
        }
    }
}

impl Jobs {
    /// Queues a call of `function` whose outcome becomes that of `future`. False: the queue is
    /// closed, loop or future are not native ones, or the loop's way back is not ours; then nothing
    /// happened.
    pub fn submit(&self, event_loop: Obj<'_>, future: Obj<'_>, call: &[Obj<'_>]) -> R<bool> {
        let (Some(native), [function, args @ ..]) = (super::native(event_loop), call) else {
            return Ok(false);
        };
        let own_way_back = native.overrides(&state().names.call_soon_threadsafe)?;
        if self.closed.get() || own_way_back || !future::is_native(future) {
            return Ok(false);
        }
        native.jobs.set(native.jobs.get() + 1);
        let job = Job {
            event_loop: event_loop.to_ref(),
            future: future.to_ref(),
            function: function.to_ref(),
            args: args.iter().map(|arg| arg.to_ref()).collect(),
        };
        if let Some(sleeper) = self.push(Item::Job(job)) {
            if sleeper.announce() {
                native.announced.borrow_mut().push(sleeper);
            }
        }
        Ok(true)
    }

    /// Queues what is none of ours.
    pub fn put(&self, object: Ref) {
        if let Some(sleeper) = self.push(Item::Object(object)) {
            sleeper.announce();
            sleeper.wake();
        }
    }

    /// Queues an item; returns the worker that is to be told.
    fn push(&self, item: Item) -> Option<Arc<Sleeper>> {
        self.items.borrow_mut().push_back(item);
        let sleeper = self.idle.borrow_mut().pop();
        if sleeper.is_some() {
            self.expected.set(self.expected.get() + 1);
        }
        sleeper
    }

    /// Whether a thread should be started; it then counts as expected.
    pub fn needs_worker(&self) -> bool {
        let needed = self.items.borrow().len() > self.expected.get();
        if needed {
            self.expected.set(self.expected.get() + 1);
        }
        needed
    }

    /// A worker is there that was expected.
    fn arrive(&self) {
        self.expected.set(self.expected.get().saturating_sub(1));
    }

    /// Refuses jobs from now on; with `cancel`, those that wait are cancelled in their loops.
    pub fn close(&self, cancel: bool) {
        self.closed.set(true);
        if !cancel {
            return;
        }
        let items = std::mem::take(&mut *self.items.borrow_mut());
        let (jobs, objects) = items
            .into_iter()
            .partition::<VecDeque<Item>, _>(|item| matches!(item, Item::Job(_)));
        self.items.borrow_mut().extend(objects);
        for item in jobs {
            if let Item::Job(job) = item {
                drop(job.end(Outcome::Cancelled).send());
            }
        }
    }

    /// Takes out what is none of ours, if there is any.
    pub fn take_object(&self) -> Option<Ref> {
        let mut items = self.items.borrow_mut();
        let found = items
            .iter()
            .position(|item| matches!(item, Item::Object(_)))?;
        match items.remove(found) {
            Some(Item::Object(object)) => Some(object),
            _ => None,
        }
    }

    /// A worker's life: runs jobs until something comes that is none, and returns that.
    pub fn work(&self) -> Ref {
        self.arrive();
        let mut reply: Option<Reply> = None;
        loop {
            let item = self.items.borrow_mut().pop_front();
            if item.is_none() {
                self.sleep(reply.take());
                continue;
            }
            if let Some(reply) = reply.take() {
                drop(reply.send());
            }
            match item {
                Some(Item::Job(job)) => reply = Some(job.run()),
                Some(Item::Object(object)) => return object,
                None => {}
            }
        }
    }

    /// Lets go of the GIL, sends the outcome of the last job and waits for the next.
    fn sleep(&self, reply: Option<Reply>) {
        let sleeper = Sleeper::new();
        self.idle.borrow_mut().push(sleeper.clone());
        let spins = !self.is_spinning.get() && self.spin.borrow_mut().should_spin();
        self.is_spinning.set(self.is_spinning.get() || spins);
        let (sent, came) = park::detached(|| {
            let sent = reply.map(Reply::send);
            (sent, sleeper.wait(spins))
        });
        if spins {
            self.is_spinning.set(false);
            self.spin.borrow_mut().learn(came);
        }
        self.arrive();
        drop(sent);
    }

    /// Shows the collector what it holds.
    pub fn visit(&self, visitor: &mut Visitor) {
        let Ok(items) = self.items.try_borrow() else {
            return;
        };
        for item in items.iter() {
            match item {
                Item::Object(object) => visitor.visit(object.ptr()),
                Item::Job(job) => {
                    for object in [&job.event_loop, &job.future, &job.function] {
                        visitor.visit(object.ptr());
                    }
                    job.args.iter().for_each(|arg| visitor.visit(arg.ptr()));
                }
            }
        }
    }

    /// The number of queued items.
    pub fn len(&self) -> usize {
        self.items.borrow().len()
    }

    /// Drops everything queued, with nothing borrowed meanwhile.
    pub fn clear(&self) {
        let items = std::mem::take(&mut *self.items.borrow_mut());
        drop(items);
    }
}

impl Job {
    /// Calls the function, unless its future was cancelled meanwhile.
    fn run(self) -> Reply {
        let outcome = if future::fields(self.future.obj()).is_pending() {
            let args: Vec<Obj<'_>> = self.args.iter().map(Ref::obj).collect();
            match self.function.obj().call(&args) {
                Ok(result) => Outcome::Result(result),
                Err(raised) => Outcome::Exception(raised.take()),
            }
        } else {
            Outcome::Cancelled
        };
        self.end(outcome)
    }

    fn end(self, outcome: Outcome) -> Reply {
        let backend = super::fields(self.event_loop.obj())
            .backend
            .borrow()
            .clone();
        let finished = Finished {
            future: self.future,
            outcome,
        };
        Reply {
            event_loop: self.event_loop,
            entry: Entry::Finished(Box::new(finished)),
            backend,
        }
    }
}

impl Finished {
    /// Tells the future, in the loop's thread, unless it is done.
    pub fn deliver(&self, native: &LoopFields) -> R<()> {
        native.jobs.set(native.jobs.get().saturating_sub(1));
        let future = self.future.obj();
        if !future::fields(future).is_pending() {
            return Ok(());
        }
        match &self.outcome {
            Outcome::Result(result) => future::set_result(future, result.clone()),
            Outcome::Exception(exception) => {
                // `concurrent.futures` has exceptions of its own for what asyncio has, too.
                let convert = state().asyncio.convert_future_exc.obj();
                future::set_exception(future, convert.call1(exception.obj())?.obj())
            }
            Outcome::Cancelled => future::cancel_future(future, None).map(drop),
        }
    }

    /// The future, for messages.
    pub fn future(&self) -> Obj<'_> {
        self.future.obj()
    }

    /// Shows the collector what it holds.
    pub fn visit(&self, visitor: &mut Visitor) {
        visitor.visit(self.future.ptr());
        match &self.outcome {
            Outcome::Result(object) | Outcome::Exception(object) => visitor.visit(object.ptr()),
            Outcome::Cancelled => {}
        }
    }
}
