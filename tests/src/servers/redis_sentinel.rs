//! Sentinels, and the servers they watch.

use tasklock::redis::Value;

use super::{RedisServer, RedisSettings};
use crate::eventually;

/// A master and two replicas, watched by three sentinels, on ports of their own, killed when dropped.
#[derive(Debug)]
pub struct RedisSentinels {
    service: &'static str,
    servers: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
}

impl RedisSentinels {
    /// All of them, of one mind.
    ///
    /// # Panics
    ///
    /// If they do not come to that.
    pub async fn start() -> Self {
        Self::of("orders").await
    }

    /// The same, with another name for the master.
    ///
    /// # Panics
    ///
    /// If they do not come to that.
    pub async fn of(service: &'static str) -> Self {
        let server = |master: Option<u16>| {
            let mut arguments = vec!["--repl-diskless-sync-delay".to_owned(), "0".to_owned()];
            arguments.extend(
                master
                    .into_iter()
                    .flat_map(|port| ["--replicaof".to_owned(), "127.0.0.1".to_owned(), port.to_string()]),
            );
            RedisServer::with(RedisSettings { arguments, ..RedisSettings::default() })
        };
        let master = server(None);
        let port = master.port();
        let servers = vec![master, server(Some(port)), server(Some(port))];
        // Before the sentinels look: they look again after ten seconds only.
        for replica in &servers[1..] {
            eventually("it follows the master", async || {
                replica.ask::<String>(&["INFO", "replication"]).await.contains("master_link_status:up")
            })
            .await;
        }
        let watch = format!(
            "sentinel monitor {service} 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds {service} 2000\n\
             sentinel failover-timeout {service} 6000\n\
             sentinel parallel-syncs {service} 2\n"
        );
        let sentinel =
            |_| RedisServer::with(RedisSettings { sentinel: Some(watch.clone()), ..RedisSettings::default() });
        let all = RedisSentinels { service, servers, sentinels: (0..3).map(sentinel).collect() };
        for sentinel in &all.sentinels {
            let _: Value = sentinel.ask(&["SENTINEL", "DEBUG", "INFO-PERIOD", "500", "PUBLISH-PERIOD", "250"]).await;
        }
        for sentinel in &all.sentinels {
            eventually("it knows the others, and both replicas", async || {
                let info: String = sentinel.ask(&["INFO", "sentinel"]).await;
                info.contains("slaves=2,sentinels=3") && info.contains("status=ok")
            })
            .await;
        }
        all
    }

    /// An address that names all sentinels.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis-sentinel://{}", self.hosts())
    }

    /// What the sentinels call the master, as a parameter of the address.
    #[must_use]
    pub fn service(&self) -> &'static str {
        self.service
    }

    /// The sentinels.
    #[must_use]
    pub fn sentinels(&self) -> &[RedisServer] {
        &self.sentinels
    }

    /// The servers: the master of the beginning, and its replicas.
    #[must_use]
    pub fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    /// The place among the servers of the master that all sentinels which run name, once they agree on another than
    /// `former`, and it agrees.
    pub async fn another_than(&self, former: usize) -> usize {
        let found = std::cell::Cell::new(former);
        eventually("there is another master", async || {
            let mut named = Vec::new();
            for sentinel in self.sentinels.iter().filter(|sentinel| sentinel.is_up()) {
                let (_, port): (String, u16) =
                    sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service]).await;
                named.extend(self.servers.iter().position(|server| server.port() == port));
            }
            named.dedup();
            let [master] = named[..] else { return false };
            found.set(master);
            master != former
                && matches!(&self.servers[master].ask::<Vec<Value>>(&["ROLE"]).await[0],
                Value::BulkString(role) if role == b"master")
        })
        .await;
        found.get()
    }

    /// What this server takes itself for: `master` or `slave`; nothing if it does not say.
    pub async fn role_of(&self, server: usize) -> String {
        let role: Vec<Value> = self.servers[server].try_ask(&["ROLE"]).await.unwrap_or_default();
        match role.first() {
            Some(Value::BulkString(role)) => String::from_utf8_lossy(role).into_owned(),
            _ => String::new(),
        }
    }

    fn hosts(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
        hosts.join(",")
    }
}
