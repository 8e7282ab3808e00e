//! What a failure of Redis means to core: whether it passes, and whether the request may have taken effect.

use std::{error::Error, io, sync::Arc};

use redis::{ErrorKind, RedisError, ServerErrorKind};
use tasklock_core::BackendError;

/// Answers of a server that will be another one later: it starts, is a replica just now, is out of memory, or is busy.
const PASSING: [&str; 10] = [
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "BUSY",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
    "UNKILLABLE",
];

/// The same, in words: of a script that began in a slot that was about to move.
const PASSING_WORDS: [&str; 2] = ["non local key", "the cluster is down"];

/// Another node than the one that was asked.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Redirect {
    /// It has the slot.
    Moved(String),
    /// It has what was asked for, this once.
    Ask(String),
}

/// Where a node says to ask instead, if it does.
pub(crate) fn redirect(error: &BackendError) -> Option<Redirect> {
    let error = error.source()?.downcast_ref::<RedisError>()?;
    let to = error.redirect_node()?.0.to_owned();
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::Ask) => Some(Redirect::Ask(to)),
        _ => Some(Redirect::Moved(to)),
    }
}

/// A channel in a slot could not be had.
pub(crate) fn deaf(error: BackendError) -> BackendError {
    let shown = error.to_string();
    if shown.to_ascii_lowercase().contains("unknown command") {
        return BackendError::fatal(format!("{shown} (a cluster has to be of Redis 7.0, Valkey 7.2 or later)"));
    }
    error
}

/// A call failed.
pub(crate) fn failed(error: RedisError) -> BackendError {
    let backend = match error.code() {
        Some(code) => said(&answer(code, &error)),
        None if is_refusal(&error) => BackendError::fatal(format!("redis: {error}")),
        None => BackendError::unknown(format!("redis: no answer: {error}")),
    };
    backend.with_source(error)
}

/// A connection could not be made; nothing was sent.
pub(crate) fn unreachable(address: &str, error: RedisError) -> BackendError {
    let says = error.code().map_or_else(|| error.to_string(), |code| answer(code, &error));
    let wrong_db = "out of range";
    let backend = match error.code() {
        _ if error.kind() == ErrorKind::AuthenticationFailed || error.code().is_some_and(is_login) => {
            BackendError::fatal(format!("redis at {address} refuses this user, password or right: {says}"))
        }
        _ if says.contains(wrong_db) => BackendError::fatal(format!("redis at {address} has no such database: {says}")),
        Some(_) => said(&says),
        None if is_refusal(&error) => BackendError::fatal(format!("redis at {address}: {says}")),
        None => BackendError::transient(format!("redis at {address} cannot be reached: {says}")),
    };
    backend.with_source(error)
}

/// The server answered with an error, to a call or within a script. It did nothing.
pub(crate) fn said(message: &str) -> BackendError {
    let has = |code: &str| message.split(|c: char| !c.is_ascii_alphabetic()).any(|word| word == code);
    let text = format!("redis: {message}");
    if PASSING.iter().any(|code| has(code)) || PASSING_WORDS.iter().any(|words| message.contains(words)) {
        BackendError::transient(text)
    } else if has("WRONGTYPE") {
        BackendError::fatal(format!("{text} (something else than a lock is kept under its name)"))
    } else if ["MOVED", "ASK", "CROSSSLOT"].iter().any(|code| has(code)) {
        BackendError::fatal(format!(
            "{text} (this is a node of a cluster, asked as a single server: its address begins with `redis-cluster:`)"
        ))
    } else {
        BackendError::fatal(text)
    }
}

/// Whether the connection is of no more use, and the name behind it may lead to another server by now.
pub(crate) fn ends_connection(error: &RedisError) -> bool {
    // Before 7.0 what went wrong in a script is told in its text alone.
    let told = error.detail().is_some_and(ends_connection_within);
    error.code().is_none() || told || matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly))
}

/// The same, of an error within a script.
pub(crate) fn ends_connection_within(message: &str) -> bool {
    message.contains("READONLY")
}

fn is_login(code: &str) -> bool {
    matches!(code, "WRONGPASS" | "NOAUTH" | "NOPERM")
}

/// An answer as the server gave it.
fn answer(code: &str, error: &RedisError) -> String {
    error.detail().map_or_else(|| code.to_owned(), |detail| format!("{code} {detail}"))
}

/// What another attempt will not mend: a certificate, a setting, an answer that is no Redis'.
fn is_refusal(error: &RedisError) -> bool {
    // The crate keeps it behind a pointer of its own.
    let source = error.source().and_then(|e| e.downcast_ref::<Arc<dyn Error + Send + Sync>>());
    let io = source.and_then(|e| e.downcast_ref::<io::Error>());
    let tls = io.is_some_and(|e| e.kind() == io::ErrorKind::InvalidData);
    tls || matches!(
        error.kind(),
        ErrorKind::InvalidClientConfig | ErrorKind::RESP3NotSupported | ErrorKind::AuthenticationFailed
    )
}

#[cfg(test)]
mod tests {
    use tasklock_core::Applied;

    use super::*;

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        for passes in [
            "READONLY You can't write against a read only replica.",
            "@user_script: 12: -READONLY You can't write against a read only replica.",
            "LOADING Redis is loading the dataset in memory",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "MISCONF Redis is configured to save RDB snapshots",
            "NOREPLICAS Not enough good replicas to write.",
            "BUSY Redis is busy running a script.",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "CLUSTERDOWN The cluster is down",
            "ERR Script attempted to access a non local key in a cluster node script: 1, on @user_script:1.",
        ] {
            assert!(said(passes).is_retryable(), "{passes}");
        }
        for stays in ["NOPERM no", "WRONGTYPE Operation against a key", "ERR unknown command", "MOVED 7 h:1", "NOAUTH"]
        {
            assert!(!said(stays).is_retryable(), "{stays}");
            assert_eq!(said(stays).applied(), Applied::No);
        }
        assert!(said("MOVED 7 h:1").to_string().contains("cluster"));
    }

    #[test]
    fn a_replica_is_left_whichever_way_it_says_so() {
        let said = |code: &str, detail: &str| redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
        // As 6.2 has it.
        let wrapped =
            said("ERR", "Error running script: @user_script:8: -READONLY You can't write against a read only replica.");
        assert!(ends_connection(&wrapped));
        assert!(!ends_connection(&said("ERR", "unknown command")));
    }

    #[test]
    fn not_every_answer_redirects() {
        let said = |code: &'static str| {
            let error = redis::make_extension_error(code.to_owned(), Some("3999 127.0.0.1:6381".to_owned()));
            redirect(&failed(error))
        };
        assert_eq!(said("ERR"), None);
        assert_eq!(redirect(&BackendError::fatal("MOVED 3999 127.0.0.1:6381")), None);
    }

    #[test]
    fn what_was_not_answered_may_have_been_done() {
        let reset = failed(RedisError::from(io::Error::from(io::ErrorKind::ConnectionReset)));
        assert!(reset.is_retryable() && reset.applied() == Applied::Unknown);
        let refused = unreachable("h", RedisError::from(io::Error::from(io::ErrorKind::ConnectionRefused)));
        assert!(refused.is_retryable() && refused.applied() == Applied::No);
        let certificate = unreachable("h", RedisError::from(io::Error::from(io::ErrorKind::InvalidData)));
        assert!(!certificate.is_retryable());
    }
}
