//! Processes of their own, killed and stopped by signals, over addresses and an environment as in life.

use std::{collections::HashSet, time::Duration};

use tasklock::{Fence, FencingToken, Locker, Renew};
use tasklock_tests::{
    processes::{Journal, Worker},
    servers::Folder,
};
use tasklock_tests_dynamodb::{Emulator, Fault, Gate, Kind, REGION, TABLE, in_time, until};
use tokio::process::Command;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_dynamodb_worker"))
}

async fn start(emulator: &Emulator, ttl: &str) -> Worker {
    let mut command = program();
    with_credentials(&mut command).env("TASKLOCK_URL", url(emulator, ttl));
    Worker::ready(command).await
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
    let mut holder = start(&emulator, "3s").await;
    let first = FencingToken::new(holder.take("job").await);
    let waiter = tokio::spawn({
        let lock = quiet(&emulator);
        async move { lock.acquire("job").await.map(|guard| guard.fencing_token()) }
    });
    // The waiter has seen it alive, renewed, and does not have the lock.
    let renewed = emulator.proxy().count(Kind::Renew) + 3;
    until(|| emulator.proxy().count(Kind::Renew) >= renewed).await;
    assert!(!waiter.is_finished(), "taken from a holder that renews");
    holder.kill().await;
    let next = in_time(waiter).await.unwrap().unwrap();
    assert!(next > first);
}

#[tokio::test]
async fn a_holder_that_was_stopped_changes_nothing_when_it_wakes() {
    let emulator = Emulator::start().await;
    let fence = Fence::new();
    let mut holder = start(&emulator, "3s").await;
    let old = FencingToken::new(holder.take("job").await);
    fence.admit(old).unwrap();
    // Its renewal is on its way when it stops.
    let gate = Gate::default();
    emulator.proxy().next(Kind::Renew, Fault::HoldRequest(gate.clone()));
    in_time(gate.arrived()).await;
    holder.stop();
    let lock = quiet(&emulator);
    let guard = in_time(lock.acquire("job")).await.unwrap();
    fence.admit(guard.fencing_token()).unwrap();
    let item = emulator.item("tasklock:job").unwrap();
    gate.open();
    in_time(gate.carried_out()).await;
    assert_eq!(emulator.item("tasklock:job").unwrap(), item, "the renewal changed the item");
    // It wakes up, knows that it has lost, and what it still writes is refused.
    holder.resume();
    assert!(holder.ask("lost job").await.starts_with("lost "));
    assert_eq!(holder.ask("write job").await, format!("write {old} false"));
    assert!(fence.admit(old).is_err(), "the store took a late write");
    assert_eq!(holder.ask("drop job").await, "AlreadyLost");
    holder.finish().await;
    assert_eq!(emulator.item("tasklock:job").unwrap(), item, "the old holder's release changed the item");
    assert!(guard.is_held());
    guard.release().await.unwrap();
}

#[tokio::test]
async fn processes_take_turns() {
    let emulator = Emulator::start().await;
    let folder = Folder::new();
    let journal = Journal::at(folder.file("journal"));
    let mut workers = Vec::new();
    for _ in 0..3 {
        let mut worker = start(&emulator, "30s").await;
        worker.order(&format!("work job {} 20", journal.path().display())).await;
        workers.push(worker);
    }
    for worker in &mut workers {
        assert_eq!(worker.answer().await, "worked");
    }
    assert_eq!(journal.check(&HashSet::new()), 60);
    for worker in workers {
        worker.finish().await;
    }
    assert_eq!(emulator.held(), 0);
}

#[tokio::test]
async fn without_credentials_or_region_it_says_so() {
    let emulator = Emulator::start().await;
    // What it says instead of being ready, or of its first lock.
    let run = async |url: &str, set_up: fn(&mut Command) -> &mut Command| {
        let mut command = program();
        set_up(&mut command).env("TASKLOCK_URL", url);
        let mut worker = Worker::spawn(command);
        let said = worker.answer().await;
        let told = if said == "ready" { worker.ask("take job").await } else { said };
        assert!(told.starts_with("failed "), "{told}");
        told
    };
    let told = run(&url(&emulator, "1s"), without_credentials).await;
    assert!(told.contains("no credentials"), "{told}");
    let told = run("dynamodb://locks", with_credentials).await;
    assert!(told.contains("AWS_REGION") && !told.contains("hunter2"), "{told}");
    let told = run("dynamodb://other?region=us-east-1&endpoint=http://127.0.0.1:1", with_credentials).await;
    assert!(told.contains("GetItem was not sent") && !told.contains("hunter2"), "{told}");
    // The same by the environment.
    let url = format!("dynamodb://nowhere?endpoint=http://{}", emulator.address());
    let told = run(&url, |command| with_credentials(command).env("AWS_REGION", REGION)).await;
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
