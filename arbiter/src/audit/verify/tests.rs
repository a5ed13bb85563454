//! That a good log is verified, and that each promise can be seen broken.

mod folder;
mod mutations;
mod sources;
mod story;

use self::story::{A, B, C, Log, acquire, at, exclusive, granted, held, queued, story};
use super::{Live, Report, Verifier, Violation};
use serde_json::json;

fn verify(log: &Log) -> Result<Report, Violation> {
    let mut verifier = Verifier::new();
    for line in log.seal() {
        verifier.line(&line)?;
    }
    Ok(verifier.finish())
}

#[test]
fn a_log_with_every_kind_of_record_is_verified() {
    let report = verify(&story()).unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!((report.records, report.first_index, report.last_index), (55, 0, 54));
    assert_eq!((report.epochs, report.sessions, report.refusals), (2, 4, 1));
    assert_eq!((report.grants, report.waits, report.checkpoints), (11, 4, 1));
    assert_eq!(report.live, Live::default(), "nothing is kept of what is over");
    assert!(report.closed);
}

#[test]
fn every_beginning_of_a_good_log_is_a_good_log() {
    let lines = story().seal();
    for length in 0..=lines.len() {
        let mut verifier = Verifier::new();
        for line in &lines[..length] {
            verifier.line(line).unwrap_or_else(|violation| panic!("{violation}"));
        }
        assert_eq!(verifier.finish().records, length as u64);
    }
}

#[test]
fn a_report_reads_as_a_table_and_as_json() {
    let report = verify(&story()).unwrap();
    let text = report.to_string();
    assert!(text.ends_with("verified: 11 grants in order, no two grants overlap"), "{text}");
    assert!(text.contains("\nrecords      55, 0 to 54\n"), "{text}");
    assert!(text.contains("(25s)"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["live"]["held"], 0);
    assert_eq!(json["last_index"], 54);
}

#[test]
fn a_resource_lost_twice_in_a_record_is_delayed_once() {
    let shared = json!([{"resource": "delay/x", "mode": "shared"}]);
    let mut log = story();
    log.0.truncate(6);
    for (session, ms) in [(A, 20), (B, 30)] {
        log.push(
            1,
            ms,
            acquire(session, 1, shared.clone()),
            granted(session, 1, held("delay/x", "shared", None, 1, 6)),
        );
    }
    let ended = |session: u64| json!({"session_ended": {"session": session, "reason": "lease_expired"}});
    let delayed = json!({"delayed": {"resource": "delay/x", "until": at(10_600)}});
    log.push(1, 10_100, json!({"tick": {"at": at(10_050)}}), json!([ended(A), delayed, ended(B)]));
    verify(&log).unwrap_or_else(|violation| panic!("{violation}"));
    log.0[8]["events"] = json!([ended(A), delayed, ended(B), delayed]);
    assert_eq!(verify(&log).unwrap_err().index, 8);
    log.0[8]["events"] = json!([ended(A), ended(B)]);
    assert_eq!(verify(&log).unwrap_err().index, 8);
}

#[test]
fn what_may_happen_does() {
    // A policy that forbids what somebody waits for ends it at its turn, and the next one is granted.
    let mut log = story();
    log.0.truncate(8);
    log.replace(7, acquire(B, 1, exclusive("r")), queued(B, 1, exclusive("r")));
    log.push(1, 40, acquire(C, 1, exclusive("r")), queued(C, 1, exclusive("r")));
    log.push(1, 41, json!({"attach": {"session": C, "n": 1}}), json!([{"attached": {"session": C, "n": 1}}]));
    let mut policy = log.0[2]["events"].clone();
    policy[0]["policy"]["rules"] = json!([{"pattern": "r", "allow": ["nobody"], "hold_max_ms": 5}]);
    log.push(1, 42, json!("policy"), policy.clone());
    log.push(
        1,
        44,
        json!({"release": {"session": 3, "token": 6}}),
        json!([{"released": {"token": 6, "reason": "released"}}]),
    );
    log.push(1, 45, json!("advance"), json!([{"ended": {"session": B, "seq": 1, "reason": "policy"}}]));
    policy[0]["policy"]["rules"][0]["allow"] = json!(["p"]);
    log.push(1, 46, json!("policy"), policy);
    // The policy limits the hold; one lease after the epoch began a session can be unreachable.
    let mut event = granted(C, 1, held("r", "exclusive", None, 1, 14));
    event[0]["granted"]["hold_max_ms"] = json!(5);
    log.push(1, 47, json!("advance"), event);
    log.push(1, 20_002, json!("barrier"), json!([]));
    log.push(
        1,
        20_003,
        json!({"gone": {"session": C, "n": 1, "cause": "returned"}}),
        json!([{"unreachable": {"session": C, "n": 1}}]),
    );
    let report = verify(&log).unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!((report.live.held, report.live.waiting), (1, 0));
}
