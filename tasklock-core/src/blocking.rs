//! The same locks for synchronous code.
//!
//! Where a tokio runtime runs, blocking a thread would stall other tasks: every call here then refuses with
//! [`LockError::WouldBlock`], which names the call to await instead.

use std::{fmt, future::Future, ops::Deref, sync::Arc, thread, time::Duration};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

use crate::{IntoKey, Lease, LockError, ReleaseMode, ReleaseOutcome, current, shared::RELEASE_WAIT};

/// A [`crate::Locker`] whose calls block. Cheap to clone.
///
/// # Examples
///
/// ```
/// use tasklock_core::{LockError, Locker, MemoryLock, blocking};
///
/// # fn main() -> Result<(), LockError> {
/// let lock = blocking::Locker::start(async { Locker::new(MemoryLock::new()) })?;
/// let n = lock.synchronized("team:acme", || 1 + 1)?;
/// assert_eq!(n, 2);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Locker {
    locker: crate::Locker,
    runtime: Option<Arc<Background>>,
}

impl Locker {
    /// A locker on a runtime of its own, in a thread of its own, which ends with the last clone and guard.
    ///
    /// # Errors
    ///
    /// What `make` returns; [`LockError::WouldBlock`] inside a tokio runtime; [`LockError::NoRuntime`] if the thread
    /// could not be started.
    pub fn start(make: impl Future<Output = Result<crate::Locker, LockError>>) -> Result<Self, LockError> {
        may_block("connect(url)")?;
        let runtime = Arc::new(Background::start()?);
        let locker = runtime.handle.block_on(make)?;
        Ok(Locker { locker, runtime: Some(runtime) })
    }

    pub(crate) fn over(locker: crate::Locker) -> Self {
        Locker { locker, runtime: None }
    }

    /// Blocks until `key` is acquired: see [`crate::Locker::acquire`].
    ///
    /// # Errors
    ///
    /// As there; [`LockError::WouldBlock`] inside a tokio runtime.
    pub fn acquire(&self, key: impl IntoKey) -> Result<Guard, LockError> {
        self.key(key).acquire()
    }

    /// Acquires `key` if it is free: see [`crate::Locker::try_acquire`].
    ///
    /// # Errors
    ///
    /// As there; [`LockError::WouldBlock`] inside a tokio runtime.
    pub fn try_acquire(&self, key: impl IntoKey) -> Result<Option<Guard>, LockError> {
        self.key(key).try_acquire()
    }

    /// Runs `body` while holding `key`. It cannot be cancelled: if the lock is lost, it runs to its end.
    ///
    /// # Errors
    ///
    /// As [`crate::Locker::synchronized`]; [`LockError::WouldBlock`] inside a tokio runtime.
    pub fn synchronized<T>(&self, key: impl IntoKey, body: impl FnOnce() -> T) -> Result<T, LockError> {
        self.key(key).synchronized_with(|_| body())
    }

    /// One key, to be used with options of its own.
    pub fn key(&self, key: impl IntoKey) -> KeyLock {
        KeyLock { lock: self.locker.key(key), runtime: self.runtime.clone() }
    }

    /// `key` as a read-write lock: see [`crate::Locker::rw`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn rw(&self, key: impl IntoKey) -> Result<RwKey, LockError> {
        let (read, write) = self.locker.rw(key)?.sides();
        let side = |lock| KeyLock { lock, runtime: self.runtime.clone() };
        Ok(RwKey { reader: side(read), writer: side(write) })
    }

    /// `key` as a semaphore, each permit of which is a lock like any other: see [`crate::Locker::semaphore`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn semaphore(&self, key: impl IntoKey, permits: u32) -> Result<KeyLock, LockError> {
        let lock = self.locker.semaphore(key, permits)?.permit();
        Ok(KeyLock { lock, runtime: self.runtime.clone() })
    }

    /// The pool of this name: see [`crate::Locker::pool`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn pool(&self, name: impl IntoKey) -> Result<Pool, LockError> {
        Ok(Pool { pool: self.locker.pool(name)?, runtime: self.runtime.clone() })
    }

    /// Ends the locker: see [`crate::Locker::shutdown`].
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`] inside a tokio runtime.
    pub fn shutdown(&self) -> Result<crate::Drained, LockError> {
        may_block("locker.shutdown()")?;
        Ok(self.locker.core().shared.runtime.block_on(self.locker.shutdown()))
    }

    /// The locker itself, for asynchronous code.
    #[must_use]
    pub fn as_async(&self) -> &crate::Locker {
        &self.locker
    }
}

/// A [`crate::KeyLock`] whose calls block.
#[derive(Clone, Debug)]
#[must_use = "nothing is locked until something is called on it"]
pub struct KeyLock {
    lock: crate::KeyLock,
    runtime: Option<Arc<Background>>,
}

impl KeyLock {
    pub(crate) fn over(lock: crate::KeyLock) -> Self {
        KeyLock { lock, runtime: None }
    }

    /// With options set as on a [`crate::KeyLock`].
    pub fn with(self, set: impl FnOnce(crate::KeyLock) -> crate::KeyLock) -> Self {
        KeyLock { lock: set(self.lock), runtime: self.runtime }
    }

    /// Blocks until it is acquired.
    ///
    /// # Errors
    ///
    /// As [`crate::KeyLock::acquire`]; [`LockError::WouldBlock`] inside a tokio runtime.
    pub fn acquire(&self) -> Result<Guard, LockError> {
        may_block("locker.acquire(key)")?;
        let guard = self.handle()?.block_on(self.lock.acquire())?;
        Ok(Guard { guard, runtime: self.runtime.clone() })
    }

    /// Acquires it if it is free.
    ///
    /// # Errors
    ///
    /// As [`crate::KeyLock::try_acquire`]; [`LockError::WouldBlock`] inside a tokio runtime.
    pub fn try_acquire(&self) -> Result<Option<Guard>, LockError> {
        may_block("locker.try_acquire(key)")?;
        let guard = self.handle()?.block_on(self.lock.try_acquire())?;
        Ok(guard.map(|guard| Guard { guard, runtime: self.runtime.clone() }))
    }

    /// Runs `body`, which is given the lease, while holding it. It cannot be cancelled: if the lock is lost, it runs to
    /// its end.
    ///
    /// # Errors
    ///
    /// As [`acquire`](KeyLock::acquire).
    pub fn synchronized_with<T>(&self, body: impl FnOnce(Lease) -> T) -> Result<T, LockError> {
        let guard = self.acquire()?;
        Ok(self.run(guard, body))
    }

    /// Runs `body` while holding it, if it is free; `None` if somebody else has it.
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](KeyLock::try_acquire).
    pub fn synchronized_if_free_with<T>(&self, body: impl FnOnce(Lease) -> T) -> Result<Option<T>, LockError> {
        Ok(self.try_acquire()?.map(|guard| self.run(guard, body)))
    }

    fn run<T>(&self, guard: Guard, body: impl FnOnce(Lease) -> T) -> T {
        let value = current::run_blocking(&guard.guard, body);
        if self.lock.ending().1 == ReleaseMode::Await {
            if let Err(error) = guard.release() {
                tracing::warn!(target: "tasklock", "body done, release failed: {error}");
            }
        }
        value
    }

    fn handle(&self) -> Result<Handle, LockError> {
        Ok(self.lock.locker()?.core().shared.runtime.clone())
    }
}

/// A [`crate::RwKey`] whose calls block.
#[derive(Clone, Debug)]
#[must_use = "nothing is locked until something is called on it"]
pub struct RwKey {
    reader: KeyLock,
    writer: KeyLock,
}

impl RwKey {
    /// The lock that readers share.
    pub fn reader(&self) -> &KeyLock {
        &self.reader
    }

    /// The lock that a writer has alone.
    pub fn writer(&self) -> &KeyLock {
        &self.writer
    }
}

/// A [`crate::Pool`] whose calls block.
///
/// # Examples
///
/// ```
/// use tasklock_core::{LockError, Locker, MemoryLock, blocking};
///
/// # fn main() -> Result<(), LockError> {
/// let lock = blocking::Locker::start(async { Locker::new(MemoryLock::new()) })?;
/// let ports = lock.pool("ports")?;
/// ports.call(|pool| async move { pool.assign(["8001", "8002"]).await })?;
/// let guard = ports.acquire()?;
/// assert_eq!(guard.member(), Some("8001"));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is locked until something is called on it"]
pub struct Pool {
    pool: crate::Pool,
    runtime: Option<Arc<Background>>,
}

impl Pool {
    /// With options set as on a [`crate::Pool`].
    pub fn with(self, set: impl FnOnce(crate::Pool) -> crate::Pool) -> Self {
        Pool { pool: set(self.pool), runtime: self.runtime }
    }

    /// Blocks until a member is acquired, which [`Lease::member`] tells.
    ///
    /// # Errors
    ///
    /// As [`crate::Pool::acquire`]; [`LockError::WouldBlock`] inside a tokio runtime.
    pub fn acquire(&self) -> Result<Guard, LockError> {
        let guard = self.call(|pool| async move { pool.acquire().await })?;
        Ok(Guard { guard: guard.into_guard(), runtime: self.runtime.clone() })
    }

    /// Acquires a member if one is free.
    ///
    /// # Errors
    ///
    /// As [`crate::Pool::try_acquire`]; [`LockError::WouldBlock`] inside a tokio runtime.
    pub fn try_acquire(&self) -> Result<Option<Guard>, LockError> {
        let guard = self.call(|pool| async move { pool.try_acquire().await })?;
        Ok(guard.map(|guard| Guard { guard: guard.into_guard(), runtime: self.runtime.clone() }))
    }

    /// Blocks until anything else that a [`crate::Pool`] does is done.
    ///
    /// # Errors
    ///
    /// What it returns; [`LockError::WouldBlock`] inside a tokio runtime.
    pub fn call<T, Fut>(&self, call: impl FnOnce(crate::Pool) -> Fut) -> Result<T, LockError>
    where
        Fut: Future<Output = Result<T, LockError>>,
    {
        may_block("locker.pool(name)")?;
        self.pool.locker().core().shared.runtime.block_on(call(self.pool.clone()))
    }
}

/// A held lock; dropping it gives it back in the background.
#[derive(Debug)]
#[must_use = "dropping the guard releases the lock"]
pub struct Guard {
    guard: crate::Guard,
    runtime: Option<Arc<Background>>,
}

impl Guard {
    /// Gives the lock back and blocks until the store has it: see [`crate::Guard::release`].
    ///
    /// # Errors
    ///
    /// As there; [`LockError::WouldBlock`] inside a tokio runtime, where the lock is given back in the background.
    pub fn release(self) -> Result<ReleaseOutcome, LockError> {
        may_block("guard.release()")?;
        let _until_done = self.runtime;
        let runtime = self.guard.shared().runtime.clone();
        runtime.block_on(self.guard.release())
    }
}

impl Deref for Guard {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        self.guard.lease()
    }
}

/// A current-thread runtime in a thread of its own.
struct Background {
    handle: Handle,
    _end: oneshot::Sender<()>,
}

impl Background {
    fn start() -> Result<Self, LockError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|_| LockError::NoRuntime)?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let run = move || {
            runtime.block_on(async {
                let _ = ended.await;
                // The keeper ends when the guards that were dropped are released.
                let _ = tokio::time::timeout(RELEASE_WAIT, until_idle()).await;
            });
        };
        thread::Builder::new().name("tasklock".to_owned()).spawn(run).map_err(|_| LockError::NoRuntime)?;
        Ok(Background { handle, _end: end })
    }
}

async fn until_idle() {
    while Handle::current().metrics().num_alive_tasks() > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Background")
    }
}

fn may_block(instead: &'static str) -> Result<(), LockError> {
    if Handle::try_current().is_ok() { Err(LockError::WouldBlock { instead }) } else { Ok(()) }
}
