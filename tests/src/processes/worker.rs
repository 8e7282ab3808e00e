//! A process that runs the program `worker`.

use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::Store;
use crate::servers::until;

/// A process whose tasks add to a store, one at a time, each under the lock. Killed when dropped.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    /// It works until this is closed, so that it does not outlive its test.
    stdin: Option<ChildStdin>,
}

impl Worker {
    /// Starts it: so many tasks on one key, with locks by this address.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[must_use]
    pub fn start(program: &str, url: &str, store: &Store, key: &str, tasks: usize) -> Self {
        let mut command = Command::new(program);
        command.env("TASKLOCK_URL", url).args([&store.address(), key, &tasks.to_string()]).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{program}: {e}"));
        let stdin = child.stdin.take();
        Worker { child, stdin }
    }

    /// Which process it is.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it where it stands, every thread of it.
    pub fn stop(&self) {
        stop(self.pid());
    }

    /// Lets it go on.
    pub fn resume(&self) {
        signal(self.pid(), Signal::CONT);
    }

    /// Kills it, stopped or not.
    ///
    /// # Panics
    ///
    /// If it ended before.
    pub fn kill(mut self) {
        assert_eq!(self.child.try_wait().expect("a status"), None, "it ended by itself");
        self.child.kill().expect("a signal sent");
    }

    /// Asks it to end, which it must do in good order.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn finish(mut self) {
        drop(self.stdin.take());
        let mut status = None;
        until("a worker has ended", || {
            status = self.child.try_wait().expect("a status");
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns when it has stopped: a signal that is sent has not arrived yet.
pub(super) fn stop(child: u32) {
    signal(child, Signal::STOP);
    waitid(WaitId::Pid(pid(child)), WaitIdOptions::STOPPED).expect("a child that stops");
}

pub(super) fn signal(child: u32, which: Signal) {
    kill_process(pid(child), which).expect("a signal sent");
}

fn pid(child: u32) -> Pid {
    i32::try_from(child).ok().and_then(Pid::from_raw).expect("a process id")
}
