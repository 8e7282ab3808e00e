//! An acquisition dropped at any await, on any store.

use std::{pin::pin, time::Duration};

use tasklock::{
    KeyLock, LockError, Locker, Stats,
    testing::{Call, Fault, Faults, Op, poll_times, until_quiet},
};

use crate::{eventually, faulty, other};

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

    /// Waits until what this fault has sent late has arrived.
    ///
    /// # Panics
    ///
    /// If it never is.
    pub async fn settled(&self, fault: Option<Fault>) {
        let sent = |calls: &[Call]| calls.iter().filter(|call| call.op != Op::Wait).count();
        if matches!(fault, Some(Fault::Straggle(_))) {
            let all = async || sent(&self.faults.reached()) >= sent(&self.faults.calls());
            eventually("what was sent late has been sent", all).await;
        }
        // What was sent late was sent before these, on the same connection.
        for _ in 0..3 {
            self.lock.ping().await.expect("an answer");
        }
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
    let hold = async |scene: &Scene| scene.other.acquire(&scene.key).await;
    let acquire = async |scene: &Scene| set_up(scene.lock.key(&scene.key)).acquire().await;
    drop_everything_everywhere(make, is_empty, on, hold, acquire).await;
}

/// The same, of whatever is acquired, and held by the other meanwhile.
///
/// # Panics
///
/// If anything is left.
pub async fn drop_everything_everywhere<H, G>(
    make: impl AsyncFn() -> Scene,
    is_empty: impl AsyncFn(&Scene, Option<Fault>) -> bool,
    on: Op,
    hold: impl AsyncFn(&Scene) -> Result<H, LockError>,
    acquire: impl AsyncFn(&Scene) -> Result<G, LockError>,
) {
    for fault in FAULTS {
        for released_after in [0, 1, 2, 5, usize::MAX] {
            for polls in 0.. {
                let scene = make().await;
                let mut held = None;
                if released_after > 0 {
                    held = Some(hold(&scene).await.expect("what is free"));
                }
                plan(&scene.faults, on, fault);
                let done = dropped_after(acquire(&scene), polls, released_after, || held = None).await;
                drop(held);
                until_quiet(&scene.lock).await;
                until_quiet(&scene.other).await;
                let at = format!("{fault:?} on {on:?}, released after {released_after}, dropped after {polls}");
                assert!(is_empty(&scene, fault).await, "{at}: {:?}", scene.other.inspect(&scene.key).await);
                assert_eq!(scene.lock.stats(), Stats::default(), "{at}");
                if done || (released_after == usize::MAX && polls > 12) {
                    break;
                }
                assert!(polls < 1_000, "{at}: never done");
            }
        }
    }
}

/// Drops an acquisition in memory after each number of polls, while replies to `slow` take their time and others have
/// these locks, or give them back meanwhile.
///
/// # Panics
///
/// If anything is left.
pub async fn drop_everywhere_in_memory<G>(
    slow: Op,
    held: &[&str],
    acquire: impl AsyncFn(&Locker) -> Result<G, LockError>,
) {
    for released_after in [1, 2, 5, 8, 15] {
        for polls in 0.. {
            let (lock, faults, store) = faulty();
            faults.always(slow, Fault::DelayReply(Duration::from_millis(3)));
            let there = other(&store);
            let mut blockers = Vec::new();
            for key in held {
                blockers.push(there.acquire(*key).await.expect("a free key"));
            }
            let done = dropped_after(acquire(&lock), polls, released_after, || blockers.clear()).await;
            drop(blockers);
            until_quiet(&lock).await;
            until_quiet(&there).await;
            let at = format!("{held:?} released after {released_after}, slow {slow:?}, dropped after {polls}");
            assert!(store.is_empty(), "{at}: {store:?}");
            assert_eq!(lock.stats(), Stats::default(), "{at}");
            if done {
                break;
            }
            assert!(polls < 100, "{at}: never done");
        }
    }
}

/// The first call and the third go wrong like this.
pub fn plan(faults: &Faults, on: Op, fault: Option<Fault>) {
    if let Some(fault) = fault {
        faults.next(on, fault);
        faults.skip(on, 1);
        faults.next(on, fault);
    }
}

/// Drops an acquisition, or what it has got, after so many polls; whether it was done by then. `release` is called after
/// so many of them, and not if there are fewer.
async fn dropped_after<G>(
    acquisition: impl Future<Output = Result<G, LockError>>,
    polls: usize,
    released_after: usize,
    release: impl FnOnce(),
) -> bool {
    let mut acquisition = pin!(acquisition);
    let early = poll_times(acquisition.as_mut(), polls.min(released_after)).await;
    if polls >= released_after {
        release();
    }
    let outcome = match early {
        Some(outcome) => Some(outcome),
        None => poll_times(acquisition, polls.saturating_sub(released_after)).await,
    };
    outcome.map(|outcome| drop(outcome.expect("what was asked for"))).is_some()
}
