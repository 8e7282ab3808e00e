//! From a key to a guard: one attempt at once, then waiting, however often the store or the caller gives out.

mod pursuit;
mod standing;

use std::{sync::Arc, time::Duration};

use self::{pursuit::Pursuit, standing::Standing};
use crate::{
    Attempt, Claim, Grant, Guard, Holder, Intent, Key, LockError, Mono, Nonce, Request,
    core_ref::CoreRef,
    current,
    handoff::Reserve,
    hold::{self, Hold},
    lock::BoxFuture,
    nursery::Young,
    options::Options,
    queue::Place,
    retry::RetryPolicy,
    runtime::InRuntime,
    shared::Shared,
};

/// The least time that a call has to be answered, however little the caller's patience.
pub(crate) const LEAST_CALL_BOUND: Duration = Duration::from_secs(5);
/// How often a failing store is asked by a call that is not to wait.
pub(crate) const TRY_ATTEMPTS: u32 = 3;
/// Why an attempt that began anew may find the lock held, though by nobody else.
pub(crate) const NOT_YET_GIVEN_BACK: &str = "what was granted before is not given back yet";
pub(crate) const ERROR_PAUSES: RetryPolicy =
    RetryPolicy::exponential(Duration::from_millis(20), Duration::from_secs(1));

/// Acquires `key`.
pub(crate) async fn acquire(core: &CoreRef, key: Key, options: &Options) -> Result<Guard, LockError> {
    // A loop over a free lock must let other tasks run, too.
    tokio::task::coop::consume_budget().await;
    match at_once(core, key, options, None)? {
        AtOnce::Granted(guard) => Ok(guard),
        AtOnce::Not(later) => later.await,
    }
}

/// The same for one that has waited since `started`, which counts.
pub(crate) async fn go_on(core: &CoreRef, key: Key, options: &Options, started: Mono) -> Result<Guard, LockError> {
    match at_once(core, key, options, Some(started))? {
        AtOnce::Granted(guard) => Ok(guard),
        AtOnce::Not(later) => later.await,
    }
}

enum AtOnce<'a> {
    Granted(Guard),
    /// Boxed, so that the future of those that do not wait is small.
    Not(BoxFuture<'a, Result<Guard, LockError>>),
}

/// What can be done without waiting for anything; on a backend in memory, nearly always all of it.
fn at_once<'a>(core: &CoreRef, key: Key, options: &'a Options, started: Option<Mono>) -> Result<AtOnce<'a>, LockError> {
    let shared = &core.shared;
    shared.check_open()?;
    let intent = if options.is_try() { Intent::Try } else { Intent::Wait };
    if intent != Intent::Try && current::would_wait_for_itself(shared, &key, options.mode) {
        return Err(LockError::WouldDeadlock { key });
    }
    let now = shared.clock.now();
    let started = started.unwrap_or(now);
    if shared.nursery.is_open() && shared.queue.as_ref().is_none_or(|queue| queue.is_quiet(&key)) {
        if let Some(token) = shared.nursery.acquire(shared, &key, options, now) {
            let guard = Guard::young(core.clone(), Young { key, token, since: now });
            shared.acquired(guard.key(), token, now.since(started));
            shared.check_open()?;
            return Ok(AtOnce::Granted(guard));
        }
    }
    in_turn(core, key, options, intent, (started, now))
}

/// The same for what has to stand in line, or to ask a store that is not in memory.
fn in_turn<'a>(
    core: &CoreRef,
    key: Key,
    options: &'a Options,
    intent: Intent,
    (started, now): (Mono, Mono),
) -> Result<AtOnce<'a>, LockError> {
    let shared = &core.shared;
    let mut place = Place::take(core, &key, options, now);
    if let Some(place) = place.take_if(|place| !place.may_ask()) {
        let standing = Standing { core: core.clone(), place, key, started, leaving: shared.waiters.token() };
        return Ok(AtOnce::Not(standing.run(options)));
    }
    let request = request(key, intent, options, now);
    let answer = shared.backend.try_acquire_now(&request);
    if let Some(Ok(Attempt::Granted(grant))) = &answer {
        // A store behind a queue of ours is one that takes its time: a file, a socket.
        let answered = if place.is_some() { shared.clock.now() } else { now };
        if let Some(deadline) = in_time(&request, grant, now, answered) {
            let times = Times { started, now, deadline };
            let guard = accept(core, place, request, false, grant, &times, options);
            shared.check_open()?;
            return Ok(AtOnce::Granted(guard));
        }
    }
    let pursuit = Box::new(Pursuit::new(core, place, request, started, answer.map(|answer| (now, answer))));
    Ok(AtOnce::Not(Box::pin(InRuntime::new(shared, pursuit.run(options)))))
}

fn request(key: Key, intent: Intent, options: &Options, now: Mono) -> Request {
    let mut request = Request::new(key, Nonce::fresh(), options.ttl, intent, options.owner.clone(), now);
    (request.mode, request.affinity) = (options.mode, options.affinity.clone());
    request
}

/// The deadline of a grant whose attempt was sent at `sent`; none if it is over already, which counts as busy.
pub(crate) fn in_time(request: &Request, grant: &Grant, sent: Mono, now: Mono) -> Option<Mono> {
    let deadline = hold::deadline(request.ttl, sent, grant.validity);
    (deadline > now).then_some(deadline)
}

/// When the caller asked, when it was answered, and until when the answer stands.
pub(crate) struct Times {
    pub(crate) started: Mono,
    pub(crate) now: Mono,
    pub(crate) deadline: Mono,
}

/// The guard for a grant.
pub(crate) fn accept(
    core: &CoreRef,
    place: Option<Place>,
    request: Request,
    unsettled: bool,
    grant: &Grant,
    times: &Times,
    options: &Options,
) -> Guard {
    let shared = &core.shared;
    let claim = Claim { token: grant.token, member: grant.member.clone(), unsettled, ..Claim::from(request) };
    let mut hold = Hold::new(claim, options, shared.clock, times.now, times.deadline);
    if grant.confirm {
        hold.confirm_first();
    }
    let place = place.inspect(|place| place.sight().granted(times.now));
    if let Some(place) = place.filter(Place::hands_on) {
        hold.line_up(Reserve::of(grant, times.now));
        place.enter(&hold);
    } else if let (Some(queue), Some(token)) = (&shared.queue, grant.token) {
        queue.supersede(&hold.claim.key, token, times.now);
    }
    let guard = core.guard(Arc::new(hold));
    shared.acquired(guard.key(), guard.fencing_token(), times.now.since(times.started));
    guard
}

fn warn(shared: &Shared, key: &Key, waited: Duration, holder: Option<Arc<Holder>>) {
    let (key, backend) = (shared.shown(key), shared.backend_name());
    let holder = holder.map_or_else(|| "unknown".to_owned(), |holder| holder.to_string());
    tracing::warn!(target: "tasklock", %key, backend, ?waited, holder, "still waiting");
}
