//! Giving back: on drop, in a panic, outside a runtime, after the runtime, ten thousand at once, through outages.

use std::{future::pending, pin::pin, time::Duration};

use tasklock::{
    Guard, LockError, Locker, LossReason, MemoryLock, ReleaseMode, ReleaseOutcome, Stats, Ttl,
    testing::{Fault, Faults, Faulty, Op, poll_times, until_quiet},
};
use tasklock_tests::{
    Seen, faulty, faulty_with, is_lost,
    line::{in_line, lined},
    logged, other,
};
use tokio::{
    runtime::Runtime,
    task::{JoinHandle, JoinSet, yield_now},
    time::timeout,
};

const HOURS: Ttl = Ttl::For(Duration::from_secs(24 * 3600));

#[tokio::test(start_paused = true)]
async fn a_dropped_guard_is_released_through_an_outage() {
    let (lock, faults, store) = faulty();
    faults.always(Op::Release, Fault::Refuse);
    drop(lock.acquire("job").await.unwrap());
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!store.is_empty() && lock.stats().background == 1);
    faults.clear();
    until_quiet(&lock).await;
    assert!(store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_release_that_never_gets_through_ends_with_the_ttl_and_says_so() {
    let (log, _guard) = logged();
    let (lock, faults, _) = faulty();
    faults.always(Op::Release, Fault::Refuse);
    drop(lock.acquire("job").await.unwrap());
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(lock.stats(), Stats::default(), "it is tried for ever");
    assert_eq!(log.count("not released"), 1, "{:?}", log.lines());
}

/// It may have reached the store: the lock is given back for as long as it may be there.
#[tokio::test(start_paused = true)]
async fn an_extension_whose_reply_is_lost_is_released_after_an_outage() {
    for ttl in [Ttl::Never, Ttl::For(Duration::from_secs(3600))] {
        let (lock, faults, store) = faulty_with(|b| b.ttl(Duration::from_secs(1)));
        let guard = lock.acquire("job").await.unwrap();
        faults.next(Op::Renew, Fault::LoseReply);
        faults.always(Op::Release, Fault::Refuse);
        guard.extend(ttl).await.unwrap_err();
        drop(guard);
        tokio::time::sleep(Duration::from_secs(20)).await;
        faults.clear();
        until_quiet(&lock).await;
        assert!(store.is_empty(), "{ttl:?}");
    }
}

/// From here on the store is out, for longer than the ttl of the grant; `next` is in line for what `guard` holds.
async fn given_back_after_an_outage(
    lock: &Locker,
    faults: &Faults,
    store: &MemoryLock,
    guard: Guard,
    next: JoinHandle<Result<Guard, LockError>>,
) {
    for op in [Op::Release, Op::Renew, Op::TryAcquire] {
        faults.always(op, Fault::Refuse);
    }
    let _ = guard.release().await;
    next.await.unwrap().unwrap_err();
    tokio::time::sleep(Duration::from_secs(20)).await;
    faults.clear();
    until_quiet(lock).await;
    assert!(store.is_empty());
}

/// The same where it was answered, and another task was to have the lock.
#[tokio::test(start_paused = true)]
async fn a_longer_lease_that_was_to_be_handed_on_is_released_after_an_outage() {
    let (lock, faults, store) = faulty_with(|b| b.ttl(Duration::from_secs(1)));
    let guard = lined(&lock).await;
    guard.extend(Duration::from_secs(3600)).await.unwrap();
    let next = in_line(&lock, lock.key("job").wait(Duration::from_secs(3))).await;
    given_back_after_an_outage(&lock, &faults, &store, guard, next).await;
}

/// A place in line is nothing that ends with a lease.
#[tokio::test(start_paused = true)]
async fn a_waiter_is_withdrawn_however_short_its_ttl() {
    let (lock, faults, store) = faulty();
    let there = other(&store);
    let held = there.acquire("job").await.unwrap();
    let waiter = in_line(&lock, lock.key("job").ttl(Duration::from_millis(50))).await;
    faults.next(Op::Release, Fault::Hang);
    waiter.abort();
    assert!(waiter.await.unwrap_err().is_cancelled());
    until_quiet(&lock).await;
    assert_eq!(there.inspect("job").await.unwrap().waiters, Some(0));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_hangs_returns_and_goes_on() {
    let (lock, faults, store) = faulty();
    faults.next(Op::Release, Fault::Hang);
    let guard = lock.acquire("job").await.unwrap();
    let error = timeout(Duration::from_secs(20), guard.release()).await.expect("bounded").unwrap_err();
    assert!(matches!(error, LockError::Backend(_)) && error.is_retryable(), "{error}");
    until_quiet(&lock).await;
    assert!(store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_release_dropped_at_any_poll_is_a_release() {
    for polls in 0..10 {
        for fault in [Fault::DelayRequest(Duration::from_secs(1)), Fault::LoseReply, Fault::Refuse] {
            let (lock, faults, store) = faulty();
            faults.next(Op::Release, fault);
            let guard = lock.acquire("job").await.unwrap();
            {
                let mut release = std::pin::pin!(guard.release());
                tasklock::testing::poll_times(release.as_mut(), polls).await;
            }
            until_quiet(&lock).await;
            assert!(store.is_empty() && lock.stats() == Stats::default(), "{polls} {fault:?}");
        }
    }
}

/// A retried release that finds the lock gone was the reason that it is gone.
#[tokio::test(start_paused = true)]
async fn a_lost_reply_to_a_release_is_no_loss() {
    let (lock, faults, _) = faulty();
    faults.next(Op::Release, Fault::LoseReply);
    let guard = lock.acquire("job").await.unwrap();
    assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::Released);
    assert_eq!(faults.count(Op::Release), 2);
}

#[tokio::test(start_paused = true)]
async fn a_fatal_error_is_told_at_once() {
    let (lock, faults, _) = faulty();
    faults.next(Op::Release, Fault::Fatal);
    let guard = lock.acquire("job").await.unwrap();
    let error = guard.release().await.unwrap_err();
    assert!(!error.is_retryable() && !error.is_contended(), "{error}");
    assert_eq!(faults.count(Op::Release), 1);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_at_once() {
    let (lock, faults, store) = faulty();
    faults.always(Op::Release, Fault::DelayRequest(Duration::from_millis(20)));
    let mut guards = Vec::new();
    for n in 0..10_000 {
        guards.push(lock.acquire(format!("job:{n}")).await.unwrap());
    }
    assert_eq!(lock.stats().held, 10_000);
    drop(guards);
    until_quiet(&lock).await;
    assert!(store.is_empty() && lock.stats() == Stats::default());
}

#[tokio::test]
async fn in_a_panic() {
    let (lock, _, store) = faulty();
    let task = tokio::spawn({
        let lock = lock.clone();
        async move {
            let _guard = lock.acquire("job").await.unwrap();
            lock.synchronized("body", async { panic!("on purpose") }).await
        }
    });
    assert!(task.await.unwrap_err().is_panic());
    until_quiet(&lock).await;
    assert!(store.is_empty());
}

#[test]
fn outside_of_a_runtime() {
    let runtime = Runtime::new().unwrap();
    let (lock, store, guards) = runtime.block_on(async {
        let (lock, _, store) = faulty();
        let guards = [lock.acquire("a").await.unwrap(), lock.acquire("b").await.unwrap()];
        (lock, store, guards)
    });
    let [a, b] = guards;
    drop(a);
    std::thread::spawn(move || drop(b)).join().unwrap();
    runtime.block_on(until_quiet(&lock));
    assert!(store.is_empty());
}

/// On an executor that is not tokio's: the locker brings its own timers.
#[test]
fn awaited_by_another_executor() {
    let runtime = Runtime::new().unwrap();
    let (lock, _, store) = runtime.block_on(async { faulty() });
    let holder = runtime.block_on(lock.acquire("job")).unwrap();
    let patient = lock.key("job").wait(Duration::from_millis(20));
    let outcome = futures_executor::block_on(patient.acquire());
    assert!(matches!(outcome, Err(LockError::Timeout { .. })), "{outcome:?}");
    futures_executor::block_on(holder.extend(Duration::from_secs(60))).unwrap();
    futures_executor::block_on(holder.release()).unwrap();
    let n = futures_executor::block_on(lock.synchronized("job", async { 7 })).unwrap();
    assert_eq!(n, 7);
    runtime.block_on(until_quiet(&lock));
    assert!(store.is_empty());
}

/// The runtime may go before the keeper has had its first turn.
#[test]
fn after_a_runtime_that_hardly_was() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let lock = runtime.block_on(async { Locker::new(MemoryLock::new()).unwrap() });
    let guard = futures_executor::block_on(lock.acquire("job")).unwrap();
    let lost = guard.cancellation_token();
    drop(runtime);
    assert!(lost.is_cancelled() && is_lost(&guard.check(), LossReason::ShutDown));
    assert!(matches!(futures_executor::block_on(lock.acquire("other")), Err(LockError::ShutDown)));
}

/// Nobody is left to release for them. They say so, and nothing hangs.
#[test]
fn after_the_runtime_is_gone() {
    let (log, _guard) = logged();
    let runtime = Runtime::new().unwrap();
    let (lock, guard, release_later, store) = runtime.block_on(async {
        let (lock, _, store) = faulty();
        let guard = lock.acquire("job").await.unwrap();
        let release_later = lock.acquire("later").await.unwrap();
        (lock, guard, release_later, store)
    });
    let lost = guard.cancellation_token();
    drop(runtime);
    assert!(lost.is_cancelled() && !guard.is_held());
    assert!(is_lost(&guard.check(), LossReason::ShutDown));
    drop(guard);
    let outcome = futures_executor::block_on(release_later.release());
    assert!(matches!(outcome, Ok(ReleaseOutcome::AlreadyLost)), "{outcome:?}");
    assert_eq!(store.len(), 2, "left to expire");
    assert_eq!(log.count("not released"), 2, "{:?}", log.lines());
    assert_eq!(lock.stats(), Stats::default());
    let elsewhere = Runtime::new().unwrap();
    elsewhere.block_on(async {
        assert!(matches!(lock.acquire("job").await, Err(LockError::ShutDown)));
        assert!(matches!(lock.try_acquire("job").await, Err(LockError::ShutDown)));
        assert!(matches!(lock.inspect("job").await, Err(LockError::ShutDown)));
        assert!(matches!(lock.ping().await, Err(LockError::ShutDown)));
        timeout(Duration::from_secs(20), lock.shutdown()).await.expect("nothing to wait for");
    });
}

/// A waiter in another runtime is told when the locker's own goes.
#[test]
fn a_waiter_elsewhere_when_the_runtime_goes() {
    let runtime = Runtime::new().unwrap();
    let (lock, _, store) = runtime.block_on(async { faulty() });
    let elsewhere = Runtime::new().unwrap();
    let _held = elsewhere.block_on(async { other(&store).acquire("job").await.unwrap() });
    let waiter = elsewhere.spawn({
        let lock = lock.clone();
        async move { lock.acquire("job").await }
    });
    elsewhere.block_on(async {
        while lock.inspect("job").await.unwrap().waiters == Some(0) {
            tokio::task::yield_now().await;
        }
    });
    drop(runtime);
    let outcome = elsewhere.block_on(async { timeout(Duration::from_secs(20), waiter).await });
    assert!(matches!(outcome.unwrap().unwrap(), Err(LockError::ShutDown)));
}

#[tokio::test(start_paused = true)]
async fn shutdown_drains() {
    let (lock, faults, store) = faulty();
    let held = lock.acquire("held").await.unwrap();
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire("held").await }
    });
    let body = tokio::spawn({
        let lock = lock.clone();
        async move { lock.synchronized("body", pending::<()>()).await }
    });
    while lock.stats().held < 2 || lock.inspect("held").await.unwrap().waiters == Some(0) {
        tokio::task::yield_now().await;
    }
    // One release fails time and again, and gets through all the same.
    faults.next(Op::Release, Fault::Refuse);
    faults.next(Op::Release, Fault::Refuse);
    let guarded = tokio::spawn(async move {
        let reason = held.lost().await;
        drop(held);
        reason
    });
    let drained = lock.shutdown().await;
    assert_eq!((drained.lost, drained.left), (2, 0));
    assert!(store.is_empty(), "{store:?}");
    assert_eq!(guarded.await.unwrap(), LossReason::ShutDown);
    assert!(matches!(waiting.await.unwrap(), Err(LockError::ShutDown)));
    assert!(is_lost(&body.await.unwrap(), LossReason::ShutDown));
    assert!(matches!(lock.acquire("job").await, Err(LockError::ShutDown)));
    assert_eq!(lock.shutdown().await.lost, 0, "again is nothing");
}

/// What goes on under it may not have noticed: only the store's expiry is safe.
#[tokio::test(start_paused = true)]
async fn shutdown_leaves_a_guard_that_is_not_dropped_to_expire() {
    let (lock, _, store) = faulty();
    let guard = lock.acquire("job").await.unwrap();
    let drained = timeout(Duration::from_secs(20), lock.shutdown()).await.expect("bounded");
    assert_eq!((drained.lost, drained.left), (1, 1));
    assert!(!guard.is_held() && !other(&store).inspect("job").await.unwrap().is_free());
    drop(guard);
    tokio::task::yield_now().await;
    assert!(store.is_empty());
}

/// Before the backend is closed.
#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_a_release_that_its_caller_waits_for() {
    let (lock, faults, _) = faulty();
    faults.next(Op::Release, Fault::DelayReply(Duration::from_secs(1)));
    let release = tokio::spawn(lock.acquire("job").await.unwrap().release());
    while faults.count(Op::Release) == 0 {
        yield_now().await;
    }
    lock.shutdown().await;
    yield_now().await;
    assert!(release.is_finished());
    assert_eq!(release.await.unwrap().unwrap(), ReleaseOutcome::Released);
}

/// Nor, while the store is out, for the longest that anybody asked for.
#[tokio::test(start_paused = true)]
async fn shutdown_is_bounded_while_the_store_is_out() {
    for (ttl, fault) in [(HOURS, Fault::Refuse), (HOURS, Fault::LoseReply), (Ttl::Never, Fault::LoseReply)] {
        let (lock, faults, _) = faulty_with(|b| b.ttl(Duration::from_secs(1)));
        let guard = lock.acquire("job").await.unwrap();
        faults.next(Op::Renew, fault);
        guard.extend(ttl).await.unwrap_err();
        for op in [Op::TryAcquire, Op::Renew, Op::Release] {
            faults.always(op, Fault::Refuse);
        }
        drop(guard);
        timeout(Duration::from_secs(40), lock.shutdown()).await.unwrap_or_else(|_| panic!("{ttl:?}, {fault:?}"));
    }
}

/// What was refused has not reached the store: it says nothing of how long the lock may be there.
#[tokio::test(start_paused = true)]
async fn an_extension_that_was_refused_is_none() {
    let (lock, faults, _) = faulty_with(|b| b.ttl(Duration::from_secs(1)));
    let guard = lock.acquire("job").await.unwrap();
    for op in [Op::Renew, Op::Release] {
        faults.always(op, Fault::Refuse);
    }
    guard.extend(HOURS).await.unwrap_err();
    drop(guard);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(lock.stats(), Stats::default(), "released for longer than it may be there");
}

/// Nobody waits for it any more when it ends: the next holds of the process know of it all the same.
#[tokio::test(start_paused = true)]
async fn an_extension_that_ends_after_the_hold_is_released_for_as_long() {
    let (lock, faults, store) = faulty_with(|b| b.ttl(Duration::from_secs(5)));
    let guard = lined(&lock).await;
    let next = in_line(&lock, lock.key("job").wait(Duration::from_secs(3))).await;
    faults.next(Op::Renew, Fault::DelayReply(Duration::from_millis(500)));
    let extending = timeout(Duration::from_millis(10), guard.extend(HOURS)).await;
    assert!(extending.is_err(), "it goes on in the background");
    given_back_after_an_outage(&lock, &faults, &store, guard, next).await;
}

/// Whoever asked for a release, and neither goes on nor goes, keeps nobody waiting.
#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_ever_for_a_caller() {
    let (lock, faults, _) = faulty();
    faults.next(Op::Release, Fault::DelayReply(Duration::from_secs(1)));
    let mut release = pin!(lock.acquire("job").await.unwrap().release());
    assert!(poll_times(release.as_mut(), 1).await.is_none());
    timeout(Duration::from_secs(60), lock.shutdown()).await.expect("bounded");
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_ever_for_a_permanent_lock() {
    let (lock, faults, _) = faulty();
    drop(lock.key("job").ttl(Ttl::Never).acquire().await.unwrap());
    faults.always(Op::Release, Fault::Refuse);
    timeout(Duration::from_secs(120), lock.shutdown()).await.expect("bounded");
}

#[tokio::test(start_paused = true)]
async fn the_keeper_ends_with_the_last_locker_and_guard() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let store = MemoryLock::new();
    let lock = Locker::new(store.clone()).unwrap();
    let guard = lock.acquire("job").await.unwrap();
    drop(lock);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(guard.is_held(), "a guard keeps its keeper");
    drop(guard);
    while tasks() > before {
        tokio::task::yield_now().await;
    }
    assert!(store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn synchronized_awaits_its_release_unless_told() {
    let (lock, faults, store) = faulty();
    faults.always(Op::Release, Fault::DelayRequest(Duration::from_millis(100)));
    lock.synchronized("job", async {}).await.unwrap();
    assert!(store.is_empty());
    let quick = lock.key("job").release_mode(ReleaseMode::Background);
    quick.synchronized(async {}).await.unwrap();
    assert!(!store.is_empty());
    until_quiet(&lock).await;
    assert!(store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_observer_sees_one_end_for_each_hold() {
    let seen = Seen::default();
    let (lock, _, _) = faulty_with(|b| b.observer(seen.clone()));
    lock.acquire("a").await.unwrap().release().await.unwrap();
    drop(lock.acquire("b").await.unwrap());
    lock.synchronized("c", async {}).await.unwrap();
    until_quiet(&lock).await;
    for key in ["a", "b", "c"] {
        assert_eq!(seen.count(&format!("acquired {key}")), 1);
        assert_eq!(seen.count(&format!("released {key} Released")), 1, "{:?}", seen.lines());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_backend_releases_in_drop() {
    let store = MemoryLock::new();
    let lock = Locker::new(store.clone()).unwrap();
    let mut tasks = JoinSet::new();
    for n in 0..8 {
        let lock = lock.clone();
        tasks.spawn(async move {
            for m in 0..500 {
                drop(lock.acquire(format!("{}", (n + m) % 5)).await.unwrap());
            }
        });
    }
    tasks.join_all().await;
    assert!(store.is_empty() && lock.stats() == Stats::default());
}

#[test]
fn a_locker_needs_a_runtime_with_timers() {
    assert!(matches!(Locker::new(MemoryLock::new()), Err(LockError::NoRuntime)));
    let bare = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let outcome = bare.block_on(async { Locker::new(Faulty::new(MemoryLock::new()).0) });
    assert!(matches!(outcome, Err(LockError::NoRuntime)));
}
