//! `durable`: index and hash of the highest record known durable.
//!
//! One line of JSON, filled up with blanks to [`MARK_BYTES`] with the line feed, overwritten in place after each
//! sync. It is not itself synced then, so after a power cut it may name an earlier record, never a later one; one
//! write within a sector is there as a whole or not at all. (A new file under the old name, not synced, may be
//! empty after a power cut.) It is synced when more hangs on it: before a second segment and before a checkpoint,
//! so that a mark behind one of these was changed by somebody.

use super::error::{Damage, DamageKind, IoFailure, ReadError};
use super::folder::INDEX_MAX;
use arbiterq_client::wire::Hash;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The size of the file, always.
pub const MARK_BYTES: usize = 128;
/// Its name in the log folder.
pub(super) const MARK_NAME: &str = "durable";

/// The highest record known durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Its index.
    pub index: u64,
    /// Its hash.
    pub hash: Hash,
}

/// What the file says before anything is durable: both are null.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    index: Option<u64>,
    hash: Option<Hash>,
}

impl Mark {
    /// The mark of a log folder; none if no record is known durable yet.
    ///
    /// # Errors
    /// Missing, not as it was written, or the system's.
    pub fn read(dir: &Path) -> Result<Option<Self>, ReadError> {
        let path = path(dir);
        let damaged =
            |kind| Box::new(Damage { file: path.clone(), line: None, index: None, kind, durable: None });
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(damaged(DamageKind::MarkMissing).into()),
            Err(e) => return Err(IoFailure::of("read", &path)(e).into()),
        };
        Self::decode(&bytes).ok_or_else(|| damaged(DamageKind::MarkGarbled).into())
    }

    /// Only what [`encode`](Self::encode) writes: no other spelling of the same.
    fn decode(bytes: &[u8]) -> Option<Option<Self>> {
        let written: Written = serde_json::from_slice(bytes).ok()?;
        let mark = match (written.index, written.hash) {
            (Some(index), Some(hash)) if index <= INDEX_MAX => Some(Self { index, hash }),
            (None, None) => None,
            _ => return None,
        };
        (Self::encode(mark) == bytes).then_some(mark)
    }

    /// The whole file.
    pub(super) fn encode(mark: Option<Self>) -> [u8; MARK_BYTES] {
        let written = Written { index: mark.map(|m| m.index), hash: mark.map(|m| m.hash) };
        let mut file = [b' '; MARK_BYTES];
        file[MARK_BYTES - 1] = b'\n';
        // At most 20 digits, 64 more, and the names: it fits.
        serde_json::to_writer(&mut file[..MARK_BYTES - 1], &written).expect("a mark fits its file");
        file
    }

    /// Puts the first mark into a new folder, durably: a segment without one is damage.
    pub(super) fn create(dir: &Path) -> Result<(), IoFailure> {
        let tmp = dir.join("durable.tmp");
        let mut file = File::create(&tmp).map_err(IoFailure::of("create", &tmp))?;
        file.write_all(&Self::encode(None)).map_err(IoFailure::of("write", &tmp))?;
        file.sync_all().map_err(IoFailure::of("sync", &tmp))?;
        fs::rename(&tmp, path(dir)).map_err(IoFailure::of("rename", &tmp))?;
        super::folder::sync_dir(dir)
    }
}

/// Where the mark of a folder is.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(MARK_NAME)
}
