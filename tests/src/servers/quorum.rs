//! Several `redis-server`s that know nothing of each other.

use tasklock::{QuorumConfig, QuorumLock};

use super::{RedisServer, RedisSettings};

/// Five servers, which have never voted.
#[derive(Debug)]
pub struct RedisQuorum {
    /// The servers.
    pub nodes: Vec<RedisServer>,
    parameters: String,
}

impl RedisQuorum {
    /// Five servers that keep nothing, marked as new; clients connect with these parameters.
    ///
    /// # Panics
    ///
    /// If they do not start.
    pub async fn start(parameters: &str) -> Self {
        Self::with(parameters, &RedisSettings::default()).await
    }

    /// The same, with these settings.
    ///
    /// # Panics
    ///
    /// If they do not start.
    pub async fn with(parameters: &str, settings: &RedisSettings) -> Self {
        let nodes = (0..5).map(|_| RedisServer::with(settings.clone())).collect();
        let quorum = RedisQuorum { nodes, parameters: parameters.to_owned() };
        assert_eq!(quorum.config().found().await.expect("five servers"), 5, "marked before");
        quorum
    }

    /// Its address, parameters included.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_with(&self.parameters)
    }

    fn url_with(&self, parameters: &str) -> String {
        let ports: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        let url = format!("redis-quorum://{}", ports.join(","));
        if parameters.is_empty() { url } else { format!("{url}?{parameters}") }
    }

    /// The settings of a client. The ttl is a locker's.
    ///
    /// # Panics
    ///
    /// If the parameters are wrong.
    #[must_use]
    pub fn config(&self) -> QuorumConfig {
        let own: Vec<_> = self.parameters.split('&').filter(|given| !given.starts_with("ttl=")).collect();
        QuorumConfig::from_url(&self.url_with(&own.join("&"))).expect("an address")
    }

    /// A client.
    ///
    /// # Panics
    ///
    /// If it cannot connect.
    pub async fn client(&self) -> QuorumLock {
        self.config().connect().await.expect("a majority")
    }

    /// Who has the vote of each node for a lock, as `nonce ballot`; empty where nobody has.
    pub async fn votes(&self, nodes: &[usize], key: &str) -> Vec<String> {
        let mut votes = Vec::new();
        for node in nodes {
            let record: Option<String> = self.nodes[*node].ask(&["GET", &format!("{{{key}}}:1:vote")]).await;
            votes.push(record.unwrap_or_default().splitn(3, ' ').take(2).collect::<Vec<_>>().join(" "));
        }
        votes
    }
}
