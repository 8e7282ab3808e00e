//! Locks in Redis and Valkey: fenced, fair and pushed, in one round trip.
//!
//! Most people want the crate `tasklock` with its feature `redis`, and `tasklock::connect("redis://…")`. What follows is
//! about one server; [`QuorumLock`] is about a majority of several that know nothing of each other.
//!
//! # Layout
//!
//! Five keys a lock, two more while several hold it, and one for a value beside it, kept together by a hash tag in which
//! braces are escaped. All have a ttl, but for what was asked to last for ever:
//!
//! | key | what | ttl |
//! |---|---|---|
//! | `{prefix:name}:1:owner` | `member token since lease names`, while it is held; `shared` or `permits`, if several hold it | the lease's; longer than the longest of theirs, by an eighth at most and what is left of those that have gone |
//! | `{prefix:name}:1:fence` | the last token | 30 days |
//! | `{prefix:name}:1:queue` | members by ticket, which is the server's time in µs: who waits, in order; below 0, those who stand aside | 90 s from the last request |
//! | `{prefix:name}:1:leases` | members by the time until which they count as alive; `x` and a member: withdrawn | the same |
//! | `{prefix:name}:1:names` | who the members are, for others to read; before that `shared` or `of3`, if that is how they want it | the same |
//! | `{prefix:name}:1:holders` | if several hold it, the members by the time at which each ends | as the owner's |
//! | `{prefix:name}:1:records` | `token since lease names` of each of them | the same |
//! | `{prefix:name}:1:value` | the value beside the lock, if somebody set one | as whoever set it said |
//!
//! The keys of pools, of which one has no ttl, are listed in `pools.rs`; those of a quorum in [`quorum`].
//!
//! A member is `client.nonce`; `lease` is its length, or `@` and when its holder was last heard of if it never ends. A client
//! has one channel, `tasklock:1:inbox:client`, on which it is told; in a cluster one for each slot,
//! `tasklock:1:inbox:{tag}client`, whose tag is the smallest number that falls into the slot.
//!
//! # Protocol
//!
//! Every step on a lock is a part of one script, which is joined from files of `scripts/`: `tokens.lua` (the clock, minting),
//! `lock.lua` (one alone, who finds nobody in the way), `holders.lua` (who holds), `quiet.lua` (several, where nobody waits),
//! `line.lua` (who waits, and telling them), `queue.lua` (who is let in), `values.lua`, `steps.lua` (what else is asked). Four
//! calls may be under way at a time; steps that come meanwhile share the next ones, 16 to 64 each, and renewals leave half
//! of a call to the others. Steps on pools are calls of their own, of another script: `tokens.lua`, `line.lua` and
//! `pool.lua`. That of a quorum, `quorum.lua`, shares nothing with these.
//!
//! 1. *Acquire.* If nobody has it and nobody waits, it is taken: `token = max(last + 1, server time in µs)`. If the
//!    caller has it already, it gets its token again and its ttl begins anew. Else it enters the queue, and a lock that
//!    is free goes to the first in the queue who is heard of.
//! 2. *Release* grants to the first waiter in the same step: it writes the record, for a claim of a second, and then
//!    publishes to that waiter's inbox. If nobody listens there the next one is tried; who is not heard of stands aside,
//!    in its order, and has its place again if it asks within five seconds.
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
//! 7. *Readers and permits* stand in the same queue. As many from its head are let in together as may hold it together,
//!    each by a push and under a token of its own: readers beside readers, permits while fewer are held than the waiter says
//!    there are. Each ends by itself, by the server's time, and is renewed and released by itself.
//! 8. *Whoever cannot be let in* keeps those behind it back. If it has not asked for two to three seconds it is asked whether it
//!    still waits, and has a claim to ask again, which a live client does at once; after that its place is lost. If nobody listens
//!    for it, it is passed over at once. The one right behind it looks when that time comes, and more and more rarely after.
//! 9. *A long line.* A call lets in 64 and passes over 128 at most. The next is made by its caller, 10 ms later, if that
//!    waits; else by one that waits, who is told to look: the first that is left, or the last, since those between may be gone. Should
//!    it hang, the next looks after a claim, and everybody else when it would anyway. Holders whose time is over hold nothing, and
//!    are cleared away by 64 when one comes, as are waiters that are gone.
//! 10. *Several locks* are looked at first, each as if the caller had come to it alone, and taken if all can be had. What it
//!     has of them from before is given back if not. In a cluster they would have to share a slot.
//! 11. *Values* are keys of their own. An update by the holder is a renewal that writes the value, too. A change on condition
//!     that the value equals another is one plain command where the server has one (`newer.rs`).
//!
//! # Cost
//!
//! One call to acquire, one to release, one for up to 64 renewals; one to take up to 64 locks at once, three at most
//! to give them back. An acquisition that waited costs one request more, the confirmation of its claim, if it holds for longer than a
//! third of a second, and one if it waits for longer than a second. Acquisitions that follow each other in one process
//! cost a renewal for up to 8192 of them, or for 10 ms. The hand-over between processes is one call and one push, or two
//! if the next one has waited for so long. A waiter asks every ten seconds; while a writer waits for readers, it and the one
//! behind it some times more. A call that meets a long line does about a thousand commands at most, some milliseconds; to let in
//! 20,000 readers is 313 calls. A `PING` on each of two connections every five seconds.
//!
//! # Several servers
//!
//! In a cluster each step goes to the master of the slot of its lock or pool, which is asked in calls of its own and heard on
//! connections of its own, and follows the slot when it moves. Who has to wait in a slot for the first time tries, subscribes,
//! and enters the queue: two calls more. A push begins with the id of the node that says it, and counts only on a connection to that.
//! Behind sentinels the master is looked up for each connection.
//!
//! # Failure modes
//!
//! - *A server that restarts without its data* forgets who held. Holders are told at their next renewal; until then
//!   another may have it, under a higher token.
//! - *A replica that takes over* may lack the last writes: two holders for up to a ttl, and the later one has the higher
//!   token unless the clocks of the two servers differ by more than the take-over took.
//! - *A connection that ends* is made again, both are; then every waiter asks again. A lock is lost only if that takes
//!   longer than its ttl.
//! - *A process that dies or hangs* keeps what it holds until its ttl is over, and what it was just handed, or the place of
//!   a writer in front of readers, for a claim. That its client is told nothing for a while costs it nothing but time.
//! - *A slot that moves* to another node of a cluster: who holds goes on renewing, but for a moment if several do; nobody takes or
//!   gives back before it has arrived. Both are told as what passes. A pool stands still.
//! - *A client that may not publish* tells nobody: waiters look by themselves.
//! - *A server that evicts* keys when it is full may evict locks. There is a warning.

mod address;
mod backend;
mod calls;
mod cluster;
mod config;
mod error;
mod inbox;
mod layout;
mod link;
mod newer;
mod node;
mod nodes;
mod pools;
mod powers;
pub mod quorum;
mod script;
mod scripts;
mod sentinel;
mod server;
mod session;
mod slots;

pub use redis;

pub use crate::{
    backend::RedisLock,
    config::RedisConfig,
    quorum::{QuorumConfig, QuorumLock},
};
