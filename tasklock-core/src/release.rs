//! Giving back, whatever the store and the caller do meanwhile.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    Applied, Attempt, BackendError, Claim, Key, Mono, ReleaseOutcome, Released, Together, Ttl,
    hold::{Hold, Phase},
    lock::{BoxFuture, StepResult},
    retry::RetryPolicy,
    shared::{Shared, Shown},
};

/// The longest a single call is waited for before it is made again.
const CALL_BOUND: Duration = Duration::from_secs(5);
const PAUSES: RetryPolicy = RetryPolicy::exponential(Duration::from_millis(20), Duration::from_secs(1));
/// What was granted nothing, as far as is known here, is withdrawn for as long at least.
const PLACE: Duration = Duration::from_secs(30);
/// At shutdown a lock is tried to be released for this long at most, whatever its ttl.
const AT_SHUTDOWN: Duration = Duration::from_secs(30);

/// Takes an ended hold off the store, once no renewal is under way.
pub(crate) fn hold(
    shared: Arc<Shared>,
    hold: Arc<Hold>,
) -> impl Future<Output = Result<ReleaseOutcome, BackendError>> + Send {
    let unfinished = Unfinished::new(&shared, &hold.claim);
    async move {
        hold.until_idle().await;
        let released = unfinished.finish(&hold.claim_to_release(), hold.deadline()).await?;
        Ok(match hold.phase() {
            Phase::Released => shared.released(&hold, released),
            _ => ReleaseOutcome::AlreadyLost,
        })
    }
}

/// Takes a claim off the store, which may be believed until `deadline`, once it is known how the store has it.
pub(crate) fn claim<F: Future<Output = Claim> + Send>(
    shared: &Arc<Shared>,
    claim: &Claim,
    deadline: Mono,
    as_it_is: F,
) -> impl Future<Output = Result<Released, BackendError>> + Send + use<F> {
    let unfinished = Unfinished::new(shared, claim);
    async move {
        let claim = as_it_is.await;
        unfinished.finish(&claim, deadline).await
    }
}

/// Leaves nothing of an acquisition that its caller gave up: drives the call under way to its answer, then gives back
/// whatever the nonce has by then.
pub(crate) fn withdraw(
    shared: &Arc<Shared>,
    mut claim: Claim,
    call: Option<BoxFuture<'static, StepResult<Attempt>>>,
) -> impl Future<Output = ()> + Send + use<> {
    let unfinished = Unfinished::new(shared, &claim);
    async move {
        if let Some(call) = call {
            claim.unsettled |= drive_out(call, claim.ttl).await;
        }
        // Said already, if it failed.
        let _ = unfinished.finish(&claim, Mono::from_nanos(0)).await;
    }
}

/// The same for an attempt at several. None waits for another's release.
pub(crate) fn withdraw_all(
    shared: Arc<Shared>,
    claims: Vec<Claim>,
    call: Option<BoxFuture<'static, StepResult<Together>>>,
) -> impl Future<Output = ()> + Send {
    let unfinished = claims.into_iter().map(|claim| (Unfinished::new(&shared, &claim), claim));
    let unfinished: Vec<_> = unfinished.collect();
    async move {
        let ttl = unfinished.first().map_or(Ttl::Never, |(_, claim)| claim.ttl);
        let unsettled = match call {
            Some(call) => drive_out(call, ttl).await,
            None => false,
        };
        for (unfinished, mut claim) in unfinished {
            claim.unsettled |= unsettled;
            shared.drive(Box::pin(async move {
                let _ = unfinished.finish(&claim, Mono::from_nanos(0)).await;
            }));
        }
    }
}

/// Drives an attempt to its answer; whether it may reach the store yet.
async fn drive_out<T>(call: BoxFuture<'static, StepResult<T>>, ttl: Ttl) -> bool {
    // Longer than its lease would last it is not waited for: by then it has nothing.
    let patience = ttl.duration().unwrap_or(AT_SHUTDOWN);
    match tokio::time::timeout(patience, call).await {
        Ok(Ok(_)) => false,
        Ok(Err(error)) => error.applied() == Applied::Unknown,
        Err(_) => true,
    }
}

/// Repeats a release until it is answered, or until the ttl has done its work.
///
/// An answer that was lost may have been "released": if the next one says "not the owner" before `deadline`, nobody
/// but this release can have been the reason.
async fn repeat(shared: &Shared, claim: &Claim, deadline: Mono) -> Result<Released, BackendError> {
    let clock = shared.clock;
    let start = clock.now();
    let mut pauses = PAUSES.start();
    let mut unknown = false;
    let ttl = claim.ttl.duration();
    loop {
        let error = match tokio::time::timeout(CALL_BOUND, shared.backend.release(claim)).await {
            Ok(Ok(Released::NotOwner)) if unknown && clock.now() < deadline => return Ok(Released::Released),
            Ok(Ok(released)) => return Ok(released),
            Ok(Err(e)) => e,
            Err(_) => BackendError::unknown(format!("no answer to a release within {CALL_BOUND:?}")),
        };
        unknown |= error.applied() == Applied::Unknown;
        let give_up = match ttl {
            _ if shared.signal.borrow().closed => start.after(ttl.unwrap_or(AT_SHUTDOWN).min(AT_SHUTDOWN)),
            // A waiter's place is not its lease: how long a store keeps that is not known here.
            Some(ttl) if claim.token.is_none() => start.after(ttl.max(PLACE)),
            Some(ttl) => start.after(ttl),
            None => Mono::NEVER,
        };
        let next = clock.now().after(pauses.next());
        if !error.is_retryable() || next >= give_up {
            return Err(error);
        }
        clock.sleep_until(next).await;
    }
}

/// Says so when a release did not come to its end: its runtime went away, even before it began, or the store never took
/// it. Made before anything is awaited.
struct Unfinished {
    shared: Arc<Shared>,
    key: Key,
    ttl: Ttl,
    done: bool,
}

impl Unfinished {
    fn new(shared: &Arc<Shared>, claim: &Claim) -> Self {
        Unfinished { shared: shared.clone(), key: claim.key.clone(), ttl: claim.ttl, done: false }
    }

    async fn finish(mut self, claim: &Claim, deadline: Mono) -> Result<Released, BackendError> {
        let released = repeat(&self.shared, claim, deadline).await;
        self.done = true;
        if let Err(error) = &released {
            self.say(error);
        }
        released
    }

    fn say(&self, why: &dyn std::fmt::Display) {
        let (key, backend): (Shown<'_>, _) = (self.shared.shown(&self.key), self.shared.backend_name());
        tracing::warn!(target: "tasklock", %key, backend, ttl = ?self.ttl, "not released, left to expire: {why}");
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.done {
            self.say(&"the runtime of its locker has ended");
        }
    }
}

/// A future that is driven to its end in the background if its caller stops waiting.
pub(crate) struct Driven<T: Send + 'static> {
    shared: Arc<Shared>,
    future: Option<BoxFuture<'static, T>>,
    /// A shutdown waits for the caller, who polls it; not for ever, for the caller may not.
    _leaving: TaskTrackerToken,
}

impl<T: Send> Driven<T> {
    pub(crate) fn new(shared: Arc<Shared>, future: BoxFuture<'static, T>) -> Self {
        Driven { _leaving: shared.waiters.token(), shared, future: Some(future) }
    }
}

impl<T: Send> Future for Driven<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(future) = &mut self.future else { return Poll::Pending };
        let value = ready!(future.as_mut().poll(cx));
        self.future = None;
        Poll::Ready(value)
    }
}

impl<T: Send + 'static> Drop for Driven<T> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            self.shared.drive(Box::pin(async move {
                let _ = future.await;
            }));
        }
    }
}
