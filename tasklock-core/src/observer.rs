//! The hook for metrics.

use std::time::Duration;

use crate::{BackendError, FencingToken, Key, LossReason, ReleaseOutcome};

/// Told of everything that happens to a locker's locks; one per locker, set by
/// [`LockerBuilder::observer`](crate::LockerBuilder::observer).
///
/// It is called in the middle of acquiring and releasing, on whatever thread: count, do not block.
pub trait Observer: Send + Sync + 'static {
    /// Something happened.
    fn observe(&self, event: &Observed<'_>);
}

/// What an [`Observer`] is told.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Observed<'a> {
    /// An acquisition found the lock held and waits.
    Waiting {
        /// Which lock.
        key: &'a Key,
        /// How many stand before it at the store, if the store tells.
        position: Option<u32>,
    },
    /// Acquired. What is lost before its caller has it is told, too: as acquired, as lost, and as acquired again when it is.
    Acquired {
        /// Which lock.
        key: &'a Key,
        /// From the call to the grant.
        waited: Duration,
        /// Under which token.
        token: FencingToken,
    },
    /// Not acquired within the time allowed.
    TimedOut {
        /// Which lock.
        key: &'a Key,
        /// From the call to giving up.
        waited: Duration,
    },
    /// A renewal was answered, or failed.
    Renewed {
        /// Which lock.
        key: &'a Key,
        /// How it failed.
        error: Option<&'a BackendError>,
    },
    /// Lost.
    Lost {
        /// Which lock.
        key: &'a Key,
        /// From the grant to the loss.
        held: Duration,
        /// Why.
        reason: LossReason,
    },
    /// Given back.
    Released {
        /// Which lock.
        key: &'a Key,
        /// From the grant to the release.
        held: Duration,
        /// Whether it was still held.
        outcome: ReleaseOutcome,
    },
}
