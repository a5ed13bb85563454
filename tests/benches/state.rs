//! `decide` and `fold` alone: one core, ten thousand live sessions, ten thousand resources held.
//!
//! Target: 2 M commands/s, so 500 ns each. Commands are made a few at a time, as they come out of the decoder, with
//! resource names of their own; the records that they become are dropped within the time. Records are not written and not hashed:
//! `partition` measures that.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use arbiterq::log::chain::{ChainTip, Sealed, hash_of};
use arbiterq::log::record::{AcquireCommand, Command, Event, OpenCommand, Policy, Record};
use arbiterq::state::{State, decide};
use arbiterq_client::wire::{Claim, Hash, PrincipalBy, ResourceName, SessionId, Timestamp, Token};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

const SESSIONS: u64 = 10_000;
/// Without a divisor in common with `SESSIONS`: each is visited once a round, in no order.
const STRIDE: u64 = 7919;

struct Desk {
    state: State,
    at: Timestamp,
}

impl Desk {
    fn new() -> Self {
        let at = Timestamp::from_micros(1_700_000_000_000_000);
        let mut desk = Self { state: State::new(ChainTip::before(0)), at };
        let policy = Policy { sessions_max: 20_000, ..Policy::default() };
        desk.fold(Command::Policy, vec![Event::Policy(policy)], vec![]);
        desk
    }

    fn run(&mut self, command: Command) {
        let events = decide(&self.state, &command, self.at);
        self.fold(command, events, vec![]);
        while self.state.can_advance() {
            let events = decide(&self.state, &Command::Advance, self.at);
            self.fold(Command::Advance, events, vec![]);
        }
    }

    fn fold(&mut self, command: Command, events: Vec<Event>, renewed: Vec<(SessionId, u64)>) {
        let tip = self.state.tip();
        let mut hash = Hash::default();
        hash.0[..8].copy_from_slice(&tip.next_index.to_le_bytes());
        let (index, prev, at) = (tip.next_index, tip.hash, self.at);
        let record = Record { index, prev, epoch: 1, at, renewed, upto: None, command, events };
        self.state.fold(&Sealed { record, line: Vec::new(), hash });
        self.at = Timestamp::from_micros(self.at.as_micros() + 1);
    }

    /// Sessions from 1 on, each of which holds a resource of its own: session n with token `SESSIONS + n`.
    fn crowded() -> Self {
        let mut desk = Self::new();
        for session in 1..=SESSIONS {
            desk.run(Command::Open(OpenCommand {
                key_hash: hash_of(&session.to_le_bytes()),
                lease_ms: 10_000 + session % 100,
                fail_fast_ms: None,
                label: "bench".into(),
                principal: "anonymous".into(),
                principal_by: PrincipalBy::Nobody,
                reply_to: Some("direct.0123456789abcdef.1".into()),
            }));
        }
        for session in 1..=SESSIONS {
            desk.run(acquire(session, 0, &resource(session)));
        }
        desk
    }
}

fn resource(n: u64) -> String {
    format!("orders/customer-{n}")
}

fn acquire(session: SessionId, seq: u64, resource: &str) -> Command {
    Command::Acquire(AcquireCommand {
        session,
        seq,
        claims: vec![Claim::exclusive(ResourceName::new(resource).unwrap())],
        owner: None,
        priority: 0,
        wait_ms: None,
        hold_max_ms: None,
        reason: None,
        value: None,
    })
}

/// As many as a batch of the service, so that what was just made is as near as it is there.
const BATCH: u64 = 64;

/// Each session, in no order, gives back what it holds and takes it again.
struct Cycles {
    /// What each session holds.
    tokens: Vec<Token>,
    seq: u64,
}

impl Cycles {
    fn round(&mut self, desk: &mut Desk) -> Duration {
        self.seq += 1;
        let mut spent = Duration::ZERO;
        let mut commands = Vec::new();
        for i in 0..SESSIONS {
            let session = i * STRIDE % SESSIONS;
            let token = &mut self.tokens[session as usize];
            let session = session + 1;
            commands.push(Command::Release { session, token: *token });
            *token = desk.state.tip().next_index + commands.len() as u64;
            commands.push(acquire(session, self.seq, &resource(session)));
            if (i + 1) % BATCH == 0 || i + 1 == SESSIONS {
                spent += timed(|| commands.drain(..).for_each(|command| desk.run(command)));
            }
        }
        spent
    }
}

/// One resource that all sessions wait for; each holder gives it back, the next has it: two commands. Then they
/// all wait again, which is not measured.
fn enqueue(desk: &mut Desk, seq: u64) -> Vec<Command> {
    let hot = desk.state.tip().next_index;
    for session in 1..=SESSIONS {
        desk.run(acquire(session, seq, "hot"));
    }
    let after = hot + SESSIONS;
    let token = |i: u64| if i == 0 { hot } else { after + 2 * i - 1 };
    (0..SESSIONS).map(|i| Command::Release { session: i + 1, token: token(i) }).collect()
}

fn renewals(n: u64) -> Vec<Vec<(SessionId, u64)>> {
    let all: Vec<_> = (0..SESSIONS).map(|i| (i * STRIDE % SESSIONS + 1, n)).collect();
    all.chunks(500).map(<[_]>::to_vec).collect()
}

/// The processor's time for it, so that a machine with other work to do measures the same.
fn timed(what: impl FnOnce()) -> Duration {
    let spent = || {
        let at = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(at.tv_sec.unsigned_abs(), at.tv_nsec.try_into().unwrap())
    };
    let begun = spent();
    what();
    spent() - begun
}

fn state(c: &mut Criterion) {
    let mut group = c.benchmark_group("state");
    group.sample_size(20);
    group.throughput(Throughput::Elements(2 * SESSIONS));
    let mut desk = Desk::crowded();
    let mut cycles = Cycles { tokens: (1..=SESSIONS).map(|session| SESSIONS + session).collect(), seq: 0 };
    group.bench_function("acquire and release (target: 2 M/s)", |b| {
        b.iter_custom(|rounds| {
            let round = |_| {
                let next_index = desk.state.tip().next_index;
                let time = cycles.round(&mut desk);
                assert_eq!(desk.state.tip().next_index, next_index + 2 * SESSIONS, "one record a command");
                time
            };
            (0..rounds).map(round).sum()
        });
    });
    assert_eq!(desk.state.grants_in_force().count() as u64, SESSIONS, "everybody holds");
    let mut desk = Desk::crowded();
    let mut seq = 0;
    group.throughput(Throughput::Elements(2 * SESSIONS - 1));
    group.bench_function("hand one resource on (target: 2 M/s)", |b| {
        b.iter_custom(|rounds| {
            let round = |_| {
                seq += 1;
                let commands = enqueue(&mut desk, seq);
                timed(|| commands.into_iter().for_each(|command| desk.run(command)))
            };
            (0..rounds).map(round).sum()
        });
    });
    assert_eq!(desk.state.grants_in_force().count() as u64, SESSIONS, "nobody holds the hot one");
    let mut n = 0;
    group.throughput(Throughput::Elements(SESSIONS));
    group.bench_function("renew a session (target: 2 M/s)", |b| {
        b.iter_custom(|rounds| {
            let round = |_| {
                n += 1;
                let chunks = renewals(n);
                desk.at = desk.at.plus_ms(1000);
                timed(|| chunks.into_iter().for_each(|chunk| desk.fold(Command::Barrier, vec![], chunk)))
            };
            (0..rounds).map(round).sum()
        });
    });
}

criterion_group!(benches, state);
criterion_main!(benches);
