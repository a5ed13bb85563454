//! The golden log told otherwise, here and there, and sealed anew: only the rules can find what is wrong, and both
//! verifiers have to, at the same record.

use super::{Cases, Step, value_at};
use arbiterq::log::chain::hash_of;
use arbiterq_client::wire::Timestamp;
use arbiterq_tests::verifiers::Verdict;
use serde_json::{Value, json};

/// What is told otherwise, what both say of it, and how it is told.
type Mutation = (&'static str, Verdict, fn(&mut Vec<Value>));

const fn bad(index: u64) -> Verdict {
    Verdict::FirstBad(index)
}

/// A moment of the golden log's hour.
fn at(seconds_micros: &str) -> Value {
    json!(format!("2026-11-22T14:00:{seconds_micros}Z"))
}

/// The fields of an event.
fn event(log: &mut [Value], index: usize, which: usize) -> &mut Value {
    let event = log[index]["events"][which].as_object_mut().unwrap();
    event.values_mut().next().unwrap()
}

/// The fields of a command.
fn command(log: &mut [Value], index: usize) -> &mut Value {
    log[index]["command"].as_object_mut().unwrap().values_mut().next().unwrap()
}

/// Another record at the same time and in the same epoch.
fn replace(log: &mut [Value], index: usize, command: Value, events: Value) {
    let record = log[index].as_object_mut().unwrap();
    for field in ["renewed", "events"] {
        record.remove(field);
    }
    if events != json!([]) {
        record.insert("events".into(), events);
    }
    record.insert("command".into(), command);
}

fn without(value: &mut Value, field: &str) {
    assert!(value.as_object_mut().unwrap().remove(field).is_some(), "{field}");
}

fn nothing_happens(log: &mut [Value], index: usize) {
    replace(log, index, json!("barrier"), json!([]));
}

/// A claim as it was granted.
fn held(resource: &str, token: usize) -> Value {
    json!([{"resource": resource, "mode": "exclusive", "capacity": 1, "floor": token}])
}

/// A request granted at once in the place of a record.
fn grants(log: &mut [Value], index: usize, session: u64, seq: u64, resource: &str) {
    let claims = json!([{"resource": resource, "mode": "exclusive"}]);
    let events = json!([{"granted": {"session": session, "seq": seq, "claims": held(resource, index)}}]);
    replace(log, index, json!({"acquire": {"session": session, "seq": seq, "claims": claims}}), events);
}

/// Session 5 with a lease that goes from the epoch to record 35, and nobody at its address then.
fn unreachable_one_lease_on(log: &mut [Value]) {
    command(log, 5)["lease_ms"] = json!(7000);
    event(log, 5, 0)["lease_ms"] = json!(7000);
    event(log, 24, 0)["until"] = at("11.500000");
    event(log, 32, 0)["until"] = at("14.602000");
    let (gone, unreachable) = (log[42]["command"].clone(), log[42]["events"].clone());
    replace(log, 35, gone, unreachable);
}

const PRINTER: &str = "{order-7}/printer/1";

const MUTATIONS: &[Mutation] = &[
    ("as it is", Verdict::Clean, |_| {}),
    // Events dropped, moved, swapped.
    ("a release that did not happen", bad(20), |log| without(&mut log[19], "events")),
    ("a session's end that did not happen", bad(54), |log| without(&mut log[43], "events")),
    ("a grant that did not happen", bad(10), |log| without(&mut log[10], "events")),
    ("an attach that did not happen", bad(26), |log| without(&mut log[23], "events")),
    ("a pause that did not happen", bad(40), |log| without(&mut log[38], "events")),
    ("a resume that did not happen", bad(41), |log| without(&mut log[40], "events")),
    ("a lost hold that delays nothing", bad(44), |log| drop(log[44]["events"].as_array_mut().unwrap().pop())),
    ("a release moved to the record before", bad(35), |log| {
        log[35]["events"] = json!([log[36]["events"][0]]);
        drop(log[36]["events"].as_array_mut().unwrap().remove(0));
    }),
    ("a delay moved to the record before", bad(43), |log| {
        let delayed = log[44]["events"].as_array_mut().unwrap().pop().unwrap();
        log[43]["events"].as_array_mut().unwrap().push(delayed);
    }),
    ("a delay before what is lost", bad(36), |log| log[36]["events"].as_array_mut().unwrap().reverse()),
    ("two advances swapped", bad(20), |log| {
        let events = log[20]["events"].take();
        log[20]["events"] = log[22]["events"].take();
        log[22]["events"] = events;
    }),
    ("two grants at once swapped", bad(13), |log| {
        for field in ["command", "events"] {
            let value = log[13][field].take();
            log[13][field] = log[14][field].take();
            log[14][field] = value;
        }
        event(log, 13, 0)["claims"][0]["floor"] = json!(14);
    }),
    ("an event doubled", bad(30), |log| {
        let ended = log[30]["events"][0].clone();
        log[30]["events"].as_array_mut().unwrap().push(ended);
    }),
    // What is granted to whom.
    ("a floor below", bad(14), |log| event(log, 14, 0)["claims"][0]["floor"] = json!(12)),
    ("a floor above", bad(11), |log| event(log, 11, 0)["claims"][0]["floor"] = json!(11)),
    ("a floor of what is over", bad(45), |log| event(log, 45, 0)["claims"][0]["floor"] = json!(26)),
    ("another capacity", bad(10), |log| event(log, 10, 0)["claims"][0]["capacity"] = json!(6)),
    ("a capacity of the policy before", bad(54), |log| event(log, 54, 0)["claims"][0]["capacity"] = json!(5)),
    ("an earlier place by a priority", bad(20), |log| {
        command(log, 7)["priority"] = json!(9);
        event(log, 7, 0)["priority"] = json!(9);
    }),
    ("a place with a priority that nobody asked for", bad(7), |log| event(log, 7, 0)["priority"] = json!(9)),
    ("a suspended waiter granted", bad(22), |log| {
        let mut granted = log[20]["events"].clone();
        granted[0]["granted"]["claims"][0]["floor"] = json!(22);
        log[22]["events"] = granted;
    }),
    ("an advance that skips an earlier waiter", bad(20), |log| {
        let mut granted = log[22]["events"].clone();
        granted[0]["granted"]["claims"][0]["floor"] = json!(20);
        log[20]["events"] = granted;
    }),
    ("no advance where a waiter can be granted", bad(26), |log| nothing_happens(log, 26)),
    ("a waiter passed by a new request", bad(41), |log| grants(log, 41, 6, 12, PRINTER)),
    ("more permits than there are", bad(12), |log| {
        let claims = json!([{"resource": "{order-7}/workers", "mode": "permits", "permits": 1, "capacity": 5, "floor": 10}]);
        log[12]["events"] = json!([{"granted": {"session": 6, "seq": 3, "claims": claims, "wait_ms": 3000}}]);
    }),
    ("a shared holder beside an exclusive one", bad(14), |log| {
        command(log, 14)["claims"][0]["resource"] = json!("{order-7}/invoice");
        event(log, 14, 0)["claims"][0]["resource"] = json!("{order-7}/invoice");
    }),
    ("a second exclusive holder", bad(46), |log| {
        let granted = json!({"session": 2, "seq": 8, "claims": held("db/backup", 45)});
        log[46]["events"] = json!([{"granted": granted}]);
    }),
    ("a holder beside one that is being revoked", bad(35), |log| grants(log, 35, 2, 7, PRINTER)),
    ("a grant before the end of a delay", bad(37), |log| {
        log[37]["events"] = json!([{"granted": {"session": 2, "seq": 7, "claims": held(PRINTER, 37), "hold_max_ms": 60_000}}]);
    }),
    ("a grant while paused", bad(39), |log| grants(log, 39, 6, 10, "db/backup")),
    ("an advance while paused", bad(39), |log| {
        let mut granted = log[41]["events"].clone();
        granted[0]["granted"]["claims"][0]["floor"] = json!(39);
        replace(log, 39, json!("advance"), granted);
    }),
    ("a grant to whom the policy does not allow it", bad(51), |log| {
        let allow = &mut event(log, 47, 0)["rules"][0]["allow"];
        *allow = json!(["uid:0"]);
    }),
    ("an advance for whom the policy does not allow it", bad(49), |log| {
        log[49]["events"] = json!([{"granted": {"session": 2, "seq": 8, "claims": held("db/backup", 49)}}]);
    }),
    ("ended by a policy that allows it", bad(49), |log| nothing_happens(log, 47)),
    ("a resource of another partition", bad(45), |log| {
        command(log, 45)["claims"][0]["resource"] = json!("db/migrate");
        event(log, 45, 0)["claims"][0]["resource"] = json!("db/migrate");
    }),
    ("a partition that there is not", bad(0), |log| event(log, 0, 0)["partition"] = json!(2)),
    ("a hold limit above that of the rule", bad(41), |log| event(log, 41, 0)["hold_max_ms"] = json!(60_001)),
    ("a hold limit below that of the rule", bad(41), |log| event(log, 41, 0)["hold_max_ms"] = json!(59_999)),
    ("no hold limit where the rule has one", bad(41), |log| without(event(log, 41, 0), "hold_max_ms")),
    ("a hold limit above what was asked", bad(22), |log| event(log, 22, 0)["hold_max_ms"] = json!(600_001)),
    ("a wait limit that was not asked for", bad(22), |log| event(log, 22, 0)["wait_ms"] = json!(20_001)),
    ("an owner that was not asked for", bad(10), |log| event(log, 10, 0)["owner"] = json!([2, 1])),
    ("another owner than the waiter's", bad(22), |log| event(log, 22, 0)["owner"] = json!([2, 1])),
    // Sessions and numbers.
    ("an attach that lowers n", bad(29), |log| {
        let attach = json!({"session": 6, "n": 0});
        replace(log, 29, json!({"attach": attach}), json!([{"attached": attach}]));
    }),
    ("an attach with the same n", bad(29), |log| {
        let attach = json!({"session": 6, "n": 1});
        replace(log, 29, json!({"attach": attach}), json!([{"attached": attach}]));
    }),
    ("a key that opens two sessions", bad(29), |log| {
        let (open, mut opened) = (log[2]["command"].clone(), log[2]["events"].clone());
        opened[0]["opened"]["in_flight_max"] = json!(8);
        opened[0]["opened"]["lease_ms"] = json!(30_000);
        replace(log, 29, open, opened);
    }),
    ("a session that may have more in flight", bad(5), |log| event(log, 5, 0)["in_flight_max"] = json!(64)),
    ("a lease shorter than what was asked and allowed", bad(5), |log| {
        event(log, 5, 0)["lease_ms"] = json!(9_999)
    }),
    ("a session closed that was ended", bad(55), |log| {
        replace(
            log,
            55,
            json!({"close": {"session": 6}}),
            json!([{"session_ended": {"session": 6, "reason": "closed"}}]),
        );
    }),
    ("a number decided twice", bad(51), |log| {
        command(log, 51)["seq"] = json!(10);
        event(log, 51, 0)["seq"] = json!(10);
    }),
    ("a number far below", bad(51), |log| {
        command(log, 51)["seq"] = json!(2);
        event(log, 51, 0)["seq"] = json!(2);
    }),
    ("a token released twice", bad(29), |log| {
        let (release, released) = (log[19]["command"].clone(), log[19]["events"].clone());
        replace(log, 29, release, released);
    }),
    ("a token released by another session", bad(19), |log| command(log, 19)["session"] = json!(5)),
    ("a request that would not wait queued", bad(46), |log| {
        command(log, 46)["wait_ms"] = json!(0);
        event(log, 46, 0)["wait_ms"] = json!(0);
    }),
    // Time.
    ("a session expired early", bad(52), |log| command(log, 52)["at"] = at("49.999999")),
    ("a session expired though it was renewed", bad(52), |log| log[51]["renewed"] = json!([[6, 3]])),
    ("a session expired though it is renewed in the record", bad(52), |log| {
        log[52]["renewed"] = json!([[6, 3]])
    }),
    ("a renewal that does not rise keeps nobody", Verdict::Clean, |log| log[51]["renewed"] = json!([[6, 2]])),
    ("a lease that the epoch does not begin anew", bad(35), |log| {
        replace(
            log,
            35,
            json!({"tick": {"at": at("19.000000")}}),
            json!([{"session_ended": {"session": 5, "reason": "lease_expired"}}]),
        );
    }),
    ("fail fast early", bad(43), |log| command(log, 43)["at"] = at("31.999999")),
    ("fail fast of a reachable session", bad(43), |log| nothing_happens(log, 42)),
    ("unreachable twice", bad(43), |log| {
        let (gone, unreachable) = (log[42]["command"].clone(), log[42]["events"].clone());
        replace(log, 43, gone, unreachable);
    }),
    ("unreachable within a lease of the epoch", bad(35), |log| {
        let (gone, unreachable) = (log[42]["command"].clone(), log[42]["events"].clone());
        replace(log, 35, gone, unreachable);
    }),
    ("unreachable one lease after the epoch", Verdict::Clean, |log| unreachable_one_lease_on(log)),
    ("unreachable just before one lease after the epoch", bad(35), |log| {
        unreachable_one_lease_on(log);
        log[35]["at"] = at("19.999999");
    }),
    ("a wait limit early", bad(30), |log| command(log, 30)["at"] = at("06.499999")),
    ("a hold limit early", bad(32), |log| command(log, 32)["at"] = at("07.599999")),
    ("a revocation over early", bad(36), |log| command(log, 36)["at"] = at("22.601999")),
    ("a revocation that the gap does not move", bad(35), |log| {
        log[35]["at"] = at("22.000000");
        let mut released = log[36]["events"].clone();
        released[1]["delayed"]["until"] = at("24.000000");
        replace(log, 35, json!({"tick": {"at": at("17.700000")}}), released);
    }),
    ("a revocation shorter than the lease", bad(24), |log| event(log, 24, 0)["until"] = at("14.499999")),
    ("a delay longer than the rule's", bad(36), |log| event(log, 36, 1)["until"] = at("24.605001")),
    ("a tick by a moment of the epoch before", bad(39), |log| command(log, 39)["at"] = at("12.999999")),
    ("a tick by a moment to come", bad(39), |log| command(log, 39)["at"] = at("25.000001")),
    ("time that falls", bad(25), |log| log[25]["at"] = at("04.499999")),
    // Revocation and suspension.
    ("a revocation replaced", bad(35), |log| {
        let force = json!({"resource": PRINTER, "token": 31, "reason": "", "by": "uid:0"});
        let revoking = json!({"token": 31, "reason": "forced", "by": "uid:0", "until": at("30.000000")});
        replace(log, 35, json!({"force_release": force}), json!([{"revoking": revoking}]));
    }),
    ("a revoked grant given back as if it were not", bad(25), |log| {
        replace(
            log,
            25,
            json!({"release": {"session": 5, "token": 22}}),
            json!([{"released": {"token": 22, "reason": "released"}}]),
        );
    }),
    ("a revoked grant cancelled as if it were not", bad(25), |log| {
        replace(
            log,
            25,
            json!({"cancel": {"session": 5, "seq": 1}}),
            json!([{"released": {"token": 22, "reason": "cancelled"}}]),
        );
    }),
    ("a revoked grant given back for another operator", bad(25), |log| {
        event(log, 25, 0)["by"] = json!("uid:1")
    }),
    ("a revoked grant given back for no operator", bad(25), |log| without(event(log, 25, 0), "by")),
    ("an operator named for a hold limit", bad(36), |log| event(log, 36, 0)["by"] = json!("uid:0")),
    ("a revoked grant undone", bad(25), |log| {
        replace(
            log,
            25,
            json!({"gone": {"session": 5, "n": 0, "seq": 1, "cause": "returned"}}),
            json!([{"suspended": {"session": 5, "seq": 1, "token": 22}}]),
        );
    }),
    ("a grant of the epoch before undone", bad(35), |log| {
        replace(
            log,
            35,
            json!({"gone": {"session": 2, "n": 0, "seq": 2, "cause": "returned"}}),
            json!([{"suspended": {"session": 2, "seq": 2, "token": 10}}]),
        );
    }),
    ("a grant undone for another address", bad(21), |log| command(log, 21)["n"] = json!(1)),
    ("unreachable for a reply that names a request", bad(42), |log| command(log, 42)["seq"] = json!(99)),
    ("a session ended for another address", bad(50), |log| command(log, 50)["n"] = json!(1)),
    ("paused twice", bad(39), |log| {
        let (pause, paused) = (log[38]["command"].clone(), log[38]["events"].clone());
        replace(log, 39, pause, paused);
    }),
    // The chain's own words.
    ("an epoch with the incarnation of the one before", bad(34), |log| {
        event(log, 34, 0)["incarnation"] = log[1]["events"][0]["epoch_started"]["incarnation"].clone();
    }),
    ("an epoch left out", bad(34), |log| {
        event(log, 34, 0)["epoch"] = json!(3);
        log[34..].iter_mut().for_each(|record| record["epoch"] = json!(3));
    }),
    ("rules to come", Verdict::NotUnderstood(34), |log| event(log, 34, 0)["rules"] = json!(2)),
    ("a format to come", Verdict::NotUnderstood(0), |log| event(log, 0, 0)["format"] = json!(2)),
    ("a checkpoint of itself", bad(33), |log| event(log, 33, 0)["of"] = json!(33)),
    ("a record after the end", bad(57), |log| {
        log.push(log[35].clone());
        log[57]["at"] = log[56]["at"].clone();
        without(&mut log[57], "renewed");
    }),
    // Reasons that another command has.
    ("a cancel for a wait limit", bad(28), |log| event(log, 28, 0)["reason"] = json!("wait_limit")),
    ("a close for a lease", bad(55), |log| event(log, 55, 0)["reason"] = json!("lease_expired")),
    ("a tick that closes", bad(52), |log| event(log, 52, 0)["reason"] = json!("closed")),
    ("a forced release by a hold limit", bad(44), |log| event(log, 44, 0)["reason"] = json!("hold_limit")),
    // Lines that are no records.
    ("null for a field that is absent", bad(29), |log| log[29]["upto"] = Value::Null),
    ("null for a field of an event", bad(9), |log| event(log, 9, 0)["by"] = Value::Null),
    ("null for a limit", bad(10), |log| {
        command(log, 10)["wait_ms"] = Value::Null;
        event(log, 10, 0)["wait_ms"] = Value::Null;
    }),
    ("an empty list of events", bad(29), |log| log[29]["events"] = json!([])),
    ("an empty list of renewals", bad(29), |log| log[29]["renewed"] = json!([])),
    ("a renewal twice", bad(29), |log| log[29]["renewed"] = json!([[2, 2], [2, 3]])),
    ("renewals that fall", bad(29), |log| log[29]["renewed"] = json!([[5, 1], [2, 2]])),
    ("a default that is said", bad(45), |log| {
        command(log, 45)["priority"] = json!(0);
        event(log, 45, 0)["priority"] = json!(0);
    }),
    ("a resource twice in one request", bad(46), |log| {
        let claims = json!([{"resource": "db/backup", "mode": "exclusive"}, {"resource": "db/backup", "mode": "shared"}]);
        command(log, 46)["claims"] = claims.clone();
        event(log, 46, 0)["claims"] = claims;
    }),
    ("a resource twice in a refused request", bad(18), |log| {
        let claim = command(log, 18)["claims"][0].clone();
        command(log, 18)["claims"].as_array_mut().unwrap().push(claim);
    }),
    ("a claim of nothing", bad(18), |log| command(log, 18)["claims"] = json!([])),
    ("too long a reason", bad(24), |log| command(log, 24)["reason"] = json!("x".repeat(1025))),
    ("a control character", bad(24), |log| command(log, 24)["reason"] = json!("x\u{85}")),
    ("a capacity of nothing", bad(4), |log| event(log, 4, 0)["rules"][0]["capacity"] = json!(0)),
    ("too many waiters", bad(4), |log| event(log, 4, 0)["rules"][3]["waiters_max"] = json!(10_000_001)),
    ("too long a lock delay", bad(4), |log| {
        event(log, 4, 0)["rules"][1]["lock_delay_ms"] = json!(31_622_400_001_u64);
    }),
    ("no request in flight", bad(4), |log| event(log, 4, 0)["in_flight_max"] = json!(0)),
    ("an integer above 2^53", bad(23), |log| {
        command(log, 23)["n"] = json!(1_u64 << 53);
        event(log, 23, 0)["n"] = json!(1_u64 << 53);
    }),
];

/// Numbers and chains records.
fn sealed(records: &[Value]) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let mut record = record.clone();
        record["index"] = json!(index);
        record["prev"] = lines.last().map_or(json!("0".repeat(64)), |line| json!(hash_of(line).to_string()));
        lines.push(serde_json::to_vec(&record).unwrap());
    }
    lines
}

fn golden_records(cases: &Cases) -> Vec<Value> {
    cases.lines.iter().map(|line| serde_json::from_slice(line).unwrap()).collect()
}

#[test]
fn both_see_what_is_told_otherwise_where_it_is() {
    let mut cases = Cases::new();
    let records = golden_records(&cases);
    for (name, _, change) in MUTATIONS {
        let mut records = records.clone();
        change(&mut records);
        cases.add((*name).to_owned(), &sealed(&records), |_| {});
    }
    let mut wrong = Vec::new();
    for ((name, verdict), (_, expected, _)) in cases.agreed().iter().zip(MUTATIONS) {
        if verdict != expected {
            wrong.push(format!("{name}: {verdict:?}, wanted {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), MUTATIONS.len(), wrong.join("\n"));
}

/// All times of the log moved so that its last record is at the last moment that there is.
#[test]
fn both_let_time_end_with_the_year_9999() {
    let mut cases = Cases::new();
    let records = golden_records(&cases);
    let time = |value: &Value| value.as_str()?.parse::<Timestamp>().ok();
    let end = Timestamp::from_micros(u64::MAX).as_micros();
    // At which record time ends: deadlines that would be later are at the last moment, and due there.
    for last in [records.len() - 1, 36, 43, 52] {
        let moved_by = end - time(&records[last]["at"]).unwrap().as_micros();
        let mut records = records[..=last].to_vec();
        for record in &mut records {
            let mut found = Vec::new();
            super::paths(record, &mut Vec::new(), &mut found);
            for path in found {
                if matches!(path.last(), Some(Step::Field(name)) if name == "at" || name == "until") {
                    let value = value_at(record, &path);
                    let moment = time(value).unwrap().as_micros().saturating_add(moved_by);
                    *value = json!(Timestamp::from_micros(moment).to_string());
                }
            }
        }
        let mut early = records.clone();
        cases.add(format!("time ends with record {last}"), &sealed(&records), |_| {});
        early[last]["at"] = early[last - 1]["at"].clone();
        cases.add(format!("record {last} too early"), &sealed(&early), |_| {});
    }
    for (name, verdict) in cases.agreed() {
        assert!(!name.starts_with("time ends") || verdict == Verdict::Clean, "{name}: {verdict:?}");
    }
}
