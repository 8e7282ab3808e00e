//! `worker STORE KEY TASKS`: a process for tests to stop and kill, with locks by `TASKLOCK_URL`.
//!
//! Each task takes the lock, reads both counters of the store, adds one and writes them back, until standard input ends.
//! It never looks whether it still holds the lock: what a process does that was stopped right after looking.

use std::{env, error::Error, io::Read as _, thread};

use tasklock::{FencingToken, Locker};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [store, key, tasks] = arguments.as_slice() else { return Err("usage: worker STORE KEY TASKS".into()) };
    let lock = tasklock::from_env().await?;
    let (end, ending) = watch::channel(false);
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = end.send(true);
    });
    let mut running = JoinSet::new();
    for _ in 0..tasks.parse()? {
        running.spawn(add(lock.clone(), key.clone(), Store::open(store).await?, ending.clone()));
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    lock.shutdown().await;
    Ok(())
}

async fn add(lock: Locker, key: String, mut store: Store, mut ending: watch::Receiver<bool>) -> Result<(), Failure> {
    while !*ending.borrow() {
        let guard = tokio::select! {
            guard = lock.acquire(key.as_str()) => guard?,
            _ = ending.changed() => break,
        };
        let (fenced, open) = store.read(guard.fencing_token()).await?;
        store.write(guard.fencing_token(), fenced + 1, open + 1).await?;
        guard.release().await?;
    }
    Ok(())
}

/// A connection to the test's store.
struct Store(BufStream<TcpStream>);

impl Store {
    async fn open(address: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut store = Store(BufStream::new(stream));
        store.send(format!("{}\n", std::process::id())).await?;
        Ok(store)
    }

    async fn read(&mut self, token: FencingToken) -> Result<(u64, u64), Failure> {
        let answer = self.ask(format!("read {token}\n")).await?;
        let (fenced, open) = answer.split_once(' ').ok_or("two numbers")?;
        Ok((fenced.parse()?, open.parse()?))
    }

    /// Whether it was taken is the store's affair.
    async fn write(&mut self, token: FencingToken, fenced: u64, open: u64) -> Result<(), Failure> {
        self.ask(format!("write {token} {fenced} {open}\n")).await.map(drop)
    }

    async fn ask(&mut self, request: String) -> Result<String, Failure> {
        self.send(request).await?;
        let mut answer = String::new();
        self.0.read_line(&mut answer).await?;
        Ok(answer.trim_end().to_owned())
    }

    async fn send(&mut self, request: String) -> Result<(), Failure> {
        self.0.write_all(request.as_bytes()).await?;
        Ok(self.0.flush().await?)
    }
}
