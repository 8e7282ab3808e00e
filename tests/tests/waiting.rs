//! Waiting: in order, without polling where the store pushes, with the holder's name when it ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tasklock::{
    Attempt, Busy, Fencing, Grant, LockError, Locker, MemoryLock, Renew, Request, RetryPolicy, Stats, Validity, Wait,
    testing::{Fault, Faulty, Op, until_quiet},
};
use tasklock_tests::{Polled, Script, Seen, faulty, faulty_with, logged, other};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

#[tokio::test(start_paused = true)]
async fn a_timeout_names_the_holder_and_the_time() {
    let store = MemoryLock::new();
    let holder = Locker::builder(store.clone()).owner_name("worker-3").build().unwrap();
    let _guard = holder.acquire("job:7").await.unwrap();
    let (log, _log) = logged();
    let lock = other(&store);
    let start = Instant::now();
    let error = lock.key("job:7").wait(Duration::from_secs(100)).acquire().await.unwrap_err();
    assert!(start.elapsed() >= Duration::from_secs(100));
    let LockError::Timeout { key, waited, holder } = &error else { panic!("{error}") };
    assert_eq!((key.name(), waited.as_secs()), ("job:7", 100));
    assert_eq!(holder.as_ref().unwrap().owner.name(), "worker-3");
    assert!(holder.as_ref().unwrap().held.unwrap() >= Duration::from_secs(100), "{holder:?}");
    assert!(error.to_string().contains("worker-3") && error.to_string().contains("job:7"), "{error}");
    assert!(error.is_contended() && error.is_retryable());
    assert!(lock.key("job:7").wait(Wait::Try).acquire().await.unwrap_err().retry_after().is_some());
    let warnings = log.lines();
    assert_eq!(warnings.iter().filter(|line| line.contains("worker-3")).count(), 2, "at 30 s and 60 s: {warnings:?}");
}

#[tokio::test(start_paused = true)]
async fn zero_wait_is_one_attempt() {
    let (lock, faults, store) = faulty();
    let _guard = other(&store).acquire("job").await.unwrap();
    let error = lock.key("job").wait(Duration::ZERO).acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Held { .. }) && error.is_contended(), "{error}");
    assert!(lock.key("job").wait(Wait::Try).synchronized(async {}).await.unwrap_err().is_contended());
    assert!(lock.try_acquire("job").await.unwrap().is_none());
    assert_eq!(faults.count(Op::TryAcquire), 3);
    assert_eq!(other(&store).inspect("job").await.unwrap().waiters, Some(0));
}

/// A try takes what has expired, and is not fooled by an outage.
#[tokio::test(start_paused = true)]
async fn tries() {
    let (lock, faults, store) = faulty();
    let silent = other(&store).key("job").renew(Renew::Off).ttl(Duration::from_secs(1)).acquire().await.unwrap();
    assert!(lock.try_acquire("job").await.unwrap().is_none());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let guard = lock.try_acquire("job").await.unwrap().expect("an expired lock");
    assert!(guard.fencing_token() > silent.fencing_token());
    faults.always(Op::TryAcquire, Fault::Refuse);
    let error = lock.try_acquire("other").await.unwrap_err();
    assert!(matches!(error, LockError::Backend(_)) && !error.is_contended() && error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_not_contention() {
    let (lock, faults, _) = faulty();
    faults.always(Op::TryAcquire, Fault::Refuse);
    let start = Instant::now();
    let error = lock.acquire("job").await.unwrap_err();
    assert!(matches!(error, LockError::Backend(_)) && !error.is_contended(), "{error}");
    assert!(start.elapsed() >= Duration::from_secs(10) && start.elapsed() < Duration::from_secs(15));
    assert!(faults.count(Op::TryAcquire) < 60, "a retry storm: {}", faults.count(Op::TryAcquire));
    faults.clear();
    faults.next(Op::TryAcquire, Fault::Fatal);
    let error = lock.acquire("job").await.unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    // A wait that fails is no reason to give up, nor to spin.
    faults.clear();
    faults.always(Op::Wait, Fault::Refuse);
    let guard = lock.acquire("job").await.unwrap();
    let error = lock.key("job").wait(Duration::from_secs(10)).acquire().await.unwrap_err();
    assert!(error.is_contended() && faults.count(Op::Wait) < 60, "{}", faults.count(Op::Wait));
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn a_number_of_attempts() {
    let store = MemoryLock::new();
    let retry = RetryPolicy::fixed(Duration::from_millis(100)).max_attempts(5);
    let lock = Locker::builder(Polled::new(store.clone())).retry(retry).build().unwrap();
    let _guard = other(&store).acquire("job").await.unwrap();
    let start = Instant::now();
    assert!(lock.acquire("job").await.unwrap_err().is_contended());
    assert!(start.elapsed() >= Duration::from_millis(400) && start.elapsed() < Duration::from_millis(500));
}

/// Nor is it told to the observer as the end of a wait.
#[tokio::test(start_paused = true)]
async fn the_observer_hears_of_no_timeout_in_an_outage() {
    let seen = Seen::default();
    let (lock, faults, _store) = faulty_with(|builder| builder.observer(seen.clone()));
    faults.always(Op::TryAcquire, Fault::Refuse);
    let mut line = JoinSet::new();
    for wait in [3, 2, 2] {
        let bounded = lock.key("job").wait(Duration::from_secs(wait));
        line.spawn(async move { bounded.acquire().await.map(drop) });
    }
    for outcome in line.join_all().await {
        assert!(matches!(outcome, Err(LockError::Backend(_))), "{outcome:?}");
    }
    assert_eq!(seen.count("timed out"), 0, "{:?}", seen.lines());
}

/// A question that is on its way when the time is over says nothing: somebody had the lock all the while.
#[tokio::test(start_paused = true)]
async fn a_question_on_its_way_is_no_outage() {
    let (lock, faults, _store) = faulty();
    let held = lock.key("job").max_hold(Duration::from_millis(1_950)).acquire().await.unwrap();
    let mut line = JoinSet::new();
    for _ in 0..2 {
        let bounded = lock.key("job").wait(Duration::from_secs(2));
        line.spawn(async move { bounded.acquire().await.map(drop) });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    faults.always(Op::TryAcquire, Fault::DelayReply(Duration::from_millis(100)));
    for outcome in line.join_all().await {
        let error = outcome.unwrap_err();
        assert!(error.is_contended(), "{error}");
    }
    drop(held);
}

/// Those behind are told of an outage as the one in front is.
#[tokio::test(start_paused = true)]
async fn an_outage_is_not_contention_in_line_either() {
    for fault in [Fault::Refuse, Fault::LoseReply, Fault::Hang] {
        let (lock, faults, store) = faulty();
        let bounded = lock.key("job").wait(Duration::from_secs(2));
        let stand_in_line = || {
            let mut line = JoinSet::new();
            for _ in 0..5 {
                let bounded = bounded.clone();
                line.spawn(async move { bounded.acquire().await.map(drop) });
            }
            line
        };
        faults.always(Op::TryAcquire, fault);
        for outcome in stand_in_line().join_all().await {
            let error = outcome.unwrap_err();
            assert!(matches!(error, LockError::Backend(_)) && error.is_retryable(), "{fault:?}: {error}");
        }
        faults.clear();
        until_quiet(&lock).await;
        if fault == Fault::Hang {
            continue; // unanswered for a moment, after an answer: nobody can say
        }
        // Held, then unreachable: the last word counts.
        let guard = other(&store).acquire("job").await.unwrap();
        let line = stand_in_line();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(lock.inspect("job").await.unwrap().waiters, Some(5));
        faults.always(Op::TryAcquire, fault);
        faults.recheck();
        for outcome in line.join_all().await {
            let error = outcome.unwrap_err();
            assert!(matches!(error, LockError::Backend(_)), "{fault:?}: {error}");
        }
        // Unreachable, then held.
        until_quiet(&lock).await;
        let line = stand_in_line();
        tokio::time::sleep(Duration::from_millis(100)).await;
        faults.clear();
        for outcome in line.join_all().await {
            let error = outcome.unwrap_err();
            assert!(error.is_contended() && error.holder().is_some(), "{fault:?}: {error}");
        }
        drop(guard);
    }
}

/// A store that fails is asked for as long as each has patience, counted from when it came, not from its turn.
#[tokio::test(start_paused = true)]
async fn patience_runs_in_line_too() {
    for fault in [Fault::Refuse, Fault::Hang] {
        let (lock, faults, _) = faulty();
        faults.always(Op::TryAcquire, fault);
        let start = Instant::now();
        let stand_in_line = || {
            let lock = lock.clone();
            async move {
                let error = lock.acquire("job").await.map(drop).unwrap_err();
                assert!(matches!(error, LockError::Backend(_)) && error.is_retryable(), "{error}");
                start.elapsed()
            }
        };
        let mut line = JoinSet::new();
        (0..10).for_each(|_| drop(line.spawn(stand_in_line())));
        tokio::time::sleep(Duration::from_secs(5)).await;
        let late = tokio::spawn(stand_in_line());
        for given_up in line.join_all().await {
            assert!((10..13).contains(&given_up.as_secs()), "{fault:?}: {given_up:?}");
        }
        let given_up = late.await.unwrap();
        assert!((15..25).contains(&given_up.as_secs()), "{fault:?}: one that came later: {given_up:?}");
        assert_eq!(lock.stats().queued_keys, 0);
    }
}

/// The store is asked once; after that it tells.
#[tokio::test(start_paused = true)]
async fn a_store_that_pushes_is_hardly_polled() {
    let (lock, faults, store) = faulty();
    let guard = other(&store).acquire("job").await.unwrap();
    let waiter = tokio::spawn(async move { lock.acquire("job").await.map(|g| g.release()) });
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(faults.count(Op::TryAcquire), 1);
    drop(guard);
    let start = Instant::now();
    waiter.await.unwrap().unwrap().await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(faults.count(Op::TryAcquire), 1);
}

#[tokio::test(start_paused = true)]
async fn a_push_that_is_lost_costs_time_only() {
    let (lock, faults, store) = faulty();
    faults.always(Op::Wait, Fault::Hang);
    let guard = other(&store).acquire("job").await.unwrap();
    let waiter = tokio::spawn(async move { lock.acquire("job").await.map(drop) });
    tokio::task::yield_now().await;
    drop(guard);
    timeout(Duration::from_secs(5), waiter).await.expect("liveness").unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_recheck_every_waiter_asks_again() {
    let (lock, faults, store) = faulty();
    faults.always(Op::Wait, Fault::Hang);
    let guard = other(&store).acquire("job").await.unwrap();
    let waiter = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire("job").await.map(drop) }
    });
    while faults.count(Op::Wait) == 0 {
        tokio::task::yield_now().await;
    }
    drop(guard);
    let start = Instant::now();
    faults.recheck();
    waiter.await.unwrap().unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// Tasks of one process queue up in front of a store that has no queue, and send one waiter.
#[tokio::test(start_paused = true)]
async fn one_waiter_a_process_and_in_order() {
    let store = MemoryLock::new();
    let lock = Locker::new(Polled::new(store.clone())).unwrap();
    let held = lock.acquire("job").await.unwrap();
    let order = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for n in 0..50 {
        let (lock, order) = (lock.clone(), order.clone());
        tasks.spawn(async move {
            let guard = lock.acquire("job").await.unwrap();
            assert_eq!(order.fetch_add(1, Ordering::SeqCst), n);
            guard.release().await.unwrap();
        });
        tokio::task::yield_now().await;
    }
    assert_eq!(lock.stats().queued_keys, 1);
    assert!(lock.try_acquire("job").await.unwrap().is_none());
    let late = lock.key("job").wait(Duration::from_millis(50)).acquire().await.unwrap_err();
    assert!(late.holder().is_some(), "one far behind in the line can name the holder too: {late}");
    drop(held);
    tasks.join_all().await;
    until_quiet(&lock).await;
    assert_eq!(lock.stats(), Stats::default());
    assert!(store.is_empty());
}

/// A waiter that is not polled holds up the others for a second at most, not for a lease.
#[tokio::test(start_paused = true)]
async fn a_hung_waiter_does_not_stall_the_line() {
    let store = MemoryLock::new();
    let (lock, held) = (other(&store), other(&store).acquire("job").await.unwrap());
    let mut hung = std::pin::pin!(lock.acquire("job"));
    assert!(tasklock::testing::poll_times(hung.as_mut(), 1).await.is_none());
    let next = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire("job").await }
    });
    tokio::task::yield_now().await;
    drop(held);
    let guard = timeout(Duration::from_secs(3), next).await.expect("within a claim").unwrap().unwrap();
    assert!(timeout(Duration::from_secs(1), hung.as_mut()).await.is_err(), "two holders");
    guard.release().await.unwrap();
    drop(hung.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn fifty_dead_waiters_delay_nobody_for_long() {
    let store = MemoryLock::new();
    let (lock, held) = (other(&store), other(&store).acquire("job").await.unwrap());
    let mut dead: Vec<_> = (0..50).map(|_| Box::pin(lock.acquire("job"))).collect();
    for waiter in &mut dead {
        assert!(tasklock::testing::poll_times(waiter.as_mut(), 1).await.is_none());
    }
    // They stopped looking half a minute ago.
    tokio::time::sleep(Duration::from_secs(31)).await;
    let next = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire("job").await }
    });
    tokio::task::yield_now().await;
    drop(held);
    let guard = timeout(Duration::from_secs(2), next).await.expect("passed over").unwrap();
    assert!(guard.unwrap().is_held());
}

/// A grant that comes after its time is over counts as busy.
#[tokio::test(start_paused = true)]
async fn a_grant_that_comes_too_late_is_not_believed() {
    let (lock, faults, store) = faulty_with(|b| b.ttl(Duration::from_secs(2)));
    faults.next(Op::TryAcquire, Fault::DelayReply(Duration::from_secs(3)));
    let guard = lock.acquire("job").await.unwrap();
    assert!(
        guard.is_held() && guard.remaining() > Duration::from_millis(1_900),
        "{:?} {:?}",
        guard.remaining(),
        faults.calls()
    );
    assert_eq!(faults.count(Op::TryAcquire), 2);
    drop(guard);
    until_quiet(&lock).await;
    assert!(store.is_empty());
}

/// The lease is dated from before the sending, never from the reply.
#[tokio::test(start_paused = true)]
async fn the_deadline_is_dated_from_the_sending() {
    let (lock, faults, _) = faulty_with(|b| b.ttl(Duration::from_secs(10)));
    faults.next(Op::TryAcquire, Fault::DelayReply(Duration::from_secs(4)));
    let guard = lock.acquire("job").await.unwrap();
    assert!(guard.remaining() <= Duration::from_secs(6) && guard.remaining() > Duration::from_millis(5_800));
}

#[tokio::test(start_paused = true)]
async fn the_observer_sees_waits_and_timeouts() {
    let seen = Seen::default();
    let store = MemoryLock::new();
    let lock = Locker::builder(store.clone()).observer(seen.clone()).build().unwrap();
    let guard = other(&store).acquire("job").await.unwrap();
    lock.key("job").wait(Duration::from_secs(5)).acquire().await.unwrap_err();
    assert_eq!((seen.count("waiting job"), seen.count("timed out job")), (1, 1), "{:?}", seen.lines());
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn names_can_be_kept_out_of_the_log() {
    let (log, _log) = logged();
    let (lock, faults, _) = faulty_with(|b| b.redact_keys());
    let guard = lock.acquire("secret-customer").await.unwrap();
    faults.always(Op::Renew, Fault::Refuse);
    faults.always(Op::Release, Fault::Refuse);
    guard.lost().await;
    drop(guard);
    until_quiet(&lock).await;
    assert!(log.count("lock lost") == 1 && log.count("renewal failed") > 1 && log.count("not released") == 1);
    assert_eq!(log.count("secret-customer"), 0, "{:?}", log.lines());
}

#[tokio::test]
async fn what_memory_declares() {
    let store = MemoryLock::new();
    let lock = other(&store);
    assert_eq!(lock.capabilities().backend, "memory");
    assert_eq!(lock.capabilities().fencing, Fencing::Strong);
    assert!(lock.capabilities().shared && lock.capabilities().permits && lock.capabilities().fair);
    lock.ping().await.unwrap();
}

/// Two stores of the same name are one, for as long as anyone has it.
#[tokio::test]
async fn named_stores_are_shared() {
    let (a, b) = (other(&MemoryLock::named("n")), other(&MemoryLock::named("n")));
    let guard = a.acquire("job").await.unwrap();
    assert!(b.try_acquire("job").await.unwrap().is_none());
    assert!(other(&MemoryLock::named("m")).try_acquire("job").await.unwrap().is_some());
    assert!(other(&MemoryLock::new()).try_acquire("job").await.unwrap().is_some());
    drop((a, b, guard));
    assert!(MemoryLock::named("n").is_empty());
}

/// Most holds that were pushed are over before a confirmation would be worth its call.
#[tokio::test(start_paused = true)]
async fn a_claim_is_not_confirmed_in_its_first_third() {
    let script = Script::new(|_| Attempt::Busy(Busy::default()));
    let lock = Locker::new(script.clone()).unwrap();
    let brief = lock.acquire("job").await.unwrap();
    tokio::time::sleep(Duration::from_millis(320)).await;
    brief.release().await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(script.renewals(), 0, "confirmed though it was over");
    let longer = lock.acquire("job").await.unwrap();
    tokio::time::sleep(Duration::from_millis(320)).await;
    assert_eq!(script.renewals(), 0, "confirmed before a third of the claim was over");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(script.renewals(), 1, "not confirmed when a third was over");
    assert!(longer.is_held());
}

/// A store whose claims are short, whatever the ttl: a pushed grant stands for a second and is to be confirmed.
#[tokio::test(start_paused = true)]
async fn short_claims_are_believed_and_confirmed_whatever_the_ttl() {
    for ttl in [5, 30, 100, 110, 3_600, 86_400].map(Duration::from_secs) {
        let script = Script::new(|_| Attempt::Busy(Busy::default()));
        let lock = Locker::builder(script.clone()).ttl(ttl).build().unwrap();
        // The first renewal is refused; a claim must stand more than one attempt.
        script.refuse_renewals(1);
        let guard = timeout(Duration::from_secs(60), lock.acquire("job")).await.expect("the claim").unwrap();
        assert!(guard.is_held() && guard.remaining() <= Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert!(guard.is_held() && guard.remaining() > ttl / 2 - Duration::from_secs(1), "{ttl:?}");
        assert!(script.renewals() >= 2);
    }
}

/// However long the ttl is, a claim is one of a second, and so are the pauses between attempts to confirm it.
#[tokio::test(start_paused = true)]
async fn a_claim_is_confirmed_when_the_store_goes_on() {
    for ttl in [5, 30, 86_400].map(Duration::from_secs) {
        let script = Script::new(|_| Attempt::Busy(Busy::default()));
        let lock = Locker::builder(script.clone()).ttl(ttl).build().unwrap();
        script.hang_renewals_of("tasklock:job");
        let guard = timeout(Duration::from_secs(60), lock.acquire("job")).await.expect("the claim").unwrap();
        tokio::time::sleep(Duration::from_millis(820)).await;
        script.answer_all_renewals();
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert!(guard.is_held() && guard.remaining() > ttl / 2, "{ttl:?}");
    }
}

/// A grant that is over at once, again and again, is no reason to ask without a pause.
#[tokio::test(start_paused = true)]
async fn a_store_that_answers_nonsense_is_asked_at_a_pace() {
    let over = |request: &Request| Attempt::Granted(Grant::new(None, Validity::Until(request.since)));
    let zero = |_: &Request| Attempt::Busy(Busy::new(None, Some(Duration::ZERO)));
    for script in [Script::new(over), Script::new(zero).without_push()] {
        let lock = Locker::builder(script.clone()).wait(Duration::from_secs(2)).build().unwrap();
        assert!(lock.acquire("job").await.is_err());
        assert!(script.attempts() <= 2_100, "asked {} times in 2 s", script.attempts());
    }
}

#[tokio::test(start_paused = true)]
async fn a_number_of_attempts_counts_those_that_found_it_held() {
    let (lock, faults, store) = faulty_with(|b| b.retry(RetryPolicy::default().max_attempts(2)));
    let guard = other(&store).acquire("job").await.unwrap();
    faults.next(Op::TryAcquire, Fault::Refuse);
    faults.next(Op::TryAcquire, Fault::Refuse);
    let waiter = tokio::spawn(async move { lock.acquire("job").await.map(drop) });
    while faults.count(Op::Wait) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(guard);
    waiter.await.unwrap().expect("one attempt in three found it held");
}

#[tokio::test(start_paused = true)]
async fn a_try_that_was_answered_has_nothing_to_withdraw() {
    let (lock, faults, store) = faulty();
    let _guard = other(&store).acquire("job").await.unwrap();
    assert!(lock.try_acquire("job").await.unwrap().is_none());
    until_quiet(&lock).await;
    assert_eq!(faults.count(Op::Release), 0);
    // One whose first answer was lost has.
    faults.next(Op::TryAcquire, Fault::LoseReply);
    assert!(lock.try_acquire("job").await.unwrap().is_none());
    until_quiet(&lock).await;
    assert_eq!(faults.count(Op::Release), 1);
}

/// Not even by what went wrong with a metrics library.
/// Where waiters have no place at the store, one that gives up after an answer tells the store nothing.
#[tokio::test(start_paused = true)]
async fn a_waiter_without_a_place_has_nothing_to_withdraw() {
    let store = MemoryLock::new();
    let (backend, faults) = Faulty::new(Polled::new(store.clone()));
    let (lock, holder) = (Locker::new(backend).unwrap(), other(&store));
    let guard = holder.acquire("job:7").await.unwrap();
    let bounded = lock.key("job:7").wait(Duration::from_millis(500));
    assert!(bounded.acquire().await.unwrap_err().is_contended());
    until_quiet(&lock).await;
    assert!(faults.count(Op::TryAcquire) > 1);
    assert_eq!(faults.count(Op::Release), 0);
    // An attempt whose answer is missing may have left something.
    faults.skip(Op::TryAcquire, 1);
    faults.next(Op::TryAcquire, Fault::Straggle(Duration::from_secs(1)));
    let waiter = tokio::spawn(async move { bounded.wait(Duration::from_secs(9)).acquire().await.map(drop) });
    while faults.count(Op::TryAcquire) < 20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    waiter.abort();
    assert!(waiter.await.unwrap_err().is_cancelled());
    until_quiet(&lock).await;
    assert_eq!(faults.count(Op::Release), 1);
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_does_not_put_names_into_the_log() {
    struct Panics;
    impl tasklock::Observer for Panics {
        fn observe(&self, _: &tasklock::Observed<'_>) {
            panic!("on purpose");
        }
    }
    let (log, _log) = logged();
    let (lock, _, _) = faulty_with(|b| b.redact_keys().observer(Panics));
    drop(lock.acquire("secret-customer").await.unwrap());
    until_quiet(&lock).await;
    assert!(log.count("the observer panicked") >= 2, "{:?}", log.lines());
    assert_eq!(log.count("secret-customer"), 0, "{:?}", log.lines());
}
