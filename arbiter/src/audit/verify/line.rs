//! One line of a log: its hash, and the record in it.

use super::shape;
use crate::log::chain::hash_of;
use crate::log::record::{RECORD_BYTES_MAX, Record};
use arbiterq_client::wire::Hash;

/// A line without its line feed, read.
pub(super) struct Line {
    /// The hash of its bytes as they stand.
    pub(super) hash: Hash,
    /// The record, or why the line is none.
    pub(super) record: Result<Record, String>,
}

impl Line {
    /// Hashes and reads.
    pub(super) fn read(line: &[u8]) -> Self {
        if line.len() > RECORD_BYTES_MAX {
            let what = format!("{} bytes in one line, the limit is {RECORD_BYTES_MAX}", line.len());
            return Self { hash: Hash::default(), record: Err(what) };
        }
        Self { hash: hash_of(line), record: record(line) }
    }
}

fn record(line: &[u8]) -> Result<Record, String> {
    // Without this an array with the fields in their order would be read as a record, too.
    if line.first() != Some(&b'{') {
        return Err("it does not begin with {".to_owned());
    }
    if line.contains(&b'\r') {
        return Err("a carriage return".to_owned());
    }
    let record = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    shape::check(&record, line)?;
    Ok(record)
}
