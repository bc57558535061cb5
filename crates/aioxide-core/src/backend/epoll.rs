//! The backend of Linux: one epoll instance, level-triggered, and an eventfd to wake it.
//!
//! May touch: `sys`. Invariants: the waker's eventfd is registered under `Token::RESERVED` from
//! construction to drop and its events never leave this file; every failure that only says "you
//! and the kernel disagree about this number" is repaired here, because descriptors are closed
//! behind a loop's back all the time (a closed descriptor leaves epoll by itself, a duplicated one
//! stays, a reused number is a new registration). *Source*: `epoll(7)`, questions and answers.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::sys::{self, EpollChange};
use super::{Backend, Event, Events, Interest, Readiness};
use crate::slab::Token;

/// An epoll instance with its waker; owns both descriptors.
#[derive(Debug)]
pub struct Epoll {
    epoll: OwnedFd,
    waker: OwnedFd,
    /// False once the kernel has refused nanosecond timeouts (before 5.11, or a filter).
    has_ns_timeout: AtomicBool,
}

impl Epoll {
    /// A new instance.
    ///
    /// # Errors
    /// The kernel's: `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new() -> io::Result<Self> {
        let epoll = sys::epoll_create()?;
        let waker = sys::eventfd()?;
        sys::epoll_change(
            epoll.as_fd(),
            EpollChange::Add,
            waker.as_raw_fd(),
            sys::EPOLL_READABLE,
            Token::RESERVED.to_u64(),
        )?;
        Ok(Self {
            epoll,
            waker,
            has_ns_timeout: AtomicBool::new(true),
        })
    }

    /// The number of the epoll descriptor itself, which stays this backend's.
    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Starts anew with the registrations `live`, under the same number.
    ///
    /// A descriptor that was closed while a duplicate of it lives stays in the instance, reports
    /// for ever, and cannot be named any more: only a new instance is rid of it. Numbers that are
    /// refused (closed meanwhile) are left out.
    ///
    /// # Errors
    /// The kernel's: `EMFILE`, `ENFILE`, `ENOMEM`; the old instance is still in force then.
    pub fn renew(&self, live: impl Iterator<Item = (RawFd, Token, Interest)>) -> io::Result<()> {
        let fresh = sys::epoll_create()?;
        let waker = (self.waker.as_raw_fd(), sys::EPOLL_READABLE, Token::RESERVED);
        let live = live.map(|(fd, token, interest)| (fd, mask_of(interest), token));
        for (fd, mask, token) in std::iter::once(waker).chain(live) {
            let change = EpollChange::Add;
            match sys::epoll_change(fresh.as_fd(), change, fd, mask, token.to_u64()) {
                Err(error) if !sys::is_gone(&error) => return Err(error),
                _ => {}
            }
        }
        sys::replace(self.epoll.as_fd(), fresh.as_fd())
    }

    /// Changes token and interest of `fd`, which must be known still.
    ///
    /// # Errors
    /// `ENOENT` if it is not: the number was closed, and is another file's now; `EBADF` if it is
    /// nobody's.
    pub fn confirm(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.change(EpollChange::Modify, fd, token, interest)
    }

    fn change(
        &self,
        change: EpollChange,
        fd: RawFd,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        let mask = mask_of(interest);
        sys::epoll_change(self.epoll.as_fd(), change, fd, mask, token.to_u64())
    }

    /// One wait of the kernel's; the finer timeout where the kernel has it.
    fn wait_kernel(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        let (epoll, raw, capacity) = (self.epoll.as_fd(), &mut events.raw, events.capacity);
        let Some(limit) = timeout.filter(|limit| !limit.is_zero()) else {
            let timeout_ms = if timeout.is_some() { 0 } else { -1 };
            return sys::epoll_wait_ms(epoll, raw, capacity, timeout_ms);
        };
        if self.has_ns_timeout.load(Ordering::Relaxed) {
            match sys::epoll_wait_ns(epoll, raw, capacity, limit) {
                Err(error) if sys::is_unsupported(&error) => {
                    self.has_ns_timeout.store(false, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        sys::epoll_wait_ms(epoll, raw, capacity, round_up_ms(limit))
    }
}

impl Backend for Epoll {
    fn register(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        match self.change(EpollChange::Add, fd, token, interest) {
            Err(error) if sys::is_already_registered(&error) => {
                self.change(EpollChange::Modify, fd, token, interest)
            }
            result => result,
        }
    }

    fn reregister(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        match self.change(EpollChange::Modify, fd, token, interest) {
            Err(error) if sys::is_not_registered(&error) => {
                self.change(EpollChange::Add, fd, token, interest)
            }
            result => result,
        }
    }

    fn deregister(&self, fd: RawFd) -> io::Result<()> {
        match self.change(EpollChange::Delete, fd, Token::RESERVED, Interest::NONE) {
            Err(error) if sys::is_gone(&error) => Ok(()),
            result => result,
        }
    }

    fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.begin_wait();
        if let Err(error) = self.wait_kernel(events, timeout) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
            events.interrupted = true;
            return Ok(());
        }
        for (mask, data) in events.raw.iter() {
            let token = Token::from_u64(data);
            if token == Token::RESERVED {
                events.woken = true;
            } else {
                let readiness = readiness_of(mask);
                events.list.push(Event { token, readiness });
            }
        }
        events.fair.arrange(&mut events.list);
        if events.woken {
            sys::eventfd_reset(self.waker.as_fd())?;
        }
        Ok(())
    }

    fn wake(&self) -> io::Result<()> {
        sys::eventfd_set(self.waker.as_fd())
    }
}

/// The kernel's mask of an interest.
fn mask_of(interest: Interest) -> u32 {
    let mut mask = 0;
    if interest.is_readable() {
        mask |= sys::EPOLL_READABLE;
    }
    if interest.is_writable() {
        mask |= sys::EPOLL_WRITABLE;
    }
    mask
}

/// The readiness that a mask of the kernel's tells.
fn readiness_of(mask: u32) -> Readiness {
    [
        (sys::EPOLL_READABLE, Readiness::READABLE),
        (sys::EPOLL_WRITABLE, Readiness::WRITABLE),
        (sys::EPOLL_ERROR, Readiness::ERROR),
        (sys::EPOLL_HANGUP, Readiness::HANGUP),
    ]
    .into_iter()
    .filter(|(bit, _)| mask & bit != 0)
    .fold(Readiness::NONE, |all, (_, readiness)| all.with(readiness))
}

/// Whole milliseconds, upwards: a wait that ended early would find its timer not due and spin.
fn round_up_ms(limit: Duration) -> i32 {
    let ms = limit.as_nanos().div_ceil(1_000_000);
    i32::try_from(ms).unwrap_or(i32::MAX)
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::backend::EVENTS_MIN;
    use crate::slab::Slab;

    const NO_WAIT: Option<Duration> = Some(Duration::ZERO);

    fn tokens(count: usize) -> Vec<Token> {
        let mut slab = Slab::new();
        (0..count).map(|_| slab.insert(())).collect()
    }

    fn poll(backend: &Epoll) -> Vec<Event> {
        let mut events = Events::new();
        backend.wait(&mut events, NO_WAIT).expect("a wait");
        assert!(!events.woken() && !events.interrupted());
        events.iter().collect()
    }

    fn event(token: Token, readiness: Readiness) -> Event {
        Event { token, readiness }
    }

    #[test]
    fn reports_as_long_as_it_is_so_and_only_what_is_asked() {
        let backend = Epoll::new().expect("descriptors");
        let [one, two] = tokens(2)[..] else { panic!() };
        let (mut near, mut far) = UnixStream::pair().expect("a pair");
        backend
            .register(near.as_raw_fd(), one, Interest::READABLE)
            .expect("new");
        assert_eq!(poll(&backend), []);
        far.write_all(b"x").expect("room");
        for _ in 0..2 {
            assert_eq!(poll(&backend), [event(one, Readiness::READABLE)]);
        }
        backend
            .reregister(near.as_raw_fd(), two, Interest::BOTH)
            .expect("known");
        let both = Readiness::READABLE.with(Readiness::WRITABLE);
        assert_eq!(poll(&backend), [event(two, both)]);
        near.read_exact(&mut [0]).expect("one byte");
        assert_eq!(poll(&backend), [event(two, Readiness::WRITABLE)]);
        backend
            .reregister(near.as_raw_fd(), two, Interest::NONE)
            .expect("known");
        assert_eq!(poll(&backend), []);
        drop(far);
        let [report] = poll(&backend)[..] else {
            panic!()
        };
        assert!(report.readiness.is_hangup(), "told without being asked for");
        backend.deregister(near.as_raw_fd()).expect("known");
        assert_eq!(poll(&backend), []);
    }

    #[test]
    fn a_number_the_kernel_knows_better_is_repaired() {
        let backend = Epoll::new().expect("descriptors");
        let [one, two, three] = tokens(3)[..] else {
            panic!()
        };
        let (near, far) = UnixStream::pair().expect("a pair");
        let number = near.as_raw_fd();
        // Registered twice: changed.
        backend
            .register(number, one, Interest::READABLE)
            .expect("new");
        backend
            .register(number, two, Interest::WRITABLE)
            .expect("known");
        assert_eq!(poll(&backend), [event(two, Readiness::WRITABLE)]);
        // Changed though forgotten: registered.
        backend.deregister(number).expect("known");
        backend
            .reregister(number, three, Interest::WRITABLE)
            .expect("forgotten");
        assert_eq!(poll(&backend), [event(three, Readiness::WRITABLE)]);
        // Forgotten twice, or closed meanwhile, or never valid: forgotten.
        backend.deregister(number).expect("known");
        backend.deregister(number).expect("forgotten");
        backend
            .register(number, one, Interest::READABLE)
            .expect("new");
        drop(near);
        backend.deregister(number).expect("closed");
        backend.deregister(-1).expect("no number");
        drop(far);
        assert_eq!(poll(&backend), []);
    }

    #[test]
    fn a_closed_descriptor_with_a_living_duplicate_goes_by_starting_anew() {
        let backend = Epoll::new().expect("descriptors");
        let [one, two, three] = tokens(3)[..] else {
            panic!()
        };
        let (near, mut far) = UnixStream::pair().expect("a pair");
        let (other, mut third) = UnixStream::pair().expect("a pair");
        let duplicate = near.try_clone().expect("a duplicate");
        let number = near.as_raw_fd();
        for (fd, token) in [(number, one), (other.as_raw_fd(), two)] {
            backend
                .register(fd, token, Interest::READABLE)
                .expect("new");
        }
        far.write_all(b"x").expect("room");
        drop(near);
        backend.deregister(number).expect("closed");
        assert_eq!(poll(&backend), [event(one, Readiness::READABLE)], "still");
        let live = [
            (other.as_raw_fd(), two, Interest::READABLE),
            (-1, three, Interest::READABLE),
        ];
        let epoll = backend.raw_fd();
        backend.renew(live.into_iter()).expect("descriptors");
        assert_eq!((backend.raw_fd(), poll(&backend)), (epoll, vec![]));
        third.write_all(b"x").expect("room");
        assert_eq!(poll(&backend), [event(two, Readiness::READABLE)]);
        backend.wake().expect("set");
        let mut events = Events::new();
        backend.wait(&mut events, NO_WAIT).expect("a wait");
        assert!(events.woken(), "the waker came along");
        drop(duplicate);
    }

    #[test]
    fn a_closed_number_and_a_regular_file_are_refused() {
        let backend = Epoll::new().expect("descriptors");
        let token = tokens(1)[0];
        let file = std::fs::File::open("/proc/self/exe").expect("this program");
        let refused = |result: io::Result<()>| result.expect_err("refused").raw_os_error();
        let register = backend.register(file.as_raw_fd(), token, Interest::READABLE);
        assert_eq!(refused(register), Some(libc::EPERM));
        backend
            .deregister(file.as_raw_fd())
            .expect("nothing to forget");
        for result in [
            backend.register(-1, token, Interest::READABLE),
            backend.reregister(-1, token, Interest::READABLE),
        ] {
            assert_eq!(refused(result), Some(libc::EBADF));
        }
    }

    #[test]
    fn a_wake_ends_one_wait_and_is_no_event() {
        let backend = Epoll::new().expect("descriptors");
        let mut events = Events::new();
        std::thread::scope(|scope| {
            scope.spawn(|| backend.wake().expect("set"));
            backend.wait(&mut events, None).expect("woken");
        });
        assert!(events.woken() && events.is_empty());
        backend.wake().expect("set");
        backend.wake().expect("set already");
        backend.wait(&mut events, NO_WAIT).expect("woken");
        assert!(events.woken());
        assert_eq!(poll(&backend), []);
    }

    #[test]
    fn more_events_than_fit_come_later_and_the_room_grows() {
        let backend = Epoll::new().expect("descriptors");
        let pairs: Vec<_> = (0..EVENTS_MIN + 50)
            .map(|_| UnixStream::pair().expect("a pair"))
            .collect();
        let tokens = tokens(pairs.len());
        for ((near, _far), token) in pairs.iter().zip(&tokens) {
            backend
                .register(near.as_raw_fd(), *token, Interest::WRITABLE)
                .expect("new");
        }
        let mut events = Events::new();
        backend.wait(&mut events, NO_WAIT).expect("a wait");
        assert_eq!(events.len(), EVENTS_MIN);
        let first: Vec<Token> = events.iter().map(|event| event.token).collect();
        backend.wait(&mut events, NO_WAIT).expect("a wait");
        assert_eq!(events.len(), pairs.len(), "twice the room holds all");
        let late = events.iter().filter(|event| !first.contains(&event.token));
        assert_eq!(late.count(), 50);
        assert_eq!(events.get(0), events.iter().next());
        assert_eq!(events.get(pairs.len()), None);
    }

    #[test]
    fn what_the_last_wait_did_not_report_comes_first() {
        let backend = Epoll::new().expect("descriptors");
        let pairs = [(); 3].map(|()| UnixStream::pair().expect("a pair"));
        let tokens = tokens(pairs.len());
        for ((near, _far), token) in pairs.iter().zip(&tokens) {
            backend
                .register(near.as_raw_fd(), *token, Interest::READABLE)
                .expect("new");
        }
        let mut events = Events::new();
        let mut told = |writers: &[usize]| {
            for &writer in writers {
                (&pairs[writer].1).write_all(b"x").expect("room");
            }
            backend.wait(&mut events, NO_WAIT).expect("a wait");
            let places = events
                .iter()
                .map(|event| tokens.iter().position(|token| *token == event.token));
            places.flatten().collect::<Vec<_>>()
        };
        assert_eq!(told(&[1, 0]), [1, 0], "as they came");
        assert_eq!(
            told(&[2]),
            [2, 1, 0],
            "not behind those that were told already"
        );
        assert_eq!(told(&[]), [2, 1, 0], "as they were told");
    }

    #[test]
    fn no_wait_ends_early_with_either_timeout() {
        let backend = Epoll::new().expect("descriptors");
        let mut events = Events::new();
        for has_ns_timeout in [true, false] {
            backend
                .has_ns_timeout
                .store(has_ns_timeout, Ordering::Relaxed);
            for limit_ns in [1, 999_999, 1_000_001] {
                let limit = Duration::from_nanos(limit_ns);
                let start_ns = sys::monotonic_ns();
                backend.wait(&mut events, Some(limit)).expect("a wait");
                let passed_ns = sys::monotonic_ns() - start_ns;
                assert!(passed_ns >= limit_ns, "{passed_ns} of {limit_ns} ns");
                assert!(events.is_empty() && !events.interrupted());
            }
        }
    }

    #[test]
    fn milliseconds_round_up() {
        let ms = |ns| round_up_ms(Duration::from_nanos(ns));
        assert_eq!((ms(1), ms(1_000_000), ms(1_000_001)), (1, 1, 2));
        assert_eq!(round_up_ms(Duration::MAX), i32::MAX);
    }
}
