//! Processes that lock by files and sockets, and what is in their directory.

use std::{
    collections::HashSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process},
};
use tasklock::{Clock, FileLock, Intent, Key, LocalConfig, Nonce, Owner, Request, SocketLock, Ttl};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The worker's program, for those who start it in other ways. Cargo tells only tests of it.
#[macro_export]
macro_rules! local_worker {
    () => {
        env!("CARGO_BIN_EXE_local_worker")
    };
}

/// A process of its own, killed when dropped.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts `program`, locking at `url`.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    pub async fn start(program: &str, url: &str) -> Self {
        let mut command = Command::new(program);
        command.env("TASKLOCK_URL", url);
        let mut worker = Self::spawn(command);
        assert_eq!(worker.answer().await, "ready");
        worker
    }

    /// Starts a command, whatever it answers first.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[must_use]
    pub fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let orders = child.stdin.take().expect("its input");
        let answers = BufReader::new(child.stdout.take().expect("its output")).lines();
        Worker { child, orders, answers }
    }

    /// Gives an order, and waits for the answer.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub async fn ask(&mut self, order: &str) -> String {
        self.order(order).await;
        self.answer().await
    }

    /// Gives an order.
    ///
    /// # Panics
    ///
    /// If the process is gone.
    pub async fn order(&mut self, order: &str) {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.expect("a living worker");
    }

    /// Waits for an answer.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub async fn answer(&mut self) -> String {
        let answer = timeout(PATIENCE, self.answers.next_line()).await;
        answer.expect("an answer in time").expect("an answer").expect("an answer before its end")
    }

    /// The number in an answer, which must begin with `word`.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub async fn number(&mut self, order: &str, word: &str) -> u64 {
        let answer = self.ask(order).await;
        let number = answer.strip_prefix(word).and_then(|number| number.trim().parse().ok());
        number.unwrap_or_else(|| panic!("{order}: {answer}"))
    }

    /// Its number.
    ///
    /// # Panics
    ///
    /// If it has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("a living worker")
    }

    /// Stops it as it is.
    pub fn stop(&self) {
        signal(self.pid(), Signal::STOP);
    }

    /// Kills it, and waits for its end.
    ///
    /// # Panics
    ///
    /// If it does not end.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("a killed worker");
    }
}

/// Sends a signal to a process that a test has started.
///
/// # Panics
///
/// If there is none.
pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(pid, signal).expect("a living process");
}

/// A process that is killed with the test.
#[derive(Debug)]
pub struct Stray(pub u32);

impl Drop for Stray {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Locks on the files of a folder.
///
/// # Panics
///
/// If the folder will not do.
#[must_use]
pub fn files(folder: &Path) -> FileLock {
    FileLock::open(&LocalConfig::new().directory(folder)).expect("a directory for locks")
}

/// The same, with a socket.
///
/// # Panics
///
/// If the folder will not do.
pub async fn sockets(folder: &Path) -> SocketLock {
    SocketLock::open(&LocalConfig::new().directory(folder)).await.expect("a directory for locks")
}

/// A request as a locker would make it.
///
/// # Panics
///
/// If the key is not a valid one.
#[must_use]
pub fn request(key: &str, intent: Intent) -> Request {
    let (key, ttl) = (Key::new(key).expect("a valid name"), Ttl::For(Duration::from_secs(20)));
    Request::new(key, Nonce::fresh(), ttl, intent, Owner::named("test"), Clock::current().now())
}

/// The files of a folder with this ending.
///
/// # Panics
///
/// If it cannot be read.
#[must_use]
pub fn with_ending(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.extension().is_some_and(|found| found == ending)).collect()
}

/// Whether nobody holds any lock of a folder, and nothing is left but the files of locks.
///
/// # Panics
///
/// If it cannot be read.
#[must_use]
pub fn is_free(folder: &Path) -> bool {
    let free = |path: &Path| flock(File::open(path).expect("a file"), FlockOperation::NonBlockingLockExclusive).is_ok();
    // One look: a socket may be removed meanwhile.
    fs::read_dir(folder).expect("a folder").all(|entry| {
        let path = entry.expect("an entry").path();
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("lock" | "gate") => free(&path),
            Some("sock") => true,
            _ => false,
        }
    })
}

/// Reads a journal of workers, of whom some were killed: nobody entered while another was in, and tokens rose. How often
/// each entered, in all.
///
/// # Panics
///
/// If two were in at once, or a token did not rise.
#[must_use]
pub fn check_journal(journal: &Path, killed: &HashSet<u32>) -> usize {
    let text = fs::read_to_string(journal).expect("a journal");
    let (mut inside, mut last, mut entries) = (None, 0, 0);
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, pid, token] = words[..] else { panic!("{line}") };
        let (pid, token): (u32, u64) = (pid.parse().expect("a number"), token.parse().expect("a number"));
        if what == "enter" {
            assert!(inside.is_none_or(|other| killed.contains(&other)), "{line}, while {inside:?} was in");
            assert!(token > last, "{line}, after token {last}");
            (inside, last, entries) = (Some(pid), token, entries + 1);
        } else {
            assert_eq!(inside.take(), Some(pid), "{line}, and somebody else was in");
        }
    }
    entries
}
