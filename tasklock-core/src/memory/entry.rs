//! One key: who holds it, who waits, and who is next.

use std::{collections::VecDeque, mem, slice, sync::Arc, task::Waker, time::Duration};

use crate::{FencingToken, Grant, Holder, Mode, Mono, Nonce, Owner, Request, Ttl, Validity};

use super::members::Members;

/// How long a waiter has to take up what it was granted.
pub(super) const CLAIM: Duration = Duration::from_secs(1);
/// How long a waiter that does not look keeps its place.
const WAITER_LEASE: Duration = Duration::from_secs(30);

pub(super) struct Entry {
    pub(super) holders: Holders,
    /// How it is held: by all of them alike.
    mode: Mode,
    pub(super) waiters: VecDeque<Waiter>,
    /// Who belongs to it, if it is a pool.
    pub(super) members: Option<Box<Members>>,
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
}

pub(super) struct Waiter {
    pub(super) nonce: Nonce,
    mode: Mode,
    ttl: Ttl,
    owner: Owner,
    /// Under which name it wants a member of a pool.
    affinity: Option<Arc<str>>,
    /// When its task last looked.
    pub(super) seen: Mono,
    pub(super) waker: Option<Waker>,
}

impl Entry {
    /// A key that was free until now.
    pub(super) fn new(held: Held, mode: Mode) -> Self {
        Entry { holders: Holders::One(held), mode, ..Self::free() }
    }

    /// A pool that has no members yet.
    pub(super) fn pool() -> Self {
        Entry { mode: Mode::Member, members: Some(Box::new(Members::none())), ..Self::free() }
    }

    /// A key that nobody holds or waits for.
    pub(super) fn free() -> Self {
        Entry { holders: Holders::none(), mode: Mode::Exclusive, waiters: VecDeque::new(), members: None }
    }

    /// The hold of `nonce`, if it has one and its time is not over.
    pub(super) fn held_by(&mut self, nonce: Nonce, now: Mono) -> Option<&mut Held> {
        if self.members.as_ref().is_some_and(|members| members.member_of(nonce).is_none()) {
            return None;
        }
        self.holders.as_mut_slice().iter_mut().find(|held| held.nonce == nonce && held.expires > now)
    }

    /// What the hold of `nonce` is granted, if it has one.
    pub(super) fn grant(&self, nonce: Nonce) -> Option<Grant> {
        // Newcomers stand at the end.
        let grant = self.holders.as_slice().iter().rev().find(|held| held.nonce == nonce)?.grant();
        let member = self.members.as_ref().and_then(|members| members.member_of(nonce));
        Some(member.cloned().map_or(grant.clone(), |member| grant.of_member(member)))
    }

    /// Ends the hold of `nonce`; whether it had one.
    pub(super) fn remove(&mut self, nonce: Nonce) -> bool {
        if let Some(members) = &mut self.members {
            members.give_back(nonce);
        }
        self.holders.remove(nonce)
    }

    pub(super) fn is_unused(&self) -> bool {
        let members = self.members.as_ref().is_some_and(|members| !members.is_empty());
        self.holders.as_slice().is_empty() && self.waiters.is_empty() && !members
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
                affinity: request.affinity.clone(),
                seen: now,
                waker: None,
            }),
        }
    }

    /// Lets in who can be, in the order they came, as long as they still look; the caller, for its full time, if its
    /// turn has come.
    pub(super) fn settle(&mut self, token: &mut u64, mut caller: Option<&Request>, now: Mono) -> After {
        let mut after = After::default();
        self.end_expired(now);
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
            self.admit(held, waiter.mode, waiter.affinity.as_ref());
        }
        if let Some(caller) = caller.filter(|caller| self.admits(caller.mode)) {
            let held = Held::new(token, caller.nonce, caller.owner.clone(), now, caller.until(now));
            self.admit(held, caller.mode, caller.affinity.as_ref());
        }
        after
    }

    /// Nobody looks for a pool's expired holders before there can be one: it may have many.
    fn end_expired(&mut self, now: Mono) {
        if let Some(members) = &mut self.members {
            if now < members.expires {
                return;
            }
            members.expires = Mono::NEVER;
            for held in self.holders.as_slice() {
                if held.expires <= now {
                    members.give_back(held.nonce);
                } else {
                    members.expires = members.expires.min(held.expires);
                }
            }
        }
        self.holders.end_expired(now);
    }

    /// Whether one more may hold it beside those who do. How many permits there are, each caller says for itself.
    fn admits(&self, mode: Mode) -> bool {
        if let Some(members) = &self.members {
            return mode == Mode::Member && members.free() > 0;
        }
        match (self.holders.as_slice().len(), self.mode, mode) {
            (_, _, Mode::Member) => false,
            (0, _, _) | (_, Mode::Shared, Mode::Shared) => true,
            (holders, Mode::Permit { .. }, Mode::Permit { of }) => holders < of.get() as usize,
            _ => false,
        }
    }

    fn admit(&mut self, held: Held, mode: Mode, affinity: Option<&Arc<str>>) {
        self.mode = mode;
        if let Some(members) = &mut self.members {
            members.take(held.nonce, affinity, held.since, held.expires);
        }
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

    /// That with this token.
    pub(super) fn of(&self, token: FencingToken) -> Option<&Held> {
        self.as_slice().iter().find(|held| held.token == token)
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
        Self::of(FencingToken::new(*token), nonce, owner, since, expires)
    }

    pub(super) fn of(token: FencingToken, nonce: Nonce, owner: Owner, since: Mono, expires: Mono) -> Self {
        Held { nonce, token, owner, since, expires, heard: since }
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
