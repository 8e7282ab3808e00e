//! What a lock by name does, shown in four steps: `cargo run --example quickstart`.
//!
//! It runs on `memory:` unless `TASKLOCK_URL` names another store (`file:`, `socket:`), and ends by itself after a few
//! seconds.

use std::{
    env,
    process::ExitCode,
    sync::LazyLock,
    time::{Duration, Instant},
};

use tasklock::{Fence, FencingToken, LockError, Locker, connect, synchronized};
use tokio::time::sleep;

#[tokio::main]
async fn main() -> ExitCode {
    let url = env::var("TASKLOCK_URL").unwrap_or_else(|_| "memory:".to_owned());
    let lock = match connect(&url).await {
        Ok(lock) => lock,
        Err(error) => {
            eprintln!("quickstart: {error}");
            return ExitCode::FAILURE;
        }
    };
    match run(&lock).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(lock: &Locker) -> Result<(), LockError> {
    tasklock::install_default(lock.clone())?;
    let capabilities = lock.capabilities();
    say(format!("locks by {}, fencing {:?}", capabilities.backend, capabilities.fencing));

    step("1. Three tasks rebuild the index of acme, one that of zeta. Those of acme take turns.");
    let (first, second, third, other) = tokio::join!(
        tokio::spawn(rebuild_index("acme", "first")),
        tokio::spawn(rebuild_index("acme", "second")),
        tokio::spawn(rebuild_index("acme", "third")),
        tokio::spawn(rebuild_index("zeta", "other")),
    );
    for task in [first, second, third, other] {
        task.expect("no task panics")?;
    }

    step("2. Somebody holds acme for long. A call that waits 300 ms is told by whom.");
    let guard = lock.acquire("teamspace=acme").await?;
    sleep(Duration::from_millis(100)).await;
    match rename("acme").await {
        Err(error) if error.is_contended() => say(format!("rename: {error}")),
        other => say(format!("rename: {other:?}, which is not what was to be shown")),
    }
    guard.release().await?;

    match lock.break_lock("teamspace=acme").await {
        Err(error @ LockError::Unsupported { .. }) => step(&format!("3, 4. Not on this store: {error}")),
        _ => break_and_refuse(lock).await?,
    }

    let drained = lock.shutdown().await;
    step(&format!("Done; {} locks were still held.", drained.lost));
    Ok(())
}

async fn break_and_refuse(lock: &Locker) -> Result<(), LockError> {
    step("3. An operator breaks the lock of a running body. Its next renewal notices, and the body is dropped.");
    let operator = async {
        sleep(Duration::from_millis(250)).await;
        let broken = lock.break_lock("teamspace=acme").await;
        say(format!("operator: breaks the lock of acme: {broken:?}"));
    };
    let (outcome, ()) = tokio::join!(import("acme"), operator);
    let lost = match &outcome {
        Err(error @ LockError::Lost { token, .. }) => {
            say(format!("import: {error}"));
            *token
        }
        other => {
            say(format!("import: {other:?}, which is not what was to be shown"));
            return Ok(());
        }
    };

    step("4. A store that checks fencing tokens refuses what the loser may still send.");
    let fence = Fence::new();
    let next = rebuild_index("acme", "fourth").await?;
    say(format!("store: write of the next holder under token {next}: {}", verdict(&fence, next)));
    say(format!("store: late write of the loser under token {lost}: {}", verdict(&fence, lost)));
    Ok(())
}

/// The lock is named by the argument: one at a time per teamspace, whichever task, process or machine asks.
#[synchronized("teamspace", guard = lease)]
async fn rebuild_index(teamspace: &'static str, task: &'static str) -> Result<FencingToken, LockError> {
    let token = lease.fencing_token();
    say(format!("{task}: has {teamspace}, token {token}"));
    sleep(Duration::from_millis(300)).await;
    say(format!("{task}: gives {teamspace} back"));
    Ok(token)
}

/// The same lock, since the parameter has the same name. No arrow: it returns `Result<(), LockError>`.
#[synchronized("teamspace", wait = Duration::from_millis(300))]
async fn rename(teamspace: &str) {
    say(format!("rename: has {teamspace}, which is not what was to be shown"));
}

/// A short ttl, so that loss is noticed soon: leases are renewed after a third of it.
#[synchronized("teamspace", ttl = Duration::from_millis(600), guard = lease)]
async fn import(teamspace: &str) {
    let _here = Noisy;
    say(format!("import: has {teamspace}, token {}", lease.fencing_token()));
    for page in 1..=50 {
        sleep(Duration::from_millis(100)).await;
        say(format!("import: page {page}"));
    }
}

/// Says so when the body it stands in is dropped.
struct Noisy;

impl Drop for Noisy {
    fn drop(&mut self) {
        say("import: body dropped");
    }
}

fn verdict(fence: &Fence, token: FencingToken) -> String {
    fence.admit(token).map_or_else(|refused| refused.to_string(), |()| "accepted".to_owned())
}

fn step(text: &str) {
    println!("\n{text}");
}

fn say(text: impl AsRef<str>) {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    println!("{:>6} ms  {}", START.elapsed().as_millis(), text.as_ref());
}
