//! Where the locks are.

use std::path::PathBuf;

/// The directory of a [`FileLock`](crate::FileLock) or a [`SocketLock`](crate::SocketLock), and what it may be.
///
/// # Examples
///
/// ```
/// use tasklock_local::{FileLock, LocalConfig};
///
/// let folder = std::env::temp_dir().join(format!("tasklock-example-{}", std::process::id()));
/// let files = FileLock::open(&LocalConfig::new().directory(&folder))?;
/// assert_eq!(files.directory(), folder);
/// # std::fs::remove_dir(&folder).ok();
/// # Ok::<(), tasklock_local::LocalError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct LocalConfig {
    /// Where the locks are; `None` for this user's own directory: `$XDG_RUNTIME_DIR/tasklock`, or, if that is not set
    /// to an absolute path, `tasklock-` and the user's number in the temporary directory.
    pub directory: Option<PathBuf>,
    /// Whether the directory may be on a network file system.
    pub network: bool,
}

impl LocalConfig {
    /// This user's own directory, which must be on a local file system.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A directory of the application's choice. It is made with the rights 0700 if there is none; one that is there
    /// must belong to this user and be writable by nobody else.
    #[must_use]
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// Whether the directory may be on a network file system (or one of user space, which may be one): not by default.
    /// File locks there may fail, may end at each machine, and may be kept by a server after their holder's death.
    #[must_use]
    pub fn network(mut self, allowed: bool) -> Self {
        self.network = allowed;
        self
    }
}
