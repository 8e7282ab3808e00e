//! Much at once, on Redis: it is carried out in pieces, and nothing of it stays.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tasklock::{Guard, Locker, Stats, testing::until_quiet};
use tasklock_tests::{
    eventually,
    servers::{PATIENCE, RedisServer},
};
use tokio::{sync::Mutex, task::JoinSet};

/// What one of these tests takes is not to be taken for another's.
static ALONE: Mutex<()> = Mutex::const_new(());
const LEASES: usize = 100_000;
const TASKS: usize = 64;
/// Of a locker, by default.
const TTL: Duration = Duration::from_secs(30);
/// Three quarters of a KiB that were kept of each lease would come to this in two times; allocators differ by half of it.
const GROWTH: u64 = 150;

/// Acquired by a crowd, renewed, given back all at once, and all of it again: the server is left with nothing but the fences,
/// and the process with no more than the time before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_leases() {
    let _alone = ALONE.lock().await;
    let server = RedisServer::start();
    // On a busy machine, too.
    let connector = tasklock::connector(&format!("{}?timeout=30s", server.url())).await.unwrap();
    let lock = connector.patience(PATIENCE).build().unwrap();
    let mut left = Vec::new();
    for round in 0..3 {
        let guards = acquire_all(&lock).await;
        if round == 0 {
            // Of a lease that was never renewed less is left, the longer it is held.
            let renewed = |guard: &Guard| guard.held() + guard.remaining() > TTL + Duration::from_secs(1);
            eventually("each is renewed", async || guards.iter().all(|guard| renewed(guard) || !guard.is_held())).await;
        }
        assert!(guards.iter().all(Guard::is_held));
        drop(guards);
        until_quiet(&lock).await;
        assert_eq!(lock.stats(), Stats::default());
        assert_eq!(server.ask::<usize>(&["DBSIZE"]).await, LEASES, "a fence counter for each, and nothing else");
        left.push(resident_mib());
    }
    assert!(left[2] < left[0] + GROWTH, "MiB after each time: {left:?}");
}

/// They stand in line in the process; the server hears of one of them at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_waiters() {
    const WAITERS: usize = 10_000;
    let _alone = ALONE.lock().await;
    let server = RedisServer::start();
    let lock = tasklock::connect(&server.url()).await.unwrap();
    let held = lock.acquire("hot").await.unwrap();
    let (begun, mut tasks) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for _ in 0..WAITERS {
        let (lock, begun) = (lock.clone(), begun.clone());
        tasks.spawn(async move {
            begun.fetch_add(1, Ordering::Relaxed);
            lock.acquire("hot").await.unwrap().release().await.unwrap();
        });
    }
    while begun.load(Ordering::Relaxed) < WAITERS {
        tokio::task::yield_now().await;
    }
    drop(held);
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    until_quiet(&lock).await;
    assert_eq!(lock.stats(), Stats::default());
    server.has_only_fences().await;
}

/// Those whose calls were still to be sent are told that they were not.
#[test]
fn a_runtime_that_goes_with_much_under_way() {
    const CALLS: usize = 200_000;
    let _alone = ALONE.blocking_lock();
    let server = RedisServer::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let lock = runtime.block_on(tasklock::connect(&server.url())).unwrap();
    server.pause();
    let begun = Arc::new(AtomicUsize::new(0));
    for n in 0..CALLS {
        let (lock, begun) = (lock.clone(), begun.clone());
        runtime.spawn(async move {
            begun.fetch_add(1, Ordering::Relaxed);
            lock.inspect(format!("call:{n}")).await
        });
    }
    while begun.load(Ordering::Relaxed) < CALLS {
        std::thread::yield_now();
    }
    drop(runtime);
    server.resume();
}

async fn acquire_all(lock: &Locker) -> Vec<Guard> {
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let lock = lock.clone();
        tasks.spawn(async move {
            let mut guards = Vec::new();
            for n in (task..LEASES).step_by(TASKS) {
                guards.push(lock.acquire(format!("lease:{n}")).await.unwrap());
            }
            guards
        });
    }
    let mut all = Vec::new();
    while let Some(guards) = tasks.join_next().await {
        all.extend(guards.unwrap());
    }
    all
}

/// What this process takes, by `/proc`.
fn resident_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim_end_matches("kB").trim().parse::<u64>().unwrap() / 1024
}
