//! An acquisition dropped at any await leaves nothing in Redis, whatever the connection does meanwhile.

use std::pin::pin;

use tasklock::{
    KeyLock, Locker, RedisConfig, RedisLock, Stats,
    testing::{Fault, Faulty, Op, poll_times, until_quiet},
};
use tasklock_tests::{
    cancellation::{FAULTS, Scene, drop_everywhere_wanting},
    eventually,
    servers::{RedisCluster, RedisServer},
};

async fn backend(url: &str) -> RedisLock {
    RedisConfig::from_url(url).unwrap().connect().await.unwrap()
}

async fn drop_everywhere_in_redis(on: Op, want: fn(KeyLock) -> KeyLock) {
    let server = RedisServer::start();
    drop_everywhere_at(&server.url(), on, want).await;
    server.has_only_fences().await;
    // Each client had one inbox, and it went with the client.
    let nobody_listens = async || server.ask::<Vec<String>>(&["PUBSUB", "CHANNELS"]).await.is_empty();
    eventually("no inbox is left", nobody_listens).await;
}

async fn drop_everywhere_at(url: &str, on: Op, want: fn(KeyLock) -> KeyLock) {
    let make = async || {
        let (backend_here, faults) = Faulty::new(backend(url).await);
        let (lock, other) = (Locker::new(backend_here).unwrap(), Locker::new(backend(url).await).unwrap());
        Scene::new((lock, faults), other)
    };
    let is_empty = async |scene: &Scene, fault| {
        scene.settled(fault).await;
        let state = scene.other.inspect(&scene.key).await.unwrap();
        state.is_free() && state.waiters == Some(0)
    };
    drop_everywhere_wanting(make, is_empty, on, want).await;
}

#[tokio::test]
async fn acquisitions() {
    drop_everywhere_in_redis(Op::TryAcquire, |lock| lock).await;
}

#[tokio::test]
async fn readers() {
    drop_everywhere_in_redis(Op::TryAcquire, KeyLock::shared).await;
}

#[tokio::test]
async fn permits() {
    drop_everywhere_in_redis(Op::TryAcquire, |lock| lock.permits(1)).await;
}

#[tokio::test]
async fn withdrawals_that_go_wrong() {
    drop_everywhere_in_redis(Op::Release, |lock| lock).await;
}

/// Several locks at once, all free or one of them held.
#[tokio::test]
async fn sets() {
    let server = RedisServer::start();
    let other = Locker::new(backend(&server.url()).await).unwrap();
    let names = ["a", "b", "c"];
    for fault in FAULTS {
        for held in [None, Some("b")] {
            for polls in 0.. {
                let (backend_here, faults) = Faulty::new(backend(&server.url()).await);
                let lock = Locker::new(backend_here).unwrap();
                let mut blocker = None;
                if let Some(name) = held {
                    blocker = Some(other.acquire(name).await.unwrap());
                }
                if let Some(fault) = fault {
                    faults.next(Op::TryAcquireAll, fault);
                }
                let outcome = poll_times(pin!(lock.all(names).unwrap().acquire()), polls).await;
                let done = outcome.map(|outcome| drop(outcome.expect("the locks"))).is_some();
                drop(blocker);
                until_quiet(&lock).await;
                until_quiet(&other).await;
                let at = format!("{fault:?}, {held:?} is held, dropped after {polls}");
                let is_left = async || {
                    let states = other.who(names).await.unwrap();
                    states.iter().any(|(_, state)| !state.is_free() || state.waiters != Some(0))
                };
                if matches!(fault, Some(Fault::Straggle(_))) {
                    eventually("what was sent late is gone", async || !is_left().await).await;
                }
                assert!(!is_left().await, "{at}: {:?}", other.who(names).await);
                assert_eq!(lock.stats(), Stats::default(), "{at}");
                if done || (held.is_some() && polls > 12) {
                    break;
                }
                assert!(polls < 1_000, "{at}: never done");
            }
        }
    }
}

#[tokio::test]
async fn acquisitions_in_a_cluster() {
    let cluster = RedisCluster::start().await;
    drop_everywhere_at(&cluster.url(), Op::TryAcquire, |lock| lock).await;
    for node in cluster.nodes() {
        let nobody_listens = async || node.ask::<Vec<String>>(&["PUBSUB", "SHARDCHANNELS"]).await.is_empty();
        eventually("no inbox is left", nobody_listens).await;
    }
}
