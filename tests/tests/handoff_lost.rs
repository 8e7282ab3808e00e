//! What is lost or broken while a lock goes from task to task within a process.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tasklock::{
    LossReason, ReleaseOutcome, Renew, Stats,
    testing::{self, Op, poll_times, until_quiet},
};
use tasklock_tests::{
    Seen, faulty, faulty_with, is_lost,
    line::{got, in_line, left_nothing, lined},
    other,
};
use tokio::{
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};

/// Handed a hold that is broken, and the lock granted to another, before it looks. It keeps its place.
#[tokio::test(start_paused = true)]
async fn whoever_takes_it_too_late_has_nothing() {
    let (lock, _, store) = faulty();
    let job = || lock.key("job");
    for asks in [Some(job().ttl(Duration::from_secs(7))), Some(job().shared()), None] {
        let held = lined(&lock).await;
        let mut late = pin!(lock.acquire("job"));
        assert!(poll_times(late.as_mut(), 1).await.is_none());
        drop(held);
        while lock.inspect("job").await.unwrap().waiters > Some(0) {
            yield_now().await;
        }
        let asking = match &asks {
            Some(key) => Some(in_line(&lock, key.clone()).await),
            None => None,
        };
        let behind = in_line(&lock, job()).await;
        assert!(other(&store).break_lock("job").await.unwrap());
        let guard = match asking {
            Some(task) => got(task).await,
            None => lock.try_acquire("job").await.unwrap().expect("it is free"),
        };
        assert!(poll_times(late.as_mut(), 3).await.is_none(), "two holders, {asks:?}");
        drop(guard);
        let first = timeout(Duration::from_secs(5), late).await.expect("its turn again").unwrap();
        assert!(!behind.is_finished(), "in order");
        assert_eq!(first.release().await.unwrap(), ReleaseOutcome::Released);
        drop(got(behind).await);
        left_nothing(&lock, &store).await;
    }
}

/// Broken, and granted to another task here, while somebody has it: it ends with that one.
#[tokio::test(start_paused = true)]
async fn what_another_was_granted_is_not_handed_on() {
    let (lock, _, store) = faulty();
    let held = lined(&lock).await;
    let first = in_line(&lock, lock.key("job")).await;
    let second = in_line(&lock, lock.key("job")).await;
    drop(held);
    let first = got(first).await;
    assert!(other(&store).break_lock("job").await.unwrap());
    let granted = lock.try_acquire("job").await.unwrap().expect("it is free");
    drop(first);
    for _ in 0..100 {
        yield_now().await;
    }
    assert!(!second.is_finished(), "two holders");
    drop(granted);
    drop(timeout(Duration::from_secs(5), got(second)).await.expect("its turn"));
    left_nothing(&lock, &store).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_is_not_handed_on() {
    for reason in [LossReason::Expired, LossReason::Stolen, LossReason::Unreachable] {
        let (lock, faults, store) = faulty();
        let held = lined(&lock).await;
        let next = in_line(&lock, lock.key("job")).await;
        let asked = faults.count(Op::TryAcquire);
        assert_eq!(testing::lose(&lock, "job", reason), 1);
        sleep(Duration::from_millis(100)).await;
        assert!(is_lost(&held.check(), reason) && !next.is_finished(), "handed on though what ran may still run");
        assert!(faults.count(Op::TryAcquire) > asked, "it asks the store itself");
        drop(held);
        if reason == LossReason::Stolen {
            // As far as this process knows, somebody else has it there.
            assert!(other(&store).break_lock("job").await.unwrap());
        }
        drop(timeout(Duration::from_secs(3), next).await.unwrap().unwrap().unwrap());
        left_nothing(&lock, &store).await;
    }
}

/// The store tells that a nonce has lost its hold, whoever has it by then.
#[tokio::test(start_paused = true)]
async fn a_loss_told_by_nonce_meets_the_hold_of_the_moment() {
    let (lock, faults, _) = faulty();
    let held = lined(&lock).await;
    let nonce = faults.calls().iter().rfind(|call| call.op == Op::TryAcquire).unwrap().nonce;
    let next = in_line(&lock, lock.key("job")).await;
    drop(held);
    let next = got(next).await;
    faults.lose(nonce, LossReason::SessionClosed);
    assert_eq!(next.lost().await, LossReason::SessionClosed);
}

/// Broken while it goes from task to task: the breaker's token is above all that were and will be handed out.
#[tokio::test(start_paused = true)]
async fn a_broken_lock_is_fenced_and_soon_given_up() {
    let (lock, _, store) = faulty();
    let there = other(&store);
    let highest = Arc::new(AtomicU64::new(0));
    let (stop, mut tasks) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for _ in 0..8 {
        let (lock, highest, stop) = (lock.clone(), highest.clone(), stop.clone());
        tasks.spawn(async move {
            while stop.load(Ordering::Relaxed) == 0 {
                let guard = lock.acquire("job").await.unwrap();
                highest.fetch_max(guard.fencing_token().get(), Ordering::Relaxed);
                sleep(Duration::from_millis(1)).await;
            }
        });
    }
    sleep(Duration::from_millis(100)).await;
    assert!(there.break_lock("job").await.unwrap());
    let theirs = there.acquire("job").await.unwrap();
    sleep(Duration::from_millis(50)).await;
    let seen = highest.load(Ordering::Relaxed);
    assert!(seen < theirs.fencing_token().get(), "a token above the breaker's");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(highest.load(Ordering::Relaxed), seen, "handed on though it was broken");
    assert!(theirs.is_held());
    stop.store(1, Ordering::Relaxed);
    drop(theirs);
    tasks.join_all().await;
    left_nothing(&lock, &store).await;
}

/// Who renews nothing learns of it when giving back, as it would without anybody in line: and so do its body and its
/// observer.
#[tokio::test(start_paused = true)]
async fn a_broken_lock_is_not_told_as_released() {
    const TTL: Duration = Duration::from_secs(10);
    for after in [Duration::ZERO, TTL / 2] {
        for drops in [false, true] {
            let seen = Seen::default();
            let (lock, _, store) = faulty_with(|b| b.renew(Renew::Off).ttl(TTL).observer(seen.clone()));
            let held = lined(&lock).await;
            let next = in_line(&lock, lock.key("job")).await;
            sleep(after).await;
            assert!(other(&store).break_lock("job").await.unwrap());
            if drops {
                drop(held);
                until_quiet(&lock).await;
            } else {
                assert_eq!(held.release().await.unwrap(), ReleaseOutcome::AlreadyLost, "broken after {after:?}");
            }
            assert_eq!(seen.count("released job AlreadyLost"), 1, "{:?}", seen.lines());
            assert_eq!(seen.count("renewed job true"), 1, "that of the one before: {:?}", seen.lines());
            drop(timeout(Duration::from_secs(3), next).await.expect("asks the store").unwrap().unwrap());
            until_quiet(&lock).await;
            assert!(store.is_empty() && lock.stats() == Stats::default());
        }
    }
    // A body that ran under it is not told that all went well.
    let (lock, _, store) = faulty_with(|b| b.renew(Renew::Off).ttl(TTL));
    let gate = lock.acquire("job").await.unwrap();
    let body = tokio::spawn({
        let (lock, store) = (lock.clone(), store.clone());
        async move {
            let body = async {
                assert!(other(&store).break_lock("job").await.unwrap());
            };
            lock.synchronized("job", body).await
        }
    });
    while lock.inspect("job").await.unwrap().waiters != Some(1) {
        yield_now().await;
    }
    let next = in_line(&lock, lock.key("job")).await;
    drop(gate);
    let outcome = body.await.unwrap();
    assert!(is_lost(&outcome, LossReason::Stolen), "{outcome:?}");
    drop(next.await.unwrap().unwrap());
}

/// Whoever has kept a lease is told of the hold that it was of, not of the next.
#[tokio::test(start_paused = true)]
async fn each_lease_is_that_of_one_hold() {
    let (lock, _, store) = faulty();
    let mut held = lined(&lock).await;
    let mut kept = Vec::new();
    for turn in 0..6 {
        let next = in_line(&lock, lock.key("job")).await;
        let token = held.fencing_token();
        // Of every other hold nobody keeps anything.
        if turn % 2 == 0 {
            kept.push((held.lease().clone(), held.cancellation_token(), token));
        }
        drop(held);
        held = got(next).await;
        assert!(held.is_held() && held.fencing_token() > token);
        for (lease, lost, token) in &kept {
            assert!(!lease.is_held() && lease.check().is_err() && lease.fencing_token() == *token);
            assert_eq!(lease.ended().await, None, "it was released");
            assert!(!lost.is_cancelled());
        }
    }
    drop(held);
    left_nothing(&lock, &store).await;
}
