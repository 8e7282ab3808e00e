//! The one suite over HTTP, in real time; apart from the others, which would take its processor while its leases run.

use std::time::Duration;

use tasklock::{dynamodb::aws_sdk_dynamodb::config::retry::RetryConfig, testing::conformance};
use tasklock_tests_dynamodb::Emulator;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http() {
    let emulator = Emulator::start().await;
    // The suite asks the backend itself, and nobody asks again: a busy machine has time to answer.
    let store = || emulator.store_with(RetryConfig::disabled(), Duration::from_secs(60));
    conformance::run_all(async || store()).await;
    assert_eq!(emulator.held(), 0, "the suite left a holder");
}
