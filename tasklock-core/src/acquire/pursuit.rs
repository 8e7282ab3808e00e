//! Asking the store, until it grants, the time is over, or the caller has gone.

use std::{convert::Infallible, future::poll_fn, time::Duration};

use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{ERROR_PAUSES, LEAST_CALL_BOUND, NOT_YET_GIVEN_BACK, TRY_ATTEMPTS, Times, accept, in_time, warn};
use crate::{
    Applied, Attempt, BackendError, Busy, Claim, Grant, Guard, Intent, Key, LockError, Mono, Nonce, Observed, Request,
    Wake, WakeBy,
    core_ref::CoreRef,
    lock::{BoxFuture, StepResult},
    options::Options,
    queue::{Looking, Place},
    release,
    retry::Pauses,
    shared::Shared,
    sight::Sight,
};

/// When to ask again if neither the store nor the attempt says.
const FALLBACK: Duration = Duration::from_secs(30);
const LEAST_PAUSE: Duration = Duration::from_millis(1);

/// An acquisition that was not granted at once. Dropped, it leaves nothing at the store.
pub(super) struct Pursuit {
    core: CoreRef,
    place: Option<Place>,
    request: Request,
    started: Mono,
    /// An answer that is there already, and when its attempt was sent (or, if it was pushed, when it came).
    answer: Option<(Mono, StepResult<Attempt>)>,
    /// Whether this nonce was ever sent.
    asked: bool,
    /// Whether the last attempt was answered, and left nothing at the store.
    left_nothing: bool,
    attempt: u32,
    /// Since when every attempt fails.
    failing: Option<Mono>,
    /// How many attempts found the lock held.
    found_busy: u32,
    /// Whether an attempt of this nonce may reach the store yet.
    unsettled: bool,
    /// What was granted before, and was of no use, may not have been given back yet.
    begun_anew: bool,
    call: Option<BoxFuture<'static, StepResult<Attempt>>>,
    /// Whether `call` is being polled: if it still is when this is dropped, it has panicked.
    polling: bool,
    sight: Sight,
    /// Whether the observer knows already.
    pub(super) told_waiting: bool,
    _leaving: TaskTrackerToken,
}

impl Pursuit {
    /// For one that may ask the store, and may have done so.
    pub(super) fn new(
        core: &CoreRef,
        place: Option<Place>,
        request: Request,
        started: Mono,
        answer: Option<(Mono, StepResult<Attempt>)>,
    ) -> Self {
        Pursuit {
            sight: place.as_ref().map_or_else(Sight::default, |place| place.sight().clone()),
            core: core.clone(),
            place,
            started,
            asked: answer.is_some(),
            answer,
            left_nothing: false,
            attempt: 0,
            failing: None,
            found_busy: 0,
            unsettled: false,
            begun_anew: false,
            call: None,
            polling: false,
            request,
            told_waiting: false,
            _leaving: core.shared.waiters.token(),
        }
    }

    pub(super) async fn run(mut self: Box<Self>, options: &Options) -> Result<Guard, LockError> {
        let (shared, key, started) = (self.core.shared.clone(), self.request.key.clone(), self.started);
        let (sight, looking) = (self.sight.clone(), self.place.as_ref().map(Place::looking));
        let mut signal = shared.signal.subscribe();
        let give_up = options.end_of_wait(started);
        let outcome = tokio::select! {
            biased;
            () = async { drop(signal.wait_for(|signal| signal.closed).await) } => Some(Err(LockError::ShutDown)),
            outcome = self.pursue(options) => Some(outcome),
            () = shared.clock.sleep_until(give_up) => None,
            never = attend(&shared, &key, started, &sight, options.warn_after, looking) => match never {},
        };
        let outcome = outcome.unwrap_or_else(|| Err(self.sight.gave_up(&key, started, shared.clock.now())));
        if let Err(LockError::Timeout { waited, .. }) = &outcome {
            shared.observe(|| Observed::TimedOut { key: &key, waited: *waited });
        }
        outcome
    }

    async fn pursue(&mut self, options: &Options) -> Result<Guard, LockError> {
        let shared = self.core.shared.clone();
        let mut signal = shared.signal.subscribe();
        let (mut pauses, mut error_pauses) = (None, None);
        let mut failures = 0;
        let call_bound = options.patience.max(LEAST_CALL_BOUND);
        loop {
            let (sent, answer) = match self.answer.take() {
                Some(answered) => answered,
                None => (shared.clock.now(), self.ask(call_bound).await),
            };
            match answer {
                Ok(Attempt::Granted(grant)) => {
                    if let Some(guard) = self.accept(&grant, sent, options)? {
                        return Ok(guard);
                    }
                    failures += 1;
                    let late = BackendError::transient("what was granted was over before it could be used");
                    self.found_failing(late, sent, failures, options)?;
                    tokio::time::sleep(next_error_pause(&mut error_pauses)).await;
                }
                Ok(Attempt::Busy(_)) if self.begun_anew && self.request.intent == Intent::Try => {
                    failures += 1;
                    self.found_failing(BackendError::transient(NOT_YET_GIVEN_BACK), sent, failures, options)?;
                    tokio::time::sleep(next_error_pause(&mut error_pauses)).await;
                }
                Ok(Attempt::Busy(busy)) => {
                    failures = 0;
                    self.found_busy(&busy, options)?;
                    let again_in = match shared.backend.capabilities().wake {
                        WakeBy::Push => busy.retry_in.unwrap_or(FALLBACK),
                        WakeBy::Poll => {
                            let pause = pauses.get_or_insert_with(|| options.retry.start()).next();
                            busy.retry_in.unwrap_or(Duration::MAX).min(pause)
                        }
                    };
                    tokio::select! {
                        biased;
                        () = self.until_told(sent, &mut error_pauses) => {}
                        _ = signal.changed() => {}
                        () = shared.clock.sleep_until(sent.after(again_in.max(LEAST_PAUSE))) => {}
                    }
                }
                Err(error) => {
                    failures += 1;
                    self.found_failing(error, sent, failures, options)?;
                    tokio::time::sleep(next_error_pause(&mut error_pauses)).await;
                }
            }
            self.attempt += 1;
        }
    }

    /// Completes when the store has something to say to a waiter; what it grants is kept as the next answer.
    async fn until_told(&mut self, sent: Mono, error_pauses: &mut Option<Pauses>) {
        let shared = &self.core.shared;
        match shared.backend.wait(&self.request).await {
            Ok(Wake::Granted(grant)) => {
                self.answer = Some((shared.clock.now(), Ok(Attempt::Granted(grant))));
                self.left_nothing = false;
            }
            // However often it says so, the store is not asked without a pause.
            Ok(Wake::Retry) => shared.clock.sleep_until(sent.after(LEAST_PAUSE)).await,
            Err(_) => tokio::time::sleep(next_error_pause(error_pauses)).await,
        }
    }

    /// One attempt, driven to its answer even if this is dropped meanwhile.
    async fn ask(&mut self, bound: Duration) -> StepResult<Attempt> {
        let backend = &self.core.shared.backend;
        if self.asked && self.request.intent != Intent::Try {
            self.request.intent = Intent::Poll { attempt: self.attempt };
        }
        self.asked = true;
        self.left_nothing = false;
        if let Some(answer) = backend.try_acquire_now(&self.request) {
            return answer;
        }
        let _question = self.sight.ask(self.core.shared.clock.now());
        let call = self.call.insert(backend.clone().try_acquire(self.request.clone()));
        let polling = &mut self.polling;
        let polled = poll_fn(|cx| {
            *polling = true;
            let answer = call.as_mut().poll(cx);
            *polling = false;
            answer
        });
        let Ok(answer) = tokio::time::timeout(bound, polled).await else {
            return Err(BackendError::unknown(format!("the store did not answer within {bound:?}")));
        };
        self.call = None;
        answer
    }

    /// A guard, or, if the grant came too late to be of use, a fresh start under another nonce.
    fn accept(&mut self, grant: &Grant, sent: Mono, options: &Options) -> Result<Option<Guard>, LockError> {
        let shared = self.core.shared.clone();
        let now = shared.clock.now();
        if let Some(deadline) = in_time(&self.request, grant, sent, now) {
            self.asked = false;
            let times = Times { started: self.started, now, deadline };
            let place = self.place.take();
            let guard = accept(&self.core, place, self.request.clone(), self.unsettled, grant, &times, options);
            shared.check_open()?;
            if guard.is_held() {
                return Ok(Some(guard));
            }
        }
        self.withdraw();
        self.begun_anew = true;
        // Nothing of the fresh one is under way.
        (self.request.nonce, self.request.since, self.unsettled) = (Nonce::fresh(), now, false);
        if self.request.intent != Intent::Try {
            self.request.intent = Intent::Wait;
        }
        Ok(None)
    }

    fn found_busy(&mut self, busy: &Busy, options: &Options) -> Result<(), LockError> {
        let (key, now) = (&self.request.key, self.core.shared.clock.now());
        self.sight.busy(busy.holder.clone(), now);
        self.failing = None;
        // Neither a try that was answered nor a poll of a store that notes nobody has left anything to withdraw.
        self.left_nothing = self.request.intent == Intent::Try
            || (self.core.shared.backend.capabilities().keeps_no_queue() && !busy.noted);
        if self.request.intent == Intent::Try {
            return Err(LockError::Held { key: key.clone(), holder: busy.holder.clone() });
        }
        self.found_busy += 1;
        if self.found_busy >= options.retry.attempts_allowed() {
            return Err(self.sight.gave_up(key, self.started, now));
        }
        if self.found_busy == 1 && !self.told_waiting {
            self.core.shared.observe(|| Observed::Waiting { key, position: busy.position });
        }
        Ok(())
    }

    fn found_failing(
        &mut self,
        error: BackendError,
        sent: Mono,
        failures: u32,
        options: &Options,
    ) -> Result<(), LockError> {
        let shared = &self.core.shared;
        self.unsettled |= error.applied() == Applied::Unknown;
        if !error.is_retryable() {
            return Err(error.into());
        }
        let now = shared.clock.now();
        // What those before went through counts, as far as this one has waited for them.
        let since = *self.failing.get_or_insert(sent);
        let since = self.sight.failed(error.clone(), sent, now).min(since).max(self.started);
        let tried_enough = self.request.intent == Intent::Try && failures >= TRY_ATTEMPTS;
        if tried_enough || now.since(since) >= options.patience {
            return Err(error.into());
        }
        let (key, backend) = (shared.shown(&self.request.key), shared.backend_name());
        let attempt = self.attempt;
        tracing::warn!(target: "tasklock", %key, backend, attempt, "store failed, will be asked again: {error}");
        Ok(())
    }

    /// Leaves nothing of this nonce at the store.
    fn withdraw(&mut self) {
        if !std::mem::take(&mut self.asked) || (self.left_nothing && !self.unsettled) {
            return;
        }
        let shared = &self.core.shared;
        // A call that panicked cannot be driven on.
        let call = self.call.take().filter(|_| !self.polling);
        let unsettled = std::mem::take(&mut self.unsettled) || self.polling;
        let claim = Claim { unsettled, ..Claim::of(&self.request) };
        if call.is_none() && matches!(shared.backend.release_now(&claim), Some(Ok(_))) {
            return;
        }
        shared.drive(Box::pin(release::withdraw(shared, claim, call)));
    }
}

impl Drop for Pursuit {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// Most acquisitions meet no error: the policy is started by the first.
fn next_error_pause(pauses: &mut Option<Pauses>) -> Duration {
    pauses.get_or_insert_with(|| ERROR_PAUSES.start()).next()
}

/// Says who is waited for, again and again, each time after twice as long; and shows those behind that this one is polled.
async fn attend(
    shared: &Shared,
    key: &Key,
    started: Mono,
    sight: &Sight,
    mut warn_after: Duration,
    looking: Option<Looking>,
) -> Infallible {
    // Said already, while it stood in line.
    while started.after(warn_after) < shared.clock.now() {
        warn_after *= 2;
    }
    loop {
        let (now, warn_at) = (shared.clock.now(), started.after(warn_after));
        let look_at = looking.as_ref().map_or(Mono::NEVER, |looking| looking.look(now));
        shared.clock.sleep_until(look_at.min(warn_at)).await;
        if shared.clock.now() >= warn_at {
            warn(shared, key, warn_after, sight.holder(shared.clock.now()));
            warn_after *= 2;
        }
    }
}
