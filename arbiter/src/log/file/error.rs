//! What can go wrong with a log folder, and where.

use arbiterq_client::wire::Hash;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A log that could not be opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another opener in this one, has the folder.
    #[error(
        "the log folder {} is in use by another arbiter; nothing was read; stop that one, or give this one a folder \
         of its own", .dir.display()
    )]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// What was acknowledged is not there as it was written.
    #[error(transparent)]
    Damaged(#[from] Box<Damage>),
    /// The caller refused a record that is intact.
    #[error(
        "{}, line {line} (index {index}): {reason}; the record is intact; nothing was changed", .file.display()
    )]
    Refused {
        /// The segment.
        file: PathBuf,
        /// The line in it, from 1.
        line: u64,
        /// The record's index.
        index: u64,
        /// The caller's words.
        reason: String,
    },
    /// The system said no.
    #[error(transparent)]
    Io(#[from] IoFailure),
}

/// An operation on a file that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {doing} {}: {source}", .path.display())]
pub struct IoFailure {
    /// What was tried: `write`, `sync`, …
    pub doing: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// What the system said.
    pub source: Arc<io::Error>,
}

impl IoFailure {
    /// For `map_err`.
    pub(crate) fn of(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self { doing, path, source: Arc::new(source) }
    }
}

/// A log folder that is not as it was written, at or below what is known durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file that is not as it was.
    pub file: PathBuf,
    /// The line in it, from 1; none if the file as a whole is meant.
    pub line: Option<u64>,
    /// The index of the record that should stand there, if there is one.
    pub index: Option<u64>,
    /// What is wrong.
    pub kind: DamageKind,
    /// The highest record known durable, if the mark can be read.
    pub durable: Option<u64>,
}

/// What is wrong with a log folder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DamageKind {
    /// A line that is no record.
    #[error("{0}")]
    Unreadable(String),
    /// The last line is not ended, or not there.
    #[error("the line is cut off")]
    CutOff,
    /// A record in another's place: a line was lost, doubled, inserted or changed.
    #[error("the record there has index {found}")]
    Index {
        /// What the line says.
        found: u64,
    },
    /// A record that names another record before it than the one that is there.
    #[error("the record does not name the one before it")]
    Prev,
    /// A record that is not the one that the record after it names.
    #[error("the record was changed: the one after it names another hash")]
    Changed,
    /// A record that is not the one that the mark names.
    #[error("the record's hash is {found}, `durable` says {marked}: one of the two was changed")]
    NotAsMarked {
        /// The hash of the line.
        found: Hash,
        /// The hash in the mark.
        marked: Hash,
    },
    /// Records are missing at the end.
    #[error("the log ends before the record that `durable` names")]
    EndsEarly,
    /// Records are missing at the beginning, and no checkpoint stands for them.
    #[error(
        "the log does not begin here: earlier segments are missing, and there is no checkpoint to start from"
    )]
    BeginsLate,
    /// Records are missing in the middle.
    #[error("a segment is missing: the next one there is {}", .next.display())]
    SegmentMissing {
        /// The next segment that exists.
        next: PathBuf,
    },
    /// A file that ends in `.log` and is not named as a segment is, or a segment that comes too early.
    #[error("this is not a segment of this log")]
    SegmentStray,
    /// `durable` is not there.
    #[error("the file is missing, and the folder has segments")]
    MarkMissing,
    /// `durable` is not as it was written.
    #[error("the file is not as it was written")]
    MarkGarbled,
    /// `durable` names an earlier record than was made durable before a segment or a checkpoint was begun.
    #[error("the file names an earlier record than {at_least}, which was known durable")]
    MarkBehind {
        /// The record that was known durable.
        at_least: u64,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the log is damaged: {}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if let Some(index) = self.index {
            write!(f, " (index {index})")?;
        }
        write!(f, ": {}; ", self.kind)?;
        if let Some(durable) = self.durable {
            write!(f, "everything up to index {durable} was known durable; ")?;
        }
        f.write_str(
            "nothing was changed; put the file back from a copy, `arbiter audit verify` says what is intact",
        )
    }
}

impl std::error::Error for Damage {}

/// Why an entry was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// As much waits as may. Nothing was queued; wait for [`room`](super::FileLog::room).
    #[error("the log's queue is full")]
    Full,
    /// A write or a sync failed before. Nothing more is written.
    #[error(transparent)]
    Failed(#[from] WriteError),
}

/// A write or a sync that failed: nothing after what was reported proven may be told to anybody.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// The system said no.
    #[error("the log cannot be written: {0}; nothing after the last proven record was told to anybody")]
    Io(#[from] IoFailure),
    /// The log was closed before.
    #[error("the log is closed")]
    Closed,
    /// The writing thread is gone without a word, which is a defect.
    #[error("the log's writing thread ended unexpectedly")]
    Gone,
}

/// A folder that cannot be read on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The system said no.
    #[error(transparent)]
    Io(#[from] IoFailure),
    /// What is there is not what was written.
    #[error(transparent)]
    Damaged(#[from] Box<Damage>),
}
