//! What no planted rule breaks alone: that these checks can fail, too.

use super::{Ledger, evidence::Evidence, liveness, no_loss::NoLoss, on_the_record_first, once::Once};
use arbiterq::audit::replay::{Replay, checkpoints_of};
use arbiterq::audit::verify::Verifier;
use arbiterq::log::chain::{ChainTip, Sealed};
use arbiterq::log::file::FolderLines;
use arbiterq::log::record::{Command, Event, Record};
use arbiterq_client::wire::{Hash, Reason, Reply, Request};
use serde_json::{Value, json};
use std::sync::Arc;

/// A record of these events, the next of the log.
fn record(ledger: &Ledger, command: Command, events: &Value) -> Record {
    let events = serde_json::from_value(events.clone()).expect("events");
    let (index, prev) = (ledger.next_index(), ledger.records.last().map_or(Hash::default(), |last| last.0));
    let (at, renewed, upto) = (ledger.at, Vec::new(), None);
    Record { index, prev, epoch: 1, at, renewed, upto, command, events }
}

fn fold(ledger: &mut Ledger, events: &Value) {
    let sealed = Sealed::new(record(ledger, Command::Barrier, events));
    ledger.fold(&sealed);
}

/// Session 0, attached at `c1.1`: request 1 is refused, 2 is released, 3 waits, 4 holds with token 5 and is being
/// revoked.
fn ledger() -> Ledger {
    let mut ledger = Ledger::default();
    let claims = json!([{"resource": "r", "mode": "exclusive"}]);
    let granted = json!([{"resource": "r", "mode": "exclusive", "capacity": 1, "floor": 2}]);
    for event in [
        json!({"opened": {"key_hash": Hash::default(), "lease_ms": 60_000, "in_flight_max": 64, "label": "c",
            "principal": "anonymous", "principal_by": "nobody", "reply_to": "c1.1"}}),
        json!({"refused": {"session": 0, "seq": 1, "reason": "busy"}}),
        json!({"granted": {"session": 0, "seq": 2, "claims": granted}}),
        json!({"released": {"token": 2, "reason": "cancelled"}}),
        json!({"queued": {"session": 0, "seq": 3, "claims": claims, "priority": 0}}),
        json!({"granted": {"session": 0, "seq": 4, "claims": granted}}),
        json!({"revoking": {"token": 5, "reason": "forced", "by": "op", "until": "2026-11-22T14:02:11.532481Z"}}),
    ] {
        fold(&mut ledger, &json!([event]));
    }
    ledger
}

fn reply(body: &Value) -> Reply {
    let mut reply = json!({"v": 1, "partition": 0, "epoch": 1, "index": 6, "session": 0});
    reply.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    Reply::decode(reply.to_string().as_bytes()).expect("a reply").expect("a known one")
}

#[test]
fn an_answer_with_another_reason_than_the_records_is_another_answer() {
    let (ledger, once) = (ledger(), Once::default());
    let told = |body: Value| once.told(&ledger, &reply(&body)).is_ok();
    assert!(told(json!({"refused": {"seq": 1, "reason": "busy"}})));
    assert!(!told(json!({"refused": {"seq": 1, "reason": "not_allowed"}})));
    assert!(!told(json!({"refused": {"seq": 3, "reason": "busy"}})));
    assert!(told(json!({"released": {"token": 2, "reason": "cancelled"}})));
    assert!(!told(json!({"released": {"token": 2, "reason": "released"}})));
    assert!(told(json!({"ended": {"seq": 2, "reason": "cancelled"}})));
    assert!(!told(json!({"ended": {"seq": 2, "reason": "released"}})));
}

#[test]
fn an_alive_that_leaves_something_out_is_not_what_is_on_record() {
    let ledger = ledger();
    let told = |held: Value, revoked: Value, positions: Value| {
        let alive = json!({"n": 0, "held": held, "revoked": revoked, "attached": 0, "positions": positions});
        on_the_record_first::told(&ledger, &reply(&json!({"alive": alive}))).is_ok()
    };
    let (held, revoked, waits) = (json!([[4, 5]]), json!([[5, "forced"]]), json!([[3, 1]]));
    assert!(told(held.clone(), revoked.clone(), waits.clone()));
    assert!(!told(json!([]), json!([]), waits.clone()), "a grant is left out");
    assert!(!told(held.clone(), json!([]), waits), "its revocation is left out");
    assert!(!told(held, revoked, json!([])), "a waiter is left out");
}

#[test]
fn a_session_ends_with_a_cause() {
    let (ledger, mut no_loss) = (ledger(), NoLoss::default());
    let ends = |no_loss: &NoLoss, reason: &str| {
        let events = json!([{"session_ended": {"session": 0, "reason": reason}}]);
        no_loss.record(&ledger, &record(&ledger, Command::Barrier, &events)).is_ok()
    };
    assert!(ends(&no_loss, "lease_expired"));
    assert!(!ends(&no_loss, "closed") && !ends(&no_loss, "connection_closed") && !ends(&no_loss, "policy"));
    let close = json!({"v": 1, "partition": 0, "session": 0, "key": "0".repeat(32), "close": {}});
    no_loss.sent(&Request::decode(close.to_string().as_bytes()).expect("a request"));
    assert!(ends(&no_loss, "closed") && !ends(&no_loss, "connection_closed"));
    no_loss.connection_ended(&Arc::from("c1.2"));
    assert!(!ends(&no_loss, "connection_closed"), "that is another connection");
    no_loss.connection_ended(&Arc::from("c1.1"));
    assert!(ends(&no_loss, "connection_closed"));
}

#[test]
fn what_was_given_back_and_is_never_over_is_a_hang() {
    let mut left = liveness::Left::default();
    assert!(liveness::healed(&left).is_ok());
    left.unsettled.push("one".to_owned());
    assert!(liveness::healed(&left).is_err());
}

/// The golden log with one answer changed to another that a client may get, and chained again: to the verifier a sound
/// log, to the replay none.
#[test]
fn an_answer_that_the_rules_do_not_give_is_found_by_the_replay() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../client/protocol/golden/log/0");
    let mut lines = FolderLines::open(file.as_ref()).expect("a log");
    let mut records = Vec::new();
    while let Some(line) = lines.next().expect("a line") {
        records.push(Sealed::read(line.bytes).expect("a record").record);
    }
    let changed = records
        .iter()
        .position(|record| matches!(record.events[..], [Event::Refused { .. }]))
        .expect("a refusal");
    let read_along = |records: &[Record], replayed: bool| {
        let mut tip = ChainTip::before(0);
        let named: Vec<_> = records.iter().flat_map(checkpoints_of).collect();
        let replay = replayed.then(|| Replay::new(0, named));
        let mut evidence = Evidence::default();
        (evidence.verifier, evidence.replay) = (Some(Verifier::new()), replay);
        records.iter().try_for_each(|record| {
            let sealed = Sealed::new(Record { prev: tip.hash, ..record.clone() });
            assert!(tip.extend(std::slice::from_ref(&sealed)));
            evidence.record(&sealed)
        })
    };
    assert_eq!(read_along(&records, true), Ok(()));
    let Event::Refused { reason, .. } = &mut records[changed].events[0] else { unreachable!() };
    *reason = Reason::WaitersMax;
    assert_eq!(read_along(&records, false), Ok(()), "it breaks no promise");
    let broken = read_along(&records, true).expect_err("a difference");
    assert!(broken.what.starts_with(&format!("the replay: record {changed}: ")), "{broken:?}");
}
