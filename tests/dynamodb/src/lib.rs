//! An emulator of DynamoDB, reached by the real SDK: over HTTP, through a proxy that does harm on demand, or without a
//! socket, so that time can be paused.

mod emulator;
mod proxy;

use std::{future::Future, time::Duration};

pub use crate::{
    emulator::{Emulator, REGION, TABLE, request},
    proxy::{Fault, Gate, Kind, Proxy},
};

/// Every block of Rust in it is a test.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/dynamodb.md")]
pub mod page {}

/// Longer than anything in a test takes; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the future gives, which must not take a minute.
///
/// # Panics
///
/// If it does.
pub async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("done within a minute")
}

/// Completes once this is true, which must not take a minute.
///
/// # Panics
///
/// If it does.
pub async fn until(is_true: impl Fn() -> bool) {
    in_time(async {
        while !is_true() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
