//! Who holds a lock, as others see it.

use std::{
    fmt,
    sync::{Arc, LazyLock},
    time::Duration,
};

use crate::{FencingToken, Nonce};

/// Who a locker acquires for; what others read when they find a lock held. Cheap to clone: nothing is counted for the
/// process's own name, which is what nearly every lock is taken under.
#[derive(Clone)]
pub struct Owner(Repr);

#[derive(Clone)]
enum Repr {
    Process(&'static Details),
    Named(Arc<Details>),
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Details {
    name: String,
    host: String,
    pid: u32,
    application: String,
}

static PROCESS: LazyLock<Details> = LazyLock::new(|| {
    let executable = std::env::current_exe().ok();
    let application = executable
        .as_deref()
        .and_then(|path| path.file_stem())
        .map_or_else(|| "unknown".to_owned(), |stem| stem.to_string_lossy().into_owned());
    let (host, pid) = (host_name(), std::process::id());
    Details { name: format!("{application}@{host}:{pid}"), host, pid, application }
});

impl Owner {
    /// This process under its default name, `application@host:pid`.
    #[must_use]
    pub fn this_process() -> Self {
        Owner(Repr::Process(&PROCESS))
    }

    /// This process under a name of its own.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Owner(Repr::Named(Arc::new(Details { name: name.into(), ..PROCESS.clone() })))
    }

    /// Whoever a store has a record of.
    #[must_use]
    pub fn recorded(
        name: impl Into<String>,
        host: impl Into<String>,
        pid: u32,
        application: impl Into<String>,
    ) -> Self {
        let (name, host, application) = (name.into(), host.into(), application.into());
        Owner(Repr::Named(Arc::new(Details { name, host, pid, application })))
    }

    /// The name of the instance.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.details().name
    }

    /// The machine's name.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.details().host
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.details().pid
    }

    /// The application; by default the executable's file name.
    #[must_use]
    pub fn application(&self) -> &str {
        &self.details().application
    }

    fn details(&self) -> &Details {
        match &self.0 {
            Repr::Process(details) => details,
            Repr::Named(details) => details,
        }
    }
}

impl PartialEq for Owner {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.details(), other.details()) || self.details() == other.details()
    }
}

impl Eq for Owner {}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { name, host, pid, application } = self.details();
        f.debug_struct("Owner")
            .field("name", name)
            .field("host", host)
            .field("pid", pid)
            .field("application", application)
            .finish()
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
    pub owner: Owner,
    /// How long it has been held.
    pub held: Option<Duration>,
    /// Time to expiry unless renewed; `None` if it does not expire, or the store does not tell.
    pub remaining: Option<Duration>,
    /// Its fencing token.
    pub token: Option<FencingToken>,
    /// Which acquisition it is.
    pub nonce: Option<Nonce>,
    /// How long ago it gave its last sign of life: when it acquired, or renewed.
    pub silent: Option<Duration>,
}

impl Holder {
    /// A holder of whom no more is known than this.
    #[must_use]
    pub fn new(owner: Owner) -> Self {
        Holder { owner, held: None, remaining: None, token: None, nonce: None, silent: None }
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

    /// By which acquisition, and how long ago it gave its last sign of life: what it takes to tell a stale one.
    #[must_use]
    pub fn last_heard(mut self, nonce: Nonce, silent: Duration) -> Self {
        (self.nonce, self.silent) = (Some(nonce), Some(silent));
        self
    }
}

impl Holder {
    /// The same holder `by` later, as far as can be told without asking: what was left then may have been renewed.
    pub(crate) fn aged(&self, by: Duration) -> Self {
        let held = self.held.map(|held| held + by);
        let remaining = self.remaining.and_then(|left| left.checked_sub(by)).filter(|left| !left.is_zero());
        // Whether it was heard of since, nobody has asked.
        Holder { held, remaining, silent: None, ..self.clone() }
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
    /// Who holds it, if anyone does. If it is shared, one of those who do.
    pub holder: Option<Arc<Holder>>,
    /// The others who hold it, if it is shared and the store knows them.
    pub others: Vec<Arc<Holder>>,
    /// How many wait for it, where the store knows.
    pub waiters: Option<u64>,
}

impl State {
    /// A key held by `holder`, or free, with this many waiters.
    #[must_use]
    pub fn new(holder: Option<Arc<Holder>>, waiters: Option<u64>) -> Self {
        State { holder, others: Vec::new(), waiters }
    }

    /// The same key, held by these as well.
    #[must_use]
    pub fn shared_with(mut self, others: Vec<Arc<Holder>>) -> Self {
        self.others = others;
        self
    }

    /// All who hold it, as far as the store knows them.
    pub fn holders(&self) -> impl Iterator<Item = &Arc<Holder>> {
        self.holder.iter().chain(&self.others)
    }

    /// Whether nobody holds it.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.holder.is_none()
    }
}
