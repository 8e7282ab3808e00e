//! How long to wait between attempts. The only file that knows the crate `backoff`.

use std::time::{Duration, Instant};

use backoff::backoff::Backoff as _;

use crate::InvalidOption;

/// The pause between attempts: exponential with jitter by default, fixed if asked.
///
/// It matters where a store cannot wake its waiters, and while a store fails. It never gives up by itself unless
/// [`max_attempts`](RetryPolicy::max_attempts) says so.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tasklock_core::RetryPolicy;
///
/// let patient = RetryPolicy::exponential(Duration::from_millis(20), Duration::from_secs(2)).max_attempts(10);
/// let steady = RetryPolicy::fixed(Duration::from_millis(250));
/// # let _ = (patient, steady);
/// ```
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RetryPolicy {
    first: Duration,
    cap: Duration,
    factor: f64,
    jitter: f64,
    attempts: Option<u32>,
}

impl Default for RetryPolicy {
    /// 10 ms, then one and a half times as long each time up to 1 s, give or take a half.
    fn default() -> Self {
        Self::exponential(Duration::from_millis(10), Duration::from_secs(1))
    }
}

impl RetryPolicy {
    /// Begins with `first`, grows by half each time to `cap`, give or take a half.
    #[must_use]
    pub const fn exponential(first: Duration, cap: Duration) -> Self {
        RetryPolicy { first, cap, factor: 1.5, jitter: 0.5, attempts: None }
    }

    /// The same pause each time, without jitter.
    #[must_use]
    pub const fn fixed(pause: Duration) -> Self {
        RetryPolicy { first: pause, cap: pause, factor: 1.0, jitter: 0.0, attempts: None }
    }

    /// Grows by this factor each time: 1 to 100.
    #[must_use]
    pub const fn factor(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// Spreads each pause by this part of itself, 0 to 1.
    #[must_use]
    pub const fn jitter(mut self, jitter: f64) -> Self {
        self.jitter = jitter;
        self
    }

    /// Gives up, as after a timeout, when this many attempts have found the lock held.
    #[must_use]
    pub const fn max_attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts);
        self
    }

    pub(crate) fn attempts_allowed(&self) -> u32 {
        self.attempts.unwrap_or(u32::MAX)
    }

    pub(crate) fn check(&self) -> Result<(), InvalidOption> {
        const LONGEST: Duration = Duration::from_secs(3600);
        const PAUSE: &str = "a pause is 1 ms to 1 h, and the first no longer than the cap";
        if self.first < Duration::from_millis(1) || self.first > self.cap || self.cap > LONGEST {
            return Err(InvalidOption::new("retry", (self.first, self.cap), PAUSE));
        }
        if !(1.0..=100.0).contains(&self.factor) {
            return Err(InvalidOption::new("retry factor", self.factor, "it is 1 to 100"));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Err(InvalidOption::new("retry jitter", self.jitter, "it is 0 to 1"));
        }
        if self.attempts == Some(0) {
            return Err(InvalidOption::new("max_attempts", 0, "it is at least 1"));
        }
        Ok(())
    }

    pub(crate) fn start(&self) -> Pauses {
        Pauses {
            backoff: backoff::exponential::ExponentialBackoff {
                current_interval: self.first,
                initial_interval: self.first,
                randomization_factor: self.jitter,
                multiplier: self.factor,
                max_interval: self.cap,
                // The crate's default is to give up after fifteen minutes.
                max_elapsed_time: None,
                start_time: TokioClock.now(),
                clock: TokioClock,
            },
            cap: self.cap,
        }
    }
}

/// The pauses of one acquisition, one after the other.
#[derive(Debug)]
pub(crate) struct Pauses {
    backoff: backoff::exponential::ExponentialBackoff<TokioClock>,
    cap: Duration,
}

impl Pauses {
    pub(crate) fn next(&mut self) -> Duration {
        self.backoff.next_backoff().unwrap_or(self.cap)
    }
}

/// Tokio's time, so that tests on paused time see the pauses they would in life.
#[derive(Debug, Default, Clone, Copy)]
struct TokioClock;

impl backoff::Clock for TokioClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

use backoff::Clock as _;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_cap_and_never_ends() {
        let mut pauses = RetryPolicy::exponential(Duration::from_millis(10), Duration::from_millis(100))
            .jitter(0.0)
            .factor(2.0)
            .start();
        let seen: Vec<_> = (0..6).map(|_| pauses.next().as_millis()).collect();
        assert_eq!(seen, [10, 20, 40, 80, 100, 100]);
        assert!((0..10_000).all(|_| pauses.next() == Duration::from_millis(100)));
    }

    #[tokio::test(start_paused = true)]
    async fn outlives_the_fifteen_minutes_of_the_crate_below() {
        let mut pauses = RetryPolicy::fixed(Duration::from_secs(600)).start();
        for _ in 0..10 {
            tokio::time::sleep(pauses.next()).await;
        }
        assert_eq!(pauses.next(), Duration::from_secs(600));
    }

    #[test]
    fn jitter_spreads() {
        let mut pauses = RetryPolicy::fixed(Duration::from_secs(1)).jitter(0.5).start();
        let seen: std::collections::HashSet<_> = (0..50).map(|_| pauses.next()).collect();
        assert!(seen.len() > 10);
        assert!(seen.iter().all(|p| (500..=1500).contains(&p.as_millis())));
    }

    #[test]
    fn limits() {
        assert!(RetryPolicy::fixed(Duration::ZERO).check().is_err());
        assert!(RetryPolicy::exponential(Duration::from_secs(2), Duration::from_secs(1)).check().is_err());
        assert!(RetryPolicy::default().factor(f64::NAN).check().is_err());
        assert!(RetryPolicy::default().jitter(1.5).check().is_err());
        assert!(RetryPolicy::default().max_attempts(0).check().is_err());
        assert!(RetryPolicy::default().check().is_ok());
    }
}
