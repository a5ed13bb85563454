//! The chain rule: what extends the tip counts, as a whole entry; anything else is void.

use super::line;
use super::record::{RECORD_BYTES_MAX, Record};
use arbiterq_client::wire::Hash;
use sha2::{Digest, Sha256};

/// The SHA-256 of bytes.
pub fn hash_of(bytes: &[u8]) -> Hash {
    Hash(Sha256::digest(bytes).into())
}

/// An entry as it is written: each line with its line feed.
pub fn written(entry: &[Sealed]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entry.iter().map(|sealed| sealed.line.len() + 1).sum());
    for sealed in entry {
        bytes.extend_from_slice(&sealed.line);
        bytes.push(b'\n');
    }
    bytes
}

/// A record as it is written: its line without the line feed, and that line's hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sealed {
    /// The record.
    pub record: Record,
    /// Its line, without the line feed.
    pub line: Vec<u8>,
    /// The hash of the line.
    pub hash: Hash,
}

impl Sealed {
    /// Writes a record down, once.
    pub fn new(record: Record) -> Self {
        let line = line::write(&record);
        let hash = hash_of(&line);
        Self { record, line, hash }
    }

    /// Reads a line as a record.
    ///
    /// # Errors
    /// What the line is not.
    pub fn read(line: &[u8]) -> Result<Self, UnreadableLine> {
        if line.len() > RECORD_BYTES_MAX {
            return Err(UnreadableLine(format!("{} bytes, the limit is {RECORD_BYTES_MAX}", line.len())));
        }
        let by_serde = || serde_json::from_slice(line).map_err(|e| UnreadableLine(e.to_string()));
        let record = line::read(line).map_or_else(by_serde, Ok)?;
        Ok(Self { record, line: line.to_vec(), hash: hash_of(line) })
    }
}

/// A line that is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a record: {0}")]
pub struct UnreadableLine(pub String);

/// The last record that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChainTip {
    /// The index that the next record must have.
    pub next_index: u64,
    /// The hash that the next record must name.
    pub hash: Hash,
}

impl ChainTip {
    /// Before the genesis of a log whose first index is `first_index`.
    pub fn before(first_index: u64) -> Self {
        Self { next_index: first_index, hash: Hash::default() }
    }

    /// Whether an entry counts. If it does, its last record becomes the tip.
    ///
    /// An entry whose first record names the tip but whose records are not chained to each other is no entry
    /// that any arbiter writes; it is void, too.
    pub fn extend(&mut self, entry: &[Sealed]) -> bool {
        let mut tip = *self;
        for sealed in entry {
            if sealed.record.prev != tip.hash || sealed.record.index != tip.next_index {
                return false;
            }
            tip = Self { next_index: tip.next_index + 1, hash: sealed.hash };
        }
        *self = tip;
        !entry.is_empty()
    }
}
