//! Pools on a real server: what is left there, what dies there, and how long it is kept busy.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tasklock::{
    Locker, Nonce, Pool, RedisConfig, RedisLock, Renew, Ttl,
    redis::{self, Value, aio::MultiplexedConnection},
    testing::{Faulty, Op, poll_times, until_quiet},
};
use tasklock_tests::{
    eventually,
    pools::drop_everywhere,
    processes::Worker,
    script::{Lock, POOL_SCRIPT, Peer},
    servers::RedisServer,
    worker,
};

const MANY: usize = 20_000;

async fn backend(server: &RedisServer) -> RedisLock {
    RedisConfig::from_url(&server.url()).unwrap().connect().await.unwrap()
}

async fn pool(server: &RedisServer) -> (Locker, Pool) {
    let lock = Locker::new(backend(server).await).unwrap();
    let pool = lock.pool("licences").unwrap();
    (lock, pool)
}

async fn members(pool: &Pool) -> HashSet<String> {
    pool.members().await.unwrap().iter().map(|member| member.to_string()).collect()
}

fn numbered(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("licence {number}"))
}

async fn drop_everywhere_in_redis(on: Op) {
    let server = RedisServer::start();
    let make = async || {
        let (backend_here, faults) = Faulty::new(backend(&server).await);
        ((Locker::new(backend_here).unwrap(), faults), Locker::new(backend(&server).await).unwrap())
    };
    drop_everywhere(make, on).await;
    for (key, ttl) in server.keys().await {
        let members = key.ends_with(":1:pool:members");
        assert!(members || ttl > 0, "{key} never ends");
        assert!(!key.contains(":lock:") && !key.contains(":hold:") && !key.contains("stage"), "{key} is left");
    }
    let nobody_listens = async || server.ask::<Vec<String>>(&["PUBSUB", "CHANNELS"]).await.is_empty();
    eventually("no inbox is left", nobody_listens).await;
}

#[tokio::test]
async fn waits_dropped_anywhere_leave_nothing() {
    drop_everywhere_in_redis(Op::TryAcquire).await;
}

#[tokio::test]
async fn withdrawals_that_go_wrong_leave_nothing() {
    drop_everywhere_in_redis(Op::Release).await;
}

/// A process that is killed with a member has it no longer than its ttl; one that is killed while it waits delays nobody,
/// and the others are served in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_killed_processes_come_back() {
    let server = RedisServer::start();
    let (_lock, pool) = pool(&server).await;
    pool.assign(["a"]).await.unwrap();
    let short = format!("{}?ttl=2s", server.url());
    let mut holder = Worker::start(worker!(), &short).await;
    let answer = holder.ask("member licences").await;
    let token: u64 = answer.strip_prefix("member ").unwrap().strip_suffix(" a").unwrap().parse().unwrap();
    let mut waiters = Vec::new();
    for waiting in 1..=3 {
        let mut waiter = Worker::start(worker!(), &short).await;
        waiter.order("member licences").await;
        eventually("it waits", async || pool.health().await.unwrap().waiters == waiting).await;
        waiters.push(waiter);
    }
    let mut third = waiters.pop().unwrap();
    let mut second = waiters.pop().unwrap();
    waiters.pop().unwrap().kill().await;
    holder.kill().await;
    let answer = second.answer().await;
    let next: u64 = answer.strip_prefix("member ").unwrap().strip_suffix(" a").unwrap().parse().unwrap();
    assert!(next > token, "{next} after {token}");
    second.finish().await;
    assert!(third.answer().await.ends_with(" a"));
    third.finish().await;
    eventually("given back", async || pool.health().await.unwrap().free == 1).await;
}

/// 20,000 members, assigned while somebody else asks and is answered all the while: the server has other things to do
/// between the parts.
#[tokio::test]
async fn a_large_assignment_is_done_in_parts() {
    let server = RedisServer::start();
    let (_lock, pool) = pool(&server).await;
    pool.assign(["before"]).await.unwrap();
    server.reset_counts().await;
    let (done, pings, seen_before) = (Arc::new(AtomicBool::new(false)), AtomicU64::new(0), AtomicU64::new(0));
    let mut pinger = server.connection().await;
    let ping = async {
        while !done.load(Ordering::Relaxed) {
            let _: String = redis::cmd("PING").query_async(&mut pinger).await.unwrap();
            pings.fetch_add(1, Ordering::Relaxed);
        }
    };
    let look = async {
        while !done.load(Ordering::Relaxed) {
            match pool.len().await.unwrap() as usize {
                1 => _ = seen_before.fetch_add(1, Ordering::Relaxed),
                MANY => {}
                some => panic!("{some} members: neither what was before nor what is after"),
            }
        }
    };
    let assign = async {
        pool.assign(numbered(MANY)).await.unwrap();
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(ping, look, assign);
    // Each part leaves the server to others, and each of them came to its turn in between.
    let parts = MANY.div_ceil(256) as u64;
    let counts = server.counts().await;
    assert_eq!((counts["zmscore"], counts["zadd"], counts["rename"]), (parts, 2 * parts, 2), "{counts:?}");
    assert!(pings.load(Ordering::Relaxed) >= parts / 4, "{pings:?} answered");
    assert!(seen_before.load(Ordering::Relaxed) > 0);
    assert_eq!(members(&pool).await, numbered(MANY).collect());
}

/// Everything of a pool ends by itself, but for who belongs to it; and an assignment that was given up is nothing.
#[tokio::test]
async fn all_but_the_members_ends_by_itself() {
    let server = RedisServer::start();
    let (lock, pool) = pool(&server).await;
    pool.assign(["a", "b"]).await.unwrap();
    let guard = pool.clone().affinity("tenant 7").acquire().await.unwrap();
    let endless = pool.clone().ttl(Ttl::Never).acquire().await.unwrap();
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire().await }
    });
    eventually("it waits", async || pool.health().await.unwrap().waiters == 1).await;
    let given_up = poll_times(pin!(pool.assign(numbered(MANY))), 10).await;
    assert!(given_up.is_none(), "done before it was given up");
    // What was under way has been answered.
    lock.ping().await.unwrap();
    let mut parts = HashSet::new();
    for (key, ttl) in server.keys().await {
        let part = key.strip_prefix("{tasklock:licences}:1:").unwrap_or_else(|| panic!("{key}: out of its place"));
        let part = part.strip_prefix("pool:").unwrap().split(':').next().unwrap().to_owned();
        let never = part == "members" || key.ends_with("lock:b") || (part == "hold" && ttl == -1);
        assert_eq!(ttl == -1, never, "{key}: {ttl}");
        parts.insert(part);
    }
    let all = ["members", "lock", "hold", "fence", "had", "queue", "leases", "wants", "stages", "stage"];
    assert_eq!(parts, all.map(str::to_owned).into());
    assert_eq!(members(&pool).await, HashSet::from(["a", "b"].map(str::to_owned)));
    endless.release().await.unwrap();
    drop((guard, waiting.await.unwrap().unwrap()));
    until_quiet(&lock).await;
    pool.clear().await.unwrap();
    let left = server.keys().await;
    let ends = |key: &String| ["members", ":lock:", ":hold:"].iter().all(|part| !key.contains(part));
    assert!(left.keys().all(ends), "{left:?}");
}

/// What happens to locks while an assignment is under way is known when it stands: who was granted a member meanwhile has
/// it, and what was given back is free.
#[tokio::test]
async fn an_assignment_knows_what_happened_meanwhile() {
    let server = RedisServer::start();
    let (lock, pool) = pool(&server).await;
    pool.assign(["a", "b", "c"]).await.unwrap();
    let before = pool.clone().ttl(Ttl::Never).acquire().await.unwrap();
    assert_eq!(before.member(), "a");
    let mut by_hand = ByHand::new(&server).await;
    assert_eq!(by_hand.step(&["stage", "x", "a", "b", "d"]).await, Value::Int(1));
    before.release().await.unwrap();
    let (b, c) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    assert_eq!((b.member(), c.member()), ("b", "c"));
    let meanwhile = pool.clone().renew(Renew::Off).acquire().await.unwrap();
    assert_eq!(meanwhile.member(), "a");
    meanwhile.extend(Duration::from_secs(3600)).await.unwrap();
    assert_eq!(by_hand.step(&["swap", "x", "3"]).await, Value::Int(1));
    let health = pool.health().await.unwrap();
    assert_eq!((health.locked, health.free), (2, 1), "a and b are held, d is free, and c belongs to nothing");
    let d = pool.acquire().await.unwrap();
    assert_eq!(d.member(), "d");
    assert!(pool.try_acquire().await.unwrap().is_none());
    c.release().await.unwrap();
    assert!(pool.try_acquire().await.unwrap().is_none(), "c was taken out");
    meanwhile.release().await.unwrap();
    assert_eq!(pool.acquire().await.unwrap().member(), "a");
    drop((b, d));
    until_quiet(&lock).await;
}

/// What of an assignment is gone is not put in place in part; nor is one too many begun.
#[tokio::test]
async fn an_assignment_stands_whole_or_not_at_all() {
    let server = RedisServer::start();
    let (_lock, pool) = pool(&server).await;
    pool.assign(["a"]).await.unwrap();
    let mut by_hand = ByHand::new(&server).await;
    assert_eq!(by_hand.step(&["stage", "x", "b"]).await, Value::Int(1));
    // As if the first part had been so slow that it was forgotten.
    let _: Value = server.ask(&["DEL", "{tasklock:licences}:1:pool:stage:x"]).await;
    assert_eq!(by_hand.step(&["stage", "x", "c"]).await, Value::Int(1));
    assert_eq!(by_hand.step(&["swap", "x", "2"]).await, Value::Int(0));
    assert_eq!(members(&pool).await, HashSet::from(["a".to_owned()]));
    for number in 0..8 {
        assert_eq!(by_hand.step(&["stage", &number.to_string(), "b"]).await, Value::Int(1));
    }
    assert_eq!(by_hand.step(&["stage", "one too many", "b"]).await, Value::Int(0));
    let refused = pool.assign(["b"]).await.unwrap_err();
    assert!(refused.is_retryable(), "{refused}");
    assert_eq!(by_hand.step(&["swap", "7", "1"]).await, Value::Int(1));
    pool.assign(["c"]).await.unwrap();
    assert_eq!(members(&pool).await, HashSet::from(["c".to_owned()]));
}

/// A member's lock is what counts, not what its time says.
#[tokio::test]
async fn the_lock_of_a_member_knows_better_than_its_time() {
    let server = RedisServer::start();
    let (lock, pool) = pool(&server).await;
    pool.assign(["a", "b"]).await.unwrap();
    let guard = pool.acquire().await.unwrap();
    let members = "{tasklock:licences}:1:pool:members";
    let _: Value = server.ask(&["ZADD", members, "-1", guard.member()]).await;
    let other = pool.acquire().await.unwrap();
    assert_ne!(guard.member(), other.member());
    let _: Value = server.ask(&["ZADD", members, "-1", guard.member()]).await;
    assert!(pool.try_acquire().await.unwrap().is_none(), "held twice");
    let score: f64 = server.ask(&["ZSCORE", members, guard.member()]).await;
    assert!(score > 0.0, "its time was not mended");
    drop((guard, other));
    until_quiet(&lock).await;
}

/// A waiter that was told and hangs keeps its member for a claim, not for the ttl, and the next behind it is told.
#[tokio::test]
async fn one_who_was_told_and_does_not_come_is_passed_over() {
    let server = RedisServer::start();
    let (_lock, pool) = pool(&server).await;
    pool.assign(["a"]).await.unwrap();
    let guard = pool.acquire().await.unwrap();
    // It listens, and never comes.
    let (client, hung) = (Nonce::fresh(), Nonce::fresh());
    let mut listener = redis::Client::open(server.url()).unwrap().get_async_pubsub().await.unwrap();
    listener.subscribe(format!("tasklock:1:inbox:{client}")).await.unwrap();
    let mut by_hand = ByHand::new(&server).await;
    let hung = format!("{client}.{hung}");
    by_hand.step(&["wait", &hung, "3600000", "", "1 h a n"]).await;
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire().await }
    });
    eventually("both wait", async || pool.health().await.unwrap().waiters == 2).await;
    guard.release().await.unwrap();
    let next = waiting.await.unwrap().unwrap();
    assert_eq!(next.member(), "a");
    assert_eq!(by_hand.step(&["renew", &hung, "3600000"]).await, Value::Array(vec![Value::Int(0)]), "two holders");
    assert!(next.is_held());
}

/// More waiters than one step lets in, and more members than they: nobody is left waiting beside a free member.
#[tokio::test]
async fn many_waiters_are_let_in_at_once() {
    let server = RedisServer::start();
    let mut waiting = tokio::task::JoinSet::new();
    let (_lock, admin) = pool(&server).await;
    let mut locks = Vec::new();
    // A process each, as far as the server can tell.
    for _ in 0..50 {
        let (lock, pool) = pool(&server).await;
        locks.push(lock);
        waiting.spawn(async move { pool.acquire().await.unwrap() });
    }
    eventually("all wait", async || admin.health().await.unwrap().waiters == 50).await;
    admin.assign(numbered(100)).await.unwrap();
    let guards = tokio::time::timeout(Duration::from_secs(60), waiting.join_all()).await.expect("all are let in");
    let members: HashSet<&str> = guards.iter().map(|guard| guard.member()).collect();
    assert_eq!(members.len(), 50);
    assert_eq!(admin.health().await.unwrap().free, 50);
}

/// More waiters than one call lets in, behind more that are gone than one call passes over: each call does its part, one
/// that waits makes the next, and all are let in, in order.
#[tokio::test]
async fn a_long_line_is_let_in_by_parts() {
    let lock = Lock::new().await;
    let (mut by_hand, mut there, gone) = (ByHand::new(&lock.server).await, lock.listener().await, Peer::gone());
    for dead in 0..300 {
        by_hand.ask("wait", &format!("{}.{dead:032x}", &gone.member[..32])).await;
    }
    let waiters: Vec<String> = (0..200).map(|number| format!("{}.{number:032x}", &there.member[..32])).collect();
    for waiter in &waiters {
        by_hand.ask("wait", waiter).await;
    }
    let all: Vec<String> = numbered(250).collect();
    let words: Vec<&str> = ["extend"].into_iter().chain(all.iter().map(String::as_str)).collect();
    lock.server.reset_counts().await;
    by_hand.step(&words).await;
    let told_in_one_call = async || {
        let told = lock.server.counts().await.get("publish").copied().unwrap_or(0);
        assert!(told <= 64 + 128 + 16, "{told} were told in one call");
        lock.server.reset_counts().await;
    };
    told_in_one_call().await;
    let (last, others) = waiters.split_last().unwrap();
    assert_eq!(there.told().await, format!("next {last} 0"), "who came last is there most likely");
    let mut has = HashSet::new();
    loop {
        let answer = by_hand.ask("poll", last).await;
        told_in_one_call().await;
        match answer.as_slice() {
            [Value::Int(_), member] => break assert!(has.insert(format!("{member:?}"))),
            [_, _, _, _, Value::Int(soon)] => assert_eq!(*soon, 10),
            other => panic!("neither a member nor soon: {other:?}"),
        }
    }
    for waiter in others {
        assert_eq!(there.told().await, format!("next {waiter} 0"));
    }
    for waiter in others {
        match by_hand.ask("poll", waiter).await.as_slice() {
            [Value::Int(_), member] => assert!(has.insert(format!("{member:?}")), "one member for two"),
            other => panic!("no member: {other:?}"),
        }
    }
}

/// Nothing that the documents leave out is needed.
#[tokio::test]
async fn the_rights_in_the_documents_are_enough() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/redis.md");
    let text = fs::read_to_string(document).expect("docs/redis.md");
    let line = text.lines().find(|line| line.starts_with("ACL SETUSER locks ")).expect("the line with the rights");
    let server = RedisServer::start();
    assert_eq!(server.ask::<String>(&line.split(' ').collect::<Vec<_>>()).await, "OK");
    let lock = tasklock::connect(server.url().replace("//", "//locks:secret@")).await.unwrap();
    let pool = lock.pool("licences").unwrap();
    pool.assign(["a", "b"]).await.unwrap();
    pool.extend(["c"]).await.unwrap();
    pool.shrink(["c"]).await.unwrap();
    let guard = pool.clone().affinity("tenant 7").acquire().await.unwrap();
    let endless = pool.clone().ttl(Ttl::Never).acquire().await.unwrap();
    guard.extend(Duration::from_secs(60)).await.unwrap();
    guard.extend(Ttl::Never).await.unwrap();
    assert!(pool.clone().wait(Duration::from_millis(50)).acquire().await.is_err());
    let waiting = pool.acquire();
    let given_back = async {
        eventually("it waits", async || pool.health().await.unwrap().waiters == 1).await;
        guard.release().await.unwrap();
    };
    let (waited, ()) = tokio::join!(waiting, given_back);
    drop((waited.unwrap(), endless));
    until_quiet(&lock).await;
    assert_eq!(members(&pool).await.len(), 2);
    assert!(pool.contains("a").await.unwrap());
    pool.clear().await.unwrap();
    let refused: Vec<HashMap<String, Value>> = server.ask(&["ACL", "LOG"]).await;
    let known =
        |entry: &HashMap<String, Value>| entry.get("object") == Some(&Value::BulkString(b"client|setinfo".to_vec()));
    assert!(refused.iter().all(known), "{refused:?}");
}

/// Steps of the script as they are sent, on the pool of the test.
struct ByHand(MultiplexedConnection);

impl ByHand {
    async fn new(server: &RedisServer) -> Self {
        ByHand(server.connection().await)
    }

    /// For an hour, whichever is free.
    async fn ask(&mut self, what: &str, holder: &str) -> Vec<Value> {
        match self.step(&[what, holder, "3600000", "", "1 h a n"]).await {
            Value::Array(parts) => parts,
            other => panic!("{other:?}"),
        }
    }

    async fn step(&mut self, words: &[&str]) -> Value {
        let mut call = redis::cmd("EVAL");
        call.arg(POOL_SCRIPT).arg(1).arg("{tasklock:licences}:1:pool:members").arg(words);
        call.query_async(&mut self.0).await.unwrap()
    }
}
