//! What a store that forgets is kept from granting.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{BackendError, Mono, Nonce, StepResult, shards::lock};

/// Nonces that were withdrawn while an attempt of theirs was still to come: for a backend whose store cannot remember
/// them. A client that keeps the order of its calls has none, unless a wrapper delays them.
#[derive(Debug, Default)]
pub struct Withdrawn {
    any: AtomicBool,
    /// And until when each is remembered.
    nonces: Mutex<VecDeque<(Nonce, Mono)>>,
}

impl Withdrawn {
    const REMEMBERED: Duration = Duration::from_secs(60);

    /// This nonce is to be granted nothing for the next minute.
    pub fn note(&self, nonce: Nonce, now: Mono) {
        lock(&self.nonces).push_back((nonce, now.after(Self::REMEMBERED)));
        self.any.store(true, Ordering::Release);
    }

    /// Whether this nonce may be granted something. The clock is read only if any was withdrawn.
    ///
    /// # Errors
    ///
    /// One that does not pass, if it was withdrawn.
    pub fn check(&self, nonce: Nonce, now: impl FnOnce() -> Mono) -> StepResult<()> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        let now = now();
        let mut nonces = lock(&self.nonces);
        nonces.retain(|(_, until)| *until > now);
        self.any.store(!nonces.is_empty(), Ordering::Release);
        if nonces.iter().any(|(withdrawn, _)| *withdrawn == nonce) {
            return Err(BackendError::fatal("this acquisition was withdrawn before"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_withdrawal_is_remembered_for_a_minute() {
        let (withdrawn, nonce, start) = (Withdrawn::default(), Nonce::fresh(), Mono::from_nanos(1));
        assert!(withdrawn.check(nonce, || panic!("nothing was withdrawn")).is_ok());
        withdrawn.note(nonce, start);
        let after = |seconds| start.after(Duration::from_secs(seconds));
        assert!(withdrawn.check(nonce, || after(59)).is_err());
        assert!(withdrawn.check(Nonce::fresh(), || after(59)).is_ok());
        assert!(withdrawn.check(nonce, || after(60)).is_ok());
        assert!(!withdrawn.any.load(Ordering::Acquire), "forgotten");
    }
}
