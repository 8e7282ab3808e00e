//! Holds in memory that nobody looks at behave as all others do.

use std::{sync::Arc, time::Duration};

use tasklock::{Guard, Locker, LossReason, MemoryLock, ReleaseOutcome, Renew, Stats, testing};
use tasklock_tests::{is_lost, other};
use tokio::time::sleep;

const TTL: Duration = Duration::from_secs(3);

fn memory(renew: Renew) -> (Locker, MemoryLock) {
    let store = MemoryLock::new();
    (Locker::builder(store.clone()).ttl(TTL).renew(renew).build().unwrap(), store)
}

/// Whether anybody could have it.
async fn is_free(store: &MemoryLock, key: &str) -> bool {
    other(store).try_acquire(key).await.unwrap().is_some()
}

#[tokio::test(start_paused = true)]
async fn it_is_renewed_without_being_looked_at() {
    for renew in [Renew::Auto, Renew::Every(Duration::from_millis(500))] {
        let (lock, store) = memory(renew);
        let guard = lock.acquire("job").await.unwrap();
        sleep(TTL * 10).await;
        assert!(!is_free(&store, "job").await, "expired under its holder");
        assert!(guard.is_held() && guard.remaining() > TTL / 3);
        drop(guard);
        assert!(store.is_empty() && lock.stats() == Stats::default());
    }
}

#[tokio::test(start_paused = true)]
async fn it_ends_by_itself_if_it_is_not_renewed() {
    let (lock, store) = memory(Renew::Off);
    let (seen, unseen) = (lock.acquire("seen").await.unwrap(), lock.acquire("unseen").await.unwrap());
    assert!(seen.remaining() < TTL && seen.remaining() > TTL / 2);
    assert_eq!(seen.lost().await, LossReason::Expired);
    sleep(TTL).await;
    assert!(!seen.is_held() && !unseen.is_held());
    assert!(is_lost(&unseen.check(), LossReason::Expired));
    assert_eq!(unseen.remaining(), Duration::ZERO);
    let next = other(&store);
    let theirs = next.acquire("unseen").await.unwrap();
    assert_eq!(unseen.release().await.unwrap(), ReleaseOutcome::AlreadyLost);
    drop(seen);
    assert!(theirs.is_held() && !is_free(&store, "unseen").await);
}

/// Broken before anybody looked: noticed at the first look.
#[tokio::test(start_paused = true)]
async fn a_young_one_is_broken() {
    let (lock, store) = memory(Renew::Auto);
    let breaker = other(&store);
    let (a, b) = (lock.acquire("a").await.unwrap(), lock.acquire("b").await.unwrap());
    for key in ["a", "b"] {
        assert!(breaker.break_lock(key).await.unwrap());
    }
    let theirs = breaker.acquire("b").await.unwrap();
    assert!(theirs.fencing_token() > b.fencing_token());
    assert!(!a.is_held() && is_lost(&a.check(), LossReason::Stolen));
    assert_eq!(a.lost().await, LossReason::Stolen);
    assert_eq!(b.release().await.unwrap(), ReleaseOutcome::AlreadyLost);
    assert!(theirs.is_held() && !is_free(&store, "b").await, "theirs was released");
}

/// Broken after the keeper had taken it over, still unseen by its guard.
#[tokio::test(start_paused = true)]
async fn an_old_one_is_broken() {
    let (lock, store) = memory(Renew::Auto);
    let guard = lock.acquire("job").await.unwrap();
    sleep(TTL * 2).await;
    let breaker = other(&store);
    assert!(breaker.break_lock("job").await.unwrap());
    let theirs = breaker.acquire("job").await.unwrap();
    sleep(TTL).await;
    assert!(is_lost(&guard.check(), LossReason::Stolen));
    drop(guard);
    assert!(theirs.is_held() && !is_free(&store, "job").await, "theirs was released");
    assert_eq!(lock.stats(), Stats::default());
}

#[tokio::test(start_paused = true)]
async fn it_is_lost_at_a_shutdown() {
    let (lock, store) = memory(Renew::Auto);
    let guards: Vec<Guard> = vec![lock.acquire("a").await.unwrap(), lock.acquire("b").await.unwrap()];
    let (drained, ()) = tokio::join!(lock.shutdown(), async {
        sleep(Duration::from_millis(10)).await;
        assert!(guards.iter().all(|guard| is_lost(&guard.check(), LossReason::ShutDown)));
        drop(guards);
    });
    assert_eq!((drained.lost, drained.left), (2, 0));
    assert!(store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn it_can_be_taken_away_in_tests() {
    let (lock, _) = memory(Renew::Auto);
    let guard = lock.acquire("job").await.unwrap();
    assert_eq!(testing::lose(&lock, "job", LossReason::Unreachable), 1);
    assert!(is_lost(&guard.check(), LossReason::Unreachable));
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_it_are_let_in() {
    let (lock, store) = memory(Renew::Auto);
    let guard = lock.acquire("job").await.unwrap();
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire("job").await.unwrap().fencing_token() }
    });
    sleep(Duration::from_millis(10)).await;
    let token = guard.fencing_token();
    drop(guard);
    assert!(waiting.await.unwrap() > token);
    assert!(store.is_empty());
}

/// What others see of it is what its locker is set to, and stays so.
#[tokio::test(start_paused = true)]
async fn it_is_seen_as_its_lockers() {
    let store = MemoryLock::new();
    let of = |name: &str, ttl: Duration| Locker::builder(store.clone()).owner_name(name).ttl(ttl).build().unwrap();
    let (here, there) = (of("here", TTL), of("there", TTL * 2));
    let guards = [here.acquire("a").await.unwrap(), there.acquire("b").await.unwrap()];
    let asks = other(&store);
    let seen = async |key: &str| asks.inspect(key).await.unwrap().holder.expect("a holder");
    let holders = [seen("a").await, seen("b").await];
    for ((holder, guard), (name, ttl)) in holders.iter().zip(&guards).zip([("here", TTL), ("there", TTL * 2)]) {
        assert_eq!((holder.owner.name(), holder.token), (name, Some(guard.fencing_token())));
        assert_eq!(holder.remaining, Some(ttl));
    }
    // Nor does it become another when it grows up.
    sleep(TTL * 10).await;
    assert!(guards.iter().all(|guard| guard.is_held()));
    assert_eq!([seen("a").await.nonce, seen("b").await.nonce], holders.map(|holder| holder.nonce));
    drop(guards);
    assert!(store.is_empty());
}

/// Guards ask for their leases, or leave, while the keeper takes the same holds over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeper_and_guards_do_not_meet() {
    const SHORTEST: Duration = Duration::from_millis(50);
    let store = MemoryLock::new();
    let lock = Arc::new(Locker::builder(store.clone()).ttl(SHORTEST).build().unwrap());
    let task = |task: u32| {
        let lock = lock.clone();
        async move {
            for round in 0..40 {
                let guards: Vec<_> = {
                    let mut guards = Vec::new();
                    for n in 0..20 {
                        guards.push(lock.acquire(format!("{task}-{n}")).await.unwrap());
                    }
                    guards
                };
                // About when the keeper is due: a third of the ttl, less up to two tenths of that.
                sleep(Duration::from_millis(13 + round % 4)).await;
                for (n, guard) in guards.into_iter().enumerate() {
                    if n % 2 == 0 {
                        let lease = guard.lease().clone();
                        drop(guard);
                        assert!(!lease.is_held());
                    }
                }
            }
        }
    };
    for task in (0..8).map(|n| tokio::spawn(task(n))).collect::<Vec<_>>() {
        task.await.unwrap();
    }
    // One that is being renewed is given back after that.
    testing::until_quiet(&lock).await;
    assert!(store.is_empty(), "{store:?}");
    assert_eq!(lock.stats(), Stats::default());
}
