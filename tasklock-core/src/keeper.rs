//! The one task of a locker: it renews its leases in time, ends those that could not be, and hears what the store
//! tells unasked.

use std::{
    convert::Infallible,
    future::pending,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    task::{JoinError, JoinSet},
};

use crate::{
    Claim, Event, LockError, LossReason, Mono, Ttl,
    hold::{Hold, Phase},
    registry::Due,
    renewal::{self, LONGEST_CALL, Renewal},
    shared::Shared,
};

/// The longest a renewal is waited for, and the pause after one that failed, as parts of the time left for it.
const CALL_PART: u32 = 4;
const PAUSE_PART: u32 = 12;
/// No pause is shorter than this part of the ttl, or than this.
const LEAST_PAUSE_PART: u32 = 100;
const LEAST_PAUSE: Duration = Duration::from_millis(250);
const LEAST_CALL: Duration = Duration::from_millis(2);
/// Thousands in line are due each at a time of its own, and a look is one at all of them, and at all leases.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// The longest nap: timers stand still while the machine sleeps, and leases do not.
const NAP: Duration = Duration::from_secs(1);

pub(crate) struct Keeper {
    shared: Arc<Shared>,
    renewals: JoinSet<()>,
    /// The backend's next event; a task, so that a panic there ends the listening and no more.
    events: JoinSet<Event>,
}

impl Keeper {
    /// Dropping it closes its locker, whether it ever ran or not.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Keeper { shared, renewals: JoinSet::new(), events: JoinSet::new() }
    }

    /// Runs until the last locker and guard are gone, or the runtime.
    pub(crate) async fn run(self, mut alive: oneshot::Receiver<Infallible>) {
        let mut keeper = self;
        let shared = keeper.shared.clone();
        keeper.events.spawn(shared.backend.clone().event());
        loop {
            tokio::select! {
                _ = &mut alive => break,
                () = nap(&shared) => keeper.scan(),
                () = shared.registry.sooner() => {}
                Some(told) = keeper.events.join_next() => keeper.told(told).await,
                Some(_) = keeper.renewals.join_next() => {}
            }
        }
        keeper.end().await;
    }

    fn scan(&mut self) {
        let now = self.shared.clock.now();
        if now < self.shared.registry.wake_at() {
            return;
        }
        let Due { expired, renew } = self.shared.registry.scan(now);
        self.shared.grow_up_by(now);
        if let Some(queue) = &self.shared.queue {
            self.shared.registry.wake_by(queue.pass_over(now).max(now.after(LOOK_PAUSE)));
        }
        for hold in expired {
            self.shared.lose(&hold, hold.reason_at_deadline());
        }
        // Those go together that have about as much time left, for a call has one time bound, and that may. Both are
        // read once: they change meanwhile.
        let mut renew: Vec<_> = renew.into_iter().map(|hold| (hold.company(), hold.urgency(now), hold)).collect();
        renew.sort_by_key(|(company, urgency, _)| (*company, *urgency));
        let mut rest = &renew[..];
        while let [(company, urgency, _), ..] = rest {
            let alike = rest.iter().take(*company).take_while(|one| one.0 == *company && one.1 <= *urgency * 2).count();
            let (batch, others) = rest.split_at(alike);
            let batch = batch.iter().map(|(_, _, hold)| hold.clone()).collect();
            self.renewals.spawn(renew_batch(self.shared.clone(), batch));
            rest = others;
        }
    }

    async fn told(&mut self, event: Result<Event, JoinError>) {
        match event {
            Ok(Event::Lost(nonce, reason)) => self.shared.lose_nonce(nonce, reason),
            Ok(Event::Recheck) => self.shared.signal.send_modify(|signal| signal.rechecks += 1),
            Err(panic) => {
                let backend = self.shared.backend_name();
                tracing::error!(target: "tasklock", backend, "backend no longer tells events: {panic}");
                return;
            }
        }
        self.events.spawn(self.shared.backend.clone().event());
        // However much it has to tell, others have their turn.
        tokio::task::yield_now().await;
    }

    async fn end(mut self) {
        self.renewals.shutdown().await;
        self.events.shutdown().await;
        self.shared.drain(async {}).await;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // It ends by itself when nobody is left; else its runtime is going.
        self.shared.gone.store(true, Ordering::Release);
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

/// Renews these in one call and notes the outcome of each.
async fn renew_batch(shared: Arc<Shared>, holds: Vec<Arc<Hold>>) {
    // Those released since, or being extended by hand, are left out; of the others none is released meanwhile.
    let mut renewing = Vec::with_capacity(holds.len());
    for hold in holds {
        if hold.begin_renewal() {
            renewing.push(Renewing { shared: shared.clone(), hold });
        } else {
            again_soon(&shared, &hold);
        }
    }
    if !renewing.is_empty() {
        let _ = renew(&shared, &renewing, None, None).await;
    }
}

/// Renews these, for the ttl each has or for this one; the first with a value, if there is one.
async fn renew(
    shared: &Arc<Shared>,
    renewing: &[Renewing],
    ttl: Option<Ttl>,
    value: Option<&str>,
) -> Vec<Result<(), LockError>> {
    let claim = |r: &Renewing| {
        let claim = r.hold.claim_to_renew();
        Claim { ttl: ttl.unwrap_or(claim.ttl), ..claim }
    };
    let claims: Vec<Claim> = renewing.iter().map(claim).collect();
    let sent = shared.clock.now();
    let bound = renewing.iter().map(|r| r.hold.urgency(sent)).min().unwrap_or(LONGEST_CALL) / CALL_PART;
    for (r, claim) in renewing.iter().zip(&claims) {
        if r.hold.renewal_sent(claim.ttl, sent) {
            shared.registry.hurry(&r.hold);
        }
    }
    let writes = value.is_some() && renewing[0].hold.begin_writing();
    let renewals = renewal::ask(shared, &claims, value, bound.clamp(LEAST_CALL, LONGEST_CALL)).await;
    if !renewals.in_time {
        renewing.iter().for_each(|r| r.hold.renewal_unanswered());
    }
    if writes && renewals.each.first().is_some_and(|renewal| !renewal.is_unknown()) {
        renewing[0].hold.end_writing();
    }
    let settled = renewing.iter().zip(&claims).zip(renewals.each);
    settled.map(|((r, claim), renewal)| settle(shared, &r.hold, claim, sent, renewal)).collect()
}

/// Notes the outcome of one renewal, unless the hold has ended meanwhile.
fn settle(
    shared: &Arc<Shared>,
    hold: &Arc<Hold>,
    claim: &Claim,
    sent: Mono,
    renewal: Renewal,
) -> Result<(), LockError> {
    // Also of one that was given back meanwhile: its release goes by that.
    if renewal.is_unknown() || matches!(renewal, Renewal::Held { .. }) {
        hold.renewal_reached(claim.ttl, !renewal.is_unknown());
    }
    if hold.phase() != Phase::Held {
        return Err(hold.lost_error());
    }
    let now = shared.clock.now();
    let lost = match &renewal {
        // Whoever looked since its deadline was told that it is lost; so it is.
        Renewal::Held { .. } if now >= hold.deadline() => Some(hold.reason_at_deadline()),
        Renewal::Stolen => Some(LossReason::Stolen),
        _ => None,
    };
    if let Some(reason) = lost {
        shared.lose(hold, reason);
        return Err(hold.lost_error());
    }
    renewal.tell(shared, claim, hold.deadline().since(now));
    match renewal {
        Renewal::Held { validity, .. } => {
            warn_if_late_or_long(shared, hold, now);
            hold.renewal_held(claim.ttl, sent, validity);
            shared.registry.renewed(hold, hold.renew_after().map_or(Mono::NEVER, |after| sent.after(after)));
            Ok(())
        }
        Renewal::Stolen => Err(hold.lost_error()),
        Renewal::Failed(error) => {
            again_soon(shared, hold);
            Err(error.into())
        }
    }
}

/// A renewal that comes in the last third of its lease is one stall away from loss; a lock held for many times its ttl
/// may have been forgotten.
fn warn_if_late_or_long(shared: &Shared, hold: &Hold, now: Mono) {
    let (Some(after), Some(ttl)) = (hold.renew_after(), hold.ttl().duration()) else { return };
    let (key, backend) = (shared.shown(&hold.claim.key), shared.backend_name());
    let left = hold.deadline().since(now);
    if after <= ttl / 3 && left < ttl / 3 && !hold.is_at_maximum() && !hold.is_confirming() {
        tracing::warn!(target: "tasklock", %key, backend, ?left, "renewal late");
    }
    if hold.is_long(now) {
        tracing::warn!(target: "tasklock", %key, backend, held = ?now.since(hold.acquired), ?ttl, "held over many ttls");
    }
}

/// The next renewal after one that failed, if there is to be one.
fn again_soon(shared: &Shared, hold: &Arc<Hold>) {
    let now = shared.clock.now();
    let least = match hold.ttl().duration() {
        // However long its ttl, the claim is what it has.
        _ if hold.is_confirming() => LEAST_CALL,
        ttl => ttl.map_or(LEAST_PAUSE, |ttl| (ttl / LEAST_PAUSE_PART).min(LEAST_PAUSE)),
    };
    let pause = (hold.urgency(now) / PAUSE_PART).clamp(least, LONGEST_CALL);
    shared.registry.renewed(hold, if hold.must_be_renewed() { now.after(pause) } else { Mono::NEVER });
}

/// A hold being renewed, until this is dropped.
struct Renewing {
    shared: Arc<Shared>,
    hold: Arc<Hold>,
}

impl Drop for Renewing {
    fn drop(&mut self) {
        self.hold.end_renewal();
        if std::thread::panicking() {
            // One renewal that panics is one that failed.
            again_soon(&self.shared, &self.hold);
        }
    }
}

/// Renews one hold by hand, with a value if there is one, and if that succeeds, for this ttl from now on.
pub(crate) async fn extend(
    shared: Arc<Shared>,
    hold: Arc<Hold>,
    ttl: Ttl,
    value: Option<String>,
) -> Result<(), LockError> {
    if !hold.wait_to_renew().await {
        return Err(hold.lost_error());
    }
    let renewing = [Renewing { shared: shared.clone(), hold }];
    renew(&shared, &renewing, Some(ttl), value.as_deref()).await.pop().unwrap_or(Ok(()))
}
