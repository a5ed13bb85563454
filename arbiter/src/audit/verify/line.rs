//! One line of a log: its hash, and the record in it.

use crate::log::chain::hash_of;
use crate::log::record::{RECORD_BYTES_MAX, Record};
use arbiterq_client::wire::Hash;
use serde_json::error::Category;

/// A line without its line feed, read.
pub(super) struct Line {
    /// The hash of its bytes as they stand.
    pub(super) hash: Hash,
    /// The record, if it is one.
    pub(super) record: Result<Record, NoRecord>,
}

/// Why a line is no record.
pub(super) enum NoRecord {
    /// It is not as any arbiter writes it.
    Damaged(String),
    /// It is well formed and says something unknown: a field, an event, a command.
    Unknown(String),
}

impl Line {
    /// Hashes and reads.
    pub(super) fn read(line: &[u8]) -> Self {
        if line.len() > RECORD_BYTES_MAX {
            let what = format!("{} bytes in one line, the limit is {RECORD_BYTES_MAX}", line.len());
            return Self { hash: Hash::default(), record: Err(NoRecord::Damaged(what)) };
        }
        let record = match line.first() {
            // Without this an array with the fields in their order would be read as a record, too.
            Some(b'{') => serde_json::from_slice(line).map_err(|e| no_record(&e)),
            _ => Err(NoRecord::Damaged("it does not begin with {".to_owned())),
        };
        Self { hash: hash_of(line), record }
    }
}

fn no_record(error: &serde_json::Error) -> NoRecord {
    let text = error.to_string();
    let unknown = text.starts_with("unknown field") || text.starts_with("unknown variant");
    match error.classify() {
        Category::Data if unknown => NoRecord::Unknown(text),
        _ => NoRecord::Damaged(text),
    }
}
