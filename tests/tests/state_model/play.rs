//! Random commands, and both sides that decide them.

use crate::model::{Model, Stands};
use arbiterq::log::chain::{ChainTip, Sealed, hash_of};
use arbiterq::log::record::{
    AcquireCommand, Command, Event, FORMAT, Genesis, OpenCommand, Policy, RULES, Record, Rule,
};
use arbiterq::state::{State, decide, snapshot};
use arbiterq_client::wire::{
    Cause, Claim, ClaimGranted, Mode, Nonce, OwnerRef, PrincipalBy, Reason, ResourceName, Seq, SessionId,
    Timestamp, Token,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Something that happens. Sessions and grants are named by numbers that choose among those there are.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Open {
        key: u8,
        lease_ms: u64,
        fail_fast_ms: Option<u64>,
        alice: bool,
    },
    Attach {
        session: usize,
        n: u64,
    },
    Acquire {
        session: usize,
        ahead: i64,
        claims: Vec<Claim>,
        owner: Option<(usize, Seq)>,
        priority: u8,
        wait_ms: Option<u64>,
        hold_max_ms: Option<u64>,
    },
    Release {
        session: usize,
        grant: usize,
    },
    Cancel {
        session: usize,
        ahead: i64,
    },
    Close {
        session: usize,
    },
    KeepAlive {
        session: usize,
        n: u64,
    },
    Tick {
        back_ms: u64,
    },
    Gone {
        session: usize,
        n: u64,
        grant: Option<usize>,
        closed: bool,
    },
    Force {
        grant: usize,
        elsewhere: bool,
        now: bool,
    },
    Pause,
    Resume,
    Policy(usize),
    /// The arbiter dies here, before its next record.
    Die,
    Sleep(u64),
    /// From here on time passes before each advance.
    Slow(u64),
    Advance,
    Restore,
}

fn claims() -> impl Strategy<Value = Vec<Claim>> {
    let name = prop::sample::select(vec!["a", "b", "delayed", "held", "pool", "pool/2", "vault"]);
    let claim = (name, 0..6u32).prop_map(|(name, kind)| {
        let resource = ResourceName::new(name).unwrap();
        match kind {
            0 | 1 => Claim::exclusive(resource),
            2 | 3 => Claim::shared(resource),
            _ => Claim::permits(resource, kind - 3),
        }
    });
    prop::collection::vec(claim, 1..4).prop_map(|mut claims| {
        let mut names = BTreeSet::new();
        claims.retain(|claim| names.insert(claim.resource.clone()));
        claims
    })
}

/// Mostly short moments, so that many things are due at once.
fn span() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0u64), 1..50u64, Just(100), 100..400u64]
}

fn maybe<S: Strategy>(strategy: S) -> impl Strategy<Value = Option<S::Value>> {
    prop::option::weighted(0.3, strategy)
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let s = 0..5usize;
    prop_oneof![
        2 => (0..6u8, 100..900u64, maybe(100..300u64), any::<bool>())
            .prop_map(|(key, lease_ms, fail_fast_ms, alice)| Op::Open { key, lease_ms, fail_fast_ms, alice }),
        2 => (s.clone(), 0..4u64).prop_map(|(session, n)| Op::Attach { session, n }),
        12 => (s.clone(), -6..3i64, claims(), maybe(s.clone()), 0..8u64, prop_oneof![4 => Just(0u8), 1 => 0..3u8],
               prop::option::of(span()), maybe(span()))
            .prop_map(|(session, ahead, claims, owner, of, priority, wait_ms, hold)| Op::Acquire {
                session, ahead, claims, owner: owner.map(|owner| (owner, of)), priority, wait_ms,
                hold_max_ms: hold,
            }),
        5 => (s.clone(), 0..6usize).prop_map(|(session, grant)| Op::Release { session, grant }),
        3 => (s.clone(), -6..3i64).prop_map(|(session, ahead)| Op::Cancel { session, ahead }),
        1 => s.clone().prop_map(|session| Op::Close { session }),
        4 => (s.clone(), 0..9u64).prop_map(|(session, n)| Op::KeepAlive { session, n }),
        4 => span().prop_map(|back_ms| Op::Tick { back_ms }),
        4 => (s, 0..3u64, prop::option::of(0..6usize), prop::bool::weighted(0.15))
            .prop_map(|(session, n, grant, closed)| Op::Gone { session, n, grant, closed }),
        2 => (0..6usize, prop::bool::weighted(0.1), any::<bool>())
            .prop_map(|(grant, elsewhere, now)| Op::Force { grant, elsewhere, now }),
        1 => prop_oneof![Just(Op::Pause), Just(Op::Resume), Just(Op::Resume)],
        1 => (0..3usize).prop_map(Op::Policy),
        1 => Just(Op::Die),
        6 => span().prop_map(Op::Sleep),
        1 => Just(Op::Restore),
        1 => span().prop_map(Op::Slow),
        2 => Just(Op::Advance),
    ]
}

fn policy(which: usize) -> Policy {
    let rule = |pattern: &str| Rule { pattern: pattern.into(), ..Rule::default() };
    let pool = [3, 2, 1][which];
    let vault = [None, Some(vec!["alice".into()]), Some(vec!["bob".into(), "alice".into()])];
    Policy {
        sessions_max: 4,
        in_flight_max: [4, 3, 5][which],
        lease_ms_max: [1000, 600, 700][which],
        rules: vec![
            Rule { lock_delay_ms: Some([150, 40, 0][which]), ..rule("delayed") },
            Rule { hold_max_ms: Some(120), ..rule("held") },
            Rule { capacity: Some(pool + 1), waiters_max: Some(2), ..rule("pool/2") },
            Rule { capacity: Some(pool), lock_delay_ms: Some(30), ..rule("pool*") },
            Rule { allow: vault[which].clone(), ..rule("vault") },
        ],
    }
}

pub(crate) struct Play {
    model: Model,
    state: State,
    standby: State,
    now: Timestamp,
    /// Advances come next, as they must.
    diligent: bool,
    running: bool,
    slow_ms: u64,
    sessions: Vec<SessionId>,
    highest: BTreeMap<SessionId, Seq>,
    used: BTreeSet<(SessionId, Seq)>,
}

impl Play {
    pub(crate) fn new(diligent: bool) -> Self {
        let state = State::new(ChainTip::before(0));
        let mut play = Self {
            model: Model::default(),
            standby: state.clone(),
            state,
            now: Timestamp::from_micros(1_700_000_000_000_000),
            diligent,
            running: true,
            slow_ms: 0,
            sessions: Vec::new(),
            highest: BTreeMap::new(),
            used: BTreeSet::new(),
        };
        play.seal(Command::Create, vec![Event::Genesis(genesis())], vec![]);
        play.start();
        play.seal(Command::Policy, vec![Event::Policy(policy(0))], vec![]);
        play
    }

    fn start(&mut self) {
        let epoch = self.state.epoch() + 1;
        let event = Event::EpochStarted { epoch, incarnation: Nonce([7; 16]), rules: RULES };
        self.seal(Command::Activate, vec![event], vec![]);
        self.running = true;
    }

    fn session(&self, which: usize) -> SessionId {
        // One of them never was.
        let count = self.sessions.len();
        self.sessions.iter().rev().nth(which).copied().unwrap_or(9_000 + count as u64)
    }

    fn seq(&self, session: SessionId, ahead: i64) -> Seq {
        let highest = self.highest.get(&session).copied().unwrap_or(0) as i64;
        (highest + ahead).max(0) as u64
    }

    fn token(&self, which: usize) -> Token {
        let tokens = self.model.requests.iter().filter_map(|request| request.token());
        tokens.collect::<Vec<_>>().into_iter().rev().nth(which).unwrap_or(which as u64)
    }

    pub(crate) fn run(&mut self, op: Op) {
        let command = match op {
            Op::Sleep(ms) => {
                self.now = self.now.plus_ms(ms);
                return;
            }
            Op::Slow(ms) => {
                self.slow_ms = ms;
                return;
            }
            Op::Restore => {
                self.state = snapshot::read(&snapshot::write(&self.state)).unwrap();
                return;
            }
            Op::Die => {
                self.running = false;
                return;
            }
            Op::KeepAlive { session, n } => {
                let renewed = vec![(self.session(session), n)];
                self.state.renew(&renewed, self.now);
                self.model.renew(&renewed, self.now);
                self.seal(Command::Barrier, vec![], renewed);
                self.after();
                return;
            }
            Op::Policy(which) => {
                self.seal(Command::Policy, vec![Event::Policy(policy(which))], vec![]);
                self.after();
                return;
            }
            Op::Open { key, lease_ms, fail_fast_ms, alice } => Command::Open(OpenCommand {
                key_hash: hash_of(&[key]),
                lease_ms,
                fail_fast_ms,
                label: "c".into(),
                principal: if alice { "alice" } else { "bob" }.into(),
                principal_by: PrincipalBy::Nobody,
                reply_to: None,
            }),
            Op::Attach { session, n } => {
                Command::Attach { session: self.session(session), n, reply_to: Some("there".into()) }
            }
            Op::Acquire { session, ahead, claims, owner, priority, wait_ms, hold_max_ms } => {
                let session = self.session(session);
                let owner = owner.map(|(session, seq)| OwnerRef(self.session(session), seq));
                let seq = self.seq(session, ahead);
                Command::Acquire(AcquireCommand {
                    session,
                    seq,
                    claims,
                    owner,
                    priority,
                    wait_ms,
                    hold_max_ms,
                    reason: None,
                    value: None,
                })
            }
            Op::Release { session, grant } => {
                let token = self.token(grant);
                // Mostly by the one whose it is.
                let own = self.model.holding(token).map(|request| request.session);
                let session = own.filter(|_| session > 0).unwrap_or_else(|| self.session(session));
                Command::Release { session, token }
            }
            Op::Cancel { session, ahead } => {
                let session = self.session(session);
                Command::Cancel { session, seq: self.seq(session, ahead) }
            }
            Op::Close { session } => Command::Close { session: self.session(session) },
            Op::Tick { back_ms } => {
                let at = Timestamp::from_micros(self.now.as_micros() - back_ms * 1000);
                Command::Tick { at }
            }
            Op::Gone { session, n, grant, closed } => {
                let cause = if closed { Cause::Closed } else { Cause::Returned };
                let held = grant.and_then(|grant| self.model.holding(self.token(grant)));
                let (session, seq) = match held {
                    Some(request) => (request.session, Some(request.seq)),
                    None => (self.session(session), grant.map(|grant| grant as u64)),
                };
                // Mostly the address in force.
                let n = self
                    .model
                    .session(session)
                    .map(|session| session.attached)
                    .filter(|_| n > 0)
                    .unwrap_or(n);
                Command::Gone { session, n, seq, cause }
            }
            Op::Force { grant, elsewhere, now } => {
                let token = self.token(grant);
                let held = self.state.grant(token).map(|grant| grant.claims()[0].resource.clone());
                let resource = held.filter(|_| !elsewhere).unwrap_or(ResourceName::new("else").unwrap());
                Command::ForceRelease { resource, token, reason: "stuck".into(), by: "ops".into(), now }
            }
            Op::Advance => Command::Advance,
            Op::Pause => Command::Pause { reason: "why".into(), by: "ops".into() },
            Op::Resume => Command::Resume { reason: "why".into(), by: "ops".into() },
        };
        self.decide(command);
        self.after();
    }

    fn decide(&mut self, command: Command) {
        let events = decide(&self.state, &command, self.now);
        assert_eq!(events, self.model.decide(&command, self.now), "{command:?}");
        let due = |moment| matches!(&command, Command::Tick { at } if moment <= *at);
        if !events.is_empty() || self.state.next_deadline().is_some_and(due) {
            self.seal(command, events, vec![]);
        }
    }

    /// A claim that the model reads as shared: the two must differ.
    pub(crate) fn decide_with_a_bug(&mut self) -> bool {
        let session = self.session(0);
        let acquire = |seq, claim: fn(ResourceName) -> Claim| {
            Command::Acquire(AcquireCommand {
                session,
                seq,
                claims: vec![claim(ResourceName::new("a").unwrap())],
                owner: None,
                priority: 0,
                wait_ms: None,
                hold_max_ms: None,
                reason: None,
                value: None,
            })
        };
        self.decide(acquire(1, Claim::shared));
        let decided = decide(&self.state, &acquire(2, Claim::exclusive), self.now);
        decided != self.model.decide(&acquire(2, Claim::shared), self.now)
    }

    /// What comes after a record: a new arbiter if this one died, and then advances before anything else.
    fn after(&mut self) {
        if !self.running {
            self.start();
        }
        while self.diligent && self.state.can_advance() {
            let before = self.state.tip().next_index;
            self.now = self.now.plus_ms(self.slow_ms);
            self.decide(Command::Advance);
            assert!(self.state.tip().next_index > before, "an advance that changes nothing");
        }
    }

    fn seal(&mut self, command: Command, events: Vec<Event>, renewed: Vec<(SessionId, u64)>) {
        let tip = self.state.tip();
        for event in &events {
            self.look_at(event, tip.next_index, &command);
        }
        let sealed = Sealed::new(Record {
            index: tip.next_index,
            prev: tip.hash,
            epoch: self.state.epoch(),
            at: self.now,
            renewed,
            upto: None,
            command,
            events,
        });
        self.state.apply(&sealed);
        self.model.apply(&sealed.record.events, self.now);
        self.standby.fold(&Sealed::read(&sealed.line).unwrap());
        self.compare();
    }

    /// What no rule may break, whatever the model says.
    fn look_at(&mut self, event: &Event, index: u64, command: &Command) {
        match event {
            Event::Opened { .. } => self.sessions.push(index),
            Event::Queued { session, seq, .. } | Event::Refused { session, seq, .. } => {
                assert!(self.used.insert((*session, *seq)), "{session}/{seq} is decided twice");
                self.see(*session, *seq);
            }
            Event::Granted { session, seq, claims, .. } => {
                let first = self.used.insert((*session, *seq));
                assert_eq!(first, !matches!(command, Command::Advance), "{session}/{seq} is decided twice");
                self.see(*session, *seq);
                for claim in claims {
                    self.exclusion(claim);
                }
            }
            Event::Ended { session, seq, .. } => {
                self.used.insert((*session, *seq));
                self.see(*session, *seq);
            }
            _ => {}
        }
    }

    fn see(&mut self, session: SessionId, seq: Seq) {
        let highest = self.highest.entry(session).or_default();
        *highest = (*highest).max(seq);
    }

    fn exclusion(&self, new: &ClaimGranted) {
        let others = self.state.grants_in_force().flat_map(|grant| grant.claims());
        let others: Vec<_> = others.filter(|other| other.resource == new.resource).collect();
        match new.mode {
            Mode::Exclusive => assert!(others.is_empty(), "{new:?} beside {others:?}"),
            mode => assert!(others.iter().all(|other| other.mode == mode), "{new:?} beside {others:?}"),
        }
        let taken: u32 = others.iter().chain([&new]).filter_map(|claim| claim.permits).sum();
        assert!(taken <= new.capacity || new.mode != Mode::Permits, "{new:?} beside {others:?}");
    }

    fn compare(&self) {
        assert_eq!(self.standby, self.state, "a standby has folded something else");
        assert_eq!(self.state.can_advance(), self.model.can_advance());
        assert_eq!(self.state.next_deadline(), self.model.next_deadline());
        let held: Vec<Token> =
            self.state.grants_in_force().map(|grant| grant.claims().len() as u64).collect();
        let tokens = self.model.requests.iter().filter_map(|request| request.token());
        assert_eq!(held.len(), tokens.count());
        for session in &self.model.sessions {
            let alive = self.state.alive(session.id).expect("a live session");
            assert_eq!((alive.n, alive.attached), (session.n, session.attached));
            let mut held = Vec::new();
            let (mut waiting, mut suspended) = (Vec::new(), Vec::new());
            for request in self.model.requests.iter().filter(|request| request.session == session.id) {
                match request.state {
                    Stands::Held { token, .. } => held.push((request.seq, token)),
                    Stands::Waiting => waiting.push(request.seq),
                    Stands::Suspended => {
                        waiting.push(request.seq);
                        suspended.push(request.seq);
                    }
                }
            }
            [&mut waiting, &mut suspended].into_iter().for_each(|seqs| seqs.sort());
            held.sort();
            assert_eq!(alive.held, held);
            assert_eq!(alive.suspended, suspended);
            let waiting = waiting.into_iter().map(|seq| (seq, self.model.position(session.id, seq)));
            assert_eq!(alive.positions, waiting.collect::<Vec<_>>());
            let highest = self.highest.get(&session.id).copied().unwrap_or(0);
            for seq in 0..highest + 3 {
                assert_eq!(self.state.known(session.id, seq), self.model.known(session.id, seq), "seq {seq}");
            }
        }
        let body = snapshot::write(&self.state);
        assert_eq!(snapshot::read(&body).unwrap(), self.state, "read from a checkpoint, it is another state");
    }
}

fn genesis() -> Genesis {
    Genesis {
        format: FORMAT,
        log_id: Default::default(),
        partition: 0,
        partitions: 1,
        first_index: 0,
        after: vec![],
    }
}

/// A record of anything.
#[derive(Clone, Debug)]
pub(crate) enum Wild {
    Command(Command),
    Events(Vec<Event>),
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..30u64, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn moment() -> impl Strategy<Value = Timestamp> {
    number().prop_map(|ms| Timestamp::from_micros(ms.saturating_mul(1000)))
}

fn any_claims() -> impl Strategy<Value = Vec<Claim>> {
    let claim = (0..3u8, 0..3u8, prop::option::of(prop_oneof![0..4u32, Just(u32::MAX)])).prop_map(
        |(name, mode, permits)| Claim {
            resource: ResourceName::new(["a", "b", "pool"][name as usize]).unwrap(),
            mode: [Mode::Exclusive, Mode::Shared, Mode::Permits][mode as usize],
            permits,
        },
    );
    prop::collection::vec(claim, 0..4)
}

fn reason() -> impl Strategy<Value = Reason> {
    prop::sample::select(vec![Reason::Cancelled, Reason::Released, Reason::Forced, Reason::Unknown])
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        (0..4u8, number(), prop::option::of(number())).prop_map(|(key, lease_ms, fail_fast_ms)| {
            Command::Open(OpenCommand {
                key_hash: hash_of(&[key]),
                lease_ms,
                fail_fast_ms,
                label: "".into(),
                principal: "p".into(),
                principal_by: PrincipalBy::Nobody,
                reply_to: None,
            })
        }),
        (number(), number()).prop_map(|(session, n)| Command::Attach { session, n, reply_to: None }),
        (
            number(),
            number(),
            any_claims(),
            prop::option::of((number(), number())),
            any::<u8>(),
            prop::option::of(number()),
            prop::option::of(number())
        )
            .prop_map(|(session, seq, claims, owner, priority, wait_ms, hold_max_ms)| {
                Command::Acquire(AcquireCommand {
                    session,
                    seq,
                    claims,
                    owner: owner.map(|(session, seq)| OwnerRef(session, seq)),
                    priority,
                    wait_ms,
                    hold_max_ms,
                    reason: None,
                    value: None,
                })
            }),
        (number(), number()).prop_map(|(session, token)| Command::Release { session, token }),
        (number(), number()).prop_map(|(session, seq)| Command::Cancel { session, seq }),
        moment().prop_map(|at| Command::Tick { at }),
        (number(), number(), prop::option::of(number()), any::<bool>()).prop_map(
            |(session, n, seq, closed)| Command::Gone {
                session,
                n,
                seq,
                cause: if closed { Cause::Closed } else { Cause::Returned },
            }
        ),
        Just(Command::Advance),
        (number(), any::<bool>()).prop_map(|(token, now)| Command::ForceRelease {
            resource: ResourceName::new("a").unwrap(),
            token,
            reason: "".into(),
            by: "ops".into(),
            now,
        }),
        Just(Command::Pause { reason: "".into(), by: "ops".into() }),
        Just(Command::Resume { reason: "".into(), by: "ops".into() }),
        Just(Command::Barrier),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let granted = |claims: Vec<Claim>| -> Vec<ClaimGranted> {
        let granted = claims.into_iter().map(|claim| ClaimGranted {
            resource: claim.resource,
            mode: claim.mode,
            permits: claim.permits,
            capacity: 0,
            floor: 3,
        });
        granted.collect()
    };
    prop_oneof![
        2 => (0..4u8, number(), 0..4u32).prop_map(|(key, lease_ms, in_flight_max)| Event::Opened {
            key_hash: hash_of(&[key]), lease_ms, fail_fast_ms: Some(lease_ms / 2), in_flight_max, label: "".into(),
            principal: "p".into(), principal_by: PrincipalBy::Nobody, reply_to: None,
        }),
        1 => (number(), number()).prop_map(|(session, n)| Event::Attached { session, n, reply_to: None }),
        1 => (number(), number()).prop_map(|(session, n)| Event::Unreachable { session, n }),
        1 => (number(), reason()).prop_map(|(session, reason)| Event::SessionEnded { session, reason }),
        3 => (number(), number(), any_claims(), any::<u8>(), prop::option::of(number())).prop_map(|(session, seq, claims, priority, wait_ms)| Event::Queued {
            session, seq, claims, owner: Some(OwnerRef(session, 0)), priority, wait_ms, hold_max_ms: wait_ms, reason: None, value: None,
        }),
        3 => (number(), number(), any_claims(), any::<u8>(), prop::option::of(number())).prop_map(move |(session, seq, claims, priority, wait_ms)| Event::Granted {
            session, seq, claims: granted(claims), owner: Some(OwnerRef(session, 0)), priority, wait_ms, hold_max_ms: wait_ms, reason: None, value: None,
        }),
        1 => (number(), number(), reason()).prop_map(|(session, seq, reason)| Event::Refused { session, seq, reason }),
        1 => (number(), number(), reason()).prop_map(|(session, seq, reason)| Event::Ended { session, seq, reason }),
        1 => (number(), reason()).prop_map(|(token, reason)| Event::Released { token, reason, by: None }),
        1 => (number(), reason(), moment()).prop_map(|(token, reason, until)| Event::Revoking { token, reason, by: None, until }),
        1 => (number(), number(), number()).prop_map(|(session, seq, token)| Event::Suspended { session, seq, token }),
        1 => moment().prop_map(|until| Event::Delayed { resource: ResourceName::new("a").unwrap(), until }),
        1 => number().prop_map(|epoch| Event::EpochStarted { epoch, incarnation: Nonce([1; 16]), rules: 9 }),
        1 => (0..3usize).prop_map(|which| Event::Policy(policy(which))),
    ]
}

pub(crate) fn wild() -> impl Strategy<Value = (u64, Wild)> {
    let wild = prop_oneof![
        3 => command().prop_map(Wild::Command),
        2 => prop::collection::vec(event(), 1..4).prop_map(Wild::Events),
    ];
    (number(), wild)
}

/// Decides and folds all of it, and looks at everything on the way. The clock goes where it likes.
pub(crate) fn endure(ops: Vec<(u64, Wild)>) {
    let mut state = State::new(ChainTip::before(0));
    for (ms, wild) in ops {
        let at = Timestamp::from_micros(ms.saturating_mul(1000));
        let (command, events) = match wild {
            Wild::Command(command) => {
                let events = decide(&state, &command, at);
                (command, events)
            }
            Wild::Events(events) => (Command::Barrier, events),
        };
        let tip = state.tip();
        let (index, prev) = (tip.next_index, tip.hash);
        let renewed = vec![(index / 2, ms)];
        let record = Record { index, prev, epoch: 1, at, renewed, upto: None, command, events };
        state.fold(&Sealed::new(record));
        let sessions: Vec<SessionId> = state.sessions().map(|(id, _)| id).collect();
        for id in sessions {
            state.alive(id);
            state.queued(id, 0, at);
            state.token_outcome(id, ms);
        }
        let _ = (state.can_advance(), state.next_deadline(), snapshot::write(&state));
    }
}
