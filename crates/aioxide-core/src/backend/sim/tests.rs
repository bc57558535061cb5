//! Tests of the simulated kernel itself: what other tests rely upon.

use std::io::ErrorKind;

use super::*;
use crate::slab::Slab;

const NO_WAIT: Option<Duration> = Some(Duration::ZERO);

fn sim(faults: Faults) -> (Sim, Clock) {
    let clock = Clock::virtual_at(0);
    (Sim::new(clock.clone(), 1, faults), clock)
}

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> ErrorKind {
    result.expect_err("an error").kind()
}

fn poll(sim: &Sim) -> Vec<Event> {
    let mut events = Events::new();
    sim.wait(&mut events, NO_WAIT).expect("a wait");
    events.iter().collect()
}

#[test]
fn a_stream_carries_bytes_up_to_its_capacity_and_ends() {
    let (sim, _) = sim(Faults::default());
    let (near, far) = sim.pair(4);
    let mut room = [0; 8];
    assert_eq!(kind(sim.recv(near, &mut room)), ErrorKind::WouldBlock);
    assert_eq!(sim.send(far, b"abcdef").expect("some room"), 4);
    assert_eq!(kind(sim.send(far, b"ef")), ErrorKind::WouldBlock);
    assert_eq!(sim.recv(near, &mut room[..3]).expect("bytes"), 3);
    assert_eq!(sim.send(far, b"ef").expect("room"), 2);
    sim.finish(far).expect("open");
    assert_eq!(kind(sim.send(far, b"g")), ErrorKind::BrokenPipe);
    assert_eq!(sim.recv(near, &mut room[3..]).expect("bytes"), 3);
    assert_eq!(&room[..6], b"abcdef");
    assert_eq!(sim.recv(near, &mut room).expect("the end"), 0);
}

#[test]
fn closing_forgets_frees_and_resets_what_is_unread() {
    let (sim, _) = sim(Faults::default());
    let (near, far) = sim.pair(4);
    let token = Slab::new().insert(());
    sim.register(near, token, Interest::WRITABLE).expect("open");
    assert_eq!(poll(&sim).len(), 1);
    sim.send(far, b"x").expect("room");
    sim.close(near).expect("open");
    assert_eq!(poll(&sim), []);
    assert_eq!(
        sim.register(near, token, Interest::BOTH)
            .expect_err("free")
            .raw_os_error(),
        Some(9)
    );
    assert_eq!(kind(sim.recv(far, &mut [0])), ErrorKind::ConnectionReset);
    let (reused, _) = sim.pair(1);
    assert_eq!(reused, near, "the lowest free number comes first");
    sim.register(reused, token, Interest::READABLE)
        .expect("open");
    assert_eq!(poll(&sim), [], "and is another stream");
}

#[test]
fn waits_move_the_clock_to_what_happens_first() {
    let (sim, clock) = sim(Faults::default());
    let (near, _far) = sim.pair(4);
    let token = Slab::new().insert(());
    sim.register(near, token, Interest::READABLE).expect("open");
    sim.plan(near, 500, Action::Send(b"x".to_vec()));
    let mut events = Events::new();
    sim.wait(&mut events, Some(Duration::from_nanos(300)))
        .expect("a wait");
    assert_eq!((clock.now_ns(), events.len()), (300, 0));
    sim.wait(&mut events, Some(Duration::from_nanos(300)))
        .expect("a wait");
    assert_eq!((clock.now_ns(), events.len()), (500, 1));
    assert_eq!(sim.recv(near, &mut [0]).expect("a byte"), 1);
    assert_eq!(kind(sim.wait(&mut events, None)), ErrorKind::Deadlock);
    sim.wake().expect("always");
    sim.wait(&mut events, None).expect("woken");
    assert!(events.woken() && clock.now_ns() == 500);
    sim.plan(near, 1, Action::Reset);
    sim.wait(&mut events, None).expect("an event");
    assert!(
        events
            .iter()
            .all(|event| event.readiness.is_error() && event.readiness.is_hangup())
    );
    assert_eq!(kind(sim.send(near, b"x")), ErrorKind::ConnectionReset);
}

#[test]
fn a_delayed_event_comes_in_the_fourth_poll_and_in_the_first_sleep() {
    let faults = Faults {
        delay: 1000,
        ..Faults::default()
    };
    let (sim, clock) = sim(faults);
    let (near, _far) = sim.pair(4);
    let token = Slab::new().insert(());
    sim.register(near, token, Interest::WRITABLE).expect("open");
    let counts: Vec<usize> = (0..8).map(|_| poll(&sim).len()).collect();
    assert_eq!(counts, [0, 0, 0, 1, 0, 0, 0, 1]);
    let mut events = Events::new();
    sim.wait(&mut events, Some(Duration::from_secs(1)))
        .expect("a wait");
    assert_eq!((events.len(), clock.now_ns()), (1, 0));
}

#[test]
fn every_fault_strikes_and_no_byte_is_lost() {
    let (sim, _) = sim(Faults::FREQUENT);
    let (near, far) = sim.pair(64);
    let sent: Vec<u8> = (0..=255).cycle().take(20_000).collect();
    let (mut offset, mut received) = (0, Vec::<u8>::new());
    let (mut blocked, mut short) = (0, 0);
    while received.len() < sent.len() {
        match sim.send(far, &sent[offset..]) {
            Ok(len) => offset += len,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let mut room = [0; 64];
        match sim.recv(near, &mut room) {
            Ok(len) => {
                short += u32::from(len < room.len());
                received.extend(&room[..len]);
            }
            Err(error) => {
                blocked += 1;
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
            }
        }
    }
    assert_eq!(received, sent);
    assert!(blocked > 0 && short > 0);

    let mut slab = Slab::new();
    let (gone, here) = (slab.insert(()), slab.insert(()));
    sim.register(near, gone, Interest::NONE).expect("open");
    sim.reregister(near, here, Interest::WRITABLE)
        .expect("open");
    let (mut stale, mut interrupted) = (0, 0);
    let mut events = Events::new();
    for _ in 0..200 {
        sim.wait(&mut events, NO_WAIT).expect("a wait");
        interrupted += u32::from(events.interrupted());
        stale += events.iter().filter(|event| event.token == gone).count();
    }
    assert!(stale > 0 && interrupted > 0);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let sim = Sim::new(Clock::virtual_at(0), seed, Faults::FREQUENT);
        let (near, far) = sim.pair(1000);
        let outcome = |result: io::Result<usize>| result.ok();
        (0..100)
            .map(|_| {
                (
                    outcome(sim.send(far, &[0; 100])),
                    outcome(sim.recv(near, &mut [0; 100])),
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
