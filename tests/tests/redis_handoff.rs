//! A lock that goes from task to task within a process, by the counters of a real server.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tasklock::{
    AsyncLock, Attempt, Claim, Clock, Fairness, Intent, Key, Locker, LossReason, Nonce, Owner, RedisConfig,
    ReleaseOutcome, Released, Renew, Renewed, Request, Stats, Ttl,
    testing::{poll_times, until_quiet},
};
use tasklock_tests::{
    eventually,
    line::{got, in_line, lined},
    load::crowd,
    servers::RedisServer,
    soon,
};
use tokio::task::{JoinSet, yield_now};

async fn locker(server: &RedisServer, fairness: Fairness) -> Locker {
    let backend = RedisConfig::from_url(&server.url()).unwrap().connect().await.unwrap();
    Locker::builder(backend).fairness(fairness).build().unwrap()
}

async fn left_nothing(lock: &Locker) {
    until_quiet(lock).await;
    eventually("nothing is left", async || {
        let state = lock.inspect("job").await.unwrap();
        state.is_free() && state.waiters == Some(0) && lock.stats() == Stats::default()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_ask_the_server_seldom() {
    let server = RedisServer::start();
    let lock = locker(&server, Fairness::Bounded).await;
    let (mut tasks, fence) = (JoinSet::new(), Arc::default());
    server.reset_counts().await;
    crowd(&mut tasks, &lock, &fence, 64, 100);
    tasks.join_all().await;
    until_quiet(&lock).await;
    // One a span, and on a machine that is busy one every 10 ms, of which there are fewer than there would be calls.
    let calls = server.counts().await["evalsha"];
    assert!(calls < 6_400 / 2, "{calls} calls for 6400 acquisitions");
    left_nothing(&lock).await;
}

/// Several clients, of whom one keeps strict order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_rise_across_tasks_and_processes() {
    let server = RedisServer::start();
    let (mut tasks, fence) = (JoinSet::new(), Arc::default());
    let mut lockers = Vec::new();
    for fairness in [Fairness::Bounded, Fairness::Bounded, Fairness::Strict] {
        let lock = locker(&server, fairness).await;
        crowd(&mut tasks, &lock, &fence, 8, 25);
        lockers.push(lock);
    }
    tasks.join_all().await;
    for lock in &lockers {
        left_nothing(lock).await;
    }
}

/// By the count of grants between asking and being granted: those of a span and of a round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_wait_for_a_bounded_number() {
    let server = RedisServer::start();
    let (lock, there) = (locker(&server, Fairness::Bounded).await, locker(&server, Fairness::Bounded).await);
    let (granted, done, mut tasks) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)), JoinSet::new());
    for _ in 0..32 {
        let (lock, granted, done) = (lock.clone(), granted.clone(), done.clone());
        tasks.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let _guard = lock.acquire("job").await.unwrap();
                granted.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for _ in 0..10 {
        // In the queue of the server when counting begins.
        let asking = tokio::spawn({
            let there = there.clone();
            async move { there.acquire("job").await.unwrap() }
        });
        let before = loop {
            let before = granted.load(Ordering::Relaxed);
            if asking.is_finished() || there.inspect("job").await.unwrap().waiters > Some(0) {
                break before;
            }
        };
        let guard = asking.await.unwrap();
        let between = granted.load(Ordering::Relaxed) - before;
        assert!(between <= 2 * 8192 + 64, "{between} were let in before another process");
        drop(guard);
    }
    done.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    left_nothing(&lock).await;
    left_nothing(&there).await;
}

/// Broken by an operator while it goes from task to task: whoever has it then is told at the next renewal, and is below the
/// next holder until then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_lock_is_given_up() {
    let server = RedisServer::start();
    let (lock, there) = (locker(&server, Fairness::Bounded).await, locker(&server, Fairness::Bounded).await);
    let (last, done, mut tasks) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)), JoinSet::new());
    for _ in 0..8 {
        let (lock, last, done) = (lock.clone(), last.clone(), done.clone());
        tasks.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let guard = lock.acquire("job").await.unwrap();
                last.fetch_max(guard.fencing_token().get(), Ordering::Relaxed);
                yield_now().await;
            }
        });
    }
    for _ in 0..10 {
        let before = last.load(Ordering::Relaxed);
        eventually("it goes round", async || last.load(Ordering::Relaxed) > before + 100).await;
        there.break_lock("job").await.unwrap();
        let theirs = there.acquire("job").await.unwrap();
        eventually("it asks", async || there.inspect("job").await.unwrap().waiters > Some(0)).await;
        let seen = last.load(Ordering::Relaxed);
        assert!(seen < theirs.fencing_token().get(), "above the one who has it");
        assert_eq!((last.load(Ordering::Relaxed), lock.stats().held), (seen, 0), "beside the one who has it");
        assert_eq!(theirs.release().await.unwrap(), ReleaseOutcome::Released);
    }
    done.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    left_nothing(&lock).await;
}

/// From one whose renewal is off it goes on only after the server was asked.
#[tokio::test]
async fn a_broken_lock_is_not_told_as_released() {
    let server = RedisServer::start();
    let (lock, there) = (locker(&server, Fairness::Bounded).await, locker(&server, Fairness::Bounded).await);
    let gate = lock.acquire("job").await.unwrap();
    let held = in_line(&lock, lock.key("job").renew(Renew::Off)).await;
    drop(gate);
    let (held, next) = (got(held).await, in_line(&lock, lock.key("job")).await);
    there.break_lock("job").await.unwrap();
    let theirs = there.try_acquire("job").await.unwrap();
    assert_eq!(held.release().await.unwrap(), ReleaseOutcome::AlreadyLost);
    if let Some(theirs) = theirs {
        assert!(!next.is_finished(), "two holders");
        theirs.release().await.unwrap();
    }
    drop(got(next).await);
    left_nothing(&lock).await;
}

#[tokio::test]
async fn a_maximum_hold_is_each_ones_own() {
    const MAX: Duration = Duration::from_millis(500);
    let server = RedisServer::start();
    let lock = locker(&server, Fairness::Bounded).await;
    let held = lined(&lock).await;
    let next = in_line(&lock, lock.key("job").max_hold(MAX)).await;
    let third = in_line(&lock, lock.key("job")).await;
    assert_eq!(held.release().await.unwrap(), ReleaseOutcome::Released);
    let next = got(next).await;
    assert!(next.remaining() <= MAX);
    assert_eq!(next.lost().await, LossReason::Expired);
    assert!(!third.is_finished(), "its body may not have noticed");
    let token = next.fencing_token();
    drop(next);
    let third = got(third).await;
    assert!(third.fencing_token() > token && third.is_held());
    drop(third);
    left_nothing(&lock).await;
}

/// At whatever moment: the tasks end, and the server has the lock back when the shutdown has ended, however a release and it
/// met.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_it() {
    let server = RedisServer::start();
    let there = locker(&server, Fairness::Bounded).await;
    for moment in 0..20 {
        let (lock, granted, mut tasks) =
            (locker(&server, Fairness::Bounded).await, Arc::new(AtomicUsize::new(0)), JoinSet::new());
        for _ in 0..8 {
            let (lock, granted) = (lock.clone(), granted.clone());
            tasks.spawn(async move {
                while let Ok(guard) = lock.acquire("job").await {
                    granted.fetch_add(1, Ordering::Relaxed);
                    yield_now().await;
                    drop(guard);
                }
            });
        }
        eventually("it goes round", async || granted.load(Ordering::Relaxed) >= 50 * moment).await;
        let drained = lock.shutdown().await;
        let state = there.inspect("job").await.unwrap();
        soon("nobody waits for ever", tasks.join_all()).await;
        assert_eq!(lock.stats(), Stats::default());
        assert!(state.is_free(), "{moment}: {state:?}, {drained:?}");
    }
}

/// Callers that give up whenever they like, in line, in the moment of a hand-over, and while the server is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_go_keep_nobody_from_it() {
    let server = RedisServer::start();
    let lockers = [locker(&server, Fairness::Bounded).await, locker(&server, Fairness::Bounded).await];
    let (mut tasks, fence) = (JoinSet::new(), Arc::default());
    for lock in &lockers {
        crowd(&mut tasks, lock, &fence, 4, 200);
        for patience in 1..=12 {
            let lock = lock.clone();
            tasks.spawn(async move {
                for _ in 0..50 {
                    let mut asking = pin!(lock.acquire("job"));
                    let _ = poll_times(asking.as_mut(), patience).await;
                    yield_now().await;
                }
            });
        }
    }
    soon("nobody waits for ever", tasks.join_all()).await;
    for lock in &lockers {
        left_nothing(lock).await;
    }
}

/// The step itself: tokens above all before, below all after, and the number of those who wait.
#[tokio::test]
async fn a_renewal_reserves_tokens() {
    let server = RedisServer::start();
    let store = RedisConfig::from_url(&server.url()).unwrap().connect().await.unwrap();
    let request = |intent| {
        let (owner, now) = (Owner::named("test"), Clock::current().now());
        Request::new(Key::new("job").unwrap(), Nonce::fresh(), Ttl::For(Duration::from_secs(30)), intent, owner, now)
    };
    let (held, waits, later) = (request(Intent::Try), request(Intent::Wait), request(Intent::Try));
    let Ok(Attempt::Granted(grant)) = store.try_acquire(&held).await else { panic!("it is free") };
    let mut claim = Claim::of(&held);
    claim.token = grant.token;
    let mut last = grant.token.unwrap();
    for (waiting, count) in [(0, 1), (0, 8192), (1, 7)] {
        if waiting == 1 {
            assert!(matches!(store.try_acquire(&waits).await, Ok(Attempt::Busy(_))));
        }
        claim.span = std::num::NonZeroU32::new(count);
        let renewed = store.renew(std::slice::from_ref(&claim)).await;
        let [Ok(Renewed::Held { token, waiters, more: Some(span), .. })] = renewed[..] else { panic!("{renewed:?}") };
        assert_eq!((token, waiters, span.count.get()), (grant.token, Some(waiting), count));
        assert!(span.first > last, "{} after {last}", span.first);
        last = tasklock::FencingToken::new(span.first.get() + u64::from(count) - 1);
    }
    claim.span = None;
    let renewed = store.renew(std::slice::from_ref(&claim)).await;
    assert!(matches!(renewed[..], [Ok(Renewed::Held { more: None, .. })]), "{renewed:?}");
    assert!(matches!(store.release(&Claim::of(&waits)).await, Ok(Released::NotOwner)));
    assert!(matches!(store.release(&claim).await, Ok(Released::Released)));
    claim.span = std::num::NonZeroU32::new(1);
    assert!(matches!(store.renew(&[claim]).await[..], [Ok(Renewed::NotOwner)]));
    let Ok(Attempt::Granted(grant)) = store.try_acquire(&later).await else { panic!("it is free") };
    assert!(grant.token.unwrap() > last);
    assert!(matches!(store.release(&Claim::of(&later)).await, Ok(Released::Released)));
}
