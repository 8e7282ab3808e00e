//! An acquisition dropped at any await, on any store.

use std::{pin::pin, time::Duration};

use tasklock::{
    KeyLock, Locker, Stats,
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

/// A locker whose calls go wrong on demand, another on the same store, and a lock that nobody else uses.
#[derive(Debug)]
pub struct Scene {
    /// The one whose acquisitions are dropped.
    pub lock: Locker,
    /// What goes wrong.
    pub faults: Faults,
    /// The one that holds the lock meanwhile.
    pub other: Locker,
    /// The lock.
    pub key: String,
}

impl Scene {
    /// A locker that goes wrong, the other one, and a lock called "job".
    #[must_use]
    pub fn new((lock, faults): (Locker, Faults), other: Locker) -> Self {
        Scene { lock, faults, other, key: "job".to_owned() }
    }
}

/// Drops an acquisition after each number of polls, on a key that is free, held, or released meanwhile. `is_empty` waits
/// for what that fault has left under way, and looks at the store.
///
/// # Panics
///
/// If anything is left.
pub async fn drop_everywhere(
    make: impl AsyncFn() -> Scene,
    is_empty: impl AsyncFn(&Scene, Option<Fault>) -> bool,
    on: Op,
) {
    drop_everywhere_wanting(make, is_empty, on, |lock| lock).await;
}

/// The same, of an acquisition that is set up.
///
/// # Panics
///
/// If anything is left.
pub async fn drop_everywhere_wanting(
    make: impl AsyncFn() -> Scene,
    is_empty: impl AsyncFn(&Scene, Option<Fault>) -> bool,
    on: Op,
    set_up: impl Fn(KeyLock) -> KeyLock,
) {
    for fault in FAULTS {
        for released_after in [0, 1, 2, 5, usize::MAX] {
            for polls in 0.. {
                let scene = make().await;
                let Scene { lock, faults, other: blocker, key } = &scene;
                let wanted = set_up(lock.key(key));
                let mut held = None;
                if released_after > 0 {
                    held = Some(blocker.acquire(key).await.expect("a free key"));
                }
                if let Some(fault) = fault {
                    faults.next(on, fault);
                    faults.skip(on, 1);
                    faults.next(on, fault);
                }
                let finished = {
                    let mut acquisition = pin!(wanted.acquire());
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
                until_quiet(lock).await;
                until_quiet(blocker).await;
                let at = format!("{fault:?} on {on:?}, released after {released_after}, dropped after {polls}");
                assert!(is_empty(&scene, fault).await, "{at}: {:?}", blocker.inspect(key).await);
                assert_eq!(lock.stats(), Stats::default(), "{at}");
                if done || (released_after == usize::MAX && polls > 12) {
                    break;
                }
                assert!(polls < 1_000, "{at}: never done");
            }
        }
    }
}
