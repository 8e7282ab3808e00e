//! What locks in Redis, each used the way its documentation shows.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use distributed_lock_core::traits::{DistributedLock as _, LockHandle as _, LockProvider as _};
use distributed_lock_redis::RedisLockProvider;
use rslock::LockManager;
use tasklock::{
    BoxFuture, Fairness, Locker, Nonce, ReleaseMode,
    redis::{
        self, AsyncConnectionConfig, Client, IntoConnectionInfo as _, Script, aio::MultiplexedConnection,
        io::tcp::TcpSettings,
    },
};
use tokio::time::sleep;

use crate::subject::{Failure, KEYS};

const TTL: Duration = Duration::from_secs(30);

/// Every subject, in the order of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// No lock at all: a GET, the measure for the others.
    RoundTrip,
    Raw,
    Backoff,
    Rslock,
    DistributedLock,
    Tasklock,
    /// Each task in the queue of the server.
    Strict,
    Background,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::RoundTrip,
        Self::Raw,
        Self::Backoff,
        Self::Rslock,
        Self::DistributedLock,
        Self::Tasklock,
        Self::Strict,
        Self::Background,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RoundTrip => "one round trip (GET)",
            Self::Raw => "raw SET NX PX + script",
            Self::Backoff => "raw with backoff",
            Self::Rslock => "rslock",
            Self::DistributedLock => "distributed-lock-redis",
            Self::Tasklock => "tasklock",
            Self::Strict => "tasklock, strict order",
            Self::Background => "tasklock, synchronized, background release",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it waits for a lock that is held.
    pub(crate) fn waits(self) -> bool {
        !matches!(self, Self::RoundTrip | Self::Raw | Self::DistributedLock)
    }

    /// Whether it sends its SET itself; that of the others is within a script.
    pub(crate) fn sets(self) -> bool {
        !matches!(self, Self::Tasklock | Self::Strict | Self::Background)
    }

    pub(crate) async fn connect(self, url: &str) -> Result<Box<dyn Peer>, Failure> {
        Ok(match self {
            Self::RoundTrip => Box::new(Shared(Arc::new(RoundTrip(connection(url).await?)))),
            Self::Raw => Box::new(Shared(Arc::new(Raw { connection: connection(url).await?, kind: self }))),
            Self::Backoff => Box::new(Shared(Arc::new(Raw { connection: connection(url).await?, kind: self }))),
            Self::Rslock => Box::new(Shared(Arc::new(Rslock(LockManager::from_clients(vec![client(url)?]))))),
            Self::DistributedLock => {
                let provider = RedisLockProvider::new(url).await.map_err(|e| e.to_string())?;
                Box::new(Shared(Arc::new(Distributed(provider))))
            }
            Self::Tasklock => Box::new(Shared(Arc::new(Guards { locker: tasklock::connect(url).await?, kind: self }))),
            Self::Strict => {
                let locker = tasklock::connector(url).await?.fairness(Fairness::Strict).build()?;
                Box::new(Shared(Arc::new(Guards { locker, kind: self })))
            }
            Self::Background => {
                let locker = tasklock::connector(url).await?.release_mode(ReleaseMode::Background).build()?;
                Box::new(Shared(Arc::new(Bodies(locker))))
            }
        })
    }
}

/// When a cycle asked, held and began to release: nanoseconds of the wall clock, which processes share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) asked: u64,
    pub(crate) held: u64,
    pub(crate) released: u64,
}

/// Something that locks, erased: what that costs is nothing beside a round trip.
pub(crate) trait Peer: Send {
    fn kind(&self) -> Kind;

    fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// Locks the key of this slot, holds it for so long, and unlocks it.
    fn cycle(&self, slot: usize, hold: Duration) -> BoxFuture<'_, Result<Times, Failure>>;

    /// The same one, for another task.
    fn share(&self) -> Box<dyn Peer>;
}

/// One connection, or whatever the crate makes of it, shared by all tasks of a process.
struct Shared<S>(Arc<S>);

trait Subject: Send + Sync + 'static {
    fn kind(&self) -> Kind;
    fn cycle(&self, key: &str, hold: Duration) -> impl Future<Output = Result<Times, Failure>> + Send;
}

impl<S: Subject> Peer for Shared<S> {
    fn kind(&self) -> Kind {
        self.0.kind()
    }

    fn cycle(&self, slot: usize, hold: Duration) -> BoxFuture<'_, Result<Times, Failure>> {
        static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| (0..KEYS).map(|slot| format!("team:{slot}")).collect());
        Box::pin(self.0.cycle(&NAMES[slot], hold))
    }

    fn share(&self) -> Box<dyn Peer> {
        Box::new(Shared(self.0.clone()))
    }
}

struct RoundTrip(MultiplexedConnection);

impl Subject for RoundTrip {
    fn kind(&self) -> Kind {
        Kind::RoundTrip
    }

    async fn cycle(&self, key: &str, _: Duration) -> Result<Times, Failure> {
        let asked = now();
        let _: Option<String> = redis::cmd("GET").arg(key).query_async(&mut self.0.clone()).await?;
        Ok(Times { asked, held: now(), released: now() })
    }
}

static UNLOCK: LazyLock<Script> = LazyLock::new(|| {
    Script::new("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end")
});

/// What everybody writes first.
struct Raw {
    connection: MultiplexedConnection,
    kind: Kind,
}

impl Subject for Raw {
    fn kind(&self) -> Kind {
        self.kind
    }

    async fn cycle(&self, key: &str, hold: Duration) -> Result<Times, Failure> {
        let mut connection = self.connection.clone();
        let (asked, value, mut pause) = (now(), Nonce::fresh().to_string(), Duration::from_millis(1));
        loop {
            let mut set = redis::cmd("SET");
            set.arg(key).arg(&value).arg("NX").arg("PX").arg(TTL.as_millis() as u64);
            if set.query_async::<Option<String>>(&mut connection).await?.is_some() {
                break;
            }
            if self.kind == Kind::Raw {
                return Err("held by somebody else".into());
            }
            let random = (Nonce::fresh().as_u128() % 1024) as u32;
            sleep(pause / 2 + pause / 2 * random / 1024).await;
            pause = (pause * 2).min(Duration::from_millis(128));
        }
        let held = now();
        held_for(hold).await;
        let released = now();
        UNLOCK.key(key).arg(&value).invoke_async::<i64>(&mut connection).await?;
        Ok(Times { asked, held, released })
    }
}

struct Rslock(LockManager);

impl Subject for Rslock {
    fn kind(&self) -> Kind {
        Kind::Rslock
    }

    async fn cycle(&self, key: &str, hold: Duration) -> Result<Times, Failure> {
        let asked = now();
        let guard = self.0.acquire(key, TTL).await?;
        let held = now();
        held_for(hold).await;
        let released = now();
        guard.release().await;
        Ok(Times { asked, held, released })
    }
}

struct Distributed(RedisLockProvider);

impl Subject for Distributed {
    fn kind(&self) -> Kind {
        Kind::DistributedLock
    }

    async fn cycle(&self, key: &str, hold: Duration) -> Result<Times, Failure> {
        let asked = now();
        let lock = self.0.create_lock(key);
        let handle = lock.acquire(None).await.map_err(|e| e.to_string())?;
        let held = now();
        held_for(hold).await;
        let released = now();
        handle.release().await.map_err(|e| e.to_string())?;
        Ok(Times { asked, held, released })
    }
}

struct Guards {
    locker: Locker,
    kind: Kind,
}

impl Subject for Guards {
    fn kind(&self) -> Kind {
        self.kind
    }

    async fn cycle(&self, key: &str, hold: Duration) -> Result<Times, Failure> {
        let asked = now();
        let guard = self.locker.acquire(key).await?;
        let held = now();
        held_for(hold).await;
        let released = now();
        guard.release().await?;
        Ok(Times { asked, held, released })
    }
}

struct Bodies(Locker);

impl Subject for Bodies {
    fn kind(&self) -> Kind {
        Kind::Background
    }

    async fn cycle(&self, key: &str, hold: Duration) -> Result<Times, Failure> {
        let asked = now();
        let body = async {
            let held = now();
            held_for(hold).await;
            (held, now())
        };
        let (held, released) = self.0.synchronized(key, body).await?;
        Ok(Times { asked, held, released })
    }
}

async fn held_for(hold: Duration) {
    if !hold.is_zero() {
        sleep(hold).await;
    }
}

/// A client that does not hold small requests back: the crate's default does.
fn client(url: &str) -> Result<Client, Failure> {
    Ok(Client::open(url.into_connection_info()?.set_tcp_settings(TcpSettings::default().set_nodelay(true)))?)
}

/// One that waits for a slow machine: the crate gives up after half a second.
async fn connection(url: &str) -> Result<MultiplexedConnection, Failure> {
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));
    let config = AsyncConnectionConfig::new().set_connection_timeout(PATIENCE).set_response_timeout(PATIENCE);
    Ok(client(url)?.get_multiplexed_async_connection_with_config(&config).await?)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
