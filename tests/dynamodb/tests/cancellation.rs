//! An acquisition dropped at any await leaves no holder, whatever the table does meanwhile.

use std::{cell::Cell, time::Duration};

use tasklock::{
    Locker,
    testing::{Faulty, Op},
};
use tasklock_tests::cancellation::{Scene, drop_everywhere};
use tasklock_tests_dynamodb::Emulator;

async fn drop_on(op: Op) {
    let emulator = Emulator::start().await;
    let count = Cell::new(0);
    let make = async || {
        let (backend, faults) = Faulty::new(emulator.direct());
        let (lock, other) = (Locker::new(backend).unwrap(), Locker::new(emulator.direct()).unwrap());
        count.set(count.get() + 1);
        Scene { lock, faults, other, key: format!("job:{}", count.get()) }
    };
    let is_empty = async |_: &Scene, _| {
        // Time is paused: what was to come has come.
        tokio::time::sleep(Duration::from_millis(100)).await;
        emulator.held() == 0
    };
    drop_everywhere(make, is_empty, op).await;
}

#[tokio::test(start_paused = true)]
async fn acquisitions() {
    drop_on(Op::TryAcquire).await;
}

#[tokio::test(start_paused = true)]
async fn withdrawals_that_go_wrong() {
    drop_on(Op::Release).await;
}
