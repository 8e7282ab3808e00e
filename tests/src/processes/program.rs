//! A process for tests to stop and kill, that locks by `TASKLOCK_URL` and does as it is told, line by line, until its
//! input ends. First it says `ready`, or `failed RETRYABLE WHY`.
//!
//! | line | answer |
//! |---|---|
//! | `take KEY` | `taken TOKEN`, as soon as it has it, or `failed RETRYABLE WHY` |
//! | `read KEY` | the same as a reader |
//! | `try KEY` | the same at once, or `busy PID` of the holder |
//! | `inspect KEY` | `held PID` of the holder, `free`, or `failed RETRYABLE WHY` |
//! | `break KEY` | `broken`, `free`, or `failed RETRYABLE WHY` |
//! | `member POOL` | `member TOKEN MEMBER`, as soon as it has one, or `failed RETRYABLE WHY` |
//! | `drop KEY` | the outcome of the release |
//! | `write KEY` | `write TOKEN HELD`: what it would send with a write, and whether it believes that it holds |
//! | `lost KEY` | `lost WHY`, as soon as it is |
//! | `work KEY JOURNAL TIMES` | `worked`: each time, it notes in the journal that it enters and leaves |
//! | `add STORE KEY TASKS` | `adding`: so many tasks add to the test's store until its input ends |
//! | `spawn` | `spawned PID`: a program that lives for long |
//! | `fork KEY drop` | `forked PID`: a child that has dropped its copy of the guard, and lives for long |
//! | `fork KEY keep` | `forked PID`: a child that keeps it |
//! | `fork KEY try` | `forked PID`: a child that holds the lock, if it was free |
//! | `descriptors` | how many it has open |

use std::{
    collections::HashMap,
    error::Error,
    fs,
    pin::pin,
    process::{self, Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use fork::Fork;
use tasklock::{Guard, LockError, Locker, PoolGuard, testing::poll_times};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, stdin},
    runtime::Builder,
    sync::watch,
    task::JoinSet,
};

use super::{
    Journal,
    account::{Account, add},
};

pub(super) type Failure = Box<dyn Error + Send + Sync>;

/// What a program does that is this one: one thread, since it forks.
#[must_use]
pub fn main() -> ExitCode {
    let served = Builder::new_current_thread().enable_all().build().map_err(Failure::from);
    match served.and_then(|runtime| runtime.block_on(serve())) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<ExitCode, Failure> {
    let lock = match tasklock::from_env().await {
        Ok(lock) => lock,
        Err(error) => {
            println!("{}", failed(&error));
            return Ok(ExitCode::FAILURE);
        }
    };
    println!("ready");
    let mut process = Process {
        lock,
        guards: HashMap::new(),
        members: Vec::new(),
        adding: JoinSet::new(),
        end: watch::channel(false).0,
    };
    let mut lines = BufReader::new(stdin()).lines();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line?,
            Some(ended) = process.adding.join_next() => {
                ended??;
                continue;
            }
        };
        let Some(line) = line else { break };
        let words: Vec<&str> = line.split(' ').collect();
        if let Some(answer) = process.obey(&words).await? {
            println!("{answer}");
        }
    }
    process.end().await?;
    Ok(ExitCode::SUCCESS)
}

struct Process {
    lock: Locker,
    guards: HashMap<String, Guard>,
    members: Vec<PoolGuard>,
    adding: JoinSet<Result<(), Failure>>,
    end: watch::Sender<bool>,
}

impl Process {
    async fn obey(&mut self, words: &[&str]) -> Result<Option<String>, Failure> {
        Ok(Some(match words {
            ["take", key] => match self.lock.acquire(*key).await {
                Ok(guard) => self.keep(key, guard),
                Err(error) => failed(&error),
            },
            ["read", key] => match self.lock.key(*key).shared().acquire().await {
                Ok(guard) => self.keep(key, guard),
                Err(error) => failed(&error),
            },
            ["try", key] => match self.lock.key(*key).wait(Duration::ZERO).acquire().await {
                Ok(guard) => self.keep(key, guard),
                Err(LockError::Held { holder, .. }) => {
                    format!("busy {}", holder.map_or(0, |holder| holder.owner.pid()))
                }
                Err(error) => failed(&error),
            },
            ["inspect", key] => match self.lock.inspect(*key).await {
                Ok(state) => state.holder.map_or("free".to_owned(), |holder| format!("held {}", holder.owner.pid())),
                Err(error) => failed(&error),
            },
            ["break", key] => match self.lock.break_lock(*key).await {
                Ok(broken) => if broken { "broken" } else { "free" }.to_owned(),
                Err(error) => failed(&error),
            },
            ["member", pool] => match self.lock.pool(*pool)?.acquire().await {
                Ok(guard) => {
                    let answer = format!("member {} {}", guard.fencing_token(), guard.member());
                    self.members.push(guard);
                    answer
                }
                Err(error) => failed(&error),
            },
            ["drop", key] => format!("{:?}", self.guards.remove(*key).ok_or(NO_GUARD)?.release().await?),
            ["write", key] => {
                let guard = self.guards.get(*key).ok_or(NO_GUARD)?;
                format!("write {} {}", guard.fencing_token(), guard.is_held())
            }
            ["lost", key] => format!("lost {:?}", self.guards.get(*key).ok_or(NO_GUARD)?.lost().await),
            ["work", key, journal, times] => {
                let journal = Journal::at(journal);
                for _ in 0..times.parse()? {
                    let guard = self.lock.acquire(*key).await?;
                    journal.enter(guard.fencing_token())?;
                    tokio::task::yield_now().await;
                    journal.leave(guard.fencing_token())?;
                    guard.release().await?;
                }
                "worked".to_owned()
            }
            ["add", store, key, tasks] => {
                for _ in 0..tasks.parse()? {
                    let account = Account::open(store).await?;
                    self.adding.spawn(add(self.lock.clone(), (*key).to_owned(), account, self.end.subscribe()));
                }
                "adding".to_owned()
            }
            ["spawn"] => {
                let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
                format!("spawned {}", child.id())
            }
            ["fork", key, what] => match fork::fork()? {
                Fork::Parent(_) => return Ok(None),
                Fork::Child => self.be_a_child(key, what).await,
            },
            ["descriptors"] => fs::read_dir("/proc/self/fd")?.count().to_string(),
            _ => return Err(format!("unknown: {words:?}").into()),
        }))
    }

    fn keep(&mut self, key: &str, guard: Guard) -> String {
        let answer = format!("taken {}", guard.fencing_token());
        self.guards.insert(key.to_owned(), guard);
        answer
    }

    /// A child is this process in all but its number, its threads and whatever runs on those: told to give back what it
    /// has, it gives back nothing; told to try, it does what needs no waiting.
    async fn be_a_child(&mut self, key: &str, what: &str) -> ! {
        let _tried = match what {
            "drop" => {
                drop(self.guards.remove(key));
                None
            }
            "try" => poll_times(pin!(self.lock.acquire(key)), 1).await.and_then(Result::ok),
            _ => None,
        };
        println!("forked {}", process::id());
        loop {
            thread::sleep(Duration::from_secs(1000));
        }
    }

    async fn end(mut self) -> Result<(), Failure> {
        self.end.send_replace(true);
        while let Some(ended) = self.adding.join_next().await {
            ended??;
        }
        self.guards.clear();
        self.members.clear();
        self.lock.shutdown().await;
        Ok(())
    }
}

const NO_GUARD: &str = "no such guard";

fn failed(error: &LockError) -> String {
    format!("failed {} {error}", error.is_retryable())
}
