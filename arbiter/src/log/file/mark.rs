//! `durable`: index and hash of the highest record known durable.
//!
//! One line of JSON, filled up with blanks to [`MARK_BYTES`] with the line feed, overwritten in place after each
//! sync. It is not itself synced then, so after a power cut it may name an earlier record, never a later one; one
//! write within a sector is there as a whole or not at all. It is synced when more hangs on it: before a second
//! segment and before a checkpoint, so that a mark behind one of these was changed by somebody.

use arbiterq_client::wire::Hash;
use std::path::Path;

use super::error::ReadError;

/// The size of the file, always.
pub const MARK_BYTES: usize = 128;

/// The highest record known durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its index.
    pub index: u64,
    /// Its hash.
    pub hash: Hash,
}

impl Mark {
    /// The mark of a log folder; none if no record is known durable yet.
    ///
    /// # Errors
    /// Missing, not as it was written, or the system's.
    pub fn read(dir: &Path) -> Result<Option<Self>, ReadError> {
        unimplemented!()
    }
}
