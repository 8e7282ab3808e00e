//! The directory the locks are in: made, checked, and asked for paths.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf, absolute},
};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use tasklock_core::{Key, Nonce};

use crate::{LocalConfig, LocalError, name::file_name};

/// A directory that only this user can write to.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes it if need be, and refuses what is not safe.
    pub(crate) fn open(config: &LocalConfig) -> Result<Self, LocalError> {
        let path = match &config.directory {
            Some(path) => path.clone(),
            None => own(),
        };
        // A process may change its working directory; its locks stay where they are.
        let path = absolute(&path).map_err(|source| LocalError::Io { what: "use", path, source })?;
        let directory = Directory { path };
        match config.directory {
            Some(_) => directory.make_given()?,
            None => directory.make_own()?,
        }
        directory.check_writable()?;
        if !config.network {
            directory.check_local()?;
        }
        Ok(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file of a lock.
    pub(crate) fn lock(&self, key: &Key) -> PathBuf {
        self.file(&file_name(key.as_str()), "lock")
    }

    /// The file that those who share a lock take their tokens behind.
    pub(crate) fn gate(&self, key: &Key) -> PathBuf {
        self.file(&file_name(key.as_str()), "gate")
    }

    /// A file that nobody else has.
    pub(crate) fn fresh(&self, ending: &str) -> PathBuf {
        self.file(&Nonce::fresh().to_string(), ending)
    }

    /// Whether locks can be taken in it now.
    pub(crate) fn check_writable(&self) -> Result<(), LocalError> {
        let rights = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        match accessat(CWD, &self.path, rights, AtFlags::EACCESS).map_err(io::Error::from) {
            Ok(()) => Ok(()),
            Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                Err(LocalError::Unwritable { path: self.path.clone(), user: user() })
            }
            Err(source) => Err(self.io("use", source)),
        }
    }

    fn file(&self, name: &str, ending: &str) -> PathBuf {
        let mut path = PathBuf::with_capacity(self.path.as_os_str().len() + name.len() + ending.len() + 2);
        path.push(&self.path);
        path.push(name);
        // Not `set_extension`: a name may have dots.
        path.as_mut_os_string().push(".");
        path.as_mut_os_string().push(ending);
        path
    }

    /// In a temporary directory everybody can make what we are about to use: nothing there is trusted, links least.
    fn make_own(&self) -> Result<(), LocalError> {
        match fs::DirBuilder::new().mode(0o700).create(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(self.io("make the directory", e)),
            _ => {}
        }
        let found = fs::symlink_metadata(&self.path).map_err(|e| self.io("look at", e))?;
        self.check(&found, 0o077, "of its own has 700")
    }

    fn make_given(&self) -> Result<(), LocalError> {
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(self.io("make the directory", e)),
            _ => {}
        }
        let found = fs::metadata(&self.path).map_err(|e| self.io("look at", e))?;
        self.check(&found, 0o022, "may be written by its user only")
    }

    fn check(&self, found: &fs::Metadata, forbidden: u32, limit: &'static str) -> Result<(), LocalError> {
        let path = || self.path.clone();
        if !found.is_dir() {
            let hint = if found.is_symlink() { ", but a link to somewhere else" } else { "" };
            return Err(LocalError::NotADirectory { path: path(), hint });
        }
        if found.uid() != user() {
            return Err(LocalError::Owner { path: path(), owner: found.uid(), user: user() });
        }
        let mode = found.mode() & 0o777;
        if mode & forbidden != 0 {
            return Err(LocalError::Rights { path: path(), mode, limit });
        }
        Ok(())
    }

    fn check_local(&self) -> Result<(), LocalError> {
        let stats = rustix::fs::statfs(&self.path).map_err(|e| self.io("look at", e.into()))?;
        match network(&stats) {
            Some(kind) => Err(LocalError::Network { path: self.path.clone(), kind }),
            None => Ok(()),
        }
    }

    fn io(&self, what: &'static str, source: io::Error) -> LocalError {
        LocalError::Io { what, path: self.path.clone(), source }
    }
}

/// The number this process is judged by.
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// This user's own directory.
fn own() -> PathBuf {
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    match runtime {
        Some(runtime) => runtime.join("tasklock"),
        None => env::temp_dir().join(format!("tasklock-{}", user())),
    }
}

/// The kind of a file system whose locks may not be what they are on a local one.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn network(stats: &rustix::fs::StatFs) -> Option<String> {
    // The type's width and sign differ from machine to machine; the number has 32 bits everywhere.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::unnecessary_cast)]
    let kind = network_kind(stats.f_type as u32);
    kind.map(str::to_owned)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn network_kind(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517B | 0xFE53_4D42 | 0xFF53_4D42 => "SMB",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE, which may be a network's",
        0x00C3_6400 => "Ceph",
        0x5346_414F | 0x6B41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x564C => "NCP",
        0x0BD0_0BD0 => "Lustre",
        0x0116_1970 => "GFS2",
        0x7461_636F => "OCFS2",
        0x4750_4653 => "GPFS",
        0x1983_0326 => "BeeGFS",
        _ => return None,
    })
}

#[cfg(target_vendor = "apple")]
fn network(stats: &rustix::fs::StatFs) -> Option<String> {
    const LOCAL: u32 = 0x1000;
    (stats.f_flags & LOCAL == 0).then(|| "a network's file system".to_owned())
}

/// Elsewhere nothing is known.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn network(_: &rustix::fs::StatFs) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn file_systems_of_networks_are_known() {
        assert_eq!(network_kind(0x6969), Some("NFS"));
        assert_eq!(network_kind(0xFF53_4D42), Some("SMB"));
        for local in [0xEF53, 0x0102_1994, 0x9123_683E, 0x5846_5342, 0x794C_7630] {
            assert_eq!(network_kind(local), None, "ext4, tmpfs, btrfs, xfs, overlayfs");
        }
    }

    #[test]
    fn files_keep_their_dots() {
        let directory = Directory { path: "/d".into() };
        assert_eq!(directory.lock(&Key::new("..").unwrap()), Path::new("/d/...lock"));
        assert_eq!(directory.gate(&Key::new("v1.2").unwrap()), Path::new("/d/v1.2.gate"));
    }
}
