//! How a log lies in a folder: segments, the durable mark, bodies of checkpoints. Only read.
//!
//! An arbiter may be writing meanwhile, so the order of looking matters: names, then the mark, then names again and
//! what is in the segments. The mark is never ahead of what is read after it, and never behind what was named before.
//!
//! Lines come read and parsed (`batches`), and are checked here.

use super::batches::{Batch, Batches, Segment};
use super::fold::Fold;
use super::promise::{Broken, Promise, Violation};
use super::receipts::Receipts;
use super::report::{FolderReport, Report, Unfinished};
use super::{Fault, Progress, Verifier, VerifyError};
use crate::log::checkpoint::Manifest;
use crate::log::file::{Mark as DurableMark, ReadError};
use arbiterq_client::Receipt;
use arbiterq_client::wire::Hash;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::thread;

/// What is read at once.
const READ_BYTES: usize = 256 * 1024;

/// How often a mark that cannot be read is read again: an arbiter may have been overwriting it.
const MARK_READS: usize = 100;

pub(super) struct Folder {
    path: PathBuf,
    mark: Mark,
    /// What the mark must not be behind.
    before: Names,
    segments: Vec<Segment>,
    /// A name that no segment has.
    stray: Option<PathBuf>,
}

/// What there is in a folder, by name.
struct Names {
    segments: Vec<Segment>,
    /// The checkpoints that are whole, by the index of their record: as of which record they are.
    manifests: BTreeMap<u64, u64>,
    stray: Option<PathBuf>,
}

/// The file `durable`.
enum Mark {
    Missing,
    Garbled,
    /// The log is new: nothing is known durable.
    Nothing,
    At(u64, Hash),
}

pub(super) fn verify(
    dir: &Path,
    receipts: &[Receipt],
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, VerifyError> {
    Folder::open(dir)?.verify(receipts, progress)
}

impl Names {
    fn list(dir: &Path) -> Result<Self, VerifyError> {
        let (mut segments, mut manifests, mut stray) = (Vec::new(), BTreeMap::new(), None);
        for entry in fs::read_dir(dir).map_err(unreadable(dir))? {
            let entry = entry.map_err(unreadable(dir))?;
            let path = entry.path();
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(stem) = name.strip_suffix(".log") {
                match number(stem) {
                    Some(first_index) => {
                        let bytes = entry.metadata().map_err(unreadable(&path))?.len();
                        segments.push(Segment { first_index, path, bytes });
                    }
                    None => stray = stray.into_iter().chain([path]).min(),
                }
            } else if let Some(of) = checkpoint_of(name)
                && let Some(index) = index_of(&path, of).map_err(unreadable(&path))?
            {
                manifests.insert(index, of);
            }
        }
        segments.sort_by_key(|segment| segment.first_index);
        Ok(Self { segments, manifests, stray })
    }
}

impl Folder {
    pub(super) fn open(dir: &Path) -> Result<Self, VerifyError> {
        let before = Names::list(dir)?;
        let mark = Mark::read(dir)?;
        let Names { segments, stray, .. } = Names::list(dir)?;
        if segments.is_empty() && matches!(mark, Mark::Missing | Mark::Garbled) {
            let none = io::Error::new(io::ErrorKind::NotFound, "no segment of a log in this folder");
            return Err(unreadable(dir)(none));
        }
        Ok(Self { path: dir.to_owned(), mark, before, segments, stray })
    }

    pub(super) fn verify(
        &self,
        receipts: &[Receipt],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Report, VerifyError> {
        thread::scope(|scope| self.check(Batches::of(scope, &self.segments), receipts, progress))
    }

    /// The index of the record that comes next. Before the first, the first segment's name says it.
    fn expected(&self, verifier: &Verifier) -> u64 {
        match verifier.fold.counts.records {
            0 => self.segments.first().map_or(0, |segment| segment.first_index),
            _ => verifier.next_index(),
        }
    }

    fn check(
        &self,
        batches: Batches,
        receipts: &[Receipt],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Report, VerifyError> {
        let mut verifier = Verifier { receipts: Receipts::new(receipts), ..Verifier::default() };
        let mut report = FolderReport {
            path: self.path.clone(),
            segments: self.segments.len() as u64,
            bytes: 0,
            durable_index: None,
            checkpoint_bodies: 0,
            unfinished: None,
        };
        let bytes_total = self.segments.iter().map(|segment| segment.bytes).sum();
        let mut segment_before = None;
        'reading: for batch in batches {
            let Batch { segment: at, line: first, mut offset, lines } = batch?;
            let segment = &self.segments[at];
            for (number, (line, length)) in (first..).zip(lines) {
                if segment_before != Some(at) {
                    self.continues(&verifier, at, segment_before)?;
                    segment_before = Some(at);
                }
                if let Err(Fault { no_record, broken }) = verifier.take(line) {
                    let last = at + 1 == self.segments.len();
                    if no_record && last && self.above_mark(&verifier) {
                        let end = fs::metadata(&segment.path).map_err(unreadable(&segment.path))?.len();
                        report.unfinished = Some(Unfinished {
                            after_index: verifier.fold.tip,
                            file: segment.path.clone(),
                            line: number,
                            bytes: end.saturating_sub(offset),
                            what: broken.what,
                        });
                        break 'reading;
                    }
                    let index = self.expected(&verifier);
                    return violation(index, &segment.path, number, broken.promise, broken.what);
                }
                offset += length;
                report.bytes += length;
                self.marked(&verifier.fold, segment, number)?;
                report.checkpoint_bodies += self.body(&verifier.fold)?;
            }
            progress(Progress {
                records: verifier.fold.counts.records,
                index: verifier.fold.tip,
                bytes: report.bytes,
                bytes_total,
            });
        }
        if let Some(last) = self.segments.len().checked_sub(1)
            && segment_before != Some(last)
        {
            self.continues(&verifier, last, segment_before)?;
        }
        report.durable_index = self.reaches_mark(&verifier)?;
        self.mark_keeps_up()?;
        if let Err(Broken { promise, what }) = verifier.receipts.end() {
            let file = self.segments.last().map_or(&self.path, |segment| &segment.path);
            return violation(self.expected(&verifier), file, 0, promise, what);
        }
        if let Some(stray) = &self.stray {
            let what = "a name that no segment has".to_owned();
            return violation(self.expected(&verifier), stray, 0, Promise::Evidence, what);
        }
        Ok(Report::of(&verifier.fold, verifier.receipts.confirmed, Some(report)))
    }

    /// A segment is named by its first record, which follows the last one of the segment before.
    fn continues(&self, verifier: &Verifier, at: usize, before: Option<usize>) -> Result<(), VerifyError> {
        let segment = &self.segments[at];
        let expected = before.map_or(0, |before| before + 1);
        if expected != at {
            let what = "an empty segment, and it is not the last".to_owned();
            let empty = &self.segments[expected];
            return violation(self.expected(verifier), &empty.path, 0, Promise::Evidence, what);
        }
        let next = self.expected(verifier);
        if at > 0 && segment.first_index != next {
            let what = format!("the segment begins with record {}, the next is {next}", segment.first_index);
            return violation(next, &segment.path, 0, Promise::Evidence, what);
        }
        Ok(())
    }

    /// Whether the next record lies above all that is known durable.
    fn above_mark(&self, verifier: &Verifier) -> bool {
        match self.mark {
            Mark::At(index, _) => self.expected(verifier) > index,
            Mark::Nothing => true,
            Mark::Missing | Mark::Garbled => false,
        }
    }

    /// The record that the mark names has its hash, and the first segment its first record's index.
    fn marked(&self, fold: &Fold, segment: &Segment, line: u64) -> Result<(), VerifyError> {
        if fold.counts.records == 1 && segment.first_index != fold.tip {
            let what =
                format!("the segment is named by record {}, it begins with another", segment.first_index);
            return violation(segment.first_index, &segment.path, line, Promise::Evidence, what);
        }
        match self.mark {
            Mark::At(index, hash) if index == fold.tip && hash != fold.tip_hash => {
                let what = format!("its hash is {}; the durable mark says {hash}", fold.tip_hash);
                violation(index, &segment.path, line, Promise::Evidence, what)
            }
            _ => Ok(()),
        }
    }

    /// The log goes up to the durable mark at least. Says where that is.
    fn reaches_mark(&self, verifier: &Verifier) -> Result<Option<u64>, VerifyError> {
        let file = self.path.join("durable");
        let next = self.expected(verifier);
        let broken = |what| violation(next, &file, 0, Promise::OnTheRecord, what);
        match self.mark {
            Mark::At(index, _) if index >= next => broken(match verifier.fold.counts.records {
                0 => format!("the log has no record, and record {index} is known durable: it was cut"),
                _ => format!(
                    "the log ends with record {}, and record {index} is known durable: it was cut",
                    verifier.fold.tip
                ),
            }),
            Mark::At(index, _) => Ok(Some(index)),
            Mark::Nothing => Ok(None),
            Mark::Missing => broken("the durable mark is missing: a cut end could not be told".to_owned()),
            Mark::Garbled => {
                broken("the durable mark cannot be read: a cut end could not be told".to_owned())
            }
        }
    }

    /// The mark is synced before a further segment is begun and before a manifest appears.
    fn mark_keeps_up(&self) -> Result<(), VerifyError> {
        let behind = |least: u64| match self.mark {
            Mark::At(index, _) => index < least,
            _ => true,
        };
        let further = self.before.segments.get(1..).and_then(|further| further.last());
        let least = further.map(|segment| segment.first_index.saturating_sub(1));
        match least.into_iter().chain(self.before.manifests.keys().copied()).find(|least| behind(*least)) {
            None => Ok(()),
            Some(least) => violation(
                least,
                &self.path.join("durable"),
                0,
                Promise::OnTheRecord,
                format!("the durable mark is behind record {least}, which a segment or a checkpoint follows"),
            ),
        }
    }

    /// The body of the checkpoint that the last record names, if it is at hand, is what the record says.
    fn body(&self, fold: &Fold) -> Result<u64, VerifyError> {
        let Some((of, hash)) = fold.checkpoint else { return Ok(0) };
        // A body without its manifest was not written to its end, and nobody starts from it.
        if self.before.manifests.get(&fold.tip) != Some(&of) {
            return Ok(0);
        }
        let path = self.path.join(format!("checkpoint-{of:020}.jsonl"));
        let found = match hash_file(&path) {
            // An arbiter removes bodies that newer ones replace.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(e) => return Err(unreadable(&path)(e)),
            Ok(found) => found,
        };
        if found != hash {
            let what = format!("the checkpoint of record {of} has the hash {found}, the log says {hash}");
            return violation(fold.tip, &path, 0, Promise::Evidence, what);
        }
        Ok(1)
    }
}

impl Mark {
    fn read(dir: &Path) -> Result<Self, VerifyError> {
        for _ in 0..MARK_READS {
            match DurableMark::read(dir) {
                Ok(Some(mark)) => return Ok(Mark::At(mark.index, mark.hash)),
                Ok(None) => return Ok(Mark::Nothing),
                Err(ReadError::Io(failure)) => {
                    let source = io::Error::new(failure.source.kind(), failure.source.to_string());
                    return Err(unreadable(&failure.path)(source));
                }
                Err(ReadError::Damaged(_)) if !dir.join("durable").exists() => return Ok(Mark::Missing),
                Err(ReadError::Damaged(_)) => {}
            }
        }
        Ok(Mark::Garbled)
    }
}

/// `00000000000000004812` is 4812.
fn number(text: &str) -> Option<u64> {
    (text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// The index as of which a checkpoint is, by its manifest's name.
fn checkpoint_of(name: &str) -> Option<u64> {
    name.strip_prefix("checkpoint-")?.strip_suffix(".manifest").and_then(number)
}

/// The index of a checkpoint's record, by its manifest. One that says nothing, or of another checkpoint, is none:
/// nobody starts there.
fn index_of(path: &Path, of: u64) -> io::Result<Option<u64>> {
    let text = match fs::read(path) {
        // An arbiter removes those that newer ones replace.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let line = text.strip_suffix(b"\n").filter(|line| !line.contains(&b'\n'));
    let manifest = line.and_then(|line| serde_json::from_slice::<Manifest>(line).ok());
    Ok(manifest.filter(|manifest| manifest.of == of).map(|manifest| manifest.index))
}

fn hash_file(path: &Path) -> io::Result<Hash> {
    let mut file = BufReader::with_capacity(READ_BYTES, File::open(path)?);
    let mut hasher = Sha256::new();
    loop {
        let bytes = file.fill_buf()?;
        if bytes.is_empty() {
            return Ok(Hash(hasher.finalize().into()));
        }
        hasher.update(bytes);
        let length = bytes.len();
        file.consume(length);
    }
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> VerifyError {
    let path = path.to_owned();
    move |source| VerifyError::Unreadable { path, source }
}

fn violation<T>(
    index: u64,
    file: &Path,
    line: u64,
    promise: Promise,
    what: String,
) -> Result<T, VerifyError> {
    Err(Box::new(Violation { index, file: Some(file.to_owned()), line, promise, what }).into())
}
