//! Locks that their owner may take again.

use std::{pin::pin, sync::Arc, time::Duration};

use tasklock::{
    LockError, Locker, LossReason, MemoryLock, ReleaseOutcome, Stats, Wait, current,
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

/// They meet in one acquisition: it is for all of them.
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

/// The one that asks for all is dropped: another goes on.
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

#[tokio::test(start_paused = true)]
async fn dropped_anywhere_it_leaves_nothing() {
    for held in [&[][..], &["job"]] {
        let acquire = async |lock: &Locker| lock.reentrant("job", "me").unwrap().acquire().await;
        drop_everywhere_in_memory(Op::TryAcquire, held, acquire).await;
    }
}

/// Who waits for an acquisition of its own owner is told what became of it, and has had the same patience.
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
