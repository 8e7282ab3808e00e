//! Processes of their own, killed and stopped by signals, over addresses and an environment as in life.

use std::{process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tasklock::{Fence, FencingToken, Locker, Renew};
use tasklock_tests_dynamodb::{Emulator, Fault, Gate, Kind, REGION, TABLE, in_time, until};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

struct Process {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(emulator: &Emulator, ttl: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dynamodb_holder"));
        command.arg(url(emulator, ttl)).args(arguments);
        with_credentials(&mut command).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the holder's program");
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Process { child, input, lines: BufReader::new(output).lines() }
    }

    async fn line(&mut self) -> String {
        let line = in_time(self.lines.next_line()).await;
        line.unwrap().expect("a line before the end")
    }

    async fn held(&mut self) -> FencingToken {
        let line = self.line().await;
        let token = line.strip_prefix("held ").unwrap_or_else(|| panic!("{line}"));
        FencingToken::new(token.parse().unwrap())
    }

    async fn tell(&mut self, what: &str) {
        self.input.write_all(format!("{what}\n").as_bytes()).await.unwrap();
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().expect("it runs")).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
}

fn url(emulator: &Emulator, ttl: &str) -> String {
    format!("dynamodb://{TABLE}?region={REGION}&endpoint=http://{}&ttl={ttl}", emulator.address())
}

/// Nothing of the machine's own settings.
fn with_credentials(command: &mut Command) -> &mut Command {
    without_credentials(command).env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "hunter2")
}

fn without_credentials(command: &mut Command) -> &mut Command {
    let nowhere = "/nonexistent";
    command
        .env_clear()
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", nowhere)
        .env("AWS_SHARED_CREDENTIALS_FILE", nowhere)
}

/// A locker that renews nothing, so that what it writes stays as it is.
fn quiet(emulator: &Emulator) -> Locker {
    Locker::builder(emulator.store()).ttl(Duration::from_secs(600)).renew(Renew::Off).build().unwrap()
}

#[tokio::test]
async fn a_killed_holder_is_followed_by_the_next() {
    let emulator = Emulator::start().await;
    let mut holder = Process::start(&emulator, "3s", &["job"]);
    let first = holder.held().await;
    let waiter = tokio::spawn({
        let lock = quiet(&emulator);
        async move { lock.acquire("job").await.map(|guard| guard.fencing_token()) }
    });
    // The waiter has seen it alive, renewed, and does not have the lock.
    let renewed = emulator.proxy().count(Kind::Renew) + 3;
    until(|| emulator.proxy().count(Kind::Renew) >= renewed).await;
    assert!(!waiter.is_finished(), "taken from a holder that renews");
    holder.signal(Signal::KILL);
    assert!(!in_time(holder.child.wait()).await.unwrap().success());
    let next = in_time(waiter).await.unwrap().unwrap();
    assert!(next > first);
}

#[tokio::test]
async fn a_holder_that_was_stopped_changes_nothing_when_it_wakes() {
    let emulator = Emulator::start().await;
    let fence = Fence::new();
    let mut holder = Process::start(&emulator, "3s", &["job"]);
    let old = holder.held().await;
    fence.admit(old).unwrap();
    // Its renewal is on its way when it stops.
    let gate = Gate::default();
    emulator.proxy().next(Kind::Renew, Fault::HoldRequest(gate.clone()));
    in_time(gate.arrived()).await;
    holder.signal(Signal::STOP);
    let lock = quiet(&emulator);
    let guard = in_time(lock.acquire("job")).await.unwrap();
    fence.admit(guard.fencing_token()).unwrap();
    let item = emulator.item("tasklock:job").unwrap();
    gate.open();
    in_time(gate.carried_out()).await;
    assert_eq!(emulator.item("tasklock:job").unwrap(), item, "the renewal changed the item");
    // It wakes up, knows that it has lost, and what it still writes is refused.
    holder.signal(Signal::CONT);
    assert!(holder.line().await.starts_with("lost "));
    holder.tell("write").await;
    assert_eq!(holder.line().await, format!("write {old} false"));
    assert!(fence.admit(old).is_err(), "the store took a late write");
    holder.tell("release").await;
    assert_eq!(holder.line().await, "released AlreadyLost");
    assert!(in_time(holder.child.wait()).await.unwrap().success());
    assert_eq!(emulator.item("tasklock:job").unwrap(), item, "the old holder's release changed the item");
    assert!(guard.is_held());
    guard.release().await.unwrap();
}

#[tokio::test]
async fn processes_take_turns() {
    let emulator = Emulator::start().await;
    let file = std::env::temp_dir().join(format!("tasklock-dynamodb-{}", std::process::id()));
    std::fs::write(&file, "0").unwrap();
    let arguments = ["job", file.to_str().unwrap(), "20"];
    let mut counters: Vec<_> = (0..3).map(|_| Process::start(&emulator, "30s", &arguments)).collect();
    for counter in &mut counters {
        assert_eq!(counter.line().await, "done");
    }
    let count = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(count, "60", "an increment was lost: two were in at once");
    assert_eq!(emulator.held(), 0);
}

#[tokio::test]
async fn without_credentials_or_region_it_says_so() {
    let emulator = Emulator::start().await;
    let run = async |url: &str, command: &mut Command| {
        let output = command.args([url, "job"]).output();
        let output = in_time(output).await.unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let program = || Command::new(env!("CARGO_BIN_EXE_dynamodb_holder"));
    let told = run(&url(&emulator, "1s"), without_credentials(&mut program())).await;
    assert!(told.contains("no credentials"), "{told}");
    let told = run("dynamodb://locks", with_credentials(&mut program())).await;
    assert!(told.contains("AWS_REGION") && !told.contains("hunter2"), "{told}");
    let told =
        run("dynamodb://other?region=us-east-1&endpoint=http://127.0.0.1:1", with_credentials(&mut program())).await;
    assert!(told.contains("GetItem was not sent") && !told.contains("hunter2"), "{told}");
    // The same by the environment.
    let url = format!("dynamodb://nowhere?endpoint=http://{}", emulator.address());
    let mut command = program();
    let told = run(&url, with_credentials(&mut command).env("AWS_REGION", REGION)).await;
    assert!(told.contains("no table `nowhere`"), "{told}");
}

/// The example of the README, as it stands, on this store.
#[tokio::test]
async fn quickstart() {
    let emulator = Emulator::start().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_dynamodb_quickstart"));
    with_credentials(&mut command).env("TASKLOCK_URL", url(&emulator, "30s")).kill_on_drop(true);
    let output = in_time(command.output()).await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    for line in ["locks by dynamodb, fencing Strong", "Done; 0 locks were still held", "refused"] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(!told.contains("which is not what was to be shown"), "{told}");
    assert_eq!(emulator.held(), 0);
}
