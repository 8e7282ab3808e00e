//! What users hold.

use std::{fmt, future::Future, sync::Arc};

use crate::{
    AllKeys, AnyKey, AsyncLock, Capabilities, Guard, IntoKey, KeyLock, Lease, LockError, LockValue, LockerBuilder,
    Pool, ReentrantKey, RwKey, Semaphore,
    acquire::acquire,
    blocking,
    core_ref::{CoreRef, CoreRefs},
    key::pool_key,
    runtime::InRuntime,
    shared::Core,
};

/// Locks by name, over some backend. Cheap to clone; one type whatever the backend.
///
/// It belongs to the tokio runtime it was built on, which renews and releases for it; it may be used from any thread
/// and any runtime, but once its own is gone every call says [`LockError::ShutDown`]. A current-thread runtime that
/// nobody drives renews nothing and wakes nobody.
///
/// # Examples
///
/// ```
/// use tasklock_core::{Locker, MemoryLock};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
/// let lock = Locker::new(MemoryLock::new())?;
///
/// let n = lock.synchronized("team:acme", async { 1 + 1 }).await?;
/// assert_eq!(n, 2);
///
/// let guard = lock.acquire("team:acme").await?;
/// assert!(guard.is_held());
/// assert!(lock.try_acquire("team:acme").await?.is_none());
/// guard.release().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Locker {
    cores: Arc<CoreRefs>,
}

impl Locker {
    /// A locker with default settings over a backend.
    ///
    /// # Errors
    ///
    /// [`LockError::NoRuntime`] outside a tokio runtime with timers; [`LockError::InvalidOption`] on a backend that grants
    /// no lease of 30 s ([`Capabilities::max_ttl`](crate::Capabilities::max_ttl)).
    pub fn new(backend: impl AsyncLock) -> Result<Self, LockError> {
        Self::builder(backend).build()
    }

    /// A locker over a backend, to be set up.
    pub fn builder(backend: impl AsyncLock) -> LockerBuilder {
        LockerBuilder::new(Arc::new(backend))
    }

    pub(crate) fn from_core(core: Core) -> Self {
        Locker { cores: Arc::new(CoreRefs::new(core)) }
    }

    /// Acquires `key`, waiting as long as this locker's settings allow: by default for ever, with a warning in the log
    /// that names the holder after 30 s.
    ///
    /// # Errors
    ///
    /// [`LockError::Timeout`] with the holder's name, if the wait is bounded; [`LockError::WouldDeadlock`] inside a
    /// synchronized body that holds `key`; [`LockError::Backend`] if the store failed for longer than the settings'
    /// patience; [`LockError::InvalidKey`]; [`LockError::ShutDown`].
    ///
    /// # Cancel safety
    ///
    /// Dropped at any point it leaves nothing: no holder, no place in the queue. A call to the store that is under way
    /// is driven to its answer in the background and what it got is given back; the place in the queue is lost.
    pub async fn acquire(&self, key: impl IntoKey) -> Result<Guard, LockError> {
        let core = self.core();
        acquire(core, key.into_key_in(&core.prefix)?, &core.options).await
    }

    /// Acquires `key` if it is free; `None` if somebody else has it. An outage is an error, not a `None`.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Locker::acquire), without the timeout.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Locker::acquire).
    pub async fn try_acquire(&self, key: impl IntoKey) -> Result<Option<Guard>, LockError> {
        self.key(key).try_acquire().await
    }

    /// Runs `body` while holding `key`, and returns what it returns. The lock is released before this returns.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Locker::acquire), and [`LockError::Lost`] if the lock was lost before `body` was done; `body` is
    /// then dropped where it stands.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops `body` and releases in the background.
    pub async fn synchronized<F: Future>(&self, key: impl IntoKey, body: F) -> Result<F::Output, LockError> {
        self.key(key).synchronized(body).await
    }

    /// [`synchronized`](Locker::synchronized) for a fallible body: its error and the lock's become one. It waits like
    /// the others; "try" is as in `try_join!`.
    ///
    /// # Errors
    ///
    /// As [`synchronized`](Locker::synchronized), and the body's own.
    ///
    /// # Cancel safety
    ///
    /// As [`synchronized`](Locker::synchronized).
    pub async fn try_synchronized<T, E, F>(&self, key: impl IntoKey, body: F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: From<LockError>,
    {
        self.key(key).synchronized(body).await?
    }

    /// [`synchronized`](Locker::synchronized) for a body that wants its lease: for the fencing token, or to see
    /// whether it is still held.
    ///
    /// # Errors
    ///
    /// As [`synchronized`](Locker::synchronized).
    ///
    /// # Cancel safety
    ///
    /// As [`synchronized`](Locker::synchronized).
    ///
    /// # Examples
    ///
    /// ```
    /// # use tasklock_core::{Fence, Locker, MemoryLock};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let lock = Locker::new(MemoryLock::new())?;
    /// let fence = Fence::new();
    /// lock.synchronized_with("doc:7", |lease| async move { fence.admit(lease.fencing_token()) }).await??;
    /// # Ok(()) }
    /// ```
    pub async fn synchronized_with<F, Fut>(&self, key: impl IntoKey, body: F) -> Result<Fut::Output, LockError>
    where
        F: FnOnce(Lease) -> Fut,
        Fut: Future,
    {
        self.key(key).synchronized_with(body).await
    }

    /// One key, to be used with options of its own, or again and again.
    ///
    /// A name that no lock can have is told by whatever is called on it.
    pub fn key(&self, key: impl IntoKey) -> KeyLock {
        KeyLock::new(Ok(self.clone()), key.into_key_in(&self.core().prefix))
    }

    /// `key` as a read-write lock: any number of readers together, or one writer alone.
    ///
    /// # Errors
    ///
    /// [`LockError::Unsupported`] if the backend has no shared locks; [`LockError::InvalidKey`].
    pub fn rw(&self, key: impl IntoKey) -> Result<RwKey, LockError> {
        RwKey::new(self.key(key))
    }

    /// `key` as a semaphore: at most `permits` of those who ask for it hold it together.
    ///
    /// # Errors
    ///
    /// [`LockError::Unsupported`] if the backend has no permits; [`LockError::InvalidOption`] if there are to be none;
    /// [`LockError::InvalidKey`].
    pub fn semaphore(&self, key: impl IntoKey, permits: u32) -> Result<Semaphore, LockError> {
        Semaphore::new(self.key(key), permits)
    }

    /// `key` as a lock that `owner` may take again while holding it.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidOption`] for an owner that is empty or longer than 512 bytes; [`LockError::InvalidKey`].
    pub fn reentrant(&self, key: impl IntoKey, owner: impl AsRef<str>) -> Result<ReentrantKey, LockError> {
        ReentrantKey::new(self.key(key), owner.as_ref())
    }

    /// Several keys together: all of them, or none.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidKey`] for the first name that no lock can have; [`LockError::InvalidOption`] if there is no
    /// key.
    pub fn all<K: IntoKey>(&self, keys: impl IntoIterator<Item = K>) -> Result<AllKeys, LockError> {
        AllKeys::new(self, keys)
    }

    /// Whichever of several keys is free.
    ///
    /// # Errors
    ///
    /// As [`all`](Locker::all).
    pub fn any<K: IntoKey>(&self, keys: impl IntoIterator<Item = K>) -> Result<AnyKey, LockError> {
        AnyKey::new(self, keys)
    }

    /// The value beside the lock of `key`: a small text that anybody may read, and change on condition of what it is.
    ///
    /// # Errors
    ///
    /// [`LockError::Unsupported`] if the backend keeps no values; [`LockError::InvalidKey`].
    pub fn value(&self, key: impl IntoKey) -> Result<LockValue, LockError> {
        LockValue::new(&self.key(key))
    }

    /// The pool of this name: a set of members, of which each is held by one at a time. A pool and a lock of the same
    /// name have nothing to do with each other.
    ///
    /// # Errors
    ///
    /// [`LockError::Unsupported`] if the backend has no pools; [`LockError::InvalidKey`].
    pub fn pool(&self, name: impl IntoKey) -> Result<Pool, LockError> {
        Pool::new(self, pool_key(name, &self.core().prefix)?)
    }

    /// The same locks for synchronous code.
    #[must_use]
    pub fn blocking(&self) -> blocking::Locker {
        blocking::Locker::over(self.clone())
    }

    /// What the backend can do.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        self.core().shared.backend.capabilities()
    }

    /// Whether the store answers: for readiness checks.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`] if it does not; [`LockError::ShutDown`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it costs nothing.
    pub async fn ping(&self) -> Result<(), LockError> {
        self.core().shared.ask(self.core().shared.backend.ping()).await
    }

    /// What this locker has in hand just now: for metrics, and for tests that nothing stays behind.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.core().shared;
        Stats {
            held: shared.held(),
            queued_keys: shared.queue.as_ref().map_or(0, crate::queue::Queue::len),
            background: shared.tasks.len(),
        }
    }

    /// Ends this locker and all its clones: nothing more is acquired, waiters are told [`LockError::ShutDown`], and locks
    /// still held are lost to their holders: bodies that run under them are cancelled, unless they are
    /// to finish. Guards that are held as values
    /// have 5 s to be dropped; those that are not are left to expire, for what goes on under them may not have noticed.
    /// Waiters leave the store's queue, and every release, those and earlier ones, is awaited; each is tried for its own ttl
    /// and 30 s at most, and none waits for another.
    ///
    /// Let the work end first, then call this.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the releases go on in the background.
    pub async fn shutdown(&self) -> Drained {
        let shared = self.core().shared.clone();
        let lost = shared.close();
        let end = async {
            let leaving = async {
                shared.waiters.wait().await;
                for hold in &lost {
                    hold.until_unguarded().await;
                }
            };
            shared.drain(leaving).await;
            Ok(())
        };
        // Without a runtime there is nothing to wait for.
        let _ = InRuntime::new(&shared, end).await;
        Drained { lost: lost.len(), left: lost.iter().filter(|hold| !hold.is_unguarded()).count() }
    }

    pub(crate) fn core(&self) -> &CoreRef {
        self.cores.mine()
    }
}

/// What a locker has in hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Locks held.
    pub held: usize,
    /// Keys for which tasks of this process stand in line in front of the store.
    pub queued_keys: usize,
    /// Releases, and calls given up by their callers, that are being driven to their end.
    pub background: usize,
}

/// What [`Locker::shutdown`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Drained {
    /// How many locks were still held, and are lost to their holders.
    pub lost: usize,
    /// How many of those are left to expire, as their guards were not dropped.
    pub left: usize,
}

impl fmt::Debug for Locker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locker").field("backend", &self.core().shared.backend).finish_non_exhaustive()
    }
}
