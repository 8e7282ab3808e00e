//! Several locks held as one value.

use std::{fmt, future::pending, time::Duration, vec};

use crate::{Guard, Key, Lease, LockError, LossReason, ReleaseOutcome, join, lock::BoxFuture};

/// Several held locks, sorted by key; dropping it gives all of them back. Made by
/// [`Locker::all`](crate::Locker::all).
///
/// Each is a [`Guard`] of its own, with a fencing token of its own: [`get`](Guards::get) shows it, and
/// [`take`](Guards::take) takes it out, to be released before the others or held longer.
#[must_use = "dropping the guards releases the locks"]
pub struct Guards(Vec<Guard>);

impl Guards {
    pub(crate) fn none() -> Self {
        Guards(Vec::new())
    }

    /// In the order of the keys.
    pub(crate) fn push(&mut self, guard: Guard) {
        self.0.push(guard);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether all have been taken out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them, sorted by key.
    pub fn iter(&self) -> std::slice::Iter<'_, Guard> {
        self.0.iter()
    }

    /// The one of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Guard> {
        self.iter().find(|guard| guard.key().name() == name)
    }

    /// Takes the one of this name out; what is done with it is nothing to the others.
    pub fn take(&mut self, name: &str) -> Option<Guard> {
        let place = self.0.iter().position(|guard| guard.key().name() == name)?;
        Some(self.0.remove(place))
    }

    /// Whether all of them are still held. Reads the clock; does not depend on any task having run.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.iter().all(Guard::is_held)
    }

    /// Time left until the first of them ends unless renewed: see [`Lease::remaining`].
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.iter().map(Guard::remaining).min().unwrap_or(Duration::ZERO)
    }

    /// `Ok` while all of them are held.
    ///
    /// # Errors
    ///
    /// [`LockError::Lost`] names one that is not.
    pub fn check(&self) -> Result<(), LockError> {
        self.iter().find(|guard| !guard.is_held()).map_or(Ok(()), |guard| guard.lease().check())
    }

    /// Completes when the first of them is lost, and says which: who needs all of them has lost all. Never completes if
    /// there are none.
    ///
    /// # Cancel safety
    ///
    /// Dropping it costs nothing.
    pub async fn lost(&self) -> (Key, LossReason) {
        let (lease, reason) = self.first_lost().await;
        (lease.key().clone(), reason)
    }

    pub(crate) async fn first_lost(&self) -> (Lease, LossReason) {
        let lost = |lease: Lease| -> BoxFuture<'_, (Lease, LossReason)> {
            Box::pin(async move {
                let reason = lease.lost().await;
                (lease, reason)
            })
        };
        let all = self.leases().into_iter().map(lost).collect();
        match join::first(all, |_| true).await {
            Some(lost) => lost,
            None => pending().await,
        }
    }

    /// Gives all of them back and waits until the store has them, up to 5 s; after that it goes on in the background.
    /// Each is tried, whatever becomes of the others. `AlreadyLost` if one was, else `KeptBack` if one is.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`] if the store did not confirm one in time, or refused.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the releases go on in the background if this is dropped; before, the guards are dropped with it,
    /// which has the same effect.
    pub async fn release(self) -> Result<ReleaseOutcome, LockError> {
        let mut worst = ReleaseOutcome::Released;
        let mut failed = None;
        for outcome in self.release_each().await {
            match outcome {
                Err(error) => failed = failed.or(Some(error)),
                Ok(ReleaseOutcome::AlreadyLost) => worst = ReleaseOutcome::AlreadyLost,
                Ok(ReleaseOutcome::KeptBack) if worst == ReleaseOutcome::Released => worst = ReleaseOutcome::KeptBack,
                Ok(_) => {}
            }
        }
        failed.map_or(Ok(worst), Err)
    }

    /// One outcome each.
    pub(crate) async fn release_each(self) -> Vec<Result<ReleaseOutcome, LockError>> {
        let release = |guard: Guard| -> BoxFuture<'static, _> { Box::pin(guard.release()) };
        join::all(self.0.into_iter().map(release).collect()).await
    }

    pub(crate) fn leases(&self) -> Vec<Lease> {
        self.iter().map(|guard| guard.lease().clone()).collect()
    }
}

impl IntoIterator for Guards {
    type Item = Guard;
    type IntoIter = vec::IntoIter<Guard>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Guards {
    type Item = &'a Guard;
    type IntoIter = std::slice::Iter<'a, Guard>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}
