//! Nothing grows: what a key needed is gone when nobody holds or waits for it.

use tasklock::{
    Locker, MemoryLock, Stats,
    testing::{Faulty, until_quiet},
};
use tasklock_tests::Polled;

#[tokio::test]
async fn a_million_keys_in_memory() {
    let store = MemoryLock::new();
    let lock = Locker::new(store.clone()).unwrap();
    for n in 0..1_000_000 {
        drop(lock.acquire(format!("key:{n}")).await.unwrap());
    }
    assert!(store.is_empty());
    assert_eq!(lock.stats(), Stats::default());
    assert!(store.room() <= 64 * 8, "kept room for {}", store.room());
}

/// Held all at once, too: the room they took is given back.
#[tokio::test]
async fn a_hundred_thousand_keys_at_once() {
    let store = MemoryLock::new();
    let lock = Locker::new(store.clone()).unwrap();
    let mut guards = Vec::new();
    for n in 0..100_000 {
        guards.push(lock.acquire(format!("key:{n}")).await.unwrap());
    }
    assert!(store.room() >= 100_000);
    drop(guards);
    assert!(store.is_empty());
    assert!(store.room() <= 64 * 256, "kept room for {}", store.room());
    assert_eq!(lock.stats(), Stats::default());
}

#[tokio::test]
async fn many_keys_through_the_line_and_the_background() {
    let store = MemoryLock::new();
    let (backend, _faults) = Faulty::new(Polled::new(store.clone()));
    let lock = Locker::new(backend).unwrap();
    for n in 0..50_000 {
        drop(lock.acquire(format!("key:{n}")).await.unwrap());
    }
    until_quiet(&lock).await;
    assert!(store.is_empty());
    assert_eq!(lock.stats(), Stats::default());
}
