//! What is in a log folder: segments and their lines, without a lock and without a change.

use super::error::{Damage, DamageKind, IoFailure, ReadError};
use crate::log::record::RECORD_BYTES_MAX;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is read at once.
const READ_BYTES: usize = 64 * 1024;

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

impl Segment {
    /// The segment of a folder that begins with this index.
    pub(super) fn named(dir: &Path, first: u64) -> Self {
        Self { first, path: dir.join(format!("{first:020}.log")).into() }
    }
}

/// The segments of a log folder, in order.
///
/// # Errors
/// A `.log` file that is not named as a segment is, or the system's.
pub fn segments(dir: &Path) -> Result<Vec<Segment>, ReadError> {
    let mut segments = Vec::new();
    for name in names(dir)? {
        let Some(stem) = name.strip_suffix(".log") else { continue };
        let path = dir.join(&name);
        let first = numbered(stem).ok_or_else(|| {
            let (file, kind) = (path.clone(), DamageKind::SegmentStray);
            Box::new(Damage { file, line: None, index: None, kind, durable: None })
        })?;
        segments.push(Segment { first, path: path.into() });
    }
    segments.sort_by_key(|s| s.first);
    Ok(segments)
}

/// Indexes are below this: JSON readers of every kind keep them exact.
pub(in crate::log) const INDEX_MAX: u64 = (1 << 53) - 1;

/// The index that a file of a log folder is named by: exactly 20 digits.
pub(in crate::log) fn numbered(text: &str) -> Option<u64> {
    (text.len() == 20 && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())?
        .filter(|&index| index <= INDEX_MAX)
}

/// The names in a folder. Names that are no UTF-8 are not ours.
pub(in crate::log) fn names(dir: &Path) -> Result<Vec<String>, IoFailure> {
    let entries = fs::read_dir(dir).map_err(IoFailure::of("read", dir))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(IoFailure::of("read", dir))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

/// Makes what was created, renamed or removed in a folder durable.
pub(in crate::log) fn sync_dir(dir: &Path) -> Result<(), IoFailure> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(IoFailure::of("sync", dir))
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
pub struct FolderLines {
    segments: std::iter::Peekable<std::vec::IntoIter<Segment>>,
    lines: Option<SegmentLines>,
}

impl FolderLines {
    /// Looks at what is there now; what is appended to the last segment later is read, later segments are not.
    ///
    /// # Errors
    /// A file that is no segment, or the system's.
    pub fn open(dir: &Path) -> Result<Self, ReadError> {
        Ok(Self { segments: segments(dir)?.into_iter().peekable(), lines: None })
    }

    /// The next line; none at the end.
    ///
    /// # Errors
    /// The system's.
    #[expect(clippy::should_implement_trait, reason = "a line borrows the reader's buffer")]
    pub fn next(&mut self) -> Result<Option<Line<'_>>, ReadError> {
        loop {
            if let Some(lines) = &mut self.lines {
                let last = self.segments.peek().is_none();
                let found = lines.next()?.filter(|line| !(last && line.zeros));
                if let Some(raw) = found {
                    // Borrowed again only to return it, which the borrow checker asks for.
                    let lines = self.lines.as_ref().expect("it was read from");
                    return Ok(Some(Line {
                        segment: &lines.segment,
                        number: raw.number,
                        position: raw.position,
                        bytes: &lines.bytes,
                        ended: raw.ended,
                    }));
                }
                if last {
                    lines.again()?;
                    return Ok(None);
                }
            }
            let Some(segment) = self.segments.next() else { return Ok(None) };
            self.lines = Some(SegmentLines::open(segment, 0)?);
        }
    }
}

/// The lines of one segment from an offset on.
#[derive(Debug)]
pub(super) struct SegmentLines {
    pub(super) segment: Segment,
    /// The line read last, without its line feed; at most a byte more than a record may have.
    pub(super) bytes: Vec<u8>,
    file: BufReader<File>,
    /// Where the next line begins.
    offset: u64,
    /// The number of the line read last, counted from where reading began.
    number: u64,
    /// Where the line read last began, and the one before it ended.
    before: (u64, u64),
}

/// A line that was read; its bytes are in [`SegmentLines::bytes`].
#[derive(Clone, Copy, Debug)]
pub(super) struct RawLine {
    pub(super) number: u64,
    pub(super) position: Position,
    /// Whether it ends with a line feed.
    pub(super) ended: bool,
    /// Whether it is nothing but zero bytes up to the end of the file.
    pub(super) zeros: bool,
}

impl SegmentLines {
    pub(super) fn open(segment: Segment, offset: u64) -> Result<Self, IoFailure> {
        let mut file = File::open(&segment.path).map_err(IoFailure::of("open", &segment.path))?;
        file.seek(SeekFrom::Start(offset)).map_err(IoFailure::of("read", &segment.path))?;
        let file = BufReader::with_capacity(READ_BYTES, file);
        Ok(Self { segment, bytes: Vec::new(), file, offset, number: 0, before: (offset, 0) })
    }

    /// The next line; none at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<RawLine>, IoFailure> {
        let start = self.offset;
        self.before = (start, self.number);
        let found = self.fill().map_err(IoFailure::of("read", &self.segment.path))?;
        let Some((length, ended, zeros)) = found else { return Ok(None) };
        self.offset += length;
        self.number += 1;
        let position = Position { segment: self.segment.first, offset: start };
        Ok(Some(RawLine { number: self.number, position, ended, zeros }))
    }

    /// Reads up to a line feed: how long it is with that, whether it was there, whether all are zeros.
    fn fill(&mut self) -> io::Result<Option<(u64, bool, bool)>> {
        self.bytes.clear();
        let (mut length, mut zeros) = (0, true);
        loop {
            let chunk = match self.file.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if chunk.is_empty() {
                return Ok((length > 0).then_some((length, false, zeros)));
            }
            let feed = chunk.iter().position(|&b| b == b'\n');
            let part = &chunk[..feed.unwrap_or(chunk.len())];
            zeros = zeros && feed.is_none() && part.iter().all(|&b| b == 0);
            let room = RECORD_BYTES_MAX + 1 - self.bytes.len();
            self.bytes.extend_from_slice(&part[..part.len().min(room)]);
            let used = part.len() + usize::from(feed.is_some());
            self.file.consume(used);
            length += used as u64;
            if feed.is_some() {
                return Ok(Some((length, true, false)));
            }
        }
    }

    /// Goes back before the line read last, and forgets what was read ahead: it may have been written since.
    pub(super) fn again(&mut self) -> Result<(), IoFailure> {
        (self.offset, self.number) = self.before;
        self.file.seek(SeekFrom::Start(self.offset)).map_err(IoFailure::of("read", &self.segment.path))?;
        Ok(())
    }

    /// Where the next line begins.
    pub(super) fn position(&self) -> Position {
        Position { segment: self.segment.first, offset: self.offset }
    }
}

/// The number, from 1, of the line that begins at an offset. Only for messages: it reads all that is before.
pub(super) fn line_number(path: &Path, offset: u64) -> Result<u64, IoFailure> {
    let mut file = File::open(path).map_err(IoFailure::of("open", path))?.take(offset);
    let (mut number, mut chunk) = (1, vec![0; READ_BYTES]);
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(number),
            Ok(n) => number += chunk[..n].iter().filter(|&&b| b == b'\n').count() as u64,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(IoFailure::of("read", path)(e)),
        }
    }
}

/// Where the lock of a folder is.
pub(super) fn lock_path(dir: &Path) -> PathBuf {
    dir.join("lock")
}
