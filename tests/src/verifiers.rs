//! Both verifiers of a grant log: the one in the binary, and the one in plain Python.

use arbiterq::audit::replay::replay_folder;
use arbiterq::audit::verify::{Promise, Report, VerifyError, verify_folder};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the verifier in Python.
pub fn python_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/python")
}

/// A Python interpreter that leaves nothing behind in the sources.
pub fn python() -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// The partitions' log folders within a data folder, or the folder itself if it is one of a log.
///
/// # Panics
/// If it cannot be read.
pub fn log_folders(data: &Path) -> Vec<PathBuf> {
    if data.join("durable").exists() {
        return vec![data.to_owned()];
    }
    let entries = std::fs::read_dir(data).unwrap_or_else(|error| panic!("{}: {error}", data.display()));
    let mut folders: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    folders.retain(|folder| folder.join("durable").exists());
    folders.sort();
    folders
}

/// Has both verifiers read a data folder or a log folder, and decides it again. What the verifier in the binary
/// reports, a log each.
///
/// # Panics
/// If any of them finds anything, or they differ in what they counted.
pub fn both_are_clean(data: &Path) -> Vec<Report> {
    let folders = log_folders(data);
    assert!(!folders.is_empty(), "no log in {}", data.display());
    let reports: Vec<_> = folders
        .iter()
        .map(|folder| {
            let verified = verify_folder(folder, &mut |_| {});
            let report = verified.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            let replayed = replay_folder(folder, &mut |_| {});
            let replayed = replayed.unwrap_or_else(|error| panic!("{}: {error:?}", folder.display()));
            assert_eq!(replayed.tip_hash, report.tip_hash);
            report
        })
        .collect();
    let said = python_says(data);
    assert_eq!(said["verdict"], "clean", "{said}");
    for (report, log) in reports.iter().zip(said["logs"].as_array().expect("logs")) {
        let counted = |name: &str| log[name].as_u64();
        assert_eq!(counted("records"), Some(report.records), "{log}");
        assert_eq!(counted("grants"), Some(report.grants), "{log}");
        assert_eq!(log["tip"]["hash"], report.tip_hash.to_string(), "{log}");
    }
    reports
}

/// What the verifier in Python says of a folder.
///
/// # Panics
/// If there is no Python, or it says no JSON.
pub fn python_says(folder: &Path) -> Value {
    let script = python_folder().join("arbiter_verify.py");
    let run = python().arg(script).arg(folder).arg("--json").output().expect("python3 is installed");
    serde_json::from_slice(&run.stdout).unwrap_or_else(|error| {
        panic!("the verifier in Python said no JSON ({error}): {}", String::from_utf8_lossy(&run.stderr))
    })
}

/// Whether the verifier in the binary finds a log folder clean, or the first bad index, or that it cannot check.
///
/// # Panics
/// If the folder cannot be read.
pub fn binary_verdict(folder: &Path) -> Verdict {
    match verify_folder(folder, &mut |_| {}) {
        Ok(_) => Verdict::Clean,
        Err(VerifyError::Violation(violation)) if violation.promise == Promise::Understood => {
            Verdict::NotUnderstood(violation.index)
        }
        Err(VerifyError::Violation(violation)) => Verdict::FirstBad(violation.index),
        Err(VerifyError::Unreadable { .. }) => Verdict::Unreadable,
    }
}

/// What a verifier says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is wrong.
    Clean,
    /// The first record at which something is.
    FirstBad(u64),
    /// The record with which a format or decision rules begin that the verifier does not know.
    NotUnderstood(u64),
    /// It cannot tell.
    Unreadable,
}

impl Verdict {
    /// That of the verifier in Python, from what it said of one log.
    pub fn of_python(log: &Value) -> Self {
        let unknown_from = log["unknown_from"].as_u64();
        match (log["verdict"].as_str(), log["violation"]["index"].as_u64()) {
            (Some("clean"), _) => Self::Clean,
            (Some("violation"), Some(index)) => Self::FirstBad(index),
            _ => unknown_from.map_or(Self::Unreadable, Self::NotUnderstood),
        }
    }
}
