//! Every backend passes the one suite, alone and behind a wrapper that makes it slow, forgetful or repetitive.

use tasklock::{
    MemoryLock,
    testing::{Fault, Faulty, conformance},
};
use tasklock_tests::conformance::{run_late, run_twice};

#[tokio::test(start_paused = true)]
async fn memory() {
    let store = MemoryLock::new();
    conformance::run_all(async || store.clone()).await;
    assert!(store.is_empty(), "the suite left {store:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_in_real_time() {
    let store = MemoryLock::new();
    conformance::run_all(async || store.clone()).await;
    assert!(store.is_empty(), "the suite left {store:?}");
}

/// Without the synchronous fast path, as a store behind a network is.
#[tokio::test(start_paused = true)]
async fn memory_without_a_fast_path() {
    let store = MemoryLock::new();
    conformance::run_all(async || Faulty::new(store.clone()).0).await;
    assert!(store.is_empty(), "the suite left {store:?}");
}

#[tokio::test(start_paused = true)]
async fn memory_behind_delays() {
    for delayed in [Fault::DelayRequest, Fault::DelayReply] {
        let store = MemoryLock::new();
        run_late(delayed, async || store.clone()).await;
        assert!(store.is_empty(), "the suite left {store:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn memory_with_every_acquisition_sent_twice() {
    let store = MemoryLock::new();
    run_twice(async || store.clone()).await;
    assert!(store.is_empty(), "the suite left {store:?}");
}
