//! The schemes of this project's own backends: each takes from an address the parameters it knows.

use tasklock_core::{LockError, Locker, MemoryLock};

use super::{Address, Connecting};

/// Schemes that belong to backends of this project, and the features that bring them.
pub(super) const FEATURES: [(&str, &str); 25] = [
    ("redis", "redis"),
    ("rediss", "redis-tls"),
    ("valkey", "redis"),
    ("valkeys", "redis-tls"),
    ("redis+unix", "redis"),
    ("valkey+unix", "redis"),
    ("redis-cluster", "redis"),
    ("rediss-cluster", "redis-tls"),
    ("valkey-cluster", "redis"),
    ("valkeys-cluster", "redis-tls"),
    ("redis-sentinel", "redis"),
    ("rediss-sentinel", "redis-tls"),
    ("valkey-sentinel", "redis"),
    ("valkeys-sentinel", "redis-tls"),
    ("unix", "redis"),
    ("redis-quorum", "redis"),
    ("rediss-quorum", "redis-tls"),
    ("valkey-quorum", "redis"),
    ("valkeys-quorum", "redis-tls"),
    ("dynamodb", "dynamodb"),
    ("file", "local"),
    ("socket", "local"),
    ("amqp", "rabbitmq"),
    ("amqps", "rabbitmq"),
    ("postgres", "postgres"),
];

/// The one of this scheme, if it is compiled in.
pub(super) fn own(scheme: &str, address: &mut Address) -> Result<Option<Connecting>, LockError> {
    Ok(Some(match scheme {
        "memory" => memory(address)?,
        #[cfg(feature = "local")]
        "file" | "socket" => local(address)?,
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "valkey" | "valkeys" | "unix" | "redis+unix" | "valkey+unix" | "redis-cluster"
        | "rediss-cluster" | "valkey-cluster" | "valkeys-cluster" | "redis-sentinel" | "rediss-sentinel"
        | "valkey-sentinel" | "valkeys-sentinel" => redis(address)?,
        #[cfg(feature = "redis")]
        "redis-quorum" | "rediss-quorum" | "valkey-quorum" | "valkeys-quorum" => redis_quorum(address)?,
        #[cfg(feature = "dynamodb")]
        "dynamodb" => dynamodb(address)?,
        #[cfg(feature = "rabbitmq")]
        "amqp" | "amqps" => rabbitmq(address)?,
        _ => return Ok(None),
    }))
}

fn memory(address: &Address) -> Result<Connecting, LockError> {
    if address.url.has_authority() {
        return Err(address.wrong("write `memory:` or `memory:name`").into());
    }
    let store = match address.url.path() {
        "" => MemoryLock::new(),
        name => MemoryLock::named(name),
    };
    Ok(Box::pin(async { Ok(Locker::builder(store)) }))
}

#[cfg(feature = "local")]
fn local(address: &mut Address) -> Result<Connecting, LockError> {
    let (scheme, url) = (address.url.scheme(), &address.url);
    let wrong = || address.wrong(format!("write `{scheme}:` or `{scheme}:///directory`"));
    if address.relative || url.host_str().is_some() || url.fragment().is_some() {
        return Err(wrong().into());
    }
    let mut config = tasklock_local::LocalConfig::new();
    if !matches!(url.path(), "" | "/") {
        config = config.directory(url.to_file_path().map_err(|()| wrong())?);
    }
    let socket = scheme == "socket";
    config = config.network(match address.take("network").as_deref() {
        None | Some("refuse") => false,
        Some("allow") => true,
        Some(other) => return Err(address.wrong(format!("`network={other}`: write `allow` or `refuse`")).into()),
    });
    Ok(Box::pin(async move {
        Ok(if socket {
            Locker::builder(tasklock_local::SocketLock::open(&config).await?)
        } else {
            Locker::builder(tasklock_local::FileLock::open(&config)?)
        })
    }))
}

/// Which parameters there are depends on the scheme: the backend says.
#[cfg(feature = "redis")]
fn redis(address: &mut Address) -> Result<Connecting, LockError> {
    let others = address.take_others();
    let config = tasklock_redis::RedisConfig::from_hosts(&address.url, &others)?;
    let known = config.parameters();
    let config = configured(config, address, known, tasklock_redis::RedisConfig::parameter)?;
    Ok(Box::pin(async { Ok(Locker::builder(config.connect().await?)) }))
}

#[cfg(feature = "redis")]
fn redis_quorum(address: &mut Address) -> Result<Connecting, LockError> {
    let others = address.take_others();
    let config = tasklock_redis::QuorumConfig::from_hosts(&address.url, &others)?;
    let known = config.parameters();
    let config = configured(config, address, known, tasklock_redis::QuorumConfig::parameter)?;
    Ok(Box::pin(async { Ok(Locker::builder(config.connect().await?)) }))
}

#[cfg(feature = "dynamodb")]
fn dynamodb(address: &mut Address) -> Result<Connecting, LockError> {
    let (region, endpoint) = (address.take("region"), address.take("endpoint"));
    let url = address.url();
    if !url.username().is_empty() || url.password().is_some() {
        return Err(address.wrong("credentials are not part of it: they come from where the AWS SDK looks").into());
    }
    let (Some(table), None, "" | "/") = (url.host_str(), url.port(), url.path()) else {
        return Err(address.wrong("write `dynamodb://table?region=…`").into());
    };
    let mut builder = tasklock_dynamo::DynamoLock::builder(table);
    if let Some(region) = region {
        builder = builder.region(region);
    }
    if let Some(endpoint) = endpoint {
        builder = builder.endpoint(endpoint);
    }
    Ok(Box::pin(builder.connect()))
}

#[cfg(feature = "rabbitmq")]
fn rabbitmq(address: &mut Address) -> Result<Connecting, LockError> {
    let config = tasklock_rabbitmq::RabbitConfig::from_parsed(&address.url)?;
    let known = config.parameters();
    let config = configured(config, address, known, tasklock_rabbitmq::RabbitConfig::parameter)?;
    Ok(Box::pin(async { Ok(Locker::builder(config.connect().await?)) }))
}

/// With the parameters of the address that its backend knows.
#[cfg(any(feature = "rabbitmq", feature = "redis"))]
fn configured<C>(
    config: C,
    address: &mut Address,
    known: &[&'static str],
    set: fn(C, &str, &str) -> Result<C, LockError>,
) -> Result<C, LockError> {
    known.iter().try_fold(config, |config, name| match address.take(name) {
        Some(value) => set(config, name, &value),
        None => Ok(config),
    })
}
