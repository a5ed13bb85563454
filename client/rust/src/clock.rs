//! The one place where time enters: a clock that counts suspended time, and a timer on it.
//!
//! A lease goes on running while a machine sleeps, so it is counted on the boot-time clock, and a holder finds
//! out as soon as it wakes. Everything else in this library is told the time.

use std::sync::OnceLock;
use std::time::Duration;
use tokio::time::Instant;

/// A moment on a [`Clock`], in microseconds. Comparable within one machine's boot only.
pub type Micros = u64;

/// Which clock leases are counted on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// The time since the machine booted, suspended time included.
    #[default]
    Boot,
    /// The runtime's own clock, which tests may pause. It does not count suspended time.
    Tokio,
}

/// Where the runtime's clock starts for us: far from 0, so that moments before the first look can be told.
const TOKIO_BASE: Micros = 1_000_000_000_000;

impl Clock {
    /// The present moment.
    pub fn now(self) -> Micros {
        match self {
            Self::Boot => boot_now(),
            Self::Tokio => {
                static BASE: OnceLock<Instant> = OnceLock::new();
                let now = Instant::now();
                let base = *BASE.get_or_init(|| now);
                match now.checked_duration_since(base) {
                    Some(since) => TOKIO_BASE + micros(since),
                    None => TOKIO_BASE.saturating_sub(micros(base.duration_since(now))),
                }
            }
        }
    }
}

/// A duration in microseconds. Saturates.
pub(crate) fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn boot_now() -> Micros {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // Neither part is negative on this clock.
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000
}

/// Without a boot-time clock: the larger of monotonic and wall time elapsed.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn boot_now() -> Micros {
    use std::time::SystemTime;
    static BASE: OnceLock<(std::time::Instant, SystemTime)> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    let (monotonic, wall) = (std::time::Instant::now(), SystemTime::now());
    let base = BASE.get_or_init(|| (monotonic, wall));
    let wall = wall.duration_since(base.1).unwrap_or_default();
    TOKIO_BASE + micros(monotonic.duration_since(base.0).max(wall))
}

/// Wakes at moments of a [`Clock`].
///
/// The runtime's own timers stand still while the machine is suspended; on the boot-time clock this one asks
/// the kernel for a timer that does not, or, where there is none, looks again every [`LOOK_AGAIN`].
#[derive(Debug)]
pub(crate) struct Timer {
    clock: Clock,
    #[cfg(target_os = "linux")]
    kernel: Option<KernelTimer>,
}

/// How often a timer without the kernel's help looks at the clock.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

impl Timer {
    /// A timer on `clock`. Needs a runtime.
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            #[cfg(target_os = "linux")]
            kernel: if clock == Clock::Boot { KernelTimer::new().ok() } else { None },
        }
    }

    /// Returns at or shortly after `deadline`; never without one.
    ///
    /// # Cancel safety
    /// Holds nothing between calls but the kernel's setting, which wakes too early at worst.
    pub(crate) async fn until(&mut self, deadline: Option<Micros>) {
        let Some(deadline) = deadline else { return std::future::pending().await };
        loop {
            let now = self.clock.now();
            if now >= deadline {
                return;
            }
            #[cfg(target_os = "linux")]
            if let Some(kernel) = &mut self.kernel
                && kernel.wait(deadline).await.is_ok()
            {
                continue;
            }
            let left = Duration::from_micros(deadline - now);
            let slice = if self.clock == Clock::Boot { left.min(LOOK_AGAIN) } else { left };
            tokio::time::sleep(slice).await;
        }
    }
}

/// A timer of the kernel on the boot-time clock.
#[cfg(target_os = "linux")]
#[derive(Debug)]
struct KernelTimer {
    /// Not a pipe: the runtime's type for a readable file that the kernel can poll.
    file: tokio::net::unix::pipe::Receiver,
    /// The moment that it is set to, until it has fired. A later one need not be set: it wakes too early then,
    /// and is set again. That saves a system call for each of many requests a second.
    set_to: Option<Micros>,
}

#[cfg(target_os = "linux")]
impl KernelTimer {
    fn new() -> std::io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
        let file = tokio::net::unix::pipe::Receiver::from_owned_fd_unchecked(timer)?;
        Ok(Self { file, set_to: None })
    }

    /// Returns at `deadline`, or earlier.
    async fn wait(&mut self, deadline: Micros) -> std::io::Result<()> {
        if self.set_to.is_none_or(|set_to| deadline < set_to) {
            self.set(deadline)?;
        }
        loop {
            self.file.readable().await?;
            match self.file.try_read(&mut [0; 8]) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                read => {
                    self.set_to = None;
                    return read.map(drop);
                }
            }
        }
    }

    fn set(&mut self, deadline: Micros) -> std::io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        let at = |micros: Micros| Timespec {
            tv_sec: (micros / 1_000_000).try_into().unwrap_or(i64::MAX),
            tv_nsec: (micros % 1_000_000 * 1000).try_into().unwrap_or(0),
        };
        let setting = Itimerspec { it_interval: at(0), it_value: at(deadline.max(1)) };
        timerfd_settime(&self.file, TimerfdTimerFlags::ABSTIME, &setting)?;
        self.set_to = Some(deadline);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_boot_timer_fires_at_its_moment_and_can_be_set_again() {
        let mut timer = Timer::new(Clock::Boot);
        for _ in 0..3 {
            let deadline = Clock::Boot.now() + 5_000;
            timer.until(Some(deadline)).await;
            assert!(Clock::Boot.now() >= deadline);
        }
        // Dropped half-way, then asked for a nearer moment.
        let far = timer.until(Some(Clock::Boot.now() + 60_000_000));
        assert!(tokio::time::timeout(Duration::from_millis(5), far).await.is_err());
        timer.until(Some(Clock::Boot.now() + 1_000)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_runtime_clock_can_be_paused() {
        let (before, mut timer) = (Clock::Tokio.now(), Timer::new(Clock::Tokio));
        timer.until(Some(before + 3_600_000_000)).await;
        assert!(Clock::Tokio.now() - before < 3_601_000_000);
    }
}
