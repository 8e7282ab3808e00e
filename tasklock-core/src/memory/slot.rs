//! What the store keeps of a key: as little as can be while its hold is young and nobody else has asked for it.

use std::sync::Mutex;

use crate::{FencingToken, Key, Mode, Mono, Nonce, Owner, Ttl, nursery::NurseryId, shards::lock};

use super::entry::{Entry, Held};

pub(super) struct Slot {
    pub(super) key: Key,
    /// The hold that has not grown up; its record below may be over by now, or not be made yet.
    young: Option<Cradle>,
    /// Made by whoever asks first.
    entry: Option<Box<Entry>>,
}

/// A hold in its nursery. Its token tells it apart from all that the key has had and will have.
#[derive(Clone, Copy)]
struct Cradle {
    token: FencingToken,
    since: Mono,
    nursery: NurseryId,
}

/// What those in a nursery have in common.
#[derive(Default)]
pub(super) struct Nurseries(Mutex<Vec<(NurseryId, Owner, Ttl)>>);

impl Slot {
    pub(super) fn young(key: Key, token: FencingToken, since: Mono, nursery: NurseryId) -> Self {
        Slot { key, young: Some(Cradle { token, since, nursery }), entry: None }
    }

    pub(super) fn of(key: Key, entry: Entry) -> Self {
        Slot { key, young: None, entry: Some(Box::new(entry)) }
    }

    /// Who holds it and who waits.
    pub(super) fn entry(&mut self, nurseries: &Nurseries) -> &mut Entry {
        let young = self.young;
        self.entry.get_or_insert_with(|| Box::new(young.map_or_else(Entry::free, |young| nurseries.entry_of(young))))
    }

    /// The same, if anybody has asked before: a young hold has no nonce until then.
    pub(super) fn known(&mut self) -> Option<&mut Entry> {
        self.entry.as_deref_mut()
    }

    /// Whether the hold of this token is young still.
    pub(super) fn is_young(&self, token: FencingToken) -> bool {
        let held = || self.entry.as_ref().is_none_or(|entry| entry.holders.of(token).is_some());
        self.young.is_some_and(|young| young.token == token) && held()
    }

    /// What is young in this nursery: its token, and since when.
    pub(super) fn young_in(&mut self, nursery: NurseryId) -> Option<(FencingToken, Mono)> {
        let young = self.young.filter(|young| young.nursery == nursery)?;
        if !self.is_young(young.token) {
            // Many may hold the key by now: they are not looked through again.
            self.young = None;
            return None;
        }
        Some((young.token, young.since))
    }

    /// Has its young hold grow up, which gets its nonce.
    pub(super) fn grow_up(&mut self, nurseries: &Nurseries) -> Option<Nonce> {
        let token = self.young?.token;
        let nonce = self.entry(nurseries).holders.of(token)?.nonce;
        self.young = None;
        Some(nonce)
    }
}

impl Nurseries {
    pub(super) fn open(&self, id: NurseryId, owner: Owner, ttl: Ttl) {
        lock(&self.0).push((id, owner, ttl));
    }

    /// None of its holds is young any more.
    pub(super) fn close(&self, id: NurseryId) {
        lock(&self.0).retain(|(open, ..)| *open != id);
    }

    fn entry_of(&self, young: Cradle) -> Entry {
        let nurseries = lock(&self.0);
        let nursery = nurseries.iter().find(|(id, ..)| *id == young.nursery);
        let until = |ttl: Ttl| ttl.duration().map_or(Mono::NEVER, |ttl| young.since.after(ttl));
        // A nursery is open as long as it has any. Should one be left of another, its time is over.
        let (owner, until) =
            nursery.map_or((Owner::this_process(), young.since), |(_, owner, ttl)| (owner.clone(), until(*ttl)));
        Entry::new(Held::of(young.token, Nonce::fresh(), owner, young.since, until), Mode::Exclusive)
    }
}
