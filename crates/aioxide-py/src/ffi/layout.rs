//! Where things lie in CPython's own task memory: found by looking, never by fixed offsets.
//!
//! Native futures and tasks are subclasses of `_asyncio.Future` and `_asyncio.Task` whose own
//! fields follow the base's. From 3.14 on, tools outside the process (`python -m asyncio ps`) and
//! `asyncio.all_tasks` read coroutine, name, awaited-by edge and list node out of the base's
//! memory; at import a probe task with known content is compared word by word to find them. What
//! the probe does not find is left alone, and only the feature that needs it is off.

use std::cell::Cell;

use pyo3_ffi as c;

use super::call::import;
use super::error::R;
use super::object::{Obj, PyObject, Ref};

/// Offsets in bytes. `None`: not found, or this Python has no such field.
#[derive(Default, Debug)]
pub struct Layout {
    /// Where our own fields begin, in futures and tasks alike.
    pub fields: usize,
    /// `TaskObj.task_coro`.
    pub coro: Option<usize>,
    /// `TaskObj.task_name`.
    pub name: Option<usize>,
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

const WORD: usize = std::mem::size_of::<usize>();

/// The size of an instance of `class`, in bytes.
pub fn basic_size(class: Obj<'_>) -> usize {
    // SAFETY: a type object.
    unsafe { (*class.ptr().cast::<c::PyTypeObject>()).tp_basicsize as usize }
}

fn word_at(object: Obj<'_>, offset: usize) -> usize {
    // SAFETY: the caller stays within the object's basic size.
    unsafe { object.ptr().cast::<u8>().add(offset).cast::<usize>().read() }
}

fn byte_at(object: Obj<'_>, offset: usize) -> u8 {
    // SAFETY: as above.
    unsafe { object.ptr().cast::<u8>().add(offset).read() }
}

fn find_word(object: Obj<'_>, size: usize, wanted: usize) -> Option<usize> {
    (2 * WORD..size)
        .step_by(WORD)
        .find(|&offset| word_at(object, offset) == wanted)
}

impl Layout {
    /// Looks at the running interpreter's types. The two classes are `_asyncio.Future`, `.Task`.
    pub fn probe(future: Obj<'_>, task: Obj<'_>) -> R<Layout> {
        let fields = basic_size(task)
            .max(basic_size(future))
            .next_multiple_of(WORD);
        let mut layout = Layout {
            fields,
            ..Layout::default()
        };
        if cfg!(Py_3_14) {
            Probe::new(future, task)?.fill(&mut layout)?;
        }
        Ok(layout)
    }
}

/// A stock task and future with known content.
struct Probe {
    module: Ref,
    stub_loop: Ref,
    coro: Ref,
    name: Ref,
    task: Ref,
    future: Ref,
    task_size: usize,
    future_size: usize,
}

/// Python source of the probe: a loop that never runs anything and a task made on it.
const PROBE: &std::ffi::CStr = c"
class Loop:
    def get_debug(self): return False
    def call_soon(self, *args, **kwargs): pass
    def is_running(self): return False
async def probe(): pass
loop = Loop()
coro = probe()
name = 'aioxide layout probe'
task = Task(coro, loop=loop, name=name)
task._log_destroy_pending = False
future = Future(loop=loop)
coro.close()
";

impl Probe {
    fn new(future: Obj<'_>, task: Obj<'_>) -> R<Probe> {
        let scope = super::call::dict()?;
        let get = |name: &std::ffi::CStr| -> R<Ref> {
            let key = super::call::interned(name)?;
            // SAFETY: a dict and a key; the item is borrowed, then owned.
            let item = unsafe { c::PyDict_GetItemWithError(scope.ptr(), key.ptr()) };
            // SAFETY: borrowed from the dict, or null.
            match unsafe { Obj::from_nullable(item) } {
                Some(item) => Ok(item.to_ref()),
                None => Err(super::Raised::runtime("the layout probe lost a name")),
            }
        };
        super::call::dict_set(scope.obj(), super::call::interned(c"Task")?.obj(), task)?;
        super::call::dict_set(scope.obj(), super::call::interned(c"Future")?.obj(), future)?;
        let builtins = import(c"builtins")?;
        let key = super::call::interned(c"__builtins__")?;
        super::call::dict_set(scope.obj(), key.obj(), builtins.obj())?;
        // SAFETY: NUL-terminated source and a dict as both scopes.
        let done = unsafe {
            Ref::steal(c::PyRun_String(
                PROBE.as_ptr(),
                c::Py_file_input,
                scope.ptr(),
                scope.ptr(),
            ))
        }?;
        drop(done);
        let probe = Probe {
            module: import(c"_asyncio")?,
            stub_loop: get(c"loop")?,
            coro: get(c"coro")?,
            name: get(c"name")?,
            task: get(c"task")?,
            future: get(c"future")?,
            task_size: basic_size(task),
            future_size: basic_size(future),
        };
        super::call::dict_clear(scope.obj());
        Ok(probe)
    }

    fn call(&self, name: &std::ffi::CStr, args: &[Obj<'_>]) -> R<Ref> {
        self.module.obj().getattr_str(name)?.obj().call(args)
    }

    fn fill(&self, layout: &mut Layout) -> R<()> {
        let task = self.task.obj();
        layout.coro = find_word(task, self.task_size, self.coro.ptr() as usize);
        layout.name = find_word(task, self.task_size, self.name.ptr() as usize);
        self.call(c"future_add_to_awaited_by", &[task, self.future.obj()])?;
        layout.awaited_by = find_word(task, self.future_size, self.future.ptr() as usize);
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
            self.stub_loop.obj()
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

/// No thread state is larger; a list head further away is not inside it.
const MAX_THREAD_STATE_BYTES: usize = 16 * 1024;

/// A reference field of the base type at `offset` inside `object`.
///
/// # Safety
/// `offset` was found by the probe for the object's base type.
#[inline]
pub unsafe fn base_slot(object: Obj<'_>, offset: usize) -> *const super::Slot {
    // SAFETY: by the contract the word holds an owned reference or null, as a `Slot` does.
    unsafe { object.ptr().cast::<u8>().add(offset).cast() }
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
