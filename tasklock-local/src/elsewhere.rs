//! What stands in for both backends on systems that are not Unix: types that nobody can have.

use std::{convert::Infallible, path::Path};

use tasklock_core::{AsyncLock, Attempt, Capabilities, Claim, Key, Released, Renewed, Request, State, StepResult};

use crate::{LocalConfig, LocalError};

macro_rules! absent {
    ($(#[$doc:meta])* $name:ident, $backend:literal, $($wait:ident)?) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name(Infallible);

        impl $name {
            /// Where the locks are.
            #[must_use]
            pub fn directory(&self) -> &Path {
                match self.0 {}
            }

            /// Not on this operating system.
            ///
            /// # Errors
            ///
            /// [`LocalError::Unsupported`].
            pub $($wait)? fn open(_: &LocalConfig) -> Result<Self, LocalError> {
                Err(LocalError::Unsupported { backend: $backend })
            }
        }

        impl AsyncLock for $name {
            fn capabilities(&self) -> &Capabilities {
                match self.0 {}
            }

            async fn try_acquire(&self, _: &Request) -> StepResult<Attempt> {
                match self.0 {}
            }

            async fn renew(&self, _: &[Claim]) -> Vec<StepResult<Renewed>> {
                match self.0 {}
            }

            async fn release(&self, _: &Claim) -> StepResult<Released> {
                match self.0 {}
            }

            async fn inspect(&self, _: &Key) -> StepResult<State> {
                match self.0 {}
            }

            async fn ping(&self) -> StepResult<()> {
                match self.0 {}
            }
        }
    };
}

absent!(
    /// Locks on files: needs a Unix system.
    FileLock,
    "file",
);
absent!(
    /// Locks on files, whose waiters are told by a socket: needs a Unix system.
    SocketLock,
    "socket",
    async
);
