//! A `Partition` in memory, on one core: lines of requests in, lines of records and lines of replies out.
//!
//! Target: 500 k requests/s, so 2 µs each, for all of it: decoding, deciding, sealing (JSON and SHA-256), holding
//! back, proving, encoding replies. Without sockets and without a disk.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use arbiterq::log::chain::{ChainTip, written};
use arbiterq::partition::{Activation, Address, Delivery, Partition, PartitionConfig};
use arbiterq::serve::genesis;
use arbiterq::state::State;
use arbiterq_client::wire::{
    Acquire, Claim, LogId, Nonce, Open, Principal, Release, ReplyBody, Request, RequestBody, ResourceName,
    SessionId, SessionKey, Timestamp, Token,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use std::ops::Range;
use std::time::Duration;

const SESSIONS: u64 = 1000;
/// As the service takes them from its inbox.
const BATCH: usize = 256;

struct Bench {
    partition: Partition,
    principal: Principal,
    from: Address,
    now: Duration,
    /// What is told, so that a bench which tells nothing is noticed.
    granted: u64,
    log_bytes: Vec<u8>,
    reply_bytes: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let mut state = State::new(ChainTip::before(0));
        state.fold(&genesis(LogId([1; 16]), 0, 1, Timestamp::from_micros(1_700_000_000_000_000)));
        let mut bench = Self {
            partition: Partition::standby(PartitionConfig::default(), state),
            principal: Principal::anonymous(),
            from: "direct.0123456789abcdef.1".into(),
            now: Duration::ZERO,
            granted: 0,
            log_bytes: Vec::new(),
            reply_bytes: Vec::new(),
        };
        let (incarnation, secret) = (Nonce([2; 16]), [3; 32]);
        let activation =
            Activation { incarnation, secret, wall: Timestamp::from_micros(1_700_000_001_000_000) };
        bench.partition.activate(activation, bench.now).unwrap();
        bench.carry_out();
        bench.carry_out();
        bench
    }

    fn deliver(&mut self, line: &[u8]) {
        let request = Request::decode(line).unwrap();
        let (from, principal) = (Some(self.from.clone()), self.principal.clone());
        let delivery = Delivery { id: 1, from, principal, present: false, position: None, request };
        self.partition.deliver(delivery, self.now);
    }

    /// Append, prove, tell.
    fn carry_out(&mut self) {
        self.now += Duration::from_micros(500);
        let outputs = self.partition.outputs(self.now);
        self.log_bytes.clear();
        for entry in &outputs.appends {
            self.log_bytes.extend_from_slice(&written(&entry.records));
        }
        if let Some(last) = outputs.appends.last() {
            self.partition.proven(last.last_index(), self.now);
        }
        let outputs = self.partition.outputs(self.now);
        assert!(outputs.step_down.is_none());
        self.reply_bytes.clear();
        for outgoing in &outputs.sends {
            self.granted += u64::from(matches!(outgoing.reply.body, ReplyBody::Granted(_)));
            self.reply_bytes.extend_from_slice(&outgoing.reply.encode());
            self.reply_bytes.push(b'\n');
        }
        for entry in outputs.appends {
            self.partition.proven(entry.last_index(), self.now);
        }
    }

    /// With a thousand sessions; the first's number.
    fn crowded() -> (Self, SessionId) {
        let mut bench = Self::new();
        let first = bench.partition.state().tip().next_index;
        for session in first..first + SESSIONS {
            let open = Open {
                id: session.to_string(),
                key: key(session),
                lease_ms: 3_600_000,
                fail_fast_ms: None,
                label: "bench".into(),
                reply_to: None,
                peer: None,
            };
            bench.deliver(&Request { partition: 0, auth: None, body: RequestBody::Open(open) }.encode());
        }
        bench.carry_out();
        (bench, first)
    }
}

fn key(session: SessionId) -> SessionKey {
    SessionKey::random(u128::from(session).to_le_bytes())
}

/// Each of some sessions takes its resource; then each gives it back.
fn requests(sessions: Range<SessionId>, seq: u64, next_index: u64) -> Vec<Vec<u8>> {
    let of = |session, body| Request::of(0, session, key(session), body).encode();
    let acquires = sessions.clone().map(|session| {
        let name = ResourceName::new(&format!("orders/customer-{session}")).unwrap();
        let acquire = Acquire {
            seq,
            claims: vec![Claim::exclusive(name)],
            owner: None,
            wait_ms: Some(30_000),
            hold_max_ms: None,
            priority: None,
            reason: None,
            value: None,
        };
        of(session, RequestBody::Acquire(acquire))
    });
    let releases = sessions
        .zip(next_index..)
        .map(|(session, token): (_, Token)| of(session, RequestBody::Release(Release { token })));
    acquires.chain(releases).collect()
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

fn partition(c: &mut Criterion) {
    let (mut bench, first) = Bench::crowded();
    let mut seq = 0;
    let mut group = c.benchmark_group("partition");
    group.sample_size(20);
    group.throughput(Throughput::Elements(2 * SESSIONS));
    group.bench_function("lines in, lines out (target: 500 k/s)", |b| {
        b.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                let granted = bench.granted;
                for from in (0..SESSIONS).step_by(BATCH / 2) {
                    let sessions = first + from..first + (from + BATCH as u64 / 2).min(SESSIONS);
                    let lines = requests(sessions, seq, bench.partition.state().tip().next_index);
                    spent += timed(|| {
                        lines.iter().for_each(|line| bench.deliver(line));
                        bench.carry_out();
                    });
                }
                seq += 1;
                assert_eq!(bench.granted, granted + SESSIONS, "every request is granted");
            }
            spent
        });
    });
    let lines = requests(first..first + SESSIONS, 7, 12_345_678);
    group.bench_function("of which decoding", |b| {
        b.iter(|| {
            lines.iter().map(|line| Request::decode(line).unwrap()).filter(|r| r.auth.is_some()).count()
        });
    });
}

criterion_group!(benches, partition);
criterion_main!(benches);
