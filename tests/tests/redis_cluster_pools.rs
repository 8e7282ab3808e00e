//! Pools in a cluster: each at the master of its slot, pushed from there, and at rest while the slot is on its way.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tasklock::{
    Applied, AsyncLock, Attempt, Claim, Clock, FencingToken, Intent, Key, Lease, LockError, Locker, Mode, Nonce, Owner,
    Pool, PoolChange, RedisConfig, RedisLock, Released, Renewed, Request, Ttl, Wake, connector, redis::Value,
};
use tasklock_tests::{
    eventually,
    servers::{PATIENCE, RedisCluster, RedisServer},
    soon,
};
use tokio::task::JoinSet;

const LONG: Duration = Duration::from_secs(600);
/// Masters of the beginning.
const MASTERS: usize = 3;

async fn client(cluster: &RedisCluster) -> RedisLock {
    RedisConfig::from_url(&cluster.url()).unwrap().connect().await.unwrap()
}

async fn locker(cluster: &RedisCluster) -> Locker {
    connector(cluster.url()).await.unwrap().patience(PATIENCE).build().unwrap()
}

/// As a locker with the default prefix calls it.
fn key_of(pool: &str) -> Key {
    Key::new(format!("tasklock:{pool}")).unwrap().for_pool()
}

fn request(pool: &str, intent: Intent) -> Request {
    let (owner, now) = (Owner::named("test"), Clock::current().now());
    let mut request = Request::new(key_of(pool), Nonce::fresh(), Ttl::For(LONG), intent, owner, now);
    request.mode = Mode::Member;
    request
}

async fn assign(client: &RedisLock, pool: &str, members: &[&str]) {
    let members = PoolChange::Assign(members.iter().map(|member| Arc::from(*member)).collect());
    client.powers().pools.unwrap().change(&key_of(pool), &members).await.unwrap();
}

/// The member, and its token.
async fn granted(client: &RedisLock, request: &Request) -> (Arc<str>, FencingToken) {
    match client.try_acquire(request).await {
        Ok(Attempt::Granted(grant)) => (grant.member.unwrap(), grant.token.unwrap()),
        other => panic!("not granted: {other:?}"),
    }
}

async fn slot_of(cluster: &RedisCluster, pool: &str) -> u16 {
    cluster.slot(&format!("{{tasklock:{pool}}}")).await
}

/// How often the masters have carried out a command.
async fn calls(cluster: &RedisCluster, command: &str) -> [u64; MASTERS] {
    let mut calls = [0; MASTERS];
    for (master, calls) in cluster.nodes().iter().zip(&mut calls) {
        *calls = master.counts().await.get(command).copied().unwrap_or(0);
    }
    calls
}

async fn reset_counts(cluster: &RedisCluster) {
    for node in cluster.nodes() {
        node.reset_counts().await;
    }
}

/// Whether anybody listens in this slot at this node.
async fn listens(node: &RedisServer, slot: u16, cluster: &RedisCluster) -> bool {
    for channel in node.ask::<Vec<String>>(&["PUBSUB", "SHARDCHANNELS"]).await {
        if cluster.slot(&channel).await == slot {
            return true;
        }
    }
    false
}

async fn members(pool: &Pool) -> HashSet<String> {
    pool.members().await.unwrap().iter().map(|member| member.to_string()).collect()
}

async fn shows(pool: &Pool, locked: u64, free: u64, waiters: u64) {
    let expected = (locked, free, waiters);
    eventually(&format!("it shows {expected:?}"), async || {
        pool.health().await.is_ok_and(|health| (health.locked, health.free, health.waiters) == expected)
    })
    .await;
}

/// A member that is given back is one call and one push, at its pool's own node; whoever is told comes for it with another
/// call. Who waits in a slot for the first time tries and subscribes before.
#[tokio::test]
async fn waiters_are_told_on_every_node() {
    let cluster = RedisCluster::start().await;
    let (holder, waiter) = (client(&cluster).await, client(&cluster).await);
    for (node, pool) in cluster.key_in_each("pool").await.iter().enumerate() {
        let only_here = |count| {
            let mut counts = [0; MASTERS];
            counts[node] = count;
            counts
        };
        assign(&holder, pool, &["a", "b"]).await;
        let [one, two] = [(); 2].map(|()| request(pool, Intent::Try));
        let next = request(pool, Intent::Wait);
        let (first, (_, last)) = (granted(&holder, &one).await, granted(&holder, &two).await);
        reset_counts(&cluster).await;
        assert!(matches!(waiter.try_acquire(&next).await, Ok(Attempt::Busy(_))));
        assert_eq!(calls(&cluster, "evalsha").await, only_here(2));
        assert_eq!(calls(&cluster, "ssubscribe").await, only_here(1));
        reset_counts(&cluster).await;
        assert!(matches!(holder.release(&Claim::of(&one)).await, Ok(Released::Released)));
        let told = soon("told", waiter.wait(&next)).await.unwrap();
        assert!(matches!(told, Wake::Retry), "{told:?}");
        let (member, token) = granted(&waiter, &next).await;
        assert_eq!(member, first.0);
        assert!(token > last);
        assert_eq!(calls(&cluster, "evalsha").await, only_here(2));
        assert_eq!(calls(&cluster, "spublish").await, only_here(1));
        assert_eq!(calls(&cluster, "publish").await, [0; MASTERS]);
        assert!(matches!(waiter.release(&Claim::of(&next)).await, Ok(Released::Released)));
        assert!(matches!(holder.release(&Claim::of(&two)).await, Ok(Released::Released)));
    }
}

/// Whoever waits in a slot that has moved is told to look again, and is bound at its new node by that.
#[tokio::test]
async fn waiters_follow_their_slot() {
    let cluster = RedisCluster::start().await;
    let (holder, waiter) = (client(&cluster).await, client(&cluster).await);
    let [pool, ..] = cluster.key_in_each("pool").await;
    assign(&holder, &pool, &["a"]).await;
    let (held, next) = (request(&pool, Intent::Try), request(&pool, Intent::Wait));
    granted(&holder, &held).await;
    assert!(matches!(waiter.try_acquire(&next).await, Ok(Attempt::Busy(_))));
    let slot = slot_of(&cluster, &pool).await;
    cluster.move_slot(slot, 0, 1).await;
    let told = soon("told that the slot has moved", waiter.wait(&next)).await.unwrap();
    assert!(matches!(told, Wake::Retry), "{told:?}");
    assert!(matches!(waiter.try_acquire(&next).await, Ok(Attempt::Busy(_))));
    assert!(listens(&cluster.nodes()[1], slot, &cluster).await);
    assert!(matches!(holder.release(&Claim::of(&held)).await, Ok(Released::Released)));
    soon("told by the new node", waiter.wait(&next)).await.unwrap();
    granted(&waiter, &next).await;
    assert!(matches!(waiter.release(&Claim::of(&next)).await, Ok(Released::Released)));
}

/// A pool goes to another node key by key, while its members are held, one is given back and somebody waits. Whatever is
/// where, nothing is done at either node: nobody is let in, no holder is told that it has lost what it has, and all of that
/// passes. When the slot has arrived, everything is as before.
#[tokio::test]
async fn a_pool_stands_still_while_it_moves_key_by_key() {
    let cluster = RedisCluster::start().await;
    let lockers = [locker(&cluster).await, locker(&cluster).await, locker(&cluster).await, locker(&cluster).await];
    for (name, backwards) in [("forwards", false), ("backwards", true)] {
        let [name, ..] = cluster.key_in_each(name).await;
        let slot = slot_of(&cluster, &name).await;
        let [here, there, third, stranger] = lockers.each_ref().map(|lock| lock.pool(&name).unwrap().ttl(LONG));
        here.assign(["a", "b", "c"]).await.unwrap();
        let held = [here.acquire().await.unwrap(), there.acquire().await.unwrap()];
        let given_back = here.acquire().await.unwrap();
        assert_eq!(given_back.member(), "c");
        let waiter = tokio::spawn(async move { third.acquire().await });
        shows(&here, 3, 0, 1).await;
        let mut keys = cluster.keys(slot, 0).await;
        keys.sort();
        if backwards {
            keys.reverse();
        }
        assert_eq!(keys.len(), 11, "{keys:?}");
        let [from, to, ..] = cluster.nodes() else { panic!("six") };
        cluster.begin_move(slot, 0, 1).await;
        // As the clock of a node that it comes to may say: their locks alone tell that they are held.
        for member in ["a", "b"] {
            let key = format!("{{tasklock:{name}}}:1:pool:members");
            let _: Value = from.ask(&["ZADD", &key, "XX", "-1", member]).await;
        }
        to.reset_counts().await;
        let token = given_back.fencing_token();
        let release = tokio::spawn(given_back.release());
        for key_moved in [None].into_iter().chain(keys.iter().map(Some)) {
            if let Some(key_moved) = key_moved {
                cluster.move_key(key_moved, 0, 1).await;
            }
            match soon("a try ends", stranger.try_acquire()).await {
                Err(LockError::Backend(error)) => {
                    assert!(error.is_retryable() && error.applied() == Applied::No, "{key_moved:?}: {error}");
                }
                other => panic!("{key_moved:?}: answered by half of a pool: {other:?}"),
            }
            for guard in &held {
                if let Err(error) = soon("a renewal ends", guard.extend(LONG)).await {
                    assert!(error.is_retryable() && !error.is_contended(), "{key_moved:?}: {error}");
                }
                assert!(guard.is_held(), "{key_moved:?}");
            }
            let mut both = cluster.keys(slot, 0).await;
            both.extend(cluster.keys(slot, 1).await);
            both.sort();
            assert_eq!(both.iter().collect::<HashSet<_>>().len(), both.len(), "{key_moved:?}: {both:?}");
            assert_eq!(both.len(), keys.len(), "{key_moved:?}: {both:?}");
        }
        assert_eq!(to.counts().await.get("asking"), None, "nobody goes where it is going to");
        cluster.end_move(slot, 0, 1).await;
        for guard in &held {
            eventually("renewed at the new node", async || guard.extend(LONG).await.is_ok()).await;
        }
        let next = soon("the waiter has it", waiter).await.unwrap().unwrap();
        assert_eq!(next.member(), "c");
        assert!(next.fencing_token() > token);
        let _ = soon("the release ends", release).await.unwrap();
        assert!(stranger.try_acquire().await.unwrap().is_none());
        assert_eq!(members(&stranger).await, HashSet::from(["a", "b", "c"].map(str::to_owned)));
        assert!(held.iter().all(|guard| guard.is_held()));
        for guard in held {
            guard.release().await.unwrap();
        }
        next.release().await.unwrap();
        shows(&here, 0, 3, 0).await;
    }
}

/// Renewals do not wait for those at a master that hangs: neither those of other pools, nor those of locks.
#[tokio::test]
async fn a_master_that_hangs_keeps_no_renewals_back() {
    let cluster = RedisCluster::start().await;
    let url = format!("{}?timeout={}s", cluster.url(), PATIENCE.as_secs());
    let client = Arc::new(RedisConfig::from_url(&url).unwrap().connect().await.unwrap());
    let pools = cluster.key_in_each("pool").await;
    let mut claims = Vec::new();
    for pool in &pools {
        assign(&client, pool, &["a"]).await;
        let held = request(pool, Intent::Try);
        granted(&client, &held).await;
        claims.push(Claim::of(&held));
    }
    let mut lock = request(&pools[0], Intent::Try);
    (lock.key, lock.mode) = (Key::new(format!("tasklock:{}", pools[0])).unwrap(), Mode::Exclusive);
    assert!(matches!(client.try_acquire(&lock).await, Ok(Attempt::Granted(_))));
    claims.push(Claim::of(&lock));
    let [hung, others @ ..] = &cluster.nodes()[..MASTERS] else { panic!("three") };
    reset_counts(&cluster).await;
    hung.pause();
    let renewed = tokio::spawn({
        let client = client.clone();
        async move { client.renew(&claims).await }
    });
    for node in others {
        eventually("renewed", async || node.counts().await.get("evalsha") == Some(&1)).await;
    }
    assert!(!renewed.is_finished());
    hung.resume();
    let renewed = soon("all have answered", renewed).await.unwrap();
    assert!(renewed[1..MASTERS].iter().all(|renewed| matches!(renewed, Ok(Renewed::Held { .. }))), "{renewed:?}");
}

/// Workers share two licences while their slot goes round. Nobody has the one that another has, and none is mislaid.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn licences_are_shared_while_their_slot_goes_round() {
    let cluster = RedisCluster::start().await;
    let [name, ..] = cluster.key_in_each("licences").await;
    let slot = slot_of(&cluster, &name).await;
    let lockers = [locker(&cluster).await, locker(&cluster).await, locker(&cluster).await];
    let pools = lockers.each_ref().map(|lock| lock.pool(&name).unwrap().ttl(LONG));
    pools[0].assign(["a", "b"]).await.unwrap();
    let has: Arc<Mutex<HashMap<String, Lease>>> = Arc::default();
    let (used, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut workers = JoinSet::new();
    for pool in pools.iter().flat_map(|pool| std::iter::repeat_n(pool, 3)) {
        let (pool, has, used, stop) = (pool.clone(), has.clone(), used.clone(), stop.clone());
        workers.spawn(async move {
            let has = || has.lock().unwrap_or_else(PoisonError::into_inner);
            while !stop.load(Ordering::Relaxed) {
                let guard = match pool.acquire().await {
                    Ok(guard) => guard,
                    Err(error) => {
                        assert!(error.is_retryable() && !error.is_contended(), "{error}");
                        continue;
                    }
                };
                let before = has().insert(guard.member().to_owned(), guard.lease().clone());
                let two = guard.is_held() && before.is_some_and(|lease| lease.is_held());
                assert!(!two, "{} was granted twice", guard.member());
                tokio::time::sleep(Duration::from_millis(1)).await;
                has().remove(guard.member());
                // Lost or not, it comes to an end.
                let _ = guard.release().await;
                used.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 2)] {
        let before = used.load(Ordering::Relaxed);
        eventually("it goes on", async || used.load(Ordering::Relaxed) >= before + 20).await;
        cluster.move_slot(slot, from, to).await;
    }
    let before = used.load(Ordering::Relaxed);
    eventually("it goes on", async || used.load(Ordering::Relaxed) >= before + 20).await;
    stop.store(true, Ordering::Relaxed);
    soon("all end", workers.join_all()).await;
    shows(&pools[0], 0, 2, 0).await;
}

/// 20,000 members, in parts, at one node.
#[tokio::test]
async fn a_large_assignment_is_done_at_one_node() {
    let cluster = RedisCluster::start().await;
    let lock = locker(&cluster).await;
    let [_, name, _] = cluster.key_in_each("pool").await;
    let pool = lock.pool(&name).unwrap();
    let numbered = || (0..20_000).map(|number| format!("licence {number}"));
    reset_counts(&cluster).await;
    pool.assign(numbered()).await.unwrap();
    let parts = 20_000_usize.div_ceil(256) as u64;
    assert_eq!(calls(&cluster, "zmscore").await, [0, parts, 0]);
    assert_eq!(calls(&cluster, "rename").await, [0, 1, 0]);
    assert_eq!(members(&pool).await, numbered().collect());
    let guard = pool.acquire().await.unwrap();
    assert!(numbered().any(|member| member == guard.member()));
    shows(&pool, 1, 19_999, 0).await;
}
