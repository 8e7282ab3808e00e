//! Six nodes: grants are pushed across them, slots move, masters end and stop. Nobody hangs, and tokens rise.

use std::{sync::Arc, time::Duration};

use tasklock::{
    AsyncLock, Attempt, Claim, Clock, Guard, Intent, Key, LockError, Locker, LossReason, Nonce, Owner, RedisConfig,
    RedisLock, ReleaseOutcome, Released, Renew, Renewed, Request, Ttl, Wake, connect, connector,
    redis::{self, Value},
    testing::until_quiet,
};
use tasklock_tests::{
    eventually,
    load::Load,
    servers::{PATIENCE, RedisCluster, RedisServer},
    soon,
};
use tokio::task::JoinHandle;

const LONG: Duration = Duration::from_secs(600);

/// Masters of the beginning.
const MASTERS: usize = 3;

async fn client(cluster: &RedisCluster) -> RedisLock {
    RedisConfig::from_url(&cluster.url()).unwrap().connect().await.unwrap()
}

/// One that asks again for longer than a failover takes.
async fn locker(cluster: &RedisCluster) -> Locker {
    connector(cluster.url()).await.unwrap().patience(PATIENCE).build().unwrap()
}

fn request(key: &str, intent: Intent) -> Request {
    let (owner, now) = (Owner::named("test"), Clock::current().now());
    // As a locker with the default prefix calls it.
    let key = Key::new(format!("tasklock:{key}")).unwrap();
    Request::new(key, Nonce::fresh(), Ttl::For(LONG), intent, owner, now)
}

async fn slot_of(cluster: &RedisCluster, key: &str) -> u16 {
    cluster.slot(&format!("{{tasklock:{key}}}")).await
}

/// An acquisition in a task of its own, in the queue when this returns.
async fn waiting(lock: &Locker, key: &str, watch: &Locker, ahead: u64) -> JoinHandle<Result<Guard, LockError>> {
    let task = tokio::spawn({
        let (lock, key) = (lock.clone(), key.to_owned());
        async move { lock.acquire(key).await }
    });
    eventually("it waits", async || watch.inspect(key).await.is_ok_and(|state| state.waiters == Some(ahead + 1))).await;
    task
}

async fn got(waiter: JoinHandle<Result<Guard, LockError>>) -> Guard {
    soon("the waiter has it", waiter).await.unwrap().unwrap()
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

/// Who listens in this slot at this node.
async fn listeners(node: &RedisServer, slot: u16, cluster: &RedisCluster) -> usize {
    let mut listeners = 0;
    for channel in node.ask::<Vec<String>>(&["PUBSUB", "SHARDCHANNELS"]).await {
        listeners += usize::from(cluster.slot(&channel).await == slot);
    }
    listeners
}

/// Locks of all nodes are pushed to who waits: a hand-over is one call and one push, at the lock's own node.
#[tokio::test]
async fn grants_are_pushed_on_every_node() {
    let cluster = RedisCluster::start().await;
    let (holder, waiter) = (client(&cluster).await, client(&cluster).await);
    for (node, key) in cluster.key_in_each("job").await.iter().enumerate() {
        let (held, next) = (request(key, Intent::Try), request(key, Intent::Wait));
        assert!(matches!(holder.try_acquire(&held).await, Ok(Attempt::Granted(_))));
        assert!(matches!(waiter.try_acquire(&next).await, Ok(Attempt::Busy(_))));
        reset_counts(&cluster).await;
        assert!(matches!(holder.release(&Claim::of(&held)).await, Ok(Released::Released)));
        let told = soon("pushed", waiter.wait(&next)).await.unwrap();
        let Wake::Granted(grant) = told else { panic!("granted by a push: {told:?}") };
        assert!(grant.confirm);
        let mut expected = [0; MASTERS];
        expected[node] = 1;
        assert_eq!(calls(&cluster, "evalsha").await, expected);
        assert_eq!(calls(&cluster, "spublish").await, expected);
        assert_eq!(calls(&cluster, "publish").await, [0; MASTERS]);
        assert!(matches!(waiter.release(&Claim::of(&next)).await, Ok(Released::Released)));
    }
}

/// Who does not wait does not listen: one call to acquire, one to release. The first wait in a slot costs one more, and
/// a subscription that stays.
#[tokio::test]
async fn an_uncontended_lock_is_two_calls() {
    let cluster = RedisCluster::start().await;
    let lock = locker(&cluster).await;
    let [_, key, _] = cluster.key_in_each("job").await;
    lock.acquire(&key).await.unwrap().release().await.unwrap();
    reset_counts(&cluster).await;
    lock.acquire(&key).await.unwrap().release().await.unwrap();
    assert_eq!(calls(&cluster, "evalsha").await, [0, 2, 0]);
    assert_eq!(calls(&cluster, "ssubscribe").await, [0; MASTERS]);
    let other = client(&cluster).await;
    for calls_to_wait in [2, 1] {
        let held = lock.acquire(&key).await.unwrap();
        reset_counts(&cluster).await;
        let waiter = request(&key, Intent::Wait);
        assert!(matches!(other.try_acquire(&waiter).await, Ok(Attempt::Busy(_))));
        assert_eq!(calls(&cluster, "evalsha").await, [0, calls_to_wait, 0]);
        assert_eq!(calls(&cluster, "ssubscribe").await, [0, calls_to_wait - 1, 0]);
        other.release(&Claim::of(&waiter)).await.unwrap();
        held.release().await.unwrap();
    }
}

/// Renewals of many leases are split by node; each lease has its own answer.
#[tokio::test]
async fn renewals_are_split_by_node() {
    let cluster = RedisCluster::start().await;
    let client = client(&cluster).await;
    let mut claims = Vec::new();
    for i in 0..60 {
        let request = request(&format!("job {i}"), Intent::Try);
        assert!(matches!(client.try_acquire(&request).await, Ok(Attempt::Granted(_))));
        claims.push(Claim::of(&request));
    }
    claims.insert(30, Claim::of(&request("job 7", Intent::Try)));
    for (i, outcome) in client.renew(&claims).await.iter().enumerate() {
        assert_eq!(matches!(outcome, Ok(Renewed::NotOwner)), i == 30, "{i}: {outcome:?}");
        assert!(outcome.is_ok(), "{i}: {outcome:?}");
    }
    // Those of a node that does not answer do not fail the others.
    cluster.nodes()[1].kill();
    let outcomes = soon("renewed", client.renew(&claims)).await;
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    assert!(failed > 0 && failed < 40, "{failed}");
    assert!(outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).all(|error| error.is_retryable()));
}

/// A slot moves while somebody holds and others wait in it: the hold goes on all the time, who waits is bound at the new
/// node, and is told there.
#[tokio::test]
async fn a_slot_moves_with_its_holder_and_its_waiters() {
    let cluster = RedisCluster::start().await;
    let (here, there, third) = (locker(&cluster).await, locker(&cluster).await, locker(&cluster).await);
    let [key, ..] = cluster.key_in_each("job").await;
    let slot = slot_of(&cluster, &key).await;
    let held = here.key(&key).ttl(LONG).acquire().await.unwrap();
    let first = waiting(&there, &key, &here, 0).await;
    let second = waiting(&third, &key, &here, 1).await;

    cluster.begin_move(slot, 0, 1).await;
    held.extend(LONG).await.unwrap();
    cluster.move_keys(slot, 0, 1).await;
    // The node that has it sends for this once to the one it is going to.
    held.extend(LONG).await.unwrap();
    cluster.end_move(slot, 0, 1).await;

    let [old, new, ..] = cluster.nodes() else { panic!("six") };
    eventually("both listen at the new node", async || listeners(new, slot, &cluster).await == 2).await;
    assert_eq!(listeners(old, slot, &cluster).await, 0);
    assert!(held.is_held() && !first.is_finished() && !second.is_finished());
    reset_counts(&cluster).await;
    let token = held.fencing_token();
    assert_eq!(held.release().await.unwrap(), ReleaseOutcome::Released);
    let first = got(first).await;
    assert!(first.fencing_token() > token);
    assert!(calls(&cluster, "spublish").await[1] >= 1, "told by the new node");
    let token = first.fencing_token();
    first.release().await.unwrap();
    let second = got(second).await;
    assert!(second.fencing_token() > token);
    second.release().await.unwrap();
    assert!(here.inspect(&key).await.unwrap().is_free());
}

/// A lock that nobody waits for, in a slot that is on its way: it is renewed all the time, and can be neither taken nor
/// given back before the slot has arrived, since half of its keys may be at either node. That passes, and is no contention.
#[tokio::test]
async fn a_lock_on_its_way_is_renewed_and_nothing_else() {
    let cluster = RedisCluster::start().await;
    let (here, there) = (locker(&cluster).await, locker(&cluster).await);
    let [key, ..] = cluster.key_in_each("job").await;
    let slot = slot_of(&cluster, &key).await;
    let held = here.key(&key).ttl(LONG).acquire().await.unwrap();
    cluster.begin_move(slot, 0, 2).await;
    for moved in [false, true] {
        if moved {
            cluster.move_keys(slot, 0, 2).await;
        }
        held.extend(LONG).await.unwrap();
        let error = soon("a try ends", there.try_acquire(&key)).await.unwrap_err();
        assert!(error.is_retryable() && !error.is_contended(), "{error}");
    }
    let token = held.fencing_token();
    let release = tokio::spawn(held.release());
    let waiter = tokio::spawn({
        let (there, key) = (there.clone(), key.clone());
        async move { there.acquire(key).await }
    });
    cluster.end_move(slot, 0, 2).await;
    let next = got(waiter).await;
    assert!(next.fencing_token() > token);
    let _ = soon("the release ends", release).await.unwrap();
    drop(next);
    soon("nothing is left to do", until_quiet(&there)).await;
    eventually("given back", async || here.inspect(&key).await.unwrap().is_free()).await;
}

/// A lock that several hold and another waits for goes to another node key by key. Whatever is half there, nobody is let in
/// whom the holders keep out, and nothing is told as if it would stay so. Holders renew whenever what they need is at one
/// node, so before and after their own keys move, and not only when all have.
#[tokio::test]
async fn a_crowd_moves_key_by_key() {
    let cluster = RedisCluster::start().await;
    let lockers = [locker(&cluster).await, locker(&cluster).await, locker(&cluster).await];
    let [here, there, third] = &lockers;
    for (name, backwards) in [("readers", false), ("permits", true)] {
        let [key, ..] = cluster.key_in_each(name).await;
        let slot = slot_of(&cluster, &key).await;
        let shares = |lock: &Locker| {
            let lock = lock.key(&key).ttl(LONG);
            if backwards { lock.permits(2) } else { lock.shared() }
        };
        let held = [shares(here).acquire().await.unwrap(), shares(there).acquire().await.unwrap()];
        let waiter = if backwards {
            let permit = shares(third);
            let task = tokio::spawn(async move { permit.acquire().await });
            eventually("it waits", async || here.inspect(&key).await.is_ok_and(|s| s.waiters == Some(1))).await;
            task
        } else {
            waiting(third, &key, here, 0).await
        };
        let mut keys = cluster.keys(slot, 0).await;
        keys.sort();
        if backwards {
            keys.reverse();
        }
        assert_eq!(keys.len(), 7, "{keys:?}");
        let theirs = ["owner", "holders", "records"];
        let (mut moved, mut renewed) = (0, 0);
        cluster.begin_move(slot, 0, 1).await;
        for key_moved in [None].into_iter().chain(keys.iter().map(Some)) {
            if let Some(key_moved) = key_moved {
                cluster.move_key(key_moved, 0, 1).await;
                moved += usize::from(theirs.iter().any(|end| key_moved.ends_with(end)));
            }
            let together = moved == 0 || moved == theirs.len();
            for guard in &held {
                match soon("a renewal ends", guard.extend(LONG)).await {
                    Ok(()) => renewed += 1,
                    Err(error) => {
                        assert!(!together, "{key_moved:?}: all that a renewal needs is at one node: {error}");
                        assert!(error.is_retryable() && !error.is_contended(), "{key_moved:?}: {error}");
                    }
                }
                assert!(guard.is_held(), "{key_moved:?}");
            }
            for stranger in [third.key(&key), third.key(&key).permits(2)] {
                match soon("a try ends", stranger.try_acquire()).await {
                    Ok(guard) => assert!(guard.is_none(), "{key_moved:?}: let in beside those who hold it"),
                    Err(error) => assert!(error.is_retryable() && !error.is_contended(), "{key_moved:?}: {error}"),
                }
            }
        }
        assert!(renewed >= 4, "{renewed}");
        cluster.end_move(slot, 0, 1).await;
        let mut last = held[0].fencing_token().max(held[1].fencing_token());
        for guard in held {
            eventually("renewed at the new node", async || guard.extend(LONG).await.is_ok()).await;
            assert!(backwards || !waiter.is_finished(), "let in beside a reader");
            assert_eq!(soon("released", guard.release()).await.unwrap(), ReleaseOutcome::Released);
        }
        let next = got(waiter).await;
        assert!(next.fencing_token() > last);
        last = next.fencing_token();
        next.release().await.unwrap();
        let after = soon("taken", here.acquire(&key)).await.unwrap();
        assert!(after.fencing_token() > last);
        after.release().await.unwrap();
    }
}

/// A slot goes round while many use a lock in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_goes_round_under_load() {
    let cluster = RedisCluster::start().await;
    let [key, ..] = cluster.key_in_each("job").await;
    let slot = slot_of(&cluster, &key).await;
    let lockers = [locker(&cluster).await, locker(&cluster).await, locker(&cluster).await];
    let mut load = Load::start(&lockers, &key, 3);
    load.goes_on(20).await;
    for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 2)] {
        cluster.move_slot(slot, from, to).await;
        load.goes_on(20).await;
    }
    assert_eq!(load.overlaps(), 0, "two were in at once");
    load.end().await;
    for lock in &lockers {
        soon("nothing is left to do", until_quiet(lock)).await;
    }
    assert!(lockers[0].inspect(&key).await.unwrap().is_free());
}

/// A master is killed while somebody holds and another waits: its replica, which has what was written, goes on with it.
#[tokio::test]
async fn a_master_is_killed_during_a_hold_and_a_wait() {
    let cluster = RedisCluster::start().await;
    let (here, there) = (locker(&cluster).await, locker(&cluster).await);
    let [key, other, _] = cluster.key_in_each("job").await;
    let held = here.key(&key).ttl(LONG).acquire().await.unwrap();
    let waiter = waiting(&there, &key, &here, 0).await;
    let replica = &cluster.nodes()[MASTERS];
    eventually("it is replicated", async || {
        let log: String = replica.ask(&["INFO", "replication"]).await;
        log.contains("master_link_status:up") && replica.ask::<u64>(&["DBSIZE"]).await == 5
    })
    .await;
    cluster.nodes()[0].kill();
    // The others' locks go on meanwhile.
    here.acquire(&other).await.unwrap().release().await.unwrap();
    let slot = slot_of(&cluster, &key).await;
    eventually("the replica takes over", async || cluster.master_of(slot).await == MASTERS).await;
    eventually("the hold goes on there", async || held.extend(LONG).await.is_ok()).await;
    eventually("the waiter listens there", async || listeners(replica, slot, &cluster).await >= 1).await;
    assert!(held.is_held() && !waiter.is_finished());
    let token = held.fencing_token();
    soon("released", held.release()).await.unwrap();
    let next = got(waiter).await;
    assert!(next.is_held() && next.fencing_token() > token);
    next.release().await.unwrap();
    // It comes back as a replica, and is of no interest.
    cluster.nodes()[0].restart();
    cluster.until_well().await;
    here.acquire(&key).await.unwrap().release().await.unwrap();
    here.ping().await.unwrap();
}

/// What asynchronous replication costs: a replica that takes over without the last writes has forgotten a holder. There
/// are two until the first is told, and the second has the higher token.
#[tokio::test]
async fn a_failover_without_the_last_writes() {
    let cluster = RedisCluster::start().await;
    let (here, there) = (locker(&cluster).await, locker(&cluster).await);
    let [key, ..] = cluster.key_in_each("job").await;
    let slot = slot_of(&cluster, &key).await;
    here.acquire(&key).await.unwrap().release().await.unwrap();
    // Its replica is thrown out, and may not come back for what it misses.
    let mut master = cluster.nodes()[0].connection().await;
    for words in [&["CONFIG", "SET", "requirepass", "hunter2"][..], &["CLIENT", "KILL", "TYPE", "replica"]] {
        let _: Value = redis::cmd(words[0]).arg(&words[1..]).query_async(&mut master).await.unwrap();
    }
    let held = here.key(&key).ttl(LONG).renew(Renew::Off).acquire().await.unwrap();
    cluster.nodes()[0].kill();
    eventually("the replica takes over", async || cluster.master_of(slot).await == MASTERS).await;
    let next = soon("nobody knows of the first", there.acquire(&key)).await.unwrap();
    assert!(held.is_held(), "not told yet");
    assert!(next.fencing_token() > held.fencing_token(), "tokens went back");
    let _ = held.extend(LONG).await;
    let reason = soon("the first is told", held.lost()).await;
    assert_eq!(reason, LossReason::Stolen);
    assert_eq!(held.release().await.unwrap(), ReleaseOutcome::AlreadyLost);
    assert!(next.is_held(), "the former holder's release took it away");
    next.release().await.unwrap();
}

/// A master stops under load, is replaced, and goes on as if nothing had happened, until the others tell it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_stops_and_goes_on_under_load() {
    let cluster = RedisCluster::start().await;
    let [key, ..] = cluster.key_in_each("job").await;
    let slot = slot_of(&cluster, &key).await;
    let lockers = [locker(&cluster).await, locker(&cluster).await];
    let mut load = Load::start(&lockers, &key, 3);
    load.goes_on(20).await;
    cluster.nodes()[0].pause();
    eventually("the replica takes over", async || {
        let slots: Vec<Vec<Value>> = cluster.nodes()[1].ask(&["CLUSTER", "SLOTS"]).await;
        format!("{slots:?}").contains(&format!("int({})", cluster.nodes()[MASTERS].port()))
            && cluster.is_replica(MASTERS).await.eq(&false)
    })
    .await;
    load.goes_on(20).await;
    cluster.nodes()[0].resume();
    cluster.until_well().await;
    assert_eq!(cluster.master_of(slot).await, MASTERS);
    load.goes_on(20).await;
    load.end().await;
}

/// A replica is told to take over: nothing is lost, and who waits is told by it.
#[tokio::test]
async fn a_failover_in_good_order() {
    let cluster = RedisCluster::start().await;
    let (here, there) = (locker(&cluster).await, locker(&cluster).await);
    let [_, key, _] = cluster.key_in_each("job").await;
    let slot = slot_of(&cluster, &key).await;
    let held = here.key(&key).ttl(LONG).acquire().await.unwrap();
    let waiter = waiting(&there, &key, &here, 0).await;
    let new = &cluster.nodes()[MASTERS + 1];
    let _: Value = new.ask(&["CLUSTER", "FAILOVER"]).await;
    eventually("it has taken over", async || cluster.master_of(slot).await == MASTERS + 1).await;
    held.extend(LONG).await.unwrap();
    let token = held.fencing_token();
    soon("released", held.release()).await.unwrap();
    let next = got(waiter).await;
    assert!(next.fencing_token() > token);
    next.release().await.unwrap();
}

/// Who still takes a former master for one may listen there, and is repeated what the new one says; who found nobody
/// listening, and lets the next one in. So what comes from another node than the one that says it is no grant, but a
/// reason to look.
#[tokio::test]
async fn what_a_replica_repeats_is_no_grant() {
    let cluster = RedisCluster::start().await;
    let (holder, waiter) = (client(&cluster).await, client(&cluster).await);
    let [_, key, _] = cluster.key_in_each("job").await;
    let slot = slot_of(&cluster, &key).await;
    let (held, waits) = (request(&key, Intent::Try), request(&key, Intent::Wait));
    assert!(matches!(holder.try_acquire(&held).await, Ok(Attempt::Granted(_))));
    assert!(matches!(waiter.try_acquire(&waits).await, Ok(Attempt::Busy(_))));
    let [_, master, _, _, replica, _] = cluster.nodes() else { panic!("six") };
    let members: Vec<String> = master.ask(&["ZRANGE", &format!("{{tasklock:{key}}}:1:queue"), "0", "-1"]).await;
    let [member] = members.as_slice() else { panic!("{members:?}") };
    let channels: Vec<String> = master.ask(&["PUBSUB", "SHARDCHANNELS"]).await;
    let [channel] = channels.as_slice() else { panic!("{channels:?}") };
    assert_eq!(cluster.slot(channel).await, slot);
    for (says, believed) in [(replica, false), (master, true)] {
        let id: String = says.ask(&["CLUSTER", "MYID"]).await;
        let (seconds, micros): (u64, u64) = master.ask(&["TIME"]).await;
        let now = seconds * 1000 + micros / 1000;
        let message = format!("{id} granted {member} 4000000000000000 {now} 1000 {{tasklock:{key}}}:1:owner");
        assert_eq!(master.ask::<i64>(&["SPUBLISH", channel, &message]).await, 1);
        let told = soon("something is heard", waiter.wait(&waits)).await.unwrap();
        assert_eq!(matches!(told, Wake::Granted(_)), believed, "{told:?}");
        // What it was told for: what is pushed after this is dated by the answer.
        assert!(matches!(waiter.try_acquire(&waits).await, Ok(Attempt::Busy(_))));
    }
    waiter.release(&Claim::of(&waits)).await.unwrap();
    holder.release(&Claim::of(&held)).await.unwrap();
}

/// Without sharded channels there is no telling who waits: it is said when connecting, and trying again does not help.
#[tokio::test]
async fn a_cluster_that_is_too_old() {
    let cluster = RedisCluster::with(&["--rename-command", "SSUBSCRIBE", ""]).await;
    let error = connect(cluster.url()).await.unwrap_err();
    assert!(matches!(error, LockError::Backend(_)) && !error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("7.0"), "{error}");
}

/// What is no cluster, or no address of one.
#[tokio::test]
async fn what_is_no_cluster() {
    let server = RedisServer::start();
    let error = connect(format!("redis-cluster://127.0.0.1:{}", server.port())).await.unwrap_err();
    assert!(!error.is_retryable() && error.to_string().contains("cluster support disabled"), "{error}");
    server.kill();
    let error = connect(format!("redis-cluster://127.0.0.1:{}", server.port())).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    for (address, says) in [
        ("redis-cluster://", "no host"),
        ("redis-cluster://a,b/1", "no databases but 0"),
        ("redis-cluster://a:1,u:p@b:2,:3", "no host"),
        ("redis-cluster://a:hunter2", "not a URL"),
        ("redis-cluster://a,b:hunter2", "no host"),
        ("redis-cluster://a,b?service=x", "unknown parameter `service`"),
        ("redis-quorom://a,b", "unknown scheme"),
        ("redis://a,b", "redis-cluster"),
        ("memory://a,b", "memory"),
        ("redis-sentinel://a,b?service=", "empty"),
    ] {
        let error = connect(address).await.unwrap_err();
        assert!(matches!(error, LockError::InvalidUrl(_)), "{address}: {error:?}");
        assert!(error.to_string().contains(says), "{address}: {error}");
    }
    let shown = format!("{:?}", RedisConfig::from_url("redis-cluster://u:hunter2@a:1,b:2").unwrap());
    assert!(shown.contains("a:1,b:2") && !shown.contains("hunter2"), "{shown}");
}

/// One node that is up is enough to find the others.
#[tokio::test]
async fn some_nodes_that_are_named_may_be_down() {
    let cluster = RedisCluster::start().await;
    let down = RedisServer::start();
    down.kill();
    let urls = [down.port(), cluster.nodes()[4].port()].map(|port| format!("127.0.0.1:{port}"));
    let config = RedisConfig::cluster(urls).unwrap();
    let lock = Arc::new(Locker::new(config.connect().await.unwrap()).unwrap());
    for key in cluster.key_in_each("job").await {
        lock.acquire(&key).await.unwrap().release().await.unwrap();
    }
    lock.ping().await.unwrap();
    lock.shutdown().await;
    assert!(lock.ping().await.is_err());
}
