//! The same locks for synchronous code: see [`tasklock_core::blocking`].

use tasklock_core::LockError;
pub use tasklock_core::blocking::{Guard, KeyLock, Locker, Pool, RwKey, Twin};

/// [`crate::connect`] for synchronous code: the locker lives in a thread of its own, which ends with its last clone
/// and guard.
///
/// # Errors
///
/// As [`crate::connect`]; [`LockError::WouldBlock`] inside a tokio runtime.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), tasklock::LockError> {
/// let lock = tasklock::blocking::connect("memory:")?;
/// let n = lock.synchronized("team:acme", || 1 + 1)?;
/// assert_eq!(n, 2);
/// # Ok(()) }
/// ```
pub fn connect(url: impl AsRef<str>) -> Result<Locker, LockError> {
    Locker::start(crate::connect(url))
}
