//! Locks on files pass the one suite, alone and behind a wrapper that makes them slow, forgetful or repetitive, and leave
//! nothing but the files of locks.

use std::time::Duration;

use tasklock::{
    Expiry, FileLock, Locker, Loss, Scope, WakeBy,
    testing::{Fault, Faults, Faulty, Op, conformance},
};
use tasklock_tests::{
    cancellation::drop_everywhere,
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

fn with_faults(store: FileLock) -> (Locker, Faults) {
    let (backend, faults) = Faulty::new(store);
    (Locker::new(backend).unwrap(), faults)
}

fn nothing_held(store: &FileLock) -> bool {
    is_free(store.directory())
}

#[tokio::test(start_paused = true)]
async fn acquisitions_dropped_at_every_await() {
    for op in [Op::TryAcquire, Op::Release] {
        let folder = Folder::new();
        drop_everywhere(|| files(folder.path()), with_faults, nothing_held, op).await;
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
