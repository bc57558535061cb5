//! A backend without a kernel: streams in memory on a virtual clock, with seeded misfortune.
//!
//! May touch: its own memory and the virtual clock, which a wait moves as a kernel's sleep would.
//! Invariants: the same seed and calls give the same run; bytes arrive once, in order and unchanged
//! unless their stream is reset; a fault delays, splits or interrupts, but never loses: what a
//! stream is ready for is reported in the first wait that may sleep, and in a wait that may not
//! after at most [`DELAYED_WAITS_MAX`] others.
//!
//! Numbers stand for descriptors as the kernel's do: the lowest free one is given out next, and a
//! closed one leaves the registrations by itself. Each wait that would sleep forever with nothing
//! left to happen is an error, so a lost wake-up is found at once instead of hanging a test.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Backend, Event, Events, Interest, Readiness};
use crate::clock::Clock;
use crate::slab::Token;

/// How many waits in a row may keep an event back, when [`Faults::delay`] strikes.
pub const DELAYED_WAITS_MAX: u32 = 3;

/// The number that `EBADF` has on every Unix that has a kernel.
const EBADF: i32 = 9;

/// How often things go wrong, each in times out of a thousand.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Default)]
pub struct Faults {
    /// A receive or send takes fewer bytes than it could.
    pub short: u32,
    /// A receive or send says `WouldBlock` although it need not.
    pub would_block: u32,
    /// A wait is interrupted by a signal.
    pub interrupt: u32,
    /// A wait that may not sleep keeps an event for later.
    pub delay: u32,
    /// A wait reports a token whose registration is gone.
    pub stale: u32,
    /// A receive or send finds its stream reset by the peer.
    pub reset: u32,
}

impl Faults {
    /// Every fault now and then, but no resets: all bytes arrive.
    pub const FREQUENT: Self = Self {
        short: 300,
        would_block: 200,
        interrupt: 100,
        delay: 300,
        stale: 100,
        reset: 0,
    };
}

/// What the far end of a stream does at a given time.
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum Action {
    /// Sends these bytes, however full the stream is.
    Send(Vec<u8>),
    /// Sends no more: the near end reads the end of the stream.
    Finish,
    /// Resets the stream.
    Reset,
}

/// The simulated kernel; any thread, though a run is reproducible from one thread only.
#[derive(Debug)]
pub struct Sim {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    random: Random,
    faults: Faults,
    /// By descriptor number; `None` is a free number.
    ends: Vec<Option<End>>,
    registrations: BTreeMap<RawFd, Registration>,
    /// By time in nanoseconds and order of planning.
    plan: BTreeMap<(u64, u64), (RawFd, Action)>,
    planned: u64,
    /// Tokens of registrations that are gone, the latest last.
    gone: Vec<Token>,
    woken: bool,
}

/// One end of a stream.
#[derive(Debug)]
struct End {
    peer: RawFd,
    /// Bytes that have arrived and wait to be received.
    incoming: VecDeque<u8>,
    /// Bytes that may wait before the peer's sends would block.
    capacity: usize,
    /// The peer sends no more.
    is_finished: bool,
    is_reset: bool,
    /// This end sends no more.
    has_shut: bool,
}

#[derive(Debug)]
struct Registration {
    token: Token,
    interest: Interest,
    delayed_waits: u32,
}

impl Sim {
    /// A kernel without descriptors, on `clock`, which should be virtual: it is moved by waits.
    #[must_use]
    pub fn new(clock: Clock, seed: u64, faults: Faults) -> Self {
        Self {
            clock,
            state: Mutex::new(State {
                random: Random(seed),
                faults,
                ends: Vec::new(),
                registrations: BTreeMap::new(),
                plan: BTreeMap::new(),
                planned: 0,
                gone: Vec::new(),
                woken: false,
            }),
        }
    }

    /// Two connected ends; each holds `capacity` bytes (at least one) before sends would block.
    pub fn pair(&self, capacity: usize) -> (RawFd, RawFd) {
        let mut state = self.lock();
        let (first, second) = (state.open(capacity), state.open(capacity));
        if let Ok(end) = state.end(first) {
            end.peer = second;
        }
        if let Ok(end) = state.end(second) {
            end.peer = first;
        }
        (first, second)
    }

    /// Lets the far end of `fd` act `delay_ns` from now, seen from `fd`.
    pub fn plan(&self, fd: RawFd, delay_ns: u64, action: Action) {
        let at_ns = self.clock.now_ns().saturating_add(delay_ns);
        let mut state = self.lock();
        let order = state.planned;
        state.planned += 1;
        state.plan.insert((at_ns, order), (fd, action));
    }

    /// Receives into `buffer` as [`super::sys::recv`] does.
    ///
    /// # Errors
    /// `WouldBlock`, `ConnectionReset`, or `EBADF` for a free number.
    pub fn recv(&self, fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        state.act(self.clock.now_ns());
        state.strike(fd)?;
        let available = {
            let end = state.end(fd)?;
            if end.incoming.is_empty() && !end.is_finished && !buffer.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            end.incoming.len().min(buffer.len())
        };
        let len = state.shorten(available);
        let end = state.end(fd)?;
        for (place, byte) in buffer.iter_mut().zip(end.incoming.drain(..len)) {
            *place = byte;
        }
        Ok(len)
    }

    /// Sends from `bytes` as [`super::sys::send`] does.
    ///
    /// # Errors
    /// `WouldBlock`, `BrokenPipe`, `ConnectionReset`, or `EBADF` for a free number.
    pub fn send(&self, fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        state.act(self.clock.now_ns());
        state.strike(fd)?;
        let end = state.end(fd)?;
        let (peer, has_shut) = (end.peer, end.has_shut);
        let Ok(far) = state.end(peer) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        if has_shut {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let room = far.capacity.saturating_sub(far.incoming.len());
        if room == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = state.shorten(bytes.len().min(room));
        state.end(peer)?.incoming.extend(&bytes[..len]);
        Ok(len)
    }

    /// Sends no more from `fd`: its peer reads the end of the stream after what was sent.
    ///
    /// # Errors
    /// `EBADF` for a free number.
    pub fn finish(&self, fd: RawFd) -> io::Result<()> {
        let mut state = self.lock();
        let end = state.end(fd)?;
        end.has_shut = true;
        let peer = end.peer;
        if let Ok(far) = state.end(peer) {
            far.is_finished = true;
        }
        Ok(())
    }

    /// Closes `fd`: its registration is forgotten, its number is free. Unread bytes reset the peer.
    ///
    /// # Errors
    /// `EBADF` for a free number.
    pub fn close(&self, fd: RawFd) -> io::Result<()> {
        let mut state = self.lock();
        let (peer, is_unread) = {
            let end = state.end(fd)?;
            (end.peer, !end.incoming.is_empty())
        };
        state.forget(fd);
        if let Some(place) = slot_mut(&mut state.ends, fd) {
            *place = None;
        }
        state.plan.retain(|_, (planned, _)| *planned != fd);
        if let Ok(far) = state.end(peer) {
            far.is_finished = true;
            far.is_reset |= is_unread;
            // The number may be given out again: to this end it names nothing any more.
            far.peer = -1;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Sim {
    fn register(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let mut state = self.lock();
        state.end(fd)?;
        state.forget(fd);
        let registration = Registration {
            token,
            interest,
            delayed_waits: 0,
        };
        state.registrations.insert(fd, registration);
        Ok(())
    }

    fn reregister(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let mut state = self.lock();
        state.end(fd)?;
        match state.registrations.get_mut(&fd) {
            Some(registration) if registration.token == token => registration.interest = interest,
            _ => {
                drop(state);
                self.register(fd, token, interest)?;
            }
        }
        Ok(())
    }

    fn deregister(&self, fd: RawFd) -> io::Result<()> {
        self.lock().forget(fd);
        Ok(())
    }

    fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.begin_wait();
        let mut state = self.lock();
        let interrupt = state.faults.interrupt;
        if state.random.chance(interrupt) {
            events.interrupted = true;
            return Ok(());
        }
        let start_ns = self.clock.now_ns();
        let timeout_ns = timeout.map(|limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
        let end_ns = timeout_ns.map(|limit_ns| start_ns.saturating_add(limit_ns));
        let may_sleep = timeout_ns != Some(0);
        loop {
            let now_ns = self.clock.now_ns();
            state.act(now_ns);
            let has_ready = state.report(events, may_sleep);
            if has_ready || std::mem::take(&mut state.woken) && mark_woken(events) || !may_sleep {
                return Ok(());
            }
            // Sleep until the next thing happens, or the time is up.
            let next_ns = state.plan.keys().next().map(|(at_ns, _)| *at_ns);
            let Some(until_ns) = next_ns.into_iter().chain(end_ns).min() else {
                return Err(io::ErrorKind::Deadlock.into());
            };
            self.clock.advance(until_ns.saturating_sub(now_ns));
            if end_ns.is_some_and(|end_ns| end_ns <= until_ns) {
                state.act(until_ns);
                state.report(events, may_sleep);
                return Ok(());
            }
        }
    }

    fn wake(&self) -> io::Result<()> {
        self.lock().woken = true;
        Ok(())
    }
}

fn mark_woken(events: &mut Events) -> bool {
    events.woken = true;
    true
}

fn slot_mut(ends: &mut [Option<End>], fd: RawFd) -> Option<&mut Option<End>> {
    ends.get_mut(usize::try_from(fd).ok()?)
}

impl State {
    /// Gives out the lowest free number.
    fn open(&mut self, capacity: usize) -> RawFd {
        let end = End {
            peer: -1,
            incoming: VecDeque::new(),
            capacity: capacity.max(1),
            is_finished: false,
            is_reset: false,
            has_shut: false,
        };
        match self.ends.iter().position(Option::is_none) {
            Some(index) => {
                self.ends[index] = Some(end);
                index as RawFd
            }
            None => {
                self.ends.push(Some(end));
                self.ends.len() as RawFd - 1
            }
        }
    }

    fn end(&mut self, fd: RawFd) -> io::Result<&mut End> {
        slot_mut(&mut self.ends, fd)
            .and_then(Option::as_mut)
            .ok_or_else(|| io::Error::from_raw_os_error(EBADF))
    }

    /// Forgets a registration and remembers its token, to report it once more out of spite.
    fn forget(&mut self, fd: RawFd) {
        if let Some(registration) = self.registrations.remove(&fd) {
            self.gone.push(registration.token);
        }
    }

    /// Carries out what was planned up to `now_ns`.
    fn act(&mut self, now_ns: u64) {
        while let Some(planned) = self.plan.first_entry() {
            if planned.key().0 > now_ns {
                break;
            }
            let (fd, action) = planned.remove();
            let Ok(end) = self.end(fd) else {
                continue;
            };
            match action {
                Action::Send(bytes) => end.incoming.extend(bytes),
                Action::Finish => end.is_finished = true,
                Action::Reset => end.is_reset = true,
            }
        }
    }

    /// The faults that a receive or send meets before it does anything.
    fn strike(&mut self, fd: RawFd) -> io::Result<()> {
        let Faults {
            reset, would_block, ..
        } = self.faults;
        let (is_reset_now, is_blocked) =
            (self.random.chance(reset), self.random.chance(would_block));
        let end = self.end(fd)?;
        end.is_reset |= is_reset_now;
        if end.is_reset {
            end.incoming.clear();
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if is_blocked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    }

    /// Some length from one to `len`, most often `len`.
    fn shorten(&mut self, len: usize) -> usize {
        let short = self.faults.short;
        if len > 1 && self.random.chance(short) {
            1 + self.random.below(len as u64 - 1) as usize
        } else {
            len
        }
    }

    /// Puts everything that is ready into `events`, in any order; returns whether there is any.
    fn report(&mut self, events: &mut Events, may_sleep: bool) -> bool {
        let ends = &self.ends;
        let faults = self.faults;
        for (&fd, registration) in &mut self.registrations {
            let readiness = readiness(ends, fd, registration.interest);
            if readiness.is_none() || events.list.len() >= events.capacity {
                continue;
            }
            let is_delayed = !may_sleep
                && registration.delayed_waits < DELAYED_WAITS_MAX
                && self.random.chance(faults.delay);
            if is_delayed {
                registration.delayed_waits += 1;
                continue;
            }
            registration.delayed_waits = 0;
            let token = registration.token;
            events.list.push(Event { token, readiness });
        }
        let has_ready = !events.list.is_empty();
        if self.random.chance(faults.stale) {
            if let Some(&token) = self.gone.last() {
                let readiness = Readiness::READABLE.with(Readiness::HANGUP);
                events.list.push(Event { token, readiness });
            }
        }
        for index in (1..events.list.len()).rev() {
            let other = self.random.below(index as u64 + 1) as usize;
            events.list.swap(index, other);
        }
        has_ready
    }
}

/// What `fd` is ready for, out of what is asked for and what is always told.
fn readiness(ends: &[Option<End>], fd: RawFd, interest: Interest) -> Readiness {
    let find = |fd: RawFd| {
        usize::try_from(fd)
            .ok()
            .and_then(|fd| ends.get(fd)?.as_ref())
    };
    let Some(end) = find(fd) else {
        return Readiness::NONE;
    };
    let has_room = find(end.peer).is_none_or(|far| far.incoming.len() < far.capacity);
    let can_read = !end.incoming.is_empty() || end.is_finished || end.is_reset;
    let mut readiness = Readiness::NONE;
    if interest.is_readable() && can_read {
        readiness = readiness.with(Readiness::READABLE);
    }
    if interest.is_writable() && (has_room || end.is_reset) {
        readiness = readiness.with(Readiness::WRITABLE);
    }
    if end.is_reset {
        readiness = readiness.with(Readiness::ERROR);
    }
    if end.is_reset || end.is_finished && end.has_shut {
        readiness = readiness.with(Readiness::HANGUP);
    }
    readiness
}

/// SplitMix64: small, seeded, good enough to choose faults. *Source*: Steele, Lea and Flood 2014.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `limit`, which is not zero.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True in `permille` times out of a thousand.
    fn chance(&mut self, permille: u32) -> bool {
        permille != 0 && self.below(1000) < u64::from(permille)
    }
}

#[cfg(test)]
mod tests;
