//! Locks as users hold them: renewed, released by a drop, given up at any await.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::task::JoinSet;

use super::{Arc, AsyncLock, Duration, Fencing, Locker, SHORT_TTLS, Suite, locker, pin, poll_times, until_quiet};
use crate::{Clock, Fence, Observed, Observer, ReleaseOutcome};

impl<B: AsyncLock, F: AsyncFn() -> B> Suite<F> {
    /// Tasks of two clients, one counter: none is lost, and no older token is ever seen after a newer one.
    pub async fn one_at_a_time(&self) {
        let lockers = [locker(self.client().await), locker(self.client().await)];
        let name = self.name("exclusion");
        let strong = lockers[0].capabilities().fencing == Fencing::Strong;
        let (counter, fence) = (Arc::new(AtomicU64::new(0)), Arc::new(Fence::new()));
        let mut tasks = JoinSet::new();
        for task in 0..8 {
            let lock = lockers[task % 2].key(&name);
            let (counter, fence) = (counter.clone(), fence.clone());
            tasks.spawn(async move {
                for _ in 0..10 {
                    let guard = lock.acquire().await.expect("the lock");
                    let seen = counter.load(Ordering::Relaxed);
                    tokio::task::yield_now().await;
                    counter.store(seen + 1, Ordering::Relaxed);
                    assert!(!strong || fence.admit(guard.fencing_token()).is_ok(), "a token went back");
                    if task % 3 != 0 {
                        guard.release().await.expect("a release");
                    }
                }
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.expect("no task fails");
        }
        assert_eq!(counter.load(Ordering::Relaxed), 80, "an increment was lost: two were in at once");
        self.clean_after(&lockers).await;
    }

    /// Renewal keeps a lock beyond its ttl.
    pub async fn renewal_outlives_the_ttl(&self) {
        for ttl in SHORT_TTLS {
            if self.outlives(ttl).await {
                return;
            }
        }
        panic!("lost while renewed, whatever the ttl");
    }

    /// False if the lease was lost, and its holder knows.
    async fn outlives(&self, ttl: Duration) -> bool {
        let renewals = Renewals::default();
        let builder = Locker::builder(self.client().await).observer(renewals.clone()).ttl(ttl);
        let lock = builder.prefix("").build().expect("a locker");
        let name = self.name(&format!("renewal {ttl:?}"));
        let guard = lock.acquire(&name).await.expect("a free key");
        tokio::select! {
            () = renewals.until(6) => {}
            _ = guard.lost() => return false,
        }
        assert!(guard.held() >= ttl, "six renewals within one ttl");
        let taken = locker(self.client().await).try_acquire(&name).await.expect("an answer");
        assert!(taken.is_none() || !guard.is_held(), "renewed, and free for others");
        guard.release().await.expect("an answer") == crate::ReleaseOutcome::Released
    }

    /// Dropping a guard releases.
    pub async fn a_dropped_guard_lets_the_next_in(&self) {
        let (here, there) = (locker(self.client().await), locker(self.client().await));
        let name = self.name("dropped");
        let guard = here.acquire(&name).await.expect("a free key");
        assert!(there.try_acquire(&name).await.expect("an answer").is_none(), "held by one, free for the other");
        drop(guard);
        drop(there.acquire(&name).await.expect("a key given back"));
        self.clean_after(&[here, there]).await;
    }

    /// An acquisition dropped after its n-th poll, for every n, leaves no holder, no waiter and no task; whether the
    /// lock is free, held, or released meanwhile.
    pub async fn dropped_acquisitions_leave_nothing(&self) {
        let (here, there) = (locker(self.client().await), locker(self.client().await));
        let name = self.name("cancel");
        for released_after in [0, 1, 2, 3, usize::MAX] {
            let most = if released_after == usize::MAX { 6 } else { 100 };
            for polls in 0..most {
                let mut blocker = (released_after > 0).then_some(there.acquire(&name).await.expect("a free key"));
                let done = {
                    let mut acquisition = pin!(here.acquire(&name));
                    let first = poll_times(acquisition.as_mut(), polls.min(released_after)).await;
                    if polls > released_after {
                        blocker = None;
                    }
                    let after = polls.saturating_sub(released_after);
                    let then = if first.is_none() { poll_times(acquisition.as_mut(), after).await } else { None };
                    first.or(then).map(|outcome| drop(outcome.expect("the lock"))).is_some()
                };
                drop(blocker);
                until_quiet(&here).await;
                until_quiet(&there).await;
                let state = there.inspect(&name).await.expect("an answer");
                assert!(state.is_free(), "left a holder: {released_after} {polls} {state:?}");
                assert_eq!(state.waiters.unwrap_or(0), 0, "left a waiter: {released_after} {polls}");
                assert_eq!(here.stats(), crate::Stats::default(), "left something: {released_after} {polls}");
                if done {
                    break;
                }
            }
        }
    }

    /// What is given back before its minimum is over is nobody's until then.
    pub async fn a_minimum_hold_is_kept(&self) {
        let (here, there) = (locker(self.client().await), locker(self.client().await));
        let (name, least, clock) = (self.name("minimum"), Duration::from_millis(300), Clock::current());
        let began = clock.now();
        let guard = here.key(&name).min_hold(least).acquire().await.expect("a free key");
        assert_eq!(guard.release().await.expect("a release"), ReleaseOutcome::KeptBack);
        let next = there.acquire(&name).await.expect("a key that is given back in time");
        let after = clock.now().since(began);
        assert!(after >= least, "given to another after {after:?}");
        next.release().await.expect("a release");
        self.clean_after(&[here, there]).await;
    }
}

/// Counts renewals, and can be waited on.
#[derive(Clone, Default)]
struct Renewals(Arc<(Mutex<u32>, tokio::sync::Notify)>);

impl Renewals {
    async fn until(&self, count: u32) {
        while *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) < count {
            self.0.1.notified().await;
        }
    }
}

impl Observer for Renewals {
    fn observe(&self, event: &Observed<'_>) {
        if let Observed::Renewed { error: None, .. } = event {
            *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            self.0.1.notify_one();
        }
    }
}
