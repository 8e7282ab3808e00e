//! Real processes that share a lock and a store, stopped and killed by real signals.
//!
//! [`scenarios`] are the same for every backend whose locks reach across processes; a backend's test file gives them an
//! address and the program `worker`.

pub mod scenarios;
mod store;
mod worker;

pub use self::{
    store::{Store, Totals},
    worker::Worker,
};
