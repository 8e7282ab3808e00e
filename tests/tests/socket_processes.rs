//! Waiters of other processes are told at once, by the kernel if need be, however many they are.

use std::{
    fs,
    pin::pin,
    time::{Duration, Instant},
};

use tasklock::{AsyncLock as _, Attempt, Claim, Intent, Released, SocketLock, Wake, testing::poll_times};
use tasklock_tests::{
    local::{files, request, sockets, with_ending},
    processes::Worker,
    servers::{Folder, PATIENCE},
    worker,
};
use tokio::{task::JoinSet, time::timeout};

const KEY: &str = "tasklock:job";

async fn holder(folder: &Folder) -> Worker {
    let mut holder = Worker::start(worker!(), &format!("socket://{}", folder.path().display())).await;
    holder.take("job").await;
    holder
}

/// So many waits, none of which has a timer: they end when they are told, or never.
async fn waits(store: &SocketLock, count: usize) -> JoinSet<()> {
    let mut waits = JoinSet::new();
    for _ in 0..count {
        let (store, request) = (store.clone(), request(KEY, Intent::Wait));
        assert!(matches!(store.try_acquire(&request).await, Ok(Attempt::Busy(_))));
        waits.spawn(async move {
            assert!(matches!(store.wait(&request).await, Ok(Wake::Retry)));
        });
    }
    waits
}

async fn all(mut waits: JoinSet<()>) {
    let joined = async {
        while let Some(told) = waits.join_next().await {
            told.unwrap();
        }
    };
    timeout(PATIENCE, joined).await.expect("all are told");
}

async fn descriptors(worker: &mut Worker) -> u64 {
    worker.number("descriptors", "").await
}

async fn until_attended(worker: &mut Worker, waiters: u64, before: u64) {
    let start = Instant::now();
    while descriptors(worker).await != before + waiters {
        assert!(start.elapsed() < PATIENCE, "{waiters} waiters attended to");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn hundreds_are_told_of_a_release() {
    let folder = Folder::new();
    let store = sockets(folder.path()).await;
    let mut holder = holder(&folder).await;
    let before = descriptors(&mut holder).await;
    let waits = waits(&store, 300).await;
    until_attended(&mut holder, 300, before).await;
    assert_eq!(holder.ask("drop job").await, "Released");
    all(waits).await;
    until_attended(&mut holder, 0, before).await;
}

#[tokio::test]
async fn hundreds_are_told_of_a_death() {
    let folder = Folder::new();
    let store = sockets(folder.path()).await;
    let mut holder = holder(&folder).await;
    let before = descriptors(&mut holder).await;
    let waits = waits(&store, 300).await;
    until_attended(&mut holder, 300, before).await;
    holder.kill().await;
    all(waits).await;
    let request = request(KEY, Intent::Try);
    assert!(matches!(store.try_acquire(&request).await, Ok(Attempt::Granted(_))), "told, and not free");
}

/// Nobody attends to them: they stand in the kernel's queue, and are told all the same.
#[tokio::test]
async fn hundreds_are_told_of_the_death_of_a_holder_that_hung() {
    let folder = Folder::new();
    let store = sockets(folder.path()).await;
    let holder = holder(&folder).await;
    holder.stop();
    let mut waits = waits(&store, 300).await;
    let early = timeout(Duration::from_millis(100), waits.join_next()).await;
    assert!(early.is_err(), "told of nothing");
    holder.kill().await;
    all(waits).await;
}

#[tokio::test]
async fn waits_that_are_given_up_leave_the_holder_nothing() {
    let folder = Folder::new();
    let store = sockets(folder.path()).await;
    let mut holder = holder(&folder).await;
    let before = descriptors(&mut holder).await;
    let mut waits = waits(&store, 100).await;
    until_attended(&mut holder, 100, before).await;
    waits.shutdown().await;
    until_attended(&mut holder, 0, before).await;
}

/// A holder that has released answers for the hold it had, not for the one it has.
#[tokio::test]
async fn a_wait_is_for_one_hold() {
    let folder = Folder::new();
    let (here, there) = (sockets(folder.path()).await, sockets(folder.path()).await);
    let (first, second, waiter) = (request("a", Intent::Try), request("b", Intent::Try), request("a", Intent::Wait));
    assert!(matches!(here.try_acquire(&first).await, Ok(Attempt::Granted(_))));
    assert!(matches!(here.try_acquire(&second).await, Ok(Attempt::Granted(_))));
    assert!(matches!(there.try_acquire(&waiter).await, Ok(Attempt::Busy(_))));
    let mut wait = pin!(there.wait(&waiter));
    assert!(poll_times(wait.as_mut(), 5).await.is_none());
    assert_eq!(here.release(&Claim::of(&second)).await.unwrap(), Released::Released);
    assert!(poll_times(wait.as_mut(), 5).await.is_none(), "told of another lock's release");
    assert_eq!(here.release(&Claim::of(&first)).await.unwrap(), Released::Released);
    assert!(matches!(timeout(PATIENCE, wait).await, Ok(Ok(Wake::Retry))));
}

/// Between the attempt and the wait, somebody has come in who tells nobody: the lock is asked soon all the same.
#[tokio::test]
async fn a_wait_for_one_who_tells_nobody_ends() {
    let folder = Folder::new();
    let (here, there, silent) = (sockets(folder.path()).await, sockets(folder.path()).await, files(folder.path()));
    let (first, second, waiter) = (request("a", Intent::Try), request("a", Intent::Try), request("a", Intent::Wait));
    assert!(matches!(here.try_acquire(&first).await, Ok(Attempt::Granted(_))));
    assert!(matches!(there.try_acquire(&waiter).await, Ok(Attempt::Busy(_))));
    assert_eq!(here.release(&Claim::of(&first)).await.unwrap(), Released::Released);
    assert!(matches!(silent.try_acquire(&second).await, Ok(Attempt::Granted(_))));
    assert!(matches!(timeout(PATIENCE, there.wait(&waiter)).await, Ok(Ok(Wake::Retry))));
}

/// The record tells of a hold that has ended, and somebody else has the lock who has written nothing down.
#[tokio::test]
async fn a_wait_for_a_hold_that_has_ended_ends() {
    let folder = Folder::new();
    let (here, there) = (sockets(folder.path()).await, sockets(folder.path()).await);
    let (ended, waiter) = (request("a", Intent::Try), request("a", Intent::Wait));
    assert!(matches!(here.try_acquire(&ended).await, Ok(Attempt::Granted(_))));
    assert_eq!(here.release(&Claim::of(&ended)).await.unwrap(), Released::Released);
    let stranger = fs::File::open(folder.file("a.lock")).unwrap();
    rustix::fs::flock(&stranger, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert!(matches!(there.try_acquire(&waiter).await, Ok(Attempt::Busy(_))));
    assert!(matches!(timeout(PATIENCE, there.wait(&waiter)).await, Ok(Ok(Wake::Retry))));
}

/// A socket that is gone costs time only: the lock itself is asked.
#[tokio::test]
async fn a_removed_socket_costs_no_lock() {
    let folder = Folder::new();
    let url = format!("socket://{}", folder.path().display());
    let mut holder = holder(&folder).await;
    for socket in with_ending(folder.path(), "sock") {
        fs::remove_file(socket).unwrap();
    }
    let lock = tasklock::connect(&url).await.unwrap();
    let waiting = tokio::spawn(async move { lock.acquire("job").await.map(drop) });
    assert_eq!(holder.ask("drop job").await, "Released");
    timeout(PATIENCE, waiting).await.expect("in time").unwrap().unwrap();
}

/// Who comes next clears away the sockets of those who were killed, and of nobody else.
#[tokio::test]
async fn sockets_of_the_dead_are_removed() {
    let folder = Folder::new();
    let (dead, mut hung) = (holder(&folder).await, sockets_holder(&folder).await);
    assert_eq!(with_ending(folder.path(), "sock").len(), 2);
    dead.kill().await;
    hung.stop();
    let store = sockets(folder.path()).await;
    assert_eq!(with_ending(folder.path(), "sock").len(), 2, "one of the living, one of ours");
    hung.resume();
    hung.take("other").await;
    let waiter = request("tasklock:other", Intent::Wait);
    assert!(matches!(store.try_acquire(&waiter).await, Ok(Attempt::Busy(_))));
    let mut wait = pin!(store.wait(&waiter));
    assert!(poll_times(wait.as_mut(), 5).await.is_none());
    assert_eq!(hung.ask("drop other").await, "Released");
    assert!(matches!(timeout(PATIENCE, wait).await, Ok(Ok(Wake::Retry))));
}

async fn sockets_holder(folder: &Folder) -> Worker {
    Worker::start(worker!(), &format!("socket://{}", folder.path().display())).await
}
