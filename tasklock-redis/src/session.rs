//! The two connections to a server, while they last.

use std::{
    collections::HashSet,
    convert::Infallible,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, PushInfo, PushKind, RedisResult, Value, aio::MultiplexedConnection};
use tokio::{sync::Notify, task::JoinSet};

use crate::{
    calls::{Call, Carried},
    layout::slot_of_inbox,
    server::{Heard, Said},
    slots::Slot,
};

/// How often the server is asked whether it is still there.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);

/// Two connections: one for commands, one on which the store speaks unasked.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) commands: MultiplexedConnection,
    pub(crate) inbox: MultiplexedConnection,
    pub(crate) broken: Arc<Notify>,
    pub(crate) bound: Arc<Bound>,
    /// It was left for another: whatever is still said here is not heard, though a call that hangs keeps it.
    pub(crate) left: Arc<AtomicBool>,
    /// The newer commands that this server does not have.
    pub(crate) refused: AtomicU8,
    /// Those who hear from the sentinels that another is the master; ended with it.
    pub(crate) watchers: JoinSet<()>,
}

/// The slots whose channels this client has at a server. Kept by the task that reads the connection, in the order in which
/// the server says so.
#[derive(Debug, Default)]
pub(crate) struct Bound(Mutex<HashSet<Slot>>);

impl Session {
    /// Answers in order; they go in one piece, if they are several.
    pub(crate) async fn send<S: Carried>(&self, calls: &[&Call<'_, S>], whole: bool) -> Vec<RedisResult<Value>> {
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

    pub(crate) async fn send_command(&self, command: &Cmd, asking: bool) -> RedisResult<Value> {
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
    pub(crate) async fn watch(&self) -> String {
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
    pub(crate) fn has(&self, slot: Slot) -> bool {
        self.slots().contains(&slot)
    }

    fn slots(&self) -> MutexGuard<'_, HashSet<Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What takes in what the server says unasked.
pub(crate) fn listener(
    heard: Heard,
    broken: Arc<Notify>,
    bound: Arc<Bound>,
    left: Arc<AtomicBool>,
    node: String,
) -> impl Fn(PushInfo) -> Result<(), Infallible> + Send + Sync {
    move |push| {
        if left.load(Ordering::Acquire) {
            return Ok(());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A call that hangs keeps both connections, and a master that goes on late may push what another has granted by then.
    #[test]
    fn a_session_that_was_left_is_not_heard() {
        let (told, left) = (Arc::new(Mutex::new(0)), Arc::new(AtomicBool::new(false)));
        let count = told.clone();
        let heard = Heard(Arc::new(move |_: Said<'_>| *count.lock().unwrap() += 1));
        let hear = listener(heard, Arc::default(), Arc::default(), left.clone(), String::new());
        let text = |text: &str| Value::BulkString(text.into());
        let push = || PushInfo { kind: PushKind::Message, data: vec![text("inbox"), text("granted")] };
        hear(push()).unwrap();
        left.store(true, Ordering::Release);
        hear(push()).unwrap();
        assert_eq!(*told.lock().unwrap(), 1);
    }
}
