//! What others see of a lock, and what they may do about it.

use std::{sync::Arc, time::Duration};

use crate::{
    Administer, Holder, IntoKey, Key, LockError, Locker, State, all::keys_of, join, lock::BoxFuture, shared::Shared,
};

/// How many questions to the store are under way at once.
const AT_ONCE: usize = 64;

/// What a lock means to somebody who would wait so long for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Status {
    /// Nobody holds it.
    Free,
    /// It is held, and ends in time unless it is renewed.
    Locked(Arc<Holder>),
    /// It is held for longer than one would wait.
    Unavailable(Arc<Holder>),
    /// It is held, and does not end by itself; or the store does not tell when.
    Endless(Arc<Holder>),
}

impl State {
    /// What it means to somebody who would wait for `patience`. If several share the lock, the last one to go counts.
    #[must_use]
    pub fn status(&self, patience: Duration) -> Status {
        let left = |holder: &&Arc<Holder>| holder.remaining.unwrap_or(Duration::MAX);
        match self.holders().max_by_key(left).cloned() {
            None => Status::Free,
            Some(holder) => match holder.remaining {
                None => Status::Endless(holder),
                Some(left) if left > patience => Status::Unavailable(holder),
                Some(_) => Status::Locked(holder),
            },
        }
    }
}

impl Locker {
    /// What the store says of `key`: its holder, and how many wait. A lock that another process hands from task to task
    /// is seen as that process's: since when it has it, under its first token, and without the tasks that wait there.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`], [`LockError::InvalidKey`].
    ///
    /// # Cancel safety
    ///
    /// It only reads; dropping it costs nothing.
    pub async fn inspect(&self, key: impl IntoKey) -> Result<State, LockError> {
        let key = key.into_key_in(&self.core().prefix)?;
        self.look(&key).await
    }

    /// What the store says of each of these keys, in this order. Up to 64 are asked about at once; the answers need not
    /// be of one moment.
    ///
    /// # Errors
    ///
    /// As [`inspect`](Locker::inspect) of the first that fails; [`LockError::InvalidOption`] if there is no key.
    ///
    /// # Cancel safety
    ///
    /// It only reads; dropping it costs nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tasklock_core::{Locker, MemoryLock};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
    /// # let lock = Locker::builder(MemoryLock::new()).owner_name("worker-3").build()?;
    /// let _guard = lock.acquire("job:1").await?;
    /// for (key, state) in lock.who(["job:1", "job:2"]).await? {
    ///     println!("{key}: {}", state.holder.map_or("free".to_owned(), |holder| holder.to_string()));
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn who<K: IntoKey>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<(Key, State)>, LockError> {
        let keys = keys_of(self, keys)?;
        let mut states = Vec::with_capacity(keys.len());
        for some in keys.chunks(AT_ONCE) {
            let questions = some.iter().map(|key| -> BoxFuture<'_, _> { Box::pin(self.look(key)) }).collect();
            for (key, state) in some.iter().zip(join::all(questions).await) {
                states.push((key.clone(), state?));
            }
        }
        Ok(states)
    }

    /// What `key` means to somebody who would wait for `patience`.
    ///
    /// # Errors
    ///
    /// As [`inspect`](Locker::inspect).
    ///
    /// # Cancel safety
    ///
    /// It only reads; dropping it costs nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tasklock_core::{Locker, MemoryLock, Status};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
    /// # let lock = Locker::new(MemoryLock::new())?;
    /// assert_eq!(lock.status("job:7", Duration::ZERO).await?, Status::Free);
    /// let _guard = lock.acquire("job:7").await?; // for 30 s, unless renewed
    /// assert!(matches!(lock.status("job:7", Duration::from_secs(5)).await?, Status::Unavailable(_)));
    /// assert!(matches!(lock.status("job:7", Duration::from_secs(60)).await?, Status::Locked(_)));
    /// # Ok(()) }
    /// ```
    pub async fn status(&self, key: impl IntoKey, patience: Duration) -> Result<Status, LockError> {
        Ok(self.inspect(key).await?.status(patience))
    }

    /// Takes `key` from whoever holds it and lets the next waiter in; whether somebody held it. A holder that renews
    /// notices at its next renewal, one that does not at its release; the first reports it as
    /// [`LossReason::Stolen`](crate::LossReason::Stolen); its fencing token is refused from the next holder's first write
    /// on. If several share the lock, all of them lose it.
    ///
    /// # Errors
    ///
    /// [`LockError::Unsupported`] if the backend has no such power; [`LockError::Backend`];
    /// [`LockError::InvalidKey`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not have broken the lock.
    pub async fn break_lock(&self, key: impl IntoKey) -> Result<bool, LockError> {
        let core = self.core();
        let key = key.into_key_in(&core.prefix)?;
        let shared = &core.shared;
        let broken = shared.ask(power(shared)?.revoke(&key, None)).await?;
        said_broken(shared, &key, broken);
        Ok(broken)
    }

    /// [`break_lock`](Locker::break_lock) for holders that have given no sign of life for at least `silent_for`: neither
    /// their acquisition nor a renewal. However old a hold is, one that is renewed is not broken, and one that was granted
    /// meanwhile is not either. A holder that is silent because its renewal is off
    /// looks the same as one that is dead: name a time longer than such holds last.
    ///
    /// # Errors
    ///
    /// As [`break_lock`](Locker::break_lock); [`LockError::Unsupported`] also if the store does not tell when it last
    /// heard of a holder.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not have broken the lock.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tasklock_core::{Locker, MemoryLock};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
    /// # let lock = Locker::new(MemoryLock::new())?;
    /// let _guard = lock.acquire("job:7").await?;
    /// assert!(!lock.break_if_stale("job:7", Duration::from_secs(60)).await?);
    /// # Ok(()) }
    /// ```
    pub async fn break_if_stale(&self, key: impl IntoKey, silent_for: Duration) -> Result<bool, LockError> {
        let core = self.core();
        let key = key.into_key_in(&core.prefix)?;
        let shared = &core.shared;
        let power = power(shared)?;
        let untold = || unsupported(shared, "signs of life of holders");
        if !shared.backend.capabilities().signs_of_life {
            return Err(untold());
        }
        let state = self.look(&key).await?;
        let mut any = false;
        for holder in state.holders() {
            let (Some(nonce), Some(silent)) = (holder.nonce, holder.silent) else { return Err(untold()) };
            if silent >= silent_for {
                any |= shared.ask(power.revoke(&key, Some(nonce))).await?;
            }
        }
        said_broken(shared, &key, any);
        Ok(any)
    }

    async fn look(&self, key: &Key) -> Result<State, LockError> {
        let shared = &self.core().shared;
        let state = shared.ask(shared.backend.inspect(key)).await?;
        Ok(match &shared.queue {
            Some(queue) => queue.complete(key, shared.clock.now(), state),
            None => state,
        })
    }
}

fn power(shared: &Shared) -> Result<&dyn Administer, LockError> {
    shared.backend.powers().administer.ok_or_else(|| unsupported(shared, "breaking locks"))
}

pub(crate) fn unsupported(shared: &Shared, what: &str) -> LockError {
    LockError::Unsupported { backend: shared.backend_name(), what: what.to_owned() }
}

fn said_broken(shared: &Shared, key: &Key, broken: bool) {
    if broken {
        tracing::warn!(target: "tasklock", key = %shared.shown(key), backend = shared.backend_name(), "lock broken");
    }
}
