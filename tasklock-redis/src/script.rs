//! Steps, the one script that carries them out, and its answers.

use std::sync::{Arc, LazyLock};

use redis::{Cmd, Script, Value};
use tasklock_core::{BackendError, StepResult};

use crate::{error, layout::Base};

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(SOURCE));
const SOURCE: &str = include_str!("scripts/lock.lua");

/// One atomic step on one lock.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) what: What,
    pub(crate) base: Base,
    /// Who asks; for a revocation the nonce seen, or nothing.
    pub(crate) member: String,
    /// In milliseconds; 0 never ends.
    pub(crate) ttl: u64,
    /// The owner's names, for others to read.
    pub(crate) names: Arc<str>,
}

/// What a step does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    /// Takes the lock if it is free.
    Try,
    /// Takes it or enters the queue.
    Wait,
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
    /// No; for an attempt, with what the store says of the lock.
    No,
    /// Yes; for a grant or renewal, its token.
    Yes { token: u64 },
    /// This member was withdrawn before.
    Withdrawn,
    /// How it stands: the owner's record, its time left in milliseconds (negative: for ever), the caller's rank or the
    /// number of waiters, and the server's time in milliseconds.
    Held { record: String, left: i64, count: i64, now: u64 },
}

/// An answer that came, and the server's time in it where it has one.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    pub(crate) now: u64,
}

/// The call that carries out these steps, by the script's hash or, if the server does not know it, by its text.
pub(crate) fn command(steps: &[Step], whole: bool) -> Cmd {
    let mut cmd = Cmd::with_capacity(3 + steps.len() * 9, steps.len() * 512);
    if whole {
        cmd.arg("EVAL").arg(SOURCE);
    } else {
        cmd.arg("EVALSHA").arg(SCRIPT.get_hash());
    }
    cmd.arg(steps.len() * 5);
    for step in steps {
        step.base.each(|key| {
            cmd.arg(key);
        });
    }
    for step in steps {
        cmd.arg(step.what.name()).arg(&step.member).arg(step.ttl).arg(&*step.names);
    }
    cmd
}

/// The answers to these steps, in order, and whether one of them says that the server is a replica.
pub(crate) fn answers(steps: &[Step], value: Value) -> Vec<StepResult<Answered>> {
    let mut answers = match value {
        Value::Array(answers) => answers.into_iter(),
        _ => Vec::new().into_iter(),
    };
    steps.iter().map(|step| answers.next().and_then(|v| parse(step.what, v)).unwrap_or_else(odd)).collect()
}

/// The text of a failure within the script, if this is one.
pub(crate) fn failure(value: &Value) -> Option<String> {
    match value {
        Value::Array(parts) => match parts.as_slice() {
            [Value::Int(-1), message] => text(message),
            _ => None,
        },
        _ => None,
    }
}

fn parse(what: What, value: Value) -> Option<StepResult<Answered>> {
    if let Some(message) = failure(&value) {
        return Some(Err(error::said(&message)));
    }
    let Value::Array(parts) = value else { return None };
    let number = |i: usize| match parts.get(i) {
        Some(Value::Int(n)) => Some(*n),
        _ => None,
    };
    let held = |at: usize| {
        let now = u64::try_from(number(at + 3)?).ok()?;
        let answer = Answer::Held { record: text(parts.get(at)?)?, left: number(at + 1)?, count: number(at + 2)?, now };
        Some(Answered { answer, now })
    };
    let plain =
        |answer, now: Option<i64>| Answered { answer, now: now.and_then(|n| u64::try_from(n).ok()).unwrap_or(0) };
    let answered = match (what, number(0)) {
        (What::Inspect, _) => held(0)?,
        (What::Try | What::Wait, Some(0)) => held(1)?,
        (_, Some(0)) => plain(Answer::No, None),
        (_, Some(1)) => {
            let token = number(1).and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
            plain(Answer::Yes { token }, number(2))
        }
        (_, Some(2)) => plain(Answer::Withdrawn, None),
        _ => return None,
    };
    Some(Ok(answered))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}

fn odd() -> StepResult<Answered> {
    Err(BackendError::unknown("redis: an answer that cannot be understood"))
}
