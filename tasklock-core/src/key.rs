//! What a lock is named by.

use std::{
    borrow::Cow,
    cell::RefCell,
    fmt,
    hash::{BuildHasher, Hash, Hasher},
    sync::{Arc, LazyLock},
};

/// The longest name, in bytes, and the longest prefix.
const MAX_NAME: usize = 512;
const MAX_PREFIX: usize = 64;

/// Stands between prefix and name. No prefix may contain it, so no two pairs meet in one key.
const JOIN: char = ':';

static HASHER: LazyLock<hashbrown::DefaultHashBuilder> = LazyLock::new(Default::default);

/// A validated lock name: 1 to 512 bytes, no control characters. Cheap to clone.
///
/// What a backend is given is the name behind its locker's prefix (`prefix:name`). A backend encodes it so that it
/// cannot leave its place in the store: path separators, hash-tag braces and globs are ordinary characters here.
#[derive(Clone)]
pub struct Key {
    text: Arc<str>,
    name_at: u32,
    /// Whether it names a pool.
    pool: bool,
    /// Hashed once, with a seed of this process: every map on a lock's way uses it.
    hash: u64,
}

impl Key {
    /// A key with this name and no prefix.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] if it is empty, longer than 512 bytes, or contains a control character.
    pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidKey> {
        let name = name.as_ref();
        check_name(name)?;
        Ok(Self::from_parts(Arc::from(name), 0))
    }

    /// The whole key, prefix included: what a store keeps.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name without the prefix: what the user called it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.text[self.name_at as usize..]
    }

    /// The key of the pool of this name, which is another than that of the lock of this name.
    #[must_use]
    pub fn for_pool(mut self) -> Self {
        if !self.pool {
            self.pool = true;
            self.hash = !self.hash;
        }
        self
    }

    /// Whether it names a pool. A store keeps pools apart from locks.
    #[must_use]
    pub fn is_pool(&self) -> bool {
        self.pool
    }

    /// A hash of the key, the same throughout this process.
    pub(crate) fn hash64(&self) -> u64 {
        self.hash
    }

    fn from_parts(text: Arc<str>, name_at: u32) -> Self {
        let hash = HASHER.hash_one(&*text);
        Key { text, name_at, pool: false, hash }
    }

    /// The same behind this prefix, and no other.
    fn behind(self, prefix: &Prefix) -> Self {
        if prefix.0.is_empty() && self.name_at == 0 { self } else { Self::joined(prefix, self.name()) }
    }

    fn joined(prefix: &Prefix, name: &str) -> Self {
        if prefix.0.is_empty() {
            return Self::from_parts(Arc::from(name), 0);
        }
        thread_local! {
            /// One allocation a key is enough.
            static SCRATCH: RefCell<String> = const { RefCell::new(String::new()) };
        }
        let join = |text: &mut String| {
            text.clear();
            text.push_str(&prefix.0);
            text.push_str(name);
            Self::from_parts(Arc::from(text.as_str()), prefix.len())
        };
        // A thread that is ending has no such place any more.
        SCRATCH.try_with(|text| join(&mut text.borrow_mut())).unwrap_or_else(|_| join(&mut String::new()))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
            && self.pool == other.pool
            && (Arc::ptr_eq(&self.text, &other.text) || self.text == other.text)
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A locker's prefix with its separator, or nothing.
#[derive(Clone, Debug)]
pub(crate) struct Prefix(Arc<str>);

impl Prefix {
    pub(crate) fn new(prefix: &str) -> Result<Self, InvalidKey> {
        if prefix.is_empty() {
            return Ok(Prefix(Arc::from("")));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if prefix.len() > MAX_PREFIX || !prefix.chars().all(fits) {
            return Err(InvalidKey::Prefix { prefix: excerpt(prefix), max: MAX_PREFIX });
        }
        Ok(Prefix(Arc::from(format!("{prefix}{JOIN}"))))
    }

    /// In bytes; a prefix is short.
    fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(0)
    }
}

/// What can name a lock: text, or a [`Key`] made before.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a lock's name",
    label = "expected text or a `Key`",
    note = "format it: `format!(\"job:{{id}}\")`"
)]
pub trait IntoKey {
    /// The key, without a prefix.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] says what is wrong with it.
    fn into_key(self) -> Result<Key, InvalidKey>;

    /// The key of a lock, behind a prefix, made in one step. All that is said of a lock goes through here, so that the key
    /// of a pool is never taken for the lock of its name.
    #[doc(hidden)]
    #[allow(private_interfaces)]
    fn into_key_in(self, prefix: &Prefix) -> Result<Key, InvalidKey>
    where
        Self: Sized,
    {
        let key = self.into_key()?;
        if key.pool {
            return Err(InvalidKey::Pool { name: excerpt(key.name()) });
        }
        Ok(key.behind(prefix))
    }
}

macro_rules! text_into_key {
    ($($text:ty),*) => {$(
        impl IntoKey for $text {
            fn into_key(self) -> Result<Key, InvalidKey> {
                Key::new(self)
            }

            #[allow(private_interfaces)]
            fn into_key_in(self, prefix: &Prefix) -> Result<Key, InvalidKey> {
                let name: &str = self.as_ref();
                check_name(name)?;
                Ok(Key::joined(prefix, name))
            }
        }
    )*};
}
text_into_key!(&str, String, &String, Cow<'_, str>, Arc<str>, Box<str>);

impl IntoKey for Key {
    fn into_key(self) -> Result<Key, InvalidKey> {
        Ok(self)
    }
}

impl IntoKey for &Key {
    fn into_key(self) -> Result<Key, InvalidKey> {
        Ok(self.clone())
    }
}

impl IntoKey for Result<Key, InvalidKey> {
    fn into_key(self) -> Result<Key, InvalidKey> {
        self
    }
}

/// The key of the pool of this name.
pub(crate) fn pool_key(name: impl IntoKey, prefix: &Prefix) -> Result<Key, InvalidKey> {
    Ok(name.into_key()?.behind(prefix).for_pool())
}

/// A name or prefix that no lock can have. Says which, and the limit.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// No name at all.
    #[error("lock name is empty; it needs 1 to {MAX_NAME} bytes")]
    Empty,
    /// More bytes than a name may have.
    #[error("lock name {name} is {len} bytes long; {max} are allowed")]
    TooLong {
        /// How it begins.
        name: String,
        /// Its length in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A control character, which no store and no log shows.
    #[error("lock name {name} has the control character {found:?} at byte {at}; none is allowed")]
    Control {
        /// How it begins.
        name: String,
        /// The character.
        found: char,
        /// Where it stands.
        at: usize,
    },
    /// The key of a pool, where that of a lock is asked for.
    #[error("{name} is the key of a pool, not of a lock; `Locker::pool` has what can be done with it")]
    Pool {
        /// How it begins.
        name: String,
    },
    /// A prefix with other characters than it may have, or too many.
    #[error("prefix {prefix} is not 0 to {max} of the characters A-Z a-z 0-9 - _ . /")]
    Prefix {
        /// How it begins.
        prefix: String,
        /// The limit in bytes.
        max: usize,
    },
}

pub(crate) fn check_name(name: &str) -> Result<(), InvalidKey> {
    if name.is_empty() {
        return Err(InvalidKey::Empty);
    }
    if name.len() > MAX_NAME {
        return Err(InvalidKey::TooLong { name: excerpt(name), len: name.len(), max: MAX_NAME });
    }
    if may_have_controls(name.as_bytes()) {
        if let Some((at, found)) = name.char_indices().find(|(_, c)| c.is_control()) {
            return Err(InvalidKey::Control { name: excerpt(name), found, at });
        }
    }
    Ok(())
}

/// C1 controls begin with 0xC2 in UTF-8: without that byte or an ASCII control there is nothing to find. In blocks and
/// without an early exit, so that the compiler looks at all bytes of a block at once.
fn may_have_controls(name: &[u8]) -> bool {
    const BLOCK: usize = 16;
    let odd = |block: &[u8]| block.iter().fold(false, |odd, b| odd | (*b < 0x20) | (*b == 0x7F) | (*b == 0xC2));
    let blocks = name.chunks_exact(BLOCK);
    let mut last = [b' '; BLOCK];
    last[..blocks.remainder().len()].copy_from_slice(blocks.remainder());
    blocks.fold(odd(&last), |any, block| any | odd(block))
}

/// The beginning of a rejected value, quoted and escaped for a message.
fn excerpt(value: &str) -> String {
    const SHOWN: usize = 40;
    let mut chars = value.chars();
    let start: String = chars.by_ref().take(SHOWN).collect();
    if chars.next().is_some() { format!("{start:?}…") } else { format!("{start:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_limits() {
        assert_eq!(Key::new(""), Err(InvalidKey::Empty));
        assert!(Key::new("x".repeat(512)).is_ok());
        let long = Key::new("x".repeat(513)).unwrap_err();
        assert!(long.to_string().contains("513") && long.to_string().contains("512"), "{long}");
        for hostile in ["a\nb", "a\0", "\u{7f}", "caf\u{85}"] {
            for before in 0..40 {
                let name = "é".repeat(before) + hostile + &"x".repeat(40 - before);
                let at = before * 2 + hostile.find(char::is_control).unwrap();
                assert!(
                    matches!(Key::new(&name), Err(InvalidKey::Control { at: found, .. }) if found == at),
                    "{name:?}"
                );
            }
        }
        for odd in ["../../etc/passwd", "{slot}", "a*b?[c]", "ключ", "a b", "日本語"] {
            assert_eq!(Key::new(odd).unwrap().as_str(), odd);
        }
    }

    #[test]
    fn a_pool_is_not_the_lock_of_its_name() {
        let lock = Key::new("a").unwrap();
        let pool = lock.clone().for_pool();
        assert_ne!(lock, pool);
        assert_ne!(lock.hash64(), pool.hash64());
        assert_eq!((pool.name(), pool.is_pool(), lock.is_pool()), ("a", true, false));
        assert_eq!(pool.clone().for_pool(), pool);
        let prefix = Prefix::new("p").unwrap();
        assert!(matches!((&pool).into_key_in(&prefix), Err(InvalidKey::Pool { .. })));
        let again = pool_key(pool_key(&pool, &prefix).unwrap(), &prefix).unwrap();
        assert_eq!((again.as_str(), again.is_pool()), ("p:a", true));
    }

    #[test]
    fn prefix_and_name_never_meet() {
        let a = Prefix::new("a").unwrap();
        assert_eq!("b:c".into_key_in(&a).unwrap().as_str(), "a:b:c");
        assert_eq!("b:c".into_key_in(&a).unwrap().name(), "b:c");
        assert!(Prefix::new("a:b").is_err());
        assert!(Prefix::new(&"x".repeat(65)).is_err());
        // A key that already went through a locker does not gather prefixes.
        let once = "n".into_key_in(&a).unwrap();
        assert_eq!((&once).into_key_in(&a).unwrap(), once);
    }
}
