//! Several locks in one transaction: all of them or none.

use std::collections::HashSet;

use aws_sdk_dynamodb::{
    error::SdkError,
    operation::transact_write_items::TransactWriteItemsError,
    types::{CancellationReason, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use tasklock_core::{BoxFuture, Busy, Grant, Many, Mode, Request, StepResult, Together, Validity};

use crate::{
    DynamoError, DynamoLock,
    backend::{AT_A_TIME, Standing},
    item::{self, Change},
};

/// What DynamoDB takes in one transaction.
const MOST: usize = 100;
const ACTION: &str = "TransactWriteItems";

impl Many for DynamoLock {
    fn most(&self) -> usize {
        MOST
    }

    fn try_acquire_all<'a>(&'a self, requests: &'a [Request]) -> BoxFuture<'a, StepResult<Together>> {
        Box::pin(async move { self.attempt_all(requests).await.map_err(|error| self.failed(error)) })
    }
}

impl DynamoLock {
    async fn attempt_all(&self, requests: &[Request]) -> Result<Together, DynamoError> {
        check(requests)?;
        if requests.is_empty() {
            return Ok(Together::Granted(Vec::new()));
        }
        let sent = self.now();
        let writes: Result<Vec<_>, _> = requests.iter().map(|request| self.write_of(request)).collect();
        // The SDK adds a token of its own, by which its repetitions of this call are known. There is none for a
        // call made again: the nonces tell, and DynamoDB would repeat its answer after the locks were given back.
        let call = self.inner.client.transact_write_items().set_transact_items(Some(writes?));
        let error = match call.send().await {
            Ok(_) => return self.granted(requests, sent).await,
            Err(error) => error,
        };
        if let SdkError::ServiceError(told) = &error
            && let TransactWriteItemsError::TransactionCanceledException(cancelled) = told.err()
        {
            return self.cancelled(requests, cancelled.cancellation_reasons()).await;
        }
        Err(DynamoError::of(ACTION, &self.inner.table, &error))
    }

    fn write_of(&self, request: &Request) -> Result<TransactWriteItem, DynamoError> {
        let (ttl, stale) = (request.ttl.duration(), self.stale(&request.key));
        let change = Change::take(request.nonce, ttl, request.span.get(), &request.owner, stale);
        let update = Update::builder()
            .table_name(&self.inner.table)
            .key(item::KEY, item::key(&request.key))
            .update_expression(change.update)
            .condition_expression(change.condition)
            .set_expression_attribute_values(Some(change.values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build();
        let malformed = |e: aws_sdk_dynamodb::error::BuildError| DynamoError::NotSent {
            action: ACTION,
            message: e.to_string(),
            passing: false,
        };
        Ok(TransactWriteItem::builder().update(update.map_err(malformed)?).build())
    }

    /// The grants of a transaction that went through. It answers without the items, so the tokens minted in it are
    /// read: nobody can have changed them who does not hold the locks.
    async fn granted(&self, requests: &[Request], sent: tasklock_core::Mono) -> Result<Together, DynamoError> {
        let read = |request: Request| async move {
            let item = self.read(&request.key).await?;
            match self.standing(&request, item.as_ref())? {
                Standing::Mine(mut grant) => {
                    grant.validity = Validity::Until(request.until(sent));
                    grant.confirm = false;
                    Ok(grant)
                }
                _ => Err(unanswered("a lock was lost before its token was read")),
            }
        };
        // An answer that is missing here leaves all locks taken, and says so: asked again, it is granted.
        let unread = |error: DynamoError| unanswered(&format!("the tokens were not read: {error}"));
        let grants = stream::iter(requests.iter().cloned()).map(read).buffered(AT_A_TIME);
        Ok(Together::Granted(grants.try_collect().await.map_err(unread)?))
    }

    /// Why there is no grant; or that there is one, by an earlier attempt of the same nonces.
    async fn cancelled(&self, requests: &[Request], reasons: &[CancellationReason]) -> Result<Together, DynamoError> {
        let (mut mine, mut busy): (Vec<Grant>, Vec<(usize, Busy)>) = Default::default();
        for (n, request) in requests.iter().enumerate() {
            let Some(reason) = reasons.get(n) else { return Err(unanswered("the cancellation gives no reasons")) };
            match reason.code().unwrap_or("None") {
                "None" => {}
                "ConditionalCheckFailed" => {
                    let item = match reason.item() {
                        Some(item) => Some(item.clone()),
                        None => self.read(&request.key).await?,
                    };
                    match self.standing(request, item.as_ref())? {
                        Standing::Mine(grant) => mine.push(grant),
                        Standing::Busy(held) => busy.push((n, held)),
                        Standing::Stale(_) => busy.push((n, Busy::new(None, Some(std::time::Duration::ZERO)))),
                        Standing::Free => return Err(DynamoError::Conflict { action: ACTION }),
                    }
                }
                "TransactionConflict" => return Err(DynamoError::Conflict { action: ACTION }),
                "ValidationError" => {
                    let (code, message) = ("ValidationException".to_owned(), reason.message().unwrap_or("").to_owned());
                    return Err(self.told(&request.key, DynamoError::Refused { action: ACTION, code, message }));
                }
                code => return Err(DynamoError::Throttled { action: ACTION, code: code.to_owned() }),
            }
        }
        match (mine.len(), busy.is_empty()) {
            (n, true) if n == requests.len() => Ok(Together::Granted(mine)),
            // What an earlier attempt took is gone in part: none of it is of use, and core gives it back.
            (1.., true) => Err(unanswered("an earlier attempt took the locks, and lost some")),
            (_, false) => Ok(Together::Busy(busy)),
            (0, true) => Err(DynamoError::Conflict { action: ACTION }),
        }
    }
}

fn check(requests: &[Request]) -> Result<(), DynamoError> {
    let unsupported = |what: String| Err(DynamoError::Unsupported { what });
    if requests.len() > MOST {
        return unsupported(format!("{} locks at once: {MOST} are the most", requests.len()));
    }
    let mut keys = HashSet::new();
    for request in requests {
        if request.mode != Mode::Exclusive {
            return unsupported(format!("a lock in mode {:?}", request.mode));
        }
        if !keys.insert(&request.key) {
            return unsupported(format!("the lock {:?} twice in one step", request.key.name()));
        }
    }
    Ok(())
}

fn unanswered(message: &str) -> DynamoError {
    DynamoError::Unanswered { action: ACTION, message: message.to_owned() }
}
