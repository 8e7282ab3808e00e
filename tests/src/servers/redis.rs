//! A `redis-server`.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::Child,
    sync::Mutex,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tasklock::redis::{
    self, AsyncConnectionConfig, Client, FromRedisValue, RedisResult, Value, aio::MultiplexedConnection,
};

use super::{Folder, PATIENCE, free_port, make_certificates, spawn, until};

/// What a server is started with.
#[derive(Clone, Debug, Default)]
pub struct RedisSettings {
    /// Whether it keeps its data when it ends.
    pub durable: bool,
    /// Whether it also listens by TLS, with a certificate for `localhost`.
    pub tls: bool,
    /// Whether it is a sentinel, which watches the masters of this configuration.
    pub sentinel: Option<String>,
    /// Further arguments.
    pub arguments: Vec<String>,
}

/// A server of its own on a port of its own, killed when dropped.
#[derive(Debug)]
pub struct RedisServer {
    folder: Folder,
    settings: RedisSettings,
    port: u16,
    tls_port: u16,
    child: Mutex<Option<Child>>,
}

impl RedisServer {
    /// A server that keeps nothing.
    #[must_use]
    pub fn start() -> Self {
        Self::with(RedisSettings::default())
    }

    /// A server that keeps its data when it ends.
    #[must_use]
    pub fn durable() -> Self {
        Self::with(RedisSettings { durable: true, ..RedisSettings::default() })
    }

    /// A server with these settings.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[must_use]
    pub fn with(settings: RedisSettings) -> Self {
        let folder = Folder::new();
        if settings.tls {
            make_certificates(&folder);
        }
        if let Some(configuration) = &settings.sentinel {
            fs::write(folder.file("conf"), configuration).expect("a file");
        }
        let server =
            RedisServer { folder, settings, port: free_port(), tls_port: free_port(), child: Mutex::default() };
        server.restart();
        server
    }

    /// Starts it again, on the same port, with the data it kept.
    ///
    /// # Panics
    ///
    /// If it runs, or does not start.
    pub fn restart(&self) {
        let mut slot = self.child();
        assert!(slot.is_none(), "it runs");
        *slot = Some(self.spawn());
        drop(slot);
        until("redis-server answers", || {
            if let Some(status) = self.child().as_mut().and_then(|child| child.try_wait().expect("a status")) {
                let log = fs::read_to_string(self.folder.file("log")).unwrap_or_default();
                panic!("redis-server ended: {status}\n{log}");
            }
            self.answers()
        });
    }

    /// Starts it again without its data.
    pub fn restart_empty(&self) {
        for entry in fs::read_dir(self.folder.path()).expect("its folder").flatten() {
            let name = entry.file_name();
            if name == "dump.rdb" || name == "appendonlydir" {
                let path = entry.path();
                let gone = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
                gone.expect("its data removed");
            }
        }
        self.restart();
    }

    /// Ends it in good order.
    pub fn stop(&self) {
        self.signal(Signal::TERM);
        self.reap();
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        self.reap();
    }

    /// Stops it where it stands: connections stay, and nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its address by TLS, believing its own authority.
    #[must_use]
    pub fn tls_url(&self) -> String {
        let ca = self.folder.file("ca.pem");
        format!("rediss://localhost:{}?ca={}", self.tls_port, ca.display())
    }

    /// Its address by its socket.
    #[must_use]
    pub fn socket_url(&self) -> String {
        format!("redis+unix://{}", self.folder.file("socket").display())
    }

    /// Whether it runs: not killed, whether or not it answers.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.child().is_some()
    }

    /// What it wrote to its log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.file("log")).unwrap_or_default()
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection to look at it with.
    ///
    /// # Panics
    ///
    /// If there is none to be had.
    pub async fn connection(&self) -> MultiplexedConnection {
        connection_to(&self.url()).await
    }

    /// Sends it a command.
    ///
    /// # Panics
    ///
    /// If it is refused.
    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let answer = command(words).query_async(&mut self.connection().await).await;
        answer.unwrap_or_else(|e| panic!("{words:?}: {e}"))
    }

    /// The same, of one that may end the connection, or not answer in half a second.
    ///
    /// # Errors
    ///
    /// If it refuses or does not answer.
    pub async fn try_ask<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let mut connection = Client::open(self.url())?.get_multiplexed_async_connection().await?;
        command(words).query_async(&mut connection).await
    }

    /// Looks whether nothing of ours is there but fence counters, nonces that are withdrawn and who had which member of a
    /// pool, and all of that ends.
    ///
    /// # Panics
    ///
    /// If there is more.
    pub async fn has_only_fences(&self) {
        for (key, ttl) in self.keys().await {
            assert!(ttl > 0, "{key} never ends");
            let known = ["fence", "leases"].iter().any(|end| key.ends_with(end)) || key.contains(":1:pool:had:");
            assert!(known, "{key} is left");
            if key.ends_with(":leases") {
                let members: Vec<String> = self.ask(&["ZRANGE", &key, "0", "-1"]).await;
                assert!(members.iter().all(|member| member.starts_with('x')), "{key}: {members:?}");
            }
        }
    }

    /// How often it has carried out each command since it started, those of scripts included.
    ///
    /// # Panics
    ///
    /// If it does not tell.
    pub async fn counts(&self) -> BTreeMap<String, u64> {
        let text: String = self.ask(&["INFO", "commandstats"]).await;
        let count = |line: &str| {
            let (name, rest) = line.trim().strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        };
        text.lines().filter_map(count).collect()
    }

    /// Begins to count anew.
    pub async fn reset_counts(&self) {
        let _: Value = self.ask(&["CONFIG", "RESETSTAT"]).await;
    }

    /// All keys it has, and their ttl in milliseconds (-1: none).
    pub async fn keys(&self) -> BTreeMap<String, i64> {
        let mut keys = BTreeMap::new();
        for key in self.ask::<Vec<String>>(&["KEYS", "*"]).await {
            let ttl = self.ask(&["PTTL", &key]).await;
            keys.insert(key, ttl);
        }
        keys
    }

    fn spawn(&self) -> Child {
        let file = |name: &str| self.folder.file(name).display().to_string();
        spawn("redis-server", "redis-server", |command| {
            if self.settings.sentinel.is_some() {
                command.args([&file("conf"), "--sentinel"]);
            } else {
                command.args(["--unixsocket", &file("socket"), "--save", ""]);
            }
            command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string()]);
            command.args(["--dir", &file(""), "--logfile", &file("log"), "--daemonize", "no"]);
            if self.settings.durable {
                command.args(["--appendonly", "yes", "--appendfsync", "always"]);
            }
            if self.settings.tls {
                command.args(["--tls-port", &self.tls_port.to_string(), "--tls-auth-clients", "no"]);
                command.args(["--tls-cert-file", &file("server.pem"), "--tls-key-file", &file("server.key")]);
                command.args(["--tls-ca-cert-file", &file("ca.pem")]);
            }
            command.args(&self.settings.arguments);
        })
    }

    /// Whether it takes commands: it may still be loading, and a password is none of this question's business.
    fn answers(&self) -> bool {
        let asked = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 16];
            let len = stream.read(&mut answer)?;
            Ok(answer[..len].starts_with(b"+PONG") || answer[..len].starts_with(b"-NOAUTH"))
        };
        asked().unwrap_or(false)
    }

    fn signal(&self, signal: Signal) {
        let slot = self.child();
        let child = slot.as_ref().expect("it runs");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id")).expect("a process id");
        kill_process(pid, signal).expect("a signal sent");
    }

    fn reap(&self) {
        let mut child = self.child().take().expect("it runs");
        until("redis-server has ended", || child.try_wait().expect("a status").is_some());
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A connection that waits for answers as long as a busy machine takes.
///
/// # Panics
///
/// If there is none to be had.
pub async fn connection_to(url: &str) -> MultiplexedConnection {
    let client = Client::open(url).expect("an address");
    client.get_multiplexed_async_connection_with_config(&patient()).await.expect("a connection")
}

/// How to connect so.
#[must_use]
pub fn patient() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE))
}

fn command(words: &[&str]) -> redis::Cmd {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command
}
