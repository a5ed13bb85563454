//! The file log store: a folder a partition, written by one process, read by anybody.
//!
//! | file | what |
//! |---|---|
//! | `00000000000000004812.log` | a segment: records from that index on, a line each |
//! | `durable` | index and hash of the highest record known durable ([`Mark`]) |
//! | `lock` | locked by the arbiter that has the folder |
//! | `checkpoint-….jsonl`, `checkpoint-….manifest` | the live state as of an earlier record ([`super::checkpoint`]) |
//!
//! Every line counts here: a void or doubled one is damage. The last segment may end in zero bytes: room for the
//! next records, written ahead because a sync that does not also have to record a new file size is much faster.
//!
//! Only `writer` writes records; what it reports is the proof of design section 4. Nothing here
//! decides, answers or knows the state: [`FileLog::open`] hands it what is on disk, step by step.

pub mod error;
pub(super) mod folder;
mod mark;
mod measure;
mod open;
mod reader;
mod storage;
pub(super) mod writer;

#[cfg(test)]
mod tests;

pub use error::{AppendError, Damage, DamageKind, IoFailure, OpenError, ReadError, WriteError};
pub use folder::{FolderLines, Line, Position, Segment, segments};
pub use mark::{MARK_BYTES, Mark};
pub use measure::{SyncTimes, measure_sync};
pub use reader::{Cursor, FileLogReader, ReadRecord};
pub use writer::Proofs;

use super::chain::{ChainTip, Sealed, written};
use super::checkpoint::CheckpointStore;
use super::record::{Event, RECORD_BYTES_MAX, Record};
use open::Recovered;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use storage::{Folder, Storage};
use writer::{Appender, Queued, Started};

/// When a record counts as durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// After `fdatasync`: survives a power cut.
    #[default]
    Always,
    /// After `write`: survives the process, not the machine. The mark moves only when a segment or a checkpoint
    /// is finished and at the end, so that a power cut is met as a torn tail and not as damage.
    Never,
}

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// When a record is proven.
    pub fsync: Fsync,
    /// A segment that would grow beyond this is finished and the next one begun. An entry that is larger gets a
    /// segment of its own.
    pub segment_bytes_max: u64,
    /// So many zero bytes are written ahead of the records; 0 for none. None either with [`Fsync::Never`].
    pub zero_ahead_bytes: u64,
    /// Entries that wait for the writer; one more is refused [`AppendError::Full`].
    pub queue_entries_max: usize,
    /// Bytes that wait for the writer; where there are so many, one more entry is refused [`AppendError::Full`].
    pub queue_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fsync: Fsync::Always,
            segment_bytes_max: 64 * 1024 * 1024,
            zero_ahead_bytes: 256 * 1024,
            queue_entries_max: 4096,
            queue_bytes_max: 8 * 1024 * 1024,
        }
    }
}

/// What [`FileLog::open`] hands to its caller, in this order: one `Start` or `Checkpoint`, then every record
/// after it.
#[derive(Debug)]
pub enum Step<'a> {
    /// Begin with nothing. Also after a `Checkpoint` that the caller refused.
    Start,
    /// Begin with this state. Its hash is in the chain. An error means that this checkpoint is not usable; an
    /// earlier one follows, or `Start`.
    Checkpoint {
        /// The index of the last record that is in it.
        of: u64,
        /// Where the chain stands after that record.
        tip: ChainTip,
        /// The body, as it was given to [`CheckpointStore`].
        body: &'a [u8],
    },
    /// The next record. An error ends the opening as [`OpenError::Refused`].
    Record(&'a Sealed),
}

/// What was met when a log was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Where the chain stands; none if the log is empty, and the first entry must begin with a genesis.
    pub tip: Option<ChainTip>,
    /// The checkpoint that was used.
    pub checkpoint: Option<u64>,
    /// Checkpoints that were not usable, newest first, and why.
    pub unusable: Vec<(PathBuf, String)>,
    /// What was cut from the end.
    pub cut: Option<Cut>,
    /// Records that were read.
    pub records: u64,
    /// Where the log ends, to read on from there; none if it is empty.
    pub end: Option<Cursor>,
}

/// A torn end of the log that was cut: none of it was known durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment.
    pub file: PathBuf,
    /// The first line that was cut, from 1.
    pub line: u64,
    /// The length of what was cut.
    pub bytes: u64,
    /// Lines that were cut, whole or not.
    pub lines: u64,
    /// The last record that is left; none if the log is empty now.
    pub after: Option<u64>,
    /// What was wrong with the first line.
    pub kind: DamageKind,
}

/// A log folder, open for appending; the only opener as long as it lives.
///
/// Dropping it lets the writer finish what is queued, without waiting; [`close`](Self::close) waits. The folder is
/// locked until the writer and whoever has [`checkpoints`](Self::checkpoints) have ended.
#[derive(Debug)]
pub struct FileLog {
    dir: PathBuf,
    /// What was appended, proven or not.
    tip: Option<ChainTip>,
    appender: Appender,
    proofs: Proofs,
    thread: Option<JoinHandle<()>>,
    unusable: Vec<u64>,
    /// The writer and the checkpoints have it, too: whoever ends last unlocks.
    lock: Arc<File>,
}

impl FileLog {
    /// Opens a folder and hands its newest usable checkpoint and all records after it to `replay`.
    ///
    /// A folder that does not exist or is empty is made a log without records. Blocks.
    ///
    /// # Errors
    /// In use, damaged at or below the mark, a record that `replay` refused, or the system's.
    pub fn open(
        dir: &Path,
        options: Options,
        replay: &mut dyn FnMut(Step<'_>) -> Result<(), String>,
    ) -> Result<(Self, Opened), OpenError> {
        Self::open_over(dir, &options, replay, |folder| folder)
    }

    /// The same with a writer over something else than the folder itself.
    fn open_over<S: Storage>(
        dir: &Path,
        options: &Options,
        replay: &mut dyn FnMut(Step<'_>) -> Result<(), String>,
        over: impl FnOnce(Folder) -> S,
    ) -> Result<(Self, Opened), OpenError> {
        let Recovered { storage, last, lock, opened, unusable } = open::recover(dir, options, replay)?;
        let lock = Arc::new(lock);
        let started = writer::start(over(storage), options, last, Arc::clone(&lock));
        let Started { appender, proofs, thread } =
            started.map_err(IoFailure::of("start a thread for", dir))?;
        let log = Self {
            dir: dir.to_path_buf(),
            tip: opened.tip,
            appender,
            proofs,
            thread: Some(thread),
            unusable,
            lock,
        };
        Ok((log, opened))
    }

    /// Where the chain stands after everything appended so far, proven or not; none while the log is empty.
    pub fn tip(&self) -> Option<ChainTip> {
        self.tip
    }

    /// Queues an entry for writing. Never waits for the disk; without syncs the entry is written when this returns,
    /// unless it begins a segment.
    ///
    /// # Errors
    /// The queue is full, or the log failed. Nothing was queued then.
    ///
    /// # Panics
    /// If the entry is empty or does not extend the chain: what we compute is asserted.
    pub fn append(&mut self, entry: &[Sealed]) -> Result<(), AppendError> {
        self.appender.shared.check()?;
        let first = entry.first().expect("an entry has a record").record.index;
        let mut tip = self.tip.unwrap_or(ChainTip::before(first));
        assert!(
            tip.extend(entry),
            "an entry at index {first} extends the chain, which is at {}",
            tip.next_index
        );
        for sealed in entry {
            assert!(
                sealed.line.len() <= RECORD_BYTES_MAX,
                "record {} can be read again",
                sealed.record.index
            );
        }
        let lines = written(entry);
        let last = Mark { index: tip.next_index - 1, hash: tip.hash };
        let patient = entry.iter().all(|sealed| only_waits(&sealed.record));
        self.appender.append(Queued { first, last, lines, patient })?;
        self.tip = Some(tip);
        Ok(())
    }

    /// Waits until [`append`](Self::append) would not find the queue full, or the log has failed.
    ///
    /// # Cancel safety
    /// Safe: nothing is taken.
    pub async fn room(&self) {
        self.appender.shared.room().await;
    }

    /// What is proven, and how it ends. Hears what comes after what was proven when the log was opened.
    pub fn proofs(&self) -> Proofs {
        self.proofs.clone()
    }

    /// Reads records beside the writer, up to what is proven; from the first one without a cursor.
    pub fn reader(&self, from: Option<Cursor>) -> FileLogReader {
        FileLogReader::new(&self.dir, from, self.proofs())
    }

    /// Keeps checkpoints of this log. The folder stays locked for as long as that is there.
    pub fn checkpoints(&self) -> CheckpointStore {
        CheckpointStore::new(
            &self.dir,
            Arc::clone(&self.appender.shared),
            self.unusable.clone(),
            Arc::clone(&self.lock),
        )
    }

    /// Writes, syncs and reports what is queued, then gives the folder back. Blocks.
    ///
    /// # Errors
    /// A write or a sync failed, now or before.
    pub fn close(mut self) -> Result<(), WriteError> {
        self.appender.shared.close();
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(WriteError::Gone),
            _ => self.appender.shared.failed().map_or(Ok(()), Err),
        }
    }
}

/// Whether nobody goes on by what the record says.
fn only_waits(record: &Record) -> bool {
    !record.events.is_empty() && record.events.iter().all(|event| matches!(event, Event::Queued { .. }))
}

impl Drop for FileLog {
    fn drop(&mut self) {
        self.appender.shared.close();
    }
}
