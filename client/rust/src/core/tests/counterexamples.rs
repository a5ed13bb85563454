//! One test a counterexample: the rule stands, and with the tempting rule planted the same scenario goes wrong.

use super::*;
use crate::wire::Ended;

/// The scenario says whether all is well: it must be with the rule, and must not be without.
fn shown_by(planted: Planted, well: impl Fn(Option<Planted>) -> bool) {
    assert!(well(None), "the rule does not hold");
    assert!(!well(Some(planted)), "the scenario does not notice {planted:?}");
}

#[test]
fn c09_the_lease_is_counted_from_sending() {
    shown_by(Planted::LeaseFromArrival, |planted| {
        let mut c = Script::held(planted);
        c.pass(15 * SECOND);
        assert_eq!(c.kept_alive(), [1]);
        // The answer is ten seconds late: belief ends 57 seconds after the sending all the same.
        c.pass(10 * SECOND);
        c.alive(1, 111, &[(1, 110)], &[]);
        c.pass(47 * SECOND);
        !c.believes(110)
    });
}

#[test]
fn c10_an_alive_confirms_the_keep_alive_that_it_names() {
    shown_by(Planted::AliveConfirmsTheLatest, |planted| {
        let mut c = Script::held(planted);
        c.pass(30 * SECOND);
        assert_eq!(c.kept_alive(), [1, 2]);
        c.alive(1, 111, &[(1, 110)], &[]);
        // Sent at 15; the second, sent at 30, is still on its way.
        c.pass(42 * SECOND);
        !c.believes(110)
    });
}

#[test]
fn c11_a_granted_for_what_is_over_is_released() {
    shown_by(Planted::AnyGrantedBelieved, |planted| {
        let mut c = Script::asked(planted);
        c.pass(58 * SECOND);
        // The lease is over: a late grant waits for an `alive`.
        c.granted(1, 110);
        !c.believes(110)
    });
    let mut c = Script::held(None);
    c.release(1);
    assert_eq!(c.released(), [110]);
    assert!(!c.believes(110), "from the sending on");
    c.hear(111, Some(SESSION), ReplyBody::Released(Released { token: 110, reason: Reason::Released }));
    c.granted(1, 110);
    assert!(!c.believes(110));
    assert_eq!(c.released(), [110]);
    // The same after a cancel that crossed with the grant.
    let mut c = Script::asked(None);
    c.core.cancel(c.now, 1);
    c.drain();
    assert_eq!(c.cancelled(), [1]);
    c.granted(1, 110);
    assert!(!c.believes(110));
    assert_eq!(c.released(), [110]);
}

#[test]
fn c12_only_an_alive_for_a_keep_alive_sent_since_ends_a_lapse() {
    shown_by(Planted::AnyAliveRevives, |planted| {
        let mut c = Script::held(planted);
        c.pass(58 * SECOND);
        let sent = c.kept_alive();
        assert!(sent.len() >= 4);
        // The answer to what was sent at 45, before the lapse.
        c.alive(3, 111, &[(1, 110)], &[]);
        !c.believes(110)
    });
}

#[test]
fn c12_what_was_held_at_the_lapse_stays_lost_and_what_waited_stays() {
    let mut c = Script::held(None);
    c.acquire(2);
    assert_eq!(c.acquired(), [2]);
    c.queued(2, 112);
    c.pass(58 * SECOND);
    let lost = Event::Lost { request: 1, token: 110, reason: Reason::LeaseExpired };
    assert!(c.events.contains(&lost));
    let last = *c.kept_alive().last().unwrap();
    c.alive(last, 120, &[(1, 110)], &[(2, 1)]);
    assert!(!c.believes(110));
    // The second waits on in the same session, and is granted.
    c.granted(2, 121);
    assert!(c.believes(121));
    assert_eq!(c.opens(), 0);
}

#[test]
fn c19_a_revocation_counts_though_the_grant_was_not_seen() {
    shown_by(Planted::UnseenRevocationIgnored, |planted| {
        let mut c = Script::asked(planted);
        c.lost(110, 111);
        c.granted(1, 110);
        !c.believes(110) && c.released() == [110]
    });
}

#[test]
fn c24_who_fails_fast_counts_the_shorter_time() {
    shown_by(Planted::FailFastNotCounted, |planted| {
        let mut c = Script::with(planted, Some(10_000));
        c.acquire(1);
        c.opened();
        c.granted(1, 110);
        assert!(c.believes(110));
        c.pass(9_500_000);
        !c.believes(110)
    });
}

#[test]
fn c28_a_waiting_request_found_in_held_is_held() {
    shown_by(Planted::HeldTellsNothing, |planted| {
        let mut c = Script::asked(planted);
        c.queued(1, 105);
        c.pass(15 * SECOND);
        // `granted` was lost. Its floors and receipt are asked for with the request's own number.
        c.alive(1, 111, &[(1, 110)], &[]);
        if c.acquired() != [1] {
            return false;
        }
        c.granted(1, 110);
        c.believes(110)
    });
}

#[test]
fn c36_the_lease_runs_from_the_first_sending_of_open() {
    shown_by(Planted::LatestOpenCounts, |planted| {
        let mut c = Script::new(planted);
        c.acquire(1);
        c.pass(20 * SECOND);
        assert!(c.opens() > 1, "it was repeated");
        c.opened();
        c.granted(1, 110);
        assert!(c.believes(110));
        // Without word from the arbiter, 57 seconds after the first.
        c.pass(37 * SECOND);
        !c.believes(110)
    });
}

#[test]
fn c45_an_alive_judges_up_to_its_index() {
    shown_by(Planted::AliveJudgesBeyondItsIndex, |planted| {
        let mut c = Script::asked(planted);
        c.pass(15 * SECOND);
        c.granted(1, 110);
        c.alive(1, 109, &[], &[]);
        c.believes(110)
    });
    let mut c = Script::held(None);
    c.pass(15 * SECOND);
    c.alive(1, 110, &[], &[]);
    assert!(!c.believes(110), "missing as of its own record");
    assert_eq!(c.events.iter().filter(|event| matches!(event, Event::Lost { .. })).count(), 1);
}

#[test]
fn c45_a_grant_that_an_alive_misses_is_over_whichever_copy_comes_later() {
    // Not seen before: it is asked what became of it, and a late copy on an earlier connection is no answer.
    let mut c = Script::asked(None);
    c.queued(1, 105);
    c.pass(15 * SECOND);
    c.alive(1, 120, &[], &[]);
    c.granted(1, 110);
    assert!(!c.believes(110));
    c.hear(121, Some(SESSION), ReplyBody::Ended(Ended { seq: 1, reason: Reason::HoldLimit }));
    assert!(c.events.contains(&Event::Ended { request: 1, end: End::Ended(Reason::HoldLimit) }));
    // Seen outside the lease: it never goes back to being asked for.
    let mut c = Script::asked(None);
    c.pass(58 * SECOND);
    let sent = c.kept_alive();
    c.granted(1, 110);
    c.alive(*sent.last().unwrap(), 120, &[], &[]);
    assert!(c.events.contains(&Event::Ended { request: 1, end: End::Lost(Reason::Ended) }));
    c.granted(1, 110);
    assert!(!c.believes(110));
}

#[test]
fn c49_no_number_is_w_or_more_above_the_lowest_unanswered() {
    shown_by(Planted::WindowIgnored, |planted| {
        let mut c = Script::new(planted);
        c.acquire(1);
        c.opened_as(SESSION, 4);
        // The first is never answered; the others come and go.
        let mut highest = 1;
        for request in 2..20 {
            c.acquire(request);
            for seq in c.acquired() {
                highest = highest.max(seq);
                if seq > 1 {
                    c.granted(seq, 110 + seq);
                    c.release(request);
                    let released = Released { token: 110 + seq, reason: Reason::Released };
                    c.hear(200, Some(SESSION), ReplyBody::Released(released));
                }
            }
        }
        highest <= 4
    });
}

#[test]
fn c50_a_waiter_in_neither_list_is_asked_again() {
    shown_by(Planted::AbsenceTellsNothing, |planted| {
        let mut c = Script::asked(planted);
        c.queued(1, 105);
        c.pass(15 * SECOND);
        c.alive(1, 111, &[], &[]);
        c.acquired() == [1]
    });
    // As of before it was queued, its absence says nothing.
    let mut c = Script::asked(None);
    c.queued(1, 105);
    c.pass(15 * SECOND);
    c.alive(1, 104, &[], &[]);
    assert!(c.acquired().is_empty());
}

#[test]
fn c58_after_a_lapse_even_a_fresh_looking_grant_waits() {
    let mut c = Script::asked(None);
    c.queued(1, 105);
    c.pass(57 * SECOND);
    let sent = c.kept_alive();
    c.granted(1, 110);
    assert!(!c.believes(110));
    // Sent since the lapse: now it is held, without being asked again.
    c.alive(*sent.last().unwrap(), 111, &[(1, 110)], &[]);
    assert!(c.believes(110));
}
