//! Steps, the one script that carries them out, and its answers.

use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

use redis::{Cmd, Script, Value};
use tasklock_core::{BackendError, Mode, StepResult};

use crate::{error, layout::OwnerKey};

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(SOURCE));
/// One script in parts: what comes later uses what is before it.
const SOURCE: &str = concat!(
    include_str!("scripts/lock.lua"),
    include_str!("scripts/holders.lua"),
    include_str!("scripts/queue.lua"),
    include_str!("scripts/values.lua"),
    include_str!("scripts/steps.lua"),
);

/// One atomic step on one lock.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) what: What,
    /// How it is wanted, if it is asked for.
    pub(crate) mode: Mode,
    pub(crate) owner: OwnerKey,
    /// Who asks; for a revocation the nonce seen, or nothing; for a change what the value is compared with.
    pub(crate) member: String,
    /// In milliseconds; 0 never ends.
    pub(crate) ttl: u64,
    /// The owner's names, for others to read; for a change or an update, the new value.
    pub(crate) names: Arc<str>,
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
    fn name(self) -> &'static str {
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
    },
}

/// A holder as it was found.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) record: String,
    /// In milliseconds; negative: for ever.
    pub(crate) left: i64,
}

/// The call that carries out these steps, by the script's hash or, if the server does not know it, by its text.
pub(crate) fn command(steps: &[Step], whole: bool) -> Cmd {
    let mut cmd = Cmd::with_capacity(3 + steps.len() * 5, 64 + steps.len() * 256);
    if whole {
        cmd.arg("EVAL").arg(SOURCE);
    } else {
        cmd.arg("EVALSHA").arg(SCRIPT.get_hash());
    }
    cmd.arg(steps.len());
    for step in steps {
        cmd.arg(step.owner.as_str());
    }
    for step in steps {
        cmd.arg(&*step.name()).arg(&step.member).arg(step.ttl).arg(&*step.names);
    }
    cmd
}

/// The answers to these steps, in order: one step is answered with its own, many with an array of theirs.
pub(crate) fn answers(steps: &[Step], value: Value) -> Vec<StepResult<Answer>> {
    let mut answers = match value {
        answer if steps.len() == 1 => vec![answer],
        Value::Array(answers) => answers,
        _ => Vec::new(),
    }
    .into_iter();
    steps.iter().map(|step| answers.next().and_then(|v| parse(step.what, v)).unwrap_or_else(odd)).collect()
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
        Value::Array(parts) if what == What::Value => Answer::Value(text(parts.first()?)?),
        Value::Array(parts) if asks || what == What::Inspect => held(&parts)?,
        _ => return None,
    };
    Some(Ok(answer))
}

fn held(parts: &[Value]) -> Option<Answer> {
    let [record, left, Value::Int(count), Value::Int(now), more @ ..] = parts else { return None };
    let (mut others, mut last) = (Vec::new(), None);
    for part in more {
        match part {
            Value::Array(other) => others.push(found(other.first()?, other.get(1)?)?),
            token => last = text(token)?.parse().ok(),
        }
    }
    Some(Answer::Held { holder: found(record, left)?, others, count: *count, now: u64::try_from(*now).ok()?, last })
}

fn found(record: &Value, left: &Value) -> Option<Found> {
    let Value::Int(left) = left else { return None };
    Some(Found { record: text(record)?, left: *left })
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}

fn odd() -> StepResult<Answer> {
    Err(BackendError::unknown("redis: an answer that cannot be understood"))
}
