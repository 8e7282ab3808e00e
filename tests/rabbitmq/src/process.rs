//! A process of its own that locks, told what to do line by line.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tasklock::FencingToken;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::soon;

/// The program `holder`, running. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts it, with locks by this address.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[must_use]
    pub fn start(program: &str, url: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.env("TASKLOCK_URL", url).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{program}: {e}"));
        let (input, output) = (child.stdin.take().expect("its input"), child.stdout.take().expect("its output"));
        Process { child, input, lines: BufReader::new(output).lines() }
    }

    /// The next line it says.
    ///
    /// # Panics
    ///
    /// If it says none in time.
    pub async fn line(&mut self) -> String {
        soon("a line", self.lines.next_line()).await.expect("a line").expect("a line before the end")
    }

    /// That it holds, and under which token.
    ///
    /// # Panics
    ///
    /// If it says something else.
    pub async fn held(&mut self) -> FencingToken {
        let line = self.line().await;
        let token = line.strip_prefix("held ").unwrap_or_else(|| panic!("{line}"));
        FencingToken::new(token.parse().expect("a token"))
    }

    /// Tells it something.
    ///
    /// # Panics
    ///
    /// If it is gone.
    pub async fn tell(&mut self, what: &str) {
        self.input.write_all(format!("{what}\n").as_bytes()).await.expect("it listens");
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// If it is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().expect("it runs")).expect("a process id");
        kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("a signal sent");
    }

    /// Waits until it ends by itself, which must be a good end.
    ///
    /// # Panics
    ///
    /// If it is not.
    pub async fn finish(mut self) {
        drop(self.input);
        let status = soon("its end", self.child.wait()).await.expect("a status");
        assert!(status.success(), "{status}");
    }
}
