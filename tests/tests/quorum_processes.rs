//! A quorum across processes, which are stopped and killed, while its nodes are killed and forget everything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tasklock_tests::{
    eventually,
    processes::scenarios::{self, Scene},
    servers::RedisQuorum,
    worker,
};
use tokio::runtime::Builder;

/// Every node in turn is killed and comes back without its data, and then two at a time; all the while one at a time holds
/// the lock, as far as a store that checks tokens can tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_store_loses_no_update_while_nodes_forget() {
    let quorum = Arc::new(RedisQuorum::start("max_ttl=1s").await);
    let (url, done) = (quorum.url(), Arc::new(AtomicBool::new(false)));
    let forgetting = thread::spawn({
        let done = done.clone();
        move || Builder::new_current_thread().enable_all().build().unwrap().block_on(forget(&quorum, &done))
    });
    scenarios::a_fenced_store_loses_no_update(Scene { program: worker!(), url: &url }).await;
    done.store(true, Ordering::SeqCst);
    let forgotten = forgetting.join().expect("the nodes come back");
    assert!(forgotten > 0, "it was over before any node had voted again");
}

/// Has the nodes lose their data, until it is done; how often one did and voted again.
async fn forget(quorum: &RedisQuorum, done: &AtomicBool) -> usize {
    let mut forgotten = 0;
    for nodes in [&[0][..], &[1], &[2], &[3], &[4], &[0, 3], &[1, 4]].into_iter().cycle() {
        for node in nodes {
            quorum.nodes[*node].kill();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        for node in nodes {
            quorum.nodes[*node].restart_empty();
        }
        for node in nodes {
            let votes = async || quorum.nodes[*node].keys().await.keys().any(|key| key.ends_with(":1:ballots"));
            eventually("the node votes again", async || done.load(Ordering::SeqCst) || votes().await).await;
            forgotten += usize::from(!done.load(Ordering::SeqCst));
        }
        if done.load(Ordering::SeqCst) {
            break;
        }
    }
    forgotten
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_holder_is_followed_after_its_ttl() {
    let quorum = RedisQuorum::start("").await;
    scenarios::a_killed_holder_is_followed_after_its_ttl(Scene { program: worker!(), url: &quorum.url() }).await;
}
