//! Who belongs to a pool, which of them are free, and who has which.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map},
    sync::Arc,
    time::Duration,
};

use crate::{Mono, Nonce, PoolChange};

/// How long a name's last member is remembered.
const HAD: Duration = Duration::from_secs(24 * 3600);
/// Names are forgotten when there are twice as many as were left the last time, and not before there are so many.
const LEAST_FORGOTTEN: usize = 1024;

pub(super) struct Members {
    all: HashMap<Arc<str>, Place>,
    /// The free ones, in the order in which they became so.
    free: BTreeMap<u64, Arc<str>>,
    last_freed: u64,
    /// Who has which, whether it still belongs to the pool or not.
    held: HashMap<Nonce, Arc<str>>,
    /// The member that a name was granted last, and until when that is remembered.
    had: HashMap<Arc<str>, (Arc<str>, Mono)>,
    forget_at: usize,
    /// No holder expires before.
    pub(super) expires: Mono,
}

#[derive(Clone, Copy)]
enum Place {
    /// Since then, in the order of the free ones.
    Free(u64),
    Held(Nonce),
}

impl Members {
    pub(super) fn none() -> Self {
        Members {
            all: HashMap::new(),
            free: BTreeMap::new(),
            last_freed: 0,
            held: HashMap::new(),
            had: HashMap::new(),
            forget_at: 0,
            expires: Mono::NEVER,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.all.keys()
    }

    /// Who holds it, if it is a member: itself `None` if it is not.
    pub(super) fn holder(&self, member: &str) -> Option<Option<Nonce>> {
        self.all.get(member).map(|place| match place {
            Place::Free(_) => None,
            Place::Held(nonce) => Some(*nonce),
        })
    }

    pub(super) fn member_of(&self, nonce: Nonce) -> Option<&Arc<str>> {
        self.held.get(&nonce)
    }

    /// Gives a free one to `nonce`: the one that this name had before, or the one that has been free for longest.
    pub(super) fn take(&mut self, nonce: Nonce, name: Option<&Arc<str>>, now: Mono, expires: Mono) {
        let had = name.and_then(|name| self.had.get(name)).filter(|(_, until)| *until > now);
        let since = had.and_then(|(member, _)| match self.all.get(member) {
            Some(Place::Free(since)) => Some(*since),
            _ => None,
        });
        let taken = match since {
            Some(since) => self.free.remove(&since),
            None => self.free.pop_first().map(|(_, member)| member),
        };
        let Some(member) = taken else { return };
        if let Some(name) = name {
            self.remember(name, member.clone(), now);
        }
        self.all.insert(member.clone(), Place::Held(nonce));
        self.held.insert(nonce, member);
        self.expires = self.expires.min(expires);
    }

    /// What `nonce` had is free again, if it still belongs to the pool.
    pub(super) fn give_back(&mut self, nonce: Nonce) {
        let Some(member) = self.held.remove(&nonce) else { return };
        match self.all.get(&member) {
            Some(Place::Held(holder)) if *holder == nonce => self.insert_free(member),
            _ => {}
        }
    }

    pub(super) fn change(&mut self, change: &PoolChange) {
        match change {
            PoolChange::Extend(members) => self.extend(members),
            PoolChange::Shrink(members) => members.iter().for_each(|member| self.remove(member)),
            PoolChange::Assign(members) => {
                let stay: HashSet<&Arc<str>> = members.iter().collect();
                let go: Vec<Arc<str>> = self.all.keys().filter(|member| !stay.contains(member)).cloned().collect();
                go.iter().for_each(|member| self.remove(member));
                self.extend(members);
            }
        }
    }

    fn extend(&mut self, members: &[Arc<str>]) {
        // Whoever holds one that had been taken out holds it still.
        let held: HashMap<Arc<str>, Nonce> = self.held.iter().map(|(nonce, member)| (member.clone(), *nonce)).collect();
        for member in members {
            if let hash_map::Entry::Vacant(vacant) = self.all.entry(member.clone()) {
                match held.get(member) {
                    Some(nonce) => drop(vacant.insert(Place::Held(*nonce))),
                    None => self.insert_free(member.clone()),
                }
            }
        }
    }

    fn remove(&mut self, member: &Arc<str>) {
        if let Some(Place::Free(since)) = self.all.remove(member) {
            self.free.remove(&since);
        }
    }

    fn insert_free(&mut self, member: Arc<str>) {
        self.last_freed += 1;
        self.free.insert(self.last_freed, member.clone());
        self.all.insert(member, Place::Free(self.last_freed));
    }

    fn remember(&mut self, name: &Arc<str>, member: Arc<str>, now: Mono) {
        self.had.insert(name.clone(), (member, now.after(HAD)));
        if self.had.len() > self.forget_at.max(LEAST_FORGOTTEN) {
            self.had.retain(|_, (_, until)| *until > now);
            self.forget_at = self.had.len() * 2;
        }
    }
}
