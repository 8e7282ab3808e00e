//! What a process does to the store of its test.

use tasklock::{FencingToken, Locker};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream},
    net::TcpStream,
    sync::watch,
};

use super::program::Failure;

/// Takes the lock, reads both counters of the store, adds one and writes them back, again and again, until told to end. It
/// never looks whether it still holds the lock: what a process does that was stopped right after looking.
pub(super) async fn add(
    lock: Locker,
    key: String,
    mut account: Account,
    mut ending: watch::Receiver<bool>,
) -> Result<(), Failure> {
    while !*ending.borrow() {
        let guard = tokio::select! {
            guard = lock.acquire(key.as_str()) => guard,
            _ = ending.changed() => break,
        };
        let guard = match guard {
            // Too much is down just now.
            Err(error) if error.is_retryable() => continue,
            guard => guard?,
        };
        let (fenced, open) = account.read(guard.fencing_token()).await?;
        account.write(guard.fencing_token(), fenced + 1, open + 1).await?;
        guard.release().await?;
    }
    Ok(())
}

/// A connection to the test's store.
pub(super) struct Account(BufStream<TcpStream>);

impl Account {
    pub(super) async fn open(address: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut account = Account(BufStream::new(stream));
        account.send(format!("{}\n", std::process::id())).await?;
        Ok(account)
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
