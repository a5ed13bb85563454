//! The golden log in `client/protocol/golden/log/0/`: a history with every kind of command and event, valid under
//! every rule of `client/protocol/log.md`. `UPDATE=1` writes it anew; a difference is a change of the format.

#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it must be")]

use arbiterq::audit::verify::verify_folder;
use arbiterq::log::chain::{ChainTip, Sealed, hash_of};
use arbiterq::log::record::{Command, Event, Record};
use arbiterq::state::{State, decide, snapshot};
use arbiterq_client::wire::{Reason, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// Where the second segment begins.
const SECOND_SEGMENT: u64 = 33;
const KEY: &str = "0123456789abcdef0123456789abcdef";
const A: u64 = 2;
const B: u64 = 5;
const C: u64 = 6;
const BACKUP: &str = "db/backup";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../client/protocol/golden/log/0")
}

/// So many milliseconds after the genesis.
fn at(ms: u64) -> Timestamp {
    let genesis: Timestamp = "2026-11-22T14:00:00.000000Z".parse().unwrap();
    genesis.plus_ms(ms)
}

struct Builder {
    tip: ChainTip,
    epoch: u64,
    records: Vec<Sealed>,
}

impl Builder {
    /// Seals the next record; its index is the one that the story says.
    fn push(&mut self, index: u64, ms: u64, renewed: Value, command: Value, events: Value) {
        assert_eq!(index, self.tip.next_index, "the story counts wrong");
        let record: Record = serde_json::from_value(json!({
            "index": index, "prev": self.tip.hash, "epoch": self.epoch, "at": at(ms),
            "renewed": renewed, "command": command, "events": events,
        }))
        .unwrap_or_else(|e| panic!("record {index}: {e}"));
        let sealed = Sealed::new(record);
        assert!(self.tip.extend(std::slice::from_ref(&sealed)));
        self.records.push(sealed);
    }

    fn then(&mut self, index: u64, ms: u64, command: Value, events: Value) {
        self.push(index, ms, json!([]), command, events);
    }

    /// An `acquire` and its one event, which says the same with more.
    fn acquire(&mut self, index: u64, ms: u64, asked: Value, kind: &str, more: Value) {
        let mut event = asked.clone();
        let keep = |name: &str| kind != "refused" || name == "session" || name == "seq";
        event.as_object_mut().unwrap().retain(|name, _| keep(name));
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.then(index, ms, json!({"acquire": asked}), json!([{kind: event}]));
    }
}

fn exclusive(resource: &str) -> Value {
    json!([{"resource": resource, "mode": "exclusive"}])
}

fn permits(permits: u32) -> Value {
    json!([{"resource": "{order-7}/workers", "mode": "permits", "permits": permits}])
}

/// Claims as granted.
fn held(claims: &Value, capacity: u32, floors: &[u64]) -> Value {
    let granted = claims.as_array().unwrap().iter().zip(floors).map(|(claim, floor)| {
        let mut claim = claim.clone();
        claim["capacity"] = json!(capacity);
        claim["floor"] = json!(floor);
        claim
    });
    granted.collect()
}

fn open(key: &str, lease_ms: u64, more: Value) -> Value {
    let mut open = json!({
        "key_hash": hash_of(key.as_bytes()), "lease_ms": lease_ms, "label": "ci-12@runner-3",
        "principal": "anonymous", "principal_by": "nobody",
    });
    open.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    open
}

fn opened(open: &Value, lease_ms: u64, in_flight_max: u32) -> Value {
    let mut opened = open.clone();
    opened["lease_ms"] = json!(lease_ms);
    opened["in_flight_max"] = json!(in_flight_max);
    json!([{"opened": opened}])
}

fn policy(capacity: u32, backup_only_for: Option<&str>) -> Value {
    let mut rules = vec![
        json!({"pattern": "{order-7}/workers", "capacity": capacity}),
        json!({"pattern": "{order-7}/printer*", "hold_max_ms": 60_000, "lock_delay_ms": 2000}),
        json!({"pattern": "*/ops/*", "allow": ["uid:1000"]}),
        json!({"pattern": "*", "waiters_max": 1000}),
    ];
    rules.extend(backup_only_for.map(|only| json!({"pattern": BACKUP, "allow": [only]})));
    // The first that matches is the resource's.
    rules.rotate_right(backup_only_for.map_or(0, |_| 1));
    json!({"sessions_max": 100, "in_flight_max": 8, "lease_ms_max": 30_000, "rules": rules})
}

/// The first epoch: sessions, waiting, every way a request can end, two revocations, a suspension.
fn first_epoch(log: &mut Builder) {
    let genesis = json!({
        "format": 1, "log_id": "6f1c0e9a5b7d4c3e8a2b1d0f9e8c7b6a", "partition": 0, "partitions": 2,
        "first_index": 0, "after": [],
    });
    log.then(0, 0, json!("create"), json!([{"genesis": genesis}]));
    log.epoch = 1;
    let epoch = json!({"epoch": 1, "incarnation": "00112233445566778899aabbccddeeff", "rules": 1});
    log.then(1, 1, json!("activate"), json!([{"epoch_started": epoch}]));
    let a = open(KEY, 60_000, json!({"reply_to": "direct.5f0c1d2e3b4a6978.1"}));
    log.then(A, 1000, json!({"open": a}), opened(&a, 60_000, 64));
    // Characters beyond ASCII, and ones that JSON escapes.
    let asked = json!({
        "session": A, "seq": 1, "claims": exclusive(BACKUP), "wait_ms": 30_000,
        "reason": "v42 – \"Müller\"",
    });
    let claims = held(&asked["claims"], 1, &[3]);
    let mut granted = asked.clone();
    granted["claims"] = claims;
    log.push(3, 2532, json!([[A, 1]]), json!({"acquire": asked}), json!([{"granted": granted}]));
    log.then(4, 2600, json!("policy"), json!([{"policy": policy(5, None)}]));
    let b = json!({"fail_fast_ms": 5000, "label": "backup", "principal": "uid:1000", "principal_by": "unix_peer"});
    let b = open("the-key-of-session-5-which-is-secret", 10_000, b);
    log.then(B, 2700, json!({"open": b}), opened(&b, 10_000, 8));
    let c = json!({"label": "tests", "principal": "in-process", "principal_by": "in_process", "reply_to": "direct.5f0c1d2e3b4a6978.3"});
    let c = open("the-key-of-session-6-which-is-secret", 120_000, c);
    log.then(C, 2800, json!({"open": c}), opened(&c, 30_000, 8));

    let asked = json!({
        "session": B, "seq": 1, "claims": exclusive(BACKUP), "wait_ms": 20_000, "hold_max_ms": 600_000,
        "value": "host-3:8080",
    });
    log.acquire(7, 3000, asked, "queued", json!({"priority": 0}));
    let asked = json!({"session": C, "seq": 1, "claims": exclusive(BACKUP), "priority": 5});
    log.acquire(8, 3100, asked, "queued", json!({}));
    let shared = json!([{"resource": BACKUP, "mode": "shared"}]);
    let asked = json!({"session": C, "seq": 2, "claims": shared, "wait_ms": 0});
    log.acquire(9, 3200, asked, "refused", json!({"reason": "busy"}));
    let asked = json!({"session": A, "seq": 2, "claims": permits(3)});
    log.acquire(10, 3300, asked, "granted", json!({"claims": held(&permits(3), 5, &[10])}));
    let asked = json!({"session": B, "seq": 2, "claims": permits(2)});
    log.acquire(11, 3400, asked, "granted", json!({"claims": held(&permits(2), 5, &[10])}));
    let asked = json!({"session": C, "seq": 3, "claims": permits(1), "wait_ms": 3000});
    log.acquire(12, 3500, asked, "queued", json!({"priority": 0}));
    // Two claims at once, for the owner of session A's first request.
    let two = json!([
        {"resource": "{order-7}/stock", "mode": "shared"}, {"resource": "{order-7}/invoice", "mode": "exclusive"},
    ]);
    let asked = json!({"session": B, "seq": 3, "claims": two, "owner": [A, 1]});
    log.acquire(13, 3600, asked, "granted", json!({"claims": held(&two, 1, &[13, 13])}));
    let stock = json!([{"resource": "{order-7}/stock", "mode": "shared"}]);
    let asked = json!({"session": A, "seq": 3, "claims": stock});
    log.acquire(14, 3700, asked, "granted", json!({"claims": held(&stock, 1, &[13])}));
    let asked = json!({"session": A, "seq": 4, "claims": exclusive("{order-7}/ops/1")});
    log.acquire(15, 3800, asked, "refused", json!({"reason": "not_allowed"}));
    let asked = json!({"session": A, "seq": 5, "claims": permits(6)});
    log.acquire(16, 3900, asked, "refused", json!({"reason": "over_capacity"}));
    let asked = json!({"session": A, "seq": 6, "claims": exclusive(BACKUP), "owner": [A, 1]});
    log.acquire(17, 4000, asked, "refused", json!({"reason": "held"}));
    let asked = json!({"session": C, "seq": 4, "claims": exclusive("db/migrate")});
    log.acquire(18, 4100, asked, "refused", json!({"reason": "wrong_partition"}));

    let release = json!({"release": {"session": A, "token": 3}});
    log.then(19, 4200, release, json!([{"released": {"token": 3, "reason": "released"}}]));
    // The higher priority first; nobody is there to see it; the next one; it is there again.
    let c1 = |floor: u64| json!([{"granted": {"session": C, "seq": 1, "claims": held(&exclusive(BACKUP), 1, &[floor]), "priority": 5}}]);
    log.then(20, 4201, json!("advance"), c1(20));
    let gone = json!({"gone": {"session": C, "n": 0, "seq": 1, "cause": "returned"}});
    log.then(21, 4300, gone, json!([{"suspended": {"session": C, "seq": 1, "token": 20}}]));
    let granted = json!({
        "session": B, "seq": 1, "claims": held(&exclusive(BACKUP), 1, &[22]), "hold_max_ms": 600_000,
        "wait_ms": 20_000, "value": "host-3:8080",
    });
    log.then(22, 4301, json!("advance"), json!([{"granted": granted}]));
    let attach = json!({"session": C, "n": 1, "reply_to": "direct.5f0c1d2e3b4a6978.4"});
    log.then(23, 4400, json!({"attach": attach}), json!([{"attached": attach}]));
    let force = json!({"resource": BACKUP, "token": 22, "reason": "runner-3 is on fire", "by": "uid:0"});
    let revoking = json!({"token": 22, "reason": "forced", "by": "uid:0", "until": at(14_500)});
    log.then(24, 4500, json!({"force_release": force}), json!([{"revoking": revoking}]));
    let release = json!({"release": {"session": B, "token": 22}});
    log.then(25, 4600, release, json!([{"released": {"token": 22, "reason": "forced", "by": "uid:0"}}]));
    log.then(26, 4601, json!("advance"), c1(26));
    let cancel = |seq: u64| json!({"cancel": {"session": C, "seq": seq}});
    log.then(27, 4700, cancel(1), json!([{"released": {"token": 26, "reason": "cancelled"}}]));
    log.then(28, 4800, cancel(9), json!([{"ended": {"session": C, "seq": 9, "reason": "cancelled"}}]));
    log.push(29, 6000, json!([[A, 2], [B, 1], [C, 1]]), json!("barrier"), json!([]));
    let ended = json!([{"ended": {"session": C, "seq": 3, "reason": "wait_limit"}}]);
    log.then(30, 6502, json!({"tick": {"at": at(6500)}}), ended);
    let printer = exclusive("{order-7}/printer/1");
    let asked = json!({"session": B, "seq": 4, "claims": printer, "hold_max_ms": 1000});
    log.acquire(31, 6600, asked, "granted", json!({"claims": held(&printer, 1, &[31])}));
    let revoking = json!([{"revoking": {"token": 31, "reason": "hold_limit", "until": at(17_602)}}]);
    log.then(32, 7602, json!({"tick": {"at": at(7600)}}), revoking);
    // The body itself is not kept here; whoever replays arrives at its hash.
    let mut state = State::new(ChainTip::before(0));
    log.records[..=20].iter().for_each(|sealed| state.fold(sealed));
    let body = hash_of(&snapshot::write(&state));
    log.then(33, 8000, json!("checkpoint"), json!([{"checkpoint": {"of": 20, "hash": body}}]));
}

/// After a takeover 5 s later: delays, a pause, an unreachable session, every end of a session, another policy.
fn second_epoch(log: &mut Builder) {
    log.epoch = 2;
    let epoch = json!({"epoch": 2, "incarnation": "ffeeddccbbaa99887766554433221100", "rules": 1});
    log.then(34, 13_000, json!("activate"), json!([{"epoch_started": epoch}]));
    log.push(35, 20_000, json!([[A, 3], [B, 2], [C, 2]]), json!("barrier"), json!([]));
    // The revocation of 31 went to 17.602 s, and by the gap of 5 s to 22.602 s.
    let lost = json!([
        {"released": {"token": 31, "reason": "hold_limit"}},
        {"delayed": {"resource": "{order-7}/printer/1", "until": at(24_605)}},
    ]);
    log.then(36, 22_605, json!({"tick": {"at": at(22_602)}}), lost);
    let printer = exclusive("{order-7}/printer/1");
    let asked = json!({"session": A, "seq": 7, "claims": printer});
    log.acquire(37, 23_000, asked, "queued", json!({"priority": 0}));
    let why = json!({"reason": "maintenance", "by": "uid:0"});
    log.then(38, 24_000, json!({"pause": why}), json!([{"paused": why}]));
    // The delay is over, but granting is paused.
    log.push(39, 25_000, json!([[B, 3]]), json!({"tick": {"at": at(24_999)}}), json!([]));
    log.then(40, 26_000, json!({"resume": why}), json!([{"resumed": why}]));
    let granted = json!({"session": A, "seq": 7, "claims": held(&printer, 1, &[41]), "hold_max_ms": 60_000});
    log.then(41, 26_001, json!("advance"), json!([{"granted": granted}]));
    let gone = json!({"gone": {"session": B, "n": 0, "cause": "returned"}});
    log.then(42, 27_000, gone, json!([{"unreachable": {"session": B, "n": 0}}]));
    let ended =
        |session: u64, reason: &str| json!([{"session_ended": {"session": session, "reason": reason}}]);
    log.then(43, 32_003, json!({"tick": {"at": at(32_000)}}), ended(B, "fail_fast"));
    let force = json!({
        "resource": "{order-7}/printer/1", "token": 41, "reason": "paper jam", "by": "uid:0", "now": true,
    });
    let lost = json!([
        {"released": {"token": 41, "reason": "forced", "by": "uid:0"}},
        {"delayed": {"resource": "{order-7}/printer/1", "until": at(35_000)}},
    ]);
    log.then(44, 33_000, json!({"force_release": force}), lost);
    let asked = json!({"session": C, "seq": 10, "claims": exclusive(BACKUP)});
    log.acquire(45, 34_000, asked, "granted", json!({"claims": held(&exclusive(BACKUP), 1, &[45])}));
    let asked = json!({"session": A, "seq": 8, "claims": exclusive(BACKUP)});
    log.acquire(46, 34_100, asked, "queued", json!({"priority": 0}));
    // Who waits and is not allowed any more is told so at its turn; who holds keeps what it has.
    log.then(47, 34_200, json!("policy"), json!([{"policy": policy(1, Some("in-process"))}]));
    let release = json!({"release": {"session": C, "token": 45}});
    log.then(48, 34_300, release, json!([{"released": {"token": 45, "reason": "released"}}]));
    let policy_ended = json!([{"ended": {"session": A, "seq": 8, "reason": "policy"}}]);
    log.then(49, 34_301, json!("advance"), policy_ended);
    let gone = json!({"gone": {"session": A, "n": 0, "cause": "closed"}});
    log.then(50, 35_000, gone, ended(A, "connection_closed"));
    let asked = json!({"session": C, "seq": 11, "claims": exclusive(BACKUP)});
    log.acquire(51, 36_000, asked, "granted", json!({"claims": held(&exclusive(BACKUP), 1, &[51])}));
    // Heard last at 20 s, and its lease is 30 s.
    log.then(52, 50_004, json!({"tick": {"at": at(50_000)}}), ended(C, "lease_expired"));
    let d = open("the-key-of-session-53-which-is-secret", 30_000, json!({}));
    log.then(53, 51_000, json!({"open": d}), opened(&d, 30_000, 8));
    let asked = json!({"session": 53, "seq": 1, "claims": permits(1)});
    log.acquire(54, 51_100, asked, "granted", json!({"claims": held(&permits(1), 1, &[54])}));
    log.then(55, 52_000, json!({"close": {"session": 53}}), ended(53, "closed"));
    let next = json!([{"closed": {"next": "0f1e2d3c4b5a69788796a5b4c3d2e1f0"}}]);
    log.then(56, 53_000, json!("finish"), next);
}

fn golden() -> Vec<Sealed> {
    let mut log = Builder { tip: ChainTip::before(0), epoch: 0, records: Vec::new() };
    first_epoch(&mut log);
    second_epoch(&mut log);
    log.records
}

/// The files of the folder.
fn files(records: &[Sealed]) -> Vec<(String, Vec<u8>)> {
    let lines = |records: &[Sealed]| records.iter().flat_map(|r| [&r.line[..], b"\n"].concat()).collect();
    let (first, second) = records.split_at(SECOND_SEGMENT as usize);
    let tip = records.last().unwrap();
    let mark = json!({"index": tip.record.index, "hash": tip.hash});
    // By hand: the order of the fields is the format's.
    let mark = format!("{{\"index\":{},\"hash\":{}}}", mark["index"], mark["hash"]);
    vec![
        (format!("{:020}.log", 0), lines(first)),
        (format!("{SECOND_SEGMENT:020}.log"), lines(second)),
        ("durable".to_owned(), format!("{mark:<127}\n").into_bytes()),
    ]
}

#[test]
fn the_log_is_written_as_the_golden_one() {
    let files = files(&golden());
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(folder()).unwrap();
        for (name, bytes) in &files {
            fs::write(folder().join(name), bytes).unwrap();
        }
    }
    for (name, bytes) in &files {
        let golden = fs::read(folder().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(String::from_utf8_lossy(bytes), String::from_utf8_lossy(&golden), "{name}");
    }
    let names = fs::read_dir(folder()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let wanted: BTreeSet<_> = files.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.collect::<BTreeSet<_>>(), wanted);
}

#[test]
fn a_record_that_is_read_and_sealed_again_has_the_same_bytes() {
    for sealed in golden() {
        let read = Sealed::read(&sealed.line).unwrap();
        assert_eq!(read, sealed);
        assert_eq!(Sealed::new(read.record), sealed);
    }
}

#[test]
fn the_examples_of_the_document_are_its_first_records() {
    let document = folder().join("../../../log.md");
    let document = fs::read_to_string(document).unwrap();
    for sealed in &golden()[..4] {
        let line = std::str::from_utf8(&sealed.line).unwrap();
        let example = format!("```json\n{line}\n```\n{} bytes, SHA-256 `{}`\n", line.len(), sealed.hash);
        assert!(document.contains(&example), "not in log.md:\n{example}");
    }
}

#[test]
fn the_golden_log_is_verified() {
    if let Err(error) = verify_folder(&folder(), &mut |_| {}) {
        panic!("{error}");
    }
}

/// The state machine decides every command as the log says, and owes an `advance` where one follows.
#[test]
fn the_golden_log_is_decided_the_same_again() {
    let mut state = State::new(ChainTip::before(0));
    for sealed in golden() {
        let Record { index, at, renewed, command, events, .. } = &sealed.record;
        let given = matches!(
            command,
            Command::Create | Command::Activate | Command::Policy | Command::Checkpoint | Command::Finish
        );
        let owed = state.can_advance() && !matches!(command, Command::Activate);
        assert_eq!(owed, matches!(command, Command::Advance), "record {index}");
        state.renew(renewed, *at);
        if !given {
            assert_eq!(&decide(&state, command, *at), events, "record {index}");
        }
        state.apply(&sealed);
    }
    assert_eq!((state.sessions().count(), state.grants_in_force().count()), (0, 0));
}

/// The names of an enum's alternatives, from what its decoder says it expected.
fn kinds<T: serde::de::DeserializeOwned>() -> BTreeSet<String> {
    let error = serde_json::from_str::<T>(r#"{"no such kind":{}}"#).err().unwrap().to_string();
    let expected = error.split_once("expected").unwrap().1.to_owned();
    let names: BTreeSet<String> = expected.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(names.len() > 1, "{error}");
    names
}

fn kind_of(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value).unwrap() {
        Value::String(kind) => kind,
        Value::Object(fields) => fields.keys().next().unwrap().clone(),
        other => panic!("{other}"),
    }
}

#[test]
fn every_kind_of_command_and_event_is_in_it() {
    let log = golden();
    let commands: BTreeSet<String> = log.iter().map(|sealed| kind_of(&sealed.record.command)).collect();
    assert_eq!(commands, kinds::<Command>());
    let events: BTreeSet<String> = log.iter().flat_map(|sealed| &sealed.record.events).map(kind_of).collect();
    assert_eq!(events, kinds::<Event>());
}

#[test]
fn every_end_and_most_refusals_are_in_it() {
    use Reason as R;
    let log = golden();
    let said: BTreeSet<Reason> =
        log.iter().flat_map(|sealed| &sealed.record.events).filter_map(reason).collect();
    let wanted = [
        R::Busy,
        R::NotAllowed,
        R::OverCapacity,
        R::Held,
        R::WrongPartition,
        R::Released,
        R::Cancelled,
        R::WaitLimit,
        R::Policy,
        R::Forced,
        R::HoldLimit,
        R::FailFast,
        R::ConnectionClosed,
        R::LeaseExpired,
        R::Closed,
    ];
    assert_eq!(said, BTreeSet::from(wanted));
}

fn reason(event: &Event) -> Option<Reason> {
    match event {
        Event::Refused { reason, .. }
        | Event::Ended { reason, .. }
        | Event::Released { reason, .. }
        | Event::Revoking { reason, .. }
        | Event::SessionEnded { reason, .. } => Some(*reason),
        _ => None,
    }
}

#[test]
fn no_secret_is_in_it() {
    for sealed in golden() {
        let line = String::from_utf8(sealed.line).unwrap();
        assert!(!line.contains(KEY) && !line.contains("is-secret"), "{line}");
    }
}

/// Reading a line never panics, and what is read as a record is written again as one.
fn reading_is_total(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(sealed) = Sealed::read(bytes) {
        prop_assert_eq!(sealed.hash, hash_of(bytes));
        let again = Sealed::new(sealed.record.clone());
        prop_assert_eq!(Sealed::read(&again.line).unwrap().record, sealed.record);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn reading_a_damaged_record_never_panics(
        which in any::<proptest::sample::Index>(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let log = golden();
        let mut line = log[which.index(log.len())].line.clone();
        for (at, byte) in edits {
            let at = at.index(line.len());
            line[at] = byte;
        }
        reading_is_total(&line)?;
    }

    #[test]
    fn reading_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        reading_is_total(&bytes)?;
    }

    /// Any bit of any line: the chain breaks there or at the next record.
    #[test]
    fn a_flipped_bit_is_noticed(which in any::<proptest::sample::Index>(), at in any::<proptest::sample::Index>(), bit in 0..8u8) {
        let mut lines: Vec<Vec<u8>> = golden().into_iter().map(|sealed| sealed.line).collect();
        let marked = hash_of(lines.last().unwrap());
        let which = which.index(lines.len());
        let at = at.index(lines[which].len());
        lines[which][at] ^= 1 << bit;
        let mut tip = ChainTip::before(0);
        let all_count = lines.iter().all(|line| Sealed::read(line).is_ok_and(|sealed| tip.extend(&[sealed])));
        prop_assert!(!all_count || tip.hash != marked);
    }
}
