//! What a quorum refuses, and what it says.

use std::time::Duration;

use tasklock::{LockError, Locker, QuorumConfig, QuorumLock, RedisConfig, Ttl, connect, redis::Value};
use tasklock_tests::servers::{RedisQuorum, RedisServer, RedisSettings, connection_to, free_port};

#[tokio::test]
async fn every_kind_of_address_works() {
    let quorum = RedisQuorum::start("").await;
    let own = |node: &RedisServer| RedisConfig::from_url(&node.url()).unwrap();
    let config = QuorumConfig::new(quorum.nodes.iter().map(own)).unwrap();
    let mixed = QuorumConfig::new(
        quorum
            .nodes
            .iter()
            .enumerate()
            .map(|(at, node)| if at > 2 { RedisConfig::from_url(&node.socket_url()).unwrap() } else { own(node) }),
    );
    for lock in [
        connect(quorum.url()).await.unwrap(),
        connect(quorum.url().replace("redis-", "valkey-")).await.unwrap(),
        connect(format!("{}?ttl=10s&max_ttl=60s&durable=false&timeout=2s&prefix=p", quorum.url())).await.unwrap(),
        QuorumLock::connect(quorum.url()).await.unwrap(),
        Locker::new(config.connect().await.unwrap()).unwrap(),
        Locker::new(mixed.unwrap().connect().await.unwrap()).unwrap(),
    ] {
        let guard = lock.acquire("job").await.unwrap();
        assert!(lock.try_acquire("job").await.unwrap().is_none());
        guard.release().await.unwrap();
        lock.ping().await.unwrap();
    }
}

/// Each with an authority of its own.
#[tokio::test]
async fn by_tls() {
    let quorum = RedisQuorum::with("", &RedisSettings { tls: true, ..RedisSettings::default() }).await;
    let nodes = quorum.nodes.iter().map(|node| RedisConfig::from_url(&node.tls_url()).unwrap());
    let lock = Locker::new(QuorumConfig::new(nodes).unwrap().connect().await.unwrap()).unwrap();
    lock.acquire("job").await.unwrap().release().await.unwrap();
    let untrusted = connect(quorum.url().replace("redis-quorum", "rediss-quorum")).await.unwrap_err();
    assert!(matches!(untrusted, LockError::Backend(_)), "plain ports, asked by TLS: {untrusted:?}");
}

#[tokio::test]
async fn addresses_that_make_no_sense() {
    for (url, says) in [
        ("redis-quorum://a,b", "one that is down would stop everybody"),
        ("redis-quorum://a", "fewer than 3"),
        ("redis-quorum://a,b,c,d", "an odd number"),
        ("redis-quorum://a,b,a:6379", "`a:6379` is given twice"),
        ("redis-quorum://a,,c", "no host"),
        ("redis-quorum://a,:hunter2@b,c", ""),
        ("redis-quorum://:hunter2@a,b,c/two", "`two` is not the number of a database"),
        ("redis-quorum://a,b,c?max_ttl=1", "`max_ttl=1` is not a time"),
        ("redis-quorum://a,b,c?max_ttl=25h", "50 ms to 24 h"),
        ("redis-quorum://a,b,c?durable=yes", "write `true` or `false`"),
        ("redis-quorum://a,b,c?timeout=1ms", "10 ms to 60 s"),
        ("redis-quorum://a,b,c?durabel=true", "did you mean `durable`?"),
        ("redis-quorum://a,b,c?ca=/x.pem", "unknown parameter `ca`"),
        ("rediss-quorum://a,b,c?ca=/does/not/exist.pem", "cannot read"),
    ] {
        let error = connect(url).await.unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(says), "{url}: {shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(matches!(error, LockError::InvalidUrl(_) | LockError::InvalidOption(_)), "{url}: {error:?}");
    }
    for url in ["redis-quorum://a,b,c?timeout=1s&timeout=2s", "redis://a", ":hunter2"] {
        assert!(matches!(QuorumConfig::from_url(url), Err(LockError::InvalidUrl(_))), "{url}");
    }
}

/// A node that may have forgotten its votes has to wait for the longest lease there is.
#[tokio::test]
async fn leases_longer_than_the_longest_are_refused() {
    let quorum = RedisQuorum::start("max_ttl=60s").await;
    let lock = connect(quorum.url()).await.unwrap();
    for ttl in [Ttl::For(Duration::from_secs(61)), Ttl::Never] {
        let error = lock.key("job").ttl(ttl).acquire().await.unwrap_err();
        assert!(error.to_string().contains("max_ttl") && !error.is_retryable(), "{error}");
    }
    let guard = lock.key("job").ttl(Duration::from_secs(60)).acquire().await.unwrap();
    assert!(guard.extend(Duration::from_secs(61)).await.is_err());
    assert!(guard.is_held());
}

#[tokio::test]
async fn one_server_has_one_vote() {
    let quorum = RedisQuorum::start("").await;
    let twice = quorum
        .url()
        .replace(&format!("127.0.0.1:{}", quorum.nodes[1].port()), &format!("localhost:{}", quorum.nodes[0].port()));
    let error = connect(twice).await.unwrap_err();
    assert!(error.to_string().contains("same server") && !error.is_retryable(), "{error}");
}

/// New servers wait, unless they are said to be new.
#[tokio::test]
async fn new_servers_wait() {
    let nodes: Vec<RedisServer> = (0..3).map(|_| RedisServer::start()).collect();
    let ports: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
    let url = format!("redis-quorum://{}?max_ttl=2s", ports.join(","));
    let lock = connect(format!("{url}&ttl=1s")).await.unwrap();
    let error = lock.try_acquire("job").await.unwrap_err();
    assert!(error.to_string().contains("forgotten") && error.is_retryable() && !error.is_contended(), "{error}");
    assert_eq!(QuorumConfig::from_url(&url).unwrap().found().await.unwrap(), 0, "they were asked before");
    lock.acquire("job").await.unwrap().release().await.unwrap();
    nodes[0].kill();
    let error = QuorumConfig::from_url(&url).unwrap().found().await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn passwords() {
    let arguments = ["--requirepass", "hunter2"].map(str::to_owned).to_vec();
    let nodes: Vec<RedisServer> = (0..3)
        .map(|_| RedisServer::with(RedisSettings { arguments: arguments.clone(), ..RedisSettings::default() }))
        .collect();
    let hosts = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect::<Vec<_>>().join(",");
    let url = format!("redis-quorum://:hunter2@{hosts}");
    let config = QuorumConfig::from_url(&url).unwrap();
    assert_eq!(config.clone().found().await.unwrap(), 3);
    let backend = config.clone().connect().await.unwrap();
    let lock = connect(&url).await.unwrap();
    lock.acquire("job").await.unwrap().release().await.unwrap();
    for shown in [format!("{config:?}"), format!("{backend:?}"), format!("{lock:?}")] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    // One that refuses is a mistake, though the others would do.
    let _: Value = {
        let mut connection = connection_to(&nodes[0].url().replace("redis://", "redis://:hunter2@")).await;
        tasklock::redis::cmd("CONFIG")
            .arg("SET")
            .arg("requirepass")
            .arg("other")
            .query_async(&mut connection)
            .await
            .unwrap()
    };
    let error = connect(&url).await.unwrap_err();
    assert!(!error.is_retryable() && !error.to_string().contains("hunter2"), "{error}");
}

#[tokio::test]
async fn servers_that_are_not_there() {
    let ports = [(); 3].map(|()| format!("127.0.0.1:{}", free_port()));
    let error = connect(format!("redis-quorum://{}", ports.join(","))).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("0 of 3"), "{error}");
}
