use super::*;
use arbiterq_client::wire::{Hash, Reason};
use std::path::PathBuf;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../client/protocol/golden/log/0")
}

fn records() -> Vec<Record> {
    let mut lines = FolderLines::open(&golden()).unwrap();
    let mut records = Vec::new();
    while let Some(line) = lines.next().unwrap() {
        records.push(Sealed::read(line.bytes).unwrap().record);
    }
    records
}

/// Chains records anew and replays them.
fn replayed(records: Vec<Record>) -> Result<Report, ReplayError> {
    let mut tip = ChainTip::before(records[0].index);
    let checkpoints: Vec<_> = records.iter().flat_map(checkpoints_of).collect();
    let mut replay = Replay::new(tip.next_index, checkpoints);
    for record in records {
        let sealed = Sealed::new(Record { index: tip.next_index, prev: tip.hash, ..record });
        assert!(tip.extend(std::slice::from_ref(&sealed)) && replay.is_next(&sealed));
        replay.record(&sealed)?;
    }
    Ok(replay.finish())
}

fn first_difference(records: Vec<Record>) -> Difference {
    match replayed(records).unwrap_err() {
        ReplayError::Differs(difference) => *difference,
        other => panic!("{other}"),
    }
}

/// The index of the first record with such an event.
fn find(records: &[Record], is_it: impl Fn(&Event) -> bool) -> usize {
    records.iter().position(|record| record.events.iter().any(&is_it)).unwrap()
}

#[test]
fn the_golden_log_is_what_the_rules_make_of_it() {
    let report = replay_folder(&golden(), &mut |_| {}).unwrap();
    assert_eq!(report.records, records().len() as u64);
    assert!(report.checkpoints > 0 && report.unfinished.is_none());
    assert_eq!(replayed(records()).unwrap(), report);
}

#[test]
fn a_refusal_that_was_not_due_is_found() {
    let mut records = records();
    let at = find(&records, |event| matches!(event, Event::Refused { .. }));
    let Event::Refused { reason, .. } = &mut records[at].events[0] else { unreachable!() };
    assert_ne!(*reason, Reason::WaitersMax);
    *reason = Reason::WaitersMax;
    let difference = first_difference(records);
    assert_eq!(difference.index, at as u64);
    assert!(difference.found.contains("waiters_max") && !difference.decided.contains("waiters_max"));
}

#[test]
fn an_event_that_is_left_out_is_found() {
    let records = records();
    for (at, record) in records.iter().enumerate() {
        for event in 0..record.events.len() {
            let mut changed = records.clone();
            changed[at].events.remove(event);
            assert_eq!(first_difference(changed).index, at as u64, "event {event} of record {at}");
        }
    }
}

#[test]
fn a_checkpoint_of_another_memory_is_found_at_its_record() {
    let mut records = records();
    let at = find(&records, |event| matches!(event, Event::Checkpoint { .. }));
    let Event::Checkpoint { of, hash } = &mut records[at].events[0] else { unreachable!() };
    *hash = Hash([7; 32]);
    let of = *of;
    assert_eq!(first_difference(records).index, of);
}

#[test]
fn a_record_that_changes_nothing_is_found() {
    let mut records = records();
    let opened = find(&records, |event| matches!(event, Event::Opened { .. }));
    // The key of a live session again: its `opened` would be repeated, without a record.
    let mut again = records[opened].clone();
    again.events.clear();
    records.insert(opened + 1, again);
    assert_eq!(first_difference(records).index, opened as u64 + 1);
}

#[test]
fn newer_rules_are_not_replayed() {
    let mut records = records();
    let at = find(&records, |event| matches!(event, Event::EpochStarted { .. }));
    let Event::EpochStarted { rules, .. } = &mut records[at].events[0] else { unreachable!() };
    *rules += 1;
    let error = replayed(records).unwrap_err();
    assert!(matches!(error, ReplayError::Rules { rules, .. } if rules == RULES + 1), "{error}");
}

fn copy_of_golden() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

#[test]
fn an_end_that_was_written_anew_is_not_what_is_known_durable() {
    let dir = copy_of_golden();
    let file = crate::log::file::segments(dir.path()).unwrap().pop().unwrap().path;
    let whole = std::fs::read(&file).unwrap();
    let begin = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    let mut last = records().pop().unwrap();
    last.at = last.at.plus_ms(1);
    let line = Sealed::new(last).line;
    std::fs::write(&file, [&whole[..begin], &line[..], b"\n"].concat()).unwrap();
    let error = replay_folder(dir.path(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, ReplayError::Damaged { .. }), "{error}");
}

#[test]
fn an_end_is_ignored_above_the_mark_only() {
    let dir = copy_of_golden();
    let last = crate::log::file::segments(dir.path()).unwrap().pop().unwrap().path;
    let whole = std::fs::read(&last).unwrap();
    std::fs::write(&last, [&whole, b"{\"index\":".as_slice()].concat()).unwrap();
    let report = replay_folder(dir.path(), &mut |_| {}).unwrap();
    assert!(report.unfinished.is_some());
    std::fs::write(&last, &whole[..whole.len() - 1]).unwrap();
    let error = replay_folder(dir.path(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, ReplayError::Damaged { .. }), "{error}");
    let cut = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    std::fs::write(&last, &whole[..cut]).unwrap();
    let error = replay_folder(dir.path(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, ReplayError::Cut { .. }), "{error}");
}
