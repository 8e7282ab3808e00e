//! The leases a locker has, and when each needs the keeper.

use std::sync::{
    Arc, MutexGuard,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use slab::Slab;
use tokio::sync::Notify;

use crate::{
    Mono,
    hold::Hold,
    shards::{self, Shards},
};

/// Sharded, because every acquisition and release writes to it. Entries are scanned rather than ordered: adding and
/// removing must cost next to nothing, for most locks are gone before they are first due.
#[derive(Debug)]
pub(crate) struct Registry {
    shards: Shards<Slab<Entry>>,
    /// The keeper sleeps until then, whatever has left the registry in the meantime: so a busy locker wakes it once in
    /// a renewal period, not once in an acquisition.
    wake_at: AtomicU64,
    sooner: Notify,
}

#[derive(Debug)]
struct Entry {
    hold: Arc<Hold>,
    /// When the keeper must look at it: its renewal or its deadline.
    next: Mono,
    renew_at: Mono,
    /// Renewals due within so many nanoseconds of each other go together.
    gather: u64,
    renewing: bool,
}

/// Where a hold is kept: the part of the thread that acquired it, and the slot in it.
#[derive(Debug, Default)]
pub(crate) struct Place {
    shard: AtomicUsize,
    slot: AtomicUsize,
}

impl Place {
    fn store(&self, shard: usize, slot: usize) {
        self.shard.store(shard, Ordering::Relaxed);
        self.slot.store(slot, Ordering::Relaxed);
    }

    fn load(&self) -> (usize, usize) {
        (self.shard.load(Ordering::Relaxed), self.slot.load(Ordering::Relaxed))
    }
}

/// What a scan found to do.
#[derive(Debug, Default)]
pub(crate) struct Due {
    pub(crate) expired: Vec<Arc<Hold>>,
    pub(crate) renew: Vec<Arc<Hold>>,
}

/// A slab keeps the room of its busiest hour; an empty one larger than this gives it back.
const ROOM_KEPT: usize = 256;

impl Registry {
    pub(crate) fn new() -> Self {
        Registry { shards: Shards::new(Slab::new), wake_at: AtomicU64::new(u64::MAX), sooner: Notify::new() }
    }

    /// Adds a hold, to be renewed at `renew_at`.
    pub(crate) fn insert(&self, hold: Arc<Hold>, renew_at: Mono) {
        let next = renew_at.min(hold.deadline());
        {
            let number = shards::of_this_thread();
            let mut shard = self.shards.at(number);
            let slot = shard.vacant_entry();
            hold.place.store(number, slot.key());
            let gather = gather(&hold);
            slot.insert(Entry { hold, next, renew_at, gather, renewing: false });
        }
        self.wake_by(next);
    }

    /// Removes a hold, if it is here.
    pub(crate) fn remove(&self, hold: &Arc<Hold>) {
        let (number, slot) = hold.place.load();
        let mut shard = self.shards.at(number);
        if shard.get(slot).is_some_and(|entry| Arc::ptr_eq(&entry.hold, hold)) {
            shard.remove(slot);
        }
    }

    /// A renewal has ended: the next is due at `renew_at`.
    pub(crate) fn renewed(&self, hold: &Arc<Hold>, renew_at: Mono) {
        let next = renew_at.min(hold.deadline());
        {
            let (number, slot) = hold.place.load();
            let mut shard = self.shards.at(number);
            let Some(entry) = shard.get_mut(slot).filter(|entry| Arc::ptr_eq(&entry.hold, hold)) else { return };
            (entry.next, entry.renew_at, entry.renewing) = (next, renew_at, false);
            entry.gather = gather(hold);
        }
        self.wake_by(next);
    }

    /// A deadline has come nearer.
    pub(crate) fn hurry(&self, hold: &Arc<Hold>) {
        let deadline = hold.deadline();
        {
            let (number, slot) = hold.place.load();
            let mut shard = self.shards.at(number);
            let Some(entry) = shard.get_mut(slot).filter(|entry| Arc::ptr_eq(&entry.hold, hold)) else { return };
            entry.next = entry.next.min(deadline);
        }
        self.wake_by(deadline);
    }

    /// Takes out what has expired, marks what is due for renewal (or nearly, so that renewals gather), and notes when
    /// to look again.
    pub(crate) fn scan(&self, now: Mono) -> Due {
        self.wake_at.store(u64::MAX, Ordering::SeqCst);
        let mut due = Due::default();
        let mut soonest = Mono::NEVER;
        for mut shard in self.shards.iter() {
            shard.retain(|_, entry| {
                if entry.next > Mono::from_nanos(now.as_nanos().saturating_add(entry.gather)) {
                    soonest = soonest.min(entry.next);
                    return true;
                }
                let deadline = entry.hold.deadline();
                if deadline <= now {
                    due.expired.push(entry.hold.clone());
                    return false;
                }
                if !entry.renewing && entry.renew_at <= Mono::from_nanos(now.as_nanos().saturating_add(entry.gather)) {
                    entry.renewing = true;
                    due.renew.push(entry.hold.clone());
                }
                entry.next = if entry.renewing { deadline } else { entry.renew_at.min(deadline) };
                soonest = soonest.min(entry.next);
                true
            });
            if shard.is_empty() && shard.capacity() > ROOM_KEPT {
                *shard = Slab::new();
            }
        }
        self.wake_at.fetch_min(soonest.as_nanos(), Ordering::SeqCst);
        due
    }

    /// The holds that are wanted.
    pub(crate) fn find(&self, wanted: impl Fn(&Hold) -> bool) -> Vec<Arc<Hold>> {
        let matching = |shard: MutexGuard<'_, Slab<Entry>>| {
            shard.iter().filter(|(_, e)| wanted(&e.hold)).map(|(_, e)| e.hold.clone()).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(matching).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// When the keeper must scan next.
    pub(crate) fn wake_at(&self) -> Mono {
        Mono::from_nanos(self.wake_at.load(Ordering::SeqCst))
    }

    /// Completes when [`wake_at`](Registry::wake_at) has become sooner.
    pub(crate) async fn sooner(&self) {
        self.sooner.notified().await;
    }

    /// Has the keeper look at `next`, if it would not sooner.
    pub(crate) fn wake_by(&self, next: Mono) {
        if next.as_nanos() < self.wake_at.load(Ordering::SeqCst)
            && next.as_nanos() < self.wake_at.fetch_min(next.as_nanos(), Ordering::SeqCst)
        {
            self.sooner.notify_one();
        }
    }
}

/// A claim is not confirmed before it is due: it is likely to be over by then.
fn gather(hold: &Hold) -> u64 {
    if hold.is_confirming() {
        return 0;
    }
    hold.period().map_or(0, |period| period / 16)
}
