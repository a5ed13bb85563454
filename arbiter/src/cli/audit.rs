//! `audit`: what an auditor does, offline and read-only.

use super::folders::log_folders;
use super::output::{Failure, exit};
use super::{Global, Outcome};
use arbiterq::audit::verify::{Progress, VerifyError, verify_folder};
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `audit …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Audit {
    /// Check every promise that can be checked from the records alone
    Verify {
        /// The data folder of an arbiter, or the folder of one partition. An arbiter may write to it meanwhile
        source: PathBuf,
    },
}

/// Between two lines of progress, in bytes: a few a second on any disk.
const PROGRESS_BYTES: u64 = 64 << 20;

impl Audit {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        let Self::Verify { source } = self;
        let output = global.output();
        let verified: Vec<_> = log_folders(&source)?.iter().map(|folder| verify(folder)).collect();
        // A partition that is damaged says nothing of the others. What is wrong is said first, so that it is said,
        // and exited with, also where nobody reads the reports.
        let failures: Vec<_> = verified.iter().filter_map(|verified| verified.as_ref().err()).collect();
        let (last, others) =
            failures.split_last().map_or((None, &[][..]), |(last, others)| (Some(*last), others));
        for failure in others {
            output.failure(failure);
        }
        let mut first = true;
        for report in verified.iter().flatten() {
            let text = if first { report.to_string() } else { format!("\n{report}") };
            first = false;
            let mut object = json!(report);
            object["verified"] = json!(true);
            match last {
                None => output.result(&text, &object)?,
                Some(_) => output.write_result(&text, &object).unwrap_or_default(),
            }
        }
        last.map_or(Ok(ExitCode::SUCCESS), |failure| Err(failure.clone()))
    }
}

/// Verifies one log folder, with a line of progress on a terminal.
pub(crate) fn verify(folder: &Path) -> Result<arbiterq::audit::verify::Report, Failure> {
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
    let verified = verify_folder(folder, &mut progress);
    if shown {
        let _ = write!(std::io::stderr(), "\r{:40}\r", "");
    }
    verified.map_err(|error| match error {
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
