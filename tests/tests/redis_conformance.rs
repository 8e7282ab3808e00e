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

#[tokio::test]
async fn redis() {
    let server = RedisServer::start();
    conformance::run_all(async || client(&server.url()).await).await;
    server.has_only_fences().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_with_threads_by_its_socket() {
    let server = RedisServer::start();
    conformance::run_all(async || client(&server.socket_url()).await).await;
    server.has_only_fences().await;
}

#[tokio::test]
async fn redis_behind_late_requests() {
    let server = RedisServer::start();
    run_late(Fault::DelayRequest, async || client(&server.url()).await).await;
    server.has_only_fences().await;
}

#[tokio::test]
async fn redis_behind_late_replies() {
    let server = RedisServer::start();
    run_late(Fault::DelayReply, async || client(&server.url()).await).await;
    server.has_only_fences().await;
}

#[tokio::test]
async fn redis_with_every_acquisition_sent_twice() {
    let server = RedisServer::start();
    run_twice(async || client(&server.url()).await).await;
    server.has_only_fences().await;
}
