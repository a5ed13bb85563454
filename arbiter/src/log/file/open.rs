//! Reads a folder at a start: the newest usable checkpoint and the tail, damage told from a torn end.
//!
//! Reading changes nothing. Only when all of it is read and nothing at or below the mark is damaged, a torn end is
//! cut and what is above the mark is made durable; nothing else is ever changed here.

use super::error::{Damage, DamageKind, IoFailure, OpenError, ReadError};
use super::folder::{self, Position, Segment, SegmentLines, line_number, sync_dir};
use super::mark::{self, Mark};
use super::reader::Cursor;
use super::storage::{Folder, Storage};
use super::{Cut, Fsync, Opened, Options, Step};
use crate::log::chain::{ChainTip, Sealed};
use crate::log::checkpoint::{self, Manifest};
use rustix::fs::FlockOperation;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

type Replay<'a> = &'a mut dyn FnMut(Step<'_>) -> Result<(), String>;

/// An opened folder, ready for a writer.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) storage: Folder,
    pub(super) last: Option<Mark>,
    pub(super) lock: File,
    pub(super) opened: Opened,
    /// Checkpoints that are of no use.
    pub(super) unusable: Vec<u64>,
}

pub(super) fn recover(dir: &Path, options: &Options, replay: Replay<'_>) -> Result<Recovered, OpenError> {
    let lock = lock(dir)?;
    let segments = folder::segments(dir).map_err(broadened)?;
    let mark = match Mark::read(dir) {
        Err(ReadError::Damaged(damage))
            if damage.kind == DamageKind::MarkMissing
                && segments.is_empty()
                && checkpoint::list(dir)?.is_empty() =>
        {
            Mark::create(dir)?;
            None
        }
        read => read.map_err(broadened)?,
    };
    let mut scan = Scan { dir, segments, mark, checkpoint: None };
    scan.check_mark()?;
    let begun = scan.begin(replay)?;
    let read = scan.read(begun.lines, begun.tip, replay)?;
    let last = read.last;
    let storage = scan.settle(options, &read)?;
    checkpoint::clean(dir)?;
    let unusable = begun.unusable.iter().map(|(of, ..)| *of).collect();
    let opened = Opened {
        tip: last.map(|_| read.end.tip),
        checkpoint: scan.checkpoint.as_ref().map(|m| m.of),
        unusable: begun.unusable.into_iter().map(|(_, path, why)| (path, why)).collect(),
        cut: read.cut,
        records: read.records,
        end: last.map(|_| read.end),
    };
    Ok(Recovered { storage, last, lock, opened, unusable })
}

/// Creates the folder if need be, and takes its lock.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let missing = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.is_dir()).count();
    fs::create_dir_all(dir).map_err(IoFailure::of("create", dir))?;
    // Each folder that was made is an entry of the one above it.
    let parents =
        || dir.ancestors().skip(1).map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir });
    parents().take(missing).try_for_each(sync_dir)?;
    if missing == 0 {
        // Whoever made it may have been stopped before its sync. Where this one may not look, somebody else did.
        parents().take(1).try_for_each(sync_dir).ok();
    }
    let path = folder::lock_path(dir);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(IoFailure::of("create", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked { dir: dir.to_path_buf() }),
        Err(e) => Err(IoFailure::of("lock", &path)(e.into()).into()),
    }
}

/// A folder being read.
struct Scan<'a> {
    dir: &'a Path,
    segments: Vec<Segment>,
    mark: Option<Mark>,
    /// The one that was begun with.
    checkpoint: Option<Manifest>,
}

/// Where reading begins.
struct Begun {
    /// None in a log without segments.
    lines: Option<Lines>,
    tip: ChainTip,
    unusable: Vec<(u64, PathBuf, String)>,
}

/// What reading found.
struct Read {
    /// The last record that is kept.
    last: Option<Mark>,
    end: Cursor,
    /// Where the first record above the mark begins, if there is one.
    above_mark: Option<Position>,
    cut: Option<Cut>,
    records: u64,
}

/// A line that cannot stand where it does.
struct Fault {
    at: Position,
    index: u64,
    kind: DamageKind,
}

/// A record that fits what is before it, and is handed on once what is after it fits, too.
struct Pending {
    sealed: Sealed,
    at: Position,
}

impl<'a> Scan<'a> {
    /// The mark was synced before every segment but the first.
    fn check_mark(&self) -> Result<(), Box<Damage>> {
        let Some(last) = self.segments.last() else {
            return match self.mark {
                None => Ok(()),
                Some(mark) => Err(self.damage(self.dir, Some(mark.index), DamageKind::EndsEarly)),
            };
        };
        let behind = match self.mark {
            None => self.segments.len() > 1,
            Some(mark) => mark.index.saturating_add(1) < last.first,
        };
        if behind { Err(self.mark_behind(last.first.saturating_sub(1))) } else { Ok(()) }
    }

    fn mark_behind(&self, at_least: u64) -> Box<Damage> {
        self.damage(&mark::path(self.dir), None, DamageKind::MarkBehind { at_least })
    }

    /// Damage of a file as a whole.
    fn damage(&self, file: &Path, index: Option<u64>, kind: DamageKind) -> Box<Damage> {
        let durable = self.mark.map(|m| m.index);
        Box::new(Damage { file: file.to_path_buf(), line: None, index, kind, durable })
    }

    /// Hands the newest usable checkpoint on, or the start.
    fn begin(&mut self, replay: Replay<'_>) -> Result<Begun, OpenError> {
        let mut unusable = Vec::new();
        for (of, path) in checkpoint::list(self.dir)? {
            match self.begin_at(of, &path, replay)? {
                Ok((lines, tip)) => return Ok(Begun { lines: Some(lines), tip, unusable }),
                Err(why) => unusable.push((of, path, why)),
            }
        }
        let first = self.segments.first();
        let tip = ChainTip::before(first.map_or(0, |s| s.first));
        let refused = |reason| OpenError::Refused { file: self.dir.to_path_buf(), line: 0, index: 0, reason };
        replay(Step::Start).map_err(refused)?;
        let lines = first.map(|_| Lines::open(&self.segments, 0, 0)).transpose()?;
        Ok(Begun { lines, tip, unusable })
    }

    /// Hands one checkpoint on, if its hash is in the chain where it says. What is wrong with it otherwise.
    fn begin_at(
        &mut self,
        of: u64,
        path: &Path,
        replay: Replay<'_>,
    ) -> Result<Result<(Lines, ChainTip), String>, OpenError> {
        let (manifest, body) = match checkpoint::read(self.dir, of, path)? {
            Ok(read) => read,
            Err(why) => return Ok(Err(why)),
        };
        let recorded = self.record_at(manifest.position)?;
        if !recorded.is_some_and(|sealed| manifest.is_recorded_by(&sealed)) {
            return Ok(Err(format!("its record (index {}) is not where it says", manifest.index)));
        }
        let next = self.record_at(manifest.after)?;
        if !next.is_some_and(|s| s.record.index == of + 1 && s.record.prev == manifest.of_hash) {
            return Ok(Err(format!("the record after it (index {}) is not where it says", of + 1)));
        }
        if self.mark.is_none_or(|m| m.index < manifest.index) {
            return Err(self.mark_behind(manifest.index).into());
        }
        let tip = ChainTip { next_index: of + 1, hash: manifest.of_hash };
        if let Err(why) = replay(Step::Checkpoint { of, tip, body: &body }) {
            return Ok(Err(why));
        }
        let lines = self.lines_at(manifest.after)?.ok_or_else(|| self.mark_behind(manifest.index))?;
        self.checkpoint = Some(manifest);
        Ok(Ok((lines, tip)))
    }

    fn lines_at(&self, position: Position) -> Result<Option<Lines>, IoFailure> {
        let segment = self.segments.iter().position(|s| s.first == position.segment);
        segment.map(|segment| Lines::open(&self.segments, segment, position.offset)).transpose()
    }

    fn record_at(&self, position: Position) -> Result<Option<Sealed>, IoFailure> {
        let Some(mut lines) = self.lines_at(position)? else { return Ok(None) };
        Ok(match lines.next(&self.segments)? {
            Found::Line(_, read) => read.ok(),
            Found::SegmentEnd(_) if lines.next_segment(&self.segments)? => {
                match lines.next(&self.segments)? {
                    Found::Line(_, read) => read.ok(),
                    Found::SegmentEnd(_) => None,
                }
            }
            Found::SegmentEnd(_) => None,
        })
    }

    /// Reads from there to the end and hands every record on.
    fn read(&self, lines: Option<Lines>, tip: ChainTip, replay: Replay<'_>) -> Result<Read, OpenError> {
        let start = Position { segment: tip.next_index, offset: 0 };
        let begins_with = self.checkpoint.as_ref().map(|m| Mark { index: m.of, hash: m.of_hash });
        let mut read = Read {
            last: begins_with,
            end: Cursor { position: start, tip },
            above_mark: None,
            cut: None,
            records: 0,
        };
        let Some(mut lines) = lines else { return Ok(read) };
        read.end.position = lines.position();
        let mut pending: Option<Pending> = None;
        let fault = loop {
            // Where the chain stands after what is pending.
            let tip = pending.as_ref().map_or(read.end.tip, |p| after(&p.sealed));
            match lines.next(&self.segments)? {
                Found::SegmentEnd(end) => {
                    self.check_next_segment(&lines, tip.next_index)?;
                    if lines.next_segment(&self.segments)? {
                        continue;
                    }
                    self.check_marked(pending.as_ref(), false)?;
                    self.hand_on(&mut read, pending.take(), end, replay)?;
                    break None;
                }
                Found::Line(at, Err(kind)) => {
                    self.check_marked(pending.as_ref(), false)?;
                    self.hand_on(&mut read, pending.take(), at, replay)?;
                    break Some(Fault { at, index: tip.next_index, kind });
                }
                Found::Line(at, Ok(sealed)) => {
                    if let Some(kind) = misfit(&sealed, tip) {
                        let next = lines.next_prev(&self.segments)?;
                        let changed = kind == DamageKind::Prev && self.is_intact(&sealed, next);
                        break Some(match pending.take() {
                            // What follows agrees with this one, so it is the one before that was changed.
                            Some(p) if changed && !self.is_marked(&p.sealed) => {
                                Fault { at: p.at, index: p.sealed.record.index, kind: DamageKind::Changed }
                            }
                            None if changed && read.records == 0 => {
                                Fault { at, index: tip.next_index, kind: DamageKind::BeginsLate }
                            }
                            pending => {
                                self.check_marked(pending.as_ref(), false)?;
                                self.hand_on(&mut read, pending, at, replay)?;
                                Fault { at, index: tip.next_index, kind }
                            }
                        });
                    }
                    self.check_marked(pending.as_ref(), true)?;
                    self.hand_on(&mut read, pending.take(), at, replay)?;
                    pending = Some(Pending { sealed, at });
                }
            }
        };
        if let Some(fault) = fault {
            read.cut = Some(self.judge(fault, &read)?);
        }
        self.check_end(&read)?;
        Ok(read)
    }

    /// Whether what is after a record, in the log or in the mark, names it.
    fn is_intact(&self, sealed: &Sealed, next_prev: Option<arbiterq_client::wire::Hash>) -> bool {
        next_prev == Some(sealed.hash) || self.is_marked(sealed)
    }

    fn is_marked(&self, sealed: &Sealed) -> bool {
        self.mark == Some(Mark { index: sealed.record.index, hash: sealed.hash })
    }

    /// Hands a record on that nothing speaks against; the next one begins at `end`.
    fn hand_on(
        &self,
        read: &mut Read,
        pending: Option<Pending>,
        end: Position,
        replay: Replay<'_>,
    ) -> Result<(), OpenError> {
        read.end.position = end;
        let Some(Pending { sealed, at }) = pending else { return Ok(()) };
        let index = sealed.record.index;
        if let Err(reason) = replay(Step::Record(&sealed)) {
            let file = Segment::named(self.dir, at.segment).path;
            let line = line_number(&file, at.offset)?;
            return Err(OpenError::Refused { file: file.to_path_buf(), line, index, reason });
        }
        if read.above_mark.is_none() && self.mark.is_none_or(|m| index > m.index) {
            read.above_mark = Some(at);
        }
        read.records += 1;
        read.last = Some(Mark { index, hash: sealed.hash });
        read.end.tip = after(&sealed);
        Ok(())
    }

    /// A record of the mark's index must be the mark's; if the record after it names it, the mark was changed. The
    /// same for the record of the checkpoint, which must be the one that its manifest found.
    fn check_marked(&self, pending: Option<&Pending>, confirmed: bool) -> Result<(), OpenError> {
        let Some(Pending { sealed, at }) = pending else { return Ok(()) };
        let index = sealed.record.index;
        if let Some(mark) = self.mark.filter(|m| m.index == index && m.hash != sealed.hash) {
            let kind = DamageKind::NotAsMarked { found: sealed.hash, marked: mark.hash };
            if confirmed {
                return Err(self.damage(&mark::path(self.dir), None, kind).into());
            }
            return Err(self.damage_at(Fault { at: *at, index, kind })?.into());
        }
        if self.checkpoint.as_ref().is_some_and(|m| m.index == index && m.hash != sealed.hash) {
            return Err(self.damage_at(Fault { at: *at, index, kind: DamageKind::Changed })?.into());
        }
        Ok(())
    }

    /// The next segment, if there is one, must begin where this one ends.
    fn check_next_segment(&self, lines: &Lines, next_index: u64) -> Result<(), Box<Damage>> {
        let Some(next) = self.segments.get(lines.segment + 1) else { return Ok(()) };
        let (file, kind) = match next.first.cmp(&next_index) {
            std::cmp::Ordering::Equal => return Ok(()),
            std::cmp::Ordering::Less => (&next.path, DamageKind::SegmentStray),
            std::cmp::Ordering::Greater => {
                let missing = Segment::named(self.dir, next_index).path;
                let kind = DamageKind::SegmentMissing { next: next.path.to_path_buf() };
                return Err(self.damage(&missing, Some(next_index), kind));
            }
        };
        Err(self.damage(file, Some(next.first), kind))
    }

    fn damage_at(&self, fault: Fault) -> Result<Box<Damage>, IoFailure> {
        let file = Segment::named(self.dir, fault.at.segment).path;
        let line = Some(line_number(&file, fault.at.offset)?);
        let durable = self.mark.map(|m| m.index);
        let index = Some(fault.index);
        Ok(Box::new(Damage { file: file.to_path_buf(), line, index, kind: fault.kind, durable }))
    }

    /// Damage, or a torn end that may be cut.
    fn judge(&self, fault: Fault, read: &Read) -> Result<Cut, OpenError> {
        let known_durable = self.mark.is_some_and(|m| fault.index <= m.index);
        let in_last = self.segments.last().is_some_and(|s| s.first == fault.at.segment);
        if known_durable || !in_last {
            return Err(self.damage_at(fault)?.into());
        }
        let file = Segment::named(self.dir, fault.at.segment).path;
        let line = line_number(&file, fault.at.offset)?;
        let (bytes, lines) = cut_size(&file, fault.at.offset)?;
        let after = read.last.map(|m| m.index);
        Ok(Cut { file: file.to_path_buf(), line, bytes, lines, after, kind: fault.kind })
    }

    /// All that is known durable must be there.
    fn check_end(&self, read: &Read) -> Result<(), OpenError> {
        let Some(mark) = self.mark else { return Ok(()) };
        if read.last.is_some_and(|last| last.index >= mark.index) {
            return Ok(());
        }
        let Cursor { position, tip } = read.end;
        let kind = DamageKind::EndsEarly;
        Err(self.damage_at(Fault { at: position, index: tip.next_index, kind })?.into())
    }

    /// The only changes: cuts what was judged torn, and makes durable what was read above the mark.
    fn settle(&self, options: &Options, read: &Read) -> Result<Folder, OpenError> {
        let last_segment = self.segments.last();
        let len = read.end.position.offset;
        if let (Some(segment), None) = (last_segment, read.last) {
            // Nothing is in it, and the genesis that comes may have another index than its name.
            fs::remove_file(&segment.path).map_err(IoFailure::of("remove", &segment.path))?;
            sync_dir(self.dir)?;
            return Ok(self.folder(options, None)?);
        }
        if let (Some(segment), Some(_)) = (last_segment, &read.cut) {
            let file = OpenOptions::new().write(true).open(&segment.path);
            let file = file.map_err(IoFailure::of("open", &segment.path))?;
            file.set_len(len).map_err(IoFailure::of("cut", &segment.path))?;
            file.sync_all().map_err(IoFailure::of("sync", &segment.path))?;
        }
        let mut folder = self.folder(options, last_segment.map(|s| (s, len)))?;
        if let (Fsync::Always, Some(last), Some(from)) = (options.fsync, read.last, read.above_mark) {
            folder.write_again(from.offset)?;
            folder.sync()?;
            folder.write_mark(last)?;
        }
        // A segment may have been created just before a crash.
        sync_dir(self.dir)?;
        Ok(folder)
    }

    fn folder(&self, options: &Options, last: Option<(&Segment, u64)>) -> Result<Folder, IoFailure> {
        let ahead = if options.fsync == Fsync::Always { options.zero_ahead_bytes } else { 0 };
        Folder::open(self.dir, last, ahead, options.segment_bytes_max)
    }
}

/// Where the chain stands after a record.
pub(super) fn after(sealed: &Sealed) -> ChainTip {
    ChainTip { next_index: sealed.record.index + 1, hash: sealed.hash }
}

/// What is wrong with a record at this place of the chain.
pub(super) fn misfit(sealed: &Sealed, tip: ChainTip) -> Option<DamageKind> {
    if sealed.record.index != tip.next_index {
        return Some(DamageKind::Index { found: sealed.record.index });
    }
    (sealed.record.prev != tip.hash).then_some(DamageKind::Prev)
}

/// A line of a segment, as a record or what it is instead.
pub(super) fn record_of(bytes: &[u8], ended: bool) -> Result<Sealed, DamageKind> {
    if !ended {
        return Err(DamageKind::CutOff);
    }
    Sealed::read(bytes).map_err(|e| DamageKind::Unreadable(e.to_string()))
}

/// How much is cut from an offset on, without the zero bytes at the end: bytes and lines, whole or not.
fn cut_size(path: &Path, offset: u64) -> Result<(u64, u64), IoFailure> {
    use std::io::{BufRead, BufReader, Seek, SeekFrom};
    let io = |e| IoFailure::of("read", path)(e);
    let mut file = File::open(path).map_err(io)?;
    file.seek(SeekFrom::Start(offset)).map_err(io)?;
    let mut file = BufReader::new(file);
    // Up to the last byte that is not zero, and the line feeds before it.
    let (mut at, mut bytes, mut feeds, mut ended) = (0_u64, 0, 0, false);
    loop {
        let chunk = file.fill_buf().map_err(io)?;
        if chunk.is_empty() {
            return Ok((bytes, feeds + u64::from(bytes > 0 && !ended)));
        }
        if let Some(last) = chunk.iter().rposition(|&b| b != 0) {
            bytes = at + last as u64 + 1;
            ended = chunk[last] == b'\n';
        }
        feeds += chunk.iter().filter(|&&b| b == b'\n').count() as u64;
        at += chunk.len() as u64;
        let used = chunk.len();
        file.consume(used);
    }
}

/// The lines of the segments from one on.
struct Lines {
    /// Which segment.
    segment: usize,
    lines: SegmentLines,
}

/// What a look at the next line gave.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it is almost always the large one"
)]
enum Found {
    /// A line, and the record in it.
    Line(Position, Result<Sealed, DamageKind>),
    /// The end of a segment, and where that is.
    SegmentEnd(Position),
}

impl Lines {
    fn open(segments: &[Segment], segment: usize, offset: u64) -> Result<Self, IoFailure> {
        Ok(Self { segment, lines: SegmentLines::open(segments[segment].clone(), offset)? })
    }

    fn position(&self) -> Position {
        self.lines.position()
    }

    fn next(&mut self, segments: &[Segment]) -> Result<Found, IoFailure> {
        let is_last = self.segment + 1 == segments.len();
        match self.lines.next()? {
            // Zero bytes at the end of the last segment were written ahead of records that did not come.
            Some(line) if !(is_last && line.zeros) => {
                Ok(Found::Line(line.position, record_of(&self.lines.bytes, line.ended)))
            }
            Some(line) => Ok(Found::SegmentEnd(line.position)),
            None => Ok(Found::SegmentEnd(self.lines.position())),
        }
    }

    /// Goes to the next segment, if there is one.
    fn next_segment(&mut self, segments: &[Segment]) -> Result<bool, IoFailure> {
        if self.segment + 1 == segments.len() {
            return Ok(false);
        }
        *self = Self::open(segments, self.segment + 1, 0)?;
        Ok(true)
    }

    /// What the next record names as the one before it, if there is a next record.
    fn next_prev(&mut self, segments: &[Segment]) -> Result<Option<arbiterq_client::wire::Hash>, IoFailure> {
        loop {
            match self.next(segments)? {
                Found::Line(_, read) => return Ok(read.ok().map(|s| s.record.prev)),
                Found::SegmentEnd(_) => {
                    if !self.next_segment(segments)? {
                        return Ok(None);
                    }
                }
            }
        }
    }
}

/// The same error, as one of an opening.
fn broadened(error: ReadError) -> OpenError {
    match error {
        ReadError::Io(e) => e.into(),
        ReadError::Damaged(e) => e.into(),
    }
}
