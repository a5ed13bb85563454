//! `tail`: prints the end of a grant log, and follows it. Reads files only; an arbiter may write them meanwhile.

use super::folders::log_folders;
use super::output::{Failure, exit};
use super::{Global, Outcome};
use arbiterq::log::chain::Sealed;
use arbiterq::log::file::{Segment, segments};
use arbiterq::log::record::{Command, Event, Record};
use arbiterq_client::wire::{Claim, ClaimGranted, Mode};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// `tail`.
#[derive(Debug, clap::Args)]
pub(crate) struct Tail {
    /// The data folder of an arbiter, or the folder of one partition [default: the one in the settings]
    dir: Option<PathBuf>,
    /// So many records from the end
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 10)]
    lines: usize,
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// A file as `config init` writes it
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    config: Option<PathBuf>,
}

/// How often to look for more: nothing tells.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Tail {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let output = global.output();
        let dir = match self.dir {
            Some(dir) => dir,
            None => super::config::Given::of_file(self.config).load(global)?.settings.data,
        };
        let folders = log_folders(&dir)?;
        let many = folders.len() > 1;
        let mut followed = Vec::new();
        for folder in folders {
            let mut follower = Follower::new(&folder)?;
            let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
            let name = name.filter(|_| many).map_or(String::new(), |name| format!("{name}  "));
            for line in follower.last(self.lines)? {
                output.line(&show(&name, &line, output.json))?;
            }
            followed.push((name, follower));
        }
        if !self.follow {
            return Ok(ExitCode::SUCCESS);
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            for (name, follower) in &mut followed {
                for line in follower.more()? {
                    output.line(&show(name, &line, output.json))?;
                }
            }
        }
    }
}

/// Reads whole lines from a log folder, segment after segment.
struct Follower {
    folder: PathBuf,
    /// The segment read last and where in it the next line begins.
    at: Option<(u64, u64)>,
}

impl Follower {
    fn new(folder: &Path) -> Result<Self, Failure> {
        Ok(Self { folder: folder.to_owned(), at: None })
    }

    fn segments(&self) -> Result<Vec<Segment>, Failure> {
        let failed =
            |error: arbiterq::log::file::ReadError| Failure::new("log", exit::LOG, error.to_string());
        segments(&self.folder).map_err(failed)
    }

    /// The last lines, oldest first. What follows is given by [`more`](Self::more).
    fn last(&mut self, count: usize) -> Result<Vec<Vec<u8>>, Failure> {
        let segments = self.segments()?;
        let mut found = VecDeque::new();
        for segment in segments.iter().rev() {
            let (lines, end) = read_lines(segment, 0)?;
            self.at.get_or_insert((segment.first, end));
            for line in lines.into_iter().rev().take(count - found.len()) {
                found.push_front(line);
            }
            if found.len() >= count {
                break;
            }
        }
        Ok(found.into())
    }

    /// What has been written since.
    fn more(&mut self) -> Result<Vec<Vec<u8>>, Failure> {
        let mut found = Vec::new();
        for segment in self.segments()? {
            let offset = match self.at {
                Some((first, _)) if segment.first < first => continue,
                Some((first, offset)) if segment.first == first => offset,
                _ => 0,
            };
            let (lines, end) = read_lines(&segment, offset)?;
            self.at = Some((segment.first, end));
            found.extend(lines);
        }
        Ok(found)
    }
}

/// The whole lines from an offset on, and where they end. Zero bytes are room for the next records, not a line.
fn read_lines(segment: &Segment, offset: u64) -> Result<(Vec<Vec<u8>>, u64), Failure> {
    let mut bytes = Vec::new();
    let read = File::open(&segment.path).and_then(|mut file| {
        file.seek(SeekFrom::Start(offset))?;
        file.read_to_end(&mut bytes)
    });
    read.map_err(|error| {
        Failure::new("log", exit::LOG, format!("cannot read {}: {error}", segment.path.display()))
    })?;
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let end_of_lines = offset + u64::try_from(end).unwrap_or(0);
    let lines = bytes[..end].split_inclusive(|byte| *byte == b'\n');
    Ok((lines.map(|line| line[..line.len() - 1].to_vec()).collect(), end_of_lines))
}

fn show(name: &str, line: &[u8], json: bool) -> String {
    let text = String::from_utf8_lossy(line);
    if json {
        return text.into_owned();
    }
    match Sealed::read(line) {
        Ok(sealed) => format!("{name}{}", readable(&sealed.record)),
        Err(error) => format!("{name}{error}"),
    }
}

/// A record on one line: when, its index, and what changed.
pub(crate) fn readable(record: &Record) -> String {
    let at = record.at.to_string();
    // To the millisecond: `2026-11-22T14:02:11.532`.
    let mut text = format!("{}Z  {:>8}  ", at.get(..23).unwrap_or(&at), record.index);
    let mut parts: Vec<String> = record.events.iter().map(|event| event_text(event, record.index)).collect();
    if parts.is_empty() {
        parts.push(match &record.command {
            Command::Barrier => "barrier".to_owned(),
            Command::Tick { .. } => "tick".to_owned(),
            other => format!("{}, nothing changed", kind(other)),
        });
    }
    if !record.renewed.is_empty() {
        let sessions: Vec<_> = record.renewed.iter().map(|(session, _)| session.to_string()).collect();
        parts.push(format!("renewed {}", sessions.join(" ")));
    }
    text.push_str(&parts.join("; "));
    text
}

fn kind(command: &Command) -> String {
    // The name that the record has for it.
    let json = serde_json::to_value(command).unwrap_or_default();
    match json {
        serde_json::Value::String(name) => name,
        serde_json::Value::Object(fields) => fields.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

fn event_text(event: &Event, index: u64) -> String {
    let because = |reason: &Option<std::sync::Arc<str>>| {
        reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"))
    };
    let by = |by: &Option<std::sync::Arc<str>>| by.as_ref().map_or(String::new(), |by| format!(" by {by}"));
    match event {
        Event::Genesis(genesis) => {
            format!(
                "log {} begins, partition {} of {}",
                genesis.log_id, genesis.partition, genesis.partitions
            )
        }
        Event::EpochStarted { epoch, .. } => format!("epoch {epoch} started"),
        Event::Policy(policy) => format!("policy in force, {} rules", policy.rules.len()),
        Event::Opened { label, lease_ms, .. } => {
            let lease = super::output::ms_for_people(*lease_ms);
            format!("session {index} opened by {label}, lease {lease}")
        }
        Event::Attached { session, .. } => format!("session {session} attached"),
        Event::Unreachable { session, .. } => format!("session {session} unreachable"),
        Event::SessionEnded { session, reason } => format!("session {session} ended: {reason}"),
        Event::Queued { session, seq, claims, reason, .. } => {
            format!("{} queued for {session}:{seq}{}", asked(claims), because(reason))
        }
        Event::Granted { session, seq, claims, reason, .. } => {
            format!("{} granted to {session}:{seq}, token {index}{}", granted(claims), because(reason))
        }
        Event::Refused { session, seq, reason } => format!("{session}:{seq} refused: {reason}"),
        Event::Ended { session, seq, reason } => format!("{session}:{seq} ended: {reason}"),
        Event::Released { token, reason, by: who } => format!("grant {token} over: {reason}{}", by(who)),
        Event::Revoking { token, reason, by: who, .. } => {
            format!("grant {token} revoked: {reason}{}", by(who))
        }
        Event::Suspended { session, seq, token } => {
            format!("{session}:{seq} suspended, grant {token} undone")
        }
        Event::Delayed { resource, until } => format!("{resource} delayed until {until}"),
        Event::Paused { by, reason } => format!("paused by {by} ({reason})"),
        Event::Resumed { by, reason } => format!("resumed by {by} ({reason})"),
        Event::Checkpoint { of, .. } => format!("checkpoint of {of}"),
        Event::Closed { .. } => "the log ends here".to_owned(),
    }
}

fn asked(claims: &[Claim]) -> String {
    let each = claims.iter().map(|claim| taken(claim.resource.as_str(), claim.mode, claim.permits));
    each.collect::<Vec<_>>().join(", ")
}

fn granted(claims: &[ClaimGranted]) -> String {
    let each = claims.iter().map(|claim| taken(claim.resource.as_str(), claim.mode, claim.permits));
    each.collect::<Vec<_>>().join(", ")
}

fn taken(resource: &str, mode: Mode, permits: Option<u32>) -> String {
    let mut text = resource.to_owned();
    let _ = match mode {
        Mode::Exclusive => Ok(()),
        Mode::Shared => write!(text, " (shared)"),
        Mode::Permits => write!(text, " ({} permits)", permits.unwrap_or_default()),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, bytes: &[u8]) {
        std::fs::write(folder.join(name), bytes).unwrap();
    }

    #[test]
    fn the_last_lines_over_segments_and_what_is_written_next() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = ("00000000000000000000.log", "00000000000000000003.log");
        write(folder.path(), first, b"a\nb\nc\n");
        write(folder.path(), second, b"d\n\0\0\0");
        let mut follower = Follower::new(folder.path()).unwrap();
        assert_eq!(follower.last(3).unwrap(), [b"b", b"c", b"d"]);
        assert!(follower.more().unwrap().is_empty());
        write(folder.path(), second, b"d\ne\nf-half");
        assert_eq!(follower.more().unwrap(), [b"e"]);
        write(folder.path(), second, b"d\ne\nf-whole\n");
        write(folder.path(), "00000000000000000006.log", b"g\n");
        assert_eq!(follower.more().unwrap(), [b"f-whole".to_vec(), b"g".to_vec()]);
        let mut all = Follower::new(folder.path()).unwrap();
        assert_eq!(all.last(100).unwrap().len(), 7);
    }
}
