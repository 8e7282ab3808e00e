//! Files of locks given back, kept open for a moment: whoever takes the same lock again need not open its file.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Mutex,
};

use rustix::process::{Resource, getrlimit};
use tasklock_core::Key;

use crate::{lock_file::LockFile, store::lock};

/// So many places, each for so many of the keys that fall on it.
const PLACES: usize = 16;
const EACH: usize = 4;
/// All files together are no more than a sixteenth of what this process may have open.
const SHARE: u64 = 16;

pub(crate) struct Idle {
    places: [Mutex<Vec<Kept>>; PLACES],
    each: usize,
}

struct Kept {
    key: Key,
    file: LockFile,
}

impl Idle {
    pub(crate) fn new() -> Self {
        let share = getrlimit(Resource::Nofile).current.map_or(u64::MAX, |most| most / SHARE);
        let each = usize::try_from(share).map_or(EACH, |share| (share / PLACES).min(EACH));
        Idle { places: std::array::from_fn(|_| Mutex::default()), each }
    }

    /// The file of this lock, if it is here and was opened by this process. A child has what its parent kept, and must
    /// not lock it: to the kernel it would be the parent's lock.
    pub(crate) fn take(&self, key: &Key) -> Option<LockFile> {
        let mut place = lock(self.place(key));
        let at = place.iter().position(|kept| kept.key == *key)?;
        let kept = place.swap_remove(at);
        drop(place);
        Some(kept.file).filter(LockFile::is_ours)
    }

    /// Keeps a file that is not locked, if need be in the place of another.
    pub(crate) fn keep(&self, key: Key, file: LockFile) {
        if self.each == 0 {
            return;
        }
        let mut place = lock(self.place(&key));
        let another = place.iter().position(|kept| kept.key == key).or((place.len() >= self.each).then_some(0));
        let another = another.map(|at| place.swap_remove(at));
        place.push(Kept { key, file });
        drop(place);
        // Closed while nobody waits for it.
        drop(another);
    }

    /// Closes all of them, for those who need descriptors.
    pub(crate) fn clear(&self) {
        for place in &self.places {
            lock(place).clear();
        }
    }

    fn place(&self, key: &Key) -> &Mutex<Vec<Kept>> {
        let mut hasher = DefaultHasher::new();
        key.as_str().hash(&mut hasher);
        // A part of the hash will do.
        &self.places[hasher.finish() as usize % PLACES]
    }
}
