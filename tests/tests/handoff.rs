//! A lock that goes from task to task within a process: what the store sees of it, and what others do.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tasklock::{
    Fairness, Guard, KeyLock, LockError, Locker, LossReason, MemoryLock, ReleaseOutcome, Renew, Stats, Ttl,
    testing::{self, Fault, Faults, Op, poll_times, until_quiet},
};
use tasklock_tests::{Seen, faulty, faulty_with, is_lost, load::crowd, other};
use tokio::{
    task::{JoinHandle, JoinSet, yield_now},
    time::{sleep, timeout},
};

/// How many tokens are reserved at most, how many are handed on once others wait, and some for who comes between.
const MOST_BEFORE_OTHERS: usize = 1024 + 64 + 8;

/// A task of this locker that waits for the key in line.
async fn in_line(lock: &Locker, key: KeyLock) -> JoinHandle<Result<Guard, LockError>> {
    let name = "job";
    let before = lock.inspect(name).await.unwrap().waiters;
    let task = tokio::spawn(async move { key.acquire().await });
    while lock.inspect(name).await.unwrap().waiters <= before {
        yield_now().await;
    }
    task
}

/// What a task in line waited for.
async fn got(task: JoinHandle<Result<Guard, LockError>>) -> Guard {
    task.await.unwrap().unwrap()
}

async fn left_nothing(lock: &Locker, store: &MemoryLock) {
    until_quiet(lock).await;
    assert_eq!(lock.stats(), Stats::default());
    assert!(store.is_empty(), "{store:?}");
}

/// A guard acquired in line, so that it can be handed on, whatever the backend does in the uncontended case.
async fn lined(lock: &Locker) -> Guard {
    let gate = lock.acquire("job").await.unwrap();
    let task = in_line(lock, lock.key("job")).await;
    drop(gate);
    got(task).await
}

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
        for _ in 0..1_500 {
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
