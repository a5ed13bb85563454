//! What a receipt shows and nothing else does: an end that was cut or written anew together with its durable mark.

use arbiterq::log::chain::{ChainTip, Sealed};
use arbiterq::log::record::{Command as Asked, Record};
use arbiterq_tests::binary::{Served, arbiter, run};
use arbiterq_tests::verifiers::{both_are_clean, python, python_folder};
use arbiterq_tests::{log_lines, write_folder};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// The exit codes of both verifiers, and what they say, with these receipts.
fn verdicts(folder: &Path, receipts: &[&Path]) -> ([Option<i32>; 2], String) {
    let given = || receipts.iter().flat_map(|file| ["--receipt".as_ref(), file.as_os_str()]);
    let rust = Command::new(arbiter()).args(["audit", "verify"]).arg(folder).args(given()).output().unwrap();
    let script = python_folder().join("arbiter_verify.py");
    let python = python().arg(script).arg(folder).args(given()).output().unwrap();
    let said =
        [rust.stderr, rust.stdout, python.stdout].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    ([rust.status.code(), python.status.code()], said.join("\n"))
}

/// A real log of two runs, and the receipts of both in one file.
async fn two_runs(data: &Path, receipts: &Path) -> Vec<Vec<u8>> {
    let served = Served::start(data).await;
    for _ in 0..2 {
        let file = receipts.to_str().unwrap();
        let ended = run(&served.url, &["r", "--receipt", file], &format!("test -s {file}")).ended().await;
        assert_eq!(ended.code, Some(0), "{}", ended.said);
    }
    served.stop().await;
    both_are_clean(data);
    log_lines(&data.join("0"))
}

fn index_of_the_last(receipts: &Path) -> u64 {
    let text = std::fs::read_to_string(receipts).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    last["index"].as_u64().unwrap()
}

#[tokio::test]
async fn a_log_bears_out_its_receipts_and_no_other_does() {
    let data = tempfile::tempdir().unwrap();
    let receipts = data.path().join("receipts");
    let lines = two_runs(data.path(), &receipts).await;
    let (codes, said) = verdicts(data.path(), &[&receipts]);
    assert_eq!(codes, [Some(0), Some(0)], "{said}");
    assert!(said.contains("2, borne out"), "{said}");
    let last = index_of_the_last(&receipts);

    // Cut before the last grant, with a mark that says so: only who has the receipt can tell.
    let cut = tempfile::tempdir().unwrap();
    write_folder(&cut.path().join("0"), &lines[..last as usize]);
    assert_eq!(verdicts(cut.path(), &[]).0, [Some(0), Some(0)]);
    let (codes, said) = verdicts(cut.path(), &[&receipts]);
    assert_eq!(codes, [Some(1), Some(1)], "{said}");
    assert!(said.contains(&format!("record {last}")), "{said}");

    // Written anew from the grant on, a microsecond later, and chained as it must be.
    let mut tip = ChainTip::before(0);
    let anew = lines.iter().map(|line| {
        let record = Sealed::read(line).unwrap().record;
        let later = u64::from(record.index >= last && !matches!(record.command, Asked::Tick { .. }));
        let at = record.at.plus(std::time::Duration::from_micros(later));
        let sealed = Sealed::new(Record { prev: tip.hash, at, ..record });
        assert!(tip.extend(std::slice::from_ref(&sealed)));
        sealed.line
    });
    let anew: Vec<_> = anew.collect();
    assert_ne!(anew, lines);
    let rewritten = tempfile::tempdir().unwrap();
    write_folder(&rewritten.path().join("0"), &anew);
    assert_eq!(verdicts(rewritten.path(), &[]).0, [Some(0), Some(0)]);
    let (codes, said) = verdicts(rewritten.path(), &[&receipts]);
    assert_eq!(codes, [Some(1), Some(1)], "{said}");
    assert!(said.contains(&format!("record {last}")), "{said}");

    // Another log altogether.
    let other = tempfile::tempdir().unwrap();
    two_runs(other.path(), &other.path().join("receipts")).await;
    assert_eq!(verdicts(other.path(), &[&receipts]).0, [Some(1), Some(1)]);
}

#[tokio::test]
async fn what_is_no_receipt_is_named() {
    let data = tempfile::tempdir().unwrap();
    let receipts = data.path().join("receipts");
    two_runs(data.path(), &receipts).await;
    for text in
        ["", "{}\n", "no\n", "{\"log_id\":\"x\",\"partition\":0,\"index\":1,\"hash\":\"y\",\"more\":1}\n"]
    {
        let file = data.path().join("bad");
        std::fs::write(&file, text).unwrap();
        let (codes, said) = verdicts(data.path(), &[&file]);
        assert_eq!(codes, [Some(65), Some(65)], "{text}: {said}");
    }
    // Of a partition that is not there.
    let text = std::fs::read_to_string(&receipts).unwrap().replace("\"partition\":0", "\"partition\":3");
    let file = data.path().join("elsewhere");
    std::fs::write(&file, text).unwrap();
    assert_eq!(verdicts(data.path(), &[&file]).0, [Some(1), Some(1)]);
}

#[tokio::test]
async fn no_command_starts_without_its_receipt() {
    let data = tempfile::tempdir().unwrap();
    let served = Served::start(data.path()).await;
    let nowhere = data.path().join("missing/receipts");
    let ended = run(&served.url, &["r", "--receipt", nowhere.to_str().unwrap()], "echo ran").ended().await;
    assert_eq!(ended.code, Some(125), "{}", ended.said);
    assert!(
        ended.said.contains("cannot write the receipt") && !ended.said.contains("ran\n"),
        "{}",
        ended.said
    );
    // The grant was given back: nobody waits for it.
    let ended = run(&served.url, &["r", "--try"], "true").ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    served.stop().await;
    both_are_clean(data.path());
}
