//! Locks on files and sockets, and what is in their directory.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use tasklock::{
    AsyncLock, Clock, FileLock, Intent, Key, LocalConfig, Locker, Nonce, Owner, Request, SocketLock, Ttl,
    testing::{Faulty, Op},
};

use crate::{
    cancellation::{Scene, drop_everywhere},
    servers::Folder,
};

/// Locks on the files of a folder.
///
/// # Panics
///
/// If the folder will not do.
#[must_use]
pub fn files(folder: &Path) -> FileLock {
    FileLock::open(&LocalConfig::new().directory(folder)).expect("a directory for locks")
}

/// The same, with a socket.
///
/// # Panics
///
/// If the folder will not do.
pub async fn sockets(folder: &Path) -> SocketLock {
    SocketLock::open(&LocalConfig::new().directory(folder)).await.expect("a directory for locks")
}

/// Drops an acquisition after each number of polls, on the files of a folder.
///
/// # Panics
///
/// If anything is left.
pub async fn drop_everywhere_in_a_folder<B: AsyncLock + Clone>(open: impl AsyncFn(&Path) -> B) {
    for op in [Op::TryAcquire, Op::Release] {
        let folder = Folder::new();
        let store = open(folder.path()).await;
        let make = async || {
            let (backend, faults) = Faulty::new(store.clone());
            let locker = Locker::new(backend).expect("a locker");
            Scene::new((locker, faults), Locker::new(store.clone()).expect("a locker"))
        };
        let is_empty = async |_: &Scene, _| {
            // Time is paused: what was to come has come.
            tokio::time::sleep(Duration::from_millis(100)).await;
            is_free(folder.path())
        };
        drop_everywhere(make, is_empty, op).await;
    }
}

/// A request as a locker would make it.
///
/// # Panics
///
/// If the key is not a valid one.
#[must_use]
pub fn request(key: &str, intent: Intent) -> Request {
    let (key, ttl) = (Key::new(key).expect("a valid name"), Ttl::For(Duration::from_secs(20)));
    Request::new(key, Nonce::fresh(), ttl, intent, Owner::named("test"), Clock::current().now())
}

/// The files of a folder with this ending.
///
/// # Panics
///
/// If it cannot be read.
#[must_use]
pub fn with_ending(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.extension().is_some_and(|found| found == ending)).collect()
}

/// Whether nobody holds any lock of a folder, and nothing is left but the files of locks.
///
/// # Panics
///
/// If it cannot be read.
#[must_use]
pub fn is_free(folder: &Path) -> bool {
    let free = |path: &Path| flock(File::open(path).expect("a file"), FlockOperation::NonBlockingLockExclusive).is_ok();
    // One look: a socket may be removed meanwhile.
    fs::read_dir(folder).expect("a folder").all(|entry| {
        let path = entry.expect("an entry").path();
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("lock" | "gate") => free(&path),
            Some("sock") => true,
            _ => false,
        }
    })
}
