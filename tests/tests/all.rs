//! Several keys together: all or none.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tasklock::{
    AsyncLock as _, FileLock, LockError, Locker, LossReason, MemoryLock, OnLost, ReleaseOutcome, Stats, Wait, current,
    testing::{self, Fault, Faults, Faulty, Op, poll_times, until_quiet},
};
use tasklock_tests::{
    cancellation::{FAULTS, drop_everywhere_in_memory, plan},
    faulty, is_lost,
    local::{files, is_free},
    other,
    servers::Folder,
};
use tokio::task::JoinSet;

const S: fn(u64) -> Duration = Duration::from_secs;
const MS: fn(u64) -> Duration = Duration::from_millis;

fn names(guards: &tasklock::Guards) -> Vec<String> {
    guards.iter().map(|guard| guard.key().name().to_owned()).collect()
}

#[tokio::test]
async fn sorted_and_each_once() {
    let lock = Locker::new(MemoryLock::new()).unwrap();
    let guards = lock.all(["c", "a", "c", "b"]).unwrap().acquire().await.unwrap();
    assert_eq!(names(&guards), ["a", "b", "c"]);
    assert_eq!((guards.len(), lock.stats().held), (3, 3));
    assert!(guards.is_held() && guards.check().is_ok() && guards.remaining() > S(20));
    let tokens: Vec<_> = guards.iter().map(|guard| guard.fencing_token()).collect();
    assert!(tokens.iter().all(|token| *token != tasklock::FencingToken::NONE));
    assert_eq!(guards.release().await.unwrap(), ReleaseOutcome::Released);
    assert_eq!(lock.stats(), Stats::default());
    let none = lock.all(Vec::<&str>::new()).unwrap_err();
    assert_eq!(none.to_string(), "keys = 0: there is at least 1");
    assert!(matches!(lock.all(["a", ""]), Err(LockError::InvalidKey(_))));
    let short = lock.all(["a"]).unwrap().ttl(MS(1));
    assert!(matches!(short.acquire().await, Err(LockError::InvalidOption(_))));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_held_keeps_all() {
    let (lock, _, store) = faulty();
    let held = other(&store).acquire("b").await.unwrap();
    let all = lock.all(["c", "b", "a"]).unwrap();
    assert!(all.try_acquire().await.unwrap().is_none());
    // What was taken by then is given back in the background.
    until_quiet(&lock).await;
    let error = all.clone().wait(Wait::Try).acquire().await.unwrap_err();
    assert!(matches!(&error, LockError::Held { key, holder: Some(_) } if key.name() == "b"), "{error}");
    until_quiet(&lock).await;
    assert_eq!((store.len(), lock.stats().held), (1, 0), "only b is held");
    drop(held);
    assert_eq!(names(&all.try_acquire().await.unwrap().unwrap()), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn one_time_for_all() {
    let (lock, _, store) = faulty();
    let (first, _second) = (other(&store).acquire("a").await.unwrap(), other(&store).acquire("b").await.unwrap());
    let all = lock.all(["a", "b"]).unwrap().wait(S(3));
    let waiting = tokio::spawn(async move { all.acquire().await.map(drop) });
    tokio::time::sleep(S(2)).await;
    drop(first);
    let error = waiting.await.unwrap().unwrap_err();
    let LockError::Timeout { key, waited, holder: Some(_) } = error else { panic!("{error}") };
    assert!(key.name() == "b" && waited >= S(3) && waited < MS(3_100), "{key} {waited:?}");
    until_quiet(&lock).await;
    assert_eq!(store.len(), 1, "a was given back");
}

/// Whoever names the same keys, in whatever order, gets on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn different_orders_do_not_deadlock() {
    let store = MemoryLock::new();
    let mut tasks = JoinSet::new();
    for task in 0..6 {
        let lock = other(&store);
        tasks.spawn(async move {
            let mut keys = ["a", "b", "c", "d"];
            keys.rotate_left(task % 4);
            let all = lock.all(keys[..2 + task % 3].iter().copied()).unwrap();
            for _ in 0..50 {
                let guards = all.acquire().await.unwrap();
                tokio::task::yield_now().await;
                assert!(guards.is_held());
                if task % 2 == 0 {
                    guards.release().await.unwrap();
                }
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert!(store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_part_can_be_given_back_before_the_rest() {
    let (lock, _, store) = faulty();
    let mut guards = lock.all(["a", "b", "c"]).unwrap().acquire().await.unwrap();
    assert!(guards.get("b").is_some() && guards.take("x").is_none());
    guards.take("b").unwrap().release().await.unwrap();
    assert_eq!((names(&guards), store.len()), (vec!["a".to_owned(), "c".to_owned()], 2));
    let other = other(&store).try_acquire("b").await.unwrap();
    assert!(other.is_some() && guards.is_held(), "one given back, the others held");
    testing::lose(&lock, "c", LossReason::Expired);
    assert_eq!(guards.release().await.unwrap(), ReleaseOutcome::AlreadyLost);
    drop(other);
    until_quiet(&lock).await;
    assert!(store.is_empty(), "one that was lost keeps the others");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_lost_is_all_that_is_lost() {
    let (lock, _, store) = faulty();
    let all = lock.all(["a", "b", "c"]).unwrap();
    let guards = all.acquire().await.unwrap();
    assert!(poll_times(pin!(guards.lost()), 2).await.is_none());
    testing::lose(&lock, "b", LossReason::Expired);
    let (key, reason) = guards.lost().await;
    assert_eq!((key.name(), reason), ("b", LossReason::Expired));
    assert!(!guards.is_held() && guards.remaining() == Duration::ZERO);
    assert!(is_lost(&guards.check(), LossReason::Expired));
    drop(guards);
    until_quiet(&lock).await;

    let body = all.synchronized(std::future::pending::<()>());
    let thief = async {
        while testing::lose(&lock, "c", LossReason::Expired) == 0 {
            tokio::task::yield_now().await;
        }
    };
    let (outcome, ()) = tokio::join!(body, thief);
    assert!(is_lost(&outcome, LossReason::Expired), "{outcome:?}");
    until_quiet(&lock).await;
    assert!(store.is_empty());
    let to_finish = all.on_lost(OnLost::Finish);
    let finished = to_finish.synchronized(async {
        testing::lose(&lock, "a", LossReason::Expired);
        7
    });
    assert_eq!(finished.await.unwrap(), 7);
}

/// What was taken is lost while the rest is waited for: they were never held together.
#[tokio::test(start_paused = true)]
async fn one_that_is_lost_meanwhile_ends_the_wait() {
    let (lock, _, store) = faulty();
    let _held = other(&store).acquire("b").await.unwrap();
    let all = lock.all(["a", "b"]).unwrap();
    let thief = async {
        while testing::lose(&lock, "a", LossReason::Expired) == 0 {
            tokio::task::yield_now().await;
        }
    };
    let (outcome, ()) = tokio::join!(all.acquire(), thief);
    assert!(is_lost(&outcome, LossReason::Expired), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn bodies_know_what_they_hold() {
    let lock = Locker::new(MemoryLock::new()).unwrap();
    let inside = lock.all(["a", "b"]).unwrap();
    let inside = inside.synchronized(async {
        assert_eq!(current().unwrap().key().name(), "b");
        for key in ["a", "b"] {
            assert!(matches!(lock.acquire(key).await, Err(LockError::WouldDeadlock { .. })), "{key}");
        }
        let more = lock.all(["b", "c"]).unwrap();
        assert!(matches!(more.acquire().await, Err(LockError::WouldDeadlock { key }) if key.name() == "b"));
        assert!(more.try_acquire().await.unwrap().is_none());
        lock.acquire("c").await.unwrap().fencing_token()
    });
    inside.await.unwrap();
    assert!(current().is_none());
    assert_eq!(lock.stats(), Stats::default());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_the_wait() {
    let (lock, _, store) = faulty();
    let _held = other(&store).acquire("b").await.unwrap();
    let all = lock.all(["a", "b"]).unwrap();
    let (outcome, drained) = tokio::join!(all.acquire(), async {
        tokio::time::sleep(S(1)).await;
        lock.shutdown().await
    });
    assert!(outcome.is_err(), "{outcome:?}");
    drop(outcome);
    assert_eq!(drained.lost, 1, "a was held");
    assert!(matches!(all.acquire().await, Err(LockError::ShutDown)));
    assert_eq!(store.len(), 1, "a was given back");
}

/// Dropped after every number of polls, with one of them free, held, or released meanwhile.
#[tokio::test(start_paused = true)]
async fn dropped_anywhere_they_leave_nothing() {
    let keys = ["a", "b", "c"];
    for held in [&[][..], &["a"], &["b"], &["c"]] {
        let acquire = async |lock: &Locker| lock.all(keys).unwrap().acquire().await;
        drop_everywhere_in_memory(Op::TryAcquire, held, acquire).await;
    }
}

/// A locker on files, whose backend takes several in one step.
fn in_one_step(folder: &Folder) -> (Locker, Faults, FileLock) {
    let store = files(folder.path());
    let (backend, faults) = Faulty::new(store.clone());
    assert!(backend.powers().many.is_some());
    (Locker::new(backend).unwrap(), faults, store)
}

#[tokio::test(start_paused = true)]
async fn in_one_step_where_the_backend_can() {
    let folder = Folder::new();
    let (lock, faults, store) = in_one_step(&folder);
    let all = lock.all(["c", "a", "b"]).unwrap();
    let guards = all.acquire().await.unwrap();
    assert_eq!(names(&guards), ["a", "b", "c"]);
    assert_eq!((faults.count(Op::TryAcquireAll), faults.count(Op::TryAcquire)), (3, 0), "one step for three nonces");
    let there = Locker::new(store).unwrap();
    for key in ["a", "b", "c"] {
        assert!(there.try_acquire(key).await.unwrap().is_none());
    }
    // Each is renewed, and released, by itself.
    tokio::time::sleep(S(40)).await;
    assert!(guards.is_held());
    guards.release().await.unwrap();
    assert!(is_free(folder.path()));

    // Held by somebody else: a try is one step, a wait goes on one by one.
    let held = there.acquire("b").await.unwrap();
    assert!(all.try_acquire().await.unwrap().is_none());
    assert_eq!(faults.count(Op::TryAcquire), 0);
    let (guards, ()) = tokio::join!(all.acquire(), async {
        tokio::time::sleep(S(1)).await;
        drop(held);
    });
    assert!(guards.unwrap().is_held() && faults.count(Op::TryAcquire) >= 3);
}

/// A step takes no place in line: it passes nobody of its process who stands in one.
#[tokio::test(start_paused = true)]
async fn a_step_passes_nobody_in_line() {
    let folder = Folder::new();
    let (lock, faults, store) = in_one_step(&folder);
    let there = Locker::new(store).unwrap();
    let held = there.acquire("b").await.unwrap();
    let (order, mut ordered) = tokio::sync::mpsc::unbounded_channel();
    let first = tokio::spawn({
        let (lock, order) = (lock.clone(), order.clone());
        async move {
            let guard = lock.acquire("b").await.unwrap();
            order.send("first").unwrap();
            guard.release().await.unwrap();
        }
    });
    while faults.count(Op::TryAcquire) == 0 {
        tokio::task::yield_now().await;
    }
    // Time is paused: it has been answered by then, and not asked again.
    tokio::time::sleep(MS(1)).await;
    held.release().await.unwrap();
    // Free, and the one in line has not asked again yet.
    let guards = lock.all(["a", "b"]).unwrap().acquire().await.unwrap();
    order.send("all").unwrap();
    drop(guards);
    first.await.unwrap();
    assert_eq!((ordered.recv().await, ordered.recv().await), (Some("first"), Some("all")));
}

/// Nor is it passed for ever by those who want single keys: where it has to wait, it stands in line, too.
#[tokio::test(start_paused = true)]
async fn who_wants_several_is_not_starved_by_those_who_want_one() {
    let folder = Folder::new();
    let (lock, faults, _) = in_one_step(&folder);
    let (granted, mut tasks) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for key in ["a", "b"] {
        for _ in 0..3 {
            let (lock, granted) = (lock.clone(), granted.clone());
            tasks.spawn(async move {
                loop {
                    let _guard = lock.acquire(key).await.unwrap();
                    granted.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(MS(1)).await;
                }
            });
        }
    }
    while granted.load(Ordering::Relaxed) < 20 {
        tokio::time::sleep(MS(1)).await;
    }
    let before = granted.load(Ordering::Relaxed);
    let guards = lock.all(["a", "b"]).unwrap().acquire().await.unwrap();
    // Those who stand before it at the one, and at the other; and who gets that one meanwhile.
    let passed = granted.load(Ordering::Relaxed) - before;
    assert!(passed <= 30, "{passed} went before, {} steps", faults.count(Op::TryAcquireAll));
    drop(guards);
    tasks.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_step_whose_reply_is_lost_is_asked_again() {
    let folder = Folder::new();
    let (lock, faults, _) = in_one_step(&folder);
    for fault in [Fault::LoseReply, Fault::Refuse, Fault::Straggle(MS(20))] {
        let before = faults.count(Op::TryAcquireAll);
        faults.next(Op::TryAcquireAll, fault);
        let guards = lock.all(["a", "b"]).unwrap().acquire().await.unwrap();
        let calls = faults.calls();
        let asked: Vec<_> = calls.iter().filter(|call| call.op == Op::TryAcquireAll).skip(before).collect();
        assert_eq!(asked[..2], asked[2..], "by the same nonces: {fault:?}");
        drop(guards);
        until_quiet(&lock).await;
        tokio::time::sleep(MS(100)).await;
        assert!(is_free(folder.path()), "{fault:?}");
    }
    faults.always(Op::TryAcquireAll, Fault::Refuse);
    for wait in [Wait::Try, Wait::Forever] {
        let outcome = lock.all(["a", "b"]).unwrap().wait(wait).acquire().await;
        assert!(matches!(outcome, Err(LockError::Backend(_))), "{outcome:?}");
    }
    faults.always(Op::TryAcquireAll, Fault::Hang);
    let outcome = lock.all(["a", "b"]).unwrap().wait(S(2)).acquire().await;
    assert!(matches!(outcome, Err(LockError::Backend(_))), "an outage is not contention: {outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_step_that_is_granted_too_late_begins_anew() {
    let folder = Folder::new();
    let (lock, faults, _) = in_one_step(&folder);
    faults.next(Op::TryAcquireAll, Fault::DelayReply(S(3)));
    let guards = lock.all(["a", "b"]).unwrap().ttl(S(2)).acquire().await.unwrap();
    assert!(guards.is_held() && guards.remaining() > MS(1_500), "{:?}", guards.remaining());
    assert_eq!(faults.count(Op::TryAcquireAll), 4, "two times two");
    drop(guards);
    until_quiet(&lock).await;
    assert!(is_free(folder.path()));
}

/// A try that finds what it was granted itself does not say that somebody has it.
#[tokio::test(start_paused = true)]
async fn what_was_granted_too_late_is_nobody_elses() {
    let folder = Folder::new();
    let (lock, faults, _) = in_one_step(&folder);
    faults.always(Op::Release, Fault::DelayRequest(S(1)));
    faults.next(Op::TryAcquireAll, Fault::DelayReply(S(3)));
    let tried = lock.all(["a", "b"]).unwrap().ttl(S(2)).try_acquire().await;
    assert!(!matches!(tried, Ok(None)), "held, as if by another");
    faults.next(Op::TryAcquire, Fault::DelayReply(S(3)));
    let tried = lock.key("c").ttl(S(2)).try_acquire().await;
    assert!(!matches!(tried, Ok(None)), "held, as if by another");
}

/// The step is driven to its answer, and what it took is given back.
#[tokio::test(start_paused = true)]
async fn a_step_dropped_anywhere_leaves_nothing() {
    for fault in FAULTS {
        for polls in 0..60 {
            let folder = Folder::new();
            let (lock, faults, _) = in_one_step(&folder);
            plan(&faults, Op::TryAcquireAll, fault);
            let outcome = poll_times(pin!(lock.all(["a", "b"]).unwrap().acquire()), polls).await;
            let done = outcome.map(|outcome| drop(outcome.unwrap())).is_some();
            until_quiet(&lock).await;
            // Time is paused: what was to come has come.
            tokio::time::sleep(MS(100)).await;
            assert!(is_free(folder.path()), "{fault:?} {polls}");
            assert_eq!(lock.stats(), Stats::default(), "{fault:?} {polls}");
            if done {
                break;
            }
            assert!(polls < 59, "never done");
        }
    }
}
