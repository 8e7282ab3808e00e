//! Locks that their owner may take again.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    ops::Deref,
    sync::{Arc, Mutex, Weak},
};

use tokio::sync::watch;

use crate::{
    Guard, InvalidOption, Key, KeyLock, Lease, LockError, Locker, OnLost, Owner, ReleaseMode, ReleaseOutcome, Ttl,
    Wait,
    current::{self, Releasable},
    options::{Options, setters},
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
/// up and asks nobody. Of several that wait for it each has a place in line, and all enter when one is granted it. The lock
/// is given back when the last of their guards goes. Another owner waits, and so does the same one in another process: the
/// count is local. Others see the owner's name as the holder's.
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

    /// Acquires it if it is free or this owner's; `None` if somebody else has it, or if another acquisition of this owner
    /// is just being granted it.
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
        // A loop over a lock that is entered must let other tasks run, too.
        tokio::task::coop::consume_budget().await;
        let seat = Seat::take(shared, key, &self.owner);
        let mut news = seat.held.subscribe();
        let guard = match seat.there() {
            Some(guard) => guard,
            None => tokio::select! {
                biased;
                guard = entered(&mut news) => guard,
                acquired = self.lock.acquire() => match acquired {
                    Ok(guard) => seat.hold(guard),
                    // Somebody has it: another of this owner by now?
                    Err(error) => seat.there().filter(|_| error.is_contended()).ok_or(error)?,
                },
            },
        };
        guard.check()?;
        Ok(ReentrantGuard { guard, seat })
    }

    fn set(self, set: impl Fn(&mut Options)) -> Self {
        ReentrantKey { lock: self.lock.set(set), ..self }
    }
}

/// One of the guards that an owner has on a [`ReentrantKey`]; the last to be dropped gives the lock back. Through
/// [`Lease`], which it derefs to, it tells its fencing token and whether it is still held.
#[must_use = "dropping the guard releases the lock"]
pub struct ReentrantGuard {
    guard: Arc<Guard>,
    /// Dropped after the guard.
    seat: Seat,
}

impl ReentrantGuard {
    /// How many guards this owner has on it now.
    #[must_use]
    pub fn count(&self) -> usize {
        Arc::strong_count(&self.guard)
    }

    /// Renews the lease now, for `ttl` from now on and at every later renewal: see [`Guard::extend`]. It is that of all
    /// guards of this owner.
    ///
    /// # Errors
    ///
    /// As [`Guard::extend`].
    ///
    /// # Cancel safety
    ///
    /// As [`Guard::extend`].
    pub async fn extend(&self, ttl: impl Into<Ttl> + Send) -> Result<(), LockError> {
        self.guard.extend(ttl).await
    }

    /// Sets the [value beside the lock](crate::LockValue) for `ttl`, and renews the lease as by
    /// [`extend`](ReentrantGuard::extend), in one step: see [`Guard::update`].
    ///
    /// # Errors
    ///
    /// As [`Guard::update`].
    ///
    /// # Cancel safety
    ///
    /// As [`Guard::update`].
    pub async fn update(&self, value: impl Into<String> + Send, ttl: impl Into<Ttl> + Send) -> Result<(), LockError> {
        self.guard.update(value, ttl).await
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
    pub async fn release(self) -> Result<Option<ReleaseOutcome>, LockError> {
        let ReentrantGuard { guard, seat: _seat } = self;
        match Arc::into_inner(guard) {
            Some(guard) => guard.release().await.map(Some),
            None => Ok(None),
        }
    }
}

impl Releasable for ReentrantGuard {
    fn lease(&self) -> &Lease {
        self.guard.lease()
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
        self.guard.lease()
    }
}

impl fmt::Debug for ReentrantGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReentrantGuard").field("lease", self.guard.lease()).field("count", &self.count()).finish()
    }
}

/// What each owner has of each key, for as long as anybody sits there.
#[derive(Debug, Default)]
pub(crate) struct Owners(Mutex<HashMap<(Key, Arc<str>), Owned>>);

#[derive(Debug, Default)]
struct Owned {
    held: Arc<watch::Sender<Weak<Guard>>>,
    seated: usize,
}

/// A guard, or an acquisition, of one owner.
struct Seat {
    shared: Arc<Shared>,
    of: (Key, Arc<str>),
    /// What the owner holds, if anything. All who acquire it are told when one of them has.
    held: Arc<watch::Sender<Weak<Guard>>>,
}

impl Seat {
    fn take(shared: &Arc<Shared>, key: &Key, owner: &Arc<str>) -> Self {
        let of = (key.clone(), owner.clone());
        let mut owners = lock(&shared.owners.0);
        let owned = owners.entry(of.clone()).or_default();
        owned.seated += 1;
        Seat { shared: shared.clone(), of, held: owned.held.clone() }
    }

    /// What the owner holds.
    fn there(&self) -> Option<Arc<Guard>> {
        self.held.borrow().upgrade()
    }

    /// The owner holds this from now on, unless it has guards of another that it lost.
    fn hold(&self, guard: Guard) -> Arc<Guard> {
        let (guard, mut there) = (Arc::new(guard), None);
        self.held.send_if_modified(|held| {
            there = held.upgrade();
            if there.is_none() {
                *held = Arc::downgrade(&guard);
            }
            there.is_none()
        });
        there.unwrap_or(guard)
    }
}

/// Completes when another acquisition of this owner has it.
async fn entered(news: &mut watch::Receiver<Weak<Guard>>) -> Arc<Guard> {
    while news.changed().await.is_ok() {
        let there = news.borrow().upgrade();
        if let Some(guard) = there {
            return guard;
        }
    }
    // Not as long as there is a seat.
    std::future::pending().await
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
