//! Locks between processes: files, sockets and their peers, in one directory.
//!
//! Each subject locks and unlocks once a cycle. The peers hand out guards that borrow from the lock, so a cycle is made
//! within one call. What they lack is told in the report.

use std::{fs::File, path::PathBuf};

use fd_lock::RwLock;
use named_lock::NamedLock;
use tasklock::{FileLock, LocalConfig, Locker, SocketLock};
use tasklock_tests::servers::Folder;
use tokio::runtime::Runtime;

use crate::{
    Plan, locking,
    memory::uncontended,
    ours::Text,
    peers::texts,
    report::Part,
    subject::{Entrant, Failure, KEYS, Subject, Walk, entrant},
};

const NOTES: &str = "\
tasklock writes down who holds and a token that outlives it, and checks that the file is still the lock; the peers do not.
A second acquisition of one of a few locks finds its file open; of a thousand, it opens it again, as fd-lock does.
Python's SocketLock is a bound name without a file; nobody is told of its release. Compare within one run only.";
/// As many locks as a service takes again and again, and more than it keeps files open for.
const SETS: [usize; 2] = [16, KEYS];

pub(crate) fn run(runtime: &Runtime, plan: Plan, wants: impl Fn(&str) -> bool) -> Result<Part, Failure> {
    let folder = Folder::new();
    let mut entrants = all(runtime, &folder)?;
    let mut notes = NOTES.to_owned();
    match locking::all(folder.path()) {
        Ok(locking) => entrants.extend(locking),
        Err(missing) => notes.push_str(&format!("\n{missing}")),
    }
    entrants.retain(|entrant| wants(entrant.name()));
    let tables = SETS.map(|keys| {
        let title = format!("lock + unlock between processes, {keys} locks, nobody waiting, 1 thread");
        // A cycle is some ten times as long as in memory.
        let walk = Walk { threads: 1, keys, cycles: plan.cycles / 16 };
        uncontended(&entrants, plan.rounds, walk, &format!("local_{keys}"), title)
    });
    Ok(Part::new(tables.into_iter().collect::<Result<_, _>>()?, notes))
}

/// Lockers live on the runtime they are made in.
fn all(runtime: &Runtime, folder: &Folder) -> Result<Vec<Box<dyn Entrant>>, Failure> {
    let _within = runtime.enter();
    let config = |name: &str| LocalConfig::new().directory(folder.file(name));
    let files = Locker::new(FileLock::open(&config("file"))?)?;
    let sockets = Locker::new(runtime.block_on(SocketLock::open(&config("socket")))?)?;
    let path = |prefix: &str, slot: usize| folder.file(&format!("{prefix}-{slot}"));
    let named: Result<Vec<_>, _> = (0..KEYS).map(|slot| NamedLock::with_path(path("named", slot))).collect();
    Ok(vec![
        entrant("fd-lock, opened each time", Opened((0..KEYS).map(|slot| path("fd", slot)).collect())),
        entrant("named-lock, kept open", Named(named?)),
        entrant("tasklock, file:", Text { locker: files, keys: texts() }),
        entrant("tasklock, socket:", Text { locker: sockets, keys: texts() }),
    ])
}

struct Opened(Vec<PathBuf>);

impl Subject for Opened {
    async fn lock(&self, slot: usize) -> impl Send {
        let file = File::options().write(true).create(true).truncate(false).open(&self.0[slot]);
        let mut lock = RwLock::new(file.unwrap_or_else(|refused| panic!("not opened: {refused}")));
        drop(lock.try_write().unwrap_or_else(|refused| panic!("not acquired: {refused}")));
    }
}

struct Named(Vec<NamedLock>);

impl Subject for Named {
    async fn lock(&self, slot: usize) -> impl Send {
        drop(self.0[slot].try_lock().unwrap_or_else(|refused| panic!("not acquired: {refused}")));
    }
}
