//! Locks on files among processes that are killed, forked and spawned.

use std::{
    collections::HashSet,
    fs,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tasklock::{AsyncLock as _, Key, LockError, Locker};
use tasklock_tests::{
    eventually,
    local::{files, is_free},
    processes::{Journal, Stray, Worker, signal},
    servers::Folder,
    worker,
};
use tokio::time::timeout;

/// For both backends: they are the same lock.
fn urls(folder: &Folder) -> [String; 2] {
    ["file", "socket"].map(|scheme| format!("{scheme}://{}", folder.path().display()))
}

#[tokio::test]
async fn a_killed_holder_makes_way() {
    let folder = Folder::new();
    for url in urls(&folder) {
        let (mut holder, mut waiter) = (Worker::start(worker!(), &url).await, Worker::start(worker!(), &url).await);
        let first = holder.take("job").await;
        assert_eq!(waiter.ask("try job").await, format!("busy {}", holder.pid()));
        waiter.order("take job").await;
        holder.kill().await;
        let token = waiter.taken().await;
        assert!(token > first, "{token} after {first}");
        assert_eq!(waiter.ask("drop job").await, "Released");
    }
    let _ = files(folder.path());
    assert!(is_free(folder.path()));
}

/// A record of a dead holder is no holder.
#[tokio::test]
async fn inspect_tells_the_dead_from_the_living() {
    let folder = Folder::new();
    let lock = Locker::new(files(folder.path())).unwrap();
    let mut holder = Worker::start(worker!(), &urls(&folder)[0]).await;
    let (pid, token) = (holder.pid(), holder.take("job").await);
    let state = lock.inspect("job").await.unwrap();
    let seen = state.holder.expect("a holder");
    assert_eq!((seen.owner.pid(), seen.owner.application()), (pid, "worker"));
    assert_eq!(seen.token.map(u64::from), Some(token));
    assert!(seen.remaining.is_some_and(|left| left <= Duration::from_secs(30)) && seen.held.is_some());
    holder.stop();
    assert!(!lock.inspect("job").await.unwrap().is_free(), "a process that stands still has its locks");
    holder.kill().await;
    assert!(lock.inspect("job").await.unwrap().is_free());
}

/// One after the other, also when any of them is killed anywhere.
#[tokio::test]
async fn one_at_a_time_while_some_are_killed() {
    for scheme in 0..2 {
        let folder = Folder::new();
        let url = &urls(&folder)[scheme];
        let journal = Journal::at(folder.file("journal"));
        let (mut workers, mut killed) = (Vec::new(), HashSet::new());
        for _ in 0..4 {
            workers.push(Worker::start(worker!(), url).await);
        }
        for worker in &mut workers {
            worker.order(&format!("work hot {} 100", journal.path().display())).await;
        }
        for _ in 0..6 {
            let mut victim = Worker::start(worker!(), url).await;
            victim.order(&format!("work hot {} 1000000", journal.path().display())).await;
            // Killed at work: it has been in at least once.
            eventually("everybody gets in", async || journal.tells_of(victim.pid())).await;
            killed.insert(victim.pid());
            victim.kill().await;
        }
        for worker in &mut workers {
            assert_eq!(worker.answer().await, "worked");
        }
        assert!(journal.check(&killed) >= 400);
    }
}

/// Programs that a holder starts do not have its locks.
#[tokio::test]
async fn programs_started_by_the_holder_do_not_keep_its_locks() {
    let folder = Folder::new();
    for url in urls(&folder) {
        let mut holder = Worker::start(worker!(), &url).await;
        holder.take("job").await;
        let child = Stray(u32::try_from(holder.number("spawn", "spawned").await).unwrap());
        holder.kill().await;
        let lock = Locker::new(files(folder.path())).unwrap();
        // The child's program may run before the system has closed what it is not to have: so it is not one try.
        let guard = timeout(Duration::from_secs(60), lock.acquire("job")).await.expect("the child does not have it");
        guard.unwrap().release().await.unwrap();
        signal(child.0, Signal::CONT); // it lives
    }
}

/// A forked child can neither give back what its parent holds nor keep what its parent gives back.
#[tokio::test]
async fn a_forked_child_does_not_release() {
    let folder = Folder::new();
    for url in urls(&folder) {
        let lock = Locker::new(files(folder.path())).unwrap();
        let mut parent = Worker::start(worker!(), &url).await;
        for what in ["drop", "keep"] {
            parent.take("job").await;
            let child = Stray(u32::try_from(parent.number(&format!("fork job {what}"), "forked").await).unwrap());
            let error = lock.key("job").wait(Duration::ZERO).acquire().await.unwrap_err();
            assert!(matches!(&error, LockError::Held { .. }), "released by a child: {error}");
            assert_eq!(error.holder().unwrap().owner.pid(), parent.pid());
            assert_eq!(parent.ask("drop job").await, "Released");
            let guard = lock.try_acquire("job").await.unwrap().expect("a child has it open, and keeps nothing");
            guard.release().await.unwrap();
            signal(child.0, Signal::CONT); // it lives
        }
    }
}

/// What its parent holds when it is killed, a child keeps as long as it has it open.
#[tokio::test]
async fn a_forked_child_keeps_what_its_dead_parent_held() {
    let folder = Folder::new();
    let lock = Locker::new(files(folder.path())).unwrap();
    let mut parent = Worker::start(worker!(), &urls(&folder)[0]).await;
    parent.take("job").await;
    let child = Stray(u32::try_from(parent.number("fork job keep", "forked").await).unwrap());
    parent.kill().await;
    assert!(lock.try_acquire("job").await.unwrap().is_none());
    drop(child);
    let guard = timeout(Duration::from_secs(60), lock.acquire("job")).await.expect("a dead child keeps nothing");
    guard.unwrap().release().await.unwrap();
}

/// A child does not lock by what its parent keeps open for later: to the kernel that would be the parent's lock.
#[tokio::test]
async fn a_forked_child_locks_for_itself() {
    let folder = Folder::new();
    for url in urls(&folder) {
        let mut parent = Worker::start(worker!(), &url).await;
        parent.take("job").await;
        assert_eq!(parent.ask("drop job").await, "Released");
        let child = Stray(u32::try_from(parent.number("fork job try", "forked").await).unwrap());
        assert_eq!(parent.ask("try job").await, format!("busy {}", parent.pid()));
        // Nobody attends to a child's waiters: it names no socket, least of all its parent's.
        let record = fs::read_to_string(folder.file("tasklock:job.lock")).unwrap();
        assert!(record.contains("\nwaker -\n"), "{record}");
        drop(child);
        parent.take("job").await;
        assert_eq!(parent.ask("drop job").await, "Released");
    }
}

/// What a parent takes long after a fork, a child does not keep.
#[tokio::test]
async fn a_forked_child_keeps_nothing_that_its_parent_took_later() {
    let folder = Folder::new();
    let lock = Locker::new(files(folder.path())).unwrap();
    let mut parent = Worker::start(worker!(), &urls(&folder)[0]).await;
    parent.take("job").await;
    let opened = Instant::now();
    assert_eq!(parent.ask("drop job").await, "Released");
    let child = Stray(u32::try_from(parent.number("fork other keep", "forked").await).unwrap());
    eventually("the file is not fresh any more", async || opened.elapsed() > Duration::from_secs(1)).await;
    parent.take("job").await;
    parent.kill().await;
    let guard = lock.try_acquire("job").await.unwrap().expect("the child does not have it");
    guard.release().await.unwrap();
    signal(child.0, Signal::CONT); // it lives
}

/// Neither scheme is another lock than the other.
#[tokio::test]
async fn files_and_sockets_exclude_each_other() {
    let folder = Folder::new();
    let [file, socket] = urls(&folder);
    let (mut file, mut socket) = (Worker::start(worker!(), &file).await, Worker::start(worker!(), &socket).await);
    file.take("job").await;
    assert_eq!(socket.ask("try job").await, format!("busy {}", file.pid()));
    socket.order("take job").await;
    assert_eq!(file.ask("drop job").await, "Released");
    socket.taken().await;
    file.order("take job").await;
    assert_eq!(socket.ask("drop job").await, "Released");
    file.taken().await;
    let state = files(folder.path()).inspect(&Key::new("tasklock:job").unwrap()).await.unwrap();
    assert_eq!(state.holder.expect("a holder").owner.pid(), file.pid());
}
