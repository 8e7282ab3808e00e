//! The item of a lock: its attributes, and the expressions that change it. Frozen by tests: other versions of this crate
//! work on the same table.

use std::{collections::HashMap, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use tasklock_core::{FencingToken, Holder, Key, Nonce, Owner, wall_micros};

use crate::{DynamoError, sightings::Beat};

/// The format this version writes, and the only one it knows.
pub(crate) const FORMAT: u64 = 1;
/// The table's partition key.
pub(crate) const KEY: &str = "pk";
/// The attribute for the table's time to live.
pub(crate) const PURGE: &str = "purge_at";

/// How long after its last use an item is rubbish. Clocks of clients may be wrong by nearly as much: the table must not
/// take an item in use for rubbish, and a token that begins anew by the clock must be above those before.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// The end of the year 9999: when an item that is held for ever is rubbish. Not absent, or a withdrawal by one who
/// waits for it would set a nearer end.
const NEVER: u64 = 253_402_300_799;
/// Longer than a signed request is accepted, clocks set wrong included. A withdrawal is remembered for one period at
/// least, and forgotten by the second withdrawal of a later one.
const PERIOD: Duration = Duration::from_secs(15 * 60);
/// Withdrawn nonces: those of the period `gone_at`, and those before.
const GONE: [&str; 2] = ["gone", "gone_before"];
/// A holder's details take no more than this, so that a write stays within one unit.
const DETAIL: usize = 80;

const NOT_GONE: &str = "NOT contains(gone, :me) AND NOT contains(gone_before, :me)";
const KNOWN: &str = "(attribute_not_exists(fmt) OR fmt = :fmt)";
/// What a taker counts with can be counted with. A comparison with another type does not hold.
const SOUND: &str = "(attribute_not_exists(hb) OR hb BETWEEN :zero AND :most) AND \
                     (attribute_not_exists(tok) OR tok BETWEEN :zero AND :most) AND \
                     (attribute_not_exists(gone_at) OR gone_at BETWEEN :zero AND :most)";
/// No count comes near.
const MOST: u64 = u64::MAX / 2;

pub(crate) type Item = HashMap<String, AttributeValue>;

/// A conditional change of one item.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) update: String,
    pub(crate) condition: String,
    pub(crate) values: Item,
}

/// What an item says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    pub(crate) held: Option<Held>,
    /// The last token minted.
    pub(crate) token: u64,
    gone: Vec<String>,
}

/// The hold on a lock.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Held {
    pub(crate) beat: Beat,
    /// None if it never ends.
    pub(crate) lease: Option<Duration>,
    owner: Owner,
    since: Option<u64>,
}

impl Change {
    /// Takes the lock if it is free, or if its holder has not moved since `stale` was seen.
    pub(crate) fn take(nonce: Nonce, lease: Option<Duration>, span: u32, owner: &Owner, stale: Option<Beat>) -> Self {
        let now = wall_micros();
        let details = HashMap::from([
            ("name".to_owned(), text(cut(owner.name()))),
            ("host".to_owned(), text(cut(owner.host()))),
            ("pid".to_owned(), number(owner.pid())),
            ("app".to_owned(), text(cut(owner.application()))),
            ("since".to_owned(), number(now / 1_000_000)),
        ]);
        let mut values = values([
            (":me", text(nonce.to_string())),
            (":fmt", number(FORMAT)),
            (":zero", number(0)),
            (":most", number(MOST)),
            (":one", number(1)),
            (":seed", number(now)),
            (":span", number(span)),
            (":holder", AttributeValue::M(details)),
        ]);
        let set = "own = :me, hb = if_not_exists(hb, :zero) + :one, tok = if_not_exists(tok, :seed) + :span, \
                   fmt = :fmt, holder = :holder";
        let update = format!("SET {set}{}", lasting(lease, &mut values));
        let free = if let Some(beat) = stale {
            values.extend([(":seen".to_owned(), text(beat.own.to_string())), (":beat".to_owned(), number(beat.count))]);
            "(attribute_not_exists(own) OR (own = :seen AND hb = :beat))"
        } else {
            "attribute_not_exists(own)"
        };
        Change { update, condition: format!("{free} AND {NOT_GONE} AND {KNOWN} AND {SOUND}"), values }
    }

    /// Shows a sign of life.
    pub(crate) fn renew(nonce: Nonce, lease: Option<Duration>) -> Self {
        let mut values = values([(":me", text(nonce.to_string())), (":one", number(1))]);
        let update = format!("SET hb = hb + :one{}", lasting(lease, &mut values));
        Change { update, condition: "own = :me".to_owned(), values }
    }

    /// Gives the lock back. The token stays.
    pub(crate) fn release(nonce: Nonce) -> Self {
        let values = values([(":me", text(nonce.to_string())), (":purge", purge_at())]);
        let update = format!("SET {PURGE} = :purge REMOVE own");
        Change { update, condition: "own = :me".to_owned(), values }
    }

    /// Remembers that this nonce takes nothing any more: the first withdrawal of a period lets go of those that nobody
    /// accepts by now, and is refused if it is not the first.
    pub(crate) fn withdraw_first(nonce: Nonce) -> Self {
        let mut values = withdrawal(nonce);
        values.insert(":nobody".to_owned(), AttributeValue::Ss(vec!["nobody".to_owned()]));
        let update = format!(
            "SET gone_before = if_not_exists(gone, :nobody), gone = :gone, gone_at = :period, fmt = :fmt, \
             {PURGE} = if_not_exists({PURGE}, :purge)"
        );
        let condition = format!("(attribute_not_exists(gone_at) OR gone_at < :period) AND {KNOWN}");
        Change { update, condition, values }
    }

    /// The same for the others of the period.
    pub(crate) fn withdraw_next(nonce: Nonce) -> Self {
        let update = format!("SET fmt = :fmt, {PURGE} = if_not_exists({PURGE}, :purge) ADD gone :gone");
        Change { update, condition: format!("gone_at >= :period AND {KNOWN}"), values: withdrawal(nonce) }
    }

    /// Ends a hold, only that of `seen` if given.
    pub(crate) fn revoke(seen: Option<Nonce>) -> Self {
        let mut values = values([(":fmt", number(FORMAT)), (":purge", purge_at())]);
        let mut condition = format!("attribute_exists(own) AND {KNOWN}");
        if let Some(seen) = seen {
            values.insert(":seen".to_owned(), text(seen.to_string()));
            condition.push_str(" AND own = :seen");
        }
        Change { update: format!("SET {PURGE} = :purge REMOVE own"), condition, values }
    }
}

impl Record {
    /// What an item says; none is a lock nobody ever had.
    pub(crate) fn read(table: &str, key: &Key, item: Option<&Item>) -> Result<Self, DynamoError> {
        let Some(item) = item else { return Ok(Record { held: None, token: 0, gone: Vec::new() }) };
        let damaged =
            |what: String| DynamoError::Damaged { table: table.to_owned(), key: key.as_str().to_owned(), what };
        let count = |name: &str| whole(item, name).map_err(damaged);
        let found = count("fmt")?.unwrap_or(FORMAT);
        if found != FORMAT {
            let (table, key) = (table.to_owned(), key.as_str().to_owned());
            return Err(DynamoError::NewerFormat { table, key, found, known: FORMAT });
        }
        let token = count("tok")?.unwrap_or(0);
        let beats = count("hb")?;
        // A withdrawal compares it, and another type is neither less nor more.
        count("gone_at")?;
        let gone = GONE.iter().filter_map(|name| item.get(*name)?.as_ss().ok()).flatten().cloned().collect();
        let Some(own) = item.get("own") else { return Ok(Record { held: None, token, gone }) };
        let own = own.as_s().ok().and_then(|own| nonce(own));
        let own = own.ok_or_else(|| damaged("`own` is not 32 hexadecimal digits".to_owned()))?;
        let beats = beats.ok_or_else(|| damaged("`hb` is missing".to_owned()))?;
        if token == 0 {
            return Err(damaged("`tok` is missing".to_owned()));
        }
        let lease = count("ld")?.map(Duration::from_millis);
        let (owner, since) = holder(item.get("holder"));
        Ok(Record { held: Some(Held { beat: Beat { own, count: beats }, lease, owner, since }), token, gone })
    }

    /// Whether this nonce was withdrawn.
    pub(crate) fn is_gone(&self, nonce: Nonce) -> bool {
        !self.gone.is_empty() && self.gone.contains(&nonce.to_string())
    }

    /// The first of the tokens that the last grant reserved.
    pub(crate) fn first_token(&self, span: u32) -> FencingToken {
        FencingToken::new(self.token.saturating_sub(u64::from(span) - 1))
    }
}

impl Held {
    /// For others to read. How long it has been held is by two clocks, and may be off by what they differ.
    pub(crate) fn holder(&self, token: u64, left: Option<Duration>) -> Holder {
        let holder = Holder::new(self.owner.clone()).remaining(left).token(FencingToken::new(token));
        match self.since {
            Some(since) => holder.held(Duration::from_secs((wall_micros() / 1_000_000).saturating_sub(since))),
            None => holder,
        }
    }
}

/// The key of a lock's item.
pub(crate) fn key(key: &Key) -> AttributeValue {
    text(key.as_str())
}

/// The part of an update that says how long it holds. An item that holds for ever is never rubbish.
fn lasting(lease: Option<Duration>, values: &mut Item) -> String {
    let purge = if lease.is_some() { purge_at() } else { number(NEVER) };
    values.insert(":purge".to_owned(), purge);
    let Some(lease) = lease else { return format!(", {PURGE} = :purge REMOVE ld") };
    values.insert(":ld".to_owned(), number(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX)));
    format!(", ld = :ld, {PURGE} = :purge")
}

fn withdrawal(nonce: Nonce) -> Item {
    let period = wall_micros() / u64::try_from(PERIOD.as_micros()).unwrap_or(u64::MAX);
    values([
        (":gone", AttributeValue::Ss(vec![nonce.to_string()])),
        (":period", number(period)),
        (":fmt", number(FORMAT)),
        (":purge", purge_at()),
    ])
}

/// When an item that is not used any more is rubbish, in seconds of the epoch.
fn purge_at() -> AttributeValue {
    number(wall_micros() / 1_000_000 + KEPT.as_secs())
}

fn values<const N: usize>(values: [(&str, AttributeValue); N]) -> Item {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn whole(item: &Item, name: &str) -> Result<Option<u64>, String> {
    let Some(value) = item.get(name) else { return Ok(None) };
    let number = value.as_n().ok().and_then(|n| n.parse().ok()).filter(|n| *n <= MOST);
    number.map(Some).ok_or_else(|| format!("`{name}` is not a whole number of type N"))
}

fn nonce(text: &str) -> Option<Nonce> {
    let is_hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(Nonce::from_u128)
}

/// Who holds it, as far as can be read: no lock depends on it.
fn holder(details: Option<&AttributeValue>) -> (Owner, Option<u64>) {
    let empty = HashMap::new();
    let details = details.and_then(|d| d.as_m().ok()).unwrap_or(&empty);
    let text = |name: &str| details.get(name).and_then(|v| v.as_s().ok()).map_or("unknown", String::as_str);
    let count = |name: &str| details.get(name).and_then(|v| v.as_n().ok()).and_then(|n| n.parse::<u64>().ok());
    let pid = count("pid").and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    (Owner::recorded(text("name"), text("host"), pid, text("app")), count("since"))
}

fn cut(detail: &str) -> &str {
    let mut end = detail.len().min(DETAIL);
    while !detail.is_char_boundary(end) {
        end -= 1;
    }
    &detail[..end]
}
