//! An acquisition dropped at any await leaves no holder, whatever the broker does meanwhile.

use tasklock::{
    Locker,
    testing::{Faulty, Op},
};
use tasklock_tests::cancellation::{Stage, drop_everywhere};
use tasklock_tests_rabbitmq::{Broker, client, locker, name};
use tokio::{runtime::Handle, task::block_in_place};

/// One connection each for all of it: what a dropped acquisition left there would be in the way of the next.
async fn drop_on(op: Op) {
    let url = Broker::shared().url();
    let (backend, faults) = Faulty::new(client(&url).await);
    let (lock, blocker) = (Locker::builder(backend).prefix("").build().unwrap(), locker(&url).await);
    let (key, handle) = (name("dropped"), Handle::current());
    let stage = || {
        faults.clear();
        let (seen, seen_key, handle) = (blocker.clone(), key.clone(), handle.clone());
        let is_empty = move || block_in_place(|| handle.block_on(seen.inspect(&seen_key))).unwrap().is_free();
        Stage {
            lock: lock.clone(),
            faults: faults.clone(),
            blocker: blocker.clone(),
            key: key.clone(),
            is_empty: Box::new(is_empty),
        }
    };
    drop_everywhere(stage, op).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acquisitions() {
    drop_on(Op::TryAcquire).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn withdrawals_that_go_wrong() {
    drop_on(Op::Release).await;
}
