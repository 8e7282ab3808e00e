//! Everything that can go wrong, kept apart: contention, loss, outage, misuse.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use crate::{FencingToken, Holder, InvalidKey, Key};

/// Why a lock was not acquired, kept or released.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody else holds it, and the call was told not to wait.
    #[error("{:?} is held{}", key.name(), by(.holder))]
    Held {
        /// The lock.
        key: Key,
        /// Who, if the store tells.
        holder: Option<Arc<Holder>>,
    },
    /// It was not free within the time or the number of attempts allowed.
    #[error("gave up on {:?} after {waited:.1?}: held{}", key.name(), by(.holder))]
    Timeout {
        /// The lock.
        key: Key,
        /// How long this call waited.
        waited: Duration,
        /// Who held it when last seen, if the store tells.
        holder: Option<Arc<Holder>>,
    },
    /// It was held and then lost before its holder was done.
    #[error("lost {:?} (token {token}): {reason}", key.name())]
    Lost {
        /// The lock.
        key: Key,
        /// The token it was held under; a fenced store refuses it once the next holder has written.
        token: FencingToken,
        /// How it was lost.
        reason: LossReason,
    },
    /// The calling task holds it already and would wait for itself.
    #[error("this task already holds {:?} and would wait for itself for ever", key.name())]
    WouldDeadlock {
        /// The lock.
        key: Key,
    },
    /// The store failed. Not contention.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A name that no lock can have.
    #[error(transparent)]
    InvalidKey(#[from] InvalidKey),
    /// An option out of its range.
    #[error(transparent)]
    InvalidOption(#[from] InvalidOption),
    /// An address that cannot be understood, or that says something unknown.
    #[error(transparent)]
    InvalidUrl(#[from] InvalidUrl),
    /// The backend cannot do what is asked or demanded.
    #[error("the {backend} backend lacks {what}")]
    Unsupported {
        /// Which backend.
        backend: &'static str,
        /// What it lacks.
        what: String,
    },
    /// No locker was named, scoped or installed.
    #[error(
        "no lock to use: call `tasklock::install_default`, wrap the call in `tasklock::scope`, or write `lock = …`"
    )]
    NoLocker,
    /// A default locker is installed already.
    #[error("a default locker is installed already; it can be installed once, by the application")]
    DefaultInstalled,
    /// The locker was shut down, or the runtime it was built on is gone.
    #[error("the locker is shut down")]
    ShutDown,
    /// A locker was to be built outside a tokio runtime, or in one without timers.
    #[error("a locker needs a tokio runtime with timers (`enable_time`); in synchronous code use `tasklock::blocking`")]
    NoRuntime,
    /// A blocking call where a tokio runtime runs.
    #[error(
        "blocking call inside a tokio runtime: use `{instead}` and await it (in `spawn_blocking`, through `Handle::block_on`)"
    )]
    WouldBlock {
        /// The asynchronous call to use.
        instead: &'static str,
    },
}

impl LockError {
    /// Whether somebody else simply has the lock: no fault, try again later.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        matches!(self, LockError::Held { .. } | LockError::Timeout { .. })
    }

    /// Whether the same call may succeed if made again: contention, loss, and outages that pass.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            LockError::Held { .. } | LockError::Timeout { .. } | LockError::Lost { .. } => true,
            LockError::Backend(e) => e.is_retryable(),
            _ => false,
        }
    }

    /// The holder that stood in the way, where one is known.
    #[must_use]
    pub fn holder(&self) -> Option<&Holder> {
        match self {
            LockError::Held { holder, .. } | LockError::Timeout { holder, .. } => holder.as_deref(),
            _ => None,
        }
    }

    /// When it may be worth trying again: the holder's remaining time where known. For a `Retry-After`.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.holder().and_then(|h| h.remaining)
    }
}

fn by(holder: &Option<Arc<Holder>>) -> String {
    holder.as_ref().map_or_else(String::new, |h| format!(" by {h}"))
}

/// What is wrong with an address. Secrets in it are not shown.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{url}`: {reason}")]
#[non_exhaustive]
pub struct InvalidUrl {
    /// The address, without user, password and the values of its parameters.
    pub url: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl InvalidUrl {
    /// `url` must have been freed of secrets before.
    #[must_use]
    pub fn new(url: impl Into<String>, reason: impl Into<String>) -> Self {
        InvalidUrl { url: url.into(), reason: reason.into() }
    }
}

/// How a held lock was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
#[repr(u8)]
pub enum LossReason {
    /// Its time ran out: renewal is off, its maximum hold was reached, or this process was paused for too long.
    Expired,
    /// Another holder has it, or an administrator broke it.
    Stolen,
    /// The store could not be reached to renew it in time.
    Unreachable,
    /// The session with the store that carried it ended.
    SessionClosed,
    /// The locker was shut down, or its runtime ended.
    ShutDown,
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LossReason::Expired => "its lease ran out",
            LossReason::Stolen => "it was broken or taken over",
            LossReason::Unreachable => "the store could not be reached to renew it in time",
            LossReason::SessionClosed => "the session with the store ended",
            LossReason::ShutDown => "the locker was shut down",
        })
    }
}

/// A store failed to answer, or answered with an error. Whether trying again can help, and whether the request may
/// have taken effect, is what core decides by.
#[derive(Clone, Debug)]
pub struct BackendError {
    message: String,
    retryable: bool,
    applied: Applied,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// Whether a failed request may have taken effect at the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// It never reached the store, or the store refused it.
    No,
    /// The reply is missing: it may have, or may yet.
    Unknown,
}

impl BackendError {
    /// The request was refused or could not be understood; trying again will not help.
    #[must_use]
    pub fn fatal(message: impl Into<String>) -> Self {
        BackendError { message: message.into(), retryable: false, applied: Applied::No, source: None }
    }

    /// The request was not carried out, and may be if sent again.
    #[must_use]
    pub fn transient(message: impl Into<String>) -> Self {
        BackendError { retryable: true, ..Self::fatal(message) }
    }

    /// Nobody knows whether the request was carried out; it may be sent again.
    #[must_use]
    pub fn unknown(message: impl Into<String>) -> Self {
        BackendError { applied: Applied::Unknown, ..Self::transient(message) }
    }

    /// With the driver's own error behind it.
    #[must_use]
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Whether sending it again can help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// Whether the request may have taken effect.
    #[must_use]
    pub fn applied(&self) -> Applied {
        self.applied
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for BackendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn Error + 'static))
    }
}

/// An option out of its range.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{option} = {value}: {limit}")]
#[non_exhaustive]
pub struct InvalidOption {
    /// Which option.
    pub option: &'static str,
    /// What it was set to.
    pub value: String,
    /// What it may be.
    pub limit: String,
}

impl InvalidOption {
    /// Names the option, its value and its limit.
    #[must_use]
    pub fn new(option: &'static str, value: impl fmt::Debug, limit: impl Into<String>) -> Self {
        InvalidOption { option, value: format!("{value:?}"), limit: limit.into() }
    }
}
