//! Checkpoints: used, not usable, forged, and what is kept.

use super::*;
use crate::log::chain::hash_of;
use crate::log::checkpoint::{Draft, Manifest};

/// Appends a record and waits for its proof.
fn append(log: &mut FileLog, sealed: &Sealed) {
    log.append(std::slice::from_ref(sealed)).unwrap();
    while log.proofs().through() != Some(sealed.record.index) {
        std::thread::yield_now();
    }
}

/// Makes a checkpoint of everything that is there, `between` records before its own record, and stores it.
fn checkpoint(log: &mut FileLog, chain: &mut Chain, body: &str, between: usize) -> Manifest {
    let mut reader = log.reader(None);
    while reader.next().unwrap().is_some() {}
    let draft = Draft::new(reader.cursor().unwrap(), body.into());
    for _ in 0..between {
        append(log, chain.push());
    }
    append(log, chain.push_checkpoint(draft.event()));
    let record = loop {
        let record = reader.next().unwrap().unwrap();
        if draft.is_recorded_by(&record) {
            break record;
        }
    };
    log.checkpoints().store(&draft, &record).unwrap()
}

/// A closed log with two checkpoints, of records 3 and 9, and two records after them.
fn with_two(options: &Options) -> (tempfile::TempDir, Chain) {
    let mut chain = Chain::of(4);
    let dir = written(&chain, options.clone());
    let (mut log, ..) = open(dir.path(), options.clone()).unwrap();
    checkpoint(&mut log, &mut chain, "first body\n", 2);
    for _ in 0..3 {
        append(&mut log, chain.push());
    }
    checkpoint(&mut log, &mut chain, "second body\n", 1);
    append(&mut log, chain.push());
    append(&mut log, chain.push());
    log.close().unwrap();
    (dir, chain)
}

fn file(dir: &Path, of: u64, extension: &str) -> PathBuf {
    dir.join(format!("checkpoint-{of:020}.{extension}"))
}

#[test]
fn a_start_reads_the_newest_and_the_tail() {
    for options in [small(), Options::default()] {
        let (dir, chain) = with_two(&options);
        let (log, opened, replayed) = open(dir.path(), options.clone()).unwrap();
        assert_eq!((opened.checkpoint, opened.records), (Some(9), 4));
        assert_eq!(opened.unusable, []);
        assert_eq!(replayed.checkpoint, Some((9, b"second body\n".to_vec())));
        assert_eq!(replayed.records, chain.all[10..]);
        assert_eq!(opened.tip.unwrap().hash, chain.all.last().unwrap().hash);
        log.close().unwrap();
    }
}

#[test]
fn a_flipped_bit_matters_where_it_is_read() {
    let (dir, chain) = with_two(&Options::default());
    let dir = copy(dir.path());
    let path = &segment_paths(dir.path())[0];
    let text = fs::read(path).unwrap();
    let line_ends: Vec<_> = text.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i).collect();
    for at in (0..text.len()).step_by(3) {
        let mut flipped = text.clone();
        flipped[at] ^= 4;
        fs::write(path, &flipped).unwrap();
        let result = open(dir.path(), Options::default());
        if at <= line_ends[9] {
            let (log, opened, replayed) = result.unwrap();
            log.close().unwrap();
            assert_eq!((opened.checkpoint, replayed.records.len()), (Some(9), 4), "byte {at}");
        } else {
            let damage = damage_of(result);
            let line = line_ends.iter().filter(|&&end| end < at).count() as u64 + 1;
            assert_eq!((damage.line, damage.index), (Some(line), Some(line - 1)), "byte {at}: {damage}");
        }
    }
    assert_eq!(chain.all.len(), 14);
}

#[test]
fn one_of_no_use_falls_back_to_the_one_before_and_to_the_start() {
    let (dir, chain) = with_two(&small());
    fs::write(file(dir.path(), 9, "jsonl"), "second bodY\n").unwrap();
    let (log, opened, replayed) = open(dir.path(), small()).unwrap();
    assert_eq!((opened.checkpoint, opened.unusable.len()), (Some(3), 1));
    assert_eq!(opened.unusable[0].0, file(dir.path(), 9, "manifest"));
    assert_eq!(replayed.checkpoint, Some((3, b"first body\n".to_vec())));
    assert_eq!(replayed.records, chain.all[4..]);
    log.close().unwrap();

    fs::remove_file(file(dir.path(), 3, "jsonl")).unwrap();
    let (opened, replayed) = start(dir.path(), small());
    assert_eq!((opened.checkpoint, opened.unusable.len()), (None, 2));
    assert_eq!((replayed.checkpoint, replayed.records), (None, chain.all));
}

#[test]
fn one_that_the_caller_cannot_read_is_of_no_use() {
    let (dir, chain) = with_two(&small());
    let mut replayed = Replayed::default();
    let (_, opened) = FileLog::open(dir.path(), small(), &mut |step| {
        if matches!(step, Step::Checkpoint { of: 9, .. }) {
            return Err("not a snapshot".into());
        }
        replayed.take(step);
        Ok(())
    })
    .unwrap();
    assert_eq!(opened.checkpoint, Some(3));
    assert_eq!(opened.unusable, [(file(dir.path(), 9, "manifest"), "not a snapshot".to_string())]);
    assert_eq!(replayed.records, chain.all[4..]);
}

#[test]
fn no_flipped_bit_of_a_checkpoint_is_believed() {
    let (dir, _) = with_two(&small());
    let dir = copy(dir.path());
    for extension in ["manifest", "jsonl"] {
        let path = file(dir.path(), 9, extension);
        let text = fs::read(&path).unwrap();
        for (at, bit) in (0..text.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = text.clone();
            flipped[at] ^= 1 << bit;
            fs::write(&path, &flipped).unwrap();
            let opened = start(dir.path(), small()).0;
            assert_eq!((opened.checkpoint, opened.unusable.len()), (Some(3), 1), "byte {at}, bit {bit}");
        }
        fs::write(&path, &text).unwrap();
    }
    assert_eq!(start(dir.path(), small()).0.checkpoint, Some(9));
}

/// Its hash must be in the chain; that its own files agree says nothing.
#[test]
fn a_forged_one_is_not_believed() {
    let (dir, chain) = with_two(&small());
    let manifest = file(dir.path(), 9, "manifest");
    let mut forged: Manifest = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    fs::write(file(dir.path(), 9, "jsonl"), "forged").unwrap();
    forged.body_hash = hash_of(b"forged");
    let write = |m: &Manifest| fs::write(&manifest, serde_json::to_string(m).unwrap() + "\n").unwrap();
    write(&forged);
    assert_eq!(start(dir.path(), small()).0.checkpoint, Some(3));

    // With its record changed to fit: the chain is broken there.
    let mut record = chain.all[forged.index as usize].record.clone();
    record.events = vec![Event::Checkpoint { of: 9, hash: forged.body_hash }];
    let sealed = Sealed::new(record);
    forged.hash = sealed.hash;
    write(&forged);
    let segment = dir.path().join(format!("{:020}.log", forged.position.segment));
    let mut text = fs::read(&segment).unwrap();
    let at = forged.position.offset as usize;
    text[at..at + sealed.line.len()].copy_from_slice(&sealed.line);
    fs::write(&segment, &text).unwrap();
    let damage = damage_of(open(dir.path(), small()));
    assert_eq!((damage.file, damage.index), (segment, Some(forged.index)));
    assert_eq!(damage.kind, DamageKind::Changed);
}

#[test]
fn one_of_another_log_is_not_believed() {
    let (dir, _) = with_two(&small());
    let mut chain = Chain::of(2);
    chain.seal(Command::Resume { by: "a".into(), reason: "b".into() }, vec![]);
    for _ in 0..12 {
        chain.push();
    }
    let other = written(&chain, small());
    for (name, bytes) in contents(dir.path()) {
        if name.file_name().unwrap().to_str().unwrap().starts_with("checkpoint") {
            fs::write(other.path().join(name.file_name().unwrap()), bytes).unwrap();
        }
    }
    let (opened, replayed) = start(other.path(), small());
    assert_eq!((opened.checkpoint, opened.unusable.len()), (None, 2));
    assert_eq!(replayed.records, chain.all);
}

/// The mark is durable before a checkpoint is: behind one, it was changed.
#[test]
fn a_mark_behind_a_checkpoint_is_damage() {
    let (dir, chain) = with_two(&Options::default());
    set_mark(dir.path(), Some(chain.mark(10)));
    let damage = damage_of(open(dir.path(), Options::default()));
    assert_eq!((damage.file, damage.kind), (mark::path(dir.path()), DamageKind::MarkBehind { at_least: 11 }));
    set_mark(dir.path(), Some(chain.mark(11)));
    start(dir.path(), Options::default());
}

#[test]
fn a_checkpoint_makes_the_mark_durable_without_syncs_too() {
    let options = Options { fsync: Fsync::Never, ..Options::default() };
    let mut chain = Chain::of(4);
    let dir = written(&chain, options.clone());
    let (mut log, ..) = open(dir.path(), options).unwrap();
    let manifest = checkpoint(&mut log, &mut chain, "body", 3);
    assert_eq!(Mark::read(dir.path()).unwrap(), Some(chain.mark(manifest.index as usize)));
}

#[test]
fn one_that_cannot_be_stored_leaves_nothing() {
    let mut chain = Chain::of(4);
    let dir = written(&chain, small());
    let (mut log, opened, _) = open(dir.path(), small()).unwrap();
    let draft = Draft::new(opened.end.unwrap(), b"body".to_vec());
    append(&mut log, chain.push_checkpoint(draft.event()));
    let mut reader = log.reader(None);
    let record = loop {
        let record = reader.next().unwrap().unwrap();
        if draft.is_recorded_by(&record) {
            break record;
        }
    };
    for extension in ["jsonl", "manifest.tmp"] {
        let in_the_way = file(dir.path(), 3, extension);
        fs::create_dir(&in_the_way).unwrap();
        log.checkpoints().store(&draft, &record).unwrap_err();
        fs::remove_dir(in_the_way).unwrap();
        let names = crate::log::file::folder::names(dir.path()).unwrap();
        assert!(!names.iter().any(|name| name.starts_with("checkpoint")), "{names:?}");
    }
    log.checkpoints().store(&draft, &record).unwrap();
    log.close().unwrap();
}

#[test]
fn the_newest_two_that_can_be_used_are_kept() {
    let (dir, mut chain) = with_two(&small());
    fs::write(file(dir.path(), 9, "jsonl"), "broken").unwrap();
    fs::write(file(dir.path(), 5, "jsonl"), "a body without a manifest").unwrap();
    fs::write(file(dir.path(), 5, "manifest.tmp"), "half").unwrap();
    let (mut log, ..) = open(dir.path(), small()).unwrap();
    assert!(!file(dir.path(), 5, "jsonl").exists() && !file(dir.path(), 5, "manifest.tmp").exists());
    checkpoint(&mut log, &mut chain, "third body", 0);
    let kept = |dir: &Path| {
        let found = crate::log::checkpoint::list(dir).unwrap();
        found.into_iter().map(|(of, _)| of).collect::<Vec<_>>()
    };
    assert_eq!(kept(dir.path()), [13, 3], "the broken one does not count");
    checkpoint(&mut log, &mut chain, "fourth body", 0);
    assert_eq!(kept(dir.path()), [14, 13]);
    assert!(!file(dir.path(), 3, "jsonl").exists() && !file(dir.path(), 9, "jsonl").exists());
    log.close().unwrap();
    assert_eq!(start(dir.path(), small()).0.checkpoint, Some(14));
}

#[test]
#[should_panic(expected = "the record is that of the draft")]
fn a_checkpoint_is_not_stored_under_another_record() {
    let mut chain = Chain::of(4);
    let dir = written(&chain, small());
    let (mut log, opened, _) = open(dir.path(), small()).unwrap();
    let draft = Draft::new(opened.end.unwrap(), b"body".to_vec());
    append(&mut log, chain.push());
    let record = log.reader(opened.end).next().unwrap().unwrap();
    let _ = log.checkpoints().store(&draft, &record);
}
