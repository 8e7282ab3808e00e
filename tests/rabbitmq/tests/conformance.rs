//! The one suite on a real broker, alone and behind a wrapper that makes it slow or repetitive.

use tasklock::testing::{Fault, conformance};
use tasklock_tests::conformance::{run_late, run_twice};
use tasklock_tests_rabbitmq::{Broker, client};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_client_each() {
    let url = Broker::shared().url();
    conformance::run_all(async || client(&url).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_late_requests() {
    let url = Broker::shared().url();
    run_late(Fault::DelayRequest, async || client(&url).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_late_replies() {
    let url = Broker::shared().url();
    run_late(Fault::DelayReply, async || client(&url).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_every_acquisition_sent_twice() {
    let url = Broker::shared().url();
    run_twice(async || client(&url).await).await;
}
