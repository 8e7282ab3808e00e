//! Processes of their own, killed and stopped by signals.

use std::fs;

use rustix::process::Signal;
use tasklock::{Fence, Stats};
use tasklock_tests_rabbitmq::{Broker, Process, locker, name, soon};

const HOLDER: &str = env!("CARGO_BIN_EXE_rabbitmq_holder");

fn url() -> String {
    // Two to three seconds until a process that stands still is missed.
    format!("{}?heartbeat=1s&ttl=2s&prefix=", Broker::shared().url())
}

/// The kernel closes its connection: the next has the lock at once, not after a timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_holder_is_followed_by_the_next() {
    // An hour until the broker would miss a heartbeat.
    let (url, key) = (format!("{}?heartbeat=60s&ttl=1h&prefix=", Broker::shared().url()), name("killed"));
    let mut holder = Process::start(HOLDER, &url, &[&key]);
    let first = holder.held().await;
    let mut next = Process::start(HOLDER, &url, &[&key]);
    let lock = locker(&Broker::shared().url()).await;
    assert!(lock.try_acquire(&key).await.unwrap().is_none());
    holder.signal(Signal::KILL);
    assert!(next.held().await > first);
    next.tell("release").await;
    assert_eq!(next.line().await, "released Released");
    next.finish().await;
}

/// A holder that stands still is followed when the broker misses it. When it goes on it knows that it has lost, and a store
/// that checks tokens refuses what it still writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_holder_knows_when_it_wakes() {
    let (fence, key) = (Fence::new(), name("stopped"));
    let mut holder = Process::start(HOLDER, &url(), &[&key]);
    let old = holder.held().await;
    fence.admit(old).unwrap();
    holder.signal(Signal::STOP);
    let lock = locker(&Broker::shared().url()).await;
    let guard = soon("the lock", lock.acquire(&key)).await.unwrap();
    assert!(guard.fencing_token() > old);
    fence.admit(guard.fencing_token()).unwrap();
    holder.tell("write").await;
    holder.signal(Signal::CONT);
    let mut said = [holder.line().await, holder.line().await];
    said.sort();
    assert!(said[0].starts_with("lost "), "{said:?}");
    assert_eq!(said[1], format!("write {old} false"), "it believed that it held");
    assert!(fence.admit(old).is_err(), "the store took a late write");
    holder.tell("release").await;
    assert_eq!(holder.line().await, "released AlreadyLost");
    holder.finish().await;
    assert!(guard.is_held(), "the first one's release took it");
    guard.release().await.unwrap();
}

/// A waiter that is killed is out of the line: whoever came after it follows the holder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_waiter_is_passed_over() {
    let (lock, key) = (locker(&Broker::shared().url()).await, name("waiter"));
    let held = lock.acquire(&key).await.unwrap();
    let killed = Process::start(HOLDER, &url(), &[&key]);
    let mut next = Process::start(HOLDER, &url(), &[&key]);
    killed.signal(Signal::KILL);
    held.release().await.unwrap();
    next.held().await;
    next.tell("release").await;
    assert_eq!(next.line().await, "released Released");
    next.finish().await;
}

/// Processes that read, add one and write, without looking twice: none is lost, though one of them is killed on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_take_turns() {
    let file = std::env::temp_dir().join(name("tasklock-count"));
    fs::write(&file, "0").unwrap();
    let (path, key) = (file.display().to_string(), name("turns"));
    let start = |times| Process::start(HOLDER, &url(), &[&key, &path, times]);
    let doomed = start("1000000");
    let mut others = [start("50"), start("50"), start("50")];
    for other in &mut others {
        assert_eq!(other.line().await, "done");
    }
    doomed.signal(Signal::STOP);
    let stopped_at: u64 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    assert!(stopped_at >= 150, "an increment was lost: {stopped_at}");
    doomed.signal(Signal::KILL);
    let mut last = start("10");
    assert_eq!(last.line().await, "done");
    for process in others.into_iter().chain([last]) {
        process.finish().await;
    }
    let end: u64 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    assert!(end >= stopped_at + 10, "an increment was lost: {stopped_at} {end}");
    fs::remove_file(&file).unwrap();
    let lock = locker(&Broker::shared().url()).await;
    soon("the lock", lock.acquire(&key)).await.unwrap().release().await.unwrap();
    assert_eq!(lock.stats(), Stats::default());
}
