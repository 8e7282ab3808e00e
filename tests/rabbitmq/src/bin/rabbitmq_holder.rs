//! A process that locks by `TASKLOCK_URL`, told what to do by its arguments and its input, and telling what happens, line
//! by line.
//!
//! `holder KEY` holds until it is told to `release`; `holder KEY FILE N` counts a file up by N, once for each time it has
//! the lock.

use std::{env, error::Error, fs, process::ExitCode};

use tasklock::{Locker, from_env};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let lock = from_env().await?;
    match &arguments[..] {
        [key] => hold(&lock, key).await?,
        [key, file, times] => count(&lock, key, file, times.parse()?).await?,
        _ => return Err("holder KEY [FILE N]".into()),
    }
    lock.shutdown().await;
    Ok(())
}

async fn hold(lock: &Locker, key: &str) -> Result<(), Box<dyn Error>> {
    let guard = lock.acquire(key).await?;
    let token = guard.fencing_token();
    println!("held {token}");
    let lease = guard.lease().clone();
    tokio::spawn(async move { println!("lost {:?}", lease.lost().await) });
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match line.as_str() {
            "write" => println!("write {token} {}", guard.is_held()),
            "release" => {
                println!("released {:?}", guard.release().await?);
                break;
            }
            other => return Err(format!("told to {other}").into()),
        }
    }
    Ok(())
}

async fn count(lock: &Locker, key: &str, file: &str, times: u32) -> Result<(), Box<dyn Error>> {
    for _ in 0..times {
        let guard = lock.acquire(key).await?;
        let before: u64 = fs::read_to_string(file)?.trim().parse()?;
        tokio::task::yield_now().await;
        fs::write(file, (before + 1).to_string())?;
        guard.release().await?;
    }
    println!("done");
    Ok(())
}
