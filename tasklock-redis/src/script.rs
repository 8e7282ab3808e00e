//! Steps, the one script that carries them out, and its answers.

use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

use redis::{Cmd, Script, Value};
use tasklock_core::{BackendError, Mode, StepResult};

use crate::{calls::Carried, error, layout::OwnerKey, scripts, slots::Slot};

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(scripts::LOCK));

/// One atomic step on one lock.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) what: What,
    /// How it is wanted, if it is asked for.
    pub(crate) mode: Mode,
    pub(crate) owner: OwnerKey,
    /// Where there are any.
    pub(crate) slot: Option<Slot>,
    /// Who asks; for a revocation the nonce seen, or nothing; for a change what the value is compared with.
    pub(crate) member: String,
    /// In milliseconds; 0 never ends.
    pub(crate) ttl: u64,
    /// The owner's names, for others to read; for a change or an update, the new value; of a renewal, how many more tokens
    /// it wants, if any.
    pub(crate) names: Arc<str>,
}

/// Which keys of its lock a step needs. While a slot moves, a step is done wherever all those are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Needs {
    /// A renewal of one that holds it alone.
    Owner,
    /// A renewal of one of several.
    Holders,
    All,
}

/// What a step does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    /// Takes the lock if it is free.
    Try,
    /// Takes it or enters the queue.
    Wait,
    /// The same, asked before: whether or not that was heard.
    Poll,
    /// Takes it with all others of its call, or none of them.
    All,
    Renew,
    /// Ends whatever the member has.
    Leave,
    /// The same, and what of it is still to arrive.
    Withdraw,
    Inspect,
    Revoke,
    /// Reads the value beside the lock.
    Value,
    /// Sets it if it compares so.
    Change(&'static str),
    /// Takes it away if it compares so.
    Remove(&'static str),
    /// Renews, and sets it.
    Update,
}

impl What {
    pub(crate) fn name(self) -> &'static str {
        match self {
            What::Try => "try",
            What::Wait => "wait",
            What::Poll => "poll",
            What::All => "all",
            What::Renew => "renew",
            What::Leave => "leave",
            What::Withdraw => "withdraw",
            What::Inspect => "inspect",
            What::Revoke => "revoke",
            What::Value => "value",
            What::Change(_) => "change",
            What::Remove(_) => "remove",
            What::Update => "update",
        }
    }
}

impl Step {
    /// What it does, as the script knows it.
    fn name(&self) -> Cow<'static, str> {
        let what = self.what.name();
        if let What::Change(when) | What::Remove(when) = self.what {
            return format!("{what} {when}").into();
        }
        match self.mode {
            Mode::Shared => format!("{what} shared").into(),
            Mode::Permit { of } => format!("{what} of{of}").into(),
            _ => what.into(),
        }
    }
}

/// The answer to a step.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    No,
    /// Yes; for a grant or renewal, its token.
    Yes {
        token: u64,
    },
    /// Yes, and more tokens, from this one up; so many wait.
    More {
        token: u64,
        first: u64,
        waiters: u32,
    },
    /// Yes, and this one of the pool.
    Taken {
        token: u64,
        member: String,
    },
    /// This member was withdrawn before.
    Withdrawn,
    /// The value beside the lock.
    Value(String),
    /// How it stands.
    Held {
        /// Who has it; of several one. Empty if nobody has.
        holder: Found,
        /// The others, if that was the question.
        others: Vec<Found>,
        /// The caller's rank, or the number of waiters.
        count: i64,
        /// The server's time in milliseconds.
        now: u64,
        /// The last token granted, if several have it.
        last: Option<u64>,
        /// When to look again, in milliseconds, if that is sooner than otherwise.
        again: Option<u64>,
    },
}

/// A holder as it was found.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) record: String,
    /// In milliseconds; negative: for ever.
    pub(crate) left: i64,
}

impl Carried for Step {
    type Answer = Answer;

    /// In a cluster that is a slot, and the keys that are needed: what needs few goes by itself, since it can be done while
    /// the slot is moving.
    fn company(&self) -> Option<(Slot, Needs)> {
        let needs = match self.mode {
            _ if self.what != What::Renew || !self.names.is_empty() => Needs::All,
            Mode::Exclusive => Needs::Owner,
            _ => Needs::Holders,
        };
        self.slot.map(|slot| (slot, needs))
    }

    /// A renewal; not one between two tasks, which reserves tokens, and for which others wait.
    fn is_one_of_many(&self) -> bool {
        self.what == What::Renew && self.names.is_empty()
    }

    fn command(steps: &[Self], whole: bool) -> Cmd {
        let mut cmd = Cmd::with_capacity(3 + steps.len() * 5, 64 + steps.len() * 256);
        if whole {
            cmd.arg("EVAL").arg(scripts::LOCK);
        } else {
            cmd.arg("EVALSHA").arg(SCRIPT.get_hash());
        }
        let company = steps.first().and_then(Step::company);
        // While a slot moves, a node lets a script begin only if it has all keys that are named, and ends one midway that
        // comes upon a key which is elsewhere. So here all that are needed are named. Where nothing moves, one says it all.
        let needs = company.map_or(Needs::Owner, |(_, needs)| needs);
        let others = |step: &Step| match needs {
            Needs::Owner => Vec::new(),
            Needs::Holders => step.owner.of_holders().to_vec(),
            Needs::All => step.owner.others().collect(),
        };
        let others: Vec<String> = steps.iter().flat_map(others).collect();
        cmd.arg(steps.len() + others.len());
        for step in steps {
            cmd.arg(step.owner.as_str());
        }
        cmd.arg(&others);
        for step in steps {
            cmd.arg(&*step.name()).arg(&step.member).arg(step.ttl).arg(&*step.names);
        }
        if let Some((slot, _)) = company {
            cmd.arg(slot.tag());
        }
        cmd
    }

    fn answers(steps: &[Self], value: Value) -> Vec<StepResult<Answer>> {
        let mut answers = one_each(steps.len(), value);
        steps.iter().map(|step| answers.next().and_then(|v| parse(step.what, v)).unwrap_or_else(odd)).collect()
    }
}

/// The answers to so many steps: one step is answered with its own, many with an array of theirs.
pub(crate) fn one_each(steps: usize, value: Value) -> impl Iterator<Item = Value> {
    match value {
        answer if steps == 1 => vec![answer],
        Value::Array(answers) => answers,
        _ => Vec::new(),
    }
    .into_iter()
}

/// The text of a failure within the script, if this is one.
pub(crate) fn failure(value: &Value) -> Option<String> {
    match value {
        Value::Array(parts) => match parts.as_slice() {
            [message] => text(message),
            _ => None,
        },
        _ => None,
    }
}

fn parse(what: What, value: Value) -> Option<StepResult<Answer>> {
    if let Some(message) = failure(&value) {
        return Some(Err(error::said(&message)));
    }
    let asks = matches!(what, What::Try | What::Wait | What::Poll | What::All);
    let answer = match value {
        Value::Int(0) => Answer::No,
        Value::Int(-1) if asks => Answer::Withdrawn,
        Value::Int(token) => Answer::Yes { token: u64::try_from(token).ok()? },
        Value::Array(parts) if what == What::Renew => more(&parts)?,
        Value::Array(parts) if what == What::Value => Answer::Value(text(parts.first()?)?),
        Value::Array(parts) if asks || what == What::Inspect => held(&parts)?,
        _ => return None,
    };
    Some(Ok(answer))
}

/// How it stands, for one that did not get it.
pub(crate) fn held(parts: &[Value]) -> Option<Answer> {
    let [record, left, Value::Int(count), Value::Int(now), more @ ..] = parts else { return None };
    let (mut others, mut last, mut again) = (Vec::new(), None, None);
    for part in more {
        match part {
            Value::Array(other) => others.push(found(other.first()?, other.get(1)?)?),
            Value::Int(soon) => again = Some(u64::try_from(*soon).ok()?),
            token => last = text(token)?.parse().ok(),
        }
    }
    Some(Answer::Held {
        holder: found(record, left)?,
        others,
        count: *count,
        now: u64::try_from(*now).ok()?,
        last,
        again,
    })
}

fn found(record: &Value, left: &Value) -> Option<Found> {
    let Value::Int(left) = left else { return None };
    Some(Found { record: text(record)?, left: *left })
}

fn more(parts: &[Value]) -> Option<Answer> {
    let [Value::Int(token), Value::Int(first), Value::Int(waiters)] = parts else { return None };
    let (token, first) = (u64::try_from(*token).ok()?, u64::try_from(*first).ok()?);
    Some(Answer::More { token, first, waiters: u32::try_from(*waiters).ok()? })
}

pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}

pub(crate) fn odd<A>() -> StepResult<A> {
    Err(BackendError::unknown("redis: an answer that cannot be understood"))
}
