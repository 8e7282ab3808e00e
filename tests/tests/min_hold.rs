//! Locks that are kept for a while, though their work is done.

use std::time::Duration;

use tasklock::{
    LockError, Locker, LossReason, MemoryLock, ReleaseOutcome, Renew, Stats,
    testing::{self, Op},
};
use tasklock_tests::{faulty, is_lost, other};
use tokio::{runtime::Runtime, time::Instant};

const S: fn(u64) -> Duration = Duration::from_secs;

/// When somebody else gets the lock.
async fn free_after(store: &MemoryLock, started: Instant) -> Duration {
    drop(other(store).acquire("job").await.unwrap());
    started.elapsed()
}

/// It is kept, and renewed, by the store's own clock.
#[tokio::test(start_paused = true)]
async fn a_release_before_its_time_is_kept_back() {
    let (lock, _, store) = faulty();
    let job = lock.key("job").ttl(S(1)).min_hold(S(5));
    let started = Instant::now();
    let guard = job.acquire().await.unwrap();
    assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::KeptBack);
    assert_eq!(started.elapsed(), Duration::ZERO, "the release was waited for");
    assert_eq!((lock.stats().held, lock.stats().background), (1, 1));
    assert!(job.try_acquire().await.unwrap().is_none());
    assert_eq!(free_after(&store, started).await, S(5));

    let started = Instant::now();
    drop(job.acquire().await.unwrap());
    assert_eq!(free_after(&store, started).await, S(5));

    let started = Instant::now();
    assert_eq!(job.clone().synchronized(async { 7 }).await.unwrap(), 7);
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(free_after(&store, started).await, S(5));

    let guard = job.acquire().await.unwrap();
    tokio::time::sleep(S(5)).await;
    assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::Released, "its time is over");
    assert_eq!(lock.stats(), Stats::default());
}

/// In memory, where most holds are not even looked at.
#[tokio::test(start_paused = true)]
async fn as_a_setting_of_the_locker() {
    let store = MemoryLock::new();
    let lock = Locker::builder(store.clone()).min_hold(S(3)).build().unwrap();
    let started = Instant::now();
    drop(lock.acquire("job").await.unwrap());
    assert_eq!(free_after(&store, started).await, S(3));
    // Without anybody left who has the locker.
    let started = Instant::now();
    drop(lock.acquire("job").await.unwrap());
    drop(lock);
    assert_eq!(free_after(&store, started).await, S(3));
    assert!(store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_keeps_it_too() {
    let (lock, _, store) = faulty();
    let started = Instant::now();
    drop(lock.key("job").min_hold(S(9)).acquire().await.unwrap());
    tokio::time::sleep(S(1)).await;
    let (_, free) = tokio::join!(lock.shutdown(), free_after(&store, started));
    assert_eq!(free, S(9));
    assert_eq!(started.elapsed(), S(9), "the shutdown waits for it");
}

/// However often it has to be renewed for that.
#[tokio::test(start_paused = true)]
async fn a_shutdown_renews_what_it_keeps() {
    let (lock, faults, store) = faulty();
    let started = Instant::now();
    drop(lock.key("job").ttl(S(2)).min_hold(S(9)).acquire().await.unwrap());
    let held = lock.key("other").min_hold(S(9)).acquire().await.unwrap();
    let (lease, lost) = (held.lease().clone(), held.cancellation_token());
    let holder = async {
        lost.cancelled().await;
        drop(held);
    };
    let (drained, free, ()) = tokio::join!(lock.shutdown(), free_after(&store, started), holder);
    assert_eq!(free, S(9));
    assert_eq!(started.elapsed(), S(9), "the shutdown waits for it");
    assert!(is_lost(&lease.check(), LossReason::ShutDown), "one that somebody has is lost");
    assert_eq!((drained.lost, drained.left), (1, 0), "nobody had the other one any more");
    assert!(faults.count(Op::Renew) >= 12, "{}", faults.count(Op::Renew));
    testing::until_quiet(&lock).await;
    assert!(store.is_empty() && lock.stats() == Stats::default());
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_is_not_kept() {
    let (lock, _, store) = faulty();
    let guard = lock.key("job").min_hold(S(9)).acquire().await.unwrap();
    testing::lose(&lock, "job", LossReason::Expired);
    assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::AlreadyLost);
    testing::until_quiet(&lock).await;
    assert!(store.is_empty());
}

#[tokio::test]
async fn limits_are_named() {
    let lock = Locker::new(MemoryLock::new()).unwrap();
    let unrenewed = lock.key("job").renew(Renew::Off).ttl(S(5)).min_hold(S(6));
    assert!(matches!(unrenewed.acquire().await, Err(LockError::InvalidOption(_))));
    let longer = lock.key("job").max_hold(S(5)).min_hold(S(6));
    assert!(matches!(longer.acquire().await, Err(LockError::InvalidOption(_))));
    assert!(Locker::builder(MemoryLock::new()).min_hold(S(100_000)).build().is_err());
}

/// The runtime of its locker goes: nothing is kept any longer.
#[test]
fn without_a_runtime_nothing_is_kept() {
    let runtime = Runtime::new().unwrap();
    let store = MemoryLock::new();
    let guard = runtime.block_on(async {
        let lock = other(&store);
        drop(lock.key("one").min_hold(S(3600)).acquire().await.unwrap());
        lock.key("two").min_hold(S(3600)).acquire().await.unwrap()
    });
    drop(runtime);
    drop(guard);
    assert!(store.is_empty(), "{store:?}");
}
