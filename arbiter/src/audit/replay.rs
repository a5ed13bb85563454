//! Decides every command of a grant log again, and compares what was written then with what is decided now.
//!
//! `verify` says that a log breaks no promise; this says that it is what the rules make of its commands: the same
//! events, to the byte, and the same memory at each checkpoint. It shares the state machine with the arbiter, on
//! purpose, and nothing else. What comes from outside (commands, renewals, times) is taken as it stands.
//!
//! A log is read as a stream, twice where it is a folder: checkpoints name an earlier record, and the state as of
//! that one is written down as it passes. Memory is bounded by what is live and by the number of checkpoints.

use crate::log::chain::{ChainTip, Sealed, UnreadableLine, hash_of};
use crate::log::file::{FolderLines, Mark, ReadError};
use crate::log::record::{Command, Event, RULES, Record};
use crate::state::{State, decide, snapshot};
use arbiterq_client::wire::{Hash, LogId};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// A log whose every record is what the rules make of its command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The log's name; none if it has no record.
    pub log_id: Option<LogId>,
    /// Which partition it is of.
    pub partition: u32,
    /// Records that were decided again.
    pub records: u64,
    /// The index of the last of them.
    pub last_index: u64,
    /// Its hash.
    pub tip_hash: Hash,
    /// Checkpoints at which the memory was the same.
    pub checkpoints: u64,
    /// The version of the rules that decided.
    pub rules: u32,
    /// An end above the durable mark that is no record: ignored, as a restart would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<String>,
}

/// Where a log and the rules part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The index of the record.
    pub index: u64,
    /// What is wrong with it.
    pub what: String,
    /// What the rules make of its command, as JSON.
    pub decided: String,
    /// What the log says, as JSON.
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {}: {}", self.index, self.what)
    }
}

/// A log that cannot be replayed, or that is not what the rules make of it.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The first record that differs.
    #[error("{0}")]
    Differs(Box<Difference>),
    /// The log is decided by rules that this build does not know.
    #[error("record {index} begins rules {rules}; this build decides by rules {RULES}")]
    Rules {
        /// Of the record.
        index: u64,
        /// The version that it names.
        rules: u32,
    },
    /// A line that is no record of the chain, or not the one that was, at or below what is known durable.
    #[error("{}, line {line}: {what}", file.display())]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// The line.
        line: u64,
        /// The index that the record should have.
        index: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The log ends before the record that its mark names as durable.
    #[error("the log ends with record {last}, and record {durable} is known durable: it was cut")]
    Cut {
        /// The last record that is there.
        last: u64,
        /// What the mark names.
        durable: u64,
    },
    /// The system's, or a file that is no segment.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Replays records one after the other, as they come from wherever.
#[derive(Clone)]
pub struct Replay {
    state: State,
    records: u64,
    checkpoints: u64,
    /// The records as of which checkpoints are, and what the state's hash must be then.
    expected: BTreeSet<(u64, Hash)>,
}

impl Replay {
    /// Before the genesis. `checkpoints`: those that the log will name, `(of, hash)`, as [`checkpoints_of`] finds
    /// them in its records; others are a difference.
    pub fn new(first_index: u64, checkpoints: impl IntoIterator<Item = (u64, Hash)>) -> Self {
        Self {
            state: State::new(ChainTip::before(first_index)),
            records: 0,
            checkpoints: 0,
            expected: checkpoints.into_iter().collect(),
        }
    }

    /// What the records so far leave behind.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether this record follows the last one.
    pub fn is_next(&self, sealed: &Sealed) -> bool {
        let tip = self.state.tip();
        (sealed.record.index, sealed.record.prev) == (tip.next_index, tip.hash)
    }

    /// Decides one record again.
    ///
    /// # Errors
    /// It is not what the rules make of its command, or newer rules begin.
    pub fn record(&mut self, sealed: &Sealed) -> Result<(), ReplayError> {
        let found = &sealed.record;
        if let Some(rules) = begins_rules(found).filter(|rules| *rules != RULES) {
            return Err(ReplayError::Rules { index: found.index, rules });
        }
        let can_advance = self.state.can_advance();
        if can_advance && !matches!(found.command, Command::Advance | Command::Activate) {
            let next = Record { command: Command::Advance, ..found.clone() };
            return Err(differs(found, "a waiter can be granted, and this is no advance", &next));
        }
        let tip = self.state.tip();
        let at = found.at.max(self.state.at());
        self.state.renew(&found.renewed, at);
        let again = Sealed::new(Record {
            index: tip.next_index,
            prev: tip.hash,
            epoch: self.state.epoch() + u64::from(matches!(found.command, Command::Activate)),
            at,
            renewed: found.renewed.clone(),
            upto: found.upto,
            command: found.command.clone(),
            events: self.decide(found, at),
        });
        if again.line != sealed.line {
            let what = if again.record.events == found.events {
                "it is not written as it would be"
            } else {
                "its events are not what the rules make of its command"
            };
            return Err(differs(found, what, &again.record));
        }
        if found.events.is_empty() && !self.may_be_empty(found) {
            return Err(differs(found, "it changes nothing: there would be no record", &again.record));
        }
        self.state.apply(sealed);
        self.records += 1;
        self.checkpoint(found)
    }

    /// What the rules make of a command. What is not decided is given, within what can be said of it.
    fn decide(&self, found: &Record, at: arbiterq_client::wire::Timestamp) -> Vec<Event> {
        let given = |fits: fn(&Event, &State) -> bool| {
            let one =
                found.events.first().filter(|event| found.events.len() == 1 && fits(event, &self.state));
            one.cloned().into_iter().collect()
        };
        match &found.command {
            Command::Create => given(|event, state| {
                matches!(event, Event::Genesis(genesis)
                    if state.genesis().is_none() && genesis.first_index == state.tip().next_index)
            }),
            Command::Activate => given(
                |event, state| matches!(event, Event::EpochStarted { epoch, .. } if *epoch == state.epoch() + 1),
            ),
            Command::Policy => {
                given(|event, state| matches!(event, Event::Policy(policy) if policy != state.policy()))
            }
            Command::Checkpoint => given(|event, _| matches!(event, Event::Checkpoint { .. })),
            Command::Finish => given(|event, _| matches!(event, Event::Closed { .. })),
            command => decide(&self.state, command, at),
        }
    }

    /// Renewals and answers need a record; so does the end of a lock-delay, which is no event.
    fn may_be_empty(&self, found: &Record) -> bool {
        match &found.command {
            Command::Barrier => true,
            Command::Tick { at } => self.state.next_deadline().is_some_and(|deadline| deadline <= *at),
            _ => false,
        }
    }

    /// The state at each record that a checkpoint is of, and at each checkpoint that its state was the same.
    fn checkpoint(&mut self, found: &Record) -> Result<(), ReplayError> {
        for (of, hash) in checkpoints_of(found) {
            if of >= found.index || !self.expected.contains(&(of, hash)) {
                let none = Record { events: Vec::new(), ..found.clone() };
                return Err(differs(found, "its checkpoint is not of a record before it", &none));
            }
            self.checkpoints += 1;
        }
        let said = self.expected.range((found.index, Hash([0; 32]))..=(found.index, Hash([0xff; 32])));
        let mut said = said.map(|(_, hash)| *hash).peekable();
        if said.peek().is_none() {
            return Ok(());
        }
        let decided = hash_of(&snapshot::write(&self.state));
        if let Some(other) = said.find(|hash| *hash != decided) {
            return Err(ReplayError::Differs(Box::new(Difference {
                index: found.index,
                what: "the memory after it is not what its checkpoint says".to_owned(),
                decided: decided.to_string(),
                found: other.to_string(),
            })));
        }
        Ok(())
    }

    /// What was replayed so far.
    pub fn finish(&self) -> Report {
        let tip = self.state.tip();
        let genesis = self.state.genesis();
        Report {
            log_id: genesis.map(|genesis| genesis.log_id),
            partition: genesis.map_or(0, |genesis| genesis.partition),
            records: self.records,
            last_index: tip.next_index.saturating_sub(1),
            tip_hash: tip.hash,
            checkpoints: self.checkpoints,
            rules: RULES,
            unfinished: None,
        }
    }
}

/// The checkpoints that a record names.
pub fn checkpoints_of(record: &Record) -> impl Iterator<Item = (u64, Hash)> {
    record.events.iter().filter_map(|event| match event {
        Event::Checkpoint { of, hash } => Some((*of, *hash)),
        _ => None,
    })
}

/// Replays the log folder of one partition. It is only read, and an arbiter may write to it meanwhile.
///
/// `progress` is called with the index of each ten-thousandth record.
///
/// # Errors
/// The first difference, or why the log cannot be replayed.
pub fn replay_folder(dir: &Path, progress: &mut dyn FnMut(u64)) -> Result<Report, ReplayError> {
    // The mark before the records: a log that is being written to only gets ahead of it.
    let durable = Mark::read(dir)?;
    let mut checkpoints = Vec::new();
    let mut first_index = None;
    let mut lines = FolderLines::open(dir)?;
    while let Some(line) = lines.next()? {
        first_index.get_or_insert(line.segment.first);
        // Cheaper than to read every line as a record; what is none is met again below.
        if line.bytes.windows(b"\"checkpoint\"".len()).any(|bytes| bytes == b"\"checkpoint\"")
            && let Ok(sealed) = Sealed::read(line.bytes)
        {
            checkpoints.extend(checkpoints_of(&sealed.record));
        }
    }
    let mut replay = Replay::new(first_index.unwrap_or(0), checkpoints);
    let mut lines = FolderLines::open(dir)?;
    let mut unfinished = None;
    while let Some(line) = lines.next()? {
        let index = replay.state.tip().next_index;
        let read = match line.ended {
            true => Sealed::read(line.bytes),
            false => Err(UnreadableLine("it has no line feed at its end".to_owned())),
        };
        let what = match read {
            Ok(sealed)
                if durable.as_ref().is_some_and(|mark| mark.index == index && mark.hash != sealed.hash) =>
            {
                "it is not the record that is known durable: the end was written anew".to_owned()
            }
            Ok(sealed) if replay.is_next(&sealed) => {
                replay.record(&sealed)?;
                if index.is_multiple_of(10_000) {
                    progress(index);
                }
                continue;
            }
            Ok(_) => "it does not follow the record before it".to_owned(),
            Err(unreadable) => unreadable.to_string(),
        };
        let (file, line) = (line.segment.path.to_path_buf(), line.number);
        if durable.as_ref().is_none_or(|durable| index <= durable.index) {
            return Err(ReplayError::Damaged { file, line, index, what });
        }
        unfinished = Some(format!("{}, line {line}: {what}", file.display()));
        break;
    }
    let report = Report { unfinished, ..replay.finish() };
    match durable {
        Some(durable) if durable.index > report.last_index => {
            Err(ReplayError::Cut { last: report.last_index, durable: durable.index })
        }
        _ => Ok(report),
    }
}

fn begins_rules(record: &Record) -> Option<u32> {
    record.events.iter().find_map(|event| match event {
        Event::EpochStarted { rules, .. } => Some(*rules),
        _ => None,
    })
}

fn differs(found: &Record, what: &str, decided: &Record) -> ReplayError {
    let json = |record: &Record| String::from_utf8_lossy(&Sealed::new(record.clone()).line).into_owned();
    let (decided, found_json) = (json(decided), json(found));
    ReplayError::Differs(Box::new(Difference {
        index: found.index,
        what: what.to_owned(),
        decided,
        found: found_json,
    }))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(log_id) = self.log_id else {
            return f.write_str("the log has no record yet: nothing was decided in it");
        };
        writeln!(f, "log          {log_id}, partition {}", self.partition)?;
        writeln!(f, "records      {}, up to {}", self.records, self.last_index)?;
        writeln!(f, "checkpoints  {}, the memory was the same", self.checkpoints)?;
        if let Some(unfinished) = &self.unfinished {
            writeln!(f, "note         an unfinished end: not durable, ignored ({unfinished})")?;
        }
        writeln!(f, "tip          {}", self.tip_hash)?;
        write!(f, "replayed: every record is what rules {} make of its command", self.rules)
    }
}

#[cfg(test)]
mod tests;
