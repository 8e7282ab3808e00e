//! What is found at a path, or behind a descriptor.

use std::{fs::File, io, path::Path};

use rustix::fs::{AtFlags, CWD, FileType};

/// Which file it is, of what kind, and whether it has a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// The file's own number, and that of its file system.
    pub(crate) id: (u64, u64),
    pub(crate) links: u64,
    kind: FileType,
}

impl Found {
    /// At a path, where a link is a link.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(found) = timeless::look(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
            return found;
        }
        Ok(rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?.into())
    }

    /// Behind a descriptor.
    pub(crate) fn behind(file: &File) -> io::Result<Self> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(found) = timeless::look(file, "", AtFlags::EMPTY_PATH) {
            return found;
        }
        Ok(rustix::fs::fstat(file)?.into())
    }

    pub(crate) fn is_file(self) -> bool {
        self.kind == FileType::RegularFile
    }

    /// What it is, if not a file.
    pub(crate) fn kind(self) -> &'static str {
        match self.kind {
            FileType::Symlink => "a link",
            FileType::Directory => "a directory",
            FileType::Fifo => "a pipe",
            FileType::Socket => "a socket",
            _ => "a device",
        }
    }
}

// The fields' types differ from system to system.
#[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, trivial_numeric_casts)]
impl From<rustix::fs::Stat> for Found {
    fn from(stat: rustix::fs::Stat) -> Self {
        Found {
            id: (stat.st_dev as u64, stat.st_ino as u64),
            links: stat.st_nlink as u64,
            kind: FileType::from_raw_mode(stat.st_mode),
        }
    }
}

/// Without asking for times. A file whose times somebody has seen gets finer ones at its next change, and those cost
/// a write of its inode: a third of an acquisition.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod timeless {
    use std::{io, os::fd::AsFd};

    use rustix::{
        fs::{AtFlags, FileType, StatxFlags, makedev, statx},
        io::Errno,
        path::Arg,
    };

    use super::Found;

    /// `None` where there is no such call, or where it is not allowed, as in some containers.
    pub(super) fn look(at: impl AsFd, path: impl Arg, flags: AtFlags) -> Option<io::Result<Found>> {
        match statx(at, path, flags, StatxFlags::TYPE | StatxFlags::INO | StatxFlags::NLINK) {
            Ok(stat) => Some(Ok(Found {
                id: (makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino),
                links: stat.stx_nlink.into(),
                kind: FileType::from_raw_mode(stat.stx_mode.into()),
            })),
            Err(Errno::NOSYS | Errno::PERM) => None,
            Err(error) => Some(Err(error.into())),
        }
    }
}
