//! `FileSender`: a file on its way into a socket, driven by the loop without Python code per chunk.
//!
//! Duty: send, wait for room, tell the future. The target is a socket of the caller, watched as by
//! `add_writer`, or a stream transport, which lends its own registration. May touch: the target's
//! descriptor, the file's descriptor and position. Invariants: no descriptor is owned, duplicated
//! or closed here, and before each use after a wait the owners are asked whether the numbers are
//! still theirs, because a closed number may name another file by now; the end (success, failure,
//! a cancelled future, a lost connection) comes once and takes the watch with it.
//!
//! *Source*: asyncio `unix_events._sock_sendfile_native_impl`.

use std::cell::Cell;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use aioxide_core::backend::sys;
use aioxide_core::file_send::{FileSend, Verdict};
use pyo3_ffi as c;

use super::{base, stream};
use crate::event_loop;
use crate::ffi::call::{import, int, interned, string, uint};
use crate::ffi::class::{Class, Visitor, noargs, onearg};
use crate::ffi::object::{none, none_ref};
use crate::ffi::{
    Args, Obj, PyObject, R, Raised, Ref, Signature, Slot, builtin, layout, park, socket,
};
use crate::handle;
use crate::state::state;

/// What a lost connection is called. *Source*: asyncio.
const LOST: &str = "Connection is closed by peer";

struct Fields {
    progress: Cell<FileSend>,
    /// The file's descriptor when it began.
    file_fd: RawFd,
    /// The socket's descriptor when it began, and whether it can be looked at.
    socket_fd: RawFd,
    is_visible: bool,
    /// The target is a stream transport, not a socket of the caller.
    is_transport: bool,
    /// The file's position is set at the end even if nothing was sent.
    seeks_always: bool,
    event_loop: Slot,
    /// Empty once the end has come, and so are those below.
    future: Slot,
    file: Slot,
    /// The socket, or the transport.
    target: Slot,
    /// The watch on a socket of the caller.
    handle: Slot,
}

const OFFSET: usize = size_of::<PyObject>();

fn fields<'a>(sender: Obj<'a>) -> &'a Fields {
    // SAFETY: only instances of this module's final type come here; `allocate` wrote their fields.
    unsafe { layout::fields(sender.ptr(), OFFSET) }
}

/// How a sending ends.
enum End {
    /// With the number of bytes sent.
    Sent,
    /// With an exception.
    Failed(Ref),
}

const SEND_FILE: Signature = Signature {
    name: "_send_file",
    params: &[
        "target",
        "file",
        "fileno",
        "offset",
        "count",
        "seeks_always",
        "future",
    ],
    positional: 7,
    required: 7,
};

/// `loop._send_file(target, file, fileno, offset, count, seeks_always, future)`: sends what leaves
/// at once, and the rest whenever there is room; then `future` gets the number of bytes.
///
/// *Errors*: what asyncio raises at once instead of through the future.
pub fn send_file(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let bound = args.bind::<7>(&SEND_FILE)?;
    let given = |index: usize| bound[index].unwrap_or(none());
    let (target, file, future) = (given(0), given(1), given(6));
    let file_fd = event_loop::fd_of(given(2))?;
    let offset = match builtin::saturating_i64(given(3))? {
        offset if given(3).equals(int(offset)?.obj())? => offset,
        _ => {
            return Err(Raised::overflow(
                "Python int too large to convert to C long",
            ));
        }
    };
    let count = match given(4) {
        count if count.is_none() => None,
        count => Some(u64::try_from(builtin::saturating_i64(count)?).unwrap_or(0)),
    };
    let class = state().types.stream_transport.ptr().cast();
    let is_transport = target.is_instance_of_type(class);
    let socket_fd = if is_transport {
        base::fields(target).descriptor.number()
    } else {
        let number = target.call_method0(state().names.fileno.obj())?;
        // A closed socket has none: an attempt says so.
        RawFd::try_from(number.obj().to_i64()?).unwrap_or(-1)
    };
    let sender = allocate(Fields {
        progress: Cell::new(FileSend::new(offset, count)),
        file_fd,
        socket_fd,
        is_visible: !is_transport && socket::is_readable(target, socket_fd),
        is_transport,
        seeks_always: given(5).is_true()?,
        event_loop: Slot::empty(),
        future: Slot::empty(),
        file: Slot::empty(),
        target: Slot::empty(),
        handle: Slot::empty(),
    })?;
    let this = fields(sender.obj());
    this.event_loop.set(Some(event_loop.to_ref()));
    this.future.set(Some(future.to_ref()));
    this.file.set(Some(file.to_ref()));
    this.target.set(Some(target.to_ref()));
    match advance(sender.obj(), this) {
        Ok(()) => Ok(none_ref()),
        Err(raised) => {
            let exc = raised.take();
            let unwatched = this.unwatch();
            this.clear();
            unwatched.and(Err(Raised::throw(exc)))
        }
    }
}

/// The transport's descriptor has room. *Errors*: only `SystemExit` and `KeyboardInterrupt`, and
/// what a future of the user's raises.
pub fn handle_writable(sender: Obj<'_>) -> R<()> {
    let this = fields(sender);
    if this.future.is_empty() {
        return Ok(());
    }
    advance(sender, this)
}

/// The transport's connection is lost.
pub fn handle_lost(sender: Obj<'_>) -> R<()> {
    let message = string(LOST)?;
    let exc = builtin::connection_error().call1(message.obj())?;
    fields(sender).end(End::Failed(exc), false)
}

/// The watch of `add_writer` fired.
fn step(sender: Obj<'_>) -> R<Ref> {
    handle_writable(sender).map(|()| none_ref())
}

/// The future's done-callback: a cancelled one ends the sending, any other has ended it before.
fn stop(sender: Obj<'_>, _future: Obj<'_>) -> R<Ref> {
    let this = fields(sender);
    let ended = this.unwatch();
    this.clear();
    ended.map(|()| none_ref())
}

/// One attempt, and what follows from it.
fn advance(sender: Obj<'_>, this: &Fields) -> R<()> {
    let outcome = this.attempt()?;
    let mut progress = this.progress.get();
    let is_first = !progress.has_waited();
    let verdict = progress.handle_outcome(&outcome);
    this.progress.set(progress);
    let error = outcome.err();
    let exc = match verdict {
        Verdict::Wait if is_first => return this.watch(sender),
        Verdict::Wait => return Ok(()),
        Verdict::Done => return this.end(End::Sent, is_first),
        Verdict::Unavailable => unavailable()?,
        Verdict::Failed => raised_of(error),
        Verdict::Disconnected => disconnected(raised_of(error))?,
    };
    this.end(End::Failed(exc), is_first)
}

fn raised_of(error: Option<io::Error>) -> Ref {
    let error = error.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EIO));
    Raised::os_error(&error).take()
}

fn unavailable() -> R<Ref> {
    let message = string("os.sendfile call failed")?;
    import(c"asyncio.exceptions")?
        .obj()
        .getattr_str(c"SendfileNotAvailableError")?
        .obj()
        .call1(message.obj())
}

/// What a connection that went during a wait is told as, on every system.
fn disconnected(cause: Ref) -> R<Ref> {
    let message = string("socket is not connected")?;
    let errno = int(libc::ENOTCONN.into())?;
    let exc = builtin::connection_error().call(&[message.obj(), errno.obj()])?;
    exc.obj()
        .setattr(interned(c"__cause__")?.obj(), cause.obj())?;
    Ok(exc)
}

fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

impl Fields {
    /// Sends once. The outer error must leave the loop, the inner one is the kernel's; `EBADF` also
    /// says that a descriptor was closed behind our back.
    fn attempt(&self) -> R<io::Result<usize>> {
        let progress = self.progress.get();
        if progress.has_waited() && !self.has_file()? {
            return Ok(Err(gone()));
        }
        let socket_fd = match self.live_socket() {
            Ok(fd) => fd,
            Err(error) => return Ok(Err(error)),
        };
        let (file_fd, offset, len) = (self.file_fd, progress.offset(), progress.next_len());
        event_loop::poll_next_turn(&self.event_loop);
        // The file may have to be read from a disk meanwhile: other threads may run.
        Ok(park::detached(|| {
            // SAFETY: both numbers were seen at their owners a moment ago, on this thread; threads
            // that close what a loop is using are told not to, by asyncio too.
            let (socket, file) = unsafe {
                (
                    BorrowedFd::borrow_raw(socket_fd),
                    BorrowedFd::borrow_raw(file_fd),
                )
            };
            sys::send_file(socket, file, offset, len)
        }))
    }

    /// The number of the target's socket, if it still has it.
    fn live_socket(&self) -> io::Result<RawFd> {
        let number = |fd: BorrowedFd<'_>| Ok(fd.as_raw_fd());
        if !self.is_transport {
            return socket::with(&self.target, self.socket_fd, self.is_visible, number);
        }
        match self.target.get() {
            Some(transport) => {
                let transport = base::fields(transport.obj());
                transport.descriptor.with(&transport.socket, number)
            }
            None => Err(gone()),
        }
    }

    /// Whether the file still has the number it began with. *Errors*: only those that must leave
    /// the loop.
    fn has_file(&self) -> R<bool> {
        let Some(file) = self.file.get() else {
            return Ok(false);
        };
        let number = file
            .obj()
            .call_method0(state().names.fileno.obj())
            .and_then(|number| number.obj().to_i64());
        match number {
            Ok(number) => Ok(number == i64::from(self.file_fd)),
            Err(raised) if raised.is_exit() => Err(raised),
            Err(raised) => {
                drop(raised.take());
                Ok(false)
            }
        }
    }

    /// Waits for room from now on.
    fn watch(&self, sender: Obj<'_>) -> R<()> {
        let target = self.target.get_or_none();
        let stop = sender.getattr_str(c"_stop")?;
        self.future
            .get_or_none()
            .obj()
            .call_method1(state().names.add_done_callback.obj(), stop.obj())?;
        if self.is_transport {
            let transport = base::fields(target.obj());
            transport.seldom.make().sender.set(Some(sender.to_ref()));
            let step = transport.with(|stream| stream.handle_file(true));
            return stream::run(target.obj(), transport, step, none());
        }
        let event_loop = self.event_loop.get_or_none();
        let fd = int(self.socket_fd.into())?;
        let step = sender.getattr_str(c"_step")?;
        event_loop
            .obj()
            .call_method1(state().names._ensure_fd_no_transport.obj(), fd.obj())?;
        let handle = event_loop
            .obj()
            .getattr_str(c"_add_writer")?
            .obj()
            .call(&[fd.obj(), step.obj()])?;
        self.handle.set(Some(handle));
        Ok(())
    }

    /// Waits no longer. A watch that somebody replaced is theirs.
    fn unwatch(&self) -> R<()> {
        let Some(target) = self.target.get() else {
            return Ok(());
        };
        if self.is_transport {
            let transport = base::fields(target.obj());
            transport.seldom.make().sender.clear();
            let step = transport.with(|stream| stream.handle_file(false));
            return stream::run(target.obj(), transport, step, none());
        }
        let (handle, event_loop) = (self.handle.take(), self.event_loop.get_or_none());
        match (handle, event_loop::native(event_loop.obj())) {
            (Some(handle), Some(native)) if !handle::fields(handle.obj()).is_cancelled() => {
                native.unwatch(self.socket_fd, false).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Ends the sending, once: sets the file's position and tells the future. A position that
    /// cannot be set is raised if `is_first`, before anybody waits for the future.
    fn end(&self, end: End, is_first: bool) -> R<()> {
        let Some(future) = self.future.take() else {
            return Ok(());
        };
        let unwatched = self.unwatch();
        let seek = self.seek();
        self.clear();
        unwatched?;
        let end = match (seek?, end) {
            (Err(error), _) if is_first => return Err(Raised::os_error(&error)),
            (Err(error), End::Sent) => End::Failed(Raised::os_error(&error).take()),
            (_, end) => end,
        };
        let names = &state().names;
        let is_done = future.obj().call_method0(names.done.obj())?;
        if is_done.obj().is_true()? {
            return Ok(());
        }
        match end {
            End::Sent => {
                let sent = uint(self.progress.get().sent())?;
                future
                    .obj()
                    .call_method1(names.set_result.obj(), sent.obj())
            }
            End::Failed(exc) => future
                .obj()
                .call_method1(names.set_exception.obj(), exc.obj()),
        }
        .map(drop)
    }

    /// Moves the file's position behind what was sent. The inner error is the kernel's.
    fn seek(&self) -> R<io::Result<()>> {
        let progress = self.progress.get();
        let moves = self.seeks_always || progress.sent() > 0;
        if !moves || !self.has_file()? {
            return Ok(Ok(()));
        }
        // SAFETY: the file was just seen to have this number, and nothing ran since.
        let file = unsafe { BorrowedFd::borrow_raw(self.file_fd) };
        Ok(sys::seek_to(file, progress.offset()))
    }

    fn slots(&self) -> [&Slot; 5] {
        [
            &self.event_loop,
            &self.future,
            &self.file,
            &self.target,
            &self.handle,
        ]
    }

    fn clear(&self) {
        for slot in self.slots() {
            slot.clear();
        }
    }
}

// ---- the type -----------------------------------------------------------------------------------

fn allocate(content: Fields) -> R<Ref> {
    let class = state().types.file_sender.ptr().cast();
    // SAFETY: a ready type of ours.
    let object = unsafe { Ref::steal(c::PyType_GenericAlloc(class, 0)) }?;
    // SAFETY: fresh memory of the type's size; nobody has seen the object, and nothing that could
    // start a collection happened since it was allocated.
    unsafe {
        object
            .ptr()
            .cast::<u8>()
            .add(OFFSET)
            .cast::<Fields>()
            .write(content);
    }
    Ok(object)
}

unsafe extern "C" fn traverse(
    sender: *mut PyObject,
    visit: c::visitproc,
    arg: *mut std::ffi::c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let sender = unsafe { Obj::from_ptr(sender) };
    let mut visitor = Visitor::new(visit, arg);
    visitor.visit(sender.type_ptr().cast());
    for slot in fields(sender).slots() {
        visitor.slot(slot);
    }
    visitor.status()
}

unsafe extern "C" fn clear(sender: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    fields(unsafe { Obj::from_ptr(sender) }).clear();
    0
}

unsafe extern "C" fn dealloc(sender: *mut PyObject) {
    // SAFETY: an instance of ours with no references left, whose fields `allocate` wrote.
    unsafe {
        let class = c::Py_TYPE(sender);
        c::PyObject_GC_UnTrack(sender.cast());
        clear(sender);
        sender
            .cast::<u8>()
            .add(OFFSET)
            .cast::<Fields>()
            .drop_in_place();
        crate::future::free_instance(sender, class);
    }
}

/// Creates `FileSender`, which only `send_file` makes instances of.
pub fn build_type() -> R<Ref> {
    Class::new(c"aioxide.FileSender", OFFSET + size_of::<Fields>())
        .flags(c::Py_TPFLAGS_DISALLOW_INSTANTIATION)
        .slot(c::Py_tp_traverse, traverse as *mut _)
        .slot(c::Py_tp_clear, clear as *mut _)
        .slot(c::Py_tp_dealloc, dealloc as *mut _)
        .methods([
            noargs!(c"_step", step, c"Sends some: there is room."),
            onearg!(c"_stop", stop, c"Waits no longer: the future is done."),
        ])
        .build(None)
}
