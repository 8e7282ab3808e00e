//! Setting up a locker.

use std::{
    fmt, panic,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};
use tokio_util::task::TaskTracker;

use crate::{
    Clock, Demand, Fairness, LockError, Locker, Observer, OnLost, Owner, ReleaseMode, Renew, RetryPolicy, Ttl, Wait,
    erased::DynLock,
    keeper::Keeper,
    key::Prefix,
    nursery::Nursery,
    options::Options,
    queue::Queue,
    reentrant::Owners,
    registry::Registry,
    shared::{Core, EarlyLosses, Shared, Signal},
};

/// Settings of a [`Locker`]; each call may override most of them through [`Locker::key`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tasklock_core::{Locker, MemoryLock};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
/// let lock = Locker::builder(MemoryLock::new())
///     .prefix("billing")
///     .ttl(Duration::from_secs(10))
///     .wait(Duration::from_secs(2))
///     .owner_name("worker-3")
///     .build()?;
/// # let _ = lock;
/// # Ok(()) }
/// ```
#[must_use]
pub struct LockerBuilder {
    backend: Arc<dyn DynLock>,
    prefix: String,
    options: Options,
    demand: Demand,
    fairness: Fairness,
    observer: Option<Arc<dyn Observer>>,
    redact: bool,
}

impl LockerBuilder {
    pub(crate) fn new(backend: Arc<dyn DynLock>) -> Self {
        LockerBuilder {
            backend,
            prefix: "tasklock".to_owned(),
            options: Options::new(Owner::this_process()),
            demand: Demand::default(),
            fairness: Fairness::default(),
            observer: None,
            redact: false,
        }
    }

    /// What stands before every name in the store, separated by a colon: `tasklock` by default. Lockers with different
    /// prefixes never meet. Up to 64 of `A-Z a-z 0-9 - _ . /`; empty for none.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long a lease lasts without renewal: 50 ms to 24 h, 30 s by default.
    pub fn ttl(mut self, ttl: impl Into<Ttl>) -> Self {
        self.options.ttl = ttl.into();
        self
    }

    /// How long an acquisition waits: for ever by default.
    pub fn wait(mut self, wait: impl Into<Wait>) -> Self {
        self.options.wait = wait.into();
        self
    }

    /// The pauses between attempts on a store that cannot wake its waiters.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.options.retry = retry;
        self
    }

    /// When leases are renewed.
    pub fn renew(mut self, renew: Renew) -> Self {
        self.options.renew = renew;
        self
    }

    /// The longest a lock is held, renewed or not: unlimited by default.
    pub fn max_hold(mut self, max: Duration) -> Self {
        self.options.max_hold = Some(max);
        self
    }

    /// The shortest a lock is held: who releases it sooner has it kept back in the background until then. Not at all by
    /// default.
    pub fn min_hold(mut self, min: Duration) -> Self {
        self.options.min_hold = Some(min);
        self
    }

    /// What becomes of a synchronized body whose lock is lost: it is cancelled by default.
    pub fn on_lost(mut self, on_lost: OnLost) -> Self {
        self.options.on_lost = on_lost;
        self
    }

    /// Whether the end of a synchronized body waits for the release: it does by default.
    pub fn release_mode(mut self, mode: ReleaseMode) -> Self {
        self.options.release = mode;
        self
    }

    /// Whether this process may hand a lock from task to task while others wait: within bounds, by default; or each task
    /// stands in the store's queue ([`Fairness::Strict`]).
    pub fn fairness(mut self, fairness: Fairness) -> Self {
        self.fairness = fairness;
        self
    }

    /// How long a failing store is asked again before an acquisition fails: 10 s by default.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.options.patience = patience;
        self
    }

    /// After how long a waiter is warned about in the log: 30 s by default.
    pub fn warn_after(mut self, after: Duration) -> Self {
        self.options.warn_after = after;
        self
    }

    /// Under which name others see this process; by default `application@host:pid`.
    pub fn owner_name(self, name: impl Into<String>) -> Self {
        self.owner(Owner::named(name))
    }

    /// As whom others see this process.
    pub fn owner(mut self, owner: Owner) -> Self {
        self.options.owner = owner;
        self
    }

    /// What the backend must be able to do.
    pub fn demand(mut self, demand: Demand) -> Self {
        self.demand = demand;
        self
    }

    /// The hook for metrics.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Shows numbers instead of names in the log, for names that are nobody's business. Errors still name the lock to
    /// the caller who named it; where they are logged, as `#[synchronized]` does for functions without an arrow and the
    /// feature `axum` does for mistakes, the name is in them.
    pub fn redact_keys(mut self) -> Self {
        self.redact = true;
        self
    }

    /// The locker, on the tokio runtime this is called in.
    ///
    /// # Errors
    ///
    /// [`LockError::NoRuntime`] outside a tokio runtime with timers; [`LockError::InvalidOption`] or
    /// [`LockError::InvalidKey`] for a setting out of its range, or a ttl that the backend does not grant;
    /// [`LockError::Unsupported`] for an unmet demand.
    pub fn build(self) -> Result<Locker, LockError> {
        let prefix = Prefix::new(&self.prefix)?;
        self.options.check()?;
        self.backend.capabilities().check_ttl(self.options.ttl)?;
        if let Some(what) = self.demand.unmet(self.backend.capabilities()) {
            return Err(LockError::Unsupported { backend: self.backend.capabilities().backend, what });
        }
        let runtime = Handle::try_current().map_err(|_| LockError::NoRuntime)?;
        // Tokio has no way to ask whether a runtime has timers but to make one.
        panic::catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO))).map_err(|_| LockError::NoRuntime)?;
        let (alive, watched) = oneshot::channel();
        let shared = Arc::new(Shared {
            queue: Queue::before(self.backend.capabilities(), self.fairness),
            nursery: Nursery::new(self.backend.as_memory().cloned(), &self.options),
            backend: self.backend,
            clock: Clock::current(),
            registry: Registry::new(),
            owners: Owners::default(),
            tasks: TaskTracker::new(),
            waiters: TaskTracker::new(),
            early: EarlyLosses::default(),
            drained: tokio::sync::Mutex::new(false),
            gone: AtomicBool::new(false),
            signal: watch::Sender::new(Signal::default()),
            closed: AtomicBool::new(false),
            runtime: runtime.clone(),
            observer: self.observer,
            redact: self.redact,
        });
        runtime.spawn(Keeper::new(shared.clone()).run(watched));
        Ok(Locker::from_core(Core { shared, prefix, options: self.options, _alive: alive }))
    }
}

impl fmt::Debug for LockerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockerBuilder")
            .field("backend", &self.backend)
            .field("prefix", &self.prefix)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
