//! `audit verify` over a folder: records a second, of acquires and releases with a handover among them.
//!
//! Target: 1 M records/s on two cores, so 2 µs of one core for reading, hashing, parsing and checking together.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use arbiterq::audit::verify::verify_folder;
use arbiterq::log::chain::{ChainTip, Sealed, hash_of};
use arbiterq::log::file::{AppendError, FileLog, Fsync, Options};
use arbiterq::log::record::{AcquireCommand, Command, Event, OpenCommand, Policy, RULES, Record};
use arbiterq::serve::genesis;
use arbiterq::state::{State, decide};
use arbiterq_client::wire::{Claim, LogId, Nonce, PrincipalBy, ResourceName, SessionId, Timestamp, Token};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::path::Path;

const SESSIONS: u64 = 1000;
const RECORDS: u64 = 400_000;

struct Writer {
    state: State,
    entry: Vec<Sealed>,
    log: FileLog,
    runtime: tokio::runtime::Runtime,
}

impl Writer {
    fn new(dir: &Path) -> Self {
        let options = Options { fsync: Fsync::Never, ..Options::default() };
        let (log, _) = FileLog::open(dir, options, &mut |_| Ok(())).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut writer = Self { state: State::new(ChainTip::before(0)), entry: Vec::new(), log, runtime };
        let genesis = genesis(LogId([1; 16]), 0, 1, Timestamp::from_micros(1_700_000_000_000_000));
        writer.state.fold(&genesis);
        writer.entry.push(genesis);
        let started = Event::EpochStarted { epoch: 1, incarnation: Nonce([2; 16]), rules: RULES };
        writer.seal(1, Command::Activate, vec![started]);
        writer.seal(1, Command::Policy, vec![Event::Policy(Policy::default())]);
        writer
    }

    fn seal(&mut self, epoch: u64, command: Command, events: Vec<Event>) {
        let tip = self.state.tip();
        let at = Timestamp::from_micros(self.state.at().as_micros() + 3);
        let (index, prev) = (tip.next_index, tip.hash);
        let record = Record { index, prev, epoch, at, renewed: vec![], upto: None, command, events };
        let sealed = Sealed::new(record);
        self.state.fold(&sealed);
        self.entry.push(sealed);
        if self.entry.len() == 200 {
            self.flush();
        }
    }

    fn flush(&mut self) {
        loop {
            match self.log.append(&self.entry) {
                Ok(()) => break,
                Err(AppendError::Full) => self.runtime.block_on(self.log.room()),
                Err(AppendError::Failed(error)) => panic!("{error}"),
            }
        }
        self.entry.clear();
    }

    fn run(&mut self, command: Command) -> u64 {
        let index = self.state.tip().next_index;
        let events = decide(&self.state, &command, Timestamp::from_micros(self.state.at().as_micros() + 3));
        self.seal(1, command, events);
        while self.state.can_advance() {
            let at = Timestamp::from_micros(self.state.at().as_micros() + 3);
            let events = decide(&self.state, &Command::Advance, at);
            self.seal(1, Command::Advance, events);
        }
        index
    }

    fn acquire(&mut self, session: SessionId, seq: u64, resource: &str) -> Token {
        self.run(Command::Acquire(AcquireCommand {
            session,
            seq,
            claims: vec![Claim::exclusive(ResourceName::new(resource).unwrap())],
            owner: None,
            priority: 0,
            wait_ms: Some(30_000),
            hold_max_ms: None,
            reason: None,
            value: None,
        }))
    }
}

/// Most cycles are on a resource of the session's own; each tenth is waited for.
fn write(dir: &Path) {
    let mut writer = Writer::new(dir);
    let open = |session: u64| OpenCommand {
        key_hash: hash_of(&session.to_le_bytes()),
        lease_ms: 3_600_000,
        fail_fast_ms: None,
        label: "bench".into(),
        principal: "anonymous".into(),
        principal_by: PrincipalBy::Nobody,
        reply_to: Some("direct.0123456789abcdef.1".into()),
    };
    let first = writer.state.tip().next_index;
    for session in 0..SESSIONS {
        writer.run(Command::Open(open(session)));
    }
    let mut seq = 0;
    while writer.state.tip().next_index < RECORDS {
        for session in first..first + SESSIONS {
            let own = format!("orders/customer-{session}");
            let token = writer.acquire(session, seq, &own);
            let waits = session % 10 == 0;
            if waits {
                writer.acquire(first + (session + 1 - first) % SESSIONS, seq + 1, &own);
            }
            let released = writer.run(Command::Release { session, token });
            if waits {
                let session = first + (session + 1 - first) % SESSIONS;
                writer.run(Command::Release { session, token: released + 1 });
            }
        }
        seq += 2;
    }
    writer.flush();
    writer.log.close().unwrap();
}

fn verify(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let records = verify_folder(dir.path(), &[], &mut |_| {}).unwrap().records;
    assert!(records >= RECORDS, "{records}");
    let mut group = c.benchmark_group("audit verify");
    group.sample_size(10);
    group.throughput(Throughput::Elements(records));
    group.bench_function("a folder (target: 1 M records/s on two cores)", |b| {
        b.iter(|| verify_folder(dir.path(), &[], &mut |_| {}).unwrap().grants);
    });
}

criterion_group!(benches, verify);
criterion_main!(benches);
