//! A backend of your own, whole: `cargo run --example custom_backend`.
//!
//! This one keeps a table of rows, as a database would: every step is one statement under one lock, and the comments say
//! which. It is registered under the scheme `table:`, used through `connect`, and put to the conformance suite.
//!
//! # Layout
//!
//! One row a key: `locks(key, nonce, owner, since, expires, token)`. A release clears the nonce and leaves the row, so
//! that the token is never lost; a job may delete rows that have been free for a day, since a new one begins with the
//! clock. One row a withdrawal: `withdrawn(nonce, until)`.
//!
//! # Protocol
//!
//! 1. *Acquire*: take the row if it is free, expired or ours already, with a token above its last, in one statement.
//! 2. *Wait*: a table cannot push, so `wait` is left alone, and core asks again in growing intervals.
//! 3. *Renew, release*: only where the nonce is ours.
//! 4. *Withdraw*: if an attempt may still be on its way, its nonce is remembered and refused when it arrives.
//!
//! # Cost
//!
//! One statement to acquire, one to release, one for a batch of renewals.
//!
//! # Failure modes
//!
//! A store that loses its rows begins again with the clock: tokens rise as long as that was not set back.

use std::{
    collections::HashMap,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tasklock::{
    Administer, AsyncLock, Attempt, BackendError, BoxFuture, Busy, Capabilities, Claim, Clock, Expiry, Fencing,
    FencingToken, Grant, Holder, Key, LockError, Locker, Mode, Mono, Nonce, Owner, Powers, Released, Renewed, Request,
    Scope, State, StepResult, Validity, connect, register_scheme, testing::conformance, wall_micros,
};

/// What the store can do, and no more. It pushes nothing and keeps no order: those are the defaults.
const CAPABILITIES: Capabilities =
    Capabilities::new("table").fencing(Fencing::Strong).expiry(Expiry::Server).scope(Scope::Process);

/// Longer than a request can be on its way.
const WITHDRAWN: Duration = Duration::from_secs(60);

/// Locks in a table. Cheap to clone; clones are clients of the same table.
#[derive(Clone, Default)]
struct TableLock {
    tables: Arc<Mutex<Tables>>,
    clock: Arc<OnceLock<Clock>>,
}

#[derive(Default)]
struct Tables {
    locks: HashMap<Key, Row>,
    withdrawn: HashMap<Nonce, Mono>,
}

struct Row {
    /// None while it is free.
    held: Option<Held>,
    token: u64,
}

struct Held {
    nonce: Nonce,
    owner: Owner,
    since: Mono,
    expires: Mono,
}

impl TableLock {
    /// A transaction, and the time it is made at.
    fn begin(&self) -> (MutexGuard<'_, Tables>, Mono) {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        (tables, self.clock.get_or_init(Clock::current).now())
    }
}

impl Row {
    /// The hold, if its time is not over. `WHERE expires > now()`
    fn held(&mut self, now: Mono) -> Option<&mut Held> {
        self.held.as_mut().filter(|held| held.expires > now)
    }

    /// The same, if it is this one's. `WHERE nonce = $nonce AND expires > now()`
    fn held_by(&mut self, nonce: Nonce, now: Mono) -> Option<&mut Held> {
        self.held(now).filter(|held| held.nonce == nonce)
    }

    fn holder(&mut self, now: Mono) -> Option<Arc<Holder>> {
        let token = FencingToken::new(self.token);
        let held = self.held(now)?;
        let remaining = (held.expires != Mono::NEVER).then(|| held.expires.since(now));
        let holder = Holder::new(held.owner.clone()).held(now.since(held.since)).remaining(remaining).token(token);
        Some(Arc::new(holder))
    }
}

impl AsyncLock for TableLock {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    /// `INSERT INTO locks … ON CONFLICT (key) DO UPDATE SET nonce = $nonce, expires = now() + $ttl, …
    /// WHERE locks.nonce IS NULL OR locks.expires <= now() OR locks.nonce = $nonce RETURNING token`
    async fn try_acquire(&self, request: &Request) -> StepResult<Attempt> {
        if request.mode != Mode::Exclusive {
            return Err(BackendError::fatal(format!("the table backend does not know {:?}", request.mode)));
        }
        let (mut tables, now) = self.begin();
        if tables.withdrawn.contains_key(&request.nonce) {
            return Err(BackendError::fatal("this acquisition was withdrawn before"));
        }
        let row = tables.locks.entry(request.key.clone()).or_insert(Row { held: None, token: 0 });
        let expires = request.until(now);
        // The same nonce again: its answer was lost. It gets the same token, and its time begins anew.
        if let Some(held) = row.held_by(request.nonce, now) {
            held.expires = expires;
            return Ok(Attempt::Granted(Grant::new(Some(FencingToken::new(row.token)), Validity::Until(expires))));
        }
        if let Some(holder) = row.holder(now) {
            // Ask again when the holder's time is over, at the latest.
            return Ok(Attempt::Busy(Busy::new(Some(holder.clone()), holder.remaining)));
        }
        // Above the row's last token, and above those of rows deleted before.
        row.token = wall_micros().max(row.token + 1);
        row.held = Some(Held { nonce: request.nonce, owner: request.owner.clone(), since: now, expires });
        Ok(Attempt::Granted(Grant::new(Some(FencingToken::new(row.token)), Validity::Until(expires))))
    }

    /// `UPDATE locks SET expires = now() + $ttl WHERE nonce = $nonce AND expires > now()`
    async fn renew(&self, claims: &[Claim]) -> Vec<StepResult<Renewed>> {
        let (mut tables, now) = self.begin();
        let mut renew = |claim: &Claim| {
            let row = tables.locks.get_mut(&claim.key)?;
            let token = FencingToken::new(row.token);
            let held = row.held_by(claim.nonce, now)?;
            held.expires = claim.ttl.duration().map_or(Mono::NEVER, |ttl| now.after(ttl));
            Some(Renewed::held(Validity::Until(held.expires), Some(token)))
        };
        claims.iter().map(|claim| Ok(renew(claim).unwrap_or(Renewed::NotOwner))).collect()
    }

    /// `UPDATE locks SET nonce = NULL WHERE nonce = $nonce AND expires > now()`; before it, if an attempt may still be
    /// on its way, `INSERT INTO withdrawn …`, in the same transaction.
    async fn release(&self, claim: &Claim) -> StepResult<Released> {
        let (mut tables, now) = self.begin();
        tables.withdrawn.retain(|_, until| *until > now);
        if claim.unsettled {
            tables.withdrawn.insert(claim.nonce, now.after(WITHDRAWN));
        }
        let Some(row) = tables.locks.get_mut(&claim.key) else { return Ok(Released::NotOwner) };
        if row.held_by(claim.nonce, now).is_none() {
            return Ok(Released::NotOwner);
        }
        row.held = None;
        Ok(Released::Released)
    }

    /// `SELECT … FROM locks WHERE key = $key AND expires > now()`
    async fn inspect(&self, key: &Key) -> StepResult<State> {
        let (mut tables, now) = self.begin();
        Ok(State::new(tables.locks.get_mut(key).and_then(|row| row.holder(now)), None))
    }

    async fn ping(&self) -> StepResult<()> {
        Ok(())
    }

    fn powers(&self) -> Powers<'_> {
        Powers::default().with_administer(self)
    }
}

/// A power: not every store has it, and core finds out by asking.
impl Administer for TableLock {
    /// `UPDATE locks SET nonce = NULL WHERE key = $key AND expires > now() [AND nonce = $seen]`
    fn revoke<'a>(&'a self, key: &'a Key, seen: Option<Nonce>) -> BoxFuture<'a, StepResult<bool>> {
        Box::pin(async move {
            let (mut tables, now) = self.begin();
            let Some(row) = tables.locks.get_mut(key) else { return Ok(false) };
            let found = row.held(now).is_some_and(|held| seen.is_none_or(|seen| seen == held.nonce));
            if found {
                row.held = None;
            }
            Ok(found)
        })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("custom_backend: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), LockError> {
    // From here on `table:` is an address like others, in `TASKLOCK_URL` too. Take the parameters that are yours.
    let table = TableLock::default();
    let registered = table.clone();
    register_scheme("table", move |_address| {
        let table = registered.clone();
        async move { Ok(Locker::builder(table)) }
    })?;

    let (here, there) = (connect("table:?ttl=10s").await?, connect("table:?wait=200ms").await?);
    let guard = here.acquire("job:7").await?;
    println!("one has {:?} under token {}", guard.key(), guard.fencing_token());
    if let Err(error) = there.acquire("job:7").await {
        println!("the other {error}");
    }
    guard.release().await?;
    println!("one has released; the other has it under token {}", there.acquire("job:7").await?.fencing_token());

    println!("the conformance suite, on the same table:");
    conformance::run_all(async || table.clone()).await;
    println!("passed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use tasklock::testing::{Fault, Faulty, Op};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn conforms() {
        let table = TableLock::default();
        conformance::run_all(async || table.clone()).await;
        assert!(table.begin().0.locks.values().all(|row| row.held.is_none()), "the suite left a holder");
    }

    #[tokio::test(start_paused = true)]
    async fn conforms_when_calls_are_late_or_repeated() {
        for fault in [Fault::DelayReply(Duration::from_millis(7)), Fault::Duplicate] {
            let table = TableLock::default();
            let make = async || {
                let (backend, faults) = Faulty::new(table.clone());
                faults.always(Op::TryAcquire, fault);
                faults.always(Op::Renew, fault);
                backend
            };
            conformance::run_all(make).await;
        }
    }

    /// A token is above the last of its row, whatever the clock says.
    #[tokio::test(start_paused = true)]
    async fn tokens_survive_a_clock_set_back() {
        let table = TableLock::default();
        let lock = Locker::new(table.clone()).expect("a locker");
        drop(lock.acquire("job:7").await.expect("a free key"));
        tasklock::testing::until_quiet(&lock).await;
        let ahead = u64::MAX / 2;
        table.begin().0.locks.values_mut().for_each(|row| row.token = ahead);
        let guard = lock.acquire("job:7").await.expect("a free key");
        assert_eq!(guard.fencing_token().get(), ahead + 1);
    }
}
