//! A lock that goes from task to task within a process: what the store sees of it, and what others do.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tasklock::{
    Fairness, LockError, Locker, LossReason, MemoryLock, ReleaseOutcome, Renew, Stats, Ttl,
    testing::{Fault, Faults, Op, poll_times, until_quiet},
};
use tasklock_tests::{
    Seen, faulty, faulty_with,
    line::{got, in_line, left_nothing, lined},
    load::crowd,
    other,
};
use tokio::{
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};

/// How many tokens are reserved at most, how many are handed on once others wait, and some for who comes between.
const MOST_BEFORE_OTHERS: usize = 8192 + 64 + 8;

fn requests(faults: &Faults) -> usize {
    [Op::TryAcquire, Op::Renew, Op::Release].into_iter().map(|op| faults.count(op)).sum()
}

#[tokio::test(start_paused = true)]
async fn many_tasks_ask_the_store_seldom() {
    let (lock, faults, store) = faulty();
    let (mut tasks, fence) = (JoinSet::new(), Arc::default());
    crowd(&mut tasks, &lock, &fence, 64, 100);
    tasks.join_all().await;
    until_quiet(&lock).await;
    assert!(requests(&faults) < 64, "6400 acquisitions asked the store {} times", requests(&faults));
    assert_eq!(lock.stats(), Stats::default());
    assert!(store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn strict_order_asks_each_time() {
    let (lock, faults, store) = faulty_with(|b| b.fairness(Fairness::Strict));
    let (mut tasks, fence) = (JoinSet::new(), Arc::default());
    crowd(&mut tasks, &lock, &fence, 8, 20);
    tasks.join_all().await;
    until_quiet(&lock).await;
    assert!(faults.count(Op::Release) >= 160, "handed on");
    assert_eq!(faults.count(Op::Renew), 0);
    assert!(store.is_empty());
}

/// Tasks that do not renew have the store asked at every hand-over, and use one token of what is reserved there.
#[tokio::test(start_paused = true)]
async fn tokens_do_not_run_ahead_of_those_who_use_them() {
    let (lock, _, _) = faulty();
    let (mut tasks, taken) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    let first = lock.acquire("job").await.unwrap().fencing_token().get();
    crowd(&mut tasks, &lock, &Arc::default(), 64, 20);
    for _ in 0..64 {
        let (key, taken) = (lock.key("job").renew(Renew::Off), taken.clone());
        tasks.spawn(async move {
            for _ in 0..20 {
                key.acquire().await.unwrap().release().await.unwrap();
                taken.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    tasks.join_all().await;
    let used = 64 * 20 + taken.load(Ordering::Relaxed) as u64;
    let minted = lock.acquire("job").await.unwrap().fencing_token().get() - first;
    assert!(minted <= 4 * used, "{minted} tokens for {used} holds");
}

/// On more than one thread, and among more than one process.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tokens_rise_across_tasks_and_processes() {
    let store = MemoryLock::new();
    let lockers =
        [other(&store), other(&store), Locker::builder(store.clone()).fairness(Fairness::Strict).build().unwrap()];
    let (mut tasks, fence) = (JoinSet::new(), Arc::default());
    for lock in &lockers {
        crowd(&mut tasks, lock, &fence, 16, 200);
    }
    tasks.join_all().await;
    for lock in &lockers {
        until_quiet(lock).await;
        assert_eq!(lock.stats(), Stats::default());
    }
    assert!(store.is_empty());
}

/// Counted in grants to others between asking and being granted, since time would depend on the machine.
async fn most_before_others(fairness: Fairness) -> usize {
    let (lock, _, store) = faulty_with(|b| b.fairness(fairness));
    let there = other(&store);
    let (granted, mut tasks) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    let most = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..64 {
        let (lock, granted, done) = (lock.clone(), granted.clone(), done.clone());
        tasks.spawn(async move {
            while done.load(Ordering::Relaxed) == 0 {
                let _guard = lock.acquire("job").await.unwrap();
                granted.fetch_add(1, Ordering::Relaxed);
                yield_now().await;
            }
        });
    }
    for _ in 0..12 {
        // Time for the hot one to forget that there were others.
        for _ in 0..10_000 {
            yield_now().await;
        }
        let before = granted.load(Ordering::Relaxed);
        let guard = there.acquire("job").await.unwrap();
        most.fetch_max(granted.load(Ordering::Relaxed) - before, Ordering::Relaxed);
        drop(guard);
    }
    done.store(1, Ordering::Relaxed);
    tasks.join_all().await;
    most.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn others_wait_for_a_bounded_number() {
    let most = most_before_others(Fairness::Bounded).await;
    assert!((2..=MOST_BEFORE_OTHERS).contains(&most), "{most} were let in before another process");
}

#[tokio::test(start_paused = true)]
async fn with_strict_order_others_wait_for_those_before_them() {
    // Each of those who stood in the queue before.
    assert!(most_before_others(Fairness::Strict).await <= 64);
}

/// However long each holds it: another process is let in after the one that has it when the time is up.
#[tokio::test(start_paused = true)]
async fn others_wait_for_a_bounded_time() {
    let (lock, _, store) = faulty();
    let (there, mut tasks) = (other(&store), JoinSet::new());
    let stop = Arc::new(AtomicUsize::new(0));
    for _ in 0..64 {
        let (lock, stop) = (lock.clone(), stop.clone());
        tasks.spawn(async move {
            while stop.load(Ordering::Relaxed) == 0 {
                let _guard = lock.acquire("job").await.unwrap();
                sleep(Duration::from_millis(3)).await;
            }
        });
    }
    sleep(Duration::from_millis(200)).await;
    for _ in 0..20 {
        let waited = tokio::time::Instant::now();
        drop(there.acquire("job").await.unwrap());
        // Paused time: no machine is slow enough to make this fail.
        assert!(waited.elapsed() < Duration::from_millis(2 * (10 + 3) + 5), "{:?}", waited.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
    stop.store(1, Ordering::Relaxed);
    tasks.join_all().await;
}

/// Dropped after each number of polls, before and after it was handed the lock.
#[tokio::test(start_paused = true)]
async fn whoever_is_dropped_in_the_hand_over_hands_on() {
    for behind in [0, 1, 2] {
        for before in 0..6 {
            for after in 0..6 {
                let (lock, _, store) = faulty();
                let held = lined(&lock).await;
                let token = held.fencing_token();
                let mut dropped = Box::pin(lock.acquire("job"));
                assert!(poll_times(dropped.as_mut(), before).await.is_none());
                let mut rest = JoinSet::new();
                for _ in 0..behind {
                    let lock = lock.clone();
                    rest.spawn(async move { lock.acquire("job").await.unwrap().fencing_token() });
                }
                yield_now().await;
                drop(held);
                drop(poll_times(dropped.as_mut(), after).await);
                drop(dropped);
                for theirs in timeout(Duration::from_secs(5), rest.join_all()).await.expect("not stuck") {
                    assert!(theirs > token);
                }
                until_quiet(&lock).await;
                assert_eq!(lock.stats(), Stats::default(), "{behind} {before} {after}");
                assert!(store.is_empty(), "{behind} {before} {after}");
            }
        }
    }
}

/// Neither polled nor dropped.
#[tokio::test(start_paused = true)]
async fn whoever_does_not_take_it_is_passed_over() {
    let (lock, _, store) = faulty();
    let held = lined(&lock).await;
    let mut hung = pin!(lock.acquire("job"));
    assert!(poll_times(hung.as_mut(), 1).await.is_none());
    let next = in_line(&lock, lock.key("job")).await;
    drop(held);
    let guard = timeout(Duration::from_secs(3), next).await.expect("passed over").unwrap().unwrap();
    assert!(poll_times(hung.as_mut(), 3).await.is_none(), "two holders");
    drop(guard);
    let guard = timeout(Duration::from_secs(5), hung).await.expect("its turn again").unwrap();
    assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::Released);
    left_nothing(&lock, &store).await;
}

/// Whoever gives back is told so once the store has it, also if the one in line left meanwhile.
#[tokio::test(start_paused = true)]
async fn a_release_before_a_renewal_tells_what_came_of_it() {
    let (lock, faults, store) = faulty_with(|b| b.renew(Renew::Off));
    let held = lined(&lock).await;
    let next = in_line(&lock, lock.key("job")).await;
    faults.next(Op::Renew, Fault::DelayReply(Duration::from_secs(1)));
    let (released, ()) = tokio::join!(held.release(), async {
        sleep(Duration::from_millis(500)).await;
        next.abort();
    });
    assert_eq!(released.unwrap(), ReleaseOutcome::Released);
    assert!(store.is_empty(), "told before the store had it");
    // Not polled, it holds up nobody.
    let held = lined(&lock).await;
    let next = in_line(&lock, lock.key("job")).await;
    faults.next(Op::Renew, Fault::DelayReply(Duration::from_secs(1)));
    let mut release = Box::pin(held.release());
    assert!(poll_times(release.as_mut(), 1).await.is_none());
    drop(timeout(Duration::from_secs(3), next).await.expect("nobody waits for it").unwrap().unwrap());
    assert_eq!(release.await.unwrap(), ReleaseOutcome::Released);
    // Dropped on the way, it goes on.
    let held = lined(&lock).await;
    let next = in_line(&lock, lock.key("job")).await;
    faults.next(Op::Renew, Fault::DelayReply(Duration::from_secs(1)));
    assert!(poll_times(pin!(held.release()), 2).await.is_none());
    drop(next.await.unwrap().unwrap());
    until_quiet(&lock).await;
    assert!(store.is_empty() && lock.stats() == Stats::default());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_it_at_any_moment() {
    for moment in 0..40 {
        let (lock, _, store) = faulty();
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let lock = lock.clone();
            tasks.spawn(async move {
                loop {
                    match lock.acquire("job").await {
                        Ok(guard) => {
                            yield_now().await;
                            drop(guard);
                        }
                        Err(LockError::ShutDown) => return,
                        Err(LockError::Lost { reason: LossReason::ShutDown, .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        for _ in 0..moment {
            yield_now().await;
        }
        lock.shutdown().await;
        timeout(Duration::from_secs(5), tasks.join_all()).await.expect("nobody waits for ever");
        assert_eq!(lock.stats(), Stats::default(), "{moment}");
        assert!(store.is_empty(), "{moment}");
    }
}

/// Each has its own maximum, counted from when it was handed the lock; what is lost at it is not handed on.
#[tokio::test(start_paused = true)]
async fn a_maximum_hold_is_each_ones_own() {
    const MAX: Duration = Duration::from_secs(2);
    let (lock, _, store) = faulty_with(|b| b.max_hold(MAX));
    let held = lined(&lock).await;
    let next = in_line(&lock, lock.key("job")).await;
    sleep(MAX - Duration::from_millis(100)).await;
    drop(held);
    let next = got(next).await;
    sleep(MAX - Duration::from_millis(100)).await;
    assert!(next.is_held() && next.remaining() <= Duration::from_millis(100));
    let third = in_line(&lock, lock.key("job")).await;
    assert_eq!(next.lost().await, LossReason::Expired);
    sleep(Duration::from_millis(100)).await;
    assert!(!third.is_finished());
    drop(next);
    drop(timeout(Duration::from_secs(3), third).await.unwrap().unwrap().unwrap());
    left_nothing(&lock, &store).await;
}

#[tokio::test(start_paused = true)]
async fn a_minimum_hold_is_kept_before_it_is_handed_on() {
    const MIN: Duration = Duration::from_secs(2);
    let (lock, _, store) = faulty_with(|b| b.min_hold(MIN));
    let mut last = None;
    let (first, mut tasks) = (tokio::time::Instant::now(), JoinSet::new());
    for _ in 0..4 {
        let lock = lock.clone();
        tasks.spawn(async move {
            drop(lock.acquire("job").await.unwrap());
            first.elapsed()
        });
    }
    let mut times = tasks.join_all().await;
    times.sort();
    for at in times {
        if let Some(last) = last.replace(at) {
            assert!(at - last >= MIN, "{at:?} after {last:?}");
        }
    }
    sleep(MIN).await;
    left_nothing(&lock, &store).await;
}

/// What would not be the same from the store is had from the store.
#[tokio::test(start_paused = true)]
async fn another_ttl_or_mode_asks_the_store() {
    let (lock, faults, store) = faulty();
    let wishes = [
        lock.key("job").ttl(Duration::from_secs(300)),
        lock.key("job").ttl(Ttl::Never),
        lock.key("job").shared(),
        lock.key("job").permits(3),
    ];
    for wish in wishes {
        let held = lined(&lock).await;
        let asked = faults.count(Op::TryAcquire);
        let next = in_line(&lock, wish).await;
        let alike = in_line(&lock, lock.key("job")).await;
        assert!(faults.count(Op::TryAcquire) > asked, "not asked");
        drop(held);
        // Whoever comes first.
        let both =
            async { tokio::join!(async { drop(got(next).await) }, async { drop(alike.await.unwrap().unwrap()) }) };
        timeout(Duration::from_secs(3), both).await.expect("not stuck");
        left_nothing(&lock, &store).await;
    }
}

/// Nobody relies on a lease that is nearly over, or on one that nobody will renew.
#[tokio::test(start_paused = true)]
async fn a_lease_without_renewal_begins_anew() {
    const TTL: Duration = Duration::from_secs(3);
    let (lock, faults, _) = faulty_with(|b| b.ttl(TTL).renew(Renew::Off));
    let mut held = lined(&lock).await;
    for _ in 0..5 {
        let next = in_line(&lock, lock.key("job")).await;
        sleep(TTL / 2).await;
        let renewals = faults.count(Op::Renew);
        drop(held);
        held = got(next).await;
        assert_eq!(faults.count(Op::Renew), renewals + 1);
        assert!(held.remaining() > TTL - Duration::from_millis(100), "{:?}", held.remaining());
    }
}

#[tokio::test(start_paused = true)]
async fn an_extension_is_the_holders_own() {
    let (lock, _, store) = faulty();
    let held = lined(&lock).await;
    held.extend(Duration::from_secs(600)).await.unwrap();
    let next = in_line(&lock, lock.key("job")).await;
    drop(held);
    let next = got(next).await;
    assert!(next.remaining() < Duration::from_secs(31));
    let seen = other(&store).inspect("job").await.unwrap().holder.unwrap();
    assert!(seen.remaining.unwrap() <= Duration::from_secs(31), "{seen}");
}

/// An extension to less may reach the store when somebody else relies on more.
#[tokio::test(start_paused = true)]
async fn a_lease_that_may_be_cut_is_not_handed_on() {
    for fault in [Fault::LoseReply, Fault::Straggle(Duration::from_secs(2)), Fault::DelayReply(Duration::from_secs(2))]
    {
        let (lock, faults, store) = faulty();
        let held = lined(&lock).await;
        let next = in_line(&lock, lock.key("job")).await;
        faults.next(Op::Renew, fault);
        assert!(poll_times(pin!(held.extend(Duration::from_millis(500))), 3).await.is_none_or(|done| done.is_err()));
        drop(held);
        let next = got(next).await;
        sleep(Duration::from_secs(5)).await;
        assert!(next.is_held() && other(&store).try_acquire("job").await.unwrap().is_none(), "two holders: {fault:?}");
    }
}

/// Whoever gives it back too late is told what the store knows.
#[tokio::test(start_paused = true)]
async fn what_is_over_is_not_handed_on() {
    const TTL: Duration = Duration::from_secs(2);
    let (lock, _, store) = faulty_with(|b| b.ttl(TTL).renew(Renew::Off));
    let held = lined(&lock).await;
    let next = in_line(&lock, lock.key("job")).await;
    sleep(TTL * 2).await;
    assert_eq!(held.release().await.unwrap(), ReleaseOutcome::AlreadyLost);
    drop(got(next).await);
    left_nothing(&lock, &store).await;
}

#[tokio::test(start_paused = true)]
async fn a_permanent_lock_is_handed_on() {
    let (lock, faults, store) = faulty_with(|b| b.ttl(Ttl::Never));
    let held = lined(&lock).await;
    let asked = faults.count(Op::TryAcquire);
    let next = in_line(&lock, lock.key("job")).await;
    drop(held);
    let next = got(next).await;
    assert_eq!(faults.count(Op::TryAcquire), asked);
    assert_eq!(next.remaining(), Duration::MAX);
    sleep(Duration::from_secs(24 * 3600)).await;
    assert!(next.is_held());
    drop(next);
    left_nothing(&lock, &store).await;
}

/// It is renewed on, whoever has it, and kept for as long as anybody does.
#[tokio::test(start_paused = true)]
async fn what_was_handed_on_is_renewed() {
    let (lock, _, store) = faulty();
    let held = lined(&lock).await;
    let next = in_line(&lock, lock.key("job")).await;
    sleep(Duration::from_secs(100)).await;
    drop(held);
    let next = got(next).await;
    sleep(Duration::from_secs(100)).await;
    assert!(next.is_held() && !other(&store).inspect("job").await.unwrap().is_free());
}

/// Whatever becomes of the renewals between them, nobody is stuck, nobody is in beside another, no token goes back.
#[tokio::test(start_paused = true)]
async fn renewals_that_go_wrong_in_between() {
    const SOON: Duration = Duration::from_millis(20);
    let all = [
        Fault::Refuse,
        Fault::Fatal,
        Fault::LoseReply,
        Fault::DelayRequest(SOON),
        Fault::DelayReply(SOON),
        Fault::Duplicate,
        Fault::Straggle(SOON),
        Fault::Hang,
    ];
    for fault in all {
        for op in [Op::Renew, Op::Release, Op::TryAcquire] {
            if op == Op::TryAcquire && matches!(fault, Fault::Fatal | Fault::Hang) {
                continue; // told to the caller, rightly
            }
            let (lock, faults, store) = faulty_with(|b| b.ttl(Duration::from_secs(5)));
            for skipped in [0, 1, 2, 3] {
                faults.skip(op, skipped);
                faults.next(op, fault);
            }
            let there = other(&store);
            let (mut tasks, fence) = (JoinSet::new(), Arc::default());
            crowd(&mut tasks, &lock, &fence, 6, 20);
            crowd(&mut tasks, &there, &fence, 2, 20);
            let done = timeout(Duration::from_secs(300), tasks.join_all()).await;
            assert!(done.is_ok(), "stuck after {fault:?} on {op:?}");
            until_quiet(&lock).await;
            sleep(Duration::from_secs(120)).await;
            assert_eq!(lock.stats(), Stats::default(), "{fault:?} on {op:?}");
            assert_eq!(other(&store).inspect("job").await.unwrap().waiters, Some(0));
        }
    }
}

/// Each acquisition is told as one, and each hold ends once.
#[tokio::test(start_paused = true)]
async fn the_observer_sees_each_of_them() {
    let seen = Seen::default();
    let (lock, _, _) = faulty_with(|b| b.observer(seen.clone()));
    let (mut tasks, fence) = (JoinSet::new(), Arc::default());
    crowd(&mut tasks, &lock, &fence, 8, 10);
    tasks.join_all().await;
    until_quiet(&lock).await;
    assert_eq!((seen.count("acquired"), seen.count("released"), seen.count("lost")), (80, 80, 0));
    let mut held = false;
    for line in seen.lines() {
        if line.starts_with("acquired") {
            assert!(!std::mem::replace(&mut held, true), "acquired before it was released");
        } else if line.starts_with("released") {
            held = false;
        }
    }
}

/// What this process knows of its own tasks; others see the process.
#[tokio::test(start_paused = true)]
async fn inspecting_sees_who_has_it_now() {
    let (lock, _, store) = faulty();
    let held = lined(&lock).await;
    let first = held.fencing_token();
    let (next, _behind) = (in_line(&lock, lock.key("job")).await, in_line(&lock, lock.key("job")).await);
    assert_eq!(lock.inspect("job").await.unwrap().waiters, Some(2));
    drop(held);
    let next = got(next).await;
    let (here, there) = (lock.inspect("job").await.unwrap(), other(&store).inspect("job").await.unwrap());
    assert_eq!(here.waiters, Some(1));
    assert_eq!(here.holder.unwrap().token, Some(next.fencing_token()));
    assert!(there.holder.unwrap().token <= Some(first));
}

/// Those who give up are told who has it.
#[tokio::test(start_paused = true)]
async fn whoever_gives_up_in_line_names_the_holder() {
    let (lock, _, _) = faulty_with(|b| b.owner_name("here"));
    let _held = lined(&lock).await;
    let error = lock.key("job").wait(Duration::from_secs(2)).acquire().await.unwrap_err();
    assert!(error.is_contended() && error.holder().is_some_and(|holder| holder.owner.name() == "here"), "{error}");
    assert!(lock.try_acquire("job").await.unwrap().is_none());
}
