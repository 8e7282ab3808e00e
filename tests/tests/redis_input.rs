//! Addresses, passwords, certificates: what works, and what is told of what does not.

use std::{env, num::NonZeroU32, process::Command, time::Duration};

use tasklock::{
    AsyncLock, Attempt, Claim, Clock, Intent, Key, LockError, Locker, Mode, Nonce, Owner, RedisConfig, RedisLock,
    Released, Renewed, Request, Ttl, When, connect, connector, from_env,
    redis::{self, Client, Value},
    testing::until_quiet,
};
use tasklock_tests::{
    eventually, logged,
    servers::{RedisServer, RedisSettings, connection_to, free_port},
};

const LONG: Duration = Duration::from_secs(600);

async fn works(lock: &Locker) {
    let guard = lock.acquire("job").await.unwrap();
    assert!(lock.try_acquire("job").await.unwrap().is_none());
    guard.release().await.unwrap();
    lock.ping().await.unwrap();
}

/// The error, which says this and shows no secret.
async fn refused(url: &str, says: &str) -> LockError {
    let error = connect(url).await.unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(shown.contains(says), "{url}: {shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
    error
}

#[tokio::test]
async fn every_kind_of_address_works() {
    let server = RedisServer::with(RedisSettings { tls: true, ..RedisSettings::default() });
    let url = server.url();
    for url in [
        url.clone(),
        format!("{url}/3?timeout=2s&ttl=10s&wait=5s&prefix=p"),
        url.replace("redis://", "valkey://"),
        server.socket_url(),
        format!("{}?db=2", server.socket_url().replace("redis+unix:", "unix:")),
        server.tls_url(),
        server.tls_url().replace("rediss://", "valkeys://"),
    ] {
        works(&connect(&url).await.unwrap_or_else(|e| panic!("{url}: {e}"))).await;
    }
    works(&RedisLock::connect(&url).await.unwrap()).await;
    let own = RedisConfig::from_client(Client::open(url).unwrap()).timeout(Duration::from_secs(1)).unwrap();
    works(&Locker::new(own.connect().await.unwrap()).unwrap()).await;
    let databases: String = server.ask(&["INFO", "keyspace"]).await;
    for db in ["db0", "db2", "db3"] {
        assert!(databases.contains(db), "{databases}");
    }
}

#[tokio::test]
async fn addresses_that_make_no_sense() {
    for (url, says) in [
        ("redis://", "host"),
        ("redis:///0", ""),
        ("redis://:hunter2@h/two", "`two` is not the number of a database"),
        ("redis://h/-1", "number of a database"),
        ("redis://h/0/1", "number of a database"),
        ("redis://h/0#insecure", "after `#`"),
        ("rediss://h/#insecure", "after `#`"),
        ("redis://h?pass=hunter2", "unknown parameter `pass`"),
        ("redis://h?timout=1s", "did you mean `timeout`?"),
        ("redis://h?timeout=1", "`timeout=1` is not a time"),
        ("redis://h?timeout=1ms", "10 ms to 60 s"),
        ("redis://h?timeout=61s", "10 ms to 60 s"),
        ("redis://h?ca=/x.pem", "unknown parameter `ca`"),
        ("rediss://h?ca=/does/not/exist.pem", "cannot read `/does/not/exist.pem`"),
        ("rediss://h?cert=/x.pem", "go together"),
        ("redis+unix://host/socket", "names no socket"),
        ("redis+unix:///socket?db=x", "`x` is not the number of a database"),
        ("unix://:hunter2@/socket", ""),
        ("redis://h:port", ""),
        ("redis:user:hunter2@localhost", ""),
        ("redis:/user:hunter2@localhost", ""),
        ("redis:///:hunter2@localhost", ""),
        ("redis-cluster:user:hunter2@h1,h2", ""),
        ("redis://user:12/hunter2@localhost", "names no database"),
    ] {
        let error = refused(url, says).await;
        assert!(matches!(error, LockError::InvalidUrl(_) | LockError::InvalidOption(_)), "{url}: {error:?}");
        assert!(!error.is_retryable() && !error.is_contended());
    }
    for url in ["redis://h?timeout=1s&timeout=2s", "redis://h?tll=5s", "ftp://h", ":hunter2"] {
        let error = RedisConfig::from_url(url).unwrap_err();
        assert!(matches!(error, LockError::InvalidUrl(_)), "{url}: {error:?}");
        assert!(!error.to_string().contains("hunter2"));
    }
}

#[tokio::test]
async fn passwords() {
    let arguments = ["--requirepass", "hunter2"].map(str::to_owned).to_vec();
    let server = RedisServer::with(RedisSettings { arguments, ..RedisSettings::default() });
    let with = |user: &str| server.url().replace("redis://", &format!("redis://{user}@"));
    let lock = connect(with(":hunter2")).await.unwrap();
    works(&lock).await;
    works(&connect(with("default:hunter2")).await.unwrap()).await;
    works(&connect(format!("{}?pass=hunter2", server.socket_url())).await.unwrap()).await;
    for url in
        [with(":hunter2hunter2"), with("nobody:hunter2"), server.url(), format!("{}?pass=x", server.socket_url())]
    {
        let error = refused(&url, "redis").await;
        assert!(matches!(error, LockError::Backend(_)), "{error:?}");
        assert!(!error.is_retryable(), "another attempt will not help: {error}");
    }
    let config = RedisConfig::from_url(&with(":hunter2")).unwrap();
    let backend = config.clone().connect().await.unwrap();
    let builder = connector(with(":hunter2")).await.unwrap();
    for shown in [format!("{config:?}"), format!("{backend:?}"), format!("{builder:?}"), format!("{lock:?}")] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[tokio::test]
async fn servers_that_are_not_there() {
    let url = {
        let server = RedisServer::start();
        let url = server.url();
        assert!(!refused(&format!("{url}/99"), "no such database").await.is_retryable());
        url
    };
    let error = refused(&url, "cannot be reached").await;
    assert!(error.is_retryable(), "it may come back: {error}");
    assert!(refused("redis+unix:///does/not/exist", "cannot be reached").await.is_retryable());
    assert!(refused("redis://no-such-host.invalid", "no-such-host.invalid").await.is_retryable());
    let server = RedisServer::start();
    server.pause();
    assert!(refused(&format!("{}?timeout=100ms", server.url()), "cannot be reached").await.is_retryable());
}

#[tokio::test]
async fn certificates() {
    let server = RedisServer::with(RedisSettings { tls: true, ..RedisSettings::default() });
    works(&connect(server.tls_url()).await.unwrap()).await;
    let wrong_name = server.tls_url().replace("localhost", "127.0.0.1");
    let without_ca = server.tls_url().split('?').next().unwrap().to_owned();
    for url in [wrong_name, without_ca] {
        let error = refused(&url, "ertificate").await;
        assert!(matches!(error, LockError::Backend(_)) && !error.is_retryable(), "{error:?}");
    }
    // Plain words to a port that wants TLS, and the other way round.
    let tls_port = server.tls_url().replace("rediss", "redis").split('?').next().unwrap().to_owned();
    let plain_port = server.url().replace("redis://127.0.0.1", "rediss://localhost");
    for url in [tls_port, plain_port] {
        assert!(matches!(refused(&url, "redis").await, LockError::Backend(_)));
    }
}

/// Something else is kept where a lock should be.
#[tokio::test]
async fn keys_that_are_something_else() {
    let server = RedisServer::start();
    let lock = connect(server.url()).await.unwrap();
    for part in ["owner", "fence", "leases"] {
        let _: Value = server.ask(&["LPUSH", &format!("{{tasklock:{part}}}:1:{part}"), "x"]).await;
    }
    for part in ["owner", "fence"] {
        let error = lock.try_acquire(part).await.unwrap_err();
        assert!(error.to_string().contains("something else than a lock"), "{error}");
        assert!(!error.is_retryable() && !error.is_contended());
        assert!(lock.acquire(part).await.is_err(), "it does not wait for ever");
    }
    assert!(lock.acquire("leases").await.is_err());
    // What only those need who wait, or share it.
    let other = connect(server.url()).await.unwrap();
    for (part, shared) in [("queue", false), ("names", false), ("holders", true), ("records", true)] {
        let at = format!("{{tasklock:{part}}}:1:{part}");
        let key = if shared { lock.key(part).shared() } else { lock.key(part) };
        let held = key.acquire().await.unwrap();
        let _: Value = server.ask(&["DEL", &at]).await;
        let _: Value = server.ask(&["LPUSH", &at, "x"]).await;
        let error = other.key(part).wait(Duration::from_secs(30)).acquire().await.unwrap_err();
        assert!(matches!(error, LockError::Backend(_)) && !error.is_retryable(), "{part}: {error:?}");
        let _: Value = server.ask(&["DEL", &at]).await;
        drop(held);
        until_quiet(&lock).await;
        until_quiet(&other).await;
        let left: Vec<_> = server.keys().await.into_iter().filter(|(name, _)| name.contains(part)).collect();
        assert!(left.iter().all(|(_, ttl)| *ttl > 0), "{left:?}");
    }
    works(&lock).await;
    // A text that is no record is held by nobody known; it is not taken over, and can be broken.
    let _: Value = server.ask(&["SET", "{tasklock:text}:1:owner", "something"]).await;
    assert!(lock.try_acquire("text").await.unwrap().is_none());
    assert!(!lock.inspect("text").await.unwrap().is_free());
    assert!(lock.break_lock("text").await.unwrap());
    assert!(lock.try_acquire("text").await.unwrap().is_some());
}

#[tokio::test]
async fn a_full_server_says_so() {
    let arguments = ["--maxmemory", "1gb"].map(str::to_owned).to_vec();
    let server = RedisServer::with(RedisSettings { arguments, ..RedisSettings::default() });
    let lock = connect(server.url()).await.unwrap();
    let _: Value = server.ask(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = lock.try_acquire("job").await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("OOM"), "{error}");
    let _: Value = server.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
    works(&lock).await;
}

/// It has room for nothing more, but for what makes room, and for what is there to last.
#[tokio::test]
async fn a_full_server_takes_back_what_it_gave() {
    let server = RedisServer::start();
    let store = RedisConfig::from_url(&server.url()).unwrap().connect().await.unwrap();
    let limit = async |bytes| server.ask::<Value>(&["CONFIG", "SET", "maxmemory", bytes]).await;
    let licences = connect(server.url()).await.unwrap().pool("licences").unwrap();
    licences.extend(["CAD-1"]).await.unwrap();
    let pool = licences.acquire().await.unwrap().key().clone();
    let (of, eventually_free) = (NonZeroU32::MIN, async || licences.health().await.unwrap().free == 1);
    eventually("the licence is given back", eventually_free).await;
    for mode in [Mode::Exclusive, Mode::Shared, Mode::Permit { of }, Mode::Member] {
        for unsettled in [false, true] {
            let request = |ttl| {
                let (owner, now) = (Owner::named("test"), Clock::current().now());
                let key = if mode == Mode::Member { pool.clone() } else { Key::new("job").unwrap() };
                let mut request = Request::new(key, Nonce::fresh(), ttl, Intent::Try, owner, now);
                request.mode = mode;
                request
            };
            let (held, stranger) = (request(Ttl::For(LONG)), request(Ttl::For(LONG)));
            assert!(matches!(store.try_acquire(&held).await, Ok(Attempt::Granted(_))));
            limit("1").await;
            // As a pushed grant is confirmed: a lease of another length.
            let mut longer = Claim::of(&held);
            longer.unsettled = unsettled;
            for ttl in [Ttl::Never, Ttl::Never, Ttl::For(LONG * 2)] {
                longer.ttl = ttl;
                let renewed = store.renew(std::slice::from_ref(&longer)).await;
                assert!(matches!(renewed[..], [Ok(Renewed::Held { .. })]), "{mode:?}, {ttl:?}: {renewed:?}");
            }
            let released = store.release(&longer).await;
            assert!(matches!(released, Ok(Released::Released)), "{mode:?}, {unsettled}: {released:?}");
            let mut nothing = Claim::of(&stranger);
            nothing.unsettled = unsettled;
            let withdrawn = store.release(&nothing).await;
            assert!(matches!(withdrawn, Ok(Released::NotOwner)), "{mode:?}, {unsettled}: {withdrawn:?}");
            limit("0").await;
        }
    }
}

#[tokio::test]
async fn a_server_that_may_drop_locks_is_warned_about() {
    for (policy, limit, warnings) in
        [("allkeys-lru", "1gb", 1), ("volatile-ttl", "1gb", 1), ("noeviction", "1gb", 0), ("allkeys-lru", "0", 0)]
    {
        let arguments = ["--maxmemory", limit, "--maxmemory-policy", policy].map(str::to_owned).to_vec();
        let server = RedisServer::with(RedisSettings { arguments, ..RedisSettings::default() });
        let (seen, _gathering) = logged();
        works(&connect(server.url()).await.unwrap()).await;
        assert_eq!(seen.count("maxmemory-policy"), warnings, "{policy} {limit}: {:?}", seen.lines());
    }
}

/// Without the right to listen there is no waiting, and it is said at once; without the right to publish there is.
#[tokio::test]
async fn rights() {
    let server = RedisServer::start();
    for (user, rights) in [("deaf", "-subscribe"), ("mute", "-publish")] {
        let words = ["ACL", "SETUSER", user, "on", ">hunter2", "~*", "&*", "+@all", rights];
        let _: Value = server.ask(&words).await;
    }
    let with = |user: &str| server.url().replace("redis://", &format!("redis://{user}:hunter2@"));
    assert!(!refused(&with("deaf"), "'subscribe'").await.is_retryable());
    works(&connect(with("mute")).await.unwrap()).await;
}

/// Whoever sets up a user by the guide has all there is.
#[tokio::test]
async fn the_rights_that_the_guide_names_are_enough() {
    let server = RedisServer::start();
    let guide = include_str!("../../docs/redis.md");
    let rights = guide.lines().find(|line| line.starts_with("ACL SETUSER")).expect("the command");
    let _: Value = server.ask(&rights.split(' ').collect::<Vec<_>>()).await;
    let url = server.url().replace("redis://", "redis://locks:secret@");
    let (lock, other) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
    works(&lock).await;
    for key in [lock.key("job").ttl(Ttl::Never), lock.key("job").shared(), lock.key("job").permits(1)] {
        let held = key.acquire().await.unwrap();
        held.extend(Duration::from_secs(20)).await.unwrap();
        held.update("half", Ttl::Never).await.unwrap();
        let waiter = tokio::spawn({
            let other = other.clone();
            async move { other.key("job").permits(1).acquire().await.unwrap() }
        });
        eventually("it waits", async || lock.inspect("job").await.unwrap().waiters == Some(1)).await;
        held.release().await.unwrap();
        let next = waiter.await.unwrap();
        assert!(lock.break_lock("job").await.unwrap());
        drop(next);
    }
    let value = lock.value("job").unwrap();
    assert!(value.set_if(When::Equal("half".to_owned()), "7", Duration::from_secs(5)).await.unwrap());
    assert_eq!(value.get().await.unwrap().as_deref(), Some("7"));
    assert!(value.delete_if(When::AtLeast(7)).await.unwrap());
    lock.all(["a", "b"]).unwrap().acquire().await.unwrap().release().await.unwrap();
    assert_eq!(lock.who(["a", "b"]).await.unwrap().len(), 2);
    // Nothing but locks.
    let mut stray = connection_to(&url).await;
    let refused: Result<Value, _> = redis::cmd("SET").arg("other").arg("1").query_async(&mut stray).await;
    assert!(refused.is_err());
}

/// A connection of the caller's own carries the commands, until it ends; then there is another.
#[tokio::test]
async fn an_own_connection_works_and_is_replaced() {
    let server = RedisServer::start();
    let client = Client::open(server.url()).unwrap();
    let mut own = server.connection().await;
    let name: Value = redis::cmd("CLIENT").arg("SETNAME").arg("own").query_async(&mut own).await.unwrap();
    assert_eq!(name, Value::Okay);
    let id: i64 = redis::cmd("CLIENT").arg("ID").query_async(&mut own).await.unwrap();
    let config = RedisConfig::from_connection(client, own.clone());
    assert_eq!(config.parameters(), ["timeout"]);
    let lock = Locker::new(config.connect().await.unwrap()).unwrap();
    works(&lock).await;
    let clients: String = server.ask(&["CLIENT", "LIST", "ID", &id.to_string()]).await;
    assert!(clients.contains("cmd=ping"), "what was asked last was asked on it: {clients}");
    // A waiter is told on the other one, and after the end of this one by those that took their places.
    let there = connect(server.url()).await.unwrap();
    for _ in 0..2 {
        let held = there.acquire("job").await.unwrap();
        let waiter = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire("job").await.unwrap().release().await.unwrap() }
        });
        eventually("it waits", async || there.inspect("job").await.unwrap().waiters == Some(1)).await;
        let _: i64 = server.ask(&["CLIENT", "KILL", "ID", &id.to_string()]).await;
        held.release().await.unwrap();
        waiter.await.unwrap();
    }
    works(&lock).await;
}

/// A node of a cluster refuses what another one keeps; as one server it is of no use, and asking again does not help.
#[tokio::test]
async fn a_node_of_a_cluster_is_no_single_server() {
    let node = || {
        let bus = free_port().to_string();
        let arguments = ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no", "--cluster-port", &bus];
        let arguments = arguments.map(str::to_owned).to_vec();
        (RedisServer::with(RedisSettings { arguments, ..RedisSettings::default() }), bus)
    };
    let ((here, _), (there, bus)) = (node(), node());
    let _: Value = there.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    let _: Value = here.ask(&["CLUSTER", "MEET", "127.0.0.1", &there.port().to_string(), &bus]).await;
    eventually("the other one has the slots", async || {
        let nodes: String = here.ask(&["CLUSTER", "NODES"]).await;
        let info: String = here.ask(&["CLUSTER", "INFO"]).await;
        nodes.contains("0-16383") && info.contains("cluster_state:ok")
    })
    .await;
    let lock = connect(here.url()).await.unwrap();
    for error in [lock.acquire("job").await.unwrap_err(), lock.try_acquire("job").await.unwrap_err()] {
        assert!(matches!(error, LockError::Backend(_)) && !error.is_retryable() && !error.is_contended(), "{error:?}");
        let shown = error.to_string();
        assert!(shown.contains("MOVED") && shown.contains("node of a cluster"), "{shown}");
    }
    // The node that has all of it is as good as a single server.
    works(&connect(there.url()).await.unwrap()).await;
}

/// What is logged while a password is no longer taken does not show it.
#[tokio::test]
async fn no_secret_is_logged() {
    let arguments = ["--requirepass", "hunter2"].map(str::to_owned).to_vec();
    let server = RedisServer::with(RedisSettings { arguments, ..RedisSettings::default() });
    let (seen, _gathering) = logged();
    let lock = connect(server.url().replace("redis://", "redis://:hunter2@")).await.unwrap();
    works(&lock).await;
    let mut own = connection_to(&server.url().replace("redis://", "redis://:hunter2@")).await;
    for words in [
        &["CONFIG", "SET", "requirepass", "other"][..],
        &["CLIENT", "KILL", "TYPE", "normal"],
        &["CLIENT", "KILL", "TYPE", "pubsub"],
    ] {
        let _: Value = redis::cmd(words[0]).arg(&words[1..]).query_async(&mut own).await.unwrap();
    }
    eventually("it is refused", async || lock.try_acquire("job").await.is_err()).await;
    eventually("it is told", async || seen.count("connect") > 0).await;
    assert_eq!(seen.count("hunter2"), 0, "{:?}", seen.lines());
}

/// Runs itself again, with the environment set.
#[test]
fn the_environment_names_a_server() {
    if env::var_os("TASKLOCK_TESTS_CHILD").is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (seen, _gathering) = logged();
        runtime.block_on(async {
            let lock = from_env().await.unwrap();
            let held = lock.acquire("job").await.unwrap();
            assert!(held.remaining() > Duration::from_secs(50) && held.remaining() <= Duration::from_secs(60));
            let error = lock.acquire("job").await.unwrap_err();
            assert!(matches!(error, LockError::Timeout { .. }), "{error}");
            assert!(seen.count("Acquired {") > 0, "IS_DEBUG changes nothing: {:?}", seen.lines());
        });
        return;
    }
    let arguments = ["--requirepass", "hunter2"].map(str::to_owned).to_vec();
    let server = RedisServer::with(RedisSettings { arguments, ..RedisSettings::default() });
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "the_environment_names_a_server"]).env_remove("TASKLOCK_URL");
    child.env("TASKLOCK_TESTS_CHILD", "1").env("IS_DEBUG", "true");
    child.env("REDIS_HOST", "127.0.0.1").env("REDIS_PORT", server.port().to_string());
    child.env("REDIS_DB", "1").env("REDIS_PASSWORD", "hunter2");
    child.env("DEFAULT_TIMEOUT_SEC", "0.2").env("DEFAULT_LOCK_DURATION_SEC", "60");
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("1 passed"), "{text}");
}
