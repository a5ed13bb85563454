//! What is checked of an arbiter that clients connect to: its folder, and itself.

use super::{Answered, Finding, LogSeen, Report, answer, clocks, genesis_of, newest};
use crate::cli::output::{Failure, exit};
use arbiterq::clock::Clock;
use arbiterq::log::chain::Sealed;
use arbiterq::log::file::{FolderLines, Mark, ReadError, measure_sync, segments};
use arbiterq::settings::Settings;
use rustix::fs::{Access, FlockOperation, access, flock, fstat, major, minor, statvfs};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

/// Room for so many segments is little.
const SEGMENTS_LEFT_MIN: u64 = 4;
/// Syncs that are measured.
const SYNCS: u32 = 32;
/// A sync that takes longer is what clients wait for.
const SYNC_LONG: Duration = Duration::from_millis(20);

pub(super) async fn check(report: &mut Report, url: &str, settings: &Settings) -> Result<(), Failure> {
    let clock = Clock::system();
    report.say(folder(settings))?;
    let answered = match url.parse() {
        Ok(url) => answer(report, url, settings, clock, exit::UNAVAILABLE).await?,
        Err(error) => {
            let failure = Failure::from(error).exit(exit::CONFIGURATION);
            report.say(Finding::failed("answer", failure).exit(exit::CONFIGURATION))?;
            None
        }
    };
    let mut logs = Vec::new();
    let mut locked = false;
    for number in 0..settings.partitions {
        let dir = settings.data.join(number.to_string());
        match log(&dir, number) {
            Ok(Some(seen)) => {
                locked |= seen.held == Some(true);
                report.say(judged(&seen, settings, clock, answered.as_ref()))?;
                logs.push(seen.log);
            }
            Ok(None) => {
                let found = format!("{}: not begun, the first `arbiter serve` does", dir.display());
                report.say(Finding::ok("log", found))?;
            }
            Err(error) => {
                let help = "`arbiter audit verify` says what is intact";
                report.say(Finding::wrong("log", error.to_string(), help))?;
            }
        }
    }
    report.say(sync(&settings.data, locked, clock))?;
    report.say(clocks(newest(&logs), answered.map(|answered| answered.asked), clock.wall()))
}

/// The data folder: there or to be made, writable, with room.
fn folder(settings: &Settings) -> Finding {
    let data = settings.data.as_path();
    let here = if data.is_absolute() { data.to_owned() } else { Path::new(".").join(data) };
    let Some(there) = here.ancestors().find(|dir| dir.exists()) else {
        return Finding::wrong(
            "data",
            format!("{}: nothing of this path is there", data.display()),
            "--data DIR",
        );
    };
    let help = "the user that runs `arbiter serve` needs a folder that it may write: --data DIR, or `data` in the settings";
    if !there.is_dir() {
        return Finding::wrong("data", format!("{} is no folder", there.display()), help);
    }
    if let Err(error) = access(there, Access::WRITE_OK | Access::EXEC_OK) {
        return Finding::wrong("data", format!("{} cannot be written: {error}", there.display()), help);
    }
    let free = match statvfs(there) {
        Ok(system) => system.f_bavail.saturating_mul(system.f_frsize),
        Err(error) => return Finding::wrong("data", format!("{}: {error}", there.display()), help),
    };
    let is_there = if there == here { "can be written" } else { "is not there yet, and can be made" };
    let found = format!("{} {is_there}, {} MiB free", data.display(), free >> 20);
    if free < SEGMENTS_LEFT_MIN * settings.grant_log.segment_bytes_max {
        let help = "a log that cannot be written stops its arbiter: make room, or name another folder with --data DIR";
        return Finding::warning("data", found, help);
    }
    Finding::ok("data", found)
}

/// What is in a partition's folder.
struct FolderSeen {
    log: LogSeen,
    durable: Option<Mark>,
    /// Whether an arbiter has it, if that can be seen.
    held: Option<bool>,
}

/// A partition's folder. None if nothing was ever written.
fn log(dir: &Path, number: u32) -> Result<Option<FolderSeen>, ReadError> {
    if !dir.exists() {
        return Ok(None);
    }
    let segments = segments(dir)?;
    let Some(last) = segments.last() else { return Ok(None) };
    let first = match FolderLines::open(dir)?.next()? {
        Some(line) if line.ended => Sealed::read(line.bytes).ok(),
        _ => None,
    };
    let newest = last_record(&last.path);
    let log = LogSeen { name: dir.display().to_string(), number, first, newest };
    Ok(Some(FolderSeen { log, durable: Mark::read(dir)?, held: is_locked(dir) }))
}

/// The last line of a segment that is a record: what follows it may be zero bytes, or half written.
fn last_record(segment: &Path) -> Option<Sealed> {
    let mut lines = BufReader::new(File::open(segment).ok()?);
    let (mut line, mut last) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        lines.read_until(b'\n', &mut line).ok()?;
        match line.strip_suffix(b"\n") {
            Some(whole) => last = whole.to_vec(),
            None => return Sealed::read(&last).ok(),
        }
    }
}

/// Whether an arbiter has the folder, by the system's list of locks: to try the lock itself would be in the way of one that
/// starts just then. None if the list does not show what is locked here.
fn is_locked(dir: &Path) -> Option<bool> {
    let folder = File::open(dir).ok()?;
    // Nobody else locks the folder itself. Some file systems are listed with another device than their files say.
    flock(&folder, FlockOperation::NonBlockingLockShared).ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let is_listed = |file: &File| {
        let stat = fstat(file).ok()?;
        let at = format!("{:02x}:{:02x}:{}", major(stat.st_dev), minor(stat.st_dev), stat.st_ino);
        Some(locks.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.any(|word| word == "FLOCK") && words.any(|word| word == at)
        }))
    };
    let is_shown = is_listed(&folder)?;
    match File::open(dir.join("lock")) {
        Ok(lock) => is_listed(&lock).filter(|_| is_shown),
        Err(error) => (error.kind() == std::io::ErrorKind::NotFound).then_some(false),
    }
}

fn judged(seen: &FolderSeen, settings: &Settings, clock: Clock, answered: Option<&Answered>) -> Finding {
    let FolderSeen { log: seen, durable, held } = seen;
    let status = answered.and_then(|answered| answered.statuses.get(seen.number as usize));
    let mut finding = seen.judge(settings, clock.wall(), status);
    if let Some(first) = seen.first.as_ref().filter(|first| genesis_of(first).is_none()) {
        let found = format!("{}: begins with record {}", seen.name, first.record.index);
        let help = "earlier segments were archived or lost: an arbiter starts from a checkpoint, and `audit verify` begins there";
        finding = Finding::warning("log", found, help);
    }
    let durable =
        durable.as_ref().map_or("nothing durable".to_owned(), |mark| format!("durable up to {}", mark.index));
    let held = match held {
        Some(true) => "an arbiter has it",
        Some(false) => "no arbiter is seen to have it",
        None => "whether an arbiter has it cannot be seen here",
    };
    finding.found = format!("{}; {durable}, {held}", finding.found);
    finding
}

/// What a sync costs where the log is.
fn sync(data: &Path, locked: bool, clock: Clock) -> Finding {
    if locked {
        let why = "an arbiter has the log, and writes";
        return Finding::not_checked("sync", why, "stop it first, if that is to be measured");
    }
    if !data.is_dir() {
        return Finding::not_checked("sync", "the folder is not there yet", "run this again when it is");
    }
    match measure_sync(data, SYNCS, &|| clock.uptime()) {
        Ok(times) => {
            let (p50, p99) = (times.p50, times.p99);
            let found =
                format!("a write of 4 KiB with its sync takes {:.1}ms, p99 {:.1}ms", ms(p50), ms(p99));
            if p50 > SYNC_LONG {
                let help = "every grant waits for one: a faster disk";
                return Finding::warning("sync", found, help);
            }
            Finding::ok("sync", found)
        }
        Err(error) => Finding::wrong(
            "sync",
            error.to_string(),
            "repair the disk, or name another folder with --data DIR",
        ),
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
