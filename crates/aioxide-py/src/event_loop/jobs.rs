//! Jobs: functions that block, on their way to a thread.
//!
//! Duty: [`Jobs`] hands calls to worker threads; `outcome` takes what becomes of them to the loop's
//! inbox. It stands behind the work queue of an executor, which keeps its threads, their names and
//! its shutdown; what others submit to that executor comes out of `work` as it went in.
//!
//! ```text
//!   loop thread                                  worker
//!   submit: job into the queue, worker off       looks out, without the GIL, for a moment
//!     the idle list, announced ───────────────►  (a sleeping one is woken at once)
//!   about to sleep: lets go of the GIL, ──────►  called: takes the GIL, takes the job, runs it,
//!     looks out for a moment, then sleeps        leaves the outcome in the inbox,
//!   called or woken ◄──────────────────────────  lets go of the GIL, calls the loop
//! ```
//!
//! Invariants: queue, idle list and inbox are touched with the GIL held only, so they need no lock
//! of ours and a fork copies none that is held; what a worker has while it waits holds neither a
//! loop nor a job; nobody wakes a thread that would only wait for the GIL, if it can be put off;
//! whoever takes a worker off the idle list calls it.
//! *Source*: `concurrent.futures.thread._worker`, `asyncio.futures._chain_future`.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::Thread;

use aioxide_core::clock::Clock;
use aioxide_core::doze::Doze;
use aioxide_core::spin::{Spin, Spun, spin_until};

use super::outcome::{self, Notice, Outcome};
use crate::ffi::class::Visitor;
use crate::ffi::{Obj, R, Ref, park};
use crate::future;
use crate::state::state;

/// For how long, in nanoseconds, a worker runs jobs one after the other before it offers the GIL:
/// functions that are not written in Python never do. *Source*: `sys.getswitchinterval()`.
const SWITCH_NS: u64 = 5_000_000;

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

/// What becomes of a job that is given to [`Jobs::submit`].
pub enum Submitted {
    /// A worker has it, or will.
    Queued,
    /// Nothing: start a worker first.
    NeedsWorker,
    /// Nothing: the executor takes no more jobs, or the way back is not ours.
    Refused,
}

/// A worker that waits for work: made anew for each wait, so that a call which comes late finds
/// nobody.
pub struct Sleeper {
    doze: Doze,
    thread: Thread,
}

impl Sleeper {
    fn begin(looks: bool) -> Arc<Sleeper> {
        let doze = Doze::new();
        doze.begin(looks);
        Arc::new(Sleeper {
            doze,
            thread: std::thread::current(),
        })
    }

    /// There is work, and the GIL is free or about to be.
    pub fn call(&self) {
        if self.doze.call() {
            self.thread.unpark();
        }
    }

    /// Waits, without the GIL, until there is work; returns how looking out for it ended.
    fn wait(&self, looks: bool) -> Option<Spun> {
        let spun = looks.then(|| spin_until(|| self.doze.is_called()));
        let sleeps = match spun {
            None => true,
            Some(Spun::Arrived | Spun::Late { .. }) => false,
            // Announced, but the loop keeps the GIL: it must be asked for.
            Some(Spun::Nothing { .. }) => self.doze.fall_asleep(),
        };
        while sleeps && !self.doze.is_called() {
            std::thread::park();
        }
        spun
    }
}

/// The jobs of one executor and the workers that wait for them.
#[derive(Default)]
pub struct Jobs {
    items: RefCell<VecDeque<Item>>,
    /// Those that wait, the last to come at the end.
    idle: RefCell<Vec<Arc<Sleeper>>>,
    spin: RefCell<Spin>,
    /// A worker looks out: one is enough.
    has_lookout: Cell<bool>,
    /// Workers that were started or called and have not looked into the queue yet.
    expected: Cell<usize>,
    closed: Cell<bool>,
}

impl Jobs {
    /// Queues a call of `function` whose outcome becomes that of `future`. `is_full`: no worker can
    /// be started, so the job waits if need be.
    pub fn submit(
        &self,
        is_full: bool,
        event_loop: Obj<'_>,
        future: Obj<'_>,
        call: &[Obj<'_>],
    ) -> R<Submitted> {
        let (Some(native), [function, args @ ..]) = (super::native(event_loop), call) else {
            return Ok(Submitted::Refused);
        };
        let own_way_back = native.overrides(&state().names.call_soon_threadsafe)?;
        if own_way_back || !future::is_native(future) {
            return Ok(Submitted::Refused);
        }
        // No Python code runs from here on: nobody shuts the executor down in between.
        if self.closed.get() || outcome::are_pools_shut()? {
            return Ok(Submitted::Refused);
        }
        if !is_full && self.has_no_worker_for(1) {
            return Ok(Submitted::NeedsWorker);
        }
        native.jobs.set(native.jobs.get() + 1);
        let sleeper = self.push(Item::Job(Job {
            event_loop: event_loop.to_ref(),
            future: future.to_ref(),
            function: function.to_ref(),
            args: args.iter().map(|arg| arg.to_ref()).collect(),
        }));
        if let Some(sleeper) = sleeper {
            if sleeper.doze.announce() {
                native.announced.borrow_mut().push(sleeper);
            } else {
                sleeper.call();
            }
        }
        Ok(Submitted::Queued)
    }

    /// Queues what is none of ours.
    pub fn put(&self, object: Ref) {
        if let Some(sleeper) = self.push(Item::Object(object)) {
            sleeper.call();
        }
    }

    /// Queues an item; returns the worker that is to be told, one that looks out if there is one.
    fn push(&self, item: Item) -> Option<Arc<Sleeper>> {
        self.items.borrow_mut().push_back(item);
        let mut idle = self.idle.borrow_mut();
        let last = idle.len().checked_sub(1)?;
        let found = idle.iter().rposition(|sleeper| sleeper.doze.is_looking());
        self.expected.set(self.expected.get() + 1);
        Some(idle.remove(found.unwrap_or(last)))
    }

    /// Whether, with so many items `more`, some would have no worker that is about to look.
    fn has_no_worker_for(&self, more: usize) -> bool {
        let coming = self.expected.get() + self.idle.borrow().len();
        self.items.borrow().len() + more > coming
    }

    /// Whether a worker should be started; it then counts as expected, until it calls `arrive`.
    pub fn needs_worker(&self) -> bool {
        let needed = self.has_no_worker_for(0);
        if needed {
            self.expected.set(self.expected.get() + 1);
        }
        needed
    }

    /// A worker that was expected is there, or will never be.
    pub fn arrive(&self) {
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
                drop(outcome::send(
                    job.event_loop,
                    job.future,
                    Outcome::Cancelled,
                ));
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
        let clock = Clock::monotonic();
        let mut attached_ns = clock.now_ns();
        let mut notice: Option<Notice> = None;
        loop {
            let item = self.items.borrow_mut().pop_front();
            if item.is_none() {
                self.sleep(notice.take());
                attached_ns = clock.now_ns();
                continue;
            }
            if clock.now_ns().saturating_sub(attached_ns) >= SWITCH_NS {
                let notice = notice.take();
                park::detached(|| drop(notice));
                attached_ns = clock.now_ns();
            }
            // The loop must hear of this outcome now: the next job may take its time.
            drop(notice.take());
            match item {
                Some(Item::Job(job)) => notice = job.run(),
                Some(Item::Object(object)) => return object,
                None => {}
            }
        }
    }

    /// Lets go of the GIL, tells the loop of the last outcome and waits for the next job.
    fn sleep(&self, notice: Option<Notice>) {
        let looks = !self.has_lookout.get() && self.spin.borrow_mut().should_spin();
        if looks {
            self.has_lookout.set(true);
        }
        let sleeper = Sleeper::begin(looks);
        self.idle.borrow_mut().push(Arc::clone(&sleeper));
        let spun = park::detached(|| {
            drop(notice);
            sleeper.wait(looks)
        });
        if let Some(spun) = spun {
            self.has_lookout.set(false);
            self.spin.borrow_mut().learn(spun);
        }
        // Whoever called took it off the idle list and counted it as expected.
        self.arrive();
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

    /// The number of workers that wait for work.
    pub fn idle_count(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Drops everything queued, with nothing borrowed meanwhile.
    pub fn clear(&self) {
        let items = std::mem::take(&mut *self.items.borrow_mut());
        drop(items);
    }
}

impl Job {
    /// Calls the function, unless its future was cancelled meanwhile. Function and arguments are
    /// let go of before anybody hears of the outcome.
    fn run(self) -> Option<Notice> {
        if !future::fields(self.future.obj()).is_pending() {
            outcome::forget(self.event_loop.obj());
            return None;
        }
        let outcome = {
            let args: Vec<Obj<'_>> = self.args.iter().map(Ref::obj).collect();
            match self.function.obj().call(&args) {
                Ok(result) => Outcome::Result(result),
                Err(raised) => Outcome::Exception(raised.take()),
            }
        };
        drop((self.function, self.args));
        outcome::send(self.event_loop, self.future, outcome)
    }
}
