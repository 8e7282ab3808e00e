//! Standing in line behind others of this process.

use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{pursuit::Pursuit, request, warn};
use crate::{
    Guard, Intent, Key, LockError, Mono, Observed,
    core_ref::CoreRef,
    hold::Phase,
    lock::BoxFuture,
    options::Options,
    queue::{Place, Told},
    runtime::InRuntime,
};

/// An acquisition that others of this process are before. Dropped, it leaves the line, and nothing at the store.
pub(super) struct Standing {
    pub(super) core: CoreRef,
    pub(super) place: Place,
    pub(super) key: Key,
    pub(super) started: Mono,
    /// Dropped last: a shutdown waits until it has passed on what it was handed.
    pub(super) leaving: TaskTrackerToken,
}

impl Standing {
    /// Boxed, and apart from what only those need whose time is bounded, or who have come to the front.
    pub(super) fn run(self, options: &Options) -> BoxFuture<'_, Result<Guard, LockError>> {
        match options.end_of_wait(self.started) {
            Mono::NEVER => Box::pin(self.wait(options)),
            give_up => Box::pin(self.wait_until(give_up, options)),
        }
    }

    /// Whoever waits for ever is woken by what it is told and by nothing else: no timer of its own.
    async fn wait(mut self, options: &Options) -> Result<Guard, LockError> {
        match self.stand(options).await? {
            Some(guard) => Ok(guard),
            None => self.ask(options).await,
        }
    }

    async fn wait_until(mut self, give_up: Mono, options: &Options) -> Result<Guard, LockError> {
        let shared = self.core.shared.clone();
        let (key, started, line) = (self.key.clone(), self.started, self.place.line());
        let bounded = async {
            tokio::select! {
                biased;
                stood = self.stand(options) => return stood,
                () = shared.clock.sleep_until(give_up) => {}
            }
            let now = shared.clock.now();
            let error = line.gave_up(started, now);
            if let LockError::Timeout { waited, .. } = error {
                shared.observe(|| Observed::TimedOut { key: &key, waited });
            }
            Err(error)
        };
        match InRuntime::new(&shared, bounded).await? {
            Some(guard) => Ok(guard),
            None => self.ask(options).await,
        }
    }

    fn ask(self, options: &Options) -> InRuntime<'_, Guard> {
        let Standing { core, place, key, started, leaving: _leaving } = self;
        let request = request(key, Intent::Wait, options, core.shared.clock.now());
        let mut pursuit = Box::new(Pursuit::new(&core, Some(place), request, started, None));
        pursuit.told_waiting = true;
        InRuntime::new(&core.shared, pursuit.run(options))
    }

    /// Until it is handed the hold, or, without a guard, may ask the store.
    async fn stand(&mut self, options: &Options) -> Result<Option<Guard>, LockError> {
        let Standing { core, place, key, started, .. } = self;
        let shared = &core.shared;
        let mut warn_after = options.warn_after;
        shared.observe(|| Observed::Waiting { key, position: None });
        loop {
            // Who came while the locker was being closed may not have been told.
            shared.check_open()?;
            // Those before ask for this one, too, and what they go through is its patience as well.
            if let Some(error) = place.sight().out_of_patience(*started, options.patience, shared.clock) {
                return Err(error.into());
            }
            if place.may_ask() {
                return Ok(None);
            }
            let told = place.told().await;
            let now = shared.clock.now();
            match told {
                Told::Handed(baton) => {
                    if let Some(hold) = baton.begin(options, now) {
                        let guard = core.guard(hold);
                        shared.acquired(guard.key(), guard.fencing_token(), now.since(*started));
                        shared.check_open()?;
                        if guard.lease().0.phase() == Phase::Held {
                            return Ok(Some(guard));
                        }
                    }
                    // It was lost, or its time over, before it was taken up.
                    if let Some(again) = Place::take(core, key, options, now) {
                        *place = again;
                    }
                }
                Told::Turn => {}
                Told::Closed => return Err(LockError::ShutDown),
                Told::Look => {
                    place.look(now);
                    if now >= started.after(warn_after) {
                        warn(shared, key, warn_after, place.line().holder(now));
                        warn_after *= 2;
                    }
                }
            }
        }
    }
}
