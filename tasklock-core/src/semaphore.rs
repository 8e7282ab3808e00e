//! Locks that several hold together, up to a number.

use std::future::Future;

use crate::{
    Guard, KeyLock, Lease, LockError, current,
    options::{Options, setters},
};

/// A semaphore on one key, made by [`Locker::semaphore`](crate::Locker::semaphore): at most so many hold a permit of it
/// together, in whatever process.
///
/// A permit is a [`Guard`] like any other: with a fencing token of its own, higher than those granted before, renewed by
/// itself, and free for the next when its holder expires. Within a process waiters are served in order; among processes
/// in strict order ([`Fairness::Strict`](crate::Fairness::Strict)).
///
/// The number is the caller's: a permit is granted while fewer than its own number are held. So a service whose new
/// release has a higher number lets more in from its first instance on, and nothing at the store has to be changed.
///
/// # Examples
///
/// ```
/// # use tasklock_core::{Locker, MemoryLock};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
/// # let lock = Locker::new(MemoryLock::new())?;
/// let exports = lock.semaphore("exports", 2)?;
/// let (one, two) = (exports.acquire().await?, exports.acquire().await?);
/// assert!(exports.try_acquire().await?.is_none());
/// drop(one);
/// let three = exports.acquire().await?;
/// assert!(three.fencing_token() > two.fencing_token());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is locked until something is called on it"]
pub struct Semaphore {
    permit: KeyLock,
}

impl Semaphore {
    pub(crate) fn new(key: KeyLock, permits: u32) -> Result<Self, LockError> {
        let permit = key.permits(permits);
        permit.locker()?;
        Ok(Semaphore { permit })
    }

    setters!();

    /// Waits for a permit.
    ///
    /// # Errors
    ///
    /// As [`KeyLock::acquire`]; [`LockError::WouldDeadlock`] inside synchronized bodies that hold all permits.
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::acquire`](crate::Locker::acquire).
    pub async fn acquire(&self) -> Result<Guard, LockError> {
        self.permit.acquire().await
    }

    /// A permit if one is free and nobody waits for it; else `None`.
    ///
    /// # Errors
    ///
    /// As [`KeyLock::try_acquire`].
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::acquire`](crate::Locker::acquire).
    pub async fn try_acquire(&self) -> Result<Option<Guard>, LockError> {
        self.permit.try_acquire().await
    }

    /// Runs `body` with a permit: see [`Locker::synchronized`](crate::Locker::synchronized).
    ///
    /// # Errors
    ///
    /// As [`acquire`](Semaphore::acquire), and [`LockError::Lost`].
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::synchronized`](crate::Locker::synchronized).
    pub async fn synchronized<F: Future>(&self, body: F) -> Result<F::Output, LockError> {
        self.synchronized_with(|_| body).await
    }

    /// Runs `body`, which is given the lease, with a permit.
    ///
    /// # Errors
    ///
    /// As [`synchronized`](Semaphore::synchronized).
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::synchronized`](crate::Locker::synchronized).
    pub async fn synchronized_with<F, Fut>(&self, body: F) -> Result<Fut::Output, LockError>
    where
        F: FnOnce(Lease) -> Fut,
        Fut: Future,
    {
        current::run(self.acquire().await?, self.permit.ending(), body).await
    }

    /// One permit, as the lock it is.
    pub(crate) fn permit(self) -> KeyLock {
        self.permit
    }

    fn set(self, set: impl Fn(&mut Options)) -> Self {
        Semaphore { permit: self.permit.set(set) }
    }
}
