//! What the answers of the nodes come to.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tasklock_core::{Applied, BackendError, Busy, FencingToken, Holder, Released, Renewed, StepResult, Validity};

use super::step::{Answer, Standing};
use crate::layout::Record;

/// After a vote that was split nobody has the lock: those who want it ask again soon, and not at the same time.
const SPLIT: u64 = 25;

/// A vote younger than this may be one that is about to be given back.
const FRESH: Duration = Duration::from_millis(100);

/// The answers to one question, by node.
#[derive(Debug)]
pub(super) struct Tally {
    majority: usize,
    answers: Vec<Option<StepResult<Answer>>>,
}

/// What an attempt under one ballot has come to.
#[derive(Debug)]
pub(super) enum Verdict {
    Won,
    /// The ballot was too low.
    TooLow,
    Busy(Busy),
    Failed(BackendError),
}

impl Tally {
    pub(super) fn new(nodes: usize) -> Self {
        Tally { majority: majority(nodes), answers: vec![None; nodes] }
    }

    pub(super) fn note(&mut self, node: usize, answer: StepResult<Answer>) {
        self.answers[node] = Some(answer);
    }

    /// Whether further answers to an attempt would change nothing.
    pub(super) fn is_decided(&self) -> bool {
        let (votes, missing, voting) = (self.votes(), self.missing(), self.voting());
        let is_lost = votes + missing < self.majority;
        votes >= self.majority || is_lost && (voting >= self.majority || voting + missing < self.majority)
    }

    /// Whether most have answered, and not alike: the others may decide, and are not worth a long wait.
    pub(super) fn is_divided(&self) -> bool {
        self.voting() >= self.majority
    }

    /// What an attempt has come to, if no more answers come.
    pub(super) fn verdict(&self, ballot: u64) -> Verdict {
        let held: Vec<&Standing> = self.standing().filter(|standing| standing.is_taken()).collect();
        if self.votes() >= self.majority {
            return Verdict::Won;
        }
        let out_of_reach = held.len() + self.answers.iter().flatten().filter(|answer| is_silent(answer)).count();
        let too_low = self.standing().count() > held.len();
        if too_low && self.answers.len() - out_of_reach >= self.majority {
            return Verdict::TooLow;
        }
        if self.voting() < self.majority {
            return Verdict::Failed(self.too_few());
        }
        Verdict::Busy(self.busy(&held, ballot))
    }

    /// The highest counter of any node.
    pub(super) fn counter(&self) -> u64 {
        self.standing().map(|standing| standing.counter).max().unwrap_or(0)
    }

    /// The nodes that have voted for this, or may yet.
    pub(super) fn may_have_voted(&self) -> Vec<usize> {
        let may = |answer: &Option<StepResult<Answer>>| match answer {
            None | Some(Ok(Answer::Yes)) => true,
            Some(Ok(_)) => false,
            Some(Err(error)) => error.applied() == Applied::Unknown,
        };
        (0..self.answers.len()).filter(|node| may(&self.answers[*node])).collect()
    }

    /// Whether further answers to a renewal would change nothing.
    pub(super) fn is_renewed_or_gone(&self) -> bool {
        self.votes() >= self.majority || self.gone() >= self.majority
    }

    /// Whether a majority has confirmed it.
    pub(super) fn is_held(&self) -> bool {
        self.votes() >= self.majority
    }

    /// What a renewal has come to. Where neither is certain, the owner's deadline is what counts.
    pub(super) fn renewed(&self, validity: Validity, token: FencingToken) -> StepResult<Renewed> {
        if self.is_held() {
            return Ok(Renewed::held(validity, Some(token)));
        }
        if self.gone() >= self.majority {
            return Ok(Renewed::NotOwner);
        }
        Err(self.too_few())
    }

    /// The nodes that have no vote for anybody, and none for this one.
    pub(super) fn to_mend(&self) -> Vec<usize> {
        let is_free = |answer: &Option<StepResult<Answer>>| matches!(answer, Some(Ok(Answer::Stands(standing))) if standing.record.is_empty());
        (0..self.answers.len()).filter(|node| is_free(&self.answers[*node])).collect()
    }

    /// Whether further answers to a release would change nothing: others can have a majority, or this one had none.
    pub(super) fn is_released(&self) -> bool {
        self.votes() >= self.majority || self.kept() >= self.majority
    }

    /// What a release has come to: whether it may have ended a majority.
    pub(super) fn released(&self) -> StepResult<Released> {
        let (ended, kept) = (self.votes(), self.kept());
        if ended + kept < self.majority {
            return Err(self.too_few());
        }
        let may_have_held = ended > 0 && self.answers.len() - kept >= self.majority;
        Ok(if may_have_held { Released::Released } else { Released::NotOwner })
    }

    /// Whether further answers to a look would change nothing.
    pub(super) fn is_seen(&self) -> bool {
        let most = self.leader().map_or(0, |leader| leader.len());
        let seen = self.standing().count();
        most >= self.majority || seen >= self.majority && most + self.missing() < self.majority
    }

    /// Who holds a majority, if anyone does.
    pub(super) fn holder(&self) -> StepResult<Option<Holder>> {
        match self.leader() {
            Some(votes) if votes.len() >= self.majority => Ok(holder(&votes, self.majority)),
            _ if self.standing().count() < self.majority => Err(self.too_few()),
            _ => Ok(None),
        }
    }

    /// Whether enough nodes have answered at all.
    pub(super) fn answered(&self) -> StepResult<()> {
        if self.count(Result::is_ok) >= self.majority { Ok(()) } else { Err(self.too_few()) }
    }

    pub(super) fn is_answered(&self) -> bool {
        self.count(Result::is_ok) >= self.majority
    }

    /// Others raise their ballots, too.
    pub(super) fn contended(&self, ballot: u64) -> Busy {
        Busy::new(None, Some(soon(ballot)))
    }

    fn busy(&self, held: &[&Standing], ballot: u64) -> Busy {
        let leader = self.leader().unwrap_or_default();
        let unseen = self.answers.len() - self.voting();
        let holder = holder(&leader, leader.len()).map(Arc::new);
        let is_fresh = holder.as_ref().and_then(|holder| holder.held).is_some_and(|held| held < FRESH);
        // Where it is the turn of one who waits, nobody has split anything.
        let most = leader.len().max(held.iter().filter(|standing| standing.record.is_empty()).count());
        if most + unseen < self.majority || most < self.majority && is_fresh {
            // Whoever has more votes is to be the first.
            return Busy::new(holder, Some(soon(ballot) / if self.votes() >= leader.len() { 5 } else { 1 }));
        }
        // So many of those that have voted for others have to be free again.
        let needed = self.majority - (self.voting() - held.len()).min(self.majority);
        let mut left: Vec<Duration> = held.iter().map(|standing| standing.left).collect();
        left.sort_unstable();
        let free_in = left.get(needed.max(1) - 1).or(left.last()).copied();
        Busy::new(holder, free_in.map(|left| left + Duration::from_millis(1)))
    }

    /// The votes for whoever has the most.
    fn leader(&self) -> Option<Vec<&Standing>> {
        let mut candidates: HashMap<&str, Vec<&Standing>> = HashMap::new();
        for standing in self.standing() {
            if let Some(candidate) = standing.candidate() {
                candidates.entry(candidate).or_default().push(standing);
            }
        }
        candidates.into_values().max_by_key(Vec::len)
    }

    /// Too few nodes vote: an outage, whoever has the lock.
    fn too_few(&self) -> BackendError {
        let (mut failures, mut quarantine) = (Vec::new(), None);
        for answer in self.answers.iter().flatten() {
            match answer {
                Err(error) => failures.push(error),
                Ok(Answer::Quarantined(left)) => quarantine = quarantine.max(Some(*left)),
                Ok(_) => {}
            }
        }
        let (nodes, majority, voting) = (self.answers.len(), self.majority, self.count(|a| !is_silent(a)));
        let mut text = format!("redis quorum: {voting} of {nodes} nodes vote, and {majority} are needed");
        if let Some(error) = failures.first() {
            text.push_str(&format!("; {error}"));
        }
        if self.missing() > 0 {
            text.push_str(&format!("; {} did not answer in time", self.missing()));
        }
        if let Some(left) = quarantine {
            text.push_str(&format!("; a node that may have forgotten its votes gives none for {left:.0?}"));
        }
        let hopeless = failures.iter().filter(|error| !error.is_retryable()).count();
        if hopeless > nodes - majority {
            return BackendError::fatal(text);
        }
        let unknown = self.missing() > 0 || failures.iter().any(|error| error.applied() == Applied::Unknown);
        if unknown { BackendError::unknown(text) } else { BackendError::transient(text) }
    }

    fn votes(&self) -> usize {
        self.count(|answer| matches!(answer, Ok(Answer::Yes)))
    }

    /// Those that know how the lock stands, and vote if they can.
    fn voting(&self) -> usize {
        self.votes() + self.standing().count()
    }

    /// Those that have no vote for this one, and could have one for another.
    fn gone(&self) -> usize {
        self.count(|answer| matches!(answer, Ok(Answer::No | Answer::Stands(_))))
    }

    /// Those that had no vote to end.
    fn kept(&self) -> usize {
        self.count(|answer| matches!(answer, Ok(Answer::No)))
    }

    fn missing(&self) -> usize {
        self.answers.iter().filter(|answer| answer.is_none()).count()
    }

    fn standing(&self) -> impl Iterator<Item = &Standing> {
        self.answers.iter().flatten().filter_map(|answer| match answer {
            Ok(Answer::Stands(standing)) => Some(standing),
            _ => None,
        })
    }

    fn count(&self, is_so: impl Fn(&StepResult<Answer>) -> bool) -> usize {
        self.answers.iter().flatten().filter(|answer| is_so(answer)).count()
    }
}

/// More than half.
pub(super) const fn majority(nodes: usize) -> usize {
    nodes / 2 + 1
}

/// Soon, and another time for another ballot.
fn soon(ballot: u64) -> Duration {
    let jitter = ballot.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    Duration::from_millis(1 + jitter % SPLIT)
}

fn is_silent(answer: &StepResult<Answer>) -> bool {
    matches!(answer, Err(_) | Ok(Answer::Quarantined(_)))
}

/// Whoever has these votes, until fewer than so many of them are left.
fn holder(votes: &[&Standing], until: usize) -> Option<Holder> {
    let mut votes = votes.to_vec();
    votes.sort_by_key(|vote| vote.left);
    let vote = votes.get(votes.len().checked_sub(until)?)?;
    Some(Record::without_lease(&vote.record)?.holder(vote.now, Some(vote.left)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: &str = "aa 9 1000 1 host app me";

    fn held(by: &str, left: u64) -> StepResult<Answer> {
        let (record, left) = (by.to_owned(), Duration::from_millis(left));
        Ok(Answer::Stands(Standing { counter: 9, record, left, now: 2_000 }))
    }

    fn low(counter: u64) -> StepResult<Answer> {
        Ok(Answer::Stands(Standing { counter, record: String::new(), left: Duration::ZERO, now: 2_000 }))
    }

    fn down() -> StepResult<Answer> {
        Err(BackendError::transient("down"))
    }

    fn tally(answers: impl IntoIterator<Item = StepResult<Answer>>) -> Tally {
        let mut tally = Tally::new(5);
        answers.into_iter().enumerate().for_each(|(node, answer)| tally.note(node, answer));
        tally
    }

    fn yes() -> StepResult<Answer> {
        Ok(Answer::Yes)
    }

    fn quiet() -> StepResult<Answer> {
        Ok(Answer::Quarantined(Duration::from_secs(7)))
    }

    #[test]
    fn a_majority_wins_and_is_not_exceeded() {
        let three = tally([yes(), down(), yes(), yes()]);
        assert!(three.is_decided() && matches!(three.verdict(1), Verdict::Won));
        assert!(!tally([yes(), yes()]).is_decided());
        assert_eq!(three.may_have_voted(), [0, 2, 3, 4], "the one that has not answered may have voted");
    }

    /// Where it is another's turn a higher ballot is of no use, and nobody has split the vote: who asks comes back later.
    #[test]
    fn anothers_turn_is_waited_for() {
        let turn = |left| held("", left);
        let tally = tally([turn(300), turn(310), turn(290), low(8), yes()]);
        let Verdict::Busy(busy) = tally.verdict(1) else { panic!("{tally:?}") };
        assert!(busy.holder.is_none());
        assert_eq!(busy.retry_in, Some(Duration::from_millis(291)));
    }

    /// Nodes that are down, or may not vote, say nothing about who holds the lock.
    #[test]
    fn an_outage_is_no_contention() {
        for answers in [
            [down(), down(), down(), yes(), yes()],
            [down(), down(), down(), held(HELD, 5), held(HELD, 5)],
            [quiet(), quiet(), quiet(), yes(), held(HELD, 5)],
            [quiet(), down(), quiet(), low(8), yes()],
        ] {
            let tally = tally(answers);
            assert!(tally.is_decided());
            let Verdict::Failed(error) = tally.verdict(1) else { panic!("{tally:?}") };
            assert!(error.is_retryable(), "{error}");
        }
        let refused = || Err(BackendError::fatal("NOPERM"));
        let Verdict::Failed(error) = tally([refused(), refused(), refused()]).verdict(1) else { panic!("no failure") };
        assert!(!error.is_retryable());
        assert!(tally([down(), down(), down()]).is_decided(), "three are down, and two cannot help");
        assert!(!tally([down(), down(), held(HELD, 5)]).is_decided(), "an outage or contention");
    }

    #[test]
    fn who_holds_and_for_how_long() {
        let tally = tally([held(HELD, 500), held(HELD, 300), held(HELD, 100), yes(), down()]);
        assert!(tally.is_decided());
        let Verdict::Busy(busy) = tally.verdict(1) else { panic!("{tally:?}") };
        assert_eq!(busy.retry_in, Some(Duration::from_millis(301)), "two more are needed");
        assert_eq!(busy.holder.unwrap().token, Some(FencingToken::new(9)));
        assert_eq!(tally.may_have_voted(), [3]);
        let seen = super::Tally { majority: 3, answers: tally.answers.clone() }.holder().unwrap().unwrap();
        assert_eq!(seen.remaining, Some(Duration::from_millis(100)), "with the third it has no majority");
    }

    /// Votes for several, none of whom can have a majority.
    #[test]
    fn a_split_vote_is_tried_again_soon() {
        let tally = tally([held(HELD, 60_000), held(HELD, 60_000), held("bb 8 1 n", 60_000), yes(), yes()]);
        let Verdict::Busy(busy) = tally.verdict(7) else { panic!("{tally:?}") };
        assert!(busy.retry_in.unwrap() <= Duration::from_millis(1 + SPLIT));
    }

    /// With some nodes down, a vote that was split looks like a hold; but it does not for long.
    #[test]
    fn a_fresh_minority_is_taken_for_a_split_vote() {
        let retry_in = |record: &str| match tally([held(record, 60_000), yes(), yes(), down(), down()]).verdict(7) {
            Verdict::Busy(busy) => busy.retry_in.unwrap(),
            other => panic!("{other:?}"),
        };
        assert!(retry_in("aa 9 1950 1 host app me") <= Duration::from_millis(1 + SPLIT));
        assert_eq!(retry_in(HELD), Duration::from_millis(60_001));
    }

    #[test]
    fn a_ballot_that_is_too_low_is_raised_if_that_can_help() {
        let raised = tally([yes(), low(12), low(15), held(HELD, 5), down()]);
        assert!(raised.is_decided() && matches!(raised.verdict(1), Verdict::TooLow));
        assert_eq!(raised.counter(), 15);
        assert!(matches!(tally([low(12), held(HELD, 5), held(HELD, 5), held(HELD, 5)]).verdict(1), Verdict::Busy(_)));
    }

    /// Votes of those that cannot be asked may still count; those that could be another's do not.
    #[test]
    fn a_renewal_is_lost_when_a_majority_could_be_anothers() {
        let (until, token) = (Validity::Session, FencingToken::new(9));
        let outcome = |answers: [StepResult<Answer>; 5]| tally(answers).renewed(until, token);
        assert!(matches!(outcome([yes(), yes(), yes(), low(99), down()]), Ok(Renewed::Held { .. })));
        assert!(matches!(outcome([yes(), yes(), low(99), held(HELD, 5), low(99)]), Ok(Renewed::NotOwner)));
        assert!(outcome([yes(), yes(), quiet(), low(99), low(99)]).is_err(), "the restarted node votes for nobody");
        assert!(outcome([yes(), yes(), down(), low(99), low(99)]).is_err(), "the vote of one that is down counts");
        assert_eq!(tally([yes(), yes(), yes(), low(99), held(HELD, 5)]).to_mend(), [3]);
    }

    #[test]
    fn a_release_tells_whether_there_was_a_hold() {
        let no = || Ok(Answer::No);
        let outcome = |answers: [StepResult<Answer>; 5]| tally(answers).released();
        assert!(matches!(outcome([yes(), yes(), yes(), no(), down()]), Ok(Released::Released)));
        assert!(matches!(outcome([yes(), yes(), down(), no(), no()]), Ok(Released::Released)), "one may have ended");
        assert!(matches!(outcome([yes(), yes(), no(), no(), no()]), Ok(Released::NotOwner)));
        assert!(matches!(outcome([no(), no(), no(), down(), down()]), Ok(Released::NotOwner)));
        assert!(outcome([yes(), yes(), down(), down(), down()]).is_err());
    }
}
