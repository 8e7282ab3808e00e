//! Where the server is, and how it is talked to.

use std::{fmt, path::PathBuf, time::Duration};

use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, aio::MultiplexedConnection,
    io::tcp::TcpSettings,
};
use tasklock_core::{InvalidOption, InvalidUrl, LockError};
use url::Url;

use crate::{
    RedisLock,
    link::{Heard, Server},
};

/// The longest that an answer is waited for, by default and at least and at most.
const TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUTS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));
/// Parameters of an address; those of a unix socket take the place of what it has no room for.
const PARAMETERS: [&str; 4] = ["timeout", "ca", "cert", "key"];
const OF_SOCKETS: [&str; 4] = ["timeout", "db", "user", "pass"];

/// A server, and the settings of the connection to it.
///
/// | address | |
/// |---|---|
/// | `redis://user:password@host:6379/0` | each part but the host may be left out; `valkey://` is the same |
/// | `rediss://…`, `valkeys://…` | by TLS, with the feature `tls` |
/// | `redis+unix:///path/to/socket`, `unix:///…` | with `db`, `user` and `pass` as parameters |
///
/// | parameter | |
/// |---|---|
/// | `timeout=3s` | for making a connection, and for each answer: 10 ms to 60 s |
/// | `ca=/path.pem` | TLS: whom to believe, instead of the system's authorities |
/// | `cert=/path.pem`, `key=/path.pem` | TLS: this client's certificate |
///
/// # Examples
///
/// ```
/// use tasklock_redis::RedisConfig;
///
/// let config = RedisConfig::from_url("redis://localhost/2?timeout=500ms")?;
/// # drop(config);
/// let error = RedisConfig::from_url("redis://:hunter2@localhost/two").unwrap_err().to_string();
/// assert!(error.contains("database") && !error.contains("hunter2"));
/// # Ok::<(), tasklock_core::LockError>(())
/// ```
#[derive(Clone)]
pub struct RedisConfig {
    source: Source,
    /// Without secrets.
    shown: String,
    timeout: Duration,
    certificates: Certificates,
}

#[derive(Clone)]
enum Source {
    Address(ConnectionInfo),
    /// The caller's own: taken as it is.
    Client(Client, Option<MultiplexedConnection>),
}

#[derive(Clone, Default)]
struct Certificates {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl RedisConfig {
    /// From an address, parameters included.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidUrl`] names what is wrong with it, without what is secret in it;
    /// [`LockError::InvalidOption`] for a timeout out of its range.
    pub fn from_url(url: &str) -> Result<Self, LockError> {
        // Not even the text of a broken address is shown: it may contain a password.
        let broken =
            |e| InvalidUrl::new("the address", format!("is not a URL ({e}); an example is `redis://localhost`"));
        let url = Url::parse(url.trim()).map_err(broken)?;
        let mut config = Self::from_parsed(&url)?;
        let mut given = Vec::new();
        for (name, value) in url.query_pairs() {
            if given.contains(&name) {
                return Err(config.wrong(format!("the parameter `{name}` is given twice")).into());
            }
            config = config.parameter(&name, &value)?;
            given.push(name);
        }
        Ok(config)
    }

    /// From an address whose parameters are given one by one, by [`parameter`](RedisConfig::parameter).
    ///
    /// # Errors
    ///
    /// As [`from_url`](RedisConfig::from_url).
    pub fn from_parsed(url: &Url) -> Result<Self, LockError> {
        let shown = shown(url);
        let wrong = |reason: String| InvalidUrl::new(shown.clone(), reason);
        if url.fragment().is_some() {
            return Err(wrong("has a part after `#`, which means nothing here".to_owned()).into());
        }
        let info = match url.scheme() {
            "redis" | "valkey" => tcp(url),
            "rediss" | "valkeys" if cfg!(feature = "tls") => tcp(url),
            "rediss" | "valkeys" => {
                Err("TLS needs the feature `tls` of tasklock-redis, `redis-tls` of tasklock".to_owned())
            }
            "unix" | "redis+unix" | "valkey+unix" => socket(url),
            other => Err(format!("unknown scheme `{other}`; known: redis, rediss, redis+unix, valkey, valkeys, unix")),
        };
        let info = info.map_err(wrong)?;
        Ok(Self::new(Source::Address(info), shown))
    }

    /// From a client made elsewhere, with its own settings for sockets and TLS.
    #[must_use]
    pub fn from_client(client: Client) -> Self {
        let shown = client.get_connection_info().addr().to_string();
        Self::new(Source::Client(client, None), shown)
    }

    /// From a connection made elsewhere, and the client that made it.
    ///
    /// The connection carries the commands, beside whatever else it is used for and under its own response timeout (half
    /// a second, unless it was made with another). Grants come on a second one, which the client makes: one that is
    /// shared has its pushes told to somebody else. When either ends, both are made anew by the client, with the timeout
    /// set here; the one given is not used again.
    #[must_use]
    pub fn from_connection(client: Client, commands: MultiplexedConnection) -> Self {
        let shown = client.get_connection_info().addr().to_string();
        Self::new(Source::Client(client, Some(commands)), shown)
    }

    /// Sets a parameter of the address by its name.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidUrl`] if it is unknown or its value cannot be understood; [`LockError::InvalidOption`] for a
    /// timeout out of its range.
    pub fn parameter(mut self, name: &str, value: &str) -> Result<Self, LockError> {
        let known = self.parameters();
        if !known.contains(&name) {
            let known = known.join(", ");
            return Err(self.wrong(format!("unknown parameter `{name}`; known: {known}")).into());
        }
        match name {
            "timeout" => {
                let wrong = || self.wrong(format!("`timeout={value}` is not a time; write `3s` or `500ms`"));
                let timeout = humantime::parse_duration(value).map_err(|_| wrong())?;
                return self.timeout(timeout);
            }
            "ca" => self.certificates.ca = Some(value.into()),
            "cert" => self.certificates.cert = Some(value.into()),
            "key" => self.certificates.key = Some(value.into()),
            "db" => {
                let db = database(value).map_err(|reason| self.wrong(reason))?;
                self.set(|settings| settings.set_db(db));
            }
            "user" => self.set(|settings| settings.set_username(value)),
            _ => self.set(|settings| settings.set_password(value)),
        }
        Ok(self)
    }

    /// The names that [`parameter`](RedisConfig::parameter) knows for this address.
    #[must_use]
    pub fn parameters(&self) -> &'static [&'static str] {
        match &self.source {
            Source::Address(info) => match info.addr() {
                ConnectionAddr::Unix(_) => &OF_SOCKETS,
                ConnectionAddr::TcpTls { .. } => &PARAMETERS,
                _ => &PARAMETERS[..1],
            },
            Source::Client(..) => &PARAMETERS[..1],
        }
    }

    /// How long making a connection may take, and each answer: 3 s by default, 10 ms to 60 s. What is not answered by
    /// then counts as unknown, and the connections are made anew.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidOption`] if it is out of this range.
    pub fn timeout(mut self, timeout: Duration) -> Result<Self, LockError> {
        if timeout < TIMEOUTS.0 || timeout > TIMEOUTS.1 {
            return Err(InvalidOption::new("timeout", timeout, "an answer is waited for 10 ms to 60 s").into());
        }
        self.timeout = timeout;
        Ok(self)
    }

    /// Connects, on the tokio runtime this is called in; the locker is to be built on the same.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`] if the server cannot be reached, refuses the password or has no such database;
    /// [`LockError::InvalidUrl`] for certificates that cannot be read; [`LockError::NoRuntime`] outside a runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the connections.
    pub async fn connect(self) -> Result<RedisLock, LockError> {
        RedisLock::open(self).await
    }

    fn new(source: Source, shown: String) -> Self {
        RedisConfig { source, shown, timeout: TIMEOUT, certificates: Certificates::default() }
    }

    fn wrong(&self, reason: impl Into<String>) -> InvalidUrl {
        InvalidUrl::new(self.shown.clone(), reason)
    }

    fn set(&mut self, change: impl FnOnce(RedisConnectionInfo) -> RedisConnectionInfo) {
        if let Source::Address(info) = &mut self.source {
            *info = info.clone().set_redis_settings(change(info.redis_settings().clone()));
        }
    }

    /// The connection that is there already, if any.
    pub(crate) fn commands(&self) -> Option<MultiplexedConnection> {
        match &self.source {
            Source::Client(_, commands) => commands.clone(),
            Source::Address(_) => None,
        }
    }

    /// The server, to be spoken to on this inbox.
    pub(crate) fn server(self, inbox: String, heard: Heard) -> Result<Server, LockError> {
        let client = match &self.source {
            Source::Client(client, _) => client.clone(),
            Source::Address(info) => {
                let info = info.clone().set_tcp_settings(tcp_settings(self.timeout));
                self.client(info)?
            }
        };
        Ok(Server { client, address: self.shown, timeout: self.timeout, inbox, heard })
    }

    #[cfg(feature = "tls")]
    fn client(&self, info: ConnectionInfo) -> Result<Client, LockError> {
        let wrong = |e: redis::RedisError| self.wrong(e.to_string());
        if matches!(info.addr(), ConnectionAddr::TcpTls { .. })
            && rustls::crypto::CryptoProvider::get_default().is_none()
        {
            // Where a program brings two sets of primitives, rustls panics unless one was chosen.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|e| self.wrong(format!("cannot read `{}`: {e}", path.display())))
        };
        let Certificates { ca, cert, key } = &self.certificates;
        let client_tls = match (cert, key) {
            (Some(cert), Some(key)) => {
                Some(redis::ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? })
            }
            (None, None) => None,
            _ => return Err(self.wrong("`cert` and `key` go together").into()),
        };
        let root_cert = ca.as_ref().map(read).transpose()?;
        if client_tls.is_none() && root_cert.is_none() {
            return Ok(Client::open(info).map_err(wrong)?);
        }
        Ok(Client::build_with_tls(info, redis::TlsCertificates { client_tls, root_cert }).map_err(wrong)?)
    }

    #[cfg(not(feature = "tls"))]
    fn client(&self, info: ConnectionInfo) -> Result<Client, LockError> {
        Ok(Client::open(info).map_err(|e| self.wrong(e.to_string()))?)
    }
}

/// Without secrets.
impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("address", &self.shown)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

fn tcp(url: &Url) -> Result<ConnectionInfo, String> {
    if url.host_str().is_none_or(str::is_empty) {
        return Err("names no host".to_owned());
    }
    let path = url.path().strip_prefix('/').unwrap_or_default();
    if !path.is_empty() {
        database(path)?;
    }
    let mut bare = url.clone();
    bare.set_query(None);
    bare.into_connection_info().map_err(|e| e.to_string())
}

fn socket(url: &Url) -> Result<ConnectionInfo, String> {
    let path = url.to_file_path().map_err(|()| "names no socket; write `redis+unix:///path/to/socket`".to_owned())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user or password before the path; write `?user=…&pass=…`".to_owned());
    }
    ConnectionAddr::Unix(path).into_connection_info().map_err(|e| e.to_string())
}

fn database(text: &str) -> Result<i64, String> {
    let db = text.parse::<u32>().map_err(|_| format!("`{text}` is not the number of a database: 0 or more"))?;
    Ok(i64::from(db))
}

/// Small requests are not held back to be sent together, and what was sent into a dead connection is noticed.
fn tcp_settings(timeout: Duration) -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true);
    #[cfg(any(target_os = "android", target_os = "linux"))]
    let settings = settings.set_user_timeout(timeout);
    #[cfg(not(any(target_os = "android", target_os = "linux")))]
    let _ = timeout;
    settings
}

/// An address without user, password and parameters.
fn shown(url: &Url) -> String {
    let mut shown = format!("{}:", url.scheme());
    if let Some(host) = url.host_str() {
        shown.push_str("//");
        shown.push_str(host);
        if let Some(port) = url.port() {
            shown.push_str(&format!(":{port}"));
        }
    }
    shown + url.path()
}
