//! The example's program, started and spoken to.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Longer than anything here takes: reaching it means that something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The process, killed when this is dropped.
pub(crate) struct Service {
    pub(crate) process: Child,
    output: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
}

impl Service {
    pub(crate) fn start() -> Self {
        Self::on(None)
    }

    /// Locking by this address.
    pub(crate) fn on(url: Option<&str>) -> Self {
        let mut command = Command::new(program());
        command.env("ADDR", "127.0.0.1:0").env_remove("TASKLOCK_URL").stdout(Stdio::piped());
        if let Some(url) = url {
            command.env("TASKLOCK_URL", url);
        }
        let mut process = command.spawn().expect("the example runs");
        let mut output = BufReader::new(process.stdout.take().expect("its output is piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line of text");
        let address = line.strip_prefix("listening on ").and_then(|rest| rest.split_once(','));
        let address = address.and_then(|(address, _)| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}"));
        Service { process, output, address }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        Answer::read(&mut self.open("GET", path))
    }

    pub(crate) fn post(&self, path: &str) -> Answer {
        Answer::read(&mut self.open("POST", path))
    }

    /// Comes back as often as it is told to.
    pub(crate) fn post_until_served(&self, path: &str) {
        loop {
            let answer = self.post(path);
            match (answer.status, answer.retry_after) {
                (200, _) => return,
                (503, Some(_)) => {}
                _ => panic!("{answer:?}"),
            }
        }
    }

    /// Sends a request, and leaves its answer to be read.
    pub(crate) fn open(&self, method: &str, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("the service listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .expect("a request sent");
        stream
    }

    pub(crate) fn until_status(&self, path: &str, start: &str) {
        let asked = Instant::now();
        while !self.get(path).body.starts_with(start) {
            assert!(asked.elapsed() < PATIENCE, "{path} is never {start}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        let status = kill.arg(format!("-{name}")).arg(self.process.id().to_string()).status().expect("kill runs");
        assert!(status.success(), "{status}");
    }

    /// How it ended, and what it still said.
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.output.read_to_string(&mut said).expect("text");
        (self.process.wait().expect("an exit status").code(), said)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn read(stream: &mut TcpStream) -> Self {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer in time");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let retry_after = head.lines().find_map(|line| line.strip_prefix("retry-after: ")?.parse().ok());
        Answer { status, retry_after, body: body.to_owned() }
    }
}

/// `cargo test` builds the examples of a package before it runs its tests, unless it is told which targets to build.
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().expect("this program's path");
    let target = test.ancestors().nth(2).expect("a target folder");
    let program = target.join("examples").join("axum");
    assert!(program.is_file(), "{} is missing: build it by `cargo build --example axum`", program.display());
    program
}
