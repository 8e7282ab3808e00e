//! Acquisitions dropped at every await, on any store.

use std::{fmt, pin::pin, time::Duration};

use tasklock::{
    Locker, Stats,
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

/// Two clients of one store, and a key that nobody else uses.
pub struct Stage {
    /// Whose acquisitions are dropped.
    pub lock: Locker,
    /// What its calls meet.
    pub faults: Faults,
    /// Who holds the key before.
    pub blocker: Locker,
    /// The key.
    pub key: String,
    /// Whether nothing of the key is left at the store.
    pub is_empty: Box<dyn Fn() -> bool>,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Drops an acquisition after each number of polls, on a key that is free, held, or released meanwhile. For paused time.
///
/// # Panics
///
/// If anything is left of it.
pub async fn drop_everywhere(make: impl Fn() -> Stage, on: Op) {
    for fault in FAULTS {
        for released_after in [0, 1, 2, 5, usize::MAX] {
            for polls in 0.. {
                let Stage { lock, faults, blocker, key, is_empty } = make();
                let mut held = None;
                if released_after > 0 {
                    held = Some(blocker.acquire(&key).await.expect("a free key"));
                }
                if let Some(fault) = fault {
                    faults.next(on, fault);
                    faults.skip(on, 1);
                    faults.next(on, fault);
                }
                let finished = {
                    let mut acquisition = pin!(lock.acquire(&key));
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
                assert!(is_empty(), "{at}: {:?}", blocker.inspect(&key).await);
                assert_eq!(lock.stats(), Stats::default(), "{at}");
                if done || (released_after == usize::MAX && polls > 12) {
                    break;
                }
                assert!(polls < 1_000, "{at}: never done");
            }
        }
    }
}
