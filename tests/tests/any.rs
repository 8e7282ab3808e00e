//! Whichever key is free.

use std::{collections::HashSet, pin::pin, time::Duration};

use tasklock::{
    LockError, Locker, MemoryLock, Wait,
    testing::{Fault, Op, until_quiet},
};
use tasklock_tests::{Seen, cancellation::drop_everywhere_in_memory, faulty, faulty_with, other};
use tokio::time::{Instant, timeout};

const S: fn(u64) -> Duration = Duration::from_secs;
const MS: fn(u64) -> Duration = Duration::from_millis;

#[tokio::test]
async fn each_worker_has_a_job_of_its_own() {
    let store = MemoryLock::new();
    let (here, there) = (other(&store), other(&store));
    let mut held = Vec::new();
    for turn in 0..4 {
        let worker = if turn % 2 == 0 { &here } else { &there };
        held.push(worker.any(["a", "b", "c", "d"]).unwrap().acquire().await.unwrap());
    }
    let names: HashSet<_> = held.iter().map(|guard| guard.key().name().to_owned()).collect();
    assert_eq!(names.len(), 4);
    let any = here.any(["a", "b", "c", "d"]).unwrap();
    assert!(any.try_acquire().await.unwrap().is_none());
    assert!(matches!(any.clone().wait(Wait::Try).acquire().await, Err(LockError::Held { holder: Some(_), .. })));
    let free = held.pop().unwrap();
    let name = free.key().name().to_owned();
    drop(free);
    let found = any.synchronized_with(|lease| async move { lease.key().name().to_owned() }).await.unwrap();
    assert_eq!(found, name);
    assert!(matches!(here.any(Vec::<&str>::new()), Err(LockError::InvalidOption(_))));
    assert!(matches!(here.any(["a", ""]), Err(LockError::InvalidKey(_))));
    let short = here.any(["x"]).unwrap().ttl(MS(1));
    assert!(matches!(short.try_acquire().await, Err(LockError::InvalidOption(_))));
}

/// Those who have the same list do not all begin with its first.
#[tokio::test]
async fn each_call_begins_elsewhere() {
    let lock = Locker::new(MemoryLock::new()).unwrap();
    let any = lock.any(["a", "b", "c", "d"]).unwrap();
    let mut first = HashSet::new();
    for _ in 0..200 {
        first.insert(any.acquire().await.unwrap().key().name().to_owned());
    }
    assert_eq!(first.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_first_to_be_free_is_taken_and_no_place_kept() {
    let (lock, _, store) = faulty();
    let there = other(&store);
    let held =
        [there.acquire("a").await.unwrap(), there.acquire("b").await.unwrap(), there.acquire("c").await.unwrap()];
    let any = lock.any(["a", "b", "c"]).unwrap();
    let mut waiting = pin!(any.acquire());
    assert!(timeout(S(5), waiting.as_mut()).await.is_err());
    for key in ["a", "b", "c"] {
        assert_eq!(there.inspect(key).await.unwrap().waiters, Some(1), "{key}");
    }
    let [_a, b, _c] = held;
    b.release().await.unwrap();
    let guard = waiting.await.unwrap();
    assert_eq!(guard.key().name(), "b");
    until_quiet(&lock).await;
    for key in ["a", "b", "c"] {
        assert_eq!(there.inspect(key).await.unwrap().waiters, Some(0), "{key}");
    }
}

/// Waiting for many neither polls without a pause nor forgets the last of them.
#[tokio::test(start_paused = true)]
async fn hundreds_can_be_waited_for() {
    let (lock, faults, store) = faulty();
    let there = other(&store);
    let keys: Vec<String> = (0..300).map(|n| format!("job:{n}")).collect();
    let mut held = Vec::new();
    for key in &keys {
        held.push(Some(there.acquire(key).await.unwrap()));
    }
    let any = lock.any(&keys).unwrap();
    let outcome = any.clone().wait(S(10)).acquire().await;
    assert!(
        matches!(outcome, Err(LockError::Timeout { waited, holder: Some(_), .. }) if waited >= S(10)),
        "{outcome:?}"
    );
    // A try and a wait each, then a look a second.
    let asked = faults.count(Op::TryAcquire);
    assert!(asked <= 300 * 13, "asked {asked} times");
    for place in [299, 0, 150] {
        let mut waiting = pin!(any.acquire());
        assert!(timeout(S(2), waiting.as_mut()).await.is_err());
        held[place] = None;
        let guard = timeout(S(1), waiting).await.expect("the one that is free").unwrap();
        assert_eq!(guard.key().name(), keys[place]);
        held[place] = Some(guard);
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_anywhere_it_leaves_nothing() {
    let keys = ["a", "b", "c"];
    for (held, slow) in [(&keys[..0], Op::TryAcquire), (&keys, Op::TryAcquire), (&keys, Op::Release)] {
        drop_everywhere_in_memory(slow, held, async |lock| lock.any(keys).unwrap().acquire().await).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_not_contention() {
    let (lock, faults, _) = faulty_with(|builder| builder.patience(S(2)));
    faults.always(Op::TryAcquire, Fault::Refuse);
    let any = lock.any(["a", "b"]).unwrap();
    assert!(matches!(any.try_acquire().await, Err(LockError::Backend(_))));
    assert!(matches!(any.acquire().await, Err(LockError::Backend(_))));
}

/// There is one time, for the tries and for the wait after them.
#[tokio::test(start_paused = true)]
async fn one_time_for_all_of_it() {
    let keys: Vec<String> = (0..100).map(|n| format!("job:{n}")).collect();
    // All are tried after 5 s: it ends before, just after, and later.
    for wait in [S(1), MS(5_020), S(7)] {
        let seen = Seen::default();
        let (lock, faults, store) = faulty_with(|builder| builder.observer(seen.clone()));
        let (there, mut held) = (other(&store), Vec::new());
        for key in &keys {
            held.push(there.acquire(key).await.unwrap());
        }
        faults.always(Op::TryAcquire, Fault::DelayReply(MS(50)));
        let start = Instant::now();
        let outcome = lock.any(&keys).unwrap().wait(wait).acquire().await;
        let Err(LockError::Timeout { waited, holder: Some(_), .. }) = outcome else { panic!("{wait:?}: {outcome:?}") };
        let in_time = wait..=wait + MS(5);
        assert!(in_time.contains(&start.elapsed()) && in_time.contains(&waited), "{:?} {waited:?}", start.elapsed());
        assert_eq!(seen.count("timed out"), 1, "{wait:?}: {:?}", seen.lines());
        held.clear();
        until_quiet(&lock).await;
        assert!(store.is_empty());
    }
}

/// However many keys it has told of, a store that then says nothing takes no more than the time, and is no contention.
#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_takes_the_time_and_no_more() {
    for answered in 0..=2 {
        let (lock, faults, store) = faulty();
        let there = other(&store);
        let _held = [there.acquire("a").await.unwrap(), there.acquire("b").await.unwrap()];
        faults.skip(Op::TryAcquire, answered);
        faults.always(Op::TryAcquire, Fault::Hang);
        let start = Instant::now();
        let outcome = lock.any(["a", "b"]).unwrap().wait(S(1)).acquire().await;
        assert!(matches!(outcome, Err(LockError::Backend(_))), "{answered}: {outcome:?}");
        assert!((S(1)..=MS(1_005)).contains(&start.elapsed()), "{answered}: {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_for_oneself_is_told_if_there_is_nothing_else() {
    let lock = Locker::new(MemoryLock::new()).unwrap();
    let there = lock.acquire("b").await.unwrap();
    let inside = lock.synchronized("a", async {
        let only = lock.any(["a"]).unwrap().acquire().await;
        assert!(matches!(only, Err(LockError::WouldDeadlock { .. })), "{only:?}");
        let any = lock.any(["a", "b"]).unwrap();
        let (found, ()) = tokio::join!(any.acquire(), async {
            tokio::time::sleep(S(1)).await;
            drop(there);
        });
        found.unwrap().key().name().to_owned()
    });
    assert_eq!(inside.await.unwrap(), "b");
}
