//! A small log folder changed in every possible small way: each bit flipped, cut at each byte, lines doubled, dropped,
//! swapped, and taken from another log. Both verifiers refuse each change and name the same first bad record.
//!
//! What they may accept is only what nobody relies on: a manifest, which says where a start may begin and is checked
//! there against the chain, and what lies above the durable mark. A start takes no checkpoint that was changed, and no
//! record at or below the mark.
//!
//! The verifier in the binary judges every change. The one in Python judges one bit of each byte, every bit with
//! `ARBITER_ALL_BITS=1`; cuts and lines are all judged by both.

mod changes;

use arbiterq::log::file::{FileLog, OpenError, Options, Step};
use arbiterq_tests::verifiers::{Verdict, binary_verdict, both_are_clean, python, python_folder};
use arbiterq_tests::{PATIENCE, Service, log_lines, quick_folder, serve_config, write_mark};
use changes::{Change, Files, Mutation, cuts, flips, line_changes};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Verifies the folder with each change in turn, each a line: the file's name and `x` with its bytes in hexadecimal.
const PYTHON: &str = r#"
import json, os, sys
import arbiter_verify
folder = sys.argv[1]
def put(path, data):
    with open(path, "wb") as file:
        file.write(data)
for line in sys.stdin:
    name, data = line.split()
    path = os.path.join(folder, name)
    with open(path, "rb") as file:
        before = file.read()
    put(path, bytes.fromhex(data[1:]))
    report = arbiter_verify.verify(folder)[1]
    print(json.dumps({name: report.get(name) for name in ("verdict", "violation", "unknown_from")}))
    put(path, before)
"#;

/// A log in three segments at least, with a checkpoint, that was ended well.
async fn a_log(folder: &Path) -> Files {
    let mut config = serve_config(folder);
    config.log.segment_bytes_max = 1200;
    config.checkpoint_records = 5;
    let service = Service::start(config).await.unwrap();
    let mut raw = service.raw().await;
    let key = "k".repeat(32);
    let session = raw.open(&key).await;
    let of = format!(r#"{{"v":1,"partition":0,"session":{session},"key":"{key}""#);
    for seq in 1..=2 {
        let claims = r#"[{"resource":"r","mode":"exclusive"}]"#;
        let granted = raw.ask(format!(r#"{of},"acquire":{{"seq":{seq},"claims":{claims}}}}}"#)).await;
        let token = &granted["granted"]["token"];
        raw.ask(format!(r#"{of},"release":{{"token":{token}}}}}"#)).await;
    }
    let log = folder.join("0");
    let checkpoint = async {
        while !Files::read(&log).0.keys().any(|name| name.ends_with(".manifest")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, checkpoint).await.expect("a checkpoint");
    service.stop().await.unwrap();
    Files::read(&log)
}

/// What both say of each mutation; of those that Python does not judge only the one.
struct Judge {
    root: tempfile::TempDir,
    other: Vec<Vec<u8>>,
    all: bool,
    judged: [usize; 2],
}

impl Judge {
    fn new(other: Vec<Vec<u8>>) -> Self {
        let all = std::env::var_os("ARBITER_ALL_BITS").is_some_and(|all| all != "0");
        Self { root: quick_folder(), other, all, judged: [0; 2] }
    }

    fn for_python(&self, mutation: &Mutation) -> bool {
        match mutation.change {
            Change::Flip(bit) => self.all || bit % 8 == (bit / 8) % 8,
            _ => true,
        }
    }

    /// The verdict on which both agree.
    fn verdicts(&mut self, files: &Files, mutations: &[Mutation]) -> Vec<Verdict> {
        let (ours, theirs) = (self.root.path().join("ours"), self.root.path().join("theirs"));
        for folder in [&ours, &theirs] {
            let _ = std::fs::remove_dir_all(folder);
            files.write(folder);
        }
        let mut python = python();
        python.args(["-c", PYTHON]).arg(&theirs).env("PYTHONPATH", python_folder());
        let mut python =
            python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 is installed");
        let mut stdin = python.stdin.take().unwrap();
        let asked: Vec<_> = mutations.iter().map(|mutation| self.for_python(mutation)).collect();
        let mut verdicts = Vec::new();
        std::thread::scope(|scope| {
            let (asked, other) = (&asked, &self.other);
            scope.spawn(move || {
                for (mutation, _) in mutations.iter().zip(asked).filter(|(_, asked)| **asked) {
                    let bytes = mutation.bytes(files, other);
                    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    writeln!(stdin, "{} x{hex}", mutation.file).unwrap();
                }
            });
            let mut said = BufReader::new(python.stdout.take().unwrap()).lines();
            for (mutation, asked) in mutations.iter().zip(asked) {
                let path = ours.join(&mutation.file);
                std::fs::write(&path, mutation.bytes(files, other)).unwrap();
                let verdict = binary_verdict(&ours);
                std::fs::write(&path, &files.0[&mutation.file]).unwrap();
                if *asked {
                    let line = said.next().expect("Python says something of each").unwrap();
                    let theirs = Verdict::of_python(&serde_json::from_str(&line).unwrap());
                    assert_eq!(verdict, theirs, "the binary and Python on {mutation:?}: {line}");
                }
                verdicts.push(verdict);
            }
        });
        assert!(python.wait().unwrap().success());
        self.judged[0] += mutations.len();
        self.judged[1] += asked.iter().filter(|asked| **asked).count();
        verdicts
    }

    fn refused_at(&mut self, files: &Files, mutations: &[Mutation], at: &dyn Fn(&Mutation) -> Vec<u64>) {
        for (mutation, verdict) in mutations.iter().zip(self.verdicts(files, mutations)) {
            let index = match verdict {
                Verdict::FirstBad(index) => index,
                // A version of the format or of the rules that nobody knows is refused in words of its own.
                Verdict::NotUnderstood(index) if matches!(mutation.change, Change::Flip(_)) => index,
                _ => panic!("{mutation:?}: {verdict:?}"),
            };
            assert!(
                at(mutation).contains(&index),
                "{mutation:?}: named {index}, not one of {:?}",
                at(mutation)
            );
        }
    }
}

/// Opens a folder as a start does: the body of the checkpoint that was used, or why not.
fn start(folder: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    let mut used = None;
    let opened = FileLog::open(folder, Options::default(), &mut |step| {
        match step {
            Step::Checkpoint { body, .. } => used = Some(body.to_vec()),
            Step::Start => used = None,
            Step::Record(_) => {}
        }
        Ok(())
    });
    opened.map(|(log, _)| {
        log.close().unwrap();
        used
    })
}

struct Logs {
    _root: tempfile::TempDir,
    files: Files,
    other: Vec<Vec<u8>>,
    tip: u64,
    checkpoint: u64,
    /// The manifest and the body.
    manifest: String,
    body: String,
}

async fn logs() -> Logs {
    let root = tempfile::tempdir().unwrap();
    let files = a_log(&root.path().join("a")).await;
    a_log(&root.path().join("b")).await;
    both_are_clean(root.path().join("a").as_path());
    let other = log_lines(&root.path().join("b/0"));
    assert!(files.segments().len() >= 3, "{:?}", files.segments());
    let named = |end: &str| files.0.keys().find(|name| name.ends_with(end)).unwrap().clone();
    let (manifest, body) = (named(".manifest"), named(".jsonl"));
    let says: Value = serde_json::from_slice(&files.0[&manifest]).unwrap();
    let tip = log_lines(&root.path().join("a/0")).len() as u64 - 1;
    assert!(other.len() as u64 > tip, "the other log has a line for each");
    let checkpoint = says["index"].as_u64().unwrap();
    Logs { _root: root, files, other, tip, checkpoint, manifest, body }
}

#[tokio::test]
async fn every_change_at_or_below_the_mark_is_refused_by_both_at_the_same_record() {
    let Logs { files, other, tip, checkpoint, manifest, body, .. } = &logs().await;
    let mut judge = Judge::new(other.clone());
    for segment in files.segments() {
        let mut mutations = flips(files, segment);
        mutations.extend(cuts(files, segment));
        // A copy of the last record lies above the mark: a torn end.
        let end = Change::Doubled(usize::try_from(tip - files.index_at(segment, 0)).unwrap());
        mutations.extend(line_changes(files, segment).into_iter().filter(|mutation| mutation.change != end));
        judge.refused_at(files, &mutations, &|mutation| mutation.first_bad(files));
    }
    let (last, first) = files.segments().last().map(|last| (*last, files.index_at(last, 0))).unwrap();
    let end = Change::Doubled(usize::try_from(tip - first).unwrap());
    let copy = Mutation { file: last.to_owned(), change: end };
    assert_eq!(judge.verdicts(files, &[copy]), [Verdict::Clean]);
    // The mark: what it names, or what comes after the tip if it cannot be read.
    let mut mutations = flips(files, "durable");
    mutations.extend(cuts(files, "durable"));
    judge.refused_at(files, &mutations, &|_| (0..=tip + 1).collect());
    // The body of a checkpoint: the record that has its hash.
    let mut mutations = flips(files, body);
    mutations.extend(cuts(files, body));
    judge.refused_at(files, &mutations, &|_| vec![*checkpoint]);
    // The manifest: nobody relies on it but a start. One that says a record above the mark is refused.
    let mut mutations = flips(files, manifest);
    mutations.extend(cuts(files, manifest));
    let verdicts = judge.verdicts(files, &mutations);
    for (mutation, verdict) in mutations.iter().zip(verdicts) {
        let accepted =
            verdict == Verdict::Clean || matches!(verdict, Verdict::FirstBad(index) if index > *tip);
        assert!(accepted, "{mutation:?}: {verdict:?}");
    }
    let ([binary, python], manifest) = (judge.judged, mutations.len());
    println!("counts: {binary} changes judged by the binary, {python} by Python; {manifest} of the manifest");
    assert!(binary > 30_000 && python > 7_000);
}

#[tokio::test]
async fn a_changed_end_above_the_mark_is_judged_the_same_by_both() {
    let Logs { mut files, other, manifest, body, .. } = logs().await;
    let last = (*files.segments().last().unwrap()).to_owned();
    // As far behind as a mark may be without a checkpoint.
    files.0.remove(&manifest);
    files.0.remove(&body);
    let before: usize = last[..20].parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    files.write(folder.path());
    write_mark(folder.path(), Some(&log_lines(folder.path())[before - 1]));
    let files = Files::read(folder.path());
    let mut judge = Judge::new(other);
    let mut mutations = flips(&files, &last);
    mutations.extend(cuts(&files, &last));
    mutations.extend(line_changes(&files, &last));
    let verdicts = judge.verdicts(&files, &mutations);
    let mut torn = 0;
    for (mutation, verdict) in mutations.iter().zip(verdicts) {
        match verdict {
            Verdict::Clean | Verdict::NotUnderstood(_) => torn += 1,
            // It is still a record, which breaks a rule.
            Verdict::FirstBad(index) => {
                assert!(mutation.first_bad(&files).contains(&index), "{mutation:?}: {index}")
            }
            Verdict::Unreadable => panic!("{mutation:?}"),
        }
    }
    let [binary, python] = judge.judged;
    println!(
        "counts: {binary} changes above the mark judged by the binary, {python} by Python; {torn} torn ends"
    );
    assert!(torn > 0);
}

#[tokio::test]
async fn a_start_takes_nothing_that_was_changed() {
    let Logs { files, other, manifest, body, .. } = &logs().await;
    let folder = quick_folder();
    files.write(folder.path());
    assert_eq!(start(folder.path()).unwrap().as_ref(), Some(&files.0[body]), "as it is it starts there");
    let says: Value = serde_json::from_slice(&files.0[manifest]).unwrap();
    let (after, offset) = (says["after"]["segment"].as_u64(), says["after"]["offset"].as_u64());
    let mut mutations: Vec<_> = [manifest, body].into_iter().flat_map(|file| flips(files, file)).collect();
    mutations.extend(files.segments().into_iter().flat_map(|segment| {
        let first: u64 = segment[..20].parse().unwrap();
        // What lies before the checkpoint is not read, where the checkpoint is good.
        let from = if Some(first) < after {
            usize::MAX
        } else if Some(first) == after {
            offset.unwrap() as usize
        } else {
            0
        };
        flips(files, segment)
            .into_iter()
            .filter(move |m| matches!(m.change, Change::Flip(bit) if bit / 8 >= from))
    }));
    mutations.extend(flips(files, "durable"));
    let one_in = if Judge::new(Vec::new()).all { 1 } else { 11 };
    for mutation in mutations.iter().step_by(one_in) {
        let path: PathBuf = folder.path().join(&mutation.file);
        let changed = mutation.bytes(files, other);
        std::fs::write(&path, &changed).unwrap();
        match start(folder.path()) {
            Err(_) => {
                assert_eq!(std::fs::read(&path).unwrap(), changed, "{mutation:?}: refused, and changed")
            }
            Ok(None) => assert!([manifest, body].contains(&&mutation.file), "{mutation:?}: it starts"),
            Ok(Some(_)) => panic!("{mutation:?}: it starts at the checkpoint"),
        }
        files.write(folder.path());
    }
    println!("counts: {} changes met by a start", mutations.len().div_ceil(one_in));
}
