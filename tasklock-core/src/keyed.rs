//! One key with options of its own.

use std::{future::Future, time::Duration};

use crate::{
    Guard, InvalidKey, Key, Lease, LockError, Locker, OnLost, ReleaseMode, Renew, RetryPolicy, Ttl, Wait,
    acquire::acquire, blocking, current, options::Options,
};

/// A lock on one key, made by [`Locker::key`]: with options for this call, or to be used again and again.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # use tasklock_core::{Locker, MemoryLock};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
/// # let lock = Locker::new(MemoryLock::new())?;
/// let job = lock.key("job:7").ttl(Duration::from_secs(5)).wait(Duration::from_secs(1));
/// let guard = job.acquire().await?;
/// assert!(job.try_acquire().await?.is_none());
/// # drop(guard);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is locked until something is called on it"]
pub struct KeyLock {
    /// What went wrong on the way here comes out of the first call.
    target: Result<(Locker, Key), LockError>,
    /// Only if they differ from the locker's.
    options: Option<Box<Options>>,
}

impl KeyLock {
    pub(crate) fn new(locker: Result<Locker, LockError>, key: Result<Key, InvalidKey>) -> Self {
        let target = locker.and_then(|locker| Ok((locker, key?)));
        KeyLock { target, options: None }
    }

    /// How long the lease lasts without renewal: 50 ms to 24 h.
    pub fn ttl(self, ttl: impl Into<Ttl>) -> Self {
        let ttl = ttl.into();
        self.set(|options| options.ttl = ttl)
    }

    /// How long to wait for it.
    pub fn wait(self, wait: impl Into<Wait>) -> Self {
        let wait = wait.into();
        self.set(|options| options.wait = wait)
    }

    /// The pauses between attempts on a store that cannot wake its waiters.
    pub fn retry(self, retry: RetryPolicy) -> Self {
        self.set(|options| options.retry = retry)
    }

    /// When the lease is renewed.
    pub fn renew(self, renew: Renew) -> Self {
        self.set(|options| options.renew = renew)
    }

    /// The longest it is held, renewed or not.
    pub fn max_hold(self, max: Duration) -> Self {
        self.set(|options| options.max_hold = Some(max))
    }

    /// What becomes of a synchronized body if the lock is lost.
    pub fn on_lost(self, on_lost: OnLost) -> Self {
        self.set(|options| options.on_lost = on_lost)
    }

    /// Whether the end of a synchronized body waits for the release.
    pub fn release_mode(self, mode: ReleaseMode) -> Self {
        self.set(|options| options.release = mode)
    }

    /// How long a failing store is asked again before the acquisition fails.
    pub fn patience(self, patience: Duration) -> Self {
        self.set(|options| options.patience = patience)
    }

    /// Acquires it.
    ///
    /// # Errors
    ///
    /// As [`Locker::acquire`], and [`LockError::InvalidOption`] for an option out of its range.
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::acquire`].
    pub async fn acquire(&self) -> Result<Guard, LockError> {
        let (locker, key) = self.target.as_ref().map_err(Clone::clone)?;
        if let Some(options) = &self.options {
            options.check()?;
        }
        acquire(locker.core(), key.clone(), self.options(locker)).await
    }

    /// Acquires it if it is free; `None` if somebody else has it.
    ///
    /// # Errors
    ///
    /// As [`acquire`](KeyLock::acquire), without the timeout.
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::acquire`].
    pub async fn try_acquire(&self) -> Result<Option<Guard>, LockError> {
        match self.clone().wait(Wait::Try).acquire().await {
            Ok(guard) => Ok(Some(guard)),
            Err(LockError::Held { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Runs `body` while holding it: see [`Locker::synchronized`].
    ///
    /// # Errors
    ///
    /// As [`Locker::synchronized`].
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::synchronized`].
    pub async fn synchronized<F: Future>(self, body: F) -> Result<F::Output, LockError> {
        self.synchronized_with(|_| body).await
    }

    /// Runs `body`, which is given the lease, while holding it: see [`Locker::synchronized_with`].
    ///
    /// # Errors
    ///
    /// As [`Locker::synchronized`].
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::synchronized`].
    pub async fn synchronized_with<F, Fut>(self, body: F) -> Result<Fut::Output, LockError>
    where
        F: FnOnce(Lease) -> Fut,
        Fut: Future,
    {
        let guard = self.acquire().await?;
        current::run(guard, self.ending(), body).await
    }

    /// Runs `body` while holding it, if it is free; `None`, and `body` is not run, if somebody else has it.
    ///
    /// # Errors
    ///
    /// As [`Locker::synchronized`].
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::synchronized`].
    pub async fn synchronized_if_free_with<F, Fut>(self, body: F) -> Result<Option<Fut::Output>, LockError>
    where
        F: FnOnce(Lease) -> Fut,
        Fut: Future,
    {
        match self.try_acquire().await? {
            Some(guard) => current::run(guard, self.ending(), body).await.map(Some),
            None => Ok(None),
        }
    }

    /// The same for synchronous code.
    pub fn blocking(self) -> blocking::KeyLock {
        blocking::KeyLock::over(self)
    }

    fn options<'a>(&'a self, locker: &'a Locker) -> &'a Options {
        self.options.as_deref().unwrap_or(&locker.core().options)
    }

    fn set(mut self, set: impl FnOnce(&mut Options)) -> Self {
        if let Ok((locker, _)) = &self.target {
            set(self.options.get_or_insert_with(|| Box::new(locker.core().options.clone())));
        }
        self
    }

    pub(crate) fn locker(&self) -> Result<&Locker, LockError> {
        self.target.as_ref().map(|(locker, _)| locker).map_err(Clone::clone)
    }

    /// What happens at the end of a body, foreseen or not.
    pub(crate) fn ending(&self) -> (OnLost, ReleaseMode) {
        match &self.target {
            Ok((locker, _)) => (self.options(locker).on_lost, self.options(locker).release),
            Err(_) => (OnLost::Cancel, ReleaseMode::Await),
        }
    }
}
