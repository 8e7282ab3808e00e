//! What a lock cannot do, and the fencing token can: `cargo run --example fencing`.
//!
//! A process takes the lock, looks at its lease, and is paused right after: by a virtual machine that moves, a debugger,
//! a full disk. Its lease ends, the next process takes over and writes. Then the first wakes up and writes too. It does
//! not know better, so nothing on its side can stop it; the store can, by refusing a token older than one it has seen.

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use tasklock::{Fence, FencingToken, LockError, Locker, MemoryLock, StaleToken};
use tokio::runtime::{Builder, Runtime};

const TTL: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(900);

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    println!("A store that takes every write:");
    let open = play(Store { balance: Mutex::new(100), fence: None })?;
    println!("  100 + 50 - 30 = {open}: the deposit is gone\n");

    println!("A store that checks fencing tokens:");
    let fenced = play(Store { balance: Mutex::new(100), fence: Some(Fence::new()) })?;
    println!("  100 + 50 = {fenced}: the withdrawal was refused, and can be tried again");

    if (open, fenced) == (70, 150) { Ok(()) } else { Err("not what was to be shown".into()) }
}

/// An account with 100 in it, to which one process adds 50 and from which another takes 30.
struct Store {
    balance: Mutex<i64>,
    /// The highest token that has written. In a database a column, and a condition in each `UPDATE`.
    fence: Option<Fence>,
}

impl Store {
    fn read(&self) -> i64 {
        *self.balance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, balance: i64, token: FencingToken) -> Result<(), StaleToken> {
        let mut row = self.balance.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fence) = &self.fence {
            fence.admit(token)?;
        }
        *row = balance;
        Ok(())
    }
}

/// Two processes and a store; what it holds in the end.
fn play(store: Store) -> Result<i64, Box<dyn Error + Send + Sync>> {
    let (store, locks) = (Arc::new(store), MemoryLock::new());
    let (has_it, seen) = mpsc::channel();
    let paused = thread::spawn({
        let (store, locks) = (store.clone(), locks.clone());
        move || withdraw(&store, locks, &has_it)
    });
    seen.recv()?;
    deposit(&store, locks)?;
    paused.join().map_err(|_| "the paused process panicked")??;
    Ok(store.read())
}

/// Is paused between the look at its lease and its write: keeper, renewal and all, as a stopped process is.
fn withdraw(store: &Store, locks: MemoryLock, has_it: &mpsc::Sender<()>) -> Result<(), LockError> {
    runtime().block_on(async {
        let lock = Locker::builder(locks).ttl(TTL).owner_name("paused").build()?;
        let guard = lock.acquire("account:7").await?;
        let (token, balance) = (guard.fencing_token(), store.read());
        println!("  paused:  has the lock, token {token}; reads {balance}");
        guard.check()?;
        println!("  paused:  is sure to hold it, and is paused here, before its write");
        has_it.send(()).ok();
        thread::sleep(PAUSE);
        match store.write(balance - 30, token) {
            Ok(()) => println!("  paused:  wakes up, writes {}; the store takes it", balance - 30),
            Err(refused) => println!("  paused:  wakes up, writes {}; the store says: {refused}", balance - 30),
        }
        println!("  paused:  looks again: {}", guard.check().map_or_else(|lost| lost.to_string(), |()| "held".into()));
        Ok(())
    })
}

/// Waits for the lock, and does everything right.
fn deposit(store: &Store, locks: MemoryLock) -> Result<(), Box<dyn Error + Send + Sync>> {
    runtime().block_on(async {
        let lock = Locker::builder(locks).ttl(TTL).owner_name("next").build()?;
        let guard = lock.acquire("account:7").await?;
        let (token, balance) = (guard.fencing_token(), store.read());
        println!("  next:    has the lock, token {token}; reads {balance}, writes {}", balance + 50);
        store.write(balance + 50, token)?;
        guard.release().await?;
        Ok(())
    })
}

/// A process has a runtime of its own; here a thread stands for it.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime")
}
