//! Acquisitions dropped at every await, over any store.

use std::{pin::pin, time::Duration};

use tasklock::{
    AsyncLock, Locker, Stats,
    testing::{Fault, Faults, Op, poll_times, until_quiet},
};

/// What an acquisition may meet. `Hang` is not among them: a request that never reaches the store leaves nothing there,
/// and is given up with its lease.
pub const FAULTS: [Option<Fault>; 7] = [
    None,
    Some(Fault::Refuse),
    Some(Fault::LoseReply),
    Some(Fault::DelayRequest(Duration::from_millis(20))),
    Some(Fault::DelayReply(Duration::from_millis(20))),
    Some(Fault::Duplicate),
    Some(Fault::Straggle(Duration::from_millis(20))),
];

/// Drops an acquisition after each number of polls, on a key that is free, held, or released meanwhile. `store` makes an
/// empty store, `make` a locker over it whose calls go wrong, and `is_empty` tells whether anything is left.
///
/// # Panics
///
/// If anything is left.
pub async fn drop_everywhere<B: AsyncLock + Clone>(
    store: impl Fn() -> B,
    make: impl Fn(B) -> (Locker, Faults),
    is_empty: impl Fn(&B) -> bool,
    on: Op,
) {
    for fault in FAULTS {
        for released_after in [0, 1, 2, 5, usize::MAX] {
            for polls in 0.. {
                let store = store();
                let (lock, faults) = make(store.clone());
                let blocker = Locker::new(store.clone()).expect("a locker");
                let mut held = None;
                if released_after > 0 {
                    held = Some(blocker.acquire("job").await.expect("a free key"));
                }
                if let Some(fault) = fault {
                    faults.next(on, fault);
                    faults.skip(on, 1);
                    faults.next(on, fault);
                }
                let finished = {
                    let mut acquisition = pin!(lock.acquire("job"));
                    let early = poll_times(acquisition.as_mut(), polls.min(released_after)).await;
                    if polls > released_after {
                        held = None;
                    }
                    match early {
                        Some(outcome) => Some(outcome),
                        None => poll_times(acquisition.as_mut(), polls.saturating_sub(released_after)).await,
                    }
                };
                let done = finished.is_some();
                drop(finished.map(|outcome| outcome.expect("the lock")));
                drop(held);
                until_quiet(&lock).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
                let at = format!("{fault:?} on {on:?}, released after {released_after}, dropped after {polls}");
                assert!(is_empty(&store), "{at}: {:?}", blocker.inspect("job").await);
                assert_eq!(lock.stats(), Stats::default(), "{at}");
                if done || (released_after == usize::MAX && polls > 12) {
                    break;
                }
                assert!(polls < 1_000, "{at}: never done");
            }
        }
    }
}
