//! Who is let in beside whom.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many hold a permit at once.
pub(super) const PERMITS: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    Read,
    Write,
    Permit,
}

impl Way {
    /// How many may be in together, and how many of them one is as much as.
    fn room(self) -> (usize, usize) {
        match self {
            Way::Read => (1 << 32, 1),
            Way::Write => (1 << 32, 1 << 32),
            Way::Permit => (PERMITS, 1),
        }
    }
}

/// Who is in, and how often somebody was let in who should not have been.
#[derive(Debug, Default)]
pub(super) struct Room {
    taken: AtomicUsize,
    broken: AtomicUsize,
}

impl Room {
    pub(super) fn enter(&self, way: Way) {
        let (room, share) = way.room();
        if self.taken.fetch_add(share, Ordering::SeqCst) + share > room {
            self.broken.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub(super) fn leave(&self, way: Way) {
        self.taken.fetch_sub(way.room().1, Ordering::SeqCst);
    }

    pub(super) fn broken(&self) -> usize {
        self.broken.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_notices_who_should_not_be_in() {
        let room = Room::default();
        room.enter(Way::Read);
        room.enter(Way::Read);
        assert_eq!(room.broken(), 0);
        room.enter(Way::Write);
        assert_eq!(room.broken(), 1);
        room.leave(Way::Write);
        room.enter(Way::Read);
        assert_eq!(room.broken(), 1);

        let room = Room::default();
        for n in 0..=PERMITS {
            assert_eq!(room.broken(), 0, "{n}");
            room.enter(Way::Permit);
        }
        assert_eq!(room.broken(), 1);
    }
}
