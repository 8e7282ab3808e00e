//! Readers, writers and permits as users have them. What every backend must do is in the conformance suite.

use std::{pin::pin, time::Duration};

use tasklock::{
    AsyncLock as _, Attempt, Busy, Demand, FencingToken, Key, LockError, Locker, LossReason, MemoryLock, Renew, Wait,
    blocking,
    testing::{poll_times, until_quiet},
};
use tasklock_tests::{Polled, Script, faulty, is_lost, other};
use tokio::time::timeout;

const S: fn(u64) -> Duration = Duration::from_secs;

fn lock() -> Locker {
    Locker::new(MemoryLock::new()).unwrap()
}

fn without_modes() -> Locker {
    Locker::new(Script::new(|_| Attempt::Busy(Busy::default()))).unwrap()
}

fn unsupported<T>(outcome: Result<T, LockError>, what: &str) -> bool {
    matches!(outcome, Err(LockError::Unsupported { backend: "script", what: lacks }) if lacks == what)
}

#[tokio::test]
async fn a_backend_that_cannot_refuses_at_construction() {
    let lock = without_modes();
    assert!(unsupported(lock.rw("doc"), "shared locks"));
    assert!(unsupported(lock.semaphore("doc", 2), "permits"));
    assert!(unsupported(lock.key("doc").shared().acquire().await, "shared locks"));
    assert!(unsupported(lock.key("doc").permits(2).try_acquire().await, "permits"));
    for (demand, what) in [(Demand::new().shared(), "shared locks"), (Demand::new().permits(), "permits")] {
        let script = Script::new(|_| Attempt::Busy(Busy::default()));
        assert!(unsupported(Locker::builder(script).demand(demand.clone()).build(), what));
        assert!(Locker::builder(MemoryLock::new()).demand(demand).build().is_ok());
    }
}

#[tokio::test]
async fn bad_input_is_told_at_construction() {
    let lock = lock();
    let none = lock.semaphore("doc", 0).unwrap_err();
    assert_eq!(none.to_string(), "permits = 0: it is at least 1");
    assert!(matches!(lock.key("doc").permits(0).acquire().await, Err(LockError::InvalidOption(_))));
    assert!(matches!(lock.rw(""), Err(LockError::InvalidKey(_))));
    assert!(matches!(lock.semaphore("", 1), Err(LockError::InvalidKey(_))));
    let short = lock.rw("doc").unwrap().ttl(Duration::from_millis(1));
    assert!(matches!(short.read().await, Err(LockError::InvalidOption(_))));
    assert!(matches!(short.write().await, Err(LockError::InvalidOption(_))));
}

#[tokio::test(start_paused = true)]
async fn options_hold_for_both_sides() {
    let (lock, _, store) = faulty();
    let doc = lock.rw("doc").unwrap().wait(S(2));
    let writer = other(&store).acquire("doc").await.unwrap();
    assert!(matches!(doc.read().await, Err(LockError::Timeout { waited, .. }) if waited >= S(2)));
    assert!(matches!(doc.write().await, Err(LockError::Timeout { waited, .. }) if waited >= S(2)));
    drop(writer);
    until_quiet(&lock).await;
    let slots = lock.semaphore("doc", 1).unwrap().wait(Wait::Try);
    let _one = slots.acquire().await.unwrap();
    assert!(matches!(slots.acquire().await, Err(LockError::Held { .. })));
}

/// Readers that keep coming, in this process and in others, do not keep a writer out.
#[tokio::test(start_paused = true)]
async fn a_writer_is_not_starved() {
    let store = MemoryLock::new();
    let (here, there) = (other(&store).rw("doc").unwrap(), other(&store).rw("doc").unwrap());
    let mut last = here.read().await.unwrap();
    let mut writing = pin!(there.write());
    assert!(poll_times(writing.as_mut(), 1).await.is_none());
    assert!(here.try_read().await.unwrap().is_none(), "past a writer that waits");
    let mut reading = pin!(here.read());
    assert!(poll_times(reading.as_mut(), 2).await.is_none());
    last = {
        drop(last);
        let writer = writing.await.unwrap();
        assert!(poll_times(reading.as_mut(), 2).await.is_none(), "beside a writer");
        drop(writer);
        reading.await.unwrap()
    };
    assert!(last.is_held());
    drop(last);
    assert!(store.is_empty());
}

/// The same on a store without a queue, among the tasks of one locker.
#[tokio::test(start_paused = true)]
async fn a_writer_is_not_starved_by_its_own_process() {
    let doc = Locker::new(Polled::new(MemoryLock::new())).unwrap().rw("doc").unwrap();
    let reader = doc.read().await.unwrap();
    let mut writing = pin!(doc.write());
    assert!(poll_times(writing.as_mut(), 2).await.is_none());
    let mut reading = pin!(doc.read());
    assert!(poll_times(reading.as_mut(), 3).await.is_none(), "past a writer that waits");
    drop(reader);
    let writer = writing.await.unwrap();
    drop(writer);
    drop(reading.await.unwrap());
}

/// A writer that waits without being looked at keeps readers out for as long as any waiter keeps its place.
#[tokio::test(start_paused = true)]
async fn a_hung_writer_does_not_keep_readers_out_for_ever() {
    let store = MemoryLock::new();
    let (here, there) = (other(&store).rw("doc").unwrap(), other(&store).rw("doc").unwrap());
    let _reader = here.read().await.unwrap();
    let mut writing = pin!(there.write());
    assert!(poll_times(writing.as_mut(), 1).await.is_none());
    assert!(timeout(S(20), here.read()).await.is_err());
    drop(timeout(S(20), here.read()).await.expect("readers beside a reader").unwrap());
}

#[tokio::test(start_paused = true)]
async fn every_caller_goes_by_its_own_number_of_permits() {
    let lock = lock();
    let (few, many) = (lock.semaphore("slots", 1).unwrap(), lock.semaphore("slots", 3).unwrap());
    let first = few.acquire().await.unwrap();
    assert!(few.try_acquire().await.unwrap().is_none());
    let (second, third) = (many.acquire().await.unwrap(), many.acquire().await.unwrap());
    assert!(many.try_acquire().await.unwrap().is_none());
    drop((first, second));
    assert!(few.try_acquire().await.unwrap().is_none(), "one of one is held");
    drop(third);
    drop(few.acquire().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn every_grant_has_a_token_of_its_own() {
    let store = MemoryLock::new();
    let doc = other(&store).rw("doc").unwrap();
    let mut last = FencingToken::NONE;
    for _ in 0..3 {
        let (one, two) = (doc.read().await.unwrap(), doc.read().await.unwrap());
        assert!(last < one.fencing_token() && one.fencing_token() < two.fencing_token());
        drop((one, two));
        last = doc.synchronized_write(async { tasklock::current().unwrap().fencing_token() }).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_for_oneself_is_told_where_it_is_certain() {
    let lock = lock();
    let (doc, slots) = (lock.rw("doc").unwrap(), lock.semaphore("slots", 2).unwrap());
    let deadlock = |outcome: Result<_, LockError>| matches!(outcome, Err(LockError::WouldDeadlock { .. }));
    let inside = doc.synchronized_write(async { deadlock(doc.read().await) && deadlock(doc.write().await) });
    assert!(inside.await.unwrap(), "a writer that asks again");
    let inside = doc.synchronized_read(async { deadlock(doc.write().await) && doc.read().await.is_ok() });
    assert!(inside.await.unwrap(), "a reader that asks to write waits for itself, one that reads does not");
    let inside = slots.synchronized(async {
        let inner = slots.synchronized(async { deadlock(slots.acquire().await) });
        deadlock(lock.acquire("slots").await) && inner.await.unwrap()
    });
    assert!(inside.await.unwrap(), "the second of two permits is there, the third is not");
    let expiring = lock.rw("doc").unwrap().ttl(S(1)).renew(Renew::Off);
    let inside = expiring.synchronized_read(async { doc.clone().wait(S(5)).write().await.map(drop) });
    assert!(is_lost(&inside.await, LossReason::Expired), "a lease that ends by itself ends the wait");
}

#[tokio::test(start_paused = true)]
async fn a_break_ends_all_who_share() {
    let store = MemoryLock::new();
    let (here, there) = (other(&store), other(&store));
    let readers = [(); 3].map(|()| here.rw("doc").unwrap().ttl(S(3)));
    let mut held = Vec::new();
    for reader in &readers {
        held.push(reader.read().await.unwrap());
    }
    let state = there.inspect("doc").await.unwrap();
    let tokens: Vec<_> = state.holders().map(|holder| holder.token.unwrap()).collect();
    assert_eq!(tokens, held.iter().map(|guard| guard.fencing_token()).collect::<Vec<_>>(), "others see all of them");
    assert!(there.break_lock("doc").await.unwrap());
    let writer = there.acquire("doc").await.unwrap();
    for guard in &held {
        assert_eq!(guard.lost().await, LossReason::Stolen);
    }
    drop(held);
    assert!(writer.is_held());
}

/// Only one of those who share is broken if it was the one seen.
#[tokio::test(start_paused = true)]
async fn one_of_those_who_share_can_be_broken() {
    let store = MemoryLock::new();
    let lock = Locker::builder(store.clone()).prefix("").build().unwrap();
    let slots = lock.semaphore("slots", 2).unwrap().ttl(S(3));
    let (one, two) = (slots.acquire().await.unwrap(), slots.acquire().await.unwrap());
    let key = Key::new("slots").unwrap();
    let power = store.powers().administer.unwrap();
    assert!(!power.revoke(&key, Some(tasklock::Nonce::fresh())).await.unwrap());
    drop(one);
    assert!(power.revoke(&key, None).await.unwrap());
    assert_eq!(two.lost().await, LossReason::Stolen);
    assert!(!power.revoke(&key, None).await.unwrap());
}

/// Nobody is in a hurry to look, and nobody is left waiting.
#[tokio::test(start_paused = true)]
async fn many_readers_are_woken_by_one_release() {
    let store = MemoryLock::new();
    let lock = other(&store);
    let writer = lock.acquire("doc").await.unwrap();
    let mut readers = tokio::task::JoinSet::new();
    let all = std::sync::Arc::new(tokio::sync::Barrier::new(40));
    for _ in 0..40 {
        let (doc, all) = (lock.rw("doc").unwrap(), all.clone());
        readers.spawn(async move {
            let guard = doc.read().await.unwrap();
            all.wait().await;
            guard.release().await.unwrap();
        });
    }
    while lock.inspect("doc").await.unwrap().waiters != Some(40) {
        tokio::task::yield_now().await;
    }
    let started = tokio::time::Instant::now();
    writer.release().await.unwrap();
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
    assert_eq!(started.elapsed(), Duration::ZERO, "somebody was not woken");
    assert!(store.is_empty());
}

#[test]
fn the_same_for_synchronous_code() {
    let lock = blocking::Locker::start(async { Locker::new(MemoryLock::new()) }).unwrap();
    let doc = lock.rw("doc").unwrap();
    let (one, two) = (doc.reader().acquire().unwrap(), doc.reader().acquire().unwrap());
    assert!(doc.writer().try_acquire().unwrap().is_none());
    drop((one, two));
    assert!(doc.writer().synchronized_with(|lease| lease.is_held()).unwrap());
    let slots = lock.semaphore("slots", 1).unwrap();
    let one = slots.acquire().unwrap();
    assert!(slots.try_acquire().unwrap().is_none());
    one.release().unwrap();
    drop(slots.acquire().unwrap());
}
