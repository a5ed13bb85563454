//! Log folders with one file changed: a start, the verifier, the replay.
//!
//! An input is the name of a file, a line feed, and what is in it. The folders lie on a disk that is memory and stay
//! there; before each run only what is not as it was is written again.

use super::mutate::lines_of;
use super::{files_of, repository};
use arbiterq::audit::replay::{checkpoints_of, replay_folder};
use arbiterq::audit::verify::verify_folder;
use arbiterq::log::chain::{ChainTip, Sealed, hash_of};
use arbiterq::log::checkpoint::Manifest;
use arbiterq::log::file::{FileLog, Fsync, Options, Position, Step};
use arbiterq::log::record::{Command, Event, Record};
use arbiterq::state::{State, decide, snapshot};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Before the name of a file of the small folder.
const SMALL: &str = "small/";
/// Records of the golden log before the small folder's checkpoint, and behind it.
const SMALL_RECORDS: (usize, usize) = (10, 3);

/// Files by name.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// Two good log folders, each with a checkpoint and two segments.
pub(super) struct Folders {
    /// The golden log.
    pub(super) golden: Files,
    /// Its beginning.
    pub(super) small: Files,
    scratch: PathBuf,
}

impl Folders {
    pub(super) fn new(scratch: &Path) -> Self {
        let golden = files_of(&repository().join("client/protocol/golden/log/0"));
        let segments = golden.iter().filter(|(name, _)| name.ends_with(".log"));
        let segments: Vec<Vec<Sealed>> = segments.map(|(_, bytes)| records(bytes)).collect();
        let (golden, small) = (folder(&segments), folder(&small(&segments[0])));
        Self { golden, small, scratch: scratch.to_owned() }
    }

    /// The files of both as inputs, those of the small one first.
    pub(super) fn seeds(&self) -> Vec<Vec<u8>> {
        let of = |files: &Files, prefix: &str| -> Vec<Vec<u8>> {
            let files = files.iter();
            files.map(|(name, bytes)| [prefix.as_bytes(), name.as_bytes(), b"\n", bytes].concat()).collect()
        };
        [of(&self.small, SMALL), of(&self.golden, "")].concat()
    }

    /// What comes of an input.
    pub(super) fn read(&self, input: &[u8]) -> String {
        let feed = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
        let name = String::from_utf8_lossy(&input[..feed]).into_owned();
        let (files, changed, folder) = match name.strip_prefix(SMALL) {
            Some(name) => (&self.small, name, self.scratch.join("small")),
            None => (&self.golden, &*name, self.scratch.join("golden")),
        };
        let given = input.get(feed + 1..).unwrap_or_default();
        lay_out(&folder, files, files.contains_key(changed).then_some((changed, given)));
        open(&folder, changed)
    }
}

/// Sees to it that these files and no others are in a folder, one of them changed.
fn lay_out(folder: &Path, files: &Files, changed: Option<(&str, &[u8])>) {
    fs::create_dir_all(folder).expect("a folder");
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        if !entry.file_name().to_str().is_some_and(|name| files.contains_key(name)) {
            fs::remove_file(entry.path()).expect("removed");
        }
    }
    for (name, bytes) in files {
        let bytes = changed.filter(|(changed, _)| changed == name).map_or(&bytes[..], |(_, given)| given);
        let path = folder.join(name);
        if fs::read(&path).is_ok_and(|there| there == bytes) {
            continue;
        }
        fs::write(path, bytes).expect("written");
    }
}

fn open(folder: &Path, changed: &str) -> String {
    let verified = verify_folder(folder, &[], &mut |_| {});
    let replayed = replay_folder(folder, &mut |_| {});
    let open = || {
        let options = Options { fsync: Fsync::Never, ..Options::default() };
        let opened = FileLog::open(folder, options, &mut |step| match step {
            Step::Checkpoint { body, .. } => snapshot::read(body).map(drop).map_err(|e| e.to_string()),
            Step::Start | Step::Record(_) => Ok(()),
        });
        opened.map(|(log, opened)| {
            log.close().expect("closed");
            opened
        })
    };
    let outcome = match (open(), &verified) {
        (Ok(opened), _) => {
            let again = open().expect("what was opened once can be opened again");
            assert_eq!((again.tip, again.cut), (opened.tip, None), "and ends where it did");
            format!(
                "opens {:?} {}",
                opened.checkpoint,
                opened.cut.map(|cut| cut.kind.to_string()).unwrap_or_default()
            )
        }
        (Err(error), Ok(_)) if !changed.starts_with("checkpoint") => {
            panic!("clean, and it does not open: {error}")
        }
        (Err(error), _) => error.to_string(),
    };
    let verified = verified.map_or_else(|error| error.to_string(), |_| "clean".to_owned());
    let replayed = replayed.map_or_else(|error| error.to_string(), |_| "decided".to_owned());
    format!("{outcome}; {verified}; {replayed}")
}

fn records(segment: &[u8]) -> Vec<Sealed> {
    lines_of(segment).iter().map(|line| Sealed::read(line).expect("golden")).collect()
}

/// The golden log's beginning, a checkpoint of it, and a segment with what is decided then.
fn small(golden: &[Sealed]) -> [Vec<Sealed>; 2] {
    let (before, behind) = SMALL_RECORDS;
    let mut state = State::new(ChainTip::before(0));
    let mut log = golden[..before].to_vec();
    log.iter().for_each(|sealed| state.fold(sealed));
    let seal = |state: &mut State, like: &Record, command: Command, events: Vec<Event>| {
        let ChainTip { next_index: index, hash: prev } = state.tip();
        let sealed = Sealed::new(Record { index, prev, command, events, ..like.clone() });
        state.fold(&sealed);
        sealed
    };
    let of = before as u64 - 1;
    let checkpoint = Event::Checkpoint { of, hash: hash_of(&snapshot::write(&state)) };
    let like = Record { renewed: Vec::new(), ..golden[before - 1].record.clone() };
    log.push(seal(&mut state, &like, Command::Checkpoint, vec![checkpoint]));
    let segment = golden[before..before + behind].iter().map(|Sealed { record, .. }| {
        let events = decide(&state, &record.command, record.at);
        seal(&mut state, record, record.command.clone(), events)
    });
    let segment = segment.collect();
    [log, segment]
}

/// The files of a log that names a checkpoint, with its body and its manifest.
fn folder(segments: &[Vec<Sealed>]) -> Files {
    let (mut files, mut places) = (Files::new(), Vec::new());
    for records in segments {
        let segment = records[0].record.index;
        let mut bytes = Vec::new();
        for sealed in records {
            places.push((sealed, Position { segment, offset: bytes.len() as u64 }));
            bytes.extend_from_slice(&sealed.line);
            bytes.push(b'\n');
        }
        files.insert(format!("{segment:020}.log"), bytes);
    }
    let recorded = places
        .iter()
        .find_map(|(sealed, at)| checkpoints_of(&sealed.record).next().map(|named| (*sealed, *at, named)));
    let (sealed, position, (of, body_hash)) = recorded.expect("the log has a checkpoint");
    let mut state = State::new(ChainTip::before(0));
    let at = usize::try_from(of).expect("few records");
    places[..=at].iter().for_each(|(sealed, _)| state.fold(sealed));
    let body = snapshot::write(&state);
    assert_eq!(hash_of(&body), body_hash, "the log's checkpoint is of its own state");
    let (of_hash, after) = (places[at].0.hash, places[at + 1].1);
    let manifest =
        Manifest { of, of_hash, after, index: sealed.record.index, hash: sealed.hash, position, body_hash };
    let manifest = [serde_json::to_vec(&manifest).expect("JSON"), b"\n".to_vec()].concat();
    files.insert(format!("checkpoint-{of:020}.manifest"), manifest);
    files.insert(format!("checkpoint-{of:020}.jsonl"), body);
    let last = places.last().expect("a record").0;
    let mark = format!(r#"{{"index":{},"hash":"{}"}}"#, last.record.index, last.hash);
    files.insert("durable".to_owned(), format!("{mark:<127}\n").into_bytes());
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_folders_are_sound_and_stay_so() {
        let scratch = crate::quick_folder();
        let folders = Folders::new(scratch.path());
        let golden = files_of(&repository().join("client/protocol/golden/log/0"));
        assert!(golden.iter().all(|(name, bytes)| folders.golden.get(name) == Some(bytes)));
        for _ in 0..2 {
            for seed in folders.seeds() {
                let outcome = folders.read(&seed);
                assert!(
                    outcome.starts_with("opens Some") && outcome.ends_with("; clean; decided"),
                    "{outcome}"
                );
                // What a run leaves behind is not met in the next.
                let feed = seed.iter().position(|byte| *byte == b'\n').expect("a name");
                assert_ne!(folders.read(&seed[..=feed + 9]), outcome);
            }
        }
    }
}
