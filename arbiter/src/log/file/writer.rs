//! The writer, its thread, and what it reports.
//!
//! It takes what has arrived, writes it at once, syncs once, moves the mark and reports once: so under load a sync
//! proves many entries, and without load an entry waits for nobody. After a failure it does nothing more.
//!
//! A record that only says that somebody waits now is patient: written alone, its sync would keep the release that the
//! whole queue waits for from being written until it is over. So it waits for company, as long as a sync takes.
//!
//! Whatever may wait for the disk is done by the thread. Without syncs an entry is written by whoever appends it: to
//! wake a thread costs several times what the write does.

use super::error::{AppendError, IoFailure, WriteError};
use super::mark::Mark;
use super::storage::Storage;
use super::{Fsync, Options};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// What is written at once; a larger entry is written alone.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// What is patient waits for others as long as the last sync took, and never longer than this.
const PATIENCE_MAX: Duration = Duration::from_millis(10);

/// An entry on its way to the disk.
#[derive(Debug)]
pub(super) struct Queued {
    /// The index of its first record.
    pub(super) first: u64,
    /// Its last record.
    pub(super) last: Mark,
    /// Its lines.
    pub(super) lines: Vec<u8>,
    /// Nobody goes on by what it says: it may wait a little for one by which somebody does.
    pub(super) patient: bool,
}

/// What is proven.
#[derive(Clone, Debug, Default)]
struct Proven {
    through: Option<u64>,
    /// How it ended, once it has.
    ended: Option<Result<(), WriteError>>,
}

/// What the owner and the thread share.
#[derive(Debug)]
pub(in crate::log) struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
    room: Notify,
    entries_max: usize,
    bytes_max: usize,
    fsync: Fsync,
}

/// Somebody waits until everything queued before is durable, and the mark that says so.
#[derive(Debug)]
struct MarkSync {
    /// The last record that was queued before and not taken by the thread yet.
    behind: Option<u64>,
    answer: SyncSender<Result<(), WriteError>>,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Queued>,
    bytes: usize,
    /// Who waits for the mark to be durable. One checkpointer, so one at most.
    mark_syncs: Vec<MarkSync>,
    closing: bool,
    failed: Option<WriteError>,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code that holds it can leave it half-changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_full(&self, queue: &Queue) -> bool {
        queue.entries.len() >= self.entries_max || queue.bytes >= self.bytes_max
    }

    fn push(&self, entry: Queued) -> Result<(), AppendError> {
        let mut queue = self.lock();
        if let Some(failed) = &queue.failed {
            return Err(failed.clone().into());
        }
        queue.bytes += entry.lines.len();
        queue.entries.push_back(entry);
        Ok(())
    }

    /// Waits until there is something to do; false at the end. For what is patient alone, it waits so long for more.
    #[expect(
        clippy::disallowed_methods,
        reason = "how long a write waits for others is no part of the protocol's time"
    )]
    fn wait(&self, patience: Duration) -> bool {
        let mut queue = self.lock();
        let mut until = None;
        loop {
            let pressing = queue.entries.iter().any(|entry| !entry.patient) || self.is_full(&queue);
            if pressing || !queue.mark_syncs.is_empty() || queue.closing || queue.ended {
                return !queue.ended;
            }
            if queue.entries.is_empty() {
                queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let now = Instant::now();
            let left = until.get_or_insert(now + patience).saturating_duration_since(now);
            if left.is_zero() {
                return true;
            }
            queue = self.arrived.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether an entry would be taken now.
    pub(super) fn check(&self) -> Result<(), AppendError> {
        let queue = self.lock();
        match &queue.failed {
            Some(failed) => Err(failed.clone().into()),
            None if self.is_full(&queue) => Err(AppendError::Full),
            None => Ok(()),
        }
    }

    pub(super) async fn room(&self) {
        loop {
            // Made before the look, so that what happens in between is not missed.
            let notified = self.room.notified();
            if !matches!(self.check(), Err(AppendError::Full)) {
                return;
            }
            notified.await;
        }
    }

    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.arrived.notify_one();
    }

    pub(super) fn failed(&self) -> Option<WriteError> {
        self.lock().failed.clone()
    }

    /// Waits until everything queued before is durable, and the mark that says so too.
    pub(in crate::log) fn sync_mark(&self) -> Result<(), WriteError> {
        let (answer, answered) = sync_channel(1);
        {
            let mut queue = self.lock();
            if let Some(failed) = &queue.failed {
                return Err(failed.clone());
            }
            if queue.ended {
                return Err(WriteError::Closed);
            }
            let behind = queue.entries.back().map(|entry| entry.last.index);
            queue.mark_syncs.push(MarkSync { behind, answer });
        }
        self.arrived.notify_one();
        answered.recv().unwrap_or(Err(WriteError::Gone))
    }

    /// The end, in whatever way: nothing is queued any more, and whoever waits hears it.
    fn end(&self, result: &Result<(), WriteError>) {
        let mut queue = self.lock();
        queue.ended = true;
        queue.failed = result.clone().err();
        queue.entries.clear();
        queue.bytes = 0;
        let waiting = std::mem::take(&mut queue.mark_syncs);
        drop(queue);
        for MarkSync { answer, .. } in waiting {
            // Whoever no longer waits does not need it.
            let _ = answer.try_send(result.clone());
        }
        self.room.notify_waiters();
        self.arrived.notify_one();
    }
}

/// What is to be done next.
enum Work {
    Write(Vec<Queued>),
    SyncMark(Vec<MarkSync>),
    Close,
}

/// Whoever has it writes.
struct Writer<S: Storage> {
    shared: Arc<Shared>,
    storage: S,
    proven: watch::Sender<Proven>,
    segment_bytes_max: u64,
    /// The last record written.
    last: Option<Mark>,
    /// Whether there may be anything that the mark does not say.
    unsynced: bool,
    /// How long what is patient waits: as long as the last sync of records took. Without syncs there is nothing to share.
    patience: Duration,
    lines: Vec<u8>,
}

/// A started writer.
pub(super) struct Started {
    pub(super) appender: Appender,
    pub(super) proofs: Proofs,
    pub(super) thread: std::thread::JoinHandle<()>,
}

/// Gives entries to the writer.
pub(super) struct Appender {
    pub(super) shared: Arc<Shared>,
    /// Does at once what does not wait for the disk; false if something is left for the thread.
    write_now: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Appender {
    pub(super) fn append(&self, entry: Queued) -> Result<(), AppendError> {
        self.shared.push(entry)?;
        if self.shared.fsync == Fsync::Always || !(self.write_now)() {
            self.shared.arrived.notify_one();
        }
        Ok(())
    }
}

impl std::fmt::Debug for Appender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.shared.fmt(f)
    }
}

/// Starts the writer behind `last`, the last record that is there. `held` is let go when it has ended.
pub(super) fn start<S: Storage, H: Send + 'static>(
    storage: S,
    options: &Options,
    last: Option<Mark>,
    held: H,
) -> std::io::Result<Started> {
    let shared = Arc::new(Shared {
        queue: Mutex::default(),
        arrived: Condvar::new(),
        room: Notify::new(),
        entries_max: options.queue_entries_max.max(1),
        bytes_max: options.queue_bytes_max.max(1),
        fsync: options.fsync,
    });
    let (proven, hears) = watch::channel(Proven { through: last.map(|m| m.index), ended: None });
    let writer = Arc::new(Mutex::new(Writer {
        shared: Arc::clone(&shared),
        storage,
        proven,
        segment_bytes_max: options.segment_bytes_max,
        last,
        // Without syncs a start may find more than the mark says.
        unsynced: options.fsync == Fsync::Never && last.is_some(),
        patience: Duration::ZERO,
        lines: Vec::new(),
    }));
    let now = Arc::downgrade(&writer);
    let write_now = Box::new(move || now.upgrade().is_none_or(|writer| write_now(&writer)));
    let thread = std::thread::Builder::new().name("log-writer".into()).spawn({
        let shared = Arc::clone(&shared);
        move || {
            let ending = Ending { shared: Arc::clone(&shared) };
            let mut patience = Duration::ZERO;
            while shared.wait(patience) {
                // Whoever panicked with it in hand has told all that there is to tell.
                let Ok(mut writer) = writer.lock() else { break };
                if writer.work().is_break() {
                    break;
                }
                patience = writer.patience;
            }
            drop(writer);
            drop(ending);
            drop(held);
        }
    })?;
    let proofs = Proofs { hears, told: last.map(|m| m.index), over: false };
    Ok(Started { appender: Appender { shared, write_now }, proofs, thread })
}

/// Writes what has arrived, unless that may wait for the disk or somebody is at it.
fn write_now<S: Storage>(writer: &Mutex<Writer<S>>) -> bool {
    let Ok(mut writer) = writer.try_lock() else { return false };
    let _ending = Ending { shared: Arc::clone(&writer.shared) };
    if writer.waits_for_disk() {
        return false;
    }
    loop {
        match writer.work() {
            ControlFlow::Continue(true) => {}
            ControlFlow::Continue(false) => return true,
            // The thread ends, too.
            ControlFlow::Break(()) => return false,
        }
    }
}

/// Tells whoever waits that the thread is gone, if it ends by a panic.
struct Ending {
    shared: Arc<Shared>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.end(&Err(WriteError::Gone));
        }
    }
}

impl<S: Storage> Writer<S> {
    /// Does the next thing, if there is one; breaks at the end, in whatever way, and has told it then.
    fn work(&mut self) -> ControlFlow<(), bool> {
        let Some(work) = self.next_work() else { return ControlFlow::Continue(false) };
        let closes = matches!(work, Work::Close);
        let result = self.carry_out(work).map_err(WriteError::from);
        if result.is_ok() && !closes {
            return ControlFlow::Continue(true);
        }
        self.shared.end(&result);
        self.proven.send_modify(|proven| proven.ended = Some(result));
        ControlFlow::Break(())
    }

    fn carry_out(&mut self, work: Work) -> Result<(), IoFailure> {
        match work {
            Work::Write(group) => self.write(&group),
            Work::SyncMark(waiting) => {
                let synced = self.sync_with_mark();
                for MarkSync { answer, .. } in waiting {
                    // Whoever no longer waits does not need it.
                    let _ = answer.try_send(synced.clone().map_err(WriteError::from));
                }
                synced
            }
            Work::Close => {
                self.storage.finish()?;
                self.sync_with_mark()
            }
        }
    }

    /// A sync of the mark has its turn between the entries that were queued before it and those that came later: they
    /// may never pause.
    fn next_work(&mut self) -> Option<Work> {
        let mut queue = self.shared.lock();
        if queue.ended {
            return None;
        }
        let through = self.last.map(|last| last.index);
        let due: Vec<_> = queue.mark_syncs.extract_if(.., |sync| sync.behind <= through).collect();
        if !due.is_empty() {
            return Some(Work::SyncMark(due));
        }
        if !queue.entries.is_empty() {
            let was_full = self.shared.is_full(&queue);
            let group = self.take_group(&mut queue);
            drop(queue);
            if was_full {
                self.shared.room.notify_waiters();
            }
            return Some(Work::Write(group));
        }
        queue.closing.then_some(Work::Close)
    }

    /// Whether, where records are not synced, what is to be done next syncs all the same.
    fn waits_for_disk(&self) -> bool {
        let queue = self.shared.lock();
        let begins = queue.entries.iter().any(|entry| self.begins_segment(entry.lines.len()));
        begins || !queue.mark_syncs.is_empty() || queue.closing
    }

    /// At least one entry, and what fits beside it into a group and into one segment.
    fn take_group(&self, queue: &mut Queue) -> Vec<Queued> {
        let mut room = None;
        let mut group: Vec<Queued> = Vec::new();
        while let Some(entry) = queue.entries.front() {
            let bytes = entry.lines.len();
            let left = *room.get_or_insert_with(|| self.group_room(bytes));
            if !group.is_empty() && bytes > left {
                break;
            }
            room = Some(left.saturating_sub(bytes));
            queue.bytes -= bytes;
            group.extend(queue.entries.pop_front());
        }
        group
    }

    /// What a group may have whose first entry has so many bytes.
    fn group_room(&self, first_bytes: usize) -> usize {
        let there =
            if self.begins_segment(first_bytes) { 0 } else { self.storage.segment_bytes().unwrap_or(0) };
        let segment = usize::try_from(self.segment_bytes_max.saturating_sub(there)).unwrap_or(usize::MAX);
        segment.min(GROUP_BYTES_MAX)
    }

    /// Whether an entry of so many bytes goes to a new segment.
    fn begins_segment(&self, bytes: usize) -> bool {
        let there = self.storage.segment_bytes();
        there.is_none_or(|there| there > 0 && there + bytes as u64 > self.segment_bytes_max)
    }

    #[expect(clippy::disallowed_methods, reason = "how long a sync takes is measured")]
    fn write(&mut self, group: &[Queued]) -> Result<(), IoFailure> {
        let Some((first, last)) = group.first().zip(group.last()) else { return Ok(()) };
        if self.begins_segment(first.lines.len()) {
            // Everything before a new segment is durable, and the mark that says so: damage there is never
            // taken for a torn end.
            self.sync_with_mark()?;
            self.storage.begin_segment(first.first)?;
        }
        self.lines.clear();
        for entry in group {
            self.lines.extend_from_slice(&entry.lines);
        }
        self.unsynced = true;
        self.storage.write(&self.lines)?;
        self.last = Some(last.last);
        if self.shared.fsync == Fsync::Always {
            let began = Instant::now();
            self.sync()?;
            self.patience = began.elapsed().min(PATIENCE_MAX);
        }
        self.proven.send_modify(|proven| proven.through = Some(last.last.index));
        Ok(())
    }

    fn sync(&mut self) -> Result<(), IoFailure> {
        if self.unsynced {
            self.storage.sync()?;
            self.unsynced = false;
            if let Some(last) = self.last {
                self.storage.write_mark(last)?;
            }
        }
        Ok(())
    }

    fn sync_with_mark(&mut self) -> Result<(), IoFailure> {
        self.sync()?;
        self.storage.sync_mark()
    }
}

/// Hears what is proven.
#[derive(Clone, Debug)]
pub struct Proofs {
    hears: watch::Receiver<Proven>,
    /// What was returned last.
    told: Option<u64>,
    /// The end was returned.
    over: bool,
}

impl Proofs {
    /// The highest proven index, when it has risen since the last call: once a sync at most. When the log fails, that
    /// once, after all that was proven before; then, as after a clean end, nothing.
    ///
    /// # Cancel safety
    /// Safe: what was not returned is returned by the next call.
    pub async fn next(&mut self) -> Option<Result<u64, WriteError>> {
        while !self.over {
            let (through, ended) = {
                let proven = self.hears.borrow_and_update();
                (proven.through, proven.ended.clone())
            };
            if through > self.told {
                self.told = through;
                return through.map(Ok);
            }
            if let Some(result) = ended {
                self.over = true;
                return result.err().map(Err);
            }
            if self.hears.changed().await.is_err() && self.hears.borrow().ended.is_none() {
                self.over = true;
                return Some(Err(WriteError::Gone));
            }
        }
        None
    }

    /// The highest index proven now; none if the log is empty.
    pub fn through(&self) -> Option<u64> {
        self.hears.borrow().through
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arbiterq_client::wire::Hash;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "how long it waits is what is tested")]
    fn what_is_patient_waits_for_company_and_not_for_ever() {
        let shared = Shared {
            queue: Mutex::default(),
            arrived: Condvar::new(),
            room: Notify::new(),
            entries_max: 3,
            bytes_max: 1024,
            fsync: Fsync::Always,
        };
        let push = |index, patient| {
            let last = Mark { index, hash: Hash::default() };
            shared.push(Queued { first: index, last, lines: vec![b'\n'], patient }).unwrap();
        };
        let (patience, for_ever) = (Duration::from_millis(20), Duration::from_secs(3600));
        let begun = Instant::now();
        push(0, true);
        assert!(shared.wait(patience));
        assert!(begun.elapsed() >= patience, "alone it waits");
        push(1, false);
        assert!(shared.wait(for_ever), "with one by which somebody goes on it does not");
        shared.lock().entries.clear();
        (0..3).for_each(|index| push(index, true));
        assert!(shared.wait(for_ever), "nor where there is no room for more");
        shared.close();
        assert!(shared.wait(for_ever), "nor at the end");
        shared.end(&Ok(()));
        assert!(!shared.wait(for_ever));
    }
}
