//! What is known of a lock held: what the keeper writes to it, and its holders read.

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    Claim, Clock, FencingToken, LockError, LossReason, Mono, Renew, Ttl, Validity, handoff::Reserve, options::Options,
    registry::Place,
};

/// Where a hold is in its life. It leaves `Held` once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Held,
    Released,
    Lost(LossReason),
}

/// The state behind a [`Lease`](crate::Lease).
pub(crate) struct Hold {
    /// What the store has: its token is that of the grant, whichever task of this process has the lock since.
    pub(crate) claim: Claim,
    /// The token of this hold.
    token: FencingToken,
    /// What of the grant may be handed on when this ends; none if it was not acquired in line.
    reserve: Option<Reserve>,
    pub(crate) acquired: Mono,
    renew: Renew,
    /// Where the registry keeps it.
    pub(crate) place: Place,
    pub(crate) clock: Clock,
    /// When it was granted, or the renewal sent that was answered last.
    renewed: AtomicU64,
    /// The deadline as the store has it.
    lasts: AtomicU64,
    /// The same, but for the maximum hold and for renewals under way: what its holder goes by.
    deadline: AtomicU64,
    /// The ttl to renew for, in nanoseconds; an extension changes it.
    ttl: AtomicU64,
    /// The shortest ttl of an attempt or renewal whose fate is unknown: it may reach the store after a longer one, and
    /// cut it.
    unknown_ttl: AtomicU64,
    /// The longest ttl, in nanoseconds, that the store may have it for: for so long it is to be released.
    longest_ttl: AtomicU64,
    /// No deadline goes beyond the maximum hold.
    max_until: Mono,
    /// Who releases sooner has it kept back until then.
    pub(crate) min_until: Option<Mono>,
    /// Its guard is gone, and it is held until its minimum is over.
    kept_back: AtomicBool,
    failing: AtomicBool,
    /// A renewal for less than the ttl was sent: whether or not it is answered, it may reach the store late.
    cut: AtomicBool,
    /// Whether an update of its value may reach the store yet, which would take it for the next hold's.
    writing: AtomicBool,
    /// Granted for less than its ttl, until the first renewal.
    confirming: AtomicBool,
    /// Renewals in a row that were not answered.
    unanswered: AtomicU8,
    /// When its holder is warned about next.
    warn_at: AtomicU64,
    /// A phase in the low bits, marks above.
    phase: AtomicU8,
    /// Rung when a renewal ends, and when the guard of a lost hold goes.
    changed: Notify,
    signals: OnceLock<Signals>,
}

#[derive(Default)]
pub(crate) struct Signals {
    pub(crate) lost: CancellationToken,
    pub(crate) ended: CancellationToken,
}

/// A lock that never ends needs no renewal, but its holder is to learn that it was broken.
const PERMANENT: u64 = 30_000_000_000;
const LONG: u64 = 10;
const HELD: u8 = 0;
const RELEASED: u8 = 1;
const LOST: u8 = 2;
/// Somebody has asked for the signals, so they must be given.
const WATCHED: u8 = 0x80;
/// A renewal is talking to the store. A release waits for it, and none begins once the hold has ended: so no renewal
/// follows a release.
const BUSY: u8 = 0x40;
/// The guard is gone, after the hold was lost.
const UNGUARDED: u8 = 0x20;
const MARKS: u8 = WATCHED | BUSY | UNGUARDED;
const REASONS: [LossReason; 5] =
    [LossReason::Expired, LossReason::Stolen, LossReason::Unreachable, LossReason::SessionClosed, LossReason::ShutDown];

impl Hold {
    /// A hold that may be believed until `deadline`.
    pub(crate) fn new(claim: Claim, options: &Options, clock: Clock, now: Mono, deadline: Mono) -> Self {
        let max_until = options.max_hold.map_or(Mono::NEVER, |max| now.after(max));
        let ttl = nanos(claim.ttl);
        Hold {
            acquired: now,
            renew: options.renew,
            place: Place::default(),
            clock,
            token: claim.token.unwrap_or(FencingToken::NONE),
            reserve: None,
            renewed: AtomicU64::new(now.as_nanos()),
            lasts: AtomicU64::new(deadline.as_nanos()),
            deadline: AtomicU64::new(deadline.min(max_until).as_nanos()),
            ttl: AtomicU64::new(ttl),
            unknown_ttl: AtomicU64::new(if claim.unsettled { ttl } else { u64::MAX }),
            longest_ttl: AtomicU64::new(ttl),
            max_until,
            min_until: options.min_hold.map(|min| now.after(min)),
            kept_back: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            writing: AtomicBool::new(false),
            confirming: AtomicBool::new(false),
            unanswered: AtomicU8::new(0),
            warn_at: AtomicU64::new(now.as_nanos().saturating_add(ttl.saturating_mul(LONG))),
            phase: AtomicU8::new(HELD),
            changed: Notify::new(),
            signals: OnceLock::new(),
            claim,
        }
    }

    pub(crate) fn token(&self) -> FencingToken {
        self.token
    }

    /// From here on it is held for its minimum only, and for nobody: a shutdown lets it be.
    pub(crate) fn keep_back(&self) {
        self.kept_back.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_kept_back(&self) -> bool {
        self.kept_back.load(Ordering::SeqCst)
    }

    /// It may be handed on.
    pub(crate) fn line_up(&mut self, reserve: Reserve) {
        self.reserve = Some(reserve);
    }

    /// It was handed on, renewed last at this time, and has a token of its own.
    pub(crate) fn continue_tenure(&mut self, token: FencingToken, reserve: Reserve, renewed: Mono) {
        (self.token, self.reserve) = (token, Some(reserve));
        *self.renewed.get_mut() = renewed.as_nanos();
    }

    pub(crate) fn reserve(&self) -> Option<Reserve> {
        self.reserve
    }

    pub(crate) fn renewed(&self) -> Mono {
        Mono::from_nanos(self.renewed.load(Ordering::Acquire))
    }

    /// The deadline by which the next may go that this is handed to, and whether it may do so without a renewal. None
    /// if something may reach the store yet that cuts it short, or makes it longer.
    pub(crate) fn believed_by_the_next(&self) -> Option<(Mono, bool)> {
        let ttl = nanos(self.claim.ttl);
        let unknown = self.unknown_ttl.load(Ordering::Acquire);
        if self.writing.load(Ordering::Acquire)
            || self.cut.load(Ordering::Acquire)
            || unknown < ttl
            || (unknown != u64::MAX && self.longest_ttl.load(Ordering::Acquire) > ttl)
        {
            return None;
        }
        let unchanged = self.ttl.load(Ordering::Acquire) == ttl;
        let confirmed = !self.failing.load(Ordering::Acquire) && !self.is_confirming();
        Some((Mono::from_nanos(self.lasts.load(Ordering::Acquire)), unchanged && confirmed))
    }

    /// An update of the value is about to be sent; whether all before it were answered.
    pub(crate) fn begin_writing(&self) -> bool {
        !self.writing.swap(true, Ordering::AcqRel)
    }

    /// All updates of the value were answered.
    pub(crate) fn end_writing(&self) {
        self.writing.store(false, Ordering::Release);
    }

    pub(crate) fn phase(&self) -> Phase {
        phase_of(self.phase.load(Ordering::Acquire))
    }

    pub(crate) fn deadline(&self) -> Mono {
        Mono::from_nanos(self.deadline.load(Ordering::Acquire))
    }

    pub(crate) fn is_held(&self) -> bool {
        self.phase() == Phase::Held && self.within_its_time()
    }

    /// Whether its deadline is still to come, held or not.
    pub(crate) fn within_its_time(&self) -> bool {
        self.clock.now() < self.deadline()
    }

    pub(crate) fn ttl(&self) -> Ttl {
        ttl_of(self.ttl.load(Ordering::Acquire))
    }

    /// The claim as it is to be renewed now.
    pub(crate) fn claim_to_renew(&self) -> Claim {
        Claim { ttl: self.ttl(), ..self.claim.clone() }
    }

    /// The claim as it is to be released, whatever of what was sent has reached the store.
    pub(crate) fn claim_to_release(&self) -> Claim {
        Claim { ttl: ttl_of(self.longest_ttl.load(Ordering::Acquire)), ..self.claim.clone() }
    }

    /// How long after a renewal the next is due, if renewal is on: by the ttl that can be relied on.
    pub(crate) fn renew_after(&self) -> Option<Duration> {
        self.period().map(Duration::from_nanos)
    }

    /// The same in nanoseconds: every acquisition asks, and this divides less.
    pub(crate) fn period(&self) -> Option<u64> {
        period_of(self.renew, self.ttl.load(Ordering::Acquire).min(self.unknown_ttl.load(Ordering::Acquire)))
    }

    /// Whether a renewal that failed is to be tried again.
    pub(crate) fn must_be_renewed(&self) -> bool {
        self.is_confirming() || self.renew_after().is_some()
    }

    pub(crate) fn is_confirming(&self) -> bool {
        self.confirming.load(Ordering::Acquire)
    }

    /// It was granted for less than its ttl: the first renewal makes it whole.
    pub(crate) fn confirm_first(&mut self) {
        *self.confirming.get_mut() = true;
    }

    /// A ttl, or the shorter one that may reach the store yet.
    fn reliable(&self, ttl: Ttl) -> Ttl {
        ttl_of(nanos(ttl).min(self.unknown_ttl.load(Ordering::Acquire)))
    }

    /// The time in which a renewal must succeed: what is left, and never more than the ttl.
    pub(crate) fn urgency(&self, now: Mono) -> Duration {
        let left = self.deadline().since(now);
        self.ttl().duration().map_or(left, |ttl| ttl.min(left))
    }

    /// How many it may be renewed together with. A call that is not answered is not made again as large: one claim that
    /// hangs must not cost the others their leases.
    pub(crate) fn company(&self) -> usize {
        match self.unanswered.load(Ordering::Acquire) {
            0 => 512,
            1 => 8,
            _ => 1,
        }
    }

    /// Why it would be lost if its deadline passed now.
    pub(crate) fn reason_at_deadline(&self) -> LossReason {
        let at_its_maximum = self.max_until != Mono::NEVER && self.clock.now() >= self.max_until;
        if self.failing.load(Ordering::Acquire) && !at_its_maximum {
            LossReason::Unreachable
        } else {
            LossReason::Expired
        }
    }

    /// A renewal for `ttl` is being sent. Until it is answered, the store counts as not reached, and nothing beyond what
    /// the renewal asks for can be believed; whether that is less than before.
    pub(crate) fn renewal_sent(&self, ttl: Ttl, sent: Mono) -> bool {
        self.failing.store(true, Ordering::Release);
        if nanos(ttl) < nanos(self.claim.ttl) {
            self.cut.store(true, Ordering::Release);
        }
        let asked = deadline(ttl, sent, Validity::Session).as_nanos();
        asked < self.deadline.fetch_min(asked, Ordering::AcqRel)
    }

    /// A renewal for `ttl`, sent at `sent`, was answered: held, and by the store's own reckoning for `validity`.
    pub(crate) fn renewal_held(&self, ttl: Ttl, sent: Mono, validity: Validity) {
        self.failing.store(false, Ordering::Release);
        self.unanswered.store(0, Ordering::Release);
        self.confirming.store(false, Ordering::Release);
        self.ttl.store(nanos(ttl), Ordering::Release);
        if self.unknown_ttl.load(Ordering::Acquire) == u64::MAX {
            self.longest_ttl.store(nanos(ttl), Ordering::Release);
        }
        let deadline = deadline(self.reliable(ttl), sent, validity);
        self.lasts.store(deadline.as_nanos(), Ordering::Release);
        self.renewed.store(sent.as_nanos(), Ordering::Release);
        self.deadline.store(deadline.min(self.max_until).as_nanos(), Ordering::Release);
    }

    /// A renewal was not answered in time.
    pub(crate) fn renewal_unanswered(&self) {
        let more = |n: u8| Some(n.saturating_add(1));
        let _ = self.unanswered.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
    }

    /// A renewal for `ttl` has reached the store, or, if it is not known whether it did, may do so yet.
    pub(crate) fn renewal_reached(&self, ttl: Ttl, known: bool) {
        self.longest_ttl.fetch_max(nanos(ttl), Ordering::AcqRel);
        if !known {
            self.unknown_ttl.fetch_min(nanos(ttl), Ordering::AcqRel);
        }
    }

    /// Whether its deadline is that of its maximum hold: no renewal is late then.
    pub(crate) fn is_at_maximum(&self) -> bool {
        self.max_until != Mono::NEVER && self.deadline() == self.max_until
    }

    /// Whether it ends by itself if nothing happens.
    pub(crate) fn ends_by_itself(&self) -> bool {
        self.max_until != Mono::NEVER || (self.renew_after().is_none() && self.ttl() != Ttl::Never)
    }

    /// Whether it has been held for so many ttls that someone should know: ten, then twice as many each time.
    pub(crate) fn is_long(&self, now: Mono) -> bool {
        let at = Mono::from_nanos(self.warn_at.load(Ordering::Acquire));
        if now < at {
            return false;
        }
        self.warn_at.store(self.acquired.after(at.since(self.acquired) * 2).as_nanos(), Ordering::Release);
        true
    }

    /// Ends the hold, as lost or as released; false if it had ended before.
    pub(crate) fn end(&self, phase: Phase) -> bool {
        let code = match phase {
            Phase::Held => return false,
            Phase::Released => RELEASED,
            Phase::Lost(reason) => LOST + REASONS.iter().position(|r| *r == reason).map_or(0, |i| i as u8),
        };
        let ended = self.change(|now| Some(now | code));
        if ended.is_some_and(|before| before & WATCHED != 0) {
            self.give_signals(phase);
        }
        ended.is_some()
    }

    /// The right to renew, if it is held and nobody else is at it.
    pub(crate) fn begin_renewal(&self) -> bool {
        self.change(|now| (now & BUSY == 0).then_some(now | BUSY)).is_some()
    }

    /// The same, once whoever is at it is done; false if the hold has ended.
    pub(crate) async fn wait_to_renew(&self) -> bool {
        while !self.begin_renewal() {
            if self.phase() != Phase::Held {
                return false;
            }
            self.until_idle().await;
        }
        true
    }

    pub(crate) fn end_renewal(&self) {
        self.phase.fetch_and(!BUSY, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// Whether no renewal is talking to the store.
    pub(crate) fn is_idle(&self) -> bool {
        self.phase.load(Ordering::Acquire) & BUSY == 0
    }

    pub(crate) async fn until_idle(&self) {
        self.until(|phase| phase & BUSY == 0).await;
    }

    /// Its guard is gone, though it was lost before.
    pub(crate) fn let_go_by_guard(&self) {
        self.phase.fetch_or(UNGUARDED, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    pub(crate) fn is_unguarded(&self) -> bool {
        self.phase.load(Ordering::Acquire) & UNGUARDED != 0
    }

    /// Completes once the guard of a lost hold is gone.
    pub(crate) async fn until_unguarded(&self) {
        self.until(|phase| phase & UNGUARDED != 0).await;
    }

    async fn until(&self, reached: impl Fn(u8) -> bool + Send) {
        loop {
            let changed = self.changed.notified();
            if reached(self.phase.load(Ordering::Acquire)) {
                return;
            }
            changed.await;
        }
    }

    /// Changes the phase while it is held; the bits before, if they were changed.
    fn change(&self, to: impl Fn(u8) -> Option<u8>) -> Option<u8> {
        let held = |now| if phase_of(now) == Phase::Held { to(now) } else { None };
        self.phase.fetch_update(Ordering::AcqRel, Ordering::Acquire, held).ok()
    }

    /// What to tell a caller whose lock this no longer is.
    pub(crate) fn lost_error(&self) -> LockError {
        let reason = match self.phase() {
            Phase::Lost(reason) => reason,
            _ => self.reason_at_deadline(),
        };
        LockError::Lost { key: self.claim.key.clone(), token: self.token(), reason }
    }

    /// The signals, made when first asked for: most locks are held and released without anyone watching.
    pub(crate) fn signals(&self) -> &Signals {
        let signals = self.signals.get_or_init(Signals::default);
        // Whoever ends the hold after this sees the mark; whoever ended it before is seen here.
        let before = self.phase.fetch_or(WATCHED, Ordering::AcqRel);
        self.give_signals(phase_of(before));
        signals
    }

    fn give_signals(&self, phase: Phase) {
        let Some(signals) = self.signals.get() else { return };
        if let Phase::Lost(_) = phase {
            signals.lost.cancel();
        }
        if phase != Phase::Held {
            signals.ended.cancel();
        }
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("claim", &self.claim).field("phase", &self.phase()).finish_non_exhaustive()
    }
}

/// Until when a holder may believe a grant or renewal sent at `sent`: what the store says, but never more than the
/// ttl from the sending, less 1 % and 2 ms for clocks that run apart.
pub(crate) fn deadline(ttl: Ttl, sent: Mono, validity: Validity) -> Mono {
    let latest = ttl.duration().map_or(Mono::NEVER, |ttl| sent.after(ttl));
    let until = if let Validity::Until(until) = validity { until.min(latest) } else { latest };
    if until == Mono::NEVER {
        return until;
    }
    let (until, sent) = (until.as_nanos(), sent.as_nanos());
    Mono::from_nanos(until.saturating_sub(until.saturating_sub(sent) / 100 + MARGIN))
}

const MARGIN: u64 = 2_000_000;

/// How long after a grant or a renewal the next renewal is due, in nanoseconds; `None` if renewal is off.
pub(crate) fn period(renew: Renew, ttl: Ttl) -> Option<u64> {
    period_of(renew, nanos(ttl))
}

fn period_of(renew: Renew, ttl: u64) -> Option<u64> {
    let third = ttl / 3;
    match renew {
        Renew::Off => None,
        Renew::Auto if ttl == u64::MAX => Some(PERMANENT),
        Renew::Auto => Some(third),
        Renew::Every(period) => {
            let period = Mono::from_nanos(0).after(period).as_nanos();
            Some(if period <= third * 2 { period } else { third })
        }
    }
}

fn nanos(ttl: Ttl) -> u64 {
    ttl.duration().map_or(u64::MAX, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

fn ttl_of(nanos: u64) -> Ttl {
    if nanos == u64::MAX { Ttl::Never } else { Ttl::For(Duration::from_nanos(nanos)) }
}

fn phase_of(code: u8) -> Phase {
    match code & !MARKS {
        HELD => Phase::Held,
        RELEASED => Phase::Released,
        lost => Phase::Lost(REASONS.get(usize::from(lost - LOST)).copied().unwrap_or(LossReason::Expired)),
    }
}
