//! `audit`: what an auditor does, offline and read-only.

#[cfg(feature = "rabbitmq")]
mod broker;

use super::folders::log_folders;
use super::output::{Failure, exit};
use super::{Global, Outcome};
use arbiterq::audit::replay::{self, ReplayError, replay_folder};
use arbiterq::audit::verify::{Progress, Promise, VerifyError, verify_folder};
use arbiterq_client::Receipt;
use serde::Serialize;
use serde_json::json;
use std::cell::Cell;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `audit …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Audit {
    /// Check every promise that can be checked from the records alone
    Verify {
        /// The data folder of an arbiter, or the folder of one partition; or the URL of the broker that has the log. An
        /// arbiter may write to it meanwhile
        source: PathBuf,
        /// Receipts, a line of JSON each, as `run --receipt` writes them: each must be borne out by the log
        #[arg(long = "receipt", value_name = "FILE")]
        receipts: Vec<PathBuf>,
    },
    /// Decide every command again and compare: events, and the memory at each checkpoint
    Replay {
        /// The data folder of an arbiter, or the folder of one partition; or the URL of the broker that has the log. An
        /// arbiter may write to it meanwhile
        source: PathBuf,
    },
    /// Copy a log that is at a broker into a folder, where anyone can check it without the broker
    #[cfg(feature = "rabbitmq")]
    Export(broker::Export),
}

/// Between two lines of progress, in bytes: a few a second on any disk.
const PROGRESS_BYTES: u64 = 64 << 20;

impl Audit {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Verify { source, receipts } => {
                let receipts = read_receipts(&receipts)?;
                let of_none = Cell::new(receipts.len() as u64);
                let verified = judge(&source, global, "verified", |folder| {
                    let report = verify(folder, &receipts)?;
                    of_none.set(of_none.get() - report.receipts);
                    Ok(report)
                })?;
                match of_none.get() {
                    0 => Ok(verified),
                    some => {
                        let what =
                            format!("{some} of the receipts are of no partition in {}", source.display());
                        Err(Failure::new("not-verified", exit::NO, what))
                    }
                }
            }
            Self::Replay { source } => judge(&source, global, "replayed", replay),
            #[cfg(feature = "rabbitmq")]
            Self::Export(export) => export.run(global),
        }
    }
}

/// Judges every partition: one that is damaged says nothing of the others. What is wrong is said first, so that it
/// is said, and exited with, also where nobody reads the reports.
fn judge<R: Display + Serialize>(
    source: &Path,
    global: &Global,
    verdict: &str,
    judge: impl Fn(&Path) -> Result<R, Failure>,
) -> Outcome {
    let output = global.output();
    // A log at a broker is judged as a folder that it is copied into.
    #[cfg(feature = "rabbitmq")]
    let copied = broker::Copied::of(source, global)?;
    #[cfg(feature = "rabbitmq")]
    let source = copied.as_ref().map_or(source, broker::Copied::folder);
    let judged: Vec<_> = log_folders(source)?.iter().map(|folder| judge(folder)).collect();
    let failures: Vec<_> = judged.iter().filter_map(|judged| judged.as_ref().err()).collect();
    let (last, others) =
        failures.split_last().map_or((None, &[][..]), |(last, others)| (Some(*last), others));
    for failure in others {
        output.failure(failure);
    }
    let mut first = true;
    for report in judged.iter().flatten() {
        let text = if first { report.to_string() } else { format!("\n{report}") };
        first = false;
        let mut object = json!(report);
        object[verdict] = json!(true);
        match last {
            None => output.result(&text, &object)?,
            Some(_) => output.write_result(&text, &object).unwrap_or_default(),
        }
    }
    last.map_or(Ok(ExitCode::SUCCESS), |failure| Err(failure.clone()))
}

fn read_receipts(files: &[PathBuf]) -> Result<Vec<Receipt>, Failure> {
    let mut receipts = Vec::new();
    for file in files {
        let unreadable =
            |what: String| Failure::new("receipt", exit::LOG, format!("{}{what}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| unreadable(format!(": {error}")))?;
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let receipt = serde_json::from_str(line);
            receipts.push(receipt.map_err(|error| unreadable(format!(", line {}: {error}", i + 1)))?);
        }
        if text.lines().all(str::is_empty) {
            return Err(unreadable(" has no receipt".to_owned()));
        }
    }
    Ok(receipts)
}

/// Between two lines of progress, in records.
const PROGRESS_RECORDS: u64 = 100_000;

/// Replays one log folder, with a line of progress on a terminal.
fn replay(folder: &Path) -> Result<replay::Report, Failure> {
    let terminal = std::io::stderr().is_terminal();
    let mut progress = |index: u64| {
        if terminal && index > 0 && index.is_multiple_of(PROGRESS_RECORDS) {
            let _ = write!(std::io::stderr(), "\rreplaying: record {index}  ");
        }
    };
    let replayed = replay_folder(folder, &mut progress);
    if terminal {
        let _ = write!(std::io::stderr(), "\r{:40}\r", "");
    }
    replayed.map_err(|error| not_replayed(folder, &error))
}

fn not_replayed(folder: &Path, error: &ReplayError) -> Failure {
    let what = format!("{} is not replayed: {error}", folder.display());
    match error {
        ReplayError::Differs(difference) => Failure::new("not-replayed", exit::NO, what)
            .part("decided", difference.decided.clone())
            .part("found", difference.found.clone()),
        ReplayError::Damaged { .. } | ReplayError::Cut { .. } => Failure::new("not-replayed", exit::NO, what)
            .help("`arbiter audit verify` says more of what the log is"),
        ReplayError::Rules { .. } => Failure::new("rules", exit::LOG, what)
            .help("replay it with the build that wrote it, or a newer one"),
        ReplayError::Read(_) => {
            Failure::new("log", exit::LOG, what).part("done", "nothing is said of the log")
        }
    }
}

/// Verifies one log folder, with a line of progress on a terminal.
pub(crate) fn verify(
    folder: &Path,
    receipts: &[Receipt],
) -> Result<arbiterq::audit::verify::Report, Failure> {
    let terminal = std::io::stderr().is_terminal();
    let mut next = PROGRESS_BYTES;
    let mut shown = false;
    let mut progress = |progress: Progress| {
        if terminal && progress.bytes >= next {
            next = progress.bytes + PROGRESS_BYTES;
            shown = true;
            let percent = progress.bytes * 100 / progress.bytes_total.max(1);
            let _ = write!(std::io::stderr(), "\rverifying: {percent} %, record {}  ", progress.index);
        }
    };
    let verified = verify_folder(folder, receipts, &mut progress);
    if shown {
        let _ = write!(std::io::stderr(), "\r{:40}\r", "");
    }
    verified.map_err(|error| match error {
        VerifyError::Violation(violation) if violation.promise == Promise::Understood => {
            let what = format!("cannot check {} from record {}", folder.display(), violation.index);
            Failure::new("log", exit::LOG, what)
                .part("found", violation.what.clone())
                .part("done", "nothing is said of the log")
        }
        VerifyError::Violation(violation) => {
            let what = format!("{} is not verified: record {}", folder.display(), violation.index);
            let place = violation.file.as_ref().map(|file| match violation.line {
                0 => file.display().to_string(),
                line => format!("{}, line {line}", file.display()),
            });
            Failure::new("not-verified", exit::NO, what)
                .part("promise", violation.promise.to_string())
                .part("place", place.unwrap_or_else(|| format!("line {}", violation.line)))
                .part("found", violation.what.clone())
        }
        VerifyError::Unreadable { path, source } => {
            Failure::new("log", exit::LOG, format!("cannot read {}: {source}", path.display()))
                .part("done", "nothing is said of the log")
        }
    })
}
