//! Redis passes the one suite, alone and behind a wrapper that makes it slow, forgetful or repetitive, and is left
//! empty.

use tasklock::{
    RedisConfig, RedisLock,
    testing::{Fault, conformance},
};
use tasklock_tests::{
    conformance::{run_late, run_twice},
    servers::RedisServer,
};

async fn client(url: &str) -> RedisLock {
    RedisConfig::from_url(url).unwrap().connect().await.unwrap()
}

/// After everything was given back there are only fences, and what withdrawals leave for a while; all of it ends.
async fn only_fences_are_left(server: &RedisServer) {
    for (key, ttl) in server.keys().await {
        assert!(ttl > 0, "{key} never ends");
        let known = ["fence", "leases"].iter().any(|end| key.ends_with(end)) || key.contains(":1:pool:had:");
        assert!(known, "{key} is left");
        if key.ends_with(":leases") {
            let members: Vec<String> = server.ask(&["ZRANGE", &key, "0", "-1"]).await;
            assert!(members.iter().all(|member| member.starts_with('x')), "{key}: {members:?}");
        }
    }
}

#[tokio::test]
async fn redis() {
    let server = RedisServer::start();
    conformance::run_all(async || client(&server.url()).await).await;
    only_fences_are_left(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_with_threads_by_its_socket() {
    let server = RedisServer::start();
    conformance::run_all(async || client(&server.socket_url()).await).await;
    only_fences_are_left(&server).await;
}

#[tokio::test]
async fn redis_behind_late_requests() {
    let server = RedisServer::start();
    run_late(Fault::DelayRequest, async || client(&server.url()).await).await;
    only_fences_are_left(&server).await;
}

#[tokio::test]
async fn redis_behind_late_replies() {
    let server = RedisServer::start();
    run_late(Fault::DelayReply, async || client(&server.url()).await).await;
    only_fences_are_left(&server).await;
}

#[tokio::test]
async fn redis_with_every_acquisition_sent_twice() {
    let server = RedisServer::start();
    run_twice(async || client(&server.url()).await).await;
    only_fences_are_left(&server).await;
}
