//! Tests of the TLS machine: named rules, then every rule at once against a naive model.
#![forbid(unsafe_code)]

use super::driver::{Start, agree};
use super::model::{Call, Op};
use super::world::Record;
use super::*;
use proptest::prelude::*;

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        6 => (0usize..60).prop_map(Call::Write),
        1 => Just(Call::Close),
        1 => Just(Call::Abort),
        2 => Just(Call::PauseReading),
        2 => Just(Call::ResumeReading),
        1 => (-1i64..60, -1i64..40).prop_map(|(high, low)| Call::WriteLimits(high, low)),
        1 => (-1i64..30, -1i64..20).prop_map(|(high, low)| Call::ReadLimits(high, low)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => call().prop_map(Op::Call),
        6 => Just(Op::Receive(Record::Flight)),
        6 => (1usize..12).prop_map(|len| Op::Receive(Record::Data(len))),
        1 => Just(Op::Receive(Record::Bye)),
        1 => prop::bool::weighted(0.2).prop_map(|bad| {
            Op::Receive(if bad { Record::Garbage } else { Record::Flight })
        }),
        1 => Just(Op::Eof),
        6 => (0usize..60).prop_map(Op::Drain),
        1 => Just(Op::Block),
        4 => Just(Op::Turn),
        1 => Just(Op::HandshakeTimeout),
        1 => Just(Op::ShutdownTimeout),
        1 => prop::bool::weighted(0.2).prop_map(|lost| if lost { Op::Lost } else { Op::Turn }),
    ]
}

fn start() -> impl Strategy<Value = Start> {
    (any::<bool>(), prop::bool::weighted(0.2), 0usize..4).prop_map(
        |(is_upgrade, was_paused, flights)| Start {
            is_upgrade,
            was_paused,
            flights,
        },
    )
}

proptest! {
    #[test]
    fn machine_agrees_with_the_model(
        start in start(),
        ops in prop::collection::vec(op(), 0..60),
        reactions in prop::collection::vec(call(), 0..6),
    ) {
        agree(start, &ops, &reactions);
    }
}

fn actions(tls: &mut Tls<Vec<u8>>, step: &mut Step) -> Vec<Action> {
    std::iter::from_fn(|| tls.poll_action(step)).collect()
}

/// A connection whose handshake is done.
fn wrapped() -> Tls<Vec<u8>> {
    let mut tls = Tls::new(false);
    let mut step = tls.handle_connected(false).expect("the first time");
    let begun = [Action::ArmHandshakeTimer, Action::Handshake];
    assert_eq!(actions(&mut tls, &mut step), begun);
    tls.handle_handshake(&mut step, true);
    let done = [
        Action::DisarmHandshakeTimer,
        Action::Complete,
        Action::ConnectionMade,
        Action::WakeWaiter,
        Action::Read,
        Action::Send,
        Action::MeasureIncoming,
    ];
    assert_eq!(actions(&mut tls, &mut step), done);
    tls
}

#[test]
fn a_large_write_stops_where_the_transport_does() {
    let mut tls = wrapped();
    assert_eq!(tls.handle_write(), WritePlan::Queue);
    assert_eq!(tls.handle_queued(vec![0; 1 << 20]), Ok(()));
    let (mut step, mut spent) = (tls.handle_write_end(), Vec::new());
    for _ in 0..3 {
        assert_eq!(tls.poll_action(&mut step), Some(Action::Encrypt));
        tls.handle_encrypted(&mut step, PIECE_BYTES, false, &mut spent);
        assert_eq!(tls.poll_action(&mut step), Some(Action::Send));
    }
    tls.handle_pause_writing();
    let rest = [Action::MeasureOutgoing, Action::PauseProtocol];
    assert_eq!(actions(&mut tls, &mut step), rest);
    assert_eq!(tls.backlog().size_bytes(), (1 << 20) - 3 * PIECE_BYTES);
    let mut step = tls.handle_resume_writing();
    assert_eq!(tls.poll_action(&mut step), Some(Action::Encrypt));
}

#[test]
fn pieces_gather_where_there_is_room() {
    let mut tls = wrapped();
    assert_eq!(tls.handle_queued(vec![0; 4 * PIECE_BYTES]), Ok(()));
    let (mut step, mut spent) = (tls.handle_write_end(), Vec::new());
    for (has_room, next) in [(true, None), (false, Some(Action::Send)), (true, None)] {
        assert_eq!(tls.poll_action(&mut step), Some(Action::Encrypt));
        tls.handle_encrypted(&mut step, PIECE_BYTES, has_room, &mut spent);
        if let Some(next) = next {
            assert_eq!(tls.poll_action(&mut step), Some(next));
        }
    }
    assert_eq!(tls.poll_action(&mut step), Some(Action::Encrypt));
    // The last one leaves with those before it.
    tls.handle_encrypted(&mut step, PIECE_BYTES, true, &mut spent);
    assert_eq!(actions(&mut tls, &mut step), [Action::Send]);
}

#[test]
fn closing_waits_for_the_backlog() {
    let mut tls = wrapped();
    tls.handle_pause_writing();
    assert_eq!(tls.handle_write(), WritePlan::Queue);
    assert_eq!(tls.handle_queued(vec![0; 9]), Ok(()));
    let mut step = tls.handle_write_end();
    assert_eq!(actions(&mut tls, &mut step), [Action::MeasureOutgoing]);
    let mut step = tls.handle_close();
    let closing = [
        Action::MarkClosed,
        Action::ArmShutdownTimer,
        Action::Read,
        Action::MeasureOutgoing,
        Action::MeasureIncoming,
        Action::MeasureOutgoing,
    ];
    assert_eq!(actions(&mut tls, &mut step), closing);
    assert_eq!(tls.state(), State::Flushing);
    let (mut step, mut spent) = (tls.handle_resume_writing(), Vec::new());
    assert_eq!(tls.poll_action(&mut step), Some(Action::Encrypt));
    tls.handle_encrypted(&mut step, 9, false, &mut spent);
    assert_eq!(
        actions(&mut tls, &mut step),
        [Action::Send, Action::Shutdown]
    );
    tls.handle_shutdown(&mut step, true);
    let closed = [Action::Send, Action::TellEof, Action::CloseTransport];
    assert_eq!(actions(&mut tls, &mut step), closed);
}

#[test]
fn a_failure_in_a_read_leaves_the_rest_of_a_close() {
    let mut tls = wrapped();
    let mut step = tls.handle_close();
    let begun = [Action::MarkClosed, Action::ArmShutdownTimer, Action::Read];
    for action in begun {
        assert_eq!(tls.poll_action(&mut step), Some(action));
    }
    assert!(step.unwind());
    assert_eq!(actions(&mut tls, &mut step), [Action::Shutdown]);
    assert!(!step.unwind());
}

#[test]
fn closing_in_spite_of_unread_data_after_the_end() {
    let mut tls = wrapped();
    tls.handle_pause_reading();
    let mut step = tls.handle_eof();
    assert_eq!(actions(&mut tls, &mut step), []);
    assert!(tls.keeps_open());
    let mut step = tls.handle_close();
    let closed = actions(&mut tls, &mut step);
    assert_eq!(closed.last(), Some(&Action::CloseTransport));
    assert!(closed.contains(&Action::TellEof));
}

#[test]
fn a_session_that_ends_fills_every_buffer_at_once() {
    let mut tls = wrapped();
    let mut step = tls.handle_received();
    assert_eq!(tls.poll_action(&mut step), Some(Action::Read));
    assert!(tls.handle_read_full(&mut step));
    let mut step = tls.handle_eof();
    for _ in 0..100 {
        assert_eq!(tls.poll_action(&mut step), Some(Action::Read));
        assert!(!tls.handle_read_full(&mut step));
    }
    assert_eq!(tls.poll_action(&mut step), Some(Action::Read));
    assert_eq!(
        actions(&mut tls, &mut step).last(),
        Some(&Action::CloseTransport)
    );
}

#[test]
fn an_inherited_pause_ends_with_the_transports() {
    let mut tls: Tls<Vec<u8>> = Tls::new(true);
    let mut step = tls.handle_connected(true).expect("the first time");
    tls.handle_outgoing(0);
    assert_eq!(actions(&mut tls, &mut step).len(), 2);
    tls.handle_handshake(&mut step, false);
    assert_eq!(actions(&mut tls, &mut step), [Action::MeasureOutgoing]);
    assert!(tls.is_protocol_paused());
    let mut step = tls.handle_resume_writing();
    assert_eq!(
        actions(&mut tls, &mut step),
        [Action::Send, Action::ResumeProtocol]
    );
}

#[test]
fn a_pause_that_ends_before_the_upgrade_begins_is_ended() {
    let mut tls: Tls<Vec<u8>> = Tls::new(true);
    let mut step = tls.handle_resume_writing();
    assert_eq!(
        actions(&mut tls, &mut step),
        [Action::Send, Action::ResumeProtocol]
    );
    assert!(!tls.is_protocol_paused());
}

#[test]
fn warnings_begin_with_the_sixth_lost_write() {
    let mut tls: Tls<Vec<u8>> = Tls::new(false);
    let warned = |tls: &mut Tls<Vec<u8>>| tls.handle_write() == WritePlan::Lost { warn: true };
    assert!((0..5).all(|_| !warned(&mut tls)));
    assert!(warned(&mut tls));
}

#[test]
fn timers_mean_nothing_outside_their_states() {
    let tls = wrapped();
    assert!(!tls.handle_handshake_timeout());
    assert!(!tls.handle_shutdown_timeout());
}
