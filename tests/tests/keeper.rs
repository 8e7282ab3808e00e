//! Renewal and loss: held as long as the store says so, and never a moment longer.

use std::{future::pending, time::Duration};

use tasklock::{
    Attempt, Grant, LockError, Locker, LossReason, ReleaseOutcome, Renew, Ttl, Validity,
    testing::{self, Fault, Op, until_quiet},
};
use tasklock_tests::{Script, Seen, faulty, faulty_with, is_lost, logged, other};
use tokio::time::{Instant, timeout};

const TTL: Duration = Duration::from_secs(30);

/// Whoever waits gets the lock when the store lets go; by then the holder must have been told.
async fn lost_before_the_next_has_it(fault: Fault, ttl: Duration, expected: LossReason) {
    let (lock, faults, store) = faulty_with(|b| b.ttl(ttl));
    faults.always(Op::Renew, fault);
    // A release after the loss must not be what lets the next one in.
    faults.always(Op::Release, Fault::Refuse);
    let guard = lock.acquire("job").await.unwrap();
    let start = Instant::now();
    let waiter = other(&store);
    let next = tokio::spawn(async move { waiter.acquire("job").await.map(|g| (Instant::now(), g)) });
    let reason = guard.lost().await;
    let (lost_at, held) = (Instant::now(), guard.is_held());
    let (next_at, _next) = next.await.unwrap().unwrap();
    assert_eq!(reason, expected);
    assert!(!held);
    assert!(lost_at < next_at, "{fault:?} {ttl:?}: told {:?} after the next had it", lost_at - next_at);
    assert!(lost_at - start >= ttl * 9 / 10, "{fault:?} {ttl:?}: given up long before its time");
}

#[tokio::test(start_paused = true)]
async fn loss_is_signalled_before_the_store_lets_go() {
    for ms in [50, 51, 100, 333, 1_000, 30_000, 3_600_000] {
        let ttl = Duration::from_millis(ms);
        for fault in [Fault::Refuse, Fault::Hang, Fault::DelayRequest(ttl * 2)] {
            lost_before_the_next_has_it(fault, ttl, LossReason::Unreachable).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_renewed_expires() {
    for ms in [50, 1_000, 30_000] {
        let ttl = Duration::from_millis(ms);
        let (lock, _, store) = faulty_with(|b| b.ttl(ttl).renew(Renew::Off));
        let guard = lock.acquire("job").await.unwrap();
        let waiter = other(&store);
        let next = tokio::spawn(async move { waiter.acquire("job").await.map(|g| (Instant::now(), g)) });
        assert_eq!(guard.lost().await, LossReason::Expired);
        let lost_at = Instant::now();
        let (next_at, _next) = next.await.unwrap().unwrap();
        assert!(lost_at <= next_at);
        assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::AlreadyLost);
    }
}

/// One of several dozen leases is short: the keeper must not sleep for the long ones.
#[tokio::test(start_paused = true)]
async fn a_short_lease_among_long_ones_is_renewed_in_time() {
    let (lock, _, _) = faulty();
    let long = lock.acquire("long").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let short = lock.key("short").ttl(Duration::from_millis(300)).acquire().await.unwrap();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(short.is_held() && long.is_held());
}

#[tokio::test(start_paused = true)]
async fn one_lost_reply_loses_nothing() {
    for op in [Op::TryAcquire, Op::Renew, Op::Release] {
        for fault in [Fault::LoseReply, Fault::Refuse, Fault::Duplicate, Fault::Straggle(Duration::from_secs(1))] {
            let (lock, faults, store) = faulty();
            faults.next(op, fault);
            let guard = lock.acquire("job").await.unwrap();
            tokio::time::sleep(TTL * 3).await;
            assert!(guard.is_held(), "{op:?} {fault:?}");
            assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::Released, "{op:?} {fault:?}");
            until_quiet(&lock).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(store.is_empty(), "{op:?} {fault:?}: {store:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn renewals_are_tried_again_until_the_deadline() {
    let (lock, faults, _) = faulty();
    let guard = lock.acquire("job").await.unwrap();
    faults.always(Op::Renew, Fault::Refuse);
    tokio::time::sleep(TTL * 9 / 10).await;
    assert!(guard.is_held(), "given up early");
    faults.clear();
    tokio::time::sleep(TTL * 3).await;
    assert!(guard.is_held(), "a lease that could be renewed again was lost");
}

#[tokio::test(start_paused = true)]
async fn a_hung_renewal_does_not_keep_the_others_waiting() {
    let (lock, faults, _) = faulty();
    let guards = [lock.acquire("a").await.unwrap(), lock.acquire("b").await.unwrap()];
    faults.next(Op::Renew, Fault::Hang);
    faults.next(Op::Renew, Fault::Hang);
    tokio::time::sleep(TTL * 3).await;
    assert!(guards.iter().all(|g| g.is_held()));
}

/// In the order in which they reached the backend.
#[tokio::test(start_paused = true)]
async fn no_renewal_follows_a_release() {
    for hold in (0..40).map(|n| Duration::from_millis(n * 37)) {
        let (lock, faults, _) = faulty_with(|b| b.ttl(Duration::from_millis(300)));
        faults.always(Op::Renew, Fault::DelayReply(Duration::from_millis(40)));
        faults.always(Op::Release, Fault::DelayRequest(Duration::from_millis(90)));
        let guard = lock.acquire("job").await.unwrap();
        tokio::time::sleep(hold).await;
        guard.release().await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let calls = faults.calls();
        let released = calls.iter().position(|call| call.op == Op::Release).unwrap();
        assert!(calls[released..].iter().all(|call| call.op != Op::Renew), "{hold:?}: {calls:?}");
    }
}

/// A renewal for a short ttl that is under way, unanswered, may cut a longer one that overtakes it.
#[tokio::test(start_paused = true)]
async fn an_extension_is_not_believed_over_a_shorter_renewal_still_under_way() {
    let (lock, faults, store) = faulty_with(|b| b.ttl(Duration::from_secs(3)));
    let guard = lock.acquire("job").await.unwrap();
    faults.next(Op::Renew, Fault::Straggle(Duration::from_secs(1)));
    while faults.count(Op::Renew) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    guard.extend(Duration::from_secs(300)).await.unwrap();
    assert!(guard.remaining() <= Duration::from_secs(3), "believed {:?}", guard.remaining());
    drop(store);
}

#[tokio::test(start_paused = true)]
async fn extending_by_hand() {
    let (lock, _, _) = faulty_with(|b| b.ttl(Duration::from_secs(2)).renew(Renew::Off));
    let guard = lock.acquire("job").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    guard.extend(Duration::from_secs(10)).await.unwrap();
    assert!(guard.remaining() > Duration::from_secs(9));
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(guard.is_held());
    assert!(matches!(guard.extend(Duration::ZERO).await, Err(LockError::InvalidOption(_))));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(is_lost(&guard.extend(TTL).await, LossReason::Expired));
}

#[tokio::test(start_paused = true)]
async fn an_extension_to_less_than_the_renewal_period_renews_more_often() {
    let (lock, _, _) = faulty();
    let guard = lock.acquire("job").await.unwrap();
    guard.extend(Duration::from_secs(3)).await.unwrap();
    tokio::time::sleep(TTL * 2).await;
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_broken_lock_is_noticed_as_stolen() {
    let (lock, _, store) = faulty();
    let guard = lock.acquire("job").await.unwrap();
    let admin = other(&store);
    assert!(admin.break_lock("job").await.unwrap());
    let next = admin.acquire("job").await.unwrap();
    assert_eq!(guard.lost().await, LossReason::Stolen);
    assert!(next.fencing_token() > guard.fencing_token());
    drop(guard);
    until_quiet(&lock).await;
    assert!(next.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_says_so_ends_a_lease_at_once() {
    let (lock, faults, _) = faulty();
    let body = lock.synchronized("job", pending::<()>());
    let store = async {
        let nonce = loop {
            tokio::task::yield_now().await;
            if let Some(call) = faults.calls().first() {
                break call.nonce;
            }
        };
        while lock.stats().held == 0 {
            tokio::task::yield_now().await;
        }
        faults.lose(nonce, LossReason::SessionClosed);
    };
    let (outcome, ()) = tokio::join!(body, store);
    assert!(is_lost(&outcome, LossReason::SessionClosed), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_maximum_hold_ends_what_renewal_would_keep() {
    let (lock, _, _) = faulty_with(|b| b.max_hold(Duration::from_secs(90)));
    let guard = lock.acquire("job").await.unwrap();
    let start = Instant::now();
    assert_eq!(guard.lost().await, LossReason::Expired);
    assert!(start.elapsed() > Duration::from_secs(80) && start.elapsed() <= Duration::from_secs(90));
}

#[tokio::test(start_paused = true)]
async fn a_permanent_lock_has_no_deadline() {
    let (lock, faults, store) = faulty();
    let guard = lock.key("job").ttl(Ttl::Never).acquire().await.unwrap();
    assert_eq!(guard.remaining(), Duration::MAX);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert!(guard.is_held());
    faults.always(Op::Renew, Fault::Refuse);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert!(guard.is_held(), "an outage ends no lock that never ends");
    assert!(other(&store).try_acquire("job").await.unwrap().is_none());
    guard.release().await.unwrap();
    assert!(store.is_empty());
}

/// A process that was paused finds out by its clock, before any task of the library has run.
#[tokio::test(start_paused = true)]
async fn a_paused_process_knows_when_it_wakes() {
    let (lock, _, _) = faulty();
    let guard = lock.acquire("job").await.unwrap();
    let mut polled_late = false;
    let outcome = lock
        .synchronized("body", async {
            // The clock jumps while this task has the thread: no keeper can run.
            tokio::time::advance(TTL * 2).await;
            polled_late = true;
        })
        .await;
    assert!(!guard.is_held());
    assert!(is_lost(&outcome, LossReason::Expired) || is_lost(&outcome, LossReason::Unreachable), "{outcome:?}");
    assert!(!polled_late, "the body ran on after its lease had ended");
}

#[tokio::test(start_paused = true)]
async fn losing_a_lease_now_for_tests() {
    let seen = Seen::default();
    let (lock, _, store) = faulty_with(|b| b.observer(seen.clone()));
    let guard = lock.acquire("job").await.unwrap();
    let token = guard.cancellation_token();
    assert_eq!(testing::lose(&lock, "job", LossReason::Stolen), 1);
    assert!(token.is_cancelled() && !guard.is_held());
    assert!(is_lost(&guard.check(), LossReason::Stolen));
    assert_eq!(testing::lose(&lock, "job", LossReason::Stolen), 0);
    assert_eq!(seen.count("lost job Stolen"), 1);
    drop(guard);
    assert!(!store.is_empty(), "stolen means that it is somebody else's now");
}

#[tokio::test(start_paused = true)]
async fn watchers_of_a_lease_learn_of_its_release_too() {
    let (lock, _, _) = faulty();
    let guard = lock.acquire("job").await.unwrap();
    let lease = guard.lease().clone();
    let watcher = tokio::spawn(async move { lease.ended().await });
    tokio::task::yield_now().await;
    guard.release().await.unwrap();
    assert_eq!(watcher.await.unwrap(), None);
    let guard = lock.acquire("job").await.unwrap();
    let lease = guard.lease().clone();
    drop(guard);
    assert_eq!(lease.ended().await, None);
    assert!(timeout(TTL, lease.lost()).await.is_err(), "a released lease is not lost");
}

#[tokio::test(start_paused = true)]
async fn leases_are_renewed_together() {
    let (lock, faults, _) = faulty();
    let mut guards = Vec::new();
    for n in 0..2_000 {
        guards.push(lock.acquire(format!("job:{n}")).await.unwrap());
    }
    tokio::time::sleep(TTL * 4).await;
    assert!(guards.iter().all(|g| g.is_held()));
    // Twelve periods; each lease is due up to a tenth early, and what is nearly due goes along.
    let renewals = faults.count(Op::Renew);
    assert!((2_000 * 11..2_000 * 15).contains(&renewals), "{renewals}");
}

#[tokio::test(start_paused = true)]
async fn late_renewals_and_long_holds_are_warned_about() {
    let (log, _log) = logged();
    let (lock, faults, _) = faulty();
    let _guard = lock.acquire("job").await.unwrap();
    tokio::time::sleep(TTL * 9).await;
    assert_eq!(log.count("held over many ttls") + log.count("renewal late"), 0, "{:?}", log.lines());
    tokio::time::sleep(TTL * 40).await;
    assert_eq!(log.count("held over many ttls"), 3, "at 10, 20 and 40: {:?}", log.lines());
    faults.always(Op::Renew, Fault::Refuse);
    // Two thirds of the ttl are left when it is due.
    while log.count("renewal failed") == 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(TTL / 2).await;
    faults.clear();
    tokio::time::sleep(TTL).await;
    assert_eq!(log.count("renewal late"), 1, "{:?}", log.lines());
}

/// One claim that hangs at the store must not cost the others their leases.
#[tokio::test(start_paused = true)]
async fn a_claim_that_hangs_is_renewed_apart_from_the_others() {
    let script = Script::new(|request| {
        let until = Validity::Until(request.since.after(TTL));
        Attempt::Granted(Grant::new(None, until))
    });
    let lock = Locker::new(script.clone()).unwrap();
    let mut guards = Vec::new();
    for n in 0..1_000 {
        guards.push(lock.acquire(format!("job:{n}")).await.unwrap());
    }
    script.hang_renewals_of("tasklock:job:7");
    tokio::time::sleep(TTL * 4).await;
    let lost: Vec<_> = guards.iter().filter(|guard| !guard.is_held()).map(|guard| guard.key().name()).collect();
    assert_eq!(lost, ["job:7"]);
}
