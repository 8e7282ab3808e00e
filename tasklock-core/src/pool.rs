//! Any free one of a set.

use std::{collections::HashSet, fmt, future::Future, ops::Deref, sync::Arc, time::Duration};

use crate::{
    Applied, Guard, Health, InvalidKey, Key, Lease, LockError, Locker, Mode, OnLost, PoolChange, Pools, ReleaseMode,
    ReleaseOutcome, State, Wait,
    acquire::{ERROR_PAUSES, TRY_ATTEMPTS, acquire},
    admin::unsupported,
    capabilities::POOLS,
    current,
    key::check_name,
    options::{Options, setters},
    shared::{ANSWER_WAIT, Shared},
};

/// A store is given more time for each so many members of a change.
const AT_ONCE: usize = 10_000;
/// How many members are asked about in one question.
const ASKED: usize = 256;

/// A pool, made by [`Locker::pool`]: a set of members (licences, accounts, devices, ports), of which anybody may take one
/// that is free.
///
/// Who belongs to it is kept in the store, for everyone: [`assign`](Pool::assign), [`extend`](Pool::extend) and
/// [`shrink`](Pool::shrink) change that, and it stays until it is changed again. A member is held as a lock is: by a guard,
/// which is renewed, tells its loss and gives back when dropped; a member whose holder dies is free again after the ttl.
/// Whoever finds none free waits in line and is told. The member that has been free for longest is taken first.
///
/// The fencing tokens of a pool rise from grant to grant, whichever member it is; so a member is never granted under a token
/// that is lower than one it was held under before.
///
/// # Examples
///
/// ```
/// # use tasklock_core::{Locker, MemoryLock};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
/// # let lock = Locker::new(MemoryLock::new())?;
/// let licences = lock.pool("licences")?;
/// licences.assign(["A-17", "B-42"]).await?;
///
/// let one = licences.acquire().await?;
/// let two = licences.acquire().await?;
/// assert_ne!(one.member(), two.member());
/// assert!(licences.try_acquire().await?.is_none());
///
/// two.release().await?; // or just drop it
/// let health = licences.health().await?;
/// assert_eq!((health.locked, health.free), (1, 1));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is locked until something is called on it"]
pub struct Pool {
    locker: Locker,
    key: Key,
    options: Options,
    /// What was wrong with the affinity.
    invalid: Option<InvalidKey>,
}

impl Pool {
    /// By a key that is a pool's.
    pub(crate) fn new(locker: &Locker, key: Key) -> Result<Self, LockError> {
        power(&locker.core().shared)?;
        let options = Options { mode: Mode::Member, ..locker.core().options.clone() };
        Ok(Pool { locker: locker.clone(), key, options, invalid: None })
    }

    setters!();

    /// Under which name a member is wanted: the one that this name had before, if it is free; else any. The store remembers
    /// it for a day after it was last granted.
    ///
    /// A name that no lock can have is told by whatever acquires next.
    pub fn affinity(mut self, name: impl AsRef<str>) -> Self {
        let name = name.as_ref();
        self.invalid = check_name(name).err();
        self.options.affinity = self.invalid.is_none().then(|| Arc::from(name));
        self
    }

    /// The pool's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.key.name()
    }

    /// Acquires a free member, waiting until there is one: in line, and for as long as the settings allow. A pool that has
    /// no members is waited for, too.
    ///
    /// # Errors
    ///
    /// As [`Locker::acquire`], [`LockError::Timeout`] with the holder whose time is over first;
    /// [`LockError::InvalidOption`], [`LockError::InvalidKey`] for an affinity that is no name.
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::acquire`]: no member stays held, and no place in the line.
    pub async fn acquire(&self) -> Result<PoolGuard, LockError> {
        self.acquire_by(&self.options).await
    }

    /// Acquires a free member if there is one for which nobody waits; else `None`.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Pool::acquire), without the timeout.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Pool::acquire).
    pub async fn try_acquire(&self) -> Result<Option<PoolGuard>, LockError> {
        match self.acquire_by(&Options { wait: Wait::Try, ..self.options.clone() }).await {
            Ok(guard) => Ok(Some(guard)),
            Err(LockError::Held { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Runs `body`, which is given the lease and by it the [member](Lease::member), while holding a member: see
    /// [`Locker::synchronized_with`].
    ///
    /// # Errors
    ///
    /// As [`acquire`](Pool::acquire), and [`LockError::Lost`].
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::synchronized`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use tasklock_core::{Locker, MemoryLock};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
    /// # let lock = Locker::new(MemoryLock::new())?;
    /// let ports = lock.pool("ports")?;
    /// ports.assign(["8001", "8002"]).await?;
    /// let used = ports.synchronized_with(|lease| async move { lease.member().map(str::to_owned) }).await?;
    /// assert_eq!(used.as_deref(), Some("8001"));
    /// # Ok(()) }
    /// ```
    pub async fn synchronized_with<F, Fut>(&self, body: F) -> Result<Fut::Output, LockError>
    where
        F: FnOnce(Lease) -> Fut,
        Fut: Future,
    {
        let PoolGuard(guard) = self.acquire().await?;
        current::run(guard, self.ending(), body).await
    }

    /// Runs `body` while holding a member, which [`current`](crate::current) tells.
    ///
    /// # Errors
    ///
    /// As [`synchronized_with`](Pool::synchronized_with).
    ///
    /// # Cancel safety
    ///
    /// As [`Locker::synchronized`].
    pub async fn synchronized<F: Future>(&self, body: F) -> Result<F::Output, LockError> {
        self.synchronized_with(|_| body).await
    }

    /// Makes these its members, and no others, in one step: others see those of before until all of these are there.
    /// Members that stay are not disturbed; who holds one that goes keeps it until it is given back. Of two assignments at a
    /// time the one that ends last stands.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidKey`] for the first name that no lock can have, and nothing is changed;
    /// [`LockError::Backend`] if the store failed. If it says [`Applied::No`], nothing is changed after this, though of a
    /// long list a part may have been. If it says [`Applied::Unknown`], the change may have been made, or may be made yet,
    /// even after one that follows.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it has changed everything or nothing, or may do so yet.
    pub async fn assign<M: AsRef<str>>(&self, members: impl IntoIterator<Item = M>) -> Result<(), LockError> {
        self.change(PoolChange::Assign(names(members)?)).await
    }

    /// Makes these its members, too. Those who wait for one are told.
    ///
    /// # Errors
    ///
    /// As [`assign`](Pool::assign).
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may have added some of them, or may do so yet.
    pub async fn extend<M: AsRef<str>>(&self, members: impl IntoIterator<Item = M>) -> Result<(), LockError> {
        self.change(PoolChange::Extend(names(members)?)).await
    }

    /// Takes these out. Who holds one of them keeps it until it is given back.
    ///
    /// # Errors
    ///
    /// As [`assign`](Pool::assign).
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may have taken some of them out, or may do so yet.
    pub async fn shrink<M: AsRef<str>>(&self, members: impl IntoIterator<Item = M>) -> Result<(), LockError> {
        self.change(PoolChange::Shrink(names(members)?)).await
    }

    /// Takes all members out, in one step.
    ///
    /// # Errors
    ///
    /// As [`assign`](Pool::assign).
    ///
    /// # Cancel safety
    ///
    /// As [`assign`](Pool::assign).
    pub async fn clear(&self) -> Result<(), LockError> {
        self.change(PoolChange::Assign(Vec::new())).await
    }

    /// All its members, in no order: those that belong to it all the while this takes, and perhaps some that come or go
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`].
    ///
    /// # Cancel safety
    ///
    /// It only reads; dropping it costs nothing.
    pub async fn members(&self) -> Result<Vec<Arc<str>>, LockError> {
        let mut scan = self.scan();
        let mut members = HashSet::new();
        while let Some(page) = scan.next().await? {
            members.extend(page);
        }
        Ok(members.into_iter().collect())
    }

    /// Goes through its members page by page, without asking for all of them at once.
    #[must_use]
    pub fn scan(&self) -> Scan {
        Scan { pool: self.clone(), next: Some(0) }
    }

    /// How many members it has, held or not.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`].
    ///
    /// # Cancel safety
    ///
    /// It only reads; dropping it costs nothing.
    pub async fn len(&self) -> Result<u64, LockError> {
        self.health().await.map(|health| health.members())
    }

    /// Whether it has no members.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`].
    ///
    /// # Cancel safety
    ///
    /// It only reads; dropping it costs nothing.
    pub async fn is_empty(&self) -> Result<bool, LockError> {
        self.len().await.map(|len| len == 0)
    }

    /// Whether this is one of its members.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`], [`LockError::InvalidKey`].
    ///
    /// # Cancel safety
    ///
    /// It only reads; dropping it costs nothing.
    pub async fn contains(&self, member: impl AsRef<str>) -> Result<bool, LockError> {
        self.inspect(member).await.map(|state| state.is_some())
    }

    /// What the store says of this member; `None` if it does not belong to the pool. [`State::status`] says what that means
    /// to somebody who would wait.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`], [`LockError::InvalidKey`].
    ///
    /// # Cancel safety
    ///
    /// It only reads; dropping it costs nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tasklock_core::{Locker, MemoryLock, Status};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
    /// # let lock = Locker::new(MemoryLock::new())?;
    /// let ports = lock.pool("ports")?;
    /// ports.assign(["8001"]).await?;
    /// let _guard = ports.acquire().await?; // for 30 s, unless renewed
    /// let state = ports.inspect("8001").await?.expect("a member");
    /// assert!(matches!(state.status(Duration::from_secs(60)), Status::Locked(_)));
    /// assert!(ports.inspect("8002").await?.is_none());
    /// # Ok(()) }
    /// ```
    pub async fn inspect(&self, member: impl AsRef<str>) -> Result<Option<State>, LockError> {
        Ok(self.who([member]).await?.pop().and_then(|(_, state)| state))
    }

    /// The same for each of these, in this order; each once. The answers need not be of one moment.
    ///
    /// # Errors
    ///
    /// As [`inspect`](Pool::inspect).
    ///
    /// # Cancel safety
    ///
    /// It only reads; dropping it costs nothing.
    pub async fn who<M: AsRef<str>>(
        &self,
        members: impl IntoIterator<Item = M>,
    ) -> Result<Vec<(Arc<str>, Option<State>)>, LockError> {
        let members = names(members)?;
        let shared = &self.locker.core().shared;
        let mut states = Vec::with_capacity(members.len());
        for some in members.chunks(ASKED) {
            states.extend(shared.ask(power(shared)?.inspect(&self.key, some)).await?);
        }
        Ok(members.into_iter().zip(states).collect())
    }

    /// How many members are held, how many are not, and how many wait for one.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`].
    ///
    /// # Cancel safety
    ///
    /// It only reads; dropping it costs nothing.
    pub async fn health(&self) -> Result<Health, LockError> {
        let shared = &self.locker.core().shared;
        shared.ask(power(shared)?.health(&self.key)).await
    }

    pub(crate) fn locker(&self) -> Result<&Locker, LockError> {
        Ok(&self.locker)
    }

    /// What happens at the end of a body, foreseen or not.
    pub(crate) fn ending(&self) -> (OnLost, ReleaseMode) {
        (self.options.on_lost, self.options.release)
    }

    async fn acquire_by(&self, options: &Options) -> Result<PoolGuard, LockError> {
        if let Some(invalid) = &self.invalid {
            return Err(invalid.clone().into());
        }
        options.check()?;
        acquire(self.locker.core(), self.key.clone(), options).await.map(PoolGuard)
    }

    /// Repeated if it is known not to have been made. Else it may reach the store yet, after a later change: to repeat it
    /// would tell the caller that it is over.
    async fn change(&self, change: PoolChange) -> Result<(), LockError> {
        let shared = &self.locker.core().shared;
        let more = u32::try_from(change.members().len() / AT_ONCE).unwrap_or(u32::MAX);
        let bound = ANSWER_WAIT.saturating_mul(more.saturating_add(1));
        let mut pauses = ERROR_PAUSES.start();
        let mut attempt = 1;
        loop {
            let outcome = shared.ask_for(bound, power(shared)?.change(&self.key, &change)).await;
            match outcome {
                Err(LockError::Backend(error))
                    if error.is_retryable() && error.applied() == Applied::No && attempt < TRY_ATTEMPTS =>
                {
                    let (pool, backend) = (shared.shown(&self.key), shared.backend_name());
                    tracing::warn!(target: "tasklock", %pool, backend, attempt, "pool not changed, tried again: {error}");
                    self.pause(pauses.next()).await?;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn pause(&self, pause: Duration) -> Result<(), LockError> {
        let shared = &self.locker.core().shared;
        let slept = async {
            tokio::time::sleep(pause).await;
            Ok(())
        };
        shared.ask(slept).await
    }

    fn set(mut self, set: impl Fn(&mut Options)) -> Self {
        set(&mut self.options);
        self
    }
}

/// A member of a pool, held; dropping it gives it back. In all else it is a [`Guard`], to which it derefs.
#[must_use = "dropping the guard gives the member back"]
pub struct PoolGuard(Guard);

impl PoolGuard {
    /// Which member it is.
    #[must_use]
    pub fn member(&self) -> &str {
        self.0.lease().member().unwrap_or_default()
    }

    /// Gives it back and waits until the store has it: see [`Guard::release`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub async fn release(self) -> Result<ReleaseOutcome, LockError> {
        self.0.release().await
    }

    /// The guard that it is, whose lease tells the member, too.
    pub fn into_guard(self) -> Guard {
        self.0
    }
}

impl Deref for PoolGuard {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.0
    }
}

impl fmt::Debug for PoolGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolGuard").field("member", &self.member()).field("guard", &self.0).finish()
    }
}

/// The members of a pool, page by page: made by [`Pool::scan`].
///
/// Members that belong to the pool all the while come at least once; those that come or go meanwhile may be among them or
/// not, and after an assignment the pages may be of both.
#[derive(Clone, Debug)]
pub struct Scan {
    pool: Pool,
    next: Option<u64>,
}

impl Scan {
    /// The next page; `None` after the last.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`]; the same page may be asked for again.
    ///
    /// # Cancel safety
    ///
    /// It only reads; dropped, the same page comes next.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tasklock_core::{Locker, MemoryLock};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
    /// # let lock = Locker::new(MemoryLock::new())?;
    /// # let ports = lock.pool("ports")?;
    /// # ports.assign(["8001"]).await?;
    /// let mut scan = ports.scan();
    /// while let Some(page) = scan.next().await? {
    ///     for member in page {
    ///         println!("{member}");
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn next(&mut self) -> Result<Option<Vec<Arc<str>>>, LockError> {
        let Some(from) = self.next else { return Ok(None) };
        let shared = &self.pool.locker.core().shared;
        let page = shared.ask(power(shared)?.scan(&self.pool.key, from)).await?;
        self.next = (page.next != 0).then_some(page.next);
        Ok(Some(page.members))
    }
}

fn power(shared: &Shared) -> Result<&dyn Pools, LockError> {
    shared.backend.powers().pools.ok_or_else(|| unsupported(shared, POOLS))
}

/// Each of these once, in their order.
fn names<M: AsRef<str>>(members: impl IntoIterator<Item = M>) -> Result<Vec<Arc<str>>, InvalidKey> {
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    for member in members {
        let member = member.as_ref();
        check_name(member)?;
        let name: Arc<str> = Arc::from(member);
        if seen.insert(name.clone()) {
            names.push(name);
        }
    }
    Ok(names)
}
