//! The world of the TLS tests: a library with records instead of secrets, a transport with a queue.
//!
//! Shared by machine and model, which must do the same to equal worlds. It has no opinions.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

/// Most plaintext in one record of this world.
pub(super) const PIECE: usize = 8;
const TRANSPORT_HIGH: usize = 40;
const TRANSPORT_LOW: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// Part of a handshake; harmless later, as a session ticket.
    Flight,
    Data(usize),
    Bye,
    Garbage,
}

pub(super) enum Engine {
    Done,
    Again,
    Eof,
    Failed,
}

/// The library and the transport, without opinions.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) incoming: VecDeque<Record>,
    pub(super) outgoing: usize,
    pub(super) wire: Vec<u8>,
    pub(super) flights: usize,
    /// The library must read before it can write.
    pub(super) blocked: bool,
    pub(super) sent_bye: bool,
    pub(super) got_bye: bool,
    pub(super) queue: usize,
    /// The transport told its protocol to pause.
    pub(super) told: bool,
    pub(super) is_lost: bool,
}

impl World {
    pub(super) fn incoming_len(&self) -> usize {
        let len = |record: &Record| match record {
            Record::Data(len) => len + 1,
            _ => 1,
        };
        self.incoming.iter().map(len).sum()
    }

    pub(super) fn handshake(&mut self) -> Engine {
        while self.flights > 0 {
            match self.incoming.pop_front() {
                Some(Record::Flight) => {
                    self.flights -= 1;
                    self.outgoing += 3;
                }
                Some(_) => return Engine::Failed,
                None => return Engine::Again,
            }
        }
        Engine::Done
    }

    /// Reads all there is: its size, and why it ends.
    pub(super) fn read(&mut self) -> (usize, Engine) {
        let mut total = 0;
        loop {
            match self.incoming.pop_front() {
                _ if self.got_bye => return (total, Engine::Eof),
                Some(Record::Data(len)) => total += len,
                Some(Record::Flight) => self.blocked = false,
                Some(Record::Bye) => self.got_bye = true,
                Some(Record::Garbage) => return (total, Engine::Failed),
                None => return (total, Engine::Again),
            }
        }
    }

    pub(super) fn encrypt(&mut self, plaintext: &[u8]) -> Engine {
        if self.blocked {
            return Engine::Again;
        }
        self.wire.extend(plaintext);
        self.outgoing += plaintext.len() + 5;
        Engine::Done
    }

    pub(super) fn shutdown(&mut self) -> Engine {
        if !std::mem::replace(&mut self.sent_bye, true) {
            self.outgoing += 2;
        }
        while !self.got_bye {
            match self.incoming.pop_front() {
                Some(Record::Flight) => {}
                Some(Record::Bye) => self.got_bye = true,
                Some(Record::Data(_) | Record::Garbage) => return Engine::Failed,
                None => return Engine::Again,
            }
        }
        Engine::Done
    }

    /// Moves the ciphertext to the transport; true if that calls `pause_writing()`.
    pub(super) fn send(&mut self) -> bool {
        self.queue += std::mem::take(&mut self.outgoing);
        let pause = !self.told && self.queue > TRANSPORT_HIGH;
        self.told |= pause;
        pause
    }

    /// The kernel took bytes; true if that calls `resume_writing()`.
    pub(super) fn drain(&mut self, len: usize) -> bool {
        self.queue = self.queue.saturating_sub(len);
        let resume = self.told && self.queue <= TRANSPORT_LOW;
        self.told &= !resume;
        resume
    }
}
