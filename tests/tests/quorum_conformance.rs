//! A quorum of Redis servers passes the one suite, alone, with two of five down, and behind a wrapper that makes it slow,
//! forgetful or repetitive, and is left empty.

use tasklock::{
    QuorumConfig,
    redis::Value,
    testing::{Fault, conformance},
};
use tasklock_tests::{
    conformance::{run_late, run_twice},
    eventually,
    servers::RedisQuorum,
};

/// After everything was given back there are only counters, the mark, who waited a while ago, and whose turn it was; but for
/// the mark all of it ends.
async fn only_counters_are_left(quorum: &RedisQuorum, nodes: std::ops::Range<usize>) {
    for node in &quorum.nodes[nodes] {
        // A minority's vote may be on its way back when the last release is answered.
        let given_back = async || !node.keys().await.keys().any(|key| key.ends_with(":1:vote"));
        eventually("every vote is given back", given_back).await;
        for (key, ttl) in node.keys().await {
            if key != "tasklock:1:boot" {
                assert!(ttl > 0, "{key} never ends");
                let ends = [":1:ballots", ":1:waiters", ":1:next"];
                assert!(ends.iter().any(|end| key.ends_with(end)), "{key} is left");
            }
        }
    }
}

#[tokio::test]
async fn quorum() {
    let quorum = RedisQuorum::start("").await;
    conformance::run_all(async || quorum.client().await).await;
    only_counters_are_left(&quorum, 0..5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quorum_with_threads_and_two_of_five_down() {
    let quorum = RedisQuorum::start("").await;
    quorum.nodes[1].kill();
    quorum.nodes[4].kill();
    conformance::run_all(async || quorum.client().await).await;
    only_counters_are_left(&quorum, 2..4).await;
}

#[tokio::test]
async fn quorum_behind_late_requests() {
    let quorum = RedisQuorum::start("").await;
    run_late(Fault::DelayRequest, async || quorum.client().await).await;
    only_counters_are_left(&quorum, 0..5).await;
}

#[tokio::test]
async fn quorum_behind_late_replies() {
    let quorum = RedisQuorum::start("").await;
    run_late(Fault::DelayReply, async || quorum.client().await).await;
    only_counters_are_left(&quorum, 0..5).await;
}

#[tokio::test]
async fn quorum_with_every_acquisition_sent_twice() {
    let quorum = RedisQuorum::start("").await;
    run_twice(async || quorum.client().await).await;
    only_counters_are_left(&quorum, 0..5).await;
}

/// The user of docs/redis-quorum.md, word by word.
#[tokio::test]
async fn quorum_with_no_more_rights_than_it_needs() {
    let quorum = RedisQuorum::start("").await;
    let page = include_str!("../../docs/redis-quorum.md");
    let rule = page.lines().find(|line| line.starts_with("ACL SETUSER locks ")).unwrap();
    // The suite has a prefix of its own for each of its locks.
    let rule = rule.replace("~{tasklock:*}:1:*", "~{*}:1:*");
    let words: Vec<_> = rule.split(' ').collect();
    for node in &quorum.nodes {
        let _: Value = node.ask(&words).await;
    }
    let url = quorum.url().replace("://", "://locks:secret@");
    conformance::run_all(async || QuorumConfig::from_url(&url).unwrap().connect().await.unwrap()).await;
    only_counters_are_left(&quorum, 0..5).await;
}
