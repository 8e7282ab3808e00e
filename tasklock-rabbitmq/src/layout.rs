//! Names and messages as the broker has them. Other versions read them: none of this may change under the same number.

use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable, ShortString},
};
use sha2::{Digest, Sha256};
use tasklock_core::{FencingToken, Key};

/// What every queue's name begins with.
const HEAD: &str = "tasklock.1";
/// The longest name a queue can have, in bytes.
const LONGEST: usize = 255;
/// How long a queue is kept that nobody consumes from, in milliseconds.
const IDLE: i32 = 600_000;
/// How often a token may be handed over. Without it a broker of version 4 drops the token at the twentieth, and -1 means
/// "never hand over" to one of version 3.
const HAND_OVERS: i64 = 1 << 40;

const KIND: &str = "tasklock-kind";
const BASE: &str = "tasklock-base";
/// For whoever looks into the queue.
const TOKEN: &[u8] = b"This message is a lock of tasklock: whoever has it unacknowledged holds the lock.";
const QUESTION: &[u8] = b"A waiter of tasklock asks whether this queue still has its lock.";

/// A message that came out of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Message {
    /// The lock, and what it is held under.
    Token(FencingToken),
    /// Whoever gets this is the active consumer, and holds nothing.
    Question,
    /// None of ours.
    Foreign,
}

/// The queue of a lock.
pub(crate) fn queue_of(key: &Key) -> ShortString {
    let key = key.as_str();
    if HEAD.len() + 1 + key.len() <= LONGEST {
        return format!("{HEAD}:{key}").into();
    }
    let hash: String = Sha256::digest(key).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let mut room = LONGEST - HEAD.len() - hash.len() - 2;
    while !key.is_char_boundary(room) {
        room -= 1;
    }
    format!("{HEAD}~{hash}:{}", &key[..room]).into()
}

/// What a queue is declared with: the same for all, or the broker refuses whoever comes second.
pub(crate) fn arguments() -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    table.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    table.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(HAND_OVERS));
    table.insert("x-expires".into(), AMQPValue::LongInt(IDLE));
    table
}

/// A token whose grants begin above `base`.
pub(crate) fn token(base: u64) -> (BasicProperties, &'static [u8]) {
    let base = AMQPValue::LongLongInt(i64::try_from(base).unwrap_or(i64::MAX));
    (properties("token", Some(base)), TOKEN)
}

/// The question whether there is a token.
pub(crate) fn question() -> (BasicProperties, &'static [u8]) {
    (properties("question", None), QUESTION)
}

pub(crate) fn read(delivery: &Delivery) -> Message {
    let headers = delivery.properties.headers().as_ref().map(FieldTable::inner);
    let header = |name: &str| headers.and_then(|headers| headers.get(name));
    let number = |name: &str| header(name).and_then(number);
    match header(KIND) {
        Some(AMQPValue::LongString(kind)) if kind.as_bytes() == b"question" => Message::Question,
        Some(AMQPValue::LongString(kind)) if kind.as_bytes() == b"token" => {
            let Some(base) = number(BASE) else { return Message::Foreign };
            // Newer brokers count a hand-over as an acquisition, no longer as a delivery that failed.
            let count = number("x-delivery-count").unwrap_or(0).max(number("x-acquired-count").unwrap_or(0));
            Message::Token(FencingToken::new(base.saturating_add(count)))
        }
        _ => Message::Foreign,
    }
}

fn properties(kind: &str, base: Option<AMQPValue>) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(KIND.into(), AMQPValue::LongString(kind.into()));
    if let Some(base) = base {
        headers.insert(BASE.into(), base);
    }
    // 2: kept on disk.
    BasicProperties::default().with_delivery_mode(2).with_content_type("text/plain".into()).with_headers(headers)
}

fn number(value: &AMQPValue) -> Option<u64> {
    match *value {
        AMQPValue::ShortShortInt(n) => n.try_into().ok(),
        AMQPValue::ShortShortUInt(n) => Some(n.into()),
        AMQPValue::ShortInt(n) => n.try_into().ok(),
        AMQPValue::ShortUInt(n) => Some(n.into()),
        AMQPValue::LongInt(n) => n.try_into().ok(),
        AMQPValue::LongUInt(n) => Some(n.into()),
        AMQPValue::LongLongInt(n) => n.try_into().ok(),
        AMQPValue::Timestamp(n) => Some(n),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(key: &str) -> String {
        queue_of(&Key::new(key).unwrap()).as_str().to_owned()
    }

    fn delivery(properties: BasicProperties) -> Delivery {
        let mut delivery = Delivery::mock(1, "".into(), "q".into(), false, Vec::new());
        delivery.properties = properties;
        delivery
    }

    fn with(mut properties: BasicProperties, header: &str, value: AMQPValue) -> BasicProperties {
        let mut headers = properties.headers().clone().unwrap_or_default();
        headers.insert(header.into(), value);
        properties = properties.with_headers(headers);
        properties
    }

    /// Frozen: a name that changes lets two versions hold one lock.
    #[test]
    fn names_are_frozen() {
        assert_eq!(name("tasklock:job:7"), "tasklock.1:tasklock:job:7");
        assert_eq!(name("a/b {c}*?#ключ"), "tasklock.1:a/b {c}*?#ключ");
        assert_eq!(name(&"x".repeat(244)), format!("tasklock.1:{}", "x".repeat(244)));
        let long = "tasklock.1~becad1fd31bd361e30adaa11df969d1d:";
        assert_eq!(name(&"x".repeat(245)), format!("{long}{}", "x".repeat(211)));
    }

    #[test]
    fn names_fit_and_never_meet() {
        let long = "é".repeat(256);
        let mut names: Vec<String> = [
            "x".repeat(244),
            "x".repeat(245),
            "x".repeat(246),
            "x".repeat(512),
            format!("{}y", "x".repeat(511)),
            long.clone(),
            long[..510].to_owned(),
            // What the hash of another looks like.
            name(&"x".repeat(245))["tasklock.1".len() + 1..].to_owned(),
        ]
        .map(|key| name(&key))
        .into();
        assert!(names.iter().all(|name| name.len() <= LONGEST && name.starts_with(HEAD)), "{names:?}");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 8);
    }

    /// Frozen: a broker refuses a queue that is declared with other arguments.
    #[test]
    fn arguments_are_frozen() {
        let arguments = arguments();
        let shown: Vec<_> = arguments.inner().iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        assert_eq!(
            shown,
            [
                ("x-delivery-limit", AMQPValue::LongLongInt(1_099_511_627_776)),
                ("x-expires", AMQPValue::LongInt(600_000)),
                ("x-queue-type", AMQPValue::LongString("quorum".into())),
                ("x-single-active-consumer", AMQPValue::Boolean(true)),
            ]
        );
    }

    #[test]
    fn tokens_count_hand_overs_from_their_base() {
        let fresh = token(1_700_000_000_000_000).0;
        let token = |properties| match read(&delivery(properties)) {
            Message::Token(token) => token.get(),
            other => panic!("{other:?}"),
        };
        assert_eq!(token(fresh.clone()), 1_700_000_000_000_000);
        let counted = with(fresh.clone(), "x-delivery-count", AMQPValue::LongLongInt(7));
        assert_eq!(token(counted.clone()), 1_700_000_000_000_007);
        assert_eq!(token(with(counted, "x-acquired-count", AMQPValue::LongUInt(9))), 1_700_000_000_000_009);
        assert_eq!(*fresh.delivery_mode(), Some(2), "not kept over a restart");
    }

    #[test]
    fn what_is_not_ours_is_no_lock() {
        assert_eq!(read(&delivery(question().0)), Message::Question);
        let broken = with(question().0, KIND, AMQPValue::LongString("token".into()));
        let negative = with(broken.clone(), BASE, AMQPValue::LongLongInt(-1));
        for foreign in [BasicProperties::default(), broken, negative] {
            assert_eq!(read(&delivery(foreign)), Message::Foreign);
        }
    }
}
