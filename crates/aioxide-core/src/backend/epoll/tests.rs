//! Tests of the epoll backend, against the kernel.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;
use crate::backend::{EVENTS_MAX, EVENTS_MIN, LARGE_EVENTS_MIN};
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
fn fewer_are_told_at_once_where_each_brings_much() {
    let backend = Epoll::new().expect("descriptors");
    let pairs: Vec<_> = (0..40)
        .map(|_| UnixStream::pair().expect("a pair"))
        .collect();
    let tokens = tokens(pairs.len());
    for ((near, far), token) in pairs.iter().zip(&tokens) {
        backend
            .register(near.as_raw_fd(), *token, Interest::READABLE)
            .expect("new");
        (&*far).write_all(b"x").expect("room");
    }
    let mut events = Events::new();
    let mut told = |kept_bytes_each: usize, is_idle| {
        events.note_kept(kept_bytes_each * events.len(), is_idle);
        backend.wait(&mut events, NO_WAIT).expect("a wait");
        events.iter().map(|event| event.token).collect::<Vec<_>>()
    };
    assert_eq!(told(0, true).len(), 40);
    assert_eq!(told(10 * 1024, true).len(), 40, "there is room for 42");
    assert_eq!(told(11 * 1024, true).len(), 39);
    // With 100 KiB in each, five are half a MiB. Nobody is told again before all were.
    let mut seen: Vec<_> = (0..8).flat_map(|_| told(100 * 1024, true)).collect();
    assert_eq!(seen.len(), 40);
    seen.sort_unstable_by_key(|token| token.to_u64());
    seen.dedup();
    assert_eq!(seen.len(), 40);
    assert_eq!(
        told(100 * 1024, false).len(),
        40,
        "others wait for their turn"
    );
    assert_eq!(told(16 * 1024 * 1024, true).len(), LARGE_EVENTS_MIN);
    assert_eq!(told(1, true).len(), 40);
}

#[test]
fn many_small_ones_are_many_bytes_too() {
    let mut events = Events::new();
    let mut limit = |kept_bytes: usize, count: usize| {
        events.list = vec![
            Event {
                token: Token::RESERVED,
                readiness: Readiness::READABLE
            };
            count
        ];
        events.note_kept(kept_bytes, true);
        events.limit
    };
    // Whoever handles one goes through more than its bytes.
    assert_eq!(limit(64 * 1000, 1000), 248);
    // Nobody kept anything: who answers at once needs no limit.
    assert_eq!(limit(0, 1000), EVENTS_MAX);
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
fn a_wait_awake_is_a_wait() {
    let backend = Epoll::new().expect("descriptors");
    let mut events = Events::new();
    // Awake and not: as long as was asked, and longer than a wait awake.
    for _ in 0..4 {
        for limit in [AWAKE_MAX / 2, AWAKE_MAX * 20] {
            let start_ns = sys::monotonic_ns();
            backend
                .wait_awake(&mut events, Some(limit))
                .expect("a wait");
            let passed_ns = sys::monotonic_ns() - start_ns;
            assert!(u128::from(passed_ns) >= limit.as_nanos());
            assert!(events.is_empty() && !events.woken());
        }
    }
    let token = tokens(1)[0];
    let (near, mut far) = UnixStream::pair().expect("a pair");
    backend
        .register(near.as_raw_fd(), token, Interest::READABLE)
        .expect("new");
    far.write_all(b"x").expect("room");
    let readable = [event(token, Readiness::READABLE)];
    for _ in 0..4 {
        backend.wait_awake(&mut events, None).expect("a wait");
        assert_eq!(events.iter().collect::<Vec<_>>(), readable);
    }
    backend.deregister(near.as_raw_fd()).expect("known");
    for _ in 0..200 {
        backend.wake().expect("set");
        backend.wait_awake(&mut events, None).expect("woken");
        assert!(events.woken() && events.is_empty());
    }
    std::thread::scope(|scope| {
        scope.spawn(|| backend.wake().expect("set"));
        backend.wait_awake(&mut events, None).expect("woken");
    });
}

/// Waits with events of its own, and tells whether the next wait would be awake: not after one
/// that was so in vain.
fn is_awake_after(backend: &Epoll, timeout: Option<Duration>) -> bool {
    let mut events = Events::new();
    backend.wait_awake(&mut events, timeout).expect("a wait");
    events.spin.should_spin()
}

/// Whether `arrives` is true once: somebody else may have the processor meanwhile.
fn once(arrives: impl Fn() -> bool) -> bool {
    (0..100).any(|_| arrives())
}

#[test]
fn a_short_wait_is_not_awake() {
    let backend = Epoll::new().expect("descriptors");
    assert!(is_awake_after(&backend, NO_WAIT));
    assert!(is_awake_after(&backend, Some(AWAKE_MAX)));
    let longer = AWAKE_MAX + Duration::from_nanos(1);
    assert!(!is_awake_after(&backend, Some(longer)));
}

#[test]
fn a_wait_after_one_awake_in_vain_is_not() {
    let backend = Epoll::new().expect("descriptors");
    let mut events = Events::new();
    for _ in 0..2 {
        backend
            .wait_awake(&mut events, Some(AWAKE_MAX * 2))
            .expect("a wait");
    }
    // Had both been awake, three would have to be without.
    assert!(events.spin.should_spin());
}

#[test]
fn a_wait_awake_ends_with_what_comes() {
    let backend = Epoll::new().expect("descriptors");
    assert!(once(|| {
        backend.wake().expect("set");
        is_awake_after(&backend, None)
    }));
    let (near, mut far) = UnixStream::pair().expect("a pair");
    let token = tokens(1)[0];
    backend
        .register(near.as_raw_fd(), token, Interest::READABLE)
        .expect("new");
    far.write_all(b"x").expect("room");
    assert!(once(|| is_awake_after(&backend, None)));
}

#[test]
fn a_wait_awake_ends_with_an_error() {
    let backend = Epoll::new().expect("descriptors");
    assert!(once(|| {
        let mut events = Events::new();
        // As many events as this is no number of them.
        events.capacity = 0;
        backend
            .wait_awake(&mut events, None)
            .expect_err("no room for any event");
        events.spin.should_spin()
    }));
}

#[test]
fn a_wait_awake_counts() {
    let limit = Duration::from_micros(50);
    assert_eq!(rest_of(None, 5), None);
    assert_eq!(
        rest_of(Some(limit), 20_000),
        Some(Duration::from_micros(30))
    );
    assert_eq!(rest_of(Some(limit), 60_000), NO_WAIT);
}

#[test]
fn milliseconds_round_up() {
    let ms = |ns| round_up_ms(Duration::from_nanos(ns));
    assert_eq!((ms(1), ms(1_000_000), ms(1_000_001)), (1, 1, 2));
    assert_eq!(round_up_ms(Duration::MAX), i32::MAX);
}
