//! Locks between the tasks of one process. The embedded default, and what tests run on.
//!
//! # Layout
//!
//! A sharded map from key to its holders and a FIFO queue of waiters; an entry lives while it has either. Of a hold that
//! is given back before anybody asks for it, which most are, there is a token and a time only. Fencing tokens
//! come from one counter a shard, so that forgetting a key never resets it. A store's counters begin above the wall
//! clock in microseconds and above those of every store of this process that is gone. Values beside locks are in a table
//! of their own, each until its end.
//!
//! # Protocol
//!
//! 1. *Acquire*: a free key with nobody before the caller is taken; else the caller enters the queue (unless it only
//!    tries). A holder asking again gets the same grant, its ttl begun anew.
//! 2. *Release* grants to the first waiter in the same step and wakes it. The grant is a claim of at most a second; the
//!    waiter's next poll makes it a full lease. So a waiter whose future is not polled delays the others by no more.
//! 3. *Shared locks and permits* stand in the same queue. As many from its head are let in together as can be: readers
//!    beside readers, permits as long as fewer are held than the caller says there are. So a writer that waits keeps
//!    later readers behind it. Each has a token of its own, and expires by itself.
//! 4. *Pools* are keys of their own, with members; a grant is of one that is free, the one that has been so for longest.
//!    In all else they are held and waited for as the others. Their entries live while they have members, too.
//! 5. *Renewal* can reserve further tokens, for hand-overs within one locker that this store does not see.
//! 6. *Expiry*: whoever finds a holder past its time settles the key in favour of the first waiter. Waiters look again
//!    at the end of the holder's time, at the latest every second; one that has not looked for a while is passed over.
//!
//! # Cost
//!
//! One lock of one shard for each step; no task, no timer, no allocation beyond the key's entry. Who asks first for a hold
//! that nobody has looked at yet takes one lock more, and allocates that entry.
//!
//! # Failure modes
//!
//! None of its own: it ends with the process. Tokens rise across restarts as long as fewer than a million a second
//! were minted on average.

mod entry;
mod members;
mod slot;
mod values;
mod young;

use std::{
    collections::HashMap,
    fmt,
    future::poll_fn,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, Waker},
    time::Duration,
};

use hashbrown::{HashTable, hash_table};

use crate::{
    Administer, AsyncLock, Attempt, Busy, Capabilities, Change, Claim, Clock, Expiry, Fencing, FencingToken, Health,
    Intent, Key, Mode, Mono, Nonce, Page, PoolChange, Pools, Powers, Released, Renewed, Request, Scope, Span, State,
    Validity, Values, Wake, WakeBy, Withdrawn,
    lock::{BoxFuture, StepResult},
    queue::give_back_room,
    shards::{Shards, lock},
    wall_micros,
};

use self::{
    entry::{After, CLAIM, Entry, Held},
    slot::{Nurseries, Slot},
    values::Table,
};

/// Locks between the tasks of one process: see the [module](self) for how. Cheap to clone; clones are the same store.
#[derive(Clone)]
pub struct MemoryLock {
    store: Arc<Store>,
}

struct Store {
    shards: Shards<Shard>,
    clock: OnceLock<Clock>,
    /// Noted and looked at under the lock of the key's shard.
    withdrawn: Withdrawn,
    values: Mutex<Table>,
    nurseries: Nurseries,
}

struct Shard {
    slots: HashTable<Slot>,
    /// The last token minted for a key of this shard.
    token: u64,
}

const CAPABILITIES: Capabilities = Capabilities::new("memory")
    .fencing(Fencing::Strong)
    .expiry(Expiry::Server)
    .wake(WakeBy::Push)
    .fair(true)
    .shared(true)
    .permits(true)
    .spans(true)
    .signs_of_life(true)
    .scope(Scope::Process);

impl MemoryLock {
    /// A store of its own.
    #[must_use]
    pub fn new() -> Self {
        let token = wall_micros().max(HIGHEST.load(Ordering::Relaxed));
        let shards = Shards::new(|| Shard { slots: HashTable::new(), token });
        let (clock, values, nurseries) = (OnceLock::new(), Mutex::default(), Nurseries::default());
        let withdrawn = Withdrawn::default();
        MemoryLock { store: Arc::new(Store { shards, clock, withdrawn, values, nurseries }) }
    }

    /// The store of this name, shared by everyone in the process who asks for it while anyone has it.
    #[must_use]
    pub fn named(name: &str) -> Self {
        static NAMED: LazyLock<Mutex<HashMap<String, Weak<Store>>>> = LazyLock::new(Mutex::default);
        let mut named = lock(&NAMED);
        if let Some(store) = named.get(name).and_then(Weak::upgrade) {
            return MemoryLock { store };
        }
        let fresh = Self::new();
        named.retain(|_, store| store.strong_count() > 0);
        named.insert(name.to_owned(), Arc::downgrade(&fresh.store));
        fresh
    }

    /// How many keys are held or waited for, or are pools with members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.store.shards.iter().map(|shard| shard.slots.len()).sum()
    }

    /// Whether no key is held or waited for, and no pool has members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For how many keys there is room without growing.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn room(&self) -> usize {
        self.store.shards.iter().map(|shard| shard.slots.capacity()).sum()
    }

    fn now(&self) -> Mono {
        self.store.clock.get_or_init(Clock::current).now()
    }

    fn attempt(&self, request: &Request) -> StepResult<Attempt> {
        // A first attempt is made right after its clock was read; if it comes late after all, its lease is the shorter.
        let now = if let Intent::Poll { .. } = request.intent { self.now() } else { request.since };
        let mut guard = self.store.shards.of(&request.key);
        let Shard { slots, token } = &mut *guard;
        self.store.withdrawn.check(request.nonce, || self.now())?;
        let slot = slots.entry(request.key.hash64(), |slot| slot.key == request.key, |slot| slot.key.hash64());
        let entry = match slot {
            hash_table::Entry::Vacant(_) if request.mode == Mode::Member && request.intent == Intent::Try => {
                return Ok(Attempt::Busy(Busy::default()));
            }
            hash_table::Entry::Vacant(vacant) if request.mode == Mode::Member => {
                vacant.insert(Slot::of(request.key.clone(), Entry::pool())).into_mut().entry(&self.store.nurseries)
            }
            hash_table::Entry::Vacant(vacant) => {
                let held = Held::new(token, request.nonce, request.owner.clone(), now, request.until(now));
                let grant = held.grant();
                vacant.insert(Slot::of(request.key.clone(), Entry::new(held, request.mode)));
                return Ok(Attempt::Granted(grant));
            }
            hash_table::Entry::Occupied(occupied) => occupied.into_mut().entry(&self.store.nurseries),
        };
        if let Some(held) = entry.held_by(request.nonce, now) {
            // Never sooner: a first attempt that comes late must not cut what was renewed since.
            held.expires = held.expires.max(request.until(now));
            held.heard = now;
            if let Some(grant) = entry.grant(request.nonce) {
                return Ok(Attempt::Granted(grant));
            }
        }
        if request.intent != Intent::Try {
            entry.enqueue(request, now);
        }
        let after = entry.settle(token, Some(request), now);
        let answer = match entry.grant(request.nonce) {
            Some(grant) => Attempt::Granted(grant),
            None => Attempt::Busy(busy(entry, request.nonce, now)),
        };
        if entry.is_unused() {
            // A pool that lost its last waiter.
            slots.find_entry(request.key.hash64(), |slot| slot.key == request.key).map(|found| found.remove()).ok();
        }
        drop(guard);
        after.run();
        Ok(answer)
    }

    fn free(&self, claim: &Claim) -> Released {
        let shard = self.store.shards.of(&claim.key);
        if claim.unsettled {
            self.store.withdrawn.note(claim.nonce, self.now());
        }
        self.free_in(shard, &claim.key, claim.nonce)
    }

    fn free_in(&self, mut shard: MutexGuard<'_, Shard>, key: &Key, nonce: Nonce) -> Released {
        let Shard { slots, token } = &mut *shard;
        let Ok(mut found) = slots.find_entry(key.hash64(), |slot| slot.key == *key) else {
            return Released::NotOwner;
        };
        let Some(entry) = found.get_mut().known() else { return Released::NotOwner };
        let mut left = None;
        let released = if entry.remove(nonce) {
            Released::Released
        } else {
            let place = entry.waiters.iter().position(|waiter| waiter.nonce == nonce);
            left = place.and_then(|place| entry.waiters.remove(place));
            Released::NotOwner
        };
        let after = if entry.waiters.is_empty() { After::default() } else { entry.settle(token, None, self.now()) };
        if entry.is_unused() {
            found.remove();
            give_back_room(slots, |slot| slot.key.hash64());
        }
        drop(shard);
        drop(left);
        after.run();
        released
    }

    fn extend(&self, claim: &Claim) -> Renewed {
        let now = self.now();
        let mut shard = self.store.shards.of(&claim.key);
        let Shard { slots, token } = &mut *shard;
        let slot = slots.find_mut(claim.key.hash64(), |slot| slot.key == claim.key);
        let Some(entry) = slot.and_then(Slot::known) else { return Renewed::NotOwner };
        let waiters = u32::try_from(entry.waiters.len()).unwrap_or(u32::MAX);
        let Some(held) = entry.held_by(claim.nonce, now) else { return Renewed::NotOwner };
        held.heard = now;
        held.expires = claim.ttl.duration().map_or(Mono::NEVER, |ttl| now.after(ttl));
        let (expires, held) = (held.expires, held.token);
        if let Some(members) = &mut entry.members {
            members.expires = members.expires.min(expires);
        }
        let more = claim.span.map(|count| {
            let first = FencingToken::new(*token + 1);
            *token += u64::from(count.get());
            Span { first, count }
        });
        Renewed::held(Validity::Until(expires), Some(held)).with_more(more).with_waiters(waiters)
    }

    fn look<T>(&self, key: &Key, at: impl FnOnce(&Entry) -> T) -> Option<T> {
        let mut shard = self.store.shards.of(key);
        let slot = shard.slots.find_mut(key.hash64(), |slot| slot.key == *key)?;
        Some(at(slot.entry(&self.store.nurseries)))
    }

    fn poll_wait(&self, request: &Request, waker: &Waker) -> Poll<Wake> {
        let now = self.now();
        let mut shard = self.store.shards.of(&request.key);
        let slot = shard.slots.find_mut(request.key.hash64(), |slot| slot.key == request.key);
        let Some(entry) = slot.and_then(Slot::known) else { return Poll::Ready(Wake::Retry) };
        if let Some(held) = entry.held_by(request.nonce, now) {
            (held.expires, held.heard) = (request.until(now), now);
            if let Some(grant) = entry.grant(request.nonce) {
                return Poll::Ready(Wake::Granted(grant));
            }
        }
        match entry.waiters.iter_mut().rev().find(|waiter| waiter.nonce == request.nonce) {
            Some(waiter) => {
                waiter.seen = now;
                let before = waiter.waker.replace(waker.clone());
                drop(shard);
                drop(before);
                Poll::Pending
            }
            None => Poll::Ready(Wake::Retry),
        }
    }
}

/// Why `nonce` was not let in, and when to look again.
fn busy(entry: &Entry, nonce: Nonce, now: Mono) -> Busy {
    let holders = entry.holders.as_slice();
    let first = holders.iter().min_by_key(|held| held.expires);
    let holder = first.map(|held| Arc::new(held.holder(now)));
    let soonest = first.map(|held| held.expires.since(now));
    // Nobody holds a pool without members, and those who wait for it are to be seen to live.
    let soonest = soonest.or(entry.members.is_some().then_some(CLAIM));
    let place = entry.waiters.iter().rposition(|waiter| waiter.nonce == nonce);
    let busy = Busy::new(holder, soonest.map(|left| left.clamp(Duration::from_millis(1), CLAIM)));
    busy.position(place.and_then(|place| u32::try_from(place).ok()).unwrap_or(0))
}

impl Drop for Store {
    fn drop(&mut self) {
        let highest = self.shards.iter().map(|shard| shard.token).max().unwrap_or(0);
        HIGHEST.fetch_max(highest, Ordering::Relaxed);
    }
}

/// The highest token of the stores that are gone.
static HIGHEST: AtomicU64 = AtomicU64::new(0);

impl AsyncLock for MemoryLock {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    fn try_acquire_now(&self, request: &Request) -> Option<StepResult<Attempt>> {
        Some(self.attempt(request))
    }

    fn release_now(&self, claim: &Claim) -> Option<StepResult<Released>> {
        Some(Ok(self.free(claim)))
    }

    async fn try_acquire(&self, request: &Request) -> StepResult<Attempt> {
        self.attempt(request)
    }

    async fn wait(&self, request: &Request) -> StepResult<Wake> {
        Ok(poll_fn(|cx| self.poll_wait(request, cx.waker())).await)
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<StepResult<Renewed>> {
        claims.iter().map(|claim| Ok(self.extend(claim))).collect()
    }

    async fn release(&self, claim: &Claim) -> StepResult<Released> {
        Ok(self.free(claim))
    }

    async fn inspect(&self, key: &Key) -> StepResult<State> {
        let now = self.now();
        let state = |entry: &Entry| {
            let mut holders = entry.holders.live(now).map(|held| Arc::new(held.holder(now)));
            let state = State::new(holders.next(), Some(entry.waiters.len() as u64));
            state.shared_with(holders.collect())
        };
        Ok(self.look(key, state).unwrap_or_else(|| State::new(None, Some(0))))
    }

    async fn ping(&self) -> StepResult<()> {
        Ok(())
    }

    fn powers(&self) -> Powers<'_> {
        Powers::default().with_administer(self).with_values(self).with_pools(self)
    }
}

impl Administer for MemoryLock {
    fn revoke<'a>(&'a self, key: &'a Key, seen: Option<Nonce>) -> BoxFuture<'a, StepResult<bool>> {
        Box::pin(async move {
            let now = self.now();
            let nonces = |entry: &Entry| {
                let held = entry.holders.live(now).map(|held| held.nonce);
                held.filter(|nonce| seen.is_none_or(|seen| seen == *nonce)).collect()
            };
            let nonces: Vec<Nonce> = self.look(key, nonces).unwrap_or_default();
            let end = |nonce| self.free(&Claim::for_release(key.clone(), nonce)) == Released::Released;
            Ok(nonces.into_iter().map(end).fold(false, |any, ended| any | ended))
        })
    }
}

impl Values for MemoryLock {
    fn value<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, StepResult<Option<String>>> {
        Box::pin(async move { Ok(lock(&self.store.values).get(key, self.now()).map(str::to_owned)) })
    }

    fn change<'a>(&'a self, key: &'a Key, change: &'a Change) -> BoxFuture<'a, StepResult<bool>> {
        Box::pin(async move { Ok(lock(&self.store.values).change(key, change, self.now())) })
    }

    fn update<'a>(&'a self, claim: &'a Claim, value: &'a str) -> BoxFuture<'a, StepResult<Renewed>> {
        Box::pin(async move {
            // Before the lease is looked at: a later holder's value must not come in between.
            let mut values = lock(&self.store.values);
            let renewed = self.extend(claim);
            if let Renewed::Held { .. } = renewed {
                values.set(&claim.key, value, claim.ttl, self.now());
            }
            Ok(renewed)
        })
    }
}

impl Pools for MemoryLock {
    fn change<'a>(&'a self, pool: &'a Key, change: &'a PoolChange) -> BoxFuture<'a, StepResult<()>> {
        Box::pin(async move {
            let now = self.now();
            let mut shard = self.store.shards.of(pool);
            let Shard { slots, token } = &mut *shard;
            let slot = slots.entry(pool.hash64(), |slot| slot.key == *pool, |slot| slot.key.hash64());
            let mut found = slot.or_insert_with(|| Slot::of(pool.clone(), Entry::pool()));
            let entry = found.get_mut().entry(&self.store.nurseries);
            if let Some(members) = &mut entry.members {
                members.change(change);
            }
            let after = entry.settle(token, None, now);
            if entry.is_unused() {
                found.remove();
                give_back_room(slots, |slot| slot.key.hash64());
            }
            drop(shard);
            after.run();
            Ok(())
        })
    }

    fn scan<'a>(&'a self, pool: &'a Key, _: u64) -> BoxFuture<'a, StepResult<Page>> {
        Box::pin(async move {
            let all = |entry: &Entry| entry.members.iter().flat_map(|members| members.iter().cloned()).collect();
            Ok(Page { members: self.look(pool, all).unwrap_or_default(), next: 0 })
        })
    }

    fn inspect<'a>(&'a self, pool: &'a Key, members: &'a [Arc<str>]) -> BoxFuture<'a, StepResult<Vec<Option<State>>>> {
        Box::pin(async move {
            let now = self.now();
            let state = |entry: &Entry, member: &str| {
                let nonce = entry.members.as_ref()?.holder(member)?;
                let held = entry.holders.live(now).find(|held| Some(held.nonce) == nonce);
                Some(State::new(held.map(|held| Arc::new(held.holder(now))), None))
            };
            let states = |entry: &Entry| members.iter().map(|member| state(entry, member)).collect();
            Ok(self.look(pool, states).unwrap_or_else(|| members.iter().map(|_| None).collect()))
        })
    }

    fn health<'a>(&'a self, pool: &'a Key) -> BoxFuture<'a, StepResult<Health>> {
        Box::pin(async move {
            let now = self.now();
            let health = |entry: &Entry| {
                let members = entry.members.as_ref()?;
                let live = entry.holders.live(now).filter_map(|held| members.member_of(held.nonce));
                let locked = live.filter(|member| members.holder(member).is_some()).count();
                Some(Health::new(locked as u64, (members.len() - locked) as u64, entry.waiters.len() as u64))
            };
            Ok(self.look(pool, health).flatten().unwrap_or_default())
        })
    }
}

impl Default for MemoryLock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLock").field("keys", &self.len()).finish()
    }
}
