//! A table split by key, so that threads with different keys rarely meet.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use crate::Key;

/// Independent parts, each behind its own lock and in its own cache lines.
#[derive(Debug)]
pub(crate) struct Shards<T>(Box<[Padded<Mutex<T>>]>);

/// In cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

const SHARDS: usize = 64;

impl<T> Shards<T> {
    pub(crate) fn new(make: impl Fn() -> T) -> Self {
        Shards((0..SHARDS).map(|_| Padded(Mutex::new(make()))).collect())
    }

    /// The part that `key` belongs to.
    pub(crate) fn of(&self, key: &Key) -> MutexGuard<'_, T> {
        // Not the bits by which the tables find their place, nor those they compare.
        self.at((key.hash64() >> 48) as usize)
    }

    /// The part of this number.
    pub(crate) fn at(&self, number: usize) -> MutexGuard<'_, T> {
        lock(&self.0[number % SHARDS].0)
    }

    /// One part after the other.
    pub(crate) fn iter(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.0.iter().map(|shard| lock(&shard.0))
    }
}

/// A number for the calling thread: a part that it nearly always has to itself, and in its cache.
pub(crate) fn of_this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.try_with(|number| *number).unwrap_or(0)
}

/// A panic elsewhere leaves nothing half done: no critical section runs foreign code, but for `clone` of wakers.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
