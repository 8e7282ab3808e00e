//! Runtimes that go, have no timers, or are not there: a locker brings its own.

use std::{cell::RefCell, future::Future as _, sync::mpsc, time::Duration};

use tasklock::{
    Guard, Locker,
    testing::{Fault, Op, until_quiet},
};
use tasklock_tests::faulty;
use tokio::runtime::{Builder, Runtime};

const S: fn(u64) -> Duration = Duration::from_secs;
const MS: fn(u64) -> Duration = Duration::from_millis;

fn ends_within<T: Send + 'static>(limit: Duration, test: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = done.send(test());
    });
    is_done.recv_timeout(limit).ok()
}

/// Awaited in a runtime that has no timers: the locker's own has.
#[test]
fn awaited_in_a_runtime_without_timers() {
    let runtime = Runtime::new().unwrap();
    let (lock, _, _store) = runtime.block_on(async { faulty() });
    let bare = Builder::new_current_thread().build().unwrap();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bare.block_on(lock.acquire("job")).is_ok()));
    assert!(matches!(outcome, Ok(true)), "panicked");
}

/// A call begun in a runtime that goes away is driven to its end by the locker's own, timers and all.
#[test]
fn a_call_from_a_runtime_that_goes_is_driven_to_its_end() {
    for fault in [Fault::DelayReply(MS(200)), Fault::DelayRequest(MS(200))] {
        let runtime = Runtime::new().unwrap();
        let (lock, faults, store) = runtime.block_on(async { faulty() });
        faults.next(Op::TryAcquire, fault);
        let short = Runtime::new().unwrap();
        short.spawn({
            let lock = lock.clone();
            async move { lock.acquire("job").await.map(std::mem::forget) }
        });
        while faults.count(Op::TryAcquire) == 0 {
            std::thread::yield_now();
        }
        drop(short);
        runtime.block_on(until_quiet(&lock));
        assert!(store.is_empty(), "{fault:?}: granted to nobody, and left to expire: {store:?}");
    }
}

/// The same for a release.
#[test]
fn a_release_from_a_runtime_that_goes_is_driven_to_its_end() {
    let runtime = Runtime::new().unwrap();
    let (lock, faults, store) = runtime.block_on(async { faulty() });
    faults.next(Op::Release, Fault::DelayRequest(MS(200)));
    let guard = runtime.block_on(lock.acquire("job")).unwrap();
    let short = Runtime::new().unwrap();
    short.spawn(async move { guard.release().await.map(drop) });
    while faults.count(Op::Release) == 0 {
        std::thread::yield_now();
    }
    drop(short);
    runtime.block_on(until_quiet(&lock));
    assert!(store.is_empty(), "never released: {store:?}");
}

/// "once its own is gone every call says ShutDown and nothing hangs": nor panics.
#[test]
fn a_release_awaited_elsewhere_when_the_runtime_goes() {
    let runtime = Runtime::new().unwrap();
    let (lock, faults, _store) = runtime.block_on(async { faulty() });
    faults.always(Op::Release, Fault::Hang);
    let guard = runtime.block_on(lock.acquire("job")).unwrap();
    let releasing = std::thread::spawn(move || futures_executor::block_on(guard.release()).map(drop));
    while faults.count(Op::Release) == 0 {
        std::thread::yield_now();
    }
    drop(runtime);
    let outcome = ends_within(S(20), move || releasing.join().is_ok());
    assert_eq!(outcome, Some(true), "panicked (None: hangs)");
}

#[test]
fn an_extension_awaited_elsewhere_when_the_runtime_goes() {
    let runtime = Runtime::new().unwrap();
    let (lock, faults, _store) = runtime.block_on(async { faulty() });
    faults.always(Op::Renew, Fault::Hang);
    let guard = runtime.block_on(lock.acquire("job")).unwrap();
    let extending = std::thread::spawn(move || futures_executor::block_on(guard.extend(S(30))).is_err());
    while faults.count(Op::Renew) == 0 {
        std::thread::yield_now();
    }
    drop(runtime);
    let outcome = ends_within(S(20), move || extending.join().is_ok());
    assert_eq!(outcome, Some(true), "panicked (None: hangs)");
}

thread_local! {
    static KEPT: RefCell<Option<Guard>> = const { RefCell::new(None) };
}

/// Control: dropped in a thread-local destructor.
#[test]
fn dropped_in_a_thread_local_destructor() {
    let runtime = Runtime::new().unwrap();
    let (lock, _, store) = runtime.block_on(async { faulty() });
    let guard = runtime.block_on(lock.acquire("job")).unwrap();
    std::thread::spawn(move || {
        let _ = tracing::enabled!(tracing::Level::WARN);
        KEPT.set(Some(guard));
    })
    .join()
    .unwrap();
    runtime.block_on(until_quiet(&lock));
    assert!(store.is_empty());
}

struct AcquiresInDrop(Locker, mpsc::Sender<bool>);

impl Drop for AcquiresInDrop {
    fn drop(&mut self) {
        let lock = self.0.clone();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let mut acquire = std::pin::pin!(lock.acquire("job"));
            let _ = acquire.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        }));
        let _ = self.1.send(outcome.is_ok());
    }
}

thread_local! {
    static LATE: RefCell<Option<AcquiresInDrop>> = const { RefCell::new(None) };
}

/// Acquired in one: no panic (which would abort the process).
#[test]
fn acquired_in_a_thread_local_destructor() {
    let runtime = Runtime::new().unwrap();
    let (lock, _, _store) = runtime.block_on(async { faulty() });
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        LATE.set(Some(AcquiresInDrop(lock.clone(), tell)));
        drop(futures_executor::block_on(lock.acquire("first")).unwrap());
    })
    .join()
    .unwrap();
    assert!(told.recv().unwrap(), "panicked");
}
