//! Bad input: a typed error that names the value and the limit, and nothing lost.

use std::time::Duration;

use tasklock::{
    Demand, Fencing, InvalidKey, LockError, Locker, LockerBuilder, MemoryLock, Renew, RetryPolicy, Scope, Ttl, Wait,
    blocking, connect, default_locker, register_scheme,
};

fn builder() -> LockerBuilder {
    Locker::builder(MemoryLock::new())
}

#[tokio::test]
async fn keys() {
    let store = MemoryLock::new();
    let lock = Locker::new(store.clone()).unwrap();
    for (key, says) in [
        (String::new(), "1 to 512 bytes"),
        ("x".repeat(513), "513 bytes long; 512"),
        ("a\nb".to_owned(), "control character '\\n' at byte 1"),
        ("a\0".to_owned(), "control character '\\0'"),
        ("\u{9b}31m".to_owned(), "control character"),
    ] {
        let outcomes = [
            lock.acquire(&key).await.map(drop),
            lock.try_acquire(&key).await.map(drop),
            lock.synchronized(&key, async {}).await,
            lock.key(&key).acquire().await.map(drop),
            lock.inspect(&key).await.map(drop),
            lock.break_lock(&key).await.map(drop),
        ];
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert!(matches!(error, LockError::InvalidKey(_)), "{key:?}: {error:?}");
            assert!(error.to_string().contains(says), "{key:?}: {error}");
            assert!(!error.is_retryable() && !error.is_contended());
        }
    }
    assert!(store.is_empty());
    // The longest name has room for its prefix.
    drop(lock.acquire("x".repeat(512)).await.unwrap());
}

#[tokio::test]
async fn times() {
    let lock = builder().build().unwrap();
    let ms = Duration::from_millis;
    for ttl in [Duration::ZERO, ms(49), Duration::from_secs(86_401), Duration::MAX] {
        let error = lock.key("job").ttl(ttl).acquire().await.unwrap_err();
        assert!(
            error.to_string().contains("50 ms to 24 h") && error.to_string().contains(&format!("{ttl:?}")),
            "{error}"
        );
        assert!(matches!(builder().ttl(ttl).build(), Err(LockError::InvalidOption(_))));
    }
    for ttl in [ms(50), Duration::from_secs(86_400)] {
        drop(lock.key("job").ttl(ttl).acquire().await.unwrap());
    }
    let error = lock.key("job").wait(Duration::MAX).acquire().await.unwrap_err();
    assert!(error.to_string().contains("30 days"), "{error}");
    let error = lock.key("job").renew(Renew::Every(Duration::from_secs(30))).try_acquire().await.unwrap_err();
    assert!(error.to_string().contains("two thirds of the ttl of 30s"), "{error}");
    for wrong in [
        builder().max_hold(ms(1)),
        builder().patience(Duration::MAX),
        builder().warn_after(Duration::ZERO),
        builder().retry(RetryPolicy::fixed(Duration::ZERO)),
        builder().retry(RetryPolicy::default().factor(0.5)),
        builder().retry(RetryPolicy::default().max_attempts(0)),
    ] {
        assert!(matches!(wrong.build(), Err(LockError::InvalidOption(_))));
    }
    assert!(lock.inspect("job").await.unwrap().is_free());
}

#[tokio::test]
async fn prefixes() {
    for prefix in ["a:b", "a b", "ä", &"x".repeat(65), "a\n"] {
        let error = builder().prefix(prefix).build().unwrap_err();
        assert!(matches!(error, LockError::InvalidKey(InvalidKey::Prefix { .. })), "{error}");
    }
    let store = MemoryLock::new();
    let with = |prefix: &str| Locker::builder(store.clone()).prefix(prefix).build().unwrap();
    let _a = with("a").acquire("b:c").await.unwrap();
    assert!(with("a").try_acquire("b:c").await.unwrap().is_none());
    assert!(with("b").try_acquire("b:c").await.unwrap().is_some());
    // No prefix at all is the one case where names can meet those of others: it has to be asked for.
    assert!(with("").try_acquire("a:b:c").await.unwrap().is_none());
}

#[tokio::test]
async fn demands() {
    let error = builder().demand(Demand::new().scope(Scope::Cluster)).build().unwrap_err();
    assert!(matches!(error, LockError::Unsupported { backend: "memory", .. }), "{error}");
    assert!(error.to_string().contains("Cluster") && error.to_string().contains("Process"), "{error}");
    assert!(builder().demand(Demand::new().fencing(Fencing::Strong).push().fair().server_expiry()).build().is_ok());
}

#[tokio::test]
async fn addresses() {
    for (url, says) in [
        ("", "is not a URL"),
        ("memory", "is not a URL"),
        ("memory://host", "write `memory:` or `memory:name`"),
        ("postgres://localhost", "needs the feature `postgres`"),
        ("file:relative", "write `file:` or `file:///directory`"),
        ("socket:relative", "write `socket:` or `socket:///directory`"),
        ("file://host/directory", "write `file:`"),
        ("file:///directory#part", "write `file:`"),
        ("file:///directory?network=perhaps", "write `allow` or `refuse`"),
        ("file:///directory?netwrok=allow", "did you mean `network`?"),
        ("mermory:", "did you mean `memory`?"),
        ("zookeeper://x", "unknown scheme `zookeeper`"),
        ("memory:?tll=5s", "unknown parameter `tll`, did you mean `ttl`?; known: prefix, ttl, wait"),
        ("memory:?ttl=5s&ttl=6s", "given twice"),
        ("memory:?ttl=5", "`ttl=5` is not a time"),
        ("memory:?ttl=1ms", "50 ms to 24 h"),
        ("memory:?wait=soon", "`wait=soon` is not a time"),
        ("memory:?prefix=a%3Ab", "A-Z a-z 0-9"),
    ] {
        let error = connect(url).await.unwrap_err();
        assert!(error.to_string().contains(says), "{url}: {error}");
        assert!(!error.is_retryable(), "{url}");
    }
    for url in ["memory:", "memory:jobs", " memory:?ttl=never&wait=forever ", "memory:?wait=0s&prefix=a&ttl=1m%2030s"] {
        connect(url).await.unwrap_or_else(|e| panic!("{url}: {e}"));
    }
    let one = connect("memory:shared-by-name").await.unwrap();
    let _guard = one.acquire("job").await.unwrap();
    assert!(connect("memory:shared-by-name").await.unwrap().try_acquire("job").await.unwrap().is_none());
    assert!(connect("memory:").await.unwrap().try_acquire("job").await.unwrap().is_some());
    let impatient = connect("memory:shared-by-name?wait=0s").await.unwrap();
    assert!(impatient.acquire("job").await.unwrap_err().is_contended());
}

#[tokio::test]
async fn secrets_in_addresses_are_not_shown() {
    for url in
        ["redis://user:hunter2@localhost/0", "zk://:hunter2@h?password=hunter2", "memory:?hunter=hunter2", "://hunter2"]
    {
        let error = connect(url).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}

#[tokio::test]
async fn schemes_of_third_parties() {
    let make = |address: &mut tasklock::Address| {
        let shards = address.take("shards");
        assert!(!format!("{address} {address:?}").contains("hunter2"));
        async move {
            assert_eq!(shards.as_deref(), Some("4"));
            Ok(builder())
        }
    };
    register_scheme("third-party", make).unwrap();
    drop(connect("third-party://u:hunter2@host/path?shards=4&ttl=5s").await.unwrap().acquire("job").await.unwrap());
    let error = connect("third-party://host?shard=4").await.unwrap_err();
    assert!(error.to_string().contains("did you mean `shards`?"), "{error}");
    for (scheme, says) in [
        ("third-party", "registered already"),
        ("memory", "belongs to tasklock"),
        ("redis", "belongs to tasklock"),
        ("Upper", "lower-case"),
        ("", "lower-case"),
        ("a:b", "lower-case"),
    ] {
        let error = register_scheme(scheme, |_| async { Ok(builder()) }).unwrap_err();
        assert!(error.to_string().contains(says), "{scheme}: {error}");
    }
}

#[tokio::test]
async fn no_locker() {
    assert!(matches!(default_locker(), Err(LockError::NoLocker)));
    let inside = tasklock::scope(builder().build().unwrap(), async { default_locker().is_ok() }).await;
    assert!(inside);
    assert!(default_locker().unwrap_err().to_string().contains("install_default"));
}

#[tokio::test]
async fn blocking_where_a_runtime_runs() {
    let lock = builder().build().unwrap();
    let view = lock.blocking();
    for (error, instead) in [
        (view.acquire("job").map(drop).unwrap_err(), "locker.acquire(key)"),
        (view.try_acquire("job").map(drop).unwrap_err(), "locker.try_acquire(key)"),
        (view.synchronized("job", || ()).unwrap_err(), "locker.synchronized(key, body)"),
        (view.key("job").acquire().map(drop).unwrap_err(), "locker.key(key).acquire()"),
        (view.all(["job"]).unwrap().try_acquire().map(drop).unwrap_err(), "locker.all(keys).try_acquire()"),
        (view.value("job").unwrap().call(async |value| value.get().await).map(drop).unwrap_err(), "locker.value(key)"),
        (blocking::connect("memory:").map(drop).unwrap_err(), "connect(url)"),
        (view.shutdown().map(drop).unwrap_err(), "locker.shutdown()"),
    ] {
        assert!(matches!(error, LockError::WouldBlock { .. }) && error.to_string().contains(instead), "{error}");
    }
}

#[test]
fn permanent_is_explicit() {
    assert_eq!(Ttl::from(Duration::from_secs(1)), Ttl::For(Duration::from_secs(1)));
    assert_eq!(Wait::from(Duration::from_secs(1)), Wait::For(Duration::from_secs(1)));
}
