//! `arbiter serve` under strace: which calls it makes on its log folder, and a failure at any one of them.
//!
//! The tracer is a grandchild: what is started, signalled and waited for is the service itself. A call is counted
//! within its thread, its name and the class of its file, because strace counts so; where two threads make calls of
//! the same class and name, a number names the call of whichever comes first.

use crate::binary::{Running, arbiter};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// What changes a log folder; those that a machine does not have are left out.
const CHANGES: [&str; 9] =
    ["write", "pwrite64", "ftruncate", "fdatasync", "fsync", "rename", "?renameat", "unlink", "?unlinkat"];

/// The files of a log folder, by what a failure at them means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Segments and the durable mark.
    Log,
    /// The first mark, before it has its name.
    FirstMark,
    /// Checkpoints, which the log can do without.
    Checkpoint,
    /// The folder itself.
    Folder,
    /// The folders above it.
    Above,
}

/// Indexes as of which a checkpoint may be, and with which a segment may begin, in a log of a test.
const INDEXES: u64 = 160;

impl Class {
    fn of(log: &Path, file: &Path) -> Option<Self> {
        if file == log {
            return Some(Self::Folder);
        }
        if log.starts_with(file) {
            return Some(Self::Above);
        }
        let name = file.strip_prefix(log).ok()?.to_str()?;
        match name {
            "durable.tmp" => Some(Self::FirstMark),
            "durable" => Some(Self::Log),
            _ if name.starts_with("checkpoint-") => Some(Self::Checkpoint),
            _ if name.ends_with(".log") => Some(Self::Log),
            _ => None,
        }
    }

    /// The files that there may be.
    fn files(self, log: &Path) -> Vec<PathBuf> {
        match self {
            Self::Folder => vec![log.to_owned()],
            Self::Above => log.ancestors().skip(1).map(Path::to_owned).collect(),
            Self::FirstMark => vec![log.join("durable.tmp")],
            Self::Log => {
                let segments = (0..INDEXES).map(|first| log.join(format!("{first:020}.log")));
                segments.chain([log.join("durable")]).collect()
            }
            Self::Checkpoint => (90..INDEXES)
                .flat_map(|of| {
                    ["jsonl.tmp", "manifest.tmp"].map(|end| log.join(format!("checkpoint-{of:020}.{end}")))
                })
                .collect(),
        }
    }
}

/// A call that was made.
#[derive(Clone, Debug)]
pub struct Call {
    /// Which thread made it, in the order in which they first did.
    pub thread: usize,
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: PathBuf,
    /// Of what class that is.
    pub class: Class,
    /// The index with which what is written begins, if it is records.
    pub record: Option<u64>,
    /// Whether it was made to fail.
    pub injected: bool,
}

/// A number of calls that are the same to strace: the `nth` of their name and class in any thread.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// The class of its file.
    pub class: Class,
    /// Its name.
    pub name: String,
    /// From 1.
    pub nth: usize,
}

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed instead of the call.
    Kill,
    /// The call fails once, and works from then on.
    Eio,
    /// The call and all like it after it fail.
    Enospc,
}

impl Fault {
    /// The calls at which it can happen.
    pub fn concerns(self, name: &str) -> bool {
        match self {
            Self::Kill => true,
            Self::Eio => matches!(name, "fdatasync" | "fsync"),
            Self::Enospc => matches!(name, "write" | "pwrite64"),
        }
    }

    fn expression(self, point: &Point) -> String {
        let (name, nth) = (&point.name, point.nth);
        match self {
            Self::Kill => format!("inject={name}:signal=SIGKILL:when={nth}"),
            Self::Eio => format!("inject={name}:error=EIO:when={nth}"),
            Self::Enospc => format!("inject={name}:error=ENOSPC:when={nth}+"),
        }
    }
}

/// Starts a service under strace, on a free port; `at` makes a point fail.
///
/// # Panics
/// If strace or the service does not start.
pub fn start(data: &Path, trace: &Path, at: Option<(&Point, Fault)>) -> Running {
    let log = data.join("0");
    let mut command = Command::new("strace");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ARBITER")) {
        command.env_remove(name);
    }
    command.args(["-D", "-f", "-qq", "-y", "-s", "40", "-e", "signal=none", "-o"]).arg(trace);
    match at {
        None => {
            command.arg("-e").arg(format!("trace={}", CHANGES.join(",")));
        }
        Some((point, fault)) => {
            // All of the class, so that the trace says what was in doubt.
            command.arg("-e").arg(format!("trace={}", CHANGES.join(",")));
            command.arg("-e").arg(fault.expression(point));
            for file in point.class.files(&log) {
                command.arg("-P").arg(file);
            }
        }
    }
    command.arg(arbiter()).args(["serve", "--json", "--url", "tcp://127.0.0.1:0", "--data"]).arg(data);
    command.env("ARBITER__GRANT_LOG__CHECKPOINT_RECORDS", "100");
    command.env("ARBITER__GRANT_LOG__SEGMENT_BYTES_MAX", "65536");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Running::start(&mut command)
}

/// The calls of a trace that concern the log folder, in order.
///
/// # Panics
/// If it cannot be read.
pub fn calls(trace: &Path, data: &Path) -> Vec<Call> {
    let log = data.join("0");
    let text = String::from_utf8_lossy(&std::fs::read(trace).expect("a trace")).into_owned();
    let mut threads: Vec<&str> = Vec::new();
    let mut calls: Vec<Call> = Vec::new();
    for line in text.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let injected = line.contains("(INJECTED)");
        let rest = rest.trim_start();
        if rest.starts_with("<...") {
            let thread = threads.iter().position(|known| *known == pid);
            if injected && let Some(call) = calls.iter_mut().rev().find(|call| Some(call.thread) == thread) {
                call.injected = true;
            }
            continue;
        }
        let Some((name, arguments)) = rest.split_once('(') else { continue };
        // `9</a/file>, …` for a descriptor, `"/a/file", …` for a path.
        let descriptor = arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        let path = arguments.split('"').nth(1);
        let file = match (name, descriptor, path) {
            ("rename" | "unlink" | "renameat" | "unlinkat", _, Some(path)) => path,
            (_, Some((file, _)), _) => file,
            _ => continue,
        };
        let file = PathBuf::from(file);
        let Some(class) = Class::of(&log, &file) else { continue };
        let thread = threads.iter().position(|known| *known == pid).unwrap_or_else(|| {
            threads.push(pid);
            threads.len() - 1
        });
        let record = arguments.split_once(r#""{\"index\":"#).map(|(_, rest)| rest);
        let record = record.filter(|_| file.extension().is_some_and(|end| end == "log"));
        let record = record.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
        calls.push(Call { thread, name: name.to_owned(), file, class, record, injected });
    }
    calls
}

/// The points of a run, and its calls that share a point with another thread's.
pub fn points(calls: &[Call]) -> (BTreeSet<Point>, usize) {
    let mut counts: BTreeMap<(usize, Class, &str), usize> = BTreeMap::new();
    let mut points = BTreeSet::new();
    for call in calls {
        let count = counts.entry((call.thread, call.class, &call.name)).or_default();
        *count += 1;
        points.insert(Point { class: call.class, name: call.name.clone(), nth: *count });
    }
    let shared = calls.len() - points.len();
    (points, shared)
}

/// Whether a trace got as far as a point.
pub fn reached(calls: &[Call], point: &Point) -> bool {
    points(calls).0.contains(point)
}

/// The first record whose write, sync or mark had not worked when the first fault was met.
pub fn in_doubt(calls: &[Call]) -> Option<u64> {
    let mut doubt = None;
    for call in calls {
        if let Some(record) = call.record {
            doubt = doubt.or(Some(record));
        }
        if call.injected {
            return doubt;
        }
        if call.name == "pwrite64" && call.file.file_name().is_some_and(|name| name == "durable") {
            doubt = None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = r#"7 fsync(5</d/0>) = 0
8 pwrite64(9</d/0/00000000000000000000.log>, "{\"index\":11,\"prev\":\"ab"..., 300, 0) = 300
8 fdatasync(9</d/0/00000000000000000000.log> <unfinished ...>
7 write(1</dev/null>, "ready", 5) = 5
8 <... fdatasync resumed>) = 0
8 pwrite64(4</d/0/durable>, "{\"index\":11,\"hash\":\"ab"..., 128, 0) = 128
8 fsync(5</d/0>) = 0
8 pwrite64(9</d/0/00000000000000000000.log>, "{\"index\":12,\"prev\":\"cd"..., 300, 300) = 300
8 fdatasync(9</d/0/00000000000000000000.log>) = -1 EIO (Input/output error) (INJECTED)
"#;

    fn calls_of(text: &str) -> Vec<Call> {
        let trace = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(trace.path(), text).expect("written");
        calls(trace.path(), Path::new("/d"))
    }

    #[test]
    fn a_trace_is_read_by_thread_name_and_class() {
        let calls = calls_of(TRACE);
        assert_eq!(calls.len(), 7, "what is written elsewhere is none of them");
        let (found, shared) = points(&calls);
        let point = |class, name: &str, nth| Point { class, name: name.to_owned(), nth };
        let expected = [
            point(Class::Log, "fdatasync", 1),
            point(Class::Log, "fdatasync", 2),
            point(Class::Log, "pwrite64", 1),
            point(Class::Log, "pwrite64", 2),
            point(Class::Log, "pwrite64", 3),
            point(Class::Folder, "fsync", 1),
        ];
        assert_eq!((found, shared), (expected.into(), 1), "two threads have a first sync of the folder");
    }

    #[test]
    fn a_record_is_in_doubt_from_its_write_to_its_mark() {
        assert_eq!(in_doubt(&calls_of(TRACE)), Some(12));
        let after_the_mark = TRACE.replace("8 fsync(5</d/0>) = 0", "8 fsync(5</d/0>) = -1 EIO (INJECTED)");
        assert_eq!(in_doubt(&calls_of(&after_the_mark)), None);
        let first_sync = TRACE.replace("resumed>) = 0", "resumed>) = -1 EIO (INJECTED)");
        assert_eq!(in_doubt(&calls_of(&first_sync)), Some(11), "also where its end is told later");
    }
}
