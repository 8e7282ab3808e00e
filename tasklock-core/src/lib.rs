//! The contract of tasklock: what a backend implements, what a user holds, and everything in between, written once.
//!
//! Most people want the crate `tasklock`, which re-exports this one.
//!
//! ```text
//!  #[synchronized]   ─┐
//!  synchronized(k,f) ─┤                                            tier 1: users
//!  guards            ─┴─► Locker ── in-process queue ── retry/wake ── keeper (renew, deadline, release) ──┐
//!                                                                                                        ▼
//!                         AsyncLock: try_acquire · wait · renew · release · inspect …              tier 2: backends
//!                         memory │ redis │ dynamo │ file │ socket │ rabbitmq │ yours
//! ```
//!
//! - To **use** a lock: [`Locker`], [`Guard`], [`Lease`], [`KeyLock`], [`RwKey`], [`Semaphore`],
//!   [`AllKeys`], [`AnyKey`], [`ReentrantKey`], [`LockValue`], [`Pool`], [`blocking`].
//! - To **set one up**: [`LockerBuilder`], [`Demand`], [`Observer`].
//! - To **protect a store** from late writers: [`FencingToken`], [`Fence`].
//! - To **write a backend**: [`AsyncLock`] has the recipe, [`memory`] is an example; `testing` (a feature) has the
//!   conformance suite and a wrapper that injects faults.
//!
//! # What a lock here can and cannot do
//!
//! A lease excludes others only as long as its holder knows that it has it. A process that is paused past its lease
//! and wakes up may still send a write; nothing on its side can stop it. The fencing token, checked by the store,
//! can. See `docs/guarantees.md`.

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
mod acquire;
mod admin;
mod all;
mod any;
pub mod blocking;
mod builder;
mod capabilities;
mod clock;
mod core_ref;
mod current;
mod encode;
mod erased;
mod error;
mod guard;
mod guards;
mod handoff;
mod hold;
mod holder;
mod hosts;
#[cfg(feature = "axum")]
mod http;
mod join;
mod keeper;
mod key;
mod keyed;
mod lease;
mod lock;
mod locker;
pub mod memory;
mod nonce;
mod nursery;
mod observer;
mod options;
mod pool;
mod pools;
mod queue;
mod reentrant;
mod registry;
mod release;
mod renewal;
mod request;
mod retry;
mod runtime;
mod rw;
mod scope;
mod semaphore;
mod shards;
mod shared;
mod sight;
#[cfg(feature = "testing")]
pub mod testing;
mod together;
mod token;
mod values;
mod withdrawn;

pub use crate::{
    admin::Status,
    all::AllKeys,
    any::AnyKey,
    builder::LockerBuilder,
    capabilities::{Capabilities, Demand, Expiry, Fencing, Loss, Scope, WakeBy},
    clock::{Clock, Mono, wall_micros},
    current::current,
    encode::{KeyWriter, LockKey},
    error::{Applied, BackendError, InvalidOption, InvalidUrl, LockError, LossReason},
    guard::{Guard, ReleaseOutcome},
    guards::Guards,
    holder::{Holder, Owner, State},
    key::{IntoKey, InvalidKey, Key},
    keyed::KeyLock,
    lease::Lease,
    lock::{Administer, AsyncLock, BoxFuture, Many, Powers, StepResult, Values},
    locker::{Drained, Locker, Stats},
    memory::MemoryLock,
    nonce::Nonce,
    observer::{Observed, Observer},
    options::{Fairness, OnLost, ReleaseMode, Renew, Ttl, Wait},
    pool::{Pool, PoolGuard, Scan},
    pools::{Health, Page, PoolChange, Pools},
    reentrant::{ReentrantGuard, ReentrantKey},
    request::{
        Attempt, Busy, Claim, Event, Grant, Intent, Mode, Released, Renewed, Request, Span, Together, Validity, Wake,
    },
    retry::RetryPolicy,
    rw::RwKey,
    scope::{default_locker, install_default, scope},
    semaphore::Semaphore,
    token::{Fence, FencingToken, StaleToken},
    values::{Change, LockValue, When},
    withdrawn::Withdrawn,
};
