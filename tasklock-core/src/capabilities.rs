//! What a backend can and cannot do, said up front.

use std::{fmt, time::Duration};

use crate::{InvalidOption, LockError, Mode, Ttl};

/// How far a backend's fencing tokens may be trusted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fencing {
    /// No token.
    None,
    /// Rises in ordinary life, but some failure of the store may repeat or lower it.
    Weak,
    /// Strictly rising per key across release, expiry, crash and restart.
    Strong,
}

/// Who ends a lease whose holder has gone silent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// The store, on its own clock.
    Server,
    /// The end of the holding process; a hung one keeps the lock.
    Process,
}

/// What a holder's loss is noticed by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// A lease that could not be renewed in time.
    Lease,
    /// The end of a session with the store.
    Session,
    /// The kernel or the process itself.
    Kernel,
}

/// How a waiter learns that its turn has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WakeBy {
    /// The store tells it.
    Push,
    /// It asks again.
    Poll,
}

/// Among whom a lock excludes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// Tasks of one process.
    Process,
    /// Processes of one machine.
    Host,
    /// Machines.
    Cluster,
}

/// What a backend declares of itself; see [`Demand`] for asking.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Capabilities {
    /// The backend's name, as errors and logs show it.
    pub backend: &'static str,
    /// Fencing tokens.
    pub fencing: Fencing,
    /// Who ends a silent holder's lease.
    pub expiry: Expiry,
    /// How loss is noticed.
    pub loss: Loss,
    /// How waiters are woken.
    pub wake: WakeBy,
    /// Whether those who stand at the store are served in the order they came, across everyone in `scope`.
    pub fair: bool,
    /// Whether [`Mode::Shared`](crate::Mode::Shared) is understood.
    pub shared: bool,
    /// Whether [`Mode::Permit`](crate::Mode::Permit) is understood.
    pub permits: bool,
    /// Whether a renewal can reserve further tokens ([`Claim::span`](crate::Claim::span)), and tells how many wait:
    /// so that a process may hand the lock from task to task without asking each time. Used only if it is `fair`.
    pub spans: bool,
    /// Whether it tells when it last heard of a holder ([`Holder::silent`](crate::Holder::silent)): so that those that
    /// are stale can be told from others.
    pub signs_of_life: bool,
    /// The longest lease it grants; `None` if any, and permanent ones, too. A locker whose ttl is longer is refused when
    /// it is built; a longer one of a single call is for the backend to refuse.
    pub max_ttl: Option<Duration>,
    /// Among whom it excludes.
    pub scope: Scope,
}

impl Capabilities {
    /// The least a backend can be: no fencing, no push, no order, one process. State what is better.
    #[must_use]
    pub const fn new(backend: &'static str) -> Self {
        Capabilities {
            backend,
            fencing: Fencing::None,
            expiry: Expiry::Process,
            loss: Loss::Lease,
            wake: WakeBy::Poll,
            fair: false,
            shared: false,
            permits: false,
            spans: false,
            signs_of_life: false,
            max_ttl: None,
            scope: Scope::Process,
        }
    }

    /// States the strength of the tokens.
    #[must_use]
    pub const fn fencing(mut self, fencing: Fencing) -> Self {
        self.fencing = fencing;
        self
    }

    /// States who ends a silent holder's lease.
    #[must_use]
    pub const fn expiry(mut self, expiry: Expiry) -> Self {
        self.expiry = expiry;
        self
    }

    /// States how loss is noticed.
    #[must_use]
    pub const fn loss(mut self, loss: Loss) -> Self {
        self.loss = loss;
        self
    }

    /// States how waiters are woken.
    #[must_use]
    pub const fn wake(mut self, wake: WakeBy) -> Self {
        self.wake = wake;
        self
    }

    /// States whether waiters are served in order.
    #[must_use]
    pub const fn fair(mut self, fair: bool) -> Self {
        self.fair = fair;
        self
    }

    /// States whether shared mode is understood.
    #[must_use]
    pub const fn shared(mut self, shared: bool) -> Self {
        self.shared = shared;
        self
    }

    /// States whether permits are understood.
    #[must_use]
    pub const fn permits(mut self, permits: bool) -> Self {
        self.permits = permits;
        self
    }

    /// States whether a renewal can reserve further tokens.
    #[must_use]
    pub const fn spans(mut self, spans: bool) -> Self {
        self.spans = spans;
        self
    }

    /// States whether it tells when it last heard of a holder.
    #[must_use]
    pub const fn signs_of_life(mut self, signs_of_life: bool) -> Self {
        self.signs_of_life = signs_of_life;
        self
    }

    /// States the longest lease it grants.
    #[must_use]
    pub const fn max_ttl(mut self, max_ttl: Duration) -> Self {
        self.max_ttl = Some(max_ttl);
        self
    }

    /// States among whom it excludes.
    #[must_use]
    pub const fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Refuses a mode that the backend does not know.
    pub(crate) fn check(&self, mode: Mode) -> Result<(), LockError> {
        let (known, what) = match mode {
            Mode::Exclusive => return Ok(()),
            Mode::Shared => (self.shared, SHARED),
            Mode::Permit { .. } => (self.permits, PERMITS),
            Mode::Member => (false, POOLS),
        };
        let unsupported = || LockError::Unsupported { backend: self.backend, what: what.to_owned() };
        if known { Ok(()) } else { Err(unsupported()) }
    }

    /// Refuses a ttl that the backend does not grant.
    pub(crate) fn check_ttl(&self, ttl: Ttl) -> Result<(), InvalidOption> {
        match (self.max_ttl, ttl.duration()) {
            (Some(most), ttl) if ttl.is_none_or(|ttl| ttl > most) => {
                let limit = format!("the {} backend grants leases of at most {most:?}", self.backend);
                Err(InvalidOption::new("ttl", ttl.map_or_else(|| "never".to_owned(), |ttl| format!("{ttl:?}")), limit))
            }
            _ => Ok(()),
        }
    }

    /// Whether a waiter has no place at the store: nobody is woken by it, and it keeps no order.
    pub(crate) fn keeps_no_queue(&self) -> bool {
        self.wake == WakeBy::Poll && !self.fair
    }

    /// Whether this backend's queue already is a fair one of this process, so that none is needed in front of it.
    pub(crate) fn queues_this_process(&self) -> bool {
        self.fair && self.scope == Scope::Process
    }
}

const SHARED: &str = "shared locks";
const PERMITS: &str = "permits";
pub(crate) const POOLS: &str = "pools";

/// What a service needs of its lock, checked when the locker is built rather than at three in the morning.
///
/// # Examples
///
/// ```
/// use tasklock_core::{Demand, Fencing, Locker, MemoryLock, Scope};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let unmet = Locker::builder(MemoryLock::new()).demand(Demand::new().scope(Scope::Cluster)).build();
/// assert!(unmet.is_err());
/// let met = Locker::builder(MemoryLock::new()).demand(Demand::new().fencing(Fencing::Strong).fair()).build();
/// assert!(met.is_ok());
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Demand {
    fencing: Option<Fencing>,
    server_expiry: bool,
    push: bool,
    fair: bool,
    shared: bool,
    permits: bool,
    scope: Option<Scope>,
}

impl Demand {
    /// Nothing demanded.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tokens at least this strong.
    #[must_use]
    pub fn fencing(mut self, at_least: Fencing) -> Self {
        self.fencing = Some(at_least);
        self
    }

    /// The store must end a silent holder's lease.
    #[must_use]
    pub fn server_expiry(mut self) -> Self {
        self.server_expiry = true;
        self
    }

    /// Waiters must be woken by the store.
    #[must_use]
    pub fn push(mut self) -> Self {
        self.push = true;
        self
    }

    /// Waiters must be served in order.
    #[must_use]
    pub fn fair(mut self) -> Self {
        self.fair = true;
        self
    }

    /// There must be shared locks.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// There must be permits.
    #[must_use]
    pub fn permits(mut self) -> Self {
        self.permits = true;
        self
    }

    /// Exclusion at least this wide.
    #[must_use]
    pub fn scope(mut self, at_least: Scope) -> Self {
        self.scope = Some(at_least);
        self
    }

    /// The first demand that `has` does not meet, in words.
    pub(crate) fn unmet(&self, has: &Capabilities) -> Option<String> {
        let short = |what: &str, need: &dyn fmt::Debug, have: &dyn fmt::Debug| {
            Some(format!("{what} {need:?} (it has {have:?})"))
        };
        match self {
            Demand { fencing: Some(need), .. } if *need > has.fencing => short("fencing", need, &has.fencing),
            Demand { server_expiry: true, .. } if has.expiry != Expiry::Server => {
                short("expiry by", &Expiry::Server, &has.expiry)
            }
            Demand { push: true, .. } if has.wake != WakeBy::Push => short("waking by", &WakeBy::Push, &has.wake),
            Demand { fair: true, .. } if !has.fair => Some("waiters served in order".to_owned()),
            Demand { shared: true, .. } if !has.shared => Some(SHARED.to_owned()),
            Demand { permits: true, .. } if !has.permits => Some(PERMITS.to_owned()),
            Demand { scope: Some(need), .. } if *need > has.scope => short("scope", need, &has.scope),
            _ => None,
        }
    }
}
