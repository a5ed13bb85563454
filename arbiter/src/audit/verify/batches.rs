//! From segments to parsed lines, in their order, on every core that there is.
//!
//! One thread reads; several hash and parse, each what comes next; whoever checks gets the batches in the order in
//! which they lie in the log. What may lie between them is bounded.

use super::VerifyError;
use super::line::Line;
use crate::log::record::RECORD_BYTES_MAX;
use arbiterq_client::wire::Hash;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope};

/// Bytes of lines that are handed over at once: enough that handing over costs nothing.
const BATCH_BYTES: usize = 256 * 1024;
/// Batches that are read and not yet checked.
const BATCHES_AHEAD: usize = 8;
/// What is read at once.
const READ_BYTES: usize = 256 * 1024;
/// Checking, on one thread, keeps up with so many that parse.
const PARSERS_MAX: usize = 4;

pub(super) struct Segment {
    pub(super) first_index: u64,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

/// Some lines of one segment, each with its length in the file.
pub(super) struct Batch {
    /// Which segment.
    pub(super) segment: usize,
    /// The first line's number, from 1.
    pub(super) line: u64,
    /// Where it begins.
    pub(super) offset: u64,
    pub(super) lines: Vec<(Line, u64)>,
}

/// A batch, not parsed.
struct Raw {
    segment: usize,
    line: u64,
    offset: u64,
    bytes: Vec<u8>,
    /// Behind each line, where `bytes` has it with its line feed.
    ends: Vec<usize>,
}

/// A batch to parse, and whom it is for.
type Job = (Raw, SyncSender<Batch>);
/// Where a batch that is being parsed will be.
type Parsed = Result<Receiver<Batch>, VerifyError>;

/// All batches of a log, up to the first thing that cannot be a line or be read.
pub(super) struct Batches(Receiver<Parsed>);

impl Batches {
    /// Starts the threads. They end when all is read, or this is dropped.
    pub(super) fn of<'scope, 'env>(scope: &'scope Scope<'scope, 'env>, segments: &'env [Segment]) -> Self {
        let (order, batches) = sync_channel(BATCHES_AHEAD);
        let (jobs, to_parse) = sync_channel::<Job>(BATCHES_AHEAD);
        let to_parse = std::sync::Arc::new(Mutex::new(to_parse));
        let cores = thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..cores.min(PARSERS_MAX) {
            let to_parse = to_parse.clone();
            scope.spawn(move || {
                while let Some((raw, whom)) = next(&to_parse) {
                    // Nobody listens any more: it is of no use to anybody.
                    let _ = whom.send(raw.parse());
                }
            });
        }
        scope.spawn(move || read_all(segments, &Reader { order, jobs }));
        Self(batches)
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, VerifyError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.0.recv().ok()? {
            Ok(parsed) => parsed.recv().ok().map(Ok),
            Err(unreadable) => Some(Err(unreadable)),
        }
    }
}

fn next(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    jobs.lock().ok()?.recv().ok()
}

impl Raw {
    fn parse(self) -> Batch {
        let Self { segment, line, offset, bytes, ends } = self;
        let mut begin = 0;
        let parsed = |end: usize| {
            let line = &bytes[begin..end];
            begin = end;
            (parse(line), line.len() as u64)
        };
        Batch { segment, line, offset, lines: ends.into_iter().map(parsed).collect() }
    }
}

fn parse(line: &[u8]) -> Line {
    match line.strip_suffix(b"\n") {
        Some(line) => Line::read(line),
        None if line.len() > RECORD_BYTES_MAX => Line::read(line),
        None => Line { hash: Hash::default(), record: Err("it has no line feed at its end".to_owned()) },
    }
}

/// What the reading thread gives away.
struct Reader {
    order: SyncSender<Parsed>,
    jobs: SyncSender<Job>,
}

impl Reader {
    /// Whether somebody wants more.
    fn hand_over(&self, raw: Raw) -> bool {
        let (whom, parsed) = sync_channel(1);
        self.jobs.send((raw, whom)).is_ok() && self.order.send(Ok(parsed)).is_ok()
    }
}

/// Reads the segments one after the other, up to the first thing that cannot be a line, or until nobody listens.
fn read_all(segments: &[Segment], reader: &Reader) {
    for (at, segment) in segments.iter().enumerate() {
        let last = at + 1 == segments.len();
        match read_segment(segment, at, last, reader) {
            Ok(true) => {}
            Ok(false) => return,
            Err(source) => {
                // Nobody listens any more: it is of no use to anybody.
                let _ =
                    reader.order.send(Err(VerifyError::Unreadable { path: segment.path.clone(), source }));
                return;
            }
        }
    }
}

/// Whether to go on with the next segment.
fn read_segment(segment: &Segment, at: usize, last: bool, reader: &Reader) -> io::Result<bool> {
    let mut file = BufReader::with_capacity(READ_BYTES, File::open(&segment.path)?);
    let (mut line, mut offset) = (1, 0);
    loop {
        let mut bytes = Vec::with_capacity(BATCH_BYTES + BATCH_BYTES / 8);
        let mut ends = Vec::new();
        let mut more = true;
        while more && bytes.len() < BATCH_BYTES {
            let begin = bytes.len();
            // One byte more than a record and its line feed: enough to see that it is too long.
            (&mut file).take(RECORD_BYTES_MAX as u64 + 2).read_until(b'\n', &mut bytes)?;
            let read = &bytes[begin..];
            more = read.ends_with(b"\n");
            // The end, or what a file system gives to a file that grew and was not written before a crash.
            let nothing = read.is_empty() || (!more && last && read.iter().all(|byte| *byte == 0));
            if !nothing {
                ends.push(bytes.len());
            }
        }
        let (count, length) = (ends.len() as u64, ends.last().map_or(0, |end| *end as u64));
        if count > 0 && !reader.hand_over(Raw { segment: at, line, offset, bytes, ends }) {
            return Ok(false);
        }
        (line, offset) = (line + count, offset + length);
        if !more {
            return Ok(true);
        }
    }
}
