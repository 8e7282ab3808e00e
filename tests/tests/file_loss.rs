//! Locks whose files are taken away, replaced, or broken on purpose.

use std::{
    collections::HashSet,
    fs,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tasklock::{
    AsyncLock as _, Attempt, Claim, FencingToken, FileLock, Intent, Key, Locker, LossReason, Nonce, ReleaseOutcome,
    Released, Renew, Renewed, StepResult,
};
use tasklock_tests::{
    local::{files, is_free, request, sockets},
    processes::Worker,
    servers::Folder,
    worker,
};
use tokio::time::timeout;

fn locker(folder: &Folder) -> Locker {
    let often = Renew::Every(Duration::from_millis(50));
    Locker::builder(files(folder.path())).prefix("").renew(often).build().unwrap()
}

#[tokio::test]
async fn a_file_that_is_gone_is_a_lock_that_is_lost() {
    let folder = Folder::new();
    let lock = locker(&folder);
    for replaced in [false, true] {
        let guard = lock.acquire("job").await.unwrap();
        fs::remove_file(folder.file("job.lock")).unwrap();
        let next = if replaced { Some(lock.try_acquire("job").await.unwrap().expect("another file")) } else { None };
        assert_eq!(timeout(Duration::from_secs(60), guard.lost()).await, Ok(LossReason::Stolen));
        let lost = guard.fencing_token();
        assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::AlreadyLost);
        if let Some(next) = next {
            assert!(next.fencing_token() > lost, "tokens went back with the file");
            assert!(lock.try_acquire("job").await.unwrap().is_none(), "the loser's release took the next one's lock");
            next.release().await.unwrap();
        }
    }
}

/// Also if nobody renews: the release tells.
#[tokio::test]
async fn a_release_tells_that_the_file_was_replaced() {
    let folder = Folder::new();
    let store = files(folder.path());
    let (first, next) = (request("job", Intent::Try), request("job", Intent::Try));
    assert!(matches!(store.try_acquire(&first).await, Ok(Attempt::Granted(_))));
    fs::rename(folder.path(), folder.path().with_extension("away")).unwrap();
    assert!(matches!(store.renew(&[Claim::of(&first)]).await[..], [Ok(Renewed::NotOwner)]), "another directory");
    assert!(store.try_acquire(&next).await.is_err() && store.ping().await.is_err(), "a directory is not made twice");
    fs::rename(folder.path().with_extension("away"), folder.path()).unwrap();
    assert!(matches!(store.renew(&[Claim::of(&first)]).await[..], [Ok(Renewed::Held { .. })]), "back again");
    fs::remove_file(folder.file("job.lock")).unwrap();
    assert!(matches!(store.try_acquire(&next).await, Ok(Attempt::Granted(_))));
    assert_eq!(store.release(&Claim::of(&first)).await.unwrap(), Released::NotOwner);
    assert_eq!(store.release(&Claim::of(&next)).await.unwrap(), Released::Released);
}

/// Who asks again for what it had, after the file was replaced, has it no more.
#[tokio::test]
async fn what_was_lost_is_not_granted_again() {
    let folder = Folder::new();
    let (here, there) = (files(folder.path()), files(folder.path()));
    let (first, next) = (request("job", Intent::Try), request("job", Intent::Try));
    assert!(matches!(here.try_acquire(&first).await, Ok(Attempt::Granted(_))));
    fs::remove_file(folder.file("job.lock")).unwrap();
    assert!(matches!(there.try_acquire(&next).await, Ok(Attempt::Granted(_))));
    assert!(matches!(here.try_acquire(&first).await, Ok(Attempt::Busy(_))), "two holders");
}

/// A process that hangs keeps its lock, until somebody breaks it; what it does then is no business of the next holder's.
#[tokio::test]
async fn the_lock_of_a_hung_process_can_be_broken() {
    let folder = Folder::new();
    let url = format!("socket://{}", folder.path().display());
    let mut hung = Worker::start(worker!(), &url).await;
    let first = hung.take("job").await;
    hung.stop();
    let lock = Locker::new(sockets(folder.path()).await).unwrap();
    assert!(lock.try_acquire("job").await.unwrap().is_none());
    assert!(lock.break_lock("job").await.unwrap());
    let next = lock.try_acquire("job").await.unwrap().expect("a broken lock");
    assert!(next.fencing_token().get() > first);
    hung.resume();
    assert_eq!(hung.ask("drop job").await, "AlreadyLost");
    assert!(next.is_held() && lock.try_acquire("job").await.unwrap().is_none());
    assert_eq!(next.release().await.unwrap(), ReleaseOutcome::Released);
    assert!(!lock.break_lock("job").await.unwrap() && !lock.break_lock("never").await.unwrap());
    hung.kill().await;
    drop(lock);
    assert!(is_free(folder.path()), "breaking leaves nothing");
}

fn key() -> Key {
    Key::new("job").unwrap()
}

fn revoke(store: &FileLock, seen: Option<Nonce>) -> bool {
    try_revoke(store, seen).expect("an answer")
}

fn try_revoke(store: &FileLock, seen: Option<Nonce>) -> StepResult<bool> {
    let power = store.powers().administer.expect("a power");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(power.revoke(&key(), seen))
}

/// What threads that take turns see of each other.
#[derive(Default)]
struct Turns {
    done: AtomicBool,
    /// Who had the lock last.
    seen: Mutex<Option<Nonce>>,
    moments: AtomicU64,
}

/// What one of them had.
#[derive(Default)]
struct Had {
    tokens: Vec<FencingToken>,
    /// From when to when, where nobody had broken the lock by the end.
    kept: Vec<(u64, u64)>,
    robbed: Vec<Nonce>,
}

impl Turns {
    fn take(&self, folder: &Folder) -> Had {
        let (store, mut had) = (files(folder.path()), Had::default());
        let moment = || self.moments.fetch_add(1, Ordering::SeqCst);
        while !self.done.load(Ordering::Relaxed) {
            let request = request("job", Intent::Try);
            if let Some(Ok(Attempt::Granted(grant))) = store.try_acquire_now(&request) {
                let from = moment();
                had.tokens.push(grant.token.unwrap());
                *self.seen.lock().unwrap() = Some(request.nonce);
                thread::yield_now();
                let to = moment();
                match store.release_now(&Claim::of(&request)).unwrap().unwrap() {
                    Released::Released => had.kept.push((from, to)),
                    Released::NotOwner => had.robbed.push(request.nonce),
                }
            }
        }
        had
    }
}

/// Threads that take turns, and one that breaks their locks: no token is given twice, those who are not robbed are alone,
/// and nothing is left behind. Also if each break is aimed at one holder.
#[test]
fn breaking_under_contention() {
    for aimed in [false, true] {
        let (folder, turns) = (Folder::new(), Turns::default());
        let mut broken = Vec::new();
        let all: Vec<Had> = thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| turns.take(&folder))).collect();
            let store = files(folder.path());
            while broken.len() < 50 {
                let target = if aimed { *turns.seen.lock().unwrap() } else { None };
                if (target.is_some() || !aimed) && revoke(&store, target) {
                    broken.push(target);
                }
            }
            turns.done.store(true, Ordering::Relaxed);
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        let tokens: Vec<_> = all.iter().flat_map(|had| &had.tokens).collect();
        assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), tokens.len(), "a token came twice");
        let mut kept: Vec<_> = all.iter().flat_map(|had| &had.kept).collect();
        kept.sort();
        assert!(kept.windows(2).all(|two| two[0].1 < two[1].0), "two at once");
        let robbed: Vec<_> = all.iter().flat_map(|had| &had.robbed).collect();
        assert!((1..=50).contains(&robbed.len()), "{} robbed by 50 breaks", robbed.len());
        if aimed {
            let broken: HashSet<_> = broken.iter().flatten().collect();
            assert_eq!(broken.len(), 50, "broken twice");
            assert!(robbed.iter().all(|nonce| broken.contains(nonce)), "another than the one meant was robbed");
        }
        assert!(is_free(folder.path()));
    }
}

/// Several who break the same holder at once: one of them does, and none breaks whoever came next. With tokens ahead of
/// the clock, which would keep them apart.
#[test]
fn breaking_by_several_at_once() {
    let folder = Folder::new();
    let ahead = format!("tasklock 1\ntoken {}\ncheck c19f479d60722457\n", 1_u64 << 62);
    fs::write(folder.file("job.lock"), ahead).unwrap();
    let turns = Turns::default();
    let all: Vec<Had> = thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(|| turns.take(&folder))).collect();
        let breakers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let (store, mut broken) = (files(folder.path()), Vec::new());
                    while broken.len() < 50 {
                        let target = *turns.seen.lock().unwrap();
                        if target.is_some() && revoke(&store, target) {
                            broken.extend(target);
                        }
                    }
                    broken
                })
            })
            .collect();
        let broken: Vec<_> = breakers.into_iter().flat_map(|breaker| breaker.join().unwrap()).collect();
        turns.done.store(true, Ordering::Relaxed);
        let had = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        assert_eq!(broken.iter().collect::<HashSet<_>>().len(), broken.len(), "broken by two");
        had
    });
    let tokens: Vec<_> = all.iter().flat_map(|had| &had.tokens).collect();
    assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), tokens.len(), "a token came twice");
    assert!(is_free(folder.path()));
}

/// What is no lock is not broken, whoever has it locked: it is left as it is.
#[test]
fn what_is_no_lock_is_not_broken() {
    let folder = Folder::new();
    let store = files(folder.path());
    for (content, says) in [("#!/bin/sh\n", "is not a lock file"), ("tasklock 2\ntoken 7\n", "is of format 2")] {
        fs::write(folder.file("job.lock"), content).unwrap();
        let stranger = fs::File::open(folder.file("job.lock")).unwrap();
        rustix::fs::flock(&stranger, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let error = try_revoke(&store, None).unwrap_err();
        assert!(error.to_string().contains(says) && !error.is_retryable(), "{error}");
        assert_eq!(fs::read_to_string(folder.file("job.lock")).unwrap(), content);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something is left behind");
    }
}

/// Breaking somebody who is gone breaks nobody.
#[test]
fn only_the_holder_that_was_seen_is_broken() {
    let folder = Folder::new();
    let (store, mine) = (files(folder.path()), request("job", Intent::Try));
    assert!(matches!(store.try_acquire_now(&mine), Some(Ok(Attempt::Granted(_)))));
    assert!(!revoke(&store, Some(Nonce::fresh())));
    assert!(matches!(futures_executor::block_on(store.renew(&[Claim::of(&mine)]))[..], [Ok(Renewed::Held { .. })]));
    assert!(revoke(&store, Some(mine.nonce)), "the one that is there");
    assert!(!revoke(&store, Some(mine.nonce)), "nobody is there");
    assert!(matches!(futures_executor::block_on(store.renew(&[Claim::of(&mine)]))[..], [Ok(Renewed::NotOwner)]));
}
