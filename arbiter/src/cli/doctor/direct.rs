//! What is checked of an arbiter that clients connect to: its folder, and itself.

use super::{Answered, Finding, LogSeen, Report, answer, clocks, genesis_of, newest};
use crate::cli::output::{Failure, exit};
use arbiterq::clock::Clock;
use arbiterq::log::chain::Sealed;
use arbiterq::log::file::{FolderLines, Mark, ReadError, measure_sync, segments};
use arbiterq::settings::Settings;
use rustix::fs::{Access, FlockOperation, access, flock, statvfs};
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
            Ok(Some((seen, durable, held))) => {
                locked |= held;
                report.say(judged(&seen, settings, clock, answered.as_ref(), durable, held))?;
                logs.push(seen);
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

/// A partition's folder: its first and its newest record, the mark, and whether somebody has it. None if nothing was ever
/// written.
fn log(dir: &Path, number: u32) -> Result<Option<(LogSeen, Option<Mark>, bool)>, ReadError> {
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
    let seen = LogSeen { name: dir.display().to_string(), number, first, newest };
    Ok(Some((seen, Mark::read(dir)?, is_locked(dir))))
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

/// Whether an arbiter has the folder. To know it the lock is taken for a moment, beside others that only look.
fn is_locked(dir: &Path) -> bool {
    let lock = File::open(dir.join("lock"));
    lock.is_ok_and(|lock| {
        flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    })
}

fn judged(
    seen: &LogSeen,
    settings: &Settings,
    clock: Clock,
    answered: Option<&Answered>,
    durable: Option<Mark>,
    held: bool,
) -> Finding {
    let status = answered.and_then(|answered| answered.statuses.get(seen.number as usize));
    let mut finding = seen.judge(settings, clock.wall(), status);
    if let Some(first) = seen.first.as_ref().filter(|first| genesis_of(first).is_none()) {
        let found = format!("{}: begins with record {}", seen.name, first.record.index);
        let help = "earlier segments were archived or lost: an arbiter starts from a checkpoint, and `audit verify` begins there";
        finding = Finding::warning("log", found, help);
    }
    let durable =
        durable.map_or("nothing durable".to_owned(), |mark| format!("durable up to {}", mark.index));
    let held = if held { "an arbiter has it" } else { "no arbiter has it" };
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
