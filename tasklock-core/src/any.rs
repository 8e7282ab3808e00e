//! Whichever key is free.

use std::future::Future;

use crate::{
    Guard, IntoKey, Key, Lease, LockError, Locker, Nonce, OnLost, ReleaseMode, Wait,
    acquire::acquire,
    all::keys_of,
    current, join,
    lock::BoxFuture,
    options::{Options, setters},
};

/// A lock on whichever of several keys is free, made by [`Locker::any`]: for workers that each take a job nobody else is
/// at.
///
/// Each call begins at another place, so that workers with the same list do not all ask for its first. The keys are tried
/// one by one; if none is free they are all waited for at once, the first one granted wins, and the places in the other
/// queues are given up. [`Guard::key`] tells which one it is.
///
/// # Examples
///
/// ```
/// # use tasklock_core::{Locker, MemoryLock};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
/// # let lock = Locker::new(MemoryLock::new())?;
/// let jobs = lock.any(["job:1", "job:2"])?;
/// let (one, two) = (jobs.acquire().await?, jobs.acquire().await?);
/// assert_ne!(one.key().name(), two.key().name());
/// assert!(jobs.try_acquire().await?.is_none());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is locked until something is called on it"]
pub struct AnyKey {
    locker: Locker,
    keys: Vec<Key>,
    options: Options,
}

impl AnyKey {
    pub(crate) fn new<K: IntoKey>(locker: &Locker, keys: impl IntoIterator<Item = K>) -> Result<Self, LockError> {
        let keys = keys_of(locker, keys)?;
        Ok(AnyKey { locker: locker.clone(), keys, options: locker.core().options.clone() })
    }

    setters!();

    /// Acquires one of them, waiting until one is free.
    ///
    /// # Errors
    ///
    /// As [`Locker::acquire`]. [`LockError::Timeout`] names one of the keys, with its holder;
    /// [`LockError::WouldDeadlock`] only if the running body holds all of them.
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::acquire`]: none of them stays held, and no place in any queue.
    pub async fn acquire(&self) -> Result<Guard, LockError> {
        self.options.check()?;
        let held = match self.try_each().await {
            Err(error @ LockError::Held { .. }) => error,
            settled => return settled,
        };
        if self.options.is_try() {
            return Err(held);
        }
        let wait =
            |key: &Key| -> BoxFuture<'_, _> { Box::pin(acquire(self.locker.core(), key.clone(), &self.options)) };
        // One that the caller itself holds says nothing of the others.
        let counts = |outcome: &Result<_, _>| !matches!(outcome, Err(LockError::WouldDeadlock { .. }));
        join::first(self.in_turn().map(wait).collect(), counts).await.unwrap_or(Err(held))
    }

    /// Acquires one of them if one is free; `None` if somebody else has each.
    ///
    /// # Errors
    ///
    /// As [`acquire`](AnyKey::acquire), without the timeout.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](AnyKey::acquire).
    pub async fn try_acquire(&self) -> Result<Option<Guard>, LockError> {
        match self.try_each().await {
            Ok(guard) => Ok(Some(guard)),
            Err(LockError::Held { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Runs `body`, which is given the lease and by it the key, while holding one of them: see
    /// [`Locker::synchronized_with`].
    ///
    /// # Errors
    ///
    /// As [`acquire`](AnyKey::acquire), and [`LockError::Lost`].
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::synchronized`].
    pub async fn synchronized_with<F, Fut>(&self, body: F) -> Result<Fut::Output, LockError>
    where
        F: FnOnce(Lease) -> Fut,
        Fut: Future,
    {
        let guard = self.acquire().await?;
        current::run(guard, self.ending(), body).await
    }

    async fn try_each(&self) -> Result<Guard, LockError> {
        let mut options = self.options.clone();
        options.wait = Wait::Try;
        options.check()?;
        let mut outcome = None;
        for key in self.in_turn() {
            match acquire(self.locker.core(), key.clone(), &options).await {
                Err(error @ LockError::Held { .. }) => outcome = Some(error),
                settled => return settled,
            }
        }
        Err(outcome.unwrap_or(LockError::ShutDown))
    }

    /// All of them, from another place each time.
    fn in_turn(&self) -> impl Iterator<Item = &Key> {
        let start = usize::try_from(Nonce::fresh().jitter()).unwrap_or(0) % self.keys.len().max(1);
        let (before, from) = self.keys.split_at(start);
        from.iter().chain(before)
    }

    pub(crate) fn locker(&self) -> Result<&Locker, LockError> {
        Ok(&self.locker)
    }

    /// What happens at the end of a body, foreseen or not.
    pub(crate) fn ending(&self) -> (OnLost, ReleaseMode) {
        (self.options.on_lost, self.options.release)
    }

    fn set(mut self, set: impl Fn(&mut Options)) -> Self {
        set(&mut self.options);
        self
    }
}
