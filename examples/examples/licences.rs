//! Workers that share a pool of licences: `cargo run --example licences`.
//!
//! Three licences, six workers. Each takes whichever licence is free, or waits in line until one is given back. It runs on
//! `memory:` unless `TASKLOCK_URL` names a Redis server, and ends by itself.

use std::{env, process::ExitCode, time::Duration};

use tasklock::{LockError, Pool, connect};
use tokio::time::sleep;

#[tokio::main]
async fn main() -> ExitCode {
    let url = env::var("TASKLOCK_URL").unwrap_or_else(|_| "memory:".to_owned());
    match run(&url).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ LockError::Unsupported { .. }) => {
            println!("Not on this store: {error}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("licences: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(url: &str) -> Result<(), LockError> {
    let lock = connect(url).await?;
    let licences = lock.pool("licences")?;
    // Who belongs to the pool is kept in the store: an operator does this once, or every instance at its start.
    licences.assign(["CAD-1", "CAD-2", "CAD-3"]).await?;
    println!("{} licences", licences.len().await?);

    let workers: Vec<_> = (1..=6).map(|number| tokio::spawn(work(number, licences.clone()))).collect();
    for worker in workers {
        worker.await.expect("no worker panics")?;
    }

    // A tenant is given the licence that it had before, if that is free: its files are there already.
    let tenant = licences.clone().affinity("tenant 7");
    let had = tenant.synchronized_with(|lease| async move { lease.member().map(str::to_owned) }).await?;
    let again = tenant.acquire().await?;
    println!("tenant 7 had {}, and has {} again", had.unwrap_or_default(), again.member());

    // One licence ends while it is in use: whoever has it keeps it, and nobody gets it after that.
    licences.shrink([again.member()]).await?;
    let health = licences.health().await?;
    println!("{} ends: {} are left, {} of them in use", again.member(), health.members(), health.locked);
    again.release().await?;

    licences.clear().await?;
    lock.shutdown().await;
    Ok(())
}

async fn work(number: u32, licences: Pool) -> Result<(), LockError> {
    for part in 1..=2 {
        // Renewed until it is dropped; if this process died, the licence would be free again after its ttl.
        let licence = licences.acquire().await?;
        println!("worker {number}, part {part}: {} under token {}", licence.member(), licence.fencing_token());
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
