//! The values beside the locks of one store.

use std::collections::HashMap;

use crate::{Change, Key, Mono, Ttl};

/// Values by key, each until its end. Those whose time is over are dropped when there are twice as many as were left the
/// last time.
#[derive(Default)]
pub(super) struct Table {
    values: HashMap<Key, (String, Mono)>,
    sweep_at: usize,
}

/// No table is swept for fewer than this.
const FEW: usize = 64;

impl Table {
    pub(super) fn get(&self, key: &Key, now: Mono) -> Option<&str> {
        self.values.get(key).filter(|(_, until)| *until > now).map(|(value, _)| value.as_str())
    }

    pub(super) fn change(&mut self, key: &Key, change: &Change, now: Mono) -> bool {
        let value = self.get(key, now);
        if !change.when.holds(value) {
            return false;
        }
        let was_there = value.is_some();
        match &change.to {
            Some((value, keep)) => {
                self.set(key, value, *keep, now);
                true
            }
            None => {
                self.values.remove(key);
                self.give_back_room();
                was_there
            }
        }
    }

    pub(super) fn set(&mut self, key: &Key, value: &str, keep: Ttl, now: Mono) {
        let until = keep.duration().map_or(Mono::NEVER, |keep| now.after(keep));
        self.values.insert(key.clone(), (value.to_owned(), until));
        if self.values.len() >= self.sweep_at.max(FEW) {
            self.sweep(now);
        }
    }

    fn sweep(&mut self, now: Mono) {
        self.values.retain(|_, (_, until)| *until > now);
        self.sweep_at = self.values.len() * 2;
        self.give_back_room();
    }

    fn give_back_room(&mut self) {
        if self.values.capacity() > FEW * 4 && self.values.len() < self.values.capacity() / 8 {
            self.values.shrink_to(self.values.len() * 2);
        }
    }
}
