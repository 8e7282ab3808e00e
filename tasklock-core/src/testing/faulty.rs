//! A backend that misbehaves on demand.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::{Future, pending},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    AsyncLock, Attempt, BackendError, BoxFuture, Capabilities, Change, Claim, Event, Health, Key, LossReason, Many,
    Nonce, Page, PoolChange, Pools, Powers, Released, Renewed, Request, State, StepResult, Together, Values, Wake,
};

/// What can go wrong with one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It fails before it is sent.
    Refuse,
    /// It fails, and not in a way that passes.
    Fatal,
    /// It takes effect, and its reply is lost.
    LoseReply,
    /// It is sent so much later.
    DelayRequest(Duration),
    /// It takes effect, and its reply comes so much later.
    DelayReply(Duration),
    /// It reaches the store twice; the first answer is the one that comes back.
    Duplicate,
    /// The caller is told at once that the reply is lost; the request reaches the store so much later.
    Straggle(Duration),
    /// It never reaches the store and is never answered.
    Hang,
}

/// Which call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// [`AsyncLock::try_acquire`].
    TryAcquire,
    /// [`Many::try_acquire_all`](crate::Many::try_acquire_all).
    TryAcquireAll,
    /// [`AsyncLock::wait`]: only [`Fault::Refuse`] and [`Fault::Hang`] make sense.
    Wait,
    /// [`AsyncLock::renew`], and [`Values::update`](crate::Values::update).
    Renew,
    /// [`AsyncLock::release`].
    Release,
    /// [`AsyncLock::inspect`].
    Inspect,
    /// [`Pools::change`](crate::Pools::change).
    ChangePool,
    /// [`AsyncLock::ping`].
    Ping,
    /// [`Values::value`](crate::Values::value).
    Value,
    /// [`Values::change`](crate::Values::change).
    Change,
}

/// A call that was begun, in the order they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// Which.
    pub op: Op,
    /// For whom; a renewal of several is several calls, and so is an attempt at several.
    pub nonce: Nonce,
}

/// The switchboard of a [`Faulty`] backend. Cheap to clone.
#[derive(Clone, Default)]
pub struct Faults(Arc<Board>);

#[derive(Default)]
struct Board {
    plan: Mutex<Plan>,
    told: Notify,
}

#[derive(Default)]
struct Plan {
    next: HashMap<Op, VecDeque<Option<Fault>>>,
    always: HashMap<Op, Fault>,
    calls: Vec<Call>,
    reached: Vec<Call>,
    events: VecDeque<Event>,
}

impl Faults {
    /// The next call of this kind that has no fault planned yet goes wrong like this.
    pub fn next(&self, op: Op, fault: Fault) {
        self.plan().next.entry(op).or_default().push_back(Some(fault));
    }

    /// So many calls of this kind go well before the next planned fault.
    pub fn skip(&self, op: Op, calls: usize) {
        self.plan().next.entry(op).or_default().extend(std::iter::repeat_n(None, calls));
    }

    /// Every call of this kind goes wrong like this, after those planned.
    pub fn always(&self, op: Op, fault: Fault) {
        self.plan().always.insert(op, fault);
    }

    /// Everything goes well again.
    pub fn clear(&self) {
        let mut plan = self.plan();
        plan.next.clear();
        plan.always.clear();
    }

    /// The calls begun so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.plan().calls.clone()
    }

    /// The calls in the order in which they reached the store.
    #[must_use]
    pub fn reached(&self) -> Vec<Call> {
        self.plan().reached.clone()
    }

    /// How many calls of this kind were begun.
    #[must_use]
    pub fn count(&self, op: Op) -> usize {
        self.plan().calls.iter().filter(|call| call.op == op).count()
    }

    /// The backend says that this nonce has lost its hold.
    pub fn lose(&self, nonce: Nonce, reason: LossReason) {
        self.tell(Event::Lost(nonce, reason));
    }

    /// The backend says that notifications may have been missed.
    pub fn recheck(&self) {
        self.tell(Event::Recheck);
    }

    fn tell(&self, event: Event) {
        self.plan().events.push_back(event);
        self.0.told.notify_one();
    }

    fn begin(&self, op: Op, nonce: Option<Nonce>) -> Option<Fault> {
        let mut plan = self.plan();
        plan.calls.extend(nonce.map(|nonce| Call { op, nonce }));
        let planned = plan.next.get_mut(&op).and_then(VecDeque::pop_front);
        planned.unwrap_or_else(|| plan.always.get(&op).copied())
    }

    fn reach(&self, op: Op, nonces: impl IntoIterator<Item = Nonce>) {
        self.plan().reached.extend(nonces.into_iter().map(|nonce| Call { op, nonce }));
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("calls", &self.plan().calls.len()).finish_non_exhaustive()
    }
}

/// A backend around another, whose calls go wrong as its [`Faults`] say. It has no synchronous fast path: every call
/// is one that can go wrong.
///
/// # Examples
///
/// ```
/// use tasklock_core::{LockError, Locker, MemoryLock, testing::{Fault, Faulty, Op}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), LockError> {
/// let (backend, faults) = Faulty::new(MemoryLock::new());
/// let lock = Locker::new(backend)?;
/// faults.next(Op::TryAcquire, Fault::LoseReply);
/// let guard = lock.acquire("job:7").await?; // a lost reply costs no lock
/// assert_eq!(faults.count(Op::TryAcquire), 2);
/// # drop(guard);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Faulty<B> {
    inner: Arc<B>,
    faults: Faults,
}

impl<B: AsyncLock> Faulty<B> {
    /// Wraps a backend; the faults are planned through the handle.
    pub fn new(inner: B) -> (Self, Faults) {
        let faults = Faults::default();
        (Faulty { inner: Arc::new(inner), faults: faults.clone() }, faults)
    }

    async fn send<T, F>(&self, fault: Option<Fault>, call: impl Fn(Arc<B>) -> F + Send + Sync) -> StepResult<T>
    where
        F: Future<Output = StepResult<T>> + Send + 'static,
        T: Send + 'static,
    {
        let call = || call(self.inner.clone());
        let lost = || BackendError::unknown("injected: the reply is lost");
        match fault {
            None => call().await,
            Some(Fault::Refuse) => Err(BackendError::transient("injected: not sent")),
            Some(Fault::Fatal) => Err(BackendError::fatal("injected: refused for good")),
            Some(Fault::Hang) => pending().await,
            Some(Fault::LoseReply) => {
                let _ = call().await;
                Err(lost())
            }
            Some(Fault::DelayRequest(delay)) => {
                tokio::time::sleep(delay).await;
                call().await
            }
            Some(Fault::DelayReply(delay)) => {
                let reply = call().await;
                tokio::time::sleep(delay).await;
                reply
            }
            Some(Fault::Duplicate) => {
                let first = call().await;
                let _ = call().await;
                first
            }
            Some(Fault::Straggle(delay)) => {
                let late = call();
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let _ = late.await;
                });
                Err(lost())
            }
        }
    }
}

impl<B: AsyncLock> AsyncLock for Faulty<B> {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn try_acquire(&self, request: &Request) -> StepResult<Attempt> {
        let fault = self.faults.begin(Op::TryAcquire, Some(request.nonce));
        let call = |inner: Arc<B>| {
            let (request, faults) = (request.clone(), self.faults.clone());
            async move {
                faults.reach(Op::TryAcquire, [request.nonce]);
                inner.try_acquire(&request).await
            }
        };
        self.send(fault, call).await
    }

    async fn wait(&self, request: &Request) -> StepResult<Wake> {
        match self.faults.begin(Op::Wait, Some(request.nonce)) {
            Some(Fault::Refuse) => Err(BackendError::transient("injected: not sent")),
            Some(Fault::Hang) => pending().await,
            _ => self.inner.wait(request).await,
        }
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<StepResult<Renewed>> {
        let mut faults = claims.iter().map(|claim| self.faults.begin(Op::Renew, Some(claim.nonce))).collect::<Vec<_>>();
        let fault = faults.drain(..).flatten().next();
        let call = |inner: Arc<B>| {
            let (claims, faults) = (claims.to_vec(), self.faults.clone());
            async move {
                faults.reach(Op::Renew, claims.iter().map(|claim| claim.nonce));
                Ok(inner.renew(&claims).await)
            }
        };
        match self.send(fault, call).await {
            Ok(outcomes) => outcomes,
            Err(error) => claims.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn release(&self, claim: &Claim) -> StepResult<Released> {
        let fault = self.faults.begin(Op::Release, Some(claim.nonce));
        let call = |inner: Arc<B>| {
            let (claim, faults) = (claim.clone(), self.faults.clone());
            async move {
                faults.reach(Op::Release, [claim.nonce]);
                inner.release(&claim).await
            }
        };
        self.send(fault, call).await
    }

    async fn inspect(&self, key: &Key) -> StepResult<State> {
        let fault = self.faults.begin(Op::Inspect, None);
        let call = |inner: Arc<B>| {
            let key = key.clone();
            async move { inner.inspect(&key).await }
        };
        self.send(fault, call).await
    }

    async fn event(&self) -> Event {
        loop {
            let event = self.faults.plan().events.pop_front();
            match event {
                Some(event) => return event,
                None => tokio::select! {
                    () = self.faults.0.told.notified() => {}
                    event = self.inner.event() => return event,
                },
            }
        }
    }

    async fn ping(&self) -> StepResult<()> {
        let fault = self.faults.begin(Op::Ping, None);
        self.send(fault, |inner| async move { inner.ping().await }).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }

    fn powers(&self) -> Powers<'_> {
        let mut powers = self.inner.powers();
        powers.many = powers.many.map(|_| self as &dyn Many);
        powers.values = powers.values.map(|_| self as &dyn Values);
        powers.pools = powers.pools.map(|_| self as &dyn Pools);
        powers
    }
}

impl<B: AsyncLock> Many for Faulty<B> {
    fn most(&self) -> usize {
        self.inner.powers().many.map_or(0, Many::most)
    }

    fn try_acquire_all<'a>(&'a self, requests: &'a [Request]) -> BoxFuture<'a, StepResult<Together>> {
        let faults = requests.iter().map(|request| self.faults.begin(Op::TryAcquireAll, Some(request.nonce)));
        let fault = faults.collect::<Vec<_>>().into_iter().flatten().next();
        let call = |inner: Arc<B>| {
            let (requests, faults) = (requests.to_vec(), self.faults.clone());
            async move {
                faults.reach(Op::TryAcquireAll, requests.iter().map(|request| request.nonce));
                match inner.powers().many {
                    Some(power) => power.try_acquire_all(&requests).await,
                    None => Err(gone()),
                }
            }
        };
        Box::pin(self.send(fault, call))
    }
}

impl<B: AsyncLock> Values for Faulty<B> {
    fn value<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, StepResult<Option<String>>> {
        let fault = self.faults.begin(Op::Value, None);
        let call = |inner: Arc<B>| {
            let key = key.clone();
            async move {
                match inner.powers().values {
                    Some(power) => power.value(&key).await,
                    None => Err(gone()),
                }
            }
        };
        Box::pin(self.send(fault, call))
    }

    fn change<'a>(&'a self, key: &'a Key, change: &'a Change) -> BoxFuture<'a, StepResult<bool>> {
        let fault = self.faults.begin(Op::Change, None);
        let call = |inner: Arc<B>| {
            let (key, change) = (key.clone(), change.clone());
            async move {
                match inner.powers().values {
                    Some(power) => power.change(&key, &change).await,
                    None => Err(gone()),
                }
            }
        };
        Box::pin(self.send(fault, call))
    }

    fn update<'a>(&'a self, claim: &'a Claim, value: &'a str) -> BoxFuture<'a, StepResult<Renewed>> {
        let fault = self.faults.begin(Op::Renew, Some(claim.nonce));
        let call = |inner: Arc<B>| {
            let (claim, value, faults) = (claim.clone(), value.to_owned(), self.faults.clone());
            async move {
                faults.reach(Op::Renew, [claim.nonce]);
                match inner.powers().values {
                    Some(power) => power.update(&claim, &value).await,
                    None => Err(gone()),
                }
            }
        };
        Box::pin(self.send(fault, call))
    }
}

/// Only changes go wrong.
impl<B: AsyncLock> Pools for Faulty<B> {
    fn change<'a>(&'a self, pool: &'a Key, change: &'a PoolChange) -> BoxFuture<'a, StepResult<()>> {
        let fault = self.faults.begin(Op::ChangePool, None);
        let call = |inner: Arc<B>| {
            let (pool, change) = (pool.clone(), change.clone());
            async move {
                match inner.powers().pools {
                    Some(power) => power.change(&pool, &change).await,
                    None => Err(gone()),
                }
            }
        };
        Box::pin(self.send(fault, call))
    }

    fn scan<'a>(&'a self, pool: &'a Key, from: u64) -> BoxFuture<'a, StepResult<Page>> {
        self.inner.powers().pools.map_or_else(refused, |power| power.scan(pool, from))
    }

    fn inspect<'a>(&'a self, pool: &'a Key, members: &'a [Arc<str>]) -> BoxFuture<'a, StepResult<Vec<Option<State>>>> {
        self.inner.powers().pools.map_or_else(refused, |power| power.inspect(pool, members))
    }

    fn health<'a>(&'a self, pool: &'a Key) -> BoxFuture<'a, StepResult<Health>> {
        self.inner.powers().pools.map_or_else(refused, |power| power.health(pool))
    }
}

fn refused<'a, T: Send + 'a>() -> BoxFuture<'a, StepResult<T>> {
    Box::pin(std::future::ready(Err(gone())))
}

fn gone() -> BackendError {
    BackendError::fatal("the power is gone")
}
