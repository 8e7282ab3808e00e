//! Where the server is, and how it is talked to.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use redis::{
    Client, ConnectionAddr, ConnectionInfo, RedisConnectionInfo, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use tasklock_core::{__private::split_hosts, BackendError, InvalidOption, InvalidUrl, LockError, StepResult};
use url::Url;

use crate::{
    RedisLock,
    address::{Hosts, Kind, database, shown, socket, tcp},
    sentinel::Sentinel,
    server::{Heard, Place, Server},
};

/// The longest that an answer is waited for, by default and at least and at most.
const TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUTS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));
/// Parameters of an address; those of a unix socket take the place of what it has no room for.
const PARAMETERS: [&str; 4] = ["timeout", "ca", "cert", "key"];
const OF_SOCKETS: [&str; 4] = ["timeout", "db", "user", "pass"];
const OF_SENTINELS: [&str; 7] = ["timeout", "service", "sentinel_user", "sentinel_pass", "ca", "cert", "key"];
/// What the examples of Sentinel call the master that they watch.
const SERVICE: &str = "mymaster";

/// A server, or several that are one store, and the settings of the connections to them.
///
/// | address | |
/// |---|---|
/// | `redis://user:password@host:6379/0` | each part but the host may be left out; `valkey://` is the same |
/// | `rediss://…`, `valkeys://…` | by TLS, with the feature `tls` |
/// | `redis+unix:///path/to/socket`, `unix:///…` | with `db`, `user` and `pass` as parameters |
/// | `redis-sentinel://user:password@h1:26379,h2,h3/0` | the master that these sentinels name; user, password and database are the master's |
/// | `redis-cluster://user:password@h1:6379,h2,h3` | a cluster, found through any of these nodes; Redis 7.0, Valkey 7.2 or later |
/// | `rediss-sentinel://…`, `rediss-cluster://…` | the same by TLS, to sentinels as to servers; `valkey` and `valkeys` for `redis` and `rediss` |
///
/// | parameter | |
/// |---|---|
/// | `timeout=3s` | for making a connection, and for each answer: 10 ms to 60 s |
/// | `ca=/path.pem` | TLS: whom to believe, instead of the system's authorities |
/// | `cert=/path.pem`, `key=/path.pem` | TLS: this client's certificate |
/// | `service=mymaster` | Sentinel: what the sentinels call the master |
/// | `sentinel_user=…`, `sentinel_pass=…` | Sentinel: who asks them, if they want to know |
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
    /// Whoever these name.
    Sentinel {
        sentinels: Hosts,
        asking: Asking,
    },
    /// Whoever these know.
    Cluster(Hosts),
}

/// What sentinels are asked for, and by whom.
#[derive(Clone)]
struct Asking {
    service: String,
    user: Option<String>,
    password: Option<String>,
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
        let (url, others) = split_hosts(url.trim());
        let url = Url::parse(&url).map_err(broken)?;
        let mut config = Self::from_hosts(&url, &others)?;
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
        Self::from_hosts(url, &[])
    }

    /// The same, of an address that names several hosts: the first of them in the URL, and the `others` as they are
    /// written.
    ///
    /// # Errors
    ///
    /// As [`from_url`](RedisConfig::from_url).
    pub fn from_hosts(url: &Url, others: &[String]) -> Result<Self, LockError> {
        let shown = shown(url, others);
        let wrong = |reason: String| InvalidUrl::new(shown.clone(), reason);
        if url.fragment().is_some() {
            return Err(wrong("has a part after `#`, which means nothing here".to_owned()).into());
        }
        let source = match Kind::of(url.scheme()) {
            Some((_, true)) if !cfg!(feature = "tls") => {
                Err("TLS needs the feature `tls` of tasklock-redis, `redis-tls` of tasklock".to_owned())
            }
            Some((Kind::Server | Kind::Socket, _)) if !others.is_empty() => {
                Err("names several servers: write `redis-cluster://…` or `redis-sentinel://…`".to_owned())
            }
            Some((Kind::Server, _)) => tcp(url).map(Source::Address),
            Some((Kind::Socket, _)) => socket(url).map(Source::Address),
            Some((Kind::Sentinel, _)) => Hosts::parse(url, others, 26_379).map(|sentinels| {
                let asking = Asking { service: SERVICE.to_owned(), user: None, password: None };
                Source::Sentinel { sentinels, asking }
            }),
            Some((Kind::Cluster, _)) if !matches!(url.path(), "" | "/" | "/0") => {
                Err("a cluster has no databases but 0".to_owned())
            }
            Some((Kind::Cluster, _)) => Hosts::parse(url, others, 6_379).map(Source::Cluster),
            None => Err(format!(
                "unknown scheme `{}`; known: redis, rediss, redis+unix, redis-cluster, rediss-cluster, redis-sentinel, \
                 rediss-sentinel, unix, and valkey for redis",
                url.scheme()
            )),
        };
        Ok(Self::new(source.map_err(wrong)?, shown))
    }

    /// The master that these sentinels (`host` or `host:port`, which is 26379 if left out) call `service`.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidUrl`] if there is none, or one that is no host.
    ///
    /// # Examples
    ///
    /// ```
    /// use tasklock_redis::RedisConfig;
    ///
    /// let config = RedisConfig::sentinel(["s1", "s2", "s3:26380"], "orders")?.credentials("locks", "hunter2");
    /// assert!(!format!("{config:?}").contains("hunter2"));
    /// # Ok::<(), tasklock_core::LockError>(())
    /// ```
    pub fn sentinel(
        sentinels: impl IntoIterator<Item = impl AsRef<str>>,
        service: impl AsRef<str>,
    ) -> Result<Self, LockError> {
        Self::of_hosts("redis-sentinel", sentinels)?.parameter("service", service.as_ref())
    }

    /// The cluster that these nodes (`host` or `host:port`, which is 6379 if left out) belong to. Some are enough: they
    /// know the others.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidUrl`] if there is none, or one that is no host.
    ///
    /// # Examples
    ///
    /// ```
    /// use tasklock_redis::RedisConfig;
    ///
    /// let config = RedisConfig::cluster(["n1:7000", "n2:7000"])?.credentials("locks", "hunter2");
    /// assert!(RedisConfig::cluster(["user@n1"]).is_err(), "not a host");
    /// # drop(config);
    /// # Ok::<(), tasklock_core::LockError>(())
    /// ```
    pub fn cluster(nodes: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, LockError> {
        Self::of_hosts("redis-cluster", nodes)
    }

    fn of_hosts(scheme: &str, hosts: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, LockError> {
        let hosts: Vec<String> = hosts.into_iter().map(|host| host.as_ref().to_owned()).collect();
        if hosts.is_empty() {
            return Err(InvalidUrl::new(format!("{scheme}:"), "names no host").into());
        }
        if hosts.iter().any(|host| host.is_empty() || host.contains(['/', '@', '?', '#', ',', '\\'])) {
            return Err(InvalidUrl::new(format!("{scheme}:"), "what is named is no host; write `host:port`").into());
        }
        Self::from_url(&format!("{scheme}://{}", hosts.join(",")))
    }

    /// User and password; no user is Redis' default one. A client made elsewhere keeps its own.
    #[must_use]
    pub fn credentials(mut self, user: &str, password: &str) -> Self {
        self.set(|settings| {
            let settings = settings.set_password(password);
            if user.is_empty() { settings } else { settings.set_username(user) }
        });
        if let Source::Sentinel { sentinels: hosts, .. } | Source::Cluster(hosts) = &mut self.source {
            // A URL with a host takes both.
            let _ = (hosts.like.set_username(user), hosts.like.set_password(Some(password)));
        }
        self
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
            "service" | "sentinel_user" | "sentinel_pass" => {
                if value.is_empty() {
                    return Err(self.wrong(format!("`{name}` is empty")).into());
                }
                if let Source::Sentinel { asking, .. } = &mut self.source {
                    match name {
                        "service" => asking.service = value.to_owned(),
                        "sentinel_user" => asking.user = Some(value.to_owned()),
                        _ => asking.password = Some(value.to_owned()),
                    }
                }
            }
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
            Source::Sentinel { sentinels, .. } if sentinels.by_tls() => &OF_SENTINELS,
            Source::Sentinel { .. } => &OF_SENTINELS[..4],
            Source::Cluster(nodes) if nodes.by_tls() => &PARAMETERS,
            Source::Cluster(_) => &PARAMETERS[..1],
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
            _ => None,
        }
    }

    /// Without secrets.
    pub(crate) fn address(&self) -> &str {
        &self.shown
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.source, Source::Cluster(_))
    }

    /// The nodes that are named.
    pub(crate) fn seeds(&self) -> Vec<Arc<str>> {
        match &self.source {
            Source::Cluster(nodes) => nodes.all.iter().map(|node| node.as_str().into()).collect(),
            _ => Vec::new(),
        }
    }

    /// One node of a cluster, by `host:port`.
    pub(crate) fn node(&self, address: &str, heard: Heard) -> StepResult<Server> {
        let place = Place::Fixed(Box::new(self.client_at(address)?));
        Ok(Server { place, address: address.to_owned(), timeout: self.timeout, inbox: None, heard })
    }

    /// One of several servers that are spoken to alike, by `host:port`.
    pub(crate) fn client_at(&self, address: &str) -> StepResult<Client> {
        let (Source::Sentinel { sentinels: hosts, .. } | Source::Cluster(hosts)) = &self.source else {
            return Err(BackendError::fatal("redis: one server has no others"));
        };
        let made = hosts.at(address).map_err(|reason| self.wrong(reason).into()).and_then(|info| self.dial(info));
        made.map_err(|error: LockError| BackendError::fatal(format!("redis: {error}")))
    }

    /// The server, to be spoken to on this inbox.
    pub(crate) fn server(self, inbox: String, heard: Heard) -> Result<Server, LockError> {
        let place = match &self.source {
            Source::Client(client, _) => Place::Fixed(Box::new(client.clone())),
            Source::Address(info) => Place::Fixed(Box::new(self.dial(info.clone())?)),
            Source::Cluster(_) => return Err(self.wrong("is a cluster").into()),
            Source::Sentinel { sentinels, asking } => {
                let server = |at: &String| {
                    let mut hosts = sentinels.clone();
                    let user = hosts.like.set_username(asking.user.as_deref().unwrap_or_default());
                    let password = hosts.like.set_password(asking.password.as_deref());
                    user.and(password).map_err(|()| self.wrong("has no room for a user"))?;
                    hosts.like.set_path("");
                    let client = self.dial(hosts.at(at).map_err(|reason| self.wrong(reason))?)?;
                    let (place, heard) = (Place::Fixed(Box::new(client)), heard.clone());
                    Ok(Server { place, address: at.clone(), timeout: self.timeout, inbox: None, heard })
                };
                let servers = sentinels.all.iter().map(server).collect::<Result<_, LockError>>()?;
                let service = asking.service.clone();
                Place::Watched(Arc::new(Sentinel::new(servers, service, self.clone())))
            }
        };
        Ok(Server { place, address: self.shown, timeout: self.timeout, inbox: Some(inbox), heard })
    }

    fn dial(&self, info: ConnectionInfo) -> Result<Client, LockError> {
        self.client(info.set_tcp_settings(tcp_settings(self.timeout)))
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

/// Small requests are not held back to be sent together, and what was sent into a dead connection is noticed.
fn tcp_settings(timeout: Duration) -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true);
    #[cfg(any(target_os = "android", target_os = "linux"))]
    let settings = settings.set_user_timeout(timeout);
    #[cfg(not(any(target_os = "android", target_os = "linux")))]
    let _ = timeout;
    settings
}
