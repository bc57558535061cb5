//! `Loop`: the native half of the event loop; the package adds the control plane in Python.
//!
//! Rooms: `schedule` (call_soon and sisters), `create` (futures and tasks), `asyncgens` (those that
//! were begun), `run` (turns), `flush` (what they wrote), `watch` and `watched` (file descriptors),
//! `sock` and `sock_methods` (`sock_*`), `class` (the Python type). All state belongs to the thread
//! that runs the loop; under the GIL other threads may call the same methods, because no borrow
//! outlives a call into Python and none is held while the GIL is released. The one thing made for
//! other threads is the inbox.

mod asyncgens;
mod class;
mod contents;
mod create;
mod flush;
mod held;
mod job_queue;
mod jobs;
mod look;
mod lookout;
mod outcome;
mod poll;
mod run;
mod schedule;
mod sock;
mod sock_methods;
mod watch;
mod watched;

use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use aioxide_core::backend::epoll::Epoll;
use aioxide_core::backend::{Interest, Readiness};
use aioxide_core::clock::Clock;
use aioxide_core::inbox::Inbox;
use aioxide_core::slab::Token;
use aioxide_core::spin::Spin;
use aioxide_core::turn::Turn;

use crate::ffi::class::Visitor;
use crate::ffi::{Obj, R, Raised, Ref, Slot, layout};
use crate::handle;
use crate::state::state;
use crate::sync::Listener;
use held::Held;
use outcome::Finished;
use watched::{Operation, Watch};

pub use class::build_type;
pub use create::{create_future_on, create_future_with, create_plain_task};
pub use job_queue::build_type as build_job_queue_type;
pub use lookout::build_type as build_lookout_type;
pub use schedule::{HAND_OVER_ENTRIES, foreign_call_soon};
pub use sock_methods::export;
pub use watch::fd_of;

/// Something to run in a turn. Its kind fills a word: with a byte, the other 23 are copied by moves
/// that overlap, and the processor waits for the first before it reads what the second wrote.
#[derive(Clone)]
#[repr(u64)]
pub enum Entry {
    /// The next step of a native task.
    Step(Ref),
    /// A handle.
    Call(Ref),
    /// A native object that listens, the future that is done, and how the object is told.
    Done(Ref, Ref, Listener),
    /// Readiness of a native transport or listener.
    Io(Token, Readiness),
    /// Readiness for an operation of `sock_*`. Never crosses threads; what the operation holds is
    /// shown to the collector where it waits.
    Attempt(Rc<Operation>),
    /// The outcome of a job that ran in a thread.
    Finished(Rc<Finished>),
}

impl Entry {
    /// Whether it is a handle that was cancelled.
    fn is_cancelled(&self) -> bool {
        matches!(self, Entry::Call(handle) if handle::fields(handle.obj()).is_cancelled())
    }

    /// Shows a handle to the collector.
    fn show(&self, shared: &handle::PerLoop) {
        if let Entry::Call(handle) = self {
            handle::show(handle.obj(), shared);
        }
    }

    /// Visits its references, for the collector.
    fn visit(&self, visitor: &mut Visitor) {
        match self {
            Entry::Step(object) | Entry::Call(object) => visitor.visit(object.ptr()),
            Entry::Done(target, future, _) => {
                visitor.visit(target.ptr());
                visitor.visit(future.ptr());
            }
            Entry::Finished(finished) => finished.visit(visitor),
            Entry::Io(..) | Entry::Attempt(_) => {}
        }
    }
}

/// What a native transport or listener does when its descriptor is ready.
pub type OnReady = fn(Obj<'_>, Readiness) -> R<()>;

/// Who is interested in a descriptor.
pub enum Registration {
    /// `add_reader`, `add_writer`, and operations of `sock_*` that wait.
    Watch(Box<Watch>),
    /// A native transport or listener, kept alive while it is registered.
    Native {
        /// The descriptor.
        fd: RawFd,
        /// What the backend watches for.
        interest: Interest,
        /// The object.
        object: Ref,
        /// Called with the object and its readiness.
        on_ready: OnReady,
    },
}

impl Registration {
    /// What the backend watches for.
    pub fn interest(&self) -> Interest {
        match self {
            Registration::Native { interest, .. } => *interest,
            Registration::Watch(watch) => watch.armed,
        }
    }

    /// The descriptor.
    pub fn fd(&self) -> RawFd {
        match self {
            Registration::Native { fd, .. } => *fd,
            Registration::Watch(watch) => watch.fd,
        }
    }
}

/// The fields of the native loop.
pub struct LoopFields {
    /// The loop object these fields live in; borrowed, it outlives them.
    this: Cell<*mut pyo3_ffi::PyObject>,
    turn: RefCell<Turn<Entry, Registration>>,
    inbox: Inbox<Entry>,
    clock: Clock,
    /// `None` once closed.
    backend: RefCell<Option<Arc<Epoll>>>,
    /// Token of the registration of each descriptor, by number.
    by_fd: RefCell<Vec<Option<Token>>>,
    held: RefCell<Held>,
    /// Whether turns run, so that handles of the queue may be hidden from the collector.
    hides_handles: Cell<bool>,
    /// What its handles share.
    handles: handle::PerLoop,
    /// Transports that hold writes of this turn.
    unflushed: RefCell<Vec<(Ref, Flush)>>,
    /// When the first of them began to, in nanoseconds of the clock, at least 1; 0: there is none.
    held_since_ns: Cell<u64>,
    /// Entries of the turn for which the running one holds its writes; [`flush::NO_ENTRY`] while
    /// none runs.
    behind: Cell<usize>,
    /// A protocol is being told what was received.
    is_read: Cell<bool>,
    /// Sockets that operations wait for without having asked the kernel.
    trusted: RefCell<Vec<Token>>,
    /// Polls since those were looked at.
    trusting_polls: Cell<u32>,
    /// Polls in a row that reported a descriptor which nobody watches.
    stale_polls: Cell<u32>,
    turn_number: Cell<u64>,
    /// What the loop's transports share.
    transports: crate::transport::PerLoop,
    task_factory: Slot,
    /// The handle that runs, in debug mode.
    current_handle: Slot,
    /// `threading.get_ident()` of the running thread; 0 when the loop does not run.
    thread_id: Cell<u64>,
    slow_callback_seconds: Cell<f64>,
    closed: Cell<bool>,
    stopping: Cell<bool>,
    /// Jobs in threads that have not ended yet.
    jobs: Cell<usize>,
    /// Workers that look out and know that a call will come: when this thread lets go of the GIL.
    announced: RefCell<Vec<Arc<jobs::Sleeper>>>,
    /// Whether waiting awake for an outcome was worthwhile.
    spin: RefCell<Spin>,
    /// A thread called since the last sleep began, and found the loop waiting.
    was_called: Cell<bool>,
    /// Whether waiting awake for another such call was worthwhile.
    call_spin: RefCell<Spin>,
    /// Threads that ask it for something and look out for the answer.
    askers: Rc<lookout::Askers>,
    debug: Cell<bool>,
    hold_tasks: Cell<bool>,
    /// The async generators that were begun.
    asyncgens: asyncgens::AsyncGens,
    /// What Python code replaced.
    direct: Cell<Direct>,
    /// No Python code replaced `create_future`.
    makes_futures: Cell<bool>,
    /// Nobody replaced `create_task`.
    makes_tasks: Cell<bool>,
    /// Where Python code replaced `time`: a virtual clock that follows it.
    own_clock: RefCell<Option<Clock>>,
}

/// Which methods no Python code replaced, so that native code may skip them.
#[derive(Copy, Clone, Default)]
struct Direct {
    /// `call_soon`.
    calls: bool,
    /// `call_at`, `call_later` and `call_soon`.
    timers: bool,
}

/// What sends a transport's held writes.
pub type Flush = fn(Obj<'_>) -> R<()>;

/// The fields of a native loop.
#[inline]
pub fn fields<'a>(event_loop: Obj<'a>) -> &'a LoopFields {
    // SAFETY: methods get instances from their own descriptors, everyone else asks `native` first.
    // The fields were written before `tp_new` returned the object.
    unsafe { layout::fields(event_loop.ptr(), class::OFFSET) }
}

/// The native fields, if the object is a native loop or an instance of a subclass.
#[inline]
pub fn native(event_loop: Obj<'_>) -> Option<&LoopFields> {
    let class = event_loop.type_ptr();
    let is_native = class == SEEN.load(Ordering::Relaxed) || is_subclass(event_loop);
    is_native.then(|| fields(event_loop))
}

/// The first class of loops that was seen, kept alive for good: `aioxide.Loop` has many bases, and
/// to search them for every read and write costs more than the rest of the question.
static SEEN: AtomicPtr<pyo3_ffi::PyTypeObject> = AtomicPtr::new(std::ptr::null_mut());

fn is_subclass(event_loop: Obj<'_>) -> bool {
    let is_native = event_loop.is_instance_of_type(state().loop_type);
    if is_native && SEEN.load(Ordering::Relaxed).is_null() {
        let class = event_loop.type_obj().to_ref().into_ptr();
        SEEN.store(class.cast(), Ordering::Relaxed);
    }
    is_native
}

/// `loop.get_debug()`.
pub fn debug_of(event_loop: Obj<'_>) -> R<bool> {
    match native(event_loop) {
        Some(native) if native.is_direct() => Ok(native.debug()),
        _ => event_loop
            .call_method0(state().names.get_debug.obj())?
            .obj()
            .is_true(),
    }
}

/// `loop.is_running()`.
pub fn is_running(event_loop: Obj<'_>) -> R<bool> {
    match native(event_loop) {
        Some(native) => Ok(native.thread_id.get() != 0),
        None => event_loop
            .call_method0(state().names.is_running.obj())?
            .obj()
            .is_true(),
    }
}

/// A timer handle in the loop's heap was cancelled.
pub fn timer_cancelled(event_loop: Obj<'_>) {
    if let Some(native) = native(event_loop) {
        native.turn.borrow_mut().timers.note_cancelled();
    }
}

/// For a native loop, [`LoopFields::poll_next_turn`].
#[inline]
pub fn poll_next_turn(event_loop: &Slot) {
    if let Some(event_loop) = event_loop.get() {
        if let Some(native) = native(event_loop.obj()) {
            native.poll_next_turn();
        }
    }
}

impl LoopFields {
    /// The loop object.
    #[inline]
    pub fn object(&self) -> Obj<'_> {
        // SAFETY: set when the object was made; `self` lives inside it.
        unsafe { Obj::from_ptr(self.this.get()) }
    }

    /// Whether debug mode is on.
    #[inline]
    pub fn debug(&self) -> bool {
        self.debug.get()
    }

    /// Whether native code may put entries into the queue without calling `call_soon`.
    #[inline]
    pub fn is_direct(&self) -> bool {
        self.direct.get().calls
    }

    /// Whether native code may set timers without calling `call_at` or `call_later`.
    #[inline]
    pub fn has_plain_timers(&self) -> bool {
        self.direct.get().timers
    }

    /// Whether the loop keeps its tasks alive.
    #[inline]
    pub fn holds_tasks(&self) -> bool {
        self.hold_tasks.get() && !self.closed.get()
    }

    /// Whether the loop was closed.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Keeps a task alive until `release` of the place that this returns.
    pub fn hold(&self, task: Ref) -> u32 {
        self.held.borrow_mut().insert(task)
    }

    /// Gives a held task back; the caller drops it while nothing is borrowed.
    pub fn release(&self, place: u32) -> Option<Ref> {
        self.held.borrow_mut().remove(place)
    }

    /// `RuntimeError('Event loop is closed')` if it is.
    #[inline]
    pub fn check_open(&self) -> R<()> {
        if self.closed.get() {
            Err(Raised::runtime("Event loop is closed"))
        } else {
            Ok(())
        }
    }

    /// Loop time, in seconds.
    #[inline]
    pub fn time(&self) -> R<f64> {
        if self.has_own_time() {
            self.follow_time()
        } else {
            Ok(self.clock.now())
        }
    }

    /// Whether Python code replaced `time`.
    #[inline]
    fn has_own_time(&self) -> bool {
        self.own_clock.borrow().is_some()
    }

    /// Asks the replaced `time()` and moves the virtual clock there; never backwards.
    #[cold]
    fn follow_time(&self) -> R<f64> {
        let time = self.object().call_method0(state().names.time.obj())?;
        let seconds = time.obj().to_f64()?;
        if let Some(clock) = &*self.own_clock.borrow() {
            let now_ns = (seconds * 1e9) as u64;
            clock.advance(now_ns.saturating_sub(clock.now_ns()));
        }
        Ok(seconds)
    }

    /// An attribute of the instance was set.
    fn notice_set(&self, name: Obj<'_>) -> R<()> {
        let names = &state().names;
        let noticed = [
            &names.time,
            &names.call_soon,
            &names.call_at,
            &names.call_later,
            &names.create_future,
            &names.create_task,
        ];
        if noticed.iter().any(|other| name.is(other.obj())) {
            self.notice_overrides()?;
        }
        Ok(())
    }

    /// Looks whether a subclass or the instance replaces one of the methods of
    /// `notice_set`: those are then asked and called, as asyncio's own code would.
    fn notice_overrides(&self) -> R<()> {
        let names = &state().names;
        let calls = !self.overrides(&names.call_soon)?;
        let timers =
            calls && !self.overrides(&names.call_at)? && !self.overrides(&names.call_later)?;
        self.direct.set(Direct { calls, timers });
        let own_futures = self.overrides(&names.create_future)?;
        self.makes_futures.set(!own_futures);
        let own_tasks = self.overrides(&names.create_task)?;
        self.makes_tasks.set(!own_tasks);
        let own_time = self.overrides(&names.time)?;
        if own_time != self.has_own_time() {
            let own = own_time.then(|| Clock::virtual_at(0));
            let clock = own.clone().unwrap_or_else(|| self.clock.clone());
            self.turn.borrow_mut().set_clock(clock);
            *self.own_clock.borrow_mut() = own;
        }
        Ok(())
    }

    /// Whether the class or the instance has a method of its own under this name.
    fn overrides(&self, name: &Ref) -> R<bool> {
        let of_class = self.object().type_obj().getattr(name.obj())?;
        let of_base = state().types.event_loop.obj().getattr(name.obj())?;
        if !of_class.obj().is(of_base.obj()) {
            return Ok(true);
        }
        match self.object().getattr_opt(state().names.__dict__.obj())? {
            Some(dict) => crate::ffi::call::dict_has(dict.obj(), name.obj()),
            None => Ok(false),
        }
    }

    /// The number of the current turn.
    pub fn turn_number(&self) -> u64 {
        self.turn_number.get()
    }

    /// Whether turns run.
    pub fn is_in_turn(&self) -> bool {
        self.thread_id.get() != 0
    }

    /// What the loop's transports share.
    #[inline]
    pub fn transports(&self) -> &crate::transport::PerLoop {
        &self.transports
    }

    /// Makes the next turn ask the backend, because something leaves through this loop or it is to
    /// report more: who talks to himself is answered in the turn in which asyncio answers.
    #[inline]
    pub fn poll_next_turn(&self) {
        self.turn.borrow_mut().request_poll();
    }

    /// The backend, or the error of a closed loop.
    fn backend(&self) -> R<Arc<Epoll>> {
        let backend = self.backend.borrow().clone();
        backend.ok_or_else(|| Raised::runtime("Event loop is closed"))
    }
}
