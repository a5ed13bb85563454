//! What the writer does, in which order, and what it says when the disk does not.

use super::super::error::IoFailure;
use super::*;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// What a writer asked of its storage.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    Begin(u64),
    /// So many lines.
    Write(usize),
    Sync,
    Mark(u64),
    SyncMark,
    Finish,
}

/// A folder that writes down what it is asked for, waits and fails on demand.
struct Demanding {
    folder: Folder,
    demands: Arc<Demands>,
}

#[derive(Default)]
struct Demands {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    asked: Vec<Asked>,
    /// Syncs wait.
    held: bool,
    /// Fails when exactly this is asked; of a write, half is done.
    fails: Option<Asked>,
    panics: bool,
}

impl Demands {
    fn ask(&self, what: Asked) -> Result<(), IoFailure> {
        let mut inner = self.inner.lock().unwrap();
        inner.asked.push(what.clone());
        self.changed.notify_all();
        while what == Asked::Sync && inner.held {
            inner = self.changed.wait(inner).unwrap();
        }
        if inner.fails.as_ref() == Some(&what) {
            let panics = inner.panics;
            drop(inner);
            assert!(!panics, "a defect of the storage");
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(IoFailure::of("write", Path::new("segment"))(full));
        }
        Ok(())
    }

    fn hold(&self, held: bool) {
        self.inner.lock().unwrap().held = held;
        self.changed.notify_all();
    }

    /// Waits until it was asked for something so many times.
    fn wait_for(&self, what: &Asked, times: usize) {
        let mut inner = self.inner.lock().unwrap();
        while inner.asked.iter().filter(|a| *a == what).count() < times {
            inner = self.changed.wait(inner).unwrap();
        }
    }

    fn asked(&self) -> Vec<Asked> {
        self.inner.lock().unwrap().asked.clone()
    }
}

impl Storage for Demanding {
    fn segment_bytes(&self) -> Option<u64> {
        self.folder.segment_bytes()
    }
    fn begin_segment(&mut self, first: u64) -> Result<(), IoFailure> {
        self.demands.ask(Asked::Begin(first))?;
        self.folder.begin_segment(first)
    }
    fn write(&mut self, lines: &[u8]) -> Result<(), IoFailure> {
        let asked = self.demands.ask(Asked::Write(lines.iter().filter(|&&b| b == b'\n').count()));
        let part = if asked.is_ok() { lines } else { &lines[..lines.len() / 2] };
        self.folder.write(part)?;
        asked
    }
    fn sync(&mut self) -> Result<(), IoFailure> {
        self.demands.ask(Asked::Sync)?;
        self.folder.sync()
    }
    fn write_mark(&mut self, mark: Mark) -> Result<(), IoFailure> {
        self.demands.ask(Asked::Mark(mark.index))?;
        self.folder.write_mark(mark)
    }
    fn sync_mark(&mut self) -> Result<(), IoFailure> {
        self.demands.ask(Asked::SyncMark)?;
        self.folder.sync_mark()
    }
    fn finish(&mut self) -> Result<(), IoFailure> {
        self.demands.ask(Asked::Finish)?;
        self.folder.finish()
    }
}

fn open_demanding(dir: &Path, options: &Options, demands: &Arc<Demands>) -> FileLog {
    let over = |folder| Demanding { folder, demands: Arc::clone(demands) };
    FileLog::open_over(dir, options, &mut |_| Ok(()), over).unwrap().0
}

/// Until nothing more comes: what was proven last, and the failures.
async fn to_the_end(mut proofs: Proofs) -> (Option<u64>, Vec<WriteError>) {
    let (mut through, mut failures) = (None, Vec::new());
    while let Some(report) = proofs.next().await {
        match report {
            Ok(index) => through = Some(index),
            Err(e) => failures.push(e),
        }
    }
    (through, failures)
}

#[tokio::test]
async fn what_arrives_during_a_sync_shares_the_next() {
    let chain = Chain::of(40);
    let (dir, demands) = (tempfile::tempdir().unwrap(), Arc::new(Demands::default()));
    let mut log = open_demanding(dir.path(), &Options::default(), &demands);
    let mut proofs = log.proofs();
    demands.hold(true);
    log.append(&chain.all[..1]).unwrap();
    demands.wait_for(&Asked::Sync, 1);
    for sealed in &chain.all[1..] {
        log.append(std::slice::from_ref(sealed)).unwrap();
    }
    assert_eq!(proofs.through(), None, "nothing is proven before its sync");
    demands.hold(false);
    let mut reports = VecDeque::new();
    while reports.back() != Some(&39) {
        reports.push_back(proofs.next().await.unwrap().unwrap());
    }
    assert!(reports == [0, 39] || reports == [39], "{reports:?}");
    let wanted = [
        Asked::SyncMark,
        Asked::Begin(0),
        Asked::Write(1),
        Asked::Sync,
        Asked::Mark(0),
        Asked::Write(39),
        Asked::Sync,
        Asked::Mark(39),
    ];
    assert_eq!(demands.asked(), wanted);
    log.close().unwrap();
    assert!(proofs.next().await.is_none());
    assert_eq!(demands.asked()[wanted.len()..], [Asked::Finish, Asked::SyncMark]);
    assert_eq!(start(dir.path(), Options::default()).1.records, chain.all);
}

/// So that damage before the last segment is never taken for a torn end.
#[test]
fn everything_is_durable_before_a_new_segment() {
    let chain = Chain::of(9);
    let (dir, demands) = (tempfile::tempdir().unwrap(), Arc::new(Demands::default()));
    let mut log = open_demanding(dir.path(), &small(), &demands);
    for sealed in &chain.all {
        log.append(std::slice::from_ref(sealed)).unwrap();
    }
    log.close().unwrap();
    let asked = demands.asked();
    let begun = asked.iter().enumerate().filter_map(|(at, a)| match a {
        Asked::Begin(first) if *first > 0 => Some((at, *first)),
        _ => None,
    });
    let mut segments = 0;
    for (at, first) in begun {
        assert_eq!(asked[at - 2..at], [Asked::Mark(first - 1), Asked::SyncMark], "{asked:?}");
        segments += 1;
    }
    assert!(segments > 1);
}

#[tokio::test]
async fn after_a_failure_nothing_is_written_or_reported() {
    let chain = Chain::of(9);
    let second = {
        let dir = written(&chain, small());
        segments(dir.path()).unwrap()[1].first
    };
    for (fails, proven, entries) in [
        (Asked::Write(1), None, [1; 3]),
        (Asked::Write(2), Some(0), [1, 2, 1]),
        (Asked::Mark(2), Some(0), [1, 2, 1]),
        (Asked::Begin(second), Some(second - 1), [1; 3]),
    ] {
        let (dir, demands) = (tempfile::tempdir().unwrap(), Arc::new(Demands::default()));
        demands.inner.lock().unwrap().fails = Some(fails.clone());
        let mut log = open_demanding(dir.path(), &small(), &demands);
        let ends = tokio::spawn(to_the_end(log.proofs()));
        let mut at = 0;
        for take in entries {
            match log.append(&chain.all[at..at + take]) {
                Ok(()) => at += take,
                Err(AppendError::Failed(_)) => break,
                Err(e) => panic!("{e}"),
            }
            // One entry at a time, so that the groups are known.
            while log.proofs().through() < Some(at as u64 - 1) && log.appender.shared.failed().is_none() {
                tokio::task::yield_now().await;
            }
        }
        assert!(log.appender.shared.failed().is_some(), "{fails:?} was asked: {:?}", demands.asked());
        let (through, failures) = ends.await.unwrap();
        assert_eq!(through, proven, "{fails:?}");
        assert_eq!(failures.len(), 1, "{fails:?}: reported once");
        let WriteError::Io(failure) = &failures[0] else { panic!("{failures:?}") };
        assert_eq!(failure.source.kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(demands.asked().last(), Some(&fails), "nothing after the failure");
        let tip = log.tip();
        assert!(matches!(log.append(&chain.all[at..=at]), Err(AppendError::Failed(_))));
        assert_eq!(log.tip(), tip);
        log.room().await;
        assert!(log.appender.shared.sync_mark().is_err());
        assert!(log.close().is_err());

        // After space is made: everything that was proven is there, and it goes on.
        let (mut log, opened, replayed) = open(dir.path(), small()).unwrap();
        let kept = replayed.records.len();
        assert!(kept as u64 >= proven.map_or(0, |p| p + 1), "{fails:?}: {kept}");
        assert_eq!(replayed.records, chain.all[..kept]);
        assert_eq!(opened.cut.is_some(), matches!(fails, Asked::Write(_)), "{fails:?}");
        log.append(&chain.all[kept..]).unwrap();
        log.close().unwrap();
        assert_eq!(start(dir.path(), small()).1.records, chain.all);
    }
}

#[tokio::test]
async fn a_failed_sync_proves_nothing_and_is_not_tried_again() {
    let chain = Chain::of(3);
    let (dir, demands) = (tempfile::tempdir().unwrap(), Arc::new(Demands::default()));
    demands.inner.lock().unwrap().fails = Some(Asked::Sync);
    let mut log = open_demanding(dir.path(), &small(), &demands);
    log.append(&chain.all).unwrap();
    let (through, failures) = to_the_end(log.proofs()).await;
    assert_eq!((through, failures.len()), (None, 1));
    assert!(log.close().is_err());
    assert_eq!(demands.asked().iter().filter(|a| **a == Asked::Sync).count(), 1);
    assert_eq!(Mark::read(dir.path()).unwrap(), None);
    // They are whole and read; the start made them durable before it lets anybody build on them.
    assert_eq!(start(dir.path(), small()).1.records, chain.all);
    assert_eq!(Mark::read(dir.path()).unwrap(), Some(chain.mark(2)));
}

#[test]
fn who_waits_for_the_mark_hears_why_it_failed() {
    let (dir, demands) = (tempfile::tempdir().unwrap(), Arc::new(Demands::default()));
    demands.inner.lock().unwrap().fails = Some(Asked::SyncMark);
    let log = open_demanding(dir.path(), &small(), &demands);
    let failed = log.appender.shared.sync_mark();
    assert!(matches!(failed, Err(WriteError::Io(_))), "{failed:?}");
    assert!(matches!(log.close(), Err(WriteError::Io(_))));
}

#[tokio::test]
async fn a_panic_of_the_thread_is_noticed() {
    let chain = Chain::of(2);
    let (dir, demands) = (tempfile::tempdir().unwrap(), Arc::new(Demands::default()));
    {
        let mut inner = demands.inner.lock().unwrap();
        (inner.fails, inner.panics) = (Some(Asked::Sync), true);
    }
    let mut log = open_demanding(dir.path(), &small(), &demands);
    log.append(&chain.all[..1]).unwrap();
    let (through, failures) = to_the_end(log.proofs()).await;
    assert_eq!(through, None);
    assert!(matches!(failures[..], [WriteError::Gone]), "{failures:?}");
    log.room().await;
    assert!(log.append(&chain.all[1..]).is_err());
    assert!(matches!(log.close(), Err(WriteError::Gone)));
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_when_there_is_room() {
    let chain = Chain::of(6);
    for options in [
        Options { queue_entries_max: 2, ..Options::default() },
        Options { queue_bytes_max: chain.all[1].line.len() + 2, ..Options::default() },
    ] {
        let (dir, demands) = (tempfile::tempdir().unwrap(), Arc::new(Demands::default()));
        let mut log = open_demanding(dir.path(), &options, &demands);
        demands.hold(true);
        log.append(&chain.all[..1]).unwrap();
        demands.wait_for(&Asked::Sync, 1);
        log.append(&chain.all[1..2]).unwrap();
        log.append(&chain.all[2..3]).unwrap();
        let tip = log.tip();
        assert!(matches!(log.append(&chain.all[3..4]), Err(AppendError::Full)));
        assert_eq!(log.tip(), tip);
        // Dropped half-way: nothing is taken.
        assert!(tokio::time::timeout(Duration::from_millis(1), log.room()).await.is_err());
        demands.hold(false);
        log.room().await;
        log.append(&chain.all[3..]).unwrap();
        log.close().unwrap();
        assert_eq!(start(dir.path(), Options::default()).1.records, chain.all);
    }
}

#[tokio::test]
async fn a_dropped_wait_for_a_proof_loses_none() {
    let chain = Chain::of(2);
    let (dir, demands) = (tempfile::tempdir().unwrap(), Arc::new(Demands::default()));
    let mut log = open_demanding(dir.path(), &Options::default(), &demands);
    let mut proofs = log.proofs();
    demands.hold(true);
    log.append(&chain.all).unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(1), proofs.next()).await.is_err());
    demands.hold(false);
    assert_eq!(proofs.next().await.unwrap().unwrap(), 1);
    log.close().unwrap();
}

#[test]
#[should_panic(expected = "extends the chain")]
fn an_entry_that_does_not_extend_the_chain_is_a_defect() {
    let chain = Chain::of(3);
    let dir = tempfile::tempdir().unwrap();
    let (mut log, ..) = open(dir.path(), small()).unwrap();
    log.append(&chain.all[..1]).unwrap();
    let _ = log.append(&chain.all[2..]);
}

#[test]
fn a_reader_sees_what_is_proven_and_no_more() {
    for options in [Options::default(), small(), Options { zero_ahead_bytes: 0, ..Options::default() }] {
        let chain = Chain::of(30);
        let (dir, demands) = (tempfile::tempdir().unwrap(), Arc::new(Demands::default()));
        let mut log = open_demanding(dir.path(), &options, &demands);
        let mut reader = log.reader(None);
        assert_eq!(reader.next().unwrap(), None);
        assert_eq!(reader.cursor(), None);
        let mut read = Vec::new();
        for (at, sealed) in chain.all.iter().enumerate() {
            demands.hold(true);
            log.append(std::slice::from_ref(sealed)).unwrap();
            demands.wait_for(&Asked::Sync, at + 1);
            assert_eq!(reader.next().unwrap(), None, "record {at} is written and not synced");
            demands.hold(false);
            while log.proofs().through() != Some(at as u64) {
                std::thread::yield_now();
            }
            let found = reader.next().unwrap().unwrap();
            let from = Cursor {
                position: found.position,
                tip: ChainTip { next_index: at as u64, hash: sealed.record.prev },
            };
            assert_eq!(log.reader(Some(from)).next().unwrap().as_ref(), Some(&found));
            read.push(found.sealed);
        }
        assert_eq!(read, chain.all);
        log.close().unwrap();
        let (log, opened, _) = open(dir.path(), options).unwrap();
        assert_eq!(opened.end, reader.cursor());
        assert_eq!(log.reader(opened.end).next().unwrap(), None);
    }
}

/// Written ahead is taken back at a clean end, and only then.
#[test]
fn room_is_written_ahead_of_the_records() {
    let mut chain = Chain::of(3);
    let dir = written(&chain, Options::default());
    let path = segment_paths(dir.path()).remove(0);
    let clean = fs::read(&path).unwrap();
    let (mut log, ..) = open(dir.path(), Options::default()).unwrap();
    log.append(std::slice::from_ref(chain.push())).unwrap();
    while log.proofs().through() != Some(3) {
        std::thread::yield_now();
    }
    let ahead = fs::read(&path).unwrap();
    let end = clean.len() + chain.all[3].line.len() + 1;
    assert_eq!(ahead.len() as u64, end as u64 + Options::default().zero_ahead_bytes);
    assert!(ahead[end..].iter().all(|&b| b == 0));
    let crashed = copy(dir.path());
    log.close().unwrap();
    assert_eq!(fs::read(&path).unwrap(), ahead[..end]);
    let (opened, replayed) = start(crashed.path(), Options::default());
    assert_eq!((opened.cut, replayed.records), (None, chain.all));
}

#[test]
fn the_mark_is_synced_though_entries_keep_coming() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, ..) = open(dir.path(), Options::default()).unwrap();
    let mut chain = Chain::default();
    let shared = Arc::clone(&log.appender.shared);
    let synced = std::thread::spawn(move || shared.sync_mark());
    while !synced.is_finished() {
        assert!(chain.all.len() < 20_000, "it waits for a pause");
        let sealed = chain.push();
        while let Err(AppendError::Full) = log.append(std::slice::from_ref(sealed)) {
            std::thread::yield_now();
        }
    }
    synced.join().unwrap().unwrap();
    log.close().unwrap();
}
