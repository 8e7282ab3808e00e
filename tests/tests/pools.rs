//! Pools in memory: what they are to their users, under faults and on paused time.

use std::{collections::HashSet, time::Duration};

use tasklock::{
    Applied, Attempt, Busy, InvalidKey, Key, LockError, Locker, LossReason, MemoryLock, Pool, Status, Ttl,
    testing::{self, Fault, Faulty, Op, until_quiet},
};
use tasklock_tests::{Script, faulty, is_lost, other, pools::drop_everywhere};

fn memory() -> (Locker, MemoryLock) {
    let store = MemoryLock::new();
    (other(&store), store)
}

#[tokio::test]
async fn a_backend_that_cannot_refuses_at_construction() {
    let lock = Locker::new(Script::new(|_| Attempt::Busy(Busy::default()))).unwrap();
    let refused = lock.pool("licences").unwrap_err();
    assert!(matches!(refused, LockError::Unsupported { .. }) && refused.to_string().contains("pools"), "{refused}");
}

#[tokio::test]
async fn names_are_checked_before_anything_is_changed() {
    let (lock, store) = memory();
    let pool = lock.pool("licences").unwrap();
    assert!(matches!(lock.pool(""), Err(LockError::InvalidKey(InvalidKey::Empty))));
    let long = "x".repeat(513);
    for bad in ["", "a\nb", &long] {
        assert!(matches!(pool.assign(["a", bad]).await, Err(LockError::InvalidKey(_))), "{bad:?}");
        assert!(matches!(pool.extend([bad]).await, Err(LockError::InvalidKey(_))));
        assert!(matches!(pool.contains(bad).await, Err(LockError::InvalidKey(_))));
        assert!(matches!(pool.clone().affinity(bad).acquire().await, Err(LockError::InvalidKey(_))));
    }
    assert!(store.is_empty());
    let wrong = pool.clone().ttl(Duration::ZERO).acquire().await;
    assert!(matches!(wrong, Err(LockError::InvalidOption(_))), "{wrong:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_in_time_and_names_whose_time_is_over_first() {
    let (lock, store) = memory();
    let pool = lock.pool("licences").unwrap();
    pool.assign(["a"]).await.unwrap();
    let first = Locker::builder(store.clone()).owner_name("the first").build().unwrap();
    let guard = first.pool("licences").unwrap().acquire().await.unwrap();
    let waited = pool.clone().wait(Duration::from_secs(2)).acquire().await.unwrap_err();
    assert!(matches!(waited, LockError::Timeout { .. }), "{waited}");
    assert!(waited.to_string().contains("the first") && waited.to_string().contains("licences"), "{waited}");
    assert!(pool.try_acquire().await.unwrap().is_none());
    // Not who came first.
    pool.extend(["b"]).await.unwrap();
    let second = Locker::builder(store.clone()).owner_name("the second").build().unwrap();
    let short = second.pool("licences").unwrap().ttl(Duration::from_secs(20)).acquire().await.unwrap();
    let waited = pool.clone().wait(Duration::from_millis(10)).acquire().await.unwrap_err();
    assert!(waited.to_string().contains("the second"), "{waited}");
    short.release().await.unwrap();
    pool.shrink(["b"]).await.unwrap();
    let state = pool.inspect("a").await.unwrap().expect("a member");
    assert!(matches!(state.status(Duration::from_secs(60)), Status::Locked(_)));
    drop(guard);
    assert_eq!(pool.acquire().await.unwrap().member(), "a");
}

/// In one process and across two: who came first is served first, though others come and go.
#[tokio::test(start_paused = true)]
async fn waiters_are_served_in_order() {
    let (lock, store) = memory();
    let second = other(&store);
    let pools = [lock.pool("licences").unwrap(), second.pool("licences").unwrap()];
    pools[0].assign(["a", "b"]).await.unwrap();
    let (one, two) = (pools[0].acquire().await.unwrap(), pools[1].acquire().await.unwrap());
    let (order, mut ordered) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..20_u64 {
        let (pool, order) = (pools[number as usize % 2].clone(), order.clone());
        tasks.spawn(async move {
            let guard = pool.acquire().await.unwrap();
            order.send(number).unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            drop(guard);
        });
        while pools[0].health().await.unwrap().waiters <= number {
            tokio::task::yield_now().await;
        }
    }
    drop(order);
    drop(one);
    // One member goes round; the other one is held all the while.
    for number in 0..20 {
        assert_eq!(ordered.recv().await, Some(number));
    }
    drop(two);
    tasks.join_all().await;
    pools[0].clear().await.unwrap();
    assert!(store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_lost_as_that_of_a_lock_is() {
    let (lock, faults, _) = faulty();
    let pool = lock.pool("licences").unwrap();
    pool.assign(["a", "b"]).await.unwrap();
    // Renewed beyond its ttl, until that fails.
    let guard = pool.clone().ttl(Duration::from_secs(3)).acquire().await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(guard.is_held());
    faults.always(Op::Renew, Fault::Refuse);
    assert_eq!(guard.lost().await, LossReason::Unreachable);
    faults.clear();
    let body = pool.synchronized_with(|lease| async move {
        assert!(tasklock::current().is_some_and(|current| current.member() == lease.member()));
        std::future::pending::<()>().await;
    });
    let key = Key::new("licences").unwrap().for_pool();
    let thief = async {
        while testing::lose(&lock, &key, LossReason::Expired) == 0 {
            tokio::task::yield_now().await;
        }
    };
    let (outcome, ()) = tokio::join!(body, thief);
    assert!(is_lost(&outcome, LossReason::Expired), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hold_without_end_is_ended_by_its_release_alone() {
    let (lock, store) = memory();
    let pool = lock.pool("licences").unwrap();
    pool.assign(["a"]).await.unwrap();
    let guard = pool.clone().ttl(Ttl::Never).acquire().await.unwrap();
    tokio::time::sleep(Duration::from_secs(100_000)).await;
    let state = pool.inspect("a").await.unwrap().expect("a member");
    assert!(matches!(state.status(Duration::MAX), Status::Endless(_)), "{state:?}");
    assert!(other(&store).pool("licences").unwrap().try_acquire().await.unwrap().is_none());
    guard.release().await.unwrap();
    assert!(pool.try_acquire().await.unwrap().is_some());
}

async fn members(pool: &Pool) -> HashSet<String> {
    pool.members().await.unwrap().iter().map(|member| member.to_string()).collect()
}

fn set<const N: usize>(names: [&str; N]) -> HashSet<String> {
    HashSet::from(names.map(str::to_owned))
}

#[tokio::test(start_paused = true)]
async fn changes_that_were_not_made_are_made_again() {
    for fault in [Fault::Refuse, Fault::Duplicate, Fault::DelayReply(Duration::from_secs(1))] {
        let (lock, faults, store) = faulty();
        let (pool, seen) = (lock.pool("licences").unwrap(), other(&store).pool("licences").unwrap());
        faults.next(Op::ChangePool, fault);
        pool.assign(["a", "b", "c"]).await.unwrap();
        faults.next(Op::ChangePool, fault);
        pool.shrink(["b"]).await.unwrap();
        faults.next(Op::ChangePool, fault);
        pool.extend(["d"]).await.unwrap();
        assert_eq!(members(&seen).await, set(["a", "c", "d"]), "{fault:?}");
    }
    let (lock, faults, _) = faulty();
    faults.always(Op::ChangePool, Fault::Refuse);
    let failed = lock.pool("licences").unwrap().assign(["a"]).await.unwrap_err();
    assert!(matches!(&failed, LockError::Backend(error) if error.applied() == Applied::No), "{failed}");
    assert!(failed.is_retryable());
}

/// One that is repeated and told as done may come once more, and undo what was done after it.
#[tokio::test(start_paused = true)]
async fn a_change_that_may_come_yet_is_told() {
    let late = Duration::from_secs(5);
    for fault in [Fault::LoseReply, Fault::Straggle(late), Fault::Hang] {
        let (lock, faults, store) = faulty();
        let (pool, seen) = (lock.pool("licences").unwrap(), other(&store).pool("licences").unwrap());
        pool.assign(["a", "b"]).await.unwrap();
        faults.next(Op::ChangePool, fault);
        let unknown = pool.extend(["c"]).await.unwrap_err();
        assert!(matches!(&unknown, LockError::Backend(error) if error.applied() == Applied::Unknown), "{unknown}");
        let made_once = match fault {
            Fault::LoseReply => set(["a", "b", "c"]),
            _ => set(["a", "b"]),
        };
        assert_eq!(members(&seen).await, made_once, "not repeated: {fault:?}");
        if fault == Fault::Straggle(late) {
            tokio::time::sleep(late * 2).await;
            assert_eq!(members(&seen).await, set(["a", "b", "c"]), "it comes");
        }
        // Known not to have been made the first time, unknown the second.
        faults.next(Op::ChangePool, Fault::Refuse);
        faults.next(Op::ChangePool, fault);
        let unknown = pool.shrink(["a"]).await.unwrap_err();
        assert!(matches!(&unknown, LockError::Backend(error) if error.applied() == Applied::Unknown), "{unknown}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pool_of_twenty_thousand() {
    let (lock, store) = memory();
    let pool = lock.pool("licences").unwrap();
    let all = || (0..20_000).map(|number| number.to_string());
    pool.assign(all()).await.unwrap();
    let mut guards = Vec::new();
    for _ in 0..2_000 {
        guards.push(pool.acquire().await.unwrap());
    }
    let members: HashSet<&str> = guards.iter().map(|guard| guard.member()).collect();
    assert_eq!(members.len(), 2_000, "a member twice");
    pool.assign(all().skip(1_000)).await.unwrap();
    let health = pool.health().await.unwrap();
    assert_eq!((health.locked, health.free), (1_000, 18_000));
    drop(guards);
    until_quiet(&lock).await;
    assert_eq!(pool.health().await.unwrap().free, 19_000);
    pool.clear().await.unwrap();
    assert!(store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn waits_dropped_anywhere_leave_nothing() {
    for on in [Op::TryAcquire, Op::Release] {
        let make = async || {
            let store = MemoryLock::new();
            let (backend, faults) = Faulty::new(store.clone());
            ((Locker::new(backend).unwrap(), faults), other(&store))
        };
        drop_everywhere(make, on).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_waits_and_holds() {
    let (lock, store) = memory();
    let pool = lock.pool("licences").unwrap();
    pool.assign(["a"]).await.unwrap();
    let guard = pool.acquire().await.unwrap();
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire().await }
    });
    while pool.health().await.unwrap().waiters == 0 {
        tokio::task::yield_now().await;
    }
    let shutdown = lock.shutdown();
    let dropped = async {
        assert_eq!(guard.lost().await, LossReason::ShutDown);
        drop(guard);
    };
    let (drained, ()) = tokio::join!(shutdown, dropped);
    assert_eq!((drained.lost, drained.left), (1, 0));
    assert!(matches!(waiting.await.unwrap(), Err(LockError::ShutDown)));
    assert!(matches!(pool.acquire().await, Err(LockError::ShutDown)));
    let seen = other(&store).pool("licences").unwrap().health().await.unwrap();
    assert_eq!((seen.locked, seen.free, seen.waiters), (0, 1, 0));
}

/// A pool and the lock of its name have nothing to do with each other, by whatever key they are named.
#[tokio::test(start_paused = true)]
async fn the_key_of_a_pool_names_no_lock() {
    let (lock, store) = memory();
    let pool = lock.pool("licences").unwrap();
    pool.assign(["a"]).await.unwrap();
    let guard = pool.acquire().await.unwrap();
    let key = guard.key();
    let refused = |outcome: Result<(), LockError>, what: &str| {
        assert!(matches!(&outcome, Err(LockError::InvalidKey(InvalidKey::Pool { .. }))), "{what}: {outcome:?}");
        assert!(outcome.unwrap_err().to_string().contains("licences"), "{what}");
    };
    refused(lock.acquire(key).await.map(drop), "acquire");
    refused(lock.try_acquire(key).await.map(drop), "try_acquire");
    refused(lock.key(key).shared().acquire().await.map(drop), "key");
    refused(lock.all([key]).map(drop), "all");
    refused(lock.any([key]).map(drop), "any");
    refused(lock.value(key).map(drop), "value");
    refused(lock.reentrant(key, "me").map(drop), "reentrant");
    refused(lock.semaphore(key, 2).map(drop), "semaphore");
    refused(lock.rw(key).map(drop), "rw");
    refused(lock.inspect(key).await.map(drop), "inspect");
    refused(lock.who([key]).await.map(drop), "who");
    refused(lock.break_lock(key).await.map(drop), "break_lock");
    refused(lock.break_if_stale(key, Duration::ZERO).await.map(drop), "break_if_stale");
    assert!(guard.is_held() && lock.pool(key).unwrap().try_acquire().await.unwrap().is_none(), "the same pool");
    assert!(lock.try_acquire("licences").await.unwrap().is_some(), "the lock of its name is free");
    drop(guard);
    pool.clear().await.unwrap();
    assert!(store.is_empty());
}

/// A value is beside a lock, and a member's is no lock of that name.
#[tokio::test]
async fn a_member_has_no_value() {
    let (lock, _) = memory();
    let pool = lock.pool("licences").unwrap();
    pool.assign(["a"]).await.unwrap();
    let guard = pool.acquire().await.unwrap();
    let refused = guard.update("x", Duration::from_secs(30)).await;
    assert!(matches!(refused, Err(LockError::Unsupported { .. })), "{refused:?}");
    assert!(guard.is_held(), "a refusal is no loss");
    assert_eq!(lock.value("licences").unwrap().get().await.unwrap(), None);
}
