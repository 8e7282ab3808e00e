//! Where the broker is, and how it is talked to.

use std::{fmt, path::PathBuf, time::Duration};

use lapin::{
    Connection, ConnectionProperties,
    tcp::OwnedTLSConfig,
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo},
};
use percent_encoding::percent_decode_str;
use tasklock_core::{InvalidOption, InvalidUrl, LockError, Locker, Owner};
use url::Url;

use crate::RabbitLock;

const TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUTS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));
const HEARTBEAT: Duration = Duration::from_secs(15);
const HEARTBEATS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
const GRACE: Duration = Duration::from_millis(25);
const GRACES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(10));
const RECHECK: Duration = Duration::from_secs(30);
const RECHECKS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
const CHANNELS: usize = 2000;
const MOST_CHANNELS: usize = 65_000;
const PARAMETERS: [&str; 6] = ["timeout", "heartbeat", "grace", "recheck", "channels", "ca"];

/// A broker, and the settings of the connection to it.
///
/// | address | |
/// |---|---|
/// | `amqp://user:password@host:5672/vhost` | each part but the host may be left out: `guest`, `guest`, 5672, `/` |
/// | `amqps://…` | by TLS; port 5671 |
///
/// | parameter | |
/// |---|---|
/// | `timeout=5s` | for making the connection, and for each answer: 10 ms to 60 s |
/// | `heartbeat=15s` | how soon a dead client or broker is noticed, in two to three of these: 1 s to 60 s |
/// | `grace=25ms` | how long a try waits for the token after the broker has answered: 1 ms to 10 s |
/// | `recheck=30s` | after how long a waiter asks whether there is a token at all: 1 s to 1 h |
/// | `channels=2000` | how many locks may be held or waited for at a time: 1 to 65000, and no more than the broker allows |
/// | `ca=/path.pem` | TLS: whom to believe beside the system's authorities |
///
/// Keep the ttl of leases at two heartbeats or less (30 s and 15 s by default): then a holder that was paused knows by
/// its own clock that its time was over before the broker gave the lock away.
///
/// # Examples
///
/// ```
/// use tasklock_rabbitmq::RabbitConfig;
///
/// let config = RabbitConfig::from_url("amqp://localhost/jobs?heartbeat=10s")?;
/// # drop(config);
/// let error = RabbitConfig::from_url("amqp://me:hunter2@localhost/a/b").unwrap_err().to_string();
/// assert!(error.contains("virtual host") && !error.contains("hunter2"));
/// # Ok::<(), tasklock_core::LockError>(())
/// ```
#[derive(Clone)]
pub struct RabbitConfig {
    /// Has the password.
    uri: AMQPUri,
    /// Has not.
    shown: String,
    timeout: Duration,
    heartbeat: Duration,
    grace: Duration,
    recheck: Duration,
    channels: usize,
    ca: Option<PathBuf>,
    /// What is in it, once read.
    authorities: Option<String>,
}

impl RabbitConfig {
    /// From an address, parameters included.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidUrl`] names what is wrong with it, without what is secret in it;
    /// [`LockError::InvalidOption`] for a setting out of its range.
    pub fn from_url(url: &str) -> Result<Self, LockError> {
        // Not even the text of a broken address is shown: it may contain a password.
        let broken =
            |e| InvalidUrl::new("the address", format!("is not a URL ({e}); an example is `amqp://localhost`"));
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

    /// From an address whose parameters are given one by one, by [`parameter`](RabbitConfig::parameter).
    ///
    /// # Errors
    ///
    /// As [`from_url`](RabbitConfig::from_url).
    pub fn from_parsed(url: &Url) -> Result<Self, LockError> {
        let shown = shown(url);
        let wrong = |reason: String| InvalidUrl::new(shown.clone(), reason);
        if url.fragment().is_some() {
            return Err(wrong("has a part after `#`, which means nothing here".to_owned()).into());
        }
        let uri = uri(url).map_err(wrong)?;
        Ok(RabbitConfig {
            uri,
            timeout: TIMEOUT,
            heartbeat: HEARTBEAT,
            grace: GRACE,
            recheck: RECHECK,
            channels: CHANNELS,
            ca: None,
            authorities: None,
            shown,
        })
    }

    /// Sets a parameter of the address by its name.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidUrl`] if it is unknown or its value cannot be understood; [`LockError::InvalidOption`] if it is
    /// out of its range.
    pub fn parameter(mut self, name: &str, value: &str) -> Result<Self, LockError> {
        let time = |config: &Self| {
            let wrong = || config.wrong(format!("`{name}={value}` is not a time; write `5s` or `500ms`"));
            humantime::parse_duration(value).map_err(|_| wrong())
        };
        match name {
            "timeout" => time(&self).map(|timeout| self.timeout(timeout))?,
            "heartbeat" => time(&self).map(|heartbeat| self.heartbeat(heartbeat))?,
            "grace" => time(&self).map(|grace| self.grace(grace))?,
            "recheck" => time(&self).map(|recheck| self.recheck(recheck))?,
            "channels" => match value.parse() {
                Ok(channels) => self.channels(channels),
                Err(_) => Err(self.wrong(format!("`channels={value}` is not a number")).into()),
            },
            "ca" if self.uri.scheme == AMQPScheme::AMQPS => {
                self.ca = Some(value.into());
                Ok(self)
            }
            "ca" => Err(self.wrong("`ca` goes with `amqps://`").into()),
            _ => {
                let known = PARAMETERS.join(", ");
                Err(self.wrong(format!("unknown parameter `{name}`; known: {known}")).into())
            }
        }
    }

    /// The names that [`parameter`](RabbitConfig::parameter) knows.
    #[must_use]
    pub fn parameters(&self) -> &'static [&'static str] {
        &PARAMETERS
    }

    /// How long making the connection may take, and each answer: 5 s by default, 10 ms to 60 s.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidOption`] if it is out of this range.
    pub fn timeout(mut self, timeout: Duration) -> Result<Self, LockError> {
        self.timeout = within("timeout", timeout, TIMEOUTS)?;
        Ok(self)
    }

    /// How often both sides make themselves heard: 15 s by default, whole seconds from 1 to 60. The broker may ask for less.
    /// A client that is dead, or cut off, is noticed after two to three of these.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidOption`] if it is out of this range.
    pub fn heartbeat(mut self, heartbeat: Duration) -> Result<Self, LockError> {
        self.heartbeat = within("heartbeat", heartbeat, HEARTBEATS)?;
        if heartbeat.subsec_nanos() > 0 {
            return Err(InvalidOption::new("heartbeat", heartbeat, "it is whole seconds").into());
        }
        Ok(self)
    }

    /// How long a try waits for the token after the broker has answered: 25 ms by default, 1 ms to 10 s. The broker
    /// cannot say "held": a try that gets nothing in this time takes it for that.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidOption`] if it is out of this range.
    pub fn grace(mut self, grace: Duration) -> Result<Self, LockError> {
        self.grace = within("grace", grace, GRACES)?;
        Ok(self)
    }

    /// After how long a waiter asks whether there is a token at all: 30 s by default, 1 s to 1 h.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidOption`] if it is out of this range.
    pub fn recheck(mut self, recheck: Duration) -> Result<Self, LockError> {
        self.recheck = within("recheck", recheck, RECHECKS)?;
        Ok(self)
    }

    /// How many locks may be held or waited for at a time, each having a channel of the connection: 2000 by default, 1 to
    /// 65000, and no more than the broker's channel_max less eight. More is an error, [`ChannelsInUse`](crate::ChannelsInUse).
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidOption`] if it is out of this range.
    pub fn channels(mut self, channels: usize) -> Result<Self, LockError> {
        if !(1..=MOST_CHANNELS).contains(&channels) {
            return Err(InvalidOption::new("channels", channels, format!("it is 1 to {MOST_CHANNELS}")).into());
        }
        self.channels = channels;
        Ok(self)
    }

    /// Connects, on the tokio runtime this is called in; the locker is to be built on the same.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`] if the broker cannot be reached, refuses the password or has no such virtual host;
    /// [`LockError::InvalidUrl`] for certificates that cannot be read; [`LockError::NoRuntime`] outside a runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the connection.
    pub async fn connect(mut self) -> Result<RabbitLock, LockError> {
        if let Some(path) = &self.ca {
            let read = std::fs::read_to_string(path);
            let read = read.map_err(|e| self.wrong(format!("cannot read `{}`: {e}", path.display())))?;
            self.authorities = Some(read);
        }
        RabbitLock::open(self).await
    }

    pub(crate) fn address(&self) -> &str {
        &self.shown
    }

    pub(crate) fn timeout_of_answers(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn heartbeat_asked(&self) -> Duration {
        self.heartbeat
    }

    pub(crate) fn grace_of_tries(&self) -> Duration {
        self.grace
    }

    pub(crate) fn recheck_after(&self) -> Duration {
        self.recheck
    }

    pub(crate) fn most_channels(&self) -> usize {
        self.channels
    }

    /// A connection, with the broker's greeting over.
    pub(crate) async fn open(&self) -> lapin::Result<Connection> {
        let mut uri = self.uri.clone();
        uri.query.heartbeat = u16::try_from(self.heartbeat.as_secs()).ok();
        uri.query.connection_timeout = u64::try_from(self.timeout.as_millis()).ok();
        let name = format!("tasklock {}", Owner::this_process());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let tls = OwnedTLSConfig { identity: None, cert_chain: self.authorities.clone() };
        Connection::connect_uri_with_config(uri, properties, tls, lapin::runtime::default_runtime()?).await
    }

    fn wrong(&self, reason: impl Into<String>) -> InvalidUrl {
        InvalidUrl::new(self.shown.clone(), reason)
    }
}

/// Without secrets.
impl fmt::Debug for RabbitConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitConfig")
            .field("address", &self.shown)
            .field("timeout", &self.timeout)
            .field("heartbeat", &self.heartbeat)
            .field("grace", &self.grace)
            .field("recheck", &self.recheck)
            .field("channels", &self.channels)
            .finish_non_exhaustive()
    }
}

fn within(
    option: &'static str,
    value: Duration,
    (least, most): (Duration, Duration),
) -> Result<Duration, InvalidOption> {
    if value < least || value > most {
        return Err(InvalidOption::new(option, value, format!("it is {least:?} to {most:?}")));
    }
    Ok(value)
}

fn uri(url: &Url) -> Result<AMQPUri, String> {
    let (scheme, port) = match url.scheme() {
        "amqp" => (AMQPScheme::AMQP, 5672),
        "amqps" => (AMQPScheme::AMQPS, 5671),
        other => return Err(format!("unknown scheme `{other}`; known: amqp, amqps")),
    };
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or("names no host")?;
    let decoded = |text: &str, what: &str| {
        let text = percent_decode_str(text).decode_utf8().map_err(|_| format!("has a {what} that is not UTF-8"))?;
        Ok::<_, String>(text.into_owned())
    };
    let userinfo = match (decoded(url.username(), "user")?, url.password()) {
        (username, None) if username.is_empty() => AMQPUserInfo { username: "guest".into(), password: "guest".into() },
        (username, password) => AMQPUserInfo { username, password: decoded(password.unwrap_or_default(), "password")? },
    };
    let vhost = match url.path().strip_prefix('/').unwrap_or_default() {
        "" => "/".to_owned(),
        path if path.contains('/') => {
            return Err("has a path of several parts; one names the virtual host, a slash in it being `%2f`".to_owned());
        }
        path => decoded(path, "virtual host")?,
    };
    if vhost.len() > 255 {
        return Err(format!("names a virtual host of {} bytes; 255 is the most", vhost.len()));
    }
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let authority = AMQPAuthority { userinfo, host, port: url.port().unwrap_or(port) };
    Ok(AMQPUri { scheme, authority, vhost, query: AMQPQueryString::default() })
}

/// Without user, password and parameters.
fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

impl RabbitLock {
    /// A locker over the broker at this address, with the default settings: see [`RabbitConfig`] for addresses, and
    /// [`Locker::builder`] over [`RabbitConfig::connect`] for settings.
    ///
    /// # Errors
    ///
    /// As [`RabbitConfig::from_url`] and [`RabbitConfig::connect`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the connection.
    pub async fn connect(url: impl AsRef<str>) -> Result<Locker, LockError> {
        Locker::new(RabbitConfig::from_url(url.as_ref())?.connect().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> AMQPUri {
        RabbitConfig::from_url(url).unwrap_or_else(|e| panic!("{url}: {e}")).uri
    }

    #[test]
    fn addresses_have_defaults() {
        let uri = parsed("amqp://broker");
        assert_eq!((uri.authority.host.as_str(), uri.authority.port, uri.vhost.as_str()), ("broker", 5672, "/"));
        assert_eq!(uri.authority.userinfo, AMQPUserInfo { username: "guest".into(), password: "guest".into() });
        let uri = parsed("amqps://me:p%40ss%2f@[::1]/team%2fa?heartbeat=5s&channels=7&ca=/ca.pem");
        assert_eq!((uri.authority.host.as_str(), uri.authority.port, uri.vhost.as_str()), ("::1", 5671, "team/a"));
        assert_eq!(uri.authority.userinfo, AMQPUserInfo { username: "me".into(), password: "p@ss/".into() });
        assert_eq!(parsed("amqp://h:1/").vhost, "/");
        assert_eq!(parsed("amqp://h/%2f").vhost, "/");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_limit() {
        let secret = "amqp://user:hunter2@host";
        for (url, says) in [
            ("nonsense hunter2", "is not a URL"),
            ("http://user:hunter2@host", "unknown scheme `http`; known: amqp, amqps"),
            ("amqp:///vhost", "names no host"),
            (&format!("{secret}/a/b"), "one names the virtual host"),
            (&format!("{secret}/%ff"), "not UTF-8"),
            (&format!("{secret}/{}", "x".repeat(256)), "256 bytes; 255"),
            (&format!("{secret}#frag"), "after `#`"),
            (&format!("{secret}?timeout=9ms"), "10ms to 60s"),
            (&format!("{secret}?timeout=soon"), "is not a time"),
            (&format!("{secret}?heartbeat=0s"), "1s to 60s"),
            (&format!("{secret}?heartbeat=1500ms"), "whole seconds"),
            (&format!("{secret}?grace=1h"), "1ms to 10s"),
            (&format!("{secret}?recheck=1ms"), "1s to 3600s"),
            (&format!("{secret}?channels=0"), "1 to 65000"),
            (&format!("{secret}?channels=many"), "is not a number"),
            (&format!("{secret}?ca=/x.pem"), "amqps"),
            (&format!("{secret}?grace=1s&grace=2s"), "given twice"),
            (&format!("{secret}?hartbeat=5s"), "unknown parameter `hartbeat`; known: timeout, heartbeat"),
        ] {
            let error = RabbitConfig::from_url(url).unwrap_err();
            assert!(!error.is_retryable(), "{url}");
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(says), "{url}: {shown}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        assert!(!format!("{:?}", RabbitConfig::from_url(secret).unwrap()).contains("hunter2"));
    }
}
