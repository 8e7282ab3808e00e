//! What the tests of this folder share.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, Once, PoisonError},
};

use tasklock::{
    AsyncLock, Attempt, Capabilities, Claim, Key, Locker, LossReason, MemoryLock, Observed, Observer, Powers, Released,
    Renewed, Request, Scope, State, StepResult, WakeBy,
    testing::{Faults, Faulty},
};
use tracing_subscriber::layer::SubscriberExt as _;

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
