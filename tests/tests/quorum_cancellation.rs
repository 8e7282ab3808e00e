//! An acquisition dropped at any await leaves nothing in a quorum, whatever goes wrong meanwhile.

use std::time::Duration;

use tasklock::{
    Locker,
    testing::{Faulty, Op},
};
use tasklock_tests::{
    cancellation::{Scene, drop_everywhere},
    eventually,
    servers::RedisQuorum,
};

async fn drop_everywhere_in_a_quorum(on: Op) {
    let quorum = RedisQuorum::start("max_ttl=24h").await;
    let make = async || {
        let (here, faults) = Faulty::new(quorum.client().await);
        // Longer than anybody looks: nothing ends by itself.
        let lock = Locker::builder(here).ttl(Duration::from_secs(3600)).build().unwrap();
        let other = Locker::builder(quorum.client().await).ttl(Duration::from_secs(3600)).build().unwrap();
        Scene::new((lock, faults), other)
    };
    let is_empty = async |scene: &Scene, fault| {
        let Scene { other, key, .. } = scene;
        scene.settled(fault).await;
        let votes = async || quorum.votes(&[0, 1, 2, 3, 4], &format!("tasklock:{key}")).await;
        eventually("no vote is left", async || votes().await.iter().all(String::is_empty)).await;
        other.inspect(key).await.unwrap().is_free()
    };
    drop_everywhere(make, is_empty, on).await;
}

#[tokio::test]
async fn acquisitions() {
    drop_everywhere_in_a_quorum(Op::TryAcquire).await;
}

#[tokio::test]
async fn withdrawals_that_go_wrong() {
    drop_everywhere_in_a_quorum(Op::Release).await;
}
