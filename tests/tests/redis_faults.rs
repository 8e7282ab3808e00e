//! Servers that end, stop, forget and change sides; clients that die and hang. Whatever happens, everybody comes to a
//! defined end, and tokens never go back.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tasklock::{
    AsyncLock, Attempt, Claim, Clock, Event, Guard, Intent, Key, LockError, Locker, LossReason, Nonce, Owner,
    RedisConfig, RedisLock, ReleaseOutcome, Released, Renew, Renewed, Request, Ttl, connect, redis::Value,
    testing::until_quiet,
};
use tasklock_tests::{
    eventually, is_lost,
    servers::{RedisServer, RedisSettings},
};
use tokio::task::JoinHandle;

/// Longer than anything here takes, and much less than what would pass if a fault cost a whole ttl.
const PATIENCE: Duration = Duration::from_secs(40);
const LONG: Duration = Duration::from_secs(600);
const OFTEN: Renew = Renew::Every(Duration::from_millis(100));

async fn client(server: &RedisServer) -> RedisLock {
    RedisConfig::from_url(&server.url()).unwrap().connect().await.unwrap()
}

async fn locker(server: &RedisServer) -> Locker {
    connect(server.url()).await.unwrap()
}

fn request(key: &str) -> Request {
    let (owner, now) = (Owner::named("test"), Clock::current().now());
    // As a locker with the default prefix calls it.
    let key = Key::new(format!("tasklock:{key}")).unwrap();
    Request::new(key, Nonce::fresh(), Ttl::For(LONG), Intent::Wait, owner, now)
}

/// An acquisition in a task of its own, in the queue when this returns.
async fn waiting(lock: &Locker, watch: &Locker, ahead: u64) -> JoinHandle<Result<Guard, LockError>> {
    let lock = lock.clone();
    let task = tokio::spawn(async move { lock.acquire("job").await });
    eventually("it waits", async || watch.inspect("job").await.is_ok_and(|state| state.waiters == Some(ahead + 1)))
        .await;
    task
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

async fn got(waiter: JoinHandle<Result<Guard, LockError>>) -> Guard {
    soon("the waiter has it", waiter).await.unwrap().unwrap()
}

/// Killed and started again with its data: who held it holds it, who waited waits.
#[tokio::test]
async fn a_restart_with_its_data_changes_nothing() {
    let server = RedisServer::durable();
    let (here, there) = (locker(&server).await, locker(&server).await);
    let held = here.acquire("job").await.unwrap();
    let waiter = waiting(&there, &here, 0).await;
    server.kill();
    assert!(held.is_held(), "its time is not over");
    server.restart();
    eventually("connected again", async || here.ping().await.is_ok()).await;
    assert!(held.is_held());
    held.extend(Duration::from_secs(30)).await.unwrap();
    assert!(!waiter.is_finished());
    let token = held.fencing_token();
    assert_eq!(soon("released", held.release()).await.unwrap(), ReleaseOutcome::Released);
    let next = got(waiter).await;
    assert!(next.is_held() && next.fencing_token() > token);
}

/// Killed while a release is on its way: it is repeated, and the waiter has it.
#[tokio::test]
async fn a_release_outlives_a_restart() {
    let server = RedisServer::durable();
    let (here, there) = (locker(&server).await, locker(&server).await);
    let held = here.key("job").ttl(LONG).acquire().await.unwrap();
    let waiter = waiting(&there, &here, 0).await;
    server.kill();
    drop(held);
    server.restart();
    assert!(got(waiter).await.is_held());
    soon("nothing is left to do", until_quiet(&here)).await;
}

/// Started again without its data: the holder is told, the waiter has it, under a higher token.
#[tokio::test]
async fn a_restart_without_its_data_ends_the_hold() {
    let server = RedisServer::start();
    let (here, there) = (locker(&server).await, locker(&server).await);
    let held = here.key("job").ttl(Duration::from_secs(3)).acquire().await.unwrap();
    let waiter = waiting(&there, &here, 0).await;
    server.kill();
    server.restart_empty();
    let next = got(waiter).await;
    assert!(next.fencing_token() > held.fencing_token(), "tokens went back");
    let reason = soon("the holder is told", held.lost()).await;
    assert!(matches!(reason, LossReason::Stolen | LossReason::Unreachable), "{reason:?}");
    assert_eq!(held.release().await.unwrap(), ReleaseOutcome::AlreadyLost);
    assert!(next.is_held(), "the former holder's release took it away");
    next.extend(Duration::from_secs(30)).await.unwrap();
}

/// A body under a lock that is forgotten is cancelled.
#[tokio::test]
async fn a_body_is_cancelled_with_its_lock() {
    let server = RedisServer::start();
    let lock = locker(&server).await;
    let handle = lock.key("job").renew(OFTEN);
    let body = tokio::spawn(async move { handle.synchronized(std::future::pending::<()>()).await });
    eventually("it runs", async || !lock.inspect("job").await.unwrap().is_free()).await;
    let _: Value = server.ask(&["FLUSHALL"]).await;
    let outcome = soon("the body ends", body).await.unwrap();
    assert!(is_lost(&outcome, LossReason::Stolen), "{outcome:?}");
}

/// A server that is away: an outage is no contention, and passes.
#[tokio::test]
async fn an_outage_is_told_and_passes() {
    let server = RedisServer::start();
    let lock = connect(server.url()).await.unwrap();
    let held = lock.key("held").ttl(Duration::from_secs(3)).renew(OFTEN).acquire().await.unwrap();
    server.stop();
    let error = soon("a try ends", lock.try_acquire("job")).await.unwrap_err();
    assert!(error.is_retryable() && !error.is_contended(), "{error}");
    let bounded = lock.key("job").wait(Duration::from_millis(300));
    let error = soon("a bounded wait ends", bounded.acquire()).await.unwrap_err();
    assert!(error.is_retryable() && !error.is_contended(), "{error}");
    assert!(lock.ping().await.is_err() && lock.inspect("job").await.is_err());
    assert_eq!(soon("the holder is told", held.lost()).await, LossReason::Unreachable);
    let patient = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire("job").await }
    });
    server.restart();
    assert!(got(patient).await.is_held());
    drop(held);
    soon("nothing is left to do", until_quiet(&lock)).await;
}

/// A server that hangs: calls are given up, the connections made anew, and nothing that it did late does harm.
#[tokio::test]
async fn a_server_that_hangs() {
    let server = RedisServer::start();
    let lock = connect(format!("{}?timeout=200ms", server.url())).await.unwrap();
    server.pause();
    let waiter = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire("job").await }
    });
    let error = soon("a try ends", lock.try_acquire("other")).await.unwrap_err();
    assert!(error.is_retryable() && !error.is_contended(), "{error}");
    server.resume();
    got(waiter).await.release().await.unwrap();
    soon("nothing is left to do", until_quiet(&lock)).await;
    let other = locker(&server).await;
    for key in ["job", "other"] {
        eventually("given back", async || other.inspect(key).await.unwrap().is_free()).await;
    }
}

/// Pushes that get lost with their connection cost a new connection, not the holder's ttl.
#[tokio::test]
async fn a_lost_push_is_made_up_for() {
    let server = RedisServer::start();
    let (here, there) = (locker(&server).await, client(&server).await);
    let held = request("job");
    assert!(matches!(there.try_acquire(&held).await, Ok(Attempt::Granted(_))));
    let waiter = waiting(&here, &here, 0).await;
    // Of the two inboxes that of the waiter, which was there first.
    let clients: String = server.ask(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
    let id = clients.split_whitespace().find_map(|field| field.strip_prefix("id=")).unwrap();
    assert_eq!(server.ask::<i64>(&["CLIENT", "KILL", "ID", id]).await, 1);
    // Unless it is back already, nobody listens: the lock is free, and nobody is told.
    assert!(matches!(there.release(&Claim::of(&held)).await, Ok(Released::Released)));
    assert!(got(waiter).await.is_held());
    // And the inbox is there again.
    let held = here.acquire("job").await.unwrap();
    let waiter = request("job");
    assert!(matches!(there.try_acquire(&waiter).await, Ok(Attempt::Busy(_))));
    eventually("both listen", async || server.ask::<Vec<String>>(&["PUBSUB", "CHANNELS"]).await.len() == 2).await;
    held.release().await.unwrap();
    soon("told", there.wait(&waiter)).await.unwrap();
}

/// After a reconnect every waiter is told to look again.
#[tokio::test]
async fn a_reconnect_is_an_event() {
    let server = RedisServer::start();
    let client = client(&server).await;
    let _: i64 = server.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    assert!(matches!(soon("an event", client.event()).await, Event::Recheck));
    // The other connection goes too, if only one was lost.
    let _: i64 = server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    let _ = client.ping().await;
    assert!(matches!(soon("an event", client.event()).await, Event::Recheck));
    client.ping().await.unwrap();
    let channels: Vec<String> = server.ask(&["PUBSUB", "CHANNELS"]).await;
    assert_eq!(channels.len(), 1);
}

/// A server that forgets its scripts is sent them again.
#[tokio::test]
async fn scripts_that_are_forgotten() {
    let server = RedisServer::start();
    let lock = locker(&server).await;
    for _ in 0..3 {
        let guard = lock.acquire("job").await.unwrap();
        let _: Value = server.ask(&["SCRIPT", "FLUSH"]).await;
        assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::Released);
    }
}

/// The server becomes a replica, as in a failover: that passes, and the address is looked up anew.
#[tokio::test]
async fn a_server_that_becomes_a_replica() {
    let (master, server) = (RedisServer::start(), RedisServer::start());
    let lock = locker(&server).await;
    lock.acquire("job").await.unwrap().release().await.unwrap();
    let before = clients(&server).await;
    let port = master.port().to_string();
    let _: Value = server.ask(&["REPLICAOF", "127.0.0.1", &port]).await;
    let error = soon("a try ends", lock.try_acquire("job")).await.unwrap_err();
    assert!(error.is_retryable() && !error.is_contended(), "{error}");
    let waiter = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire("job").await }
    });
    let _: Value = server.ask(&["REPLICAOF", "NO", "ONE"]).await;
    assert!(got(waiter).await.is_held());
    assert!(
        clients(&server).await.is_disjoint(&before),
        "who is told so connects anew: the name may mean another by now"
    );
}

/// One connection for calls, and one to be told by; however many wait.
#[tokio::test]
async fn two_connections_are_enough() {
    let server = RedisServer::start();
    let lock = locker(&server).await;
    let held = lock.acquire("job").await.unwrap();
    let mut waiters = Vec::new();
    for ahead in 0..8 {
        waiters.push(waiting(&lock, &lock, ahead).await);
    }
    assert_eq!(clients(&server).await.len(), 2);
    drop((held, waiters));
}

/// By their ids, which are never given again.
async fn clients(server: &RedisServer) -> HashSet<String> {
    let list: String = server.ask(&["CLIENT", "LIST"]).await;
    let others = list.lines().filter(|client| !client.contains("cmd=client"));
    others.filter_map(|client| client.split(' ').next().map(str::to_owned)).collect()
}

/// A client that is gone holds nobody up.
#[tokio::test]
async fn dead_waiters_are_passed_over() {
    let server = RedisServer::start();
    let (here, there) = (locker(&server).await, locker(&server).await);
    let held = here.key("job").ttl(LONG).acquire().await.unwrap();
    let dead = client(&server).await;
    for _ in 0..50 {
        assert!(matches!(dead.try_acquire(&request("job")).await, Ok(Attempt::Busy(_))));
    }
    let waiter = waiting(&there, &here, 50).await;
    drop(dead);
    eventually("it is gone", async || server.ask::<Vec<String>>(&["PUBSUB", "CHANNELS"]).await.len() == 2).await;
    held.release().await.unwrap();
    assert!(got(waiter).await.is_held());
}

/// A client that is connected and does nothing costs those behind it a claim, not its predecessor's ttl.
#[tokio::test]
async fn hung_waiters_cost_a_claim() {
    let server = RedisServer::start();
    let (here, there) = (locker(&server).await, locker(&server).await);
    let held = here.key("job").ttl(LONG).acquire().await.unwrap();
    let hung = client(&server).await;
    for _ in 0..3 {
        assert!(matches!(hung.try_acquire(&request("job")).await, Ok(Attempt::Busy(_))));
    }
    let waiter = waiting(&there, &here, 3).await;
    let token = held.fencing_token();
    held.release().await.unwrap();
    let next = got(waiter).await;
    assert!(next.fencing_token().get() > token.get() + 3, "those ahead had their turn");
    assert!(next.is_held());
}

/// A grant that its waiter took up too late is not believed.
#[tokio::test]
async fn a_claim_that_was_not_taken_up_is_no_hold() {
    let server = RedisServer::start();
    let (here, slow) = (client(&server).await, client(&server).await);
    let (held, late, next) = (request("job"), request("job"), request("job"));
    assert!(matches!(here.try_acquire(&held).await, Ok(Attempt::Granted(_))));
    assert!(matches!(slow.try_acquire(&late).await, Ok(Attempt::Busy(_))));
    assert!(matches!(here.release(&Claim::of(&held)).await, Ok(Released::Released)));
    let granted = async || matches!(here.try_acquire(&next).await, Ok(Attempt::Granted(_)));
    eventually("the claim is over, and the next has it", granted).await;
    let told = soon("told to look again", slow.wait(&late)).await.unwrap();
    assert!(matches!(told, tasklock::Wake::Retry), "{told:?}");
    assert!(matches!(slow.renew(&[Claim::of(&late)]).await[..], [Ok(Renewed::NotOwner)]));
    assert!(matches!(here.renew(&[Claim::of(&next)]).await[..], [Ok(Renewed::Held { .. })]));
}

/// What is pushed to somebody who is no longer there is given back at once.
#[tokio::test]
async fn a_push_that_nobody_wants_is_given_back() {
    let server = RedisServer::start();
    let (here, there) = (client(&server).await, client(&server).await);
    let (held, stray, next) = (request("job"), request("job"), request("job"));
    assert!(matches!(here.try_acquire(&held).await, Ok(Attempt::Granted(_))));
    // A request of one that has left arrives late: a release that was not known to need a withdrawal.
    assert!(matches!(there.try_acquire(&stray).await, Ok(Attempt::Busy(_))));
    assert!(matches!(there.renew(&[Claim::of(&stray)]).await[..], [Ok(Renewed::NotOwner)]));
    assert!(matches!(there.try_acquire(&next).await, Ok(Attempt::Busy(_))));
    assert!(matches!(here.release(&Claim::of(&held)).await, Ok(Released::Released)));
    let told = soon("it passes on to the next", there.wait(&next)).await.unwrap();
    assert!(matches!(told, tasklock::Wake::Granted(_)), "{told:?}");
}

/// Through whatever the server goes, one at a time, and no token twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_time_through_restarts() {
    let server = Arc::new(RedisServer::with(RedisSettings { durable: true, ..RedisSettings::default() }));
    let fence = Arc::new(tasklock::Fence::new());
    let inside = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let lock = locker(&server).await;
        let (fence, inside) = (fence.clone(), inside.clone());
        tasks.spawn(async move {
            for _ in 0..40 {
                let guard = lock.key("job").renew(Renew::Auto).acquire().await.unwrap();
                assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0, "two at once");
                fence.admit(guard.fencing_token()).unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
                inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                drop(guard);
            }
        });
    }
    for _ in 0..3 {
        let seen = fence.seen();
        eventually("it goes on", async || fence.seen().get() > seen.get() + 1 || tasks.is_empty()).await;
        let server = server.clone();
        tokio::task::spawn_blocking(move || {
            server.kill();
            server.restart();
        })
        .await
        .unwrap();
    }
    while let Some(task) = soon("everybody ends", tasks.join_next()).await {
        task.unwrap();
    }
}
