//! The one suite without a socket, on paused time, and behind a wrapper that makes it slow or repetitive.

use std::time::Duration;

use tasklock::testing::{Fault, Faulty, Op, conformance};
use tasklock_tests_dynamodb::Emulator;

#[tokio::test(start_paused = true)]
async fn on_paused_time() {
    let emulator = Emulator::start().await;
    let store = emulator.direct();
    conformance::run_all(async || store.clone()).await;
    assert_eq!(emulator.held(), 0, "the suite left a holder");
}

/// Each client with sightings and a clock of its own, as processes have.
#[tokio::test(start_paused = true)]
async fn with_a_client_each() {
    let emulator = Emulator::start().await;
    conformance::run_all(async || emulator.direct()).await;
    assert_eq!(emulator.held(), 0, "the suite left a holder");
}

#[tokio::test(start_paused = true)]
async fn behind_delays() {
    for fault in [Fault::DelayRequest, Fault::DelayReply] {
        let emulator = Emulator::start().await;
        let make = async || {
            let (backend, faults) = Faulty::new(emulator.direct());
            for op in [Op::TryAcquire, Op::Renew, Op::Release] {
                faults.always(op, fault(Duration::from_millis(7)));
            }
            backend
        };
        conformance::run_all(make).await;
        assert_eq!(emulator.held(), 0, "the suite left a holder");
    }
}

#[tokio::test(start_paused = true)]
async fn with_every_acquisition_sent_twice() {
    let emulator = Emulator::start().await;
    let make = async || {
        let (backend, faults) = Faulty::new(emulator.direct());
        faults.always(Op::TryAcquire, Fault::Duplicate);
        faults.always(Op::Renew, Fault::Duplicate);
        backend
    };
    conformance::run_all(make).await;
    assert_eq!(emulator.held(), 0, "the suite left a holder");
}
