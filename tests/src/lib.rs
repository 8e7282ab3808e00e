//! What the tests of this folder share.

pub mod cancellation;
pub mod conformance;
pub mod line;
pub mod load;
pub mod local;
pub mod pools;
pub mod processes;
pub mod script;
pub mod servers;

use std::{
    cell::RefCell,
    fmt,
    future::pending,
    sync::{Arc, Mutex, Once, PoisonError},
    time::Duration,
};

use tasklock::{
    AsyncLock, Attempt, BackendError, Capabilities, Claim, Clock, Grant, Key, Locker, LossReason, MemoryLock, Observed,
    Observer, Powers, Released, Renewed, Request, Scope, State, StepResult, Validity, Wake, WakeBy,
    testing::{Faults, Faulty},
};
use tracing_subscriber::layer::SubscriberExt as _;

/// Every block of Rust in it is a test; so with the others.
#[cfg(doctest)]
#[doc = include_str!("../../docs/redis.md")]
pub mod redis_page {}

#[cfg(doctest)]
#[doc = include_str!("../../docs/redis-quorum.md")]
pub mod redis_quorum_page {}

#[cfg(doctest)]
#[doc = include_str!("../../docs/redis-topologies.md")]
pub mod redis_topologies_page {}

/// Waits until something is so, for a minute at most.
///
/// # Panics
///
/// If it is not so by then.
pub async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let so = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(servers::PATIENCE, so).await.is_ok(), "not so after a minute: {what}");
}

/// What the future gives, which is not to take more than a minute.
///
/// # Panics
///
/// If it does.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(servers::PATIENCE, future).await.unwrap_or_else(|_| panic!("not within a minute: {what}"))
}

/// A store and a locker whose calls to it go wrong on demand.
#[must_use]
pub fn faulty() -> (Locker, Faults, MemoryLock) {
    faulty_with(|builder| builder)
}

/// The same, set up.
///
/// # Panics
///
/// If the settings are wrong.
#[must_use]
pub fn faulty_with(
    set: impl FnOnce(tasklock::LockerBuilder) -> tasklock::LockerBuilder,
) -> (Locker, Faults, MemoryLock) {
    let store = MemoryLock::new();
    let (backend, faults) = Faulty::new(store.clone());
    (set(Locker::builder(backend)).build().expect("a locker"), faults, store)
}

/// A second client of a store, to see what others see.
///
/// # Panics
///
/// Outside a runtime.
#[must_use]
pub fn other(store: &MemoryLock) -> Locker {
    Locker::new(store.clone()).expect("a locker")
}

/// A store that cannot wake its waiters and has no queue: what a directory of files is.
#[derive(Debug)]
pub struct Polled {
    inner: MemoryLock,
    capabilities: Capabilities,
}

impl Polled {
    /// Over a store in memory.
    #[must_use]
    pub fn new(inner: MemoryLock) -> Self {
        let capabilities = inner.capabilities().clone().wake(WakeBy::Poll).fair(false).scope(Scope::Host);
        Polled { inner, capabilities }
    }
}

impl AsyncLock for Polled {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn try_acquire(&self, request: &Request) -> StepResult<Attempt> {
        let mut request = request.clone();
        request.intent = tasklock::Intent::Try;
        Ok(match self.inner.try_acquire(&request).await? {
            Attempt::Busy(busy) => Attempt::Busy(tasklock::Busy::new(busy.holder, None)),
            granted => granted,
        })
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<StepResult<Renewed>> {
        self.inner.renew(claims).await
    }

    async fn release(&self, claim: &Claim) -> StepResult<Released> {
        self.inner.release(claim).await
    }

    async fn inspect(&self, key: &Key) -> StepResult<State> {
        self.inner.inspect(key).await
    }

    async fn ping(&self) -> StepResult<()> {
        self.inner.ping().await
    }

    fn powers(&self) -> Powers<'_> {
        self.inner.powers()
    }
}

/// A backend that answers every attempt as it is told, grants every waiter a claim of one second, and holds nothing.
#[derive(Clone)]
pub struct Script(Arc<Lines>);

struct Lines {
    attempt: Box<dyn Fn(&Request) -> Attempt + Send + Sync>,
    push: bool,
    plan: Mutex<Plan>,
}

#[derive(Clone, Default)]
struct Plan {
    attempts: usize,
    renewals: usize,
    refuse: usize,
    hang: Option<String>,
    answer: Option<Renewed>,
}

impl Script {
    /// Attempts are answered like this.
    #[must_use]
    pub fn new(attempt: impl Fn(&Request) -> Attempt + Send + Sync + 'static) -> Self {
        Script(Arc::new(Lines { attempt: Box::new(attempt), push: true, plan: Mutex::default() }))
    }

    /// Waiters are granted nothing.
    ///
    /// # Panics
    ///
    /// If it is in use already.
    #[must_use]
    pub fn without_push(self) -> Self {
        let mut lines = Arc::into_inner(self.0).expect("not in use");
        lines.push = false;
        Script(Arc::new(lines))
    }

    /// The next so many calls to renew fail.
    pub fn refuse_renewals(&self, count: usize) {
        self.plan(|plan| plan.refuse = count);
    }

    /// Calls to renew this key, among others or alone, are never answered.
    pub fn hang_renewals_of(&self, key: &str) {
        self.plan(|plan| plan.hang = Some(key.to_owned()));
    }

    /// No call is left unanswered from here on.
    pub fn answer_all_renewals(&self) {
        self.plan(|plan| plan.hang = None);
    }

    /// Renewals are answered like this.
    pub fn answer_renewals(&self, answer: Renewed) {
        self.plan(|plan| plan.answer = Some(answer));
    }

    /// How many attempts were made.
    #[must_use]
    pub fn attempts(&self) -> usize {
        self.plan(|plan| plan.attempts)
    }

    /// How many calls to renew were made.
    #[must_use]
    pub fn renewals(&self) -> usize {
        self.plan(|plan| plan.renewals)
    }

    fn plan<T>(&self, with: impl FnOnce(&mut Plan) -> T) -> T {
        with(&mut self.0.plan.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsyncLock for Script {
    fn capabilities(&self) -> &Capabilities {
        const PUSH: &Capabilities = &Capabilities::new("script").wake(WakeBy::Push);
        PUSH
    }

    async fn try_acquire(&self, request: &Request) -> StepResult<Attempt> {
        self.plan(|plan| plan.attempts += 1);
        Ok((self.0.attempt)(request))
    }

    async fn wait(&self, _: &Request) -> StepResult<Wake> {
        if !self.0.push {
            return pending().await;
        }
        let until = Clock::current().now().after(Duration::from_secs(1));
        Ok(Wake::Granted(Grant::new(None, Validity::Until(until)).to_confirm()))
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<StepResult<Renewed>> {
        let plan = self.plan(|plan| {
            plan.renewals += 1;
            let before = plan.clone();
            plan.refuse = plan.refuse.saturating_sub(1);
            before
        });
        if plan.hang.is_some_and(|key| claims.iter().any(|claim| claim.key.as_str() == key)) {
            return pending().await;
        }
        if plan.refuse > 0 {
            return claims.iter().map(|_| Err(BackendError::transient("refused"))).collect();
        }
        let answer = plan.answer.unwrap_or(Renewed::held(Validity::Session, None));
        claims.iter().map(|_| Ok(answer)).collect()
    }

    async fn release(&self, _: &Claim) -> StepResult<Released> {
        Ok(Released::Released)
    }

    async fn inspect(&self, _: &Key) -> StepResult<State> {
        Ok(State::default())
    }

    async fn ping(&self) -> StepResult<()> {
        Ok(())
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").finish_non_exhaustive()
    }
}

/// Everything a locker tells its observer, as text.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    /// What was told so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many lines contain `part`.
    #[must_use]
    pub fn count(&self, part: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(part)).count()
    }

    fn add(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

impl Observer for Seen {
    fn observe(&self, event: &Observed<'_>) {
        self.add(match event {
            Observed::Waiting { key, .. } => format!("waiting {key}"),
            Observed::Acquired { key, .. } => format!("acquired {key}"),
            Observed::TimedOut { key, .. } => format!("timed out {key}"),
            Observed::Renewed { key, error } => format!("renewed {key} {}", error.is_none()),
            Observed::Lost { key, reason, .. } => format!("lost {key} {reason:?}"),
            Observed::Released { key, outcome, .. } => format!("released {key} {outcome:?}"),
            other => format!("{other:?}"),
        });
    }
}

thread_local! {
    static GATHERED: RefCell<Option<Seen>> = const { RefCell::new(None) };
}

/// Gathers the log of the current thread while the guard lives.
///
/// One subscriber for the whole process: those that come and go with tests that run side by side make tracing forget,
/// now and then, that anyone listens.
#[must_use]
pub fn logged() -> (Seen, Gathering) {
    static LISTEN: Once = Once::new();
    LISTEN.call_once(|| {
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Gather));
    });
    let seen = Seen::default();
    GATHERED.set(Some(seen.clone()));
    (seen, Gathering)
}

/// Ends the gathering when dropped.
#[derive(Debug)]
pub struct Gathering;

impl Drop for Gathering {
    fn drop(&mut self) {
        GATHERED.set(None);
    }
}

struct Gather;

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Gather {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!(" {}={value:?}", field.name()));
            }
        }
        let Some(seen) = GATHERED.with_borrow(Clone::clone) else { return };
        let mut text = Text(format!("{} {}", event.metadata().level(), event.metadata().target()));
        event.record(&mut text);
        seen.add(text.0);
    }
}

/// Whether this is [`tasklock::LockError::Lost`] for this reason.
#[must_use]
pub fn is_lost<T>(outcome: &Result<T, tasklock::LockError>, why: LossReason) -> bool {
    matches!(outcome, Err(tasklock::LockError::Lost { reason, .. }) if *reason == why)
}
