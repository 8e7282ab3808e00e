//! For tests: of a backend, of a service under faults, of code that must cope with a lost lease.
//!
//! Behind the feature `testing`, and outside of semver.
//!
//! - [`conformance`]: what every backend must do, a third party's too.
//! - [`Faulty`]: a backend that loses replies, delays, repeats and fails at will.
//! - [`lose`]: takes a lease away now, to see what the code under it does.
//! - [`poll_times`]: drops a future at its n-th await.

pub mod conformance;
mod faulty;

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

pub use self::faulty::{Call, Fault, Faults, Faulty, Op};
use crate::{IntoKey, Locker, LossReason, key::pool_key, shared::Core};

/// Takes away every lease that `locker` has on `key`, as if the store had; how many there were.
///
/// # Examples
///
/// ```
/// use tasklock_core::{LockError, Locker, LossReason, MemoryLock, testing};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), LockError> {
/// let lock = Locker::new(MemoryLock::new())?;
/// let body = lock.synchronized("job:7", std::future::pending::<()>());
/// let thief = async {
///     while testing::lose(&lock, "job:7", LossReason::Expired) == 0 {
///         tokio::task::yield_now().await;
///     }
/// };
/// let (outcome, ()) = tokio::join!(body, thief);
/// assert!(matches!(outcome, Err(LockError::Lost { reason: LossReason::Expired, .. })));
/// # Ok(()) }
/// ```
pub fn lose(locker: &Locker, key: impl IntoKey, reason: LossReason) -> usize {
    let Core { shared, prefix, .. } = &**locker.core();
    let found =
        key.into_key().and_then(|key| if key.is_pool() { pool_key(key, prefix) } else { key.into_key_in(prefix) });
    let Ok(key) = found else { return 0 };
    let holds = shared.holds(|hold| hold.claim.key == key);
    for hold in &holds {
        shared.lose(hold, reason);
    }
    holds.len()
}

/// Polls a future `times` times and gives up on it: its value if it was ready by then. In between it waits until the
/// future is woken, or for 5 ms.
pub async fn poll_times<F: Future>(mut future: Pin<&mut F>, times: usize) -> Option<F::Output> {
    let mut polls = 0;
    let mut nudge = pin!(tokio::time::sleep(NUDGE));
    poll_fn(|cx| {
        if polls == times {
            return Poll::Ready(None);
        }
        polls += 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            // Having had its polls, it is not waited for.
            Poll::Pending if polls == times => Poll::Ready(None),
            Poll::Pending => {
                nudge.as_mut().reset(tokio::time::Instant::now() + NUDGE);
                let _ = nudge.as_mut().poll(cx);
                Poll::Pending
            }
        }
    })
    .await
}

const NUDGE: Duration = Duration::from_millis(5);

/// Waits until `locker` has nothing left to do in the background.
pub async fn until_quiet(locker: &Locker) {
    while locker.stats().background > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
