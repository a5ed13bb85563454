//! A fuzzer for stable Rust: inputs that were good once, changed by chance, given to whatever reads what others
//! wrote. It has no coverage to go by; instead its inputs are changed as text and as JSON, and records are chained
//! again, so that what lies behind the first check is met, too.
//!
//! A run is named by target, seed and number, and these alone make its input again. What must hold: nothing panics,
//! nothing takes long, and what was understood is understood the same after it was written again.

pub mod mutate;

use arbiterq::audit::replay::{Replay, checkpoints_of, replay_folder};
use arbiterq::audit::verify::{Verifier, verify_folder};
use arbiterq::log::chain::{ChainTip, Sealed, hash_of};
use arbiterq::log::checkpoint::Manifest;
use arbiterq::log::file::{FileLog, Fsync, Options, Position, Step};
use arbiterq::settings::{Sources, load};
use arbiterq::state::{State, snapshot};
use arbiterq_client::wire::{Reply, Request};
use mutate::{Random, chained, lines_of, mutate};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One input takes at most so long, on a machine that has other things to do.
pub const RUN_MAX: Duration = Duration::from_secs(5);

/// The whole process with all its inputs takes at most so much: an input that asks for more than it has is seen.
pub const MEMORY_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// The most memory that this process has had.
///
/// # Panics
/// If the system does not say.
pub fn memory_bytes() -> u64 {
    let status =
        std::fs::read_to_string("/proc/self/status").expect("the system says how much memory it takes");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// What reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// `Request::decode`.
    Request,
    /// `Reply::decode`.
    Reply,
    /// `Sealed::read`.
    Record,
    /// The verifier and the replay of a log, line by line.
    Log,
    /// The body of a checkpoint.
    Checkpoint,
    /// A log folder with one file changed: a start, the verifier, the replay.
    Folder,
    /// The file of settings.
    Settings,
}

/// All of them.
pub const TARGETS: [Target; 7] = [
    Target::Request,
    Target::Reply,
    Target::Record,
    Target::Log,
    Target::Checkpoint,
    Target::Folder,
    Target::Settings,
];

impl Target {
    /// As it is named on a command line and in the corpus.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Reply => "reply",
            Self::Record => "record",
            Self::Log => "log",
            Self::Checkpoint => "checkpoint",
            Self::Folder => "folder",
            Self::Settings => "settings",
        }
    }
}

/// A target with the inputs to begin with.
pub struct Fuzzer {
    target: Target,
    seeds: Vec<Vec<u8>>,
    /// So many of them, the first, are whole; the corpus is of parts and of what was refused.
    golden: usize,
    /// The files of a good log folder.
    files: BTreeMap<String, Vec<u8>>,
    scratch: tempfile::TempDir,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder of inputs that were worth keeping.
pub fn corpus(target: Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/fuzz").join(target.name())
}

fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().is_file());
    files
        .map(|entry| {
            (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).expect("a file"))
        })
        .collect()
}

/// The golden log's folder with the checkpoint that it names: its body, its manifest.
fn golden_folder() -> BTreeMap<String, Vec<u8>> {
    let mut files = files_of(&repository().join("client/protocol/golden/log/0"));
    let mut places = Vec::new();
    for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with(".log")) {
        let segment: u64 = name[..20].parse().expect("a segment");
        let mut offset = 0;
        for line in lines_of(bytes) {
            let length = line.len() as u64 + 1;
            places.push((Sealed::read(&line).expect("golden"), Position { segment, offset }));
            offset += length;
        }
    }
    let recorded = places.iter().find_map(|(sealed, position)| {
        checkpoints_of(&sealed.record)
            .next()
            .map(|(of, body_hash)| (sealed.clone(), *position, of, body_hash))
    });
    let (sealed, position, of, body_hash) = recorded.expect("the golden log has a checkpoint");
    let mut state = State::new(ChainTip::before(0));
    let at = usize::try_from(of).expect("few records");
    places[..=at].iter().for_each(|(sealed, _)| state.fold(sealed));
    let body = snapshot::write(&state);
    assert_eq!(hash_of(&body), body_hash, "the golden log's checkpoint is of its own state");
    let (of_hash, after) = (places[at].0.hash, places[at + 1].1);
    let manifest =
        Manifest { of, of_hash, after, index: sealed.record.index, hash: sealed.hash, position, body_hash };
    let manifest = [serde_json::to_vec(&manifest).expect("JSON"), b"\n".to_vec()].concat();
    files.insert(format!("checkpoint-{of:020}.manifest"), manifest);
    files.insert(format!("checkpoint-{of:020}.jsonl"), body);
    files
}

impl Fuzzer {
    /// With the golden files and the corpus.
    ///
    /// # Panics
    /// If they cannot be read.
    pub fn new(target: Target) -> Self {
        let golden = repository().join("client/protocol/golden");
        let files = golden_folder();
        let segments = files.iter().filter(|(name, _)| name.ends_with(".log"));
        let log: Vec<u8> = segments.flat_map(|(_, bytes)| bytes.clone()).collect();
        let messages = |kind: &str| -> Vec<Vec<u8>> {
            files_of(&golden.join("messages").join(kind)).values().flat_map(|bytes| lines_of(bytes)).collect()
        };
        let mut seeds = match target {
            Target::Request => {
                let refused =
                    files_of(&golden.join("refused")).into_values().filter(|bytes| bytes.len() < 4096);
                messages("requests").into_iter().chain(refused).collect()
            }
            Target::Reply => messages("replies"),
            Target::Record => lines_of(&log),
            Target::Log => vec![log],
            Target::Checkpoint => {
                files.iter().filter(|(n, _)| n.ends_with(".jsonl")).map(|(_, b)| b.clone()).collect()
            }
            Target::Folder => {
                files.iter().map(|(name, bytes)| [name.as_bytes(), b"\n", &bytes[..]].concat()).collect()
            }
            Target::Settings => {
                vec![std::fs::read(repository().join("config/default.toml")).expect("settings")]
            }
        };
        let golden = seeds.len();
        assert!(golden > 0);
        seeds.extend(files_of(&corpus(target)).into_values());
        Self { target, seeds, golden, files, scratch: crate::quick_folder() }
    }

    /// The inputs that it begins with.
    pub fn seeds(&self) -> &[Vec<u8>] {
        &self.seeds
    }

    /// The input of a run.
    pub fn input(&self, seed: u64, run: u64) -> Vec<u8> {
        let mut random = Random::new(seed, run);
        let whole = random.below(4) > 0;
        let mut input =
            random.one_of(&self.seeds[..if whole { self.golden } else { self.seeds.len() }]).clone();
        let other = random.one_of(&self.seeds).clone();
        match self.target {
            Target::Log if random.below(4) > 0 => chained(&input, &mut random),
            Target::Folder => {
                // The name stays.
                let name = input.iter().position(|byte| *byte == b'\n').unwrap_or(0) + 1;
                let mut bytes = input.split_off(name.min(input.len()));
                mutate(&mut bytes, &other, &mut random);
                [input, bytes].concat()
            }
            _ => {
                mutate(&mut input, &other, &mut random);
                input
            }
        }
    }

    /// Gives an input to the target. What came of it, in few words, or what must not have happened.
    ///
    /// # Errors
    /// It panicked, took too long, or is not the same once written again.
    #[expect(clippy::disallowed_methods, reason = "how long it takes is what is measured")]
    pub fn run(&self, input: &[u8]) -> Result<String, String> {
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.read(input)));
        let took = begun.elapsed();
        match outcome {
            Err(panic) => {
                let said = panic.downcast_ref::<String>().cloned();
                Err(said
                    .or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()))
                    .unwrap_or_default())
            }
            Ok(_) if took > RUN_MAX => Err(format!("it took {took:?}")),
            Ok(outcome) => Ok(outcome),
        }
    }

    fn read(&self, input: &[u8]) -> String {
        match self.target {
            Target::Request => match Request::decode(input) {
                Ok(request) => {
                    assert_eq!(
                        Request::decode(&request.encode()).ok(),
                        Some(request.clone()),
                        "written again"
                    );
                    format!("ok {}", request.body.kind())
                }
                Err(error) => format!("{error:?}"),
            },
            Target::Reply => match Reply::decode(input) {
                Ok(Some(reply)) => {
                    assert_eq!(
                        Reply::decode(&reply.encode()).ok(),
                        Some(Some(reply.clone())),
                        "written again"
                    );
                    format!("ok {}", reply.body.kind())
                }
                Ok(None) => "unknown".to_owned(),
                Err(error) => error.to_string(),
            },
            Target::Record => match Sealed::read(input) {
                Ok(sealed) => {
                    let again = Sealed::new(sealed.record.clone());
                    let read = Sealed::read(&again.line).expect("written again");
                    assert_eq!((read.record, read.hash), (sealed.record, again.hash));
                    "ok".to_owned()
                }
                Err(error) => error.to_string(),
            },
            Target::Log => read_log(input),
            Target::Checkpoint => match snapshot::read(input) {
                Ok(state) => {
                    let again = snapshot::write(&state);
                    assert!(snapshot::read(&again).is_ok_and(|read| read == state), "written again");
                    "ok".to_owned()
                }
                Err(error) => error.to_string(),
            },
            Target::Folder => self.read_folder(input),
            Target::Settings => {
                let file = self.scratch.path().join("settings.toml");
                std::fs::write(&file, input).expect("written");
                match load(&Sources { file: Some(file), ..Sources::default() }) {
                    Ok(loaded) => {
                        assert_eq!(loaded.settings.check(), [], "what was loaded is sound");
                        "ok".to_owned()
                    }
                    Err(problems) => problems.first().expect("a problem").problem.clone(),
                }
            }
        }
    }

    fn read_folder(&self, input: &[u8]) -> String {
        let feed = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
        let changed = String::from_utf8_lossy(&input[..feed]).into_owned();
        let folder = self.scratch.path().join("log");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).expect("a folder");
        for (name, bytes) in &self.files {
            let bytes = if *name == changed { input.get(feed + 1..).unwrap_or_default() } else { bytes };
            std::fs::write(folder.join(name), bytes).expect("written");
        }
        let verified = verify_folder(&folder, &[], &mut |_| {});
        let replayed = replay_folder(&folder, &mut |_| {});
        let open = || {
            let options = Options { fsync: Fsync::Never, ..Options::default() };
            let opened = FileLog::open(&folder, options, &mut |step| match step {
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
}

/// Reads lines as the verifier and the replay do, each up to the first that it refuses.
fn read_log(input: &[u8]) -> String {
    let lines: Vec<_> = input.split(|byte| *byte == b'\n').collect();
    let mut verifier = Verifier::new();
    let refused = lines.iter().find_map(|line| verifier.line(line).err());
    let records: Vec<_> = lines.iter().map_while(|line| Sealed::read(line).ok()).collect();
    let named = records.iter().flat_map(|sealed| checkpoints_of(&sealed.record));
    let mut replay = Replay::new(records.first().map_or(0, |first| first.record.index), named);
    let mut differs = None;
    for sealed in &records {
        if !replay.is_next(sealed) {
            break;
        }
        if let Err(error) = replay.record(sealed) {
            differs = Some(error.to_string());
            break;
        }
    }
    let refused = refused.map_or_else(|| "clean".to_owned(), |violation| violation.what);
    format!("{refused}; {}", differs.unwrap_or_else(|| "decided".to_owned()))
}

/// The words of an outcome without its numbers and without what it quotes: inputs that differ in it are different
/// kinds of inputs.
pub fn kind_of(outcome: &str) -> String {
    let mut kind = String::new();
    let mut quote = None;
    for c in outcome.chars() {
        match quote {
            Some(end) if c != end => continue,
            Some(_) => quote = None,
            None if matches!(c, '"' | '`') => quote = Some(c),
            None => {}
        }
        let c = if c.is_ascii_digit() { '#' } else { c };
        if !(c == '#' && kind.ends_with('#')) {
            kind.push(c);
        }
    }
    kind.chars().take(160).collect()
}
