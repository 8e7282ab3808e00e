//! The power to keep pools: what core asks of a backend about their members.

use std::sync::Arc;

use crate::{
    Key, State,
    lock::{BoxFuture, StepResult},
};

/// The power to keep pools: named sets of members, of which each is held by one at a time.
///
/// A member is taken as any lock is: by [`AsyncLock::try_acquire`](crate::AsyncLock::try_acquire), with the key of the pool
/// and [`Mode::Member`](crate::Mode::Member). The grant says which member it is. It is renewed and released by its nonce,
/// waiters stand in one queue for the pool, and the tokens of a pool rise, whichever member they are for. What is left for
/// this trait is who belongs to the pool.
///
/// A pool exists as long as it has members; one without any is waited for like one whose members are all held. The key
/// tells that it is a pool's ([`Key::is_pool`]): a lock of the same name is another thing.
pub trait Pools: Send + Sync {
    /// Changes who belongs to the pool, and wakes those who wait for whom it brings. Others see what was before or what is
    /// after, and nothing in between. Whoever holds a member that is taken out keeps it until it is given back. Called
    /// again only after an answer that says [`Applied::No`](crate::Applied::No): a change has no nonce, so one that is late
    /// cannot be told from one that is new.
    fn change<'a>(&'a self, pool: &'a Key, change: &'a PoolChange) -> BoxFuture<'a, StepResult<()>>;

    /// Some of the members, beginning where a page before said; at 0 first. Those that belong to it throughout come at
    /// least once.
    fn scan<'a>(&'a self, pool: &'a Key, from: u64) -> BoxFuture<'a, StepResult<Page>>;

    /// Who holds each of these members; `None` for one that does not belong to the pool.
    fn inspect<'a>(&'a self, pool: &'a Key, members: &'a [Arc<str>]) -> BoxFuture<'a, StepResult<Vec<Option<State>>>>;

    /// How many members are held, and how many are not.
    fn health<'a>(&'a self, pool: &'a Key) -> BoxFuture<'a, StepResult<Health>>;
}

/// A change of who belongs to a pool. Each name is there once.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PoolChange {
    /// These, and no others.
    Assign(Vec<Arc<str>>),
    /// These, too. In parts, if they are many.
    Extend(Vec<Arc<str>>),
    /// These no more. In parts, if they are many.
    Shrink(Vec<Arc<str>>),
}

impl PoolChange {
    /// The members that it names.
    #[must_use]
    pub fn members(&self) -> &[Arc<str>] {
        match self {
            PoolChange::Assign(members) | PoolChange::Extend(members) | PoolChange::Shrink(members) => members,
        }
    }
}

/// Some members of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// Which.
    pub members: Vec<Arc<str>>,
    /// Where the next page begins; 0 if this was the last.
    pub next: u64,
}

/// The members of a pool, counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Health {
    /// Members that somebody holds.
    pub locked: u64,
    /// Members that nobody holds.
    pub free: u64,
    /// How many wait for one at the store: of each process only those in front, unless its order is strict.
    pub waiters: u64,
}

impl Health {
    /// So many of each.
    #[must_use]
    pub const fn new(locked: u64, free: u64, waiters: u64) -> Self {
        Health { locked, free, waiters }
    }

    /// All members.
    #[must_use]
    pub const fn members(&self) -> u64 {
        self.locked + self.free
    }
}
