//! What a sync costs here.

use super::error::IoFailure;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// What is written before each sync.
const WRITE_BYTES: usize = 4096;

/// How long one write of 4 KiB with its `fdatasync` took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncTimes {
    /// Half were faster.
    pub p50: Duration,
    /// One in a hundred was slower.
    pub p99: Duration,
    /// How many were measured.
    pub samples: u32,
}

/// Measures syncs in a folder, as the log does them: over zero bytes written ahead, in a file that is removed
/// afterwards. `now` is a monotonic clock; at least one sample is taken. Blocks.
///
/// # Errors
/// The system's.
pub fn measure_sync(dir: &Path, samples: u32, now: &dyn Fn() -> Duration) -> Result<SyncTimes, IoFailure> {
    let path = dir.join(format!("sync-measurement-{}.tmp", std::process::id()));
    let measured = measure(&path, samples.max(1), now);
    let removed = fs::remove_file(&path).map_err(IoFailure::of("remove", &path));
    let times = measured?;
    removed.map(|()| times)
}

fn measure(path: &Path, samples: u32, now: &dyn Fn() -> Duration) -> Result<SyncTimes, IoFailure> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path);
    let file = file.map_err(IoFailure::of("create", path))?;
    let offsets = (0..u64::from(samples)).map(|i| i * WRITE_BYTES as u64);
    for offset in offsets.clone() {
        file.write_all_at(&[0; WRITE_BYTES], offset).map_err(IoFailure::of("write", path))?;
    }
    file.sync_all().map_err(IoFailure::of("sync", path))?;
    let mut times = Vec::new();
    for offset in offsets {
        let begun = now();
        file.write_all_at(&[b'x'; WRITE_BYTES], offset).map_err(IoFailure::of("write", path))?;
        file.sync_data().map_err(IoFailure::of("sync", path))?;
        times.push(now().saturating_sub(begun));
    }
    times.sort_unstable();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
    Ok(SyncTimes { p50: at(50), p99: at(99), samples })
}
