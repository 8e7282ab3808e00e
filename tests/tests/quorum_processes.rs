//! A quorum across processes, which are stopped and killed, while its nodes are killed and forget everything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tasklock::redis;
use tasklock_tests::{
    eventually,
    processes::{
        Store, Worker,
        scenarios::{self, Scene},
    },
    script::QUORUM_SCRIPT,
    servers::{RedisQuorum, RedisServer},
    worker,
};
use tokio::runtime::Builder;

/// Every node in turn is killed and comes back without its data, and then two at a time, while processes add to a store that
/// checks tokens; one of them is stopped past its ttl, and one is killed. No update is lost, and no token is given twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_store_loses_no_update_while_nodes_forget() {
    let quorum = Arc::new(RedisQuorum::start("max_ttl=1s&ttl=500ms").await);
    let (url, done) = (quorum.url(), Arc::new(AtomicBool::new(false)));
    let store = Store::open();
    let forgetting = thread::spawn({
        let (done, store) = (done.clone(), store.clone());
        move || Builder::new_current_thread().enable_all().build().unwrap().block_on(forget(&quorum, &store, &done))
    });
    let start = || Worker::adding(worker!(), &url, &store, "account:7", 4);
    let (stays, stopped, killed) = (start().await, start().await, start().await);
    store.until_written(500);
    stopped.stop();
    store.until_written(store.totals().fenced_writes + 500);
    stopped.resume();
    killed.kill().await;
    store.until_written(store.totals().fenced_writes + 500);
    stopped.finish().await;
    stays.finish().await;
    done.store(true, Ordering::SeqCst);
    let forgotten = forgetting.join().expect("the nodes come back");
    assert!(forgotten > 0, "it was over before any node had voted again");
    let totals = store.totals();
    assert_eq!(totals.fenced, totals.fenced_writes, "an update was lost: {totals:?}");
    let mut tokens = store.tokens();
    tokens.sort_unstable();
    assert!(tokens.is_sorted_by(|a, b| a < b), "one token for two holders");
}

/// Has the nodes lose their data, until it is done; how often one did and voted again.
async fn forget(quorum: &RedisQuorum, store: &Store, done: &AtomicBool) -> usize {
    let mut forgotten = 0;
    for nodes in [&[0][..], &[1], &[2], &[3], &[4], &[0, 3], &[1, 4]].into_iter().cycle() {
        for node in nodes {
            quorum.nodes[*node].kill();
        }
        let before = store.totals().fenced_writes;
        let goes_on = || done.load(Ordering::SeqCst) || store.totals().fenced_writes > before;
        eventually("work goes on without them", async || goes_on()).await;
        for node in nodes {
            quorum.nodes[*node].restart_empty();
        }
        for node in nodes {
            let votes = async || until_it_votes(&quorum.nodes[*node]).await == 0;
            eventually("the node votes again", async || done.load(Ordering::SeqCst) || votes().await).await;
            forgotten += usize::from(!done.load(Ordering::SeqCst));
        }
        if done.load(Ordering::SeqCst) {
            break;
        }
    }
    forgotten
}

/// How long a node will still vote for nobody, in milliseconds.
async fn until_it_votes(node: &RedisServer) -> u64 {
    let mut call = redis::cmd("EVAL");
    call.arg(QUORUM_SCRIPT).arg(1).arg("tasklock:1:boot").arg(1_000).arg(0);
    call.arg("hello").arg("").arg(0).arg(0).arg("").arg("").arg(0);
    let (_, left, _): (String, u64, u64) = call.query_async(&mut node.connection().await).await.unwrap();
    left
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_holder_is_followed_after_its_ttl() {
    let quorum = RedisQuorum::start("").await;
    scenarios::a_killed_holder_is_followed_after_its_ttl(Scene { program: worker!(), url: &quorum.url() }).await;
}
