//! Locks on files pass the one suite, alone and behind a wrapper that makes them slow, forgetful or repetitive, and leave
//! nothing but the files of locks.

use std::time::Duration;

use tasklock::{
    Expiry, Locker, Loss, Scope, WakeBy,
    testing::{Fault, Faulty, Op, conformance},
};
use tasklock_tests::{
    cancellation::{Scene, drop_everywhere},
    local::{files, is_free},
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
    for fault in [Fault::DelayRequest, Fault::DelayReply] {
        let folder = Folder::new();
        let make = async || {
            let (backend, faults) = Faulty::new(files(folder.path()));
            for op in [Op::TryAcquire, Op::Renew, Op::Release] {
                faults.always(op, fault(Duration::from_millis(7)));
            }
            backend
        };
        conformance::run_all(make).await;
        assert!(is_free(folder.path()));
    }
}

#[tokio::test(start_paused = true)]
async fn files_with_every_acquisition_sent_twice() {
    let folder = Folder::new();
    let make = async || {
        let (backend, faults) = Faulty::new(files(folder.path()));
        faults.always(Op::TryAcquire, Fault::Duplicate);
        faults.always(Op::Renew, Fault::Duplicate);
        backend
    };
    conformance::run_all(make).await;
    assert!(is_free(folder.path()));
}

#[tokio::test(start_paused = true)]
async fn acquisitions_dropped_at_every_await() {
    for op in [Op::TryAcquire, Op::Release] {
        let folder = Folder::new();
        let make = async || {
            let store = files(folder.path());
            let (backend, faults) = Faulty::new(store.clone());
            Scene::new((Locker::new(backend).unwrap(), faults), Locker::new(store).unwrap())
        };
        let is_empty = async |_: &Scene, _| {
            // Time is paused: what was to come has come.
            tokio::time::sleep(Duration::from_millis(100)).await;
            is_free(folder.path())
        };
        drop_everywhere(make, is_empty, op).await;
    }
}

#[tokio::test]
async fn what_files_declare() {
    let folder = Folder::new();
    let lock = tasklock::connect(format!("file://{}", folder.path().display())).await.unwrap();
    let has = lock.capabilities();
    assert_eq!((has.backend, has.expiry, has.loss), ("file", Expiry::Process, Loss::Kernel));
    assert_eq!((has.wake, has.fair, has.shared, has.scope), (WakeBy::Poll, false, true, Scope::Host));
}
