//! The backend itself.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    operation::update_item::UpdateItemError,
    types::{ReturnValue, ReturnValuesOnConditionCheckFailure},
};
use futures_util::{StreamExt, stream};
use tasklock_core::{
    Administer, AsyncLock, Attempt, BackendError, BoxFuture, Busy, Capabilities, Claim, Clock, Expiry, Fencing, Grant,
    Intent, Key, LockError, Mode, Mono, Nonce, Powers, Released, Renewed, Request, Scope, State, StepResult, Validity,
};

use crate::{
    DynamoBuilder, DynamoError, config,
    item::{self, Change, Item, Record},
    sightings::{Beat, Sightings},
};

/// Locks in a DynamoDB table: see the [crate](crate) for how. Cheap to clone; clones are the same client.
#[derive(Clone)]
pub struct DynamoLock {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) client: Client,
    pub(crate) table: String,
    /// Whether the client repeats requests by itself, so that an answer may be that of a repetition.
    repeats: bool,
    clock: OnceLock<Clock>,
    sightings: Sightings,
}

const CAPABILITIES: Capabilities =
    Capabilities::new("dynamodb").fencing(Fencing::Strong).expiry(Expiry::Server).scope(Scope::Cluster);

/// How many requests of one call are under way at a time.
pub(crate) const AT_A_TIME: usize = 64;
/// A renewal that is not answered is given up after this part of the ttl, and at the latest after so long: the others
/// of its batch are told only then.
const RENEWAL_PART: u32 = 8;
const LONGEST_RENEWAL: Duration = Duration::from_secs(4);

/// What an item means to a nonce that wants it.
pub(crate) enum Standing {
    /// Nobody has it.
    Free,
    /// It has it already.
    Mine(Grant),
    /// Somebody else has it, and has shown no sign of life for a whole lease.
    Stale(Beat),
    /// Somebody else has it.
    Busy(Busy),
}

enum Written {
    Done(Option<Item>),
    /// The condition did not hold; the item, if there is one.
    Refused(Option<Item>),
}

impl DynamoLock {
    /// Locks in this table; region, endpoint and credentials as the environment says, unless told.
    pub fn builder(table: impl Into<String>) -> DynamoBuilder {
        DynamoBuilder::new(table.into())
    }

    /// Locks in this table, through a client of yours: its region, endpoint, credentials, timeouts and retries.
    ///
    /// A client that repeats requests by itself is right too, only less sure of what a failed request has done.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidOption`] if no table can have this name.
    pub fn new(client: Client, table: impl Into<String>) -> Result<Self, LockError> {
        let table = table.into();
        config::check_table(&table)?;
        let repeats = client.config().retry_config().is_none_or(|retry| retry.max_attempts() > 1);
        let (clock, sightings) = (OnceLock::new(), Sightings::default());
        Ok(DynamoLock { inner: Arc::new(Inner { client, table, repeats, clock, sightings }) })
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.inner.table
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// How many locks held by others are watched for signs of life.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.inner.sightings.len()
    }

    pub(crate) fn now(&self) -> Mono {
        self.inner.clock.get_or_init(Clock::current).now()
    }

    pub(crate) fn stale(&self, key: &Key) -> Option<Beat> {
        self.inner.sightings.stale(key, self.now())
    }

    async fn attempt(&self, request: &Request) -> Result<Attempt, DynamoError> {
        if request.mode != Mode::Exclusive {
            return Err(DynamoError::Unsupported { what: format!("a lock in mode {:?}", request.mode) });
        }
        let mut stale = None;
        if let Intent::Poll { .. } = request.intent {
            let item = self.read(&request.key).await?;
            match self.standing(request, item.as_ref())? {
                Standing::Mine(grant) => return Ok(Attempt::Granted(grant)),
                Standing::Busy(busy) => return Ok(Attempt::Busy(busy)),
                Standing::Stale(beat) => stale = Some(beat),
                Standing::Free => {}
            }
        } else {
            stale = self.stale(&request.key);
        }
        let (sent, span) = (self.now(), request.span);
        let change = Change::take(request.nonce, request.ttl.duration(), span.get(), &request.owner, stale);
        let refused = match self.write(&request.key, change, ReturnValue::AllNew).await? {
            Written::Done(item) => {
                self.inner.sightings.forget(&request.key);
                let token = self.record(&request.key, item.as_ref())?.first_token(span.get());
                let mut grant = Grant::new(Some(token), Validity::Until(request.until(sent)));
                grant.span = span;
                return Ok(Attempt::Granted(grant));
            }
            Written::Refused(Some(item)) => Some(item),
            // Not every emulator tells which item it was.
            Written::Refused(None) => self.read(&request.key).await?,
        };
        match self.standing(request, refused.as_ref())? {
            Standing::Mine(grant) => Ok(Attempt::Granted(grant)),
            Standing::Busy(busy) => Ok(Attempt::Busy(busy)),
            Standing::Stale(_) => Ok(Attempt::Busy(Busy::new(None, Some(Duration::ZERO)))),
            Standing::Free => Err(DynamoError::Conflict { action: "UpdateItem" }),
        }
    }

    /// What an answer says to whoever asks; noted for the next who does.
    pub(crate) fn standing(&self, request: &Request, item: Option<&Item>) -> Result<Standing, DynamoError> {
        let (key, sightings) = (&request.key, &self.inner.sightings);
        let record = self.record(key, item)?;
        if record.is_gone(request.nonce) {
            return Err(DynamoError::Withdrawn);
        }
        let Some(held) = &record.held else {
            sightings.forget(key);
            return Ok(Standing::Free);
        };
        if held.beat.own == request.nonce {
            sightings.forget(key);
            // When an earlier attempt got it is not known: no sooner than the first was sent.
            let until = Validity::Until(request.until(request.since));
            let mut grant = Grant::new(Some(record.first_token(request.span.get())), until).to_confirm();
            grant.span = request.span;
            return Ok(Standing::Mine(grant));
        }
        let left = sightings.note(key, held.beat, held.lease, self.now());
        if left == Some(Duration::ZERO) {
            return Ok(Standing::Stale(held.beat));
        }
        Ok(Standing::Busy(Busy::new(Some(Arc::new(held.holder(record.token, left))), left)))
    }

    pub(crate) fn record(&self, key: &Key, item: Option<&Item>) -> Result<Record, DynamoError> {
        Record::read(&self.inner.table, key, item)
    }

    async fn renew_one(&self, claim: &Claim) -> StepResult<Renewed> {
        let ttl = claim.ttl.duration();
        let bound = ttl.map_or(LONGEST_RENEWAL, |ttl| (ttl / RENEWAL_PART).min(LONGEST_RENEWAL));
        let until = ttl.map_or(Mono::NEVER, |ttl| self.now().after(ttl));
        let change = Change::renew(claim.nonce, ttl);
        match tokio::time::timeout(bound, self.write(&claim.key, change, ReturnValue::None)).await {
            Ok(Ok(Written::Done(_))) => Ok(Renewed::held(Validity::Until(until), None)),
            Ok(Ok(Written::Refused(_))) => Ok(Renewed::NotOwner),
            Ok(Err(error)) => Err(self.failed(error)),
            Err(_) => {
                let message = format!("no answer within {bound:?}");
                Err(DynamoError::Unanswered { action: "UpdateItem", message }.into())
            }
        }
    }

    async fn give_back(&self, claim: &Claim) -> Result<Released, DynamoError> {
        if claim.unsettled {
            // First this: from then on no attempt of this nonce can get it.
            let held = self.withdraw(claim).await?.held;
            if held.is_none_or(|held| held.beat.own != claim.nonce) {
                return Ok(Released::NotOwner);
            }
        }
        Ok(match self.write(&claim.key, Change::release(claim.nonce), ReturnValue::None).await? {
            Written::Done(_) => Released::Released,
            Written::Refused(item) if self.inner.repeats && self.is_as_left(claim, item.as_ref())? => {
                Released::Released
            }
            Written::Refused(_) => Released::NotOwner,
        })
    }

    /// Sees to it that this nonce gets nothing any more; what the item says then.
    async fn withdraw(&self, claim: &Claim) -> Result<Record, DynamoError> {
        for change in [Change::withdraw_first(claim.nonce), Change::withdraw_next(claim.nonce)] {
            let written = self.write(&claim.key, change, ReturnValue::AllNew).await?;
            let (Written::Done(item) | Written::Refused(item)) = &written;
            // An item of another format is left alone.
            let record = self.record(&claim.key, item.as_ref())?;
            if let Written::Done(_) = written {
                return Ok(record);
            }
        }
        // A period has begun in between.
        Err(DynamoError::Conflict { action: "UpdateItem" })
    }

    /// Whether a lock is free and nobody has had it since this claim: of a release that the client sent twice, the first
    /// did it.
    fn is_as_left(&self, claim: &Claim, item: Option<&Item>) -> Result<bool, DynamoError> {
        let record = self.record(&claim.key, item)?;
        Ok(record.held.is_none() && claim.token.is_some_and(|token| token == record.first_token(1)))
    }

    async fn write(&self, key: &Key, change: Change, tell: ReturnValue) -> Result<Written, DynamoError> {
        let Inner { client, table, .. } = &*self.inner;
        let sent = client
            .update_item()
            .table_name(table)
            .key(item::KEY, item::key(key))
            .update_expression(change.update)
            .condition_expression(change.condition)
            .set_expression_attribute_values(Some(change.values))
            .return_values(tell)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match sent {
            Ok(output) => Ok(Written::Done(output.attributes)),
            Err(SdkError::ServiceError(refused)) if refused.err().is_conditional_check_failed_exception() => {
                match refused.into_err() {
                    UpdateItemError::ConditionalCheckFailedException(refused) => Ok(Written::Refused(refused.item)),
                    _ => Ok(Written::Refused(None)),
                }
            }
            Err(error) => Err(self.told(key, DynamoError::of("UpdateItem", table, &error))),
        }
    }

    pub(crate) async fn read(&self, key: &Key) -> Result<Option<Item>, DynamoError> {
        let Inner { client, table, .. } = &*self.inner;
        let get = client.get_item().table_name(table).key(item::KEY, item::key(key)).consistent_read(true);
        let output = get.send().await.map_err(|error| DynamoError::of("GetItem", table, &error))?;
        Ok(output.item)
    }

    /// An attribute of another type fails the whole expression, and the answer does not say whose.
    pub(crate) fn told(&self, key: &Key, error: DynamoError) -> DynamoError {
        match error {
            DynamoError::Refused { code, message, .. }
                if code == "ValidationException" && message.contains("incorrect data type") =>
            {
                let what = "`hb`, `tok` or `gone` is of another type".to_owned();
                DynamoError::Damaged { table: self.inner.table.clone(), key: key.as_str().to_owned(), what }
            }
            other => other,
        }
    }

    /// What core is told. A client that repeats requests tells of the last one: one before may have taken effect.
    pub(crate) fn failed(&self, error: DynamoError) -> BackendError {
        if self.inner.repeats && error.is_retryable() {
            return BackendError::unknown(error.to_string()).with_source(error);
        }
        error.into()
    }
}

impl AsyncLock for DynamoLock {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    async fn try_acquire(&self, request: &Request) -> StepResult<Attempt> {
        self.attempt(request).await.map_err(|error| self.failed(error))
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<StepResult<Renewed>> {
        let renew = |claim: Claim| async move { self.renew_one(&claim).await };
        stream::iter(claims.to_vec()).map(renew).buffered(AT_A_TIME).collect().await
    }

    async fn release(&self, claim: &Claim) -> StepResult<Released> {
        self.give_back(claim).await.map_err(|error| self.failed(error))
    }

    async fn inspect(&self, key: &Key) -> StepResult<State> {
        let item = self.read(key).await?;
        let record = self.record(key, item.as_ref())?;
        let Some(held) = &record.held else { return Ok(State::new(None, None)) };
        let left = self.inner.sightings.note(key, held.beat, held.lease, self.now());
        // Whoever asks for a stale lock gets it.
        let holder = (left != Some(Duration::ZERO)).then(|| Arc::new(held.holder(record.token, left)));
        Ok(State::new(holder, None))
    }

    async fn ping(&self) -> StepResult<()> {
        Ok(self.check().await?)
    }

    fn powers(&self) -> Powers<'_> {
        Powers::default().with_administer(self).with_many(self)
    }
}

impl Administer for DynamoLock {
    fn revoke<'a>(&'a self, key: &'a Key, seen: Option<Nonce>) -> BoxFuture<'a, StepResult<bool>> {
        Box::pin(async move {
            let written = self.write(key, Change::revoke(seen), ReturnValue::None).await;
            match written.map_err(|error| self.failed(error))? {
                Written::Done(_) => Ok(true),
                Written::Refused(item) => {
                    // An item of another format is not free.
                    self.record(key, item.as_ref())?;
                    Ok(false)
                }
            }
        })
    }
}

impl fmt::Debug for DynamoLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoLock").field("table", &self.inner.table).finish_non_exhaustive()
    }
}
