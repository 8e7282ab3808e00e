//! One at a time per tenant, job or document: locks across tasks, processes and machines, for tokio.
//!
//! ```
//! use tasklock::prelude::*;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), LockError> {
//! let lock = tasklock::connect("memory:").await?;
//!
//! // A body under a lock.
//! let n = lock.synchronized("team:acme", async { 1 + 1 }).await?;
//! assert_eq!(n, 2);
//!
//! // A guard.
//! let guard = lock.acquire("team:acme").await?;
//! let _token = guard.fencing_token(); // send it with every write
//! guard.release().await?; // or just drop it
//! # Ok(()) }
//! ```
//!
//! - **Which lock do I need?** A body of code: [`Locker::synchronized`], or [`macro@synchronized`] on an async fn. A
//!   lock that outlives a block or moves between tasks: [`Locker::acquire`]. Only if it is free:
//!   [`Locker::try_acquire`]. With other options for one call: [`Locker::key`]. In synchronous code: [`blocking`].
//! - **Which store?** [`connect`] takes its address; [`from_env`] finds it in the environment; a backend of your own
//!   implements [`AsyncLock`], and can be given an address by [`register_scheme`].
//! - **What is not guaranteed?** That a process which was paused past its lease does nothing when it wakes up. Only the
//!   store it writes to can see to that, by the [fencing token](FencingToken).
//!
//! # Features
//!
//! | feature | what |
//! |---|---|
//! | `macros` (default) | `#[synchronized]` and `#[derive(LockKey)]` |
//! | `local` | `file:` and `socket:`: locks between the processes of one machine, without a server |
//! | `redis` | Redis and Valkey: `redis://…`; this and the next three need Rust 1.88 |
//! | `redis-tls` | the same by TLS: `rediss://…` |
//! | `dynamodb` | DynamoDB: `dynamodb://…`, or the module of this name |
//! | `rabbitmq` | RabbitMQ: `amqp://…`, `amqps://…` |
//! | `axum` | [`LockError`] as a response: 409 or 503 with `Retry-After` |
//! | `testing` | the conformance suite, fault injection, and `lose`: outside of semver |

pub mod blocking;
mod connect;
mod env;

#[doc(inline)]
pub use tasklock_core::*;

#[doc(hidden)]
pub use tasklock_core::__private;

#[cfg(feature = "dynamodb")]
pub use tasklock_dynamo as dynamodb;
#[cfg(feature = "local")]
#[doc(inline)]
pub use tasklock_local::{FileLock, LocalConfig, LocalError, SocketLock};
#[cfg(feature = "rabbitmq")]
#[doc(inline)]
pub use tasklock_rabbitmq::{ChannelsInUse, RabbitConfig, RabbitLock, lapin};
#[cfg(feature = "redis")]
#[doc(inline)]
pub use tasklock_redis::{QuorumConfig, QuorumLock, RedisConfig, RedisLock, redis};

#[cfg(feature = "macros")]
pub use tasklock_macros::{LockKey, synchronized};

pub use crate::{
    connect::{Address, connect, connector, register_scheme},
    env::from_env,
};

/// What most code needs, by one `use`.
pub mod prelude {
    pub use crate::{Fence, FencingToken, Guard, Lease, LockError, Locker, connect, from_env, install_default};
    #[cfg(feature = "macros")]
    pub use crate::{LockKey, synchronized};
}
