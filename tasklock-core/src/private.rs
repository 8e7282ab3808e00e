//! What `#[synchronized]` expands to, and what this project's crates share, besides the public API. Not for others: it
//! changes without notice.

use std::{fmt, future::Future, sync::Arc};

use crate::{
    AllKeys, InvalidKey, Key, KeyLock, Lease, LockError, LockKey, Locker, ReentrantKey,
    options::{Options, setters},
};
pub use crate::{encode::KeyBuilder, hosts::split_hosts};

/// The locker to be used where none is named.
pub fn locker() -> Result<Locker, LockError> {
    crate::default_locker()
}

/// A lock on `key`; what is wrong with either comes out of its first use.
pub fn key_lock(locker: Result<Locker, LockError>, key: Result<Key, InvalidKey>) -> KeyLock {
    match (locker, key) {
        (Ok(locker), key) => locker.key(key),
        (Err(error), key) => KeyLock::new(Err(error), key),
    }
}

/// Locks on these keys, all or none; what is wrong comes out of the first use.
pub fn all_keys<const N: usize>(locker: Result<Locker, LockError>, keys: [Result<Key, InvalidKey>; N]) -> Keys {
    Keys(locker.and_then(|locker| locker.all(keys)))
}

/// `all(…)`.
#[derive(Debug)]
pub struct Keys(Result<AllKeys, LockError>);

impl Keys {
    setters!();

    /// As [`AllKeys::synchronized_with`].
    pub async fn synchronized_with<F, Fut>(self, body: F) -> Result<Fut::Output, LockError>
    where
        F: FnOnce(Vec<Lease>) -> Fut,
        Fut: Future,
    {
        self.0?.synchronized_with(body).await
    }

    /// As [`AllKeys::synchronized_if_free_with`].
    pub async fn synchronized_if_free_with<F, Fut>(self, body: F) -> Result<Option<Fut::Output>, LockError>
    where
        F: FnOnce(Vec<Lease>) -> Fut,
        Fut: Future,
    {
        self.0?.synchronized_if_free_with(body).await
    }

    fn set(self, set: impl Fn(&mut Options)) -> Self {
        Keys(self.0.map(|keys| keys.set(set)))
    }
}

/// `reentrant = …`.
#[derive(Debug)]
pub struct Reentrant(Result<ReentrantKey, LockError>);

/// The same lock, for its owner to enter again.
pub fn reentrant(lock: KeyLock, owner: &(impl fmt::Display + ?Sized)) -> Reentrant {
    Reentrant(ReentrantKey::new(lock, &owner.to_string()))
}

impl Reentrant {
    /// As [`ReentrantKey::synchronized_with`].
    pub async fn synchronized_with<F, Fut>(self, body: F) -> Result<Fut::Output, LockError>
    where
        F: FnOnce(Lease) -> Fut,
        Fut: Future,
    {
        self.0?.synchronized_with(body).await
    }

    /// As [`ReentrantKey::synchronized_if_free_with`].
    pub async fn synchronized_if_free_with<F, Fut>(self, body: F) -> Result<Option<Fut::Output>, LockError>
    where
        F: FnOnce(Lease) -> Fut,
        Fut: Future,
    {
        self.0?.synchronized_if_free_with(body).await
    }
}

/// What `lock = …` may be.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a locker",
    label = "expected a `Locker`",
    note = "`lock = …` takes a `Locker`, a reference to one, or an `Arc`, `Option` or `Result` of one"
)]
#[allow(clippy::wrong_self_convention)] // `lock = self.locker` must not move out of `self`
pub trait IntoLocker {
    /// The locker.
    fn into_locker(&self) -> Result<Locker, LockError>;
}

impl IntoLocker for Locker {
    fn into_locker(&self) -> Result<Locker, LockError> {
        Ok(self.clone())
    }
}

impl<T: IntoLocker + ?Sized> IntoLocker for &T {
    fn into_locker(&self) -> Result<Locker, LockError> {
        (**self).into_locker()
    }
}

impl<T: IntoLocker + ?Sized> IntoLocker for Arc<T> {
    fn into_locker(&self) -> Result<Locker, LockError> {
        (**self).into_locker()
    }
}

impl<T: IntoLocker> IntoLocker for Option<T> {
    fn into_locker(&self) -> Result<Locker, LockError> {
        self.as_ref().ok_or(LockError::NoLocker)?.into_locker()
    }
}

impl<T: IntoLocker, E: Clone + Into<LockError>> IntoLocker for Result<T, E> {
    fn into_locker(&self) -> Result<Locker, LockError> {
        self.as_ref().map_err(|error| error.clone().into())?.into_locker()
    }
}

/// Finds what can name a lock behind references, boxes and guards: a method call looks through them, where a generic
/// parameter would stop at the outermost type.
pub trait AsLockKey {
    /// Itself.
    fn as_lock_key(&self) -> &Self {
        self
    }
}

impl<T: LockKey + ?Sized> AsLockKey for T {}

/// A return type that can say that the lock was not to be had.
#[diagnostic::on_unimplemented(
    message = "`#[synchronized]` cannot return a lock error as `{Self}`",
    label = "not a `Result` whose error is `From<LockError>`",
    note = "return `Result<_, E>` with `E: From<tasklock::LockError>`, or add `on_error = …` to the attribute"
)]
pub trait Outcome {
    /// The value that says so.
    fn refused(error: LockError) -> Self;
}

impl<T, E: From<LockError>> Outcome for Result<T, E> {
    fn refused(error: LockError) -> Self {
        Err(error.into())
    }
}

/// A return type that can say that nothing was done because somebody else is at it.
#[diagnostic::on_unimplemented(
    message = "`skip_if_locked` cannot skip as `{Self}`",
    label = "not `()`, `Option<_>`, or a `Result` of those",
    note = "return `()`, `Option<_>`, or a `Result` of those"
)]
pub trait Skip {
    /// The value that says so.
    fn skipped() -> Self;
}

impl Skip for () {
    fn skipped() -> Self {}
}

impl<T> Skip for Option<T> {
    fn skipped() -> Self {
        None
    }
}

impl<S: Skip, E> Skip for Result<S, E> {
    fn skipped() -> Self {
        Ok(S::skipped())
    }
}

/// For functions that had no arrow: their results tend to vanish in spawned tasks.
pub fn log_refused(function: &str, error: &LockError) {
    tracing::error!(target: "tasklock", function, "not run, or not to its end: {error}");
}

/// For `on_error = panic`.
///
/// # Panics
///
/// Always.
pub fn panic_refused(function: &str, error: LockError) -> ! {
    panic!("{function}: {error}")
}
