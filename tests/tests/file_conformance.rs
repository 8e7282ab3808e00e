//! Locks on files pass the one suite, alone and behind a wrapper that makes them slow, forgetful or repetitive, and leave
//! nothing but the files of locks.

use std::path::Path;

use tasklock::{
    Expiry, Loss, Scope, WakeBy,
    testing::{Fault, conformance},
};
use tasklock_tests::{
    conformance::{run_late, run_twice},
    local::{drop_everywhere_in_a_folder, files, is_free},
    servers::Folder,
};

#[tokio::test(start_paused = true)]
async fn files_conform() {
    let folder = Folder::new();
    conformance::run_all(async || files(folder.path())).await;
    assert!(is_free(folder.path()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_conform_in_real_time() {
    let folder = Folder::new();
    conformance::run_all(async || files(folder.path())).await;
    assert!(is_free(folder.path()));
}

#[tokio::test(start_paused = true)]
async fn files_behind_delays() {
    for delayed in [Fault::DelayRequest, Fault::DelayReply] {
        let folder = Folder::new();
        run_late(delayed, async || files(folder.path())).await;
        assert!(is_free(folder.path()));
    }
}

#[tokio::test(start_paused = true)]
async fn files_with_every_acquisition_sent_twice() {
    let folder = Folder::new();
    run_twice(async || files(folder.path())).await;
    assert!(is_free(folder.path()));
}

#[tokio::test(start_paused = true)]
async fn acquisitions_dropped_at_every_await() {
    drop_everywhere_in_a_folder(async |folder: &Path| files(folder)).await;
}

#[tokio::test]
async fn what_files_declare() {
    let folder = Folder::new();
    let lock = tasklock::connect(format!("file://{}", folder.path().display())).await.unwrap();
    let has = lock.capabilities();
    assert_eq!((has.backend, has.expiry, has.loss), ("file", Expiry::Process, Loss::Kernel));
    assert_eq!((has.wake, has.fair, has.shared, has.scope), (WakeBy::Poll, false, true, Scope::Host));
}
