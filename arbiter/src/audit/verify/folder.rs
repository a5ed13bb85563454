//! How a log lies in a folder: segments, the durable mark, bodies of checkpoints. Only read.
//!
//! Lines are read, hashed and parsed on a thread of their own and checked on the caller's, in batches.

use super::fold::Fold;
use super::line::{Line, NoRecord};
use super::promise::{Promise, Violation};
use super::report::{FolderReport, Report, Unfinished};
use super::{Fault, Progress, Verifier, VerifyError};
use crate::log::record::RECORD_BYTES_MAX;
use arbiterq_client::wire::Hash;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// Bytes of lines that are handed over at once: enough that handing over costs nothing.
const BATCH_BYTES: u64 = 256 * 1024;
/// Batches that may lie between the two threads.
const BATCHES_AHEAD: usize = 4;
/// What is read at once.
const READ_BYTES: usize = 256 * 1024;

struct Folder {
    path: PathBuf,
    segments: Vec<Segment>,
    /// By the index as of which they are.
    bodies: BTreeMap<u64, PathBuf>,
    mark: Mark,
}

struct Segment {
    first_index: u64,
    path: PathBuf,
    bytes: u64,
}

/// The file `durable`.
enum Mark {
    Missing,
    Garbled,
    /// The log is new: nothing is known durable.
    Nothing,
    At(u64, Hash),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MarkText {
    index: Option<u64>,
    hash: Option<Hash>,
}

/// Some lines of one segment.
struct Batch {
    segment: usize,
    /// The first line's number, from 1.
    line: u64,
    /// Where it begins.
    offset: u64,
    lines: Vec<(Line, u64)>,
}

pub(super) fn verify(dir: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Report, VerifyError> {
    // The mark before the segments: a log that is being written to only gets ahead of it.
    let mark = Mark::read(dir)?;
    let folder = Folder::open(dir, mark)?;
    thread::scope(|scope| {
        let (sender, batches) = sync_channel(BATCHES_AHEAD);
        let segments = &folder.segments;
        scope.spawn(move || read_all(segments, &sender));
        folder.check(&batches, progress)
    })
}

impl Folder {
    fn open(dir: &Path, mark: Mark) -> Result<Self, VerifyError> {
        let (mut segments, mut bodies) = (Vec::new(), BTreeMap::new());
        for entry in fs::read_dir(dir).map_err(unreadable(dir))? {
            let entry = entry.map_err(unreadable(dir))?;
            let path = entry.path();
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(first_index) = name.strip_suffix(".log").and_then(number) {
                let bytes = entry.metadata().map_err(unreadable(&path))?.len();
                segments.push(Segment { first_index, path, bytes });
            } else if let Some(of) = body_of(name) {
                bodies.insert(of, path);
            }
        }
        segments.sort_by_key(|segment| segment.first_index);
        if segments.is_empty() {
            let none = io::Error::new(io::ErrorKind::NotFound, "no segment of a log in this folder");
            return Err(unreadable(dir)(none));
        }
        Ok(Self { path: dir.to_owned(), segments, bodies, mark })
    }

    fn check(
        &self,
        batches: &Receiver<Result<Batch, VerifyError>>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Report, VerifyError> {
        let mut verifier = Verifier::new();
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
            let batch = batch?;
            let segment = &self.segments[batch.segment];
            let mut offset = batch.offset;
            for (number, (line, length)) in (batch.line..).zip(batch.lines) {
                if segment_before != Some(batch.segment) {
                    self.continues(&verifier, batch.segment, segment_before)?;
                    segment_before = Some(batch.segment);
                }
                if let Err(Fault { no_record, broken }) = verifier.take(line) {
                    let last = batch.segment + 1 == self.segments.len();
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
                    let index = verifier.next_index().max(self.segments[0].first_index);
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
        let last = self.segments.len() - 1;
        if segment_before != Some(last) {
            self.continues(&verifier, last, segment_before)?;
        }
        report.durable_index = self.reaches_mark(&verifier)?;
        Ok(Report::of(&verifier.fold, Some(report)))
    }

    /// A segment is named by its first record, which follows the last one of the segment before.
    fn continues(&self, verifier: &Verifier, at: usize, before: Option<usize>) -> Result<(), VerifyError> {
        let segment = &self.segments[at];
        let expected = before.map_or(0, |before| before + 1);
        if expected != at {
            let what = "an empty segment, and it is not the last".to_owned();
            let empty = &self.segments[expected];
            return violation(verifier.next_index(), &empty.path, 0, Promise::Evidence, what);
        }
        let next = verifier.next_index();
        if at > 0 && segment.first_index != next {
            let what = format!("the segment begins with record {}, the next is {next}", segment.first_index);
            return violation(next, &segment.path, 0, Promise::Evidence, what);
        }
        Ok(())
    }

    /// Whether the next record lies above all that is known durable.
    fn above_mark(&self, verifier: &Verifier) -> bool {
        match self.mark {
            Mark::At(index, _) => verifier.fold.counts.records > 0 && verifier.fold.tip >= index,
            Mark::Nothing => true,
            Mark::Missing | Mark::Garbled => false,
        }
    }

    /// The record that the mark names has its hash, and the first segment its first record's index.
    fn marked(&self, fold: &Fold, segment: &Segment, line: u64) -> Result<(), VerifyError> {
        if fold.counts.records == 1 && segment.first_index != fold.tip {
            let what =
                format!("the segment is named by record {}, it begins with another", segment.first_index);
            return violation(fold.tip, &segment.path, line, Promise::Evidence, what);
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
        let next = verifier.next_index();
        let broken = |what| violation(next, &file, 0, Promise::OnTheRecord, what);
        match self.mark {
            Mark::At(index, _) if index >= next => broken(match next {
                0 => format!("the log has no record, and record {index} is known durable: it was cut"),
                next => format!(
                    "the log ends with record {}, and record {index} is known durable: it was cut",
                    next - 1
                ),
            }),
            Mark::At(index, _)
                if index < verifier.fold.genesis.as_ref().map_or(0, |genesis| genesis.first_index) =>
            {
                broken(format!("the durable mark names record {index}, before the log begins"))
            }
            Mark::At(index, _) => Ok(Some(index)),
            Mark::Nothing => Ok(None),
            Mark::Missing => broken("the durable mark is missing: a cut end could not be told".to_owned()),
            Mark::Garbled => {
                broken("the durable mark cannot be read: a cut end could not be told".to_owned())
            }
        }
    }

    /// The body of the checkpoint that the last record names, if it is at hand, is what the record says.
    fn body(&self, fold: &Fold) -> Result<u64, VerifyError> {
        let Some((of, hash)) = fold.checkpoint else { return Ok(0) };
        let Some(path) = self.bodies.get(&of) else { return Ok(0) };
        // A body without its manifest was not written to its end, and nobody starts from it.
        if !path.with_extension("manifest").exists() {
            return Ok(0);
        }
        let found = match hash_file(path) {
            // An arbiter removes bodies that newer ones replace.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(e) => return Err(unreadable(path)(e)),
            Ok(found) => found,
        };
        if found != hash {
            let what = format!("the checkpoint of record {of} has the hash {found}, the log says {hash}");
            return violation(fold.tip, path, 0, Promise::Evidence, what);
        }
        Ok(1)
    }
}

impl Mark {
    fn read(dir: &Path) -> Result<Self, VerifyError> {
        let path = dir.join("durable");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Mark::Missing),
            Err(e) => return Err(unreadable(&path)(e)),
        };
        Ok(match serde_json::from_slice(&bytes) {
            Ok(MarkText { index: Some(index), hash: Some(hash) }) => Mark::At(index, hash),
            Ok(MarkText { index: None, hash: None }) => Mark::Nothing,
            _ => Mark::Garbled,
        })
    }
}

/// `00000000000000004812` is 4812.
fn number(text: &str) -> Option<u64> {
    (text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// The index as of which a checkpoint's body is, by its name.
fn body_of(name: &str) -> Option<u64> {
    let (stem, kind) = name.split_once('.')?;
    (kind == "jsonl").then(|| stem.strip_prefix("checkpoint-").and_then(number))?
}

/// Reads the segments one after the other, up to the first thing that cannot be a line, or until nobody listens.
fn read_all(segments: &[Segment], sender: &SyncSender<Result<Batch, VerifyError>>) {
    for (at, segment) in segments.iter().enumerate() {
        let last = at + 1 == segments.len();
        match read_segment(segment, at, last, sender) {
            Ok(true) => {}
            Ok(false) => return,
            Err(e) => {
                // Nobody listens any more: it is of no use to anybody.
                let _ = sender.send(Err(unreadable(&segment.path)(e)));
                return;
            }
        }
    }
}

/// Whether to go on with the next segment.
fn read_segment(
    segment: &Segment,
    at: usize,
    last: bool,
    sender: &SyncSender<Result<Batch, VerifyError>>,
) -> io::Result<bool> {
    let mut file = BufReader::with_capacity(READ_BYTES, File::open(&segment.path)?);
    let (mut bytes, mut number, mut offset) = (Vec::new(), 1, 0);
    loop {
        let mut batch = Batch { segment: at, line: number, offset, lines: Vec::new() };
        let mut more = true;
        while more && offset - batch.offset < BATCH_BYTES {
            bytes.clear();
            // One byte more than a record and its line feed: enough to see that it is too long.
            let length = (&mut file).take(RECORD_BYTES_MAX as u64 + 2).read_until(b'\n', &mut bytes)? as u64;
            more = bytes.pop_if(|byte| *byte == b'\n').is_some();
            if length == 0 || (!more && last && bytes.iter().all(|byte| *byte == 0)) {
                // The end, or what a file system gives to a file that grew and was not written before a crash.
                more = false;
                continue;
            }
            let line = if more || bytes.len() > RECORD_BYTES_MAX {
                Line::read(&bytes)
            } else {
                let what = "it has no line feed at its end".to_owned();
                Line { hash: Hash::default(), record: Err(NoRecord::Damaged(what)) }
            };
            batch.lines.push((line, length));
            number += 1;
            offset += length;
        }
        let at_end = !more;
        if !batch.lines.is_empty() && sender.send(Ok(batch)).is_err() {
            return Ok(false);
        }
        if at_end {
            return Ok(true);
        }
    }
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
