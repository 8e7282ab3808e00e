//! The backend: requests of core turned into steps of the script.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::Duration,
};

use tasklock_core::{
    AsyncLock, Attempt, BackendError, Busy, Capabilities, Claim, Clock, Event, Expiry, Fencing, FencingToken, Grant,
    Holder, Intent, Key, LockError, Locker, Mode, Mono, Owner, Powers, Released, Renewed, Request, Scope, Span, State,
    StepResult, Ttl, Validity, Wake, WakeBy,
};
use tokio::{runtime::Handle, sync::Notify};

use crate::{
    cluster::Cluster,
    config::RedisConfig,
    inbox::{Inbox, Unwanted},
    layout::{Client, OwnerKey, Record, names_of},
    link::Turn,
    node::Node,
    nodes::Nodes,
    script::{Answer, Found, Step, What},
    server::{Heard, Said},
    slots::Slot,
};

/// As the script has it: how long a pushed grant lasts until it is confirmed, and a waiter that does not ask.
const CLAIM: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(30);

const CAPABILITIES: Capabilities = Capabilities::new("redis")
    .fencing(Fencing::Strong)
    .expiry(Expiry::Server)
    .wake(WakeBy::Push)
    .fair(true)
    .shared(true)
    .permits(true)
    .spans(true)
    .signs_of_life(true)
    .scope(Scope::Cluster);

/// Locks in a Redis or Valkey server, or in a cluster of them: see the [crate](crate) for how.
///
/// One client of the server: two connections, and a task that keeps them open; of a cluster, as much for each master that
/// is needed. For one [`Locker`]; another one takes another.
pub struct RedisLock {
    /// Without secrets.
    address: String,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) client: Client,
    pub(crate) clock: Clock,
    /// Waiters may have missed what was pushed.
    recheck: Arc<Notify>,
    /// The last owner, as the store keeps it: nearly always the next one's.
    names: Mutex<Option<(Owner, Arc<str>)>>,
}

impl RedisLock {
    /// A locker over the server at this address, with the default settings: see [`RedisConfig`] for addresses, and
    /// [`Locker::builder`] over [`RedisConfig::connect`] for settings.
    ///
    /// # Errors
    ///
    /// As [`RedisConfig::from_url`] and [`RedisConfig::connect`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the connections.
    pub async fn connect(url: impl AsRef<str>) -> Result<Locker, LockError> {
        Locker::new(RedisConfig::from_url(url.as_ref())?.connect().await?)
    }

    pub(crate) async fn open(config: RedisConfig) -> Result<Self, LockError> {
        let runtime = Handle::try_current().map_err(|_| LockError::NoRuntime)?;
        let (client, clock) = (Client::new(), Clock::current());
        let (inbox, recheck) = (Arc::new(Inbox::new(clock)), Arc::new(Notify::new()));
        let nodes = Arc::new(OnceLock::<Weak<Nodes>>::new());
        let heard = {
            let (nodes, inbox, runtime) = (nodes.clone(), inbox.clone(), runtime.clone());
            Heard(Arc::new(move |said: Said<'_>| {
                // Before there are nodes nobody has asked for anything.
                let nodes = nodes.get().and_then(Weak::upgrade);
                match said {
                    Said::Message(message) => {
                        if let (Some(what), Some(nodes)) = (inbox.deliver(message), nodes) {
                            runtime.spawn(give_back(nodes, what));
                        }
                    }
                    Said::Unbound(slot) => {
                        if let Some(nodes) = nodes {
                            nodes.unheard(slot);
                        }
                    }
                }
            }))
        };
        let address = config.address().to_owned();
        let opened = if config.is_cluster() {
            Nodes::Cluster(Cluster::open(config, client.clone(), heard, inbox.clone(), runtime).await?)
        } else {
            let commands = config.commands();
            let turned = {
                let (recheck, inbox) = (recheck.clone(), inbox.clone());
                move |turn| match turn {
                    Turn::Reopened => recheck.notify_one(),
                    Turn::Lost => inbox.undate(|_| true),
                }
            };
            Nodes::One(Node::open(config.server(client.inbox(), heard)?, commands, &runtime, turned).await?)
        };
        let opened = Arc::new(opened);
        let _ = nodes.set(Arc::downgrade(&opened));
        Ok(RedisLock { address, nodes: opened, inbox, client, clock, recheck, names: Mutex::default() })
    }

    pub(crate) fn step(&self, what: What, key: &Key, member: String, ttl: Ttl, names: Arc<str>) -> Step {
        let (mode, owner) = (Mode::Exclusive, OwnerKey::of(key));
        let slot = self.nodes.slot(|| Slot::of(&owner));
        Step { what, mode, owner, slot, member, ttl: millis(ttl), names }
    }

    pub(crate) fn ask(&self, what: What, request: &Request) -> StepResult<Step> {
        if !matches!(request.mode, Mode::Exclusive | Mode::Shared | Mode::Permit { .. }) {
            return Err(BackendError::fatal(format!("the redis backend does not know {:?}", request.mode)));
        }
        let (member, names) = (self.client.member(request.nonce), self.names(&request.owner));
        Ok(Step { mode: request.mode, ..self.step(what, &request.key, member, request.ttl, names) })
    }

    pub(crate) fn names(&self, owner: &Owner) -> Arc<str> {
        let mut last = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, names)) if known == owner => names.clone(),
            _ => last.insert((owner.clone(), names_of(owner))).1.clone(),
        }
    }

    pub(crate) async fn renew_locks(&self, claims: &[Claim]) -> Vec<StepResult<Renewed>> {
        let step = |claim: &Claim| {
            let more = claim.span.map(|count| Arc::from(count.to_string())).unwrap_or_default();
            let step = self.step(What::Renew, &claim.key, self.client.member(claim.nonce), claim.ttl, more);
            Step { mode: claim.mode, ..step }
        };
        let sent = self.clock.now();
        let answers = self.nodes.submit_all(claims.iter().map(step).collect()).await;
        claims.iter().zip(answers).map(|(claim, answer)| Ok(self.renewed(claim, sent, &answer?))).collect()
    }

    /// Asks, by `ask`, for what is in this slot. Who may have to wait is bound there before it enters the queue; but who
    /// does not have to wait need not listen, and so it tries first.
    async fn attempt<F>(&self, request: &Request, slot: Option<Slot>, ask: impl Fn(What) -> F) -> StepResult<Attempt>
    where
        F: Future<Output = StepResult<Answer>>,
    {
        let what = match request.intent {
            Intent::Try => What::Try,
            Intent::Poll { .. } => What::Poll,
            _ => What::Wait,
        };
        let waits = what != What::Try;
        let asked_before = waits && self.inbox.expect(request.nonce, slot);
        let mut sent = self.clock.now();
        if waits && !self.nodes.is_heard(slot) {
            if what == What::Wait {
                let answer = ask(What::Try).await?;
                if !matches!(answer, Answer::Held { .. }) {
                    return self.answered(request, sent, asked_before, answer);
                }
            }
            self.nodes.listen(slot).await?;
            sent = self.clock.now();
        }
        let answer = ask(what).await?;
        self.answered(request, sent, asked_before, answer)
    }

    fn answered(&self, request: &Request, sent: Mono, asked_before: bool, answer: Answer) -> StepResult<Attempt> {
        match answer {
            Answer::Yes { token } | Answer::Taken { token, .. } => {
                if request.intent != Intent::Try {
                    self.inbox.granted(request.nonce, asked_before);
                }
                let grant = Self::grant(request, sent, token);
                let Answer::Taken { member, .. } = answer else { return Ok(Attempt::Granted(grant)) };
                Ok(Attempt::Granted(grant.of_member(member.into())))
            }
            Answer::Withdrawn => {
                self.inbox.forget(request.nonce);
                Err(BackendError::fatal("redis: this acquisition was withdrawn before"))
            }
            answer => Ok(Attempt::Busy(self.found_held(request, sent, &answer))),
        }
    }

    pub(crate) fn found_held(&self, request: &Request, sent: Mono, answer: &Answer) -> Busy {
        let Answer::Held { holder, count, now, last, again, .. } = answer else { return Busy::default() };
        let record = Record::parse(&holder.record);
        if request.intent != Intent::Try {
            let seen = last.or(record.as_ref().map(|record| record.token)).unwrap_or(0);
            self.inbox.found_held(request.nonce, sent, *now, seen);
        }
        let left = holder.left();
        let rank = u32::try_from(*count).unwrap_or(0);
        let usual = ask_again_in(left, rank, request.intent);
        let retry_in = again.map_or(usual, |again| usual.min(Duration::from_millis(again)));
        let holder = record.map(|record| Arc::new(record.holder(*now, left)));
        Busy::new(holder, Some(retry_in)).position(rank)
    }

    pub(crate) fn renewed(&self, claim: &Claim, sent: Mono, answer: &Answer) -> Renewed {
        let until = Validity::Until(claim.ttl.duration().map_or(Mono::NEVER, |ttl| sent.after(ttl)));
        let held = |token| Renewed::held(until, Some(FencingToken::new(token)));
        match *answer {
            Answer::Yes { token } => held(token),
            Answer::More { token, first, waiters } => {
                let span = claim.span.map(|count| Span { first: FencingToken::new(first), count });
                held(token).with_more(span).with_waiters(waiters)
            }
            _ => {
                self.inbox.forget(claim.nonce);
                Renewed::NotOwner
            }
        }
    }

    /// Whether just taken or held already: the ttl began when this request arrived.
    pub(crate) fn grant(request: &Request, sent: Mono, token: u64) -> Grant {
        Grant::new(Some(FencingToken::new(token)), Validity::Until(request.until(sent)))
    }
}

impl Found {
    fn left(&self) -> Option<Duration> {
        u64::try_from(self.left).ok().map(Duration::from_millis)
    }

    fn holder(&self, now: u64) -> Option<Arc<Holder>> {
        let holder = match self.record.as_str() {
            "" => return None,
            // Whatever it is, the key is not free.
            text => Record::parse(text).map_or_else(
                || Holder::new(Owner::recorded("unknown", "", 0, "")).remaining(self.left()),
                |record| record.holder(now, self.left()),
            ),
        };
        Some(Arc::new(holder))
    }
}

/// When a waiter looks again by itself: the first when the holder's time is over, those behind it a claim later each,
/// all in time to keep their places. And whoever has just entered the queue, after a claim: until then it is told of no
/// grant to the one before it.
fn ask_again_in(left: Option<Duration>, rank: u32, intent: Intent) -> Duration {
    let patience = if matches!(intent, Intent::Poll { .. }) { LEASE / 3 } else { CLAIM };
    left.map_or(patience, |left| left.saturating_add(CLAIM.saturating_mul(rank)))
        .clamp(Duration::from_millis(1), patience)
}

impl AsyncLock for RedisLock {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    async fn try_acquire(&self, request: &Request) -> StepResult<Attempt> {
        let slot = self.nodes.slot(|| Slot::of_key(&request.key));
        if request.mode == Mode::Member {
            return self.attempt(request, slot, |what| self.ask_for_member(what, request)).await;
        }
        let ask = |what| async move { self.nodes.submit(self.ask(what, request)?).await };
        self.attempt(request, slot, ask).await
    }

    async fn wait(&self, request: &Request) -> StepResult<Wake> {
        self.inbox.wait(request.nonce).await
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<StepResult<Renewed>> {
        if claims.iter().any(|claim| claim.mode == Mode::Member) {
            return self.renew_some_members(claims).await;
        }
        self.renew_locks(claims).await
    }

    async fn release(&self, claim: &Claim) -> StepResult<Released> {
        // From here on this nonce wants nothing, whatever is still pushed to it.
        self.inbox.forget(claim.nonce);
        if claim.mode == Mode::Member {
            return self.release_member(claim).await;
        }
        let what = if claim.unsettled { What::Withdraw } else { What::Leave };
        let step = self.step(what, &claim.key, self.client.member(claim.nonce), Ttl::Never, Arc::default());
        match self.nodes.submit(Step { mode: claim.mode, ..step }).await? {
            Answer::Yes { .. } => Ok(Released::Released),
            _ => Ok(Released::NotOwner),
        }
    }

    async fn inspect(&self, key: &Key) -> StepResult<State> {
        let step = self.step(What::Inspect, key, String::new(), Ttl::Never, Arc::default());
        let Answer::Held { holder, others, count, now, .. } = self.nodes.submit(step).await? else {
            return Ok(State::default());
        };
        let others = others.iter().filter_map(|other| other.holder(now)).collect();
        Ok(State::new(holder.holder(now), u64::try_from(count).ok()).shared_with(others))
    }

    async fn event(&self) -> Event {
        self.recheck.notified().await;
        Event::Recheck
    }

    async fn ping(&self) -> StepResult<()> {
        self.nodes.ping().await
    }

    async fn close(&self) {
        self.nodes.close();
    }

    fn powers(&self) -> Powers<'_> {
        let powers = Powers::default().with_administer(self).with_values(self).with_pools(self);
        // The locks of a cluster are at several servers.
        if self.nodes.one().is_some() { powers.with_many(self) } else { powers }
    }
}

impl fmt::Debug for RedisLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLock")
            .field("address", &self.address)
            .field("waiters", &self.inbox.len())
            .finish_non_exhaustive()
    }
}

/// In milliseconds, 0 if it never ends; rounded up: a lease must not end at the store before it does here.
pub(crate) fn millis(ttl: Ttl) -> u64 {
    ttl.duration().map_or(0, |ttl| ttl.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(u64::MAX))
}

/// What was granted to nobody goes to the next. Should it fail, the claim ends by itself.
async fn give_back(nodes: Arc<Nodes>, Unwanted { owner, member }: Unwanted) {
    let slot = nodes.slot(|| Slot::of(&owner));
    let _ = nodes
        .submit(Step { what: What::Leave, mode: Mode::Exclusive, owner, slot, member, ttl: 0, names: Arc::default() })
        .await;
}
