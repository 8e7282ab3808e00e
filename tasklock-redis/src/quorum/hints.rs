//! Who waits in this process, and which nodes say that it may be worth asking again.

use std::{
    collections::HashMap,
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tasklock_core::Nonce;
use tokio::sync::Notify;

/// Those who want to be told, by nonce: from before they first ask until they are granted it or released. What they are told
/// while they ask is kept for when they wait.
#[derive(Debug)]
pub(super) struct Hints {
    majority: usize,
    waiters: Mutex<HashMap<Nonce, Waiter>>,
}

#[derive(Debug, Default)]
struct Waiter {
    /// The nodes that have told it, a bit each.
    told: u64,
    bells: Arc<Bells>,
}

#[derive(Debug, Default)]
struct Bells {
    /// The first node has told it.
    some: Notify,
    /// A majority has.
    enough: Notify,
}

/// How long after the first node has told it a waiter looks again though no majority has: nodes need not agree on who has
/// waited for longest, and none of those they chose is to wait for the others' votes.
const GRACE: Duration = Duration::from_millis(20);

impl Hints {
    pub(super) fn new(majority: usize) -> Self {
        Hints { majority, waiters: Mutex::default() }
    }

    /// What a node says: whoever waited there for longest is to look again.
    pub(super) fn deliver(&self, node: usize, message: &str) {
        let Some(nonce) = message.strip_prefix("freed ").and_then(crate::layout::nonce_of) else { return };
        if let Some(waiter) = self.waiters().get_mut(&nonce) {
            waiter.told |= 1 << node;
            if waiter.told.count_ones() as usize >= self.majority {
                waiter.told = 0;
                waiter.bells.enough.notify_one();
            } else {
                waiter.bells.some.notify_one();
            }
        }
    }

    /// It is about to ask: what it was told before is out of date.
    pub(super) fn expect(&self, nonce: Nonce) {
        self.waiters().insert(nonce, Waiter::default());
    }

    /// It waits no longer.
    pub(super) fn forget(&self, nonce: Nonce) {
        self.waiters().remove(&nonce);
    }

    /// Until a majority of the nodes has told this nonce, or some have and no more do.
    pub(super) async fn wait(&self, nonce: Nonce) {
        let Some(bells) = self.waiters().get(&nonce).map(|waiter| waiter.bells.clone()) else { return pending().await };
        tokio::select! {
            () = bells.enough.notified() => {}
            () = async {
                bells.some.notified().await;
                tokio::time::sleep(GRACE).await;
            } => {}
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiters().len()
    }

    fn waiters(&self) -> MutexGuard<'_, HashMap<Nonce, Waiter>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::layout::Client;

    #[tokio::test(start_paused = true)]
    async fn a_majority_wakes() {
        let (hints, nonce) = (Hints::new(2), Nonce::fresh());
        let message = format!("freed {}", Client::new().member(nonce));
        hints.expect(nonce);
        let mut wait = pin!(hints.wait(nonce));
        assert!(tokio::time::timeout(Duration::ZERO, wait.as_mut()).await.is_err());
        hints.deliver(0, &message);
        hints.deliver(0, &message);
        assert!(tokio::time::timeout(Duration::ZERO, wait.as_mut()).await.is_err(), "one node, twice");
        hints.deliver(2, &message);
        let start = tokio::time::Instant::now();
        wait.await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        hints.expect(nonce);
        let mut wait = pin!(hints.wait(nonce));
        assert!(tokio::time::timeout(Duration::ZERO, wait.as_mut()).await.is_err());
        hints.deliver(0, &message);
        wait.await;
        assert_eq!(start.elapsed(), GRACE, "one node, and no more");
        hints.forget(nonce);
        assert_eq!(hints.len(), 0);
        for message in ["", "freed", "freed x", "granted x.1", &message] {
            hints.deliver(1, message);
        }
        assert_eq!(hints.len(), 0);
    }
    /// Else the nodes keep their votes for one who sleeps.
    #[tokio::test(start_paused = true)]
    async fn what_is_told_while_it_asks_is_not_lost() {
        let (hints, nonce) = (Hints::new(2), Nonce::fresh());
        let message = format!("freed {}", Client::new().member(nonce));
        hints.expect(nonce);
        hints.deliver(0, &message);
        hints.deliver(1, &message);
        tokio::time::timeout(Duration::ZERO, hints.wait(nonce)).await.expect("it was told");
        hints.deliver(0, &message);
        hints.expect(nonce);
        assert!(tokio::time::timeout(GRACE * 2, hints.wait(nonce)).await.is_err(), "it has asked since");
    }
}
