//! A place in the line: taking it, being told, leaving it.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
};

use hashbrown::hash_table::Entry;

use super::{
    CLAIM, Line, Tenant, Told, find,
    waiter::{LOOK, SILENT, Waiter},
};
use crate::{
    Holder, Key, LockError, Mode, Mono, Renew, core_ref::CoreRef, handoff::Baton, hold::Hold, options::Options,
    shards::lock, shared::Shared, sight::Sight,
};

/// A place in the line for a key. Dropping it leaves the line; what it was handed meanwhile goes on to the next.
pub(crate) struct Place {
    core: CoreRef,
    key: Key,
    waiter: Arc<Waiter>,
    sight: Sight,
    /// Out of the line already.
    left: bool,
}

impl Place {
    /// At the end of the line. `None` if this locker needs no line for it, or if it would not wait in it.
    pub(crate) fn take(core: &CoreRef, key: &Key, options: &Options, now: Mono) -> Option<Self> {
        let shared = &core.shared;
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
                    askers: Vec::new(),
                    handed: None,
                    sight: None,
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
        let wakers = line.advance(queue, now);
        let sight = line.sight.get_or_insert_default().clone();
        drop(lines);
        wakers.into_iter().for_each(Waker::wake);
        if !waiter.asks() {
            // The one before it may not be polled any more.
            shared.registry.wake_by(now.after(waiter.look_every.min(SILENT)));
        }
        Some(Place { core: core.clone(), key: key.clone(), waiter, sight, left: false })
    }

    /// Whether it is for this one to ask the store.
    pub(crate) fn may_ask(&self) -> bool {
        self.waiter.asks()
    }

    /// Shows that its task is polled.
    pub(crate) fn look(&self, now: Mono) {
        let was_silent = self.waiter.is_silent(now);
        self.waiter.seen.store(now.as_nanos(), Ordering::Release);
        if let Some(queue) = self.core.shared.queue.as_ref().filter(|_| was_silent) {
            let mut lines = queue.lines.of(&self.key);
            let wakers = find(&mut lines, &self.key).map(|line| line.advance(queue, now));
            drop(lines);
            wakers.into_iter().flatten().for_each(Waker::wake);
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
        LineOf { shared: self.core.shared.clone(), key: self.key.clone(), sight: self.sight.clone() }
    }

    /// Whether what is granted to it may be handed on.
    pub(crate) fn hands_on(&self) -> bool {
        self.waiter.mode == Mode::Exclusive && self.core.shared.queue.as_ref().is_some_and(|queue| queue.hands_on)
    }

    /// Granted by the store: from here on the line is that hold's.
    pub(crate) fn enter(mut self, hold: &Hold) {
        let now = hold.acquired;
        let Some(queue) = &self.core.shared.queue else { return };
        let (claim, token, since) = (&hold.claim, hold.token(), hold.acquired);
        let owner = self.waiter.owner.clone();
        let tenant = Tenant { nonce: claim.nonce, ttl: claim.ttl, owner, granted: token, token, since };
        self.left = true;
        let mut lines = queue.lines.of(&self.key);
        let Some(line) = find(&mut lines, &self.key) else { return };
        line.remove(&self.waiter);
        let mut stale = None;
        if line.is_before(token) {
            stale = line.take_back(now);
            (line.holder, line.quota) = (Some(tenant), usize::MAX);
        }
        let wakers = line.advance(queue, now);
        line.give_back_room();
        drop(lines);
        wakers.into_iter().for_each(Waker::wake);
        stale.into_iter().for_each(Baton::pass);
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
    /// Who has what is waited for: this process, or whom the one in front has seen last.
    pub(crate) fn holder(&self, now: Mono) -> Option<Arc<Holder>> {
        self.tenant(now).or_else(|| self.sight.holder(now))
    }

    /// What one that has stood in it since `started` is told when its time is over.
    pub(crate) fn gave_up(&self, started: Mono, now: Mono) -> LockError {
        match self.tenant(now) {
            None => self.sight.gave_up(&self.key, started, now),
            holder => LockError::Timeout { key: self.key.clone(), waited: now.since(started), holder },
        }
    }

    fn tenant(&self, now: Mono) -> Option<Arc<Holder>> {
        let tenant = self.look(|line| line.holder.clone())?;
        Some(Arc::new(Holder::new(tenant.owner).held(now.since(tenant.since))))
    }

    fn look<T>(&self, at: impl FnOnce(&Line) -> Option<T>) -> Option<T> {
        let queue = self.shared.queue.as_ref()?;
        let mut lines = queue.lines.of(&self.key);
        find(&mut lines, &self.key).and_then(|line| at(line))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let shared = &self.core.shared;
        let Some(queue) = shared.queue.as_ref().filter(|_| !self.left) else { return };
        let now = shared.clock.now();
        let mut lines = queue.lines.of(&self.key);
        let Some(line) = find(&mut lines, &self.key) else { return };
        let wakers = if line.remove(&self.waiter) { line.advance(queue, now) } else { Vec::new() };
        // Handed to it meanwhile. Taken under the lock of the line, so that nobody passes it over at the same time and puts
        // it back in line.
        line.handed.take_if(|handed| Arc::ptr_eq(handed, &self.waiter));
        let told = lock(&self.waiter.slot).told.take();
        queue.forget_if_unused(lines, &self.key);
        wakers.into_iter().for_each(Waker::wake);
        if let Some(Told::Handed(baton)) = told {
            baton.pass();
        }
    }
}
