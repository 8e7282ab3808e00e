//! The same locks for synchronous code.
//!
//! Where a tokio runtime runs, blocking a thread would stall other tasks: every call here that blocks then refuses with
//! [`LockError::WouldBlock`], which names the call to await instead.

mod twin;

use std::{fmt, future::Future, sync::Arc, thread, time::Duration};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

use self::twin::Twinned;
pub use self::twin::{Guard, Twin};
use crate::{AllKeys, AnyKey, IntoKey, LockError, LockValue, ReentrantKey, shared::RELEASE_WAIT};

/// A [`crate::KeyLock`] whose calls block.
pub type KeyLock = Twin<crate::KeyLock>;
/// A [`crate::Pool`] whose calls block.
pub type Pool = Twin<crate::Pool>;

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
        may_block("locker.acquire(key)")?;
        self.key(key).acquire()
    }

    /// Acquires `key` if it is free: see [`crate::Locker::try_acquire`].
    ///
    /// # Errors
    ///
    /// As there; [`LockError::WouldBlock`] inside a tokio runtime.
    pub fn try_acquire(&self, key: impl IntoKey) -> Result<Option<Guard>, LockError> {
        may_block("locker.try_acquire(key)")?;
        self.key(key).try_acquire()
    }

    /// Runs `body` while holding `key`. It cannot be cancelled: if the lock is lost, it runs to its end.
    ///
    /// # Errors
    ///
    /// As [`crate::Locker::synchronized`]; [`LockError::WouldBlock`] inside a tokio runtime.
    pub fn synchronized<T>(&self, key: impl IntoKey, body: impl FnOnce() -> T) -> Result<T, LockError> {
        may_block("locker.synchronized(key, body)")?;
        self.key(key).synchronized_with(|_| body())
    }

    /// One key, to be used with options of its own.
    pub fn key(&self, key: impl IntoKey) -> KeyLock {
        self.twin(self.locker.key(key))
    }

    /// `key` as a read-write lock: see [`crate::Locker::rw`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn rw(&self, key: impl IntoKey) -> Result<RwKey, LockError> {
        let (read, write) = self.locker.rw(key)?.sides();
        Ok(RwKey { reader: self.twin(read), writer: self.twin(write) })
    }

    /// `key` as a semaphore, each permit of which is a lock like any other: see [`crate::Locker::semaphore`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn semaphore(&self, key: impl IntoKey, permits: u32) -> Result<KeyLock, LockError> {
        Ok(self.twin(self.locker.semaphore(key, permits)?.permit()))
    }

    /// The pool of this name: see [`crate::Locker::pool`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn pool(&self, name: impl IntoKey) -> Result<Pool, LockError> {
        Ok(self.twin(self.locker.pool(name)?))
    }

    /// `key` as a lock that `owner` may take again while holding it: see [`crate::Locker::reentrant`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn reentrant(&self, key: impl IntoKey, owner: impl AsRef<str>) -> Result<Twin<ReentrantKey>, LockError> {
        Ok(self.twin(self.locker.reentrant(key, owner)?))
    }

    /// Several keys together, all of them or none: see [`crate::Locker::all`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn all<K: IntoKey>(&self, keys: impl IntoIterator<Item = K>) -> Result<Twin<AllKeys>, LockError> {
        Ok(self.twin(self.locker.all(keys)?))
    }

    /// Whichever of several keys is free: see [`crate::Locker::any`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn any<K: IntoKey>(&self, keys: impl IntoIterator<Item = K>) -> Result<Twin<AnyKey>, LockError> {
        Ok(self.twin(self.locker.any(keys)?))
    }

    /// The value beside the lock of `key`: see [`crate::Locker::value`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn value(&self, key: impl IntoKey) -> Result<Twin<LockValue>, LockError> {
        Ok(self.twin(self.locker.value(key)?))
    }

    /// Blocks until any other call on the locker is done: `inspect`, `break_lock`, `ping`.
    ///
    /// # Errors
    ///
    /// What it returns; [`LockError::WouldBlock`] inside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tasklock_core::{LockError, Locker, MemoryLock, blocking};
    /// # fn main() -> Result<(), LockError> {
    /// # let lock = blocking::Locker::start(async { Locker::new(MemoryLock::new()) })?;
    /// assert!(lock.call(async |lock| lock.inspect("job:7").await)?.is_free());
    /// # Ok(()) }
    /// ```
    pub fn call<R>(&self, call: impl AsyncFnOnce(&crate::Locker) -> Result<R, LockError>) -> Result<R, LockError> {
        may_block("locker")?;
        self.locker.core().shared.runtime.block_on(call(&self.locker))
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

    fn twin<T: Twinned>(&self, of: T) -> Twin<T> {
        Twin::new(of, &self.runtime)
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

/// A current-thread runtime in a thread of its own.
pub(crate) struct Background {
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
