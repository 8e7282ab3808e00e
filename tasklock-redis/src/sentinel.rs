//! Who is the master, by the word of the sentinels that watch it.
//!
//! They are all asked at once, and a majority's answers are awaited: of masters named, the one of the highest epoch is the
//! latest. So neither a sentinel that hangs nor one that was cut off and has an old view is believed while others know
//! better. Then the server itself is asked whether it is one.

use std::{collections::BTreeMap, time::Duration};

use redis::{Client, Value, aio::MultiplexedConnection};
use tasklock_core::{BackendError, StepResult};
use tokio::task::JoinSet;

use crate::{config::RedisConfig, link::Server};

/// The longest that a sentinel is waited for, if the majority does not answer.
const PATIENCE: Duration = Duration::from_secs(1);

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
        let (mut named, mut error): (Vec<(u64, String)>, _) = (Vec::new(), None);
        while let Some(answer) = questions.join_next().await {
            match answer {
                Ok(Ok(master)) => named.push(master),
                Ok(Err(failed)) => error = Some(failed),
                Err(panic) => error = Some(BackendError::transient(format!("redis: {panic}"))),
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
    let mut command = redis::cmd("SENTINEL");
    command.arg("MASTER").arg(service);
    let at = &sentinel.address;
    let answer = tokio::time::timeout(PATIENCE, sentinel.ask(&command)).await;
    let answer = answer.unwrap_or_else(|_| Err(BackendError::transient(format!("redis: sentinel {at} is silent"))));
    let fields = answer.map_err(|error| match error.to_string() {
        // Another sentinel may have heard of it.
        says if says.contains("No such master") => {
            BackendError::fatal(format!("redis: sentinel {at} watches no master called `{service}`"))
        }
        _ => error,
    })?;
    let fields = fields_of(fields);
    let field = |name: &str| fields.get(name).map(String::as_str);
    let (Some(host), Some(port)) = (field("ip"), field("port")) else {
        return Err(BackendError::transient(format!("redis: sentinel {at} does not tell where `{service}` is")));
    };
    let epoch = field("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    Ok((epoch, format!("{host}:{port}")))
}

fn fields_of(answer: Value) -> BTreeMap<String, String> {
    match answer {
        Value::Map(pairs) => pairs.iter().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect(),
        Value::Array(flat) => {
            flat.chunks_exact(2).filter_map(|pair| Some((text(&pair[0])?, text(&pair[1])?))).collect()
        }
        _ => BTreeMap::new(),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}
