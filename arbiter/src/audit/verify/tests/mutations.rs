//! For each check, a log that breaks it, refused at the right record under the right promise.

use super::super::Promise::{self, *};
use super::super::Verifier;
use super::story::{A, B, C, Log, acquire, at, exclusive, granted, held, queued, story};
use super::verify;
use arbiterq_client::wire::Hash;
use serde_json::{Value, json};

/// What it shows, the record at which it is seen, the promise, and the change to the story. Records after the
/// changed one are chained to it, so the chain itself stays good.
type Mutation = (&'static str, u64, Promise, fn(&mut Log));

fn tick(ms: u64) -> Value {
    json!({"tick": {"at": at(ms)}})
}

fn shared_pool() -> Value {
    json!([{"resource": "pool", "mode": "shared"}])
}

fn permits(n: u32) -> Value {
    json!([{"resource": "pool", "mode": "permits", "permits": n}])
}

const MUTATIONS: &[Mutation] = &[
    // How a log begins.
    ("a log that does not begin with its genesis", 0, Evidence, |log| drop(log.0.remove(0))),
    ("a genesis of another format", 0, Understood, |log| log.event(0)["format"] = json!(2)),
    ("a genesis with another first index", 0, Evidence, |log| log.event(0)["first_index"] = json!(7)),
    ("a partition that there is not", 0, Evidence, |log| log.event(0)["partition"] = json!(1)),
    ("no partitions", 0, Evidence, |log| log.event(0)["partitions"] = json!(0)),
    ("a genesis in an epoch", 0, Evidence, |log| log.0[0]["epoch"] = json!(1)),
    ("a genesis that renews", 0, Evidence, |log| log.0[0]["renewed"] = json!([[3, 1]])),
    ("a first index that a log before it had", 0, Fencing, |log| {
        log.event(0)["after"] = json!([{"log_id": "44".repeat(16), "index": 0, "hash": Hash::default()}]);
    }),
    ("a second genesis", 9, Evidence, |log| {
        let genesis = log.0[0]["events"].clone();
        log.replace(9, json!("create"), genesis);
    }),
    ("a record after the end", 55, Evidence, |log| log.push(2, 26_000, json!("barrier"), json!([]))),
    // Epochs and time.
    ("time that falls", 9, Time, |log| log.0[9]["at"] = at(39)),
    ("a record of an epoch to come", 9, Epochs, |log| log.0[9]["epoch"] = json!(2)),
    ("a record of an epoch that is over", 32, Epochs, |log| log.0[32]["epoch"] = json!(1)),
    ("an epoch left out", 31, Epochs, |log| {
        log.event(31)["epoch"] = json!(3);
        log.0[31]["epoch"] = json!(3);
    }),
    ("an epoch begun twice", 31, Epochs, |log| {
        log.event(31)["epoch"] = json!(1);
        log.0[31]["epoch"] = json!(1);
    }),
    ("an epoch begun in another", 31, Epochs, |log| log.0[31]["epoch"] = json!(1)),
    ("an incarnation used again", 31, Epochs, |log| log.event(31)["incarnation"] = json!("22".repeat(16))),
    ("rules to come", 31, Understood, |log| log.event(31)["rules"] = json!(2)),
    ("a record before the first epoch", 1, Epochs, |log| {
        log.replace(1, json!("barrier"), json!([]));
        log.0[1]["epoch"] = json!(0);
    }),
    // What nobody knows.
    ("an unknown event", 9, Evidence, |log| log.0[9]["events"] = json!([{"committed": {}}])),
    ("an unknown command", 9, Evidence, |log| *log.command(9) = json!("drain")),
    ("an unknown field of a record", 9, Evidence, |log| log.0[9]["note"] = json!(1)),
    ("an unknown field of an event", 6, Evidence, |log| log.event(6)["note"] = json!(1)),
    ("an unknown word for a mode", 6, Evidence, |log| log.event(6)["claims"][0]["mode"] = json!("intent")),
    ("a renewal twice in a record", 32, Evidence, |log| log.0[32]["renewed"] = json!([[A, 1], [A, 2]])),
    ("renewals whose sessions fall", 32, Evidence, |log| log.0[32]["renewed"] = json!([[B, 1], [A, 1]])),
    ("a name too long", 9, Evidence, |log| {
        let claims = exclusive(&"x".repeat(257));
        log.replace(9, acquire(A, 2, claims.clone()), queued(A, 2, claims));
    }),
    ("a control character in a text", 38, Evidence, |log| log.command(38)["pause"]["by"] = json!("o\u{7f}p")),
    ("a priority too high", 8, Evidence, |log| {
        log.command(8)["acquire"]["priority"] = json!(10);
        log.event(8)["priority"] = json!(10);
    }),
    ("a wait too long", 7, Evidence, |log| log.command(7)["acquire"]["wait_ms"] = json!(31_622_400_001_u64)),
    ("an integer that is not exact everywhere", 16, Evidence, |log| {
        log.command(16)["attach"]["n"] = json!(1_u64 << 53);
        log.event(16)["n"] = json!(1_u64 << 53);
    }),
    ("a capacity of nothing in a rule", 2, Evidence, |log| {
        log.event(2)["rules"][0]["capacity"] = json!(0);
    }),
    ("a session that may have no request", 2, Evidence, |log| log.event(2)["in_flight_max"] = json!(0)),
    ("a field that is missing", 6, Evidence, |log| drop(log.event(6).as_object_mut().unwrap().remove("seq"))),
    // Exclusion.
    ("two exclusive holders", 9, Exclusion, |log| {
        let events = granted(C, 2, held("r", "exclusive", None, 1, 6));
        log.replace(9, acquire(C, 2, exclusive("r")), events);
    }),
    ("a shared holder beside an exclusive one", 9, Exclusion, |log| {
        let claims = json!([{"resource": "r", "mode": "shared"}]);
        log.replace(9, acquire(C, 2, claims), granted(C, 2, held("r", "shared", None, 1, 6)));
    }),
    ("an exclusive holder beside shared ones", 23, Exclusion, |log| {
        let events = granted(C, 3, held("s", "exclusive", None, 1, 21));
        log.replace(23, acquire(C, 3, exclusive("s")), events);
    }),
    ("a shared holder beside permits", 23, Exclusion, |log| {
        let events = granted(C, 3, held("pool", "shared", None, 5, 18));
        log.replace(23, acquire(C, 3, shared_pool()), events);
    }),
    ("one permit too many", 19, Exclusion, |log| {
        log.command(19)["acquire"]["claims"][0]["permits"] = json!(3);
        log.event(19)["claims"][0]["permits"] = json!(3);
    }),
    ("more permits than there are", 18, Exclusion, |log| {
        log.command(18)["acquire"]["claims"][0]["permits"] = json!(6);
        log.event(18)["claims"][0]["permits"] = json!(6);
    }),
    ("a capacity that is not the policy's", 18, Exclusion, |log| {
        log.event(18)["claims"][0]["capacity"] = json!(6)
    }),
    ("a holder beside one that is being revoked", 25, Exclusion, |log| {
        let events = granted(C, 3, held("r", "exclusive", None, 1, 17));
        log.replace(25, acquire(C, 3, exclusive("r")), events);
    }),
    ("one of two claims is held", 9, Exclusion, |log| {
        let claims =
            json!([{"resource": "free", "mode": "exclusive"}, {"resource": "r", "mode": "exclusive"}]);
        let mut events = granted(C, 2, held("free", "exclusive", None, 1, 9));
        events[0]["granted"]["claims"]
            .as_array_mut()
            .unwrap()
            .push(held("r", "exclusive", None, 1, 6)[0].clone());
        log.replace(9, acquire(C, 2, claims), events);
    }),
    // Fencing.
    ("two grants in a record", 18, Fencing, |log| {
        let second = log.0[18]["events"][0].clone();
        log.0[18]["events"].as_array_mut().unwrap().push(second);
    }),
    ("a floor above the lowest token", 22, Fencing, |log| log.event(22)["claims"][0]["floor"] = json!(22)),
    ("a floor below the lowest token", 18, Fencing, |log| log.event(18)["claims"][0]["floor"] = json!(17)),
    // Order.
    ("a waiter passed by a later one", 11, Order, |log| {
        log.replace(11, json!("advance"), granted(B, 1, held("r", "exclusive", None, 1, 11)));
        log.event(11)["wait_ms"] = json!(30_000);
    }),
    ("a waiter passed by a new request", 11, Order, |log| {
        log.replace(11, acquire(A, 2, exclusive("r")), granted(A, 2, held("r", "exclusive", None, 1, 11)));
    }),
    ("permits that starve a larger claim", 21, Order, |log| {
        // The waiter of record 20 wants more than is left, and the new one would fit beside the holders alone.
        for (index, n) in [(19, 1), (20, 2)] {
            log.command(index)["acquire"]["claims"][0]["permits"] = json!(n);
            log.event(index)["claims"][0]["permits"] = json!(n);
        }
        log.replace(21, acquire(A, 3, permits(1)), granted(A, 3, held("pool", "permits", Some(1), 5, 18)));
    }),
    ("input before a waiter that can be granted", 11, Order, |log| {
        log.replace(11, json!("barrier"), json!([]))
    }),
    ("a policy before a waiter that can be granted", 11, Order, |log| {
        let policy = log.0[2]["events"].clone();
        log.replace(11, json!("policy"), policy);
    }),
    ("a waiter not granted although nothing was in its way", 22, Order, |log| {
        log.replace(21, acquire(A, 3, exclusive("free")), queued(A, 3, exclusive("free")));
    }),
    ("a waiter not granted after an attach", 17, Order, |log| log.replace(17, json!("barrier"), json!([]))),
    ("a waiter not granted after a pause", 44, Order, |log| log.replace(44, json!("barrier"), json!([]))),
    ("a waiter not granted after a delay", 40, Order, |log| {
        log.replace(38, json!("barrier"), json!([]));
    }),
    ("a later one of two that can be granted first", 11, Order, |log| {
        // B wants something else that becomes free in the same record: it is no longer in C's way, but later.
        let both = json!([{"resource": "q", "mode": "shared"}, {"resource": "r", "mode": "shared"}]);
        let mut events = granted(A, 1, held("q", "shared", None, 1, 6));
        events[0]["granted"]["claims"]
            .as_array_mut()
            .unwrap()
            .push(held("r", "shared", None, 1, 6)[0].clone());
        log.replace(6, acquire(A, 1, both), events);
        log.command(7)["acquire"]["claims"] = exclusive("q");
        log.event(7)["claims"] = exclusive("q");
        log.replace(11, json!("advance"), granted(B, 1, held("q", "exclusive", None, 1, 11)));
        log.event(11)["wait_ms"] = json!(30_000);
    }),
    ("a policy between an activation and a waiter that can be granted", 12, Order, |log| {
        let policy = log.0[2]["events"].clone();
        let started = json!([{"epoch_started": {"epoch": 2, "incarnation": "99".repeat(16), "rules": 1}}]);
        log.replace(11, json!("activate"), started);
        log.0[11]["epoch"] = json!(2);
        log.replace(12, json!("policy"), policy);
        log.0[12]["epoch"] = json!(2);
    }),
    // Withheld.
    ("a grant while paused", 39, Withheld, |log| {
        let events = granted(C, 6, held("free", "exclusive", None, 1, 39));
        log.replace(39, acquire(C, 6, exclusive("free")), events);
    }),
    ("a grant before the delay is over", 35, Withheld, |log| {
        let events = granted(C, 3, held("delay/x", "exclusive", None, 1, 35));
        log.replace(35, acquire(C, 3, exclusive("delay/x")), events);
    }),
    ("a lost hold without its delay", 34, Withheld, |log| {
        drop(log.0[34]["events"].as_array_mut().unwrap().pop())
    }),
    ("a delay shorter than the rule's", 34, Withheld, |log| {
        log.0[34]["events"][1]["delayed"]["until"] = at(20_499);
    }),
    ("a delay of what was not lost", 42, Withheld, |log| {
        log.0[42]["events"]
            .as_array_mut()
            .unwrap()
            .push(json!({"delayed": {"resource": "delay/x", "until": at(23_300)}}));
    }),
    ("a delay said twice", 34, Withheld, |log| {
        let delayed = log.0[34]["events"][1].clone();
        log.0[34]["events"].as_array_mut().unwrap().push(delayed);
    }),
    ("a delay that the rule does not have", 42, Withheld, |log| {
        log.0[42]["events"]
            .as_array_mut()
            .unwrap()
            .push(json!({"delayed": {"resource": "s", "until": at(22_800)}}));
    }),
    // Once.
    ("a number granted twice", 9, Once, |log| {
        let events = granted(A, 1, held("free", "exclusive", None, 1, 9));
        log.replace(9, acquire(A, 1, exclusive("free")), events);
    }),
    ("a number refused after it was queued", 9, Once, |log| {
        log.replace(
            9,
            acquire(B, 1, exclusive("r")),
            json!([{"refused": {"session": B, "seq": 1, "reason": "busy"}}]),
        );
    }),
    ("a number decided again after its end", 50, Once, |log| {
        log.replace(50, acquire(C, 5, exclusive("free")), queued(C, 5, exclusive("free")));
    }),
    ("a number cancelled again after its end", 50, Once, |log| {
        log.replace(
            50,
            json!({"cancel": {"session": C, "seq": 4}}),
            json!([{"ended": {"session": C, "seq": 4, "reason": "cancelled"}}]),
        );
    }),
    ("a number too far below the highest", 50, Once, |log| {
        log.replace(50, acquire(C, 2, exclusive("free")), queued(C, 2, exclusive("free")));
    }),
    ("a waiter granted twice", 23, Once, |log| {
        log.replace(23, json!("advance"), granted(B, 1, held("r", "exclusive", None, 1, 23)));
    }),
    ("more live requests than a session may have", 22, Once, |log| {
        (2..6).for_each(|at| log.event(at)["in_flight_max"] = json!(2));
    }),
    ("a session opened for more requests than the policy says", 3, Decision, |log| {
        log.event(3)["in_flight_max"] = json!(5)
    }),
    ("a key that opens two sessions", 9, Once, |log| {
        let (command, events) = (log.0[3]["command"].clone(), log.0[3]["events"].clone());
        log.replace(9, command, events);
    }),
    // No early expiry.
    ("a session ended before its lease is over", 28, NoEarlyExpiry, |log| {
        log.replace(28, tick(1000), json!([{"session_ended": {"session": A, "reason": "lease_expired"}}]));
    }),
    ("a session ended although it was renewed", 46, NoEarlyExpiry, |log| *log.command(46) = tick(24_999)),
    ("a session ended although it is renewed in the record", 46, NoEarlyExpiry, |log| {
        log.0[46]["renewed"] = json!([[A, 2]]);
    }),
    ("a lease that does not begin again with the epoch", 33, NoEarlyExpiry, |log| {
        log.0[32]["renewed"] = json!([]);
        log.replace(33, tick(19_900), json!([{"session_ended": {"session": A, "reason": "lease_expired"}}]));
    }),
    ("fail fast too soon", 42, NoEarlyExpiry, |log| *log.command(42) = tick(22_699)),
    ("fail fast of a session that is reachable", 42, NoEarlyExpiry, |log| {
        log.replace(40, json!("barrier"), json!([]));
    }),
    ("fail fast although it was heard since", 42, NoEarlyExpiry, |log| {
        log.0[41]["renewed"] = json!([[B, 2]])
    }),
    ("fail fast that was not asked for", 42, NoEarlyExpiry, |log| {
        log.event(4).as_object_mut().unwrap().remove("fail_fast_ms");
        log.command(4)["open"].as_object_mut().unwrap().remove("fail_fast_ms");
    }),
    ("a session ended for an old connection", 23, NoEarlyExpiry, |log| {
        log.replace(
            23,
            json!({"gone": {"session": B, "n": 0, "cause": "closed"}}),
            json!([{"session_ended": {"session": B, "reason": "connection_closed"}}]),
        );
    }),
    ("unreachable within one lease of the epoch", 33, NoEarlyExpiry, |log| {
        log.0[33]["at"] = at(19_999);
        log.0[34]["at"] = at(20_000);
        log.replace(
            33,
            json!({"gone": {"session": B, "n": 1, "cause": "returned"}}),
            json!([{"unreachable": {"session": B, "n": 1}}]),
        );
    }),
    ("a tick that judges by a later moment than its own", 46, Time, |log| *log.command(46) = tick(25_101)),
    ("a tick of the epoch before", 34, Time, |log| *log.command(34) = tick(9_999)),
    // No loss.
    ("a wait ended before its limit", 29, NoLoss, |log| *log.command(29) = tick(3139)),
    ("a wait without a limit ended by it", 39, NoLoss, |log| {
        log.replace(39, tick(20_600), json!([{"ended": {"session": C, "seq": 3, "reason": "wait_limit"}}]));
    }),
    ("a waiter ended for no reason of its own", 28, NoLoss, |log| {
        log.replace(28, tick(1000), json!([{"ended": {"session": C, "seq": 2, "reason": "cancelled"}}]));
    }),
    ("a waiter ended by a policy that allows it", 23, NoLoss, |log| {
        log.replace(23, json!("advance"), json!([{"ended": {"session": C, "seq": 2, "reason": "policy"}}]));
    }),
    ("a holder ended like a waiter", 23, NoLoss, |log| {
        log.replace(
            23,
            json!({"cancel": {"session": B, "seq": 1}}),
            json!([{"ended": {"session": B, "seq": 1, "reason": "cancelled"}}]),
        );
    }),
    // Revocation.
    ("a grant taken away that was not revoked", 28, Revocation, |log| {
        log.replace(28, tick(1000), json!([{"released": {"token": 27, "reason": "hold_limit"}}]));
    }),
    ("a grant taken away before its time", 34, Revocation, |log| *log.command(34) = tick(19_899)),
    ("a grant revoked before its hold limit", 29, Revocation, |log| {
        log.0[29]["events"].as_array_mut().unwrap().remove(0);
        *log.command(29) = tick(1199);
    }),
    ("a grant without a hold limit revoked by it", 28, Revocation, |log| {
        log.replace(
            28,
            tick(1000),
            json!([{"revoking": {"token": 18, "reason": "hold_limit", "until": at(11_000)}}]),
        );
    }),
    ("a revocation shorter than a lease", 24, Revocation, |log| log.event(24)["until"] = at(10_169)),
    ("a grant revoked twice", 25, Revocation, |log| {
        let (command, mut events) = (log.0[24]["command"].clone(), log.0[24]["events"].clone());
        events[0]["revoking"]["until"] = at(10_175);
        log.replace(25, command, events);
    }),
    ("a grant taken at once although that was not commanded", 24, Revocation, |log| {
        log.0[24]["events"] = json!([{"released": {"token": 17, "reason": "forced", "by": "op"}}]);
    }),
    // Suspension.
    ("a grant of an earlier epoch undone", 33, Suspension, |log| {
        log.replace(
            33,
            json!({"gone": {"session": B, "n": 1, "seq": 3, "cause": "returned"}}),
            json!([{"suspended": {"session": B, "seq": 3, "token": 22}}]),
        );
    }),
    ("a grant undone for a reply to an old address", 23, Suspension, |log| {
        log.replace(
            23,
            json!({"gone": {"session": B, "n": 0, "seq": 3, "cause": "returned"}}),
            json!([{"suspended": {"session": B, "seq": 3, "token": 22}}]),
        );
    }),
    ("a suspended waiter granted", 15, Suspension, |log| {
        log.replace(15, json!("advance"), granted(B, 1, held("r", "exclusive", None, 1, 15)));
    }),
    ("unreachable at an old address", 40, Suspension, |log| {
        log.command(40)["gone"]["n"] = json!(0);
        log.event(40)["n"] = json!(0);
    }),
    ("a revoked grant undone", 25, Suspension, |log| {
        log.replace(
            25,
            json!({"gone": {"session": B, "n": 1, "seq": 1, "cause": "returned"}}),
            json!([{"suspended": {"session": B, "seq": 1, "token": 17}}]),
        );
    }),
    ("unreachable for a reply that names a request", 40, Decision, |log| {
        log.command(40)["gone"]["seq"] = json!(9);
    }),
    // Placement.
    ("a resource of another partition", 6, Placement, |log| {
        log.event(0)["partitions"] = json!(4);
    }),
    // Forward.
    ("a request of a session that is over", 45, Forward, |log| {
        log.replace(45, acquire(B, 9, exclusive("free")), queued(B, 9, exclusive("free")));
    }),
    ("a session that never was", 9, Forward, |log| {
        log.replace(9, acquire(77, 1, exclusive("free")), queued(77, 1, exclusive("free")));
    }),
    ("a session ended twice", 45, Forward, |log| {
        log.replace(
            45,
            json!({"close": {"session": B}}),
            json!([{"session_ended": {"session": B, "reason": "closed"}}]),
        );
    }),
    ("an attach that is not above the last", 23, Forward, |log| {
        log.replace(
            23,
            json!({"attach": {"session": B, "n": 1}}),
            json!([{"attached": {"session": B, "n": 1}}]),
        );
    }),
    ("a token that is over released", 23, Forward, |log| {
        log.replace(
            23,
            json!({"release": {"session": A, "token": 6}}),
            json!([{"released": {"token": 6, "reason": "released"}}]),
        );
    }),
    ("a grant of a session that ended released", 45, Forward, |log| {
        log.replace(
            45,
            json!({"release": {"session": B, "token": 19}}),
            json!([{"released": {"token": 19, "reason": "released"}}]),
        );
    }),
    ("a grant that was undone revoked", 15, Forward, |log| {
        log.replace(
            15,
            json!({"force_release": {"resource": "r", "token": 13, "reason": "why", "by": "op"}}),
            json!([{"revoking": {"token": 13, "reason": "forced", "by": "op", "until": at(10_095)}}]),
        );
    }),
    ("a request that does not wait granted", 23, Forward, |log| {
        log.replace(23, json!("advance"), granted(C, 3, held("free", "exclusive", None, 1, 23)));
    }),
    ("a request that does not wait ended", 28, Forward, |log| {
        log.replace(28, tick(1000), json!([{"ended": {"session": C, "seq": 3, "reason": "wait_limit"}}]));
    }),
    // Decision.
    ("a grant under another command", 9, Decision, |log| {
        log.replace(9, tick(45), granted(C, 2, held("free", "exclusive", None, 1, 9)));
    }),
    ("a barrier with an event", 9, Decision, |log| {
        log.0[9]["events"] = json!([{"paused": {"by": "op", "reason": "why"}}]);
    }),
    ("an advance that does nothing", 9, Decision, |log| *log.command(9) = json!("advance")),
    ("an acquire that does two things", 7, Decision, |log| {
        let events = json!([log.0[7]["events"][0], {"refused": {"session": B, "seq": 2, "reason": "busy"}}]);
        log.0[7]["events"] = events;
    }),
    ("a grant of another request than asked", 6, Decision, |log| log.event(6)["seq"] = json!(2)),
    ("a grant of other claims than asked", 6, Decision, |log| {
        log.event(6)["claims"][0]["resource"] = json!("q")
    }),
    ("a grant of another mode than asked", 6, Decision, |log| {
        log.event(6)["claims"][0]["mode"] = json!("shared")
    }),
    ("a place in line with another priority than asked", 8, Decision, |log| {
        log.event(8)["priority"] = json!(6)
    }),
    ("a waiter granted other claims than it waits for", 11, Decision, |log| {
        log.event(11)["claims"][0]["resource"] = json!("q");
    }),
    ("a try that waits", 7, Decision, |log| {
        log.command(7)["acquire"]["wait_ms"] = json!(0);
        log.event(7)["wait_ms"] = json!(0);
    }),
    ("a resource claimed twice in a request", 9, Evidence, |log| {
        let claims = json!([{"resource": "a", "mode": "exclusive"}, {"resource": "a", "mode": "shared"}]);
        log.replace(9, acquire(A, 2, claims.clone()), queued(A, 2, claims));
    }),
    ("a request without a claim", 9, Evidence, |log| {
        log.replace(9, acquire(A, 2, json!([])), queued(A, 2, json!([])))
    }),
    ("permits without the mode", 9, Evidence, |log| {
        let claims = json!([{"resource": "a", "mode": "shared", "permits": 1}]);
        log.replace(9, acquire(A, 2, claims.clone()), queued(A, 2, claims));
    }),
    ("a principal that the policy does not allow", 9, Decision, |log| {
        let events = granted(A, 2, held("ops/x", "exclusive", None, 1, 9));
        log.replace(9, acquire(A, 2, exclusive("ops/x")), events);
    }),
    ("a refusal for no reason of a request's", 37, Evidence, |log| {
        log.event(37)["reason"] = json!("lease_expired")
    }),
    ("a refusal of another request than asked", 37, Decision, |log| log.event(37)["seq"] = json!(5)),
    ("a release of another session's grant", 9, Decision, |log| {
        log.replace(
            9,
            json!({"release": {"session": B, "token": 6}}),
            json!([{"released": {"token": 6, "reason": "released"}}]),
        );
    }),
    ("a release of another token than asked", 23, Decision, |log| {
        log.replace(
            23,
            json!({"release": {"session": B, "token": 19}}),
            json!([{"released": {"token": 17, "reason": "released"}}]),
        );
    }),
    ("a revoked grant released as if it were not", 26, Decision, |log| {
        log.event(26)["reason"] = json!("released")
    }),
    ("a cancel that ends another request's grant", 12, Decision, |log| {
        log.command(12)["cancel"]["seq"] = json!(2)
    }),
    ("a cancel that ends another request", 47, Decision, |log| log.event(47)["seq"] = json!(6)),
    ("a close that ends another session", 51, Decision, |log| log.command(51)["close"]["session"] = json!(A)),
    ("a session ended for a reason that is no end", 51, Decision, |log| {
        log.event(51)["reason"] = json!("lease_expired")
    }),
    ("a forced release of another resource", 24, Decision, |log| {
        log.command(24)["force_release"]["resource"] = json!("s");
    }),
    ("a forced release by somebody else", 49, Decision, |log| log.event(49)["by"] = json!("another")),
    ("a session opened with another key", 3, Decision, |log| log.event(3)["key_hash"] = json!(Hash([9; 32]))),
    ("a session opened for another principal", 3, Decision, |log| log.event(3)["principal"] = json!("root")),
    ("a longer lease than asked", 3, Decision, |log| log.event(3)["lease_ms"] = json!(10_001)),
    ("a shorter lease than asked", 3, Decision, |log| log.event(3)["lease_ms"] = json!(9_999)),
    ("a longer lease than the policy allows", 3, Decision, |log| {
        log.0[2]["events"][0]["policy"]["lease_ms_max"] = json!(9_999)
    }),
    ("a revoked grant cancelled as if it were not", 25, Decision, |log| {
        log.replace(
            25,
            json!({"cancel": {"session": B, "seq": 1}}),
            json!([{"released": {"token": 17, "reason": "cancelled"}}]),
        );
    }),
    ("a tick that revokes before it ends a wait", 29, Decision, |log| {
        log.0[29]["events"].as_array_mut().unwrap().reverse();
    }),
    ("an operator named for a hold limit", 29, Decision, |log| {
        log.0[29]["events"][1]["revoking"]["by"] = json!("op");
    }),
    ("no operator named for a forced release", 49, Decision, |log| {
        drop(log.event(49).as_object_mut().unwrap().remove("by"))
    }),
    ("an address for another session", 16, Decision, |log| log.event(16)["session"] = json!(A)),
    ("unreachable twice", 41, Decision, |log| {
        let (command, events) = (log.0[40]["command"].clone(), log.0[40]["events"].clone());
        log.replace(41, command, events);
    }),
    ("a pause of what is paused", 39, Decision, |log| {
        let (command, events) = (log.0[38]["command"].clone(), log.0[38]["events"].clone());
        log.replace(39, command, events);
    }),
    ("a pause by somebody else", 38, Decision, |log| log.event(38)["by"] = json!("another")),
    ("a resume of what was not paused", 23, Decision, |log| {
        log.replace(
            23,
            json!({"resume": {"by": "op", "reason": "why"}}),
            json!([{"resumed": {"by": "op", "reason": "why"}}]),
        );
    }),
    // Checkpoints.
    ("a checkpoint of a record to come", 30, Evidence, |log| log.event(30)["of"] = json!(30)),
];

#[test]
fn each_broken_promise_is_seen_where_it_is_broken() {
    let mut wrong = Vec::new();
    for (what, index, promise, change) in MUTATIONS {
        let mut log = story();
        change(&mut log);
        match verify(&log) {
            Ok(_) => wrong.push(format!("{what}: not seen")),
            Err(violation) if (violation.index, violation.promise) != (*index, *promise) => {
                wrong.push(format!("{what}: wanted {index} {promise:?}, found {violation}"));
            }
            Err(violation) => assert_eq!(violation.line, index + 1, "{what}"),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), MUTATIONS.len(), wrong.join("\n"));
}

#[test]
fn every_promise_has_a_mutation() {
    // Only a folder has a durable mark: its tests are beside it.
    let all = [
        Exclusion,
        Fencing,
        Once,
        Order,
        NoEarlyExpiry,
        NoLoss,
        Evidence,
        Epochs,
        Time,
        Forward,
        Withheld,
        Revocation,
        Suspension,
        Placement,
        Decision,
        Understood,
    ];
    for promise in all {
        assert!(MUTATIONS.iter().any(|(_, _, broken, _)| *broken == promise), "{promise}");
    }
}

/// Where the lines of the story, changed as bytes, are refused.
fn refused(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> (u64, Promise) {
    let mut lines = story().seal();
    change(&mut lines);
    let mut verifier = Verifier::new();
    let violation =
        lines.iter().find_map(|line| verifier.line(line).err()).expect("a changed log is refused");
    (violation.index, violation.promise)
}

#[test]
fn lines_that_are_dropped_doubled_moved_or_inserted_are_seen() {
    assert_eq!(refused(|lines| drop(lines.remove(9))), (9, Evidence));
    assert_eq!(refused(|lines| lines.insert(9, lines[9].clone())), (10, Evidence));
    assert_eq!(refused(|lines| lines.swap(9, 10)), (9, Evidence));
    assert_eq!(refused(|lines| lines.insert(9, Vec::new())), (9, Evidence));
    assert_eq!(refused(|lines| lines.insert(9, b"{".to_vec())), (9, Evidence));
    assert_eq!(refused(|lines| lines[9] = vec![b' '; 2 * 1024 * 1024]), (9, Evidence));
}

#[test]
fn a_changed_line_is_seen_in_it_or_in_the_next() {
    let lines = story().seal();
    // The last line's change is for the durable mark and for receipts.
    for (index, line) in lines[..lines.len() - 1].iter().enumerate() {
        // Every byte would take seconds: every seventh, at another offset in each line.
        for at in (index % 7..line.len()).step_by(7) {
            let (found, promise) = refused(|lines| lines[index][at] ^= 1);
            let index = index as u64;
            assert!(found == index || found == index + 1, "byte {at} of line {index}: {found} {promise}");
        }
    }
}

#[test]
fn a_field_that_says_nothing_is_left_out() {
    let with = |field: &str| {
        let lines = story().seal();
        let line = String::from_utf8(lines[9].clone()).unwrap();
        line.replace("\"barrier\"", &format!("\"barrier\",{field}")).into_bytes()
    };
    for field in [
        "\"events\":[]",
        "\"events\":null",
        "\"renewed\":[]",
        "\"renewed\":null",
        "\"upto\":null",
        "\"epoch\":1",
    ] {
        assert_eq!(refused(|lines| lines[9] = with(field)), (9, Evidence), "{field}");
    }
    // A default said, a field's value as a list, and a plain command as an object: parsers take them.
    for (at, said, instead) in [
        (6, "\"seq\":1,", "\"seq\":1,\"priority\":0,"),
        (9, "\"barrier\"", "{\"barrier\":null}"),
        (10, "{\"session\":3,\"token\":6}", "[3,6]"),
        (24, "\"by\":\"op\"}", "\"by\":\"op\",\"now\":false}"),
        (9, "{\"index\"", "\r{\"index\""),
        (9, "{\"index\"", " {\"index\""),
        (9, ",\"command\"", ",\r\"command\""),
    ] {
        let found = refused(|lines| {
            let line = String::from_utf8(lines[at].clone()).unwrap();
            assert!(line.contains(said), "{line}");
            lines[at] = line.replacen(said, instead, 1).into_bytes();
        });
        assert_eq!(found, (at as u64, Evidence), "{instead}");
    }
}

#[test]
fn the_same_record_written_otherwise_is_another() {
    // Only a blank more: hashed as written, so the next record names another hash.
    assert_eq!(refused(|lines| lines[9].insert(1, b' ')), (10, Evidence));
    // Its fields as an array are not the format, whatever a parser makes of them.
    assert_eq!(refused(|lines| lines[9] = b"[9]".to_vec()), (9, Evidence));
}
