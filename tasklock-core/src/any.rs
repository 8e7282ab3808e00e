//! Whichever key is free.

use std::future::Future;

use crate::{
    Guard, IntoKey, Key, Lease, LockError, Locker, Nonce, Observed, OnLost, ReleaseMode, Wait,
    acquire::{acquire, go_on},
    all::keys_of,
    current, join,
    lock::BoxFuture,
    options::{Options, setters},
    runtime::InRuntime,
    sight::Sight,
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

    /// Acquires one of them, waiting until one is free, within one time.
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
        InRuntime::new(&self.locker.core().shared, self.try_and_wait()).await
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
        match self.try_each(&Sight::default(), &mut None).await {
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

    /// Both within one time.
    async fn try_and_wait(&self) -> Result<Guard, LockError> {
        let core = self.locker.core();
        let shared = &core.shared;
        let (started, sight, mut last) = (shared.clock.now(), Sight::default(), None);
        let tried = tokio::select! {
            biased;
            tried = self.try_each(&sight, &mut last) => tried,
            () = shared.clock.sleep_until(self.options.end_of_wait(started)) => {
                let error = sight.gave_up(last.unwrap_or(&self.keys[0]), started, shared.clock.now());
                if let LockError::Timeout { key, waited, .. } = &error {
                    shared.observe(|| Observed::TimedOut { key, waited: *waited });
                }
                Err(error)
            }
        };
        let held = match tried {
            Err(error @ LockError::Held { .. }) if !self.options.is_try() => error,
            settled => return settled,
        };
        let wait = |key: &Key| -> BoxFuture<'_, _> { Box::pin(go_on(core, key.clone(), &self.options, started)) };
        // One that the caller itself holds says nothing of the others.
        let counts = |outcome: &Result<_, _>| !matches!(outcome, Err(LockError::WouldDeadlock { .. }));
        let outcome = join::first(self.in_turn().map(wait).collect(), counts).await.unwrap_or(Err(held));
        match (outcome, last) {
            // Over before the store could say again who has them.
            (Err(LockError::Timeout { waited, holder: None, .. }), Some(key)) => {
                let (key, holder) = (key.clone(), sight.holder(shared.clock.now()));
                Err(LockError::Timeout { key, waited, holder })
            }
            (outcome, _) => outcome,
        }
    }

    /// A guard, or who has the last of them. What the store says is noted, and of which key it said so last.
    async fn try_each<'a>(&'a self, sight: &Sight, last: &mut Option<&'a Key>) -> Result<Guard, LockError> {
        let (core, mut options) = (self.locker.core(), self.options.clone());
        options.wait = Wait::Try;
        options.check()?;
        let clock = core.shared.clock;
        let mut outcome = Err(LockError::ShutDown);
        for key in self.in_turn() {
            let question = sight.ask(clock.now());
            outcome = acquire(core, key.clone(), &options).await;
            drop(question);
            let Err(LockError::Held { holder, .. }) = &outcome else { break };
            sight.busy(holder.clone(), clock.now());
            *last = Some(key);
        }
        outcome
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
