//! That a folder is read as it lies: segments, the durable mark, bodies of checkpoints, an end that is not finished.

use super::super::folder::Folder;
use super::super::{Progress, Promise, Report, VerifyError, verify_folder};
use super::story::story;
use crate::log::chain::hash_of;
use std::fs;
use std::path::Path;

/// Writes the story into segments that begin with these records, known durable up to `durable`.
fn written(firsts: &[usize], durable: usize) -> (tempfile::TempDir, Vec<Vec<u8>>) {
    let dir = tempfile::tempdir().unwrap();
    let lines = story().seal();
    for (i, first) in firsts.iter().enumerate() {
        let end = firsts.get(i + 1).copied().unwrap_or(lines.len());
        fs::write(segment(dir.path(), *first), text(&lines[*first..end])).unwrap();
    }
    mark(dir.path(), durable, &lines);
    (dir, lines)
}

fn segment(dir: &Path, first: usize) -> std::path::PathBuf {
    dir.join(format!("{first:020}.log"))
}

fn text(lines: &[Vec<u8>]) -> Vec<u8> {
    lines.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect()
}

fn mark(dir: &Path, index: usize, lines: &[Vec<u8>]) {
    let text = format!("{{\"index\":{index},\"hash\":\"{}\"}}", hash_of(&lines[index]));
    fs::write(dir.join("durable"), format!("{text:<127}\n")).unwrap();
}

fn verify(dir: &Path) -> Result<Report, VerifyError> {
    verify_folder(dir, &mut |_| {})
}

/// Index, line, file name and promise of the violation in a folder.
fn refused(dir: &Path) -> (u64, u64, String, Promise) {
    match verify(dir) {
        Err(VerifyError::Violation(found)) => {
            let file = found.file.as_ref().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
            (found.index, found.line, file, found.promise)
        }
        other => panic!("not refused: {other:?}"),
    }
}

const FIRST: &str = "00000000000000000000.log";
const SECOND: &str = "00000000000000000020.log";

#[test]
fn segments_are_one_log() {
    let (dir, lines) = written(&[0, 20, 40], 54);
    let mut seen: Vec<Progress> = Vec::new();
    let report = verify_folder(dir.path(), &mut |progress| seen.push(progress)).unwrap();
    assert_eq!((report.records, report.last_index, report.tip_hash), (55, 54, hash_of(&lines[54])));
    let folder = report.folder.as_ref().unwrap();
    assert_eq!((folder.segments, folder.bytes), (3, text(&lines).len() as u64));
    assert_eq!((folder.durable_index, &folder.unfinished), (Some(54), &None));
    let last = seen.last().unwrap();
    assert_eq!((last.records, last.index, last.bytes), (55, 54, last.bytes_total));
    assert!(report.to_string().contains("3 segments"), "{report}");
}

#[test]
fn other_files_are_let_be() {
    let (dir, _) = written(&[0], 54);
    for name in ["lock", "durable.tmp", "1.log.tmp", "notes.txt", "checkpoint-00000000000000000020.manifest"]
    {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    assert!(verify(dir.path()).is_ok());
}

#[test]
fn a_log_that_ends_below_the_durable_mark_was_cut() {
    let (dir, lines) = written(&[0, 20], 54);
    fs::write(segment(dir.path(), 20), text(&lines[20..50])).unwrap();
    assert_eq!(refused(dir.path()), (50, 0, "durable".to_owned(), Promise::OnTheRecord));
    // In the middle of a line.
    let mut cut = text(&lines[20..55]);
    cut.truncate(cut.len() - 10);
    fs::write(segment(dir.path(), 20), &cut).unwrap();
    assert_eq!(refused(dir.path()), (54, 35, SECOND.to_owned(), Promise::Evidence));
    // Nothing is left.
    fs::remove_file(segment(dir.path(), 20)).unwrap();
    fs::write(segment(dir.path(), 0), "").unwrap();
    assert_eq!(refused(dir.path()), (0, 0, "durable".to_owned(), Promise::OnTheRecord));
}

#[test]
fn a_last_line_without_its_line_feed_is_cut_below_the_mark_only() {
    let (dir, lines) = written(&[0], 54);
    let mut whole = text(&lines);
    whole.pop();
    fs::write(segment(dir.path(), 0), &whole).unwrap();
    assert_eq!(refused(dir.path()), (54, 55, FIRST.to_owned(), Promise::Evidence));
    mark(dir.path(), 53, &lines);
    let report = verify(dir.path()).unwrap();
    let end = report.folder.as_ref().unwrap().unfinished.as_ref().unwrap();
    assert_eq!((end.after_index, end.line, end.bytes), (53, 55, lines[54].len() as u64));
    assert!(
        report.to_string().contains("an unfinished end after record 53: not durable, ignored"),
        "{report}"
    );
}

#[test]
fn a_changed_tip_is_seen_by_its_mark() {
    let (dir, mut lines) = written(&[0], 54);
    let text_at = String::from_utf8(lines[54].clone()).unwrap().replace("25.900", "25.901");
    lines[54] = text_at.into_bytes();
    fs::write(segment(dir.path(), 0), text(&lines)).unwrap();
    assert_eq!(refused(dir.path()), (54, 55, FIRST.to_owned(), Promise::Evidence));
}

#[test]
fn what_was_never_finished_above_the_mark_is_noted() {
    let (dir, lines) = written(&[0, 20], 49);
    for rest in [&b"{\"index\":50,\"pr"[..], b"\0\0\0garbage\nmore\n", b"\n", &text(&lines[51..])] {
        let mut all = text(&lines[20..50]);
        all.extend_from_slice(rest);
        fs::write(segment(dir.path(), 20), &all).unwrap();
        let report = verify(dir.path()).unwrap();
        let end = report.folder.unwrap().unfinished.unwrap();
        assert_eq!((end.after_index, end.line, end.bytes), (49, 31, rest.len() as u64));
        // The same one record further up is damage.
        mark(dir.path(), 50, &lines);
        assert_eq!(refused(dir.path()), (50, 31, SECOND.to_owned(), Promise::Evidence));
        mark(dir.path(), 49, &lines);
    }
}

#[test]
fn zeros_that_a_file_grew_by_are_nothing() {
    let (dir, lines) = written(&[0], 54);
    let mut all = text(&lines);
    all.extend_from_slice(&[0; 5000]);
    fs::write(segment(dir.path(), 0), all).unwrap();
    assert_eq!(verify(dir.path()).unwrap().folder.unwrap().unfinished, None);
}

#[test]
fn an_unfinished_end_is_only_at_the_end() {
    let (dir, lines) = written(&[0, 20], 10);
    let mut first = text(&lines[..20]);
    first.extend_from_slice(b"{\"ind");
    fs::write(segment(dir.path(), 0), first).unwrap();
    assert_eq!(refused(dir.path()), (20, 21, FIRST.to_owned(), Promise::Evidence));
}

#[test]
fn a_broken_promise_above_the_mark_is_one() {
    let (dir, _) = written(&[0], 0);
    let mut log = story();
    log.event(22)["claims"][0]["floor"] = 22.into();
    fs::write(segment(dir.path(), 0), text(&log.seal())).unwrap();
    assert_eq!(refused(dir.path()), (22, 23, FIRST.to_owned(), Promise::Fencing));
    // What the format does not know is no record: a start cuts it there, too.
    log.event(22)["more"] = 1.into();
    fs::write(segment(dir.path(), 0), text(&log.seal())).unwrap();
    assert_eq!(verify(dir.path()).unwrap().folder.unwrap().unfinished.unwrap().after_index, 21);
}

#[test]
fn a_missing_or_garbled_mark_is_seen() {
    let (dir, _) = written(&[0], 54);
    for garbled in ["", "{\"index\":54", "{\"index\":54,\"hash\":null}", "{\"index\":54,\"hash\":\"00\"}"] {
        fs::write(dir.path().join("durable"), garbled).unwrap();
        assert_eq!(refused(dir.path()), (55, 0, "durable".to_owned(), Promise::OnTheRecord));
    }
    fs::remove_file(dir.path().join("durable")).unwrap();
    assert_eq!(refused(dir.path()), (55, 0, "durable".to_owned(), Promise::OnTheRecord));
}

#[test]
fn a_new_log_of_which_nothing_is_known_durable_is_fine() {
    let (dir, lines) = written(&[0], 54);
    fs::write(dir.path().join("durable"), format!("{:<127}\n", "{\"index\":null,\"hash\":null}")).unwrap();
    assert_eq!(verify(dir.path()).unwrap().folder.unwrap().durable_index, None);
    fs::write(segment(dir.path(), 0), &lines[0][..10]).unwrap();
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.records, report.log_id), (0, None));
    assert!(report.to_string().contains("no record yet"));
}

#[test]
fn segments_are_named_by_their_first_records() {
    let (dir, _) = written(&[0, 20, 40], 54);
    fs::rename(segment(dir.path(), 20), segment(dir.path(), 21)).unwrap();
    assert_eq!(refused(dir.path()).0, 20);
    fs::remove_file(segment(dir.path(), 21)).unwrap();
    assert_eq!(refused(dir.path()).0, 20);
    let (dir, _) = written(&[0], 54);
    fs::rename(segment(dir.path(), 0), segment(dir.path(), 1)).unwrap();
    assert_eq!(refused(dir.path()), (1, 1, "00000000000000000001.log".to_owned(), Promise::Evidence));
}

#[test]
fn only_the_last_segment_may_be_empty() {
    let (dir, _) = written(&[0, 20], 54);
    fs::write(segment(dir.path(), 55), "").unwrap();
    assert!(verify(dir.path()).is_ok());
    fs::write(segment(dir.path(), 56), "").unwrap();
    assert_eq!(refused(dir.path()), (55, 0, "00000000000000000055.log".to_owned(), Promise::Evidence));
    fs::remove_file(segment(dir.path(), 55)).unwrap();
    assert_eq!(refused(dir.path()), (55, 0, "00000000000000000056.log".to_owned(), Promise::Evidence));
}

#[test]
fn a_checkpoint_is_what_its_record_says() {
    let (dir, _) = written(&[0], 54);
    let body = dir.path().join("checkpoint-00000000000000000020.jsonl");
    fs::write(&body, "body").unwrap();
    assert_eq!(verify(dir.path()).unwrap().folder.unwrap().checkpoint_bodies, 0, "no manifest yet");
    fs::write(body.with_extension("manifest"), "{}").unwrap();
    assert_eq!(verify(dir.path()).unwrap().folder.unwrap().checkpoint_bodies, 0, "nobody starts there");
    fs::write(body.with_extension("manifest"), manifest(20, 30)).unwrap();
    assert_eq!(verify(dir.path()).unwrap().folder.unwrap().checkpoint_bodies, 1);
    fs::write(&body, "bodi").unwrap();
    let name = "checkpoint-00000000000000000020.jsonl".to_owned();
    assert_eq!(refused(dir.path()), (30, 0, name, Promise::Evidence));
}

fn manifest(of: u64, index: u64) -> String {
    let (place, hash) = (serde_json::json!({"segment": 0, "offset": 0}), hash_of(b""));
    let manifest = serde_json::json!({"of": of, "of_hash": hash, "after": place, "index": index, "hash": hash,
        "position": place, "body_hash": hash});
    format!("{manifest}\n")
}

#[test]
fn the_mark_is_not_behind_a_segment_or_a_checkpoint() {
    let (dir, lines) = written(&[0, 20, 40], 39);
    assert!(verify(dir.path()).is_ok());
    mark(dir.path(), 38, &lines);
    assert_eq!(refused(dir.path()), (39, 0, "durable".to_owned(), Promise::OnTheRecord));
    fs::write(dir.path().join("durable"), format!("{:<127}\n", "{\"index\":null,\"hash\":null}")).unwrap();
    assert_eq!(refused(dir.path()), (39, 0, "durable".to_owned(), Promise::OnTheRecord));
    let (dir, lines) = written(&[0], 30);
    fs::write(dir.path().join("checkpoint-00000000000000000020.manifest"), manifest(20, 30)).unwrap();
    assert!(verify(dir.path()).is_ok());
    mark(dir.path(), 29, &lines);
    assert_eq!(refused(dir.path()), (30, 0, "durable".to_owned(), Promise::OnTheRecord));
}

#[test]
fn a_log_may_grow_meanwhile() {
    let (dir, lines) = written(&[0, 20], 19);
    fs::write(segment(dir.path(), 20), text(&lines[20..30])).unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    // What comes between the mark and the records: more of them, another segment, a checkpoint, a higher mark.
    fs::write(segment(dir.path(), 20), text(&lines[20..50])).unwrap();
    fs::write(segment(dir.path(), 50), text(&lines[50..])).unwrap();
    fs::write(dir.path().join("checkpoint-00000000000000000020.manifest"), manifest(20, 30)).unwrap();
    mark(dir.path(), 54, &lines);
    let report = folder.verify(&mut |_| {}).unwrap();
    assert_eq!((report.last_index, report.folder.unwrap().durable_index), (49, Some(19)));
}

#[test]
fn a_log_file_that_is_no_segment_is_damage() {
    let (dir, _) = written(&[0], 54);
    fs::write(dir.path().join("1.log"), "").unwrap();
    assert_eq!(refused(dir.path()), (55, 0, "1.log".to_owned(), Promise::Evidence));
}

#[test]
fn the_first_record_is_that_of_the_name() {
    let (dir, lines) = written(&[0], 54);
    // Record 1 where the genesis should be; then a segment of its own, and nothing before it.
    fs::write(segment(dir.path(), 0), text(&lines[1..])).unwrap();
    assert_eq!(refused(dir.path()), (0, 1, FIRST.to_owned(), Promise::Evidence));
    fs::rename(segment(dir.path(), 0), segment(dir.path(), 1)).unwrap();
    assert_eq!(refused(dir.path()), (1, 1, "00000000000000000001.log".to_owned(), Promise::Evidence));
}

#[test]
fn a_folder_without_a_segment_is_a_log_if_its_mark_says_so() {
    let (dir, lines) = written(&[0], 54);
    fs::remove_file(segment(dir.path(), 0)).unwrap();
    assert_eq!(refused(dir.path()), (0, 0, "durable".to_owned(), Promise::OnTheRecord));
    fs::write(dir.path().join("durable"), format!("{:<127}\n", "{\"index\":null,\"hash\":null}")).unwrap();
    assert_eq!(verify(dir.path()).unwrap().records, 0);
    mark(dir.path(), 0, &lines);
}

#[test]
fn what_cannot_be_read_is_no_violation() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_owned(), dir.path().join("none")] {
        assert!(matches!(verify(&path), Err(VerifyError::Unreadable { .. })));
    }
    fs::create_dir(segment(dir.path(), 0)).unwrap();
    match verify(dir.path()) {
        Err(VerifyError::Unreadable { path, .. }) => assert_eq!(path, segment(dir.path(), 0)),
        other => panic!("{other:?}"),
    }
}
