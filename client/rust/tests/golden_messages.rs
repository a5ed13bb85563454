//! Every message kind against its golden file in `client/protocol/golden/messages/`, which the clients of all
//! languages are tested against. `UPDATE=1` writes the files anew; a difference is a change of the format.

#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it must be")]

use arbiterq_client::wire::{
    Acquire, Alive, Attach, Auth, Cancel, Cause, Claim, Close, Done, Ended, ForceRelease, Gone, Granted,
    Hash, HeldBy, KeepAlive, LogId, Lost, Mode, Nonce, Nudge, Open, Opened, OwnerRef, Pause, Queued, Reason,
    Refused, Release, Released, Reply, ReplyBody, Request, RequestBody, ResourceName, Resume, RevokedToken,
    SessionEnded, SessionKey, Status, StatusAsk, StatusHolder, StatusResource, StatusSession, StatusWaiter,
    StatusWhat, Tick,
};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../protocol/golden/messages").join(name)
}

fn resource(name: &str) -> ResourceName {
    ResourceName::new(name).unwrap()
}

fn key() -> SessionKey {
    SessionKey::new(KEY).unwrap()
}

fn requests() -> Vec<Request> {
    use RequestBody as B;
    let plain = |body| Request { partition: 0, auth: None, body };
    let of = |body| Request { partition: 0, auth: Some(Auth { session: 4790, key: key() }), body };
    let claims = vec![Claim::exclusive(resource("db/migrate"))];
    let acquire = Acquire {
        seq: 3,
        claims,
        owner: None,
        wait_ms: None,
        hold_max_ms: None,
        priority: None,
        reason: None,
        value: None,
    };
    let full = Acquire {
        seq: 4,
        claims: vec![
            Claim::exclusive(resource("{order-7}/stock")),
            Claim::shared(resource("{order-7}/Lager für \"Müller\"")),
            Claim::permits(resource("{order-7}/workers"), 3),
        ],
        owner: Some(OwnerRef(4790, 3)),
        wait_ms: Some(30_000),
        hold_max_ms: Some(600_000),
        priority: Some(9),
        reason: Some("v42".into()),
        value: Some("host-3:8080".into()),
    };
    let open = Open {
        id: "o-1".into(),
        key: key(),
        lease_ms: 60_000,
        fail_fast_ms: None,
        label: "ci-12@runner-3".into(),
        reply_to: None,
        peer: None,
    };
    let open_full = Open {
        fail_fast_ms: Some(5000),
        reply_to: Some("client.ci.6f1c0e9a-5b7d-4c3e-8a2b-1d0f9e8c7b6a".into()),
        peer: Some("127.0.0.1:53422".into()),
        ..open.clone()
    };
    let status = |what| plain(B::Status(StatusAsk { id: "s-1".into(), what }));
    let force = ForceRelease {
        id: "f-1".into(),
        resource: resource("db/migrate"),
        token: 4812,
        reason: "runner-3 is on fire".into(),
        now: false,
    };
    let nonce: Nonce = "00112233445566778899aabbccddeeff".parse().unwrap();
    let gone = Gone { nonce, session: 4790, seq: None, n: 2, cause: Cause::Returned };
    vec![
        plain(B::Open(open)),
        plain(B::Open(open_full)),
        of(B::Attach(Attach { n: 1, reply_to: None, peer: None })),
        of(B::Attach(Attach { n: 2, reply_to: Some("client.ci.2".into()), peer: Some("pid:1234".into()) })),
        of(B::Acquire(acquire.clone())),
        of(B::Acquire(full)),
        of(B::Acquire(Acquire { seq: 5, wait_ms: Some(0), ..acquire })),
        of(B::Release(Release { token: 4812 })),
        of(B::Cancel(Cancel { seq: 3 })),
        of(B::KeepAlive(KeepAlive { n: 12 })),
        of(B::Close(Close {})),
        status(StatusWhat::Summary),
        status(StatusWhat::Holders),
        status(StatusWhat::Resources),
        status(StatusWhat::Queue(resource("db/migrate"))),
        plain(B::ForceRelease(force.clone())),
        plain(B::ForceRelease(ForceRelease { now: true, ..force })),
        plain(B::Pause(Pause { id: "p-1".into(), reason: "maintenance".into() })),
        plain(B::Resume(Resume { id: "r-1".into(), reason: "done".into() })),
        plain(B::Tick(Tick { nonce, at: "2026-11-22T14:02:11.532481Z".parse().unwrap() })),
        plain(B::Gone(gone.clone())),
        plain(B::Gone(Gone { seq: Some(3), ..gone.clone() })),
        plain(B::Gone(Gone { cause: Cause::Closed, ..gone })),
        plain(B::Nudge(Nudge {})),
    ]
}

fn status_full(genesis: LogId, incarnation: Nonce) -> Status {
    let session = StatusSession {
        session: 4790,
        label: "ci-12@runner-3".into(),
        principal: "anonymous".into(),
        lease_left_ms: 58_000,
        renewed_ms: 2000,
    };
    let other = StatusSession { session: 4795, label: "ci-13@runner-4".into(), ..session.clone() };
    let holder = StatusHolder {
        resource: resource("db/migrate"),
        mode: Mode::Exclusive,
        permits: None,
        token: 4812,
        session: session.clone(),
        held_ms: 41_000,
        reason: Some("v42".into()),
        revoking: true,
    };
    let permits = StatusHolder {
        resource: resource("workers"),
        mode: Mode::Permits,
        permits: Some(3),
        token: 4815,
        session,
        held_ms: 10,
        reason: None,
        revoking: false,
    };
    let waiter = StatusWaiter {
        position: 1,
        mode: Mode::Shared,
        permits: None,
        session: other,
        seq: 1,
        waited_ms: 30_000,
        priority: 0,
        reason: None,
        suspended: false,
    };
    let suspended = StatusWaiter {
        position: 2,
        mode: Mode::Permits,
        permits: Some(2),
        seq: 2,
        priority: 9,
        reason: Some("nightly".into()),
        suspended: true,
        ..waiter.clone()
    };
    let row =
        StatusResource { resource: resource("db/migrate"), holders: 1, waiting: 2, oldest_wait_ms: 30_000 };
    Status {
        id: "s-2".into(),
        genesis,
        partitions: 2,
        incarnation,
        sessions: 2,
        held: 2,
        waiting: 2,
        oldest_wait_ms: 30_000,
        paused: Some("maintenance".into()),
        holders: vec![holder, permits],
        queue: vec![waiter, suspended],
        resources: vec![row],
    }
}

fn replies() -> Vec<Reply> {
    use ReplyBody as B;
    let of = |body| Reply { partition: 0, epoch: 7, index: 4812, session: Some(4790), body };
    let plain = |body| Reply { partition: 0, epoch: 7, index: 4812, session: None, body };
    let genesis: LogId = "6f1c0e9a5b7d4c3e8a2b1d0f9e8c7b6a".parse().unwrap();
    let incarnation: Nonce = "00112233445566778899aabbccddeeff".parse().unwrap();
    let hash: Hash = "a2d49b13b181c71b1eb10d447adf61a2b35ae03e0249a030091ef46dfcf50242".parse().unwrap();
    let opened = Opened {
        id: "o-1".into(),
        session: 4790,
        lease_ms: 60_000,
        in_flight_max: 64,
        genesis,
        partitions: 1,
    };
    let held_by = HeldBy {
        label: "ci-12@runner-3".into(),
        token: 4812,
        held_ms: 41_000,
        lease_left_ms: 19_000,
        renewed_ms: 41_000,
    };
    let refused = |reason| Refused { id: None, seq: None, token: None, reason, detail: String::new() };
    let alive =
        Alive { n: 12, held: vec![], revoked: vec![], attached: 0, suspended: vec![], positions: vec![] };
    let alive_full = Alive {
        n: 13,
        held: vec![(3, 4812), (4, 4815)],
        revoked: vec![RevokedToken(4812, Reason::HoldLimit)],
        attached: 2,
        suspended: vec![6],
        positions: vec![(5, 1), (6, 2)],
    };
    let status = Status { id: "s-1".into(), genesis, incarnation, sessions: 2, held: 1, ..Status::default() };
    vec![
        of(B::Opened(opened)),
        of(B::Queued(Queued { seq: 3, position: 2, waiting: 2, held_by: Some(held_by) })),
        of(B::Queued(Queued { seq: 3, position: 1, waiting: 1, held_by: None })),
        of(B::Granted(Granted { seq: 3, token: 4812, floors: vec![4812], hash })),
        of(B::Granted(Granted { seq: 4, token: 4815, floors: vec![4815, 4790, 4801], hash })),
        of(B::Released(Released { token: 4812, reason: Reason::Released })),
        of(B::Ended(Ended { seq: 3, reason: Reason::WaitLimit })),
        of(B::Refused(Refused { seq: Some(3), ..refused(Reason::Busy) })),
        of(B::Refused(Refused { token: Some(4812), ..refused(Reason::NotHeld) })),
        of(B::Refused(refused(Reason::NotYours))),
        Reply {
            index: 0,
            ..plain(B::Refused(Refused {
                id: Some("o-1".into()),
                detail: "lease_ms is 0, wanted 100 to 86400000".into(),
                ..refused(Reason::LeaseOutOfRange)
            }))
        },
        of(B::Lost(Lost { token: 4812, reason: Reason::Forced })),
        of(B::Alive(alive)),
        of(B::Alive(alive_full)),
        of(B::SessionEnded(SessionEnded { reason: Reason::Closed })),
        plain(B::Status(Box::new(status))),
        plain(B::Status(Box::new(status_full(genesis, incarnation)))),
        plain(B::Done(Done { id: "f-1".into() })),
    ]
}

/// One file a kind, one message a line.
fn compare(name: &str, kinds: &[&str], messages: &[(&str, Vec<u8>)]) {
    let folder = folder(name);
    let update = std::env::var_os("UPDATE").is_some();
    let mut wanted = BTreeSet::new();
    for kind in kinds {
        let lines: Vec<&Vec<u8>> = messages.iter().filter(|(k, _)| k == kind).map(|(_, line)| line).collect();
        assert!(!lines.is_empty(), "no sample of {kind}: every kind has a golden file");
        let bytes: Vec<u8> = lines.into_iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect();
        let path = folder.join(format!("{kind}.json"));
        if update {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let golden = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&golden), "{}", path.display());
        wanted.insert(format!("{kind}.json"));
    }
    let names = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.collect::<BTreeSet<_>>(), wanted, "a golden file without a kind");
}

#[test]
fn every_kind_of_request_is_written_as_its_golden_file() {
    let requests = requests();
    let lines: Vec<_> = requests.iter().map(|r| (r.body.kind(), r.encode())).collect();
    compare("requests", RequestBody::KINDS, &lines);
    for (request, (_, line)) in requests.iter().zip(&lines) {
        assert_eq!(Request::decode(line).as_ref(), Ok(request));
    }
}

#[test]
fn every_kind_of_reply_is_written_as_its_golden_file() {
    let replies = replies();
    let lines: Vec<_> = replies.iter().map(|r| (r.body.kind(), r.encode())).collect();
    compare("replies", ReplyBody::KINDS, &lines);
    for (reply, (_, line)) in replies.iter().zip(&lines) {
        assert_eq!(Reply::decode(line).unwrap().as_ref(), Some(reply));
    }
}

#[test]
fn a_client_ignores_what_it_does_not_know() {
    let unknown_kind = br#"{"v":1,"partition":0,"epoch":7,"index":4812,"won":{"seq":3}}"#;
    assert_eq!(Reply::decode(unknown_kind).unwrap(), None);
    let unknown_version = br#"{"v":2,"partition":0,"epoch":7,"index":4812,"done":{"id":"f-1"}}"#;
    assert_eq!(Reply::decode(unknown_version).unwrap(), None);
    let unknown_field =
        br#"{"v":1,"partition":0,"epoch":7,"index":4812,"new":1,"done":{"id":"f-1","new":1}}"#;
    let known = Reply::decode(unknown_field).unwrap().map(|reply| reply.body);
    assert_eq!(known, Some(ReplyBody::Done(Done { id: "f-1".into() })));
    let unknown_reason =
        br#"{"v":1,"partition":0,"epoch":7,"index":4812,"session":1,"ended":{"seq":3,"reason":"new"}}"#;
    let known = Reply::decode(unknown_reason).unwrap().map(|reply| reply.body);
    assert_eq!(known, Some(ReplyBody::Ended(Ended { seq: 3, reason: Reason::Unknown })));
}

/// A golden message with bytes replaced, taken out and put in.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let requests = requests().into_iter().map(|r| r.encode());
    let lines: Vec<Vec<u8>> = requests.chain(replies().into_iter().map(|r| r.encode())).collect();
    let byte =
        prop_oneof![any::<u8>(), proptest::sample::select(br#"{}[]",:0123456789-+.eE\u null true"#.to_vec())];
    let edit = (any::<proptest::sample::Index>(), 0..3u8, byte);
    (proptest::sample::select(lines), proptest::collection::vec(edit, 1..6)).prop_map(|(mut line, edits)| {
        for (at, how, byte) in edits {
            let at = at.index(line.len());
            match how {
                0 => line[at] = byte,
                1 if line.len() > 1 => drop(line.remove(at)),
                _ => line.insert(at, byte),
            }
        }
        line
    })
}

fn decoding_is_total(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(request) = Request::decode(bytes) {
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
    if let Ok(Some(reply)) = Reply::decode(bytes) {
        prop_assert_eq!(Reply::decode(&reply.encode()).unwrap(), Some(reply));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn decoding_a_damaged_message_never_panics(bytes in mutated()) {
        decoding_is_total(&bytes)?;
    }

    #[test]
    fn decoding_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        decoding_is_total(&bytes)?;
    }
}
