//! The file backend.

use std::{path::Path, sync::Arc};

use tasklock_core::{
    Administer, AsyncLock, Attempt, BoxFuture, Capabilities, Claim, Expiry, Fencing, Key, Loss, Many, Nonce, Powers,
    Released, Renewed, Request, Scope, State, StepResult, Together, WakeBy,
};

use crate::{
    LocalConfig, LocalError,
    directory::Directory,
    store::{GATE, MOST_TOGETHER, Store},
};

pub(crate) const CAPABILITIES: Capabilities = Capabilities::new("file")
    .fencing(Fencing::Strong)
    .expiry(Expiry::Process)
    .loss(Loss::Kernel)
    .wake(WakeBy::Poll)
    .shared(true)
    .scope(Scope::Host);

/// Locks on files, among the processes of one machine: see the [crate](crate) for how. Cheap to clone.
///
/// # Examples
///
/// ```
/// use tasklock_core::Locker;
/// use tasklock_local::{FileLock, LocalConfig};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
/// # let folder = std::env::temp_dir().join(format!("tasklock-doc-{}", std::process::id()));
/// let lock = Locker::new(FileLock::open(&LocalConfig::new().directory(&folder))?)?;
/// let guard = lock.acquire("import:acme").await?;
/// // No other process of this machine has it now; should this one be killed, the next has it at once.
/// guard.release().await?;
/// # std::fs::remove_dir_all(&folder).ok();
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct FileLock {
    store: Arc<Store>,
}

impl FileLock {
    /// Locks in this directory.
    ///
    /// # Errors
    ///
    /// [`LocalError`] if it cannot be made, is not safe (another user's, writable by others, behind a link), cannot be
    /// written, or is on a network file system.
    pub fn open(config: &LocalConfig) -> Result<Self, LocalError> {
        Ok(Self::over(Store::new(Directory::open(config)?, None)))
    }

    /// Where the locks are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.store.directory().path()
    }

    pub(crate) fn over(store: Store) -> Self {
        FileLock { store: Arc::new(store) }
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }
}

impl AsyncLock for FileLock {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    fn try_acquire_now(&self, request: &Request) -> Option<StepResult<Attempt>> {
        Some(self.store.attempt(request))
    }

    fn release_now(&self, claim: &Claim) -> Option<StepResult<Released>> {
        Some(Ok(self.store.free(claim)))
    }

    async fn try_acquire(&self, request: &Request) -> StepResult<Attempt> {
        self.store.attempt(request)
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<StepResult<Renewed>> {
        claims.iter().map(|claim| self.store.extend(claim)).collect()
    }

    async fn release(&self, claim: &Claim) -> StepResult<Released> {
        Ok(self.store.free(claim))
    }

    async fn inspect(&self, key: &Key) -> StepResult<State> {
        Ok(self.store.look(key)?)
    }

    async fn ping(&self) -> StepResult<()> {
        Ok(self.store.directory().check_writable()?)
    }

    fn powers(&self) -> Powers<'_> {
        Powers::default().with_administer(self).with_many(self)
    }
}

impl Administer for FileLock {
    fn revoke<'a>(&'a self, key: &'a Key, seen: Option<Nonce>) -> BoxFuture<'a, StepResult<bool>> {
        Box::pin(async move {
            loop {
                match self.store.revoke(key, seen)? {
                    Some(broken) => return Ok(broken),
                    None => tokio::time::sleep(GATE).await,
                }
            }
        })
    }
}

impl Many for FileLock {
    fn most(&self) -> usize {
        MOST_TOGETHER
    }

    fn try_acquire_all<'a>(&'a self, requests: &'a [Request]) -> BoxFuture<'a, StepResult<Together>> {
        Box::pin(async move { self.store.attempt_all(requests) })
    }
}
