//! A lock held as a value.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    FencingToken, Key, Lease, LockError, Mono, Ttl,
    core_ref::CoreRef,
    hold::Hold,
    keeper,
    nursery::Young,
    release::Driven,
    runtime::InRuntime,
    shared::{GivenBack, Shared},
    values,
};

/// A held lock; dropping it gives it back. `'static` and `Send`: it may move to another task.
///
/// It is renewed until then by its locker's keeper. Through [`Lease`], which it derefs to, it tells its fencing token
/// and whether it is still held.
///
/// Dropping it, on whatever thread, in a panic too, starts the release in the background, where it is repeated until
/// the store has it. [`release`](Guard::release) waits for that and tells the outcome. A guard that is leaked
/// (`mem::forget`) is renewed for as long as its locker lives, unless it has a maximum hold.
#[must_use = "dropping the guard releases the lock"]
pub struct Guard {
    core: CoreRef,
    hold: Held,
    armed: bool,
    /// Whether it was given back before its minimum hold was over, and has waited for that.
    kept_back: bool,
}

/// What a guard knows its hold by.
enum Held {
    Young { young: Young, lease: OnceLock<Lease> },
    Grown(Lease),
}

/// What became of a lock given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReleaseOutcome {
    /// It was held until now.
    Released,
    /// It had been lost before; nothing was released.
    AlreadyLost,
    /// Its minimum hold is not over yet: it is held in the background until then, and given back.
    KeptBack,
}

impl Guard {
    pub(crate) fn new(core: CoreRef, hold: Arc<Hold>) -> Self {
        Guard { core, hold: Held::Grown(Lease(hold)), armed: true, kept_back: false }
    }

    pub(crate) fn young(core: CoreRef, young: Young) -> Self {
        Guard { core, hold: Held::Young { young, lease: OnceLock::new() }, armed: true, kept_back: false }
    }

    /// The lease, as a handle that outlives the guard without holding the lock.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        match &self.hold {
            Held::Young { young, lease } => lease.get_or_init(|| Lease(self.shared().grow_up(young))),
            Held::Grown(lease) => lease,
        }
    }

    /// Which lock.
    #[must_use]
    pub fn key(&self) -> &Key {
        match &self.hold {
            Held::Young { young, .. } => &young.key,
            Held::Grown(lease) => lease.key(),
        }
    }

    /// The token minted with the grant, to be sent with every write to the guarded store.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        match &self.hold {
            Held::Young { young, .. } => young.token,
            Held::Grown(lease) => lease.fencing_token(),
        }
    }

    /// Whether the lock is still held. Reads the clock; does not depend on any task having run.
    #[must_use]
    pub fn is_held(&self) -> bool {
        match self.deadline_if_young() {
            Some(deadline) if self.shared().clock.now() < deadline => true,
            _ => self.lease().is_held(),
        }
    }

    /// Time left until the lease ends unless renewed: see [`Lease::remaining`].
    #[must_use]
    pub fn remaining(&self) -> Duration {
        match self.deadline_if_young() {
            Some(Mono::NEVER) => Duration::MAX,
            Some(deadline) => deadline.since(self.shared().clock.now()),
            None => self.lease().remaining(),
        }
    }

    /// Gives the lock back and waits until the store has it, up to 5 s; after that it goes on in the background. It is
    /// not waited for either if a minimum hold keeps it back.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`] if the store did not confirm in time, or refused.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the release goes on in the background if this is dropped; before, the guard is dropped with it,
    /// which has the same effect.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tasklock_core::{Locker, MemoryLock, ReleaseOutcome};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
    /// # let lock = Locker::new(MemoryLock::new())?;
    /// let guard = lock.acquire("job:7").await?;
    /// assert_eq!(guard.release().await?, ReleaseOutcome::Released);
    /// # Ok(()) }
    /// ```
    pub async fn release(mut self) -> Result<ReleaseOutcome, LockError> {
        self.armed = false;
        if self.release_if_young() {
            return Ok(ReleaseOutcome::Released);
        }
        let _counted = self.counted();
        if self.keep_back() {
            return Ok(ReleaseOutcome::KeptBack);
        }
        let (shared, hold) = (self.shared().clone(), self.lease().0.clone());
        match shared.give_back(&hold) {
            GivenBack::Now(outcome) => Ok(outcome),
            GivenBack::Later(end) => InRuntime::new(&shared, Shared::wait_for(end)).await,
        }
    }

    /// Renews the lease now, for `ttl` from now on and at every later renewal.
    ///
    /// # Errors
    ///
    /// [`LockError::Lost`] if it is not held any more, [`LockError::InvalidOption`] for a ttl out of range,
    /// [`LockError::Backend`] if the store failed: the lease then goes on as before, but no longer than `ttl` until it
    /// is renewed, as the store may have heard.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the renewal is carried out even if this is dropped.
    pub async fn extend(&self, ttl: impl Into<Ttl> + Send) -> Result<(), LockError> {
        let ttl = ttl.into();
        self.extend_with(ttl, None).await
    }

    /// Sets the [value beside the lock](crate::LockValue) for `ttl`, and renews the lease as by
    /// [`extend`](Guard::extend), in one step: both, or neither if the lock is not held any more. Later renewals do not
    /// prolong the value.
    ///
    /// # Errors
    ///
    /// As [`extend`](Guard::extend); [`LockError::InvalidOption`] also for a value of more than 4096 bytes;
    /// [`LockError::Unsupported`] if the backend keeps no values, and for a member of a pool.
    ///
    /// # Cancel safety
    ///
    /// As [`extend`](Guard::extend).
    pub async fn update(&self, value: impl Into<String> + Send, ttl: impl Into<Ttl> + Send) -> Result<(), LockError> {
        let (value, ttl) = (value.into(), ttl.into());
        values::check(&value)?;
        values::power(self.shared())?;
        if self.key().is_pool() {
            let (backend, what) = (self.shared().backend_name(), "a value beside a member of a pool".to_owned());
            return Err(LockError::Unsupported { backend, what });
        }
        self.extend_with(ttl, Some(value)).await
    }

    async fn extend_with(&self, ttl: Ttl, value: Option<String>) -> Result<(), LockError> {
        ttl.check()?;
        self.lease().check()?;
        let (shared, hold) = (self.shared().clone(), self.lease().0.clone());
        let extension = Box::pin(keeper::extend(shared.clone(), hold, ttl, value));
        InRuntime::new(&shared, Driven::new(shared.clone(), extension)).await
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.core.shared
    }

    /// A shutdown leaves to itself what is to be kept back: it waits for it here, until it is, or is given back.
    fn counted(&self) -> Option<TaskTrackerToken> {
        self.lease().0.min_until.map(|_| self.shared().tasks.token())
    }

    /// Whether the minimum hold is still to come to its end: then another guard sees to the rest.
    fn keep_back(&self) -> bool {
        let Held::Grown(lease) = &self.hold else { return false };
        let (shared, kept_back) = (self.shared(), self.kept_back);
        let until = lease.0.min_until.filter(|until| !kept_back && *until > shared.clock.now() && lease.is_held());
        let Some(until) = until else { return false };
        lease.0.keep_back();
        if shared.closed.load(Ordering::SeqCst) {
            return false;
        }
        let (clock, lease) = (shared.clock, lease.clone());
        let later = Guard { core: self.core.clone(), hold: Held::Grown(lease), armed: true, kept_back: true };
        shared.drive(Box::pin(async move {
            clock.sleep_until(until).await;
            drop(later);
        }));
        true
    }

    fn deadline_if_young(&self) -> Option<Mono> {
        match &self.hold {
            Held::Young { young, lease } if lease.get().is_none() => self.shared().nursery.deadline_of(young),
            _ => None,
        }
    }

    fn release_if_young(&self) -> bool {
        match &self.hold {
            Held::Young { young, lease } if lease.get().is_none() => {
                self.shared().nursery.release(self.shared(), young)
            }
            _ => false,
        }
    }
}

impl Deref for Guard {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        self.lease()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.armed || self.release_if_young() {
            return;
        }
        let _counted = self.counted();
        if !self.keep_back() {
            drop(self.shared().give_back(&self.lease().0));
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("key", self.key()).field("token", &self.fencing_token()).finish_non_exhaustive()
    }
}
