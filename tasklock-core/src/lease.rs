//! A lock held, as its holder asks about it.

use std::{fmt, future::pending, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    FencingToken, Key, LockError, LossReason, Mono,
    hold::{Hold, Phase},
};

/// A handle on a held lock, cheap to clone. It does not hold the lock: the [`Guard`](crate::Guard) or the running
/// synchronized body does.
#[derive(Clone)]
pub struct Lease(pub(crate) Arc<Hold>);

impl Lease {
    /// Which lock.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.0.claim.key
    }

    /// The token minted with the grant, to be sent with every write to the guarded store.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        self.0.token()
    }

    /// Which member of a pool it is; `None` for a lock that is no pool's.
    #[must_use]
    pub fn member(&self) -> Option<&str> {
        self.0.claim.member.as_deref()
    }

    /// Whether the lock is still held. Reads the clock; does not depend on any task having run.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.is_held()
    }

    /// Time left until the lease ends unless renewed; zero if it is not held, [`Duration::MAX`] if it never ends.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        match (self.0.phase(), self.0.deadline()) {
            (Phase::Held, Mono::NEVER) => Duration::MAX,
            (Phase::Held, deadline) => deadline.since(self.0.clock.now()),
            _ => Duration::ZERO,
        }
    }

    /// How long it has been held.
    #[must_use]
    pub fn held(&self) -> Duration {
        self.0.clock.now().since(self.0.acquired)
    }

    /// `Ok` while the lock is held: for `lease.check()?` before a step that must not run without it.
    ///
    /// # Errors
    ///
    /// [`LockError::Lost`] with the reason, also after a release.
    pub fn check(&self) -> Result<(), LockError> {
        if self.is_held() { Ok(()) } else { Err(self.0.lost_error()) }
    }

    /// Completes when the lock is lost, before the store gives it to anyone else; at once if it is lost already.
    /// Never completes if it is released first: see [`ended`](Lease::ended) for watchers.
    ///
    /// # Cancel safety
    ///
    /// Dropping it costs nothing.
    pub async fn lost(&self) -> LossReason {
        match self.ended().await {
            Some(reason) => reason,
            None => pending().await,
        }
    }

    /// Completes when the lock is lost (with the reason) or released (`None`).
    ///
    /// # Cancel safety
    ///
    /// Dropping it costs nothing.
    pub async fn ended(&self) -> Option<LossReason> {
        self.0.signals().ended.cancelled().await;
        match self.0.phase() {
            Phase::Lost(reason) => Some(reason),
            _ => None,
        }
    }

    /// A token that is cancelled when the lock is lost: for work that is spread over other tasks.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.0.signals().lost.clone()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("key", self.key())
            .field("token", &self.fencing_token())
            .field("phase", &self.0.phase())
            .finish_non_exhaustive()
    }
}
