//! Giving back, whatever the store and the caller do meanwhile.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use crate::{
    Applied, Attempt, BackendError, Claim, Mono, ReleaseOutcome, Released, Together, Ttl,
    lease::{Hold, Phase},
    lock::{BoxFuture, StepResult},
    retry::RetryPolicy,
    shared::{Shared, Shown},
};

/// The longest a single call is waited for before it is made again.
const CALL_BOUND: Duration = Duration::from_secs(5);
const PAUSES: RetryPolicy = RetryPolicy::exponential(Duration::from_millis(20), Duration::from_secs(1));
/// At shutdown, a lock without an expiry is tried to be released for this long.
const PERMANENT_AT_SHUTDOWN: Duration = Duration::from_secs(30);

/// Takes an ended hold off the store, once no renewal is under way.
pub(crate) async fn hold(shared: Arc<Shared>, hold: Arc<Hold>) -> Result<ReleaseOutcome, BackendError> {
    let unfinished = Unfinished { shared: &shared, claim: &hold.claim, done: false };
    hold.until_idle().await;
    let released = repeat(&shared, &hold.claim_now(), hold.deadline()).await;
    unfinished.finish(released.as_ref().err());
    let released = released?;
    Ok(match hold.phase() {
        Phase::Released => shared.released(&hold, released),
        _ => ReleaseOutcome::AlreadyLost,
    })
}

/// Leaves nothing of an acquisition that its caller gave up: drives the call under way to its answer, then gives back
/// whatever the nonce has by then.
pub(crate) async fn withdraw(
    shared: Arc<Shared>,
    mut claim: Claim,
    call: Option<BoxFuture<'static, StepResult<Attempt>>>,
) {
    let owned = claim.clone();
    let unfinished = Unfinished { shared: &shared, claim: &owned, done: false };
    if let Some(call) = call {
        claim.unsettled |= drive_out(call, claim.ttl).await;
    }
    let released = repeat(&shared, &claim, Mono::from_nanos(0)).await;
    unfinished.finish(released.as_ref().err());
}

/// The same for an attempt at several. None waits for another's release.
pub(crate) async fn withdraw_all(
    shared: Arc<Shared>,
    claims: Vec<Claim>,
    call: Option<BoxFuture<'static, StepResult<Together>>>,
) {
    let ttl = claims.first().map_or(Ttl::Never, |claim| claim.ttl);
    let unsettled = match call {
        Some(call) => drive_out(call, ttl).await,
        None => false,
    };
    for mut claim in claims {
        claim.unsettled |= unsettled;
        shared.drive(Box::pin(withdraw(shared.clone(), claim, None)));
    }
}

/// Drives an attempt to its answer; whether it may reach the store yet.
async fn drive_out<T>(call: BoxFuture<'static, StepResult<T>>, ttl: Ttl) -> bool {
    // Longer than its lease would last it is not waited for: by then it has nothing.
    let patience = ttl.duration().unwrap_or(PERMANENT_AT_SHUTDOWN);
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
    loop {
        let error = match tokio::time::timeout(CALL_BOUND, shared.backend.release(claim)).await {
            Ok(Ok(Released::NotOwner)) if unknown && clock.now() < deadline => return Ok(Released::Released),
            Ok(Ok(released)) => return Ok(released),
            Ok(Err(e)) => e,
            Err(_) => BackendError::unknown(format!("no answer to a release within {CALL_BOUND:?}")),
        };
        unknown |= error.applied() == Applied::Unknown;
        let give_up = match claim.ttl.duration() {
            Some(ttl) => start.after(ttl),
            None if shared.signal.borrow().closed => start.after(PERMANENT_AT_SHUTDOWN),
            None => Mono::NEVER,
        };
        let next = clock.now().after(pauses.next());
        if !error.is_retryable() || next >= give_up {
            return Err(error);
        }
        clock.sleep_until(next).await;
    }
}

/// Says so when a release did not come to its end: its runtime went away, or the store never took it.
struct Unfinished<'a> {
    shared: &'a Shared,
    claim: &'a Claim,
    done: bool,
}

impl Unfinished<'_> {
    fn finish(mut self, error: Option<&BackendError>) {
        self.done = true;
        if let Some(error) = error {
            self.say(error);
        }
    }

    fn say(&self, why: &dyn std::fmt::Display) {
        let (key, backend): (Shown<'_>, _) = (self.shared.shown(&self.claim.key), self.shared.backend_name());
        let ttl = self.claim.ttl;
        tracing::warn!(target: "tasklock", %key, backend, ?ttl, "not released, left to expire: {why}");
    }
}

impl Drop for Unfinished<'_> {
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
}

impl<T: Send> Driven<T> {
    pub(crate) fn new(shared: Arc<Shared>, future: BoxFuture<'static, T>) -> Self {
        Driven { shared, future: Some(future) }
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
