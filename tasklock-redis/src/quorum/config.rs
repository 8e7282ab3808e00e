//! Which servers there are, and what has to be known of them.

use std::{fmt, time::Duration};

use tasklock_core::{__private::split_hosts, InvalidOption, InvalidUrl, LockError};
use url::Url;

use super::{backend::QuorumLock, step::Rules};
use crate::config::RedisConfig;

const MAX_TTL: Duration = Duration::from_secs(60);
const MAX_TTLS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(24 * 3600));
const TIMEOUT: Duration = Duration::from_secs(1);
/// Nodes that a client has to be told by are counted in the bits of a number.
const MOST: usize = 63;

/// Several servers that know nothing of each other, and the settings of the connections to them.
///
/// | address | |
/// |---|---|
/// | `redis-quorum://user:password@h1:6379,h2:6379,h3:6379/0` | an odd number of servers, at least three; user, password and database are the same for all; `valkey-quorum://` is the same |
/// | `rediss-quorum://…`, `valkeys-quorum://…` | by TLS, with the feature `tls` |
///
/// | parameter | |
/// |---|---|
/// | `max_ttl=60s` | the longest ttl that anybody asks for, the same for every client: 50 ms to 24 h |
/// | `durable=true` | servers lose nothing when they restart (an append-only file, `appendfsync always`): they vote again at once |
/// | `timeout=1s` | for making a connection, and at most for each answer: 10 ms to 60 s |
/// | `ca`, `cert`, `key` | TLS, as in [`RedisConfig`] |
///
/// Servers with addresses or credentials of their own are given to [`QuorumConfig::new`].
///
/// # The first start
///
/// A server that has no mark of ours may have lost it with everything else, votes included: it gives none for `max_ttl`
/// from when it is first asked. For new servers [`found`](QuorumConfig::found) says, once, that there is nothing to wait for.
///
/// # Examples
///
/// ```
/// use tasklock_redis::QuorumConfig;
///
/// let config = QuorumConfig::from_url("redis-quorum://:hunter2@a,b,c:6380?max_ttl=2m")?;
/// assert!(!format!("{config:?}").contains("hunter2"));
/// let error = QuorumConfig::from_url("redis-quorum://a,b,c,d").unwrap_err().to_string();
/// assert!(error.contains("odd"), "{error}");
/// # Ok::<(), tasklock_core::LockError>(())
/// ```
#[derive(Clone)]
pub struct QuorumConfig {
    nodes: Vec<RedisConfig>,
    /// Without secrets.
    shown: String,
    max_ttl: Duration,
    durable: bool,
    timeout: Duration,
}

impl QuorumConfig {
    /// From servers with settings of their own; the timeout is that of the quorum.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidOption`] if they are fewer than three, more than 63, or an even number.
    pub fn new(nodes: impl IntoIterator<Item = RedisConfig>) -> Result<Self, LockError> {
        Self::of(nodes.into_iter().collect(), "redis-quorum:".to_owned())
    }

    /// From an address, parameters included.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidUrl`] names what is wrong with it, without what is secret in it; [`LockError::InvalidOption`]
    /// for a number of servers that makes no quorum, and for values out of their range.
    pub fn from_url(url: &str) -> Result<Self, LockError> {
        // Not even the text of a broken address is shown: it may contain a password.
        let broken =
            |e| InvalidUrl::new("the address", format!("is not a URL ({e}); an example is `redis-quorum://a,b,c`"));
        let (first, others) = split_hosts(url.trim());
        let url = Url::parse(&first).map_err(broken)?;
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

    /// From an address whose parameters are given one by one, by [`parameter`](QuorumConfig::parameter): the first server
    /// in the URL, and the `others` as they are written.
    ///
    /// # Errors
    ///
    /// As [`from_url`](QuorumConfig::from_url).
    pub fn from_hosts(url: &Url, others: &[String]) -> Result<Self, LockError> {
        let scheme = url.scheme();
        let wrong = |reason: String| InvalidUrl::new(format!("{scheme}:"), reason);
        let one = match scheme {
            "redis-quorum" | "valkey-quorum" => "redis",
            "rediss-quorum" | "valkeys-quorum" => "rediss",
            other => return Err(wrong(format!("unknown scheme `{other}`; known: redis-quorum, rediss-quorum")).into()),
        };
        let unlike = || wrong("one of the servers is no host; write `host` or `host:port`".to_owned());
        let mut hosts = vec![(url.host_str().unwrap_or_default().to_owned(), url.port())];
        for other in others {
            if other.is_empty() || other.contains(['@', '\\', ' ']) {
                return Err(unlike().into());
            }
            let parsed = Url::parse(&format!("redis://{other}")).map_err(|_| unlike())?;
            hosts.push((parsed.host_str().ok_or_else(unlike)?.to_owned(), parsed.port()));
        }
        let mut like = url.clone();
        like.set_scheme(one).map_err(|()| unlike())?;
        like.set_query(None);
        let (mut nodes, mut shown) = (Vec::new(), Vec::new());
        for (host, port) in hosts {
            let address = format!("{host}:{}", port.unwrap_or(6379));
            if shown.contains(&address) {
                return Err(wrong(format!("`{address}` is given twice, and would vote twice")).into());
            }
            let mut url = like.clone();
            url.set_host(Some(&host)).map_err(|_| unlike())?;
            url.set_port(port).map_err(|()| unlike())?;
            nodes.push(RedisConfig::from_parsed(&url)?);
            shown.push(address);
        }
        Self::of(nodes, format!("{scheme}://{}{}", shown.join(","), url.path()))
    }

    fn of(nodes: Vec<RedisConfig>, shown: String) -> Result<Self, LockError> {
        let limit = match nodes.len() {
            0..3 => "a majority of fewer than 3 is all of them: one that is down would stop everybody",
            n if n > MOST => "there are at most 63",
            n if n % 2 == 0 => {
                "an odd number: with one more the majority is one more, and no more of them may be down than without it"
            }
            _ => return Ok(QuorumConfig { nodes, shown, max_ttl: MAX_TTL, durable: false, timeout: TIMEOUT }),
        };
        Err(InvalidOption::new("nodes", nodes.len(), limit).into())
    }

    /// Sets a parameter of the address by its name.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidUrl`] if it is unknown or its value cannot be understood; [`LockError::InvalidOption`] for one
    /// out of its range.
    pub fn parameter(mut self, name: &str, value: &str) -> Result<Self, LockError> {
        let known = self.parameters();
        if !known.contains(&name) {
            let known = known.join(", ");
            return Err(self.wrong(format!("unknown parameter `{name}`; known: {known}")).into());
        }
        let time = || {
            let wrong = || self.wrong(format!("`{name}={value}` is not a time; write `60s` or `500ms`"));
            humantime::parse_duration(value).map_err(|_| wrong())
        };
        match name {
            "max_ttl" => {
                let max_ttl = time()?;
                self.max_ttl(max_ttl)
            }
            "timeout" => {
                let timeout = time()?;
                self.timeout(timeout)
            }
            "durable" => match value {
                "true" => Ok(self.durable(true)),
                "false" => Ok(self.durable(false)),
                _ => Err(self.wrong(format!("`durable={value}`: write `true` or `false`")).into()),
            },
            _ => {
                let set = |node: RedisConfig| node.parameter(name, value);
                self.nodes = self.nodes.into_iter().map(set).collect::<Result<_, _>>()?;
                Ok(self)
            }
        }
    }

    /// The names that [`parameter`](QuorumConfig::parameter) knows for this address.
    #[must_use]
    pub fn parameters(&self) -> &'static [&'static str] {
        match self.nodes.first() {
            Some(node) if node.parameters().contains(&"ca") => &["max_ttl", "durable", "timeout", "ca", "cert", "key"],
            _ => &["max_ttl", "durable", "timeout"],
        }
    }

    /// The longest ttl that anybody asks for, 60 s by default, 50 ms to 24 h: a server that may have forgotten its votes
    /// gives none for as long. Longer ones are refused, and so is a lock without expiry.
    ///
    /// It has to be the same for all clients. Servers keep the longest that they were told.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidOption`] if it is out of this range.
    pub fn max_ttl(mut self, max_ttl: Duration) -> Result<Self, LockError> {
        if max_ttl < MAX_TTLS.0 || max_ttl > MAX_TTLS.1 {
            return Err(InvalidOption::new("max_ttl", max_ttl, "a lease lasts 50 ms to 24 h").into());
        }
        self.max_ttl = max_ttl;
        Ok(self)
    }

    /// The servers lose nothing of what they have answered to when they restart, whatever ends them: an append-only file
    /// with `appendfsync always`. They then vote again at once. Said of servers that do lose something, it makes two holders.
    #[must_use]
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// How long making a connection may take, and at most each answer: 1 s by default, 10 ms to 60 s. A server is waited
    /// for no longer than a twentieth of the ttl, but at least 100 ms.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidOption`] if it is out of this range.
    pub fn timeout(mut self, timeout: Duration) -> Result<Self, LockError> {
        let set = |node: RedisConfig| node.timeout(timeout);
        self.nodes = self.nodes.into_iter().map(set).collect::<Result<_, _>>()?;
        self.timeout = timeout;
        Ok(self)
    }

    /// Connects, on the tokio runtime this is called in; the locker is to be built on the same. A majority has to be there,
    /// the others may come later.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`] if fewer can be reached, if any refuses the password or has no such database, or if two
    /// addresses lead to the same server; [`LockError::InvalidUrl`] for certificates that cannot be read;
    /// [`LockError::NoRuntime`] outside a runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the connections.
    pub async fn connect(self) -> Result<QuorumLock, LockError> {
        QuorumLock::open(self.with_timeout()?).await
    }

    /// Marks servers as new: they have never voted, and need not wait for votes that they may have forgotten. To be called
    /// once, before anybody uses them, and again for a server that replaces one only after `max_ttl` without it. Those that
    /// have a mark keep it; how many had none.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`] if any of them does not answer; the others are marked all the same.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it has marked some or none; it may be called again.
    pub async fn found(self) -> Result<usize, LockError> {
        QuorumLock::found(self.with_timeout()?).await
    }

    /// Nodes that were made elsewhere have a timeout of their own.
    fn with_timeout(self) -> Result<Self, LockError> {
        let timeout = self.timeout;
        self.timeout(timeout)
    }

    fn wrong(&self, reason: impl Into<String>) -> InvalidUrl {
        InvalidUrl::new(self.shown.clone(), reason)
    }

    pub(super) fn rules(&self) -> Rules {
        // Rounded up, as a ttl is.
        let longest = self.max_ttl.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(u64::MAX);
        Rules { longest, durable: self.durable }
    }

    pub(super) fn answer_timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn into_nodes(self) -> Vec<RedisConfig> {
        self.nodes
    }
}

/// Without secrets.
impl fmt::Debug for QuorumConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuorumConfig")
            .field("nodes", &self.nodes)
            .field("max_ttl", &self.max_ttl)
            .field("durable", &self.durable)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
