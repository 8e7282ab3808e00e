//! Locks with a socket pass the one suite, alone and behind a wrapper that makes them slow, forgetful or repetitive, and
//! leave nothing but the files of locks.

use tasklock::{
    WakeBy,
    testing::{Fault, conformance},
};
use tasklock_tests::{
    conformance::{run_late, run_twice},
    eventually,
    local::{drop_everywhere_in_a_folder, is_free, sockets, with_ending},
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
async fn sockets_behind_late_requests() {
    let folder = Folder::new();
    run_late(Fault::DelayRequest, async || sockets(folder.path()).await).await;
    assert!(is_free(folder.path()));
}

#[tokio::test]
async fn sockets_behind_late_replies() {
    let folder = Folder::new();
    run_late(Fault::DelayReply, async || sockets(folder.path()).await).await;
    assert!(is_free(folder.path()));
}

#[tokio::test]
async fn sockets_with_every_acquisition_sent_twice() {
    let folder = Folder::new();
    run_twice(async || sockets(folder.path()).await).await;
    assert!(is_free(folder.path()));
}

/// Paused time goes on while a socket has something to say: waiters are woken by their timers as often as by the holder.
#[tokio::test(start_paused = true)]
async fn acquisitions_dropped_at_every_await() {
    drop_everywhere_in_a_folder(sockets).await;
}

#[tokio::test]
async fn the_socket_is_there_as_long_as_its_lock() {
    let folder = Folder::new();
    let lock = tasklock::connect(format!("socket://{}", folder.path().display())).await.unwrap();
    assert_eq!((lock.capabilities().backend, lock.capabilities().wake), ("socket", WakeBy::Push));
    assert_eq!(with_ending(folder.path(), "sock").len(), 1);
    lock.shutdown().await;
    drop(lock);
    eventually("the socket is gone", async || with_ending(folder.path(), "sock").is_empty()).await;
}
