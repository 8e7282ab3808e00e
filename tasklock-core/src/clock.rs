//! The one clock that leases, deadlines and backends are dated by.

use std::{
    fmt,
    sync::LazyLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A point on the [`Clock`]: nanoseconds since an arbitrary origin, fixed for the life of the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(u64);

impl Mono {
    /// Later than every other point: the deadline of a lease that never expires.
    pub const NEVER: Mono = Mono(u64::MAX);

    /// The point `nanos` nanoseconds after the clock's origin.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Mono(nanos)
    }

    /// Nanoseconds since the clock's origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub const fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This point moved `by` into the future; [`Mono::NEVER`] stays, and is what an overflow gives.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Mono(self.0.saturating_add(nanos(by)))
    }

    /// This point moved `by` into the past; [`Mono::NEVER`] stays.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        if self == Mono::NEVER { self } else { Mono(self.0.saturating_sub(nanos(by))) }
    }
}

impl fmt::Debug for Mono {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Mono::NEVER { f.write_str("never") } else { write!(f, "{:?}", Duration::from_nanos(self.0)) }
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// Where [`Mono`] comes from: a clock that goes on during suspend and that nobody sets (CLOCK_BOOTTIME on Linux), or
/// tokio's clock in a runtime whose time is paused.
///
/// [`std::time::Instant`] will not do: on Linux it stands still while the machine sleeps, and a lease does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock(Source);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Boot,
    Tokio,
}

/// Origin of the tokio clock. An hour is added to every reading, so that a runtime whose time was paused before the
/// origin was taken still reads above zero.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
const HEAD_START: Duration = Duration::from_secs(3600);

impl Clock {
    /// The clock for the runtime this is called in: tokio's if its time is paused now, else the machine's.
    #[must_use]
    pub fn current() -> Self {
        let origin = *ORIGIN;
        let first = tokio::time::Instant::now();
        let real = Instant::now();
        while Instant::now() <= real {}
        // Real time has moved between the two readings; tokio's has not only if it is paused.
        let paused =
            tokio::time::Instant::now() == first && origin.saturating_duration_since(first.into_std()) <= HEAD_START;
        Clock(if paused { Source::Tokio } else { Source::Boot })
    }

    /// Now.
    #[must_use]
    pub fn now(self) -> Mono {
        match self.0 {
            Source::Boot => Mono(nanos(boot_time())),
            Source::Tokio => {
                let now = tokio::time::Instant::now().into_std() + HEAD_START;
                Mono(nanos(now.saturating_duration_since(*ORIGIN)))
            }
        }
    }

    /// Completes once [`now`](Clock::now) has reached `until`; never early.
    ///
    /// # Cancel safety
    ///
    /// Dropping it costs nothing.
    pub async fn sleep_until(self, until: Mono) {
        if until == Mono::NEVER {
            std::future::pending::<()>().await;
        }
        loop {
            let left = until.since(self.now());
            if left.is_zero() {
                return;
            }
            // A day at a time: tokio's timer cannot hold every duration, and the loop looks again anyway.
            tokio::time::sleep(left.min(Duration::from_secs(86_400))).await;
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn boot_time() -> Duration {
    monotonic(rustix::time::ClockId::Boottime)
}

/// Elsewhere on Unix the monotonic clock is the best there is (on Apple's systems it counts sleep).
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
fn boot_time() -> Duration {
    monotonic(rustix::time::ClockId::Monotonic)
}

#[cfg(unix)]
fn monotonic(id: rustix::time::ClockId) -> Duration {
    let t = rustix::time::clock_gettime(id);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

#[cfg(not(unix))]
fn boot_time() -> Duration {
    (Instant::now() + HEAD_START).saturating_duration_since(*ORIGIN)
}

/// Microseconds of wall-clock time: the seed of fencing tokens where the store has no clock of its own.
#[must_use]
pub fn wall_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn follows_paused_time() {
        let clock = Clock::current();
        let start = clock.now();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(clock.now().since(start), Duration::from_secs(5));
        clock.sleep_until(start.after(Duration::from_secs(9))).await;
        assert!(clock.now().since(start) >= Duration::from_secs(9));
    }

    #[tokio::test]
    async fn runs_in_life() {
        let clock = Clock::current();
        assert_eq!(clock, Clock(Source::Boot));
        let start = clock.now();
        while clock.now() == start {}
        assert!(clock.now() > start);
    }

    #[test]
    fn never_stays_never() {
        assert_eq!(Mono::NEVER.before(Duration::from_secs(1)), Mono::NEVER);
        assert_eq!(Mono::NEVER.after(Duration::from_secs(1)), Mono::NEVER);
        assert_eq!(Mono(5).since(Mono(7)), Duration::ZERO);
    }
}
