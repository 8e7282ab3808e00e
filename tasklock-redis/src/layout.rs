//! What is written where. Frozen: a change is a new version, in another place.

use std::{borrow::Cow, fmt::Write as _, sync::Arc, time::Duration};

use tasklock_core::{FencingToken, Holder, Key, Nonce, Owner};

use crate::slots::Slot;

/// The version of the layout, and the key of a lock by which it is known to the script, which has the names of its others
/// from it: `fence`, `queue`, `leases`, `names`, `holders` and `records` in the place of `owner`.
const OWNER: &str = ":1:owner";
const OTHERS: [&str; 7] = ["fence", "queue", "leases", "names", "holders", "records", "value"];
/// The same of a pool: `fence`, `queue`, `leases`, `wants`, `stages`, and with more behind them `lock:`, `hold:`, `had:`,
/// `stage:` and `slot:`.
const MEMBERS: &str = ":1:pool:members";
const INBOX: &str = "tasklock:1:inbox:";

/// The owner's key of one lock. Its name is in braces, by which Redis Cluster keeps the keys of a lock together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct OwnerKey(String);

impl OwnerKey {
    pub(crate) fn of(key: &Key) -> Self {
        OwnerKey(tagged(key, OWNER))
    }

    /// As a push carries it.
    pub(crate) fn pushed(owner: &str) -> Option<Self> {
        owner.ends_with(OWNER).then(|| OwnerKey(owner.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// What is in its braces.
    pub(crate) fn tag(&self) -> &str {
        let tag = self.0.strip_suffix(OWNER).and_then(|tag| tag.strip_prefix('{')?.strip_suffix('}'));
        tag.unwrap_or_default()
    }

    /// The other keys of this lock.
    pub(crate) fn others(&self) -> impl Iterator<Item = String> {
        OTHERS.into_iter().map(|end| self.other(end))
    }

    /// Those of them that tell who holds it, if several do.
    pub(crate) fn of_holders(&self) -> [String; 2] {
        ["holders", "records"].map(|end| self.other(end))
    }

    /// That of the value beside it.
    pub(crate) fn of_value(&self) -> String {
        self.other("value")
    }

    fn other(&self, end: &str) -> String {
        format!("{}{end}", self.0.strip_suffix("owner").unwrap_or(&self.0))
    }
}

/// The key of a pool's members, in braces as that of a lock is.
pub(crate) fn members_of(pool: &Key) -> String {
    tagged(pool, MEMBERS)
}

/// The key of a pool that is named with its members' in a cluster, and never there: its slot, so that the script can tell.
pub(crate) fn slot_of_pool(members: &str, slot: Slot) -> String {
    format!("{}slot:{}", members.strip_suffix("members").unwrap_or(members), slot.tag())
}

/// What the keys of a lock, or of a pool, have in their braces. Braces in a name would end it early, or leave it empty:
/// they are escaped, and so is what escapes.
pub(crate) fn tag_of(key: &Key) -> Cow<'_, str> {
    let key = key.as_str();
    if !key.contains(['{', '}', '%']) {
        return key.into();
    }
    let mut tag = String::with_capacity(key.len() + 2);
    for c in key.chars() {
        match c {
            '{' | '}' | '%' => escape(&mut tag, c),
            _ => tag.push(c),
        }
    }
    tag.into()
}

fn tagged(key: &Key, end: &str) -> String {
    let tag = tag_of(key);
    let mut tagged = String::with_capacity(tag.len() + end.len() + 2);
    tagged.push('{');
    tagged.push_str(&tag);
    tagged.push('}');
    tagged.push_str(end);
    tagged
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

    pub(crate) fn id(&self) -> &str {
        &self.0
    }

    pub(crate) fn inbox(&self) -> String {
        format!("{INBOX}{}", self.0)
    }

    /// The inbox for what is granted in one slot of a cluster, in the same slot.
    pub(crate) fn inbox_of(&self, slot: Slot) -> String {
        format!("{INBOX}{{{}}}{}", slot.tag(), self.0)
    }
}

/// The slot that an inbox is for.
pub(crate) fn slot_of_inbox(channel: &str) -> Option<Slot> {
    let (tag, _) = channel.strip_prefix(INBOX)?.strip_prefix('{')?.split_once('}')?;
    Some(Slot::of_tag(tag))
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

/// What is known of a holder: `member token since lease names`, `since` in milliseconds of the server's clock. A vote of a
/// quorum has no lease written down.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Record {
    nonce: Option<Nonce>,
    pub(crate) token: u64,
    since: u64,
    lease: Option<Lease>,
    owner: Owner,
}

/// By which it can be told when a holder was last heard of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lease {
    /// So many milliseconds from when it was heard of.
    Lasts(u64),
    /// It does not end, and was heard of then: `@` and the server's time.
    HeardAt(u64),
}

impl Record {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(5, ' ');
        let (member, token, since) = (parts.next()?, parts.next()?, parts.next()?);
        let lease = parts.next()?;
        let lease = match lease.strip_prefix('@') {
            Some(heard) => Lease::HeardAt(heard.parse().ok()?),
            None => Lease::Lasts(lease.parse().ok()?),
        };
        Self::of(member, token, since, Some(lease), parts.next()?)
    }

    /// Of a vote.
    pub(crate) fn without_lease(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ' ');
        Self::of(parts.next()?, parts.next()?, parts.next()?, None, parts.next()?)
    }

    fn of(member: &str, token: &str, since: &str, lease: Option<Lease>, names: &str) -> Option<Self> {
        let (nonce, token, since) = (nonce_of(member), token.parse().ok()?, since.parse().ok()?);
        let mut names = names.split(' ');
        let pid = names.next()?.parse().unwrap_or(0);
        let mut text = || unescape(names.next().unwrap_or_default());
        let (host, application, name) = (text(), text(), text());
        Some(Record { nonce, token, since, lease, owner: Owner::recorded(name, host, pid, application) })
    }

    /// As seen at `now` on the server's clock, with so much time left; none if it does not expire.
    pub(crate) fn holder(&self, now: u64, left: Option<Duration>) -> Holder {
        let held = Duration::from_millis(now.saturating_sub(self.since));
        let silent = match (self.lease, left) {
            (Some(Lease::Lasts(lease)), Some(left)) => Some(Duration::from_millis(lease).saturating_sub(left)),
            (Some(Lease::HeardAt(heard)), _) => Some(Duration::from_millis(now.saturating_sub(heard))),
            // Somebody took its end away.
            (Some(Lease::Lasts(_)), None) | (None, _) => None,
        };
        let holder = Holder::new(self.owner.clone()).held(held).remaining(left).token(FencingToken::new(self.token));
        match self.nonce.zip(silent) {
            Some((nonce, silent)) => holder.last_heard(nonce, silent),
            None => holder,
        }
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

    fn owner(name: &str) -> String {
        OwnerKey::of(&Key::new(name).unwrap()).as_str().to_owned()
    }

    /// What is in a store today must be found by tomorrow's code.
    #[test]
    fn the_format_is_frozen() {
        assert_eq!(owner("tasklock:team:acme"), "{tasklock:team:acme}:1:owner");
        let members = members_of(&Key::new("tasklock:{a}").unwrap());
        assert_eq!(members, "{tasklock:%7Ba%7D}:1:pool:members");
        let slot = Slot::of_tag("tasklock:team:acme");
        let of_pool = slot_of_pool(&members, slot);
        assert_eq!(of_pool, format!("{{tasklock:%7Ba%7D}}:1:pool:slot:{}", slot.tag()));
        let client = Client("00112233445566778899aabbccddeeff".to_owned());
        let member = client.member(Nonce::from_u128(255));
        assert_eq!(member, "00112233445566778899aabbccddeeff.000000000000000000000000000000ff");
        assert_eq!(nonce_of(&member), Some(Nonce::from_u128(255)));
        assert_eq!(client.inbox(), "tasklock:1:inbox:00112233445566778899aabbccddeeff");
        assert_eq!(slot_of_inbox(&client.inbox_of(slot)), Some(slot));
        assert_eq!(
            client.inbox_of(slot),
            format!("tasklock:1:inbox:{{{}}}00112233445566778899aabbccddeeff", slot.tag())
        );
        assert_eq!(slot_of_inbox(&client.inbox()), None);
        let key = OwnerKey::of(&Key::new("a{b").unwrap());
        assert_eq!(key.tag(), "a%7Bb");
        let others: Vec<_> = key.others().collect();
        assert_eq!(
            others,
            ["fence", "queue", "leases", "names", "holders", "records", "value"]
                .map(|end| format!("{{a%7Bb}}:1:{end}"))
        );
        let owner = Owner::recorded("worker 3 100%", "host-1", 7, "é\n");
        assert_eq!(&*names_of(&owner), "7 host-1 é%0A worker%203%20100%25");
        let (names, nonce) = (names_of(&owner), nonce_of(&member));
        let record = Record::parse(&format!("{member} 42 1000 900 {names}")).unwrap();
        let lease = Some(Lease::Lasts(900));
        assert_eq!(record, Record { nonce, token: 42, since: 1000, lease, owner: owner.clone() });
        let holder = record.holder(3_500, Some(Duration::from_millis(200)));
        assert_eq!((holder.owner, holder.held), (owner, Some(Duration::from_millis(2_500))));
        assert_eq!((holder.nonce, holder.silent), (nonce, Some(Duration::from_millis(700))));
        assert_eq!(record.holder(3_500, None).silent, None);
        let endless = Record::parse(&format!("{member} 42 1000 @2000 {names}")).unwrap().holder(3_500, None);
        assert_eq!(endless.silent, Some(Duration::from_millis(1_500)));
    }

    #[test]
    fn no_name_leaves_its_braces() {
        for (name, base) in
            [("}", "{%7D}"), ("{}", "{%7B%7D}"), ("a}b{c", "{a%7Db%7Bc}"), ("%7D", "{%257D}"), ("a b*", "{a b*}")]
        {
            assert_eq!(owner(name), format!("{base}:1:owner"));
        }
        assert_ne!(owner("}"), owner("%7D"));
    }

    #[test]
    fn other_peoples_records_are_no_panic() {
        for text in
            ["", "a", "shared", "a b c d e", "m 1 2", "m x 2 3 n", "m 1 2 n", "m 1 2 3", "m 1 2 @ n", "m 1 2 3 n"]
        {
            let _ = (Record::parse(text), Record::without_lease(text));
        }
        assert_eq!(Record::parse("m 1 2 3 %%zz %4").map(|r| r.owner.pid()), Some(0));
        assert_eq!(unescape("%C3%A9%F"), "é%F");
        assert_eq!(nonce_of("x"), None);
        assert_eq!(nonce_of("x.y"), None);
    }
}
