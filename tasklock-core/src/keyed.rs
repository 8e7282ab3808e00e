//! One key with options of its own.

use std::{future::Future, num::NonZeroU32};

use crate::{
    Guard, InvalidKey, InvalidOption, Key, Lease, LockError, Locker, Mode, OnLost, ReleaseMode, Wait,
    acquire::acquire,
    blocking, current,
    options::{Options, setters},
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

    setters!();

    /// Shared with others who want it shared, and with nobody else: a read lock. [`Locker::rw`] has both sides.
    ///
    /// On a backend without shared locks, whatever is called next says [`LockError::Unsupported`].
    pub fn shared(self) -> Self {
        self.in_mode(Ok(Mode::Shared))
    }

    /// One of `of` permits: it is granted as long as fewer are held. [`Locker::semaphore`] has more.
    ///
    /// On a backend without permits, whatever is called next says [`LockError::Unsupported`]; if there are to be none,
    /// [`LockError::InvalidOption`].
    pub fn permits(self, of: u32) -> Self {
        let mode = NonZeroU32::new(of).map(|of| Mode::Permit { of });
        self.in_mode(mode.ok_or_else(|| InvalidOption::new("permits", of, "it is at least 1")))
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
        blocking::Twin::new(self, &None)
    }

    fn options<'a>(&'a self, locker: &'a Locker) -> &'a Options {
        self.options.as_deref().unwrap_or(&locker.core().options)
    }

    pub(crate) fn set(mut self, set: impl Fn(&mut Options)) -> Self {
        if let Ok((locker, _)) = &self.target {
            set(self.options.get_or_insert_with(|| Box::new(locker.core().options.clone())));
        }
        self
    }

    fn in_mode(mut self, mode: Result<Mode, InvalidOption>) -> Self {
        let known = self.locker().and_then(|locker| {
            let mode = mode?;
            locker.capabilities().check(mode).map(|()| mode)
        });
        match known {
            Ok(mode) => self.set(|options| options.mode = mode),
            Err(error) => {
                self.target = Err(error);
                self
            }
        }
    }

    pub(crate) fn locker(&self) -> Result<&Locker, LockError> {
        self.target.as_ref().map(|(locker, _)| locker).map_err(Clone::clone)
    }

    /// What is to be locked, and how.
    pub(crate) fn wanted(&self) -> Result<(&Key, &Options), LockError> {
        let (locker, key) = self.target.as_ref().map_err(Clone::clone)?;
        Ok((key, self.options(locker)))
    }

    /// What happens at the end of a body, foreseen or not.
    pub(crate) fn ending(&self) -> (OnLost, ReleaseMode) {
        match &self.target {
            Ok((locker, _)) => (self.options(locker).on_lost, self.options(locker).release),
            Err(_) => (OnLost::Cancel, ReleaseMode::Await),
        }
    }
}
