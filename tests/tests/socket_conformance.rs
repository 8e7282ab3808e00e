//! Locks with a socket pass the one suite, alone and behind a wrapper that makes them slow, forgetful or repetitive, and
//! leave nothing but the files of locks.

use std::time::Duration;

use tasklock::{
    Locker, WakeBy,
    testing::{Fault, Faulty, Op, conformance},
};
use tasklock_tests::{
    cancellation::{Scene, drop_everywhere},
    local::{is_free, sockets, with_ending},
    servers::Folder,
};

#[tokio::test]
async fn sockets_conform() {
    let folder = Folder::new();
    conformance::run_all(async || sockets(folder.path()).await).await;
    assert!(is_free(folder.path()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_conform_with_threads() {
    let folder = Folder::new();
    let store = sockets(folder.path()).await;
    conformance::run_all(async || store.clone()).await;
    drop(store);
    assert!(is_free(folder.path()));
}

#[tokio::test]
async fn sockets_behind_delays() {
    for fault in [Fault::DelayRequest, Fault::DelayReply] {
        let folder = Folder::new();
        let make = async || {
            let (backend, faults) = Faulty::new(sockets(folder.path()).await);
            for op in [Op::TryAcquire, Op::Renew, Op::Release] {
                faults.always(op, fault(Duration::from_millis(7)));
            }
            backend
        };
        conformance::run_all(make).await;
        assert!(is_free(folder.path()));
    }
}

#[tokio::test]
async fn sockets_with_every_acquisition_sent_twice() {
    let folder = Folder::new();
    let make = async || {
        let (backend, faults) = Faulty::new(sockets(folder.path()).await);
        faults.always(Op::TryAcquire, Fault::Duplicate);
        faults.always(Op::Renew, Fault::Duplicate);
        backend
    };
    conformance::run_all(make).await;
    assert!(is_free(folder.path()));
}

/// Paused time goes on while a socket has something to say: waiters are woken by their timers as often as by the holder.
#[tokio::test(start_paused = true)]
async fn acquisitions_dropped_at_every_await() {
    for op in [Op::TryAcquire, Op::Release] {
        let folder = Folder::new();
        let store = sockets(folder.path()).await;
        let make = async || {
            let (backend, faults) = Faulty::new(store.clone());
            Scene::new((Locker::new(backend).unwrap(), faults), Locker::new(store.clone()).unwrap())
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
async fn the_socket_is_there_as_long_as_its_lock() {
    let folder = Folder::new();
    let lock = tasklock::connect(format!("socket://{}", folder.path().display())).await.unwrap();
    assert_eq!((lock.capabilities().backend, lock.capabilities().wake), ("socket", WakeBy::Push));
    assert_eq!(with_ending(folder.path(), "sock").len(), 1);
    lock.shutdown().await;
    drop(lock);
    tokio::time::timeout(Duration::from_secs(60), async {
        while !with_ending(folder.path(), "sock").is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("the socket is gone");
}
