//! Random programs on whole loops over the simulated kernel, and what must hold; the property test
//! `turn_over_sim` and the fuzz target `turn` share them.
//!
//! A program is a few entries that, when run, spend time and do random things: push entries, set
//! and cancel timers, let peers send, send from "another thread", open, re-register and close
//! streams. The house's promises are checked in each turn and at the end:
//! - order: entries run in the order they became ready, timers by deadline and then by age;
//! - timers: none fires early, none that is due when a turn begins is missing from it, a sleep ends
//!   with a timer due, an event, a wake-up or a signal;
//! - polling: the stated bound in turns and in time, so I/O is never starved;
//! - nothing is lost: every entry runs once or is handed back, every byte arrives once.
//!
//! May touch: nothing but memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::os::fd::RawFd;
use std::time::Duration;

use aioxide_core::backend::sim::{Action, DELAYED_WAITS_MAX, Faults, Sim};
use aioxide_core::backend::{Backend, Events, Interest};
use aioxide_core::clock::{Clock, RESOLUTION_SECONDS};
use aioxide_core::inbox::Inbox;
use aioxide_core::slab::Token;
use aioxide_core::turn::{CLOCK_TURNS, POLL_GAP_NS_MAX, POLL_TURNS_MAX, Poll, Turn};

/// Turns that may pass from an event to its report: the bound, times the polls that may miss it.
const EVENT_TURNS_MAX: u64 = POLL_TURNS_MAX as u64 * (DELAYED_WAITS_MAX as u64 + 2);

#[derive(Clone, Copy, Debug)]
enum Entry {
    Call(u64),
    Remote(u64),
    Timer(u64),
    Event(Token),
}

/// One stream of the program: what the peer has been told to send, and what has arrived.
#[derive(Default)]
struct Stream {
    fd: RawFd,
    far: RawFd,
    next_sent: u8,
    next_received: u8,
    unread: usize,
    /// The turn since which bytes wait, for the starvation bound.
    waiting_since: Option<u64>,
}

/// Makes the program's choices: a number below the given one, which is not zero.
pub type Choose = Box<dyn FnMut(u64) -> u64>;

/// A loop, the program it runs, and what is known of both from outside.
pub struct Program {
    turn: Turn<Entry, Stream>,
    inbox: Inbox<Entry>,
    sim: Sim,
    clock: Clock,
    choose: Choose,
    /// Running takes no time, so only the count of turns makes the loop poll.
    is_fast: bool,
    /// Something is always ready until the budget is spent.
    is_busy: bool,
    /// How many more things the program may start.
    budget: u32,
    next_id: u64,
    /// Entries that must still run, in order of becoming ready where that is known at once.
    calls: VecDeque<u64>,
    remotes: VecDeque<u64>,
    timers: BTreeMap<u64, f64>,
    cancelled: BTreeSet<u64>,
    /// Bytes on their way: by arrival time, stream and count.
    flying: Vec<(u64, Token, usize)>,
    turns: u64,
    /// The turn whose poll a signal last interrupted: such a poll shows nothing.
    interrupted: u64,
    turns_since_poll: u32,
    late_turns: u32,
    polled_ns: u64,
}

impl Program {
    /// A program that starts at most `budget` things as `choose` has it, on a kernel with `faults`
    /// seeded by `seed`.
    pub fn new(seed: u64, faults: Faults, budget: u32, mut choose: Choose) -> Self {
        let clock = Clock::virtual_at(1_000_000_000);
        let mut program = Self {
            turn: Turn::new(clock.clone()),
            inbox: Inbox::new(),
            sim: Sim::new(clock.clone(), seed, faults),
            clock,
            is_fast: choose(2) == 1,
            is_busy: choose(2) == 1,
            choose,
            budget,
            next_id: 0,
            calls: VecDeque::new(),
            remotes: VecDeque::new(),
            timers: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            flying: Vec::new(),
            turns: 0,
            interrupted: 0,
            turns_since_poll: 0,
            late_turns: 0,
            polled_ns: 0,
        };
        for _ in 0..3 {
            program.open();
            program.push();
        }
        program
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.choose)(limit)
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn push(&mut self) {
        let id = self.id();
        self.calls.push_back(id);
        self.turn.push(Entry::Call(id));
    }

    fn send_remote(&mut self) {
        let id = self.id();
        self.remotes.push_back(id);
        if self.inbox.push(Entry::Remote(id)).expect("open") {
            self.sim.wake().expect("set");
        }
    }

    fn set_timer(&mut self) {
        let id = self.id();
        let delay = [0.0, 1e-9, 5e-6, 2e-4, 0.5, -1.0][self.below(6) as usize];
        let deadline = self.clock.now() + delay * self.below(4) as f64;
        self.timers.insert(id, deadline);
        self.turn.timers.insert(deadline, Entry::Timer(id));
    }

    fn cancel_timer(&mut self) {
        let count = self.timers.len();
        if count == 0 {
            return;
        }
        let index = self.below(count as u64) as usize;
        let id = *self.timers.keys().nth(index).expect("a timer");
        if self.cancelled.insert(id) {
            self.turn.timers.note_cancelled();
        }
    }

    fn open(&mut self) {
        let (fd, far) = self.sim.pair(1 << 16);
        let stream = Stream {
            fd,
            far,
            ..Stream::default()
        };
        let token = self.turn.registrations.insert(stream);
        self.sim
            .register(fd, token, Interest::READABLE)
            .expect("open");
    }

    fn random_token(&mut self) -> Option<Token> {
        let tokens: Vec<Token> = self
            .turn
            .registrations
            .iter()
            .map(|(token, _)| token)
            .collect();
        let count = tokens.len() as u64;
        (count > 0).then(|| tokens[self.below(count) as usize])
    }

    /// The peer of some stream sends a few numbered bytes, now or after a while.
    fn let_peer_send(&mut self) {
        let Some(token) = self.random_token() else {
            return;
        };
        let (len, delay_ns) = (
            1 + self.below(20) as usize,
            [0, 3000, 400_000][self.below(3) as usize],
        );
        // Bytes of one stream are on their way one batch at a time, so they stay in order.
        if self.flying.iter().any(|(_, other, _)| *other == token) {
            return;
        }
        let stream = self
            .turn
            .registrations
            .get_mut(token)
            .expect("a live token");
        let bytes = (0..len).map(|_| {
            stream.next_sent = stream.next_sent.wrapping_add(1);
            stream.next_sent
        });
        self.sim
            .plan(stream.fd, delay_ns, Action::Send(bytes.collect()));
        self.flying
            .push((self.clock.now_ns() + delay_ns, token, len));
    }

    /// The stream's token changes; late events of the old one must be refused.
    fn renew(&mut self) {
        let Some(old) = self.random_token() else {
            return;
        };
        let mut stream = self.turn.registrations.remove(old).expect("a live token");
        // Its events so far are stale: it waits anew.
        stream.waiting_since = stream.waiting_since.map(|_| self.turns);
        let fd = stream.fd;
        let new = self.turn.registrations.insert(stream);
        for (_, token, _) in &mut self.flying {
            if *token == old {
                *token = new;
            }
        }
        self.sim
            .reregister(fd, new, Interest::READABLE)
            .expect("open");
    }

    fn close(&mut self) {
        let Some(token) = self.random_token() else {
            return;
        };
        let stream = self.turn.registrations.remove(token).expect("a live token");
        self.flying.retain(|(_, other, _)| *other != token);
        if self.below(2) == 0 {
            self.sim.deregister(stream.fd).expect("known");
        }
        self.sim.close(stream.fd).expect("open");
        self.sim.close(stream.far).expect("open");
        self.sim.deregister(stream.fd).expect("closed is forgotten");
    }

    /// What a running entry does.
    fn act(&mut self) {
        let cost_ns = [0, 0, 100, 5000, 80_000][self.below(5) as usize];
        self.clock.advance(if self.is_fast { 0 } else { cost_ns });
        if self.is_busy && self.turn.ready.is_empty() && self.budget > 0 {
            self.budget -= 1;
            self.push();
        }
        for _ in 0..self.below(4) {
            if self.budget == 0 {
                return;
            }
            self.budget -= 1;
            match self.below(20) {
                0..9 => self.push(),
                9..11 => self.send_remote(),
                11..14 => self.set_timer(),
                14..16 => self.cancel_timer(),
                16..18 => self.let_peer_send(),
                18 => self.renew(),
                _ if self.below(4) == 0 => self.close(),
                _ => self.open(),
            }
        }
    }

    fn receive(&mut self, token: Token) {
        self.land();
        let Some(stream) = self.turn.registrations.get_mut(token) else {
            return;
        };
        let mut room = [0; 7];
        match self.sim.recv(stream.fd, &mut room) {
            Ok(len) => {
                for byte in &room[..len] {
                    stream.next_received = stream.next_received.wrapping_add(1);
                    assert_eq!(
                        *byte, stream.next_received,
                        "bytes arrive once and in order"
                    );
                }
                stream.unread -= len;
                stream.waiting_since = (stream.unread > 0).then_some(self.turns);
            }
            // Level-triggered: it will come again.
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                stream.waiting_since = (stream.unread > 0).then_some(self.turns);
            }
        }
    }

    /// Notes which bytes have arrived by now.
    fn land(&mut self) {
        let now_ns = self.clock.now_ns();
        let turns = self.turns;
        let (landed, flying) = std::mem::take(&mut self.flying)
            .into_iter()
            .partition(|(at_ns, ..)| *at_ns <= now_ns);
        self.flying = flying;
        for (_, token, len) in landed {
            let stream: Option<&mut Stream> = self.turn.registrations.get_mut(token);
            let stream = stream.expect("closing forgets what flies");
            stream.unread += len;
            stream.waiting_since.get_or_insert(turns);
        }
    }

    /// Checks that no bytes wait beyond the bound.
    fn check_starvation(&mut self) {
        self.land();
        for (_, stream) in self.turn.registrations.iter() {
            let since = stream.waiting_since.unwrap_or(self.turns);
            let waited = self.turns - since.max(self.interrupted);
            assert!(waited <= EVENT_TURNS_MAX, "bytes waited for {waited} turns");
        }
    }

    /// The promise about polling, seen from outside.
    fn check_poll(&mut self, poll: Poll) {
        if poll != Poll::Skip {
            self.turns_since_poll = 0;
            self.late_turns = 0;
            return;
        }
        assert!(!self.turn.ready.is_empty(), "an idle turn asks");
        self.turns_since_poll += 1;
        assert!(self.turns_since_poll < POLL_TURNS_MAX);
        if self.clock.now_ns() - self.polled_ns >= POLL_GAP_NS_MAX {
            self.late_turns += 1;
        }
        // As many turns again as had passed before, or the first look at the clock.
        let in_time = self.turns_since_poll - self.late_turns;
        assert!(
            self.late_turns < in_time.max(CLOCK_TURNS),
            "no poll though time has passed"
        );
    }

    /// The loop sleeps for a timer that somebody still wants.
    fn check_next_deadline(&self) {
        let wanted = self
            .timers
            .iter()
            .filter(|(id, _)| !self.cancelled.contains(id));
        let least = wanted.map(|(_, deadline)| *deadline).min_by(f64::total_cmp);
        assert_eq!(self.turn.timers.next_deadline(), least);
    }

    /// One turn, as the binding runs it; false when nothing will ever happen again.
    fn turn(&mut self, events: &mut Events) -> bool {
        self.turns += 1;
        let mut discarded = Vec::new();
        let cancelled = &self.cancelled;
        let is_cancelled =
            |entry: &Entry| matches!(entry, Entry::Timer(id) if cancelled.contains(id));
        let poll = self
            .turn
            .prepare(&self.inbox, false, is_cancelled, &mut discarded);
        for entry in discarded {
            let Entry::Timer(id) = entry else {
                panic!("{entry:?} is no timer");
            };
            assert!(
                self.cancelled.contains(&id),
                "only cancelled timers are discarded"
            );
            assert!(self.timers.remove(&id).is_some(), "each once");
        }
        self.check_poll(poll);
        let timeout = match poll {
            Poll::Skip => None,
            Poll::Now => Some(Some(Duration::ZERO)),
            Poll::Wait(timeout) => {
                assert!(self.turn.ready.is_empty(), "never sleeps on work");
                self.check_next_deadline();
                Some(timeout)
            }
        };
        let mut must_fire = false;
        if let Some(timeout) = timeout {
            let may_sleep = timeout != Some(Duration::ZERO);
            assert!(
                !may_sleep || self.inbox.prepare_sleep(),
                "the inbox has been drained"
            );
            match self.sim.wait(events, timeout) {
                Ok(()) => {}
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Deadlock);
                    assert_eq!(timeout, None);
                    return false;
                }
            }
            self.inbox.awake();
            self.polled_ns = self.clock.now_ns();
            if events.interrupted() {
                self.interrupted = self.turns;
            }
            self.turn.collect(&self.inbox);
            for event in events.iter() {
                if self.turn.registrations.get(event.token).is_some() {
                    self.turn.push(Entry::Event(event.token));
                }
            }
            must_fire = may_sleep && events.is_empty() && !events.woken() && !events.interrupted();
        }
        let fired = self.turn.expire();
        assert!(!must_fire || fired > 0, "the sleep ended early");
        self.check_starvation();
        self.run();
        true
    }

    fn run(&mut self) {
        let begun_ns = self.clock.now();
        let count = self.turn.begin();
        let mut missing = self
            .timers
            .values()
            .filter(|deadline| **deadline < begun_ns)
            .count();
        let mut last_timer = (f64::NEG_INFINITY, 0);
        let mut ran = 0;
        while let Some(entry) = self.turn.pop() {
            ran += 1;
            match entry {
                Entry::Call(id) => assert_eq!(self.calls.pop_front(), Some(id)),
                Entry::Remote(id) => assert_eq!(self.remotes.pop_front(), Some(id)),
                Entry::Event(token) => self.receive(token),
                Entry::Timer(id) => {
                    let deadline = self.timers.remove(&id).expect("each timer once");
                    assert!(
                        deadline < begun_ns + RESOLUTION_SECONDS,
                        "a timer fired early"
                    );
                    assert!((deadline, id) > last_timer, "by deadline, then by age");
                    last_timer = (deadline, id);
                    missing -= usize::from(deadline < begun_ns);
                }
            }
            self.act();
        }
        assert_eq!(ran, count, "the snapshot, no more and no less");
        assert_eq!(missing, 0, "a due timer was left out");
    }

    /// Runs until nothing will ever happen again; panics when a promise is broken.
    pub fn run_to_the_end(mut self) {
        let mut events = Events::new();
        while self.turn(&mut events) {
            assert!(self.turns < 100_000, "the loop never comes to rest");
        }
        assert!(self.calls.is_empty() && self.remotes.is_empty() && self.inbox.is_empty());
        assert!(self.timers.is_empty() && self.turn.timers.is_empty());
        for (_, stream) in self.turn.registrations.iter() {
            assert_eq!((stream.unread, stream.next_received), (0, stream.next_sent));
        }
    }
}
