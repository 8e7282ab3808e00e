//! One file with one advisory lock on it.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process,
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock},
    io::Errno,
};

use tasklock_core::wall_micros;

use crate::{
    LocalError,
    found::Found,
    record::{Content, MOST, Record},
};

/// An open file, locked or not. Dropping it unlocks it, but for a forked child: there it is the parent's lock.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: File,
    path: PathBuf,
    id: (u64, u64),
    pid: u32,
    /// When, by the wall clock, in microseconds.
    opened: u64,
    locked: bool,
}

impl LockFile {
    /// Opens the file, and makes it if there is none.
    pub(crate) fn create(path: PathBuf) -> Result<Self, LocalError> {
        match open(&path, OFlags::CREATE) {
            Ok(file) => Self::over(file, path),
            Err(source) => Err(refused(path, source)),
        }
    }

    /// Makes a file that is not there yet.
    pub(crate) fn create_new(path: PathBuf) -> Result<Self, LocalError> {
        match open(&path, OFlags::CREATE | OFlags::EXCL) {
            Ok(file) => Self::over(file, path),
            Err(source) => Err(refused(path, source)),
        }
    }

    /// Opens the file if there is one.
    pub(crate) fn existing(path: PathBuf) -> Result<Option<Self>, LocalError> {
        match open(&path, OFlags::empty()) {
            Ok(file) => Self::over(file, path).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(refused(path, source)),
        }
    }

    fn over(file: File, path: PathBuf) -> Result<Self, LocalError> {
        let found = match Found::behind(&file) {
            Ok(found) => found,
            Err(source) => return Err(LocalError::Io { what: "look at", path, source }),
        };
        if !found.is_file() {
            return Err(LocalError::NotAFile { path, kind: found.kind() });
        }
        let (pid, opened) = (process::id(), wall_micros());
        Ok(LockFile { file, path, id: found.id, pid, opened, locked: false })
    }

    /// Locks it, alone or with others who share it; false if somebody else has it.
    pub(crate) fn try_lock(&mut self, shared: bool) -> Result<bool, LocalError> {
        let how = if shared { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
        match flock(&self.file, how) {
            Ok(()) => {
                self.locked = true;
                Ok(true)
            }
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(e) => Err(self.io("lock", e.into())),
        }
    }

    /// Closing is not enough: a child that was forked meanwhile has the same lock open.
    pub(crate) fn unlock(&mut self) {
        self.locked = flock(&self.file, FlockOperation::Unlock).is_err();
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.locked
    }

    /// Whether it is still the file that others find under its name.
    pub(crate) fn is_current(&self) -> Result<bool, LocalError> {
        self.is_at(&self.path)
    }

    /// Whether it is the file of this name.
    pub(crate) fn is_at(&self, path: &Path) -> Result<bool, LocalError> {
        match Found::at(path) {
            Ok(found) => Ok(found.id == self.id),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.io("look at", e)),
        }
    }

    /// Whether this process opened it, and not the one it was forked from.
    pub(crate) fn is_ours(&self) -> bool {
        self.pid == process::id()
    }

    /// The process that opened it.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// When it was opened.
    pub(crate) fn opened(&self) -> u64 {
        self.opened
    }

    /// Whether it has been removed or replaced. Who has the lock finds out without looking the name up again.
    pub(crate) fn is_removed(&self) -> bool {
        Found::behind(&self.file).is_ok_and(|found| found.links == 0)
    }

    pub(crate) fn read(&self) -> Result<Content, LocalError> {
        self.read_as(Content::parse)
    }

    /// The same without who took it.
    pub(crate) fn read_token(&self) -> Result<Content, LocalError> {
        self.read_as(Content::parse_token)
    }

    fn read_as(&self, parse: impl FnOnce(&[u8]) -> Content) -> Result<Content, LocalError> {
        // One more, to tell files that are none of ours.
        let mut bytes = [0; MOST + 1];
        let len = self.file.read_at(&mut bytes, 0).map_err(|e| self.io("read", e))?;
        Ok(parse(&bytes[..len]))
    }

    /// Not synced: what a crash of the machine may undo, the clock makes up for.
    pub(crate) fn write(&self, record: &Record) -> Result<(), LocalError> {
        self.file.write_all_at(&record.to_bytes(), 0).map_err(|e| self.io("write", e))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn io(&self, what: &'static str, source: io::Error) -> LocalError {
        LocalError::Io { what, path: self.path.clone(), source }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        if self.locked && self.is_ours() {
            self.unlock();
        }
    }
}

/// For this user alone, not for programs this one starts, and never through a link. Without waiting, should it be
/// something that waits.
fn open(path: &Path, how: OFlags) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags | how, Mode::RUSR | Mode::WUSR)?.into())
}

/// What stands at a place that cannot be opened as a file.
fn refused(path: PathBuf, source: io::Error) -> LocalError {
    match Found::at(&path) {
        Ok(found) if !found.is_file() => LocalError::NotAFile { path, kind: found.kind() },
        _ => LocalError::Io { what: "open", path, source },
    }
}
