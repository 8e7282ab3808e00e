//! What a failure of the broker means to core: whether it passes, and whether the request may have taken effect.

use std::time::Duration;

use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
};
use tasklock_core::BackendError;

/// Every channel of the connection is taken. The source of the error that an acquisition then fails with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "all {limit} channels of the connection are in use, one for each lock that is held or waited for: \
     set `channels` higher, and the broker's channel_max with it, or use a second locker"
)]
#[non_exhaustive]
pub struct ChannelsInUse {
    /// How many there are.
    pub limit: usize,
}

impl ChannelsInUse {
    pub(crate) fn error(limit: usize) -> BackendError {
        let source = ChannelsInUse { limit };
        // It passes, as soon as a lock is given back.
        BackendError::transient(format!("rabbitmq: {source}")).with_source(source)
    }
}

/// A request failed.
pub(crate) fn failed(what: &str, error: lapin::Error) -> BackendError {
    let text = format!("rabbitmq: {what}: {error}");
    let backend = match error.kind() {
        ErrorKind::ProtocolError(said) => match said.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => BackendError::fatal(format!(
                "{text} (the queue of this lock was made by something else, or its arguments were changed)"
            )),
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED | AMQPSoftError::RESOURCELOCKED)
            | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::NOTIMPLEMENTED) => {
                BackendError::fatal(text)
            }
            // The queue's leader is being elected, a node goes down, the connection was closed by an operator.
            _ => BackendError::transient(text),
        },
        ErrorKind::SerialisationError(_) | ErrorKind::InvalidProtocolVersion(_) => BackendError::fatal(text),
        _ => BackendError::unknown(text),
    };
    backend.with_source(error)
}

/// A connection could not be made; nothing was sent.
pub(crate) fn unreachable(address: &str, error: lapin::Error) -> BackendError {
    let says = error.to_string();
    let backend = match error.kind() {
        ErrorKind::ProtocolError(said) => match said.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                BackendError::fatal(format!("rabbitmq at {address} refuses this user or password: {says}"))
            }
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => {
                BackendError::fatal(format!("rabbitmq at {address} has no such virtual host for this user: {says}"))
            }
            _ => BackendError::transient(format!("rabbitmq at {address} refuses the connection: {says}")),
        },
        ErrorKind::IOError(io) if io.kind() == std::io::ErrorKind::InvalidData => {
            BackendError::fatal(format!("rabbitmq at {address}: {says}"))
        }
        ErrorKind::InvalidProtocolVersion(_) | ErrorKind::ParsingError(_) => {
            BackendError::fatal(format!("rabbitmq at {address} does not speak AMQP 0-9-1: {says}"))
        }
        _ => BackendError::transient(format!("rabbitmq at {address} cannot be reached: {says}")),
    };
    backend.with_source(error)
}

/// A request was not answered.
pub(crate) fn unanswered(what: &str, within: Duration) -> BackendError {
    BackendError::unknown(format!("rabbitmq: {what}: no answer within {within:?}"))
}

/// Whether a channel was closed because its delivery was not acknowledged for too long.
pub(crate) fn is_consumer_timeout(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(said)
        if *said.kind() == AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)
            && said.get_message().as_str().contains("delivery acknowledgement"))
}

/// Whether there is no such queue. The channel is closed with it.
pub(crate) fn is_not_found(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(said)
        if *said.kind() == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) && said.get_message().as_str().contains("no queue"))
}
