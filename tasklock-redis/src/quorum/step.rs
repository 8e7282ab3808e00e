//! Steps at one node, the script that carries them out, and its answers.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use redis::{Cmd, Script, Value};
use tasklock_core::{Key, Nonce, StepResult};

use crate::{
    calls::Carried,
    error,
    layout::OwnerKey,
    script::{failure, odd, one_each, text},
    scripts,
};

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(scripts::QUORUM));
/// Frozen, as the ends of the other keys in the script.
const VOTE: &str = ":1:vote";

/// The key of a node's vote for one lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct VoteKey(Arc<str>);

impl VoteKey {
    pub(super) fn of(key: &Key) -> Self {
        let owner = OwnerKey::of(key);
        let tag = owner.as_str().rsplit_once('}').map_or("", |(tag, _)| tag);
        VoteKey(format!("{tag}}}{VOTE}").into())
    }
}

impl VoteKey {
    /// For what is about the node and no lock.
    pub(super) fn none() -> Self {
        VoteKey("tasklock:1:boot".into())
    }
}

/// What all clients of a quorum have to agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rules {
    /// The longest ttl in milliseconds.
    pub(super) longest: u64,
    /// Nodes lose nothing when they restart.
    pub(super) durable: bool,
}

/// One atomic step on one lock at one node.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) rules: Rules,
    pub(super) what: What,
    pub(super) vote: VoteKey,
    /// Who asks; for a revocation the nonce seen, if one was.
    pub(super) nonce: Option<Nonce>,
    pub(super) ballot: u64,
    /// In milliseconds.
    pub(super) ttl: u64,
    /// The owner's names, for others to read.
    pub(super) names: Arc<str>,
    /// The client that waits, and since which ballot.
    pub(super) waits: Option<(Arc<str>, u64)>,
}

/// What a step does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    /// Asks for the vote.
    Try,
    /// The same, and to be told when it may be free.
    Wait,
    /// The same, asked before.
    Poll,
    Renew,
    /// Gives it its vote, for an owner that a majority has confirmed.
    Mend,
    /// Gives back a vote that did not become a majority.
    Drop,
    /// Ends a hold, and whatever of it is still to arrive.
    Leave,
    Revoke,
    Look,
    /// Which server this is, and whether it votes.
    Hello,
    /// It has never voted.
    Found,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Try => "try",
            What::Wait => "wait",
            What::Poll => "poll",
            What::Renew => "renew",
            What::Mend => "mend",
            What::Drop => "drop",
            What::Leave => "leave",
            What::Revoke => "revoke",
            What::Look => "look",
            What::Hello => "hello",
            What::Found => "found",
        }
    }
}

/// A node's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Yes,
    No,
    /// There is a record, or none and the ballot was not above the counter.
    Stands(Standing),
    /// It may have forgotten votes, and gives none for so long.
    Quarantined(Duration),
    /// Which life of which server this is.
    Hello {
        run: String,
    },
}

/// How a lock stands at a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Standing {
    /// No ballot up to this one is voted for.
    pub(super) counter: u64,
    /// Of whoever has the vote, if anyone has.
    pub(super) record: String,
    /// How long the vote lasts; if there is none, for how long it is another's turn.
    pub(super) left: Duration,
    /// The node's time in milliseconds.
    pub(super) now: u64,
}

impl Standing {
    /// Whether no ballot, however high, would be voted for.
    pub(super) fn is_taken(&self) -> bool {
        !self.record.is_empty() || !self.left.is_zero()
    }

    /// Nonce and ballot of whoever has the vote.
    pub(super) fn candidate(&self) -> Option<&str> {
        let nonce = self.record.find(' ')?;
        let ballot = self.record[nonce + 1..].find(' ')?;
        Some(&self.record[..nonce + 1 + ballot])
    }
}

impl Step {
    /// Whether it is the same as this one, sent again.
    pub(super) fn is_of(&self, other: &Step) -> bool {
        (self.what, self.nonce, self.ballot) == (other.what, other.nonce, other.ballot)
            && self.vote.0 == other.vote.0
            && self.waits.is_some() == other.waits.is_some()
    }
}

impl Carried for Step {
    type Answer = Answer;

    fn is_one_of_many(&self) -> bool {
        self.what == What::Renew
    }

    fn command(steps: &[Self], whole: bool) -> Cmd {
        let mut cmd = Cmd::with_capacity(5 + steps.len() * 8, 128 + steps.len() * 256);
        if whole {
            cmd.arg("EVAL").arg(scripts::QUORUM);
        } else {
            cmd.arg("EVALSHA").arg(SCRIPT.get_hash());
        }
        cmd.arg(steps.len());
        for step in steps {
            cmd.arg(&*step.vote.0);
        }
        let rules = steps.first().map_or(Rules { longest: 0, durable: false }, |step| step.rules);
        cmd.arg(rules.longest).arg(u8::from(rules.durable));
        for step in steps {
            let nonce = step.nonce.map(|nonce| nonce.to_string()).unwrap_or_default();
            let (client, since) = step.waits.as_ref().map_or(("", 0), |(client, since)| (client, *since));
            cmd.arg(step.what.name())
                .arg(nonce)
                .arg(step.ballot)
                .arg(step.ttl)
                .arg(&*step.names)
                .arg(client)
                .arg(since);
        }
        cmd
    }

    fn answers(steps: &[Self], value: Value) -> Vec<StepResult<Answer>> {
        let mut answers = one_each(steps.len(), value);
        steps.iter().map(|_| answers.next().and_then(parse).unwrap_or_else(odd)).collect()
    }
}

fn parse(value: Value) -> Option<StepResult<Answer>> {
    if let Some(message) = failure(&value) {
        return Some(Err(error::said(&message)));
    }
    let ms = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    Some(Ok(match value {
        Value::Int(0) => Answer::No,
        Value::Int(1) => Answer::Yes,
        Value::Array(parts) => match parts.as_slice() {
            [Value::Int(-1), _, Value::Int(left), _] => Answer::Quarantined(ms(*left)),
            [Value::Int(counter), record, Value::Int(left), Value::Int(now)] => {
                let (counter, now) = (u64::try_from(*counter).ok()?, u64::try_from(*now).ok()?);
                Answer::Stands(Standing { counter, record: text(record)?, left: ms(*left), now })
            }
            [run, Value::Int(_), Value::Int(_)] => Answer::Hello { run: text(run)? },
            _ => return None,
        },
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_frozen() {
        let key = |name: &str| VoteKey::of(&Key::new(name).unwrap()).0.to_string();
        assert_eq!(key("tasklock:team:acme"), "{tasklock:team:acme}:1:vote");
        assert_eq!(key("a}b"), "{a%7Db}:1:vote");
    }

    #[test]
    fn candidates_are_nonce_and_ballot() {
        let standing = |record: &str| Standing { counter: 1, record: record.to_owned(), left: Duration::ZERO, now: 1 };
        assert_eq!(standing("ab 12 7 1 host app me").candidate(), Some("ab 12"));
        assert_eq!(standing("").candidate(), None);
    }

    #[test]
    fn odd_answers_are_no_panic() {
        for value in [Value::Nil, Value::Int(7), Value::Array(vec![]), Value::Array(vec![Value::Int(-5); 4])] {
            assert!(parse(value).is_none());
        }
    }
}
