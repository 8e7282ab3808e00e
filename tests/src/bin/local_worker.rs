//! A process for tests to kill, that locks by the environment and does as it is told, line by line:
//!
//! | line | answer |
//! |---|---|
//! | `take KEY` | `taken TOKEN`, as soon as it has it |
//! | `try KEY` | `taken TOKEN`, or `busy PID` of the holder, or `failed RETRYABLE WHY` |
//! | `drop KEY` | the outcome of the release |
//! | `work KEY JOURNAL TIMES` | `worked`: each time, it notes in the journal that it enters and leaves |
//! | `spawn` | `spawned PID`: a program that lives for long |
//! | `fork KEY drop` | `forked PID`: a child that has dropped its copy of the guard, and lives for long |
//! | `fork KEY keep` | `forked PID`: a child that keeps it |
//! | `descriptors` | how many it has open |

use std::{
    collections::HashMap,
    error::Error,
    fs::{self, OpenOptions},
    io::Write as _,
    process::{self, Command, Stdio},
    thread,
    time::Duration,
};

use fork::Fork;
use tasklock::{Guard, LockError, Locker};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let lock = match tasklock::from_env().await {
        Ok(lock) => lock,
        Err(error) => {
            println!("{}", failed(&error));
            process::exit(1);
        }
    };
    println!("ready");
    let mut guards = HashMap::new();
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.split(' ').collect();
        if let Some(answer) = obey(&lock, &mut guards, &words).await? {
            println!("{answer}");
        }
    }
    Ok(())
}

async fn obey(lock: &Locker, guards: &mut HashMap<String, Guard>, words: &[&str]) -> Result<Option<String>, Failure> {
    let mut keep = |key: &str, guard: Guard| {
        let answer = format!("taken {}", guard.fencing_token());
        guards.insert(key.to_owned(), guard);
        answer
    };
    Ok(Some(match words {
        ["take", key] => keep(key, lock.acquire(*key).await?),
        ["try", key] => match lock.key(*key).wait(Duration::ZERO).acquire().await {
            Ok(guard) => keep(key, guard),
            Err(LockError::Held { holder, .. }) => format!("busy {}", holder.map_or(0, |holder| holder.owner.pid())),
            Err(error) => failed(&error),
        },
        ["drop", key] => {
            let guard = guards.remove(*key).ok_or("no such guard")?;
            format!("{:?}", guard.release().await?)
        }
        ["work", key, journal, times] => {
            for _ in 0..times.parse()? {
                let guard = lock.acquire(*key).await?;
                note(journal, &format!("enter {} {}\n", process::id(), guard.fencing_token()))?;
                tokio::task::yield_now().await;
                note(journal, &format!("leave {} {}\n", process::id(), guard.fencing_token()))?;
                guard.release().await?;
            }
            "worked".to_owned()
        }
        ["spawn"] => {
            let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
            format!("spawned {}", child.id())
        }
        ["fork", key, what] => match fork::fork()? {
            Fork::Parent(_) => return Ok(None),
            // The child is this process in all but its number: told to give back what it has, it gives back nothing.
            Fork::Child => {
                if *what == "drop" {
                    drop(guards.remove(*key));
                }
                println!("forked {}", process::id());
                loop {
                    thread::sleep(Duration::from_secs(1000));
                }
            }
        },
        ["descriptors"] => fs::read_dir("/proc/self/fd")?.count().to_string(),
        _ => return Err(format!("unknown: {words:?}").into()),
    }))
}

fn failed(error: &LockError) -> String {
    format!("failed {} {error}", error.is_retryable())
}

fn note(journal: &str, line: &str) -> Result<(), Failure> {
    Ok(OpenOptions::new().append(true).create(true).open(journal)?.write_all(line.as_bytes())?)
}
