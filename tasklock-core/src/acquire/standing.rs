//! Standing in line behind others of this process.

use super::{end_of_wait, pursuit::Pursuit, request, warn};
use crate::{
    Guard, Intent, Key, LockError, Mono, Observed,
    core_ref::CoreRef,
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
}

/// What standing in line comes to.
enum Stood {
    Handed(Guard),
    MayAsk(Standing),
}

impl Standing {
    /// Whoever waits for ever is woken by what it is told and by nothing else: no timer of its own.
    pub(super) async fn run(self, options: &Options) -> Result<Guard, LockError> {
        let shared = self.core.shared.clone();
        let give_up = end_of_wait(options, self.started);
        let stood = if give_up == Mono::NEVER {
            self.stand(options).await?
        } else {
            let (key, started) = (self.key.clone(), self.started);
            let (line, stand) = (self.place.line(), self.stand(options));
            let bounded = async {
                tokio::select! {
                    biased;
                    stood = stand => return stood,
                    () = shared.clock.sleep_until(give_up) => {}
                }
                let now = shared.clock.now();
                let error = line.gave_up(started, now);
                if let LockError::Timeout { waited, .. } = error {
                    shared.observe(|| Observed::TimedOut { key: &key, waited });
                }
                Err(error)
            };
            InRuntime::new(&shared, bounded).await?
        };
        match stood {
            Stood::Handed(guard) => Ok(guard),
            Stood::MayAsk(standing) => {
                let Standing { core, place, key, started } = standing;
                let now = shared.clock.now();
                let request = request(key, Intent::Wait, options, now);
                let mut pursuit = Box::new(Pursuit::new(&core, Some(place), request, started, None));
                pursuit.told_waiting = true;
                InRuntime::new(&shared, pursuit.run(options)).await
            }
        }
    }

    async fn stand(mut self, options: &Options) -> Result<Stood, LockError> {
        let shared = self.core.shared.clone();
        let _leaving = shared.waiters.token();
        let mut warn_after = options.warn_after;
        shared.observe(|| Observed::Waiting { key: &self.key, position: None });
        loop {
            // Who came while the locker was being closed may not have been told.
            shared.check_open()?;
            self.check_patience(options)?;
            if self.place.may_ask() {
                return Ok(Stood::MayAsk(self));
            }
            let told = self.place.told().await;
            let now = shared.clock.now();
            match told {
                Told::Handed(baton) => {
                    if let Some(hold) = baton.begin(options, now) {
                        let guard = self.core.guard(hold);
                        shared.acquired(guard.key(), guard.fencing_token(), now.since(self.started));
                        // Lost already, if the locker was shut down meanwhile.
                        return guard.check().map(|()| Stood::Handed(guard));
                    }
                    // Its time was over before it was taken up.
                    if let Some(place) = Place::take(&shared, &self.key, options, now) {
                        self.place = place;
                    }
                }
                Told::Turn => {}
                Told::Closed => return Err(LockError::ShutDown),
                Told::Look => {
                    self.place.look(now);
                    if now >= self.started.after(warn_after) {
                        warn(&shared, &self.key, warn_after, self.place.line().holder(now));
                        warn_after *= 2;
                    }
                }
            }
        }
    }

    /// Those before ask for this one, too, and what they go through is its patience as well.
    fn check_patience(&self, options: &Options) -> Result<(), LockError> {
        let clock = self.core.shared.clock;
        match self.place.sight().out_of_patience(self.started, options.patience, clock) {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}
