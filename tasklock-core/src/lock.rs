//! The backend trait.

use std::{
    future::{Future, pending, ready},
    pin::Pin,
};

use crate::{
    Attempt, BackendError, Capabilities, Change, Claim, Event, Key, Nonce, Pools, Released, Renewed, Request, State,
    Together, Wake,
};

/// A boxed, sendable future: what the object-safe [`Powers`] return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A result of a backend's step.
pub type StepResult<T> = Result<T, BackendError>;

/// What a backend implements; users hold a [`Locker`](crate::Locker) over it.
///
/// Each method is one atomic step against the store. A backend may own the driver of its connection and a table of what
/// each nonce has there; it never retries, renews, times or cleans up: core does that, once for all backends.
///
/// To write one:
///
/// 1. **Declare** in [`capabilities`](AsyncLock::capabilities) what the store can do, no more.
/// 2. **Grant** in [`try_acquire`](AsyncLock::try_acquire), minting the fencing token in the same step. Be idempotent:
///    the same nonce asking again gets the same grant, and never waits for itself.
/// 3. **Push** if the store can: enter the queue on [`Intent::Wait`](crate::Intent::Wait) and resolve
///    [`wait`](AsyncLock::wait) with the grant or with "try again now". If it cannot, leave `wait` alone: core polls.
/// 4. **Renew and release** on condition of the nonce and of nothing else.
/// 5. **Report** in [`event`](AsyncLock::event) what the store tells unasked.
/// 6. **Run** the conformance suite (`testing` feature); `examples/examples/custom_backend.rs` is a whole backend.
///
/// Core drives every `try_acquire` to its answer, even when its caller is gone, and follows it with a `release`; only
/// one that takes longer than the lease would last is given up. The other calls may be dropped at their time bound.
pub trait AsyncLock: Send + Sync + 'static {
    /// What this backend can do.
    fn capabilities(&self) -> &Capabilities;

    /// [`try_acquire`](AsyncLock::try_acquire) for backends that can answer at once, without waiting for anything.
    /// `None`: use the other.
    fn try_acquire_now(&self, request: &Request) -> Option<StepResult<Attempt>> {
        let _ = request;
        None
    }

    /// [`release`](AsyncLock::release) for backends that can answer at once. It is called from `Drop`, on any thread,
    /// outside a runtime too.
    fn release_now(&self, claim: &Claim) -> Option<StepResult<Released>> {
        let _ = claim;
        None
    }

    /// Takes the lock if it is free, enters the queue if it is not and the intent is not
    /// [`Try`](crate::Intent::Try). A request that comes again, late or twice, never makes a lease shorter.
    fn try_acquire(&self, request: &Request) -> impl Future<Output = StepResult<Attempt>> + Send;

    /// Resolves when the store has granted to this nonce, or has something to say. Called after an attempt that found
    /// the lock busy, again and again with the same nonce; a grant that arrives in between is kept for the next call.
    ///
    /// # Cancel safety
    ///
    /// Must be safe to drop at any time; that is not a withdrawal.
    fn wait(&self, request: &Request) -> impl Future<Output = StepResult<Wake>> + Send {
        let _ = request;
        pending()
    }

    /// Renews each claim; one outcome each, in order.
    fn renew(&self, claims: &[Claim]) -> impl Future<Output = Vec<StepResult<Renewed>>> + Send;

    /// Ends whatever this nonce has: place in the queue, pushed grant, hold, or, if the claim is
    /// [`unsettled`](Claim::unsettled), an attempt still under way. Called again if its answer is lost.
    fn release(&self, claim: &Claim) -> impl Future<Output = StepResult<Released>> + Send;

    /// What the store says of a key.
    fn inspect(&self, key: &Key) -> impl Future<Output = StepResult<State>> + Send;

    /// The next thing the store tells unasked.
    ///
    /// # Cancel safety
    ///
    /// Must be safe to drop at any time without losing an event.
    fn event(&self) -> impl Future<Output = Event> + Send {
        pending()
    }

    /// Whether the store answers.
    fn ping(&self) -> impl Future<Output = StepResult<()>> + Send;

    /// Closes connections, after the last release. May be called more than once.
    fn close(&self) -> impl Future<Output = ()> + Send {
        ready(())
    }

    /// What else this backend can do.
    fn powers(&self) -> Powers<'_> {
        Powers::default()
    }
}

/// Operations that not every store has, found at run time behind any backend.
#[derive(Clone, Copy, Default)]
#[non_exhaustive]
pub struct Powers<'a> {
    /// Breaking locks.
    pub administer: Option<&'a dyn Administer>,
    /// Several locks, all or none.
    pub many: Option<&'a dyn Many>,
    /// Values beside locks.
    pub values: Option<&'a dyn Values>,
    /// Pools.
    pub pools: Option<&'a dyn Pools>,
}

impl<'a> Powers<'a> {
    /// With the power to break locks.
    #[must_use]
    pub fn with_administer(mut self, power: &'a dyn Administer) -> Self {
        self.administer = Some(power);
        self
    }

    /// With the power to take several locks, all or none.
    #[must_use]
    pub fn with_many(mut self, power: &'a dyn Many) -> Self {
        self.many = Some(power);
        self
    }

    /// With the power to keep values beside locks.
    #[must_use]
    pub fn with_values(mut self, power: &'a dyn Values) -> Self {
        self.values = Some(power);
        self
    }

    /// With the power to keep pools.
    #[must_use]
    pub fn with_pools(mut self, power: &'a dyn Pools) -> Self {
        self.pools = Some(power);
        self
    }
}

impl std::fmt::Debug for Powers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut powers = f.debug_struct("Powers");
        powers.field("administer", &self.administer.is_some()).field("many", &self.many.is_some());
        powers.field("values", &self.values.is_some()).field("pools", &self.pools.is_some()).finish()
    }
}

/// The power to end somebody else's hold.
pub trait Administer: Send + Sync {
    /// Ends the hold on `key`, only that of `seen` if given, and lets the next waiter in; whether there was one.
    /// The token of the next grant is still higher.
    fn revoke<'a>(&'a self, key: &'a Key, seen: Option<Nonce>) -> BoxFuture<'a, StepResult<bool>>;
}

/// The power to take several locks in one step, or none of them.
pub trait Many: Send + Sync {
    /// How many locks one step can take.
    fn most(&self) -> usize;

    /// Takes all of these locks or none. Each request has a key of its own and a nonce of its own; the same requests
    /// asking again get the same grants. What was granted is renewed and released lock by lock, as any other; so is
    /// what was given up before it was answered.
    fn try_acquire_all<'a>(&'a self, requests: &'a [Request]) -> BoxFuture<'a, StepResult<Together>>;
}

/// The power to keep a value beside each lock: see [`LockValue`](crate::LockValue).
pub trait Values: Send + Sync {
    /// The value of `key`.
    fn value<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, StepResult<Option<String>>>;

    /// Makes this change if its condition [holds](crate::When::holds); whether it did, and for a value taken away, whether
    /// there was one.
    fn change<'a>(&'a self, key: &'a Key, change: &'a Change) -> BoxFuture<'a, StepResult<bool>>;

    /// Renews the claim and, in the same step, sets the value for the claim's ttl: both, or neither if it is not held.
    fn update<'a>(&'a self, claim: &'a Claim, value: &'a str) -> BoxFuture<'a, StepResult<Renewed>>;
}
