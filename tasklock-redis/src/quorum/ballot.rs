//! Ballots, and under which of them each acquisition of this client has asked.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tasklock_core::{BackendError, Mono, Nonce, StepResult, wall_micros};

/// The script counts in floating point numbers, which are exact up to here: microseconds until the year 2255.
const HIGHEST: u64 = 1 << 53;
/// A refusal is remembered for so long.
const JUST_REFUSED: Duration = Duration::from_secs(1);
/// A withdrawal is remembered for at least so long.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The highest ballot seen, of any lock: the next one is above it, and above the clock.
#[derive(Debug, Default)]
pub(super) struct Ballots(AtomicU64);

impl Ballots {
    pub(super) fn next(&self) -> StepResult<u64> {
        let now = wall_micros();
        let above = |seen: u64| Some(now.max(seen + 1)).filter(|next| *next < HIGHEST);
        let before = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, above);
        let too_high = |_| BackendError::fatal("redis quorum: a clock is centuries ahead: no ballot is left");
        before.map(|seen| now.max(seen + 1)).map_err(too_high)
    }

    pub(super) fn saw(&self, counter: u64) {
        self.0.fetch_max(counter, Ordering::AcqRel);
    }
}

/// What each nonce has asked for: from before its first request until its release.
#[derive(Debug, Default)]
pub(super) struct Tries(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    tries: HashMap<Nonce, Try>,
    /// Those that were released and are remembered, by when they were.
    ended: VecDeque<(Mono, Nonce)>,
    /// Requests that were refused a moment ago.
    refused: VecDeque<(Mono, Nonce, u32)>,
}

#[derive(Clone, Debug)]
struct Try {
    /// The first ballot it asked under: since when it waits.
    first: u64,
    /// The last one, if it asked at all.
    ballot: u64,
    /// Whether votes may be kept under the last one, and asking again is asking for the same.
    live: bool,
    /// Whether it has had a majority.
    won: bool,
    /// Whether a request is under way in this process.
    asking: bool,
    /// Whether some request came to an unknown end: core will release.
    unknown: bool,
    /// It was released.
    ended: bool,
    names: Arc<str>,
}

impl Try {
    fn of(names: Arc<str>) -> Self {
        Try { first: 0, ballot: 0, live: false, won: false, asking: false, unknown: false, ended: false, names }
    }
}

impl Tries {
    /// A request of this nonce begins. One at a time: a second one under the same ballot would count votes that the first
    /// gives back. Nor a copy of one that was just refused: its caller may have gone away with that answer.
    pub(super) fn begin(
        &self,
        nonce: Nonce,
        attempt: u32,
        now: Mono,
        names: impl FnOnce() -> Arc<str>,
    ) -> StepResult<Asking<'_>> {
        let mut known = self.known();
        while known.refused.front().is_some_and(|(at, ..)| at.after(JUST_REFUSED) <= now) {
            known.refused.pop_front();
        }
        if known.refused.iter().any(|(_, refused, which)| (*refused, *which) == (nonce, attempt)) {
            return Err(BackendError::transient("redis quorum: this request was answered before"));
        }
        let try_ = known.tries.entry(nonce).or_insert_with(|| Try::of(names()));
        if try_.ended {
            return Err(withdrawn());
        }
        if try_.asking {
            return Err(BackendError::transient("redis quorum: this acquisition is being asked for already"));
        }
        try_.asking = true;
        Ok(Asking { tries: self, nonce, attempt, names: try_.names.clone() })
    }

    /// The last ballot and the names of this nonce, if it has asked.
    pub(super) fn of(&self, nonce: Nonce) -> Option<(u64, Arc<str>)> {
        let known = self.known();
        known.tries.get(&nonce).filter(|try_| try_.ballot > 0).map(|try_| (try_.ballot, try_.names.clone()))
    }

    /// From here on this nonce is granted nothing; the last ballot it has asked under, and whether it has had a majority.
    pub(super) fn end(&self, nonce: Nonce, unsettled: bool, now: Mono, keep: Duration) -> Option<(u64, bool)> {
        let mut known = self.known();
        while let Some((at, old)) = known.ended.front().copied() {
            if at.after(keep.max(REMEMBERED)) > now {
                break;
            }
            known.ended.pop_front();
            known.tries.remove(&old);
        }
        let is_new = !known.tries.contains_key(&nonce);
        if is_new && !unsettled {
            return None;
        }
        let try_ = known.tries.entry(nonce).or_insert_with(|| Try::of(Arc::default()));
        let last = (try_.ballot, try_.won);
        if !std::mem::replace(&mut try_.ended, true) {
            known.ended.push_back((now, nonce));
        }
        Some(last).filter(|(ballot, _)| *ballot > 0)
    }

    /// Its release was answered, and nothing of it is under way.
    pub(super) fn forget(&self, nonce: Nonce) {
        let mut known = self.known();
        known.tries.remove(&nonce);
        if let Some(at) = known.ended.iter().rposition(|(_, ended)| *ended == nonce) {
            known.ended.remove(at);
        }
    }

    pub(super) fn len(&self) -> usize {
        let known = self.known();
        known.tries.len().max(known.ended.len())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request of one nonce, under way. Given up on, its last ballot is asked for again.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    tries: &'a Tries,
    nonce: Nonce,
    attempt: u32,
    pub(super) names: Arc<str>,
}

impl Asking<'_> {
    /// The ballot to ask under, written down before it is sent; the one before it, if that was given up; and the first.
    pub(super) fn ballot(&self, ballots: &Ballots) -> StepResult<Ballot> {
        let mut known = self.tries.known();
        let Some(try_) = known.tries.get_mut(&self.nonce).filter(|try_| !try_.ended) else { return Err(withdrawn()) };
        let before = try_.ballot;
        if !try_.live {
            try_.ballot = ballots.next()?;
            try_.live = true;
        }
        if try_.first == 0 {
            try_.first = try_.ballot;
        }
        let given_up = Some(before).filter(|before| *before > 0 && *before != try_.ballot);
        Ok(Ballot { number: try_.ballot, given_up, first: try_.first })
    }

    /// Its last ballot is given up, with whatever votes it has.
    pub(super) fn give_up(&self) {
        self.with(|try_| try_.live = false);
    }

    /// It has a majority; false if it was released meanwhile.
    pub(super) fn won(&self) -> bool {
        let won = |try_: &mut Try| {
            try_.won = true;
            !try_.ended
        };
        self.with(won).unwrap_or(false)
    }

    /// It was given up, and core will release it.
    pub(super) fn failed(&self) {
        self.with(|try_| try_.unknown = true);
    }

    /// It was given up, and nobody will release it, unless it waits.
    pub(super) fn refused(self, now: Mono, waits: bool) {
        let mut known = self.tries.known();
        known.refused.push_back((now, self.nonce, self.attempt));
        if !waits && known.tries.get(&self.nonce).is_some_and(|try_| !try_.unknown && !try_.ended) {
            known.tries.remove(&self.nonce);
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Try) -> T) -> Option<T> {
        self.tries.known().tries.get_mut(&self.nonce).map(change)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.with(|try_| try_.asking = false);
    }
}

/// What to ask under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ballot {
    pub(super) number: u64,
    /// The one before, whose votes do not count for this one.
    pub(super) given_up: Option<u64>,
    /// The first of this nonce.
    pub(super) first: u64,
}

fn withdrawn() -> BackendError {
    BackendError::fatal("redis quorum: this acquisition was withdrawn before")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Mono = Mono::from_nanos(1_000_000_000);
    const KEEP: Duration = Duration::from_secs(90);

    fn begin(tries: &Tries, nonce: Nonce) -> Asking<'_> {
        tries.begin(nonce, 0, NOW, Arc::default).unwrap()
    }

    #[test]
    fn ballots_rise_above_the_clock_and_whatever_was_seen() {
        let ballots = Ballots::default();
        let first = ballots.next().unwrap();
        assert!(first >= 1_600_000_000_000_000);
        let second = ballots.next().unwrap();
        assert!(second > first);
        let ahead = second + 3_600_000_000;
        ballots.saw(ahead);
        assert_eq!(ballots.next().unwrap(), ahead + 1);
        ballots.saw(HIGHEST - 1);
        assert!(!ballots.next().unwrap_err().is_retryable(), "two ballots that the script cannot tell apart");
    }

    /// Asking again is asking for the same, until that was given up.
    #[test]
    fn a_ballot_stays_until_it_is_given_up() {
        let (tries, ballots, nonce) = (Tries::default(), Ballots::default(), Nonce::fresh());
        let asking = begin(&tries, nonce);
        let first = asking.ballot(&ballots).unwrap();
        assert_eq!((first.given_up, first.first), (None, first.number));
        assert_eq!(asking.ballot(&ballots).unwrap(), first);
        drop(asking);
        let asking = begin(&tries, nonce);
        assert_eq!(asking.ballot(&ballots).unwrap(), first);
        asking.give_up();
        let second = asking.ballot(&ballots).unwrap();
        assert!(second.number > first.number);
        assert_eq!((second.given_up, second.first), (Some(first.number), first.number));
        assert!(asking.won());
        drop(asking);
        assert_eq!(tries.end(nonce, false, NOW, KEEP), Some((second.number, true)), "the highest ends them all");
        tries.forget(nonce);
        assert_eq!(tries.len(), 0);
    }

    /// A second request would count votes that the first is about to give back.
    #[test]
    fn one_request_at_a_time() {
        let (tries, nonce) = (Tries::default(), Nonce::fresh());
        let asking = begin(&tries, nonce);
        assert!(tries.begin(nonce, 0, NOW, Arc::default).unwrap_err().is_retryable());
        drop(asking);
        begin(&tries, nonce).refused(NOW, false);
        assert_eq!(tries.len(), 0, "a refusal leaves nothing");
    }

    /// The caller was told that it is held, and may not be there any more.
    #[test]
    fn a_copy_of_a_request_that_was_refused_takes_nothing() {
        let (tries, nonce) = (Tries::default(), Nonce::fresh());
        begin(&tries, nonce).refused(NOW, false);
        assert!(tries.begin(nonce, 0, NOW, Arc::default).unwrap_err().is_retryable());
        assert!(tries.begin(nonce, 1, NOW, Arc::default).is_ok(), "the next request of the same nonce");
        assert!(tries.begin(nonce, 0, NOW.after(JUST_REFUSED), Arc::default).is_ok());
    }

    #[test]
    fn what_was_withdrawn_asks_for_nothing_more() {
        let (tries, ballots, nonce) = (Tries::default(), Ballots::default(), Nonce::fresh());
        let asking = begin(&tries, nonce);
        let ballot = asking.ballot(&ballots).unwrap();
        assert_eq!(tries.end(nonce, true, NOW, KEEP), Some((ballot.number, false)));
        assert!(!asking.won(), "granted to one that has left");
        asking.give_up();
        assert!(asking.ballot(&ballots).is_err(), "another ballot for one that has left");
        drop(asking);
        // Before it was ever asked for.
        let late = Nonce::fresh();
        assert_eq!(tries.end(late, true, NOW, KEEP), None);
        assert!(!tries.begin(late, 0, NOW, Arc::default).unwrap_err().is_retryable());
        assert_eq!(tries.end(Nonce::fresh(), false, NOW, KEEP), None);
        assert_eq!(tries.len(), 2);
        tries.end(Nonce::fresh(), false, NOW.after(KEEP), KEEP);
        assert_eq!(tries.len(), 0, "not for ever");
    }
}
