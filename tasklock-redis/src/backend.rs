//! The backend: requests of core turned into steps of the script.

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use redis::Value;
use tasklock_core::{
    Administer, AsyncLock, Attempt, BackendError, BoxFuture, Busy, Capabilities, Claim, Clock, Event, Expiry, Fencing,
    FencingToken, Grant, Holder, Intent, Key, LockError, Locker, Mode, Mono, Nonce, Owner, Powers, Released, Renewed,
    Request, Scope, Span, State, StepResult, Ttl, Validity, Wake, WakeBy,
};
use tokio::{runtime::Handle, sync::Notify, task::JoinHandle};

use crate::{
    calls::{Calls, WeakCalls},
    config::RedisConfig,
    inbox::{Inbox, Unwanted},
    layout::{Client, OwnerKey, Record, names_of},
    link::{Heard, Link},
    script::{Answer, Step, What},
};

/// As the script has it: how long a pushed grant lasts until it is confirmed, and a waiter that does not ask.
const CLAIM: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(30);

const CAPABILITIES: Capabilities = Capabilities::new("redis")
    .fencing(Fencing::Strong)
    .expiry(Expiry::Server)
    .wake(WakeBy::Push)
    .fair(true)
    .spans(true)
    .scope(Scope::Cluster);

/// Locks in a Redis or Valkey server: see the [crate](crate) for how.
///
/// One client of the server: two connections, and a task that keeps them open. For one [`Locker`]; another one takes
/// another.
pub struct RedisLock {
    link: Arc<Link>,
    calls: Calls,
    inbox: Arc<Inbox>,
    client: Client,
    clock: Clock,
    /// Waiters may have missed what was pushed.
    recheck: Arc<Notify>,
    /// The last owner, as the store keeps it: nearly always the next one's.
    names: Mutex<Option<(Owner, Arc<str>)>>,
    keeper: JoinHandle<()>,
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
        let (unwanted, commands) = (Arc::new(OnceLock::<WeakCalls>::new()), config.commands());
        let heard = {
            let (unwanted, inbox, runtime) = (unwanted.clone(), inbox.clone(), runtime.clone());
            Heard(Arc::new(move |message: &str| {
                // Before there are calls nobody has asked for anything.
                let Some(what) = inbox.deliver(message) else { return };
                if let Some(calls) = unwanted.get().and_then(WeakCalls::upgrade) {
                    runtime.spawn(give_back(calls, what));
                }
            }))
        };
        let link = Link::open(config.server(client.inbox(), heard)?, commands).await?;
        warn_if_locks_may_be_evicted(&link).await;
        let calls = Calls::new(link.clone(), runtime.clone());
        let _ = unwanted.set(calls.downgrade());
        let reopened = {
            let recheck = recheck.clone();
            move || recheck.notify_one()
        };
        let keeper = runtime.spawn(link.clone().keep(reopened));
        Ok(RedisLock { link, calls, inbox, client, clock, recheck, names: Mutex::default(), keeper })
    }

    fn step(&self, what: What, key: &Key, member: String, ttl: Ttl, names: Arc<str>) -> Step {
        // Rounded up: a lease must not end at the store before it does here.
        let ms = |ttl: Duration| ttl.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(u64::MAX);
        Step { what, owner: OwnerKey::of(key), member, ttl: ttl.duration().map_or(0, ms), names }
    }

    fn names(&self, owner: &Owner) -> Arc<str> {
        let mut last = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, names)) if known == owner => names.clone(),
            _ => last.insert((owner.clone(), names_of(owner))).1.clone(),
        }
    }

    fn found_held(&self, request: &Request, sent: Mono, answer: &Answer) -> Attempt {
        let Answer::Held { record, left, count, now } = answer else { return Attempt::Busy(Busy::default()) };
        let record = Record::parse(record);
        if request.intent != Intent::Try {
            self.inbox.found_held(request.nonce, sent, *now, record.as_ref().map_or(0, |record| record.token));
        }
        let left = u64::try_from(*left).ok().map(Duration::from_millis);
        let rank = u32::try_from(*count).unwrap_or(0);
        let retry_in = ask_again_in(left, rank, request.intent);
        let holder = record.map(|record| Arc::new(record.holder(*now, left)));
        Attempt::Busy(Busy::new(holder, Some(retry_in)).position(rank))
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
        if request.mode != Mode::Exclusive {
            return Err(BackendError::fatal(format!("the redis backend does not know {:?}", request.mode)));
        }
        let waits = request.intent != Intent::Try;
        let asked_before = waits && self.inbox.expect(request.nonce);
        let what = match request.intent {
            Intent::Try => What::Try,
            Intent::Poll { .. } => What::Poll,
            _ => What::Wait,
        };
        let member = self.client.member(request.nonce);
        let step = self.step(what, &request.key, member, request.ttl, self.names(&request.owner));
        let sent = self.clock.now();
        match self.calls.submit(step).await? {
            Answer::Yes { token } => {
                if waits {
                    self.inbox.granted(request.nonce, asked_before);
                }
                // Whether just taken or held already: the ttl began when this request arrived.
                Ok(Attempt::Granted(Grant::new(Some(FencingToken::new(token)), Validity::Until(request.until(sent)))))
            }
            Answer::Withdrawn => {
                self.inbox.forget(request.nonce);
                Err(BackendError::fatal("redis: this acquisition was withdrawn before"))
            }
            answer => Ok(self.found_held(request, sent, &answer)),
        }
    }

    async fn wait(&self, request: &Request) -> StepResult<Wake> {
        self.inbox.wait(request.nonce).await
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<StepResult<Renewed>> {
        let step = |claim: &Claim| {
            let more = claim.span.map(|count| Arc::from(count.to_string())).unwrap_or_default();
            self.step(What::Renew, &claim.key, self.client.member(claim.nonce), claim.ttl, more)
        };
        let sent = self.clock.now();
        let answers = self.calls.submit_all(claims.iter().map(step).collect()).await;
        let renewed = |(claim, answer): (&Claim, StepResult<Answer>)| {
            let until = Validity::Until(claim.ttl.duration().map_or(Mono::NEVER, |ttl| sent.after(ttl)));
            let held = |token| Renewed::held(until, Some(FencingToken::new(token)));
            match answer? {
                Answer::Yes { token } => Ok(held(token)),
                Answer::More { token, first, waiters } => {
                    let span = claim.span.map(|count| Span { first: FencingToken::new(first), count });
                    Ok(held(token).with_more(span).with_waiters(waiters))
                }
                _ => {
                    self.inbox.forget(claim.nonce);
                    Ok(Renewed::NotOwner)
                }
            }
        };
        claims.iter().zip(answers).map(renewed).collect()
    }

    async fn release(&self, claim: &Claim) -> StepResult<Released> {
        // From here on this nonce wants nothing, whatever is still pushed to it.
        self.inbox.forget(claim.nonce);
        let what = if claim.unsettled { What::Withdraw } else { What::Leave };
        let step = self.step(what, &claim.key, self.client.member(claim.nonce), Ttl::Never, Arc::default());
        match self.calls.submit(step).await? {
            Answer::Yes { .. } => Ok(Released::Released),
            _ => Ok(Released::NotOwner),
        }
    }

    async fn inspect(&self, key: &Key) -> StepResult<State> {
        let step = self.step(What::Inspect, key, String::new(), Ttl::Never, Arc::default());
        let Answer::Held { record, left, count, now } = self.calls.submit(step).await? else {
            return Ok(State::default());
        };
        let left = u64::try_from(left).ok().map(Duration::from_millis);
        let holder = match record.as_str() {
            "" => None,
            // Whatever it is, the key is not free.
            text => Some(Record::parse(text).map_or_else(
                || Holder::new(Owner::recorded("unknown", "", 0, "")).remaining(left),
                |record| record.holder(now, left),
            )),
        };
        Ok(State::new(holder.map(Arc::new), u64::try_from(count).ok()))
    }

    async fn event(&self) -> Event {
        self.recheck.notified().await;
        Event::Recheck
    }

    async fn ping(&self) -> StepResult<()> {
        self.link.command(&redis::cmd("PING")).await.map(drop)
    }

    async fn close(&self) {
        self.link.close();
        self.keeper.abort();
    }

    fn powers(&self) -> Powers<'_> {
        Powers::default().with_administer(self)
    }
}

impl Administer for RedisLock {
    fn revoke<'a>(&'a self, key: &'a Key, seen: Option<Nonce>) -> BoxFuture<'a, StepResult<bool>> {
        Box::pin(async move {
            let seen = seen.map(|nonce| nonce.to_string()).unwrap_or_default();
            let step = self.step(What::Revoke, key, seen, Ttl::Never, Arc::default());
            Ok(matches!(self.calls.submit(step).await?, Answer::Yes { .. }))
        })
    }
}

impl Drop for RedisLock {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl fmt::Debug for RedisLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLock")
            .field("address", &self.link.address())
            .field("waiters", &self.inbox.len())
            .finish_non_exhaustive()
    }
}

/// What was granted to nobody goes to the next. Should it fail, the claim ends by itself.
async fn give_back(calls: Calls, Unwanted { owner, member }: Unwanted) {
    let _ = calls.submit(Step { what: What::Leave, owner, member, ttl: 0, names: Arc::default() }).await;
}

/// Says so, once, if the server is set up to drop what has a ttl when it runs out of memory. Who may not ask is not
/// told.
async fn warn_if_locks_may_be_evicted(link: &Link) {
    let Ok(info) = link.command(redis::cmd("INFO").arg("memory")).await else { return };
    let info = match info {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::VerbatimString { text, .. } => text,
        _ => return,
    };
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let (Some(policy), Some(limit)) = (field("maxmemory_policy"), field("maxmemory")) else { return };
    if policy != "noeviction" && limit != "0" {
        tracing::warn!(
            target: "tasklock", backend = "redis", address = link.address(), policy,
            "the server may drop locks when its memory is full: set maxmemory-policy to noeviction"
        );
    }
}
