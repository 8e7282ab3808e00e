//! What core makes of a backend: several keys, and owners that enter again.

use std::time::Duration;

use tokio::task::JoinSet;

use super::{AsyncLock, Locker, Suite, locker, pin, poll_times, until_quiet};

/// A copy of a request that was refused may take what has become free meanwhile, and keeps it for as long as this.
const SHORT: Duration = Duration::from_secs(5);

impl<B: AsyncLock, F: AsyncFn() -> B> Suite<F> {
    /// Several keys are taken together or not at all, in one step or one by one.
    pub async fn several_are_taken_all_or_none(&self) {
        let (here, there) = (locker(self.client().await), locker(self.client().await));
        let names = ["c", "a", "b"].map(|name| self.name(&format!("several {name}")));
        let all = here.all(&names).expect("valid names").ttl(SHORT);
        let first = all.acquire().await.expect("free keys");
        assert!(first.is_held() && first.len() == 3, "{first:?}");
        for name in &names {
            let taken = there.try_acquire(name).await.expect("an answer");
            assert!(taken.is_none(), "{name} is held with others, and free");
        }
        first.release().await.expect("a release");
        let held = there.acquire(&names[2]).await.expect("a key that was released with others");
        assert!(all.try_acquire().await.expect("an answer").is_none(), "one of three is held");
        until_quiet(&here).await;
        for name in &names[..2] {
            there.acquire(name).await.expect("a key that was not taken").release().await.expect("a release");
        }
        let (waiting, ()) = tokio::join!(all.acquire(), async {
            held.release().await.expect("a release");
        });
        waiting.expect("free keys").release().await.expect("a release");
        self.clean_after(&[here, there]).await;
    }

    /// Who names the same keys in another order is not waited for for ever.
    pub async fn those_who_want_the_same_keys_get_on(&self) {
        let lockers = [locker(self.client().await), locker(self.client().await)];
        let names = ["x", "y", "z"].map(|name| self.name(&format!("same {name}")));
        let mut tasks = JoinSet::new();
        for task in 0..4 {
            let mut names = names.clone();
            names.rotate_left(task % 3);
            let all = lockers[task % 2].all(&names[..2]).expect("valid names").ttl(SHORT);
            tasks.spawn(async move {
                for _ in 0..4 {
                    let guards = all.acquire().await.expect("the keys");
                    tokio::task::yield_now().await;
                    assert!(guards.is_held(), "lost one of two");
                    guards.release().await.expect("a release");
                }
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.expect("no task fails");
        }
        self.clean_after(&lockers).await;
    }

    /// Whichever of several keys is free is taken, and no place is kept with the others.
    pub async fn whichever_is_free_is_taken(&self) {
        let (here, there) = (locker(self.client().await), locker(self.client().await));
        let names = ["p", "q"].map(|name| self.name(&format!("any {name}")));
        let held = there.acquire(&names[0]).await.expect("a free key");
        let any = here.any(&names).expect("valid names").ttl(SHORT);
        let free = any.acquire().await.expect("one of two");
        assert_eq!(free.key().name(), names[1], "took the one that is held");
        assert!(any.try_acquire().await.expect("an answer").is_none(), "both are held");
        let (next, ()) = tokio::join!(any.acquire(), async {
            held.release().await.expect("a release");
        });
        let next = next.expect("one of two");
        assert_eq!(next.key().name(), names[0]);
        until_quiet(&here).await;
        for name in &names {
            let waiters = there.inspect(name).await.expect("an answer").waiters;
            assert_eq!(waiters.unwrap_or(0), 0, "left a place in the queue of {name}");
        }
        free.release().await.expect("a release");
        next.release().await.expect("a release");
        self.clean_after(&[here, there]).await;
    }

    /// Acquisitions of several keys that are dropped after their n-th poll leave nothing.
    pub async fn dropped_sets_leave_nothing(&self) {
        let (here, there) = (locker(self.client().await), locker(self.client().await));
        let names = ["k", "l"].map(|name| self.name(&format!("set {name}")));
        let (all, any) = (here.all(&names).expect("valid names"), here.any(&names).expect("valid names"));
        for (one, held) in [(false, 0), (false, 1), (false, 2), (true, 0), (true, 2)] {
            for polls in 0..if held > 0 { 6 } else { 100 } {
                let mut blockers = Vec::new();
                for name in names.iter().rev().take(held) {
                    blockers.push(there.acquire(name).await.expect("a free key"));
                }
                let done = if one {
                    let outcome = poll_times(pin!(any.acquire()), polls).await;
                    outcome.map(|outcome| drop(outcome.expect("one of two"))).is_some()
                } else {
                    let outcome = poll_times(pin!(all.acquire()), polls).await;
                    outcome.map(|outcome| drop(outcome.expect("both"))).is_some()
                };
                drop(blockers);
                self.assert_nothing_left(&here, &there, &names, &format!("{one} {held} {polls}")).await;
                if done {
                    break;
                }
            }
        }
    }

    /// An owner enters again under the same grant, and the last of its guards gives it back.
    pub async fn an_owner_enters_again(&self) {
        let (here, there) = (locker(self.client().await), locker(self.client().await));
        let name = self.name("owner");
        let mine = here.reentrant(&name, "me").expect("a valid name");
        let outer = mine.acquire().await.expect("a free key");
        let inner = mine.acquire().await.expect("a key of one's own");
        assert_eq!(outer.fencing_token(), inner.fencing_token(), "one grant, two tokens");
        outer.release().await.expect("a release");
        assert!(inner.is_held() && there.try_acquire(&name).await.expect("an answer").is_none(), "one guard is left");
        let last = inner.fencing_token();
        inner.release().await.expect("a release");
        let next = there.acquire(&name).await.expect("a key given back");
        assert!(next.fencing_token() > last || !fenced(&there), "tokens went back");
        next.release().await.expect("a release");
        self.clean_after(&[here, there]).await;
    }

    async fn assert_nothing_left(&self, here: &Locker, there: &Locker, names: &[String], at: &str) {
        until_quiet(here).await;
        until_quiet(there).await;
        for name in names {
            let state = there.inspect(name).await.expect("an answer");
            assert!(state.is_free(), "left a holder of {name}: {at} {state:?}");
            assert_eq!(state.waiters.unwrap_or(0), 0, "left a waiter for {name}: {at}");
        }
        assert_eq!(here.stats(), crate::Stats::default(), "left something: {at}");
    }
}

fn fenced(locker: &Locker) -> bool {
    locker.capabilities().fencing != crate::Fencing::None
}
