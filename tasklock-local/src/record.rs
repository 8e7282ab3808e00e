//! What is in a lock's file: the last token, and who took it. The format is frozen.
//!
//! ```text
//! tasklock 1
//! token 1763690000000001
//! nonce 000102030405060708090a0b0c0d0e0f
//! mode exclusive
//! since 1763690000000000
//! until 1763690030000000
//! waker -
//! pid 4711
//! host web-3
//! application billing
//! owner billing@web-3:4711
//! check f223976b1c7f0864
//! ```
//!
//! Times are microseconds of the wall clock: for people and for `inspect`, nothing is decided by them. A file that
//! nobody has since its lock was broken has no lines between `token` and `check`. What follows `check` is left over from
//! a longer record. All of it fits into a page, and is written by one call.

use std::{borrow::Cow, fmt::Write as _, sync::Arc};

use tasklock_core::{FencingToken, Holder, Nonce, Owner};

/// No record is longer.
pub(crate) const MOST: usize = 4096;
/// How much of a name is kept. Escaped, all three fit into a record.
const LONGEST_NAME: usize = 384;

const MAGIC: &str = "tasklock ";
const HEAD: &str = "tasklock 1\n";

/// What a file says.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Content {
    /// Nothing, or nothing that can be made out: a new file, or one that a crash of the machine has left half written.
    Nothing,
    /// A record.
    Record(Record),
    /// A record of another version.
    Version(String),
    /// Something that was never a record.
    Foreign,
}

/// The last token, and who took it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Record {
    pub(crate) token: FencingToken,
    pub(crate) taker: Option<Taker>,
}

/// Who took a lock. Whether they still have it, only the lock can tell.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Taker {
    pub(crate) nonce: Nonce,
    pub(crate) shared: bool,
    pub(crate) since: u64,
    pub(crate) until: Option<u64>,
    /// The name of the socket on which the taker tells of its release.
    pub(crate) waker: Option<Arc<str>>,
    pub(crate) owner: Owner,
}

impl Content {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self::read(bytes, |lines| Some(Record { token: lines.token, taker: taker(lines.taker)? }))
    }

    /// The same without who took it, which an acquisition has no need of.
    pub(crate) fn parse_token(bytes: &[u8]) -> Self {
        Self::read(bytes, |lines| Some(Record { token: lines.token, taker: None }))
    }

    fn read(bytes: &[u8], record: impl FnOnce(&Lines<'_>) -> Option<Record>) -> Self {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            // The end of an older record, cut in the middle of a letter.
            Err(e) => std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or_default(),
        };
        if let Some(rest) = text.strip_prefix(HEAD) {
            return parse(text, rest).and_then(|lines| record(&lines)).map_or(Content::Nothing, Content::Record);
        }
        // File systems leave files behind that end early, or in zeros, when the machine crashes. Others' files may begin
        // with a zero, too.
        let written = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let (written, rest) = bytes.split_at(written);
        if HEAD.as_bytes().starts_with(written) && rest.iter().all(|byte| *byte == 0) && bytes.len() <= MOST {
            return Content::Nothing;
        }
        match text.strip_prefix(MAGIC).and_then(|rest| rest.lines().next()) {
            Some(version) => Content::Version(version.chars().take(20).collect()),
            None => Content::Foreign,
        }
    }

    pub(crate) fn taker(&self) -> Option<&Taker> {
        match self {
            Content::Record(record) => record.taker.as_ref(),
            _ => None,
        }
    }

    /// The holder, if there is one: whoever took it, or somebody of whom nothing is known.
    pub(crate) fn holder(&self, now: u64) -> Holder {
        let micros = std::time::Duration::from_micros;
        match self {
            Content::Record(Record { token, taker: Some(taker) }) => Holder::new(taker.owner.clone())
                .held(micros(now.saturating_sub(taker.since)))
                .remaining(taker.until.map(|until| micros(until.saturating_sub(now))))
                .token(*token),
            _ => Holder::new(Owner::recorded("unknown", "unknown", 0, "unknown")),
        }
    }
}

impl Record {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut text = Text(String::with_capacity(512));
        text.add(HEAD).add("token ").decimal(self.token.get());
        if let Some(Taker { nonce, shared, since, until, waker, owner }) = &self.taker {
            text.add("\nnonce ").hex(nonce.as_u128(), 32);
            text.add("\nmode ").add(if *shared { "shared" } else { "exclusive" });
            text.add("\nsince ").decimal(*since).add("\nuntil ");
            match until {
                Some(until) => text.decimal(*until),
                None => text.add("never"),
            };
            text.add("\nwaker ").add(waker.as_deref().unwrap_or("-"));
            text.add("\npid ").decimal(owner.pid().into());
            text.add("\nhost ").add(&escape(owner.host()));
            text.add("\napplication ").add(&escape(owner.application()));
            text.add("\nowner ").add(&escape(owner.name()));
        }
        text.add("\n");
        let check = check(text.0.as_bytes());
        text.add("check ").hex(check.into(), 16).add("\n");
        text.0.into_bytes()
    }
}

/// What is being written. Formatting in the usual way would take as long as a system call.
struct Text(String);

impl Text {
    fn add(&mut self, text: &str) -> &mut Self {
        self.0.push_str(text);
        self
    }

    fn decimal(&mut self, mut number: u64) -> &mut Self {
        const MOST: usize = 20;
        let (mut digits, mut at) = ([0; MOST], MOST);
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.0.extend(digits[at..].iter().map(|digit| char::from(*digit)));
        self
    }

    /// With so many digits.
    fn hex(&mut self, number: u128, digits: u32) -> &mut Self {
        let digit = |at| char::from(b"0123456789abcdef"[(number >> (4 * at)) as usize & 0xF]);
        self.0.extend((0..digits).rev().map(digit));
        self
    }
}

/// A record, checked and not yet understood.
struct Lines<'a> {
    token: FencingToken,
    /// Empty if there is none.
    taker: &'a str,
}

fn parse<'a>(text: &'a str, mut rest: &'a str) -> Option<Lines<'a>> {
    let token = FencingToken::new(field(&mut rest, "token")?.parse().ok()?);
    let from = text.len() - rest.len();
    while !rest.starts_with("check ") {
        rest = rest.split_once('\n')?.1;
    }
    let to = text.len() - rest.len();
    let sum = u64::from_str_radix(field(&mut rest, "check")?, 16).ok()?;
    (sum == check(&text.as_bytes()[..to])).then(|| Lines { token, taker: &text[from..to] })
}

/// `None` if that is not what the lines say; `Some(None)` if they say nothing.
fn taker(mut lines: &str) -> Option<Option<Taker>> {
    if lines.is_empty() {
        return Some(None);
    }
    let rest = &mut lines;
    let nonce = Nonce::from_u128(u128::from_str_radix(field(rest, "nonce")?, 16).ok()?);
    let shared = match field(rest, "mode")? {
        "exclusive" => false,
        "shared" => true,
        _ => return None,
    };
    let since = field(rest, "since")?.parse().ok()?;
    let until = match field(rest, "until")? {
        "never" => None,
        until => Some(until.parse().ok()?),
    };
    let waker = match field(rest, "waker")? {
        "-" => None,
        waker => Some(waker.into()),
    };
    let pid = field(rest, "pid")?.parse().ok()?;
    let (host, application) = (unescape(field(rest, "host")?), unescape(field(rest, "application")?));
    let owner = Owner::recorded(unescape(field(rest, "owner")?), host, pid, application);
    Some(Some(Taker { nonce, shared, since, until, waker, owner }))
}

/// The value of the next line, which must have this name.
fn field<'a>(rest: &mut &'a str, name: &str) -> Option<&'a str> {
    let (line, after) = rest.split_once('\n')?;
    let value = line.strip_prefix(name)?.strip_prefix(' ')?;
    *rest = after;
    Some(value)
}

/// Half-written records are told by it; it is no protection against anyone.
fn check(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    })
}

fn escape(name: &str) -> Cow<'_, str> {
    let mut end = name.len().min(LONGEST_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let name = &name[..end];
    // Controls beyond ASCII begin with this byte.
    if !name.bytes().any(|b| b == b'%' || b < 0x20 || b == 0x7F || b == 0xC2) {
        return Cow::Borrowed(name);
    }
    let mut escaped = String::with_capacity(3 * name.len());
    for c in name.chars() {
        if c == '%' || c.is_control() {
            let _ = c.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| write!(escaped, "%{byte:02x}"));
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

fn unescape(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let owner = Owner::recorded("billing@web-3:4711", "web-3", 4711, "billing");
        let nonce = Nonce::from_u128(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f);
        let (since, until) = (1_763_690_000_000_000, Some(1_763_690_030_000_000));
        let taker = Taker { nonce, shared: false, since, until, waker: None, owner };
        Record { token: FencingToken::new(1_763_690_000_000_001), taker: Some(taker) }
    }

    /// Frozen: processes of different versions read each other's files.
    #[test]
    fn format() {
        let golden = "tasklock 1\ntoken 1763690000000001\nnonce 000102030405060708090a0b0c0d0e0f\nmode exclusive\n\
                      since 1763690000000000\nuntil 1763690030000000\nwaker -\npid 4711\nhost web-3\n\
                      application billing\nowner billing@web-3:4711\ncheck f223976b1c7f0864\n";
        assert_eq!(String::from_utf8(record().to_bytes()).unwrap(), golden);
        let free = Record { token: FencingToken::new(7), taker: None };
        assert_eq!(String::from_utf8(free.to_bytes()).unwrap(), "tasklock 1\ntoken 7\ncheck 0828fa14841b7ff1\n");
    }

    #[test]
    fn what_is_written_is_read() {
        let mut record = record();
        let odd = Owner::recorded("a\nb%41 %", "хост", 0, "x".repeat(LONGEST_NAME));
        let taker = record.taker.as_mut().unwrap();
        (taker.shared, taker.until, taker.waker, taker.owner) = (true, None, Some("w.sock".into()), odd);
        for record in [self::record(), record, Record { token: FencingToken::new(u64::MAX), taker: None }] {
            let mut bytes = record.to_bytes();
            assert_eq!(Content::parse(&bytes), Content::Record(record.clone()));
            // Over a longer one, cut in the middle of a letter.
            bytes.extend(b"left over\n\xd0");
            assert_eq!(Content::parse(&bytes), Content::Record(record));
        }
    }

    #[test]
    fn the_longest_record_fits_into_a_page() {
        let mut record = record();
        let worst = "\u{85}".repeat(1000);
        record.taker.as_mut().unwrap().owner = Owner::recorded(worst.clone(), worst.clone(), u32::MAX, worst);
        record.token = FencingToken::new(u64::MAX);
        let bytes = record.to_bytes();
        assert!(bytes.len() <= MOST, "{}", bytes.len());
        assert!(matches!(Content::parse(&bytes), Content::Record(_)));
    }

    #[test]
    fn torn_records_say_nothing() {
        let whole = record().to_bytes();
        for cut in 0..whole.len() {
            assert_eq!(Content::parse(&whole[..cut]), Content::Nothing, "{cut} bytes");
            let mut zeroed = whole.clone();
            zeroed[cut..].fill(0);
            assert_eq!(Content::parse(&zeroed), Content::Nothing, "zeros from {cut}");
        }
        for at in HEAD.len()..whole.len() - 1 {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert_eq!(Content::parse(&changed), Content::Nothing, "a bit of byte {at}");
        }
        assert_eq!(Content::parse(&[0; 100]), Content::Nothing);
    }

    #[test]
    fn what_others_wrote_is_told() {
        assert_eq!(Content::parse(b"tasklock 2\nanything"), Content::Version("2".to_owned()));
        assert_eq!(Content::parse(b"tasklock 10\n"), Content::Version("10".to_owned()));
        let (zeros, image) = ([0; MOST + 1], [&[0; 510][..], b"\x55\xaa"].concat());
        for foreign in [&b"#!/bin/sh\n"[..], b"4711\n", b"\xff\xfe", b"tasklist", b"\0\x01\0", &image, &zeros] {
            assert_eq!(Content::parse(foreign), Content::Foreign);
        }
    }
}
