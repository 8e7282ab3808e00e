//! The line of this process in front of a store: per key, first come, first served.
//!
//! Whoever stands first is handed the hold of the one before (`handoff.rs`), if that may be handed to it; else it asks the
//! store. The others wait for their turn. So there is one waiter of this process at the store at most, but for readers, of
//! whom there are up to 64, and none while its own hold goes from task to task. Where nothing may be handed on, because the
//! store reserves no tokens, it is always the one in front that asks; where it does, and order is to be strict, there is no
//! line here: each stands in the store's.

mod place;
mod waiter;

use std::{
    collections::VecDeque,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
};

use hashbrown::HashTable;

use self::waiter::{SILENT, Waiter};
pub(crate) use self::{
    place::{Looking, Place},
    waiter::{CLAIM, Told},
};
use crate::{
    Capabilities, Claim, Fairness, FencingToken, Holder, Key, Mode, Mono, Nonce, Owner, State, Ttl,
    handoff::{Baton, Ready},
    shards::Shards,
    sight::Sight,
};

/// One line for each key that somebody stands in line for, or that a hold is kept of to be handed on.
#[derive(Debug)]
pub(crate) struct Queue {
    lines: Shards<HashTable<Line>>,
    /// How many there are: most keys have none, and every acquisition in memory asks.
    count: AtomicUsize,
    hands_on: bool,
    /// The store keeps its waiters in order.
    fair: bool,
    /// It keeps those of this process in order, too, so that only those stand here who may be handed its lock.
    exclusive_only: bool,
}

/// How many readers ask for a lock at a time.
const TOGETHER: usize = 64;

struct Line {
    key: Key,
    /// The hold that may be handed on.
    holder: Option<Tenant>,
    /// To how many of those who stand in front.
    quota: usize,
    waiters: VecDeque<Arc<Waiter>>,
    /// Those of them that ask the store.
    askers: Vec<Arc<Waiter>>,
    /// The last one that the hold was handed to, out of the line: it may not have taken it yet.
    handed: Option<Arc<Waiter>>,
    /// What those who ask have seen, while somebody waits.
    sight: Option<Sight>,
}

/// Whose hold it is: what the next must have in common with it, and what those who give up are told.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(crate) nonce: Nonce,
    pub(crate) ttl: Ttl,
    pub(crate) owner: Owner,
    /// The token that the store knows it by, the token it has come to, and since when.
    pub(crate) granted: FencingToken,
    pub(crate) token: FencingToken,
    pub(crate) since: Mono,
}

/// What became of a hold that could be handed on.
pub(crate) enum Next {
    /// It is handed on; who is to be woken.
    Handed(Option<Waker>),
    /// Somebody waits for it, with so many in all, but it has to be renewed first.
    Renew(Baton, usize),
    /// It has left the line, and is to be released.
    Nobody(Baton),
}

type Lines<'a> = MutexGuard<'a, HashTable<Line>>;

impl Queue {
    /// The queue in front of this backend, if it needs one: not where each is to stand in the store's, instead of being handed
    /// the lock here.
    pub(crate) fn before(backend: &Capabilities, fairness: Fairness) -> Option<Self> {
        // A store that keeps no order knows of none who wait, and they would wait for ever.
        let can_hand_on = backend.spans && backend.fair;
        let hands_on = can_hand_on && fairness == Fairness::Bounded;
        let exclusive_only = backend.queues_this_process();
        (hands_on || !(exclusive_only || can_hand_on)).then(|| Queue {
            lines: Shards::new(HashTable::new),
            count: AtomicUsize::new(0),
            hands_on,
            fair: backend.fair,
            exclusive_only,
        })
    }

    /// How many may ask the store at a time for one key.
    fn askers(&self, mode: Mode) -> usize {
        match mode {
            Mode::Shared if self.fair => TOGETHER,
            _ => 1,
        }
    }

    /// Keys that have a line.
    pub(crate) fn len(&self) -> usize {
        self.lines.iter().map(|lines| lines.iter().filter(|line| !line.waiters.is_empty()).count()).sum()
    }

    /// Whether nobody of this process is before a newcomer.
    pub(crate) fn is_quiet(&self, key: &Key) -> bool {
        self.count.load(Ordering::Acquire) == 0 || find(&mut self.lines.of(key), key).is_none()
    }

    /// Hands a hold that has ended to the one in front, or says what else is to be done.
    pub(crate) fn hand_on(&self, baton: Baton, now: Mono, closed: bool) -> Next {
        let Some(tenure) = baton.tenure() else { return Next::Nobody(baton) };
        let (Claim { key, nonce, .. }, next) = (tenure.claim(), tenure.next_token());
        let mut lines = self.lines.of(key);
        let Some(line) = find(&mut lines, key).filter(|line| line.is_of(*nonce)) else { return Next::Nobody(baton) };
        let Some(front) = line.front_to_hand_to(now).filter(|_| !closed) else {
            let wakers = line.vacate(self, now);
            self.forget_if_unused(lines, key);
            wakers.into_iter().for_each(Waker::wake);
            return Next::Nobody(baton);
        };
        match tenure.ready(now, front.unrenewed) {
            Ready::Yes => {}
            Ready::AfterRenewal => return Next::Renew(baton, line.waiters.len()),
        }
        line.handed = line.waiters.pop_front();
        line.quota = if line.quota == usize::MAX { usize::MAX } else { line.quota - 1 };
        if let Some(holder) = &mut line.holder {
            (holder.token, holder.since) = (next, now);
        }
        let waker = line.handed.as_ref().and_then(|waiter| waiter.tell(Told::Handed(baton), now));
        // After the last of a round the one behind it need not wait to be told: it stands in the store's queue the sooner.
        let behind = if line.quota == 0 { line.advance(self, now) } else { Vec::new() };
        drop(lines);
        behind.into_iter().for_each(Waker::wake);
        Next::Handed(waker)
    }

    /// This hold may be handed to those in line, or, if that is less, to so many.
    pub(crate) fn allow(&self, key: &Key, nonce: Nonce, most: usize, now: Mono) {
        let mut lines = self.lines.of(key);
        let Some(line) = find(&mut lines, key).filter(|line| line.is_of(nonce)) else { return };
        line.quota = if most == usize::MAX { most } else { line.waiters.len().min(most) };
        let wakers = line.advance(self, now);
        drop(lines);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The store has granted this token: a hold with a lower one is gone. It is handed to nobody any more, and whoever was
    /// handed it and has not taken it gets nothing.
    pub(crate) fn supersede(&self, key: &Key, token: FencingToken, now: Mono) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut lines = self.lines.of(key);
        let Some(line) = find(&mut lines, key).filter(|line| line.is_before(token)) else { return };
        if line.holder.is_none() && line.handed.is_none() {
            return;
        }
        let baton = line.take_back(now);
        let wakers = line.vacate(self, now);
        self.forget_if_unused(lines, key);
        wakers.into_iter().for_each(Waker::wake);
        baton.into_iter().for_each(Baton::pass);
    }

    /// This hold is not handed on: those in line are on their own.
    pub(crate) fn vacate(&self, key: &Key, nonce: Nonce, now: Mono) {
        let mut lines = self.lines.of(key);
        let Some(line) = find(&mut lines, key).filter(|line| line.is_of(nonce)) else { return };
        let wakers = line.vacate(self, now);
        self.forget_if_unused(lines, key);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// What the store said of a key, and what it does not see of this process: who has its hold by now, and who waits to
    /// be handed it.
    pub(crate) fn complete(&self, key: &Key, now: Mono, mut state: State) -> State {
        let mut lines = self.lines.of(key);
        let Some(line) = find(&mut lines, key) else { return state };
        let unseen = line.waiters.iter().filter(|waiter| !waiter.asks()).count();
        state.waiters = state.waiters.map(|seen| seen.saturating_add(unseen as u64));
        if let (Some(tenant), Some(holder)) = (&line.holder, &mut state.holder) {
            if holder.token == Some(tenant.granted) {
                let held = now.since(tenant.since);
                *holder = Arc::new(Holder { token: Some(tenant.token), held: Some(held), ..Holder::clone(holder) });
            }
        }
        state
    }

    /// Tells everybody that nothing is acquired any more.
    pub(crate) fn close(&self, now: Mono) {
        for lines in self.lines.iter() {
            let waiters: Vec<_> = lines.iter().flat_map(|line| line.waiters.iter().cloned()).collect();
            drop(lines);
            waiters.iter().filter_map(|waiter| waiter.tell(Told::Closed, now)).for_each(Waker::wake);
        }
    }

    /// Passes over those who were told something and have not looked since, and has the others look. When to do so next.
    pub(crate) fn pass_over(&self, now: Mono) -> Mono {
        let (mut batons, mut wakers, mut next) = (Vec::new(), Vec::new(), Mono::NEVER);
        if self.count.load(Ordering::Acquire) == 0 {
            return next;
        }
        for mut lines in self.lines.iter() {
            for line in lines.iter_mut() {
                match line.handed.as_ref().map(|waiter| waiter.seen().after(CLAIM)) {
                    Some(due) if due <= now => batons.extend(line.take_back(now)),
                    Some(due) => next = next.min(due),
                    None => {}
                }
                for waiter in line.waiters.iter().filter(|waiter| !waiter.asks()) {
                    let due = waiter.seen().after(waiter.look_every);
                    if due <= now {
                        wakers.extend(waiter.nudge());
                        next = next.min(now.after(waiter.look_every));
                    } else {
                        next = next.min(due);
                    }
                }
                if line.waiters.len() == line.askers.len() {
                    continue;
                }
                line.askers.retain(|asker| asker.seen().after(SILENT) > now);
                wakers.extend(line.advance(self, now));
                next = line.askers.iter().map(|asker| asker.seen().after(SILENT)).fold(next, Mono::min);
            }
        }
        wakers.into_iter().for_each(Waker::wake);
        batons.into_iter().for_each(Baton::pass);
        next
    }

    fn forget_if_unused(&self, mut lines: Lines<'_>, key: &Key) {
        if let Ok(entry) = lines.find_entry(key.hash64(), |line| line.key == *key) {
            if entry.get().is_unused() {
                entry.remove();
                self.count.fetch_sub(1, Ordering::AcqRel);
                give_back_room(&mut lines, |line| line.key.hash64());
            }
        }
    }
}

impl Line {
    fn is_of(&self, nonce: Nonce) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.nonce == nonce)
    }

    /// Whether what is handed on here, if anything, is older than a grant; one that is looked at late may be older itself.
    fn is_before(&self, token: FencingToken) -> bool {
        self.holder.as_ref().is_none_or(|holder| holder.token < token)
    }

    fn is_unused(&self) -> bool {
        self.holder.is_none() && self.waiters.is_empty()
    }

    /// Whether this one, in front, can be handed the hold there is.
    fn may_be_handed(&self, waiter: &Waiter) -> bool {
        self.quota > 0 && self.holder.as_ref().is_some_and(|holder| holder.suits(waiter))
    }

    /// Who is to be handed the hold next. Those that do not look make way.
    fn front_to_hand_to(&mut self, now: Mono) -> Option<&Waiter> {
        let asks = |waiter: &Arc<Waiter>| self.askers.iter().any(|asker| Arc::ptr_eq(asker, waiter));
        let looks = |waiter: &Arc<Waiter>| if waiter.asks() { asks(waiter) } else { !waiter.is_silent(now) };
        let looking = self.waiters.iter().position(looks)?;
        self.waiters.rotate_left(looking);
        let front = self.waiters.front().filter(|front| !front.asks());
        front.filter(|front| self.may_be_handed(front)).map(|front| &**front)
    }

    /// The hold is gone, or will be.
    fn vacate(&mut self, queue: &Queue, now: Mono) -> Vec<Waker> {
        self.holder = None;
        self.quota = 0;
        self.advance(queue, now)
    }

    /// Has the one in front ask the store, if it will not be handed the hold, and, beside a reader, the readers behind it.
    fn advance(&mut self, queue: &Queue, now: Mono) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while self.askers.last().is_none_or(|last| self.askers.len() < queue.askers(last.mode)) {
            // Those that ask and are not polled are passed over, too.
            let mut looking = self.waiters.iter().filter(|waiter| !waiter.asks() && !waiter.is_silent(now));
            let next = looking.next().filter(|next| !self.may_be_handed(next));
            let Some(next) = next.filter(|next| self.askers.last().is_none_or(|last| last.mode == next.mode)) else {
                break;
            };
            next.asks.store(true, Ordering::Release);
            wakers.extend(next.tell(Told::Turn, now));
            self.askers.push(next.clone());
        }
        wakers
    }

    /// While nobody waits it has room for nobody: most holds are kept so.
    fn give_back_room(&mut self) {
        if self.waiters.is_empty() {
            (self.waiters, self.askers, self.sight) = (VecDeque::new(), Vec::new(), None);
        }
    }

    /// Takes back what somebody was handed and has not taken, who stands first in line again, or last if it did not look.
    fn take_back(&mut self, now: Mono) -> Option<Baton> {
        let waiter = self.handed.take()?;
        let hung = waiter.seen().after(CLAIM) <= now;
        let baton = waiter.take_back(hung)?;
        if hung {
            self.waiters.push_back(waiter)
        } else {
            self.waiters.push_front(waiter)
        }
        Some(baton)
    }

    /// Takes a waiter out, if it is here still.
    fn remove(&mut self, waiter: &Arc<Waiter>) -> bool {
        let Some(place) = self.waiters.iter().position(|other| Arc::ptr_eq(other, waiter)) else { return false };
        self.waiters.remove(place);
        self.askers.retain(|asker| !Arc::ptr_eq(asker, waiter));
        true
    }
}

impl Tenant {
    /// Whether it would have come to the same had this one acquired the lock from the store.
    fn suits(&self, waiter: &Waiter) -> bool {
        waiter.mode == Mode::Exclusive && waiter.ttl == self.ttl && waiter.owner == self.owner
    }
}

fn find<'a>(lines: &'a mut Lines<'_>, key: &Key) -> Option<&'a mut Line> {
    lines.find_mut(key.hash64(), |line| line.key == *key)
}

/// A table keeps the room of its busiest hour; one that is nearly empty gives it back.
pub(crate) fn give_back_room<T>(table: &mut HashTable<T>, hash: impl Fn(&T) -> u64) {
    const ROOM_KEPT: usize = 256;
    if table.capacity() > ROOM_KEPT && table.len() < table.capacity() / 8 {
        table.shrink_to(ROOM_KEPT / 2, hash);
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("key", &self.key).field("waiters", &self.waiters.len()).finish_non_exhaustive()
    }
}
