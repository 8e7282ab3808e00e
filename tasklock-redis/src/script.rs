//! Steps, the one script that carries them out, and its answers.

use std::sync::{Arc, LazyLock};

use redis::{Cmd, Script, Value};
use tasklock_core::{BackendError, StepResult};

use crate::{error, layout::OwnerKey};

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(SOURCE));
const SOURCE: &str = include_str!("scripts/lock.lua");

/// One atomic step on one lock.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) what: What,
    pub(crate) owner: OwnerKey,
    /// Who asks; for a revocation the nonce seen, or nothing.
    pub(crate) member: String,
    /// In milliseconds; 0 never ends.
    pub(crate) ttl: u64,
    /// The owner's names, for others to read; of a renewal, how many more tokens it wants, if any.
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
    Renew,
    /// Ends whatever the member has.
    Leave,
    /// The same, and what of it is still to arrive.
    Withdraw,
    Inspect,
    Revoke,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Try => "try",
            What::Wait => "wait",
            What::Poll => "poll",
            What::Renew => "renew",
            What::Leave => "leave",
            What::Withdraw => "withdraw",
            What::Inspect => "inspect",
            What::Revoke => "revoke",
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
    /// This member was withdrawn before.
    Withdrawn,
    /// How it stands: the owner's record, its time left in milliseconds (negative: for ever), the caller's rank or the
    /// number of waiters, and the server's time in milliseconds.
    Held {
        record: String,
        left: i64,
        count: i64,
        now: u64,
    },
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
        cmd.arg(step.what.name()).arg(&step.member).arg(step.ttl).arg(&*step.names);
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
    let answer = match (what, value) {
        (_, Value::Int(0)) => Answer::No,
        (What::Try | What::Wait | What::Poll, Value::Int(-1)) => Answer::Withdrawn,
        (_, Value::Int(token)) => Answer::Yes { token: u64::try_from(token).ok()? },
        (What::Renew, Value::Array(parts)) => more(&parts)?,
        (What::Try | What::Wait | What::Poll | What::Inspect, Value::Array(parts)) => held(&parts)?,
        _ => return None,
    };
    Some(Ok(answer))
}

fn held(parts: &[Value]) -> Option<Answer> {
    let [record, Value::Int(left), Value::Int(count), Value::Int(now)] = parts else { return None };
    Some(Answer::Held { record: text(record)?, left: *left, count: *count, now: u64::try_from(*now).ok()? })
}

fn more(parts: &[Value]) -> Option<Answer> {
    let [Value::Int(token), Value::Int(first), Value::Int(waiters)] = parts else { return None };
    let (token, first) = (u64::try_from(*token).ok()?, u64::try_from(*first).ok()?);
    Some(Answer::More { token, first, waiters: u32::try_from(*waiters).ok()? })
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
