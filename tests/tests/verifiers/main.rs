//! The two verifiers share a format document and no code: they have to agree, on what is clean and on the first
//! record that is not.

mod mutations;

use arbiterq::log::chain::hash_of;
use arbiterq_tests::verifiers::binary_verdict;
use arbiterq_tests::verifiers::{Verdict, both_are_clean, python, python_folder};
use arbiterq_tests::{log_lines, write_folder, write_mark};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/protocol/golden/log")
}

/// What the verifier in Python says of each folder, all in one process.
fn python_verdicts(folders: &[PathBuf]) -> Vec<Verdict> {
    let script = "import json, sys\nimport arbiter_verify\nfor line in sys.stdin:\n    \
                  print(json.dumps(arbiter_verify.verify(line.rstrip('\\n'))[1]))";
    let mut python = python();
    python
        .args(["-c", script])
        .env("PYTHONPATH", python_folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut running = python.spawn().expect("python3 is installed");
    let mut stdin = running.stdin.take().unwrap();
    let list: String = folders.iter().map(|folder| format!("{}\n", folder.display())).collect();
    let writer = std::thread::spawn(move || stdin.write_all(list.as_bytes()).unwrap());
    let out = running.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(out.status.success());
    let said = String::from_utf8(out.stdout).unwrap();
    said.lines().map(|line| Verdict::of_python(&serde_json::from_str(line).unwrap())).collect()
}

#[test]
fn the_unit_tests_of_the_verifier_in_python_pass() {
    let run = python()
        .args(["-m", "unittest"])
        .current_dir(python_folder())
        .output()
        .expect("python3 is installed");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(said.contains("OK") && !said.contains("Ran 0 tests"), "{said}");
}

#[test]
fn both_find_the_golden_log_clean() {
    let reports = both_are_clean(&golden());
    assert!(reports[0].records > 30, "{}", reports[0]);
}

/// A log folder that is wrong in some way.
struct Case {
    name: String,
    folder: PathBuf,
}

/// Folders beside each other.
struct Cases {
    root: tempfile::TempDir,
    lines: Vec<Vec<u8>>,
    cases: Vec<Case>,
}

impl Cases {
    fn new() -> Self {
        let lines = log_lines(&golden().join("0"));
        Self { root: tempfile::tempdir().unwrap(), lines, cases: Vec::new() }
    }

    /// The golden log in one segment, then changed.
    fn add(&mut self, name: String, lines: &[Vec<u8>], change: impl FnOnce(&Path)) {
        let folder = self.root.path().join(self.cases.len().to_string());
        write_folder(&folder, lines);
        change(&folder);
        self.cases.push(Case { name, folder });
    }

    /// What both say, which has to be the same.
    fn agreed(&self) -> Vec<(&str, Verdict)> {
        let folders: Vec<_> = self.cases.iter().map(|case| case.folder.clone()).collect();
        let python = python_verdicts(&folders);
        assert_eq!(python.len(), self.cases.len());
        let mut differ = Vec::new();
        let mut agreed = Vec::new();
        for (case, python) in self.cases.iter().zip(python) {
            let binary = binary_verdict(&case.folder);
            if binary != python {
                differ.push(format!("{}: the binary says {binary:?}, Python {python:?}", case.name));
            }
            agreed.push((case.name.as_str(), binary));
        }
        assert!(differ.is_empty(), "{} of {} differ:\n{}", differ.len(), agreed.len(), differ.join("\n"));
        agreed
    }
}

/// The one segment of a folder.
fn segment(folder: &Path) -> PathBuf {
    folder.join(format!("{:020}.log", 0))
}

#[test]
fn both_refuse_damage_at_the_same_index() {
    let mut cases = Cases::new();
    let lines = cases.lines.clone();
    let count = lines.len() as u64;
    let mut expected = Vec::new();
    let mut add = |name: String, first_bad: Verdict, lines: &[Vec<u8>], change: &dyn Fn(&Path)| {
        cases.add(name, lines, change);
        expected.push(first_bad);
    };
    let clean: &dyn Fn(&Path) = &|_| {};
    add("as it is".into(), Verdict::Clean, &lines, clean);
    for at in [0, 1, 5, lines.len() / 2, lines.len() - 1] {
        let index = at as u64;
        let whole = |lines: &[Vec<u8>]| lines.to_vec();
        let mut without = whole(&lines);
        without.remove(at);
        if (1..lines.len() - 1).contains(&at) {
            add(format!("without record {at}"), Verdict::FirstBad(index), &without, clean);
            let mut swapped = whole(&lines);
            swapped.swap(at, at + 1);
            add(format!("records {at} and the next swapped"), Verdict::FirstBad(index), &swapped, clean);
        }
        let mut doubled = whole(&lines);
        doubled.insert(at, lines[at].clone());
        // The copy is the bad one; the last one's copy is above the mark only if the mark says so.
        add(format!("record {at} twice"), Verdict::FirstBad(index + 1), &doubled, &|folder| {
            let mark = format!(r#"{{"index":{},"hash":"{}"}}"#, count + 5, "a".repeat(64));
            std::fs::write(folder.join("durable"), format!("{mark:<127}\n")).unwrap();
        });
        let mut broken = whole(&lines);
        broken[at] = lines[at][..lines[at].len() / 2].to_vec();
        let mark = lines[lines.len() - 1].clone();
        add(format!("half of record {at}"), Verdict::FirstBad(index), &lines, &|folder| {
            let bytes: Vec<u8> = broken.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect();
            std::fs::write(segment(folder), bytes).unwrap();
            write_mark(folder, Some(&mark));
        });
    }
    // Ends that were acknowledged and are gone, and ends that never were.
    let last = lines.len() - 1;
    add("cut below the mark".into(), Verdict::FirstBad(count - 1), &lines, &|folder| {
        let bytes = std::fs::read(segment(folder)).unwrap();
        std::fs::write(segment(folder), &bytes[..bytes.len() - lines[last].len() - 1]).unwrap();
    });
    add("the last line feed is gone".into(), Verdict::FirstBad(count - 1), &lines, &|folder| {
        let bytes = std::fs::read(segment(folder)).unwrap();
        std::fs::write(segment(folder), &bytes[..bytes.len() - 1]).unwrap();
    });
    add("a torn end above the mark".into(), Verdict::Clean, &lines, &|folder| {
        let mut bytes = std::fs::read(segment(folder)).unwrap();
        bytes.extend_from_slice(br#"{"index":99,"prev"#);
        std::fs::write(segment(folder), bytes).unwrap();
    });
    add("room written ahead".into(), Verdict::Clean, &lines, &|folder| {
        let mut bytes = std::fs::read(segment(folder)).unwrap();
        bytes.extend_from_slice(&[0; 4096]);
        std::fs::write(segment(folder), bytes).unwrap();
    });
    add("the mark has another hash".into(), Verdict::FirstBad(count - 1), &lines, &|folder| {
        let mark = format!(r#"{{"index":{},"hash":"{}"}}"#, count - 1, "a".repeat(64));
        std::fs::write(folder.join("durable"), format!("{mark:<127}\n")).unwrap();
    });
    for (what, mark) in [
        ("empty", String::new()),
        ("half overwritten", format!("{{\"index\":{},\"hash\":\"abc{:40}\n", count - 1, "")),
        ("written with a blank", format!("{:<127}\n", r#"{"index": null,"hash":null}"#)),
        ("written the other way round", format!("{:<127}\n", r#"{"hash":null,"index":null}"#)),
        ("without its hash", format!("{:<127}\n", r#"{"index":5,"hash":null}"#)),
        ("of 127 bytes", format!("{:<126}\n", r#"{"index":null,"hash":null}"#)),
    ] {
        add(format!("a mark {what}"), Verdict::FirstBad(count), &lines, &|folder| {
            std::fs::write(folder.join("durable"), &mark).unwrap();
        });
    }
    add("no mark".into(), Verdict::FirstBad(count), &lines, &|folder| {
        std::fs::remove_file(folder.join("durable")).unwrap();
    });
    add("no mark, and a bad line".into(), Verdict::FirstBad(5), &lines, &|folder| {
        std::fs::remove_file(folder.join("durable")).unwrap();
        let mut bytes = lines[..5].join(&b'\n');
        bytes.extend_from_slice(b"\n{}\n");
        std::fs::write(segment(folder), bytes).unwrap();
    });
    add("a mark that is null".into(), Verdict::Clean, &lines, &|folder| write_mark(folder, None));
    add("a file that is no segment".into(), Verdict::FirstBad(count), &lines, &|folder| {
        std::fs::write(folder.join("1.log"), "").unwrap();
    });
    // A log in two segments, whose mark must not be below the first one's end.
    let in_two = |folder: &Path, mark: usize| {
        let ended = |lines: &[Vec<u8>]| -> Vec<u8> {
            lines.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect()
        };
        std::fs::write(segment(folder), ended(&lines[..9])).unwrap();
        std::fs::write(folder.join(format!("{:020}.log", 9)), ended(&lines[9..])).unwrap();
        write_mark(folder, Some(&lines[mark]));
    };
    add("a mark at a segment's end".into(), Verdict::Clean, &lines, &|folder| in_two(folder, 8));
    add("a mark behind a segment".into(), Verdict::FirstBad(8), &lines, &|folder| in_two(folder, 7));
    add("a mark that is null behind a segment".into(), Verdict::FirstBad(8), &lines, &|folder| {
        in_two(folder, 8);
        write_mark(folder, None);
    });
    add("a mark behind a checkpoint".into(), Verdict::FirstBad(33), &lines, &|folder| {
        let (place, hash) = (json!({"segment": 0, "offset": 0}), "a".repeat(64));
        let manifest = json!({"of": 20, "of_hash": hash, "after": place, "index": 33, "hash": hash,
            "position": place, "body_hash": hash});
        let name = folder.join(format!("checkpoint-{:020}.manifest", 20));
        std::fs::write(name, format!("{manifest}\n")).unwrap();
        write_mark(folder, Some(&lines[32]));
    });
    // The first line is not what the segment's name says.
    let named_0 = |folder: &Path| {
        std::fs::rename(folder.join(format!("{:020}.log", 1)), segment(folder)).unwrap();
    };
    add("no genesis".into(), Verdict::FirstBad(0), &lines[1..], &named_0);
    add("no genesis, and a name that says so".into(), Verdict::FirstBad(1), &lines[1..], clean);
    add("a genesis in a segment of another name".into(), Verdict::FirstBad(7), &lines, &|folder| {
        std::fs::rename(segment(folder), folder.join(format!("{:020}.log", 7))).unwrap();
    });
    add("no genesis, nothing durable".into(), Verdict::FirstBad(0), &lines[1..], &|folder| {
        named_0(folder);
        write_mark(folder, None);
    });
    add("a broken rule above the mark".into(), Verdict::FirstBad(1), &lines[..1], &|folder| {
        let mut record: Value = serde_json::from_slice(&lines[1]).unwrap();
        record["command"] = json!("finish");
        let bytes = [&lines[0][..], &serde_json::to_vec(&record).unwrap(), b""].join(&b'\n');
        std::fs::write(segment(folder), bytes).unwrap();
        write_mark(folder, None);
    });
    add("a word that nobody knows above the mark".into(), Verdict::Clean, &lines[..1], &|folder| {
        let mut record: Value = serde_json::from_slice(&lines[1]).unwrap();
        record["command"] = json!("drain");
        let bytes = [&lines[0][..], &serde_json::to_vec(&record).unwrap(), b""].join(&b'\n');
        std::fs::write(segment(folder), bytes).unwrap();
        write_mark(folder, None);
    });
    add("no segment, nothing durable".into(), Verdict::Clean, &lines, &|folder| {
        std::fs::remove_file(segment(folder)).unwrap();
        write_mark(folder, None);
    });
    add("no segment".into(), Verdict::FirstBad(0), &lines, &|folder| {
        std::fs::remove_file(segment(folder)).unwrap();
    });
    add("neither a segment nor a mark".into(), Verdict::Unreadable, &lines, &|folder| {
        std::fs::remove_file(segment(folder)).unwrap();
        std::fs::remove_file(folder.join("durable")).unwrap();
    });
    let agreed = cases.agreed();
    assert_eq!(agreed.len(), expected.len());
    for ((name, verdict), expected) in agreed.iter().zip(expected) {
        assert_eq!(*verdict, expected, "{name}");
    }
}

/// Every value in a JSON text, as a path to it.
fn paths(value: &Value, at: &mut Vec<Step>, found: &mut Vec<Vec<Step>>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            at.push(Step::Field(name.clone()));
            found.push(at.clone());
            paths(value, at, found);
            at.pop();
        }),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, value)| {
            at.push(Step::Item(i));
            found.push(at.clone());
            paths(value, at, found);
            at.pop();
        }),
        _ => {}
    }
}

#[derive(Clone, Debug)]
enum Step {
    Field(String),
    Item(usize),
}

fn value_at<'a>(value: &'a mut Value, path: &[Step]) -> &'a mut Value {
    path.iter().fold(value, |value, step| match step {
        Step::Field(name) => &mut value[name.as_str()],
        Step::Item(i) => &mut value[*i],
    })
}

fn remove_at(value: &mut Value, path: &[Step]) {
    let (last, before) = path.split_last().unwrap();
    let parent = value_at(value, before);
    match (last, parent) {
        (Step::Field(name), Value::Object(fields)) => drop(fields.remove(name)),
        (Step::Item(i), Value::Array(items)) => drop(items.remove(*i)),
        _ => unreachable!("a path leads there"),
    }
}

/// What a value may be changed to.
fn others(value: &Value) -> Vec<Value> {
    match value {
        Value::Number(number) => {
            let number = number.as_u64().unwrap_or(0);
            vec![json!(number + 1), json!(number.saturating_sub(1)), json!(0), json!(number.to_string())]
        }
        Value::String(text) if text.parse::<u64>().is_err() && text.contains('T') && text.ends_with('Z') => {
            vec![
                json!("2026-01-01T00:00:00.000000Z"),
                json!("2036-01-01T00:00:00.000000Z"),
                json!("yesterday"),
            ]
        }
        Value::String(text) => {
            let words = ["exclusive", "shared", "released", "forced", "lease_expired", "advance", "other"];
            words.iter().filter(|word| **word != text.as_str()).map(|word| json!(word)).collect()
        }
        _ => Vec::new(),
    }
}

/// The records from `at` on chained again to what stands before them: only the rules can find what is wrong.
fn chained(lines: &[Vec<u8>], at: usize, changed: &Value) -> Vec<Vec<u8>> {
    let mut chained = lines[..at].to_vec();
    chained.push(serde_json::to_vec(changed).unwrap());
    for line in &lines[at + 1..] {
        let mut record: Value = serde_json::from_slice(line).unwrap();
        record["prev"] = json!(hash_of(chained.last().unwrap()).to_string());
        chained.push(serde_json::to_vec(&record).unwrap());
    }
    chained
}

/// Every field of every record of the golden log changed or left out, and the chain made good again: whatever the
/// one verifier makes of it, the other does.
#[test]
fn both_judge_every_changed_field_the_same() {
    let mut cases = Cases::new();
    let lines = cases.lines.clone();
    for (at, line) in lines.iter().enumerate() {
        let record: Value = serde_json::from_slice(line).unwrap();
        let mut found = Vec::new();
        paths(&record, &mut Vec::new(), &mut found);
        for path in found {
            // The chain's own field is made good again.
            if matches!(path.as_slice(), [Step::Field(name)] if name == "prev") {
                continue;
            }
            let mut changes = Vec::new();
            let mut without = record.clone();
            remove_at(&mut without, &path);
            changes.push(("left out".to_owned(), without));
            for other in others(value_at(&mut record.clone(), &path)) {
                let mut changed = record.clone();
                *value_at(&mut changed, &path) = other.clone();
                changes.push((format!("is {other}"), changed));
            }
            for (how, changed) in changes {
                let name = format!("record {at}, {path:?} {how}");
                cases.add(name, &chained(&lines, at, &changed), |_| {});
            }
        }
    }
    let agreed = cases.agreed();
    let refused = agreed.iter().filter(|(_, verdict)| *verdict != Verdict::Clean).count();
    println!("{} changed logs, {refused} of them refused", agreed.len());
    assert!(refused > 500, "{refused} of {}", agreed.len());
}
