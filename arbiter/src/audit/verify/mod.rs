//! Checks a grant log against the promises, from the records alone.
//!
//! This module shares no code with the state machine, on purpose: what decides must not also judge. It imports
//! nothing from `state` or `partition`, and a test reads these sources to see to it. It takes the *events* for
//! what happened, works out what they leave behind, and says of the first record that breaks a [`Promise`] where
//! it is and what is wrong with it. Why an event came is taken from its record's command, as far as that can
//! be seen without deciding: that a refusal was right, or that all that was due came, is for `audit replay`.
//!
//! Memory is bounded by what is live, not by the log's length. Lines are hashed exactly as they stand, never
//! written again.
//!
//! - `line`, `shape`: bytes to record; `batches`: those of a folder, on every core.
//! - `fold`: the chain, epochs, time, and the rule that a waiter that can be granted is next.
//! - `events`, `requests`: each event under its command.
//! - `live`, `resources`: what is remembered; who has room beside whom.
//! - `folder`: the only place that knows how a log lies on a disk.

mod batches;
mod events;
mod fold;
mod folder;
mod line;
mod live;
mod names;
mod promise;
mod receipts;
mod report;
mod requests;
mod resources;
mod shape;
#[cfg(test)]
mod tests;

pub use promise::{Promise, Violation};
pub use report::{FolderReport, Live, Report, Unfinished};

use self::line::Line;
use self::promise::Broken;
use self::receipts::Receipts;
use arbiterq_client::Receipt;
use std::io;
use std::path::{Path, PathBuf};

/// How far a folder has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Records checked.
    pub records: u64,
    /// The index of the last of them.
    pub index: u64,
    /// Bytes checked.
    pub bytes: u64,
    /// The bytes of all segments, when reading began; a live log grows.
    pub bytes_total: u64,
}

/// A log that is not verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It breaks a promise.
    #[error(transparent)]
    Violation(#[from] Box<Violation>),
    /// It could not be read, so nothing is said of it.
    #[error("{path}: {source}", path = path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Verifies the log folder of one partition. It is only read, and an arbiter may write to it meanwhile.
///
/// `receipts` of this log's partition must be borne out by it; others are not looked at. `progress` is called now
/// and then, some hundred times a second.
///
/// # Errors
/// The first violation, or what could not be read.
pub fn verify_folder(
    dir: &Path,
    receipts: &[Receipt],
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, VerifyError> {
    folder::verify(dir, receipts, progress)
}

/// Verifies the lines of a log one after the other, as they come from wherever.
///
/// Every line counts: what an entry is, and which are void, is for whoever reads the store. After a violation
/// the verifier has nothing more to say.
///
/// ```
/// use arbiterq::audit::verify::{Promise, Verifier};
///
/// let mut verifier = Verifier::new();
/// let violation = verifier.line(b"{}").unwrap_err();
/// assert_eq!((violation.line, violation.promise), (1, Promise::Evidence));
/// ```
#[derive(Clone, Default)]
pub struct Verifier {
    fold: fold::Fold,
    receipts: Receipts,
    lines: u64,
}

impl Verifier {
    /// Before the genesis.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks a line, without its line feed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn line(&mut self, line: &[u8]) -> Result<(), Violation> {
        self.take(Line::read(line)).map_err(|Fault { broken, .. }| Violation {
            index: self.next_index(),
            file: None,
            line: self.lines,
            promise: broken.promise,
            what: broken.what,
        })
    }

    /// What was verified so far.
    pub fn finish(&self) -> Report {
        Report::of(&self.fold, self.receipts.confirmed, None)
    }

    fn next_index(&self) -> u64 {
        if self.fold.counts.records == 0 { 0 } else { self.fold.tip + 1 }
    }

    fn take(&mut self, line: Line) -> Result<(), Fault> {
        self.lines += 1;
        let record = match line.record {
            Ok(record) => record,
            Err(why) => {
                return Err(Fault::no_record(Broken {
                    promise: Promise::Evidence,
                    what: format!("the line is no record: {why}"),
                }));
            }
        };
        self.fold.extends(&record).map_err(Fault::no_record)?;
        let told = |broken| Fault { no_record: false, broken };
        self.receipts.record(&record, line.hash).map_err(told)?;
        self.fold.take(record, line.hash).map_err(told)?;
        self.fold.counts.records += 1;
        Ok(())
    }
}

/// Why a line is not taken.
struct Fault {
    /// The line is no record of this chain, as one that was not written to its end.
    no_record: bool,
    broken: Broken,
}

impl Fault {
    fn no_record(broken: Broken) -> Self {
        Self { no_record: true, broken }
    }
}
