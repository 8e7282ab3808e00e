//! A Redis Cluster passes the one suite, alone and behind a wrapper that makes it slow, forgetful or repetitive, and is
//! left empty; and with no more rights than the documentation asks for.

use tasklock::{
    RedisConfig, RedisLock,
    redis::Value,
    testing::{Fault, conformance},
};
use tasklock_tests::{
    conformance::{run_late, run_twice},
    servers::RedisCluster,
};

async fn client(cluster: &RedisCluster) -> RedisLock {
    RedisConfig::from_url(&cluster.url()).unwrap().connect().await.unwrap()
}

/// After everything was given back there are only fences, and what withdrawals leave for a while; all of it ends. And
/// every master had something to do.
async fn only_fences_are_left(cluster: &RedisCluster) {
    for master in &cluster.nodes()[..3] {
        assert!(!master.keys().await.is_empty(), "a master without locks");
        master.has_only_fences().await;
    }
}

#[tokio::test]
async fn a_cluster() {
    let cluster = RedisCluster::start().await;
    conformance::run_all(async || client(&cluster).await).await;
    only_fences_are_left(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_threads_and_late_requests() {
    let cluster = RedisCluster::start().await;
    run_late(Fault::DelayRequest, async || client(&cluster).await).await;
    only_fences_are_left(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_threads_and_late_replies() {
    let cluster = RedisCluster::start().await;
    run_late(Fault::DelayReply, async || client(&cluster).await).await;
    only_fences_are_left(&cluster).await;
}

#[tokio::test]
async fn a_cluster_with_every_acquisition_sent_twice() {
    let cluster = RedisCluster::start().await;
    run_twice(async || client(&cluster).await).await;
    only_fences_are_left(&cluster).await;
}

/// The user of docs/redis-topologies.md, word by word.
#[tokio::test]
async fn a_cluster_with_no_more_rights_than_it_needs() {
    let cluster = RedisCluster::start().await;
    let page = include_str!("../../docs/redis-topologies.md");
    let rule = page.lines().find(|line| line.starts_with("ACL SETUSER locks-cluster ")).unwrap();
    // The suite has a prefix of its own for each of its locks.
    let rule = rule.replace("~{tasklock:*}:1:*", "~{*}:1:*");
    let words: Vec<_> = rule.split(' ').collect();
    for node in cluster.nodes() {
        let _: Value = node.ask(&words).await;
    }
    let url = cluster.url().replace("://", "://locks-cluster:secret@");
    conformance::run_all(async || RedisConfig::from_url(&url).unwrap().connect().await.unwrap()).await;
}
