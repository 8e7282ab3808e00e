//! Holds in memory that nobody has looked at yet: see [`nursery`](crate::nursery).

use hashbrown::hash_table;

use crate::{
    FencingToken, Key, MemoryLock, Mono, Nonce, Owner, Released, Ttl,
    nursery::{NurseryId, Young},
    queue::give_back_room,
};

use super::{Shard, slot::Slot};

impl MemoryLock {
    /// What those have in common that will be young in this nursery.
    pub(crate) fn open_nursery(&self, id: NurseryId, owner: Owner, ttl: Ttl) {
        self.store.nurseries.open(id, owner, ttl);
    }

    /// No hold is young there any more.
    pub(crate) fn close_nursery(&self, id: NurseryId) {
        self.store.nurseries.close(id);
    }

    /// Takes a key that nobody holds or waits for, in one step less than an attempt.
    pub(crate) fn take_young(&self, key: &Key, since: Mono, id: NurseryId) -> Option<FencingToken> {
        let mut guard = self.store.shards.of(key);
        let Shard { slots, token } = &mut *guard;
        let slot = slots.entry(key.hash64(), |slot| slot.key == *key, |slot| slot.key.hash64());
        let hash_table::Entry::Vacant(vacant) = slot else { return None };
        *token += 1;
        let token = FencingToken::new(*token);
        vacant.insert(Slot::young(key.clone(), token, since, id));
        Some(token)
    }

    /// Gives a key back if its hold is young still.
    pub(crate) fn free_young(&self, young: &Young) -> bool {
        let mut shard = self.store.shards.of(&young.key);
        let Shard { slots, .. } = &mut *shard;
        let Ok(mut found) = slots.find_entry(young.key.hash64(), |slot| slot.key == young.key) else { return false };
        let slot = found.get_mut();
        if !slot.is_young(young.token) {
            return false;
        }
        let Some(entry) = slot.known() else {
            let (slot, _) = found.remove();
            give_back_room(slots, |slot| slot.key.hash64());
            drop(shard);
            drop(slot);
            return true;
        };
        let nonce = entry.holders.of(young.token).map(|held| held.nonce);
        nonce.is_some_and(|nonce| self.free_in(shard, &young.key, nonce) == Released::Released)
    }

    /// Whether a hold is young still.
    pub(crate) fn is_young(&self, young: &Young) -> bool {
        let shard = self.store.shards.of(&young.key);
        let slot = shard.slots.find(young.key.hash64(), |slot| slot.key == young.key);
        slot.is_some_and(|slot| slot.is_young(young.token))
    }

    /// Has one hold grow up if it is young still; `grow` is called under the lock of its key.
    pub(crate) fn grow_one<T>(&self, young: &Young, grow: impl FnOnce(Nonce) -> T) -> Option<T> {
        let mut shard = self.store.shards.of(&young.key);
        let slot = shard.slots.find_mut(young.key.hash64(), |slot| slot.key == young.key)?;
        let young = slot.is_young(young.token).then_some(slot)?;
        young.grow_up(&self.store.nurseries).map(grow)
    }

    /// Has those of one nursery grow up that `wanted` names; `grow` is called under the locks of their keys.
    pub(crate) fn grow_all(
        &self,
        id: NurseryId,
        mut wanted: impl FnMut(Mono) -> bool,
        mut grow: impl FnMut(Young, Nonce),
    ) {
        for mut shard in self.store.shards.iter() {
            for slot in shard.slots.iter_mut() {
                let Some((token, since)) = slot.young_in(id).filter(|(_, since)| wanted(*since)) else { continue };
                if let Some(nonce) = slot.grow_up(&self.store.nurseries) {
                    grow(Young { key: slot.key.clone(), token, since }, nonce);
                }
            }
        }
    }
}
