//! The rules that are no counterexample's: sessions, windows, repeats, waits.

use super::*;
use crate::wire::{Ended, Refused, Status};
use std::time::Duration;

fn refused(seq: Option<Seq>, token: Option<Token>, reason: Reason) -> ReplyBody {
    ReplyBody::Refused(Refused { id: None, seq, token, reason, detail: String::new() })
}

#[test]
fn nothing_is_believed_before_opened_and_nothing_is_asked() {
    let mut c = Script::new(None);
    c.acquire(1);
    assert_eq!(c.opens(), 1);
    assert!(c.acquired().is_empty());
    c.granted(1, 110);
    assert!(!c.believes(110));
}

#[test]
fn a_revoked_grant_is_given_back_when_its_user_has_stopped() {
    let mut c = Script::held(None);
    c.lost(110, 111);
    assert!(!c.believes(110));
    assert!(c.released().is_empty(), "the user has not stopped yet");
    c.release(1);
    assert_eq!(c.released(), [110]);
    assert!(c.events.contains(&Event::Settled { request: 1, reason: Reason::HoldLimit }));
}

#[test]
fn a_revoked_grant_is_given_back_after_a_lease_without_its_user() {
    let mut c = Script::held(None);
    c.lost(110, 111);
    c.pass(59 * SECOND);
    assert!(c.released().is_empty());
    c.pass(2 * SECOND);
    assert!(c.released().contains(&110));
}

#[test]
fn revoked_in_alive_counts_like_lost() {
    let mut c = Script::held(None);
    c.pass(15 * SECOND);
    let alive = Alive {
        n: 1,
        held: vec![(1, 110)],
        revoked: vec![RevokedToken(110, Reason::Forced)],
        attached: 0,
        suspended: Vec::new(),
        positions: Vec::new(),
    };
    c.hear(111, Some(SESSION), ReplyBody::Alive(alive));
    assert!(c.events.contains(&Event::Lost { request: 1, token: 110, reason: Reason::Forced }));
}

#[test]
fn a_session_that_nobody_uses_lapses_and_another_is_opened() {
    let mut c = Script::held(None);
    c.release(1);
    c.hear(111, Some(SESSION), ReplyBody::Released(Released { token: 110, reason: Reason::Released }));
    assert!(c.events.contains(&Event::Settled { request: 1, reason: Reason::Released }));
    c.pass(200 * SECOND);
    assert!(c.kept_alive().is_empty());
    assert_eq!(c.opens(), 0);
    c.acquire(2);
    assert_eq!(c.opens(), 1);
}

#[test]
fn what_waited_is_asked_again_in_the_next_session_in_its_order() {
    let mut c = Script::held(None);
    c.acquire(2);
    c.acquire(3);
    c.queued(2, 112);
    c.sent.clear();
    c.session_ended(Reason::LeaseExpired);
    assert!(c.events.contains(&Event::Lost { request: 1, token: 110, reason: Reason::LeaseExpired }));
    assert_eq!(c.opens(), 1);
    c.opened_as(600, 64);
    assert_eq!(c.acquired(), [1, 2]);
    assert_eq!(c.core.requests.keys().copied().collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn not_yours_for_the_whole_session_ends_it_and_for_a_token_does_not() {
    let mut c = Script::held(None);
    c.hear(111, Some(SESSION), refused(None, Some(7), Reason::NotYours));
    assert!(c.believes(110));
    c.hear(111, Some(SESSION), refused(None, None, Reason::NotYours));
    assert!(!c.believes(110));
}

#[test]
fn lower_epochs_are_ignored_unless_the_log_is_another() {
    let mut c = Script::held(None);
    c.epoch = 5;
    c.pass(15 * SECOND);
    c.alive(1, 111, &[(1, 110)], &[]);
    c.epoch = 4;
    c.session_ended(Reason::LeaseExpired);
    assert!(c.believes(110));
    let probes = c.take(|body| matches!(body, RequestBody::Status(_)).then_some(()));
    assert_eq!(probes.len(), 1, "is it the same log?");
    let status = |genesis| Status { id: sending::PROBE_ID.into(), genesis, ..Status::default() };
    c.hear(9, None, ReplyBody::Status(Box::new(status(LogId([1; 16])))));
    assert!(c.believes(110));
    c.hear(9, None, ReplyBody::Status(Box::new(status(LogId([2; 16])))));
    assert!(!c.believes(110), "another log: everything is lost");
    c.acquire(2);
    let id = format!("o{}", c.keys);
    let genesis = LogId([2; 16]);
    let opened = Opened { id, session: 5, lease_ms: LEASE_MS, in_flight_max: 64, genesis, partitions: 1 };
    c.hear(5, Some(5), ReplyBody::Opened(opened));
    assert_eq!(c.core.session().map(|(session, _)| session), Some(5));
}

#[test]
fn after_a_reconnect_everything_unanswered_is_sent_again_with_its_number() {
    let mut c = Script::held(None);
    c.acquire(2);
    c.acquire(3);
    c.queued(3, 113);
    c.release(1);
    c.disconnect();
    c.sent.clear();
    c.pass(SECOND);
    assert!(c.sent.is_empty());
    c.connect();
    assert_eq!(c.attached(), [1]);
    assert_eq!(c.released(), [110]);
    assert_eq!(c.acquired(), [2]);
    // Last, so that its `alive` knows of all before it.
    assert!(matches!(c.sent[..], [RequestBody::KeepAlive(_)]));
    assert!(!c.core.settled());
    c.alive(1, 120, &[], &[(2, 1), (3, 2)]);
    assert!(c.core.settled());
}

#[test]
fn what_is_not_answered_is_repeated_with_backoff() {
    let mut c = Script::asked(None);
    c.pass(50 * SECOND);
    let repeats = c.acquired().len();
    assert!((4..10).contains(&repeats), "{repeats}");
}

#[test]
fn an_overdue_alive_wants_a_fresh_connection_once() {
    let mut c = Script::held(None);
    c.pass(25 * SECOND);
    assert_eq!(c.attach_wanted, [true]);
    c.connect();
    assert_eq!(c.attached(), [1]);
    c.alive(2, 111, &[(1, 110)], &[]);
    c.pass(14 * SECOND);
    assert_eq!(c.attach_wanted, [true]);
}

#[test]
fn suspended_requests_are_answered_with_the_next_attach() {
    let mut c = Script::asked(None);
    c.queued(1, 105);
    c.pass(15 * SECOND);
    let alive = Alive {
        n: 1,
        held: Vec::new(),
        revoked: Vec::new(),
        attached: 0,
        suspended: vec![1],
        positions: vec![(1, 1)],
    };
    c.hear(111, Some(SESSION), ReplyBody::Alive(alive.clone()));
    assert_eq!(c.attach_wanted, [false]);
    c.connect();
    assert_eq!(c.attached(), [1]);
    // Still as of before the attach arrived.
    c.hear(112, Some(SESSION), ReplyBody::Alive(alive));
    assert_eq!(c.attach_wanted, [false]);
}

#[test]
fn what_the_arbiter_has_and_nobody_wants_is_given_back_and_withdrawn() {
    let mut c = Script::held(None);
    c.acquire(2);
    c.queued(2, 112);
    c.core.cancel(c.now, 2);
    c.release(1);
    c.sent.clear();
    c.pass(15 * SECOND);
    let last = *c.kept_alive().last().unwrap();
    c.alive(last, 120, &[], &[]);
    assert!(c.core.requests.is_empty());
    c.sent.clear();
    // An older copy of both, long after they were thought to be over.
    c.alive(9, 120, &[(1, 110)], &[(2, 1)]);
    assert_eq!((c.released(), c.cancelled()), (vec![110], vec![2]));
}

#[test]
fn too_many_requests_wait_in_the_library() {
    let mut c = Script::new(None);
    c.acquire(1);
    c.opened_as(SESSION, 2);
    c.acquire(2);
    c.acquire(3);
    assert_eq!(c.acquired(), [1, 2]);
    c.hear(110, Some(SESSION), refused(Some(1), None, Reason::OverCapacity));
    assert_eq!(c.acquired(), [3]);
    let end = End::Refused { reason: Reason::OverCapacity, detail: String::new() };
    assert!(c.events.contains(&Event::Ended { request: 1, end }));
}

#[test]
fn a_wait_limit_goes_on_where_a_session_ended_and_is_kept_without_an_arbiter() {
    let mut c = Script::new(None);
    let ask = Ask {
        claims: vec![Claim::exclusive(ResourceName::new("r").unwrap())],
        wait: Some(Duration::from_secs(30)),
        ..Ask::default()
    };
    c.core.acquire(c.now, 1, ask);
    c.drain();
    c.opened();
    c.queued(1, 105);
    c.sent.clear();
    c.pass(10 * SECOND);
    c.session_ended(Reason::LeaseExpired);
    c.opened_as(600, 64);
    let waits = c.take(|body| match body {
        RequestBody::Acquire(acquire) => Some(acquire.wait_ms),
        _ => None,
    });
    assert_eq!(waits, [Some(20_000)]);
    c.disconnect();
    c.pass(22 * SECOND);
    assert!(c.core.requests.contains_key(&1));
    c.pass(2 * SECOND);
    assert!(c.events.contains(&Event::Ended { request: 1, end: End::NoAnswer }));
}

#[test]
fn an_answer_by_number_ends_what_was_asked_again() {
    let mut c = Script::asked(None);
    c.queued(1, 105);
    c.pass(15 * SECOND);
    c.alive(1, 111, &[], &[]);
    c.hear(112, Some(SESSION), ReplyBody::Ended(Ended { seq: 1, reason: Reason::WaitLimit }));
    assert!(c.events.contains(&Event::Ended { request: 1, end: End::Ended(Reason::WaitLimit) }));
    assert!(c.core.requests.is_empty());
}

/// Of a request that was withdrawn on an earlier connection, and heard late: on another one, an `alive` has said by
/// then that it is over. What was asked for since has nothing to do with it.
#[test]
fn an_answer_by_an_unknown_token_ends_no_other_request() {
    let mut c = Script::asked(None);
    c.release(1);
    c.pass(2 * SECOND);
    let n = c.kept_alive().pop().unwrap();
    c.alive(n, 120, &[], &[]);
    assert!(c.events.contains(&Event::Settled { request: 1, reason: Reason::Cancelled }));
    c.acquire(2);
    c.pass(3 * SECOND);
    assert!(c.acquired().len() > 1, "it has been asked again");
    c.granted(1, 110);
    let released = Released { token: 110, reason: Reason::Cancelled };
    c.hear(115, Some(SESSION), ReplyBody::Released(released));
    assert!(!c.events.iter().any(|event| matches!(event, Event::Ended { .. })), "{:?}", c.events);
    assert!(c.released().is_empty() && c.core.requests.contains_key(&2));
}

#[test]
fn closing_loses_everything_first() {
    let mut c = Script::held(None);
    c.acquire(2);
    c.core.close(c.now);
    c.drain();
    assert!(!c.believes(110));
    assert!(c.sent.iter().any(|body| matches!(body, RequestBody::Close(_))));
    assert!(c.events.contains(&Event::Lost { request: 1, token: 110, reason: Reason::Closed }));
    assert!(c.events.contains(&Event::Ended { request: 2, end: End::Closed }));
    c.session_ended(Reason::Closed);
    assert!(c.events.contains(&Event::Closed));
    assert_eq!(c.core.next_wake(), None);
}

#[test]
fn shutting_down_is_no_answer() {
    let mut c = Script::asked(None);
    c.hear(105, Some(SESSION), refused(Some(1), None, Reason::ShuttingDown));
    c.disconnect();
    c.connect();
    assert_eq!(c.acquired(), [1]);
}

/// Found by the simulator: the address may be gone without the client's knowing, also before there is a session.
#[test]
fn an_open_at_which_nothing_is_heard_wants_another_address() {
    let mut c = Script::new(None);
    c.acquire(1);
    c.pass(4 * SECOND);
    assert!(c.attach_wanted.is_empty(), "an arbiter may be slow");
    c.pass(10 * SECOND);
    assert_eq!(c.attach_wanted, [true]);
    let before = c.opens();
    c.connect();
    assert_eq!(c.opens(), 1, "sent again at once, to the new address ({before} before)");
    assert_eq!(c.attach_wanted, [true], "and nothing more is wanted for a while");
    assert!(!c.core.settled(), "the first address may be the session's");
    c.opened();
    assert!(c.attached().contains(&1));
}

#[test]
fn a_wait_limit_that_is_over_for_want_of_room_is_not_the_arbiters_silence() {
    for answers in [true, false] {
        let mut c = Script::new(None);
        c.acquire(1);
        c.opened_as(SESSION, 1);
        c.granted(1, 110);
        let claims = vec![Claim::exclusive(ResourceName::new("r").unwrap())];
        c.core.acquire(c.now, 2, Ask { claims, wait: Some(Duration::from_secs(30)), ..Ask::default() });
        c.drain();
        c.pass(16 * SECOND);
        if answers {
            c.alive(1, 111, &[(1, 110)], &[]);
        }
        c.pass(15 * SECOND);
        if answers {
            c.alive(2, 112, &[(1, 110)], &[]);
        }
        c.pass(3 * SECOND);
        let end = if answers { End::Ended(Reason::WaitLimit) } else { End::NoAnswer };
        assert!(c.events.contains(&Event::Ended { request: 2, end }), "{answers}: {:?}", c.events);
    }
}

/// The lease says by when nothing is left at the arbiter. Once it is over there is nothing more to wait for.
#[test]
fn who_withdraws_after_a_lapse_is_not_kept_waiting_by_an_arbiter_that_says_nothing() {
    let mut c = Script::asked(None);
    c.queued(1, 105);
    c.pass(58 * SECOND);
    assert_eq!(c.core.deadline(c.now), None, "the lease is over, the connection is not");
    c.release(1);
    assert!(c.events.contains(&Event::Settled { request: 1, reason: Reason::Cancelled }), "{:?}", c.events);
    assert!(c.sent.iter().any(|body| matches!(body, RequestBody::Cancel(_))), "it is said all the same");
}
