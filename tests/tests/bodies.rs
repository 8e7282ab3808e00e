//! Synchronized bodies, and what they know: their lease, each other, the task's locker.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tasklock::{
    LockError, Locker, LossReason, MemoryLock, OnLost, Renew, Stats, Wait, blocking, current, default_locker,
    install_default, scope, testing,
};
use tasklock_tests::{faulty, is_lost, other};
use tokio::{runtime::Runtime, time::timeout};

#[derive(Debug)]
enum AppError {
    Lock(LockError),
    Other(&'static str),
}

impl From<LockError> for AppError {
    fn from(error: LockError) -> Self {
        AppError::Lock(error)
    }
}

#[tokio::test]
async fn values_and_errors() {
    let lock = Locker::new(MemoryLock::new()).unwrap();
    assert_eq!(lock.synchronized("job", async { 7 }).await.unwrap(), 7);
    let nested: Result<Result<u8, &str>, LockError> = lock.synchronized("job", async { Err("no") }).await;
    assert_eq!(nested.unwrap(), Err("no"));
    let flat: Result<u8, AppError> = lock.try_synchronized("job", async { Err(AppError::Other("no")) }).await;
    assert!(matches!(flat, Err(AppError::Other("no"))));
    let flat: Result<u8, AppError> = lock.try_synchronized("", async { Ok(1) }).await;
    assert!(matches!(flat, Err(AppError::Lock(LockError::InvalidKey(_)))));
    let token = lock.synchronized_with("job", |lease| async move { lease.fencing_token() }).await.unwrap();
    let later = lock.acquire("job").await.unwrap().fencing_token();
    assert!(later > token);
}

#[tokio::test(start_paused = true)]
async fn only_if_free() {
    let (lock, _, store) = faulty();
    let free = lock.key("job").synchronized_if_free_with(|_| async { 7 }).await.unwrap();
    assert_eq!(free, Some(7));
    let _held = other(&store).acquire("job").await.unwrap();
    let ran = AtomicBool::new(false);
    let body = |_| async { ran.store(true, Ordering::SeqCst) };
    assert_eq!(lock.key("job").synchronized_if_free_with(body).await.unwrap(), None);
    assert!(!ran.load(Ordering::SeqCst));
}

/// Dropped where it stands, before the lock is anyone else's.
#[tokio::test(start_paused = true)]
async fn a_lost_lease_cancels_the_body() {
    let (lock, _, store) = faulty();
    let dropped = Arc::new(AtomicBool::new(false));
    let on_drop = DropFlag(dropped.clone());
    let body = lock.key("job").renew(Renew::Off).ttl(Duration::from_secs(1)).synchronized(async move {
        let _on_drop = on_drop;
        pending::<()>().await
    });
    let next = async {
        let guard = other(&store).acquire("job").await.unwrap();
        assert!(dropped.load(Ordering::SeqCst), "the body was still there when the next had the lock");
        guard
    };
    // The body's task is polled first, but not only by its own timers: whoever comes next sees it gone.
    let (outcome, _guard) = tokio::join!(body, next);
    assert!(is_lost(&outcome, LossReason::Expired), "{outcome:?}");
}

struct DropFlag(Arc<AtomicBool>);

impl Drop for DropFlag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn finishing_is_opt_in() {
    let (lock, _, _) = faulty();
    let short = lock.key("job").renew(Renew::Off).ttl(Duration::from_secs(1)).on_lost(OnLost::Finish);
    let body = |lease: tasklock::Lease| async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        lease.is_held()
    };
    assert!(!short.synchronized_with(body).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_body_whose_lock_was_stolen_before_its_end_is_not_a_success() {
    let (lock, _, store) = faulty();
    let outcome = lock
        .synchronized("job", async {
            assert!(other(&store).break_lock("job").await.unwrap());
        })
        .await;
    assert!(is_lost(&outcome, LossReason::Stolen), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn the_running_lease() {
    let (lock, _, _) = faulty();
    assert!(current().is_none());
    lock.synchronized("outer", async {
        assert_eq!(current().unwrap().key().name(), "outer");
        lock.synchronized("inner", async { assert_eq!(current().unwrap().key().name(), "inner") }).await.unwrap();
        assert_eq!(current().unwrap().key().name(), "outer");
        tokio::spawn(async { assert!(current().is_none()) }).await.unwrap();
    })
    .await
    .unwrap();
    assert!(current().is_none());
}

#[tokio::test(start_paused = true)]
async fn waiting_for_oneself_is_told_at_once() {
    let (lock, _, store) = faulty();
    lock.synchronized("a", async {
        lock.synchronized("b", async {
            let error = lock.acquire("a").await.unwrap_err();
            assert!(matches!(&error, LockError::WouldDeadlock { key } if key.name() == "a"), "{error}");
            assert!(lock.synchronized("b", async {}).await.is_err());
            // A try waits for nobody, and another locker may be another store.
            assert!(lock.try_acquire("a").await.unwrap().is_none());
            let elsewhere = other(&MemoryLock::new());
            drop(elsewhere.acquire("a").await.unwrap());
            // Another task waits as it should.
            let waiter = tokio::spawn({
                let lock = lock.clone();
                async move { lock.key("a").wait(Duration::from_secs(1)).acquire().await.map(drop) }
            });
            assert!(waiter.await.unwrap().unwrap_err().is_contended());
        })
        .await
        .unwrap();
    })
    .await
    .unwrap();
    // Not certain: without renewal the lease ends by itself.
    let short = lock.key("c").renew(Renew::Off).ttl(Duration::from_secs(1)).on_lost(OnLost::Finish);
    let again = short.synchronized(async { lock.acquire("c").await.is_ok() });
    assert!(timeout(Duration::from_secs(5), again).await.unwrap().unwrap());
    testing::until_quiet(&lock).await;
    assert!(store.is_empty() && lock.stats() == Stats::default());
}

#[tokio::test]
async fn scopes() {
    let (a, b) = (other(&MemoryLock::named("scope-a")), other(&MemoryLock::named("scope-b")));
    let _in_b = b.acquire("job").await.unwrap();
    scope(a, async {
        drop(default_locker().unwrap().acquire("job").await.unwrap());
        let inner = scope(b, async { default_locker().unwrap().try_acquire("job").await.unwrap().is_none() }).await;
        assert!(inner);
        assert!(default_locker().unwrap().try_acquire("job").await.unwrap().is_some());
    })
    .await;
}

/// In a process of its own, as it changes the process.
#[test]
fn the_default_is_installed_once() {
    const CHILD: &str = "TASKLOCK_TEST_DEFAULT";
    if std::env::var_os(CHILD).is_none() {
        let this = std::env::current_exe().unwrap();
        let status = std::process::Command::new(this)
            .args(["--exact", "the_default_is_installed_once"])
            .env(CHILD, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    Runtime::new().unwrap().block_on(async {
        assert!(matches!(default_locker(), Err(LockError::NoLocker)));
        install_default(other(&MemoryLock::new())).unwrap();
        assert!(default_locker().is_ok());
        let again = install_default(other(&MemoryLock::new()));
        assert!(matches!(again, Err(LockError::DefaultInstalled)));
    });
}

#[test]
fn blocking_threads_exclude_each_other() {
    let lock = blocking::connect("memory:?ttl=5s").unwrap();
    let counter = std::sync::Mutex::new(0_u32);
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for _ in 0..50 {
                    let seen = lock.synchronized("job", || {
                        assert!(current().is_some());
                        let mut counter = counter.try_lock().expect("alone");
                        *counter += 1;
                        *counter
                    });
                    assert!(seen.unwrap() <= 200);
                }
            });
        }
    });
    assert_eq!(*counter.lock().unwrap(), 200);
    let guard = lock.acquire("job").unwrap();
    assert!(lock.try_acquire("job").unwrap().is_none());
    let error = lock.key("job").with(|key| key.wait(Duration::from_millis(10))).acquire().unwrap_err();
    assert!(error.is_contended());
    let skipped = lock.key("job").synchronized_if_free_with(|_| ()).unwrap();
    assert!(skipped.is_none());
    // The thread behind it lives as long as any guard.
    drop(lock);
    assert!(guard.is_held());
    assert_eq!(guard.release().unwrap(), tasklock::ReleaseOutcome::Released);
}

/// The thread behind them goes only when what was dropped is released.
#[test]
fn blocking_guards_dropped_last_are_released() {
    let store = MemoryLock::new();
    let slow = blocking::Locker::start(async {
        let (backend, faults) = testing::Faulty::new(store.clone());
        faults.always(testing::Op::Release, testing::Fault::DelayRequest(Duration::from_millis(50)));
        Locker::new(backend)
    });
    let slow = slow.unwrap();
    let guard = slow.acquire("job").unwrap();
    drop(slow);
    drop(guard);
    let patient = blocking::Locker::start(async { Locker::new(store.clone()) }).unwrap();
    let waited = patient.key("job").with(|key| key.wait(Duration::from_secs(10))).acquire();
    assert!(waited.is_ok(), "left to expire: {waited:?}");
}

#[test]
fn blocking_view_of_a_locker() {
    let runtime = Runtime::new().unwrap();
    let lock = runtime.block_on(async { other(&MemoryLock::new()) });
    let view = lock.blocking();
    let error = view.synchronized("job", || view.acquire("job").unwrap_err()).unwrap();
    assert!(matches!(error, LockError::WouldDeadlock { .. }), "{error}");
    drop(view.acquire("job").unwrap());
    assert_eq!(view.shutdown().unwrap().lost, 0);
    assert!(matches!(view.acquire("job"), Err(LockError::ShutDown)));
    drop(runtime);
    assert!(matches!(view.acquire("job"), Err(LockError::ShutDown)));
}

#[tokio::test]
async fn futures_and_guards_may_move() {
    fn sendable<T: Send + 'static>(value: T) -> T {
        value
    }
    fn shareable<T: Send + Sync + 'static + Clone>(_: &T) {}
    let lock = other(&MemoryLock::new());
    shareable(&lock);
    let guard = sendable(lock.acquire("job").await.unwrap());
    shareable(guard.lease());
    let lock = sendable(lock.key("other").wait(Wait::Try));
    shareable(&lock);
    tokio::spawn(async move {
        let n = lock.synchronized(async { 7 }).await.unwrap();
        guard.release().await.unwrap();
        n
    })
    .await
    .unwrap();
}
