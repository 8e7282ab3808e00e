//! Handing a hold from task to task, without asking the store.
//!
//! What the store has is a *tenure*: one nonce, that of the task it granted to, held until nobody of this process is to
//! have it next. Within a tenure each task has a [`Hold`] of its own, under that nonce and under a token of its own, and
//! each ends by itself: lost, released, at its own maximum. So a guard, its lease, its observer and its signals know
//! nothing of the others. One hold of a tenure is there at a time:
//!
//! 1. A hold that is *released* passes its tenure on, to the one in front of the line (`queue.rs`): with the next of the
//!    tokens that were reserved, if there is one and the deadline, read in the same step, is far enough away.
//! 2. Else the tenure is renewed first, in the background, and more tokens reserved with it. The answer says whether
//!    others wait at the store. If so, this process has one more round of hand-overs if it had none yet, and gives the
//!    lock up if it had; so it does if the store does not answer. A tenure that was stolen ends here.
//! 3. A hold that is *lost* passes nothing on. Its guard releases as ever, and those in line ask the store.
//! 4. What is handed on is a [`Baton`]: whoever drops it, cancelled in the moment of the hand-over or on the way there,
//!    hands it on or gives it back.
//!
//! Between the release of one hold and the taking of the next nobody holds; a loss told meanwhile, by nonce, meets the
//! next hold when it begins.

use std::{
    num::NonZeroU32,
    slice,
    sync::{Arc, atomic::Ordering},
    task::Waker,
    time::Duration,
};

use crate::{
    BackendError, Claim, FencingToken, Grant, Key, Mono, Nonce, Observed, Released, Renewed, Span,
    lease::{self, Hold},
    options::Options,
    queue::{CLAIM, Next},
    release,
    shared::Shared,
};

/// For how long a process goes on without looking whether others wait.
const LONGEST: Duration = Duration::from_millis(10);
/// To how many it hands on once others wait.
const MOST: usize = 64;
/// How many tokens are reserved at a time, if as many were used up before.
const WIDEST: u32 = 1024;
/// The longest a renewal is waited for.
const CALL_BOUND: Duration = Duration::from_secs(5);

/// A hold at the store, between two tasks of this process.
pub(crate) struct Tenure {
    /// As the store knows it: under the token it was granted with.
    pub(crate) claim: Claim,
    /// The last token given out.
    token: FencingToken,
    reserve: Reserve,
    deadline: Mono,
    /// When it was granted or renewed last.
    renewed: Mono,
    /// Nothing speaks against believing the deadline.
    sound: bool,
    /// A renewal that is still under way.
    busy: Option<Arc<Hold>>,
}

/// What of a tenure is left to be handed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reserve {
    /// The last token that may be given out.
    last: u64,
    /// When to look whether others wait.
    until: Mono,
    /// How many tokens were reserved last; none before the first renewal.
    width: u32,
}

impl Reserve {
    /// Of a tenure that begins.
    pub(crate) fn of(grant: &Grant, now: Mono) -> Self {
        let more = grant.span.get() - 1;
        let first = grant.token.map_or(0, FencingToken::get);
        Reserve { last: first.saturating_add(u64::from(more)), until: now.after(LONGEST), width: more }
    }
}

/// Whether a tenure can be handed on.
pub(crate) enum Ready {
    Yes,
    AfterRenewal,
}

impl Tenure {
    /// Of a hold that was released just now; `None` if nobody else should rely on it.
    fn of(hold: &Arc<Hold>) -> Option<Self> {
        // Whether one that is over by the clock was ours to the last, the store knows.
        let reserve = hold.reserve().filter(|_| hold.within_its_time())?;
        // Looked at first: what becomes idle after this has noted what it did.
        let busy = (!hold.is_idle()).then(|| hold.clone());
        let (deadline, sound) = hold.believed_by_the_next()?;
        Some(Tenure {
            claim: hold.claim.clone(),
            token: hold.token(),
            reserve,
            deadline,
            renewed: hold.renewed(),
            sound,
            busy,
        })
    }

    pub(crate) fn next_token(&self) -> FencingToken {
        FencingToken::new(self.token.get().saturating_add(1))
    }

    /// Whether there is a token and time enough for the next, who may never renew it.
    pub(crate) fn ready(&self, now: Mono, unrenewed: bool) -> Ready {
        let long_enough = match self.claim.ttl.duration() {
            None => true,
            Some(ttl) if unrenewed => now < self.renewed.after(ttl / 10),
            Some(ttl) => self.deadline.since(now) >= ttl / 3,
        };
        let token_left = self.token.get() < self.reserve.last;
        let sound = self.sound && self.busy.is_none();
        if sound && long_enough && token_left && now < self.reserve.until { Ready::Yes } else { Ready::AfterRenewal }
    }

    /// How many tokens to reserve next, for so many who wait.
    fn width(&self, waiting: usize) -> u32 {
        let used_up = self.token.get() >= self.reserve.last;
        match self.reserve.width {
            0 => u32::try_from(waiting.clamp(1, MOST)).unwrap_or(1),
            width if used_up => (width * 2).min(WIDEST),
            width => width,
        }
    }

    /// Renewed until `deadline`, by a call sent at `sent`, with these tokens.
    fn renewed(&mut self, span: Span, deadline: Mono, sent: Mono, now: Mono) {
        let count = span.count.get();
        self.token = FencingToken::new(span.first.get() - 1);
        let last = self.token.get().saturating_add(u64::from(count));
        self.reserve = Reserve { last, until: now.after(LONGEST), width: count };
        (self.deadline, self.renewed, self.sound) = (deadline, sent, true);
    }

    async fn give_back(self, shared: Arc<Shared>) {
        if let Some(hold) = &self.busy {
            hold.until_idle().await;
        }
        release::withdraw(shared, self.claim, None).await;
    }
}

/// A tenure on its way from one task to the next. Dropped, it is given back to the store.
pub(crate) struct Baton {
    shared: Arc<Shared>,
    tenure: Option<Tenure>,
}

impl Baton {
    pub(crate) fn tenure(&self) -> Option<&Tenure> {
        self.tenure.as_ref()
    }

    /// The next hold of this tenure, for a task with these options; none if its time is over.
    pub(crate) fn begin(mut self, options: &Options, now: Mono) -> Option<Hold> {
        let tenure = self.tenure.take_if(|tenure| tenure.deadline > now)?;
        let token = tenure.next_token();
        let mut hold = Hold::new(tenure.claim, options, self.shared.clock, now, tenure.deadline);
        hold.continue_tenure(token, tenure.reserve, tenure.renewed);
        Some(hold)
    }

    /// Hands it to the next in line, at once or after a renewal, or gives it back.
    pub(crate) fn pass(self) {
        let shared = self.shared.clone();
        match shared.next_in_line(self) {
            Next::Handed(waker) => waker.into_iter().for_each(Waker::wake),
            Next::Renew(baton, waiting) => shared.drive(Box::pin(baton.renew(waiting))),
            Next::Nobody(baton) => drop(baton),
        }
    }

    /// Renews it, for so many who wait, and hands it on.
    async fn renew(mut self, waiting: usize) {
        let Some(tenure) = &mut self.tenure else { return };
        let shared = self.shared.clone();
        if let Some(hold) = tenure.busy.take() {
            hold.until_idle().await;
            if hold.believed_by_the_next().is_none() {
                return;
            }
        }
        let asked = Claim { span: NonZeroU32::new(tenure.width(waiting)), ..tenure.claim.clone() };
        let sent = shared.clock.now();
        let left = tenure.deadline.since(sent);
        if left.is_zero() {
            return;
        }
        let answer = tokio::time::timeout(left.min(CALL_BOUND), shared.backend.renew(slice::from_ref(&asked))).await;
        let answer = answer.ok().and_then(|answers| answers.into_iter().next());
        let answer = answer.unwrap_or_else(|| Err(BackendError::unknown("no answer to a renewal in time")));
        shared.observe(|| Observed::Renewed { key: &asked.key, error: answer.as_ref().err() });
        match answer {
            Ok(Renewed::Held { validity, token, waiters, more: Some(span) })
                if span.first > tenure.token && token.is_none_or(|token| Some(token) == asked.token) =>
            {
                let first_round = tenure.reserve.width == 0;
                if waiters != Some(0) && !first_round {
                    return;
                }
                tenure.renewed(span, lease::deadline(asked.ttl, sent, validity), sent, shared.clock.now());
                let most = if waiters == Some(0) { usize::MAX } else { MOST.min(span.count.get() as usize) };
                if let Some(queue) = &shared.queue {
                    queue.allow(&asked.key, asked.nonce, most, shared.clock.now());
                }
                match shared.next_in_line(self) {
                    Next::Handed(waker) => waker.into_iter().for_each(Waker::wake),
                    Next::Renew(baton, _) | Next::Nobody(baton) => drop(baton),
                }
            }
            Ok(Renewed::NotOwner) if !asked.unsettled => {
                self.tenure = None;
                shared.leave_line(&asked.key, asked.nonce);
            }
            Ok(_) => {}
            Err(error) => {
                let (key, backend) = (shared.shown(&asked.key), shared.backend_name());
                tracing::warn!(target: "tasklock", %key, backend, "renewal failed, given back: {error}");
            }
        }
    }
}

impl Drop for Baton {
    fn drop(&mut self) {
        let Some(tenure) = self.tenure.take() else { return };
        let shared = &self.shared;
        shared.leave_line(&tenure.claim.key, tenure.claim.nonce);
        if tenure.busy.is_none() && matches!(shared.backend.release_now(&tenure.claim), Some(Ok(_))) {
            return;
        }
        shared.drive(Box::pin(tenure.give_back(shared.clone())));
    }
}

impl Shared {
    /// Whether an ended hold stays with this process, for its next waiter, instead of going back to the store.
    pub(crate) fn hand_on(self: &Arc<Self>, hold: &Arc<Hold>) -> bool {
        if hold.reserve().is_none() {
            return false;
        }
        let Some(tenure) = Tenure::of(hold) else {
            self.leave_line(&hold.claim.key, hold.claim.nonce);
            return false;
        };
        match self.next_in_line(Baton { shared: self.clone(), tenure: Some(tenure) }) {
            Next::Handed(waker) => {
                waker.into_iter().for_each(Waker::wake);
                self.released(hold, Released::Released);
                true
            }
            Next::Renew(baton, waiting) => {
                self.released(hold, Released::Released);
                self.drive(Box::pin(baton.renew(waiting)));
                true
            }
            Next::Nobody(mut baton) => {
                baton.tenure = None;
                false
            }
        }
    }

    /// Those in line behind this hold will not be handed it.
    pub(crate) fn leave_line(&self, key: &Key, nonce: Nonce) {
        if let Some(queue) = &self.queue {
            queue.vacate(key, nonce, self.clock.now());
        }
    }

    fn next_in_line(&self, baton: Baton) -> Next {
        match &self.queue {
            Some(queue) => {
                let now = self.clock.now();
                let next = queue.hand_on(baton, now, self.closed.load(Ordering::Acquire));
                if let Next::Handed(_) = next {
                    // In case it is not taken up.
                    self.registry.wake_by(now.after(CLAIM));
                }
                next
            }
            None => Next::Nobody(baton),
        }
    }
}
