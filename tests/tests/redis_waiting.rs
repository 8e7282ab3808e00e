//! What locking and waiting cost the server, by its own counters.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tasklock::{
    AsyncLock, Attempt, Claim, Clock, Fairness, Intent, Key, Locker, Nonce, Owner, RedisConfig, RedisLock, Released,
    Renewed, Request, Ttl, Wake, connect,
    testing::{poll_times, until_quiet},
};
use tasklock_tests::{eventually, servers::RedisServer};
use tokio::task::JoinSet;

async fn client(server: &RedisServer) -> RedisLock {
    RedisConfig::from_url(&server.url()).unwrap().connect().await.unwrap()
}

fn request(key: &str, intent: Intent) -> Request {
    let (owner, now) = (Owner::named("test"), Clock::current().now());
    Request::new(Key::new(key).unwrap(), Nonce::fresh(), Ttl::For(Duration::from_secs(30)), intent, owner, now)
}

/// What the server did, but for what looking at it and keeping a connection open takes.
async fn work(server: &RedisServer) -> BTreeMap<String, u64> {
    let mut counts = server.counts().await;
    for name in ["info", "hello", "ping", "client|setinfo", "config|resetstat", "subscribe"] {
        counts.remove(name);
    }
    counts
}

fn counts(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
    counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// Two calls, and in them nothing but what must be.
#[tokio::test]
async fn an_uncontended_lock_is_two_calls() {
    let server = RedisServer::start();
    let lock = connect(server.url()).await.unwrap();
    lock.acquire("job").await.unwrap().release().await.unwrap();
    server.reset_counts().await;
    lock.acquire("job").await.unwrap().release().await.unwrap();
    let expected = [("evalsha", 2), ("time", 1), ("exists", 2), ("set", 2), ("get", 1), ("del", 1)];
    assert_eq!(work(&server).await, counts(&expected));
}

/// Nothing is kept of those who gave up, nor of those who had it.
#[tokio::test]
async fn who_is_done_is_forgotten() {
    let server = RedisServer::start();
    let (here, there) = (client(&server).await, client(&server).await);
    let held = request("job", Intent::Try);
    assert!(matches!(here.try_acquire(&held).await, Ok(Attempt::Granted(_))));
    let waiters: Vec<Request> = (0..10).map(|_| request("job", Intent::Wait)).collect();
    for waiter in &waiters {
        assert!(matches!(there.try_acquire(waiter).await, Ok(Attempt::Busy(_))));
    }
    assert!(format!("{there:?}").contains("waiters: 10"), "{there:?}");
    let (last, others) = waiters.split_last().unwrap();
    for waiter in others {
        assert!(matches!(there.release(&Claim::of(waiter)).await, Ok(Released::NotOwner)));
    }
    assert!(format!("{there:?}").contains("waiters: 1,"), "{there:?}");
    here.release(&Claim::of(&held)).await.unwrap();
    assert!(matches!(there.wait(last).await, Ok(Wake::Granted(_))));
    assert!(matches!(there.release(&Claim::of(last)).await, Ok(Released::Released)));
    assert!(format!("{there:?}").contains("waiters: 0"), "{there:?}");
    assert!(format!("{here:?}").contains("waiters: 0"), "{here:?}");
}

/// Processes that wait look at what they wait for once in ten seconds or so, and ask nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lockers_wait_without_polling() {
    const LOCKERS: u64 = 16;
    let server = RedisServer::start();
    let holder = connect(server.url()).await.unwrap();
    let held = holder.key("job").ttl(Duration::from_secs(600)).acquire().await.unwrap();
    let mut waits = JoinSet::new();
    for _ in 0..LOCKERS {
        let lock = connect(server.url()).await.unwrap();
        waits.spawn(async move { lock.acquire("job").await.unwrap().release().await });
    }
    eventually("all wait", async || holder.inspect("job").await.unwrap().waiters == Some(LOCKERS)).await;
    let asked = async |what: &str| server.counts().await.get(what).copied().unwrap_or(0);
    // The first look comes after a second.
    eventually("each has looked", async || asked("evalsha").await >= 2 * LOCKERS).await;
    server.reset_counts().await;
    eventually("each has looked again", async || asked("evalsha").await >= LOCKERS).await;
    // Less often than whether its connections live, whatever time that took.
    let (looks, beats) = (asked("evalsha").await, asked("ping").await);
    assert!(looks <= beats, "{looks} looks in the time of {beats} beats of two connections each");
    held.release().await.unwrap();
    while let Some(done) = waits.join_next().await {
        done.unwrap().unwrap();
    }
}

/// The same for a reader, alone and beside another.
#[tokio::test]
async fn a_reader_is_two_calls() {
    let server = RedisServer::start();
    let lock = connect(server.url()).await.unwrap();
    let reader = lock.key("job").shared();
    reader.acquire().await.unwrap().release().await.unwrap();
    server.reset_counts().await;
    let one = reader.acquire().await.unwrap();
    let taking = [
        ("evalsha", 1),
        ("time", 1),
        ("exists", 1),
        ("get", 1),
        ("set", 2),
        ("unlink", 1),
        ("zadd", 1),
        ("hset", 1),
        ("pexpire", 2),
    ];
    assert_eq!(work(&server).await, counts(&taking));
    server.reset_counts().await;
    let two = reader.acquire().await.unwrap();
    assert!(!work(&server).await.contains_key("pexpire"), "it lasts long enough for the second");
    server.reset_counts().await;
    two.release().await.unwrap();
    let leaving = [("evalsha", 1), ("time", 1), ("exists", 1), ("get", 1), ("zcount", 1), ("zscore", 1)];
    let mut expected = counts(&leaving);
    expected.extend(counts(&[("zrem", 1), ("hdel", 1)]));
    assert_eq!(work(&server).await, expected);
    server.reset_counts().await;
    one.release().await.unwrap();
    let mut expected = counts(&leaving);
    expected.extend(counts(&[("unlink", 1)]));
    assert_eq!(work(&server).await, expected, "the last takes everything with it");
}

/// A process has one waiter at the server, but for readers; in strict order, all.
#[tokio::test]
async fn readers_ask_together() {
    let server = RedisServer::start();
    let (lock, there) = (connect(server.url()).await.unwrap(), connect(server.url()).await.unwrap());
    let strict = tasklock::connector(&server.url()).await.unwrap().fairness(Fairness::Strict).build().unwrap();
    let job = |lock: &Locker| lock.key("job");
    let bounded = [(job(&lock), 1), (job(&lock).shared(), 64), (job(&lock).permits(70), 1)];
    let in_strict_order = [job(&strict), job(&strict).shared(), job(&strict).permits(70)].map(|key| (key, 70));
    for (key, at_the_server) in bounded.into_iter().chain(in_strict_order) {
        let held = there.acquire("job").await.unwrap();
        let mut tasks = JoinSet::new();
        for _ in 0..70 {
            let key = key.clone();
            tasks.spawn(async move { key.acquire().await.unwrap() });
        }
        eventually("all who ask wait", async || there.inspect("job").await.unwrap().waiters == Some(at_the_server))
            .await;
        held.release().await.unwrap();
        while let Some(guard) = tasks.join_next().await {
            drop(guard.unwrap());
        }
        until_quiet(&lock).await;
        until_quiet(&strict).await;
        assert!(there.inspect("job").await.unwrap().is_free());
    }
}

/// Permits go to the tasks of a process in the order in which they came.
#[tokio::test]
async fn permits_keep_their_order() {
    let server = RedisServer::start();
    let (lock, there) = (connect(server.url()).await.unwrap(), connect(server.url()).await.unwrap());
    let held = there.acquire("job").await.unwrap();
    let mut tasks = Vec::new();
    for n in 1..=100 {
        let key = lock.key("job").permits(3);
        tasks.push(tokio::spawn(async move { key.acquire().await.unwrap().fencing_token() }));
        eventually("it stands in line", async || lock.inspect("job").await.unwrap().waiters == Some(n)).await;
    }
    held.release().await.unwrap();
    let mut tokens = Vec::new();
    for task in tasks {
        tokens.push(task.await.unwrap());
    }
    assert!(tokens.is_sorted(), "{tokens:?}");
}

/// Whoever came first is first, whatever process it is in.
#[tokio::test]
async fn strict_order_holds_among_processes() {
    let server = RedisServer::start();
    let strict = async || tasklock::connector(&server.url()).await.unwrap().fairness(Fairness::Strict).build().unwrap();
    let (here, there) = (strict().await, strict().await);
    for permits in [None, Some(2)] {
        let held = there.acquire("job").await.unwrap();
        let mut tasks = Vec::new();
        for n in 1..=30 {
            // The many of one process, and now and then one of another.
            let key = if n % 10 == 0 { there.key("job") } else { here.key("job") };
            let key = permits.map_or(key.clone(), |permits| key.permits(permits));
            tasks.push(tokio::spawn(async move { key.acquire().await.unwrap().fencing_token() }));
            eventually("it stands in line", async || there.inspect("job").await.unwrap().waiters == Some(n)).await;
        }
        held.release().await.unwrap();
        let mut tokens = Vec::new();
        for task in tasks {
            tokens.push(task.await.unwrap());
        }
        assert!(tokens.is_sorted(), "{permits:?}: {tokens:?}");
        until_quiet(&here).await;
        until_quiet(&there).await;
    }
}

/// Several locks are taken in one call, given back in one, and asked about in one.
#[tokio::test]
async fn several_locks_share_a_call() {
    let server = RedisServer::start();
    let lock = connect(server.url()).await.unwrap();
    let names = ["a", "b", "c", "d", "e"];
    let all = lock.all(names).unwrap();
    all.acquire().await.unwrap().release().await.unwrap();
    server.reset_counts().await;
    let guards = all.acquire().await.unwrap();
    assert_eq!(work(&server).await["evalsha"], 1, "to take them");
    server.reset_counts().await;
    assert_eq!(lock.who(names).await.unwrap().iter().filter(|(_, state)| !state.is_free()).count(), 5);
    assert!(work(&server).await["evalsha"] <= 3, "to ask who has them");
    server.reset_counts().await;
    guards.release().await.unwrap();
    assert!(work(&server).await["evalsha"] <= 3, "to give them back");
}

/// Many wait, and the server does nothing; a hand-over is one call and at most two pushes.
async fn waiters_cost_nothing(waiting: usize) {
    let server = RedisServer::start();
    let (holder, waiter) = (client(&server).await, Arc::new(client(&server).await));
    let held = request("job", Intent::Try);
    assert!(matches!(holder.try_acquire(&held).await, Ok(Attempt::Granted(_))));
    let mut requests = Vec::new();
    for rank in 0..waiting {
        let request = request("job", Intent::Wait);
        let Ok(Attempt::Busy(busy)) = waiter.try_acquire(&request).await else { panic!("it is held") };
        assert_eq!(busy.position, u32::try_from(rank).ok());
        // It looks once more; then, with the holder's time far away, only to keep its place.
        assert_eq!(busy.retry_in, Some(Duration::from_secs(1)));
        let mut again = request.clone();
        again.intent = Intent::Poll { attempt: 1 };
        let Ok(Attempt::Busy(busy)) = waiter.try_acquire(&again).await else { panic!("it is held") };
        assert_eq!(busy.retry_in, Some(Duration::from_secs(10)));
        requests.push(request);
    }
    let mut waits = JoinSet::new();
    for request in requests {
        let waiter = waiter.clone();
        waits.spawn(async move {
            let Ok(Wake::Granted(grant)) = waiter.wait(&request).await else { panic!("granted by a push") };
            assert!(grant.confirm);
            (request, grant.token)
        });
    }
    tokio::task::yield_now().await;
    server.reset_counts().await;
    // Others' locks go on.
    let other = request("other", Intent::Try);
    for _ in 0..20 {
        assert!(matches!(holder.try_acquire(&other).await, Ok(Attempt::Granted(_))));
        assert!(matches!(holder.release(&Claim::of(&other)).await, Ok(Released::Released)));
    }
    let calls = work(&server).await;
    assert_eq!((calls["evalsha"], calls.get("publish")), (40, None), "waiting costs something");
    // One after the other has it.
    let (mut last, mut owner) = (None, held);
    for left in (0..waiting).rev().take(40) {
        server.reset_counts().await;
        let client = if last.is_none() { &holder } else { &*waiter };
        assert!(matches!(client.release(&Claim::of(&owner)).await, Ok(Released::Released)));
        let (request, token) = waits.join_next().await.unwrap().unwrap();
        let calls = work(&server).await;
        // Those behind are of the same client, which is told already.
        assert_eq!((calls["evalsha"], calls["publish"]), (1, 1), "a hand-over, with {left} behind");
        assert!(token > last);
        (last, owner) = (token, request);
    }
}

#[tokio::test]
async fn one_waiter_costs_nothing() {
    waiters_cost_nothing(1).await;
}

#[tokio::test]
async fn sixty_four_waiters_cost_nothing() {
    waiters_cost_nothing(64).await;
}

#[tokio::test]
async fn a_thousand_waiters_cost_nothing() {
    waiters_cost_nothing(1_000).await;
}

/// Near the end of the holder's time the first looks at it, and those behind it a claim later each.
#[tokio::test]
async fn not_all_waiters_look_at_once() {
    let server = RedisServer::start();
    let client = client(&server).await;
    let mut held = request("job", Intent::Try);
    held.ttl = Ttl::For(Duration::from_secs(2));
    assert!(matches!(client.try_acquire(&held).await, Ok(Attempt::Granted(_))));
    let mut hints = Vec::new();
    for _ in 0..12 {
        let Ok(Attempt::Busy(busy)) = client.try_acquire(&request("job", Intent::Poll { attempt: 1 })).await else {
            panic!("it is held")
        };
        hints.push(busy.retry_in.unwrap());
    }
    assert!(hints[0] <= Duration::from_secs(2));
    for (rank, hint) in (0..).zip(&hints) {
        let least = Duration::from_secs(rank).min(Duration::from_secs(10));
        assert!(*hint >= least && *hint <= least + Duration::from_secs(2), "{rank}: {hint:?}");
    }
}

/// In the first third of its claim a hold that was pushed costs the one call that handed it over: most are over by then.
/// One that lasts is confirmed.
#[tokio::test]
async fn a_pushed_hold_is_confirmed_if_it_lasts() {
    let server = RedisServer::start();
    let (here, there) = (connect(server.url()).await.unwrap(), connect(server.url()).await.unwrap());
    let evalsha = async || work(&server).await["evalsha"];
    let mut rounds = 0;
    let lasts = loop {
        let held = here.acquire("job").await.unwrap();
        let began = std::time::Instant::now();
        let waiter = tokio::spawn({
            let there = there.clone();
            async move { there.acquire("job").await.unwrap() }
        });
        eventually("it waits", async || here.inspect("job").await.unwrap().waiters == Some(1)).await;
        server.reset_counts().await;
        held.release().await.unwrap();
        let guard = waiter.await.unwrap();
        let calls = evalsha().await;
        // Of a claim of a second, counted from before the waiter's question at worst; a busy machine takes another round.
        if began.elapsed() < Duration::from_millis(200) {
            assert_eq!(calls, 1, "confirmed at once");
            break guard;
        }
        rounds += 1;
        assert!(rounds < 1_000, "never as quick as that");
    };
    eventually("one that lasts is confirmed", async || evalsha().await == 2).await;
    assert!(lasts.is_held());
    lasts.release().await.unwrap();
    assert_eq!(evalsha().await, 3);
}

/// A thousand tasks of one process are one waiter to the server.
#[tokio::test]
async fn tasks_of_one_process_are_one_waiter() {
    let server = RedisServer::start();
    let (here, there) = (connect(server.url()).await.unwrap(), connect(server.url()).await.unwrap());
    let held = there.acquire("job").await.unwrap();
    let done = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..1_000 {
        let (lock, done) = (here.clone(), done.clone());
        tasks.spawn(async move {
            lock.acquire("job").await.unwrap().release().await.unwrap();
            done.fetch_add(1, Ordering::Relaxed);
        });
    }
    eventually("one waits", async || there.inspect("job").await.unwrap().waiters == Some(1)).await;
    held.release().await.unwrap();
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert_eq!(done.load(Ordering::Relaxed), 1_000);
    assert!(there.inspect("job").await.unwrap().is_free());
}

/// A hot lock between clients: each acquisition is a request that waits and a release; one that lasts is confirmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_lock_costs_two_calls() {
    const CLIENTS: u64 = 8;
    const TURNS: u64 = 25;
    let server = RedisServer::start();
    let mut lockers = Vec::new();
    for _ in 0..CLIENTS {
        lockers.push(connect(server.url()).await.unwrap());
    }
    lockers[0].acquire("warm").await.unwrap().release().await.unwrap();
    server.reset_counts().await;
    let mut tasks = JoinSet::new();
    for lock in &lockers {
        let lock = lock.clone();
        tasks.spawn(async move {
            for _ in 0..TURNS {
                lock.acquire("job").await.unwrap().release().await.unwrap();
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    let calls = work(&server).await;
    let all = calls["evalsha"] + calls.get("eval").unwrap_or(&0);
    assert!(all <= CLIENTS * TURNS * 5 / 2, "{all} calls for {} acquisitions", CLIENTS * TURNS);
}

/// Renewals of many leases share calls.
#[tokio::test]
async fn many_renewals_are_few_calls() {
    let server = RedisServer::start();
    let client = client(&server).await;
    let mut claims = Vec::new();
    for i in 0..300 {
        let request = request(&format!("job {i}"), Intent::Try);
        assert!(matches!(client.try_acquire(&request).await, Ok(Attempt::Granted(_))));
        claims.push(Claim::of(&request));
    }
    let stranger = Claim::of(&request("job 7", Intent::Try));
    claims.insert(100, stranger);
    server.reset_counts().await;
    let renewed = client.renew(&claims).await;
    assert_eq!(renewed.len(), 301);
    for (i, outcome) in renewed.iter().enumerate() {
        let not_owner = matches!(outcome, Ok(Renewed::NotOwner));
        assert_eq!(not_owner, i == 100, "{i}: {outcome:?}");
    }
    assert_eq!(work(&server).await["evalsha"], 5);
}

/// Acquisitions begun together share calls, and each has its own answer.
#[tokio::test]
async fn steps_begun_together_share_calls() {
    let server = RedisServer::start();
    let lock = connect(server.url()).await.unwrap();
    lock.acquire("warm").await.unwrap().release().await.unwrap();
    server.reset_counts().await;
    let mut tasks = JoinSet::new();
    for i in 0..64 {
        let lock = lock.clone();
        tasks.spawn(async move { lock.acquire(format!("job {i}")).await.unwrap() });
    }
    let mut guards = Vec::new();
    while let Some(guard) = tasks.join_next().await {
        guards.push(guard.unwrap());
    }
    let calls = work(&server).await["evalsha"];
    assert!(calls <= 5, "{calls} calls");
    let keys: std::collections::BTreeSet<_> = guards.iter().map(|guard| guard.key().name().to_owned()).collect();
    assert_eq!(keys.len(), 64);
    assert!(guards.iter().all(|guard| guard.is_held()));
    server.reset_counts().await;
    drop(guards);
    until_quiet(&lock).await;
    let calls = work(&server).await["evalsha"];
    assert!(calls <= 5, "given back in {calls} calls");
    assert!(server.keys().await.keys().all(|key| key.ends_with(":fence")));
}

/// One who goes away in the middle leaves those who went along with it their answers.
#[tokio::test]
async fn callers_that_go_take_nobody_with_them() {
    let server = RedisServer::start();
    let lock: Locker = connect(server.url()).await.unwrap();
    for polls in 1..6 {
        let mut tasks = JoinSet::new();
        for i in 0..8 {
            let lock = lock.clone();
            tasks.spawn(async move { drop(lock.acquire(format!("job {i}")).await.unwrap()) });
        }
        let _ = poll_times(pin!(lock.acquire("gone")), polls).await;
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
    }
    until_quiet(&lock).await;
    assert!(lock.inspect("gone").await.unwrap().is_free());
}

/// Calls that were begun and are not polled keep nobody else's from going on, whatever they are.
#[tokio::test]
async fn callers_that_are_not_polled_hold_nobody_up() {
    let server = RedisServer::start();
    let lock: Locker = connect(server.url()).await.unwrap();
    let soon = Duration::from_secs(30);
    {
        let (mut a, mut b) = (pin!(lock.acquire("a")), pin!(lock.acquire("b")));
        for _ in 0..2 {
            assert!(poll_times(a.as_mut(), 1).await.is_none() || poll_times(b.as_mut(), 1).await.is_none());
        }
        let third = tokio::time::timeout(soon, lock.acquire("c")).await.expect("a lock that nobody has");
        third.unwrap().release().await.unwrap();
    }
    let guard = lock.acquire("d").await.unwrap();
    let mut question = pin!(lock.inspect("e"));
    let _ = poll_times(question.as_mut(), 1).await;
    tokio::time::timeout(soon, guard.release()).await.expect("an answer").unwrap();
    assert!(question.await.unwrap().is_free());
}

/// Whoever was not heard of, since its connection had ended, asks when it listens again, and not when it would have next: it
/// keeps its place, though that is kept for less than what is between two of its requests.
#[tokio::test]
async fn who_was_not_heard_of_keeps_its_place() {
    let server = RedisServer::start();
    let holder = connect(server.url()).await.unwrap();
    let held = holder.acquire("job").await.unwrap();
    let mut waiting = Vec::new();
    for ahead in 0..2 {
        let lock = connect(server.url()).await.unwrap();
        waiting.push(tokio::spawn(async move { lock.acquire("job").await.unwrap().release().await.unwrap() }));
        let waits = async || holder.inspect("job").await.unwrap().waiters == Some(ahead + 1);
        eventually("it waits", waits).await;
    }
    let (queue, leases) = ("{tasklock:job}:1:queue", "{tasklock:job}:1:leases");
    let in_line = async || server.ask::<Vec<String>>(&["ZRANGE", queue, "0", "-1"]).await;
    let before = in_line().await;
    let (seconds, _): (u64, u64) = server.ask(&["TIME"]).await;
    let unheard = (seconds * 1000 + 5_000).to_string();
    for member in &before {
        let _: u64 = server.ask(&["ZADD", leases, "XX", &unheard, member]).await;
    }
    let _: u64 = server.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    eventually("both have asked", async || {
        // Whoever touches the lock clears away those whose time is over. Its own connection may just have ended, too.
        match holder.try_acquire("job").await {
            Ok(guard) => assert!(guard.is_none()),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        assert_eq!(in_line().await, before, "a place is lost");
        let mut longer = 0;
        for member in &before {
            let lease: f64 = server.ask(&["ZSCORE", leases, member]).await;
            longer += usize::from(lease > unheard.parse::<f64>().unwrap() + 10_000.0);
        }
        longer == before.len()
    })
    .await;
    held.release().await.unwrap();
    for waiter in waiting {
        waiter.await.unwrap();
    }
}
