//! The bounds of the state machine: what happens at each, and that crowds cost what they should.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use arbiterq::log::chain::{ChainTip, Sealed, hash_of};
use arbiterq::log::record::{
    AcquireCommand, Command, DUE_MAX, Event, OpenCommand, Policy, RECORD_BYTES_MAX, Record, Rule,
};
use arbiterq::state::{Known, Outcome, State, decide, snapshot};
use arbiterq_client::wire::{
    CLAIMS_MAX, Cause, Claim, ID_BYTES_MAX, LABEL_BYTES_MAX, PrincipalBy, REASON_BYTES_MAX, REPLY_BYTES_MAX,
    RESOURCE_BYTES_MAX, Reason, Reply, ReplyBody, ResourceName, Seq, SessionId, Status, StatusWhat,
    Timestamp,
};

/// A state, and the records that made it.
struct Desk {
    state: State,
    now: Timestamp,
}

impl Desk {
    fn new(policy: Policy) -> Self {
        let mut desk =
            Self { state: State::new(ChainTip::before(0)), now: Timestamp::from_micros(1_000_000) };
        desk.seal(Command::Policy, vec![Event::Policy(policy)]);
        desk
    }

    fn seal(&mut self, command: Command, events: Vec<Event>) -> Sealed {
        let tip = self.state.tip();
        let (index, prev, at) = (tip.next_index, tip.hash, self.now);
        let sealed =
            Sealed::new(Record { index, prev, epoch: 0, at, renewed: vec![], upto: None, command, events });
        self.state.apply(&sealed);
        sealed
    }

    /// Decides, folds, and advances as far as it goes.
    fn run(&mut self, command: Command) -> Sealed {
        let events = decide(&self.state, &command, self.now);
        let sealed = self.seal(command, events);
        while self.state.can_advance() {
            let events = decide(&self.state, &Command::Advance, self.now);
            self.seal(Command::Advance, events);
        }
        sealed
    }

    fn open(&mut self, lease_ms: u64) -> SessionId {
        let session = self.state.tip().next_index;
        self.run(Command::Open(OpenCommand {
            key_hash: hash_of(&session.to_le_bytes()),
            lease_ms,
            fail_fast_ms: None,
            label: "c".into(),
            principal: "anonymous".into(),
            principal_by: PrincipalBy::Nobody,
            reply_to: None,
        }));
        session
    }

    fn acquire(&mut self, session: SessionId, seq: Seq, claims: Vec<Claim>) {
        self.run(Command::Acquire(AcquireCommand {
            session,
            seq,
            claims,
            owner: None,
            priority: 0,
            wait_ms: None,
            hold_max_ms: None,
            reason: None,
            value: None,
        }));
    }

    fn tick(&mut self) -> Sealed {
        let at = self.now;
        self.run(Command::Tick { at })
    }
}

fn name(text: &str) -> ResourceName {
    ResourceName::new(text).unwrap()
}

fn roomy() -> Policy {
    let rule = Rule { pattern: "*".into(), waiters_max: Some(200_000), ..Rule::default() };
    Policy { sessions_max: 100_000, in_flight_max: 200_000, rules: vec![rule], ..Policy::default() }
}

fn ends(sealed: &Sealed) -> usize {
    sealed.record.events.iter().filter(|event| matches!(event, Event::SessionEnded { .. })).count()
}

/// Clients take a longer reply for a broken connection: then nobody could look at all.
#[test]
fn a_look_at_a_queue_fits_into_a_reply_whatever_is_said_there() {
    let mut desk = Desk::new(roomy());
    // As long as they may be, and each character written as two.
    let quotes = |bytes: usize| "\"".repeat(bytes);
    let session = desk.state.tip().next_index;
    desk.run(Command::Open(OpenCommand {
        key_hash: hash_of(b"key"),
        lease_ms: 60_000,
        fail_fast_ms: None,
        label: quotes(LABEL_BYTES_MAX).into(),
        principal: "uid:4294967295".into(),
        principal_by: PrincipalBy::UnixPeer,
        reply_to: None,
    }));
    let resource = name(&quotes(RESOURCE_BYTES_MAX));
    let rows = Status::ROWS_MAX as u64 + 10;
    for seq in 0..2 * rows {
        let claim = if seq < rows { Claim::shared } else { Claim::exclusive };
        desk.run(Command::Acquire(AcquireCommand {
            session,
            seq,
            claims: vec![claim(resource.clone())],
            owner: None,
            priority: 0,
            wait_ms: None,
            hold_max_ms: None,
            reason: Some(quotes(REASON_BYTES_MAX).into()),
            value: None,
        }));
    }
    let status = desk.state.status(&quotes(ID_BYTES_MAX), &StatusWhat::Queue(resource), desk.now);
    assert_eq!((status.held, status.waiting), (rows, rows));
    assert_eq!(status.holders.len(), Status::ROWS_MAX);
    assert!(status.queue.len() > Status::ROWS_MAX / 2, "{}", status.queue.len());
    let body = ReplyBody::Status(Box::new(status));
    let reply = Reply { partition: 0, epoch: 1, index: 1, session: None, body };
    assert!(reply.encode().len() <= REPLY_BYTES_MAX, "{}", reply.encode().len());
}

#[test]
fn a_tick_ends_256_sessions_and_the_rest_stays_due() {
    let mut desk = Desk::new(roomy());
    for _ in 0..DUE_MAX + 44 {
        desk.open(1000);
    }
    desk.now = desk.now.plus_ms(1000);
    assert_eq!(ends(&desk.tick()), DUE_MAX);
    assert!(desk.state.next_deadline().is_some_and(|due| due <= desk.now), "44 are still due");
    assert_eq!(ends(&desk.tick()), 44);
    assert_eq!(desk.state.next_deadline(), None);
}

#[test]
fn a_tick_shares_its_bound_among_all_that_is_due() {
    let mut desk = Desk::new(roomy());
    let holder = desk.open(60_000);
    desk.acquire(holder, 0, vec![Claim::exclusive(name("db"))]);
    for seq in 1..=300 {
        let command = AcquireCommand {
            session: holder,
            seq,
            claims: vec![Claim::exclusive(name("db"))],
            owner: None,
            priority: 0,
            wait_ms: Some(500),
            hold_max_ms: None,
            reason: None,
            value: None,
        };
        desk.run(Command::Acquire(command));
    }
    for _ in 0..200 {
        desk.open(400);
    }
    desk.now = desk.now.plus_ms(500);
    let sealed = desk.tick();
    assert_eq!((ends(&sealed), sealed.record.events.len()), (200, DUE_MAX));
    assert_eq!(desk.tick().record.events.len(), 244);
    assert_eq!(desk.tick().record.events.len(), 0);
}

fn losers(sessions: u64, requests: u64) -> Desk {
    let rule = Rule { pattern: "*".into(), lock_delay_ms: Some(1000), ..Rule::default() };
    let mut desk = Desk::new(Policy { rules: vec![rule], ..roomy() });
    let mut number = 0;
    for _ in 0..sessions {
        let session = desk.open(1000);
        for seq in 0..requests {
            let claim = |i: usize| Claim::exclusive(name(&format!("{}{:06}", "\"".repeat(250), number + i)));
            desk.acquire(session, seq, (0..CLAIMS_MAX).map(claim).collect());
            number += CLAIMS_MAX;
        }
    }
    desk.now = desk.now.plus_ms(1000);
    desk
}

#[test]
fn lock_delays_stay_within_a_record() {
    // The longest names, each byte escaped: 640 of them a session.
    let mut desk = losers(4, 10);
    let (mut ended, mut delayed, mut ticks) = (0, 0, 0);
    while ended < 4 {
        let sealed = desk.tick();
        assert!(sealed.line.len() < RECORD_BYTES_MAX, "{} bytes", sealed.line.len());
        assert!(ends(&sealed) > 0, "a tick that ends nobody though sessions are due");
        ended += ends(&sealed);
        delayed += sealed.record.events.len() - ends(&sealed);
        ticks += 1;
    }
    assert_eq!((delayed, ticks), (4 * 640, 2));
}

#[test]
fn one_session_that_loses_too_much_at_once() {
    let mut desk = losers(1, 64);
    let session = desk.state.sessions().next().unwrap().0;
    let mut twin = Desk { state: desk.state.clone(), now: desk.now };
    let gone = Command::Gone { session, n: 0, seq: None, cause: Cause::Closed };
    for sealed in [desk.tick(), twin.run(gone)] {
        assert!(sealed.line.len() < RECORD_BYTES_MAX, "{} bytes", sealed.line.len());
        assert_eq!(ends(&sealed), 1);
        assert!(sealed.record.events.len() > 1000);
    }
}

#[test]
fn outcomes_of_a_session_are_bounded() {
    let mut desk = Desk::new(Policy { in_flight_max: 8, ..Policy::default() });
    let session = desk.open(60_000);
    for seq in 0..100 {
        desk.run(Command::Cancel { session, seq });
    }
    let kept = (0..100).filter(|seq| matches!(desk.state.known(session, *seq), Known::Over(_))).count();
    assert_eq!(kept, 16);
    assert_eq!(desk.state.known(session, 84), Known::Over(Outcome::Ended(Reason::Cancelled)));
    assert_eq!(desk.state.known(session, 83), Known::Forgotten);
}

const CROWD: u64 = 100_000;

/// Requests of one session from 1 to `CROWD` wait behind request 0.
fn crowd(claims: impl Fn(u64) -> Vec<Claim>) -> (Desk, SessionId) {
    let mut desk = Desk::new(roomy());
    let session = desk.open(60_000);
    desk.acquire(session, 0, vec![Claim::exclusive(name("db"))]);
    (1..=CROWD).for_each(|seq| desk.acquire(session, seq, claims(seq)));
    (desk, session)
}

/// Numbers from 1 to `CROWD` in an order without one.
fn scattered() -> impl Iterator<Item = u64> {
    (1..=CROWD).map(|i| i * 7919 % CROWD + 1)
}

// The tests below take a second or two; were any of it quadratic, they would take an hour.

#[test]
fn a_crowd_is_served_in_order() {
    let (mut desk, session) = crowd(|_| vec![Claim::exclusive(name("db"))]);
    for seq in 0..=CROWD {
        let Known::Held(token) = desk.state.known(session, seq) else { panic!("{seq} does not hold") };
        desk.run(Command::Release { session, token });
    }
    assert_eq!(desk.state.grants_in_force().count(), 0);
}

#[test]
fn a_crowd_is_cancelled() {
    // Half of them are grantable at one of their resources, which are looked at again with each cancellation.
    let (mut desk, session) = crowd(|seq| match seq % 4 {
        0 => vec![Claim::exclusive(name("db"))],
        1 => vec![Claim::shared(name("free")), Claim::shared(name("db"))],
        2 => vec![Claim::shared(name("free")), Claim::exclusive(name("db"))],
        _ => vec![Claim::shared(name("db"))],
    });
    for seq in scattered() {
        desk.run(Command::Cancel { session, seq });
    }
    assert_eq!(desk.state.alive(session).unwrap().positions, vec![]);
}

#[test]
fn a_suspended_crowd_is_passed_over() {
    let (mut desk, session) = crowd(|_| vec![Claim::exclusive(name("db"))]);
    // A grant after the other comes back; each next one is granted past all of them.
    for seq in 0..CROWD {
        let gone = Command::Gone { session, n: 0, seq: Some(seq), cause: Cause::Returned };
        desk.run(gone);
    }
    let other = desk.open(60_000);
    for seq in 0..1000 {
        desk.acquire(other, seq, vec![Claim::exclusive(name("db"))]);
    }
    let Known::Held(token) = desk.state.known(session, CROWD) else { panic!("the last one holds") };
    desk.run(Command::Release { session, token });
    for seq in 0..1000 {
        let Known::Held(token) = desk.state.known(other, seq) else { panic!("{seq} does not hold") };
        desk.run(Command::Release { session: other, token });
    }
    assert_eq!(desk.state.alive(session).unwrap().suspended.len(), CROWD as usize);
    // They are all eligible again, in their old places.
    desk.run(Command::Attach { session, n: 1, reply_to: None });
    assert!(matches!(desk.state.known(session, 0), Known::Held(_)));
    let position = desk.state.queued(session, 50_000, desk.now).unwrap().position;
    assert_eq!(position, 50_000);
}

#[test]
fn a_crowd_is_granted_at_once() {
    let (mut desk, session) = crowd(|_| vec![Claim::shared(name("db")), Claim::shared(name("free"))]);
    let Known::Held(token) = desk.state.known(session, 0) else { panic!("the first one holds") };
    desk.run(Command::Release { session, token });
    assert_eq!(desk.state.grants_in_force().count(), CROWD as usize);
    assert_eq!(snapshot::read(&snapshot::write(&desk.state)).unwrap(), desk.state);
    desk.run(Command::Close { session });
    assert_eq!(desk.state.grants_in_force().count(), 0);
}
