//! What goes wrong with DynamoDB, told so that it can be mended.

use std::{error::Error, io};

use aws_sdk_dynamodb::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use tasklock_core::{BackendError, InvalidOption, LockError};

/// Why DynamoDB did not do what it was asked. It is the source of the [`BackendError`] in a
/// [`LockError`](tasklock_core::LockError).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DynamoError {
    /// The table is not there, in this account and region.
    #[error(
        "DynamoDB has no table `{table}` in this account and region: make it with `create_table()`, or as docs/dynamodb.md shows"
    )]
    NoTable {
        /// The table.
        table: String,
    },
    /// The table's key is not the one this backend uses.
    #[error(
        "table `{table}` has another key than a partition key `pk` of type S and no sort key: locks need a table of their own"
    )]
    KeySchema {
        /// The table.
        table: String,
    },
    /// The credentials do not allow it.
    #[error(
        "not allowed to {action} on table `{table}` ({code}): allow dynamodb:{action} on it; docs/dynamodb.md has the policy"
    )]
    Denied {
        /// The operation, as a policy names it.
        action: &'static str,
        /// The table.
        table: String,
        /// What DynamoDB calls it.
        code: String,
    },
    /// No credentials were found, or they were not accepted.
    #[error("no credentials that AWS accepts: {message}")]
    Credentials {
        /// What the chain of providers, or AWS, says.
        message: String,
    },
    /// AWS refuses requests that are dated some minutes off.
    #[error("AWS refused the request's date: set this machine's clock ({message})")]
    Clock {
        /// What AWS says.
        message: String,
    },
    /// More requests than the table, the partition or the account takes.
    #[error("DynamoDB throttles {action} ({code})")]
    Throttled {
        /// The operation.
        action: &'static str,
        /// What DynamoDB calls it.
        code: String,
    },
    /// Somebody else changes the same item.
    #[error("{action} met another change of the same lock")]
    Conflict {
        /// The operation.
        action: &'static str,
    },
    /// No answer, or one that cannot be read: it may have taken effect.
    #[error("{action} was not answered: {message}")]
    Unanswered {
        /// The operation.
        action: &'static str,
        /// What happened.
        message: String,
    },
    /// The request did not leave this machine.
    #[error("{action} was not sent: {message}")]
    NotSent {
        /// The operation.
        action: &'static str,
        /// What happened.
        message: String,
        /// Whether it may go better next time.
        passing: bool,
    },
    /// DynamoDB does not carry out such a request.
    #[error("DynamoDB refused {action}: {code}: {message}")]
    Refused {
        /// The operation.
        action: &'static str,
        /// What DynamoDB calls it.
        code: String,
        /// What it says.
        message: String,
    },
    /// The item of a lock is not one that this backend wrote.
    #[error("the item of lock {key:?} in table `{table}` is damaged: {what}; mend or delete it")]
    Damaged {
        /// The table.
        table: String,
        /// The lock.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// The item of a lock was written by a later version of this crate, in a format this one does not know.
    #[error(
        "the item of lock {key:?} in table `{table}` has format {found}, and this version knows {known}: update it"
    )]
    NewerFormat {
        /// The table.
        table: String,
        /// The lock.
        key: String,
        /// Its format.
        found: u64,
        /// The format of this version.
        known: u64,
    },
    /// An attempt that was given up before it reached the table.
    #[error("this acquisition was withdrawn before")]
    Withdrawn,
    /// A request this backend has no answer to.
    #[error("the dynamodb backend cannot take {what}")]
    Unsupported {
        /// What was asked.
        what: String,
    },
}

impl DynamoError {
    /// What an error of the SDK means.
    pub(crate) fn of<E>(action: &'static str, table: &str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: Error + ProvideErrorMetadata + 'static,
    {
        match error {
            SdkError::ServiceError(service) => {
                let (code, message) = (service.err().code(), service.err().message());
                Self::told(action, table, service.raw().status().as_u16(), code, message.unwrap_or("no message"))
            }
            SdkError::ConstructionFailure(_) => Self::NotSent { action, message: chain(error), passing: false },
            SdkError::DispatchFailure(failure) if failure.is_user() => {
                Self::NotSent { action, message: chain(error), passing: false }
            }
            SdkError::DispatchFailure(failure) if failure.is_other() && mentions_credentials(error) => {
                Self::Credentials { message: chain(error) }
            }
            SdkError::DispatchFailure(_) if refused(error) => {
                Self::NotSent { action, message: chain(error), passing: true }
            }
            _ => Self::Unanswered { action, message: chain(error) },
        }
    }

    /// What an answer with an error in it means.
    fn told(action: &'static str, table: &str, status: u16, code: Option<&str>, message: &str) -> Self {
        let (name, table) = (code.unwrap_or("no code").to_owned(), table.to_owned());
        match name.as_str() {
            "ResourceNotFoundException" => Self::NoTable { table },
            "AccessDeniedException" => Self::Denied { action: right(action), table, code: name },
            "InvalidSignatureException" | "RequestExpired" | "RequestTimeTooSkewed" if is_about_time(message) => {
                Self::Clock { message: message.to_owned() }
            }
            "UnrecognizedClientException"
            | "InvalidSignatureException"
            | "IncompleteSignatureException"
            | "MissingAuthenticationTokenException"
            | "ExpiredTokenException"
            | "InvalidClientTokenId" => Self::Credentials { message: format!("{name}: {}", without_request(message)) },
            "ValidationException" if is_about_key(message) => Self::KeySchema { table },
            "TransactionConflictException" | "ReplicatedWriteConflictException" | "TransactionInProgressException" => {
                Self::Conflict { action }
            }
            "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "ThrottlingException"
            | "Throttling"
            | "ThrottlingError"
            | "LimitExceededException" => Self::Throttled { action, code: name },
            // A server that fails may have done it before.
            _ if status >= 500 => Self::Unanswered { action, message: format!("HTTP {status}, {name}: {message}") },
            // Something on the way answered, and not DynamoDB.
            "no code" => Self::Unanswered { action, message: format!("HTTP {status} without an error code") },
            _ => Self::Refused { action, code: name, message: message.to_owned() },
        }
    }

    /// Whether sending it again can help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Conflict { .. } | Self::Unanswered { .. } => true,
            Self::NotSent { passing, .. } => *passing,
            // They are fetched anew meanwhile.
            Self::Credentials { message } => message.contains("ExpiredToken"),
            _ => false,
        }
    }
}

impl From<DynamoError> for BackendError {
    fn from(error: DynamoError) -> Self {
        let message = error.to_string();
        let made = match &error {
            DynamoError::Unanswered { .. } => BackendError::unknown(message),
            other if other.is_retryable() => BackendError::transient(message),
            _ => BackendError::fatal(message),
        };
        made.with_source(error)
    }
}

impl From<DynamoError> for LockError {
    fn from(error: DynamoError) -> Self {
        LockError::Backend(error.into())
    }
}

/// A setting out of its range.
pub(crate) fn invalid(option: &'static str, value: &str, limit: &str) -> LockError {
    InvalidOption::new(option, value, limit).into()
}

/// An error and all that is behind it, on one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = links(error).map(ToString::to_string).collect();
    parts.dedup();
    parts.join(": ")
}

fn links<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// Whether nobody listened: nothing was sent then.
fn refused(error: &(dyn Error + 'static)) -> bool {
    let is_refusal = |e: &io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
    links(error).any(|e| e.downcast_ref::<io::Error>().is_some_and(is_refusal))
}

fn mentions_credentials(error: &(dyn Error + 'static)) -> bool {
    links(error).any(|e| e.to_string().contains("credential"))
}

/// The right that an operation needs. A transaction has none of its own, but those of its parts.
fn right(action: &'static str) -> &'static str {
    if action == "TransactWriteItems" { "UpdateItem" } else { action }
}

/// A signature that does not match is told with the request that should have been signed, session token included.
fn without_request(message: &str) -> &str {
    message.split("The Canonical String").next().unwrap_or_default().trim_end()
}

fn is_about_time(message: &str) -> bool {
    ["expired", "not yet current", "skew", "too old"].iter().any(|word| message.contains(word))
}

fn is_about_key(message: &str) -> bool {
    ["key element does not match", "Missing the key", "number of conditions on the keys"]
        .iter()
        .any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tasklock_core::Applied;

    fn told(status: u16, code: &str, message: &str) -> BackendError {
        DynamoError::told("UpdateItem", "locks", status, Some(code), message).into()
    }

    #[test]
    fn what_may_have_taken_effect_is_told_apart() {
        let throttled = told(400, "ThrottlingException", "slow down");
        assert!(throttled.is_retryable() && throttled.applied() == Applied::No, "{throttled}");
        let conflict = told(400, "TransactionConflictException", "");
        assert!(conflict.is_retryable() && conflict.applied() == Applied::No, "{conflict}");
        for (status, code) in [(500, "InternalServerError"), (503, "ServiceUnavailable"), (502, "no code")] {
            let failed = told(status, code, "");
            assert!(failed.is_retryable() && failed.applied() == Applied::Unknown, "{failed}");
        }
        let denied = told(400, "AccessDeniedException", "");
        assert!(!denied.is_retryable() && denied.to_string().contains("dynamodb:UpdateItem"), "{denied}");
    }

    /// As AWS words it.
    #[test]
    fn a_signature_that_does_not_match_shows_no_token() {
        let message = "The request signature we calculated does not match the signature you provided. Check your AWS \
                       Secret Access Key and signing method. Consult the service documentation for details.\n\nThe \
                       Canonical String for this request should have been\n'POST\n/\n\nhost:dynamodb.example\n\
                       x-amz-security-token:hunter2\n'";
        let error = told(400, "InvalidSignatureException", message);
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("does not match") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_transaction_needs_the_rights_of_its_parts() {
        let denied = DynamoError::told("TransactWriteItems", "locks", 400, Some("AccessDeniedException"), "");
        assert!(denied.to_string().contains("allow dynamodb:UpdateItem"), "{denied}");
    }

    #[test]
    fn errors_say_what_to_do() {
        let gone = told(400, "ResourceNotFoundException", "Requested resource not found");
        assert!(gone.to_string().contains("create_table") && !gone.is_retryable(), "{gone}");
        let key = told(400, "ValidationException", "The provided key element does not match the schema");
        assert!(key.to_string().contains("`pk`"), "{key}");
        let clock = told(400, "InvalidSignatureException", "Signature expired: 20240101T000000Z is now earlier than");
        assert!(clock.to_string().contains("clock") && !clock.is_retryable(), "{clock}");
        let typed = std::error::Error::source(&clock).and_then(|e| e.downcast_ref::<DynamoError>());
        assert!(matches!(typed, Some(DynamoError::Clock { .. })));
    }
}
