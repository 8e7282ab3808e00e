//! One key: who holds it, who waits, and who is next.

use std::{collections::VecDeque, mem, slice, task::Waker, time::Duration};

use crate::{FencingToken, Grant, Holder, Key, Mode, Mono, Nonce, Owner, Request, Ttl, Validity, nursery::NurseryId};

/// How long a waiter has to take up what it was granted.
pub(super) const CLAIM: Duration = Duration::from_secs(1);
/// How long a waiter that does not look keeps its place.
const WAITER_LEASE: Duration = Duration::from_secs(30);

pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) holders: Holders,
    /// How it is held: by all of them alike.
    mode: Mode,
    pub(super) waiters: VecDeque<Waiter>,
}

/// Those who hold a key. Nearly always one: it needs no allocation of its own.
pub(super) enum Holders {
    One(Held),
    Several(Vec<Held>),
}

pub(super) struct Held {
    pub(super) nonce: Nonce,
    pub(super) token: FencingToken,
    owner: Owner,
    pub(super) since: Mono,
    pub(super) expires: Mono,
    /// When it last gave a sign of life.
    pub(super) heard: Mono,
    /// In this nursery, until it grows up.
    pub(super) young_in: Option<NurseryId>,
}

pub(super) struct Waiter {
    pub(super) nonce: Nonce,
    mode: Mode,
    ttl: Ttl,
    owner: Owner,
    /// When its task last looked.
    pub(super) seen: Mono,
    pub(super) waker: Option<Waker>,
}

impl Entry {
    /// A key that was free until now.
    pub(super) fn new(key: Key, held: Held, mode: Mode) -> Self {
        Entry { key, holders: Holders::One(held), mode, waiters: VecDeque::new() }
    }

    /// The hold of `nonce`, if it has one and its time is not over.
    pub(super) fn held_by(&mut self, nonce: Nonce, now: Mono) -> Option<&mut Held> {
        self.holders.as_mut_slice().iter_mut().find(|held| held.nonce == nonce && held.expires > now)
    }

    pub(super) fn is_young(&self, nonce: Nonce) -> bool {
        self.holders.as_slice().iter().any(|held| held.nonce == nonce && held.young_in.is_some())
    }

    pub(super) fn is_unused(&self) -> bool {
        self.holders.as_slice().is_empty() && self.waiters.is_empty()
    }

    pub(super) fn enqueue(&mut self, request: &Request, now: Mono) {
        // Newcomers stand at the end.
        match self.waiters.iter_mut().rev().find(|waiter| waiter.nonce == request.nonce) {
            Some(waiter) => waiter.seen = now,
            None => self.waiters.push_back(Waiter {
                nonce: request.nonce,
                mode: request.mode,
                ttl: request.ttl,
                owner: request.owner.clone(),
                seen: now,
                waker: None,
            }),
        }
    }

    /// Lets in who can be, in the order they came, as long as they still look; the caller, for its full time, if its
    /// turn has come.
    pub(super) fn settle(&mut self, token: &mut u64, mut caller: Option<&Request>, now: Mono) -> After {
        let mut after = After::default();
        self.holders.end_expired(now);
        while let Some(head) = self.waiters.front() {
            let asks = caller.is_some_and(|caller| caller.nonce == head.nonce);
            let silent = !asks && now.since(head.seen) >= WAITER_LEASE;
            if !silent && !self.admits(head.mode) {
                return after;
            }
            let Some(mut waiter) = self.waiters.pop_front() else { return after };
            if silent {
                after.gone.push(waiter);
                continue;
            }
            let full = caller.take_if(|_| asks).map(|caller| caller.until(now));
            let claim = || now.after(waiter.ttl.duration().unwrap_or(CLAIM).min(CLAIM));
            after.wake(waiter.waker.take().filter(|_| !asks));
            let held = Held::new(token, waiter.nonce, waiter.owner.clone(), now, full.unwrap_or_else(claim));
            self.admit(held, waiter.mode);
        }
        if let Some(caller) = caller.filter(|caller| self.admits(caller.mode)) {
            let held = Held::new(token, caller.nonce, caller.owner.clone(), now, caller.until(now));
            self.admit(held, caller.mode);
        }
        after
    }

    /// Whether one more may hold it beside those who do. How many permits there are, each caller says for itself.
    fn admits(&self, mode: Mode) -> bool {
        match (self.holders.as_slice().len(), self.mode, mode) {
            (0, _, _) | (_, Mode::Shared, Mode::Shared) => true,
            (holders, Mode::Permit { .. }, Mode::Permit { of }) => holders < of.get() as usize,
            _ => false,
        }
    }

    fn admit(&mut self, held: Held, mode: Mode) {
        self.mode = mode;
        self.holders.push(held);
    }
}

impl Holders {
    pub(super) fn as_slice(&self) -> &[Held] {
        match self {
            Holders::One(held) => slice::from_ref(held),
            Holders::Several(several) => several,
        }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [Held] {
        match self {
            Holders::One(held) => slice::from_mut(held),
            Holders::Several(several) => several,
        }
    }

    /// Those whose time is not over.
    pub(super) fn live(&self, now: Mono) -> impl Iterator<Item = &Held> {
        self.as_slice().iter().filter(move |held| held.expires > now)
    }

    /// Takes `nonce` out; whether it was there.
    pub(super) fn remove(&mut self, nonce: Nonce) -> bool {
        let Some(place) = self.as_slice().iter().position(|held| held.nonce == nonce) else { return false };
        match self {
            Holders::One(_) => *self = Self::none(),
            Holders::Several(several) => drop(several.remove(place)),
        }
        true
    }

    fn end_expired(&mut self, now: Mono) {
        match self {
            Holders::One(held) if held.expires <= now => *self = Self::none(),
            Holders::One(_) => {}
            Holders::Several(several) => several.retain(|held| held.expires > now),
        }
    }

    fn push(&mut self, held: Held) {
        *self = match mem::replace(self, Self::none()) {
            Holders::One(first) => Holders::Several(vec![first, held]),
            Holders::Several(several) if several.is_empty() => Holders::One(held),
            Holders::Several(mut several) => {
                several.push(held);
                Holders::Several(several)
            }
        };
    }

    fn none() -> Self {
        Holders::Several(Vec::new())
    }
}

impl Held {
    pub(super) fn new(token: &mut u64, nonce: Nonce, owner: Owner, since: Mono, expires: Mono) -> Self {
        *token += 1;
        Held { nonce, token: FencingToken::new(*token), owner, since, expires, heard: since, young_in: None }
    }

    pub(super) fn grant(&self) -> Grant {
        Grant::new(Some(self.token), Validity::Until(self.expires))
    }

    pub(super) fn holder(&self, now: Mono) -> Holder {
        let remaining = (self.expires != Mono::NEVER).then(|| self.expires.since(now));
        let holder = Holder::new(self.owner.clone()).held(now.since(self.since)).remaining(remaining).token(self.token);
        holder.last_heard(self.nonce, now.since(self.heard))
    }
}

/// What is to be done outside of the shard's lock: wakers are foreign code, woken or dropped.
#[derive(Default)]
pub(super) struct After {
    first: Option<Waker>,
    more: Vec<Waker>,
    gone: Vec<Waiter>,
}

impl After {
    pub(super) fn run(self) {
        self.first.into_iter().chain(self.more).for_each(Waker::wake);
        drop(self.gone);
    }

    fn wake(&mut self, waker: Option<Waker>) {
        if self.first.is_none() {
            self.first = waker;
        } else {
            self.more.extend(waker);
        }
    }
}
