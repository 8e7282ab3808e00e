//! Commands of newer servers that do what a step of the script does, at a fiftieth of its cost.
//!
//! The value beside a lock is compared and set, or compared and deleted, by one command where the server has it: `SET … IFEQ`
//! (Valkey 8.1, Redis 8.4), `DELIFEQ` (Valkey 9), `DELEX … IFEQ` (Redis 8.4). Whether it has is found out by using it: one that
//! has not, or whose user may not, refuses it, has done nothing, and is sent the step instead. That is remembered for as long as
//! the connection lasts, since what is behind it stays the same. So there is no question to ask before, nothing is guessed
//! from a version that forks number as they like, and no further right is needed.

use redis::{Cmd, RedisError, Value};

use crate::layout::OwnerKey;

/// The value beside a lock, set or deleted if it equals another.
#[derive(Clone, Debug)]
pub(crate) struct IfEqual {
    pub(crate) owner: OwnerKey,
    pub(crate) than: String,
    /// The new value, and for how many milliseconds: 0 never ends. None: it is deleted.
    pub(crate) to: Option<(String, u64)>,
}

/// A command, as one of those that a server has refused.
pub(crate) type Kind = u8;

const SET_IFEQ: Kind = 1;
const DELIFEQ: Kind = 2;
const DELEX: Kind = 4;

impl IfEqual {
    /// By which it may be done, the likelier first.
    pub(crate) fn commands(&self) -> Vec<(Kind, Cmd)> {
        let (key, than) = (self.owner.of_value(), self.than.as_str());
        let Some((value, ttl)) = &self.to else {
            let (mut delifeq, mut delex) = (redis::cmd("DELIFEQ"), redis::cmd("DELEX"));
            delifeq.arg(&key).arg(than);
            delex.arg(&key).arg("IFEQ").arg(than);
            return vec![(DELIFEQ, delifeq), (DELEX, delex)];
        };
        let mut set = redis::cmd("SET");
        set.arg(&key).arg(value).arg("IFEQ").arg(than);
        if *ttl > 0 {
            set.arg("PX").arg(*ttl);
        }
        vec![(SET_IFEQ, set)]
    }
}

/// Whether it was done.
pub(crate) fn is_done(answer: &Value) -> bool {
    matches!(answer, Value::Okay | Value::Int(1))
}

/// Whether the server has no such command for this client, and so has done nothing.
pub(crate) fn is_refused(error: &RedisError) -> bool {
    let detail = error.detail().unwrap_or_default();
    match error.code() {
        Some("NOPERM") => true,
        Some("ERR") => detail.starts_with("syntax error") || detail.starts_with("unknown command"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use tasklock_core::Key;

    use super::*;

    fn words(change: &IfEqual) -> Vec<String> {
        let packed = |(_, command): (Kind, Cmd)| String::from_utf8(command.get_packed_command()).unwrap();
        let text = |packed: String| packed.lines().skip(2).step_by(2).collect::<Vec<_>>().join(" ");
        change.commands().into_iter().map(packed).map(text).collect()
    }

    #[test]
    fn they_are_what_newer_servers_have() {
        let owner = OwnerKey::of(&Key::new("job").unwrap());
        let mut change = IfEqual { owner, than: "a".to_owned(), to: Some(("b".to_owned(), 50)) };
        assert_eq!(words(&change), ["SET {job}:1:value b IFEQ a PX 50"]);
        change.to = Some(("b".to_owned(), 0));
        assert_eq!(words(&change), ["SET {job}:1:value b IFEQ a"]);
        change.to = None;
        assert_eq!(words(&change), ["DELIFEQ {job}:1:value a", "DELEX {job}:1:value IFEQ a"]);
    }

    #[test]
    fn only_a_refusal_is_one() {
        let said = |code: &str, detail: &str| {
            is_refused(&redis::make_extension_error(code.to_owned(), Some(detail.to_owned())))
        };
        assert!(said("ERR", "syntax error"));
        assert!(said("ERR", "unknown command 'DELIFEQ', with args beginning with: 'k'"));
        assert!(said("NOPERM", "User locks has no permissions to run the 'delifeq' command"));
        assert!(!said("WRONGTYPE", "Operation against a key"));
        assert!(!said("ERR", "max number of clients reached"));
        assert!(!said("READONLY", "You can't write against a read only replica."));
    }
}
