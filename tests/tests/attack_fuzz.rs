//! Any client against a whole partition, with takeovers, returned replies and lost letters: what it writes is
//! verified by the code that shares nothing with it, and whoever asks is answered.

use arbiterq::audit::verify::Verifier;
use arbiterq::log::chain::{ChainTip, Sealed};
use arbiterq::log::memory::MemoryLog;
use arbiterq::log::record::{Policy, Rule};
use arbiterq::partition::{Activation, Delivery, Mark, Outgoing, Partition, PartitionConfig, Role};
use arbiterq::serve::genesis;
use arbiterq::state::{State, snapshot};
use arbiterq_client::wire::{
    Acquire, Attach, Cancel, Claim, Close, ForceRelease, KeepAlive, LogId, Mode, Nonce, Open, OwnerRef,
    Pause, Principal, Release, ReplyBody, Request, RequestBody, ResourceName, Resume, SessionId, SessionKey,
    StatusAsk, StatusWhat, Timestamp,
};
use proptest::prelude::*;
use std::time::Duration;

#[derive(Default)]
struct Client {
    key: u8,
    session: Option<SessionId>,
    address: String,
    attached: u64,
    n: u64,
    seq: u64,
    present: bool,
}

struct World {
    log: MemoryLog,
    partition: Partition,
    config: PartitionConfig,
    read: usize,
    now: Duration,
    epochs: u8,
    letters: Vec<Request>,
    marks: Vec<Mark>,
    clients: Vec<Client>,
    last: Option<(Request, String, bool)>,
    keys: u8,
    addresses: u64,
}

type Step = (u8, u8, u8, u8, u8);

fn policies(i: u8) -> Policy {
    let rule = |pattern: &str| Rule { pattern: pattern.into(), ..Rule::default() };
    let rules = match i % 4 {
        0 => vec![],
        1 => vec![Rule { capacity: Some(3), lock_delay_ms: Some(3000), ..rule("r*") }],
        2 => vec![
            Rule { capacity: Some(2), hold_max_ms: Some(4000), waiters_max: Some(2), ..rule("r0") },
            Rule { capacity: Some(5), lock_delay_ms: Some(900), ..rule("*") },
        ],
        _ => vec![Rule { allow: Some(vec!["nobody".into()]), ..rule("r1") }],
    };
    Policy { rules, in_flight_max: 4, ..Policy::default() }
}

impl World {
    fn new(returns: bool) -> Self {
        let log = MemoryLog::default();
        log.append(&[genesis(LogId([1; 16]), 0, 1, Timestamp::from_micros(1_000_000))]);
        let config = PartitionConfig { returns, policy: policies(1), ..PartitionConfig::default() };
        let partition = Partition::standby(config.clone(), State::new(ChainTip::before(0)));
        let clients = (0..4).map(|_| Client::default()).collect();
        let mut world = Self {
            log,
            partition,
            config,
            read: 0,
            now: Duration::ZERO,
            epochs: 0,
            letters: Vec::new(),
            marks: Vec::new(),
            clients,
            last: None,
            keys: 0,
            addresses: 0,
        };
        world.take_over(false);
        world
    }

    fn folded(&self) -> State {
        let mut state = State::new(ChainTip::before(0));
        self.log.lines().iter().for_each(|line| state.fold(&Sealed::read(line).unwrap()));
        state
    }

    fn take_over(&mut self, from_snapshot: bool) {
        self.epochs += 1;
        let mut state = self.folded();
        if from_snapshot {
            let restored = snapshot::read(&snapshot::write(&state)).unwrap();
            assert_eq!(restored, state);
            state = restored;
        }
        self.partition = Partition::standby(self.config.clone(), state);
        self.read = self.log.read(0).len();
        self.letters.clear();
        self.marks.clear();
        let (incarnation, wall) = (Nonce([self.epochs; 16]), Timestamp::from_micros(2_000_000));
        let activation = Activation { incarnation, secret: [self.epochs; 32], wall };
        self.partition.activate(activation, self.now).unwrap();
        self.settle();
        assert_eq!(self.partition.role(), Role::Active);
    }

    fn settle(&mut self) -> Vec<Outgoing> {
        let mut told = Vec::new();
        loop {
            let outputs = self.partition.outputs(self.now);
            assert!(
                !self.partition.state().can_advance(),
                "while a waiter can be granted, the next is advance"
            );
            assert_eq!(outputs.step_down, None);
            outputs.appends.iter().for_each(|entry| self.log.append(&entry.records));
            self.letters.extend(outputs.letters);
            let read = self.log.read(self.read);
            if read.is_empty() && outputs.sends.is_empty() {
                break;
            }
            for outgoing in outputs.sends {
                assert!(outgoing.reply.index < self.partition.known().next_index);
                told.push(outgoing);
            }
            for entry in read {
                self.read += 1;
                self.partition.observe(&entry, self.now);
            }
        }
        self.marks.extend(told.iter().filter_map(|outgoing| outgoing.mark));
        for outgoing in &told {
            if let ReplyBody::Opened(opened) = &outgoing.reply.body {
                for client in &mut self.clients {
                    if opened.id == format!("{}", client.key) {
                        client.session = Some(opened.session);
                    }
                }
            }
        }
        told
    }

    fn pass(&mut self, time: Duration) -> Vec<Outgoing> {
        self.now += time;
        self.partition.time(self.now);
        self.settle()
    }

    fn deliver(&mut self, request: Request, from: Option<&str>, present: bool) {
        let delivery = Delivery {
            id: 1,
            from: from.map(Into::into),
            principal: Principal::anonymous(),
            present,
            position: None,
            request,
        };
        self.partition.deliver(delivery, self.now);
    }

    fn ask(&mut self, request: Request, from: &str, present: bool) {
        self.last = Some((request.clone(), from.to_owned(), present));
        let kind = request.body.kind();
        let session = request.auth.as_ref().map(|auth| auth.session);
        let open = matches!(request.body, RequestBody::Open(_));
        let in_force = session.and_then(|id| self.partition.state().session(id)?.reply_to().cloned());
        self.deliver(request, Some(from), present);
        let mut told = self.settle();
        told.extend(self.pass(Duration::from_millis(60)));
        let here = session.is_none() || in_force.is_none_or(|to| *to == *from);
        let answered = told.iter().any(|outgoing| &*outgoing.to == from);
        assert!(!here || answered, "nobody answers {kind} {open}: {told:?}");
    }

    fn of(&mut self, i: usize, body: RequestBody) {
        let client = &self.clients[i];
        let Some(session) = client.session else { return };
        let request = Request::of(0, session, SessionKey::random([client.key; 16]), body);
        let (from, present) = (client.address.clone(), client.present);
        self.ask(request, &from, present);
    }

    fn letters_arrive(&mut self) {
        for letter in std::mem::take(&mut self.letters) {
            self.deliver(letter, None, false);
            self.settle();
        }
    }

    fn step(&mut self, (kind, a, b, c, d): Step) {
        let i = usize::from(a % 4);
        let name = |x: u8| ResourceName::new(&format!("r{}", x % 3)).unwrap();
        match kind % 24 {
            0..=7 if self.clients[i].session.is_none() || kind % 24 == 0 => {
                self.addresses += 1;
                self.keys = self.keys.wrapping_add(1);
                self.clients[i] = Client {
                    key: self.keys,
                    address: format!("a{}", self.addresses),
                    present: b.is_multiple_of(2),
                    ..Client::default()
                };
                let open = Open {
                    id: format!("{}", self.keys),
                    key: SessionKey::random([self.keys; 16]),
                    lease_ms: 5000 + u64::from(b % 4) * 1000,
                    fail_fast_ms: c.is_multiple_of(3).then_some(1000),
                    label: "x".into(),
                    reply_to: None,
                    peer: None,
                };
                let request = Request { partition: 0, auth: None, body: RequestBody::Open(open) };
                let (from, present) = (self.clients[i].address.clone(), self.clients[i].present);
                self.ask(request, &from, present);
            }
            1..=7 => {
                self.clients[i].seq += 1 + u64::from(d % 16 == 0);
                let claim = |x: u8, mode: u8| match mode % 3 {
                    0 => Claim::exclusive(name(x)),
                    1 => Claim { resource: name(x), mode: Mode::Shared, permits: None },
                    _ => Claim {
                        resource: name(x),
                        mode: Mode::Permits,
                        permits: Some(1 + u32::from(mode / 3 % 4)),
                    },
                };
                let mut claims = vec![claim(b, c)];
                if b >= 128 {
                    claims.push(claim(b % 3 + 1, c / 3));
                }
                let other = &self.clients[usize::from(d % 4)];
                let owner =
                    (d / 4).is_multiple_of(6).then(|| OwnerRef(other.session.unwrap_or(3), other.seq));
                let acquire = Acquire {
                    seq: self.clients[i].seq,
                    claims,
                    owner,
                    wait_ms: [None, None, Some(0), Some(1500), Some(4000)][usize::from(d % 5)],
                    hold_max_ms: [None, None, Some(2500)][usize::from(d / 5 % 3)],
                    priority: [None, None, None, Some(5)][usize::from(c / 64)],
                    reason: None,
                    value: None,
                };
                self.of(i, RequestBody::Acquire(acquire));
            }
            8..=10 => {
                let grants = self.partition.state().grants_in_force();
                let tokens: Vec<_> = grants.map(|g| (g.session(), g.hash(), g.seq())).collect();
                let Some((session, _, _)) = tokens.get(usize::from(b) % tokens.len().max(1)) else { return };
                let alive = self.partition.state().alive(*session).unwrap();
                let token = alive.held[usize::from(c) % alive.held.len()].1;
                let own = self.clients.iter().position(|client| client.session == Some(*session));
                self.of(own.unwrap_or(i), RequestBody::Release(Release { token }));
            }
            11 => {
                let seq = (self.clients[i].seq + 1).saturating_sub(u64::from(b % 4));
                self.of(i, RequestBody::Cancel(Cancel { seq }));
            }
            12 | 13 => {
                self.clients[i].n += u64::from(b % 3);
                let n = self.clients[i].n;
                self.of(i, RequestBody::KeepAlive(KeepAlive { n }));
            }
            14 => {
                self.addresses += 1;
                self.clients[i].attached += 1;
                let n = self.clients[i].attached;
                self.clients[i].address = format!("a{}", self.addresses);
                self.of(i, RequestBody::Attach(Attach { n, reply_to: None, peer: None }));
            }
            15 => match b % 4 {
                0 => self.of(i, RequestBody::Close(Close {})),
                1 => {
                    let address = self.clients[i].address.as_str().into();
                    self.partition.closed(&address, self.now);
                    self.settle();
                }
                _ => {
                    let what = [StatusWhat::Holders, StatusWhat::Resources, StatusWhat::Queue(name(c))];
                    let what = what[usize::from(c) % 3].clone();
                    let body = RequestBody::Status(StatusAsk { id: "s".into(), what });
                    self.ask(Request { partition: 0, auth: None, body }, "op", false);
                }
            },
            16 | 17 => {
                self.pass(Duration::from_millis(u64::from(b) * u64::from(c % 32)));
            }
            18 | 19 => self.letters_arrive(),
            20 => {
                let token = self.partition.state().tip().next_index.saturating_sub(u64::from(b % 16));
                let force = ForceRelease {
                    id: "f".into(),
                    resource: name(c),
                    token,
                    reason: "x".into(),
                    now: d.is_multiple_of(2),
                };
                let body = RequestBody::ForceRelease(force);
                self.ask(Request { partition: 0, auth: None, body }, "op", false);
            }
            21 => match b % 4 {
                0 => {
                    let body = RequestBody::Pause(Pause { id: "p".into(), reason: "x".into() });
                    self.ask(Request { partition: 0, auth: None, body }, "op", false);
                }
                1 | 2 => {
                    let body = RequestBody::Resume(Resume { id: "p".into(), reason: "x".into() });
                    self.ask(Request { partition: 0, auth: None, body }, "op", false);
                }
                _ => {
                    self.config.policy = policies(c);
                    self.partition.set_policy(policies(c), self.now);
                    self.settle();
                }
            },
            22 => match self.marks.len() {
                0 => {}
                marks if self.config.returns => {
                    let mark = self.marks[marks - 1 - usize::from(b) % marks.min(3)];
                    self.partition.returned(mark);
                    self.settle();
                    if c.is_multiple_of(2) {
                        self.letters_arrive();
                    }
                }
                _ => {
                    if let Some((request, from, present)) = self.last.clone() {
                        self.ask(request, &from, present);
                    }
                }
            },
            _ => self.take_over(b.is_multiple_of(2)),
        }
        assert_eq!(self.folded(), *self.partition.state());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_a_partition_writes_is_verified_and_whoever_asks_is_answered(
        returns in any::<bool>(),
        steps in prop::collection::vec(any::<Step>(), 1..150),
    ) {
        let mut world = World::new(returns);
        for step in steps {
            world.step(step);
        }
        let mut verifier = Verifier::new();
        for line in world.log.lines() {
            let verified = verifier.line(&line);
            prop_assert!(verified.is_ok(), "{verified:?} {}", String::from_utf8_lossy(&line));
        }
        // Nobody says anything any more: sooner or later nothing is left, and nothing is due.
        for _ in 0..200 {
            world.pass(Duration::from_secs(10));
            world.letters_arrive();
        }
        prop_assert_eq!(world.partition.state().sessions().count(), 0);
        prop_assert_eq!(world.partition.state().next_deadline(), None);
    }
}
