//! The one task of a locker: it renews its leases in time, ends those that could not be, and hears what the store
//! tells unasked.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use tokio::{sync::oneshot, task::JoinSet};

use crate::{
    Applied, BackendError, Claim, Event, LockError, LossReason, Mono, Nonce, Observed, Renewed, Ttl,
    lease::{Hold, Phase},
    lock::{BoxFuture, StepResult},
    registry::Due,
    shared::Shared,
};

/// The longest a renewal is waited for, and the pause after one that failed, as parts of the time left for it.
const CALL_PART: u32 = 4;
const PAUSE_PART: u32 = 24;
const LEAST_CALL: Duration = Duration::from_millis(2);
const LONGEST_CALL: Duration = Duration::from_secs(5);
/// The longest nap: timers stand still while the machine sleeps, and leases do not.
const NAP: Duration = Duration::from_secs(1);

pub(crate) struct Keeper {
    shared: Arc<Shared>,
    renewals: JoinSet<()>,
}

impl Keeper {
    /// Runs until the last locker and guard are gone. If the runtime goes first, dropping this closes the locker.
    pub(crate) async fn run(shared: Arc<Shared>, mut alive: oneshot::Receiver<Infallible>) {
        let mut keeper = Keeper { shared: shared.clone(), renewals: JoinSet::new() };
        let mut event = next_event(&shared);
        loop {
            tokio::select! {
                _ = &mut alive => break,
                () = nap(&shared) => keeper.scan(),
                () = shared.registry.sooner() => {}
                told = &mut event => {
                    keeper.told(told);
                    event = next_event(&shared);
                }
                Some(_) = keeper.renewals.join_next() => {}
            }
        }
        drop(event);
        keeper.end().await;
    }

    fn scan(&mut self) {
        let now = self.shared.clock.now();
        if now < self.shared.registry.wake_at() {
            return;
        }
        let Due { expired, mut renew } = self.shared.registry.scan(now);
        for hold in expired {
            self.shared.lose(&hold, hold.reason_at_deadline());
        }
        // Those go together that have about as much time left, for a call has one time bound, and that may.
        renew.sort_by_key(|hold| (hold.company(), hold.urgency(now)));
        let alike = |a: &Arc<Hold>, b: &Arc<Hold>| a.company() == b.company() && b.urgency(now) <= a.urgency(now) * 2;
        for alike in renew.chunk_by(alike) {
            for batch in alike.chunks(alike[0].company()) {
                self.renewals.spawn(renew_batch(self.shared.clone(), batch.to_vec()));
            }
        }
    }

    fn told(&self, event: Event) {
        match event {
            Event::Lost(nonce, reason) => self.lost(nonce, reason),
            Event::Recheck => self.shared.signal.send_modify(|signal| signal.rechecks += 1),
        }
    }

    fn lost(&self, nonce: Nonce, reason: LossReason) {
        for hold in self.shared.registry.find(|hold| hold.claim.nonce == nonce) {
            self.shared.lose(&hold, reason);
        }
    }

    async fn end(mut self) {
        self.renewals.shutdown().await;
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.shared.backend.close().await;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// Until the registry has something due, or for a while.
async fn nap(shared: &Shared) {
    match shared.registry.wake_at() {
        Mono::NEVER => pending().await,
        due => shared.clock.sleep_until(due.min(shared.clock.now().after(NAP))).await,
    }
}

fn next_event(shared: &Arc<Shared>) -> BoxFuture<'static, Event> {
    shared.backend.clone().event()
}

/// Renews these in one call and notes the outcome of each.
async fn renew_batch(shared: Arc<Shared>, holds: Vec<Arc<Hold>>) {
    // Those released since, or being extended by hand, are left out; of the others none is released meanwhile.
    let mut renewing = Vec::with_capacity(holds.len());
    for hold in holds {
        if hold.begin_renewal() {
            renewing.push(Renewing(hold));
        } else {
            let now = shared.clock.now();
            shared.registry.renewed(&hold, now.after(pause(&hold, now)));
        }
    }
    if !renewing.is_empty() {
        let _ = renew(&shared, &renewing).await;
    }
}

async fn renew(shared: &Arc<Shared>, renewing: &[Renewing]) -> Vec<Result<(), LockError>> {
    let claims: Vec<Claim> = renewing.iter().map(|r| r.0.claim_now()).collect();
    renewing.iter().for_each(|r| r.0.renewal_sent());
    let sent = shared.clock.now();
    let bound = renewing.iter().map(|r| r.0.urgency(sent)).min().unwrap_or(LONGEST_CALL) / CALL_PART;
    let bound = bound.clamp(LEAST_CALL, LONGEST_CALL);
    let outcomes = tokio::time::timeout(bound, shared.backend.renew(&claims)).await;
    if outcomes.is_err() {
        renewing.iter().for_each(|r| r.0.renewal_unanswered());
    }
    let mut outcomes = outcomes.unwrap_or_default().into_iter();
    let unanswered = || Err(BackendError::unknown("no answer to a renewal in time"));
    let settle =
        |(r, claim): (&Renewing, &Claim)| settle(shared, &r.0, claim, sent, outcomes.next().unwrap_or_else(unanswered));
    renewing.iter().zip(&claims).map(settle).collect()
}

/// Notes the outcome of one renewal, unless the hold has ended meanwhile.
fn settle(
    shared: &Arc<Shared>,
    hold: &Arc<Hold>,
    claim: &Claim,
    sent: Mono,
    outcome: StepResult<Renewed>,
) -> Result<(), LockError> {
    if hold.phase() != Phase::Held {
        return Err(hold.lost_error());
    }
    let now = shared.clock.now();
    match outcome {
        Ok(Renewed::Held { token, .. }) if token.is_some() && token != claim.token => {
            shared.lose(hold, LossReason::Stolen);
            Err(hold.lost_error())
        }
        Ok(Renewed::Held { validity, .. }) => {
            warn_if_late_or_long(shared, hold, now);
            hold.renewal_held(claim.ttl, sent, validity);
            shared.registry.renewed(hold, hold.renew_after().map_or(Mono::NEVER, |after| sent.after(after)));
            shared.observe(|| Observed::Renewed { key: &claim.key, error: None });
            Ok(())
        }
        Ok(Renewed::NotOwner) => {
            shared.lose(hold, LossReason::Stolen);
            Err(hold.lost_error())
        }
        Err(error) => {
            if error.applied() == Applied::Unknown {
                hold.renewal_unknown(claim.ttl);
            }
            let (key, backend) = (shared.shown(&claim.key), shared.backend_name());
            let left = hold.deadline().since(now);
            tracing::warn!(target: "tasklock", %key, backend, ?left, "renewal failed, will be tried again: {error}");
            shared.registry.renewed(hold, now.after(pause(hold, now)));
            shared.observe(|| Observed::Renewed { key: &claim.key, error: Some(&error) });
            Err(error.into())
        }
    }
}

/// A renewal that comes in the last third of its lease is one stall away from loss; a lock held for many times its ttl
/// may have been forgotten.
fn warn_if_late_or_long(shared: &Shared, hold: &Hold, now: Mono) {
    let (Some(every), Some(ttl)) = (hold.renew_every, hold.ttl().duration()) else { return };
    let (key, backend) = (shared.shown(&hold.claim.key), shared.backend_name());
    let left = hold.deadline().since(now);
    if every <= ttl / 3 && left < ttl / 3 {
        tracing::warn!(target: "tasklock", %key, backend, ?left, "renewal late");
    }
    if hold.is_long(now) {
        tracing::warn!(target: "tasklock", %key, backend, held = ?now.since(hold.acquired), ?ttl, "held over many ttls");
    }
}

fn pause(hold: &Hold, now: Mono) -> Duration {
    (hold.urgency(now) / PAUSE_PART).min(LONGEST_CALL)
}

/// A hold being renewed, until this is dropped.
struct Renewing(Arc<Hold>);

impl Drop for Renewing {
    fn drop(&mut self) {
        self.0.end_renewal();
    }
}

/// Renews one hold by hand, for another ttl.
pub(crate) async fn extend(shared: Arc<Shared>, hold: Arc<Hold>, ttl: Ttl) -> Result<(), LockError> {
    if !hold.wait_to_renew().await {
        return Err(hold.lost_error());
    }
    let renewing = [Renewing(hold)];
    renewing[0].0.set_ttl(ttl);
    renew(&shared, &renewing).await.pop().unwrap_or(Ok(()))
}
