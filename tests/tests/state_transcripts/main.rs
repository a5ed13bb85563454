//! Transcripts of the state machine: one file a rule, in `testdata/state`.
//!
//! A file is blocks of commands, `----`, and what they must print, up to an empty line; `#` begins a comment.
//! `UPDATE=1` writes what they do print. `desk.rs` says what the commands are.
//!
//! Beside what is printed, every record of every transcript is folded by a standby that reads its line, and every
//! state is written as a checkpoint and read again: both must be the same as the state that decided.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod desk;

use desk::Desk;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/state")
}

/// Runs a transcript and gives it as it would be with the true output.
fn replay(text: &str) -> String {
    let mut desk = Desk::new();
    let mut out = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim().is_empty() || line.starts_with('#') {
            writeln!(out, "{line}").unwrap();
            continue;
        }
        let mut line = Some(line);
        let mut printed = String::new();
        while let Some(command) = line.filter(|line| *line != "----") {
            writeln!(out, "{command}").unwrap();
            if !command.starts_with('#') {
                printed += &desk.run(command);
            }
            line = lines.next();
        }
        assert_eq!(line, Some("----"), "a block without ----");
        write!(out, "----\n{printed}\n").unwrap();
        lines.by_ref().find(|line| line.trim().is_empty());
    }
    out.trim_end().to_owned() + "\n"
}

#[test]
fn transcripts() {
    let update = env::var_os("UPDATE").is_some();
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(!paths.is_empty());
    let mut wrong = String::new();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        eprintln!("{name}");
        let found = replay(&text);
        if found != text && update {
            fs::write(&path, found).unwrap();
        } else if found != text {
            let (i, (was, is)) = text
                .lines()
                .chain(std::iter::repeat("(end)"))
                .zip(found.lines().chain(std::iter::repeat("(end)")))
                .enumerate()
                .find(|(_, (was, is))| was != is)
                .unwrap();
            writeln!(wrong, "{name}:{}\n  expected: {was}\n  found:    {is}", i + 1).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}(UPDATE=1 writes what is found)");
}

#[test]
fn a_transcript_can_fail() {
    let text = "start\nopen c\nc acquire 1 db\n----\n";
    let found = replay(text);
    assert!(found.contains("granted c/1 db, token 3"), "{found}");
    assert_ne!(found, replay("start\nopen c\nc acquire 1 s:db\n----\n"));
    assert_eq!(replay(&found), found);
}
