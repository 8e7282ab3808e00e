//! The one message of a queue: made once, missed if it is gone, harmless if there are two, and always higher.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tasklock::{Fence, FencingToken, LockError, Locker, testing::until_quiet};
use tasklock_tests_rabbitmq::{Broker, Raw, locker, name, soon, until};
use tokio::task::JoinSet;

/// Tasks of several clients that count up under the lock. No increment may be lost, and no token go back.
async fn count_up(lockers: &[Locker], key: &str, times: u64) -> FencingToken {
    let (counter, fence) = (Arc::new(AtomicU64::new(0)), Arc::new(Fence::new()));
    let mut tasks = JoinSet::new();
    for lock in lockers {
        let (lock, counter, fence) = (lock.key(key), counter.clone(), fence.clone());
        tasks.spawn(async move {
            for _ in 0..times {
                let guard = lock.acquire().await.expect("the lock");
                fence.admit(guard.fencing_token()).expect("tokens rise");
                let seen = counter.load(Ordering::Relaxed);
                tokio::task::yield_now().await;
                counter.store(seen + 1, Ordering::Relaxed);
                guard.release().await.expect("a release");
            }
        });
    }
    while let Some(task) = soon("the tasks' end", tasks.join_next()).await {
        task.unwrap();
    }
    assert_eq!(counter.load(Ordering::Relaxed), lockers.len() as u64 * times, "two were in at once");
    fence.seen()
}

async fn lockers<const N: usize>(url: &str) -> [Locker; N] {
    let mut all = Vec::new();
    for _ in 0..N {
        all.push(locker(url).await);
    }
    all.try_into().expect("as many")
}

/// Everybody finds the queue without a token, and may publish one. One is left, and tokens rise throughout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_create_it_at_once() {
    let url = Broker::shared().url();
    let (all, raw) = (lockers::<8>(&url).await, Raw::connect(&url).await);
    for _ in 0..10 {
        let key = name("creation");
        count_up(&all, &key, 3).await;
        until("one token", async || raw.counts(&key).await == (1, 0)).await;
    }
}

/// A second token does not let a second holder in, and is gone, with the tokens' order kept, at the next look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_one_is_harmless() {
    let url = Broker::shared().url();
    let ([here, there], raw, key) = (lockers::<2>(&url).await, Raw::connect(&url).await, name("second"));
    let held = here.acquire(&key).await.unwrap();
    // Below the first: tokens would go back.
    raw.add_token(&key, 1).await;
    assert_eq!(raw.counts(&key).await, (1, 1), "it was given to somebody");
    assert!(there.try_acquire(&key).await.unwrap().is_none(), "two holders");
    let waiter = tokio::spawn({
        let (there, key) = (there.clone(), key.clone());
        async move { there.acquire(&key).await }
    });
    tokio::task::yield_now().await;
    let before = held.fencing_token();
    held.release().await.unwrap();
    let next = soon("the next", waiter).await.unwrap().unwrap();
    assert!(next.fencing_token() > before);
    assert!(here.try_acquire(&key).await.unwrap().is_none(), "two holders");
    next.release().await.unwrap();
    until("one token", async || raw.counts(&key).await == (1, 0)).await;
    // Above it: tokens would alternate.
    raw.add_token(&key, i64::try_from(tasklock::wall_micros()).unwrap()).await;
    let seen = count_up(&[here, there], &key, 10).await;
    assert!(seen > before);
    until("one token", async || raw.counts(&key).await == (1, 0)).await;
}

/// Somebody emptied the queue while nobody held the lock: the next makes a token, higher than any before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_lost_is_made_anew() {
    let url = Broker::shared().url();
    let ([here, there], raw, key) = (lockers::<2>(&url).await, Raw::connect(&url).await, name("lost"));
    let first = here.acquire(&key).await.unwrap();
    let token = first.fencing_token();
    first.release().await.unwrap();
    until("the token back", async || raw.counts(&key).await == (1, 0)).await;
    assert_eq!(raw.purge(&key).await, 1);
    let second = there.acquire(&key).await.unwrap();
    assert!(second.fencing_token() > token);
    let token = second.fencing_token();
    second.release().await.unwrap();
    raw.delete(&key).await;
    assert!(here.acquire(&key).await.unwrap().fencing_token() > token, "a queue made anew begins lower");
}

/// The token is gone and everybody waits: nobody can see that nobody holds, until they ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_lost_under_its_waiters_is_missed() {
    let url = format!("{}?recheck=1s", Broker::shared().url());
    let (all, raw, key) = (lockers::<3>(&url).await, Raw::connect(&Broker::shared().url()).await, name("missed"));
    let [here, there, last] = &all;
    let first = here.acquire(&key).await.unwrap();
    let token = first.fencing_token();
    first.release().await.unwrap();
    let taken = raw.take_token(&key).await;
    let waiting = [there, last].map(|lock| {
        let (lock, key) = (lock.clone(), key.clone());
        tokio::spawn(async move {
            let guard = lock.acquire(&key).await?;
            let token = guard.fencing_token();
            guard.release().await?;
            Ok::<_, LockError>(token)
        })
    });
    // Those who wait for a live holder ask, too, and get no second token by it.
    until("a question", async || raw.counts(&key).await.0 > 0).await;
    assert!(waiting.iter().all(|waiter| !waiter.is_finished()), "two holders");
    taken.destroy().await;
    for waiter in waiting {
        assert!(soon("the lock", waiter).await.unwrap().unwrap() > token);
    }
    // Two may ask at once, and the answer to one leaves the other's question behind the token, where it is in nobody's way.
    until("one token", async || raw.counts(&key).await.1 == 0 && raw.tokens(&key).await == 1).await;
}

/// What others put there is no lock, and is not in the way of one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_token_is_dropped() {
    let url = Broker::shared().url();
    let ([here, there], raw, key) = (lockers::<2>(&url).await, Raw::connect(&url).await, name("foreign"));
    drop(here.acquire(&key).await.unwrap());
    until_quiet(&here).await;
    until("the token back", async || raw.counts(&key).await == (1, 0)).await;
    raw.purge(&key).await;
    raw.add_foreign(&key).await;
    let guard = soon("the lock", there.acquire(&key)).await.unwrap();
    assert!(here.try_acquire(&key).await.unwrap().is_none());
    guard.release().await.unwrap();
    until("one token", async || raw.counts(&key).await == (1, 0)).await;
}

/// A queue of this name that is no lock is told at once, and for what it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_another_kind_is_refused() {
    let url = Broker::shared().url();
    let ([lock], raw, key) = (lockers::<1>(&url).await, Raw::connect(&url).await, name("classic"));
    raw.make_classic(&key).await;
    let error = lock.acquire(&key).await.unwrap_err();
    assert!(matches!(error, LockError::Backend(_)) && !error.is_retryable(), "{error}");
    assert!(error.to_string().contains("made by something else"), "{error}");
    // The connection is none the worse for it.
    drop(lock.acquire(name("another")).await.unwrap());
}

/// Names that do not fit into a queue's are told apart all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_names_do_not_meet() {
    let [here, there] = lockers::<2>(&Broker::shared().url()).await;
    let long = name(&"x".repeat(400));
    let (one, other) = (format!("{long}1"), format!("{long}2"));
    let _one = here.acquire(&one).await.unwrap();
    let _other = there.acquire(&other).await.unwrap();
    assert!(there.try_acquire(&one).await.unwrap().is_none());
}
