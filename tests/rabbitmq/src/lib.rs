//! A broker of the tests' own, and what they look at it with.

mod broker;
mod proxy;
mod raw;

pub use crate::{
    broker::{Broker, Settings},
    proxy::Proxy,
    raw::{Raw, Taken},
};

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tasklock::{Locker, LockerBuilder, RabbitConfig, RabbitLock};
use tasklock_tests::servers::PATIENCE;

/// Every block of Rust in it is a test.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/rabbitmq.md")]
pub mod page {}

/// A client of a broker.
///
/// # Panics
///
/// If it cannot connect.
pub async fn client(url: &str) -> RabbitLock {
    let config = RabbitConfig::from_url(url).expect("an address");
    config.connect().await.unwrap_or_else(|e| panic!("{url}: {e}"))
}

/// A locker over a client of its own, without a prefix, so that names are whole.
///
/// # Panics
///
/// If it cannot connect.
pub async fn locker(url: &str) -> Locker {
    builder(url).await.build().expect("a locker")
}

/// The same, to be set up.
///
/// # Panics
///
/// If it cannot connect.
pub async fn builder(url: &str) -> LockerBuilder {
    Locker::builder(client(url).await).prefix("")
}

/// What comes in time.
///
/// # Panics
///
/// If it does not.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Waits until something is so.
///
/// # Panics
///
/// If it does not become so.
pub async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < PATIENCE, "{what}: not so after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A name that no other test has.
#[must_use]
pub fn name(what: &str) -> String {
    format!("{what}@{}", tasklock::Nonce::fresh())
}
