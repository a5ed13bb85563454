//! What a start makes of a folder: whole, torn, damaged.

use super::*;

#[test]
fn what_was_appended_is_there_again() {
    let mut chain = Chain::of(4);
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("deep/0");
    let (mut log, opened, replayed) = open(&folder, small()).unwrap();
    assert_eq!((opened.tip, opened.end, opened.records), (None, None, 0));
    assert_eq!(replayed, Replayed::default());
    log.append(&chain.all).unwrap();
    log.close().unwrap();

    let (mut log, opened, replayed) = open(&folder, small()).unwrap();
    assert_eq!(replayed.records, chain.all);
    assert_eq!((opened.tip, opened.cut.as_ref()), (log.tip(), None));
    assert_eq!(opened.tip.unwrap().hash, chain.all[3].hash);
    assert_eq!(log.proofs().through(), Some(3));
    for _ in 0..20 {
        log.append(std::slice::from_ref(chain.push())).unwrap();
    }
    log.close().unwrap();
    assert!(segments(&folder).unwrap().len() > 5);
    assert_eq!(start(&folder, small()).1.records, chain.all);
    for (at, path) in segment_paths(&folder).iter().enumerate() {
        let bytes = fs::read(path).unwrap();
        assert!(bytes.ends_with(b"\n"), "{} ends with a line after a clean end", path.display());
        assert!(bytes.len() <= 700 || at == 0, "only an entry that is larger has a larger segment");
    }
}

#[test]
fn a_second_opener_is_told_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(dir.path(), small()).unwrap();
    let error = open(dir.path(), small()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(dir.path().to_str().unwrap()));
    log.close().unwrap();
    start(dir.path(), small());
}

#[test]
fn a_first_index_above_zero_names_the_first_segment() {
    let mut record = Chain::of(1).all.remove(0).record;
    record.index = 4812;
    let sealed = Sealed::new(record);
    let dir = tempfile::tempdir().unwrap();
    let (mut log, ..) = open(dir.path(), small()).unwrap();
    log.append(std::slice::from_ref(&sealed)).unwrap();
    log.close().unwrap();
    assert_eq!(segments(dir.path()).unwrap()[0].path.file_name().unwrap(), "00000000000000004812.log");
    assert_eq!(start(dir.path(), small()).1.records, [sealed]);
}

/// A crash may leave any part of what was not known durable, with or without zero bytes behind.
#[test]
fn a_torn_end_is_cut_at_every_byte_and_said() {
    let mut chain = Chain::of(7);
    let whole = written(&chain, Options::default());
    let name = segment_paths(whole.path())[0].file_name().unwrap().to_owned();
    let text = fs::read(whole.path().join(&name)).unwrap();
    let ends: Vec<usize> =
        text.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
    chain.push();
    for (length, zeros) in (ends[3]..=text.len()).flat_map(|n| [(n, 0), (n, 5000)]) {
        let dir = copy(whole.path());
        set_mark(dir.path(), Some(chain.mark(3)));
        let path = dir.path().join(&name);
        fs::write(&path, [&text[..length], &vec![0; zeros]].concat()).unwrap();
        let (mut log, opened, replayed) = open(dir.path(), Options::default()).unwrap();
        let kept = ends.iter().filter(|&&end| end <= length).count();
        assert_eq!(replayed.records, chain.all[..kept], "cut at byte {length}");
        let torn = length - ends[kept - 1];
        let cut = (torn > 0).then(|| Cut {
            file: path.clone(),
            line: kept as u64 + 1,
            bytes: torn as u64,
            lines: 1,
            after: Some(kept as u64 - 1),
            kind: DamageKind::CutOff,
        });
        assert_eq!(opened.cut, cut);
        assert_eq!(Mark::read(dir.path()).unwrap(), Some(chain.mark(kept - 1)));
        log.append(&chain.all[kept..]).unwrap();
        log.close().unwrap();
        assert_eq!(start(dir.path(), Options::default()).1.records, chain.all);
    }
}

#[test]
fn a_torn_genesis_leaves_an_empty_log() {
    let chain = Chain::of(1);
    let whole = written(&chain, small());
    let path = &segment_paths(whole.path())[0];
    let text = fs::read(path).unwrap();
    for length in 0..text.len() {
        let dir = copy(whole.path());
        set_mark(dir.path(), None);
        let path = dir.path().join(path.file_name().unwrap());
        fs::write(&path, &text[..length]).unwrap();
        let (log, opened, _) = open(dir.path(), small()).unwrap();
        assert_eq!((opened.tip, opened.end), (None, None));
        assert_eq!(opened.cut.map(|c| (c.bytes, c.after)), (length > 0).then_some((length as u64, None)));
        assert!(!path.exists());
        log.close().unwrap();
    }
}

#[test]
fn what_is_cut_is_counted_in_lines() {
    let chain = Chain::of(5);
    let dir = written(&chain, Options::default());
    set_mark(dir.path(), Some(chain.mark(2)));
    let path = &segment_paths(dir.path())[0];
    let text = String::from_utf8(fs::read(path).unwrap()).unwrap();
    fs::write(path, text.replacen("{\"index\":3", "{\"index\":9", 1)).unwrap();
    let cut = start(dir.path(), Options::default()).0.cut.unwrap();
    let bytes = (chain.all[3].line.len() + chain.all[4].line.len() + 2) as u64;
    assert_eq!((cut.line, cut.bytes, cut.lines, cut.after), (4, bytes, 2, Some(2)));
    assert_eq!(cut.kind, DamageKind::Index { found: 9 });
}

/// Above the mark, too, the record that was changed is cut, not only the one after it.
#[test]
fn a_changed_record_above_the_mark_is_not_kept() {
    let chain = Chain::of(6);
    let dir = written(&chain, Options::default());
    set_mark(dir.path(), Some(chain.mark(0)));
    let path = &segment_paths(dir.path())[0];
    let text = String::from_utf8(fs::read(path).unwrap()).unwrap();
    fs::write(path, text.replace("number 2", "number 3")).unwrap();
    let (opened, replayed) = start(dir.path(), Options::default());
    assert_eq!(replayed.records, chain.all[..2]);
    assert_eq!(opened.cut.unwrap().kind, DamageKind::Changed);
}

#[test]
fn every_flipped_bit_is_refused_at_its_line_and_nothing_is_changed() {
    let chain = Chain::of(8);
    let dir = copy(written(&chain, small()).path());
    let segments = segments(dir.path()).unwrap();
    assert!(segments.len() > 2);
    let before = contents(dir.path());
    let (mut index, mut flips) = (0, 0);
    for segment in &segments {
        let text = fs::read(&segment.path).unwrap();
        let mut line = 1;
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut flipped = text.clone();
                flipped[at] ^= 1 << bit;
                fs::write(&segment.path, &flipped).unwrap();
                let damage = damage_of(open(dir.path(), small()));
                let place = (damage.file.as_path(), damage.line, damage.index);
                let wanted = (&*segment.path, Some(line), Some(index));
                assert_eq!(place, wanted, "byte {at}, bit {bit}: {damage}");
                assert_eq!(damage.durable, Some(7));
                assert_eq!(fs::read(&segment.path).unwrap(), flipped);
                flips += 1;
            }
            if text[at] == b'\n' {
                line += 1;
                index += 1;
            }
        }
        fs::write(&segment.path, &text).unwrap();
    }
    assert!(flips > 10_000);
    assert_eq!(contents(dir.path()), before);
    start(dir.path(), small());
}

#[test]
fn every_flipped_bit_of_the_mark_is_refused() {
    let chain = Chain::of(13);
    let dir = copy(written(&chain, small()).path());
    let path = mark::path(dir.path());
    let text = fs::read(&path).unwrap();
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut flipped = text.clone();
            flipped[at] ^= 1 << bit;
            fs::write(&path, &flipped).unwrap();
            damage_of(open(dir.path(), small()));
        }
    }
}

/// Counterexample 44: a last line that does not parse is a torn write.
#[test]
fn an_acknowledged_record_without_its_line_feed_is_damage() {
    let chain = Chain::of(3);
    for behind in [&b""[..], &[0; 100]] {
        let dir = written(&chain, Options::default());
        let path = &segment_paths(dir.path())[0];
        let mut text = fs::read(path).unwrap();
        *text.last_mut().unwrap() ^= 1;
        text.extend_from_slice(behind);
        fs::write(path, &text).unwrap();
        let damage = damage_of(open(dir.path(), Options::default()));
        assert_eq!((damage.line, damage.index, &damage.kind), (Some(3), Some(2), &DamageKind::CutOff));
        assert!(damage.to_string().contains("line 3 (index 2)"), "{damage}");
        assert_eq!(fs::read(path).unwrap(), text);
    }
}

#[test]
fn a_mark_that_is_missing_or_behind_is_damage() {
    let chain = Chain::of(9);
    let dir = written(&chain, small());
    let last_first = segments(dir.path()).unwrap().last().unwrap().first;
    let kind_of = |mark: Option<Option<Mark>>| {
        let dir = copy(dir.path());
        match mark {
            Some(mark) => set_mark(dir.path(), mark),
            None => fs::remove_file(mark::path(dir.path())).unwrap(),
        }
        let damage = damage_of(open(dir.path(), small()));
        assert_eq!(damage.file, mark::path(dir.path()));
        damage.kind
    };
    assert_eq!(kind_of(None), DamageKind::MarkMissing);
    let behind = DamageKind::MarkBehind { at_least: last_first - 1 };
    assert_eq!(kind_of(Some(None)), behind);
    assert_eq!(kind_of(Some(Some(chain.mark(0)))), behind);
    let other = Mark { index: last_first - 1, hash: chain.all[0].hash };
    let found = chain.all[last_first as usize - 1].hash;
    assert_eq!(kind_of(Some(Some(other))), DamageKind::NotAsMarked { found, marked: other.hash });
}

#[test]
fn a_missing_segment_is_named() {
    let chain = Chain::of(9);
    let dir = written(&chain, small());
    let segments = segments(dir.path()).unwrap();
    let without = |at: usize| {
        let dir = copy(dir.path());
        let path = dir.path().join(segments[at].path.file_name().unwrap());
        fs::remove_file(&path).unwrap();
        let damage = damage_of(open(dir.path(), small()));
        (damage.file == path, damage.index, damage.kind)
    };
    assert_eq!(without(0), (false, Some(segments[1].first), DamageKind::BeginsLate));
    let (named, index, kind) = without(1);
    assert!(named && matches!(kind, DamageKind::SegmentMissing { .. }), "{kind:?}");
    assert_eq!(index, Some(segments[1].first));
    let last = segments.len() - 1;
    assert_eq!(without(last), (false, Some(segments[last].first), DamageKind::EndsEarly));
    for segment in &segments {
        fs::remove_file(&segment.path).unwrap();
    }
    assert_eq!(damage_of(open(dir.path(), small())).kind, DamageKind::EndsEarly);
}

#[test]
fn doubled_lost_and_swapped_lines_are_damage() {
    let chain = Chain::of(6);
    let dir = written(&chain, Options::default());
    let path = &segment_paths(dir.path())[0];
    let line = |i: usize| [chain.all[i].line.as_slice(), b"\n"].concat();
    let kind_of = |order: &[usize]| {
        let text: Vec<u8> = order.iter().flat_map(|&i| line(i)).collect();
        fs::write(path, text).unwrap();
        let damage = damage_of(open(dir.path(), Options::default()));
        (damage.line, damage.index, damage.kind)
    };
    assert_eq!(kind_of(&[0, 1, 2, 2, 3, 4, 5]), (Some(4), Some(3), DamageKind::Index { found: 2 }));
    assert_eq!(kind_of(&[0, 1, 3, 4, 5]), (Some(3), Some(2), DamageKind::Index { found: 3 }));
    assert_eq!(kind_of(&[0, 1, 2, 4, 3, 5]), (Some(4), Some(3), DamageKind::Index { found: 4 }));
    assert_eq!(kind_of(&[0, 1, 2, 3, 4]), (Some(6), Some(5), DamageKind::EndsEarly));
}

#[test]
fn a_stray_segment_is_damage() {
    let chain = Chain::of(6);
    let dir = written(&chain, Options::default());
    fs::write(dir.path().join("old.log"), "").unwrap();
    assert_eq!(damage_of(open(dir.path(), Options::default())).kind, DamageKind::SegmentStray);
    fs::remove_file(dir.path().join("old.log")).unwrap();
    let early = dir.path().join("00000000000000000003.log");
    fs::write(&early, "").unwrap();
    let damage = damage_of(open(dir.path(), Options::default()));
    assert_eq!((damage.file, damage.kind), (early, DamageKind::SegmentStray));
}

#[test]
fn a_line_without_an_end_is_read_in_bounded_memory() {
    let chain = Chain::of(3);
    let dir = written(&chain, Options::default());
    append_bytes(&segment_paths(dir.path())[0], &vec![b'x'; 5 * 1024 * 1024]);
    let cut = start(dir.path(), Options::default()).0.cut.unwrap();
    assert_eq!((cut.bytes, cut.lines, cut.line), (5 * 1024 * 1024, 1, 4));
}

#[test]
fn a_refused_record_is_named_and_nothing_is_changed() {
    let chain = Chain::of(6);
    let dir = written(&chain, small());
    set_mark(dir.path(), Some(chain.mark(5)));
    append_bytes(segment_paths(dir.path()).last().unwrap(), b"torn");
    let before = contents(dir.path());
    let refused = FileLog::open(dir.path(), small(), &mut |step| match step {
        Step::Record(sealed) if sealed.record.index == 2 => Err("an event of later rules".into()),
        _ => Ok(()),
    });
    match refused {
        Err(OpenError::Refused { index: 2, reason, .. }) => assert_eq!(reason, "an event of later rules"),
        other => panic!("{other:?}"),
    }
    assert_eq!(contents(dir.path()), before);
}

/// Without syncs a power cut may take anything back: the mark does not say more than is known.
#[test]
fn without_syncs_the_mark_waits_for_the_end() {
    let chain = Chain::of(3);
    let dir = tempfile::tempdir().unwrap();
    let options = Options { fsync: Fsync::Never, ..Options::default() };
    let (mut log, ..) = open(dir.path(), options.clone()).unwrap();
    let mut proofs = log.proofs();
    log.append(&chain.all).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(proofs.next()).unwrap().unwrap(), 2);
    assert_eq!(Mark::read(dir.path()).unwrap(), None);
    log.close().unwrap();
    assert_eq!(Mark::read(dir.path()).unwrap(), Some(chain.mark(2)));
    assert_eq!(start(dir.path(), options).1.records, chain.all);
}

/// What a killed process left above the mark is before the next segment, so the mark must say so by then.
#[test]
fn without_syncs_the_mark_is_not_left_behind_by_a_segment_that_a_start_begins() {
    let mut chain = Chain::of(3);
    let one: u64 = chain.all.iter().map(|sealed| sealed.line.len() as u64 + 1).sum();
    let options = Options { fsync: Fsync::Never, segment_bytes_max: one, ..Options::default() };
    let dir = written(&chain, options.clone());
    set_mark(dir.path(), None);
    let (mut log, ..) = open(dir.path(), options.clone()).unwrap();
    log.append(std::slice::from_ref(chain.push())).unwrap();
    while log.proofs().through() != Some(3) {
        std::thread::yield_now();
    }
    // Killed here.
    let killed = copy(dir.path());
    assert_eq!(segments(killed.path()).unwrap().len(), 2);
    assert_eq!(start(killed.path(), options).1.records, chain.all);
    log.close().unwrap();
}

/// After a failed sync the system may take for clean what never reached the disk: syncing it again says nothing.
#[test]
fn what_is_above_the_mark_is_written_again() {
    let chain = Chain::of(4);
    let whole = written(&chain, Options::default());
    let text = fs::read(&segment_paths(whole.path())[0]).unwrap();
    for (mark, again) in [(None, true), (Some(2), true), (Some(3), false)] {
        let dir = copy(whole.path());
        set_mark(dir.path(), mark.map(|index| chain.mark(index)));
        let path = &segment_paths(dir.path())[0];
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        fs::File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
        let (log, ..) = open(dir.path(), Options::default()).unwrap();
        assert_eq!(fs::metadata(path).unwrap().modified().unwrap() > long_ago, again, "{mark:?}");
        assert_eq!(fs::read(path).unwrap(), text);
        assert_eq!(Mark::read(dir.path()).unwrap(), Some(chain.mark(3)));
        log.close().unwrap();
    }
}
