//! Who was seen holding what, and since when it has not moved.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tasklock_core::{Key, Mono, Nonce};

/// What this client last saw of the locks that others hold.
///
/// A lock is stale once nobody has touched it for its holder's whole lease, by the clock of the one who watches. So a
/// sighting is kept from one call to the next: a call that does not wait takes a lock whose holder was seen by another,
/// a lease ago, to be gone.
#[derive(Debug, Default)]
pub(crate) struct Sightings(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    seen: HashMap<Key, Seen>,
    /// At how many it is swept.
    sweep_at: usize,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    beat: Beat,
    lease: Option<Duration>,
    /// After the answer that showed this beat first.
    since: Mono,
    /// After the last one that did.
    looked: Mono,
}

/// A sign of life: it changes with every write of a holder, and never comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) own: Nonce,
    pub(crate) count: u64,
}

/// Longer than any lease.
const KEPT: Duration = Duration::from_secs(2 * 24 * 3600);
const MOST: usize = 65_536;
const FEW: usize = 1_024;

impl Sightings {
    /// Notes what an answer showed that came before `now`; how long until the lock is stale, if it ever is.
    pub(crate) fn note(&self, key: &Key, beat: Beat, lease: Option<Duration>, now: Mono) -> Option<Duration> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Seen { beat, lease, since: now, looked: now };
        match table.seen.get_mut(key) {
            Some(seen) if seen.beat == beat => {
                seen.looked = seen.looked.max(now);
                return seen.left(now);
            }
            Some(seen) => *seen = fresh,
            None => {
                table.make_room(now);
                table.seen.insert(key.clone(), fresh);
            }
        }
        fresh.left(now)
    }

    /// The beat that has not changed for its holder's whole lease, if there is one.
    pub(crate) fn stale(&self, key: &Key, now: Mono) -> Option<Beat> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = table.seen.get(key)?;
        (seen.left(now) == Some(Duration::ZERO)).then_some(seen.beat)
    }

    /// The lock is free, or ours.
    pub(crate) fn forget(&self, key: &Key) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.seen.remove(key);
        if table.seen.capacity() > FEW && table.seen.len() < table.seen.capacity() / 8 {
            table.seen.shrink_to(FEW);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).seen.len()
    }
}

impl Table {
    /// Drops what is no longer of use, now and then; if that is not enough, the half that was looked at least lately.
    fn make_room(&mut self, now: Mono) {
        if self.seen.len() < self.sweep_at.max(FEW) {
            return;
        }
        self.seen.retain(|_, seen| now.since(seen.looked) < KEPT);
        if self.seen.len() >= MOST {
            let mut looked: Vec<Mono> = self.seen.values().map(|seen| seen.looked).collect();
            let (_, middle, _) = looked.select_nth_unstable(MOST / 2);
            let middle = *middle;
            self.seen.retain(|_, seen| seen.looked > middle);
        }
        self.sweep_at = (self.seen.len() * 2).min(MOST);
    }
}

impl Seen {
    fn left(&self, now: Mono) -> Option<Duration> {
        self.lease.map(|lease| lease.saturating_sub(now.since(self.since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Mono {
        Mono::from_nanos(seconds * 1_000_000_000)
    }

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    #[test]
    fn stale_after_a_lease_without_a_beat() {
        let (sightings, job) = (Sightings::default(), key("job"));
        let beat = |count| Beat { own: Nonce::from_u128(7), count };
        assert_eq!(sightings.note(&job, beat(1), Some(LEASE), at(1)), Some(LEASE));
        assert_eq!(sightings.note(&job, beat(1), Some(LEASE), at(9)), Some(Duration::from_secs(2)));
        assert_eq!(sightings.note(&job, beat(2), Some(LEASE), at(10)), Some(LEASE), "a beat begins it anew");
        assert_eq!(sightings.stale(&job, at(19)), None);
        assert_eq!(sightings.stale(&job, at(20)), Some(beat(2)));
        sightings.forget(&job);
        assert_eq!(sightings.stale(&job, at(99)), None);
    }

    #[test]
    fn a_lock_without_a_lease_is_never_stale() {
        let (sightings, job) = (Sightings::default(), key("job"));
        let beat = Beat { own: Nonce::from_u128(7), count: 1 };
        assert_eq!(sightings.note(&job, beat, None, at(1)), None);
        assert_eq!(sightings.stale(&job, Mono::NEVER), None);
    }

    #[test]
    fn there_is_an_end_to_what_is_kept() {
        let sightings = Sightings::default();
        for n in 0..3 * MOST as u64 {
            let beat = Beat { own: Nonce::from_u128(u128::from(n)), count: 1 };
            sightings.note(&key(&format!("job:{n}")), beat, Some(LEASE), Mono::from_nanos(n));
            assert!(sightings.len() <= MOST);
        }
        let last = format!("job:{}", 3 * MOST - 1);
        assert!(sightings.stale(&key(&last), at(100)).is_some(), "the latest is there");
        let late = Mono::from_nanos(0).after(KEPT * 2);
        for n in 0..MOST as u64 {
            let beat = Beat { own: Nonce::from_u128(u128::from(n)), count: 2 };
            sightings.note(&key(&format!("new:{n}")), beat, Some(LEASE), late);
        }
        assert!(sightings.stale(&key(&last), late).is_none(), "what nobody asked for is forgotten");
    }
}
