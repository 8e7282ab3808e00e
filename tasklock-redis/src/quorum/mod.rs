//! Locks in a majority of several servers that know nothing of each other.
//!
//! # Layout
//!
//! The same at each node; four keys a lock, kept together by the hash tag of its name, and one a node:
//!
//! | key | what | ttl |
//! |---|---|---|
//! | `{prefix:name}:1:vote` | `nonce ballot since names`: whom the node has voted for | the lease's |
//! | `{prefix:name}:1:ballots` | the highest ballot voted for, and the highest that was held and has ended | 30 days |
//! | `{prefix:name}:1:waiters` | who waits, by the ballot since which: only to be told | 60 s from the last request |
//! | `{prefix:name}:1:next` | the nonce that was told, whose turn it is | 0.5 s |
//! | `tasklock:1:boot` | `run longest since floor`: in which life of the server the mark was set, the longest ttl that anybody asks for, since when the node has not voted (0: it has forgotten nothing), and what its counters begin at | none |
//!
//! # Protocol
//!
//! Every step at a node is a part of one script, `scripts/quorum.lua`. A question goes to all nodes at once; who asks is done
//! when the answers so far decide, and waits for none longer than a twentieth of the ttl (at least 100 ms, at most a quarter of it). What is still
//! unanswered then is driven to its answer all the same.
//!
//! 1. *Ballot.* `max(highest seen + 1, client's clock in µs)`. It is the fencing token.
//! 2. *Vote.* A node votes if it is not in quarantine, has no vote out for this lock, and the ballot is above its counter; the
//!    counter is the ballot then. The same nonce and ballot get the same answer and the ttl anew. A refusal tells the counter:
//!    if that was all that stood in the way, the next ballot is above it, in the same attempt.
//! 3. *Majority.* Only votes at exactly this ballot count. The lease is dated from before the round.
//! 4. *No majority.* What was won is given back at once, by all nodes that may have voted. Enough nodes have answered, and some
//!    have voted for another: busy. Too few have: an outage.
//! 5. *Release* goes to all nodes; one that cannot be told is told later, as long as its vote could last. It ends the ballot, and those below it, of its nonce: whatever of them arrives later is dead.
//! 6. *Renew.* Conditional on nonce and ballot. A node that missed the acquisition votes now, as it would have then. With a
//!    majority confirmed, those that have forgotten it or have voted for others in vain meanwhile are *mended*: they vote
//!    below their counter, for a ballot that has not ended. Without one, the lease is lost if a majority could be another's;
//!    if nodes are silent, its deadline counts.
//! 7. *Quarantine.* A node whose mark is of another life (the `run_id` in `INFO`) or missing may have forgotten votes. It votes for
//!    nobody for the longest ttl that anybody asks for, neither new nor renewed nor mended, and its counters begin at its clock.
//! 8. *Waiting.* Core polls, with growing pauses; a release tells the one that waits for longest, which looks again when a
//!    majority of the nodes has told it, or soon after some have. A node that has told one votes for nobody else for half a
//!    second, unless that one no longer waits: so whoever takes a lock again and again lets the others have it in between.
//!    After a split vote pauses are short, and differ.
//!
//! # Cost
//!
//! A call to every node to acquire, one to release, one for up to 64 renewals; with five nodes five of each, in one round
//! trip. A ballot that was too low costs another. A waiter asks every node each time it looks.
//!
//! # Failure modes
//!
//! - *Fewer than half of the nodes are down, slow or in quarantine*: nothing.
//! - *More are*: acquisitions fail with an error that passes; leases end at their deadline.
//! - *A clock that jumps*: a node that jumps ahead ends votes and its quarantine too soon. With a majority of them there may be
//!   two holders, the later one with the higher token.
//! - *Tokens* rise if counters are durable; else, unless a client's clock is ahead of a node's by more than `max_ttl` and the
//!   time that the node was away.

mod backend;
mod ballot;
mod config;
mod hints;
mod node;
mod round;
mod step;
mod tally;

pub use self::{backend::QuorumLock, config::QuorumConfig};
