//! Locks in Redis and Valkey: fenced, fair and pushed, in one round trip.
//!
//! Most people want the crate `tasklock` with its feature `redis`, and `tasklock::connect("redis://…")`.
//!
//! # Layout
//!
//! Five keys a lock, kept together by a hash tag in which braces are escaped, all with a ttl:
//!
//! | key | what | ttl |
//! |---|---|---|
//! | `{prefix:name}:1:owner` | `member token since names`, while it is held | the lease's |
//! | `{prefix:name}:1:fence` | the last token | 30 days |
//! | `{prefix:name}:1:queue` | members by ticket: who waits, in order | 90 s from the last request |
//! | `{prefix:name}:1:leases` | members by the time until which they count as alive; `x` and a member: withdrawn | the same |
//! | `{prefix:name}:1:names` | who the members are, for others to read | the same |
//!
//! A member is `client.nonce`. A client has one channel, `tasklock:1:inbox:client`, on which it is told.
//!
//! # Protocol
//!
//! Every step is a part of one script, `scripts/lock.lua`. Two calls may be under way at a time; steps that come meanwhile
//! share the next.
//!
//! 1. *Acquire.* If nobody has it and nobody waits, it is taken: `token = max(last + 1, server time in µs)`. If the
//!    caller has it already, it gets its token again and its ttl begins anew. Else it enters the queue, and a lock that
//!    is free goes to the first in the queue who is heard of.
//! 2. *Release* grants to the first waiter in the same step: it writes the record, for a claim of a second, and then
//!    publishes to that waiter's inbox. Nobody listening there means that it is gone, and the next one is tried.
//! 3. *Wait.* The push carries the server's time. The waiter dates its claim by it, through its own last request, so that
//!    a push that was held up is not believed for longer than the store holds it. A third into its claim it renews, for
//!    its whole ttl, unless it is done by then.
//! 4. *Hung waiters.* A waiter asks again a claim after it entered the queue. From then on it is told of each grant to the
//!    one before it, and asks again after that one's claim. Apart from that it asks when the holder's time is over, and
//!    at least every ten seconds, which keeps its place.
//! 5. *Renew, release* are conditional on the member and on nothing else. A renewal may reserve further tokens, for tasks of
//!    the same process that the lock is handed to: `first = max(fence + 1, server time in µs)`, and the fence is set to the
//!    last of them. It also says how many wait. The record keeps the token of the grant. *Withdraw* is a release that may
//!    overtake its own acquisition: the member is remembered for a minute, and refused.
//! 6. *A push that nobody wants* is given back.
//!
//! # Cost
//!
//! One call to acquire, one to release, one for up to 64 renewals. An acquisition that waited costs one request more, the
//! confirmation of its claim, if it holds for longer than a third of a second, and one if it waits for longer than a
//! second. Acquisitions that follow each other in one process cost a renewal for 64 to 1024 of them, or for 10 ms. The
//! hand-over between processes is one call and one push, or two if the next one has waited for so long. A `PING` on each of two
//! connections every five seconds.
//!
//! # Failure modes
//!
//! - *A server that restarts without its data* forgets who held. Holders are told at their next renewal; until then
//!   another may have it, under a higher token.
//! - *A replica that takes over* may lack the last writes: two holders for up to a ttl, and the later one has the higher
//!   token unless the clocks of the two servers differ by more than the take-over took.
//! - *A connection that ends* is made again, both are; then every waiter asks again. A lock is lost only if that takes
//!   longer than its ttl.
//! - *A server that evicts* keys when it is full may evict locks. There is a warning.

mod backend;
mod calls;
mod config;
mod error;
mod inbox;
mod layout;
mod link;
mod script;

pub use redis;

pub use crate::{backend::RedisLock, config::RedisConfig};
