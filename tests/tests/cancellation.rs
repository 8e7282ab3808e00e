//! An acquisition dropped at any await leaves nothing, whatever the store does meanwhile.

use std::{pin::pin, time::Duration};

use tasklock::{
    Locker, MemoryLock, Stats,
    testing::{Fault, Faults, Faulty, Op, poll_times, until_quiet},
};
use tasklock_tests::{
    Polled,
    cancellation::{FAULTS, Stage, drop_everywhere},
    other,
};

fn pushed(store: MemoryLock) -> (Locker, Faults) {
    let (backend, faults) = Faulty::new(store);
    (Locker::new(backend).unwrap(), faults)
}

fn polled(store: MemoryLock) -> (Locker, Faults) {
    let (backend, faults) = Faulty::new(Polled::new(store));
    (Locker::new(backend).unwrap(), faults)
}

async fn on_memory(make: impl Fn(MemoryLock) -> (Locker, Faults), on: Op) {
    let stage = || {
        let store = MemoryLock::new();
        let (lock, faults) = make(store.clone());
        Stage {
            lock,
            faults,
            blocker: other(&store),
            key: "job".to_owned(),
            is_empty: Box::new(move || store.is_empty()),
        }
    };
    drop_everywhere(stage, on).await;
}

#[tokio::test(start_paused = true)]
async fn acquisitions_on_a_store_that_pushes() {
    on_memory(pushed, Op::TryAcquire).await;
}

#[tokio::test(start_paused = true)]
async fn acquisitions_on_a_store_that_is_polled() {
    on_memory(polled, Op::TryAcquire).await;
}

#[tokio::test(start_paused = true)]
async fn withdrawals_that_go_wrong() {
    on_memory(pushed, Op::Release).await;
}

#[tokio::test(start_paused = true)]
async fn acquisitions_in_the_middle_of_the_line() {
    for polls in 0..12 {
        let store = MemoryLock::new();
        let (lock, _) = polled(store.clone());
        let first = lock.acquire("job").await.unwrap();
        let ahead = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire("job").await.map(drop) }
        });
        tokio::task::yield_now().await;
        let mut dropped = Box::pin(lock.acquire("job"));
        assert!(poll_times(dropped.as_mut(), polls).await.is_none());
        let behind = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire("job").await.map(drop) }
        });
        tokio::task::yield_now().await;
        drop(first);
        ahead.await.unwrap().unwrap();
        drop(dropped);
        behind.await.unwrap().unwrap();
        until_quiet(&lock).await;
        drop(lock.acquire("job").await.unwrap());
        until_quiet(&lock).await;
        while lock.stats() != Stats::default() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(store.is_empty());
    }
}

/// Tries, bounded waits, and synchronized bodies go the same way.
#[tokio::test(start_paused = true)]
async fn other_calls() {
    for polls in 0..20 {
        for fault in FAULTS.into_iter().flatten() {
            let store = MemoryLock::new();
            let (lock, faults) = pushed(store.clone());
            faults.next(Op::TryAcquire, fault);
            let _ = poll_times(pin!(lock.try_acquire("a")), polls).await;
            faults.next(Op::TryAcquire, fault);
            let _ = poll_times(pin!(lock.synchronized("b", tokio::time::sleep(Duration::from_millis(9)))), polls).await;
            faults.next(Op::TryAcquire, fault);
            let bounded = lock.key("c").wait(Duration::from_millis(15));
            let _ = poll_times(pin!(bounded.acquire()), polls).await;
            until_quiet(&lock).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(store.is_empty() && lock.stats() == Stats::default(), "{fault:?} {polls} {store:?}");
        }
    }
}

/// A call that never ends is given up with its lease, not kept for ever.
#[tokio::test(start_paused = true)]
async fn a_call_that_hangs() {
    let store = MemoryLock::new();
    let (lock, faults) = pushed(store.clone());
    faults.next(Op::TryAcquire, Fault::Hang);
    assert!(poll_times(pin!(lock.acquire("job")), 3).await.is_none());
    assert_eq!(lock.stats().background, 1);
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(lock.stats(), Stats::default());
    // A caller that stays is told, rather than left hanging.
    faults.next(Op::TryAcquire, Fault::Hang);
    let error = lock.acquire("job").await.unwrap_err();
    assert!(error.is_retryable() && !error.is_contended(), "{error}");
}
