//! What a locker makes, for synchronous code: one mechanism for all of it.

use std::{future::Future, ops::Deref, sync::Arc};

use tokio::runtime::Handle;

use super::{Background, may_block};
use crate::{
    AllKeys, AnyKey, Guards, KeyLock, Lease, LockError, LockValue, Pool, PoolGuard, ReentrantGuard, ReentrantKey,
    ReleaseMode, ReleaseOutcome, current,
};

/// Something that a locker makes, whose calls block: a [`KeyLock`], [`AllKeys`], [`AnyKey`], a [`ReentrantKey`], a
/// [`Pool`] or a [`LockValue`]. What can be acquired is acquired here; for all else there is [`call`](Twin::call).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tasklock_core::{LockError, Locker, MemoryLock, blocking};
///
/// # fn main() -> Result<(), LockError> {
/// let lock = blocking::Locker::start(async { Locker::new(MemoryLock::new()) })?;
///
/// let ports = lock.pool("ports")?;
/// ports.call(async |pool| pool.assign(["8001", "8002"]).await)?;
/// let guard = ports.acquire()?;
/// assert_eq!(guard.member(), Some("8001"));
///
/// let transfer = lock.all(["account:7", "account:3"])?.with(|all| all.wait(Duration::from_secs(1)));
/// let n = transfer.synchronized_with(|leases| leases.len())?;
/// assert_eq!(n, 2);
///
/// let version = lock.value("catalogue")?;
/// version.call(async |value| value.set("7", Duration::from_secs(60)).await)?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is done until something is called on it"]
pub struct Twin<T> {
    of: T,
    runtime: Option<Arc<Background>>,
}

impl<T: Twinned> Twin<T> {
    pub(crate) fn new(of: T, runtime: &Option<Arc<Background>>) -> Self {
        Twin { of, runtime: runtime.clone() }
    }

    /// With options set as on the asynchronous one.
    pub fn with(self, set: impl FnOnce(T) -> T) -> Self {
        Twin { of: set(self.of), runtime: self.runtime }
    }

    /// Blocks until an asynchronous call on it is done.
    ///
    /// # Errors
    ///
    /// What it returns; [`LockError::WouldBlock`] inside a tokio runtime.
    pub fn call<R>(&self, call: impl AsyncFnOnce(&T) -> Result<R, LockError>) -> Result<R, LockError> {
        self.block(T::NOUN, call)
    }

    /// The asynchronous one.
    #[must_use]
    pub fn as_async(&self) -> &T {
        &self.of
    }

    fn block<R>(
        &self,
        instead: &'static str,
        call: impl AsyncFnOnce(&T) -> Result<R, LockError>,
    ) -> Result<R, LockError> {
        may_block(instead)?;
        self.of.handle()?.block_on(call(&self.of))
    }
}

impl<T: Acquire> Twin<T> {
    /// Blocks until it is acquired.
    ///
    /// # Errors
    ///
    /// As the asynchronous call; [`LockError::WouldBlock`] inside a tokio runtime.
    pub fn acquire(&self) -> Result<Guard<T::Guard>, LockError> {
        self.block(T::ACQUIRE, T::acquire).and_then(|guard| self.guard(guard))
    }

    /// Acquires it if it is free; `None` if somebody else has it.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Twin::acquire), without the timeout.
    pub fn try_acquire(&self) -> Result<Option<Guard<T::Guard>>, LockError> {
        self.block(T::TRY_ACQUIRE, T::try_acquire)?.map(|guard| self.guard(guard)).transpose()
    }

    /// Runs `body`, which is given the lease, or of several keys the leases, while holding it. It cannot be cancelled: if
    /// the lock is lost, it runs to its end.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Twin::acquire).
    pub fn synchronized_with<R>(&self, body: impl FnOnce(<T::Guard as Release>::Leases) -> R) -> Result<R, LockError> {
        let guard = self.acquire()?;
        Ok(self.run(guard, body))
    }

    /// Runs `body` while holding it, if it is free; `None` if somebody else has it.
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Twin::try_acquire).
    pub fn synchronized_if_free_with<R>(
        &self,
        body: impl FnOnce(<T::Guard as Release>::Leases) -> R,
    ) -> Result<Option<R>, LockError> {
        Ok(self.try_acquire()?.map(|guard| self.run(guard, body)))
    }

    fn run<R>(&self, guard: Guard<T::Guard>, body: impl FnOnce(<T::Guard as Release>::Leases) -> R) -> R {
        let value = guard.guard.run(body);
        if self.of.release_mode() == ReleaseMode::Await {
            if let Err(error) = guard.release() {
                tracing::warn!(target: "tasklock", "body done, release failed: {error}");
            }
        }
        value
    }

    fn guard(&self, guard: T::Guard) -> Result<Guard<T::Guard>, LockError> {
        Ok(Guard { guard, handle: self.of.handle()?, runtime: self.runtime.clone() })
    }
}

/// What is held, one lock or [several](Guards); dropping it gives it back in the background.
#[derive(Debug)]
#[must_use = "dropping the guard releases the lock"]
pub struct Guard<G = crate::Guard> {
    guard: G,
    handle: Handle,
    /// Dropped after the guard.
    runtime: Option<Arc<Background>>,
}

impl<G: Release> Guard<G> {
    /// Gives it back and blocks until the store has it: see [`crate::Guard::release`].
    ///
    /// # Errors
    ///
    /// As there; [`LockError::WouldBlock`] inside a tokio runtime, where it is given back in the background.
    pub fn release(self) -> Result<G::Outcome, LockError> {
        may_block("guard.release()")?;
        let _until_done = self.runtime;
        self.handle.block_on(self.guard.release())
    }

    /// Blocks until an asynchronous call on it is done: [`extend`](crate::Guard::extend), [`update`](crate::Guard::update).
    ///
    /// # Errors
    ///
    /// What it returns; [`LockError::WouldBlock`] inside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tasklock_core::{LockError, Locker, MemoryLock, blocking};
    /// # fn main() -> Result<(), LockError> {
    /// # let lock = blocking::Locker::start(async { Locker::new(MemoryLock::new()) })?;
    /// let guard = lock.acquire("import")?;
    /// guard.call(async |guard| guard.extend(Duration::from_secs(300)).await)?;
    /// # Ok(()) }
    /// ```
    pub fn call<R>(&self, call: impl AsyncFnOnce(&G) -> Result<R, LockError>) -> Result<R, LockError> {
        may_block("guard")?;
        self.handle.block_on(call(&self.guard))
    }
}

impl Guard<Guards> {
    /// Takes the one of this name out: see [`Guards::take`].
    pub fn take(&mut self, name: &str) -> Option<Guard> {
        let guard = self.guard.take(name)?;
        Some(Guard { guard, handle: self.handle.clone(), runtime: self.runtime.clone() })
    }
}

impl<G: Release> Deref for Guard<G> {
    type Target = G::View;

    fn deref(&self) -> &G::View {
        self.guard.view()
    }
}

/// What has a [`Twin`].
pub trait Twinned {
    /// How the asynchronous one is made: what to use where a runtime runs.
    const NOUN: &'static str;

    /// Where its calls run.
    fn handle(&self) -> Result<Handle, LockError>;
}

/// What of that can be acquired.
pub trait Acquire: Twinned {
    /// What to await where a runtime runs.
    const ACQUIRE: &'static str;
    /// The same.
    const TRY_ACQUIRE: &'static str;

    /// What holds it.
    type Guard: Release;

    /// Waits for it.
    fn acquire(&self) -> impl Future<Output = Result<Self::Guard, LockError>> + Send;

    /// Does not.
    fn try_acquire(&self) -> impl Future<Output = Result<Option<Self::Guard>, LockError>> + Send;

    /// Whether the end of a body waits for the release.
    fn release_mode(&self) -> ReleaseMode;
}

/// What holds something.
pub trait Release: Sized {
    /// What a blocking guard shows of it.
    type View: ?Sized;
    /// What a body is given.
    type Leases;
    /// What a release tells.
    type Outcome;

    /// What a blocking guard shows of it.
    fn view(&self) -> &Self::View;

    /// Runs a body under it.
    fn run<R>(&self, body: impl FnOnce(Self::Leases) -> R) -> R;

    /// Gives it back.
    fn release(self) -> impl Future<Output = Result<Self::Outcome, LockError>> + Send;
}

impl Release for crate::Guard {
    type View = Lease;
    type Leases = Lease;
    type Outcome = ReleaseOutcome;

    fn view(&self) -> &Lease {
        self.lease()
    }

    fn run<R>(&self, body: impl FnOnce(Lease) -> R) -> R {
        current::run_blocking(self, body)
    }

    fn release(self) -> impl Future<Output = Result<ReleaseOutcome, LockError>> + Send {
        crate::Guard::release(self)
    }
}

impl Release for ReentrantGuard {
    type View = Self;
    type Leases = Lease;
    type Outcome = Option<ReleaseOutcome>;

    fn view(&self) -> &Self {
        self
    }

    fn run<R>(&self, body: impl FnOnce(Lease) -> R) -> R {
        current::run_blocking(self, body)
    }

    fn release(self) -> impl Future<Output = Result<Option<ReleaseOutcome>, LockError>> + Send {
        ReentrantGuard::release(self)
    }
}

impl Release for Guards {
    type View = Self;
    type Leases = Vec<Lease>;
    type Outcome = ReleaseOutcome;

    fn view(&self) -> &Self {
        self
    }

    fn run<R>(&self, body: impl FnOnce(Vec<Lease>) -> R) -> R {
        current::run_all_blocking(self, body)
    }

    fn release(self) -> impl Future<Output = Result<ReleaseOutcome, LockError>> + Send {
        Guards::release(self)
    }
}

macro_rules! twinned {
    ($($noun:ty: $made:literal $(, $guard:ty, $into:expr)?;)*) => {$(
        impl Twinned for $noun {
            const NOUN: &'static str = $made;

            fn handle(&self) -> Result<Handle, LockError> {
                Ok(self.locker()?.core().shared.runtime.clone())
            }
        }

        $(impl Acquire for $noun {
            const ACQUIRE: &'static str = concat!($made, ".acquire()");
            const TRY_ACQUIRE: &'static str = concat!($made, ".try_acquire()");

            type Guard = $guard;

            async fn acquire(&self) -> Result<$guard, LockError> {
                <$noun>::acquire(self).await.map($into)
            }

            async fn try_acquire(&self) -> Result<Option<$guard>, LockError> {
                Ok(<$noun>::try_acquire(self).await?.map($into))
            }

            fn release_mode(&self) -> ReleaseMode {
                self.ending().1
            }
        })?
    )*};
}

twinned! {
    KeyLock: "locker.key(key)", crate::Guard, std::convert::identity;
    ReentrantKey: "locker.reentrant(key, owner)", ReentrantGuard, std::convert::identity;
    AllKeys: "locker.all(keys)", Guards, std::convert::identity;
    AnyKey: "locker.any(keys)", crate::Guard, std::convert::identity;
    Pool: "locker.pool(name)", crate::Guard, PoolGuard::into_guard;
    LockValue: "locker.value(key)";
}
