//! Checkpoints of the file log: the live state as of an earlier record, so that a restart reads the tail only.
//!
//! A body is never trusted by itself: its hash must be in the chain. Order of writing: the `checkpoint` record is
//! proven, the body and the mark are synced, then the manifest appears under its name. What this module never does
//! is to know what a body means.

use super::chain::hash_of;
use super::file::{Cursor, IoFailure, Position, ReadRecord, WriteError};
use arbiterq_client::wire::Hash;
use serde::{Deserialize, Serialize};

/// Checkpoints that are kept.
pub const CHECKPOINTS_KEPT: usize = 2;
/// A body; a larger one is not written and not read.
pub const CHECKPOINT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Where a checkpoint belongs in its log; one line of JSON in `checkpoint-<of>.manifest`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The index of the last record that is in the body.
    pub of: u64,
    /// That record's hash.
    pub of_hash: Hash,
    /// Where the record after it begins.
    pub after: Position,
    /// The index of the record with the body's hash.
    pub index: u64,
    /// That record's hash.
    pub hash: Hash,
    /// Where it begins.
    pub position: Position,
    /// SHA-256 of the body.
    pub body_hash: Hash,
}

/// A body whose record is not in the chain yet.
#[derive(Debug)]
pub struct Draft {
    of: Cursor,
    body: Vec<u8>,
    body_hash: Hash,
}

impl Draft {
    /// A body of the state just before `of`: where the reader that folded it stands.
    pub fn new(of: Cursor, body: Vec<u8>) -> Self {
        let body_hash = hash_of(&body);
        Self { of, body, body_hash }
    }

    /// For the `checkpoint` event: the index of the last record that is in the body, and the body's hash.
    pub fn event(&self) -> (u64, Hash) {
        (self.of.tip.next_index - 1, self.body_hash)
    }

    /// Whether this is the record with this draft's event. The checkpointer reads on until it is.
    pub fn is_recorded_by(&self, record: &ReadRecord) -> bool {
        unimplemented!()
    }
}

/// A checkpoint that was not written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Larger than [`CHECKPOINT_BYTES_MAX`].
    #[error("the checkpoint has {bytes} bytes, the limit is {CHECKPOINT_BYTES_MAX}; it was not written")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// The system said no. The log goes on.
    #[error(transparent)]
    Io(#[from] IoFailure),
    /// The log itself failed.
    #[error(transparent)]
    Log(#[from] WriteError),
}

/// Keeps the checkpoints of one log. Made by [`FileLog::checkpoints`](super::file::FileLog::checkpoints).
#[derive(Debug)]
pub struct CheckpointStore {}

impl CheckpointStore {
    /// Writes a checkpoint whose record was read back, which makes it proven, and removes all but the newest two.
    /// Blocks; not for the loop.
    ///
    /// # Errors
    /// Too large, the system's, or the log has failed. What was there before still is.
    ///
    /// # Panics
    /// If the record is not that of the draft.
    pub fn store(&self, draft: &Draft, record: &ReadRecord) -> Result<Manifest, StoreError> {
        unimplemented!()
    }
}
