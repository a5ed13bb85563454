//! Logs made record by record, opened, damaged and opened again.

mod at_start;
mod checkpoints;
mod writing;

use super::mark;
use super::*;
use crate::log::record::{Command, Event, Genesis, Record};
use arbiterq_client::wire::{Hash, LogId, Nonce, Timestamp};
use std::fs;
use std::io::Write;

/// Records that are chained to each other, from a genesis on.
#[derive(Default)]
struct Chain {
    all: Vec<Sealed>,
}

impl Chain {
    fn of(records: usize) -> Self {
        let mut chain = Self::default();
        for _ in 0..records {
            chain.push();
        }
        chain
    }

    /// The next record of whatever kind.
    fn push(&mut self) -> &Sealed {
        let n = self.all.len();
        let (command, events) = match n {
            0 => (Command::Create, vec![Event::Genesis(genesis())]),
            1 => {
                let incarnation = Nonce([7; 16]);
                (Command::Activate, vec![Event::EpochStarted { epoch: 1, incarnation, rules: 1 }])
            }
            _ if n.is_multiple_of(2) => {
                let paused = Event::Paused { by: "operator".into(), reason: format!("number {n}") };
                (Command::Pause { by: "operator".into(), reason: format!("number {n}") }, vec![paused])
            }
            _ => (Command::Barrier, vec![]),
        };
        self.seal(command, events)
    }

    fn push_checkpoint(&mut self, (of, hash): (u64, Hash)) -> &Sealed {
        self.seal(Command::Checkpoint, vec![Event::Checkpoint { of, hash }])
    }

    fn seal(&mut self, command: Command, events: Vec<Event>) -> &Sealed {
        let index = self.all.len() as u64;
        let prev = self.all.last().map(|s| s.hash).unwrap_or_default();
        let at = Timestamp::from_micros(1_700_000_000_000_000 + index);
        let epoch = u64::from(index > 0);
        let record = Record { index, prev, epoch, at, renewed: vec![], upto: None, command, events };
        self.all.push(Sealed::new(record));
        self.all.last().unwrap()
    }

    fn mark(&self, index: usize) -> Mark {
        Mark { index: index as u64, hash: self.all[index].hash }
    }
}

fn genesis() -> Genesis {
    Genesis { format: 1, log_id: LogId([3; 16]), partition: 0, partitions: 1, first_index: 0, after: vec![] }
}

/// Segments so small that a few records need several.
fn small() -> Options {
    Options { segment_bytes_max: 700, ..Options::default() }
}

/// Everything that an opening handed on.
#[derive(Debug, Default, PartialEq)]
struct Replayed {
    checkpoint: Option<(u64, Vec<u8>)>,
    records: Vec<Sealed>,
}

impl Replayed {
    fn take(&mut self, step: Step<'_>) {
        match step {
            Step::Start => *self = Self::default(),
            Step::Checkpoint { of, body, .. } => {
                *self = Self { checkpoint: Some((of, body.to_vec())), records: vec![] };
            }
            Step::Record(sealed) => self.records.push(sealed.clone()),
        }
    }
}

fn open(dir: &Path, options: Options) -> Result<(FileLog, Opened, Replayed), OpenError> {
    let mut replayed = Replayed::default();
    let (log, opened) = FileLog::open(dir, options, &mut |step| {
        replayed.take(step);
        Ok(())
    })?;
    Ok((log, opened, replayed))
}

/// Opens and closes again, so that the next opener finds the folder free.
fn start(dir: &Path, options: Options) -> (Opened, Replayed) {
    let (log, opened, replayed) = open(dir, options).unwrap();
    log.close().unwrap();
    (opened, replayed)
}

fn damage_of(result: Result<(FileLog, Opened, Replayed), OpenError>) -> Damage {
    match result {
        Err(OpenError::Damaged(damage)) => *damage,
        Err(e) => panic!("another error: {e}"),
        Ok((_, opened, _)) => panic!("it was opened: {opened:?}"),
    }
}

/// A folder with these records, each an entry, closed.
fn written(chain: &Chain, options: Options) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, ..) = open(dir.path(), options).unwrap();
    for sealed in &chain.all {
        log.append(std::slice::from_ref(sealed)).unwrap();
    }
    log.close().unwrap();
    dir
}

fn set_mark(dir: &Path, mark: Option<Mark>) {
    fs::write(mark::path(dir), Mark::encode(mark)).unwrap();
}

/// A copy to open many times: in memory where there is a place for that, as syncs are what takes long.
fn copy(from: &Path) -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let to = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let to = to.unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

/// Every file and what is in it.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|f| (f.clone(), fs::read(&f).unwrap())).collect()
}

fn append_bytes(path: &Path, bytes: &[u8]) {
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

fn segment_paths(dir: &Path) -> Vec<PathBuf> {
    segments(dir).unwrap().iter().map(|s| s.path.to_path_buf()).collect()
}

#[test]
fn a_mark_has_one_spelling() {
    let chain = Chain::of(1);
    let dir = written(&chain, small());
    let bytes = fs::read(mark::path(dir.path())).unwrap();
    assert_eq!(bytes.len(), MARK_BYTES);
    assert_eq!(Mark::read(dir.path()).unwrap(), Some(chain.mark(0)));
    let text = format!("{{\"index\":0,\"hash\":\"{}\"}}", chain.all[0].hash);
    assert_eq!(String::from_utf8(bytes.clone()).unwrap(), format!("{text:127}\n"));
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            fs::write(mark::path(dir.path()), &flipped).unwrap();
            assert_ne!(Mark::read(dir.path()).ok(), Some(Some(chain.mark(0))), "byte {at}, bit {bit}");
        }
    }
    for none_of_it in [&b""[..], &bytes[..127], b"{\"index\":0,\"hash\":null}"] {
        fs::write(mark::path(dir.path()), none_of_it).unwrap();
        assert!(matches!(Mark::read(dir.path()), Err(ReadError::Damaged(_))));
    }
}

#[test]
fn a_sync_can_be_measured() {
    let dir = tempfile::tempdir().unwrap();
    let ticks = std::cell::Cell::new(0);
    let now = || {
        ticks.set(ticks.get() + 1);
        std::time::Duration::from_millis(ticks.get() * ticks.get())
    };
    let times = measure_sync(dir.path(), 10, &now).unwrap();
    assert!(times.p50 < times.p99 && times.samples == 10, "{times:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn lines_are_read_as_they_stand() {
    let chain = Chain::of(9);
    let dir = written(&chain, small());
    let paths = segment_paths(dir.path());
    assert!(paths.len() > 2, "{paths:?}");
    append_bytes(paths.last().unwrap(), &[b"{torn".as_slice(), &[0; 3000]].concat());
    let mut lines = FolderLines::open(dir.path()).unwrap();
    let mut found = Vec::new();
    while let Some(line) = lines.next().unwrap() {
        found.push((line.segment.path.to_path_buf(), line.number, line.bytes.to_vec(), line.ended));
    }
    assert_eq!(found.len(), 10);
    for ((path, number, bytes, ended), sealed) in found.iter().zip(&chain.all) {
        let text = fs::read(path).unwrap();
        let there = text.split(|&b| b == b'\n').nth(*number as usize - 1).unwrap();
        assert_eq!((bytes, there, *ended), (&sealed.line, sealed.line.as_slice(), true));
    }
    assert!(found[9].2.starts_with(b"{torn\0") && !found[9].3);
    assert_eq!(lines.next().unwrap(), None);
}

#[test]
fn zero_bytes_at_the_end_are_no_line_until_they_are_written_over() {
    let chain = Chain::of(3);
    let dir = written(&chain, Options::default());
    let path = segment_paths(dir.path()).remove(0);
    let text = fs::read(&path).unwrap();
    let second_ends = chain.all[0].line.len() + chain.all[1].line.len() + 2;
    let mut ahead = text.clone();
    ahead[second_ends..].fill(0);
    ahead.resize(3 * 1024 * 1024, 0);
    fs::write(&path, &ahead).unwrap();
    let mut lines = FolderLines::open(dir.path()).unwrap();
    assert!(lines.next().unwrap().is_some() && lines.next().unwrap().is_some());
    assert_eq!(lines.next().unwrap(), None);
    ahead[..text.len()].copy_from_slice(&text);
    fs::write(&path, &ahead).unwrap();
    let line = lines.next().unwrap().unwrap();
    assert_eq!((line.number, line.bytes), (3, chain.all[2].line.as_slice()));
}
