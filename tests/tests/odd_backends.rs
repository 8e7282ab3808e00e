//! Backends, observers and wakers of others that misbehave: they harm nobody else.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Wake as TaskWake, Waker},
    time::Duration,
};

use tasklock::{
    AsyncLock, Attempt, Busy, Capabilities, Claim, Event, Key, KeyWriter, LockKey, Locker, MemoryLock, Observed,
    Observer, Powers, Released, Renew, Renewed, Request, State, StepResult, Validity, Wake, WakeBy,
};
use tasklock_tests::other;
use tokio::{runtime::Builder, time::timeout};

const S: fn(u64) -> Duration = Duration::from_secs;
const MS: fn(u64) -> Duration = Duration::from_millis;

type Hook = Arc<dyn Fn() + Send + Sync>;

/// A memory store without its fast path, and with a part that goes wrong.
#[derive(Clone)]
struct Odd {
    inner: MemoryLock,
    capabilities: Capabilities,
    wrong: Wrong,
    renewals: Arc<AtomicUsize>,
    attempts: Arc<AtomicUsize>,
    log: Arc<Mutex<Vec<&'static str>>>,
    hook: Option<Hook>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Wrong {
    Nothing,
    BusyZero,
    EventStorm,
    RenewPanicsOnce,
    EventPanics,
    AcquirePanicsAfterGrant,
    GrantsInThePast,
    CloseHangs,
    FewerRenewals,
}

fn odd(wrong: Wrong) -> Odd {
    let inner = MemoryLock::new();
    let capabilities = inner.capabilities().clone();
    Odd {
        inner,
        capabilities,
        wrong,
        renewals: Arc::default(),
        attempts: Arc::default(),
        log: Arc::default(),
        hook: None,
    }
}

impl AsyncLock for Odd {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    async fn try_acquire(&self, request: &Request) -> StepResult<Attempt> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        if let Some(hook) = &self.hook {
            hook();
        }
        match self.wrong {
            Wrong::BusyZero => {
                if self.attempts.load(Ordering::SeqCst) > 200_000 {
                    panic!("200,000 attempts without a pause");
                }
                Ok(Attempt::Busy(Busy::new(None, Some(Duration::ZERO))))
            }
            Wrong::GrantsInThePast => {
                if self.attempts.load(Ordering::SeqCst) > 20_000 {
                    panic!("20,000 attempts without a pause");
                }
                let Attempt::Granted(mut grant) = self.inner.try_acquire(request).await? else { panic!() };
                grant.validity = Validity::Until(tasklock::Mono::from_nanos(1));
                Ok(Attempt::Granted(grant))
            }
            Wrong::AcquirePanicsAfterGrant => {
                let _ = self.inner.try_acquire(request).await;
                panic!("the driver has a bug")
            }
            _ => self.inner.try_acquire(request).await,
        }
    }
    async fn wait(&self, request: &Request) -> StepResult<Wake> {
        self.inner.wait(request).await
    }
    async fn renew(&self, claims: &[Claim]) -> Vec<StepResult<Renewed>> {
        let n = self.renewals.fetch_add(1, Ordering::SeqCst);
        if self.wrong == Wrong::RenewPanicsOnce && n == 0 {
            panic!("the driver has a bug");
        }
        let mut all = self.inner.renew(claims).await;
        if self.wrong == Wrong::FewerRenewals {
            all.truncate(1);
        }
        all
    }
    async fn release(&self, claim: &Claim) -> StepResult<Released> {
        tokio::time::sleep(MS(1)).await;
        self.log.lock().unwrap().push("release");
        self.inner.release(claim).await
    }
    async fn inspect(&self, key: &Key) -> StepResult<State> {
        self.inner.inspect(key).await
    }
    async fn event(&self) -> Event {
        match self.wrong {
            Wrong::EventStorm => Event::Recheck,
            Wrong::EventPanics => panic!("the driver has a bug"),
            _ => std::future::pending().await,
        }
    }
    async fn ping(&self) -> StepResult<()> {
        Ok(())
    }
    async fn close(&self) {
        self.log.lock().unwrap().push("close");
        if self.wrong == Wrong::CloseHangs {
            std::future::pending::<()>().await;
        }
    }
    fn powers(&self) -> Powers<'_> {
        self.inner.powers()
    }
}

/// Runs `test` on a thread of its own; false if it has not ended after so long.
fn ends_within(limit: Duration, test: impl FnOnce() + Send + 'static) -> bool {
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    is_done.recv_timeout(limit).is_ok()
}

fn on_one_thread<F: Future>(test: F) -> F::Output {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// "ask again after nothing": the store is asked without a pause, within one poll, so that not even the caller's own
/// time bound is looked at.
#[test]
fn a_hint_of_zero_is_no_spin() {
    for wake in [WakeBy::Push, WakeBy::Poll] {
        let mut backend = odd(Wrong::BusyZero);
        backend.capabilities = backend.capabilities.clone().wake(wake);
        let attempts = backend.attempts.clone();
        let ended = ends_within(S(10), move || {
            on_one_thread(async {
                let lock = Locker::new(backend).unwrap();
                let _ = lock.key("job").wait(MS(50)).acquire().await;
            });
        });
        assert!(ended && attempts.load(Ordering::SeqCst) < 1_000, "{wake:?}: asked {attempts:?} times in 50 ms");
    }
}

/// A grant that is over on arrival, always.
#[test]
fn grants_in_the_past_are_no_spin() {
    let backend = odd(Wrong::GrantsInThePast);
    let attempts = backend.attempts.clone();
    let ended = ends_within(S(10), move || {
        on_one_thread(async {
            let lock = Locker::new(backend).unwrap();
            let _ = lock.key("job").wait(MS(50)).acquire().await;
        });
    });
    assert!(ended && attempts.load(Ordering::SeqCst) < 1_000, "asked {attempts:?} times in 50 ms");
}

/// Events without end do not keep the thread.
#[test]
fn a_storm_of_events_leaves_others_their_turn() {
    let ended = ends_within(S(10), || {
        on_one_thread(async {
            let lock = Locker::new(odd(Wrong::EventStorm)).unwrap();
            lock.acquire("job").await.unwrap().release().await.unwrap();
        });
    });
    assert!(ended, "the keeper never lets another task run");
}

/// One panic in a renewal is one failed renewal.
#[tokio::test(start_paused = true)]
async fn a_panic_in_one_renewal_does_not_end_all() {
    let lock = Locker::new(odd(Wrong::RenewPanicsOnce)).unwrap();
    let guards = [lock.acquire("a").await.unwrap(), lock.acquire("b").await.unwrap()];
    tokio::time::sleep(S(60)).await;
    assert!(guards.iter().all(|g| g.is_held()), "never renewed again after one panic");
}

/// Control: fewer answers than claims.
#[tokio::test(start_paused = true)]
async fn fewer_answers_than_claims() {
    let lock = Locker::new(odd(Wrong::FewerRenewals)).unwrap();
    let guards = [lock.acquire("a").await.unwrap(), lock.acquire("b").await.unwrap()];
    tokio::time::sleep(S(60)).await;
    assert!(guards.iter().any(|g| g.is_held()));
}

/// A panic in `event` does not take all locks of the process away.
#[tokio::test(start_paused = true)]
async fn a_panic_in_event_does_not_end_the_locker() {
    let lock = Locker::new(odd(Wrong::EventPanics)).unwrap();
    tokio::time::sleep(S(1)).await;
    let outcome = lock.acquire("job").await;
    assert!(outcome.is_ok(), "{outcome:?}");
}

struct Panics;

impl Observer for Panics {
    fn observe(&self, event: &Observed<'_>) {
        if matches!(event, Observed::Renewed { .. } | Observed::Lost { .. }) {
            panic!("a metrics library has a bug");
        }
    }
}

/// Control and finding: an observer that panics takes neither the process nor the other leases with it.
#[test]
fn an_observer_that_panics() {
    const CHILD: &str = "TASKLOCK_FOUND_OBSERVER";
    if std::env::var_os(CHILD).is_some() {
        Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
            let lock = Locker::builder(odd(Wrong::Nothing)).observer(Panics).build().unwrap();
            let keep = lock.acquire("keep").await.unwrap();
            let expire = lock.key("expire").renew(Renew::Off).ttl(S(1)).acquire().await.unwrap();
            tokio::time::sleep(S(2)).await;
            assert!(!expire.is_held());
            assert!(keep.is_held(), "all locks are lost, as one expired: {:?}", keep.check());
            tokio::time::sleep(S(60)).await;
            assert!(keep.is_held(), "never renewed again");
        });
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_observer_that_panics", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{:?}\n{text}", output.status);
}

/// A backend that panics below someone who catches panics (tower's CatchPanic): what it may have taken is given back.
#[tokio::test(start_paused = true)]
async fn a_caught_panic_in_an_attempt_leaves_nothing() {
    let backend = odd(Wrong::AcquirePanicsAfterGrant);
    let store = backend.inner.clone();
    let lock = Locker::new(backend).unwrap();
    {
        let mut acquire = Box::pin(lock.acquire("job"));
        std::future::poll_fn(|cx| {
            let caught = std::panic::catch_unwind(AssertUnwindSafe(|| acquire.as_mut().poll(cx)));
            if caught.is_err() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        // Dropped here, when nothing panics any more.
    }
    tokio::time::sleep(S(1)).await;
    assert!(store.is_empty(), "left to expire");
}

/// Nothing is acquired once `shutdown` has returned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lock_is_granted_across_a_shutdown() {
    let slot: Arc<Mutex<Option<Locker>>> = Arc::default();
    let mut backend = odd(Wrong::Nothing);
    backend.hook = Some(Arc::new({
        let slot = slot.clone();
        move || {
            // Another thread shuts down while this attempt is under way.
            let lock = slot.lock().unwrap().take().unwrap();
            std::thread::spawn(move || futures_executor::block_on(lock.shutdown())).join().unwrap();
        }
    }));
    let lock = Locker::new(backend).unwrap();
    *slot.lock().unwrap() = Some(lock.clone());
    let outcome = lock.acquire("job").await;
    assert!(
        outcome.as_ref().is_err() || !outcome.as_ref().unwrap().is_held(),
        "held after shutdown: {outcome:?} {:?}",
        lock.stats()
    );
}

/// Two shut down at once: the backend is closed after the last release for both.
#[tokio::test(start_paused = true)]
async fn a_second_shutdown_waits_for_the_first() {
    let backend = odd(Wrong::Nothing);
    let log = backend.log.clone();
    let lock = Locker::new(backend).unwrap();
    let guard = lock.acquire("job").await.unwrap();
    let user = tokio::spawn(async move {
        guard.lost().await;
        tokio::time::sleep(S(1)).await;
        drop(guard);
    });
    let (_, _) = tokio::join!(lock.shutdown(), lock.shutdown());
    user.await.unwrap();
    drop(lock);
    tokio::time::sleep(S(1)).await;
    let log = log.lock().unwrap().clone();
    assert_eq!(log, ["release", "close"], "closed before the last release, and more than once");
}

/// `close` that hangs.
#[tokio::test(start_paused = true)]
async fn shutdown_does_not_hang_on_close() {
    let lock = Locker::new(odd(Wrong::CloseHangs)).unwrap();
    assert!(timeout(S(600), lock.shutdown()).await.is_ok());
}

/// Who waits when the locker is shut down has left the store's queue when `shutdown` returns.
#[test]
fn shutdown_takes_its_waiters_out_of_the_queue() {
    on_one_thread(async {
        let backend = odd(Wrong::Nothing);
        let there = other(&backend.inner);
        let lock = Locker::new(backend).unwrap();
        let _held = there.acquire("job").await.unwrap();
        let _waiter = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire("job").await.map(drop) }
        });
        while there.inspect("job").await.unwrap().waiters != Some(1) {
            tokio::time::sleep(MS(1)).await;
        }
        lock.shutdown().await;
        let waiters = there.inspect("job").await.unwrap().waiters;
        assert_eq!(waiters, Some(0), "shutdown returned, and its waiter still stands in the queue");
    });
}

/// A waker is foreign code: one that is replaced may drop a task, and with it a guard of this very store.
#[test]
fn a_replaced_waker_is_dropped_outside_of_the_store() {
    struct Curious(MemoryLock);
    impl TaskWake for Curious {
        fn wake(self: Arc<Self>) {}
    }
    impl Drop for Curious {
        fn drop(&mut self) {
            let _ = self.0.len(); // or: drops a guard
        }
    }
    let ended = ends_within(S(5), || {
        on_one_thread(async {
            let store = MemoryLock::new();
            let lock = other(&store);
            let _held = lock.acquire("job").await.unwrap();
            let (owner, now) = (tasklock::Owner::named("x"), tasklock::Clock::current().now());
            let key = Key::new("tasklock:job").unwrap();
            let ttl = tasklock::Ttl::For(S(30));
            let request = Request::new(key, tasklock::Nonce::fresh(), ttl, tasklock::Intent::Wait, owner, now);
            assert!(matches!(store.try_acquire(&request).await, Ok(Attempt::Busy(_))));
            let mut wait = Box::pin(store.wait(&request));
            let first = Waker::from(Arc::new(Curious(store.clone())));
            assert!(wait.as_mut().poll(&mut Context::from_waker(&first)).is_pending());
            drop(first);
            // The future moved to another task.
            assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        });
    });
    assert!(ended, "deadlock: the old waker is dropped under the shard's lock");
}

/// The same in line: one that is replaced may drop the task in front, whose place goes to the very one it belongs to.
#[test]
fn a_replaced_waker_is_dropped_outside_of_the_line() {
    type Front = Pin<Box<dyn Future<Output = ()> + Send>>;
    struct Owner {
        _front: Mutex<Front>,
    }
    impl TaskWake for Owner {
        fn wake(self: Arc<Self>) {}
    }
    let ended = ends_within(S(5), || {
        on_one_thread(async {
            let backend = odd(Wrong::Nothing);
            let _held = other(&backend.inner).acquire("job").await.unwrap();
            let lock = Locker::new(backend).unwrap();
            let acquire = || -> Front {
                let lock = lock.clone();
                Box::pin(async move { drop(lock.acquire("job").await) })
            };
            let (mut front, mut behind) = (acquire(), acquire());
            assert!(front.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            let owner = Waker::from(Arc::new(Owner { _front: Mutex::new(front) }));
            assert!(behind.as_mut().poll(&mut Context::from_waker(&owner)).is_pending());
            drop(owner);
            assert!(behind.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            // Its turn, for nobody is in front any more.
            while lock.inspect("job").await.unwrap().waiters != Some(1) {
                tokio::time::sleep(MS(1)).await;
                let _ = behind.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            }
        });
    });
    assert!(ended, "deadlock: the old waker is dropped under the lock of its place");
}

struct Pair(&'static str, &'static str);

impl LockKey for Pair {
    fn write_key(&self, out: &mut KeyWriter<'_>) {
        out.value(self.0);
        out.value(self.1);
    }
}

/// A hand-written `LockKey` with two values.
#[test]
fn two_values_do_not_run_into_each_other() {
    let key = |pair| tasklock::__private::KeyBuilder::new().param("p", &pair).finish().unwrap();
    assert_ne!(key(Pair("ab", "c")), key(Pair("a", "bc")));
}
