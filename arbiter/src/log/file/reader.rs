//! Reads records beside the writer, up to what is proven.

use super::error::ReadError;
use super::folder::Position;
use crate::log::chain::{ChainTip, Sealed};

/// A place in the log and what the chain is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Where the next record begins, or will.
    pub position: Position,
    /// What the next record has to extend.
    pub tip: ChainTip,
}

/// A record and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRecord {
    /// The record.
    pub sealed: Sealed,
    /// Where its line begins.
    pub position: Position,
}

/// Reads a log that is being appended to: for the checkpointer, on a thread of its own. Checks the chain as it goes.
#[derive(Debug)]
pub struct FileLogReader {}

impl FileLogReader {
    /// The next record; none if the next one is not proven yet. Blocks for reading, never for the writer.
    ///
    /// # Errors
    /// Damage, or the system's.
    #[expect(clippy::should_implement_trait, reason = "none is not the end")]
    pub fn next(&mut self) -> Result<Option<ReadRecord>, ReadError> {
        unimplemented!()
    }

    /// Where it stands; none before the first record.
    pub fn cursor(&self) -> Option<Cursor> {
        unimplemented!()
    }
}
