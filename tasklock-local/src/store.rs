//! Every step of both backends, in terms of files.

use std::{
    collections::{HashMap, hash_map},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use rustix::io::Errno;
use tasklock_core::{
    Attempt, BackendError, Busy, Claim, Clock, FencingToken, Grant, Key, Mode, Mono, Nonce, Released, Renewed, Request,
    State, StepResult, Together, Ttl, Validity, Withdrawn, wall_micros,
};

use crate::{
    LocalError,
    directory::Directory,
    idle::Idle,
    lock_file::LockFile,
    record::{Content, Record, Taker},
    waker::Waker,
};

/// How often those who are not told ask again at least.
pub(crate) const POLL: Duration = Duration::from_millis(100);
/// The same for those who are: nothing but a holder that has come to a standstill keeps them waiting.
const TOLD: Duration = Duration::from_secs(1);
/// Taking a token among those who share a lock takes microseconds, and so does breaking one.
pub(crate) const GATE: Duration = Duration::from_millis(1);
/// A file that is replaced under the hands of those who open it is opened again this often.
const REOPENS: usize = 16;
/// For how long after it was opened a file is locked again, in microseconds of the wall clock. A child that is forked and
/// does not start a program has it open: should the parent be killed, a lock taken by it ends with the child.
const FRESH: u64 = 1_000_000;
/// How many locks one step takes: each is an open file.
pub(crate) const MOST_TOGETHER: usize = 256;
const SHARDS: usize = 16;

/// A directory, and what this process has locked in it.
pub(crate) struct Store {
    directory: Directory,
    held: [Mutex<HashMap<Nonce, Held>>; SHARDS],
    idle: Idle,
    withdrawn: Withdrawn,
    clock: OnceLock<Clock>,
    /// After the files, so that who is woken by the end of this store finds its locks free.
    waker: Option<Waker>,
}

struct Held {
    key: Key,
    file: LockFile,
    record: Record,
}

/// What an attempt at a file came to.
enum Taken {
    Lock(Held),
    Busy(Busy),
}

impl Store {
    pub(crate) fn new(directory: Directory, waker: Option<Waker>) -> Self {
        Store {
            directory,
            held: std::array::from_fn(|_| Mutex::default()),
            idle: Idle::new(),
            withdrawn: Withdrawn::default(),
            clock: OnceLock::new(),
            waker,
        }
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    pub(crate) fn waker(&self) -> Option<&Waker> {
        self.waker.as_ref()
    }

    pub(crate) fn attempt(&self, request: &Request) -> StepResult<Attempt> {
        let shared = match request.mode {
            Mode::Exclusive => false,
            Mode::Shared => true,
            other => return Err(BackendError::fatal(format!("locks on files do not know {other:?}"))),
        };
        let mut held = self.held_by(request.nonce);
        self.withdrawn.check(request.nonce, || self.now())?;
        if let hash_map::Entry::Occupied(mine) = held.entry(request.nonce) {
            if mine.get().is_held()? {
                return Ok(Attempt::Granted(mine.get().grant()));
            }
            mine.remove();
        }
        Ok(match self.take(request, shared)? {
            Taken::Lock(taken) => {
                let grant = taken.grant();
                held.insert(request.nonce, taken);
                Attempt::Granted(grant)
            }
            Taken::Busy(busy) => Attempt::Busy(busy),
        })
    }

    /// All or none: one after the other in the order of their names, so that of those who want the same ones, one
    /// always gets on.
    pub(crate) fn attempt_all(&self, requests: &[Request]) -> StepResult<Together> {
        if requests.len() > MOST_TOGETHER {
            let count = requests.len();
            return Err(BackendError::fatal(format!("{count} locks in one step; {MOST_TOGETHER} are the most")));
        }
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|place| requests[*place].key.as_str());
        let mut grants: Vec<(usize, Grant)> = Vec::with_capacity(requests.len());
        let mut fresh = GiveBack { store: self, taken: Vec::new() };
        for place in order {
            let request = &requests[place];
            let had = self.holds(request.nonce);
            match self.attempt(request)? {
                Attempt::Granted(grant) => grants.push((place, grant)),
                Attempt::Busy(busy) => return Ok(Together::Busy(vec![(place, busy)])),
            }
            if !had {
                fresh.taken.push(Claim::of(request));
            }
        }
        fresh.taken.clear();
        grants.sort_by_key(|(place, _)| *place);
        Ok(Together::Granted(grants.into_iter().map(|(_, grant)| grant).collect()))
    }

    pub(crate) fn free(&self, claim: &Claim) -> Released {
        let removed = {
            let mut held = self.held_by(claim.nonce);
            if claim.unsettled {
                self.withdrawn.note(claim.nonce, self.now());
            }
            held.remove(&claim.nonce)
        };
        let Some(held) = removed.filter(|held| held.file.is_ours()) else { return Released::NotOwner };
        let Held { key, mut file, .. } = held;
        let kept = !file.is_removed();
        file.unlock();
        if kept && !file.is_locked() {
            self.idle.keep(key, file);
        }
        if let Some(waker) = &self.waker {
            waker.tell(claim.nonce);
        }
        if kept { Released::Released } else { Released::NotOwner }
    }

    pub(crate) fn extend(&self, claim: &Claim) -> StepResult<Renewed> {
        let mut held = self.held_by(claim.nonce);
        let Some(mine) = held.get_mut(&claim.nonce) else { return Ok(Renewed::NotOwner) };
        if !mine.is_held()? {
            return Ok(Renewed::NotOwner);
        }
        if let Some(taker) = mine.record.taker.as_mut().filter(|taker| !taker.shared) {
            taker.until = until(claim.ttl, wall_micros());
            // For others to read. The lock does not depend on it.
            let _ = mine.file.write(&mine.record);
        }
        Ok(Renewed::held(Validity::Session, Some(mine.record.token)))
    }

    /// Whether this process holds something by this nonce.
    pub(crate) fn holds(&self, nonce: Nonce) -> bool {
        self.held_by(nonce).get(&nonce).is_some_and(|held| held.file.is_ours())
    }

    /// Who holds a lock. The record may be that of a holder that is gone: so the lock is tried, and given back at once.
    pub(crate) fn look(&self, key: &Key) -> Result<State, LocalError> {
        let Some(mut file) = self.existing(key)? else { return Ok(State::default()) };
        // Shared, so that two who look do not find each other.
        let free = file.try_lock(true)? && (!is_shared(&file.read()?) || file.try_lock(false)?);
        let holder = if free { None } else { Some(Arc::new(settled(&file)?.holder(wall_micros()))) };
        Ok(State::new(holder, None))
    }

    /// Who is to be asked for news of a lock: the name of a socket, and the nonce of the hold.
    pub(crate) fn whom_to_ask(&self, key: &Key) -> Result<Option<(PathBuf, Nonce)>, LocalError> {
        let Some(file) = self.existing(key)? else { return Ok(None) };
        let content = file.read()?;
        let taker = content.taker().filter(|taker| !taker.shared);
        let waker = taker.and_then(|taker| Some((taker.waker.as_deref()?, taker.nonce)));
        Ok(waker
            .filter(|(name, _)| Waker::is_name(name))
            .map(|(name, nonce)| (self.directory.path().join(name), nonce)))
    }

    /// Puts a new file in the place of one that is locked, with the same last token: the next one to open it finds it
    /// free, and the holder finds that the file it has locked is no longer the lock. `None` while somebody else is at it.
    pub(crate) fn revoke(&self, key: &Key, seen: Option<Nonce>) -> Result<Option<bool>, LocalError> {
        let path = self.directory.lock(key);
        for _ in 0..REOPENS {
            let Some(mut old) = self.existing(key)? else { return Ok(Some(false)) };
            if old.try_lock(false)? {
                return Ok(Some(false));
            }
            let wanted = |content: &Content| seen.is_none() || content.taker().map(|taker| taker.nonce) == seen;
            if !wanted(&ours(&old)?) {
                return Ok(Some(false));
            }
            // One at a time: a second one would find the file of the first, or that of whoever has come in since, in the
            // place of this one.
            let mut gate = self.gate(key)?;
            if !(gate.try_lock(false)? && gate.is_current()?) {
                return Ok(None);
            }
            // The old file keeps a name until it is certain that it was the right one.
            let (fresh, kept) = (Litter(self.directory.fresh("new")), Litter(self.directory.fresh("old")));
            let mut file = self.roomy(|| LockFile::create_new(fresh.0.clone()))?;
            // Nobody gets the new one before its token is right.
            if !file.try_lock(false)? {
                continue;
            }
            file.write(&free_record(&ours(&old)?))?;
            let io = |what, path: &Path| {
                let path = path.to_owned();
                move |source| LocalError::Io { what, path, source }
            };
            fs::hard_link(&path, &kept.0).map_err(io("link", &path))?;
            if !old.is_at(&kept.0)? {
                continue;
            }
            fs::rename(&fresh.0, &path).map_err(io("replace", &path))?;
            // Whoever has taken the old file meanwhile wrote before it looked at the name, and looked before the name
            // was changed: it is in there now.
            let found = settled(&old)?;
            if !wanted(&found) {
                fs::rename(&kept.0, &path).map_err(io("restore", &path))?;
                return Ok(Some(false));
            }
            file.write(&free_record(&found))?;
            // Before anybody gets the new file: from here on the old one has no name, and its holder can tell.
            drop(kept);
            return Ok(Some(true));
        }
        Err(LocalError::Replaced { path })
    }

    /// Opens, locks, takes a token, writes it down, and makes sure that it all happened to the file others see.
    fn take(&self, request: &Request, shared: bool) -> Result<Taken, LocalError> {
        let key = &request.key;
        for _ in 0..REOPENS {
            let mut file = match self.idle.take(key) {
                Some(file) => file,
                None => self.roomy(|| LockFile::create(self.directory.lock(key)))?,
            };
            if !file.try_lock(shared)? {
                if !file.is_current()? {
                    continue;
                }
                return Ok(Taken::Busy(self.busy(&file.read()?)));
            }
            let mut gate = if shared { Some(self.gate(key)?) } else { None };
            if let Some(gate) = &mut gate {
                if !(gate.try_lock(false)? && gate.is_current()?) {
                    return Ok(Taken::Busy(Busy::new(None, Some(GATE))));
                }
            }
            let now = wall_micros();
            if now.wrapping_sub(file.opened()) > FRESH {
                continue;
            }
            let token = next_token(&file, now)?;
            let taker = Taker {
                nonce: request.nonce,
                shared,
                since: now,
                until: until(request.ttl, now),
                waker: self.waker.as_ref().and_then(|waker| waker.name(file.pid())),
                owner: request.owner.clone(),
            };
            let record = Record { token, taker: Some(taker) };
            file.write(&record)?;
            // Last: who replaces the file can rely on it.
            if file.is_current()? {
                return Ok(Taken::Lock(Held { key: key.clone(), file, record }));
            }
        }
        Err(LocalError::Replaced { path: self.directory.lock(key) })
    }

    fn existing(&self, key: &Key) -> Result<Option<LockFile>, LocalError> {
        self.roomy(|| LockFile::existing(self.directory.lock(key)))
    }

    fn gate(&self, key: &Key) -> Result<LockFile, LocalError> {
        self.roomy(|| LockFile::create(self.directory.gate(key)))
    }

    /// Opens a file, if need be in the place of those that are only kept for later.
    fn roomy<T>(&self, open: impl Fn() -> Result<T, LocalError>) -> Result<T, LocalError> {
        match open() {
            Err(LocalError::Io { source, .. }) if is_out_of_descriptors(&source) => {
                self.idle.clear();
                open()
            }
            opened => opened,
        }
    }

    fn busy(&self, content: &Content) -> Busy {
        let told = self.waker.is_some() && content.taker().is_some_and(|taker| !taker.shared && taker.waker.is_some());
        let again = if told { TOLD } else { POLL };
        Busy::new(Some(Arc::new(content.holder(wall_micros()))), Some(again))
    }

    fn held_by(&self, nonce: Nonce) -> MutexGuard<'_, HashMap<Nonce, Held>> {
        // A remainder, so within bounds and within the type.
        #[allow(clippy::cast_possible_truncation)]
        lock(&self.held[(nonce.as_u128() % SHARDS as u128) as usize])
    }

    fn now(&self) -> Mono {
        self.clock.get_or_init(Clock::current).now()
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let held: usize = self.held.iter().map(|held| lock(held).len()).sum();
        f.debug_struct("Store").field("directory", &self.directory.path()).field("held", &held).finish_non_exhaustive()
    }
}

impl Held {
    /// Whether the lock is this process's, and the file the one that others see.
    fn is_held(&self) -> Result<bool, LocalError> {
        Ok(self.file.is_ours() && self.file.is_current()?)
    }

    fn grant(&self) -> Grant {
        Grant::new(Some(self.record.token), Validity::Session)
    }
}

/// What was taken before one of many turned out to be taken by somebody else.
struct GiveBack<'a> {
    store: &'a Store,
    taken: Vec<Claim>,
}

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        for claim in &self.taken {
            self.store.free(claim);
        }
    }
}

/// A file that is removed, unless it has got another name meanwhile.
struct Litter(PathBuf);

impl Drop for Litter {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Above the last one, and above all that a file which is no more may have had.
fn next_token(file: &LockFile, now: u64) -> Result<FencingToken, LocalError> {
    let Some(last) = last_token(file, &file.read_token()?)? else { return Ok(FencingToken::new(now.max(1))) };
    let last = last.get();
    let next = last.checked_add(1).ok_or_else(|| LocalError::Exhausted { path: file.path().to_owned(), last })?;
    Ok(FencingToken::new(next.max(now)))
}

/// The last token of a file that is a lock's, if it has one.
fn last_token(file: &LockFile, content: &Content) -> Result<Option<FencingToken>, LocalError> {
    let path = || file.path().to_owned();
    match content {
        Content::Nothing => Ok(None),
        Content::Record(record) => Ok(Some(record.token)),
        Content::Version(version) => Err(LocalError::Version { path: path(), version: version.clone() }),
        Content::Foreign => Err(LocalError::Foreign { path: path() }),
    }
}

/// The record of a lock that nobody has.
fn free_record(content: &Content) -> Record {
    let token = match content {
        Content::Record(record) => record.token,
        _ => FencingToken::new(wall_micros()),
    };
    Record { token, taker: None }
}

/// What a file says that somebody may be writing to just now.
fn settled(file: &LockFile) -> Result<Content, LocalError> {
    let mut content = file.read()?;
    for _ in 0..REOPENS {
        if content != Content::Nothing {
            break;
        }
        content = file.read()?;
    }
    Ok(content)
}

/// The same, if it is a lock's.
fn ours(file: &LockFile) -> Result<Content, LocalError> {
    let content = settled(file)?;
    last_token(file, &content)?;
    Ok(content)
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

fn is_shared(content: &Content) -> bool {
    content.taker().is_some_and(|taker| taker.shared)
}

/// The end of a lease that begins now.
fn until(ttl: Ttl, now: u64) -> Option<u64> {
    ttl.duration().map(|ttl| now.saturating_add(u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX)))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
