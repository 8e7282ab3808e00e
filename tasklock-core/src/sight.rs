//! What those who ask a store for a lock have seen of it, for all who wait behind them.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use crate::{BackendError, Holder, Key, LockError, Mono, shards::lock};

/// Shared by a line. Whoever asks writes to it; whoever gives up, in front or behind, is told what it says: a holder is
/// contention, a store that fails is not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sight(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// Since when a question is not answered.
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
    /// The store is being asked: since the first question that was not answered, whoever asked it and has gone.
    pub(crate) fn asked(&self, now: Mono) {
        self.seen().asked.get_or_insert(now);
    }

    /// The store answered: somebody has the lock, this one if it tells.
    pub(crate) fn busy(&self, holder: Option<Arc<Holder>>, now: Mono) {
        let mut seen = self.seen();
        (seen.asked, seen.outage) = (None, None);
        seen.holder = holder.map(|holder| (now, holder));
    }

    /// The store granted the lock: what was seen before says nothing of what comes after.
    pub(crate) fn granted(&self) {
        *self.seen() = Seen::default();
    }

    /// An attempt that was sent then failed; since when they all do.
    pub(crate) fn failed(&self, error: BackendError, sent: Mono, now: Mono) -> Mono {
        let mut seen = self.seen();
        let since = seen.outage.as_ref().map_or(sent, |outage| outage.since);
        seen.outage = Some(Outage { since, last: now, error });
        since
    }

    /// How the store fails, if those before have asked it in vain for all the patience of one who has waited since
    /// `started`, and have just done so again.
    pub(crate) fn out_of_patience(&self, started: Mono, patience: Duration, now: Mono) -> Option<BackendError> {
        let seen = self.seen();
        let outage = seen.outage.as_ref()?;
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
            (seen.asked, seen.outage.as_ref().map(|outage| outage.error.clone()))
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
