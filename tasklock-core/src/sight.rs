//! What those who ask a store for a lock have seen of it, for all who wait behind them.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use crate::{BackendError, Clock, Holder, Key, LockError, Mono, shards::lock};

/// Shared by a line. Whoever asks writes to it; whoever gives up, in front or behind, is told what it says: a holder is
/// contention, a store that fails is not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sight(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// Questions that are on their way.
    asking: usize,
    /// Since when one is not answered, by one that has gone since, or, while the store answers others, by those.
    asked: Option<Mono>,
    /// The holder last seen, and when.
    holder: Option<(Mono, Arc<Holder>)>,
    /// There from the first failure to the next answer.
    outage: Option<Outage>,
}

#[derive(Debug)]
struct Outage {
    since: Mono,
    last: Mono,
    error: BackendError,
}

/// For how long a failure speaks for those who have not asked themselves.
const FRESH: Duration = Duration::from_secs(2);

impl Sight {
    /// The store is being asked.
    pub(crate) fn ask(&self, now: Mono) -> Question {
        let mut seen = self.seen();
        seen.asking += 1;
        seen.asked.get_or_insert(now);
        Question(self.clone())
    }

    /// The store answered: somebody has the lock, this one if it tells.
    pub(crate) fn busy(&self, holder: Option<Arc<Holder>>, now: Mono) {
        let mut seen = self.seen();
        seen.answered(now);
        seen.holder = holder.map(|holder| (now, holder));
    }

    /// The store granted the lock: what was seen before says nothing of what comes after.
    pub(crate) fn granted(&self, now: Mono) {
        let mut seen = self.seen();
        seen.answered(now);
        seen.holder = None;
    }

    /// An attempt that was sent then failed; since when they all do.
    pub(crate) fn failed(&self, error: BackendError, sent: Mono, now: Mono) -> Mono {
        let mut seen = self.seen();
        // What failed long before is not the same outage, though nobody has had an answer since.
        let same = seen.outage.as_ref().filter(|outage| sent.since(outage.last) < FRESH);
        let since = same.map_or(sent, |outage| outage.since);
        seen.outage = Some(Outage { since, last: now, error });
        since
    }

    /// How the store fails, if those before have asked it in vain for all the patience of one who has waited since
    /// `started`, and have just done so again.
    pub(crate) fn out_of_patience(&self, started: Mono, patience: Duration, clock: Clock) -> Option<BackendError> {
        let seen = self.seen();
        let outage = seen.outage.as_ref()?;
        let now = clock.now();
        let over = now.since(outage.since.max(started)) >= patience && now.since(outage.last) < FRESH;
        over.then(|| outage.error.clone())
    }

    /// The holder last seen, as old as it must be by now.
    pub(crate) fn holder(&self, now: Mono) -> Option<Arc<Holder>> {
        let (at, holder) = self.seen().holder.clone()?;
        Some(Arc::new(holder.aged(now.since(at))))
    }

    /// Why the time of one who has waited since `started` is over: somebody has the lock, or the store has not said so. A
    /// question that is on its way says nothing yet.
    pub(crate) fn gave_up(&self, key: &Key, started: Mono, now: Mono) -> LockError {
        let (asked, error) = {
            let seen = self.seen();
            let fresh = seen.outage.as_ref().filter(|outage| now.since(outage.last) < FRESH);
            (seen.asked, fresh.map(|outage| outage.error.clone()))
        };
        let is_long = |asked: Mono| now.since(asked) >= FRESH.min(now.since(started) / 2);
        let unanswered = || BackendError::unknown("the store did not answer in time");
        match error.or_else(|| asked.is_some_and(is_long).then(unanswered)) {
            Some(error) => error.into(),
            None => LockError::Timeout { key: key.clone(), waited: now.since(started), holder: self.holder(now) },
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.0)
    }
}

impl Seen {
    /// What others have asked may be on its way still.
    fn answered(&mut self, now: Mono) {
        self.asked = (self.asking > 0).then_some(now);
        self.outage = None;
    }
}

/// A question on its way to the store, answered or not when it is dropped.
#[derive(Debug)]
pub(crate) struct Question(Sight);

impl Drop for Question {
    fn drop(&mut self) {
        self.0.seen().asking -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono::from_nanos(millis * 1_000_000)
    }

    fn is_contention(sight: &Sight, started: Mono, now: Mono) -> bool {
        let key = Key::new("job").unwrap();
        matches!(sight.gave_up(&key, started, now), LockError::Timeout { .. })
    }

    #[test]
    fn an_old_failure_is_another_outage() {
        let sight = Sight::default();
        let error = || BackendError::transient("refused");
        assert_eq!(sight.failed(error(), at(0), at(1)), at(0));
        assert_eq!(sight.failed(error(), at(1_000), at(1_001)), at(0), "the same one");
        assert!(!is_contention(&sight, at(0), at(2_000)));
        assert!(is_contention(&sight, at(0), at(12_000)), "nobody has asked since");
        assert_eq!(sight.failed(error(), at(12_000), at(12_001)), at(12_000));
    }

    #[test]
    fn an_answer_to_one_is_none_to_another() {
        let sight = Sight::default();
        let (one, two) = (sight.ask(at(1)), sight.ask(at(1)));
        drop(one);
        sight.busy(None, at(100));
        assert!(is_contention(&sight, at(1), at(150)), "the store has just answered");
        assert!(!is_contention(&sight, at(1), at(5_000)), "it has not answered since");
        drop(two);
        sight.granted(at(5_000));
        assert!(is_contention(&sight, at(1), at(9_000)));
    }

    #[test]
    fn whoever_goes_without_an_answer_leaves_the_question() {
        let sight = Sight::default();
        drop(sight.ask(at(1)));
        assert!(!is_contention(&sight, at(1), at(5_000)));
        drop(sight.ask(at(5_000)));
        sight.busy(None, at(5_001));
        assert!(is_contention(&sight, at(1), at(9_000)));
    }
}
