//! What was verified: figures for people and programs.

use super::fold::Fold;
use super::live::Standing;
use arbiterq_client::wire::{Hash, LogId, Timestamp};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// What a fold counts.
#[derive(Clone, Default)]
pub(super) struct Counts {
    pub(super) records: u64,
    pub(super) epochs: u64,
    pub(super) sessions: u64,
    pub(super) grants: u64,
    pub(super) refusals: u64,
    pub(super) waits: u64,
    pub(super) checkpoints: u64,
}

/// A log in which every promise that can be checked from the records was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The log's name; none if it has no record.
    pub log_id: Option<LogId>,
    /// Which partition it is of.
    pub partition: u32,
    /// Of how many.
    pub partitions: u32,
    /// Records that were checked.
    pub records: u64,
    /// The index of the first.
    pub first_index: u64,
    /// The index of the last, the tip.
    pub last_index: u64,
    /// The tip's hash: whoever has it can tell this log from any other, and from one that was cut.
    pub tip_hash: Hash,
    /// The moment of the first record.
    pub first_at: Timestamp,
    /// The moment of the last.
    pub last_at: Timestamp,
    /// Activations.
    pub epochs: u64,
    /// Sessions that were opened.
    pub sessions: u64,
    /// Requests that were granted; one that was undone and granted again counts twice.
    pub grants: u64,
    /// Requests that were refused.
    pub refusals: u64,
    /// Requests that had to wait.
    pub waits: u64,
    /// Checkpoints named in the log.
    pub checkpoints: u64,
    /// What is live after the last record.
    pub live: Live,
    /// Whether the log was ended by its arbiter for good.
    pub closed: bool,
    /// Receipts that the log bears out.
    pub receipts: u64,
    /// Where it was read, if it was a folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<FolderReport>,
}

/// What is live at the end of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Live {
    /// Sessions.
    pub sessions: u64,
    /// Requests that hold.
    pub held: u64,
    /// Requests that wait, also those passed over until their client attaches.
    pub waiting: u64,
    /// Resources that are held, waited for or delayed.
    pub resources: u64,
}

/// What was found in a log folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FolderReport {
    /// The folder.
    pub path: PathBuf,
    /// Segments read.
    pub segments: u64,
    /// Their bytes that are records.
    pub bytes: u64,
    /// The index of the highest record that is known durable; none if the arbiter had not come to know of any.
    pub durable_index: Option<u64>,
    /// Bodies of checkpoints that were at hand and have the hash that the log says.
    pub checkpoint_bodies: u64,
    /// What follows the last record and is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<Unfinished>,
}

/// An end above the durable mark that was never finished, as a crash leaves it: not damage, and ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unfinished {
    /// The last record before it.
    pub after_index: u64,
    /// The segment.
    pub file: PathBuf,
    /// The line at which it begins.
    pub line: u64,
    /// How long it is.
    pub bytes: u64,
    /// Why that line is no record of this log.
    pub what: String,
}

impl Report {
    pub(super) fn of(fold: &Fold, receipts: u64, folder: Option<FolderReport>) -> Self {
        let counts = &fold.counts;
        let held = fold.grants.len() as u64;
        debug_assert_eq!(
            fold.requests.values().filter(|request| matches!(request.standing, Standing::Held(_))).count(),
            fold.grants.len()
        );
        Self {
            log_id: fold.genesis.as_ref().map(|genesis| genesis.log_id),
            partition: fold.genesis.as_ref().map_or(0, |genesis| genesis.partition),
            partitions: fold.genesis.as_ref().map_or(0, |genesis| genesis.partitions),
            records: counts.records,
            first_index: fold.genesis.as_ref().map_or(0, |genesis| genesis.first_index),
            last_index: fold.tip,
            tip_hash: fold.tip_hash,
            first_at: fold.first_at,
            last_at: fold.at,
            epochs: counts.epochs,
            sessions: counts.sessions,
            grants: counts.grants,
            refusals: counts.refusals,
            waits: counts.waits,
            checkpoints: counts.checkpoints,
            live: Live {
                sessions: fold.sessions.len() as u64,
                held,
                waiting: fold.requests.len() as u64 - held,
                resources: fold.resources.count() as u64,
            },
            closed: fold.closed,
            receipts,
            folder,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, text: fmt::Arguments<'_>| writeln!(f, "{name:<12} {text}");
        let Some(log_id) = self.log_id else {
            return f.write_str("the log has no record yet: nothing was promised in it");
        };
        row("log", format_args!("{log_id}, partition {} of {}", self.partition, self.partitions))?;
        if let Some(folder) = &self.folder {
            let (path, segments) = (folder.path.display(), counted(folder.segments, "segment"));
            row("folder", format_args!("{path}: {segments}, {} bytes", folder.bytes))?;
        }
        row("records", format_args!("{}, {} to {}", self.records, self.first_index, self.last_index))?;
        // To the second: people read how long, programs take the two times.
        let covered = std::time::Duration::from_secs(self.last_at.since(self.first_at).as_secs());
        let covered = humantime::format_duration(covered);
        row("time", format_args!("{} to {} ({covered})", self.first_at, self.last_at))?;
        row("epochs", format_args!("{}", self.epochs))?;
        row("sessions", format_args!("{}, {} live", self.sessions, self.live.sessions))?;
        row("grants", format_args!("{}, {} held", self.grants, self.live.held))?;
        row("waits", format_args!("{}, {} waiting", self.waits, self.live.waiting))?;
        row("refusals", format_args!("{}", self.refusals))?;
        let bodies = self.folder.as_ref().map_or(0, |folder| folder.checkpoint_bodies);
        row("checkpoints", format_args!("{}, {bodies} with their body", self.checkpoints))?;
        if let Some(folder) = &self.folder {
            match folder.durable_index {
                Some(index) => row("durable", format_args!("up to {index}"))?,
                None => row("durable", format_args!("nothing known yet"))?,
            }
            if let Some(end) = &folder.unfinished {
                let (after, bytes, what) = (end.after_index, end.bytes, &end.what);
                let (file, line) = (end.file.display(), end.line);
                row(
                    "note",
                    format_args!(
                        "an unfinished end after record {after}: not durable, ignored ({bytes} bytes from {file}, line {line}: {what})"
                    ),
                )?;
            }
        }
        if self.receipts > 0 {
            row("receipts", format_args!("{}, borne out", self.receipts))?;
        }
        if self.closed {
            row("closed", format_args!("the log was ended by its arbiter"))?;
        }
        row("tip", format_args!("{}", self.tip_hash))?;
        write!(f, "verified: {} in order, no two grants overlap", counted(self.grants, "grant"))
    }
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
