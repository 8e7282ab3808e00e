//! The one suite over HTTP, in real time; apart from the others, which would take its processor while its leases run.

use tasklock::testing::conformance;
use tasklock_tests_dynamodb::Emulator;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http() {
    let emulator = Emulator::start().await;
    conformance::run_all(async || emulator.store()).await;
    assert_eq!(emulator.held(), 0, "the suite left a holder");
}
