//! From several keys to their guards: all of them, or none.

use std::time::Duration;

use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    Applied, BackendError, Claim, Guards, Intent, Key, LockError, Mono, Nonce, Request, Together, Wait,
    acquire::{self, ERROR_PAUSES, LEAST_CALL_BOUND, TRY_ATTEMPTS, Times, acquire},
    core_ref::CoreRef,
    current,
    lock::{BoxFuture, StepResult},
    options::Options,
    release,
    runtime::InRuntime,
};

/// The least that is left to wait for the next one, or its call would be a try.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// Acquires all of `keys`, which are sorted and each there once, or none of them.
pub(crate) async fn acquire_all(core: &CoreRef, keys: &[Key], options: &Options) -> Result<Guards, LockError> {
    let shared = &core.shared;
    shared.check_open()?;
    let would_wait = |key: &&Key| !options.is_try() && current::would_wait_for_itself(shared, key, options.mode);
    if let Some(key) = keys.iter().find(would_wait) {
        return Err(LockError::WouldDeadlock { key: key.clone() });
    }
    let taken = async {
        let started = shared.clock.now();
        let can = shared.backend.powers().many.is_some_and(|power| (2..=power.most()).contains(&keys.len()));
        // A step takes no place in line: where tasks of this process stand in one, it would pass them.
        let quiet = |key| shared.queue.as_ref().is_none_or(|queue| queue.is_quiet(key));
        if can && (options.is_try() || keys.iter().all(quiet)) {
            if let Some(guards) = InOneStep::new(core, keys, options, started).run(options).await? {
                return Ok(guards);
            }
        }
        one_by_one(core, keys, options, started).await
    };
    InRuntime::new(shared, taken).await
}

/// One after the other, in an order that is everybody's: so of those who want the same keys one always gets on.
async fn one_by_one(core: &CoreRef, keys: &[Key], options: &Options, started: Mono) -> Result<Guards, LockError> {
    let clock = core.shared.clock;
    let mut options = options.clone();
    let give_up = options.end_of_wait(started);
    let mut guards = Guards::none();
    for key in keys {
        if give_up != Mono::NEVER {
            options.wait = Wait::For(give_up.since(clock.now()).max(LEAST_WAIT));
        }
        let next = tokio::select! {
            biased;
            (lease, _) = guards.first_lost() => Err(lease.0.lost_error()),
            next = acquire(core, key.clone(), &options) => next,
        };
        guards.push(next.map_err(|error| match error {
            LockError::Timeout { key, holder, .. } => {
                LockError::Timeout { key, waited: clock.now().since(started), holder }
            }
            error => error,
        })?);
    }
    guards.check().map(|()| guards)
}

/// The attempt to take all in one step of the store. Dropped, it leaves nothing there.
struct InOneStep {
    core: CoreRef,
    requests: Vec<Request>,
    started: Mono,
    /// Whether there may be anything to give back.
    asked: bool,
    /// Whether an attempt of these nonces may reach the store yet.
    unsettled: bool,
    /// What was granted before, and was of no use, may not have been given back yet.
    begun_anew: bool,
    call: Option<BoxFuture<'static, StepResult<Together>>>,
    _leaving: TaskTrackerToken,
}

impl InOneStep {
    fn new(core: &CoreRef, keys: &[Key], options: &Options, started: Mono) -> Self {
        let request = |key: &Key| {
            let (nonce, owner) = (Nonce::fresh(), options.owner.clone());
            let request = Request::new(key.clone(), nonce, options.ttl, Intent::Try, owner, started);
            Request { mode: options.mode, ..request }
        };
        InOneStep {
            core: core.clone(),
            requests: keys.iter().map(request).collect(),
            started,
            asked: false,
            unsettled: false,
            begun_anew: false,
            call: None,
            _leaving: core.shared.waiters.token(),
        }
    }

    /// The guards; `None` if some are held and may be waited for.
    async fn run(mut self, options: &Options) -> Result<Option<Guards>, LockError> {
        let shared = self.core.shared.clone();
        let mut signal = shared.signal.subscribe();
        let give_up = options.end_of_wait(self.started);
        tokio::select! {
            biased;
            () = async { drop(signal.wait_for(|signal| signal.closed).await) } => Err(LockError::ShutDown),
            outcome = self.pursue(options) => outcome,
            () = shared.clock.sleep_until(give_up) => {
                Err(BackendError::unknown("the store did not answer in time").into())
            }
        }
    }

    async fn pursue(&mut self, options: &Options) -> Result<Option<Guards>, LockError> {
        let shared = self.core.shared.clone();
        let bound = options.patience.max(LEAST_CALL_BOUND);
        let mut pauses = ERROR_PAUSES.start();
        for attempt in 1.. {
            let sent = shared.clock.now();
            let error = match self.ask(bound).await {
                Ok(Together::Granted(grants)) if grants.len() == self.requests.len() => {
                    match self.accept(&grants, sent, options)? {
                        Some(guards) => return Ok(Some(guards)),
                        None => BackendError::transient("what was granted was over before it could be used"),
                    }
                }
                Ok(Together::Granted(_)) => BackendError::fatal("not one grant for each lock"),
                Ok(Together::Busy(_)) if self.begun_anew && options.is_try() => {
                    self.asked = false;
                    BackendError::transient(acquire::NOT_YET_GIVEN_BACK)
                }
                Ok(Together::Busy(busy)) => {
                    self.asked = false;
                    if !options.is_try() {
                        return Ok(None);
                    }
                    let (place, holder) =
                        busy.into_iter().next().map_or((0, None), |(place, busy)| (place, busy.holder));
                    let key = self.requests.get(place).unwrap_or(&self.requests[0]).key.clone();
                    return Err(LockError::Held { key, holder });
                }
                Err(error) => error,
            };
            self.unsettled |= error.applied() == Applied::Unknown;
            let enough = options.is_try() && attempt >= TRY_ATTEMPTS;
            if !error.is_retryable() || enough || shared.clock.now().since(self.started) >= options.patience {
                return Err(error.into());
            }
            let (backend, keys) = (shared.backend_name(), self.requests.len());
            tracing::warn!(target: "tasklock", backend, keys, attempt, "store failed, will be asked again: {error}");
            tokio::time::sleep(pauses.next()).await;
        }
        Ok(None)
    }

    async fn ask(&mut self, bound: Duration) -> StepResult<Together> {
        self.asked = true;
        let backend = self.core.shared.backend.clone();
        let call = self.call.insert(backend.try_acquire_all(self.requests.clone()));
        let answer = tokio::time::timeout(bound, call).await;
        let late = |_| BackendError::unknown(format!("the store did not answer within {bound:?}"));
        let answer = answer.map_err(late)?;
        self.call = None;
        answer
    }

    /// Guards, or, if they came too late to be of use, a fresh start under other nonces.
    fn accept(&mut self, grants: &[crate::Grant], sent: Mono, options: &Options) -> Result<Option<Guards>, LockError> {
        let now = self.core.shared.clock.now();
        let in_time = |(request, grant)| acquire::in_time(request, grant, sent, now);
        let deadlines: Option<Vec<Mono>> = self.requests.iter().zip(grants).map(in_time).collect();
        if let Some(deadlines) = deadlines {
            self.asked = false;
            let mut guards = Guards::none();
            for ((request, grant), deadline) in self.requests.iter().zip(grants).zip(deadlines) {
                let times = Times { started: self.started, now, deadline };
                let request = request.clone();
                guards.push(acquire::accept(&self.core, None, request, self.unsettled, grant, &times, options));
            }
            // From here on that is the guards' own.
            self.unsettled = false;
            self.core.shared.check_open()?;
            if guards.is_held() {
                return Ok(Some(guards));
            }
        }
        self.withdraw();
        self.begun_anew = true;
        for request in &mut self.requests {
            (request.nonce, request.since) = (Nonce::fresh(), now);
        }
        Ok(None)
    }

    /// Leaves nothing of these nonces at the store.
    fn withdraw(&mut self) {
        let (asked, unsettled) = (std::mem::take(&mut self.asked), std::mem::take(&mut self.unsettled));
        if !asked && !unsettled {
            return;
        }
        let shared = &self.core.shared;
        // One that panicked cannot be driven on.
        let call = self.call.take().filter(|_| !std::thread::panicking());
        let unsettled = unsettled || std::thread::panicking();
        let claim = |request: &Request| Claim { unsettled, ..Claim::of(request) };
        let claims = self.requests.iter().map(claim).collect();
        shared.drive(Box::pin(release::withdraw_all(shared.clone(), claims, call)));
    }
}

impl Drop for InOneStep {
    fn drop(&mut self) {
        self.withdraw();
    }
}
