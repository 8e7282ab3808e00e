//! The queue in front of a store: tasks of one process that want the same key send one waiter.

use std::sync::{Arc, Mutex};

use hashbrown::HashTable;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Holder, Key, Mono, shards::Shards, shared::Shared};

/// First come, first served, per key. An entry lives as long as somebody stands in it.
#[derive(Debug)]
pub(crate) struct Queue {
    lines: Shards<HashTable<Line>>,
}

#[derive(Debug)]
struct Line {
    key: Key,
    turn: Arc<Semaphore>,
    seen: Seen,
    standing: usize,
}

/// The holder the one in front has seen last, and when, for the timeouts and warnings of all.
pub(crate) type Seen = Arc<Mutex<Option<(Mono, Arc<Holder>)>>>;

impl Queue {
    pub(crate) fn new() -> Self {
        Queue { lines: Shards::new(HashTable::new) }
    }

    /// Keys somebody stands in line for.
    pub(crate) fn len(&self) -> usize {
        self.lines.iter().map(|lines| lines.len()).sum()
    }
}

/// A place in the line for a key. Dropping it leaves the line.
pub(crate) struct Place {
    shared: Arc<Shared>,
    key: Key,
    turn: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    pub(crate) seen: Seen,
}

impl Place {
    /// At the end of the line; in front already if nobody else stands there. `None` if this locker needs no line.
    pub(crate) fn take(shared: &Arc<Shared>, key: &Key) -> Option<Self> {
        let queue = shared.queue.as_ref()?;
        let mut shard = queue.lines.of(key);
        let entry = shard.entry(key.hash64(), |line| line.key == *key, |line| line.key.hash64());
        let mut entry = entry.or_insert_with(|| Line {
            key: key.clone(),
            turn: Arc::new(Semaphore::new(1)),
            seen: Seen::default(),
            standing: 0,
        });
        let line = entry.get_mut();
        line.standing += 1;
        let (turn, seen) = (line.turn.clone(), line.seen.clone());
        let permit = turn.clone().try_acquire_owned().ok();
        Some(Place { shared: shared.clone(), key: key.clone(), turn, permit, seen })
    }

    pub(crate) fn is_in_front(&self) -> bool {
        self.permit.is_some()
    }

    /// Completes once everybody before has left.
    pub(crate) async fn come_to_front(&mut self) {
        if self.permit.is_none() {
            self.permit = self.turn.clone().acquire_owned().await.ok();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.permit = None;
        let Some(queue) = &self.shared.queue else { return };
        let mut shard = queue.lines.of(&self.key);
        let found = shard.find_entry(self.key.hash64(), |line| line.key == self.key);
        if let Ok(mut entry) = found {
            entry.get_mut().standing -= 1;
            if entry.get().standing == 0 {
                entry.remove();
            }
        }
        give_back_room(&mut shard, |line| line.key.hash64());
    }
}

/// A table keeps the room of its busiest hour; one that is nearly empty gives it back.
pub(crate) fn give_back_room<T>(table: &mut HashTable<T>, hash: impl Fn(&T) -> u64) {
    const ROOM_KEPT: usize = 256;
    if table.capacity() > ROOM_KEPT && table.len() < table.capacity() / 8 {
        table.shrink_to(ROOM_KEPT / 2, hash);
    }
}
