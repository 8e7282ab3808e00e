//! An acquisition dropped at any await leaves nothing in Redis, whatever the connection does meanwhile.

use tasklock::{
    Locker, RedisConfig, RedisLock,
    testing::{Call, Fault, Faulty, Op},
};
use tasklock_tests::{
    cancellation::{Scene, drop_everywhere},
    eventually,
    servers::{RedisCluster, RedisServer},
};

async fn backend(url: &str) -> RedisLock {
    RedisConfig::from_url(url).unwrap().connect().await.unwrap()
}

async fn drop_everywhere_in_redis(on: Op) {
    let server = RedisServer::start();
    drop_everywhere_at(&server.url(), on).await;
    // Each client had one inbox, and it went with the client.
    let nobody_listens = async || server.ask::<Vec<String>>(&["PUBSUB", "CHANNELS"]).await.is_empty();
    eventually("no inbox is left", nobody_listens).await;
}

async fn drop_everywhere_at(url: &str, on: Op) {
    let make = async || {
        let (backend_here, faults) = Faulty::new(backend(url).await);
        let (lock, other) = (Locker::new(backend_here).unwrap(), Locker::new(backend(url).await).unwrap());
        Scene::new((lock, faults), other)
    };
    let is_empty = async |scene: &Scene, fault| {
        let Scene { lock, faults, other, key } = scene;
        let sent = |calls: &[Call]| calls.iter().filter(|call| call.op != Op::Wait).count();
        if matches!(fault, Some(Fault::Straggle(_))) {
            eventually("what was sent late has been sent", async || sent(&faults.reached()) >= sent(&faults.calls()))
                .await;
        }
        // What was sent late was sent before these, on the same connection.
        for _ in 0..3 {
            lock.ping().await.unwrap();
        }
        let state = other.inspect(key).await.unwrap();
        state.is_free() && state.waiters == Some(0)
    };
    drop_everywhere(make, is_empty, on).await;
}

#[tokio::test]
async fn acquisitions() {
    drop_everywhere_in_redis(Op::TryAcquire).await;
}

#[tokio::test]
async fn withdrawals_that_go_wrong() {
    drop_everywhere_in_redis(Op::Release).await;
}

#[tokio::test]
async fn acquisitions_in_a_cluster() {
    let cluster = RedisCluster::start().await;
    drop_everywhere_at(&cluster.url(), Op::TryAcquire).await;
    for node in cluster.nodes() {
        let nobody_listens = async || node.ask::<Vec<String>>(&["PUBSUB", "SHARDCHANNELS"]).await.is_empty();
        eventually("no inbox is left", nobody_listens).await;
    }
}
