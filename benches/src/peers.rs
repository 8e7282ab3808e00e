//! The peers, each used the way its documentation shows.
//!
//! `lockable` and `keyed-lock` take the key by value, so text costs them an allocation per call; `u64` and `Arc<str>`
//! spare them that and are measured too. Both forget a key when nobody holds or awaits it. Neither has a fencing
//! token, a deadline or a renewal. `tokio::sync::Mutex` has no keys at all: a table of them, found by index, is the
//! floor for anything that locks asynchronously.

use std::{hash::Hash, sync::Arc};

use keyed_lock::r#async::KeyedLock;
use lockable::{AsyncLimit, InfallibleUnwrap, LockPool, LockableHashMap};
use tokio::sync::Mutex;

use crate::subject::{Entrant, KEYS, Subject, entrant};

pub(crate) fn all() -> Vec<Box<dyn Entrant>> {
    vec![
        entrant("tokio Mutex, no key", Table((0..KEYS).map(|_| Mutex::new(())).collect())),
        entrant("lockable LockPool, u64", Pool { pool: LockPool::new(), keys: numbers() }),
        entrant("lockable LockPool, Arc<str>", Pool { pool: LockPool::new(), keys: shared() }),
        entrant("lockable LockPool, String", Pool { pool: LockPool::new(), keys: texts() }),
        entrant("lockable HashMap, owned guard, u64", Map { map: Arc::default(), keys: numbers() }),
        entrant("lockable HashMap, owned guard, String", Map { map: Arc::default(), keys: texts() }),
        entrant("keyed-lock, u64", Keyed { lock: KeyedLock::new(), keys: numbers() }),
        entrant("keyed-lock, Arc<str>", Keyed { lock: KeyedLock::new(), keys: shared() }),
        entrant("keyed-lock, String", Keyed { lock: KeyedLock::new(), keys: texts() }),
        entrant("keyed-lock, owned guard, String", KeyedOwned { lock: Arc::new(KeyedLock::new()), keys: texts() }),
    ]
}

/// The keys as a service would spell them.
pub(crate) fn texts() -> Vec<String> {
    (0..KEYS).map(|slot| format!("teamspace:{slot:04}")).collect()
}

fn shared() -> Vec<Arc<str>> {
    texts().into_iter().map(Arc::from).collect()
}

fn numbers() -> Vec<u64> {
    (0..KEYS as u64).collect()
}

/// What a peer takes as a key.
trait PeerKey: Eq + Hash + Clone + Send + Sync + 'static {}
impl<K: Eq + Hash + Clone + Send + Sync + 'static> PeerKey for K {}

struct Table(Vec<Mutex<()>>);

impl Subject for Table {
    async fn lock(&self, slot: usize) -> impl Send {
        self.0[slot].lock().await
    }
}

struct Pool<K: PeerKey> {
    pool: LockPool<K>,
    keys: Vec<K>,
}

impl<K: PeerKey> Subject for Pool<K> {
    async fn lock(&self, slot: usize) -> impl Send {
        self.pool.async_lock(self.keys[slot].clone()).await
    }
}

struct Map<K: PeerKey> {
    map: Arc<LockableHashMap<K, ()>>,
    keys: Vec<K>,
}

impl<K: PeerKey> Subject for Map<K> {
    async fn lock(&self, slot: usize) -> impl Send {
        self.map.async_lock_owned(self.keys[slot].clone(), AsyncLimit::no_limit()).await.infallible_unwrap()
    }
}

struct Keyed<K: PeerKey> {
    lock: KeyedLock<K>,
    keys: Vec<K>,
}

impl<K: PeerKey> Subject for Keyed<K> {
    async fn lock(&self, slot: usize) -> impl Send {
        self.lock.lock(self.keys[slot].clone()).await
    }
}

struct KeyedOwned<K: PeerKey> {
    lock: Arc<KeyedLock<K>>,
    keys: Vec<K>,
}

impl<K: PeerKey> Subject for KeyedOwned<K> {
    async fn lock(&self, slot: usize) -> impl Send {
        self.lock.lock_owned(self.keys[slot].clone()).await
    }
}
