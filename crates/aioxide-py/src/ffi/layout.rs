//! Where things lie in CPython's own task memory: found by looking, never by fixed offsets.
//!
//! Native futures and tasks are subclasses of `_asyncio.Future` and `_asyncio.Task` whose own
//! fields follow the base's. What the base keeps, too, lies in the base's own words ([`Places`]),
//! so that a task is no larger than asyncio's. From 3.14 on, tools outside the process (`python -m
//! asyncio ps`) and `asyncio.all_tasks` read coroutine, name, awaited-by edge and list node there.
//! At import probe objects with known content are compared word by word to find all of them. What
//! the probe does not find lies behind the base, or only the feature that needs it is off.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};

use pyo3_ffi as c;

use super::call::import;
use super::error::R;
use super::object::{Obj, PyObject, Ref};
use super::stock::{Stock, find_read_word};

/// Offsets in bytes. `None`: not found, or this Python has no such field.
#[derive(Default, Debug)]
pub struct Layout {
    /// Where our own fields begin, in futures and tasks alike.
    pub fields: usize,
    /// Where the references lie that the base keeps, too.
    pub places: Places,
    /// Where those begin that were not found in the base; they end at `fields`.
    pub displaced: usize,
    /// `FutureObj.fut_awaited_by`: one awaiting future or task, or a set of them.
    pub awaited_by: Option<usize>,
    /// `FutureObj.fut_is_task`, one byte.
    pub is_task: Option<usize>,
    /// `TaskObj.task_node`: two pointers, `next` and `prev`.
    pub node: Option<usize>,
    /// The running loop's place in the thread state.
    pub running_loop: Option<usize>,
    /// The running task's place in the thread state.
    pub running_task: Option<usize>,
    /// The head of the thread's task list in the thread state.
    pub tasks_head: Option<usize>,
}

/// References of ours inside the base's words for the same thing. The base's own functions visit
/// and clear them; otherwise it leaves them alone, because its `fut_loop` stays empty. In bytes,
/// from the object's beginning.
#[derive(Default, Debug)]
pub struct Places {
    /// `FutureObj.fut_callback0`: the first waiter.
    pub waiter: usize,
    /// `FutureObj.fut_context0`.
    pub waiter_context: usize,
    /// `FutureObj.fut_result`.
    pub result: usize,
    /// `FutureObj.fut_exception`.
    pub exception: usize,
    /// `FutureObj.fut_exception_tb`.
    pub exception_traceback: usize,
    /// `FutureObj.fut_cancel_msg`.
    pub cancel_message: usize,
    /// `FutureObj.fut_source_tb`.
    pub source_traceback: usize,
    /// `TaskObj.task_coro`.
    pub coro: usize,
    /// `TaskObj.task_name`.
    pub name: usize,
    /// `TaskObj.task_context`.
    pub context: usize,
}

pub(super) const WORD: usize = std::mem::size_of::<usize>();

/// The size of what every object begins with.
pub const HEAD_BYTES: usize = std::mem::size_of::<PyObject>();

/// Where instances of `class` have their weak references; negative: before the object.
pub fn weak_at(class: Obj<'_>) -> isize {
    // SAFETY: a type object.
    unsafe { (*class.ptr().cast::<c::PyTypeObject>()).tp_weaklistoffset }
}

/// The size of an instance of `class`, in bytes.
pub fn basic_size(class: Obj<'_>) -> usize {
    // SAFETY: a type object.
    unsafe { (*class.ptr().cast::<c::PyTypeObject>()).tp_basicsize as usize }
}

pub(super) fn word_at(object: Obj<'_>, offset: usize) -> usize {
    // SAFETY: the caller stays within the object's basic size.
    unsafe { object.ptr().cast::<u8>().add(offset).cast::<usize>().read() }
}

fn byte_at(object: Obj<'_>, offset: usize) -> u8 {
    // SAFETY: as above.
    unsafe { object.ptr().cast::<u8>().add(offset).read() }
}

/// The only word of an instance with this content.
pub(super) fn find_word(object: Obj<'_>, size: usize, wanted: Obj<'_>) -> Option<usize> {
    let wanted = wanted.ptr() as usize;
    let mut found = (2 * WORD..size)
        .step_by(WORD)
        .filter(|&offset| word_at(object, offset) == wanted);
    let first = found.next();
    if found.next().is_some() { None } else { first }
}

impl Layout {
    /// A reference whose place is counted from the object's beginning, given our own fields in it.
    ///
    /// # Safety
    /// `own` lies at `self.fields` inside a native future or task; `place` is one of `self.places`
    /// that this type has.
    #[inline]
    pub unsafe fn slot_before<'a, T>(&self, own: &'a T, place: usize) -> &'a super::Slot {
        let own = std::ptr::from_ref(own).cast::<u8>();
        // SAFETY: by the contract the object begins so far before; it lives as long as `own`.
        unsafe { &*own.wrapping_sub(self.fields).wrapping_add(place).cast() }
    }

    /// The references that lie behind the base, which does not know them.
    pub fn displaced_slots<'a>(&self, object: Obj<'a>) -> &'a [super::Slot] {
        let len = (self.fields - self.displaced) / WORD;
        // SAFETY: native futures and tasks alike have these words, each an owned reference or null.
        unsafe { std::slice::from_raw_parts(fields(object.ptr(), self.displaced), len) }
    }

    /// Looks at the running interpreter's types. The two classes are `_asyncio.Future`, `.Task`.
    pub fn probe(future: Obj<'_>, task: Obj<'_>) -> R<Layout> {
        let displaced = basic_size(task)
            .max(basic_size(future))
            .next_multiple_of(WORD);
        let mut layout = Layout {
            fields: displaced,
            displaced,
            ..Layout::default()
        };
        let probe = Probe::new(future, task)?;
        probe.find_places(&mut layout)?;
        if cfg!(Py_3_14) {
            probe.fill(&mut layout)?;
        }
        Ok(layout)
    }
}

/// Stock tasks and futures with known content.
struct Probe<'a> {
    stock: Stock<'a>,
    module: Ref,
    task: Ref,
    future: Ref,
    context: Ref,
    name: Ref,
    task_size: usize,
    future_size: usize,
}

/// A field, an object that has it, and what is in it there.
type Sought = (fn(&mut Places) -> &mut usize, Ref, Ref);

impl<'a> Probe<'a> {
    fn new(future: Obj<'a>, task: Obj<'a>) -> R<Probe<'a>> {
        let stock = Stock::new(future, task)?;
        let name = super::call::string("aioxide layout probe")?;
        let context = super::light_context::new_context()?;
        Ok(Probe {
            module: import(c"_asyncio")?,
            task: stock.task(name.obj(), context.obj())?,
            future: stock.future()?,
            stock,
            context,
            name,
            task_size: basic_size(task),
            future_size: basic_size(future),
        })
    }

    /// Objects in every state, with what is to be found in them.
    fn sought(&self) -> R<[Sought; 9]> {
        let (waiting, waiter) = self.stock.waiting(self.context.obj())?;
        let (finished, result) = self.stock.finished()?;
        let (failed, exception, traceback) = self.stock.failed()?;
        let (cancelled, message) = self.stock.cancelled()?;
        let (task, coro) = (&self.task, self.stock.coro.clone());
        let (name, context) = (self.name.clone(), &self.context);
        Ok([
            (|places| &mut places.waiter, waiting.clone(), waiter),
            (
                |places| &mut places.waiter_context,
                waiting,
                context.clone(),
            ),
            (|places| &mut places.result, finished, result),
            (|places| &mut places.exception, failed.clone(), exception),
            (|places| &mut places.exception_traceback, failed, traceback),
            (|places| &mut places.cancel_message, cancelled, message),
            (|places| &mut places.coro, task.clone(), coro),
            (|places| &mut places.name, task.clone(), name),
            (|places| &mut places.context, task.clone(), context.clone()),
        ])
    }

    /// Finds the words of the base that mean what a field of ours means; each of the others gets a
    /// word behind the base.
    fn find_places(&self, layout: &mut Layout) -> R<()> {
        let mut place = |field: fn(&mut Places) -> &mut usize, found: Option<usize>| {
            let place = found.unwrap_or_else(|| {
                let behind = layout.fields;
                layout.fields += WORD;
                behind
            });
            *field(&mut layout.places) = place;
        };
        for (field, object, content) in self.sought()? {
            place(field, self.place_of(object.obj(), content.obj()));
        }
        // An object that has one would be made in debug mode, and look up lines of source.
        let traced = find_read_word(self.future.obj(), self.future_size, c"_source_traceback")?;
        place(|places| &mut places.source_traceback, traced);
        Ok(())
    }

    /// Where `object` has `content`, if the base's functions look after that word.
    fn place_of(&self, object: Obj<'_>, content: Obj<'_>) -> Option<usize> {
        let size = if object.is(self.task.obj()) {
            self.task_size
        } else {
            self.future_size
        };
        let place = find_word(object, size, content)?;
        is_visited(object, content).then_some(place)
    }

    fn call(&self, name: &CStr, args: &[Obj<'_>]) -> R<Ref> {
        self.module.obj().getattr_str(name)?.obj().call(args)
    }

    fn fill(&self, layout: &mut Layout) -> R<()> {
        let task = self.task.obj();
        self.call(c"future_add_to_awaited_by", &[task, self.future.obj()])?;
        layout.awaited_by = find_word(task, self.future_size, self.future.obj());
        layout.is_task = self.find_is_task(layout.awaited_by);
        self.call(
            c"future_discard_from_awaited_by",
            &[task, self.future.obj()],
        )?;
        self.find_list(layout)?;
        self.find_running_task(layout)
    }

    /// The one byte in which a task's future part differs from a future.
    fn find_is_task(&self, awaited_by: Option<usize>) -> Option<usize> {
        let known = awaited_by?;
        let mut found = (2 * WORD..self.future_size).filter(|&offset| {
            let in_known = (known..known + WORD).contains(&offset);
            let bytes = (
                byte_at(self.task.obj(), offset),
                byte_at(self.future.obj(), offset),
            );
            !in_known && bytes == (1, 0)
        });
        let first = found.next();
        if found.next().is_some() { None } else { first }
    }

    /// The two words that `_unregister_task` zeroes, and the list head they pointed to.
    fn find_list(&self, layout: &mut Layout) -> R<()> {
        let task = self.task.obj();
        let words = |task| -> Vec<usize> {
            (0..self.task_size)
                .step_by(WORD)
                .map(|offset| word_at(task, offset))
                .collect()
        };
        self.call(c"_unregister_task", &[task])?;
        let without = words(task);
        self.call(c"_register_task", &[task])?;
        let with = words(task);
        let changed: Vec<usize> = (2..with.len())
            .filter(|&i| without[i] == 0 && with[i] != 0)
            .collect();
        if let [next, prev] = changed[..]
            && prev == next + 1
        {
            let node = next * WORD;
            // The probe was put at the tail, so its successor is the head.
            let head = with[next];
            // SAFETY: the thread is attached.
            let thread = unsafe { c::PyThreadState_Get() } as usize;
            if head > thread && head - thread < MAX_THREAD_STATE_BYTES {
                layout.node = Some(node);
                layout.tasks_head = Some(head - thread);
            }
        }
        self.call(c"_unregister_task", &[task])?;
        Ok(())
    }

    /// The word of the thread state that holds the current task, below the list head.
    fn find_running_task(&self, layout: &mut Layout) -> R<()> {
        let Some(limit) = layout.tasks_head else {
            return Ok(());
        };
        let running = self.call(c"_get_running_loop", &[])?;
        let outside = running.obj().is_none();
        let event_loop = if outside {
            self.stock.stub_loop.obj()
        } else {
            running.obj()
        };
        if outside {
            self.call(c"_set_running_loop", &[event_loop])?;
        }
        let previous = self.call(c"_swap_current_task", &[event_loop, self.task.obj()])?;
        // SAFETY: the thread is attached.
        let thread = unsafe { c::PyThreadState_Get() }.cast::<u8>();
        // SAFETY: below the list head, hence inside the thread state.
        let word_of = |offset: usize| unsafe { thread.add(offset).cast::<usize>().read() };
        let mut places = (0..limit).step_by(WORD);
        let task = self.task.ptr() as usize;
        layout.running_task = places.find(|&offset| word_of(offset) == task);
        let running = event_loop.ptr() as usize;
        let places = (0..limit).step_by(WORD);
        let places: Vec<usize> = places.filter(|&place| word_of(place) == running).collect();
        self.call(c"_swap_current_task", &[event_loop, previous.obj()])?;
        if outside {
            self.call(c"_set_running_loop", &[super::object::none()])?;
        }
        if let [place] = places[..]
            && (!outside || word_of(place) == 0)
        {
            layout.running_loop = Some(place);
        }
        Ok(())
    }
}

/// Whether the object's type shows the collector that it refers to `content`.
pub(super) fn is_visited(object: Obj<'_>, content: Obj<'_>) -> bool {
    unsafe extern "C" fn visit(found: *mut PyObject, sought: *mut c_void) -> c_int {
        c_int::from(found.cast() == sought)
    }
    // SAFETY: an object keeps its type alive.
    let traverse = unsafe { (*object.type_ptr()).tp_traverse };
    // SAFETY: the type's own function on an instance, with a visitor that only compares.
    traverse
        .is_some_and(|traverse| unsafe { traverse(object.ptr(), visit, content.ptr().cast()) != 0 })
}

/// No thread state is larger; a list head further away is not inside it.
const MAX_THREAD_STATE_BYTES: usize = 16 * 1024;

/// A reference field at `offset` inside `object`: of the base type, or displaced from there.
///
/// # Safety
/// `offset` was found by the probe for the object's base type.
#[inline]
pub unsafe fn slot<'a>(object: Obj<'a>, offset: usize) -> &'a super::Slot {
    // SAFETY: by the contract the word holds an owned reference or null, as a `Slot` does.
    unsafe { fields(object.ptr(), offset) }
}

/// The byte at `offset` inside `object`.
///
/// # Safety
/// As for `base_slot`.
#[inline]
pub unsafe fn base_byte(object: Obj<'_>, offset: usize) -> *const Cell<u8> {
    // SAFETY: by the contract.
    unsafe { object.ptr().cast::<u8>().add(offset).cast() }
}

/// Our own fields inside a native future or task.
///
/// # Safety
/// `object` is an instance of a native type whose fields of type `T` begin at `offset`.
#[inline]
pub unsafe fn fields<'a, T>(object: *mut PyObject, offset: usize) -> &'a T {
    // SAFETY: by the contract; fields are only ever shared, all mutation goes through cells.
    unsafe { &*object.cast::<u8>().add(offset).cast::<T>() }
}
