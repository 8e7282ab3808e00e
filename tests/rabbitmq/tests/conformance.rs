//! The one suite on a real broker, alone and behind a wrapper that makes it slow or repetitive.

use std::time::Duration;

use tasklock::testing::{Fault, Faulty, Op, conformance};
use tasklock_tests_rabbitmq::{Broker, client};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_client_each() {
    let url = Broker::shared().url();
    conformance::run_all(async || client(&url).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_delays() {
    for fault in [Fault::DelayRequest, Fault::DelayReply] {
        let url = Broker::shared().url();
        let make = async || {
            let (backend, faults) = Faulty::new(client(&url).await);
            for op in [Op::TryAcquire, Op::Renew, Op::Release] {
                faults.always(op, fault(Duration::from_millis(7)));
            }
            backend
        };
        conformance::run_all(make).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_every_acquisition_sent_twice() {
    let url = Broker::shared().url();
    let make = async || {
        let (backend, faults) = Faulty::new(client(&url).await);
        faults.always(Op::TryAcquire, Fault::Duplicate);
        faults.always(Op::Renew, Fault::Duplicate);
        backend
    };
    conformance::run_all(make).await;
}
