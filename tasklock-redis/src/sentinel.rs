//! Who is the master, by the word of the sentinels that watch it.
//!
//! They are all asked at once, and a majority's answers are awaited: of masters named, the one of the highest epoch is the
//! latest. So neither a sentinel that hangs nor one that was cut off and has an old view is believed while others know
//! better. Then the server itself is asked whether it is one. As long as it is used, each of them is listened to, and asked
//! again now and then: what it said while nobody listened is not said twice.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{Client, Cmd, Value, aio::MultiplexedConnection};
use tasklock_core::{BackendError, StepResult};
use tokio::{sync::Notify, task::JoinSet};

use crate::{
    config::RedisConfig,
    server::{Server, answers},
    session::HEARTBEAT,
};

/// The longest that a sentinel is waited for, if the majority does not answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Where they tell of a new master: `service old-host old-port new-host new-port`.
const SWITCHED: &str = "+switch-master";
/// Between two attempts to listen to one that is not there.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The sentinels of a master.
#[derive(Debug)]
pub(crate) struct Sentinel {
    sentinels: Vec<Server>,
    /// What they call it.
    service: String,
    /// How it is talked to, wherever it is.
    config: RedisConfig,
    /// The highest epoch that any of them has told of.
    latest: AtomicU64,
}

/// A master, as a sentinel knows it. The greatest is the latest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Master {
    epoch: u64,
    host: String,
    port: String,
}

impl Sentinel {
    pub(crate) fn new(sentinels: Vec<Server>, service: String, config: RedisConfig) -> Self {
        Sentinel { sentinels, service, config, latest: AtomicU64::new(0) }
    }

    /// The master, as things stand.
    pub(crate) async fn master(&self) -> StepResult<Master> {
        let mut questions = JoinSet::new();
        for sentinel in self.sentinels.clone() {
            let service = self.service.clone();
            questions.spawn(async move { named_by(&sentinel, &service).await });
        }
        let (mut named, mut error): (Vec<Master>, Option<BackendError>) = (Vec::new(), None);
        while let Some(answer) = questions.join_next().await {
            match answer.unwrap_or_else(|panic| Err(BackendError::transient(format!("redis: {panic}")))) {
                Ok(master) => named.push(master),
                // One that may know better another time outweighs those that know nothing.
                Err(failed) => error = error.filter(BackendError::is_retryable).or(Some(failed)),
            }
            // A majority that has yet to hear of the latest would lead back to the one that was left for it.
            let latest = named.iter().map(|master| self.noted(master)).max();
            if named.len() > self.sentinels.len() / 2 && latest >= Some(self.latest.load(Ordering::Relaxed)) {
                break;
            }
        }
        let unknown = || error.unwrap_or_else(|| BackendError::transient("redis: no sentinel answers"));
        named.into_iter().max().ok_or_else(unknown)
    }

    /// How to connect to it.
    pub(crate) fn client(&self, master: &Master) -> StepResult<Client> {
        self.config.client_at(&format!("{}:{}", master.host, master.port))
    }

    /// Tells when any of them knows of a later master than this one, as long as the tasks are kept: one that stood still
    /// takes itself for the master when it goes on, and so would who stayed with it.
    pub(crate) fn watch(self: &Arc<Self>, master: &Master, switched: &Arc<Notify>) -> JoinSet<()> {
        let mut watchers = JoinSet::new();
        for sentinel in self.sentinels.clone() {
            watchers.spawn(self.clone().watch_by(sentinel, master.clone(), switched.clone()));
        }
        watchers
    }

    async fn watch_by(self: Arc<Self>, sentinel: Server, master: Master, switched: Arc<Notify>) {
        let mut pause = PAUSES.0;
        loop {
            let began = Instant::now();
            let Err(why) = self.listen(&sentinel, &master, &switched).await;
            let at = &sentinel.address;
            tracing::debug!(target: "tasklock", backend = "redis", address = at, "sentinel not listened to: {why}");
            if began.elapsed() > HEARTBEAT {
                pause = PAUSES.0;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Until it is no longer there. It is asked after it is listened to, so that nothing is missed in between; and again
    /// now and then, which tells whether it is there, too.
    async fn listen(&self, sentinel: &Server, master: &Master, switched: &Arc<Notify>) -> StepResult<Infallible> {
        let ended = Arc::new(Notify::new());
        let told = {
            let (switched, ended) = (switched.clone(), ended.clone());
            let (service, known) = (format!("{} ", self.service), format!(" {} {}", master.host, master.port));
            move |message: Option<&str>| match message {
                Some(message) if message.starts_with(&service) && !message.ends_with(&known) => switched.notify_one(),
                Some(_) => {}
                None => ended.notify_one(),
            }
        };
        let mut connection = sentinel.listen(SWITCHED, told).await?;
        let (questions, at) = (questions(&self.service), &sentinel.address);
        loop {
            let named = named_in(answers(&mut connection, &questions).await, at, &self.service)?;
            if self.noted(&named) > master.epoch && (&named.host, &named.port) != (&master.host, &master.port) {
                switched.notify_one();
            }
            let _ = tokio::time::timeout(HEARTBEAT, ended.notified()).await;
        }
    }

    fn noted(&self, named: &Master) -> u64 {
        self.latest.fetch_max(named.epoch, Ordering::Relaxed);
        named.epoch
    }

    /// Whether this is one, by its own word: a failover takes the sentinels a while.
    pub(crate) async fn confirm(&self, server: &mut MultiplexedConnection) -> StepResult<()> {
        let role = redis::cmd("ROLE").query_async::<Value>(server).await.map_err(crate::error::failed)?;
        let Value::Array(parts) = role else { return Ok(()) };
        match parts.first().and_then(text).as_deref() {
            Some("master") => Ok(()),
            role => {
                let (service, role) = (&self.service, role.unwrap_or("nothing known"));
                Err(BackendError::transient(format!("redis: the server named as the master `{service}` is {role}")))
            }
        }
    }
}

/// The master, as this sentinel knows it.
async fn named_by(sentinel: &Server, service: &str) -> StepResult<Master> {
    let at = &sentinel.address;
    let answers = tokio::time::timeout(PATIENCE.min(sentinel.timeout), sentinel.ask(&questions(service))).await;
    let silent = |_| Err(BackendError::transient(format!("redis: sentinel {at} is silent")));
    named_in(answers.unwrap_or_else(silent), at, service)
}

/// The first tells of the epoch, the second knows of a new master before the failover is over. In this order: an epoch that
/// is later than the master named with it would outweigh those who name the later one.
fn questions(service: &str) -> [Cmd; 2] {
    ["MASTER", "GET-MASTER-ADDR-BY-NAME"].map(|what| {
        let mut command = redis::cmd("SENTINEL");
        command.arg(what).arg(service);
        command
    })
}

fn named_in(answers: StepResult<Vec<Value>>, at: &str, service: &str) -> StepResult<Master> {
    let answers = answers.map_err(|error| match error.to_string() {
        says if says.contains("No such master") => {
            BackendError::fatal(format!("redis: sentinel {at} watches no master called `{service}`"))
        }
        _ => error,
    })?;
    let odd = || BackendError::transient(format!("redis: sentinel {at} does not tell where `{service}` is"));
    let [details, Value::Array(address)] = answers.as_slice() else { return Err(odd()) };
    let [host, port] = address.as_slice() else { return Err(odd()) };
    let (Some(host), Some(port)) = (text(host), text(port)) else { return Err(odd()) };
    let epoch = field(details, "config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    Ok(Master { epoch, host, port })
}

/// One of the fields that are told as a map, or flat.
fn field(details: &Value, name: &str) -> Option<String> {
    let is_it = |value: &Value| text(value).is_some_and(|text| text == name);
    match details {
        Value::Map(pairs) => pairs.iter().find(|(name, _)| is_it(name)).and_then(|(_, value)| text(value)),
        Value::Array(flat) => flat.chunks_exact(2).find(|pair| is_it(&pair[0])).and_then(|pair| text(&pair[1])),
        _ => None,
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}
