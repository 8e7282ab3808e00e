//! What can go wrong with files.

use std::{io, path::PathBuf};

use tasklock_core::{BackendError, LockError};

/// Why a directory cannot hold locks, or a file cannot be one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// Something else stands where the directory should be.
    #[error("{} is not a directory{hint}", path.display())]
    NotADirectory {
        /// Where.
        path: PathBuf,
        /// What it is, if that matters.
        hint: &'static str,
    },
    /// The directory belongs to another user, who could take any lock away.
    #[error("{} belongs to user {owner}; locks of user {user} need a directory of that user", path.display())]
    Owner {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who this process is.
        user: u32,
    },
    /// Other users may write into the directory, and could take any lock away.
    #[error("{} has the rights {mode:03o}; a directory for locks {limit}", path.display())]
    Rights {
        /// Which.
        path: PathBuf,
        /// The rights it has.
        mode: u32,
        /// The rights it may have.
        limit: &'static str,
    },
    /// This user may not make files in the directory.
    #[error("{} cannot be written by user {user}", path.display())]
    Unwritable {
        /// Which.
        path: PathBuf,
        /// Who this process is.
        user: u32,
    },
    /// The directory is on a file system whose locks may not reach other machines that use it.
    #[error(
        "{} is on {kind}, where file locks may fail or end at this machine; use a local directory, or allow it \
         (`network=allow`)",
        path.display()
    )]
    Network {
        /// Which.
        path: PathBuf,
        /// What kind of file system.
        kind: String,
    },
    /// The path is too long for a socket in it.
    #[error("{} is {len} bytes long; a directory for sockets has at most {max}", path.display())]
    TooLong {
        /// Which.
        path: PathBuf,
        /// How long it is.
        len: usize,
        /// How long it may be.
        max: usize,
    },
    /// A link, a directory, a device stands where a lock's file should be.
    #[error("{} is {kind}, not a plain file: somebody else has put it there", path.display())]
    NotAFile {
        /// Where.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The file has something in it that this library has not written.
    #[error("{} is not a lock file; it is left as it is", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// The file is of another version.
    #[error("{} is of format {version}; this version of tasklock knows format 1", path.display())]
    Version {
        /// Which.
        path: PathBuf,
        /// Which format.
        version: String,
    },
    /// No higher token is left.
    #[error("{} has used up its fencing tokens: the last is {last}", path.display())]
    Exhausted {
        /// Which.
        path: PathBuf,
        /// The last one.
        last: u64,
    },
    /// The file is replaced by another one all the time.
    #[error("{} was replaced again and again", path.display())]
    Replaced {
        /// Which.
        path: PathBuf,
    },
    /// The system says no.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Sockets need a runtime that serves them.
    #[error("a socket lock needs a tokio runtime with `enable_io` and `enable_time`")]
    NoRuntime,
    /// Not on this operating system.
    #[error("the {backend} backend needs a Unix system")]
    Unsupported {
        /// Which backend.
        backend: &'static str,
    },
}

impl LocalError {
    /// Whether the same call may succeed later, if nobody changes anything on purpose.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            LocalError::Replaced { .. } => true,
            LocalError::Io { source, .. } => !matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::NotFound
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::Unsupported
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::ReadOnlyFilesystem
            ),
            _ => false,
        }
    }
}

/// The source of what comes out is the error that went in.
impl From<LocalError> for BackendError {
    fn from(error: LocalError) -> Self {
        let message = error.to_string();
        let made = if error.is_retryable() { BackendError::transient(message) } else { BackendError::fatal(message) };
        made.with_source(error)
    }
}

impl From<LocalError> for LockError {
    fn from(error: LocalError) -> Self {
        BackendError::from(error).into()
    }
}
