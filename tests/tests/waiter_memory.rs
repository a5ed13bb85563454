//! What a waiter costs in memory. Alone in its process, for the kernel counts pages and not whose they are.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use arbiterq::log::chain::{ChainTip, Sealed, hash_of};
use arbiterq::log::record::{AcquireCommand, Command, Event, OpenCommand, Policy, Record, Rule};
use arbiterq::state::{State, decide};
use arbiterq_client::wire::{Claim, Hash, PrincipalBy, ResourceName, SessionId, Timestamp};

const SESSIONS: u64 = 1000;
const WAITERS: u64 = 200_000;
/// Of the state, with what the allocator adds.
const WAITER_BYTES_MAX: u64 = 500;

fn run(state: &mut State, command: Command) {
    let at = Timestamp::from_micros(1_000_000);
    let events = decide(state, &command, at);
    fold(state, command, events);
}

fn fold(state: &mut State, command: Command, events: Vec<Event>) {
    let tip = state.tip();
    let (index, prev, at) = (tip.next_index, tip.hash, Timestamp::from_micros(1_000_000));
    let record = Record { index, prev, epoch: 1, at, renewed: vec![], upto: None, command, events };
    state.fold(&Sealed { record, line: Vec::new(), hash: Hash::default() });
}

fn acquire(session: SessionId, seq: u64) -> Command {
    Command::Acquire(AcquireCommand {
        session,
        seq,
        claims: vec![Claim::exclusive(ResourceName::new("orders/customer-17").unwrap())],
        owner: None,
        priority: 0,
        wait_ms: Some(30_000),
        hold_max_ms: None,
        reason: None,
        value: None,
    })
}

fn resident() -> u64 {
    arbiterq_tests::resident_bytes(std::process::id())
}

#[test]
fn a_waiter_takes_no_more_than_it_may() {
    let mut state = State::new(ChainTip::before(0));
    let rule = Rule { pattern: "*".into(), waiters_max: Some(1_000_000), ..Rule::default() };
    let policy = Policy { in_flight_max: 4096, rules: vec![rule], ..Policy::default() };
    fold(&mut state, Command::Policy, vec![Event::Policy(policy)]);
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let session = state.tip().next_index;
        sessions.push(session);
        run(
            &mut state,
            Command::Open(OpenCommand {
                key_hash: hash_of(&session.to_le_bytes()),
                lease_ms: 60_000,
                fail_fast_ms: None,
                label: "c".into(),
                principal: "anonymous".into(),
                principal_by: PrincipalBy::Nobody,
                reply_to: None,
            }),
        );
        run(&mut state, acquire(session, 0));
    }
    let before = resident();
    for seq in 1..=WAITERS / SESSIONS {
        sessions.iter().for_each(|session| run(&mut state, acquire(*session, seq)));
    }
    let each = (resident() - before) / WAITERS;
    println!("{each} bytes a waiter, {WAITER_BYTES_MAX} are allowed");
    let waiting = state.alive(sessions[0]).unwrap().positions.len() as u64;
    assert_eq!(waiting, WAITERS / SESSIONS, "all of them wait");
    assert!(each <= WAITER_BYTES_MAX, "{each} bytes a waiter");
    assert!(each > 100, "{each} bytes a waiter: that was not measured");
}
