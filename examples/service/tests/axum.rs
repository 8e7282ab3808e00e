//! The service of the example `axum`, started as a process of its own and spoken to over HTTP.

#![cfg(unix)]

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
/// More pages than any test waits for.
const ENDLESS: &str = "/teamspaces/acme/index/100000";

#[test]
fn requests_for_one_teamspace_take_turns() {
    let service = Service::start();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| service.post_until_served("/teamspaces/acme/index/5"));
        }
    });
    let answer = service.post("/teamspaces/acme/publish");
    assert_eq!((answer.status, answer.body.as_str()), (200, "40 pages of acme published\n"), "pages were lost");
}

#[test]
fn other_teamspaces_do_not_wait() {
    let service = Service::start();
    let _busy = service.open("POST", ENDLESS);
    service.until_status("/teamspaces/acme", "held");
    assert_eq!(service.post("/teamspaces/zeta/index/1").status, 200);
    assert_eq!(service.post("/teamspaces/zeta/publish").status, 200);
    assert!(service.get("/teamspaces/acme").body.starts_with("held by axum@"), "acme was not held all the time");
}

#[test]
fn who_cannot_have_its_turn_is_told_when_to_come_back() {
    let service = Service::start();
    let _busy = service.open("POST", ENDLESS);
    service.until_status("/teamspaces/acme", "held");
    let held = service.post("/teamspaces/acme/publish");
    assert_eq!((held.status, held.body.as_str()), (409, "locked"));
    assert!(held.retry_after >= Some(1), "{held:?}");
    let waited = service.post("/teamspaces/acme/index/1");
    assert_eq!((waited.status, waited.body.as_str()), (503, "busy"));
    assert!(waited.retry_after >= Some(1), "{waited:?}");
    let ready = service.get("/ready");
    assert_eq!(ready.status, 200, "contention is no reason to be taken out of service");
}

#[test]
fn a_client_that_goes_away_gives_its_lock_back() {
    let service = Service::start();
    let busy = service.open("POST", ENDLESS);
    service.until_status("/teamspaces/acme", "held");
    drop(busy);
    service.until_status("/teamspaces/acme", "free");
}

#[test]
fn a_signal_lets_what_has_begun_end() {
    let mut service = Service::start();
    let mut begun = service.open("POST", "/teamspaces/acme/index/100");
    service.until_status("/teamspaces/acme", "held");
    service.signal("TERM");
    let answer = Answer::read(&mut begun);
    assert_eq!((answer.status, answer.body.as_str()), (200, "100 pages of acme indexed\n"));
    assert_eq!(service.end(), (Some(0), "drained; 0 locks were still held\n".to_owned()));
    assert!(TcpStream::connect(service.address).is_err(), "somebody still listens");
}

#[test]
fn a_store_that_is_not_compiled_in_is_named_with_its_feature() {
    let output = Command::new(program()).env("TASKLOCK_URL", "etcd-no-such://x").output().expect("the example runs");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("unknown scheme") && text.contains("memory"), "{text}");
}

/// The process, killed when this is dropped.
struct Service {
    process: Child,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Service {
    fn start() -> Self {
        let mut command = Command::new(program());
        command.env("ADDR", "127.0.0.1:0").env_remove("TASKLOCK_URL").stdout(Stdio::piped());
        let mut process = command.spawn().expect("the example runs");
        let mut output = BufReader::new(process.stdout.take().expect("its output is piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line of text");
        let address = line.strip_prefix("listening on ").and_then(|rest| rest.split_once(','));
        let address = address.and_then(|(address, _)| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}"));
        Service { process, output, address }
    }

    fn get(&self, path: &str) -> Answer {
        Answer::read(&mut self.open("GET", path))
    }

    fn post(&self, path: &str) -> Answer {
        Answer::read(&mut self.open("POST", path))
    }

    /// Comes back as often as it is told to.
    fn post_until_served(&self, path: &str) {
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
    fn open(&self, method: &str, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("the service listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .expect("a request sent");
        stream
    }

    fn until_status(&self, path: &str, start: &str) {
        let asked = Instant::now();
        while !self.get(path).body.starts_with(start) {
            assert!(asked.elapsed() < PATIENCE, "{path} is never {start}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        let status = kill.arg(format!("-{name}")).arg(self.process.id().to_string()).status().expect("kill runs");
        assert!(status.success(), "{status}");
    }

    /// How it ended, and what it still said.
    fn end(&mut self) -> (Option<i32>, String) {
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
struct Answer {
    status: u16,
    retry_after: Option<u64>,
    body: String,
}

impl Answer {
    fn read(stream: &mut TcpStream) -> Self {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer in time");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let retry_after = head.lines().find_map(|line| line.strip_prefix("retry-after: ")?.parse().ok());
        Answer { status, retry_after, body: body.to_owned() }
    }
}

/// `cargo test` builds the examples of a package before it runs its tests, unless it is told which targets to build.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("this program's path");
    let target = test.ancestors().nth(2).expect("a target folder");
    let program = target.join("examples").join("axum");
    assert!(program.is_file(), "{} is missing: build it by `cargo build --example axum`", program.display());
    program
}
