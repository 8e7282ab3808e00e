//! Redis across processes, which are stopped and killed.

use tasklock_tests::{
    processes::scenarios::{self, Scene},
    servers::{RedisCluster, RedisServer},
    worker,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_store_loses_no_update() {
    let server = RedisServer::start();
    scenarios::a_fenced_store_loses_no_update(Scene { program: worker!(), url: &server.url() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_holder_is_followed_after_its_ttl() {
    let server = RedisServer::start();
    scenarios::a_killed_holder_is_followed_after_its_ttl(Scene { program: worker!(), url: &server.url() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_first_waiter_delays_nobody_for_long() {
    let server = RedisServer::start();
    scenarios::a_killed_first_waiter_delays_nobody_for_long(Scene { program: worker!(), url: &server.url() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_first_waiter_delays_nobody_for_long() {
    let server = RedisServer::start();
    scenarios::a_stopped_first_waiter_delays_nobody_for_long(Scene { program: worker!(), url: &server.url() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_store_loses_no_update_in_a_cluster() {
    let cluster = RedisCluster::start().await;
    scenarios::a_fenced_store_loses_no_update(Scene { program: worker!(), url: &cluster.url() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_first_waiter_delays_nobody_for_long_in_a_cluster() {
    let cluster = RedisCluster::start().await;
    scenarios::a_stopped_first_waiter_delays_nobody_for_long(Scene { program: worker!(), url: &cluster.url() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_are_gone_make_way() {
    let server = RedisServer::start();
    scenarios::readers_that_are_gone_make_way(Scene { program: worker!(), url: &server.url() }).await;
}
