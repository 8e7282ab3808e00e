//! The way to a server: two connections, made together and replaced together.

use std::{
    slice,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use redis::{Cmd, ErrorKind, PushKind, RedisResult, ServerErrorKind, Value, aio::MultiplexedConnection};
use tasklock_core::{BackendError, StepResult};

use crate::{
    calls::{Call, Carried},
    error,
    newer::{self, IfEqual},
    script,
    server::Server,
    session::Session,
    slots::Slot,
};

/// Pauses between attempts to connect again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The way to a server, whether or not it is open just now.
#[derive(Debug)]
pub(crate) struct Link {
    server: Server,
    state: Mutex<State>,
}

/// A change of the way to a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    Lost,
    Reopened,
}

#[derive(Debug)]
enum State {
    Open(Arc<Session>),
    /// Being made again; why it ended.
    Broken(BackendError),
    Closed,
}

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

    /// Calls it with one step alone.
    pub(crate) async fn call_alone<S: Carried>(&self, step: &S) -> StepResult<Value> {
        let call = Call { steps: slice::from_ref(step), asking: false };
        self.call(&[call]).await.pop().unwrap_or_else(script::odd)
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
            session.left.store(true, Ordering::Release);
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

/// Whether this is the answer to having asked for this channel.
fn confirms(answer: &Value, asked: &str) -> bool {
    matches!(answer, Value::Push { kind: PushKind::SSubscribe, data }
        if matches!(data.as_slice(), [Value::BulkString(channel), ..] if channel == asked.as_bytes()))
}
