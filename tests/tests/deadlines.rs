//! Deadlines, extensions and time bounds at their edges.

use std::time::Duration;

use tasklock::{
    LockError, Locker, LossReason, MemoryLock, OnLost, Renew, RetryPolicy, Ttl, Wait,
    testing::{self, Fault, Op, until_quiet},
};
use tasklock_tests::{Polled, Script, Seen, faulty, faulty_with, logged, other};
use tokio::time::timeout;

const S: fn(u64) -> Duration = Duration::from_secs;
const MS: fn(u64) -> Duration = Duration::from_millis;

/// A shorter extension reaches the store, its reply is lost, then the store is unreachable.
#[tokio::test(start_paused = true)]
async fn a_shorter_extension_whose_reply_is_lost_is_not_two_holders() {
    let (lock, faults, store) = faulty();
    let guard = lock.acquire("job").await.unwrap();
    faults.next(Op::Renew, Fault::LoseReply);
    faults.always(Op::Renew, Fault::Refuse);
    assert!(guard.extend(S(3)).await.is_err());
    let next = other(&store).acquire("job").await.unwrap();
    assert!(!(guard.is_held() && next.is_held()), "two holders: {:?} left for the first", guard.remaining());
}

/// The same from a permanent lock: the old holder believes in it for ever.
#[tokio::test(start_paused = true)]
async fn a_permanent_lock_shortened_by_an_extension_whose_reply_is_lost() {
    let (lock, faults, store) = faulty();
    let guard = lock.key("job").ttl(Ttl::Never).acquire().await.unwrap();
    faults.next(Op::Renew, Fault::LoseReply);
    faults.always(Op::Renew, Fault::Refuse);
    assert!(guard.extend(S(30)).await.is_err());
    let next = other(&store).acquire("job").await.unwrap();
    assert!(!(guard.is_held() && next.is_held()), "two holders: {:?} left for the first", guard.remaining());
}

/// A straggling first attempt (its reply was lost, the second was granted) cuts what was renewed since.
#[tokio::test(start_paused = true)]
async fn a_late_first_attempt_does_not_cut_the_lease_it_was_granted() {
    let (lock, faults, store) = faulty();
    faults.next(Op::TryAcquire, Fault::Straggle(S(15)));
    let guard = lock.acquire("job").await.unwrap();
    tokio::time::sleep(S(16)).await; // renewed at 10 s: until 40 s; the straggler comes at 15 s
    faults.always(Op::Renew, Fault::Refuse);
    let next = other(&store).acquire("job").await.unwrap();
    assert!(!(guard.is_held() && next.is_held()), "two holders: {:?} left for the first", guard.remaining());
}

/// The same against an extension: core must not believe more than the unsettled attempt's ttl.
#[tokio::test(start_paused = true)]
async fn a_late_first_attempt_does_not_cut_an_extension() {
    let (lock, faults, store) = faulty_with(|b| b.renew(Renew::Off));
    faults.next(Op::TryAcquire, Fault::Straggle(S(5)));
    let guard = lock.acquire("job").await.unwrap();
    guard.extend(S(300)).await.unwrap();
    let next = other(&store).acquire("job").await.unwrap();
    assert!(!(guard.is_held() && next.is_held()), "two holders: {:?} left for the first", guard.remaining());
}

/// One refused extension to a longer ttl must not lose a lease that is renewed happily.
#[tokio::test(start_paused = true)]
async fn a_refused_longer_extension_does_not_lose_the_lease() {
    for ttl in [Ttl::For(S(3600)), Ttl::Never] {
        let (lock, faults, _) = faulty_with(|b| b.ttl(S(4)));
        let guard = lock.acquire("job").await.unwrap();
        faults.next(Op::Renew, Fault::Refuse);
        assert!(guard.extend(ttl).await.is_err());
        tokio::time::sleep(S(20)).await;
        assert!(guard.is_held(), "{ttl:?}: lost by one refused extension");
    }
}

/// Nor one that hangs.
#[tokio::test(start_paused = true)]
async fn a_hung_longer_extension_does_not_lose_the_lease() {
    let (lock, faults, _) = faulty_with(|b| b.ttl(S(4)));
    let guard = lock.acquire("job").await.unwrap();
    faults.next(Op::Renew, Fault::Hang);
    assert!(guard.extend(S(3600)).await.is_err());
    tokio::time::sleep(S(20)).await;
    assert!(guard.is_held(), "lost by one hung extension");
}

/// 30 s, a shorter extension with a lost reply, then 30 s again: renewed every 10 s, believed for 3 s.
#[tokio::test(start_paused = true)]
async fn renewals_keep_up_with_a_deadline_that_is_capped() {
    let (lock, faults, _) = faulty();
    let guard = lock.acquire("job").await.unwrap();
    faults.next(Op::Renew, Fault::LoseReply);
    assert!(guard.extend(S(3)).await.is_err());
    guard.extend(S(30)).await.unwrap();
    tokio::time::sleep(S(20)).await;
    assert!(guard.is_held(), "lost though every renewal was answered");
}

/// From permanent to finite: renewal is on.
#[tokio::test(start_paused = true)]
async fn a_permanent_lock_made_finite_is_renewed() {
    let (lock, _, _) = faulty();
    let guard = lock.key("job").ttl(Ttl::Never).acquire().await.unwrap();
    guard.extend(S(30)).await.unwrap();
    tokio::time::sleep(S(60)).await;
    assert!(guard.is_held(), "never renewed, with Renew::Auto");
}

/// A release is repeated until the ttl the lease has now would have done it, not the one it began with.
#[tokio::test(start_paused = true)]
async fn a_release_is_repeated_for_the_extended_ttl() {
    for ttl in [Ttl::For(S(3600)), Ttl::Never] {
        let (lock, faults, store) = faulty();
        let guard = lock.acquire("job").await.unwrap();
        guard.extend(ttl).await.unwrap();
        faults.always(Op::Release, Fault::Refuse);
        drop(guard);
        tokio::time::sleep(S(60)).await;
        faults.clear();
        tokio::time::sleep(S(60)).await;
        until_quiet(&lock).await;
        assert!(store.is_empty(), "{ttl:?}: given up after the first ttl, held at the store ever after");
    }
}

/// Renewal off: an extension by hand that failed is not carried out later behind the caller's back.
#[tokio::test(start_paused = true)]
async fn with_renewal_off_a_failed_extension_is_not_renewed_for_ever() {
    let (lock, faults, _) = faulty_with(|b| b.ttl(S(10)).renew(Renew::Off));
    let guard = lock.acquire("job").await.unwrap();
    faults.next(Op::Renew, Fault::Refuse);
    assert!(guard.extend(S(20)).await.is_err());
    tokio::time::sleep(S(11)).await;
    assert!(!guard.is_held(), "the caller was told that it failed; \"the lease goes on until its deadline\"");
}

/// Once told "lost" by the clock, always lost.
#[tokio::test(start_paused = true)]
async fn a_lease_found_lost_stays_lost() {
    let (lock, faults, _) = faulty();
    let guard = lock.acquire("job").await.unwrap();
    faults.always(Op::Renew, Fault::Refuse);
    tokio::time::sleep(MS(26_000)).await;
    faults.clear();
    faults.next(Op::Renew, Fault::DelayReply(MS(2_000)));
    let before = faults.count(Op::Renew);
    while faults.count(Op::Renew) == before {
        tokio::time::sleep(MS(10)).await;
    }
    tokio::time::advance(S(4)).await; // as if the process had been paused
    let found = guard.check();
    tokio::time::sleep(MS(100)).await;
    assert!(guard.is_held() == found.is_ok(), "told {found:?}, then held again: {}", guard.is_held());
}

/// An outage is not contention, also where the wait is shorter than the patience.
#[tokio::test(start_paused = true)]
async fn a_bounded_wait_through_an_outage_is_not_a_timeout() {
    for fault in [Fault::Refuse, Fault::LoseReply, Fault::Hang] {
        let (lock, faults, _) = faulty();
        faults.always(Op::TryAcquire, fault);
        let error = lock.key("job").wait(S(2)).acquire().await.unwrap_err();
        assert!(!error.is_contended(), "{fault:?}: an outage reported as contention: {error}");
    }
}

/// "Zero is one attempt."
#[tokio::test(start_paused = true)]
async fn wait_for_zero_is_one_attempt() {
    let (lock, faults, _) = faulty();
    faults.always(Op::TryAcquire, Fault::DelayReply(MS(5)));
    let guard = lock.key("job").wait(Wait::For(Duration::ZERO)).acquire().await;
    assert!(guard.is_ok(), "a free lock: {guard:?}");
}

/// A try whose grants always come too late ends.
#[tokio::test(start_paused = true)]
async fn a_try_on_a_slow_store_ends() {
    let (lock, faults, store) = faulty_with(|b| b.ttl(MS(50)));
    faults.always(Op::TryAcquire, Fault::DelayReply(MS(60)));
    let tried = timeout(S(60), lock.try_acquire("job")).await;
    assert!(tried.is_ok(), "hangs; asked {} times", faults.count(Op::TryAcquire));
    drop(store);
}

/// `patience` says how long a failing store is asked again, not how fast it must be.
#[tokio::test(start_paused = true)]
async fn no_patience_is_not_no_time_to_answer() {
    let (lock, faults, _) = faulty_with(|b| b.patience(Duration::ZERO));
    faults.always(Op::TryAcquire, Fault::DelayReply(MS(1)));
    let guard = lock.acquire("job").await;
    assert!(guard.is_ok(), "{guard:?}");
}

/// "when this many attempts have found the lock held"
#[tokio::test(start_paused = true)]
async fn failures_are_not_attempts_that_found_it_held() {
    let store = tasklock::MemoryLock::new();
    let (backend, faults) = tasklock::testing::Faulty::new(Polled::new(store.clone()));
    let seen = Seen::default();
    let retry = RetryPolicy::fixed(MS(100)).max_attempts(3);
    let lock = Locker::builder(backend).retry(retry).observer(seen.clone()).build().unwrap();
    let _guard = other(&store).acquire("job").await.unwrap();
    faults.next(Op::TryAcquire, Fault::Refuse);
    faults.next(Op::TryAcquire, Fault::Refuse);
    assert!(lock.acquire("job").await.unwrap_err().is_contended());
    assert_eq!(faults.count(Op::TryAcquire), 5, "two failed, three found it held");
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_began_with_a_failure_is_observed() {
    let seen = Seen::default();
    let (lock, faults, store) = faulty_with(|b| b.observer(seen.clone()));
    let _guard = other(&store).acquire("job").await.unwrap();
    faults.next(Op::TryAcquire, Fault::Refuse);
    let _ = lock.key("job").wait(S(3)).acquire().await;
    assert_eq!(seen.count("waiting job"), 1, "{:?}", seen.lines());
}

/// A maximum hold ends the lease: waiting for it is no certain deadlock.
#[tokio::test(start_paused = true)]
async fn no_deadlock_under_a_maximum_hold() {
    let (lock, _, _) = faulty();
    let outer = lock.key("job").max_hold(S(5)).on_lost(OnLost::Finish);
    let inner = outer.synchronized(async { lock.acquire("job").await.map(drop) }).await.unwrap();
    assert!(!matches!(inner, Err(LockError::WouldDeadlock { .. })), "{inner:?}");
}

/// Another local task, polled inside of the body, does not hold what the body holds.
#[tokio::test(start_paused = true)]
async fn a_local_task_polled_inside_a_body_is_not_the_body() {
    let (lock, _, _) = faulty();
    let local = tokio::task::LocalSet::new();
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let task = local.spawn_local({
        let lock = lock.clone();
        async move {
            let _ = gone.await;
            lock.acquire("job").await.map(drop)
        }
    });
    lock.synchronized(
        "job",
        local.run_until(async {
            let _ = go.send(());
            tokio::time::sleep(MS(10)).await;
        }),
    )
    .await
    .unwrap();
    let outcome = local.run_until(task).await.unwrap();
    assert!(outcome.is_ok(), "{outcome:?}");
}

/// False alarms.
#[tokio::test(start_paused = true)]
async fn an_extension_in_time_is_no_late_renewal() {
    let (log, _log) = logged();
    let (lock, _, _) = faulty();
    let guard = lock.acquire("job").await.unwrap();
    tokio::time::sleep(S(1)).await;
    guard.extend(S(300)).await.unwrap();
    assert_eq!(log.count("renewal late"), 0, "{:?}", log.lines());
}

#[tokio::test(start_paused = true)]
async fn a_maximum_hold_makes_no_late_renewal() {
    let (log, _log) = logged();
    let (lock, _, _) = faulty_with(|b| b.max_hold(S(35)));
    let guard = lock.acquire("job").await.unwrap();
    guard.lost().await;
    assert_eq!(log.count("renewal late"), 0, "{:?}", log.lines());
}

/// A holder of a permanent lock notices that it was broken ("at its next renewal at the latest").
#[tokio::test(start_paused = true)]
async fn a_broken_permanent_lock_is_noticed() {
    let (lock, _, store) = faulty();
    let guard = lock.key("job").ttl(Ttl::Never).acquire().await.unwrap();
    assert!(other(&store).break_lock("job").await.unwrap());
    let next = other(&store).acquire("job").await.unwrap();
    tokio::time::sleep(S(86_400)).await;
    assert!(!(guard.is_held() && next.is_held()), "two holders a day later");
}

/// A session that ends between the grant and its registration: the lock is acquired again, by another.
#[tokio::test(start_paused = true)]
async fn a_loss_told_before_the_grant_arrives_is_not_forgotten() {
    let (lock, faults, _) = faulty();
    faults.next(Op::TryAcquire, Fault::DelayReply(S(1)));
    let task = tokio::spawn({
        let lock = lock.clone();
        async move { lock.key("job").ttl(Ttl::Never).acquire().await }
    });
    while faults.calls().is_empty() {
        tokio::task::yield_now().await;
    }
    faults.lose(faults.calls()[0].nonce, tasklock::LossReason::SessionClosed);
    let guard = task.await.unwrap().unwrap();
    assert!(faults.count(Op::TryAcquire) > 1, "held for ever after its session ended");
    assert!(guard.is_held() && lock.stats().held == 1);
}

/// A hung store: `ping`, `inspect` are bounded.
#[tokio::test(start_paused = true)]
async fn questions_to_a_hung_store_end() {
    let (lock, faults, _) = faulty();
    faults.always(Op::Ping, Fault::Hang);
    faults.always(Op::Inspect, Fault::Hang);
    assert!(timeout(S(600), lock.ping()).await.is_ok(), "ping hangs");
    assert!(timeout(S(600), lock.inspect("job")).await.is_ok(), "inspect hangs");
}

/// An option that is accepted must work on a healthy store.
#[tokio::test(start_paused = true)]
async fn a_renewal_period_that_is_accepted_keeps_the_lease() {
    let (lock, _, _) = faulty_with(|b| b.renew(Renew::Every(MS(20_000))));
    let mut guards = Vec::new();
    for n in 0..200 {
        guards.push(lock.acquire(format!("job:{n}")).await.unwrap());
    }
    tokio::time::sleep(S(120)).await;
    let lost = guards.iter().filter(|g| !g.is_held()).count();
    assert_eq!(lost, 0, "lost {lost} of 200 with nothing wrong");
}

/// A stolen hold whose first attempt may still come: its nonce must be withdrawn all the same.
#[tokio::test(start_paused = true)]
async fn a_stolen_hold_with_an_attempt_under_way_leaves_nothing() {
    let (lock, faults, store) = faulty();
    faults.next(Op::TryAcquire, Fault::Straggle(S(5)));
    let guard = lock.acquire("job").await.unwrap();
    assert!(other(&store).break_lock("job").await.unwrap());
    testing::lose(&lock, "job", LossReason::Stolen);
    drop(guard);
    until_quiet(&lock).await;
    tokio::time::sleep(S(6)).await;
    assert!(store.is_empty(), "held by a nonce that nobody has, until its ttl is over: {store:?}");
}

/// Memory serves its waiters in the order they came, as it declares.
#[tokio::test(start_paused = true)]
async fn memory_is_first_come_first_served() {
    let store = MemoryLock::new();
    let lock = other(&store);
    let held = lock.acquire("job").await.unwrap();
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let (lock, order) = (lock.clone(), order.clone());
        tasks.spawn(async move {
            let guard = lock.acquire("job").await.unwrap();
            order.lock().unwrap().push(n);
            guard.release().await.unwrap();
        });
        tokio::task::yield_now().await;
    }
    drop(held);
    tasks.join_all().await;
    assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_is_dated_from_its_sending() {
    let (lock, faults, _) = faulty_with(|b| b.ttl(S(30)));
    let guard = lock.acquire("job").await.unwrap();
    faults.next(Op::Renew, Fault::DelayReply(S(4)));
    while faults.count(Op::Renew) == 0 {
        tokio::time::sleep(MS(10)).await;
    }
    tokio::time::sleep(MS(4_001)).await;
    assert!(guard.remaining() <= S(26), "{:?}", guard.remaining());
    drop(guard);
}

/// An outage is not made worse: how often, and how loudly, one lease is tried until it is lost.
#[tokio::test(start_paused = true)]
async fn a_failing_renewal_is_tried_at_a_pace() {
    let (log, _log) = logged();
    let (lock, faults, _) = faulty();
    faults.always(Op::Renew, Fault::Refuse);
    let guard = lock.acquire("job").await.unwrap();
    guard.lost().await;
    let (tries, lines) = (faults.count(Op::Renew), log.count("renewal failed"));
    assert!(tries <= 40, "{tries} renewals and {lines} warnings for one lease in 20 s");
}

#[tokio::test(start_paused = true)]
async fn the_margin_is_one_percent_and_two_milliseconds() {
    let (lock, _, _) = faulty_with(|b| b.ttl(S(100)));
    let guard = lock.acquire("job").await.unwrap();
    assert_eq!(guard.remaining(), MS(98_998));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_is_believed_no_longer_than_the_store_says() {
    let script = granting();
    let lock = Locker::new(script.clone()).unwrap();
    let guard = lock.acquire("job").await.unwrap();
    let until = tasklock::Clock::current().now().after(S(15));
    script.answer_renewals(tasklock::Renewed::held(tasklock::Validity::Until(until), None));
    tokio::time::sleep(S(11)).await;
    assert!(guard.is_held() && guard.remaining() <= S(4), "{:?}", guard.remaining());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_under_another_token_is_loss() {
    let script = granting();
    let lock = Locker::new(script.clone()).unwrap();
    let guard = lock.acquire("job").await.unwrap();
    let token = Some(tasklock::FencingToken::new(8));
    script.answer_renewals(tasklock::Renewed::held(tasklock::Validity::Session, token));
    assert_eq!(guard.lost().await, LossReason::Stolen);
}

fn granting() -> Script {
    Script::new(|request| {
        let (token, until) = (tasklock::FencingToken::new(7), request.since.after(S(30)));
        tasklock::Attempt::Granted(tasklock::Grant::new(Some(token), tasklock::Validity::Until(until)))
    })
}

/// In the order in which they reach the store: one that is slow on its way is waited for.
#[tokio::test(start_paused = true)]
async fn no_renewal_reaches_the_store_after_a_release() {
    for hold in (0..40).map(|n| MS(n * 37)) {
        let (lock, faults, _) = faulty_with(|b| b.ttl(MS(300)));
        faults.always(Op::Renew, Fault::DelayRequest(MS(15)));
        let guard = lock.acquire("job").await.unwrap();
        tokio::time::sleep(hold).await;
        guard.release().await.unwrap();
        tokio::time::sleep(S(2)).await;
        let reached = faults.reached();
        let released = reached.iter().position(|call| call.op == Op::Release).unwrap();
        assert!(reached[released..].iter().all(|call| call.op != Op::Renew), "{hold:?}: {reached:?}");
    }
}

/// Nor do two renewals of one nonce overtake each other.
#[tokio::test(start_paused = true)]
async fn an_extension_waits_for_the_renewal_under_way() {
    let (lock, faults, _) = faulty_with(|b| b.ttl(S(3)));
    let guard = lock.acquire("job").await.unwrap();
    faults.next(Op::Renew, Fault::DelayRequest(MS(300)));
    while faults.count(Op::Renew) == 0 {
        tokio::time::sleep(MS(10)).await;
    }
    guard.extend(S(300)).await.unwrap();
    assert_eq!(faults.reached().iter().filter(|call| call.op == Op::Renew).count(), 2, "{:?}", faults.reached());
    assert!(guard.remaining() > S(290));
}

/// A try waits for nobody of its own process either, and is told of an outage as the others are.
#[tokio::test(start_paused = true)]
async fn tries_side_by_side_through_an_outage() {
    let (backend, faults) = testing::Faulty::new(Polled::new(MemoryLock::new()));
    let lock = Locker::new(backend).unwrap();
    faults.always(Op::TryAcquire, Fault::Refuse);
    let (a, b) = tokio::join!(lock.try_acquire("job"), lock.try_acquire("job"));
    assert!(a.is_err() && b.is_err(), "an outage reported as \"held\": {a:?} {b:?}");
}

/// What is unknown of an attempt is no matter of the one that came after.
#[tokio::test(start_paused = true)]
async fn a_fresh_acquisition_has_nothing_under_way() {
    let (lock, faults, _) = faulty();
    faults.next(Op::TryAcquire, Fault::LoseReply);
    faults.next(Op::TryAcquire, Fault::DelayReply(S(1)));
    let task = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire("job").await }
    });
    while faults.count(Op::TryAcquire) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    faults.lose(faults.calls()[0].nonce, tasklock::LossReason::SessionClosed);
    let guard = task.await.unwrap().unwrap();
    assert!(faults.count(Op::TryAcquire) > 2);
    guard.extend(S(300)).await.unwrap();
    assert!(guard.remaining() > S(100), "{:?} are left of five minutes", guard.remaining());
}
