//! File descriptors: `add_reader` and its sisters, and the registrations of native transports.
//!
//! May touch: the backend and the table of registrations. Invariants: a descriptor has at most one
//! registration; the table changes only after the backend agreed, so a refused descriptor leaves
//! everything as it was; a handle that is replaced or removed is cancelled, outside any borrow; an
//! operation that is replaced or removed is forgotten, and its future stays as it is.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use aioxide_core::backend::{Backend, Interest, Readiness, sys};
use aioxide_core::slab::Token;

use super::watched::{Watch, Watcher};
use super::{Entry, LoopFields, OnReady, Registration, fields};
use crate::ffi::args::unexpected_keyword;
use crate::ffi::object::{boolean, none, none_ref};
use crate::ffi::{Args, Obj, R, Raised, Ref, Signature};
use crate::handle::{self, Callback};
use crate::state::state;

fn os_error(error: std::io::Error) -> Raised {
    Raised::os_error(&error)
}

impl LoopFields {
    pub(super) fn token_of(&self, fd: RawFd) -> Option<Token> {
        let index = usize::try_from(fd).ok()?;
        self.by_fd.borrow().get(index).copied().flatten()
    }

    fn set_token(&self, fd: RawFd, token: Option<Token>) {
        let Ok(index) = usize::try_from(fd) else {
            return;
        };
        let mut by_fd = self.by_fd.borrow_mut();
        if by_fd.len() <= index {
            by_fd.resize(index + 1, None);
        }
        by_fd[index] = token;
    }

    pub(super) fn insert(&self, registration: Registration) -> R<Token> {
        let (fd, interest) = (registration.fd(), registration.interest());
        let backend = self.backend()?;
        self.poll_next_turn();
        let token = self.turn.borrow_mut().registrations.insert(registration);
        if let Err(error) = backend.register(fd, token, interest) {
            let refused = self.turn.borrow_mut().registrations.remove(token);
            drop(refused);
            return Err(os_error(error));
        }
        self.set_token(fd, Some(token));
        Ok(token)
    }

    fn remove(&self, token: Token) -> R<()> {
        let removed = self.turn.borrow_mut().registrations.remove(token);
        let Some(removed) = removed else {
            return Ok(());
        };
        let fd = removed.fd();
        if self.token_of(fd) == Some(token) {
            self.set_token(fd, None);
        }
        let backend = self.backend.borrow().clone();
        let forgotten = match backend {
            Some(backend) => backend.deregister(fd).map_err(os_error),
            None => Ok(()),
        };
        if let Registration::Watch(watch) = removed {
            cancel_watcher(watch.reader)?;
            cancel_watcher(watch.writer)?;
        }
        forgotten
    }

    /// Drops the record of a descriptor that is no more what it was, without a word to the kernel,
    /// which has forgotten a closed file by itself.
    pub(super) fn forget(&self, token: Token) {
        let removed = self.turn.borrow_mut().registrations.remove(token);
        if let Some(fd) = removed.as_ref().map(Registration::fd) {
            self.set_token(fd, None);
        }
        drop(removed);
    }

    /// What is watched under this token, changed by `body`.
    pub(super) fn with_watch<T>(
        &self,
        token: Token,
        body: impl FnOnce(&mut Watch) -> T,
    ) -> Option<T> {
        match self.turn.borrow_mut().registrations.get_mut(token) {
            Some(Registration::Watch(watch)) => Some(body(watch)),
            _ => None,
        }
    }

    /// Has the kernel report what somebody waits for, and no more. One that knows nothing of the
    /// descriptor any more needs no telling.
    pub(super) fn settle(&self, token: Token) -> R<()> {
        let state = self.with_watch(token, |watch| {
            let (armed, wanted) = (watch.armed, watch.wanted());
            watch.armed = wanted;
            (watch.fd, armed, wanted)
        });
        match state {
            None => Ok(()),
            Some((_, _, wanted)) if wanted.is_none() => self.remove(token),
            Some((_, armed, wanted)) if armed == wanted => Ok(()),
            Some((fd, _, wanted)) => self.rearm(token, fd, wanted),
        }
    }

    /// Has the kernel report `interest`, which its record says already; none ends the record.
    pub(super) fn rearm(&self, token: Token, fd: RawFd, interest: Interest) -> R<()> {
        if interest.is_none() {
            return self.remove(token);
        }
        self.poll_next_turn();
        match self.backend()?.confirm(fd, token, interest) {
            Err(error) if !sys::is_gone(&error) => Err(os_error(error)),
            _ => Ok(()),
        }
    }

    /// Drops the records of descriptors that nobody waits for.
    pub(super) fn forget_unwanted(&self) {
        let mut unwanted = Vec::new();
        for (token, registration) in self.turn.borrow().registrations.iter() {
            if matches!(registration, Registration::Watch(watch) if watch.wanted().is_none()) {
                unwanted.push(token);
            }
        }
        for token in unwanted {
            self.forget(token);
        }
    }

    /// Registers a native transport or listener. `interest` may be none: then only errors and
    /// hang-ups are reported.
    pub fn register_native(
        &self,
        fd: RawFd,
        interest: Interest,
        object: Ref,
        on_ready: OnReady,
    ) -> R<Token> {
        if let Some(stale) = self.token_of(fd) {
            // The number was closed behind the loop's back and is in use again.
            self.remove(stale)?;
        }
        self.insert(Registration::Native {
            fd,
            interest,
            object,
            on_ready,
        })
    }

    /// Changes what a native registration waits for.
    pub fn rearm_native(&self, token: Token, wanted: Interest) -> R<()> {
        let fd = match self.turn.borrow_mut().registrations.get_mut(token) {
            Some(Registration::Native { fd, interest, .. }) if *interest != wanted => {
                *interest = wanted;
                *fd
            }
            _ => return Ok(()),
        };
        self.poll_next_turn();
        self.backend()?
            .reregister(fd, token, wanted)
            .map_err(os_error)
    }

    /// Removes a native registration. Does nothing for a stale token.
    pub fn deregister_native(&self, token: Token) -> R<()> {
        self.remove(token)
    }

    /// Has the owner of `token` told of `readiness` in the next turn, as if the backend had.
    pub fn report(&self, token: Token, readiness: Readiness) {
        self.push(Entry::Io(token, readiness));
    }

    /// The native transport or listener registered for `fd`.
    pub fn native_object(&self, fd: RawFd) -> Option<Ref> {
        // Not the registrations: a transport that reads and writes nothing has none.
        self.transports().transport(fd)
    }

    /// The descriptor under which a file object that was closed meanwhile is still watched.
    fn watched_fd(&self, object: Obj<'_>) -> R<Option<RawFd>> {
        if object.is_int() || matches!(file_number(object), Ok(number) if number >= 0) {
            return Ok(None);
        }
        // Its number is gone, so only identity can find it.
        let turn = self.turn.borrow();
        let found = turn
            .registrations
            .iter()
            .find_map(|(_, registration)| match registration {
                Registration::Watch(watch) => {
                    let file = watch.file.as_ref()?;
                    file.obj().is(object).then_some(watch.fd)
                }
                Registration::Native { .. } => None,
            });
        Ok(found)
    }

    fn watch(&self, fd: RawFd, object: Obj<'_>, new: Ref, reads: bool) -> R<()> {
        let Some(token) = self.token_of(fd) else {
            let mut watch = Watch::new(fd);
            watch.file = (!object.is_int()).then(|| object.to_ref());
            return self
                .begin_watch(watch, Watcher::Handle(new), reads)
                .map(drop);
        };
        self.add_watcher(token, Watcher::Handle(new), reads, None)
    }

    /// Registers a descriptor that nobody watches yet.
    pub(super) fn begin_watch(&self, mut watch: Watch, watcher: Watcher, reads: bool) -> R<Token> {
        *watch.place(reads) = Some(watcher);
        watch.armed = watch.wanted();
        self.insert(Registration::Watch(Box::new(watch)))
    }

    /// Puts a watcher into its place beside the other one; who is there is cancelled. The kernel is
    /// asked in any case, since the number may have become another file's. `identity` names the
    /// socket that the descriptor is then known to be of.
    pub(super) fn add_watcher(
        &self,
        token: Token,
        watcher: Watcher,
        reads: bool,
        identity: Option<Ref>,
    ) -> R<()> {
        let added = if reads {
            Interest::READABLE
        } else {
            Interest::WRITABLE
        };
        let known = self.with_watch(token, |watch| {
            let kept = match identity {
                Some(_) => watch.worth_arming(),
                None => watch.wanted(),
            };
            (watch.fd, kept.with(added))
        });
        let Some((fd, wanted)) = known else {
            return Err(Raised::runtime(
                "a native transport uses this file descriptor",
            ));
        };
        self.backend()?
            .reregister(fd, token, wanted)
            .map_err(os_error)?;
        let mut old = (Some(watcher), identity);
        self.with_watch(token, |watch| {
            watch.armed = wanted;
            std::mem::swap(watch.place(reads), &mut old.0);
            std::mem::swap(&mut watch.identity, &mut old.1);
        });
        drop(old.1);
        cancel_watcher(old.0)
    }

    /// Has `callback` run when `fd` is readable, or writable, for a transport: as `add_reader` and
    /// `add_writer` do, so the two directions may have different owners.
    pub fn watch_for(&self, fd: RawFd, callback: &Callback<'_>, reads: bool) -> R<Ref> {
        self.check_open()?;
        let handle = self.new_handle(callback)?;
        let number = crate::ffi::call::int(fd.into())?;
        self.watch(fd, number.obj(), handle.clone(), reads)?;
        Ok(handle)
    }

    /// Ends what `watch_for` began. Whoever has the place by now keeps it.
    pub fn unwatch_for(&self, fd: RawFd, handle: Obj<'_>, reads: bool) -> R<()> {
        let is_ours = self.token_of(fd).is_some_and(|token| {
            let found = self.with_watch(token, |watch| match watch.place(reads) {
                Some(Watcher::Handle(found)) => found.obj().is(handle),
                _ => false,
            });
            found == Some(true)
        });
        if is_ours {
            return self.unwatch(fd, reads).map(drop);
        }
        handle::cancel(handle).map(drop)
    }

    /// Removes a reader or writer; false if there was none.
    pub fn unwatch(&self, fd: RawFd, reads: bool) -> R<bool> {
        let Some(token) = self.token_of(fd) else {
            return Ok(false);
        };
        let taken = self.with_watch(token, |watch| {
            let old = watch.place(reads).take();
            if old.is_some() {
                watch.armed = watch.wanted();
            }
            (old, watch.armed)
        });
        let Some((Some(old), wanted)) = taken else {
            return Ok(false);
        };
        let changed = if wanted.is_none() {
            self.remove(token)
        } else {
            self.backend()?
                .reregister(fd, token, wanted)
                .map_err(os_error)
        };
        cancel_watcher(Some(old))?;
        changed.map(|()| true)
    }
}

fn cancel_watcher(watcher: Option<Watcher>) -> R<()> {
    match watcher {
        Some(Watcher::Handle(handle)) => handle::cancel(handle.obj()).map(drop),
        Some(Watcher::Operation(_)) | None => Ok(()),
    }
}

/// The number of a descriptor, or of an object with `fileno()`. *Source*:
/// `selectors._fileobj_to_fd`.
pub fn fd_of(file: Obj<'_>) -> R<RawFd> {
    let number = if file.is_int() {
        file.to_i64()?
    } else {
        file_number(file)?
    };
    match RawFd::try_from(number) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(Raised::value_error(&format!(
            "Invalid file descriptor: {number}"
        ))),
    }
}

fn file_number(file: Obj<'_>) -> R<i64> {
    let number = file
        .call_method0(state().names.fileno.obj())
        .and_then(|number| {
            if number.obj().is_int() {
                number.obj().to_i64()
            } else {
                Ok(-2)
            }
        });
    match number {
        Ok(-2) => Err(invalid_file(file)),
        Ok(number) => Ok(number),
        Err(raised) if raised.is_exit() => Err(raised),
        Err(raised) => {
            drop(raised.take());
            Err(invalid_file(file))
        }
    }
}

fn invalid_file(file: Obj<'_>) -> Raised {
    match file.repr() {
        Ok(repr) => Raised::value_error(&format!("Invalid file object: {repr}")),
        Err(raised) => raised,
    }
}

fn add(event_loop: Obj<'_>, args: &Args<'_>, reads: bool, checked: bool) -> R<Ref> {
    let this = fields(event_loop);
    let [file, function, rest @ ..] = args.positional() else {
        let method = if reads { "add_reader" } else { "add_writer" };
        return Err(Raised::type_error(&format!(
            "{method}() missing required positional arguments"
        )));
    };
    let ([context], unknown) = args.keyword(["context"])?;
    if let Some((name, _)) = unknown.first() {
        let method = if reads { "add_reader" } else { "add_writer" };
        return Err(unexpected_keyword(method, *name));
    }
    if checked {
        check_no_transport(event_loop, *file)?;
    }
    this.check_open()?;
    let fd = fd_of(*file)?;
    let callback = Callback {
        function: *function,
        args: rest,
        context,
    };
    let handle = this.new_handle(&callback)?;
    this.watch(fd, *file, handle.clone(), reads)?;
    Ok(handle)
}

fn remove(event_loop: Obj<'_>, file: Obj<'_>, reads: bool, checked: bool) -> R<Ref> {
    let this = fields(event_loop);
    if checked {
        check_no_transport(event_loop, file)?;
    }
    if this.is_closed() {
        return Ok(boolean(false));
    }
    let fd = match this.watched_fd(file)? {
        Some(fd) => fd,
        None => fd_of(file)?,
    };
    this.unwatch(fd, reads).map(boolean)
}

fn check_no_transport(event_loop: Obj<'_>, file: Obj<'_>) -> R<()> {
    event_loop
        .call_method1(state().names._ensure_fd_no_transport.obj(), file)
        .map(drop)
}

/// `loop.add_reader(fd, callback, *args)`.
pub fn add_reader(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    add(event_loop, &args, true, true).map(|_| none_ref())
}

/// `loop.add_writer(fd, callback, *args)`.
pub fn add_writer(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    add(event_loop, &args, false, true).map(|_| none_ref())
}

const REMOVE: Signature = Signature {
    name: "remove_reader",
    params: &["fd"],
    positional: 1,
    required: 1,
};

/// `loop.remove_reader(fd)`: whether there was one.
pub fn remove_reader(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [file] = args.bind::<1>(&REMOVE)?;
    remove(event_loop, file.unwrap_or(none()), true, true)
}

/// `loop.remove_writer(fd)`: whether there was one.
pub fn remove_writer(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    let [file] = args.bind::<1>(&REMOVE)?;
    remove(event_loop, file.unwrap_or(none()), false, true)
}

/// `loop._add_reader`: without the check for transports; returns the handle.
pub fn add_reader_unchecked(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    add(event_loop, &args, true, false)
}

/// `loop._add_writer`: as `_add_reader`.
pub fn add_writer_unchecked(event_loop: Obj<'_>, args: Args<'_>) -> R<Ref> {
    add(event_loop, &args, false, false)
}

/// `loop._remove_reader`: without the check for transports.
pub fn remove_reader_unchecked(event_loop: Obj<'_>, file: Obj<'_>) -> R<Ref> {
    remove(event_loop, file, true, false)
}

/// `loop._remove_writer`: without the check for transports.
pub fn remove_writer_unchecked(event_loop: Obj<'_>, file: Obj<'_>) -> R<Ref> {
    remove(event_loop, file, false, false)
}

/// `loop._native_transport(fd)`: the native transport that uses the descriptor, or None.
pub fn native_transport(event_loop: Obj<'_>, file: Obj<'_>) -> R<Ref> {
    Ok(fields(event_loop)
        .native_object(fd_of(file)?)
        .unwrap_or_else(none_ref))
}

/// `loop._sock_settle(fd)`: the kernel reports what somebody waits for, and no more.
pub fn settle_fd(event_loop: Obj<'_>, file: Obj<'_>) -> R<Ref> {
    let this = fields(event_loop);
    if let Some(token) = this.token_of(fd_of(file)?) {
        this.settle(token)?;
    }
    Ok(none_ref())
}
