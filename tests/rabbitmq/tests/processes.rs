//! Processes of their own, killed and stopped by signals.

use std::collections::HashSet;

use tasklock::{Fence, FencingToken, Stats};
use tasklock_tests::{
    processes::{Journal, Worker},
    servers::Folder,
};
use tasklock_tests_rabbitmq::{Broker, locker, name, soon, until};

fn url() -> String {
    // Two to three seconds until a process that stands still is missed.
    format!("{}?heartbeat=1s&ttl=2s&prefix=", Broker::shared().url())
}

async fn start(url: &str) -> Worker {
    Worker::start(env!("CARGO_BIN_EXE_rabbitmq_worker"), url).await
}

/// Until so many hold a lock or wait for it.
async fn until_in_line(key: &str, count: usize) {
    until("in line", async || Broker::shared().consumers(key).await == count).await;
}

/// The kernel closes its connection: the next has the lock at once, not after a timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_holder_is_followed_by_the_next() {
    // An hour until the broker would miss a heartbeat.
    let (url, key) = (format!("{}?heartbeat=60s&ttl=1h&prefix=", Broker::shared().url()), name("killed"));
    let (mut holder, mut next) = (start(&url).await, start(&url).await);
    let first = holder.take(&key).await;
    next.order(&format!("take {key}")).await;
    until_in_line(&key, 2).await;
    let lock = locker(&Broker::shared().url()).await;
    assert!(lock.try_acquire(&key).await.unwrap().is_none());
    holder.kill().await;
    assert!(next.taken().await > first);
    assert_eq!(next.ask(&format!("drop {key}")).await, "Released");
    next.finish().await;
}

/// A holder that stands still is followed when the broker misses it. When it goes on it knows that it has lost, and a store
/// that checks tokens refuses what it still writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_holder_knows_when_it_wakes() {
    let (fence, key) = (Fence::new(), name("stopped"));
    let mut holder = start(&url()).await;
    let old = FencingToken::new(holder.take(&key).await);
    fence.admit(old).unwrap();
    holder.stop();
    let lock = locker(&Broker::shared().url()).await;
    let guard = soon("the lock", lock.acquire(&key)).await.unwrap();
    assert!(guard.fencing_token() > old);
    fence.admit(guard.fencing_token()).unwrap();
    holder.order(&format!("write {key}")).await;
    holder.resume();
    assert_eq!(holder.answer().await, format!("write {old} false"), "it believed that it held");
    assert!(fence.admit(old).is_err(), "the store took a late write");
    assert!(holder.ask(&format!("lost {key}")).await.starts_with("lost "));
    assert_eq!(holder.ask(&format!("drop {key}")).await, "AlreadyLost");
    holder.finish().await;
    assert!(guard.is_held(), "the first one's release took it");
    guard.release().await.unwrap();
}

/// A waiter that is killed is out of the line: whoever came after it follows the holder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_waiter_is_passed_over() {
    let (lock, key) = (locker(&Broker::shared().url()).await, name("waiter"));
    let held = lock.acquire(&key).await.unwrap();
    let (mut killed, mut next) = (start(&url()).await, start(&url()).await);
    killed.order(&format!("take {key}")).await;
    until_in_line(&key, 2).await;
    next.order(&format!("take {key}")).await;
    until_in_line(&key, 3).await;
    killed.kill().await;
    held.release().await.unwrap();
    next.taken().await;
    assert_eq!(next.ask(&format!("drop {key}")).await, "Released");
    next.finish().await;
}

/// One after the other, though one of them is killed on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_take_turns() {
    let (folder, key) = (Folder::new(), name("turns"));
    let journal = Journal::at(folder.file("journal"));
    let work = async |times: u32| {
        let mut worker = start(&url()).await;
        worker.order(&format!("work {key} {} {times}", journal.path().display())).await;
        worker
    };
    let (doomed, mut others) = (work(1_000_000).await, [work(50).await, work(50).await, work(50).await]);
    for other in &mut others {
        assert_eq!(other.answer().await, "worked");
    }
    assert!(journal.tells_of(doomed.pid()));
    let killed = HashSet::from([doomed.pid()]);
    doomed.kill().await;
    let mut last = work(10).await;
    assert_eq!(last.answer().await, "worked");
    for worker in others.into_iter().chain([last]) {
        worker.finish().await;
    }
    assert!(journal.check(&killed) >= 160);
    let lock = locker(&Broker::shared().url()).await;
    soon("the lock", lock.acquire(&key)).await.unwrap().release().await.unwrap();
    assert_eq!(lock.stats(), Stats::default());
}
