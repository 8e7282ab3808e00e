//! Who is the master, by the word of the sentinels that watch it.
//!
//! They are all asked at once, and a majority's answers are awaited: of masters named, the one of the highest epoch is the
//! latest. So neither a sentinel that hangs nor one that was cut off and has an old view is believed while others know
//! better. Then the server itself is asked whether it is one. As long as it is used, they tell when there is another.

use std::{sync::Arc, time::Duration};

use redis::{Client, Value, aio::MultiplexedConnection};
use tasklock_core::{BackendError, StepResult};
use tokio::{sync::Notify, task::JoinSet};

use crate::{config::RedisConfig, link::Server};

/// The longest that a sentinel is waited for, if the majority does not answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Where they tell of a new master: `service old-host old-port new-host new-port`.
const SWITCHED: &str = "+switch-master";

/// The sentinels of a master.
#[derive(Clone, Debug)]
pub(crate) struct Sentinel {
    pub(crate) sentinels: Vec<Server>,
    /// What they call it.
    pub(crate) service: String,
    /// How it is talked to, wherever it is.
    pub(crate) config: RedisConfig,
}

impl Sentinel {
    /// The master, as things stand.
    pub(crate) async fn master(&self) -> StepResult<Client> {
        let mut questions = JoinSet::new();
        for sentinel in self.sentinels.clone() {
            let service = self.service.clone();
            questions.spawn(async move { named_by(&sentinel, &service).await });
        }
        let (mut named, mut error): (Vec<(u64, String)>, Option<BackendError>) = (Vec::new(), None);
        while let Some(answer) = questions.join_next().await {
            match answer.unwrap_or_else(|panic| Err(BackendError::transient(format!("redis: {panic}")))) {
                Ok(master) => named.push(master),
                // One that may know better another time outweighs those that know nothing.
                Err(failed) => error = error.filter(BackendError::is_retryable).or(Some(failed)),
            }
            if named.len() > self.sentinels.len() / 2 {
                break;
            }
        }
        match named.into_iter().max() {
            Some((_, address)) => self.config.client_at(&address),
            None => Err(error.unwrap_or_else(|| BackendError::transient("redis: no sentinel answers"))),
        }
    }

    /// Connections on which those sentinels that answer tell when there is another master: one that stood still takes
    /// itself for the master when it goes on, and so would who stayed with it.
    pub(crate) async fn watch(&self, switched: &Arc<Notify>) -> Vec<MultiplexedConnection> {
        let mut watchers = JoinSet::new();
        for sentinel in self.sentinels.clone() {
            let (switched, service) = (switched.clone(), format!("{} ", self.service));
            watchers.spawn(async move {
                let told = move |message: &str| {
                    if message.starts_with(&service) {
                        switched.notify_one();
                    }
                };
                let watcher = sentinel.listen(SWITCHED, told);
                tokio::time::timeout(PATIENCE.min(sentinel.timeout) / 2, watcher).await.ok()?.ok()
            });
        }
        let mut connections = Vec::new();
        while let Some(watcher) = watchers.join_next().await {
            connections.extend(watcher.ok().flatten());
        }
        connections
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

/// The epoch and the address of the master, as this sentinel knows them.
async fn named_by(sentinel: &Server, service: &str) -> StepResult<(u64, String)> {
    let asked = |what: &str| {
        let mut command = redis::cmd("SENTINEL");
        command.arg(what).arg(service);
        command
    };
    let at = &sentinel.address;
    // The first knows of a new master before the failover is over, the second of its epoch.
    let questions = [asked("GET-MASTER-ADDR-BY-NAME"), asked("MASTER")];
    let answers = tokio::time::timeout(PATIENCE.min(sentinel.timeout), sentinel.ask(&questions)).await;
    let answers = answers.unwrap_or_else(|_| Err(BackendError::transient(format!("redis: sentinel {at} is silent"))));
    let answers = answers.map_err(|error| match error.to_string() {
        says if says.contains("No such master") => {
            BackendError::fatal(format!("redis: sentinel {at} watches no master called `{service}`"))
        }
        _ => error,
    })?;
    let odd = || BackendError::transient(format!("redis: sentinel {at} does not tell where `{service}` is"));
    let [Value::Array(address), details] = answers.as_slice() else { return Err(odd()) };
    let [host, port] = address.as_slice() else { return Err(odd()) };
    let (Some(host), Some(port)) = (text(host), text(port)) else { return Err(odd()) };
    let epoch = field(details, "config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    Ok((epoch, format!("{host}:{port}")))
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
