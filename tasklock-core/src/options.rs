//! What can be set, per locker and per call, and within which limits.

use std::{sync::Arc, time::Duration};

use crate::{InvalidOption, Mode, Mono, Owner, RetryPolicy};

/// The shortest and longest lease.
const TTL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(24 * 3600));
/// The longest bounded wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a lease lasts without renewal. 30 s by default; 50 ms to 24 h.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ttl {
    /// So long.
    For(Duration),
    /// For ever: only a release or an administrator ends it. If the holder dies, so it stays.
    Never,
}

impl Ttl {
    /// Its length; `None` if it never ends.
    #[must_use]
    pub fn duration(self) -> Option<Duration> {
        match self {
            Ttl::For(d) => Some(d),
            Ttl::Never => None,
        }
    }

    pub(crate) fn check(self) -> Result<(), InvalidOption> {
        match self {
            Ttl::For(d) if d < TTL.0 || d > TTL.1 => {
                Err(InvalidOption::new("ttl", d, "a lease lasts 50 ms to 24 h, or `Ttl::Never`"))
            }
            _ => Ok(()),
        }
    }
}

impl From<Duration> for Ttl {
    fn from(d: Duration) -> Self {
        Ttl::For(d)
    }
}

/// How long an acquisition waits for a lock that is held. For ever by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Not at all: one attempt.
    Try,
    /// So long, up to 30 days. Zero is one attempt.
    For(Duration),
    /// Until it is free.
    Forever,
}

impl From<Duration> for Wait {
    fn from(d: Duration) -> Self {
        if d.is_zero() { Wait::Try } else { Wait::For(d) }
    }
}

/// When a lease is renewed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Renew {
    /// After a third of its ttl, again and again.
    Auto,
    /// This often; at most two thirds of the ttl.
    Every(Duration),
    /// Never: the lease ends after its ttl unless extended by hand.
    Off,
}

/// What becomes of a synchronized body whose lock is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnLost {
    /// It is dropped where it stands, and [`LockError::Lost`](crate::LockError::Lost) returned.
    Cancel,
    /// It runs to its end; the fencing token is what protects the store.
    Finish,
}

/// Whether the end of a synchronized body waits until the store has the release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReleaseMode {
    /// Yes, within bounds: when the call returns, the next may go.
    Await,
    /// No: one round trip less, and the next may have to wait that long.
    Background,
}

/// Who is next when several processes, and several tasks of each, wait for one lock. It is a setting of the locker.
///
/// Within one locker tasks are served in the order they came, in strict order as the store hears of them; readers among
/// themselves in any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Fairness {
    /// A process that has the lock hands it from task to task without asking the store, each with a token of its own,
    /// and gives it up once others wait: after 10 ms, with what then runs under it, and 64 hand-overs more at most. The
    /// default, on backends that can ([`Capabilities::spans`](crate::Capabilities::spans)): on a busy key it is many
    /// times faster, and an acquisition costs the store next to nothing. Of those who wait in a process one stands in
    /// the store's queue, of readers 64, so that processes take turns: so it is for permits and members of a pool, too.
    #[default]
    Bounded,
    /// On those backends each task stands in the queue of the store: who comes first there is first, whatever process it is
    /// in; each acquisition and each release is a call to the store then. On others this changes nothing: one task of a
    /// process asks at a time.
    Strict,
}

/// All settings of one acquisition.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) mode: Mode,
    pub(crate) ttl: Ttl,
    pub(crate) wait: Wait,
    pub(crate) retry: RetryPolicy,
    pub(crate) renew: Renew,
    pub(crate) max_hold: Option<Duration>,
    pub(crate) min_hold: Option<Duration>,
    pub(crate) on_lost: OnLost,
    pub(crate) release: ReleaseMode,
    pub(crate) owner: Owner,
    /// Under which name a member of a pool is wanted.
    pub(crate) affinity: Option<Arc<str>>,
    /// How long a failing store is asked again before the acquisition fails.
    pub(crate) patience: Duration,
    /// After how long a waiter is warned about, with the holder's name.
    pub(crate) warn_after: Duration,
}

impl Options {
    pub(crate) fn new(owner: Owner) -> Self {
        Options {
            mode: Mode::Exclusive,
            ttl: Ttl::For(Duration::from_secs(30)),
            wait: Wait::Forever,
            retry: RetryPolicy::default(),
            renew: Renew::Auto,
            max_hold: None,
            min_hold: None,
            on_lost: OnLost::Cancel,
            release: ReleaseMode::Await,
            owner,
            affinity: None,
            patience: Duration::from_secs(10),
            warn_after: Duration::from_secs(30),
        }
    }

    /// Whether there is to be one attempt only.
    pub(crate) fn is_try(&self) -> bool {
        matches!(self.wait, Wait::Try | Wait::For(Duration::ZERO))
    }

    /// When one that began at `started` is to stop waiting.
    pub(crate) fn end_of_wait(&self, started: Mono) -> Mono {
        match self.wait {
            Wait::For(wait) if !self.is_try() => started.after(wait),
            _ => Mono::NEVER,
        }
    }

    /// Whether there is a shortest or a longest time to hold.
    pub(crate) fn bounds_its_hold(&self) -> bool {
        self.min_hold.is_some() || self.max_hold.is_some()
    }

    pub(crate) fn check(&self) -> Result<(), InvalidOption> {
        self.ttl.check()?;
        self.retry.check()?;
        if let Wait::For(d) = self.wait {
            if d > LONGEST_WAIT {
                return Err(InvalidOption::new("wait", d, "a bounded wait is at most 30 days; use `Wait::Forever`"));
            }
        }
        if let (Renew::Every(d), Ttl::For(ttl)) = (self.renew, self.ttl) {
            if d.is_zero() || d > ttl / 3 * 2 {
                let limit = format!("it is more than 0 and at most two thirds of the ttl of {ttl:?}");
                return Err(InvalidOption::new("renew", d, limit));
            }
        }
        if let Some(d) = self.max_hold {
            if d < TTL.0 {
                return Err(InvalidOption::new("max_hold", d, "it is at least 50 ms"));
            }
        }
        if let Some(d) = self.min_hold {
            let unrenewed = if self.renew == Renew::Off { self.ttl.duration() } else { None };
            let most = [Some(TTL.1), self.max_hold, unrenewed].into_iter().flatten().min().unwrap_or(TTL.1);
            if d > most {
                let limit =
                    format!("it is at most {most:?}: 24 h, the maximum hold, and the ttl if that is not renewed");
                return Err(InvalidOption::new("min_hold", d, limit));
            }
        }
        if self.patience > LONGEST_WAIT {
            return Err(InvalidOption::new("patience", self.patience, "it is at most 30 days"));
        }
        if self.warn_after.is_zero() {
            return Err(InvalidOption::new("warn_after", self.warn_after, "it is more than 0"));
        }
        Ok(())
    }
}

/// The options of one call, the same on everything that acquires; it has a method `set`.
macro_rules! setters {
    () => {
        /// How long the lease lasts without renewal: 50 ms to 24 h, or `Ttl::Never`. As with the other options of a call,
        /// what is out of its range is told by whatever acquires next.
        pub fn ttl(self, ttl: impl Into<$crate::Ttl>) -> Self {
            let ttl = ttl.into();
            self.set(|options| options.ttl = ttl)
        }

        /// How long to wait for it: up to 30 days; zero is one attempt.
        pub fn wait(self, wait: impl Into<$crate::Wait>) -> Self {
            let wait = wait.into();
            self.set(|options| options.wait = wait)
        }

        /// The pauses between attempts on a store that cannot wake its waiters.
        pub fn retry(self, retry: $crate::RetryPolicy) -> Self {
            self.set(|options| options.retry = retry)
        }

        /// When the lease is renewed: at least as often as every two thirds of the ttl, or never.
        pub fn renew(self, renew: $crate::Renew) -> Self {
            self.set(|options| options.renew = renew)
        }

        /// The longest it is held, renewed or not: at least 50 ms.
        pub fn max_hold(self, max: std::time::Duration) -> Self {
            self.set(|options| options.max_hold = Some(max))
        }

        /// The shortest it is held: who releases it sooner has it kept back in the background until then. For work
        /// that is to be done once in a while, however many instances come by. At most 24 h, the maximum hold, and, if
        /// renewal is off, the ttl.
        pub fn min_hold(self, min: std::time::Duration) -> Self {
            self.set(|options| options.min_hold = Some(min))
        }

        /// What becomes of a synchronized body if the lock is lost.
        pub fn on_lost(self, on_lost: $crate::OnLost) -> Self {
            self.set(|options| options.on_lost = on_lost)
        }

        /// Whether the end of a synchronized body waits for the release.
        pub fn release_mode(self, mode: $crate::ReleaseMode) -> Self {
            self.set(|options| options.release = mode)
        }

        /// How long a failing store is asked again before the acquisition fails. The time in which others of this process
        /// did so, and this one waited for them, counts. At most 30 days.
        pub fn patience(self, patience: std::time::Duration) -> Self {
            self.set(|options| options.patience = patience)
        }
    };
}
pub(crate) use setters;

#[cfg(test)]
mod tests {
    use super::*;

    fn with(set: impl FnOnce(&mut Options)) -> Result<(), InvalidOption> {
        let mut options = Options::new(Owner::named("test"));
        set(&mut options);
        options.check()
    }

    #[test]
    fn limits_are_named() {
        assert!(with(|_| ()).is_ok());
        assert!(with(|o| o.ttl = Ttl::Never).is_ok());
        let e = with(|o| o.ttl = Duration::from_millis(49).into()).unwrap_err();
        assert!(e.to_string().contains("49ms") && e.to_string().contains("50 ms"), "{e}");
        assert!(with(|o| o.ttl = Duration::ZERO.into()).is_err());
        assert!(with(|o| o.ttl = Duration::from_secs(86_401).into()).is_err());
        assert!(with(|o| o.wait = Duration::MAX.into()).is_err());
        assert!(with(|o| o.renew = Renew::Every(Duration::from_secs(30))).is_err());
        assert!(with(|o| o.renew = Renew::Every(Duration::ZERO)).is_err());
        assert!(with(|o| o.max_hold = Some(Duration::from_millis(1))).is_err());
        assert!(with(|o| o.min_hold = Some(Duration::from_secs(3600))).is_ok());
        assert!(with(|o| o.min_hold = Some(Duration::from_secs(86_401))).is_err());
        let e = with(|o| (o.min_hold, o.renew) = (Some(Duration::from_secs(31)), Renew::Off)).unwrap_err();
        assert!(e.to_string().contains("min_hold = 31s") && e.to_string().contains("30s"), "{e}");
        let e = with(|o| (o.min_hold, o.max_hold) = (Some(Duration::from_secs(3)), Some(Duration::from_secs(2))));
        assert!(e.is_err());
        assert!(with(|o| o.patience = Duration::MAX).is_err());
        assert_eq!(Wait::from(Duration::ZERO), Wait::Try);
    }
}
