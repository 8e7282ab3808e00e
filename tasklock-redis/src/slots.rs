//! The slots of a cluster: which one a lock is in, and which node has it.

use std::sync::{Arc, LazyLock};

use redis::Value;
use tasklock_core::Key;

use crate::layout::{OwnerKey, tag_of};

const COUNT: usize = 16_384;

/// One of the 16,384 parts into which a cluster divides its keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Slot(u16);

impl Slot {
    /// That of a lock: all its keys are in it.
    pub(crate) fn of(owner: &OwnerKey) -> Self {
        Self::of_tag(owner.tag())
    }

    /// The same, or that of a pool, by its name.
    pub(crate) fn of_key(key: &Key) -> Self {
        Self::of_tag(&tag_of(key))
    }

    /// That of whatever has this in braces.
    pub(crate) fn of_tag(tag: &str) -> Self {
        Slot(crc16(tag.bytes()) % 16_384)
    }

    /// What is to be in the braces of a name that belongs here: the smallest number that does it. Frozen: clients find
    /// each other by it.
    pub(crate) fn tag(self) -> u32 {
        TAGS[usize::from(self.0)]
    }
}

/// Which master has which slot, as far as is known.
#[derive(Clone, Debug)]
pub(crate) struct Map {
    /// Places in `masters`, counted from 1; 0 for a slot that nobody has.
    slots: Box<[u16]>,
    masters: Vec<Arc<str>>,
}

impl Map {
    /// Nobody has anything.
    pub(crate) fn new() -> Self {
        Map { slots: vec![0; COUNT].into(), masters: Vec::new() }
    }

    /// From the answer to `CLUSTER SLOTS`. A node that does not know its own name is the `asked` one.
    pub(crate) fn parse(answer: &Value, asked: &str) -> Option<Self> {
        let Value::Array(ranges) = answer else { return None };
        let mut map = Self::new();
        for range in ranges {
            let Value::Array(range) = range else { return None };
            let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = range.as_slice() else { return None };
            let [host, Value::Int(port), ..] = master.as_slice() else { return None };
            let (first, last) = (usize::try_from(*first).ok()?, usize::try_from(*last).ok()?);
            if first > last || last >= COUNT {
                return None;
            }
            let place = map.place(&address(host, *port, asked));
            map.slots[first..=last].fill(place);
        }
        Some(map)
    }

    /// The master that has this slot.
    pub(crate) fn master(&self, slot: Slot) -> Option<&Arc<str>> {
        self.masters.get(usize::from(self.slots[usize::from(slot.0)]).checked_sub(1)?)
    }

    /// A node said that this slot is there.
    pub(crate) fn moved(&mut self, slot: Slot, to: &str) {
        let place = self.place(to);
        self.slots[usize::from(slot.0)] = place;
    }

    /// Every master that has a slot, and one of its slots.
    pub(crate) fn masters(&self) -> Vec<(Arc<str>, Slot)> {
        let first = |place| self.slots.iter().position(|other| *other == place);
        let masters = (1..).zip(&self.masters);
        masters.filter_map(|(place, master)| Some((master.clone(), Slot(u16::try_from(first(place)?).ok()?)))).collect()
    }

    /// How many slots somebody has.
    pub(crate) fn known(&self) -> usize {
        self.slots.iter().filter(|place| **place > 0).count()
    }

    fn place(&mut self, address: &str) -> u16 {
        let at = self.masters.iter().position(|known| **known == *address).unwrap_or_else(|| {
            self.masters.push(address.into());
            self.masters.len() - 1
        });
        // There are no more masters than slots.
        u16::try_from(at + 1).unwrap_or_default()
    }
}

/// `host:port`, with the host of who was asked where there is none.
fn address(host: &Value, port: i64, asked: &str) -> String {
    let named = match host {
        Value::BulkString(host) => String::from_utf8_lossy(host).into_owned(),
        Value::SimpleString(host) => host.clone(),
        _ => String::new(),
    };
    let host = if named.is_empty() || named == "?" { host_of(asked) } else { &named };
    format!("{host}:{port}")
}

/// The host of `host:port`.
pub(crate) fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

static TAGS: LazyLock<Box<[u32]>> = LazyLock::new(|| {
    let mut tags = vec![None; COUNT];
    let mut left = COUNT;
    for number in 0_u32.. {
        let Slot(slot) = Slot::of_tag(&number.to_string());
        let tag = &mut tags[usize::from(slot)];
        if tag.is_none() {
            *tag = Some(number);
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    tags.into_iter().flatten().collect()
});

/// CRC-16/XMODEM, by which a cluster finds the slot of a key.
fn crc16(bytes: impl Iterator<Item = u8>) -> u16 {
    const TABLE: [u16; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let (mut crc, mut bit) = ((i as u16) << 8, 0);
            while bit < 8 {
                crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    bytes.fold(0, |crc, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `CLUSTER KEYSLOT` says.
    #[test]
    fn slots_are_those_of_the_server() {
        assert_eq!(crc16("123456789".bytes()), 0x31C3);
        for (tag, slot) in [("foo", 12_182), ("bar", 5_061), ("", 0), ("user1000", 3_443)] {
            assert_eq!(Slot::of_tag(tag), Slot(slot), "{tag}");
        }
        let owner = OwnerKey::of(&Key::new("foo").unwrap());
        assert_eq!(Slot::of(&owner), Slot(12_182));
        let escaped = Key::new("{foo}").unwrap();
        assert_eq!(Slot::of_key(&escaped), Slot::of(&OwnerKey::of(&escaped)));
    }

    /// Another version of this code publishes to the same channels.
    #[test]
    fn tags_are_frozen() {
        for (number, tag) in (0..).zip(TAGS.iter()) {
            assert_eq!(Slot::of_tag(&tag.to_string()), Slot(number));
        }
        assert_eq!(TAGS.len(), COUNT);
        let sum = TAGS.iter().fold(0_u64, |sum, tag| sum.wrapping_mul(31).wrapping_add(u64::from(*tag)));
        assert_eq!(
            (Slot(0).tag(), Slot(1).tag(), Slot(16_383).tag(), sum),
            (3_560, 22_179, 39_296, 13_536_670_272_240_196_212)
        );
    }

    fn range(first: i64, last: i64, host: &str, port: i64) -> Value {
        let node = Value::Array(vec![Value::BulkString(host.into()), Value::Int(port), Value::BulkString("id".into())]);
        Value::Array(vec![Value::Int(first), Value::Int(last), node.clone(), node])
    }

    #[test]
    fn maps_are_read() {
        let answer = Value::Array(vec![range(0, 99, "a", 1), range(100, 200, "", 2), range(300, 300, "a", 1)]);
        let mut map = Map::parse(&answer, "asked.example:7").unwrap();
        let of = |map: &Map, slot| map.master(Slot(slot)).map(|master| master.to_string());
        assert_eq!(of(&map, 0), Some("a:1".to_owned()));
        assert_eq!(of(&map, 150), Some("asked.example:2".to_owned()));
        assert_eq!(of(&map, 250), None);
        assert_eq!(map.known(), 202);
        map.moved(Slot(250), "c:3");
        map.moved(Slot(300), "c:3");
        assert_eq!((of(&map, 250), of(&map, 300)), (Some("c:3".to_owned()), Some("c:3".to_owned())));
        let masters: Vec<_> = map.masters().into_iter().map(|(master, slot)| (master.to_string(), slot.0)).collect();
        assert_eq!(masters, [("a:1".to_owned(), 0), ("asked.example:2".to_owned(), 100), ("c:3".to_owned(), 250)]);
    }

    #[test]
    fn other_peoples_answers_are_no_panic() {
        for answer in [
            Value::Nil,
            Value::Array(vec![Value::Nil]),
            Value::Array(vec![range(5, 2, "a", 1)]),
            Value::Array(vec![range(0, 16_384, "a", 1)]),
            Value::Array(vec![range(-1, 1, "a", 1)]),
        ] {
            assert!(Map::parse(&answer, "h:1").is_none());
        }
        assert_eq!(Map::parse(&Value::Array(Vec::new()), "h:1").map(|map| map.known()), Some(0));
    }
}
