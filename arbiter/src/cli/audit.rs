//! `audit`: what an auditor does, offline and read-only.

use super::folders::log_folders;
use super::output::{Failure, exit};
use super::{Global, Outcome};
use arbiterq::audit::verify::{Progress, Promise, VerifyError, verify_folder};
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
        for (i, folder) in log_folders(&source)?.iter().enumerate() {
            let report = verify(folder)?;
            let text = if i == 0 { report.to_string() } else { format!("\n{report}") };
            let mut object = json!(report);
            object["verified"] = json!(true);
            output.result(&text, &object)?;
        }
        Ok(ExitCode::SUCCESS)
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
