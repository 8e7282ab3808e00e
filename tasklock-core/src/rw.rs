//! Read-write locks.

use std::future::Future;

use crate::{
    Guard, KeyLock, LockError, current,
    options::{Options, setters},
};

/// A read-write lock on one key, made by [`Locker::rw`](crate::Locker::rw): readers hold it together, a writer alone.
///
/// Every grant has a fencing token of its own, a reader's too, and the next is higher; each reader renews and expires by
/// itself. On a backend that serves its waiters in order (`Capabilities::fair`), readers and writers stand in one queue:
/// a writer that waits keeps later readers behind it, and the readers at the head enter together. Elsewhere readers that
/// keep coming may keep a writer waiting.
///
/// A reader that asks for the lock again waits for itself if a writer has begun to wait in between.
///
/// # Examples
///
/// ```
/// # use tasklock_core::{Locker, MemoryLock};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
/// # let lock = Locker::new(MemoryLock::new())?;
/// let catalogue = lock.rw("catalogue")?;
/// let (one, two) = (catalogue.read().await?, catalogue.read().await?);
/// assert!(catalogue.try_write().await?.is_none());
/// drop((one, two));
/// let items = catalogue.synchronized_write(async { vec!["chair"] }).await?;
/// # assert_eq!(items.len(), 1);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is locked until something is called on it"]
pub struct RwKey {
    read: KeyLock,
    write: KeyLock,
}

impl RwKey {
    pub(crate) fn new(write: KeyLock) -> Result<Self, LockError> {
        let read = write.clone().shared();
        read.locker()?;
        Ok(RwKey { read, write })
    }

    setters!();

    /// Waits until nobody writes, and keeps writers out.
    ///
    /// # Errors
    ///
    /// As [`KeyLock::acquire`]; [`LockError::WouldDeadlock`] inside a synchronized body that writes.
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::acquire`](crate::Locker::acquire).
    pub async fn read(&self) -> Result<Guard, LockError> {
        self.read.acquire().await
    }

    /// The same if nobody writes, or waits to; `None` if somebody does.
    ///
    /// # Errors
    ///
    /// As [`KeyLock::try_acquire`].
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::acquire`](crate::Locker::acquire).
    pub async fn try_read(&self) -> Result<Option<Guard>, LockError> {
        self.read.try_acquire().await
    }

    /// Waits until nobody reads or writes, and keeps both out.
    ///
    /// # Errors
    ///
    /// As [`KeyLock::acquire`]; [`LockError::WouldDeadlock`] inside a synchronized body that reads or writes.
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::acquire`](crate::Locker::acquire).
    pub async fn write(&self) -> Result<Guard, LockError> {
        self.write.acquire().await
    }

    /// The same if nobody reads or writes; `None` if somebody does.
    ///
    /// # Errors
    ///
    /// As [`KeyLock::try_acquire`].
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::acquire`](crate::Locker::acquire).
    pub async fn try_write(&self) -> Result<Option<Guard>, LockError> {
        self.write.try_acquire().await
    }

    /// Runs `body` as a reader: see [`Locker::synchronized`](crate::Locker::synchronized).
    ///
    /// # Errors
    ///
    /// As [`read`](RwKey::read), and [`LockError::Lost`].
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::synchronized`](crate::Locker::synchronized).
    pub async fn synchronized_read<F: Future>(&self, body: F) -> Result<F::Output, LockError> {
        current::run(self.read().await?, self.read.ending(), |_| body).await
    }

    /// Runs `body` as the only writer: see [`Locker::synchronized`](crate::Locker::synchronized).
    ///
    /// # Errors
    ///
    /// As [`write`](RwKey::write), and [`LockError::Lost`].
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::synchronized`](crate::Locker::synchronized).
    pub async fn synchronized_write<F: Future>(&self, body: F) -> Result<F::Output, LockError> {
        current::run(self.write().await?, self.write.ending(), |_| body).await
    }

    /// Both sides: the reader's, and the writer's.
    pub(crate) fn sides(self) -> (KeyLock, KeyLock) {
        (self.read, self.write)
    }

    fn set(self, set: impl Fn(&mut Options)) -> Self {
        RwKey { read: self.read.set(&set), write: self.write.set(&set) }
    }
}
