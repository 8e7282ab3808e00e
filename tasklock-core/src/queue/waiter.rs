//! One that stands in line: what it wants, what it is told, and whether it looks.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::{Mode, Mono, Owner, Ttl, handoff::Baton, shards::lock};

/// One that stands in line.
pub(super) struct Waiter {
    pub(super) mode: Mode,
    pub(super) ttl: Ttl,
    pub(super) owner: Owner,
    /// It will not be renewed, so its lease has to begin anew.
    pub(super) unrenewed: bool,
    /// How often it is to look: in time to warn about its wait.
    pub(super) look_every: Duration,
    /// It may ask the store. Written under the lock of its line.
    pub(super) asks: AtomicBool,
    /// When its task last looked, or was told something.
    pub(super) seen: AtomicU64,
    pub(super) slot: Mutex<Slot>,
}

/// How long one has to take up what it was told, and how often one that asks the store shows that it is polled.
pub(crate) const CLAIM: Duration = Duration::from_secs(1);
/// One that asks the store and was not polled for so long keeps nobody from asking, too.
pub(super) const SILENT: Duration = Duration::from_secs(2);
/// How often one in line looks, and how long it keeps its place if it does not.
pub(super) const LOOK: Duration = Duration::from_secs(10);
pub(super) const LEASE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Slot {
    pub(super) told: Option<Told>,
    waker: Option<Waker>,
}

/// What somebody in line is told, once.
pub(crate) enum Told {
    /// To ask the store.
    Turn,
    /// The hold of the one before.
    Handed(Baton),
    /// To show that it is polled.
    Look,
    /// That nothing is acquired any more.
    Closed,
}

impl Waiter {
    pub(super) fn asks(&self) -> bool {
        self.asks.load(Ordering::Acquire)
    }

    pub(super) fn seen(&self) -> Mono {
        Mono::from_nanos(self.seen.load(Ordering::Acquire))
    }

    pub(super) fn is_silent(&self, now: Mono) -> bool {
        now.since(self.seen()) >= LEASE
    }

    /// Who is to be woken. What was told before stands if it is a hold: that must not get lost.
    pub(super) fn tell(&self, told: Told, now: Mono) -> Option<Waker> {
        self.seen.store(now.as_nanos(), Ordering::Release);
        let mut slot = lock(&self.slot);
        if !matches!(slot.told, Some(Told::Handed(_))) {
            slot.told = Some(told);
        }
        slot.waker.take()
    }

    pub(super) fn poll_told(&self, cx: &mut Context<'_>) -> Poll<Told> {
        let known = {
            let mut slot = lock(&self.slot);
            if let Some(told) = slot.told.take() {
                return Poll::Ready(told);
            }
            slot.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
        };
        if known {
            return Poll::Pending;
        }
        // Wakers are others' code: cloned, and dropped, where nobody waits for the slot.
        let mut waker = Some(cx.waker().clone());
        let told = {
            let mut slot = lock(&self.slot);
            let told = slot.told.take();
            if told.is_none() {
                std::mem::swap(&mut slot.waker, &mut waker);
            }
            told
        };
        drop(waker);
        told.map_or(Poll::Pending, Poll::Ready)
    }

    /// The hold that it was handed, if it has not taken it. One that hung counts as one that has not looked for long.
    pub(super) fn take_back(&self, hung: bool) -> Option<Baton> {
        let mut slot = lock(&self.slot);
        let told = slot.told.take_if(|told| matches!(told, Told::Handed(_)));
        let Some(Told::Handed(baton)) = told else { return None };
        slot.told = Some(Told::Look);
        // Before it can look.
        if hung {
            self.seen.store(0, Ordering::Release);
        }
        Some(baton)
    }

    pub(super) fn nudge(&self) -> Option<Waker> {
        let mut slot = lock(&self.slot);
        if slot.told.is_none() {
            slot.told = Some(Told::Look);
        }
        slot.waker.take()
    }
}
