//! Standing in the line of a locker for the key `job`.

use tasklock::{Guard, KeyLock, LockError, Locker, MemoryLock, Stats, testing::until_quiet};
use tokio::task::{JoinHandle, yield_now};

/// A task of this locker that waits for the key in line.
///
/// # Panics
///
/// If the store fails.
pub async fn in_line(lock: &Locker, key: KeyLock) -> JoinHandle<Result<Guard, LockError>> {
    let name = "job";
    let before = lock.inspect(name).await.unwrap().waiters;
    let task = tokio::spawn(async move { key.acquire().await });
    while lock.inspect(name).await.unwrap().waiters <= before {
        yield_now().await;
    }
    task
}

/// What a task in line waited for.
///
/// # Panics
///
/// If it did not get it.
pub async fn got(task: JoinHandle<Result<Guard, LockError>>) -> Guard {
    task.await.unwrap().unwrap()
}

/// Looks whether nobody holds or waits for anything, here or at the store.
///
/// # Panics
///
/// If somebody does.
pub async fn left_nothing(lock: &Locker, store: &MemoryLock) {
    until_quiet(lock).await;
    assert_eq!(lock.stats(), Stats::default());
    assert!(store.is_empty(), "{store:?}");
}

/// A guard acquired in line, so that it can be handed on, whatever the backend does in the uncontended case.
///
/// # Panics
///
/// If the store fails.
pub async fn lined(lock: &Locker) -> Guard {
    let gate = lock.acquire("job").await.unwrap();
    let task = in_line(lock, lock.key("job")).await;
    drop(gate);
    got(task).await
}
