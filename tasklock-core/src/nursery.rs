//! Holds in memory that nobody has looked at yet.
//!
//! Most locks in memory are given back microseconds after they were granted: long before they are to be renewed, and
//! without anybody asking for their lease. Until then such a hold is no more than a token and a time in the store, and a guard
//! that knows its token. It grows up, to a [`Hold`] in the registry, when somebody asks for its lease or when it is old
//! enough to be renewed; who comes first is decided under the store's lock of its key.

use std::{
    collections::HashMap,
    num::NonZeroU64,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    Claim, FencingToken, Key, LossReason, MemoryLock, Mode, Mono, Nonce, ReleaseOutcome, Validity,
    hold::{self, Hold},
    options::Options,
    shards::lock,
    shared::Shared,
};

/// The young holds of one locker.
pub(crate) struct Nursery {
    /// None if the locker's store is not in memory: then nothing is ever young.
    store: Option<MemoryLock>,
    id: NurseryId,
    options: Options,
    /// How old a hold gets here, in nanoseconds; the earliest renewal is not due before.
    age: u64,
    /// Grown up without their guards, who will ask for them.
    grown: Mutex<HashMap<(u64, FencingToken), Arc<Hold>>>,
}

/// Tells apart the nurseries that share a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NurseryId(NonZeroU64);

/// A young hold, as its guard knows it.
#[derive(Debug)]
pub(crate) struct Young {
    pub(crate) key: Key,
    pub(crate) token: FencingToken,
    pub(crate) since: Mono,
}

impl Nursery {
    /// For a locker with these settings.
    pub(crate) fn new(store: Option<MemoryLock>, options: &Options) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = NurseryId(NonZeroU64::MIN.saturating_add(LAST.fetch_add(1, Ordering::Relaxed)));
        if let Some(store) = &store {
            store.open_nursery(id, options.owner.clone(), options.ttl);
        }
        let age = match hold::period(options.renew, options.ttl) {
            Some(period) => period / 10 * 9,
            None => hold::deadline(options.ttl, Mono::from_nanos(0), Validity::Session).as_nanos(),
        };
        Nursery { store, id, options: options.clone(), age, grown: Mutex::default() }
    }

    /// Whether there are young holds at all: not where the store is another.
    pub(crate) fn is_open(&self) -> bool {
        self.store.is_some()
    }

    /// The token of a hold of `key` alone, if nobody holds or awaits it and these settings are those of the locker.
    pub(crate) fn acquire(&self, shared: &Shared, key: &Key, options: &Options, now: Mono) -> Option<FencingToken> {
        let (store, mine) = (self.store.as_ref()?, &self.options);
        let same = options.ttl == mine.ttl && options.renew == mine.renew && options.owner == mine.owner;
        if !same || options.mode != Mode::Exclusive || options.bounds_its_hold() {
            return None;
        }
        let token = store.take_young(key, now, self.id)?;
        shared.registry.wake_by(self.due(now));
        Some(token)
    }

    /// Gives it back, unless it has grown up or is gone.
    pub(crate) fn release(&self, shared: &Shared, young: &Young) -> bool {
        let released = self.store.as_ref().is_some_and(|store| store.free_young(young));
        if released {
            shared.given_back(&young.key, young.token, young.since, ReleaseOutcome::Released);
        }
        released
    }

    /// Until when it may be believed, if it is young still.
    pub(crate) fn deadline_of(&self, young: &Young) -> Option<Mono> {
        self.store.as_ref().filter(|store| store.is_young(young)).map(|_| self.deadline(young.since))
    }

    /// When a hold acquired now will have to grow up.
    pub(crate) fn due(&self, since: Mono) -> Mono {
        Mono::from_nanos(since.as_nanos().saturating_add(self.age))
    }

    fn take_grown(&self, young: &Young) -> Option<Arc<Hold>> {
        const ROOM_KEPT: usize = 256;
        let mut grown = lock(&self.grown);
        let hold = grown.remove(&young.identity());
        if grown.is_empty() && grown.capacity() > ROOM_KEPT {
            grown.shrink_to_fit();
        }
        hold
    }

    fn deadline(&self, since: Mono) -> Mono {
        hold::deadline(self.options.ttl, since, Validity::Session)
    }

    fn hold(&self, young: &Young, nonce: Nonce, shared: &Shared) -> Arc<Hold> {
        let mut claim = Claim::for_release(young.key.clone(), nonce);
        (claim.ttl, claim.token) = (self.options.ttl, Some(young.token));
        Arc::new(Hold::new(claim, &self.options, shared.clock, young.since, self.deadline(young.since)))
    }
}

impl Young {
    /// No two keys of one hash have a token in common: a store counts them for both.
    fn identity(&self) -> (u64, FencingToken) {
        (self.key.hash64(), self.token)
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        if let Some(store) = &self.store {
            store.close_nursery(self.id);
        }
    }
}

impl Shared {
    /// The hold of a guard that is asked for its lease.
    pub(crate) fn grow_up(self: &Arc<Self>, young: &Young) -> Arc<Hold> {
        let nursery = &self.nursery;
        let grow = |nonce| {
            let hold = nursery.hold(young, nonce, self);
            self.register(&hold);
            hold
        };
        if let Some(hold) = nursery.store.as_ref().and_then(|store| store.grow_one(young, grow)) {
            self.catch_up(&hold);
            return hold;
        }
        if let Some(hold) = nursery.take_grown(young) {
            return hold;
        }
        // Its record is gone from the store.
        let hold = nursery.hold(young, Nonce::fresh(), self);
        self.lose(&hold, if hold.within_its_time() { LossReason::Stolen } else { LossReason::Expired });
        hold
    }

    /// Has those grow up that are due by `now`, and sees to it that the keeper looks again in time for the others.
    pub(crate) fn grow_up_by(&self, now: Mono) {
        let wanted = |since| {
            let due = self.nursery.due(since);
            if due > now {
                self.registry.wake_by(due);
            }
            due <= now
        };
        self.grow_up_if(wanted);
    }

    /// Has all of them grow up: whoever looks at the registry after this sees every hold there was before.
    pub(crate) fn grow_up_all(&self) {
        self.grow_up_if(|_| true);
    }

    fn grow_up_if(&self, wanted: impl FnMut(Mono) -> bool) {
        let nursery = &self.nursery;
        let adopt = |young: Young, nonce| {
            let hold = nursery.hold(&young, nonce, self);
            self.register(&hold);
            lock(&nursery.grown).insert(young.identity(), hold);
        };
        if let Some(store) = &nursery.store {
            store.grow_all(nursery.id, wanted, adopt);
        }
    }
}
