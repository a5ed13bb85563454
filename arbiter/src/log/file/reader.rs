//! Reads records beside the writer, up to what is proven.

use super::error::{Damage, DamageKind, IoFailure, ReadError};
use super::folder::{Position, Segment, SegmentLines, line_number, segments};
use super::open::{after, misfit, record_of};
use super::writer::Proofs;
use crate::log::chain::{ChainTip, Sealed};
use std::path::{Path, PathBuf};

/// A place in the log and what the chain is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Where the next record begins, or will; at the end of a segment that may also be the next one's beginning.
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
pub struct FileLogReader {
    dir: PathBuf,
    proofs: Proofs,
    cursor: Option<Cursor>,
    lines: Option<SegmentLines>,
    /// What was proven when `lines` last forgot what it had read ahead. Bytes behind that may have been written since.
    through: Option<u64>,
}

impl FileLogReader {
    pub(super) fn new(dir: &Path, from: Option<Cursor>, proofs: Proofs) -> Self {
        Self { dir: dir.to_path_buf(), proofs, cursor: from, lines: None, through: None }
    }

    /// The next record; none if the next one is not proven yet. Blocks for reading, never for the writer.
    ///
    /// # Errors
    /// Damage, or the system's.
    #[expect(clippy::should_implement_trait, reason = "none is not the end")]
    pub fn next(&mut self) -> Result<Option<ReadRecord>, ReadError> {
        if !self.is_ahead() {
            self.through = self.proofs.through();
            self.lines = None;
            if !self.is_ahead() {
                return Ok(None);
            }
        }
        let cursor = match self.cursor {
            Some(cursor) => cursor,
            None => self.first()?,
        };
        let read = self.read(cursor);
        if read.is_err() {
            // What was read ahead is of no use; the next call begins where this one did.
            self.lines = None;
        }
        read.map(Some)
    }

    /// The highest index that is proven now; none if the log is empty.
    pub fn proven(&self) -> Option<u64> {
        self.proofs.through()
    }

    /// Where it stands; none before the first record.
    pub fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    /// Whether the next record is known to be proven.
    fn is_ahead(&self) -> bool {
        self.through.is_some_and(|through| self.cursor.is_none_or(|c| c.tip.next_index <= through))
    }

    fn first(&self) -> Result<Cursor, ReadError> {
        let Some(first) = segments(&self.dir)?.first().map(|s| s.first) else {
            return Err(self.damage(&self.dir, None, self.through, DamageKind::EndsEarly).into());
        };
        Ok(Cursor { position: Position { segment: first, offset: 0 }, tip: ChainTip::before(first) })
    }

    fn read(&mut self, cursor: Cursor) -> Result<ReadRecord, ReadError> {
        let Cursor { mut position, tip } = cursor;
        loop {
            let lines = match self.lines.take() {
                Some(lines) => lines,
                None => SegmentLines::open(Segment::named(&self.dir, position.segment), position.offset)?,
            };
            let lines = self.lines.insert(lines);
            if let Some(line) = lines.next()? {
                let sealed =
                    record_of(&lines.bytes, line.ended).and_then(|sealed| match misfit(&sealed, tip) {
                        None => Ok(sealed),
                        Some(kind) => Err(kind),
                    });
                let end = lines.position();
                let sealed = match sealed {
                    Ok(sealed) => sealed,
                    Err(kind) => return Err(self.damage_at(line.position, tip.next_index, kind)?.into()),
                };
                self.cursor = Some(Cursor { position: end, tip: after(&sealed) });
                return Ok(ReadRecord { sealed, position: line.position });
            }
            // The record is proven and not here: it begins the next segment.
            let next = Position { segment: tip.next_index, offset: 0 };
            if position == next || !Segment::named(&self.dir, next.segment).path.exists() {
                return Err(self.damage_at(position, tip.next_index, DamageKind::EndsEarly)?.into());
            }
            position = next;
            self.lines = None;
        }
    }

    fn damage_at(&self, at: Position, index: u64, kind: DamageKind) -> Result<Box<Damage>, IoFailure> {
        let file = Segment::named(&self.dir, at.segment).path;
        let line = line_number(&file, at.offset)?;
        Ok(self.damage(&file, Some(line), Some(index), kind))
    }

    fn damage(&self, file: &Path, line: Option<u64>, index: Option<u64>, kind: DamageKind) -> Box<Damage> {
        Box::new(Damage { file: file.to_path_buf(), line, index, kind, durable: self.through })
    }
}
