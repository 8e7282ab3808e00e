//! Locks in a DynamoDB table: between machines, fenced, two writes a cycle, and no clock but each client's own.
//!
//! ```no_run
//! use tasklock_dynamo::DynamoLock;
//!
//! # async fn f() -> Result<(), tasklock_core::LockError> {
//! let lock = DynamoLock::builder("locks").region("eu-central-1").connect().await?.build()?;
//! let guard = lock.acquire("team:acme").await?;
//! guard.release().await?;
//! # Ok(()) }
//! ```
//!
//! The table, its rights, its cost and its alarms are in `docs/dynamodb.md`.
//!
//! # Layout
//!
//! One item a lock, never deleted by a release, so that its token outlives every holder:
//!
//! | attribute | what |
//! |---|---|
//! | `pk` (S) | the key, prefix included |
//! | `own` (S) | the nonce that holds it; absent while it is free |
//! | `hb` (N) | counts the writes of holders, and never begins anew |
//! | `ld` (N) | the holder's lease in milliseconds; absent if it never ends |
//! | `tok` (N) | the last fencing token minted |
//! | `gone`, `gone_before` (SS), `gone_at` (N) | nonces that were withdrawn in the quarter-hour `gone_at`, and before |
//! | `holder` (M) | name, host, pid, application and date of the holder, or of the last one: for people |
//! | `fmt` (N) | the format, 1 |
//! | `purge_at` (N) | for the table's time to live, 30 days ahead; the end of the year 9999 while held for ever |
//!
//! # Protocol
//!
//! 1. *Acquire*: one write, on condition that there is no `own` and that the nonce was not withdrawn. It sets `own`,
//!    counts `hb` and `tok` up, and returns the token. If the condition fails, the answer carries the item.
//! 2. *Wait*: DynamoDB wakes nobody. Core asks again in growing intervals, each time by a consistent read.
//! 3. *Take over*: DynamoDB has no clock that a condition could name, and clocks of clients are not compared. A lock is
//!    stale once (`own`, `hb`) has not changed for its holder's lease on the watcher's own clock, counted from after
//!    the answer that showed it. It is taken by the same write, on condition that they still have not. Since `hb` never
//!    begins anew, what was seen once never comes again.
//! 4. *Renew*: `hb` counts up, on condition that `own` is ours.
//! 5. *Release*: `own` is removed, on the same condition.
//! 6. *Ask again* after an answer that was lost: the condition fails and shows our own nonce. The lease is dated from
//!    before the first attempt, and renewed at once.
//! 7. *Withdraw*, if an attempt may still arrive: first the nonce joins `gone`, then `own` is removed if it is ours.
//!    The first withdrawal of a quarter-hour begins `gone` anew and keeps the last one as `gone_before`, so that each is
//!    remembered for 15 minutes or more; a signed request is accepted for 5.
//! 8. *Several locks*: the writes of 1, in one transaction. It does not return the tokens, so they are read.
//!
//! # Cost
//!
//! One write to acquire, one to release, one for each renewal. One read for each look at a lock that is held; none if
//! it is free. A first attempt that finds the lock held is a write that failed, and is billed. A withdrawal is one
//! write, or two if it is not the first of a quarter-hour, and one more if it had the lock. *n* locks in a transaction are twice *n* writes and *n* reads.
//!
//! # Failure modes
//!
//! - **A holder dies.** Each waiter sees that within one lease of its first look. A process that looks once and ends
//!   never does: it must wait for as long as a lease, or live on.
//! - **An attempt arrives late**, after its process gave up and could not say so: the lock is held by nobody for one
//!   lease.
//! - **The table throttles**: core asks again. A lease that cannot be renewed in time is lost before others may have
//!   it.
//! - **The table is lost or deleted**: holders lose their locks at the next renewal. Tokens begin again by the clock,
//!   above those before, as long as it is not wrong by more than the table's age.
//! - **Global tables** have one writer wins last, in each region: two holders. Use one region's table.

mod backend;
mod config;
mod error;
mod item;
mod many;
mod sightings;
mod table;

pub use aws_sdk_dynamodb;

pub use crate::{backend::DynamoLock, config::DynamoBuilder, error::DynamoError};
