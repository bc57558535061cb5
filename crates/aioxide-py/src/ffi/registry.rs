//! The list of live tasks that `asyncio.all_tasks` reads.
//!
//! 3.14 and later: CPython's own list per thread, whose node lies in the base's task memory; the
//! probe found node and head, so joining and leaving are a few stores. Before 3.14: a list of our
//! own through every native task, which the package chains to asyncio's WeakSet.
//! Invariant: a node is linked exactly while its task may be pending.

use std::cell::Cell;
use std::ptr::null;

use super::error::R;
use super::object::Obj;
use crate::state::state;

/// A link of a circular doubly linked list; zero means "in no list".
#[repr(C)]
pub struct Node {
    next: Cell<*const Node>,
    prev: Cell<*const Node>,
}

impl Node {
    /// A node in no list.
    #[cfg(not(Py_3_14))]
    pub const fn new() -> Node {
        Node {
            next: Cell::new(null()),
            prev: Cell::new(null()),
        }
    }

    fn is_linked(&self) -> bool {
        !self.next.get().is_null()
    }

    fn unlink(&self) {
        // SAFETY: a linked node's neighbours are live nodes of the same list.
        let (next, prev) = unsafe { (&*self.next.get(), &*self.prev.get()) };
        prev.next.set(next);
        next.prev.set(prev);
        self.next.set(null());
        self.prev.set(null());
    }

    fn insert_before(&self, head: &Node) {
        let prev = head.prev.get();
        self.prev.set(prev);
        self.next.set(head);
        // SAFETY: the list is circular: the head's predecessor is a live node of it.
        unsafe { &*prev }.next.set(self);
        head.prev.set(self);
    }
}

#[cfg(Py_3_14)]
fn node(task: Obj<'_>) -> Option<&Node> {
    let offset = state().layout.node?;
    // SAFETY: the probe found CPython's node there; it has the shape of `Node`.
    Some(unsafe { super::layout::fields(task.ptr(), offset) })
}

/// Adds `task`, unless it is in the list already.
#[cfg(Py_3_14)]
#[inline]
pub fn register(task: Obj<'_>) -> R<()> {
    let (Some(node), Some(offset)) = (node(task), state().layout.tasks_head) else {
        return state().register_task.obj().call1(task).map(drop);
    };
    if !node.is_linked() {
        // SAFETY: the thread is attached; the head lies inside its state.
        let head =
            unsafe { super::layout::fields::<Node>(pyo3_ffi::PyThreadState_Get().cast(), offset) };
        node.insert_before(head);
    }
    Ok(())
}

/// Removes `task`, if it is in the list.
#[cfg(Py_3_14)]
#[inline]
pub fn unregister(task: Obj<'_>) -> R<()> {
    match node(task) {
        Some(node) if node.is_linked() => node.unlink(),
        Some(_) => {}
        None => return state().unregister_task.obj().call1(task).map(drop),
    }
    Ok(())
}

/// The head of our own list, before 3.14.
#[cfg(not(Py_3_14))]
pub struct Head(Node);

#[cfg(not(Py_3_14))]
impl Head {
    /// An empty list at its final address.
    pub fn leak() -> &'static Head {
        let head = Box::leak(Box::new(Head(Node::new())));
        head.0.next.set(&head.0);
        head.0.prev.set(&head.0);
        head
    }

    /// Every task in the list, from the oldest.
    pub fn tasks(&self) -> Vec<super::Ref> {
        let mut tasks = Vec::new();
        let mut node = self.0.next.get();
        while !std::ptr::eq(node, &self.0) {
            // SAFETY: nodes of the list lie in live tasks; the GIL is held throughout.
            tasks.extend(unsafe { crate::task::owner_of_node(node) });
            // SAFETY: as above.
            node = unsafe { (*node).next.get() };
        }
        tasks
    }
}

/// Adds `task`, unless it is in the list already.
#[cfg(not(Py_3_14))]
#[inline]
pub fn register(task: Obj<'_>) -> R<()> {
    let node = &crate::task::fields(task).node;
    if !node.is_linked() {
        node.insert_before(&state().all_tasks.0);
    }
    Ok(())
}

/// Removes `task`, if it is in the list.
#[cfg(not(Py_3_14))]
#[inline]
pub fn unregister(task: Obj<'_>) -> R<()> {
    let node = &crate::task::fields(task).node;
    if node.is_linked() {
        node.unlink();
    }
    Ok(())
}
