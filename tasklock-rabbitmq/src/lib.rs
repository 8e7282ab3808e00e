//! Locks in RabbitMQ: pushed, in order, and held by a session.
//!
//! Most people want the crate `tasklock` with its feature `rabbitmq`, and `tasklock::connect("amqp://…")`.
//!
//! It is a lock for efficiency, not for correctness: the broker's own documentation says so of everything that can be
//! built from its queues. The fencing token is weak. See `docs/rabbitmq.md` for what holds and what does not.
//!
//! # Layout
//!
//! One quorum queue a lock, `tasklock.1:{prefix}:{name}`, with a single active consumer. In it is one message, the
//! *token*; its header `tasklock-base` is the publisher's clock in µs. A name that is too long for a queue is cut, and
//! told from others by a hash. A queue that nobody uses for ten minutes is removed by the broker.
//!
//! Who holds the lock has the token unacknowledged. Who waits is a consumer: the broker keeps them in order, and gives
//! the token to the first alone. Each has a channel of its own, so that what ends one ends no other.
//!
//! # Protocol
//!
//! 1. *Acquire*: declare the queue and consume from it, sent together. The token's delivery is the grant; the fencing
//!    token is `base + x-delivery-count`, which the broker raises with each hand-over.
//! 2. *A queue with neither message nor consumer* has no token: whoever finds it so publishes one, on top of its own
//!    consumer. Two may find it so at once. Exclusion does not suffer, since only one consumer is active; the order of
//!    tokens would, so whoever has published, or has seen a message where the token is held, looks again when its turn
//!    comes, and if there is another message it clears the queue, publishes a token of a later base and takes that.
//! 3. *Release*: cancel the consumer, *then* nack with requeue, sent together. In the other order the broker gives the
//!    token back to the one who released it.
//! 4. *Try*: there is no atomic "held". A try consumes, and if nothing came by when the broker has answered twice, and
//!    for a short grace after that, it cancels.
//! 5. *A token that is lost* with its waiters in the queue (somebody purged it) is missed by nobody, for whoever waits
//!    cannot see whether anybody holds. So who has waited for long puts a *question* into the queue, if it is empty:
//!    the active consumer alone gets it. A holder does not (its one message is the token). A waiter that does knows
//!    that it is the active one, and that there is no token ahead: if none follows it publishes one.
//!    Two that ask at once may leave a question behind the token, where it is in nobody's way.
//! 6. *A grant that is not taken up* within three seconds is handed back.
//! 7. *The session*: one connection. Each half heartbeat it is asked something. Where no answer comes within two
//!    heartbeats of the last question answered, it is taken for dead, and everything on it for lost: the broker waits no less
//!    before it takes a client for dead.
//!
//! # Cost
//!
//! One round trip and a write of the broker's log to acquire, the same to release, and the same again for the first use
//! of a name. A renewal is one round trip for all that are due. A try that finds the lock held takes two and the grace.
//! A lock that is held or waited for takes a channel: the broker allows 2047 a connection unless set up otherwise.
//!
//! # Failure modes
//!
//! - *The connection ends*: all its locks are lost, its waiters begin again at the end of the line.
//! - *A process that hangs* with its connection alive keeps its locks; one that stops altogether keeps them for two to three
//!   heartbeats.
//! - *The consumer timeout* of the broker, 30 minutes by default, takes the token from a holder that is alive. It is told at
//!   once, and the log says why.
//! - *A node that is cut off* from the others: the queue may pass the token on while the holder's node still has it.
//!   Two holders until the holder's node notices; the token of the later one is higher.
//! - *A queue that is removed* while its lock is held: the holder is told at once, but somebody else may have a new one.
//! - *Memory or disk alarms*: the broker stops reading from connections that publish, so the first use of a name may cost
//!   the locks of its connection.

mod backend;
mod config;
mod error;
mod layout;
mod session;
mod subscription;

pub use lapin;

pub use crate::{backend::RabbitLock, config::RabbitConfig, error::ChannelsInUse};
