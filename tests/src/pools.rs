//! Waits for members of a pool, dropped at any await, on any store.

use std::pin::pin;

use tasklock::{
    Locker, Stats,
    testing::{Faults, Op, poll_times, until_quiet},
};

use crate::{cancellation::FAULTS, eventually};

/// Drops an acquisition after each number of polls, from a pool of one member that is free, held, or given back meanwhile.
/// `make` gives a locker whose calls go wrong on demand, and another on the same store; `settled` waits for what was sent
/// late.
///
/// # Panics
///
/// If anything is left.
pub async fn drop_everywhere(
    make: impl AsyncFn() -> ((Locker, Faults), Locker),
    settled: impl AsyncFn(&Faults),
    on: Op,
) {
    for fault in FAULTS {
        for given_back_after in [0, 1, 3, usize::MAX] {
            for polls in 0.. {
                let ((lock, faults), other) = make().await;
                let (pool, others) = (lock.pool("pool").expect("pools"), other.pool("pool").expect("pools"));
                others.assign(["member"]).await.expect("a change");
                let mut held = None;
                if given_back_after > 0 {
                    held = Some(others.acquire().await.expect("a free member"));
                }
                if let Some(fault) = fault {
                    faults.next(on, fault);
                    faults.skip(on, 1);
                    faults.next(on, fault);
                }
                let finished = {
                    let mut acquisition = pin!(pool.acquire());
                    let early = poll_times(acquisition.as_mut(), polls.min(given_back_after)).await;
                    if polls > given_back_after {
                        held = None;
                    }
                    match early {
                        Some(outcome) => Some(outcome),
                        None => poll_times(acquisition.as_mut(), polls.saturating_sub(given_back_after)).await,
                    }
                };
                let done = finished.is_some();
                drop(finished.map(|outcome| outcome.expect("a member")));
                drop(held);
                until_quiet(&lock).await;
                until_quiet(&other).await;
                settled(&faults).await;
                let at = format!("{fault:?} on {on:?}, given back after {given_back_after}, dropped after {polls}");
                let is_empty = async || {
                    let health = others.health().await.expect("an answer");
                    (health.locked, health.free, health.waiters) == (0, 1, 0)
                };
                eventually(&at, is_empty).await;
                assert_eq!(lock.stats(), Stats::default(), "{at}");
                if done || (given_back_after == usize::MAX && polls > 12) {
                    break;
                }
                assert!(polls < 1_000, "{at}: never done");
            }
        }
    }
}
