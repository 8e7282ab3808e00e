//! What core asks of a backend, and what a backend answers.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use crate::{FencingToken, Holder, Key, LossReason, Mono, Nonce, Owner, Ttl};

/// How a lock is wanted. Modes exclude each other: who holds a key in one keeps out who wants it in another. Everything
/// but exclusive is refused unless the backend declares it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Mode {
    /// Alone.
    Exclusive,
    /// Together with others in shared mode.
    Shared,
    /// One of so many permits.
    Permit {
        /// How many there are. It is each request's own number that decides for it: one of `of` is granted while fewer
        /// than `of` are held, whatever the others were told.
        of: NonZeroU32,
    },
    /// Any free member of the pool that the key names, alone: see [`Pools`](crate::Pools).
    Member,
}

/// What an attempt is to do if the lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Intent {
    /// Leave nothing behind.
    Try,
    /// Enter the queue, if there is one.
    Wait,
    /// As `Wait`, and this nonce has asked before: `attempt` times.
    Poll {
        /// How often.
        attempt: u32,
    },
}

/// One acquisition. The same request is sent again, with the same nonce, until it is answered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request {
    /// The lock.
    pub key: Key,
    /// Who asks.
    pub nonce: Nonce,
    /// How it is wanted.
    pub mode: Mode,
    /// For how long.
    pub ttl: Ttl,
    /// How many fencing tokens to reserve; a backend may give fewer.
    pub span: NonZeroU32,
    /// What to do if it is held.
    pub intent: Intent,
    /// Who asks, for others to read.
    pub owner: Owner,
    /// A moment before the first byte was sent under this nonce. A grant is valid for `ttl` from here, unless the
    /// store's reply proves that the ttl began later.
    pub since: Mono,
    /// Under which name a member of a pool is wanted: it gets the one that it had before, if that is free.
    pub affinity: Option<Arc<str>>,
}

impl Request {
    /// An exclusive request for one token.
    #[must_use]
    pub fn new(key: Key, nonce: Nonce, ttl: Ttl, intent: Intent, owner: Owner, since: Mono) -> Self {
        Request { key, nonce, mode: Mode::Exclusive, ttl, span: NonZeroU32::MIN, intent, owner, since, affinity: None }
    }

    /// The end of a lease of this request's ttl that began at `start`.
    #[must_use]
    pub fn until(&self, start: Mono) -> Mono {
        self.ttl.duration().map_or(Mono::NEVER, |ttl| start.after(ttl))
    }
}

/// What a nonce has, or may have: the subject of a renewal or a release.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// The lock.
    pub key: Key,
    /// Whose.
    pub nonce: Nonce,
    /// How it was wanted.
    pub mode: Mode,
    /// The ttl to renew for.
    pub ttl: Ttl,
    /// The token it was granted under; `None` while it has none. A store that answers with another one has granted
    /// it to somebody else.
    pub token: Option<FencingToken>,
    /// The member of a pool that it was granted; `None` if it is no pool's, or has none.
    pub member: Option<Arc<str>>,
    /// An attempt of this nonce has not been answered and may reach the store yet. A release must then see to it
    /// that it finds nothing to take.
    pub unsettled: bool,
    /// How many further fencing tokens to reserve with a renewal, for waiters of this process that the lock is to be
    /// handed to. A backend may give fewer, or none.
    pub span: Option<NonZeroU32>,
}

impl Claim {
    /// The claim of a request not yet granted.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        Claim { mode: request.mode, ttl: request.ttl, ..Self::for_release(request.key.clone(), request.nonce) }
    }

    /// The claim of a nonce of which no more is known: enough to release it.
    #[must_use]
    pub fn for_release(key: Key, nonce: Nonce) -> Self {
        let (mode, ttl) = (Mode::Exclusive, Ttl::Never);
        Claim { key, nonce, mode, ttl, token: None, member: None, unsettled: false, span: None }
    }
}

impl From<Request> for Claim {
    fn from(request: Request) -> Self {
        let Request { key, nonce, mode, ttl, .. } = request;
        Claim { mode, ttl, ..Self::for_release(key, nonce) }
    }
}

/// Until when a grant or renewal stands, without a margin: core takes that off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Validity {
    /// The store will not give it to anyone else before this.
    Until(Mono),
    /// As long as the session lasts. Core ends the lease by its own deadline all the same.
    Session,
}

/// A lock granted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Grant {
    /// The token minted in the step that granted; `None` if the backend mints none.
    pub token: Option<FencingToken>,
    /// How many tokens from `token` up are reserved for this process.
    pub span: NonZeroU32,
    /// For how long.
    pub validity: Validity,
    /// The store holds it for a shorter time than the ttl, until it is renewed: core does so after a third of that
    /// time, unless it was released before.
    pub confirm: bool,
    /// Which member of a pool it is.
    pub member: Option<Arc<str>>,
}

impl Grant {
    /// One token, nothing to confirm.
    #[must_use]
    pub fn new(token: Option<FencingToken>, validity: Validity) -> Self {
        Grant { token, span: NonZeroU32::MIN, validity, confirm: false, member: None }
    }

    /// A grant that core must renew before its short time is over.
    #[must_use]
    pub fn to_confirm(mut self) -> Self {
        self.confirm = true;
        self
    }

    /// A grant of this member of a pool.
    #[must_use]
    pub fn of_member(mut self, member: Arc<str>) -> Self {
        self.member = Some(member);
        self
    }
}

/// A lock not granted, because somebody else has it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Busy {
    /// When to ask again at the latest, counted from when the attempt was sent.
    pub retry_in: Option<Duration>,
    /// Who has it.
    pub holder: Option<Arc<Holder>>,
    /// How many stand before this request.
    pub position: Option<u32>,
    /// Whether the store knows who asked as one that waits, though it is polled and keeps no order: then it is told when
    /// that one no longer does.
    pub noted: bool,
}

impl Busy {
    /// Held by this one, if known; ask again after so long, if known.
    #[must_use]
    pub fn new(holder: Option<Arc<Holder>>, retry_in: Option<Duration>) -> Self {
        Busy { retry_in, holder, position: None, noted: false }
    }

    /// With so many before this request.
    #[must_use]
    pub fn position(mut self, position: u32) -> Self {
        self.position = Some(position);
        self
    }

    /// Who asked is noted as one that waits, if it said so: its release is to be sent when it no longer does. Only for a
    /// store that is polled and keeps no order; others know who waits anyway.
    #[must_use]
    pub fn noted(mut self, noted: bool) -> Self {
        self.noted = noted;
        self
    }
}

/// The answer to an attempt.
#[derive(Clone, Debug)]
pub enum Attempt {
    /// It is yours.
    Granted(Grant),
    /// It is somebody else's.
    Busy(Busy),
}

/// The answer to an attempt on several locks.
#[derive(Clone, Debug)]
pub enum Together {
    /// All are yours; one grant for each request, in order.
    Granted(Vec<Grant>),
    /// None is: these, by their place among the requests, are somebody else's.
    Busy(Vec<(usize, Busy)>),
}

/// The answer to a wait.
#[derive(Clone, Debug)]
pub enum Wake {
    /// The store granted it.
    Granted(Grant),
    /// Try again now.
    Retry,
}

/// Fencing tokens reserved for one process: from the first, as many as this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_structs)]
pub struct Span {
    /// The lowest.
    pub first: FencingToken,
    /// How many.
    pub count: NonZeroU32,
}

/// The answer to a renewal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Renewed {
    /// It is still yours.
    #[non_exhaustive]
    Held {
        /// For how long. Core allows it no more than the ttl counted from before the renewal was sent.
        validity: Validity,
        /// The token it is held under, if the reply says.
        token: Option<FencingToken>,
        /// How many wait for it at the store, if the reply says.
        waiters: Option<u32>,
        /// The further tokens that the claim asked for: higher than all there were, lower than all to come.
        more: Option<Span>,
    },
    /// It is not, and never will be again under this nonce.
    NotOwner,
}

impl Renewed {
    /// Still held.
    #[must_use]
    pub const fn held(validity: Validity, token: Option<FencingToken>) -> Self {
        Renewed::Held { validity, token, waiters: None, more: None }
    }

    /// With further tokens, if they were asked for.
    #[must_use]
    pub const fn with_more(self, span: Option<Span>) -> Self {
        match self {
            Renewed::Held { validity, token, waiters, .. } => Renewed::Held { validity, token, waiters, more: span },
            Renewed::NotOwner => self,
        }
    }

    /// With so many waiting for it at the store.
    #[must_use]
    pub const fn with_waiters(self, count: u32) -> Self {
        match self {
            Renewed::Held { validity, token, more, .. } => {
                Renewed::Held { validity, token, waiters: Some(count), more }
            }
            Renewed::NotOwner => self,
        }
    }
}

/// The answer to a release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Released {
    /// This nonce held it until now.
    Released,
    /// This nonce held nothing. Whatever else it had is gone too.
    NotOwner,
}

/// Something a backend noticed by itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// This nonce has lost its hold.
    Lost(Nonce, LossReason),
    /// Notifications may have been missed: every waiter should ask again.
    Recheck,
}
