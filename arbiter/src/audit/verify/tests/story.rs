//! A small valid log that has every kind of record, as values that a test may change before they are sealed.

use crate::log::chain::{Sealed, hash_of};
use crate::log::record::Record;
use arbiterq_client::wire::{Hash, Timestamp};
use serde_json::{Value, json};

/// Sessions of the story.
pub(super) const A: u64 = 3;
pub(super) const B: u64 = 4;
pub(super) const C: u64 = 5;

/// Milliseconds into the story, as a moment.
pub(super) fn at(ms: u64) -> Value {
    json!(Timestamp::from_micros(1_795_356_000_000_000).plus_ms(ms))
}

/// Records whose `index` and `prev` are not filled in yet.
#[derive(Clone)]
pub(super) struct Log(pub(super) Vec<Value>);

impl Log {
    pub(super) fn push(&mut self, epoch: u64, ms: u64, command: Value, events: Value) {
        self.0.push(json!({"index": 0, "prev": Hash::default(), "epoch": epoch, "at": at(ms), "command": command, "events": events}));
    }

    /// What a record says its command is.
    pub(super) fn command(&mut self, index: usize) -> &mut Value {
        &mut self.0[index]["command"]
    }

    /// The fields of a record's first event.
    pub(super) fn event(&mut self, index: usize) -> &mut Value {
        let event = self.0[index]["events"][0].as_object_mut().unwrap();
        event.values_mut().next().unwrap()
    }

    /// Puts another record in the place of one, at its time and in its epoch.
    pub(super) fn replace(&mut self, index: usize, command: Value, events: Value) {
        self.0[index]["command"] = command;
        self.0[index]["events"] = events;
    }

    /// The lines of the log, numbered and chained.
    pub(super) fn seal(&self) -> Vec<Vec<u8>> {
        let mut prev = Hash::default();
        let chain = |(index, record): (usize, &Value)| {
            let mut record = record.clone();
            record["index"] = json!(index);
            record["prev"] = json!(prev);
            let line = match serde_json::from_value::<Record>(record.clone()) {
                Ok(record) => Sealed::new(record).line,
                Err(_) => serde_json::to_vec(&record).unwrap(),
            };
            prev = hash_of(&line);
            line
        };
        self.0.iter().enumerate().map(chain).collect()
    }
}

fn open(key: u8, lease_ms: u64) -> Value {
    json!({"key_hash": Hash([key; 32]), "lease_ms": lease_ms, "label": "l", "principal": "p", "principal_by": "nobody"})
}

fn opened(key: u8, lease_ms: u64) -> Value {
    let mut opened = open(key, lease_ms);
    opened["in_flight_max"] = json!(4);
    opened
}

/// One exclusive claim.
pub(super) fn exclusive(resource: &str) -> Value {
    json!([{"resource": resource, "mode": "exclusive"}])
}

/// One claim as granted.
pub(super) fn held(resource: &str, mode: &str, permits: Option<u32>, capacity: u32, floor: u64) -> Value {
    let mut claim = json!({"resource": resource, "mode": mode, "capacity": capacity, "floor": floor});
    if let Some(permits) = permits {
        claim["permits"] = json!(permits);
    }
    json!([claim])
}

/// An `acquire` with nothing but what it must have.
pub(super) fn acquire(session: u64, seq: u64, claims: Value) -> Value {
    json!({"acquire": {"session": session, "seq": seq, "claims": claims}})
}

/// A `queued` with nothing but what it must have.
pub(super) fn queued(session: u64, seq: u64, claims: Value) -> Value {
    json!([{"queued": {"session": session, "seq": seq, "claims": claims, "priority": 0}}])
}

/// A `granted` with nothing but what it must have.
pub(super) fn granted(session: u64, seq: u64, claims: Value) -> Value {
    json!([{"granted": {"session": session, "seq": seq, "claims": claims}}])
}

/// Every kind of command and event, and a `barrier` here and there in whose place a test may put what it likes.
pub(super) fn story() -> Log {
    let mut log = Log(Vec::new());
    let permits = |n: u32| json!([{"resource": "pool", "mode": "permits", "permits": n}]);
    let shared = || json!([{"resource": "s", "mode": "shared"}]);
    let barrier = || (json!("barrier"), json!([]));

    log.push(0, 0, json!("create"), json!([{"genesis": {"format": 1, "log_id": "11".repeat(16), "partition": 0, "partitions": 1, "first_index": 0, "after": []}}]));
    log.push(
        1,
        1,
        json!("activate"),
        json!([{"epoch_started": {"epoch": 1, "incarnation": "22".repeat(16), "rules": 1}}]),
    );
    log.push(1, 2, json!("policy"), json!([{"policy": {"sessions_max": 10, "in_flight_max": 4, "lease_ms_max": 60_000, "rules": [
        {"pattern": "pool*", "capacity": 5}, {"pattern": "delay/*", "lock_delay_ms": 500}, {"pattern": "ops/*", "allow": ["root"]}]}}]));
    // 3 to 5: A, B, C.
    for (key, ms) in [(1, 10_000), (2, 10_000), (3, 20_000)] {
        let (mut asked, mut event) = (open(key, ms), opened(key, ms));
        if key == 2 {
            asked["fail_fast_ms"] = json!(2000);
            event["fail_fast_ms"] = json!(2000);
        }
        log.push(1, 10, json!({"open": asked}), json!([{"opened": event}]));
    }
    log.push(1, 20, acquire(A, 1, exclusive("r")), granted(A, 1, held("r", "exclusive", None, 1, 6)));
    let (mut command, mut event) = (acquire(B, 1, exclusive("r")), queued(B, 1, exclusive("r")));
    command["acquire"]["wait_ms"] = json!(30_000);
    event[0]["queued"]["wait_ms"] = json!(30_000);
    log.push(1, 30, command, event);
    let (mut command, mut event) = (acquire(C, 1, exclusive("r")), queued(C, 1, exclusive("r")));
    command["acquire"]["priority"] = json!(5);
    event[0]["queued"]["priority"] = json!(5);
    log.push(1, 40, command, event);
    // 9: a barrier.
    log.push(1, 45, barrier().0, barrier().1);
    log.push(
        1,
        50,
        json!({"release": {"session": A, "token": 6}}),
        json!([{"released": {"token": 6, "reason": "released"}}]),
    );
    let mut event = granted(C, 1, held("r", "exclusive", None, 1, 11));
    event[0]["granted"]["priority"] = json!(5);
    log.push(1, 60, json!("advance"), event);
    log.push(
        1,
        70,
        json!({"cancel": {"session": C, "seq": 1}}),
        json!([{"released": {"token": 11, "reason": "cancelled"}}]),
    );
    let mut event = granted(B, 1, held("r", "exclusive", None, 1, 13));
    event[0]["granted"]["wait_ms"] = json!(30_000);
    log.push(1, 80, json!("advance"), event);
    log.push(
        1,
        90,
        json!({"gone": {"session": B, "n": 0, "seq": 1, "cause": "returned"}}),
        json!([{"suspended": {"session": B, "seq": 1, "token": 13}}]),
    );
    // 15: a barrier, with B suspended.
    log.push(1, 95, barrier().0, barrier().1);
    log.push(
        1,
        100,
        json!({"attach": {"session": B, "n": 1, "reply_to": "x"}}),
        json!([{"attached": {"session": B, "n": 1, "reply_to": "x"}}]),
    );
    let mut event = granted(B, 1, held("r", "exclusive", None, 1, 17));
    event[0]["granted"]["wait_ms"] = json!(30_000);
    log.push(1, 110, json!("advance"), event);
    log.push(1, 120, acquire(A, 2, permits(3)), granted(A, 2, held("pool", "permits", Some(3), 5, 18)));
    log.push(1, 130, acquire(B, 2, permits(2)), granted(B, 2, held("pool", "permits", Some(2), 5, 18)));
    let (mut command, mut event) = (acquire(C, 2, permits(1)), queued(C, 2, permits(1)));
    command["acquire"]["wait_ms"] = json!(3000);
    event[0]["queued"]["wait_ms"] = json!(3000);
    log.push(1, 140, command, event);
    log.push(1, 150, acquire(A, 3, shared()), granted(A, 3, held("s", "shared", None, 1, 21)));
    log.push(1, 160, acquire(B, 3, shared()), granted(B, 3, held("s", "shared", None, 1, 21)));
    // 23: a barrier, with r, pool and s held, one waiting for the pool.
    log.push(1, 165, barrier().0, barrier().1);
    log.push(
        1,
        170,
        json!({"force_release": {"resource": "r", "token": 17, "reason": "why", "by": "op"}}),
        json!([{"revoking": {"token": 17, "reason": "forced", "by": "op", "until": at(10_170)}}]),
    );
    // 25: a barrier, with 17 being revoked.
    log.push(1, 175, barrier().0, barrier().1);
    log.push(
        1,
        180,
        json!({"release": {"session": B, "token": 17}}),
        json!([{"released": {"token": 17, "reason": "forced", "by": "op"}}]),
    );
    let (mut command, mut event) =
        (acquire(A, 4, exclusive("delay/x")), granted(A, 4, held("delay/x", "exclusive", None, 1, 27)));
    command["acquire"]["hold_max_ms"] = json!(1000);
    event[0]["granted"]["hold_max_ms"] = json!(1000);
    log.push(1, 200, command, event);
    // 28: a barrier.
    log.push(1, 1000, barrier().0, barrier().1);
    log.push(1, 3300, json!({"tick": {"at": at(3200)}}), json!([{"ended": {"session": C, "seq": 2, "reason": "wait_limit"}}, {"revoking": {"token": 27, "reason": "hold_limit", "until": at(13_300)}}]));
    log.push(1, 3400, json!("checkpoint"), json!([{"checkpoint": {"of": 20, "hash": hash_of(b"body")}}]));
    // 31: epoch 2 after 6.6 s: the revocation goes to 19.9 s, leases begin again.
    log.push(
        2,
        10_000,
        json!("activate"),
        json!([{"epoch_started": {"epoch": 2, "incarnation": "33".repeat(16), "rules": 1}}]),
    );
    log.push(2, 15_000, json!("barrier"), json!([]));
    log.0[32]["renewed"] = json!([[A, 1], [B, 1], [C, 1]]);
    // 33: a barrier.
    log.push(2, 19_950, barrier().0, barrier().1);
    log.push(2, 20_000, json!({"tick": {"at": at(19_900)}}), json!([{"released": {"token": 27, "reason": "hold_limit"}}, {"delayed": {"resource": "delay/x", "until": at(20_500)}}]));
    // 35: a barrier, with delay/x delayed.
    log.push(2, 20_100, barrier().0, barrier().1);
    log.push(2, 20_200, acquire(C, 3, exclusive("delay/x")), queued(C, 3, exclusive("delay/x")));
    let mut command = acquire(C, 4, exclusive("delay/x"));
    command["acquire"]["wait_ms"] = json!(0);
    log.push(2, 20_300, command, json!([{"refused": {"session": C, "seq": 4, "reason": "busy"}}]));
    log.push(
        2,
        20_400,
        json!({"pause": {"by": "op", "reason": "why"}}),
        json!([{"paused": {"by": "op", "reason": "why"}}]),
    );
    // 39: a barrier, paused, and delay/x is free.
    log.push(2, 20_600, barrier().0, barrier().1);
    log.push(
        2,
        20_700,
        json!({"gone": {"session": B, "n": 1, "cause": "returned"}}),
        json!([{"unreachable": {"session": B, "n": 1}}]),
    );
    // 41: a barrier, with B unreachable.
    log.push(2, 20_800, barrier().0, barrier().1);
    log.push(
        2,
        22_800,
        json!({"tick": {"at": at(22_700)}}),
        json!([{"session_ended": {"session": B, "reason": "fail_fast"}}]),
    );
    log.push(
        2,
        22_900,
        json!({"resume": {"by": "op", "reason": "why"}}),
        json!([{"resumed": {"by": "op", "reason": "why"}}]),
    );
    log.push(2, 23_000, json!("advance"), granted(C, 3, held("delay/x", "exclusive", None, 1, 44)));
    // 45: a barrier, with A and C live, C holds delay/x.
    log.push(2, 23_100, barrier().0, barrier().1);
    log.push(
        2,
        25_100,
        json!({"tick": {"at": at(25_000)}}),
        json!([{"session_ended": {"session": A, "reason": "lease_expired"}}]),
    );
    log.push(
        2,
        25_200,
        json!({"cancel": {"session": C, "seq": 5}}),
        json!([{"ended": {"session": C, "seq": 5, "reason": "cancelled"}}]),
    );
    log.push(2, 25_300, acquire(C, 6, exclusive("r")), granted(C, 6, held("r", "exclusive", None, 1, 48)));
    log.push(
        2,
        25_400,
        json!({"force_release": {"resource": "r", "token": 48, "reason": "why", "by": "op", "now": true}}),
        json!([{"released": {"token": 48, "reason": "forced", "by": "op"}}]),
    );
    // 50: a barrier.
    log.push(2, 25_500, barrier().0, barrier().1);
    log.push(
        2,
        25_600,
        json!({"close": {"session": C}}),
        json!([{"session_ended": {"session": C, "reason": "closed"}}]),
    );
    log.push(2, 25_700, json!({"open": open(1, 10_000)}), json!([{"opened": opened(1, 10_000)}]));
    log.push(
        2,
        25_800,
        json!({"gone": {"session": 52, "n": 0, "cause": "closed"}}),
        json!([{"session_ended": {"session": 52, "reason": "connection_closed"}}]),
    );
    log.push(2, 25_900, json!("finish"), json!([{"closed": {}}]));
    log
}
