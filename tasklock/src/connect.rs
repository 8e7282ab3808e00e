//! From an address to a locker.

mod schemes;

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tasklock_core::{__private::split_hosts, BoxFuture, InvalidUrl, LockError, Locker, LockerBuilder, Ttl, Wait};
use url::Url;

use self::schemes::FEATURES;

/// Connects to the store at `url` and gives a locker over it.
///
/// | address | store | feature |
/// |---|---|---|
/// | `memory:` | one of its own, in this process | |
/// | `memory:name` | the one of this name, shared in this process | |
/// | `file:`, `file:///directory` | files of this machine; this user's own directory if none is named | `local` |
/// | `socket:`, `socket:///directory` | the same, and waiters are told at once | `local` |
/// | `redis://user:password@host:6379/0`, `valkey://…` | a Redis or Valkey server | `redis` |
/// | `rediss://…`, `valkeys://…` | the same, by TLS | `redis-tls` |
/// | `redis+unix:///path`, `unix:///path` | the same, on this machine | `redis` |
/// | `redis-sentinel://h1:26379,h2,h3/0?service=mymaster` | the master that these sentinels name | `redis` |
/// | `redis-cluster://h1:6379,h2,h3` | a Redis or Valkey cluster | `redis` |
/// | `rediss-sentinel://…`, `rediss-cluster://…` | the same, by TLS | `redis-tls` |
/// | `redis-quorum://h1:6379,h2:6379,h3:6379/0`, `rediss-quorum://…` | a majority of several servers; `QuorumConfig` has its parameters | `redis`, `redis-tls` |
/// | `dynamodb://table?region=…&endpoint=…` | a DynamoDB table; credentials come from where the AWS SDK looks | `dynamodb` |
/// | `amqp://user:password@host:5672/vhost`, `amqps://…` | a RabbitMQ broker; `RabbitConfig` has its parameters | `rabbitmq` |
/// | your own | see [`register_scheme`] | |
///
/// All take the parameters `prefix`, `ttl` (`30s`, `500ms`, `2m`, or `never`) and `wait` (the same, `0s` for a single
/// attempt, or `forever`): `memory:?ttl=10s&wait=2s`. `file:` and `socket:` also take `network` (`allow`, for a directory
/// on a network file system; else `refuse`).
///
/// # Errors
///
/// [`LockError::InvalidUrl`] names what is wrong: an unknown scheme, one whose feature is not compiled in, an unknown
/// parameter, a value out of its range. [`LockError::Backend`] if the store cannot be reached;
/// [`LockError::NoRuntime`] outside a tokio runtime. Secrets in the address are never shown.
///
/// # Cancel safety
///
/// Dropping it drops the connection.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock::LockError> {
/// let lock = tasklock::connect("memory:?ttl=10s").await?;
/// # drop(lock);
/// let error = tasklock::connect("memory:?tll=10s").await.unwrap_err();
/// assert!(error.to_string().contains("did you mean `ttl`?"));
/// # Ok(()) }
/// ```
pub async fn connect(url: impl AsRef<str>) -> Result<Locker, LockError> {
    connector(url).await?.build()
}

/// [`connect`], up to the settings that no address has: an observer, an owner's name, a demand.
///
/// # Errors
///
/// As [`connect`].
///
/// # Cancel safety
///
/// As [`connect`].
pub async fn connector(url: impl AsRef<str>) -> Result<LockerBuilder, LockError> {
    connect_over(url.as_ref(), |builder| builder).await
}

/// The same, over defaults that the address may change.
pub(crate) async fn connect_over(
    url: &str,
    defaults: impl FnOnce(LockerBuilder) -> LockerBuilder,
) -> Result<LockerBuilder, LockError> {
    let mut address = Address::parse(url)?;
    let scheme = address.url.scheme().to_owned();
    let registered = schemes().get(&scheme).cloned();
    let common = Common::take(&mut address)?;
    let builder = match (schemes::own(&scheme, &mut address)?, registered) {
        (Some(own), _) => own,
        (None, Some(make)) => make(&mut address),
        (None, None) => return Err(unknown_scheme(&address, &scheme)),
    };
    // Before the first connection is made.
    address.nothing_left()?;
    Ok(common.apply(defaults(builder.await?)))
}

fn unknown_scheme(address: &Address, scheme: &str) -> LockError {
    if let Some((_, feature)) = FEATURES.iter().find(|(known, _)| *known == scheme) {
        let line = format!("tasklock = {{ version = \"…\", features = [\"{feature}\"] }}");
        return address.wrong(format!("`{scheme}` needs the feature `{feature}`: {line}")).into();
    }
    let mut known: Vec<_> = schemes().keys().cloned().collect();
    known.push("memory".to_owned());
    known.sort();
    let feature_bound = FEATURES.iter().map(|(scheme, _)| *scheme).collect::<Vec<_>>().join(", ");
    let near = nearest(scheme, known.iter().map(String::as_str).chain(FEATURES.map(|(scheme, _)| scheme)));
    let known = known.join(", ");
    address
        .wrong(format!("unknown scheme `{scheme}`{near}; known: {known}; with their features: {feature_bound}"))
        .into()
}

type Connecting = BoxFuture<'static, Result<LockerBuilder, LockError>>;
/// What makes a backend from an address, taking out the parameters it knows.
type Scheme = Arc<dyn Fn(&mut Address) -> Connecting + Send + Sync>;

fn schemes() -> MutexGuard<'static, HashMap<String, Scheme>> {
    static SCHEMES: LazyLock<Mutex<HashMap<String, Scheme>>> = LazyLock::new(Mutex::default);
    SCHEMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Teaches [`connect`] and [`from_env`](crate::from_env) a scheme for a backend of your own. For the whole process.
///
/// `make` takes the parameters it knows out of the address before it returns its future; what is left over is refused
/// as unknown, and the future not polled.
///
/// # Errors
///
/// [`LockError::InvalidUrl`] if the scheme is not a valid one, belongs to this project, or is registered already.
///
/// # Examples
///
/// ```
/// use tasklock::{Locker, MemoryLock, connect, register_scheme};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock::LockError> {
/// register_scheme("mine", |address| {
///     let shards = address.take("shards");
///     async move {
///         println!("{shards:?}");
///         Ok(Locker::builder(MemoryLock::new()))
///     }
/// })?;
/// let lock = connect("mine://somewhere?shards=4&ttl=5s").await?;
/// # drop(lock);
/// # Ok(()) }
/// ```
pub fn register_scheme<F, Fut>(scheme: &str, make: F) -> Result<(), LockError>
where
    F: Fn(&mut Address) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<LockerBuilder, LockError>> + Send + 'static,
{
    let wrong = |reason: &str| Err(InvalidUrl::new(format!("{scheme}:"), reason).into());
    let valid = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    if !valid {
        return wrong("a scheme is a lower-case letter, then lower-case letters, digits, `+`, `-` or `.`");
    }
    if scheme == "memory" || FEATURES.iter().any(|(known, _)| *known == scheme) {
        return wrong("this scheme belongs to tasklock itself");
    }
    let mut schemes = schemes();
    if schemes.contains_key(scheme) {
        return wrong("this scheme is registered already");
    }
    schemes.insert(scheme.to_owned(), Arc::new(move |address| Box::pin(make(address))));
    Ok(())
}

/// The address of a store, as given to [`connect`]: the URL, and its parameters, which are taken one by one.
pub struct Address {
    url: Url,
    /// Whether a path was written that does not begin with a slash, which a URL does not tell.
    #[cfg_attr(not(feature = "local"), allow(dead_code))]
    relative: bool,
    /// Hosts after the first, as they are written: `b:2` of `scheme://a:1,b:2`.
    others: Vec<String>,
    params: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self, LockError> {
        // Not even the text of a broken address is shown: it may contain a password.
        let broken = |error| InvalidUrl::new("the address", format!("is not a URL ({error}); an example is `memory:`"));
        let (first, others) = split_hosts(text.trim());
        let url = Url::parse(&first).map_err(broken)?;
        let path = text.trim().split_once(':').map_or("", |(_, path)| path);
        let relative = !(path.is_empty() || path.starts_with(['/', '?', '#']));
        let params: Vec<_> = url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        let address = Address { url, relative, others, params, known: Vec::new() };
        for (n, (name, _)) in address.params.iter().enumerate() {
            if address.params[..n].iter().any(|(other, _)| other == name) {
                return Err(address.wrong(format!("the parameter `{name}` is given twice")).into());
            }
        }
        Ok(address)
    }

    /// The whole URL, secrets included. Of several hosts it has the first.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Takes the hosts after the first: `b:2` of `scheme://a:1,b:2`. Left where they are, they are refused.
    #[must_use]
    pub fn take_others(&mut self) -> Vec<String> {
        std::mem::take(&mut self.others)
    }

    /// Takes the parameter of this name, if it is given, and remembers that it is known.
    pub fn take(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let at = self.params.iter().position(|(given, _)| given == name)?;
        Some(self.params.remove(at).1)
    }

    /// Takes a duration: `30s`, `500ms`, `1m 30s`.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`] if it is not one.
    pub fn take_duration(&mut self, name: &'static str) -> Result<Option<Duration>, InvalidUrl> {
        let Some(text) = self.take(name) else { return Ok(None) };
        self.duration(name, &text).map(Some)
    }

    /// An error about this address, which is shown without its secrets.
    #[must_use]
    pub fn wrong(&self, reason: impl Into<String>) -> InvalidUrl {
        InvalidUrl::new(self.to_string(), reason)
    }

    fn duration(&self, name: &str, text: &str) -> Result<Duration, InvalidUrl> {
        let wrong = || self.wrong(format!("`{name}={text}` is not a time; write `30s`, `500ms` or `2m`"));
        humantime::parse_duration(text).map_err(|_| wrong())
    }

    fn nothing_left(&self) -> Result<(), InvalidUrl> {
        if !self.others.is_empty() {
            return Err(self.wrong(format!("names several hosts; `{}` is for one", self.url.scheme())));
        }
        let Some((name, _)) = self.params.first() else { return Ok(()) };
        let near = nearest(name, self.known.iter().copied());
        let known = self.known.join(", ");
        Err(self.wrong(format!("unknown parameter `{name}`{near}; known: {known}")))
    }
}

/// Without user, password and parameters.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.url.scheme())?;
        if let Some(host) = self.url.host_str() {
            write!(f, "//{host}")?;
            if let Some(port) = self.url.port() {
                write!(f, ":{port}")?;
            }
        }
        // With an `@` it is no path and no host, but the end of a user and a password that were written wrongly.
        for other in self.others.iter().filter(|other| !other.contains('@')) {
            write!(f, ",{other}")?;
        }
        f.write_str(if self.url.path().contains('@') { "…" } else { self.url.path() })
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// The parameters that every address may have.
struct Common {
    prefix: Option<String>,
    ttl: Option<Ttl>,
    wait: Option<Wait>,
}

impl Common {
    fn take(address: &mut Address) -> Result<Self, InvalidUrl> {
        let prefix = address.take("prefix");
        let ttl = match address.take("ttl").as_deref() {
            None => None,
            Some("never") => Some(Ttl::Never),
            Some(text) => Some(address.duration("ttl", text)?.into()),
        };
        let wait = match address.take("wait").as_deref() {
            None => None,
            Some("forever") => Some(Wait::Forever),
            Some(text) => Some(address.duration("wait", text)?.into()),
        };
        Ok(Common { prefix, ttl, wait })
    }

    fn apply(self, mut builder: LockerBuilder) -> LockerBuilder {
        if let Some(prefix) = self.prefix {
            builder = builder.prefix(prefix);
        }
        if let Some(ttl) = self.ttl {
            builder = builder.ttl(ttl);
        }
        if let Some(wait) = self.wait {
            builder = builder.wait(wait);
        }
        builder
    }
}

/// `, did you mean …?` if one of these is at most two letters away.
fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let near = known.into_iter().map(|known| (strsim::osa_distance(word, known), known)).min();
    near.filter(|(distance, _)| *distance <= 2)
        .map_or_else(String::new, |(_, near)| format!(", did you mean `{near}`?"))
}
