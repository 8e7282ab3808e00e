//! Several keys at once.

use std::future::Future;

use crate::{
    Guards, IntoKey, InvalidOption, Key, Lease, LockError, Locker, OnLost, ReleaseMode, Wait, current,
    options::{Options, setters},
    together::acquire_all,
};

/// A lock on several keys together, made by [`Locker::all`]: all of them, or none.
///
/// The order in which they are named does not matter, and a key named twice is one. A backend that can take several in
/// one step (one Redis server, DynamoDB, files) is asked to, once. Elsewhere, and where some are held or awaited and are
/// to be waited for, they are taken one by one in the order of their names, so that of those who want the same keys one
/// always gets on; those taken so far are held meanwhile. For each of them it stands in line as others do: however many
/// want single keys, it has its turn where they have theirs. A try stands in no line. Somebody who takes single keys in
/// another order can still make them wait for each other: bound the wait.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # use tasklock_core::{Locker, MemoryLock};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
/// # let lock = Locker::new(MemoryLock::new())?;
/// let transfer = lock.all(["account:7", "account:3"])?.wait(Duration::from_secs(1));
/// let mut guards = transfer.acquire().await?;
/// assert!(guards.is_held() && lock.try_acquire("account:3").await?.is_none());
/// drop(guards.take("account:3")); // one before the others
/// guards.release().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is locked until something is called on it"]
pub struct AllKeys {
    locker: Locker,
    /// Sorted, and each there once.
    keys: Vec<Key>,
    options: Options,
}

impl AllKeys {
    pub(crate) fn new<K: IntoKey>(locker: &Locker, keys: impl IntoIterator<Item = K>) -> Result<Self, LockError> {
        let mut keys = keys_of(locker, keys)?;
        keys.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        keys.dedup();
        Ok(AllKeys { locker: locker.clone(), keys, options: locker.core().options.clone() })
    }

    setters!();

    /// Acquires all of them, within one time.
    ///
    /// # Errors
    ///
    /// As [`Locker::acquire`], for the key that stood in the way. [`LockError::Lost`] if one was lost while another was
    /// waited for. What had been taken by then is given back in the background.
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::acquire`]: none of them stays held.
    pub async fn acquire(&self) -> Result<Guards, LockError> {
        self.options.check()?;
        acquire_all(self.locker.core(), &self.keys, &self.options).await
    }

    /// Acquires all of them if they are free; `None` if somebody else has one.
    ///
    /// # Errors
    ///
    /// As [`acquire`](AllKeys::acquire), without the timeout.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](AllKeys::acquire).
    pub async fn try_acquire(&self) -> Result<Option<Guards>, LockError> {
        match self.clone().wait(Wait::Try).acquire().await {
            Ok(guards) => Ok(Some(guards)),
            Err(LockError::Held { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Runs `body` while holding all of them: see [`Locker::synchronized`]. If one is lost, the body is.
    /// [`current`](crate::current()) gives the lease of the last one in order.
    ///
    /// # Errors
    ///
    /// As [`acquire`](AllKeys::acquire), and [`LockError::Lost`].
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::synchronized`].
    pub async fn synchronized<F: Future>(&self, body: F) -> Result<F::Output, LockError> {
        self.synchronized_with(|_| body).await
    }

    /// Runs `body`, which is given the leases in the order of the keys, while holding all of them.
    ///
    /// # Errors
    ///
    /// As [`synchronized`](AllKeys::synchronized).
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::synchronized`].
    pub async fn synchronized_with<F, Fut>(&self, body: F) -> Result<Fut::Output, LockError>
    where
        F: FnOnce(Vec<Lease>) -> Fut,
        Fut: Future,
    {
        let guards = self.acquire().await?;
        self.run(guards, body).await
    }

    /// Runs `body` while holding all of them, if they are free; `None`, and `body` is not run, if somebody else has one.
    ///
    /// # Errors
    ///
    /// As [`synchronized`](AllKeys::synchronized).
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::synchronized`].
    pub async fn synchronized_if_free_with<F, Fut>(&self, body: F) -> Result<Option<Fut::Output>, LockError>
    where
        F: FnOnce(Vec<Lease>) -> Fut,
        Fut: Future,
    {
        match self.try_acquire().await? {
            Some(guards) => self.run(guards, body).await.map(Some),
            None => Ok(None),
        }
    }

    async fn run<F, Fut>(&self, guards: Guards, body: F) -> Result<Fut::Output, LockError>
    where
        F: FnOnce(Vec<Lease>) -> Fut,
        Fut: Future,
    {
        let body = body(guards.leases());
        current::run_all(guards, self.ending(), body).await
    }

    pub(crate) fn locker(&self) -> Result<&Locker, LockError> {
        Ok(&self.locker)
    }

    /// What happens at the end of a body, foreseen or not.
    pub(crate) fn ending(&self) -> (OnLost, ReleaseMode) {
        (self.options.on_lost, self.options.release)
    }

    pub(crate) fn set(mut self, set: impl Fn(&mut Options)) -> Self {
        set(&mut self.options);
        self
    }
}

/// These keys, of which there must be some.
pub(crate) fn keys_of<K: IntoKey>(locker: &Locker, keys: impl IntoIterator<Item = K>) -> Result<Vec<Key>, LockError> {
    let keys = keys.into_iter().map(|key| key.into_key_in(&locker.core().prefix));
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() { Err(InvalidOption::new("keys", 0, "there is at least 1").into()) } else { Ok(keys) }
}
