//! Fencing tokens, and the other half: a store that refuses an older one.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// A number that rises with every grant of a key, across release, expiry, crash and restart.
///
/// A lease cannot stop a paused process from waking up late and writing. A store can: it remembers the highest token
/// it has seen and refuses anything lower (see [`Fence`]). Send the token along with each write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FencingToken(u64);

impl FencingToken {
    /// What a lock on a backend without fencing carries. Never minted; every [`Fence`] refuses it.
    pub const NONE: FencingToken = FencingToken(0);

    /// The token with this value.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        FencingToken(value)
    }

    /// Its value, to be sent to the store.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<FencingToken> for u64 {
    fn from(token: FencingToken) -> u64 {
        token.0
    }
}

/// A write came with a token older than one already seen: its holder has lost the lock since.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("fencing token {offered} refused: {seen} was seen already, so the lock has changed hands")]
pub struct StaleToken {
    /// The token that was offered.
    pub offered: FencingToken,
    /// The highest token seen before.
    pub seen: FencingToken,
}

/// The highest token seen for one resource; what a store keeps beside the data it guards.
///
/// In a database it is a column and a condition (`UPDATE … WHERE fence <= $token`). This is the same in memory, for
/// stores written in Rust and for tests.
///
/// # Examples
///
/// ```
/// use tasklock_core::{Fence, FencingToken};
///
/// let fence = Fence::new();
/// fence.admit(FencingToken::new(7))?;
/// fence.admit(FencingToken::new(7))?; // the same holder writes again
/// fence.admit(FencingToken::new(9))?; // the next holder
/// assert!(fence.admit(FencingToken::new(7)).is_err()); // the first one wakes up late
/// # Ok::<(), tasklock_core::StaleToken>(())
/// ```
#[derive(Debug, Default)]
pub struct Fence(AtomicU64);

impl Fence {
    /// A fence that has seen no token.
    #[must_use]
    pub const fn new() -> Self {
        Fence(AtomicU64::new(0))
    }

    /// Admits a write made under `token` if no higher one was seen, and remembers it.
    ///
    /// Admission and write must be one step for the store, under a lock of its own or in one transaction: between the
    /// two, the writer may be paused, and the next holder admitted.
    ///
    /// # Errors
    ///
    /// [`StaleToken`] if a higher token was seen, or if `token` is [`FencingToken::NONE`].
    pub fn admit(&self, token: FencingToken) -> Result<(), StaleToken> {
        let seen = self.0.fetch_max(token.0, Ordering::SeqCst);
        if token.0 < seen || token == FencingToken::NONE {
            return Err(StaleToken { offered: token, seen: FencingToken(seen) });
        }
        Ok(())
    }

    /// The highest token seen; [`FencingToken::NONE`] before the first.
    #[must_use]
    pub fn seen(&self) -> FencingToken {
        FencingToken(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_without_fencing_is_refused() {
        assert!(Fence::new().admit(FencingToken::NONE).is_err());
    }
}
