//! That the auditor's check stands on its own.

use std::fs;
use std::path::Path;

/// Every source file of the verifier, tests included.
fn sources(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The modules of this crate that a source names, also in groups like `use crate::{a, b::c}`.
fn modules_named(source: &str) -> Vec<String> {
    let mut named = Vec::new();
    for (at, found) in source.match_indices("crate::") {
        let rest = &source[at + found.len()..];
        let group = rest.strip_prefix('{').map(|group| group.split('}').next().unwrap());
        for path in group.unwrap_or(rest).split(',').take(if group.is_some() { usize::MAX } else { 1 }) {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            named.push(path.trim_start().chars().take_while(|c| word(*c)).collect());
        }
    }
    named
}

#[test]
fn it_imports_nothing_that_decides() {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/audit/verify"), &mut found);
    assert!(found.len() > 10, "the sources are where they were");
    for (path, source) in found {
        // This file has the word in its own tests.
        if path.ends_with("sources.rs") {
            continue;
        }
        for module in modules_named(&source) {
            assert!(["log", "audit"].contains(&module.as_str()), "{path} names crate::{module}");
        }
        assert!(!source.contains("super::super::super"), "{path} climbs out of the verifier");
        assert!(!source.contains("arbiterq::state"), "{path} names this crate from outside");
    }
}

#[test]
fn the_check_of_imports_can_fail() {
    let named = modules_named("use crate::state::State; use crate::{log::record, partition::Partition};");
    assert_eq!(named, ["state", "log", "partition"]);
}
