//! Pools: steps of the script `scripts/pool.lua`, one a call. Its line is that of locks, `scripts/line.lua`.
//!
//! # Layout
//!
//! All of a pool is in one slot of a cluster:
//!
//! | key | what | ttl |
//! |---|---|---|
//! | `{prefix:name}:1:pool:members` | its members, by the time from which each is free | none: it is configuration, and not to vanish |
//! | `…:lock:MEMBER` | `holder token since lease names`, as an owner's record: who has it | the lease's |
//! | `…:hold:HOLDER` | the member that it has | the lease's |
//! | `…:fence` | the last token | 30 days |
//! | `…:had:NAME` | the member that a name had last | a day |
//! | `…:queue`, `…:leases`, `…:wants` | who waits, until when each counts as alive, and what each wants | 90 s from the last request |
//! | `…:stages`, `…:stage:ID` | assignments under way, and what was staged of each | 60 s from the last part |
//! | `…:slot:TAG` | nothing: it is never there, and only named, in a cluster. `TAG` is that of the slot's inboxes | |
//!
//! # Protocol
//!
//! 1. *Take.* Of the members whose time has come the one that is free for longest, unless its lock says otherwise: the lock
//!    is what counts, the time only where to look. So a member whose holder is gone is found as any other, with nothing to
//!    clean up before.
//! 2. *Wait.* Whoever finds none enters the queue. A member that becomes free is kept for the first who is heard of, for a
//!    claim of a second, and that one is told to come for it; so is the next behind it, for when the claim is over.
//! 3. *Renew, give back* are conditional on the holder. A member that was taken out meanwhile has no place to be noted in: its
//!    lock lives on, and nobody is granted it after that.
//! 4. *Assign.* The members are staged in parts of 256, under a name of their own; every change of a lock is noted there,
//!    too. Then the staged ones take the place of those before by one `RENAME`, and those are freed in the background.
//!    Readers see those before until then. A stage that does not go on ends by itself.
//! 5. *Slots that move.* While a slot is on its way, a node begins a step only if it has all the keys that are named, and
//!    those of a pool, one for each member, cannot all be. So one is named that is never there, and no step is begun at
//!    either node until the slot has arrived: half of a pool would look as if the rest were free, or lost.
//!
//! # Cost
//!
//! One call each to take, to give back and to wait; one more for whoever was told, and in a cluster two more for whoever waits
//! in a slot for the first time. Renewals share calls, up to 64. An assignment is one call for each 256 members, and one.

use std::sync::{Arc, LazyLock};

use redis::{Cmd, Script, Value};
use tasklock_core::{
    BackendError, BoxFuture, Claim, Health, Holder, Key, Mode, Mono, Nonce, Owner, Page, PoolChange, Pools, Released,
    Renewed, Request, State, StepResult,
};

use crate::{
    RedisLock,
    backend::millis,
    calls::Carried,
    layout::{Record, members_of, slot_of_pool},
    script::{Answer, What, held, text},
    scripts,
    slots::Slot,
};

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(scripts::POOL));

/// The most members in one call: the server does nothing else meanwhile.
const MOST: usize = 256;
/// The most renewals in one.
const MOST_RENEWALS: usize = 64;

impl RedisLock {
    pub(crate) async fn ask_for_member(&self, what: What, request: &Request) -> StepResult<Answer> {
        let (holder, ttl) = (self.client.member(request.nonce), millis(request.ttl).to_string());
        let (name, names) = (request.affinity.as_deref().unwrap_or_default(), self.names(&request.owner));
        let arguments = [holder.as_str(), &ttl, name, &names];
        let answer = self.pool_step(&request.key, what.name(), &arguments).await?;
        taken(&answer).ok_or_else(odd)
    }

    /// Renews these, of which some are members.
    pub(crate) async fn renew_some_members(&self, claims: &[Claim]) -> Vec<StepResult<Renewed>> {
        let (members, others): (Vec<Claim>, Vec<Claim>) =
            claims.iter().cloned().partition(|claim| claim.mode == Mode::Member);
        // At once: they may be at different servers.
        let locks = async { if others.is_empty() { Vec::new() } else { self.renew_locks(&others).await } };
        let (others, renewed) = tokio::join!(locks, self.renew_members(&members));
        let (mut others, mut renewed) = (others.into_iter(), renewed.into_iter());
        let one = |claim: &Claim| {
            let outcome = if claim.mode == Mode::Member { renewed.next() } else { others.next() };
            outcome.unwrap_or_else(|| Err(odd()))
        };
        claims.iter().map(one).collect()
    }

    pub(crate) async fn release_member(&self, claim: &Claim) -> StepResult<Released> {
        let what = if claim.unsettled { "withdraw" } else { "leave" };
        match self.pool_step(&claim.key, what, &[self.client.member(claim.nonce)]).await? {
            Value::Int(1) => Ok(Released::Released),
            Value::Int(_) => Ok(Released::NotOwner),
            _ => Err(odd()),
        }
    }

    /// In their order. Those of one pool that follow each other share calls, which go at once.
    async fn renew_members(&self, claims: &[Claim]) -> Vec<StepResult<Renewed>> {
        let parts = || claims.chunk_by(|a, b| a.key == b.key).flat_map(|of_one| of_one.chunks(MOST_RENEWALS));
        let pair = |claim: &Claim| [self.client.member(claim.nonce), millis(claim.ttl).to_string()];
        let step = |of_one: &[Claim]| self.step_on(&of_one[0].key, "renew", of_one.iter().flat_map(pair).collect());
        let steps = parts().map(step).map(|step| (step.slot, step)).collect();
        let sent = self.clock.now();
        let mut renewed = Vec::with_capacity(claims.len());
        for (of_one, answers) in parts().zip(self.nodes.call_each(steps).await) {
            let mut answers = match answers {
                Ok(Value::Array(answers)) => Ok(answers.into_iter()),
                Ok(_) => Err(odd()),
                Err(error) => Err(error),
            };
            for claim in of_one {
                renewed.push(match &mut answers {
                    Ok(answers) => self.member_renewed(claim, sent, answers.next()),
                    Err(error) => Err(error.clone()),
                });
            }
        }
        renewed
    }

    fn member_renewed(&self, claim: &Claim, sent: Mono, answer: Option<Value>) -> StepResult<Renewed> {
        let answer = match answer {
            Some(Value::Int(0)) => Answer::No,
            Some(Value::Int(token)) => Answer::Yes { token: u64::try_from(token).map_err(|_| odd())? },
            _ => return Err(odd()),
        };
        Ok(self.renewed(claim, sent, &answer))
    }

    fn step_on(&self, pool: &Key, what: &str, arguments: Vec<String>) -> PoolStep {
        let (slot, members) = (self.nodes.slot(|| Slot::of_key(pool)), members_of(pool));
        PoolStep { slot, members, what: what.to_owned(), arguments }
    }

    /// Carries out one step. The driver answers it or fails within its timeout.
    async fn pool_step<A: AsRef<str> + Sync>(&self, pool: &Key, what: &str, arguments: &[A]) -> StepResult<Value> {
        let arguments = arguments.iter().map(|argument| argument.as_ref().to_owned()).collect();
        let step = self.step_on(pool, what, arguments);
        self.nodes.call(step.slot, &step).await
    }

    async fn assign(&self, pool: &Key, members: &[Arc<str>]) -> StepResult<()> {
        let id = Nonce::fresh().to_string();
        for some in members.chunks(MOST) {
            let arguments: Vec<&str> = [id.as_str()].into_iter().chain(some.iter().map(|member| &**member)).collect();
            match self.pool_step(pool, "stage", &arguments).await? {
                Value::Int(1) => {}
                _ => return Err(BackendError::transient("redis: too many assignments to one pool at a time")),
            }
        }
        match self.pool_step(pool, "swap", &[id, members.len().to_string()]).await? {
            Value::Int(1) => Ok(()),
            _ => Err(BackendError::transient("redis: an assignment took too long, and what was staged is gone")),
        }
    }
}

/// One step on one pool; it goes by itself.
#[derive(Debug)]
struct PoolStep {
    /// Where there are any.
    slot: Option<Slot>,
    members: String,
    what: String,
    arguments: Vec<String>,
}

impl Carried for PoolStep {
    type Answer = Value;

    fn command(steps: &[Self], whole: bool) -> Cmd {
        let mut cmd = Cmd::new();
        if whole {
            cmd.arg("EVAL").arg(scripts::POOL);
        } else {
            cmd.arg("EVALSHA").arg(SCRIPT.get_hash());
        }
        for step in steps {
            match step.slot {
                None => cmd.arg(1).arg(&step.members),
                Some(slot) => cmd.arg(2).arg(&step.members).arg(slot_of_pool(&step.members, slot)),
            };
            cmd.arg(&step.what).arg(&step.arguments);
        }
        cmd
    }

    fn answers(_: &[Self], value: Value) -> Vec<StepResult<Value>> {
        vec![Ok(value)]
    }
}

impl Pools for RedisLock {
    fn change<'a>(&'a self, pool: &'a Key, change: &'a PoolChange) -> BoxFuture<'a, StepResult<()>> {
        Box::pin(async move {
            let (what, members) = match change {
                PoolChange::Assign(members) => return self.assign(pool, members).await,
                PoolChange::Extend(members) => ("extend", members),
                PoolChange::Shrink(members) => ("shrink", members),
                _ => return Err(BackendError::fatal(format!("the redis backend does not know {change:?}"))),
            };
            for some in members.chunks(MOST) {
                self.pool_step(pool, what, some).await?;
            }
            Ok(())
        })
    }

    fn scan<'a>(&'a self, pool: &'a Key, from: u64) -> BoxFuture<'a, StepResult<Page>> {
        Box::pin(async move {
            let arguments = [from.to_string(), MOST.to_string()];
            let Value::Array(parts) = self.pool_step(pool, "scan", &arguments).await? else { return Err(odd()) };
            let (next, members) = parts.split_first().ok_or_else(odd)?;
            let next = text(next).and_then(|next| next.parse().ok()).ok_or_else(odd)?;
            Ok(Page { members: members.iter().filter_map(text).map(Arc::from).collect(), next })
        })
    }

    fn inspect<'a>(&'a self, pool: &'a Key, members: &'a [Arc<str>]) -> BoxFuture<'a, StepResult<Vec<Option<State>>>> {
        Box::pin(async move {
            let mut states = Vec::with_capacity(members.len());
            for some in members.chunks(MOST) {
                let Value::Array(parts) = self.pool_step(pool, "inspect", some).await? else { return Err(odd()) };
                let Some((Value::Int(now), parts)) = parts.split_first() else { return Err(odd()) };
                let now = u64::try_from(*now).unwrap_or(0);
                for of_one in parts.chunks(3) {
                    let [Value::Int(belongs), record, Value::Int(left)] = of_one else { return Err(odd()) };
                    let record = text(record).ok_or_else(odd)?;
                    states.push((*belongs == 1).then(|| state(&record, *left, now)));
                }
            }
            Ok(states)
        })
    }

    fn health<'a>(&'a self, pool: &'a Key) -> BoxFuture<'a, StepResult<Health>> {
        Box::pin(async move {
            let Value::Array(parts) = self.pool_step::<&str>(pool, "health", &[]).await? else { return Err(odd()) };
            let [Value::Int(all), Value::Int(locked), Value::Int(waiters)] = parts[..] else { return Err(odd()) };
            let count = |n: i64| u64::try_from(n).unwrap_or(0);
            Ok(Health::new(count(locked), count(all - locked), count(waiters)))
        })
    }
}

fn taken(answer: &Value) -> Option<Answer> {
    match answer {
        Value::Int(-1) => Some(Answer::Withdrawn),
        Value::Array(parts) => match parts.as_slice() {
            [Value::Int(token), member] => {
                Some(Answer::Taken { token: u64::try_from(*token).ok()?, member: text(member)? })
            }
            parts => held(parts),
        },
        _ => None,
    }
}

fn state(record: &str, left: i64, now: u64) -> State {
    if record.is_empty() {
        return State::default();
    }
    let left = u64::try_from(left).ok().map(std::time::Duration::from_millis);
    let unknown = || Holder::new(Owner::recorded("unknown", "", 0, "")).remaining(left);
    let holder = Record::parse(record).map_or_else(unknown, |record| record.holder(now, left));
    State::new(Some(Arc::new(holder)), None)
}

fn odd() -> BackendError {
    BackendError::unknown("redis: an answer that cannot be understood")
}
