//! The one place where time enters the arbiter: the client library's clock, counted from the start, and the wall.

use crate::partition::Uptime;
use arbiterq_client::Clock as Steady;
use arbiterq_client::wire::Timestamp;
use std::time::{Duration, SystemTime};

/// A steady clock that also counts suspended time, and the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    steady: Steady,
    start: Duration,
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Self {
        Self::on(Steady::Boot)
    }

    /// The runtime's clock, which a test may have paused.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn of_runtime() -> Self {
        Self::on(Steady::Tokio)
    }

    fn on(steady: Steady) -> Self {
        Self { steady, start: Duration::from_micros(steady.now()) }
    }

    /// Time since this clock was made.
    pub fn uptime(&self) -> Uptime {
        Duration::from_micros(self.steady.now()).saturating_sub(self.start)
    }

    /// The wall clock.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn wall(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
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
