//! Who holds a lock, as others see it.

use std::{fmt, sync::Arc, time::Duration};

use crate::FencingToken;

/// Who a locker acquires for; what others read when they find a lock held.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Owner {
    /// The name of the instance; by default `application@host:pid`.
    pub name: String,
    /// The machine's name.
    pub host: String,
    /// The process id.
    pub pid: u32,
    /// The application; by default the executable's file name.
    pub application: String,
}

impl Owner {
    /// This process under its default name.
    #[must_use]
    pub fn this_process() -> Self {
        let executable = std::env::current_exe().ok();
        let application = executable
            .as_deref()
            .and_then(|path| path.file_stem())
            .map_or_else(|| "unknown".to_owned(), |stem| stem.to_string_lossy().into_owned());
        let (host, pid) = (host_name(), std::process::id());
        Owner { name: format!("{application}@{host}:{pid}"), host, pid, application }
    }

    /// This process under a name of its own.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Owner { name: name.into(), ..Self::this_process() }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(unix)]
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host_name() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "localhost".to_owned())
}

/// The holder of a lock at the moment the store was asked. A store tells what it knows.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Holder {
    /// Who holds it.
    pub owner: Arc<Owner>,
    /// How long it has been held.
    pub held: Option<Duration>,
    /// Time to expiry unless renewed; `None` if it does not expire, or the store does not tell.
    pub remaining: Option<Duration>,
    /// Its fencing token.
    pub token: Option<FencingToken>,
}

impl Holder {
    /// A holder of whom no more is known than this.
    #[must_use]
    pub fn new(owner: Arc<Owner>) -> Self {
        Holder { owner, held: None, remaining: None, token: None }
    }

    /// Since when, as a duration.
    #[must_use]
    pub fn held(mut self, held: Duration) -> Self {
        self.held = Some(held);
        self
    }

    /// For how long, unless renewed.
    #[must_use]
    pub fn remaining(mut self, remaining: Option<Duration>) -> Self {
        self.remaining = remaining;
        self
    }

    /// Under which token.
    #[must_use]
    pub fn token(mut self, token: FencingToken) -> Self {
        self.token = Some(token);
        self
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.owner)?;
        if let Some(held) = self.held {
            write!(f, " for {held:.1?}")?;
        }
        if let Some(remaining) = self.remaining {
            write!(f, ", {remaining:.1?} left unless renewed")?;
        }
        Ok(())
    }
}

/// What a store says of one key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct State {
    /// Who holds it, if anyone does.
    pub holder: Option<Arc<Holder>>,
    /// How many wait for it, where the store knows.
    pub waiters: Option<u64>,
}

impl State {
    /// A key held by `holder`, or free, with this many waiters.
    #[must_use]
    pub fn new(holder: Option<Arc<Holder>>, waiters: Option<u64>) -> Self {
        State { holder, waiters }
    }

    /// Whether nobody holds it.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.holder.is_none()
    }
}
