//! What is in a log folder: segments and their lines, without a lock and without a change.

use super::error::ReadError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A place in a log: before the line that begins there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// The first index of the segment, which is its name.
    pub segment: u64,
    /// Bytes from its beginning.
    pub offset: u64,
}

/// A file of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The index of its first record.
    pub first: u64,
    /// Where it is.
    pub path: Arc<Path>,
}

/// The segments of a log folder, in order.
///
/// # Errors
/// A `.log` file that is not named as a segment is, or the system's.
pub fn segments(dir: &Path) -> Result<Vec<Segment>, ReadError> {
    unimplemented!()
}

/// A line as it stands in a segment; whether it is a record is for the reader to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its segment.
    pub segment: &'a Segment,
    /// Its number there, from 1.
    pub number: u64,
    /// Where it begins.
    pub position: Position,
    /// The bytes without the line feed; of a line longer than a record may be, the beginning.
    pub bytes: &'a [u8],
    /// Whether it ends with a line feed.
    pub ended: bool,
}

/// All lines of a log folder in order, read-only: for `audit`. Zero bytes at the end of the last segment are no line.
#[derive(Debug)]
pub struct FolderLines {}

impl FolderLines {
    /// Looks at what is there now; what is appended to the last segment later is read, later segments are not.
    ///
    /// # Errors
    /// A file that is no segment, or the system's.
    pub fn open(dir: &Path) -> Result<Self, ReadError> {
        unimplemented!()
    }

    /// The next line; none at the end.
    ///
    /// # Errors
    /// The system's.
    #[expect(clippy::should_implement_trait, reason = "a line borrows the reader's buffer")]
    pub fn next(&mut self) -> Result<Option<Line<'_>>, ReadError> {
        unimplemented!()
    }
}
