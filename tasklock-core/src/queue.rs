//! The line of this process in front of a store: per key, first come, first served.
//!
//! Whoever stands first is handed the hold of the one before (`handoff.rs`), if that may be handed to it; else it asks the
//! store. The others wait for their turn. So there is one waiter of this process
//! at the store at most, and none while its own hold goes from task to task. Where nothing may be handed on, because the
//! store reserves no tokens or order is to be strict, it is always the one in front that asks.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use hashbrown::{HashTable, hash_table::Entry};

use crate::{
    Capabilities, Fairness, FencingToken, Holder, Key, LockError, Mode, Mono, Nonce, Owner, Renew, State, Ttl,
    handoff::{Baton, Ready},
    lease::Hold,
    options::Options,
    shards::{Shards, lock},
    shared::Shared,
    sight::Sight,
};

/// One line for each key that somebody stands in line for, or that a hold is kept of to be handed on.
#[derive(Debug)]
pub(crate) struct Queue {
    lines: Shards<HashTable<Line>>,
    /// How many there are: most keys have none, and every acquisition in memory asks.
    count: AtomicUsize,
    hands_on: bool,
    /// The store keeps its waiters in order itself, so that only those stand here who may be handed its lock.
    exclusive_only: bool,
}

struct Line {
    key: Key,
    /// The hold that may be handed on.
    holder: Option<Tenant>,
    /// To how many of those who stand in front.
    quota: usize,
    waiters: VecDeque<Arc<Waiter>>,
    /// The one of them that asks the store.
    asker: Option<Arc<Waiter>>,
    /// The last one that the hold was handed to, out of the line: it may not have taken it yet.
    handed: Option<Arc<Waiter>>,
    sight: Sight,
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

struct Waiter {
    mode: Mode,
    ttl: Ttl,
    owner: Owner,
    /// It will not be renewed, so its lease has to begin anew.
    unrenewed: bool,
    /// How often it is to look: in time to warn about its wait.
    look_every: Duration,
    /// It may ask the store. Written under the lock of its line.
    asks: AtomicBool,
    /// When its task last looked, or was told something.
    seen: AtomicU64,
    slot: Mutex<Slot>,
}

/// How long one has to take up what it was told, and how often one that asks the store shows that it is polled.
pub(crate) const CLAIM: Duration = Duration::from_secs(1);
/// One that asks the store and was not polled for so long keeps nobody from asking, too.
const SILENT: Duration = Duration::from_secs(2);
/// How often one in line looks, and how long it keeps its place if it does not.
const LOOK: Duration = Duration::from_secs(10);
const LEASE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Slot {
    told: Option<Told>,
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
    /// The queue in front of this backend, if it needs one.
    pub(crate) fn before(backend: &Capabilities, fairness: Fairness) -> Option<Self> {
        // A store that keeps no order knows of none who wait, and they would wait for ever.
        let hands_on = backend.spans && backend.fair && fairness == Fairness::Bounded;
        let exclusive_only = backend.queues_this_process();
        (hands_on || !exclusive_only).then(|| Queue {
            lines: Shards::new(HashTable::new),
            count: AtomicUsize::new(0),
            hands_on,
            exclusive_only,
        })
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
        let (key, nonce, next) = (tenure.claim.key.clone(), tenure.claim.nonce, tenure.next_token());
        let mut lines = self.lines.of(&key);
        let Some(line) = find(&mut lines, &key).filter(|line| line.is_of(nonce)) else { return Next::Nobody(baton) };
        let Some(front) = line.front_to_hand_to(now).filter(|_| !closed) else {
            let waker = line.vacate(now);
            self.forget_if_unused(lines, &key);
            waker.into_iter().for_each(Waker::wake);
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
        let behind = if line.quota == 0 { line.advance(now) } else { None };
        drop(lines);
        behind.into_iter().for_each(Waker::wake);
        Next::Handed(waker)
    }

    /// This hold may be handed to those in line, or, if that is less, to so many.
    pub(crate) fn allow(&self, key: &Key, nonce: Nonce, most: usize, now: Mono) {
        let mut lines = self.lines.of(key);
        let Some(line) = find(&mut lines, key).filter(|line| line.is_of(nonce)) else { return };
        line.quota = if most == usize::MAX { most } else { line.waiters.len().min(most) };
        let waker = line.advance(now);
        drop(lines);
        waker.into_iter().for_each(Waker::wake);
    }

    /// This hold is not handed on: those in line are on their own.
    pub(crate) fn vacate(&self, key: &Key, nonce: Nonce, now: Mono) {
        let mut lines = self.lines.of(key);
        let Some(line) = find(&mut lines, key).filter(|line| line.is_of(nonce)) else { return };
        let waker = line.vacate(now);
        self.forget_if_unused(lines, key);
        waker.into_iter().for_each(Waker::wake);
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
                if let Some(waiter) = line.handed.take() {
                    let mut slot = lock(&waiter.slot);
                    let untaken = matches!(slot.told, Some(Told::Handed(_)));
                    let due = waiter.seen().after(CLAIM);
                    if untaken && due <= now {
                        batons.extend(slot.told.replace(Told::Look));
                        drop(slot);
                        waiter.seen.store(0, Ordering::Release);
                        line.waiters.push_back(waiter);
                    } else if untaken {
                        next = next.min(due);
                        drop(slot);
                        line.handed = Some(waiter);
                    }
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
                let Some(asker) = line.asker.as_ref().filter(|_| line.waiters.len() > 1) else { continue };
                let due = asker.seen().after(SILENT);
                if due <= now {
                    line.asker = None;
                    wakers.extend(line.advance(now));
                    next = next.min(now.after(SILENT));
                } else {
                    next = next.min(due);
                }
            }
        }
        wakers.into_iter().for_each(Waker::wake);
        for told in batons {
            if let Told::Handed(baton) = told {
                baton.pass();
            }
        }
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

    fn is_unused(&self) -> bool {
        self.holder.is_none() && self.waiters.is_empty()
    }

    /// Whether this one, in front, can be handed the hold there is.
    fn may_be_handed(&self, waiter: &Waiter) -> bool {
        self.quota > 0 && self.holder.as_ref().is_some_and(|holder| holder.suits(waiter))
    }

    /// Who is to be handed the hold next. Those that do not look make way.
    fn front_to_hand_to(&mut self, now: Mono) -> Option<&Waiter> {
        let looking = self.waiters.iter().position(|waiter| waiter.asks() || !waiter.is_silent(now))?;
        self.waiters.rotate_left(looking);
        let front = self.waiters.front().filter(|front| !front.asks());
        front.filter(|front| self.may_be_handed(front)).map(|front| &**front)
    }

    /// The hold is gone, or will be.
    fn vacate(&mut self, now: Mono) -> Option<Waker> {
        self.holder = None;
        self.quota = 0;
        self.advance(now)
    }

    /// Has the one in front ask the store, if it will not be handed the hold.
    fn advance(&mut self, now: Mono) -> Option<Waker> {
        if self.asker.is_some() {
            return None;
        }
        // Those that ask and are not polled are passed over, too.
        let mut looking = self.waiters.iter().filter(|waiter| !waiter.asks() && !waiter.is_silent(now));
        let next = looking.next().filter(|next| !self.may_be_handed(next))?.clone();
        next.asks.store(true, Ordering::Release);
        let waker = next.tell(Told::Turn, now);
        self.asker = Some(next);
        waker
    }

    /// Takes a waiter out, if it is here still.
    fn remove(&mut self, waiter: &Arc<Waiter>) -> bool {
        let Some(place) = self.waiters.iter().position(|other| Arc::ptr_eq(other, waiter)) else { return false };
        self.waiters.remove(place);
        self.asker.take_if(|asker| Arc::ptr_eq(asker, waiter));
        true
    }
}

impl Tenant {
    /// Whether it would have come to the same had this one acquired the lock from the store.
    fn suits(&self, waiter: &Waiter) -> bool {
        waiter.mode == Mode::Exclusive && waiter.ttl == self.ttl && waiter.owner == self.owner
    }
}

impl Waiter {
    fn asks(&self) -> bool {
        self.asks.load(Ordering::Acquire)
    }

    fn seen(&self) -> Mono {
        Mono::from_nanos(self.seen.load(Ordering::Acquire))
    }

    fn is_silent(&self, now: Mono) -> bool {
        now.since(self.seen()) >= LEASE
    }

    /// Who is to be woken. What was told before stands if it is a hold: that must not get lost.
    fn tell(&self, told: Told, now: Mono) -> Option<Waker> {
        self.seen.store(now.as_nanos(), Ordering::Release);
        let mut slot = lock(&self.slot);
        if !matches!(slot.told, Some(Told::Handed(_))) {
            slot.told = Some(told);
        }
        slot.waker.take()
    }

    fn poll_told(&self, cx: &mut Context<'_>) -> Poll<Told> {
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

    fn nudge(&self) -> Option<Waker> {
        let mut slot = lock(&self.slot);
        if slot.told.is_none() {
            slot.told = Some(Told::Look);
        }
        slot.waker.take()
    }
}

/// A place in the line for a key. Dropping it leaves the line; what it was handed meanwhile goes on to the next.
pub(crate) struct Place {
    shared: Arc<Shared>,
    key: Key,
    waiter: Arc<Waiter>,
    sight: Sight,
    /// Out of the line already.
    left: bool,
}

impl Place {
    /// At the end of the line. `None` if this locker needs no line for it, or if it would not wait in it.
    pub(crate) fn take(shared: &Arc<Shared>, key: &Key, options: &Options, now: Mono) -> Option<Self> {
        let queue = shared.queue.as_ref()?;
        if queue.exclusive_only && options.mode != Mode::Exclusive {
            return None;
        }
        let mut lines = queue.lines.of(key);
        let mut entry = match lines.entry(key.hash64(), |line| line.key == *key, |line| line.key.hash64()) {
            // It waits for nobody, and may ask: the store knows.
            Entry::Occupied(_) if options.is_try() => return None,
            Entry::Occupied(occupied) => occupied,
            Entry::Vacant(vacant) => {
                queue.count.fetch_add(1, Ordering::AcqRel);
                vacant.insert(Line {
                    key: key.clone(),
                    holder: None,
                    quota: 0,
                    waiters: VecDeque::new(),
                    asker: None,
                    handed: None,
                    sight: Sight::default(),
                })
            }
        };
        let line = entry.get_mut();
        let waiter = Arc::new(Waiter {
            mode: options.mode,
            ttl: options.ttl,
            owner: options.owner.clone(),
            unrenewed: options.renew == Renew::Off,
            look_every: options.warn_after.min(LOOK),
            asks: AtomicBool::new(false),
            seen: AtomicU64::new(now.as_nanos()),
            slot: Mutex::default(),
        });
        line.waiters.push_back(waiter.clone());
        let waker = line.advance(now);
        let sight = line.sight.clone();
        drop(lines);
        waker.into_iter().for_each(Waker::wake);
        if !waiter.asks() {
            // The one before it may not be polled any more.
            shared.registry.wake_by(now.after(waiter.look_every.min(SILENT)));
        }
        Some(Place { shared: shared.clone(), key: key.clone(), waiter, sight, left: false })
    }

    /// Whether it is for this one to ask the store.
    pub(crate) fn may_ask(&self) -> bool {
        self.waiter.asks()
    }

    /// Shows that its task is polled.
    pub(crate) fn look(&self, now: Mono) {
        let was_silent = self.waiter.is_silent(now);
        self.waiter.seen.store(now.as_nanos(), Ordering::Release);
        if let Some(queue) = self.shared.queue.as_ref().filter(|_| was_silent) {
            let mut lines = queue.lines.of(&self.key);
            let waker = find(&mut lines, &self.key).and_then(|line| line.advance(now));
            drop(lines);
            waker.into_iter().for_each(Waker::wake);
        }
    }

    /// The same for one that asks the store.
    pub(crate) fn looking(&self) -> Looking {
        Looking(self.waiter.clone())
    }

    pub(crate) fn sight(&self) -> &Sight {
        &self.sight
    }

    /// What this one is told. A hold that was not taken is not lost if this is dropped.
    pub(crate) async fn told(&mut self) -> Told {
        let told = poll_fn(|cx| self.waiter.poll_told(cx)).await;
        // Whoever is handed the hold is out of the line.
        self.left = matches!(told, Told::Handed(_));
        told
    }

    /// The line, for when this place is given up.
    pub(crate) fn line(&self) -> LineOf {
        LineOf { shared: self.shared.clone(), key: self.key.clone(), sight: self.sight.clone() }
    }

    /// Whether what is granted to it may be handed on.
    pub(crate) fn hands_on(&self) -> bool {
        self.waiter.mode == Mode::Exclusive && self.shared.queue.as_ref().is_some_and(|queue| queue.hands_on)
    }

    /// Granted by the store: from here on the line is that hold's.
    pub(crate) fn enter(mut self, hold: &Hold) {
        let now = hold.acquired;
        let Some(queue) = &self.shared.queue else { return };
        let (claim, token, since) = (&hold.claim, hold.token(), hold.acquired);
        let owner = self.waiter.owner.clone();
        let tenant = Tenant { nonce: claim.nonce, ttl: claim.ttl, owner, granted: token, token, since };
        self.left = true;
        let mut lines = queue.lines.of(&self.key);
        let Some(line) = find(&mut lines, &self.key) else { return };
        line.remove(&self.waiter);
        (line.holder, line.quota) = (Some(tenant), usize::MAX);
        let waker = line.advance(now);
        drop(lines);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// One that asks the store, and shows meanwhile that its task is polled.
pub(crate) struct Looking(Arc<Waiter>);

impl Looking {
    /// It is; when to look again.
    pub(crate) fn look(&self, now: Mono) -> Mono {
        self.0.seen.store(now.as_nanos(), Ordering::Release);
        now.after(CLAIM)
    }
}

/// The line that somebody stands in, or has stood in.
pub(crate) struct LineOf {
    shared: Arc<Shared>,
    key: Key,
    sight: Sight,
}

impl LineOf {
    /// The line for this key, if there is one.
    pub(crate) fn at(shared: &Arc<Shared>, key: &Key) -> Self {
        let mut line = LineOf { shared: shared.clone(), key: key.clone(), sight: Sight::default() };
        if let Some(sight) = line.look(|line| Some(line.sight.clone())) {
            line.sight = sight;
        }
        line
    }

    /// Who has what is waited for: this process, or whom the one in front has seen last.
    pub(crate) fn holder(&self, now: Mono) -> Option<Arc<Holder>> {
        self.tenant(now).or_else(|| self.sight.holder(now))
    }

    /// What one that has stood in it since `started` is told when its time is over.
    pub(crate) fn gave_up(&self, started: Mono, now: Mono) -> LockError {
        match self.tenant(now) {
            None => self.sight.gave_up(&self.key, started, now, self.is_asking()),
            holder => LockError::Timeout { key: self.key.clone(), waited: now.since(started), holder },
        }
    }

    fn tenant(&self, now: Mono) -> Option<Arc<Holder>> {
        let tenant = self.look(|line| line.holder.clone())?;
        Some(Arc::new(Holder::new(tenant.owner).held(now.since(tenant.since))))
    }

    fn is_asking(&self) -> bool {
        self.look(|line| line.asker.as_ref().map(drop)).is_some()
    }

    fn look<T>(&self, at: impl FnOnce(&Line) -> Option<T>) -> Option<T> {
        let queue = self.shared.queue.as_ref()?;
        let mut lines = queue.lines.of(&self.key);
        find(&mut lines, &self.key).and_then(|line| at(line))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(queue) = self.shared.queue.as_ref().filter(|_| !self.left) else { return };
        let now = self.shared.clock.now();
        let mut lines = queue.lines.of(&self.key);
        let Some(line) = find(&mut lines, &self.key) else { return };
        let waker = if line.remove(&self.waiter) { line.advance(now) } else { None };
        // Handed to it meanwhile. Taken under the lock of the line, so that nobody passes it over at the same time and puts
        // it back in line.
        line.handed.take_if(|handed| Arc::ptr_eq(handed, &self.waiter));
        let told = lock(&self.waiter.slot).told.take();
        queue.forget_if_unused(lines, &self.key);
        waker.into_iter().for_each(Waker::wake);
        if let Some(Told::Handed(baton)) = told {
            baton.pass();
        }
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
