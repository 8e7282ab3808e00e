//! An acquisition dropped at any await leaves no holder, whatever the broker does meanwhile.

use tasklock::{
    Locker,
    testing::{Faulty, Op},
};
use tasklock_tests::{
    cancellation::{Scene, drop_everywhere},
    eventually,
};
use tasklock_tests_rabbitmq::{Broker, client, locker, name};

/// One connection each for all of it: what a dropped acquisition left there would be in the way of the next.
async fn drop_on(op: Op) {
    let url = Broker::shared().url();
    let (backend, faults) = Faulty::new(client(&url).await);
    let (lock, other) = (Locker::builder(backend).prefix("").build().unwrap(), locker(&url).await);
    let key = name("dropped");
    let make = async || {
        faults.clear();
        Scene { lock: lock.clone(), faults: faults.clone(), other: other.clone(), key: key.clone() }
    };
    let is_empty = async |_: &Scene, _| {
        eventually("nothing is left", async || other.inspect(&key).await.unwrap().is_free()).await;
        true
    };
    drop_everywhere(make, is_empty, op).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acquisitions() {
    drop_on(Op::TryAcquire).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn withdrawals_that_go_wrong() {
    drop_on(Op::Release).await;
}
