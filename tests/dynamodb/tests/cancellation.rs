//! An acquisition dropped at any await leaves no holder, whatever the table does meanwhile.

use std::cell::Cell;

use tasklock::{
    Locker,
    testing::{Faulty, Op},
};
use tasklock_tests::cancellation::{Stage, drop_everywhere};
use tasklock_tests_dynamodb::Emulator;

async fn drop_on(op: Op) {
    let emulator = std::rc::Rc::new(Emulator::start().await);
    let count = Cell::new(0);
    let stage = || {
        let (backend, faults) = Faulty::new(emulator.direct());
        let (lock, blocker) = (Locker::new(backend).unwrap(), Locker::new(emulator.direct()).unwrap());
        count.set(count.get() + 1);
        let emulator = emulator.clone();
        let is_empty = Box::new(move || emulator.held() == 0);
        Stage { lock, faults, blocker, key: format!("job:{}", count.get()), is_empty }
    };
    drop_everywhere(stage, op).await;
}

#[tokio::test(start_paused = true)]
async fn acquisitions() {
    drop_on(Op::TryAcquire).await;
}

#[tokio::test(start_paused = true)]
async fn withdrawals_that_go_wrong() {
    drop_on(Op::Release).await;
}
