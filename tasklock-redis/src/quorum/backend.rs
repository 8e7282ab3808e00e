//! The backend: requests of core turned into questions to all nodes.

use std::{fmt, sync::Arc, time::Duration};

use tasklock_core::{
    Administer, AsyncLock, Attempt, BackendError, BoxFuture, Capabilities, Claim, Clock, Expiry, Fencing, FencingToken,
    Grant, Intent, Key, LockError, Locker, Mode, Mono, Nonce, Powers, Released, Renewed, Request, Scope, State,
    StepResult, Ttl, Validity, Wake,
};
use tokio::runtime::Handle;

use super::{
    ballot::{Ballot, Ballots, Tries},
    config::QuorumConfig,
    hints::Hints,
    node::Node,
    round::Round,
    step::{Answer, Rules, Step, VoteKey, What},
    tally::{Tally, Verdict, majority},
};
use crate::{
    config::RedisConfig,
    layout::{Client, names_of},
    server::{Heard, Said},
};

/// How long a node is waited for: this part of the ttl, at least so long, and never more than a quarter of the ttl.
const PART: u32 = 20;
const LEAST: Duration = Duration::from_millis(100);
const MOST_PART: u32 = 4;
/// How often a ballot that is too low is raised within one attempt.
const RAISES: usize = 3;
/// Once a majority is connected, how long the others are waited for.
const GRACE: Duration = Duration::from_millis(250);
/// Once a majority has answered, and not alike, the others are waited for as long again, and at least so long.
const LEAST_GRACE: Duration = Duration::from_millis(10);

const CAPABILITIES: Capabilities =
    Capabilities::new("redis-quorum").fencing(Fencing::Strong).expiry(Expiry::Server).scope(Scope::Cluster);

/// Locks in a majority of several Redis or Valkey servers that know nothing of each other: see the
/// [module](crate::quorum) for how, [`QuorumConfig`] for addresses and for what has to be said of the servers.
///
/// A node that is down, slow or has forgotten everything costs nothing as long as most are not. Core polls, with growing
/// pauses; whoever gives a lock back has the one that waits for longest look again.
///
/// # What it does not do
///
/// There is no order among those who wait, there are no shared locks and no permits, and no lock without expiry.
pub struct QuorumLock {
    capabilities: Capabilities,
    nodes: Arc<[Node]>,
    rules: Rules,
    timeout: Duration,
    client: Arc<str>,
    clock: Clock,
    ballots: Ballots,
    tries: Tries,
    hints: Arc<Hints>,
    runtime: Handle,
}

impl QuorumLock {
    /// A locker over the servers of this address, with the default settings: see [`QuorumConfig`] for addresses, and
    /// [`Locker::builder`] over [`QuorumConfig::connect`] for settings.
    ///
    /// # Errors
    ///
    /// As [`QuorumConfig::from_url`] and [`QuorumConfig::connect`]; [`LockError::InvalidOption`] also for a `max_ttl` below the
    /// default ttl of 30 s, since no lease of that could be had.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the connections.
    pub async fn connect(url: impl AsRef<str>) -> Result<Locker, LockError> {
        Locker::new(QuorumConfig::from_url(url.as_ref())?.connect().await?)
    }

    pub(super) async fn open(config: QuorumConfig) -> Result<Self, LockError> {
        let lock = Self::start(config)?;
        lock.until_connected().await?;
        lock.check_nodes_differ().await?;
        Ok(lock)
    }

    /// Tells every node that it has never voted; how many did not know.
    pub(super) async fn found(config: QuorumConfig) -> Result<usize, LockError> {
        let lock = Self::start(config)?;
        let mut failed = None;
        lock.round(|node| node.tried())
            .until(Duration::MAX, |_, tried| {
                failed = tried.err().or(failed.take());
                false
            })
            .await;
        let step = lock.step(What::Found, VoteKey::none(), None);
        let mut answers = Vec::new();
        lock.ask(&step)
            .until(lock.timeout, |_, answer| {
                answers.push(answer);
                false
            })
            .await;
        let unanswered = || BackendError::unknown("redis quorum: a node did not answer");
        answers.resize_with(lock.nodes.len(), || Err(unanswered()));
        if let Some(error) = failed {
            return Err(error.into());
        }
        let answers = answers.into_iter().collect::<StepResult<Vec<_>>>()?;
        Ok(answers.iter().filter(|answer| **answer == Answer::Yes).count())
    }

    fn start(config: QuorumConfig) -> Result<Self, LockError> {
        let runtime = Handle::try_current().map_err(|_| LockError::NoRuntime)?;
        let (rules, timeout, client) = (config.rules(), config.answer_timeout(), Client::new());
        let nodes = config.into_nodes();
        let hints = Arc::new(Hints::new(majority(nodes.len())));
        let node = |(place, config): (usize, RedisConfig)| {
            let hints = hints.clone();
            let heard = Heard(Arc::new(move |said: Said<'_>| {
                if let Said::Message(message) = said {
                    hints.deliver(place, message);
                }
            }));
            Ok(Node::start(config.server(client.inbox(), heard)?, &runtime))
        };
        let nodes = nodes.into_iter().enumerate().map(node).collect::<Result<Arc<[_]>, LockError>>()?;
        Ok(QuorumLock {
            capabilities: CAPABILITIES.max_ttl(Duration::from_millis(rules.longest)),
            nodes,
            rules,
            timeout,
            client: client.id().into(),
            clock: Clock::current(),
            ballots: Ballots::default(),
            tries: Tries::default(),
            hints,
            runtime,
        })
    }

    /// A majority is; a node that refuses for good is a mistake in the settings, however many others there are.
    async fn until_connected(&self) -> StepResult<()> {
        let needed = majority(self.nodes.len());
        let mut round = self.round(|node| node.tried());
        let (mut connected, mut failed, mut refused) = (0, Vec::new(), None);
        let mut take_in = |tried: StepResult<()>| {
            match tried {
                Ok(()) => connected += 1,
                Err(error) if error.is_retryable() => failed.push(error),
                Err(error) => refused = Some(error),
            }
            refused.is_some() || connected >= needed
        };
        round.until(Duration::MAX, |_, tried| take_in(tried)).await;
        round
            .until(GRACE, |_, tried| {
                take_in(tried);
                false
            })
            .await;
        if let Some(error) = refused {
            return Err(error);
        }
        if connected >= needed {
            return Ok(());
        }
        let (nodes, why) = (self.nodes.len(), failed.pop().map_or_else(String::new, |error| error.to_string()));
        Err(BackendError::transient(format!(
            "redis quorum: {connected} of {nodes} nodes can be reached, and {needed} are needed; {why}"
        )))
    }

    /// One server under two addresses would have two votes.
    async fn check_nodes_differ(&self) -> StepResult<()> {
        let step = self.step(What::Hello, VoteKey::none(), None);
        let mut lives: Vec<(usize, String)> = Vec::new();
        self.ask(&step)
            .until(self.timeout, |place, answer| {
                if let Ok(Answer::Hello { run }) = answer {
                    lives.push((place, run));
                }
                false
            })
            .await;
        for (at, (place, run)) in lives.iter().enumerate() {
            if let Some((other, _)) = lives[..at].iter().find(|(_, seen)| seen == run) {
                let [one, two] = [*other, *place].map(|place| self.nodes[place].address());
                return Err(BackendError::fatal(format!(
                    "redis quorum: {one} and {two} are the same server, which would vote twice"
                )));
            }
        }
        Ok(())
    }

    fn step(&self, what: What, vote: VoteKey, nonce: Option<Nonce>) -> Step {
        Step { rules: self.rules, what, vote, nonce, ballot: 0, ttl: 0, names: Arc::default(), waits: None }
    }

    /// Asks every node something of its own.
    fn round<T: Send + 'static>(&self, ask: impl Fn(&Node) -> BoxFuture<'static, T>) -> Round<T> {
        Round::new(&self.runtime, self.nodes.iter().map(ask))
    }

    fn everywhere(&self) -> Vec<usize> {
        (0..self.nodes.len()).collect()
    }

    /// Asks every node the same.
    fn ask(&self, step: &Step) -> Round<StepResult<Answer>> {
        self.round(|node| node.ask(vec![step.clone()]))
    }

    /// Has these nodes give back their votes, without waiting for what they say.
    fn give_back(&self, nodes: &[usize], step: &Step) {
        let keep = self.longest();
        drop(Round::new(&self.runtime, nodes.iter().map(|node| self.nodes[*node].give_back(step.clone(), keep))));
    }

    /// No vote outlives this.
    fn longest(&self) -> Duration {
        Duration::from_millis(self.rules.longest)
    }

    /// How long a node is waited for.
    fn patience(&self, ttl: Option<Duration>) -> Duration {
        ttl.map_or(self.timeout, |ttl| (ttl / PART).max(LEAST).min(ttl / MOST_PART).min(self.timeout))
    }

    /// A ttl in milliseconds, rounded up: a vote must not end before the lease does.
    fn ttl(&self, ttl: Ttl) -> StepResult<u64> {
        let longest = self.longest();
        let ms = ttl.duration().and_then(|ttl| u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).ok());
        ms.filter(|ms| *ms <= self.rules.longest).ok_or_else(|| {
            let ttl = ttl.duration().map_or_else(|| "never".to_owned(), |ttl| format!("{ttl:?}"));
            BackendError::fatal(format!(
                "redis quorum: ttl = {ttl}: it is at most `max_ttl`, which is {longest:?}, for a restarted node has to \
                 wait for as long"
            ))
        })
    }

    /// One attempt under one ballot.
    async fn vote(&self, step: &Step, ballot: Ballot, patience: Duration) -> Tally {
        let mut tally = Tally::new(self.nodes.len());
        let given_up = ballot.given_up.map(|ballot| Step { what: What::Drop, ballot, ..step.clone() });
        // A vote given under the ballot before is given back first: it does not count for this one.
        let steps: Vec<Step> = given_up.into_iter().chain([step.clone()]).collect();
        let mut round = self.round(|node| node.ask(steps.clone()));
        let start = self.clock.now();
        round
            .until(patience, |node, answer| {
                tally.note(node, answer);
                tally.is_decided() || tally.is_divided()
            })
            .await;
        if !tally.is_decided() && tally.is_divided() {
            let grace = self.clock.now().since(start).max(LEAST_GRACE).min(patience);
            round
                .until(grace, |node, answer| {
                    tally.note(node, answer);
                    tally.is_decided()
                })
                .await;
        }
        self.ballots.saw(tally.counter());
        tally
    }

    /// What the answers come to when what was asked for is certain, or the time is over.
    async fn count(&self, mut round: Round<StepResult<Answer>>, patience: Duration, done: fn(&Tally) -> bool) -> Tally {
        let mut tally = Tally::new(self.nodes.len());
        round
            .until(patience, |node, answer| {
                tally.note(node, answer);
                done(&tally)
            })
            .await;
        tally
    }

    /// The step that renews this claim, if it is one of this client.
    fn renewal(&self, claim: &Claim) -> StepResult<Option<Step>> {
        let known = self.tries.of(claim.nonce);
        let (ballot, names) = match (claim.token, known) {
            (Some(token), known) => (token.get(), known.map(|(_, names)| names).unwrap_or_default()),
            (None, Some(known)) => known,
            (None, None) => return Ok(None),
        };
        let step = self.step(What::Renew, VoteKey::of(&claim.key), Some(claim.nonce));
        Ok(Some(Step { ballot, ttl: self.ttl(claim.ttl)?, names, ..step }))
    }
}

impl AsyncLock for QuorumLock {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn try_acquire(&self, request: &Request) -> StepResult<Attempt> {
        if request.mode != Mode::Exclusive {
            return Err(BackendError::fatal(format!("the redis-quorum backend does not know {:?}", request.mode)));
        }
        let ttl = self.ttl(request.ttl)?;
        let patience = self.patience(request.ttl.duration());
        let (what, waits, attempt) = match request.intent {
            Intent::Try => (What::Try, false, 0),
            Intent::Poll { attempt } => (What::Poll, true, attempt.saturating_add(1)),
            _ => (What::Wait, true, 0),
        };
        let asking = self.tries.begin(request.nonce, attempt, self.clock.now(), || names_of(&request.owner))?;
        if waits {
            self.hints.expect(request.nonce);
        }
        let mut step = self.step(what, VoteKey::of(&request.key), Some(request.nonce));
        (step.ttl, step.names) = (ttl, asking.names.clone());
        for raised in 0.. {
            let ballot = asking.ballot(&self.ballots)?;
            step.ballot = ballot.number;
            step.waits = waits.then(|| (self.client.clone(), ballot.first));
            let sent = self.clock.now();
            let tally = self.vote(&step, ballot, patience).await;
            let verdict = tally.verdict(ballot.number);
            if let Verdict::Won = verdict {
                let token = FencingToken::new(ballot.number);
                self.hints.forget(request.nonce);
                if asking.won() {
                    return Ok(Attempt::Granted(Grant::new(Some(token), Validity::Until(request.until(sent)))));
                }
                self.give_back(&self.everywhere(), &Step { what: What::Leave, waits: None, ..step });
                return Err(BackendError::fatal("redis quorum: this acquisition was withdrawn before"));
            }
            asking.give_up();
            if let (Verdict::TooLow, true) = (&verdict, raised < RAISES) {
                continue;
            }
            // At once, to those that have not answered, too: whatever they do late, they then take back.
            self.give_back(&tally.may_have_voted(), &Step { what: What::Drop, ..step });
            return match verdict {
                Verdict::Failed(error) => {
                    asking.failed();
                    Err(error)
                }
                Verdict::Busy(busy) => {
                    asking.refused(self.clock.now(), waits);
                    Ok(Attempt::Busy(busy.noted(waits)))
                }
                _ => {
                    asking.refused(self.clock.now(), waits);
                    Ok(Attempt::Busy(tally.contended(ballot.number).noted(waits)))
                }
            };
        }
        Err(BackendError::transient("redis quorum: no ballot was high enough"))
    }

    async fn wait(&self, request: &Request) -> StepResult<Wake> {
        self.hints.wait(request.nonce).await;
        Ok(Wake::Retry)
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<StepResult<Renewed>> {
        let sent = self.clock.now();
        let renewals: Vec<StepResult<Option<Step>>> = claims.iter().map(|claim| self.renewal(claim)).collect();
        let steps: Vec<Step> = renewals.iter().flatten().flatten().cloned().collect();
        let shortest = claims.iter().filter_map(|claim| claim.ttl.duration()).min();
        if steps.is_empty() {
            return renewals.into_iter().map(|renewal| renewal.map(|_| Renewed::NotOwner)).collect();
        }
        let mut renewing = Renewing::new(steps, self.nodes.len());
        let mut round = self.round(|node| node.ask_all(renewing.steps.clone()));
        round.until(self.patience(shortest), |node, answers| renewing.note(node, answers)).await;
        let mut answered = renewing.tallies.iter();
        let mut outcomes = Vec::with_capacity(claims.len());
        for (claim, renewal) in claims.iter().zip(renewals) {
            outcomes.push(match renewal {
                Err(error) => Err(error),
                Ok(None) => Ok(Renewed::NotOwner),
                Ok(Some(step)) => {
                    let until = claim.ttl.duration().map_or(Mono::NEVER, |ttl| sent.after(ttl));
                    let outcome = answered.next().map(|tally| {
                        self.ballots.saw(tally.counter());
                        tally.renewed(Validity::Until(until), FencingToken::new(step.ballot))
                    });
                    if let Some(Ok(Renewed::NotOwner)) = outcome {
                        // It is over, and core does not release what was stolen. A few nodes may not know yet.
                        self.tries.forget(claim.nonce);
                        self.give_back(&self.everywhere(), &Step { what: What::Drop, waits: None, ..step });
                    }
                    outcome.unwrap_or_else(|| Err(BackendError::fatal("redis quorum: a renewal was not sent")))
                }
            });
        }
        if renewing.tallies.iter().any(Tally::is_held) {
            // Whatever the others still have to say: they are not waited for, and not to be left without a vote.
            self.runtime.spawn(renewing.mend(round, self.nodes.clone(), self.runtime.clone(), self.timeout));
        }
        outcomes
    }

    async fn release(&self, claim: &Claim) -> StepResult<Released> {
        self.hints.forget(claim.nonce);
        let keep = self.longest();
        let tried = self.tries.end(claim.nonce, claim.unsettled, self.clock.now(), keep);
        let held = claim.token.map(|token| (token.get(), true));
        let Some((ballot, was_held)) = tried.max(held) else { return Ok(Released::NotOwner) };
        let what = if was_held { What::Leave } else { What::Drop };
        let step = self.step(what, VoteKey::of(&claim.key), Some(claim.nonce));
        let step = Step { ballot, waits: Some((self.client.clone(), 0)), ..step };
        let round = self.round(|node| node.give_back(step.clone(), keep));
        let released = self.count(round, self.patience(claim.ttl.duration()), Tally::is_released).await.released()?;
        if !claim.unsettled {
            self.tries.forget(claim.nonce);
        }
        Ok(released)
    }

    async fn inspect(&self, key: &Key) -> StepResult<State> {
        let step = self.step(What::Look, VoteKey::of(key), None);
        let holder = self.count(self.ask(&step), self.timeout, Tally::is_seen).await.holder()?;
        Ok(State::new(holder.map(Arc::new), None))
    }

    async fn ping(&self) -> StepResult<()> {
        let step = self.step(What::Hello, VoteKey::none(), None);
        self.count(self.ask(&step), self.timeout, Tally::is_answered).await.answered()
    }

    async fn close(&self) {
        let idle = async {
            while self.nodes.iter().any(Node::is_giving_back) {
                tokio::time::sleep(LEAST_GRACE).await;
            }
        };
        let _ = tokio::time::timeout(self.timeout, idle).await;
        self.nodes.iter().for_each(Node::close);
    }

    fn powers(&self) -> Powers<'_> {
        Powers::default().with_administer(self)
    }
}

/// Renewals under way, and what they have come to.
struct Renewing {
    steps: Vec<Step>,
    tallies: Vec<Tally>,
}

impl Renewing {
    fn new(steps: Vec<Step>, nodes: usize) -> Self {
        let tallies = steps.iter().map(|_| Tally::new(nodes)).collect();
        Renewing { steps, tallies }
    }

    /// Whether further answers would change nothing.
    fn note(&mut self, node: usize, answers: Vec<StepResult<Answer>>) -> bool {
        self.tallies.iter_mut().zip(answers).for_each(|(tally, answer)| tally.note(node, answer));
        self.tallies.iter().all(Tally::is_renewed_or_gone)
    }

    /// Gives those that are held the votes of the nodes that have none for anybody.
    async fn mend(
        mut self,
        mut round: Round<Vec<StepResult<Answer>>>,
        nodes: Arc<[Node]>,
        runtime: Handle,
        patience: Duration,
    ) {
        round
            .until(patience, |node, answers| {
                self.note(node, answers);
                false
            })
            .await;
        let mut to_mend: Vec<Vec<Step>> = nodes.iter().map(|_| Vec::new()).collect();
        for (step, tally) in self.steps.iter().zip(&self.tallies).filter(|(_, tally)| tally.is_held()) {
            for node in tally.to_mend() {
                to_mend[node].push(Step { what: What::Mend, ..step.clone() });
            }
        }
        let asked = nodes.iter().zip(to_mend).filter(|(_, steps)| !steps.is_empty());
        drop(Round::new(&runtime, asked.map(|(node, steps)| node.ask_all(steps))));
    }
}

impl Administer for QuorumLock {
    fn revoke<'a>(&'a self, key: &'a Key, seen: Option<Nonce>) -> BoxFuture<'a, StepResult<bool>> {
        Box::pin(async move {
            let step = self.step(What::Revoke, VoteKey::of(key), seen);
            let released = self.count(self.ask(&step), self.timeout, Tally::is_released).await.released()?;
            Ok(released == Released::Released)
        })
    }
}

impl fmt::Debug for QuorumLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<&str> = self.nodes.iter().map(Node::address).collect();
        f.debug_struct("QuorumLock")
            .field("nodes", &addresses)
            .field("waiters", &self.hints.len())
            .field("tries", &self.tries.len())
            .finish_non_exhaustive()
    }
}
