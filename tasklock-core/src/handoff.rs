//! Handing a hold from task to task, without asking the store.
//!
//! What the store has is a *tenure*: one nonce, that of the task it granted to, held until nobody of this process is to
//! have it next. Within a tenure each task has a [`Hold`] of its own, under that nonce and under a token of its own, and
//! each ends by itself: lost, released, at its own maximum. So a guard, its lease, its observer and its signals know
//! nothing of the others. One hold of a tenure is there at a time:
//!
//! 1. A hold that is *released* passes its tenure on, to the one in front of the line (`queue.rs`): with the next of the
//!    tokens that were reserved, if there is one and the deadline, read in the same step, is far enough away.
//! 2. Else, and after a hold that was not renewed, the tenure is renewed first, and more tokens reserved with it. The
//!    answer says whether it was held until then, which whoever released is told, and whether others wait at the store. If
//!    so, this process has one more round of hand-overs if it had none yet, and gives the lock up if it had; so it does if
//!    the store does not answer. A tenure that was stolen ends here.
//! 3. A hold that is *lost* passes nothing on. Its guard releases as ever, and those in line ask the store.
//! 4. What is handed on is a [`Baton`]: a waiter that is cancelled in the moment of the hand-over passes it on, and one
//!    that is dropped elsewhere gives it back.
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

use tokio::sync::oneshot;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    BackendError, Claim, FencingToken, Grant, Key, Mono, Nonce, Released, Span,
    hold::{self, Hold},
    lock::{BoxFuture, StepResult},
    options::Options,
    queue::{CLAIM, Next},
    release::{self, Driven},
    renewal::{self, LONGEST_CALL, Renewal},
    shared::{GivenBack, Shared},
};

/// For how long a process goes on without looking whether others wait.
const LONGEST: Duration = Duration::from_millis(10);
/// To how many it hands on once others wait.
const MOST: usize = 64;
/// How many tokens are reserved at a time, if half as many were used up before. Enough for `LONGEST`, so that it is time that
/// bounds a round, and about as many as its microseconds: stores mint by their clock.
const WIDEST: u32 = 8192;

/// A hold at the store, between two tasks of this process.
pub(crate) struct Tenure {
    /// The one that ended last: it has the claim, and its place in memory is the next one's if nobody looks at it any more.
    hold: Arc<Hold>,
    /// The last token given out.
    token: FencingToken,
    reserve: Reserve,
    deadline: Mono,
    /// When it was granted or renewed last.
    renewed: Mono,
    /// Nothing speaks against believing the deadline.
    sound: bool,
    /// A renewal of the one that ended is still under way.
    busy: bool,
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
    fn of(hold: &Arc<Hold>, now: Mono) -> Option<Self> {
        // Whether one that is over by the clock was ours to the last, the store knows.
        let reserve = hold.reserve().filter(|_| now < hold.deadline())?;
        // Looked at first: what becomes idle after this has noted what it did.
        let busy = !hold.is_idle();
        let (deadline, sound) = hold.believed_by_the_next()?;
        // Only the store knows whether one that is not renewed was broken.
        let sound = sound && hold.renew_after().is_some();
        let (token, renewed) = (hold.token(), hold.renewed());
        Some(Tenure { hold: hold.clone(), token, reserve, deadline, renewed, sound, busy })
    }

    /// As the store knows it: under the token it was granted with.
    pub(crate) fn claim(&self) -> &Claim {
        &self.hold.claim
    }

    pub(crate) fn next_token(&self) -> FencingToken {
        FencingToken::new(self.token.get().saturating_add(1))
    }

    /// Whether there is a token and time enough for the next, who may never renew it.
    pub(crate) fn ready(&self, now: Mono, unrenewed: bool) -> Ready {
        let long_enough = match self.claim().ttl.duration() {
            None => true,
            Some(ttl) if unrenewed => now < self.renewed.after(ttl / 10),
            Some(ttl) => self.deadline.since(now) >= ttl / 3,
        };
        let token_left = self.token.get() < self.reserve.last;
        let sound = self.sound && !self.busy;
        if sound && long_enough && token_left && now < self.reserve.until { Ready::Yes } else { Ready::AfterRenewal }
    }

    /// How many tokens to reserve next, for so many who wait.
    fn width(&self, waiting: usize) -> u32 {
        let width = self.reserve.width;
        if width == 0 {
            return u32::try_from(waiting.clamp(1, MOST)).unwrap_or(1);
        }
        let left = u32::try_from(self.reserve.last.saturating_sub(self.token.get())).unwrap_or(width);
        // Not many more than are used: a store whose tokens outran its clock could not begin above them again.
        (width.saturating_sub(left) * 2).clamp(1, WIDEST)
    }

    /// Renewed until `deadline`, by a call sent at `sent`, with these tokens.
    fn renewed(&mut self, span: Span, deadline: Mono, sent: Mono, now: Mono) {
        let count = span.count.get();
        self.token = FencingToken::new(span.first.get() - 1);
        let last = self.token.get().saturating_add(u64::from(count));
        self.reserve = Reserve { last, until: now.after(LONGEST), width: count };
        (self.deadline, self.renewed, self.sound) = (deadline, sent, true);
    }

    /// Takes it off the store, at once if the backend can.
    fn give_back(self, shared: &Arc<Shared>) -> Result<Released, BoxFuture<'static, StepResult<Released>>> {
        let Tenure { hold, deadline, busy, .. } = self;
        if !busy {
            if let Some(Ok(released)) = shared.backend.release_now(&hold.claim) {
                return Ok(released);
            }
        }
        let claim = hold.claim.clone();
        let ended = async move {
            hold.until_idle().await;
            hold.claim_to_release()
        };
        Err(Box::pin(release::claim(shared, &claim, deadline, ended)))
    }
}

/// A tenure on its way from one task to the next. Dropped, it is given back to the store.
pub(crate) struct Baton {
    shared: Arc<Shared>,
    tenure: Option<Tenure>,
    /// Whoever has it, a shutdown waits until it has arrived.
    _counted: TaskTrackerToken,
}

impl Baton {
    pub(crate) fn tenure(&self) -> Option<&Tenure> {
        self.tenure.as_ref()
    }

    /// The next hold of this tenure, for a task with these options; none if its time is over.
    pub(crate) fn begin(mut self, options: &Options, now: Mono) -> Option<Arc<Hold>> {
        let tenure = self.tenure.take_if(|tenure| tenure.deadline > now)?;
        let (token, claim) = (tenure.next_token(), tenure.claim().clone());
        let mut next = Hold::new(claim, options, self.shared.clock, now, tenure.deadline);
        next.continue_tenure(token, tenure.reserve, tenure.renewed);
        let mut hold = tenure.hold;
        match Arc::get_mut(&mut hold) {
            Some(ended) => *ended = next,
            None => hold = Arc::new(next),
        }
        Some(hold)
    }

    /// Hands it to the next in line, at once or after a renewal, or gives it back.
    pub(crate) fn pass(self) {
        let shared = self.shared.clone();
        let now = shared.clock.now();
        match shared.next_in_line(self, now) {
            Next::Handed(waker) => waker.into_iter().for_each(Waker::wake),
            Next::Renew(baton, waiting) => shared.drive(Box::pin(async move {
                let _ = baton.pass_renewed(waiting).await;
            })),
            Next::Nobody(baton) => drop(baton),
        }
    }

    /// Renews it, for so many who wait, and hands it on, or gives it back: whether it was held until then.
    async fn pass_renewed(mut self, waiting: usize) -> StepResult<Released> {
        let shared = self.shared.clone();
        match self.renew(waiting).await {
            After::HandOn => match shared.next_in_line(self, shared.clock.now()) {
                Next::Handed(waker) => {
                    waker.into_iter().for_each(Waker::wake);
                    Ok(Released::Released)
                }
                Next::Renew(baton, _) | Next::Nobody(baton) => baton.give_back().await,
            },
            After::GiveBack => self.give_back().await,
            After::Forget => {
                if let Some(tenure) = self.tenure.take() {
                    shared.leave_line(&tenure.claim().key, tenure.claim().nonce);
                }
                Ok(Released::NotOwner)
            }
        }
    }

    /// Renews it, for so many who wait.
    async fn renew(&mut self, waiting: usize) -> After {
        let Some(tenure) = &mut self.tenure else { return After::Forget };
        let shared = &self.shared;
        if tenure.busy {
            tenure.hold.until_idle().await;
            if tenure.hold.believed_by_the_next().is_none() {
                return After::GiveBack;
            }
            tenure.busy = false;
        }
        let asked = Claim { span: NonZeroU32::new(tenure.width(waiting)), ..tenure.claim().clone() };
        let sent = shared.clock.now();
        let left = tenure.deadline.since(sent);
        if left.is_zero() {
            return After::GiveBack;
        }
        let answer = renewal::ask(shared, slice::from_ref(&asked), None, left.min(LONGEST_CALL)).await;
        let Some(answer) = answer.each.into_iter().next() else { return After::GiveBack };
        let now = shared.clock.now();
        answer.tell(shared, &asked, tenure.deadline.since(now));
        match answer {
            Renewal::Held { validity, waiters, more: Some(span) } if span.first > tenure.token => {
                let first_round = tenure.reserve.width == 0;
                if waiters != Some(0) && !first_round {
                    return After::GiveBack;
                }
                tenure.renewed(span, hold::deadline(asked.ttl, sent, validity), sent, now);
                let most = if waiters == Some(0) { usize::MAX } else { MOST.min(span.count.get() as usize) };
                if let Some(queue) = &shared.queue {
                    queue.allow(&asked.key, asked.nonce, most, now);
                }
                After::HandOn
            }
            // An attempt of this nonce may come yet, and take it again.
            Renewal::Stolen if asked.unsettled => After::GiveBack,
            Renewal::Stolen => After::Forget,
            Renewal::Held { .. } | Renewal::Failed(_) => After::GiveBack,
        }
    }

    async fn give_back(mut self) -> StepResult<Released> {
        let Some(tenure) = self.tenure.take() else { return Ok(Released::NotOwner) };
        self.shared.leave_line(&tenure.claim().key, tenure.claim().nonce);
        match tenure.give_back(&self.shared) {
            Ok(released) => Ok(released),
            Err(end) => end.await,
        }
    }
}

impl Drop for Baton {
    fn drop(&mut self) {
        let Some(tenure) = self.tenure.take() else { return };
        let shared = &self.shared;
        shared.leave_line(&tenure.claim().key, tenure.claim().nonce);
        if let Err(end) = tenure.give_back(shared) {
            shared.drive(Box::pin(async move {
                let _ = end.await;
            }));
        }
    }
}

/// What is to be done with a tenure after its renewal.
enum After {
    HandOn,
    GiveBack,
    /// The store has it for somebody else, or for nobody.
    Forget,
}

impl Shared {
    /// Has an ended hold stay with this process, for its next waiter, instead of going back to the store; `None` if there
    /// is none who could have it.
    pub(crate) fn hand_on(self: &Arc<Self>, hold: &Arc<Hold>) -> Option<GivenBack> {
        hold.reserve()?;
        let now = self.clock.now();
        let Some(tenure) = Tenure::of(hold, now) else {
            self.leave_line(&hold.claim.key, hold.claim.nonce);
            return None;
        };
        match self.next_in_line(Baton { shared: self.clone(), tenure: Some(tenure), _counted: self.tasks.token() }, now)
        {
            Next::Handed(waker) => {
                waker.into_iter().for_each(Waker::wake);
                Some(GivenBack::Now(self.released(hold, Released::Released)))
            }
            Next::Renew(baton, waiting) => {
                let (shared, hold) = (self.clone(), hold.clone());
                let (tell, told) = oneshot::channel();
                // Those in line do not wait for whoever released to be polled.
                self.drive(Box::pin(async move {
                    let released = baton.pass_renewed(waiting).await.map(|released| shared.released(&hold, released));
                    let _ = tell.send(released);
                }));
                let gone = |_| BackendError::unknown("the runtime of its locker has ended");
                let told = Box::pin(async move { told.await.map_err(gone)? });
                Some(GivenBack::Later(Driven::new(self.clone(), told)))
            }
            Next::Nobody(mut baton) => {
                baton.tenure = None;
                None
            }
        }
    }

    /// Those in line behind this hold will not be handed it.
    pub(crate) fn leave_line(&self, key: &Key, nonce: Nonce) {
        if let Some(queue) = &self.queue {
            queue.vacate(key, nonce, self.clock.now());
        }
    }

    fn next_in_line(&self, baton: Baton, now: Mono) -> Next {
        match &self.queue {
            Some(queue) => {
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
