//! What a locker, its guards and its keeper share; and how a hold ends.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::TaskTracker;

use crate::{
    BackendError, Clock, FencingToken, Guard, Key, LockError, LossReason, Mono, Nonce, Observed, Observer,
    ReleaseOutcome, Released,
    core_ref::CoreRef,
    erased::DynLock,
    hold::{Hold, Phase},
    key::Prefix,
    lock::{BoxFuture, StepResult},
    nursery::Nursery,
    options::Options,
    queue::Queue,
    reentrant::Owners,
    registry::Registry,
    release::{self, Driven},
    runtime::InRuntime,
    shards::lock,
};

/// Everything but the settings: what outlives the last locker until its releases are through.
pub(crate) struct Shared {
    pub(crate) backend: Arc<dyn DynLock>,
    pub(crate) clock: Clock,
    pub(crate) registry: Registry,
    pub(crate) nursery: Nursery,
    pub(crate) queue: Option<Queue>,
    pub(crate) owners: Owners,
    /// Releases, and calls whose callers are gone. Counts them, and waits for them at shutdown.
    pub(crate) tasks: TaskTracker,
    /// Acquisitions that wait, and calls that go on in the background once their callers go: a shutdown lets them leave.
    pub(crate) waiters: TaskTracker,
    /// Losses told of nonces that hold nothing, as far as is known yet.
    pub(crate) early: EarlyLosses,
    /// Whether the backend is closed; locked by whoever drains.
    pub(crate) drained: tokio::sync::Mutex<bool>,
    pub(crate) signal: watch::Sender<Signal>,
    pub(crate) closed: AtomicBool,
    /// The runtime is gone, and its timers with it.
    pub(crate) gone: AtomicBool,
    pub(crate) runtime: Handle,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) redact: bool,
}

/// What every waiter listens to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Signal {
    /// Raised when notifications may have been missed.
    pub(crate) rechecks: u64,
    /// Nothing more is acquired.
    pub(crate) closed: bool,
}

/// A locker's settings over [`Shared`]. Held by lockers and guards.
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    pub(crate) prefix: Prefix,
    pub(crate) options: Options,
    /// Dropped with the last locker and guard; the keeper sees it, lets the releases finish and ends.
    pub(crate) _alive: oneshot::Sender<Infallible>,
}

/// What a hold that is given back comes to.
pub(crate) enum GivenBack {
    Now(ReleaseOutcome),
    /// When this has ended, which it does, whoever waits for it.
    Later(EndOfHold),
}

pub(crate) type EndOfHold = Driven<StepResult<ReleaseOutcome>>;

/// How long guards and waiters have to go at a shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// How long a question to the store may take.
pub(crate) const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// How long a release is waited for before it goes on in the background.
pub(crate) const RELEASE_WAIT: Duration = Duration::from_secs(5);

impl Shared {
    pub(crate) fn backend_name(&self) -> &'static str {
        self.backend.capabilities().backend
    }

    pub(crate) fn check_open(&self) -> Result<(), LockError> {
        if self.closed.load(Ordering::Acquire) { Err(LockError::ShutDown) } else { Ok(()) }
    }

    /// Gives a hold back: at once if it was lost already, is handed on, or the backend answers at once; else in the background,
    /// if what this returns is dropped. On whatever thread.
    pub(crate) fn give_back(self: &Arc<Self>, hold: &Arc<Hold>) -> GivenBack {
        // A shutdown that does not find it among those that are held waits for it here.
        let _counted = self.tasks.token();
        if !self.begin_release(hold) {
            self.clean_up_after_loss(hold);
            return GivenBack::Now(ReleaseOutcome::AlreadyLost);
        }
        self.hand_on(hold).unwrap_or_else(|| self.let_go(hold))
    }

    /// Waits until the store has an ended hold back, within bounds; after that it goes on in the background.
    pub(crate) async fn wait_for(end: EndOfHold) -> Result<ReleaseOutcome, LockError> {
        let late =
            |_| BackendError::unknown(format!("not confirmed within {RELEASE_WAIT:?}; goes on in the background"));
        Ok(timeout(RELEASE_WAIT, end).await.map_err(late)??)
    }

    /// Ends a hold as lost and tells its holder. It stays at the store until its guard is dropped or the store lets go:
    /// what runs under it may not have noticed yet. Whether it was held until now.
    pub(crate) fn lose(self: &Arc<Self>, hold: &Arc<Hold>, reason: LossReason) -> bool {
        let held = hold.end(Phase::Lost(reason));
        if held {
            self.ended_as_lost(hold, reason);
        }
        held
    }

    fn ended_as_lost(&self, hold: &Arc<Hold>, reason: LossReason) {
        self.registry.remove(hold);
        if hold.reserve().is_some() {
            self.leave_line(&hold.claim.key, hold.claim.nonce);
        }
        let held = self.clock.now().since(hold.acquired);
        let (key, token, backend) = (self.shown(&hold.claim.key), hold.token().get(), self.backend_name());
        tracing::warn!(target: "tasklock", %key, backend, token, held = ?held, "lock lost: {reason}");
        self.observe(|| Observed::Lost { key: &hold.claim.key, held, reason });
    }

    /// [`lose`](Shared::lose) for what a backend knows by its nonce.
    pub(crate) fn lose_nonce(self: &Arc<Self>, nonce: Nonce, reason: LossReason) {
        self.early.note(nonce, reason, self.clock.now());
        for hold in self.holds(|hold| hold.claim.nonce == nonce) {
            self.lose(&hold, reason);
        }
    }

    /// A question to the store, which is answered or fails in bounded time.
    pub(crate) async fn ask<T>(
        self: &Arc<Self>,
        question: impl Future<Output = StepResult<T>> + Send,
    ) -> Result<T, LockError> {
        self.ask_for(ANSWER_WAIT, question).await
    }

    /// The same, of which the store may have more to do.
    pub(crate) async fn ask_for<T>(
        self: &Arc<Self>,
        bound: Duration,
        question: impl Future<Output = StepResult<T>> + Send,
    ) -> Result<T, LockError> {
        self.check_open()?;
        let bounded = async { Ok(timeout(bound, question).await) };
        match InRuntime::new(self, bounded).await? {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(BackendError::unknown(format!("the store did not answer within {bound:?}")).into()),
        }
    }

    /// Lets what is `leaving` leave, within bounds, waits for every release, then closes the backend. Once: whoever comes
    /// second waits for the first.
    pub(crate) async fn drain(&self, leaving: impl Future<Output = ()> + Send) {
        let mut drained = self.drained.lock().await;
        self.waiters.close();
        self.tasks.close();
        let grace = Instant::now() + SHUTDOWN_GRACE;
        let _ = timeout_at(grace, leaving).await;
        // What ends in the background may have left a release to its caller, and a caller who goes leaves it to the background.
        loop {
            self.tasks.wait().await;
            let _ = timeout_at(grace, self.waiters.wait()).await;
            if self.tasks.is_empty() {
                break;
            }
        }
        if !std::mem::replace(&mut *drained, true) && timeout(ANSWER_WAIT, self.backend.close()).await.is_err() {
            tracing::warn!(target: "tasklock", backend = self.backend_name(), "backend not closed within {ANSWER_WAIT:?}");
        }
    }

    /// Drives a future to its end, whoever stops waiting for it. If the runtime is gone the future is dropped, and
    /// says so itself.
    pub(crate) fn drive(&self, future: BoxFuture<'static, ()>) {
        self.tasks.spawn_on(future, &self.runtime);
    }

    /// No more acquisitions; every hold is lost, but for those that are kept back while there is a runtime to renew them.
    /// These were.
    pub(crate) fn close(self: &Arc<Self>) -> Vec<Arc<Hold>> {
        // Whoever is kept back from here on sees it, or is seen below.
        self.closed.store(true, Ordering::SeqCst);
        self.signal.send_modify(|signal| signal.closed = true);
        if let Some(queue) = &self.queue {
            queue.close(self.clock.now());
        }
        self.grow_up_all();
        let gone = self.gone.load(Ordering::Acquire);
        let mut holds = self.registry.find(|hold| gone || !hold.is_kept_back());
        // Some may be given back just now.
        holds.retain(|hold| self.lose(hold, LossReason::ShutDown));
        holds
    }

    /// Says that a lock was acquired.
    pub(crate) fn acquired(&self, key: &Key, token: FencingToken, waited: Duration) {
        if tracing::enabled!(target: "tasklock", tracing::Level::DEBUG) {
            let (shown, backend) = (self.shown(key), self.backend_name());
            tracing::debug!(target: "tasklock", key = %shown, backend, token = token.get(), ?waited, "acquired");
        }
        self.observe(|| Observed::Acquired { key, waited, token });
    }

    pub(crate) fn released(&self, hold: &Hold, released: Released) -> ReleaseOutcome {
        let outcome = match released {
            Released::Released => ReleaseOutcome::Released,
            Released::NotOwner => ReleaseOutcome::AlreadyLost,
        };
        self.given_back(&hold.claim.key, hold.token(), hold.acquired, outcome);
        outcome
    }

    /// Says that a lock was given back.
    pub(crate) fn given_back(&self, key: &Key, token: FencingToken, acquired: Mono, outcome: ReleaseOutcome) {
        let held = || self.clock.now().since(acquired);
        if tracing::enabled!(target: "tasklock", tracing::Level::DEBUG) {
            let (shown, backend) = (self.shown(key), self.backend_name());
            tracing::debug!(target: "tasklock", key = %shown, backend, token = token.get(), held = ?held(), "{outcome:?}");
        }
        self.observe(|| Observed::Released { key, held: held(), outcome });
    }

    /// The holds that are wanted, of all there are.
    pub(crate) fn holds(&self, wanted: impl Fn(&Hold) -> bool) -> Vec<Arc<Hold>> {
        self.grow_up_all();
        self.registry.find(wanted)
    }

    /// How many locks are held.
    pub(crate) fn held(&self) -> usize {
        self.grow_up_all();
        self.registry.len()
    }

    /// Enters a hold among those that the keeper looks after.
    pub(crate) fn register(&self, hold: &Arc<Hold>) {
        let renew_at = match hold.period() {
            // Not at once: most holds are over by then, and this leaves time for more than one attempt.
            _ if hold.is_confirming() => hold.acquired.after(hold.deadline().since(hold.acquired) / 3),
            None => Mono::NEVER,
            // Up to a tenth earlier, so that leases taken together are not renewed together for ever.
            Some(period) => {
                let earlier = period / 10 / 1024 * hold.claim.nonce.jitter();
                Mono::from_nanos(hold.renewed().as_nanos().saturating_add(period - earlier))
            }
        };
        self.registry.insert(hold.clone(), renew_at);
    }

    /// Tells a hold what happened before it was registered.
    pub(crate) fn catch_up(self: &Arc<Self>, hold: &Arc<Hold>) {
        if self.closed.load(Ordering::Acquire) {
            self.lose(hold, LossReason::ShutDown);
        }
        if let Some(reason) = self.early.of(hold.claim.nonce, hold.acquired) {
            self.lose(hold, reason);
        }
    }

    pub(crate) fn observe<'a>(&self, event: impl FnOnce() -> Observed<'a>) {
        let Some(observer) = &self.observer else { return };
        let event = event();
        if catch_unwind(AssertUnwindSafe(|| observer.observe(&event))).is_err() {
            tracing::error!(target: "tasklock", backend = self.backend_name(), "the observer panicked");
        }
    }

    /// A key as logs show it.
    pub(crate) fn shown<'a>(&self, key: &'a Key) -> Shown<'a> {
        if self.redact { Shown::Hash(key.hash64()) } else { Shown::Name(key.name()) }
    }

    /// Whether the hold was still ours to give back. The clock is not asked: whether it was too late, the store knows.
    fn begin_release(&self, hold: &Arc<Hold>) -> bool {
        let ours = hold.end(Phase::Released);
        if ours {
            self.registry.remove(hold);
        }
        ours
    }

    /// The guard of a lost hold is gone: what is left of it at the store may go, too.
    fn clean_up_after_loss(self: &Arc<Self>, hold: &Arc<Hold>) {
        hold.let_go_by_guard();
        // A stolen one has nothing there, unless an attempt of its nonce is still to come.
        if hold.phase() != Phase::Lost(LossReason::Stolen) || hold.claim.unsettled {
            drop(self.let_go(hold));
        }
    }

    /// Takes an ended hold off the store, at once if the backend can.
    fn let_go(self: &Arc<Self>, hold: &Arc<Hold>) -> GivenBack {
        match self.release_now(hold) {
            Some(released) if hold.phase() == Phase::Released => GivenBack::Now(self.released(hold, released)),
            Some(_) => GivenBack::Now(ReleaseOutcome::AlreadyLost),
            None => {
                let end = Box::pin(release::hold(self.clone(), hold.clone()));
                GivenBack::Later(Driven::new(self.clone(), end))
            }
        }
    }

    fn release_now(&self, hold: &Hold) -> Option<Released> {
        if hold.is_idle() { self.backend.release_now(&hold.claim).and_then(StepResult::ok) } else { None }
    }
}

impl CoreRef {
    /// A grant turned into a guard.
    pub(crate) fn guard(&self, hold: Arc<Hold>) -> Guard {
        self.shared.register(&hold);
        self.shared.catch_up(&hold);
        Guard::new(self.clone(), hold)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("backend", &self.backend).finish_non_exhaustive()
    }
}

/// Losses told lately, for grants that arrive after them.
#[derive(Debug, Default)]
pub(crate) struct EarlyLosses {
    any: AtomicBool,
    told: Mutex<VecDeque<(Nonce, LossReason, Mono)>>,
}

impl EarlyLosses {
    const REMEMBERED: Duration = Duration::from_secs(60);
    const MOST: usize = 4096;

    fn note(&self, nonce: Nonce, reason: LossReason, now: Mono) {
        let mut told = lock(&self.told);
        if told.len() == Self::MOST {
            told.pop_front();
        }
        told.push_back((nonce, reason, now.after(Self::REMEMBERED)));
        self.any.store(true, Ordering::Release);
    }

    fn of(&self, nonce: Nonce, now: Mono) -> Option<LossReason> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let mut told = lock(&self.told);
        told.retain(|(_, _, until)| *until > now);
        self.any.store(!told.is_empty(), Ordering::Release);
        told.iter().find(|(told, _, _)| *told == nonce).map(|(_, reason, _)| *reason)
    }
}

/// A key's name, or if names are not to be shown, a number that stands for it in this process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shown<'a> {
    Name(&'a str),
    Hash(u64),
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shown::Name(name) => f.write_str(name),
            Shown::Hash(hash) => write!(f, "#{hash:016x}"),
        }
    }
}
