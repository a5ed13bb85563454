//! The one place where time enters.

use crate::partition::Uptime;
use arbiterq_client::wire::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// A steady clock that also counts suspended time, and the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Duration,
    /// The steady clock is the runtime's, which tests can pause.
    paused: Option<tokio::time::Instant>,
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Self {
        Self { start: boot_time(), paused: None }
    }

    /// The runtime's clock, which a test may have paused.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn of_runtime() -> Self {
        Self { start: Duration::ZERO, paused: Some(tokio::time::Instant::now()) }
    }

    /// Time since this clock was made.
    pub fn uptime(&self) -> Uptime {
        match self.paused {
            Some(start) => start.elapsed(),
            None => boot_time().saturating_sub(self.start),
        }
    }

    /// The wall clock.
    pub fn wall(&self) -> Timestamp {
        Timestamp::from_micros(u64::try_from(of(ClockId::Realtime).as_micros()).unwrap_or(u64::MAX))
    }

    /// Waits until an uptime; for ever without one.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn until(&self, uptime: Option<Uptime>) {
        match uptime {
            Some(uptime) => tokio::time::sleep(uptime.saturating_sub(self.uptime())).await,
            None => std::future::pending().await,
        }
    }
}

fn boot_time() -> Duration {
    of(ClockId::Boottime)
}

fn of(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
