//! The socket backend: the file backend, and a socket on which waiters are told.

use std::{path::Path, sync::Arc};

use tasklock_core::{
    AsyncLock, Attempt, Capabilities, Claim, Key, Powers, Released, Renewed, Request, State, StepResult, Wake, WakeBy,
};

use crate::{
    FileLock, LocalConfig, LocalError,
    directory::Directory,
    file,
    store::{POLL, Store},
    waker::{Waker, follow},
};

const CAPABILITIES: Capabilities = {
    let mut capabilities = file::CAPABILITIES.wake(WakeBy::Push);
    capabilities.backend = "socket";
    capabilities
};

/// Locks on files, whose waiters are told by a socket: see the [crate](crate) for how. Cheap to clone; clones share the
/// socket.
///
/// # Examples
///
/// ```
/// use tasklock_core::Locker;
/// use tasklock_local::{LocalConfig, SocketLock};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
/// # let folder = std::env::temp_dir().join(format!("tasklock-doc-{}", std::process::id()));
/// let lock = Locker::new(SocketLock::open(&LocalConfig::new().directory(&folder)).await?)?;
/// let guard = lock.acquire("import:acme").await?;
/// guard.release().await?; // whoever waits for it is told now
/// # drop(lock);
/// # std::fs::remove_dir_all(&folder).ok();
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct SocketLock {
    files: FileLock,
}

impl SocketLock {
    /// Locks in this directory; waiters of other processes are attended to on the runtime this is called in.
    ///
    /// # Errors
    ///
    /// As [`FileLock::open`]; [`LocalError::TooLong`] if the path is too long for a socket, [`LocalError::NoRuntime`]
    /// outside a tokio runtime, [`LocalError::Io`] if the socket cannot be made.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing.
    pub async fn open(config: &LocalConfig) -> Result<Self, LocalError> {
        let directory = Directory::open(config)?;
        let (waker, listener) = Waker::bind(&directory).await?;
        let files = FileLock::over(Store::new(directory, Some(waker)));
        if let Some(waker) = files.store().waker() {
            waker.serve(listener, Arc::downgrade(files.store()));
        }
        Ok(SocketLock { files })
    }

    /// Where the locks are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.files.directory()
    }
}

impl AsyncLock for SocketLock {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    fn try_acquire_now(&self, request: &Request) -> Option<StepResult<Attempt>> {
        self.files.try_acquire_now(request)
    }

    fn release_now(&self, claim: &Claim) -> Option<StepResult<Released>> {
        self.files.release_now(claim)
    }

    async fn try_acquire(&self, request: &Request) -> StepResult<Attempt> {
        self.files.try_acquire(request).await
    }

    async fn wait(&self, request: &Request) -> StepResult<Wake> {
        match self.files.store().whom_to_ask(&request.key)? {
            Some((socket, nonce)) => {
                follow(&socket, nonce).await;
                Ok(Wake::Retry)
            }
            // Held by someone who tells nobody, perhaps since just now: the attempt may have seen one who does.
            None => {
                tokio::time::sleep(POLL).await;
                Ok(Wake::Retry)
            }
        }
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<StepResult<Renewed>> {
        self.files.renew(claims).await
    }

    async fn release(&self, claim: &Claim) -> StepResult<Released> {
        self.files.release(claim).await
    }

    async fn inspect(&self, key: &Key) -> StepResult<State> {
        self.files.inspect(key).await
    }

    async fn ping(&self) -> StepResult<()> {
        self.files.ping().await
    }

    fn powers(&self) -> Powers<'_> {
        self.files.powers()
    }
}
