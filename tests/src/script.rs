//! The script of the Redis backend, step by step, on a server of its own.

use std::fmt;

use tasklock::{
    Nonce,
    redis::{self, Client, ProtocolVersion, PushInfo, PushKind, Value, aio::MultiplexedConnection},
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::servers::{PATIENCE, RedisServer, patient};

#[path = "../../tasklock-redis/src/scripts/mod.rs"]
mod scripts;

/// The script of locks, as the backend sends it.
pub const SCRIPT: &str = scripts::LOCK;
/// That of pools.
pub const POOL_SCRIPT: &str = scripts::POOL;
/// That of a quorum's nodes.
pub const QUORUM_SCRIPT: &str = scripts::QUORUM;

/// The ttl that steps ask for, in milliseconds.
pub const TTL: u64 = 20_000;

/// A lock on a server, and steps on it as they are sent.
#[derive(Debug)]
pub struct Lock {
    /// The server.
    pub server: RedisServer,
    /// What steps are sent by.
    pub connection: MultiplexedConnection,
    name: String,
}

/// A client of the server: it listens to its inbox, or is gone, or never looks at it.
pub struct Peer {
    /// Who it is to the script.
    pub member: String,
    inbox: Option<(MultiplexedConnection, UnboundedReceiver<PushInfo>)>,
}

/// An answer to a step.
#[derive(PartialEq, Debug)]
pub enum Said {
    /// Under this token.
    Granted(i64),
    /// Somebody else has it.
    Busy {
        /// Who.
        record: String,
        /// How many stand before this one.
        rank: i64,
    },
    /// Done, or still so.
    Yes,
    /// Not so.
    No,
    /// This member was withdrawn.
    Withdrawn,
    /// The step failed.
    Failed(String),
}

impl Lock {
    /// On a server of its own.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub async fn new() -> Self {
        let server = RedisServer::start();
        let connection = server.connection().await;
        Lock { server, connection, name: "{job}:1:".to_owned() }
    }

    /// One of its keys.
    #[must_use]
    pub fn key(&self, part: &str) -> String {
        format!("{}{part}", self.name)
    }

    /// The script with these steps on this lock, as it was answered.
    pub async fn call(&mut self, steps: &[(&str, &str, u64)]) -> Vec<Value> {
        let mut call = redis::cmd("EVAL");
        call.arg(SCRIPT).arg(steps.len());
        for _ in steps {
            call.arg(self.key("owner"));
        }
        for (what, member, ttl) in steps {
            call.arg(what).arg(member).arg(ttl).arg(format!("1 host app {}", &member[member.len().min(33)..]));
        }
        match call.query_async(&mut self.connection).await.unwrap() {
            answer if steps.len() == 1 => vec![answer],
            Value::Array(answers) => answers,
            other => panic!("no answers: {other:?}"),
        }
    }

    /// One step, alone in its call.
    pub async fn step(&mut self, what: &str, member: &str, ttl: u64) -> Said {
        said(what, &self.call(&[(what, member, ttl)]).await.remove(0))
    }

    /// Asks, and enters the queue.
    pub async fn ask(&mut self, peer: &Peer) -> Said {
        self.step("wait", &peer.member, TTL).await
    }

    /// Asks, and leaves nothing behind.
    pub async fn try_to(&mut self, peer: &Peer) -> Said {
        self.step("try", &peer.member, TTL).await
    }

    /// Gives up whatever this one has.
    pub async fn leave(&mut self, peer: &Peer) -> Said {
        self.step("leave", &peer.member, 0).await
    }

    /// Asks, and is granted it: the token.
    ///
    /// # Panics
    ///
    /// If it is not.
    pub async fn granted(&mut self, peer: &Peer) -> i64 {
        match self.ask(peer).await {
            Said::Granted(token) => token,
            other => panic!("not granted: {other:?}"),
        }
    }

    /// Asks, and has to wait: its rank.
    ///
    /// # Panics
    ///
    /// If it has not.
    pub async fn busy(&mut self, peer: &Peer) -> i64 {
        match self.ask(peer).await {
            Said::Busy { rank, .. } => rank,
            other => panic!("not busy: {other:?}"),
        }
    }

    /// What the owner's key holds.
    pub async fn owner(&self) -> Option<String> {
        self.server.ask::<Option<String>>(&["GET", &self.key("owner")]).await
    }

    /// Whether this one holds it alone.
    pub async fn is_owned_by(&self, peer: &Peer) -> bool {
        self.owner().await.is_some_and(|record| record.starts_with(&peer.member))
    }

    /// How long the owner's key lasts.
    pub async fn ttl(&self) -> i64 {
        self.server.ask(&["PTTL", &self.key("owner")]).await
    }

    /// Ends the lease of whoever has it, as time would.
    pub async fn expire(&self) {
        let _: Value = self.server.ask(&["DEL", &self.key("owner")]).await;
    }

    /// Who waits, in order.
    pub async fn waiting(&self) -> Vec<String> {
        self.server.ask(&["ZRANGE", &self.key("queue"), "0", "-1"]).await
    }

    /// Until when a member counts as alive.
    pub async fn lease(&self, member: &str) -> Option<f64> {
        self.server.ask(&["ZSCORE", &self.key("leases"), member]).await
    }

    /// A client that listens to its inbox.
    ///
    /// # Panics
    ///
    /// If the server refuses it.
    pub async fn listener(&self) -> Peer {
        let client = Client::open(format!("{}/?protocol=resp3", self.server.url())).unwrap();
        assert_eq!(client.get_connection_info().redis_settings().protocol(), ProtocolVersion::RESP3);
        let (sender, pushes) = unbounded_channel();
        let config = patient().set_push_sender(sender);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
        let id = Nonce::fresh().to_string();
        connection.subscribe(format!("tasklock:1:inbox:{id}")).await.unwrap();
        Peer { member: format!("{id}.{}", Nonce::fresh()), inbox: Some((connection, pushes)) }
    }
}

impl Peer {
    /// One whose process is gone, as far as the server can tell.
    pub fn gone() -> Self {
        Peer { member: format!("{}.{}", Nonce::fresh(), Nonce::fresh()), inbox: None }
    }

    /// Its nonce.
    #[must_use]
    pub fn nonce(&self) -> &str {
        &self.member[33..]
    }

    /// The next message to its inbox.
    pub async fn told(&mut self) -> String {
        let (_, pushes) = self.inbox.as_mut().expect("it listens");
        let told = async {
            loop {
                let push = pushes.recv().await.expect("its connection is open");
                if let (PushKind::Message, [_, Value::BulkString(text)]) = (push.kind, push.data.as_slice()) {
                    return String::from_utf8(text.clone()).unwrap();
                }
            }
        };
        tokio::time::timeout(PATIENCE, told).await.expect("it is told")
    }

    /// The token it is granted by a push.
    pub async fn told_granted(&mut self) -> i64 {
        let text = self.told().await;
        let rest = text.strip_prefix(&format!("granted {} ", self.member)).unwrap_or_else(|| panic!("told {text}"));
        rest.split(' ').next().unwrap().parse().unwrap()
    }

    /// Nothing has come, and what is published now comes after it.
    pub async fn told_nothing(&mut self, lock: &Lock) {
        let inbox = format!("tasklock:1:inbox:{}", &self.member[..32]);
        let heard: i64 = lock.server.ask(&["PUBLISH", &inbox, "the end"]).await;
        assert_eq!(heard, 1);
        assert_eq!(self.told().await, "the end");
    }
}

/// An answer, understood.
///
/// # Panics
///
/// If it cannot be.
#[must_use]
pub fn said(what: &str, answer: &Value) -> Said {
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        other => panic!("{other:?}"),
    };
    match answer {
        Value::Int(-1) => Said::Withdrawn,
        Value::Int(0) => Said::No,
        Value::Int(token) if ["try", "wait", "poll", "all"].contains(&what.split(' ').next().unwrap_or_default()) => {
            Said::Granted(*token)
        }
        Value::Int(_) => Said::Yes,
        Value::Array(parts) => match parts.as_slice() {
            [message] => Said::Failed(text(message)),
            [record, _, Value::Int(rank), ..] => Said::Busy { record: text(record), rank: *rank },
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("member", &self.member).finish_non_exhaustive()
    }
}
