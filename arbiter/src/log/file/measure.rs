//! What a sync costs here.

use super::error::IoFailure;
use std::path::Path;
use std::time::Duration;

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

/// Measures syncs in a folder, with a file that is removed afterwards. `now` is a monotonic clock. Blocks.
///
/// # Errors
/// The system's.
pub fn measure_sync(dir: &Path, samples: u32, now: &dyn Fn() -> Duration) -> Result<SyncTimes, IoFailure> {
    unimplemented!()
}
