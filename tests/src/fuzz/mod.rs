//! A fuzzer for stable Rust: inputs that were good once, changed by chance, given to whatever reads what others
//! wrote. It has no coverage to go by; instead its inputs are changed as text and as JSON, and records are chained
//! again, so that what lies behind the first check is met, too.
//!
//! A run is named by target, seed and number, and these alone make its input again. What must hold: nothing panics,
//! nothing takes long, and what was understood is understood the same after it was written again.

mod folder;
mod log;
pub mod mutate;

use arbiterq::log::chain::Sealed;
use arbiterq::settings::{Sources, load};
use arbiterq::state::snapshot;
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
    scratch: tempfile::TempDir,
    folders: folder::Folders,
    log: log::Reader,
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

impl Fuzzer {
    /// With the golden files and the corpus.
    ///
    /// # Panics
    /// If they cannot be read.
    pub fn new(target: Target) -> Self {
        let golden = repository().join("client/protocol/golden");
        let scratch = crate::quick_folder();
        let folders = folder::Folders::new(scratch.path());
        let files = &folders.golden;
        let segments = files.iter().filter(|(name, _)| name.ends_with(".log"));
        let log: Vec<u8> = segments.flat_map(|(_, bytes)| bytes.clone()).collect();
        let reader = log::Reader::new(if target == Target::Log { &log } else { &[] });
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
            Target::Folder => folders.seeds(),
            Target::Settings => {
                vec![std::fs::read(repository().join("config/default.toml")).expect("settings")]
            }
        };
        let golden = if target == Target::Folder { folders.small.len() } else { seeds.len() };
        assert!(golden > 0);
        seeds.extend(files_of(&corpus(target)).into_values());
        Self { target, seeds, golden, scratch, folders, log: reader }
    }

    /// The inputs that it begins with.
    pub fn seeds(&self) -> &[Vec<u8>] {
        &self.seeds
    }

    /// The input of a run.
    pub fn input(&self, seed: u64, run: u64) -> Vec<u8> {
        let mut random = Random::new(seed, run);
        // Most folders are small: as much can be wrong in one, and it is read in a fifth of the time.
        let whole = random.below(if self.target == Target::Folder { 16 } else { 4 }) > 0;
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
            Target::Log => self.log.read(input),
            Target::Checkpoint => match snapshot::read(input) {
                Ok(state) => {
                    let again = snapshot::write(&state);
                    assert!(snapshot::read(&again).is_ok_and(|read| read == state), "written again");
                    "ok".to_owned()
                }
                Err(error) => error.to_string(),
            },
            Target::Folder => self.folders.read(input),
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
