//! Locks that their owner may take again.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tasklock::{
    Fairness, LockError, Locker, LossReason, MemoryLock, ReleaseOutcome, Stats, Wait, current,
    testing::{self, Fault, Op, poll_times, until_quiet},
};
use tasklock_tests::{cancellation::drop_everywhere_in_memory, faulty, is_lost, other};
use tokio::{
    sync::Barrier,
    task::JoinSet,
    time::{Instant, timeout},
};

const S: fn(u64) -> Duration = Duration::from_secs;
const MS: fn(u64) -> Duration = Duration::from_millis;

#[tokio::test(start_paused = true)]
async fn the_last_guard_gives_it_back() {
    let (lock, faults, store) = faulty();
    let mine = lock.reentrant("job", "me").unwrap();
    let outer = mine.acquire().await.unwrap();
    let inner = lock.clone().reentrant("job", "me").unwrap().try_acquire().await.unwrap().unwrap();
    assert_eq!((outer.count(), inner.count()), (2, 2));
    assert_eq!(outer.fencing_token(), inner.fencing_token(), "one grant, one token");
    assert_eq!(faults.count(Op::TryAcquire), 1, "nobody was asked again");
    assert_eq!(other(&store).inspect("job").await.unwrap().holder.unwrap().owner.name(), "me");
    assert_eq!(outer.release().await.unwrap(), None);
    assert!(inner.is_held() && faults.count(Op::Release) == 0);
    assert_eq!(inner.release().await.unwrap(), Some(ReleaseOutcome::Released));
    assert!(store.is_empty());
    let (outer, inner) = (mine.acquire().await.unwrap(), mine.acquire().await.unwrap());
    drop(inner);
    until_quiet(&lock).await;
    assert_eq!(store.len(), 1);
    drop(outer);
    until_quiet(&lock).await;
    assert!(store.is_empty());
    assert_eq!(lock.stats(), Stats::default());
}

#[tokio::test(start_paused = true)]
async fn another_owner_waits() {
    let (lock, _, store) = faulty();
    let mine = lock.reentrant("job", "me").unwrap().acquire().await.unwrap();
    let yours = lock.reentrant("job", "you").unwrap();
    assert!(yours.try_acquire().await.unwrap().is_none());
    let error = yours.clone().wait(S(2)).acquire().await.unwrap_err();
    assert!(matches!(&error, LockError::Timeout { holder: Some(by), .. } if by.owner.name() == "me"), "{error}");
    assert!(lock.try_acquire("job").await.unwrap().is_none(), "nor is it free for those without an owner");
    let elsewhere = other(&store).reentrant("job", "me").unwrap();
    assert!(elsewhere.try_acquire().await.unwrap().is_none(), "the count is local");
    let mut waiting = pin!(yours.acquire());
    assert!(timeout(S(1), waiting.as_mut()).await.is_err());
    drop(mine);
    drop(waiting.await.unwrap());
}

#[tokio::test]
async fn bad_input_is_told() {
    let lock = Locker::new(MemoryLock::new()).unwrap();
    let nobody = lock.reentrant("job", "").unwrap_err();
    assert_eq!(nobody.to_string(), "owner = 0: it has 1 to 512 bytes");
    assert!(matches!(lock.reentrant("job", "x".repeat(513)), Err(LockError::InvalidOption(_))));
    assert!(matches!(lock.reentrant("", "me"), Err(LockError::InvalidKey(_))));
    let short = lock.reentrant("job", "me").unwrap().ttl(MS(1));
    assert!(matches!(short.acquire().await, Err(LockError::InvalidOption(_))));
}

/// What one of them is granted is for all of them.
#[tokio::test(start_paused = true)]
async fn tasks_of_one_owner_enter_together() {
    let (lock, faults, store) = faulty();
    let blocker = other(&store).acquire("job").await.unwrap();
    let (mine, all) = (lock.reentrant("job", "me").unwrap(), Arc::new(Barrier::new(8)));
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let (mine, all) = (mine.clone(), all.clone());
        tasks.spawn(async move {
            let guard = mine.acquire().await.unwrap();
            all.wait().await;
            guard.fencing_token()
        });
    }
    while other(&store).inspect("job").await.unwrap().waiters != Some(1) {
        tokio::task::yield_now().await;
    }
    // One that has little time has it while others of its owner wait, too.
    assert!(mine.try_acquire().await.unwrap().is_none());
    let outcome = mine.clone().wait(S(1)).acquire().await;
    assert!(matches!(outcome, Err(LockError::Timeout { waited, .. }) if waited >= S(1)), "{outcome:?}");
    drop(blocker);
    let mut tokens = Vec::new();
    while let Some(token) = tasks.join_next().await {
        tokens.push(token.unwrap());
    }
    tokens.dedup();
    assert_eq!(tokens.len(), 1);
    until_quiet(&lock).await;
    assert!(store.is_empty());
    assert_eq!(faults.count(Op::Release), 1);
}

/// The one in front is dropped: the next goes on.
#[tokio::test(start_paused = true)]
async fn one_that_is_dropped_is_replaced() {
    let (lock, _, store) = faulty();
    let blocker = other(&store).acquire("job").await.unwrap();
    let mine = lock.reentrant("job", "me").unwrap();
    let mut second = Box::pin(mine.acquire());
    {
        let mut first = pin!(mine.acquire());
        assert!(poll_times(first.as_mut(), 2).await.is_none());
        assert!(poll_times(second.as_mut(), 2).await.is_none());
    }
    drop(blocker);
    drop(timeout(S(60), second).await.unwrap().unwrap());
    until_quiet(&lock).await;
    assert!(store.is_empty());
    assert_eq!(lock.stats(), Stats::default());
}

/// An acquisition that is begun and left keeps none of its owner from the lock, and enters when it goes on.
#[tokio::test(start_paused = true)]
async fn one_that_hangs_does_not_stall_its_owner() {
    let (lock, _, store) = faulty();
    let blocker = other(&store).acquire("job").await.unwrap();
    let mine = lock.reentrant("job", "me").unwrap();
    let mut left = Box::pin(mine.acquire());
    assert!(poll_times(left.as_mut(), 1).await.is_none());
    drop(blocker);
    let guard = timeout(S(60), mine.acquire()).await.expect("the lock is free").unwrap();
    let late = timeout(S(60), left).await.expect("this owner's").unwrap();
    assert_eq!((guard.count(), late.fencing_token()), (2, guard.fencing_token()));
    drop((guard, late));
    until_quiet(&lock).await;
    assert!(store.is_empty());
    assert_eq!(lock.stats(), Stats::default());
}

/// A try of the owner that holds the lock gets in, whatever the others of this owner are at.
#[tokio::test(start_paused = true)]
async fn a_try_enters_what_is_its_owners() {
    let lock = Locker::new(MemoryLock::new()).unwrap();
    let blocker = lock.acquire("job").await.unwrap();
    let mine = lock.reentrant("job", "me").unwrap();
    let mut first = Box::pin(mine.acquire());
    let mut second = Box::pin(mine.acquire());
    assert!(poll_times(first.as_mut(), 1).await.is_none());
    assert!(poll_times(second.as_mut(), 1).await.is_none());
    drop(blocker);
    let first = first.await.unwrap();
    // The second is about to enter.
    let third = mine.try_acquire().await.unwrap().expect("this owner's");
    assert_eq!(third.fencing_token(), first.fencing_token());
    let ran = mine.synchronized_if_free_with(async |lease| lease.fencing_token()).await.unwrap();
    assert_eq!(ran, Some(first.fencing_token()));
    assert_eq!(second.await.unwrap().fencing_token(), first.fencing_token());
}

/// While its owner is at acquiring the lock, a try asks for itself, and what it gets is for both.
#[tokio::test(start_paused = true)]
async fn a_try_does_not_wait_for_its_owner() {
    let (lock, faults, store) = faulty();
    let mine = lock.reentrant("job", "me").unwrap();
    faults.next(Op::TryAcquire, Fault::DelayRequest(S(5)));
    let start = Instant::now();
    let mut slow = Box::pin(mine.acquire());
    assert!(poll_times(slow.as_mut(), 1).await.is_none());
    let quick = mine.try_acquire().await.unwrap().expect("it is free");
    let slow = slow.await.unwrap();
    assert_eq!((slow.count(), slow.fencing_token()), (2, quick.fencing_token()));
    assert!(start.elapsed() < S(1), "{:?}", start.elapsed());
    // What was on its way is taken back.
    until_quiet(&lock).await;
    assert!(quick.is_held() && other(&store).inspect("job").await.unwrap().waiters == Some(0));
    drop((slow, quick));
    until_quiet(&lock).await;
    assert!(store.is_empty());
}

/// One that hears of a guard when it has gone again has kept its place.
#[tokio::test(start_paused = true)]
async fn a_guard_that_has_gone_again_costs_no_place() {
    let (lock, _, store) = faulty();
    let blocker = other(&store).acquire("job").await.unwrap();
    let mine = lock.reentrant("job", "me").unwrap();
    let (mut first, mut second) = (Box::pin(mine.acquire()), Box::pin(mine.acquire()));
    let mut behind = Box::pin(lock.acquire("job"));
    assert!(poll_times(first.as_mut(), 2).await.is_none());
    assert!(poll_times(second.as_mut(), 2).await.is_none());
    assert!(poll_times(behind.as_mut(), 2).await.is_none());
    drop(blocker);
    let first = first.await.unwrap();
    let one = first.fencing_token();
    first.release().await.unwrap();
    let second = timeout(S(1), second).await.expect("its turn").unwrap();
    let two = second.fencing_token();
    drop(second);
    let three = timeout(S(1), behind).await.expect("its turn").unwrap().fencing_token();
    assert!(one < two && two < three, "{one} {two} {three}");
}

/// With many tasks each, entering and leaving all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_with_many_tasks_exclude_each_other() {
    for fairness in [Fairness::Bounded, Fairness::Strict] {
        let lock = Locker::builder(MemoryLock::new()).fairness(fairness).build().unwrap();
        let inside: Arc<[AtomicUsize; 2]> = Arc::default();
        let mut tasks = JoinSet::new();
        for task in 0..8 {
            let (me, inside) = (task % 2, inside.clone());
            let mine = lock.reentrant("job", ["me", "you"][me]).unwrap();
            tasks.spawn(async move {
                for _ in 0..200 {
                    let guard = mine.acquire().await.unwrap();
                    inside[me].fetch_add(1, Ordering::SeqCst);
                    assert_eq!(inside[1 - me].load(Ordering::SeqCst), 0, "both are in");
                    tokio::task::yield_now().await;
                    assert!(mine.try_acquire().await.unwrap().is_some(), "this owner's");
                    inside[me].fetch_sub(1, Ordering::SeqCst);
                    drop(guard);
                }
            });
        }
        while let Some(task) = timeout(S(60), tasks.join_next()).await.expect("all get on") {
            task.unwrap();
        }
        until_quiet(&lock).await;
        assert_eq!(lock.stats(), Stats::default());
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_anywhere_it_leaves_nothing() {
    for held in [&[][..], &["job"]] {
        let acquire = async |lock: &Locker| lock.reentrant("job", "me").unwrap().acquire().await;
        drop_everywhere_in_memory(Op::TryAcquire, held, acquire).await;
    }
}

/// Who stands behind another of its own owner has had the same patience.
#[tokio::test(start_paused = true)]
async fn an_outage_is_not_contention_to_the_same_owner_either() {
    for wait in [Wait::For(S(2)), Wait::Forever] {
        let (lock, faults, _) = faulty();
        faults.always(Op::TryAcquire, Fault::Refuse);
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let mine = lock.reentrant("job", "me").unwrap().wait(wait);
            tasks.spawn(async move { mine.acquire().await.map(drop) });
        }
        for outcome in tasks.join_all().await {
            assert!(matches!(&outcome, Err(LockError::Backend(error)) if error.is_retryable()), "{outcome:?}");
        }
        assert!(start.elapsed() < S(13), "one patience after the other: {:?}", start.elapsed());
        faults.clear();
        assert!(lock.reentrant("job", "me").unwrap().acquire().await.unwrap().is_held());
    }
}

/// They have one lease: who extends it does so for all.
#[tokio::test(start_paused = true)]
async fn extended_by_one_it_is_extended_for_all() {
    let (lock, faults, store) = faulty();
    let mine = lock.reentrant("job", "me").unwrap();
    let (outer, inner) = (mine.acquire().await.unwrap(), mine.acquire().await.unwrap());
    assert!(outer.remaining() <= S(30));
    inner.extend(S(300)).await.unwrap();
    assert!(outer.remaining() > S(290));
    inner.update("half done", S(60)).await.unwrap();
    assert!(outer.remaining() > S(50) && outer.remaining() <= S(60));
    assert_eq!(other(&store).value("job").unwrap().get().await.unwrap().as_deref(), Some("half done"));
    assert_eq!(faults.count(Op::Renew), 2);
    assert!(matches!(outer.extend(MS(1)).await, Err(LockError::InvalidOption(_))));
    testing::lose(&lock, "job", LossReason::Stolen);
    assert!(is_lost(&outer.extend(S(300)).await, LossReason::Stolen));
    assert!(is_lost(&outer.update("done", S(60)).await, LossReason::Stolen));
}

/// Nobody enters a lease that is lost; when its guards are gone, it is acquired anew.
#[tokio::test(start_paused = true)]
async fn what_is_lost_is_lost_to_all() {
    let lock = Locker::new(MemoryLock::new()).unwrap();
    let mine = lock.reentrant("job", "me").unwrap();
    let (outer, inner) = (mine.acquire().await.unwrap(), mine.acquire().await.unwrap());
    testing::lose(&lock, "job", LossReason::Stolen);
    assert!(!outer.is_held() && !inner.is_held());
    assert!(is_lost(&mine.acquire().await, LossReason::Stolen));
    assert_eq!(outer.release().await.unwrap(), None);
    assert_eq!(inner.release().await.unwrap(), Some(ReleaseOutcome::AlreadyLost));
    let again = mine.acquire().await.unwrap();
    assert!(again.is_held() && again.count() == 1);
}

/// Nor does one that was told of it too late.
#[tokio::test(start_paused = true)]
async fn what_is_lost_is_lost_to_those_who_wait() {
    let lock = Locker::new(MemoryLock::new()).unwrap();
    let blocker = lock.acquire("job").await.unwrap();
    let mine = lock.reentrant("job", "me").unwrap();
    let (mut first, mut second) = (Box::pin(mine.acquire()), Box::pin(mine.acquire()));
    assert!(poll_times(first.as_mut(), 1).await.is_none());
    assert!(poll_times(second.as_mut(), 1).await.is_none());
    drop(blocker);
    let first = first.await.unwrap();
    testing::lose(&lock, "job", LossReason::Stolen);
    assert!(is_lost(&second.await, LossReason::Stolen));
    drop(first);
    assert!(mine.acquire().await.unwrap().is_held());
}

/// A loop over a lock that is entered again and again lets other tasks run.
#[tokio::test]
async fn entering_yields_now_and_then() {
    let lock = Locker::new(MemoryLock::new()).unwrap();
    let mine = lock.reentrant("job", "me").unwrap();
    let _outer = mine.acquire().await.unwrap();
    let other = tokio::spawn(async {});
    for _ in 0..10_000 {
        drop(mine.acquire().await.unwrap());
    }
    assert!(other.is_finished());
}

#[tokio::test(start_paused = true)]
async fn bodies_enter_again_and_others_are_told() {
    let lock = Locker::new(MemoryLock::new()).unwrap();
    let mine = lock.reentrant("job", "me").unwrap();
    let value = mine.synchronized(async {
        let outer = current().unwrap().fencing_token();
        let inner = mine.synchronized(async { current().unwrap().fencing_token() }).await.unwrap();
        assert_eq!(outer, inner);
        let without = lock.acquire("job").await;
        assert!(matches!(without, Err(LockError::WouldDeadlock { .. })), "{without:?}");
        let yours = lock.reentrant("job", "you").unwrap().acquire().await;
        assert!(matches!(yours, Err(LockError::WouldDeadlock { .. })), "{yours:?}");
        7
    });
    assert_eq!(value.await.unwrap(), 7);
    assert_eq!(lock.stats(), Stats::default());
}
