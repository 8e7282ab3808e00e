//! Which locker is used where none is named: the task's, else the process's.

use std::{future::Future, sync::OnceLock};

use crate::{LockError, Locker};

static DEFAULT: OnceLock<Locker> = OnceLock::new();

tokio::task_local! {
    static SCOPED: Locker;
}

/// Makes `locker` the one that `#[synchronized]` uses where no other is named or scoped. For applications, once, early.
///
/// # Errors
///
/// [`LockError::DefaultInstalled`] the second time.
pub fn install_default(locker: Locker) -> Result<(), LockError> {
    DEFAULT.set(locker).map_err(|_| LockError::DefaultInstalled)
}

/// Runs `body` with `locker` in place of the process's default: for parallel tests, and for services with several
/// stores. Tasks that `body` spawns do not inherit it.
///
/// # Cancel safety
///
/// That of `body`.
///
/// # Examples
///
/// ```
/// # use tasklock_core::{Locker, MemoryLock};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
/// let lock = Locker::new(MemoryLock::new())?;
/// let found = tasklock_core::scope(lock, async { tasklock_core::default_locker().is_ok() }).await;
/// assert!(found);
/// # Ok(()) }
/// ```
pub async fn scope<F: Future>(locker: Locker, body: F) -> F::Output {
    SCOPED.scope(locker, body).await
}

/// The locker of the innermost [`scope`], else the installed default.
///
/// # Errors
///
/// [`LockError::NoLocker`] if there is neither.
pub fn default_locker() -> Result<Locker, LockError> {
    SCOPED.try_with(Clone::clone).ok().or_else(|| DEFAULT.get().cloned()).ok_or(LockError::NoLocker)
}
