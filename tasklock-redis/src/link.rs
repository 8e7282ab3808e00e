//! The two connections to a server, made together and replaced together.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, ProtocolVersion, PushInfo, PushKind, RedisError, RedisResult,
    ServerErrorKind, Value, aio::MultiplexedConnection,
};
use tasklock_core::{BackendError, StepResult};
use tokio::sync::Notify;

use crate::{error, script};

/// How often the server is asked whether it is still there.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Pauses between attempts to connect again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// The redis crate stops taking commands at 50 unsent ones by default.
const UNSENT: usize = 4096;

/// The way to a server, whether or not it is open just now.
#[derive(Debug)]
pub(crate) struct Link {
    server: Server,
    state: Mutex<State>,
}

/// Where a server is, and how it is talked to.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) client: Client,
    /// Without secrets.
    pub(crate) address: String,
    /// For making a connection, and for each answer.
    pub(crate) timeout: Duration,
    /// The channel on which grants come.
    pub(crate) inbox: String,
    pub(crate) heard: Heard,
}

/// Told of each message on the channel, in the task that reads it: a grant is awaited, and another task in between would
/// have to be woken first.
#[derive(Clone)]
pub(crate) struct Heard(pub(crate) Arc<dyn Fn(&str) + Send + Sync>);

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Heard")
    }
}

#[derive(Debug)]
enum State {
    Open(Arc<Session>),
    /// Being made again; why it ended.
    Broken(BackendError),
    Closed,
}

/// Two connections: one for commands, one on which the store speaks unasked.
#[derive(Debug)]
pub(crate) struct Session {
    commands: MultiplexedConnection,
    inbox: MultiplexedConnection,
    broken: Arc<Notify>,
}

impl Link {
    /// Opens it, with this connection for commands if there is one.
    pub(crate) async fn open(server: Server, commands: Option<MultiplexedConnection>) -> StepResult<Arc<Self>> {
        let session = server.connect(commands).await?;
        Ok(Arc::new(Link { server, state: Mutex::new(State::Open(Arc::new(session))) }))
    }

    /// Calls the script; one value for all its steps.
    pub(crate) async fn call(&self, command: impl Fn(bool) -> Cmd) -> StepResult<Value> {
        let session = self.session()?;
        let mut connection = session.commands.clone();
        let mut answer = command(false).query_async(&mut connection).await;
        if matches!(&answer, Err(e) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript)) {
            // The whole script rather than loading it first: one round trip, and none in between to be forgotten in.
            answer = command(true).query_async(&mut connection).await;
        }
        self.settle(&session, answer)
    }

    /// Sends a plain command.
    pub(crate) async fn command(&self, command: &Cmd) -> StepResult<Value> {
        let session = self.session()?;
        let answer = command.query_async(&mut session.commands.clone()).await;
        self.settle(&session, answer)
    }

    /// Keeps it open, until this is dropped: makes the connections anew when they end. `reopened` is told each time.
    pub(crate) async fn keep(self: Arc<Self>, reopened: impl Fn() + Send + Sync) {
        loop {
            let Ok(session) = self.session() else { return };
            let opened = tokio::time::Instant::now();
            let why = session.watch().await;
            tracing::warn!(target: "tasklock", backend = "redis", address = self.server.address, "connection lost: {why}");
            if !self.replace(State::Broken(BackendError::transient(format!("redis: {why}")))) {
                return;
            }
            drop(session);
            // One that ends as soon as it is made is not made again and again without a pause.
            let mut pause = PAUSES.0;
            if opened.elapsed() < PAUSES.1 {
                tokio::time::sleep(PAUSES.1 / 4).await;
            }
            let session = loop {
                match self.server.connect(None).await {
                    Ok(session) => break session,
                    Err(error) => {
                        tracing::debug!(target: "tasklock", backend = "redis", "not connected: {error}");
                        // Whatever it is, it may pass: a password that is being changed, a server that starts.
                        let why = BackendError::transient(error.to_string());
                        if !self.replace(State::Broken(why)) {
                            return;
                        }
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(PAUSES.1);
                    }
                }
            };
            if !self.replace(State::Open(Arc::new(session))) {
                return;
            }
            reopened();
        }
    }

    /// The server's address, without secrets.
    pub(crate) fn address(&self) -> &str {
        &self.server.address
    }

    /// Ends the connections for good.
    pub(crate) fn close(&self) {
        self.replace(State::Closed);
    }

    fn session(&self) -> StepResult<Arc<Session>> {
        match &*self.state() {
            State::Open(session) => Ok(session.clone()),
            State::Broken(why) => Err(why.clone()),
            State::Closed => Err(BackendError::fatal("redis: the connection was closed")),
        }
    }

    /// False if it was closed before.
    fn replace(&self, state: State) -> bool {
        let mut current = self.state();
        if matches!(*current, State::Closed) {
            return false;
        }
        *current = state;
        true
    }

    fn settle(&self, session: &Session, answer: RedisResult<Value>) -> StepResult<Value> {
        match answer {
            Ok(value) => {
                if let Value::Array(answers) = &value {
                    let ends = |v| script::failure(v).is_some_and(|text| error::ends_connection_within(&text));
                    if answers.iter().any(ends) {
                        session.broken.notify_one();
                    }
                }
                Ok(value)
            }
            Err(e) => {
                if error::ends_connection(&e) {
                    session.broken.notify_one();
                }
                Err(error::failed(e))
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Both connections, the inbox subscribed.
    async fn connect(&self, commands: Option<MultiplexedConnection>) -> StepResult<Session> {
        let made = tokio::time::timeout(self.timeout * 2, self.try_connect(commands)).await;
        let made = made.unwrap_or_else(|_| {
            let late =
                std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {:?}", self.timeout));
            Err(RedisError::from(late))
        });
        made.map_err(|e| error::unreachable(&self.address, e))
    }

    async fn try_connect(&self, commands: Option<MultiplexedConnection>) -> RedisResult<Session> {
        let config = || {
            AsyncConnectionConfig::new()
                .set_connection_timeout(Some(self.timeout))
                .set_response_timeout(Some(self.timeout))
                .set_pipeline_buffer_size(UNSENT)
        };
        let commands = match commands {
            Some(commands) => commands,
            None => self.client.get_multiplexed_async_connection_with_config(&config()).await?,
        };
        let info = self.client.get_connection_info();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.clone().set_redis_settings(settings))?;
        let broken = Arc::new(Notify::new());
        let config = config().set_push_sender(listener(self.heard.clone(), broken.clone()));
        let mut inbox = client.get_multiplexed_async_connection_with_config(&config).await?;
        inbox.subscribe(&self.inbox).await?;
        Ok(Session { commands, inbox, broken })
    }
}

impl Session {
    /// Until a call finds it broken, or the server no longer answers.
    async fn watch(&self) -> String {
        tokio::select! {
            () = self.broken.notified() => "a call or the inbox ended, or the server is a replica".to_owned(),
            why = heartbeat(&self.commands) => why,
            why = heartbeat(&self.inbox) => why,
        }
    }
}

fn heartbeat(connection: &MultiplexedConnection) -> impl Future<Output = String> + Send + use<> {
    let mut connection = connection.clone();
    async move {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            if let Err(why) = redis::cmd("PING").query_async::<Value>(&mut connection).await {
                return why.to_string();
            }
        }
    }
}

/// What takes in what the server says unasked.
fn listener(heard: Heard, broken: Arc<Notify>) -> impl Fn(PushInfo) -> Result<(), Infallible> + Send + Sync {
    move |push| {
        match (push.kind, push.data.as_slice()) {
            (PushKind::Message, [_, Value::BulkString(message)]) => (heard.0)(&String::from_utf8_lossy(message)),
            (PushKind::Disconnection | PushKind::Unsubscribe, _) => broken.notify_one(),
            _ => {}
        }
        Ok(())
    }
}
