//! The one suite, on backends whose calls come late or more than once.

use std::time::Duration;

use tasklock::{
    AsyncLock,
    testing::{Fault, Faulty, Op, conformance::run_all},
};

/// Runs the suite on backends all of whose calls are delayed, on their way there or on their way back.
pub async fn run_late<B: AsyncLock>(delayed: fn(Duration) -> Fault, make: impl AsyncFn() -> B) {
    let make = async || {
        let (backend, faults) = Faulty::new(make().await);
        let asked = [Op::TryAcquire, Op::TryAcquireAll, Op::Renew, Op::Release, Op::Inspect];
        for op in asked.into_iter().chain([Op::Value, Op::Change, Op::ChangePool]) {
            faults.always(op, delayed(Duration::from_millis(7)));
        }
        backend
    };
    run_all(make).await;
}

/// Runs the suite on backends all of whose acquisitions and renewals are sent twice.
pub async fn run_twice<B: AsyncLock>(make: impl AsyncFn() -> B) {
    let make = async || {
        let (backend, faults) = Faulty::new(make().await);
        for op in [Op::TryAcquire, Op::TryAcquireAll, Op::Renew] {
            faults.always(op, Fault::Duplicate);
        }
        backend
    };
    run_all(make).await;
}
