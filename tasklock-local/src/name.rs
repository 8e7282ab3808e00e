//! From a lock's name to its file's name. The format is frozen: processes of different versions must agree on it.

use std::fmt::Write as _;

/// The longest name that is kept whole, and how much is kept of a longer one. With a hash and an ending, both fit where
/// file names are short: some encrypting file systems allow 143 bytes.
const WHOLE: usize = 120;
const READABLE: usize = 80;

/// The file name for a lock, without an ending: no path separator, nothing that depends on upper and lower case or on
/// how letters are composed, never too long, and another one for every name.
///
/// Lower-case letters, digits and `-_.:@=+,` stand for themselves, all other bytes are `%` and two digits. A name that
/// is longer than that keeps its beginning, then `%%`, which occurs in no other, and a hash of the whole.
pub(crate) fn file_name(key: &str) -> String {
    let mut name = String::with_capacity(key.len() + 8);
    let mut readable = 0;
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b':' | b'@' | b'=' | b'+' | b',' => {
                name.push(char::from(byte));
            }
            _ => {
                let _ = write!(name, "%{byte:02x}");
            }
        }
        if name.len() <= READABLE {
            readable = name.len();
        }
    }
    if name.len() > WHOLE {
        name.truncate(readable);
        let _ = write!(name, "%%{:032x}", hash(key.as_bytes()));
    }
    name
}

/// FNV-1a of 128 bits. Names that were made to meet share a lock, and exclude each other for nothing: no more.
fn hash(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen: a change here lets two versions of this crate hold the same lock.
    #[test]
    fn format() {
        for (key, name) in [
            ("tasklock:team:acme", "tasklock:team:acme"),
            ("a/b", "a%2fb"),
            ("../../etc/passwd", "..%2f..%2fetc%2fpasswd"),
            (".", "."),
            ("..", ".."),
            ("A", "%41"),
            ("a b%20", "a%20b%2520"),
            ("caf\u{e9}", "caf%c3%a9"),
            ("e\u{301}", "e%cc%81"),
            ("a\\b*?{}", "a%5cb%2a%3f%7b%7d"),
        ] {
            assert_eq!(file_name(key), name);
        }
        assert_eq!(file_name(&"x".repeat(120)), "x".repeat(120));
        assert_eq!(file_name(&"x".repeat(121)), format!("{}%%{}", "x".repeat(80), "d10892a5dee0e755e26bcd511a19e4d7"));
        assert_eq!(
            file_name(&"Ж".repeat(256)),
            format!("{}%%{}", "%d0%96".repeat(13), "480e8528853a3e05abefc4a83977c58d")
        );
    }

    #[test]
    fn hash_is_the_published_one() {
        assert_eq!(hash(b""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(hash(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
        assert_eq!(hash(b"foobar"), 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
    }

    #[test]
    fn names_stay_apart_and_short() {
        let long = "x".repeat(512);
        let keys = ["a", "A", "a%", "%61", "a/b", "a%2fb", "a\\b", &long, &long[1..], &"X".repeat(512)];
        let names: std::collections::HashSet<_> = keys.iter().map(|key| file_name(key)).collect();
        assert_eq!(names.len(), keys.len());
        for name in names {
            assert!(name.len() <= WHOLE && !name.contains('/') && name == name.to_lowercase(), "{name}");
        }
    }
}
