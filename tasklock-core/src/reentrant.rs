//! Locks that their owner may take again.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    ops::Deref,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use crate::{
    BackendError, Guard, InvalidOption, Key, KeyLock, Lease, LockError, Locker, Mono, OnLost, Owner, ReleaseMode,
    ReleaseOutcome, Wait,
    current::{self, Releasable},
    options::{Options, setters},
    queue::LineOf,
    runtime::InRuntime,
    shards::lock,
    shared::Shared,
};

/// The longest owner, in bytes.
const MAX_OWNER: usize = 512;

/// A lock on one key that whoever names the same owner holds together, made by
/// [`Locker::reentrant`](crate::Locker::reentrant).
///
/// The first acquisition takes the lock; every further one by the same owner, of the same locker and its clones, counts
/// up and asks nobody. The lock is given back when the last of their guards goes. Another owner waits, and so does
/// the same one in another process: the count is local. Others see the owner's name as the holder's.
///
/// All of them have one lease and one fencing token. If it is lost, it is lost to all, and cannot be entered again
/// until their guards are gone.
///
/// # Examples
///
/// ```
/// # use tasklock_core::{Locker, MemoryLock};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
/// # let lock = Locker::new(MemoryLock::new())?;
/// let import = lock.reentrant("import", "request 7")?;
/// let outer = import.acquire().await?;
/// let inner = lock.reentrant("import", "request 7")?.acquire().await?;
/// assert_eq!((inner.count(), inner.fencing_token()), (2, outer.fencing_token()));
/// drop(outer);
/// assert!(lock.reentrant("import", "request 8")?.try_acquire().await?.is_none());
/// inner.release().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is locked until something is called on it"]
pub struct ReentrantKey {
    lock: KeyLock,
    owner: Arc<str>,
}

impl ReentrantKey {
    pub(crate) fn new(lock: KeyLock, owner: &str) -> Result<Self, LockError> {
        lock.locker()?;
        if owner.is_empty() || owner.len() > MAX_OWNER {
            return Err(InvalidOption::new("owner", owner.len(), format!("it has 1 to {MAX_OWNER} bytes")).into());
        }
        let named = Owner::named(owner);
        Ok(ReentrantKey { lock: lock.set(|options| options.owner = named.clone()), owner: Arc::from(owner) })
    }

    setters!();

    /// Acquires it, or enters it again.
    ///
    /// # Errors
    ///
    /// As [`KeyLock::acquire`]; [`LockError::Lost`] if this owner still has guards of a lease that was lost.
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::acquire`](crate::Locker::acquire).
    pub async fn acquire(&self) -> Result<ReentrantGuard, LockError> {
        let shared = &self.lock.locker()?.core().shared;
        InRuntime::new(shared, self.enter(shared)).await
    }

    /// Acquires it if it is free or this owner's; `None` if somebody else has it.
    ///
    /// # Errors
    ///
    /// As [`acquire`](ReentrantKey::acquire), without the timeout.
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::acquire`](crate::Locker::acquire).
    pub async fn try_acquire(&self) -> Result<Option<ReentrantGuard>, LockError> {
        match self.clone().wait(Wait::Try).acquire().await {
            Ok(guard) => Ok(Some(guard)),
            Err(LockError::Held { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Runs `body` while holding it: see [`Locker::synchronized`](crate::Locker::synchronized).
    ///
    /// # Errors
    ///
    /// As [`acquire`](ReentrantKey::acquire), and [`LockError::Lost`].
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::synchronized`](crate::Locker::synchronized).
    pub async fn synchronized<F: Future>(&self, body: F) -> Result<F::Output, LockError> {
        self.synchronized_with(|_| body).await
    }

    /// Runs `body`, which is given the lease, while holding it.
    ///
    /// # Errors
    ///
    /// As [`synchronized`](ReentrantKey::synchronized).
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::synchronized`](crate::Locker::synchronized).
    pub async fn synchronized_with<F, Fut>(&self, body: F) -> Result<Fut::Output, LockError>
    where
        F: FnOnce(Lease) -> Fut,
        Fut: Future,
    {
        current::run(self.acquire().await?, self.ending(), body).await
    }

    /// Runs `body` while holding it, if it is free or this owner's; `None`, and `body` is not run, if somebody else has it.
    ///
    /// # Errors
    ///
    /// As [`synchronized`](ReentrantKey::synchronized).
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::synchronized`](crate::Locker::synchronized).
    pub async fn synchronized_if_free_with<F, Fut>(&self, body: F) -> Result<Option<Fut::Output>, LockError>
    where
        F: FnOnce(Lease) -> Fut,
        Fut: Future,
    {
        match self.try_acquire().await? {
            Some(guard) => current::run(guard, self.ending(), body).await.map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn locker(&self) -> Result<&Locker, LockError> {
        self.lock.locker()
    }

    /// What happens at the end of a body, foreseen or not.
    pub(crate) fn ending(&self) -> (OnLost, ReleaseMode) {
        self.lock.ending()
    }

    async fn enter(&self, shared: &Arc<Shared>) -> Result<ReentrantGuard, LockError> {
        let (key, options) = self.lock.wanted()?;
        options.check()?;
        shared.check_open()?;
        let started = shared.clock.now();
        let give_up = match options.wait {
            Wait::For(wait) => started.after(wait),
            _ => Mono::NEVER,
        };
        let seat = Seat::take(shared, key, &self.owner);
        let mut held = if options.is_try() {
            let busy = |_| LockError::Held { key: key.clone(), holder: None };
            seat.held.try_lock().map_err(busy)?
        } else {
            // Another acquisition by this owner is under way: it is for both.
            tokio::select! {
                biased;
                held = seat.held.lock() => held,
                () = shared.clock.sleep_until(give_up) => {
                    return Err(LineOf::at(shared, key).gave_up(started, shared.clock.now()));
                }
            }
        };
        let guard = match held.guard.upgrade() {
            Some(guard) => guard.check().map(|()| guard)?,
            None => {
                held.check_patience(started, options.patience, shared.clock.now())?;
                let acquired = self.acquire_anew(give_up, shared).await;
                held.failed = match &acquired {
                    Err(LockError::Backend(error)) => Some((shared.clock.now(), error.clone())),
                    _ => None,
                };
                Arc::new(acquired?)
            }
        };
        held.guard = Arc::downgrade(&guard);
        drop(held);
        Ok(ReentrantGuard { lease: guard.lease().clone(), guard: Some(guard), seat })
    }

    /// The lock itself, in what is left of the time.
    async fn acquire_anew(&self, give_up: Mono, shared: &Shared) -> Result<Guard, LockError> {
        if give_up == Mono::NEVER {
            return self.lock.acquire().await;
        }
        // No less than this, or it would be a try.
        let left = give_up.since(shared.clock.now()).max(Duration::from_millis(1));
        self.lock.clone().wait(left).acquire().await
    }

    fn set(self, set: impl Fn(&mut Options)) -> Self {
        ReentrantKey { lock: self.lock.set(set), ..self }
    }
}

/// One of the guards that an owner has on a [`ReentrantKey`]; the last to be dropped gives the lock back. Through
/// [`Lease`], which it derefs to, it tells its fencing token and whether it is still held.
#[must_use = "dropping the guard releases the lock"]
pub struct ReentrantGuard {
    lease: Lease,
    /// There until it is released.
    guard: Option<Arc<Guard>>,
    /// Dropped after the guard.
    seat: Seat,
}

impl ReentrantGuard {
    /// How many guards this owner has on it now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.guard.as_ref().map_or(0, Arc::strong_count)
    }

    /// Gives this guard back. If it is the last, the lock is released as by [`Guard::release`]; `None` if there are
    /// others.
    ///
    /// # Errors
    ///
    /// As [`Guard::release`].
    ///
    /// # Cancel safety
    ///
    /// As [`Guard::release`].
    pub async fn release(mut self) -> Result<Option<ReleaseOutcome>, LockError> {
        match self.guard.take().and_then(Arc::into_inner) {
            Some(guard) => guard.release().await.map(Some),
            None => Ok(None),
        }
    }
}

impl Releasable for ReentrantGuard {
    fn lease(&self) -> &Lease {
        &self.lease
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.seat.shared
    }

    async fn give_back(self) -> Result<ReleaseOutcome, LockError> {
        Ok(self.release().await?.unwrap_or(ReleaseOutcome::Released))
    }
}

impl Deref for ReentrantGuard {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}

impl fmt::Debug for ReentrantGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReentrantGuard").field("lease", &self.lease).field("count", &self.count()).finish()
    }
}

/// What each owner has of each key, for as long as anybody sits there.
#[derive(Debug, Default)]
pub(crate) struct Owners(Mutex<HashMap<(Key, Arc<str>), Owned>>);

#[derive(Debug, Default)]
struct Owned {
    held: Arc<tokio::sync::Mutex<Taken>>,
    seated: usize,
}

/// What an owner holds, and how the last attempt to acquire it ended if the store failed, and when.
#[derive(Debug, Default)]
struct Taken {
    guard: Weak<Guard>,
    failed: Option<(Mono, BackendError)>,
}

impl Taken {
    /// An attempt that failed meanwhile was for all who waited for it, if it took all the patience they have.
    fn check_patience(&self, started: Mono, patience: Duration, now: Mono) -> Result<(), BackendError> {
        match &self.failed {
            Some((at, error)) if error.is_retryable() && *at >= started && now.since(started) >= patience => {
                Err(error.clone())
            }
            _ => Ok(()),
        }
    }
}

/// A guard, or an acquisition, of one owner.
struct Seat {
    shared: Arc<Shared>,
    of: (Key, Arc<str>),
    /// What the owner holds, if anything; locked by whoever acquires it.
    held: Arc<tokio::sync::Mutex<Taken>>,
}

impl Seat {
    fn take(shared: &Arc<Shared>, key: &Key, owner: &Arc<str>) -> Self {
        let of = (key.clone(), owner.clone());
        let mut owners = lock(&shared.owners.0);
        let owned = owners.entry(of.clone()).or_default();
        owned.seated += 1;
        Seat { shared: shared.clone(), of, held: owned.held.clone() }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut owners = lock(&self.shared.owners.0);
        if let Some(owned) = owners.get_mut(&self.of) {
            owned.seated -= 1;
            if owned.seated == 0 {
                owners.remove(&self.of);
            }
        }
        if owners.capacity() > ROOM_KEPT && owners.len() < owners.capacity() / 8 {
            owners.shrink_to(ROOM_KEPT / 2);
        }
    }
}

/// A table keeps the room of its busiest hour; one that is nearly empty gives it back.
const ROOM_KEPT: usize = 256;
