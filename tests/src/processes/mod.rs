//! Real processes that share locks, stopped and killed by real signals.
//!
//! A [`Worker`] runs [`program`], which locks by `TASKLOCK_URL` and does as it is told. [`scenarios`] are the same for every
//! backend whose locks reach across processes and expire at their store; a backend's test file gives them an address and
//! the program.

mod account;
mod journal;
pub mod program;
pub mod scenarios;
mod store;
mod worker;

pub use self::{
    journal::Journal,
    store::{Store, Totals},
    worker::{Stray, Worker, signal},
};

/// The worker's program. Cargo tells only tests of it.
#[macro_export]
macro_rules! worker {
    () => {
        env!("CARGO_BIN_EXE_worker")
    };
}
