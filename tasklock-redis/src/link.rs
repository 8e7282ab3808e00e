//! The two connections to a server, made together and replaced together.

use std::{
    collections::HashSet,
    convert::Infallible,
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, ProtocolVersion, PushInfo, PushKind, RedisError, RedisResult,
    ServerErrorKind, Value, aio::MultiplexedConnection,
};
use tasklock_core::{BackendError, StepResult};
use tokio::sync::Notify;

use crate::{
    calls::{Call, Carried},
    error,
    layout::slot_of_inbox,
    newer::{self, IfEqual},
    script,
    sentinel::Sentinel,
    slots::Slot,
};

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

/// A change of the way to a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    Lost,
    Reopened,
}

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
    bound: Arc<Bound>,
    /// The newer commands that this server does not have.
    refused: AtomicU8,
    /// Where the sentinels tell that another is the master, for as long as they are kept.
    _watchers: Vec<MultiplexedConnection>,
}

/// The slots whose channels this client has at a server. Kept by the task that reads the connection, in the order in which
/// the server says so.
#[derive(Debug, Default)]
struct Bound(Mutex<HashSet<Slot>>);

impl Link {
    /// Opens it, with this connection for commands if there is one.
    pub(crate) async fn open(server: Server, commands: Option<MultiplexedConnection>) -> StepResult<Arc<Self>> {
        let session = server.connect(commands).await?;
        Ok(Arc::new(Link { server, state: Mutex::new(State::Open(Arc::new(session))) }))
    }

    /// Calls the script, all these calls together; for each one value for all its steps.
    pub(crate) async fn call<S: Carried>(&self, calls: &[Call<'_, S>]) -> Vec<StepResult<Value>> {
        let session = match self.session() {
            Ok(session) => session,
            Err(error) => return calls.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut answers = session.send(&calls.iter().collect::<Vec<_>>(), false).await;
        let forgotten = |answer: &RedisResult<Value>| matches!(answer, Err(e) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript));
        let again: Vec<usize> = (0..calls.len()).filter(|i| answers.get(*i).is_some_and(forgotten)).collect();
        if !again.is_empty() {
            // The whole script rather than loading it first: one round trip, and none in between to be forgotten in.
            let whole: Vec<_> = again.iter().map(|i| &calls[*i]).collect();
            for (i, answer) in again.into_iter().zip(session.send(&whole, true).await) {
                answers[i] = answer;
            }
        }
        answers.into_iter().map(|answer| self.settle(&session, answer)).collect()
    }

    /// Sends a plain command.
    pub(crate) async fn command(&self, command: &Cmd) -> StepResult<Value> {
        let session = self.session()?;
        let answer = command.query_async(&mut session.commands.clone()).await;
        self.settle(&session, answer)
    }

    /// Carries it out by a command of its own, if the server has one for it: whether it was done.
    pub(crate) async fn if_equal(&self, change: &IfEqual, asking: bool) -> StepResult<Option<bool>> {
        let session = self.session()?;
        for (kind, command) in change.commands() {
            if session.refused.load(Ordering::Relaxed) & kind != 0 {
                continue;
            }
            let answer = session.send_command(&command, asking).await;
            if answer.as_ref().is_err_and(newer::is_refused) {
                session.refused.fetch_or(kind, Ordering::Relaxed);
                continue;
            }
            return self.settle(&session, answer).map(|answer| Some(newer::is_done(&answer)));
        }
        Ok(None)
    }

    /// Has what is granted in this slot told here, on this channel.
    pub(crate) async fn bind(&self, slot: Slot, channel: &str) -> StepResult<()> {
        let session = self.session()?;
        if session.bound.has(slot) {
            return Ok(());
        }
        let answer = redis::cmd("SSUBSCRIBE").arg(channel).query_async(&mut session.inbox.clone()).await;
        match self.settle(&session, answer) {
            Ok(value) if confirms(&value, channel) => Ok(()),
            Ok(_) => {
                // The driver takes a channel that is taken away for the answer to whatever was asked last, and is one
                // answer behind from then on.
                session.broken.notify_one();
                Err(BackendError::transient("redis: the answers on this connection are not those to its questions"))
            }
            Err(error) => Err(error::deaf(error)),
        }
    }

    pub(crate) fn is_bound(&self, slot: Slot) -> bool {
        self.session().is_ok_and(|session| session.bound.has(slot))
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(*self.state(), State::Open(_))
    }

    /// Keeps it open, until this is dropped: makes the connections anew when they end. `turned` is told each time.
    pub(crate) async fn keep(self: Arc<Self>, turned: impl Fn(Turn) + Send + Sync) {
        loop {
            let Ok(session) = self.session() else { return };
            let opened = tokio::time::Instant::now();
            let why = session.watch().await;
            tracing::warn!(target: "tasklock", backend = "redis", address = self.server.address, "connection lost: {why}");
            if !self.replace(State::Broken(BackendError::transient(format!("redis: {why}")))) {
                return;
            }
            turned(Turn::Lost);
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
            turned(Turn::Reopened);
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
    /// Asks it these, on a connection of its own, if it is always in the same place.
    pub(crate) async fn ask(&self, commands: &[Cmd]) -> StepResult<Vec<Value>> {
        let Place::Fixed(client) = &self.place else { return Err(BackendError::fatal("redis: nobody to ask")) };
        let asked = async {
            let connection = client.get_multiplexed_async_connection_with_config(&self.config()).await;
            let mut connection = connection.map_err(|e| error::unreachable(&self.address, e))?;
            let mut answers = Vec::with_capacity(commands.len());
            for command in commands {
                answers.push(command.query_async(&mut connection).await.map_err(error::failed)?);
            }
            Ok(answers)
        };
        self.in_time(asked).await
    }

    /// A connection on which it tells what is published on this channel, if it is always in the same place.
    pub(crate) async fn listen<F>(&self, channel: &str, told: F) -> StepResult<MultiplexedConnection>
    where
        F: Fn(&str) + Send + Sync + 'static,
    {
        let Place::Fixed(client) = &self.place else { return Err(BackendError::fatal("redis: nobody to listen to")) };
        let listener = move |push: PushInfo| -> Result<(), Infallible> {
            if let (PushKind::Message, [_, Value::BulkString(message)]) = (push.kind, push.data.as_slice()) {
                told(&String::from_utf8_lossy(message));
            }
            Ok(())
        };
        let made = async {
            let connected = async {
                let config = self.config().set_push_sender(listener);
                let client = speaking_unasked(client)?;
                let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
                connection.subscribe(channel).await?;
                Ok(connection)
            };
            connected.await.map_err(|e| error::unreachable(&self.address, e))
        };
        self.in_time(made).await
    }

    /// Both connections, the inbox subscribed.
    async fn connect(&self, commands: Option<MultiplexedConnection>) -> StepResult<Session> {
        let broken = Arc::new(Notify::new());
        let made = async {
            // Before they are asked who it is: nothing is missed in between.
            let watchers = match &self.place {
                Place::Fixed(_) => Vec::new(),
                Place::Watched(sentinel) => sentinel.watch(&broken).await,
            };
            let client = self.client().await?;
            let session = self.try_connect(client, commands, broken.clone(), watchers).await;
            let session = session.map_err(|e| error::unreachable(&self.address, e))?;
            if let Place::Watched(sentinel) = &self.place {
                sentinel.confirm(&mut session.commands.clone()).await?;
            }
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

    async fn client(&self) -> StepResult<Client> {
        match &self.place {
            Place::Fixed(client) => Ok(Client::clone(client)),
            Place::Watched(sentinel) => sentinel.master().await,
        }
    }

    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout))
            .set_pipeline_buffer_size(UNSENT)
    }

    async fn try_connect(
        &self,
        client: Client,
        commands: Option<MultiplexedConnection>,
        broken: Arc<Notify>,
        watchers: Vec<MultiplexedConnection>,
    ) -> RedisResult<Session> {
        let mut commands = match commands {
            Some(commands) => commands,
            None => client.get_multiplexed_async_connection_with_config(&self.config()).await?,
        };
        let client = speaking_unasked(&client)?;
        let bound = Arc::new(Bound::default());
        let node = match &self.inbox {
            Some(_) => String::new(),
            None => redis::cmd("CLUSTER").arg("MYID").query_async(&mut commands).await?,
        };
        let listener = listener(self.heard.clone(), broken.clone(), bound.clone(), node);
        let config = self.config().set_push_sender(listener);
        let mut inbox = client.get_multiplexed_async_connection_with_config(&config).await?;
        if let Some(channel) = &self.inbox {
            inbox.subscribe(channel).await?;
        }
        Ok(Session { commands, inbox, broken, bound, refused: AtomicU8::new(0), _watchers: watchers })
    }
}

impl Session {
    /// Answers in order; they go in one piece, if they are several.
    async fn send<S: Carried>(&self, calls: &[&Call<'_, S>], whole: bool) -> Vec<RedisResult<Value>> {
        let mut commands = self.commands.clone();
        if let [call] = calls
            && !call.asking
        {
            return vec![S::command(call.steps, whole).query_async(&mut commands).await];
        }
        let mut together = redis::pipe();
        together.ignore_errors();
        for call in calls {
            if call.asking {
                together.cmd("ASKING").ignore();
            }
            together.add_command(S::command(call.steps, whole));
        }
        match together.query_async::<Vec<RedisResult<Value>>>(&mut commands).await {
            Ok(answers) => answers,
            Err(error) => calls.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn send_command(&self, command: &Cmd, asking: bool) -> RedisResult<Value> {
        let mut commands = self.commands.clone();
        if !asking {
            return command.query_async(&mut commands).await;
        }
        let mut together = redis::pipe();
        together.ignore_errors().cmd("ASKING").ignore().add_command(command.clone());
        let mut answers = together.query_async::<Vec<RedisResult<Value>>>(&mut commands).await?;
        answers.pop().unwrap_or(Ok(Value::Nil))
    }

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
            match redis::cmd("PING").query_async::<Value>(&mut connection).await {
                Ok(Value::Push { .. }) => return "an answer that is not that to its question".to_owned(),
                Ok(_) => {}
                Err(why) => return why.to_string(),
            }
        }
    }
}

impl Bound {
    fn has(&self, slot: Slot) -> bool {
        self.slots().contains(&slot)
    }

    fn slots(&self) -> MutexGuard<'_, HashSet<Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same server, in the protocol in which it may speak unasked.
fn speaking_unasked(client: &Client) -> RedisResult<Client> {
    let info = client.get_connection_info();
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Client::open(info.clone().set_redis_settings(settings))
}

/// What takes in what the server says unasked.
fn listener(
    heard: Heard,
    broken: Arc<Notify>,
    bound: Arc<Bound>,
    node: String,
) -> impl Fn(PushInfo) -> Result<(), Infallible> + Send + Sync {
    move |push| {
        let slot = |channel: &[u8]| slot_of_inbox(&String::from_utf8_lossy(channel));
        match (push.kind, push.data.as_slice()) {
            (PushKind::Message, [_, Value::BulkString(message)]) => {
                (heard.0)(Said::Message(&String::from_utf8_lossy(message)));
            }
            (PushKind::SMessage, [Value::BulkString(channel), Value::BulkString(message)]) => {
                let message = String::from_utf8_lossy(message);
                match (message.split_once(' '), slot(channel)) {
                    (Some((by, message)), _) if by == node => (heard.0)(Said::Message(message)),
                    // A replica repeats what its master says, who did not find us listening, and gave the lock to another.
                    (_, Some(slot)) => (heard.0)(Said::Unbound(slot)),
                    _ => {}
                }
            }
            (PushKind::SSubscribe, [Value::BulkString(channel), ..]) => {
                bound.slots().extend(slot(channel));
            }
            (PushKind::SUnsubscribe, [Value::BulkString(channel), ..]) => {
                if let Some(slot) = slot(channel) {
                    bound.slots().remove(&slot);
                    (heard.0)(Said::Unbound(slot));
                }
            }
            (PushKind::Disconnection | PushKind::Unsubscribe, _) => broken.notify_one(),
            _ => {}
        }
        Ok(())
    }
}

/// Whether this is the answer to having asked for this channel.
fn confirms(answer: &Value, asked: &str) -> bool {
    matches!(answer, Value::Push { kind: PushKind::SSubscribe, data }
        if matches!(data.as_slice(), [Value::BulkString(channel), ..] if channel == asked.as_bytes()))
}
