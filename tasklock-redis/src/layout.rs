//! What is written where. Frozen: a change is a new version, in another place.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use tasklock_core::{FencingToken, Holder, Key, Nonce, Owner};

/// The keys of one lock, in the order in which the script takes them.
const PARTS: [&str; 5] = ["owner", "fence", "queue", "leases", "names"];
const VERSION: &str = ":1:";
const INBOX: &str = "tasklock:1:inbox:";

/// What the keys of one lock begin with: its name in braces, by which Redis Cluster keeps them together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Base(String);

impl Base {
    /// Braces in a name would end the tag early, or leave it empty: they are escaped, and so is what escapes.
    pub(crate) fn of(key: &Key) -> Self {
        let key = key.as_str();
        let mut base = String::with_capacity(key.len() + VERSION.len() + 2);
        base.push('{');
        if key.contains(['{', '}', '%']) {
            for c in key.chars() {
                match c {
                    '{' | '}' | '%' => escape(&mut base, c),
                    _ => base.push(c),
                }
            }
        } else {
            base.push_str(key);
        }
        base.push('}');
        base.push_str(VERSION);
        Base(base)
    }

    /// From the owner's key, as a push carries it.
    pub(crate) fn of_owner_key(owner: &str) -> Option<Self> {
        owner.strip_suffix(PARTS[0]).map(|base| Base(base.to_owned()))
    }

    pub(crate) fn each(&self, mut with: impl FnMut(&str)) {
        let mut key = String::with_capacity(self.0.len() + 8);
        for part in PARTS {
            key.clear();
            key.push_str(&self.0);
            key.push_str(part);
            with(&key);
        }
    }
}

/// Who this process is to the store: 128 random bits, by which a grant finds its inbox.
#[derive(Clone, Debug)]
pub(crate) struct Client(String);

impl Client {
    pub(crate) fn new() -> Self {
        Client(Nonce::fresh().to_string())
    }

    /// One acquisition of this client, as the store knows it.
    pub(crate) fn member(&self, nonce: Nonce) -> String {
        format!("{}.{nonce}", self.0)
    }

    pub(crate) fn inbox(&self) -> String {
        format!("{INBOX}{}", self.0)
    }
}

/// The nonce in a member.
pub(crate) fn nonce_of(member: &str) -> Option<Nonce> {
    u128::from_str_radix(member.split_once('.')?.1, 16).ok().map(Nonce::from_u128)
}

/// An owner as the store keeps it: `pid host application name`, without spaces in any.
pub(crate) fn names_of(owner: &Owner) -> Arc<str> {
    let mut names = owner.pid().to_string();
    for text in [owner.host(), owner.application(), owner.name()] {
        names.push(' ');
        for c in text.chars() {
            if c == ' ' || c == '%' || c.is_control() {
                escape(&mut names, c);
            } else {
                names.push(c);
            }
        }
    }
    names.into()
}

/// What the owner's key holds: `member token since names`, `since` in milliseconds of the server's clock.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) token: u64,
    since: u64,
    owner: Owner,
}

impl Record {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ' ');
        let _member = parts.next()?;
        let (token, since) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let mut names = parts.next()?.split(' ');
        let pid = names.next()?.parse().unwrap_or(0);
        let mut text = || unescape(names.next().unwrap_or_default());
        let (host, application, name) = (text(), text(), text());
        Some(Record { token, since, owner: Owner::recorded(name, host, pid, application) })
    }

    /// As seen at `now` on the server's clock, with so much time left; none if it does not expire.
    pub(crate) fn holder(&self, now: u64, left: Option<Duration>) -> Holder {
        let held = Duration::from_millis(now.saturating_sub(self.since));
        Holder::new(self.owner.clone()).held(held).remaining(left).token(FencingToken::new(self.token))
    }
}

fn escape(text: &mut String, c: char) {
    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
        let _ = write!(text, "%{byte:02X}");
    }
}

fn unescape(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, after @ ..] = rest {
        let hex = if *first == b'%' { after.get(..2) } else { None };
        let escaped = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(name: &str) -> Vec<String> {
        let mut keys = Vec::new();
        Base::of(&Key::new(name).unwrap()).each(|key| keys.push(key.to_owned()));
        keys
    }

    /// What is in a store today must be found by tomorrow's code.
    #[test]
    fn the_format_is_frozen() {
        assert_eq!(
            keys("tasklock:team:acme"),
            [
                "{tasklock:team:acme}:1:owner",
                "{tasklock:team:acme}:1:fence",
                "{tasklock:team:acme}:1:queue",
                "{tasklock:team:acme}:1:leases",
                "{tasklock:team:acme}:1:names",
            ]
        );
        let client = Client("00112233445566778899aabbccddeeff".to_owned());
        let member = client.member(Nonce::from_u128(255));
        assert_eq!(member, "00112233445566778899aabbccddeeff.000000000000000000000000000000ff");
        assert_eq!(nonce_of(&member), Some(Nonce::from_u128(255)));
        assert_eq!(client.inbox(), "tasklock:1:inbox:00112233445566778899aabbccddeeff");
        let owner = Owner::recorded("worker 3 100%", "host-1", 7, "é\n");
        assert_eq!(&*names_of(&owner), "7 host-1 é%0A worker%203%20100%25");
        let record = Record::parse(&format!("{member} 42 1000 {}", names_of(&owner))).unwrap();
        assert_eq!(record, Record { token: 42, since: 1000, owner: owner.clone() });
        let holder = record.holder(3_500, None);
        assert_eq!((holder.owner, holder.held), (owner, Some(Duration::from_millis(2_500))));
    }

    #[test]
    fn no_name_leaves_its_braces() {
        for (name, base) in
            [("}", "{%7D}"), ("{}", "{%7B%7D}"), ("a}b{c", "{a%7Db%7Bc}"), ("%7D", "{%257D}"), ("a b*", "{a b*}")]
        {
            for key in keys(name) {
                assert!(key.starts_with(base), "{key}");
                assert_eq!(key.matches(['{', '}']).count(), 2, "{key}");
            }
        }
        assert_ne!(keys("}"), keys("%7D"));
    }

    #[test]
    fn other_peoples_records_are_no_panic() {
        for text in ["", "a", "a b c d", "m 1 2", "m x 2 n", "m 1 2 n"] {
            let _ = Record::parse(text);
        }
        assert_eq!(Record::parse("m 1 2 %%zz %4").map(|r| r.owner.pid()), Some(0));
        assert_eq!(unescape("%C3%A9%F"), "é%F");
        assert_eq!(nonce_of("x"), None);
        assert_eq!(nonce_of("x.y"), None);
    }
}
