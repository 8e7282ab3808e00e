//! Where a server is, and how connections to it are made.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    sync::{Arc, atomic::AtomicU8},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ProtocolVersion, PushInfo, PushKind, RedisError, RedisResult, Value,
    aio::MultiplexedConnection,
};
use tasklock_core::{BackendError, StepResult};
use tokio::{sync::Notify, task::JoinSet};

use crate::{
    error,
    sentinel::Sentinel,
    session::{Bound, Session, listener},
    slots::Slot,
};

/// The redis crate stops taking commands at 50 unsent ones by default.
const UNSENT: usize = 4096;

/// Where a server is, and how it is talked to.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) place: Place,
    /// Without secrets.
    pub(crate) address: String,
    /// For making a connection, and for each answer.
    pub(crate) timeout: Duration,
    /// The channel on which grants come; a node of a cluster has one for each slot, which is bound when it is needed.
    pub(crate) inbox: Option<String>,
    pub(crate) heard: Heard,
}

/// Where it is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Fixed(Box<Client>),
    /// Wherever the sentinels say, each time it is connected to.
    Watched(Arc<Sentinel>),
}

/// Told of what the server says unasked, in the task that reads it: a grant is awaited, and another task in between would
/// have to be woken first.
#[derive(Clone)]
pub(crate) struct Heard(pub(crate) Arc<dyn Fn(Said<'_>) + Send + Sync>);

/// What a server says unasked.
#[derive(Debug)]
pub(crate) enum Said<'a> {
    Message(&'a str),
    /// It no longer tells what is granted in this slot.
    Unbound(Slot),
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Heard")
    }
}

impl Server {
    /// Asks it these, on a connection of its own, if it is always in the same place.
    pub(crate) async fn ask(&self, commands: &[Cmd]) -> StepResult<Vec<Value>> {
        let Place::Fixed(client) = &self.place else { return Err(BackendError::fatal("redis: nobody to ask")) };
        let asked = async {
            let connection = client.get_multiplexed_async_connection_with_config(&self.config()).await;
            answers(&mut connection.map_err(|e| error::unreachable(&self.address, e))?, commands).await
        };
        self.in_time(asked).await
    }

    /// A connection on which it tells what is published on this channel, if it may be listened to, and at last nothing: that
    /// the connection has ended. If it is always in the same place.
    pub(crate) async fn listen<F>(&self, channel: &str, told: F) -> StepResult<MultiplexedConnection>
    where
        F: Fn(Option<&str>) + Send + Sync + 'static,
    {
        let Place::Fixed(client) = &self.place else { return Err(BackendError::fatal("redis: nobody to listen to")) };
        let listener = move |push: PushInfo| -> Result<(), Infallible> {
            match (push.kind, push.data.as_slice()) {
                (PushKind::Message, [_, Value::BulkString(message)]) => told(Some(&String::from_utf8_lossy(message))),
                (PushKind::Disconnection, _) => told(None),
                _ => {}
            }
            Ok(())
        };
        let made = async {
            let connected = async {
                let config = self.config().set_push_sender(listener);
                let client = speaking_unasked(client)?;
                let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
                match connection.subscribe(channel).await {
                    Err(error) if error.code().is_none() => Err(error),
                    _ => Ok(connection),
                }
            };
            connected.await.map_err(|e| error::unreachable(&self.address, e))
        };
        self.in_time(made).await
    }

    /// Both connections, the inbox subscribed.
    pub(crate) async fn connect(&self, commands: Option<MultiplexedConnection>) -> StepResult<Session> {
        let made = async {
            let made = async |client| {
                let session = self.try_connect(client, commands).await;
                session.map_err(|e| error::unreachable(&self.address, e))
            };
            let sentinel = match &self.place {
                Place::Fixed(client) => return made(Client::clone(client)).await,
                Place::Watched(sentinel) => sentinel,
            };
            let master = sentinel.master().await?;
            let mut session = made(sentinel.client(&master)?).await?;
            sentinel.confirm(&mut session.commands).await?;
            session.watchers = sentinel.watch(&master, &session.broken);
            Ok(session)
        };
        self.in_time(made).await
    }

    async fn in_time<T>(&self, made: impl Future<Output = StepResult<T>> + Send) -> StepResult<T> {
        let made = tokio::time::timeout(self.timeout * 2, made).await;
        made.unwrap_or_else(|_| {
            let late =
                std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {:?}", self.timeout));
            Err(error::unreachable(&self.address, RedisError::from(late)))
        })
    }

    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout))
            .set_pipeline_buffer_size(UNSENT)
    }

    async fn try_connect(&self, client: Client, commands: Option<MultiplexedConnection>) -> RedisResult<Session> {
        let mut commands = match commands {
            Some(commands) => commands,
            None => client.get_multiplexed_async_connection_with_config(&self.config()).await?,
        };
        let client = speaking_unasked(&client)?;
        let (broken, bound) = (Arc::new(Notify::new()), Arc::new(Bound::default()));
        let node = match &self.inbox {
            Some(_) => String::new(),
            None => redis::cmd("CLUSTER").arg("MYID").query_async(&mut commands).await?,
        };
        let left = Arc::default();
        let listener = listener(self.heard.clone(), broken.clone(), bound.clone(), Arc::clone(&left), node);
        let config = self.config().set_push_sender(listener);
        let mut inbox = client.get_multiplexed_async_connection_with_config(&config).await?;
        if let Some(channel) = &self.inbox {
            inbox.subscribe(channel).await?;
        }
        Ok(Session { commands, inbox, broken, bound, left, refused: AtomicU8::new(0), watchers: JoinSet::new() })
    }
}

/// The answers to these, asked one after the other.
pub(crate) async fn answers(connection: &mut MultiplexedConnection, commands: &[Cmd]) -> StepResult<Vec<Value>> {
    let mut answers = Vec::with_capacity(commands.len());
    for command in commands {
        answers.push(command.query_async(connection).await.map_err(error::failed)?);
    }
    Ok(answers)
}

/// The same server, in the protocol in which it may speak unasked.
fn speaking_unasked(client: &Client) -> RedisResult<Client> {
    let info = client.get_connection_info();
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Client::open(info.clone().set_redis_settings(settings))
}
