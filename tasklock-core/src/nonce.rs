//! The identity of one acquisition.

use std::{
    cell::Cell,
    fmt,
    hash::{BuildHasher, RandomState},
};

/// What a store knows a holder or waiter by: fixed before the first byte is sent, never used twice.
///
/// Every renewal and release is conditional on it and on nothing else, so each may be repeated, and asking again with
/// the same nonce gets the same answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(u128);

thread_local! {
    /// 128 random bits a thread, then a count: unique without a system call each.
    static NEXT: Cell<u128> = Cell::new(seed());
}

impl Nonce {
    /// A nonce nobody has had.
    #[must_use]
    pub fn fresh() -> Self {
        let next = NEXT.try_with(|next| {
            let n = next.get();
            next.set(n.wrapping_add(1));
            n
        });
        // A thread that is ending has no such place any more.
        Nonce(next.unwrap_or_else(|_| seed()))
    }

    /// The nonce with this value, as read back from a store.
    #[must_use]
    pub const fn from_u128(value: u128) -> Self {
        Nonce(value)
    }

    /// Its value, to be written to a store.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// A number in 0..1024, the same for the same nonce: jitter that needs no random generator.
    pub(crate) fn jitter(self) -> u64 {
        let mixed = (self.0 as u64 ^ (self.0 >> 64) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed >> 54
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn seed() -> u128 {
    let mut bytes = [0; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u128::from_le_bytes(bytes),
        // Without a system source: the standard library's own random keys, two of them, and the time.
        Err(_) => {
            let half = |salt: u64| u128::from(RandomState::new().hash_one((salt, crate::clock::wall_micros())));
            half(1) << 64 | half(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_differ_between_calls_and_threads() {
        let here: Vec<_> = (0..100).map(|_| Nonce::fresh()).collect();
        let there = std::thread::spawn(|| (0..100).map(|_| Nonce::fresh()).collect::<Vec<_>>()).join().unwrap();
        let all: std::collections::HashSet<_> = here.into_iter().chain(there).collect();
        assert_eq!(all.len(), 200);
        assert_eq!(Nonce::from_u128(255).to_string(), "000000000000000000000000000000ff");
    }
}
