//! A process of its own, that does as it is told.

use std::process::Stdio;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::Store;
use crate::servers::PATIENCE;

/// A process that runs [`program`](super::program). Killed when dropped.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    /// It works until this is closed, so that it does not outlive its test.
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts `program`, with locks by this address.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    pub async fn start(program: &str, url: &str) -> Self {
        let mut command = Command::new(program);
        command.env("TASKLOCK_URL", url);
        Self::ready(command).await
    }

    /// Starts it, with so many tasks that add to a store, one at a time, under this lock.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    pub async fn adding(program: &str, url: &str, store: &Store, key: &str, tasks: usize) -> Self {
        let mut worker = Self::start(program, url).await;
        assert_eq!(worker.ask(&format!("add {} {key} {tasks}", store.address())).await, "adding");
        worker
    }

    /// Starts a command that is to come up.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub async fn ready(command: Command) -> Self {
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

    /// Waits until it has what it was told to take; under which token.
    ///
    /// # Panics
    ///
    /// If it fails to.
    pub async fn taken(&mut self) -> u64 {
        number(&self.answer().await, "taken")
    }

    /// Has it take a lock; under which token.
    ///
    /// # Panics
    ///
    /// If it fails to.
    pub async fn take(&mut self, key: &str) -> u64 {
        self.order(&format!("take {key}")).await;
        self.taken().await
    }

    /// The number in an answer, which must begin with `word`.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub async fn number(&mut self, order: &str, word: &str) -> u64 {
        number(&self.ask(order).await, word)
    }

    /// Which process it is.
    ///
    /// # Panics
    ///
    /// If it has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("a living worker")
    }

    /// Stops it where it stands, every thread of it.
    pub fn stop(&self) {
        stop(self.pid());
    }

    /// Lets it go on.
    pub fn resume(&self) {
        signal(self.pid(), Signal::CONT);
    }

    /// Kills it, stopped or not, and waits for its end.
    ///
    /// # Panics
    ///
    /// If it ended before.
    pub async fn kill(mut self) {
        assert_eq!(self.child.try_wait().expect("a status"), None, "it ended by itself");
        self.child.kill().await.expect("a killed worker");
    }

    /// Asks it to end, which it must do in good order.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub async fn finish(mut self) {
        drop(self.orders);
        let status = timeout(PATIENCE, self.child.wait()).await.expect("its end in time").expect("a status");
        assert!(status.success(), "{status}");
    }
}

/// A process that is killed with the test.
#[derive(Debug)]
pub struct Stray(pub u32);

impl Drop for Stray {
    fn drop(&mut self) {
        let _ = kill_process(pid(self.0), Signal::KILL);
    }
}

/// Sends a signal to a process that a test has started.
///
/// # Panics
///
/// If there is none.
pub fn signal(process: u32, which: Signal) {
    kill_process(pid(process), which).expect("a signal sent");
}

/// Returns when it has stopped: a signal that is sent has not arrived yet.
pub(super) fn stop(child: u32) {
    signal(child, Signal::STOP);
    waitid(WaitId::Pid(pid(child)), WaitIdOptions::STOPPED).expect("a child that stops");
}

fn number(answer: &str, word: &str) -> u64 {
    let number = answer.strip_prefix(word).and_then(|number| number.trim().parse().ok());
    number.unwrap_or_else(|| panic!("{answer}"))
}

fn pid(process: u32) -> Pid {
    i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process id")
}
