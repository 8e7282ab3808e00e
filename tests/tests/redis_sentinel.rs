//! A master and two replicas, watched by three sentinels: the master is killed, stops and goes on, is deposed; sentinels
//! hang. Nobody hangs with them, and tokens rise.

use std::{collections::HashMap, time::Duration};

use tasklock::{
    LockError, Locker, RedisConfig, RedisLock, ReleaseOutcome, connect, connector,
    redis::{Client, PushKind, Value},
    testing::{conformance, until_quiet},
};
use tasklock_tests::{
    eventually,
    load::Load,
    processes::scenarios::{self, Scene},
    servers::{PATIENCE, RedisSentinels, patient},
    soon, worker,
};

const LONG: Duration = Duration::from_secs(600);

fn url(sentinels: &RedisSentinels) -> String {
    format!("{}?service={}", sentinels.url(), sentinels.service())
}

async fn client(sentinels: &RedisSentinels) -> RedisLock {
    RedisConfig::from_url(&url(sentinels)).unwrap().connect().await.unwrap()
}

/// One that asks again for longer than a failover takes.
async fn locker(sentinels: &RedisSentinels) -> Locker {
    connector(url(sentinels)).await.unwrap().patience(PATIENCE).build().unwrap()
}

#[tokio::test]
async fn the_suite() {
    let sentinels = RedisSentinels::start().await;
    conformance::run_all(async || client(&sentinels).await).await;
}

/// The user of docs/redis-topologies.md, word by word.
#[tokio::test]
async fn the_suite_with_no_more_rights_than_it_needs() {
    let sentinels = RedisSentinels::start().await;
    let page = include_str!("../../docs/redis-topologies.md");
    let rule = page.lines().find(|line| line.starts_with("ACL SETUSER locks ")).unwrap();
    // The suite has a prefix of its own for each of its locks.
    let rule = rule.replace("~{tasklock:*}:1:*", "~{*}:1:*");
    let words: Vec<_> = rule.split(' ').collect();
    let _: Value = sentinels.servers()[0].ask(&words).await;
    let rights = page.lines().find_map(|line| line.strip_prefix("At the sentinels, if they have users: `")).unwrap();
    let rights = rights.split('`').next().unwrap().split(' ');
    let asks: Vec<_> = "ACL SETUSER asks on >secret resetchannels -@all".split(' ').chain(rights).collect();
    for sentinel in sentinels.sentinels() {
        let _: Value = sentinel.ask(&asks).await;
    }
    let url = url(&sentinels).replace("://", "://locks:secret@") + "&sentinel_user=asks&sentinel_pass=secret";
    conformance::run_all(async || RedisConfig::from_url(&url).unwrap().connect().await.unwrap()).await;
    for sentinel in sentinels.sentinels() {
        let mut refused: Vec<HashMap<String, Value>> = sentinel.ask(&["ACL", "LOG"]).await;
        // The driver tells its name, where the server knows what to do with it, and goes on.
        refused.retain(|entry| entry.get("object") != Some(&Value::BulkString(b"client|setinfo".to_vec())));
        assert!(refused.is_empty(), "{refused:?}");
    }
}

/// The master is killed while somebody holds and another waits: both go on with the one that takes over.
#[tokio::test]
async fn the_master_is_killed_during_a_hold_and_a_wait() {
    let sentinels = RedisSentinels::start().await;
    let (here, there) = (locker(&sentinels).await, locker(&sentinels).await);
    let held = here.key("job").ttl(LONG).acquire().await.unwrap();
    let waiter = tokio::spawn({
        let there = there.clone();
        async move { there.acquire("job").await }
    });
    eventually("it waits", async || here.inspect("job").await.is_ok_and(|state| state.waiters == Some(1))).await;
    for replica in &sentinels.servers()[1..] {
        eventually("it is replicated", async || replica.keys().await.len() == 5).await;
    }
    sentinels.servers()[0].kill();
    let master = sentinels.another_than(0).await;
    eventually("the hold goes on there", async || held.extend(LONG).await.is_ok()).await;
    let new = &sentinels.servers()[master];
    eventually("both listen there", async || {
        new.ask::<Vec<String>>(&["PUBSUB", "CHANNELS", "tasklock:*"]).await.len() == 2
    })
    .await;
    assert!(held.is_held() && !waiter.is_finished());
    let token = held.fencing_token();
    assert_eq!(soon("released", held.release()).await.unwrap(), ReleaseOutcome::Released);
    let next = soon("the waiter has it", waiter).await.unwrap().unwrap();
    assert!(next.is_held() && next.fencing_token() > token);
    next.release().await.unwrap();
    soon("nothing is left to do", until_quiet(&there)).await;
}

/// The master is killed under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_master_is_killed_under_load() {
    let sentinels = RedisSentinels::start().await;
    let lockers = [locker(&sentinels).await, locker(&sentinels).await];
    let mut load = Load::start(&lockers, "job", 3);
    load.goes_on(20).await;
    sentinels.servers()[0].kill();
    let master = sentinels.another_than(0).await;
    load.goes_on(20).await;
    // What was the master comes back, and is told that it is not.
    sentinels.servers()[0].restart();
    eventually("it is a replica", async || sentinels.role_of(0).await == "slave").await;
    load.goes_on(20).await;
    assert_ne!(master, 0);
    load.end().await;
}

/// The master stops under load, is replaced, and goes on; until it is told, it takes itself for the master. Nobody has
/// stayed with it: the sentinels have told them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_master_stops_and_goes_on_under_load() {
    let sentinels = RedisSentinels::start().await;
    let lockers = [locker(&sentinels).await, locker(&sentinels).await];
    let mut load = Load::start(&lockers, "job", 3);
    load.goes_on(20).await;
    sentinels.servers()[0].pause();
    let master = sentinels.another_than(0).await;
    load.goes_on(20).await;
    let new = &sentinels.servers()[master];
    eventually("both listen to the new one", async || {
        new.ask::<Vec<String>>(&["PUBSUB", "CHANNELS", "tasklock:*"]).await.len() == lockers.len()
    })
    .await;
    sentinels.servers()[0].resume();
    eventually("it is told", async || sentinels.role_of(0).await == "slave").await;
    load.goes_on(20).await;
    load.end().await;
}

/// A master that is deposed while it lives refuses to write, and is left for the other one.
#[tokio::test]
async fn a_master_that_is_deposed() {
    let sentinels = RedisSentinels::start().await;
    let lock = locker(&sentinels).await;
    let held = lock.key("job").ttl(LONG).acquire().await.unwrap();
    for replica in &sentinels.servers()[1..] {
        eventually("it is replicated", async || replica.keys().await.len() == 2).await;
    }
    let old = &sentinels.servers()[0];
    let _: Value = sentinels.sentinels()[0].ask(&["SENTINEL", "FAILOVER", sentinels.service()]).await;
    let master = sentinels.another_than(0).await;
    eventually("the hold goes on there", async || held.extend(LONG).await.is_ok()).await;
    let owners: Vec<String> = sentinels.servers()[master].ask(&["KEYS", "*:owner"]).await;
    assert_eq!(owners.len(), 1);
    eventually("nobody has stayed", async || {
        let inboxes = old.try_ask::<Vec<String>>(&["PUBSUB", "CHANNELS", "tasklock:*"]).await;
        inboxes.is_ok_and(|inboxes| inboxes.is_empty())
    })
    .await;
    held.release().await.unwrap();
    lock.acquire("job").await.unwrap().release().await.unwrap();
}

/// Who cannot be asked does not count: one that answers is enough.
#[tokio::test]
async fn sentinels_that_are_down_or_hang() {
    let sentinels = RedisSentinels::start().await;
    let [first, second, third] = sentinels.sentinels() else { panic!("three") };
    first.pause();
    soon("with one that hangs", locker(&sentinels)).await.acquire("job").await.unwrap().release().await.unwrap();
    second.kill();
    soon("and one that is down", locker(&sentinels)).await.acquire("job").await.unwrap().release().await.unwrap();
    third.kill();
    let error = soon("it ends", connect(url(&sentinels))).await.unwrap_err();
    assert!(matches!(error, LockError::Backend(_)) && error.is_retryable(), "{error:?}");
    first.resume();
    soon("one is enough", locker(&sentinels)).await.acquire("job").await.unwrap().release().await.unwrap();
}

/// A sentinel that hangs is waited for by nobody: who names it, too, is connected before who names only the others has
/// connected five times.
#[tokio::test]
async fn a_sentinel_that_hangs_costs_nothing() {
    let sentinels = RedisSentinels::start().await;
    let others = sentinels.sentinels()[1..].iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port()));
    let others = RedisConfig::sentinel(others, sentinels.service()).unwrap();
    sentinels.sentinels()[0].pause();
    let five_times = async {
        for _ in 0..5 {
            others.clone().connect().await.unwrap();
        }
    };
    tokio::select! {
        biased;
        _ = client(&sentinels) => {}
        () = five_times => panic!("it was waited for"),
    }
    sentinels.sentinels()[0].resume();
}

/// An old view of one sentinel does not lead back to a former master.
#[tokio::test]
async fn a_sentinel_with_an_old_view_is_outvoted() {
    let sentinels = RedisSentinels::start().await;
    let stale = &sentinels.sentinels()[0];
    stale.pause();
    sentinels.servers()[0].pause();
    let named = async || {
        let (_, port): (String, u16) =
            sentinels.sentinels()[1].ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", sentinels.service()]).await;
        port
    };
    eventually("the two agree on another", async || named().await != sentinels.servers()[0].port()).await;
    let port = named().await;
    sentinels.servers()[0].resume();
    let lock = locker(&sentinels).await;
    let held = lock.acquire("job").await.unwrap();
    let new = sentinels.servers().iter().find(|server| server.port() == port).unwrap();
    let owners: Vec<String> = new.ask(&["KEYS", "*:owner"]).await;
    assert_eq!(owners.len(), 1, "taken elsewhere");
    held.release().await.unwrap();
    stale.resume();
}

/// A replica does not repeat what its master says to its own listeners: to a client that was left at a former master, of
/// whom the master did not know when it gave the lock to another, that would be a second grant.
#[tokio::test]
async fn a_replica_repeats_nothing() {
    let sentinels = RedisSentinels::start().await;
    let [master, replica, _] = sentinels.servers() else { panic!("three") };
    let (here, there) = (locker(&sentinels).await, locker(&sentinels).await);
    let held = here.acquire("job").await.unwrap();
    let waiter = tokio::spawn(async move { there.acquire("job").await });
    eventually("it waits", async || here.inspect("job").await.is_ok_and(|state| state.waiters == Some(1))).await;
    let (heard, mut messages) = tokio::sync::mpsc::unbounded_channel();
    let client = Client::open(format!("{}?protocol=resp3", replica.url())).unwrap();
    let config = patient().set_push_sender(heard);
    let mut left_behind = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    let inboxes: Vec<String> = master.ask(&["PUBSUB", "CHANNELS", "tasklock:*"]).await;
    assert_eq!(inboxes.len(), 2);
    left_behind.subscribe(&inboxes).await.unwrap();
    held.release().await.unwrap();
    soon("the waiter has it", waiter).await.unwrap().unwrap().release().await.unwrap();
    let _: i64 = master.ask(&["PUBLISH", &inboxes[0], "the end"]).await;
    let message = loop {
        let push = soon("something comes", messages.recv()).await.unwrap();
        if push.kind == PushKind::Message {
            break push.data[1].clone();
        }
    };
    assert_eq!(message, Value::BulkString("the end".into()));
}

/// Has the sentinels name another master, while the one of the beginning stays as it is: reachable, and not to be told. As
/// if it were cut off from them alone.
async fn another_behind_the_back_of_the_first(sentinels: &RedisSentinels) -> usize {
    let _: Value = sentinels.servers()[0].ask(&["ACL", "SETUSER", "default", "-slaveof", "-replicaof"]).await;
    eventually("a failover begins", async || {
        let words = ["SENTINEL", "FAILOVER", sentinels.service()];
        sentinels.sentinels()[0].try_ask::<Value>(&words).await.is_ok()
    })
    .await;
    sentinels.another_than(0).await
}

/// The client has left the master of the beginning for this one, where its locks are from now on.
async fn has_gone_to(sentinels: &RedisSentinels, master: usize, lock: &Locker) {
    let inboxes = async |server: usize| {
        sentinels.servers()[server].ask::<Vec<String>>(&["PUBSUB", "CHANNELS", "tasklock:*"]).await
    };
    eventually("it is there", async || inboxes(master).await.len() == 1 && inboxes(0).await.is_empty()).await;
    assert_eq!(sentinels.role_of(0).await, "master", "it was to know nothing");
    let held = lock.acquire("job").await.unwrap();
    let owners: Vec<String> = sentinels.servers()[master].ask(&["KEYS", "*:owner"]).await;
    assert_eq!(owners.len(), 1, "taken elsewhere");
    held.release().await.unwrap();
}

/// Sentinels are listened to, whenever they were started: one was down at first, and the others have ended since.
#[tokio::test]
async fn sentinels_that_come_back_are_listened_to() {
    let sentinels = RedisSentinels::start().await;
    let [first, second, third] = sentinels.sentinels() else { panic!("three") };
    third.kill();
    let lock = locker(&sentinels).await;
    third.restart();
    for sentinel in [first, second] {
        sentinel.kill();
        sentinel.restart();
    }
    let master = another_behind_the_back_of_the_first(&sentinels).await;
    has_gone_to(&sentinels, master, &lock).await;
}

/// What was said while nobody could listen is asked for when somebody can again.
#[tokio::test]
async fn a_switch_that_was_not_heard() {
    let sentinels = RedisSentinels::start().await;
    let lock = locker(&sentinels).await;
    let channels = async |rule: &str| {
        for sentinel in sentinels.sentinels() {
            let _: Value = sentinel.ask(&["ACL", "SETUSER", "default", rule]).await;
        }
    };
    // Who listens is thrown out by that.
    channels("resetchannels").await;
    let master = another_behind_the_back_of_the_first(&sentinels).await;
    channels("allchannels").await;
    has_gone_to(&sentinels, master, &lock).await;
}

/// What they do not watch, and what is no sentinel.
#[tokio::test]
async fn a_master_that_nobody_watches() {
    let sentinels = RedisSentinels::start().await;
    let error = connect(format!("{}?service=invoices", sentinels.url())).await.unwrap_err();
    assert!(!error.is_retryable() && error.to_string().contains("no master called `invoices`"), "{error}");
    let server = format!("redis-sentinel://127.0.0.1:{}", sentinels.servers()[0].port());
    let error = connect(server).await.unwrap_err();
    assert!(!error.is_retryable() && error.to_string().contains("unknown command"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_store_loses_no_update() {
    // The scenario adds the parameters, so the master has the name that is the default.
    let sentinels = RedisSentinels::of("mymaster").await;
    let url = sentinels.url();
    scenarios::a_fenced_store_loses_no_update(Scene { program: worker!(), url: &url }).await;
}
