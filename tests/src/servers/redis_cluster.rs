//! A Redis Cluster.

use tasklock::redis::{FromRedisValue as _, Value};

use super::{RedisServer, RedisSettings, free_port};
use crate::eventually;

/// How long a node may be silent before the others replace it, in milliseconds.
const SILENCE: &str = "3000";
/// How many masters there are, and how many replicas.
const MASTERS: usize = 3;

/// Three masters with a replica each, on ports of their own, killed when dropped.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// One that has come together.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// One whose nodes have these arguments.
    ///
    /// # Panics
    ///
    /// If it does not come together.
    pub async fn with(arguments: &[&str]) -> Self {
        let start = |_| {
            let bus = free_port().to_string();
            let mut all = vec!["--cluster-enabled", "yes", "--cluster-node-timeout", SILENCE, "--cluster-port", &bus];
            // A replica takes over however long it was apart from its master: these tests stop masters for long.
            all.extend(["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"]);
            // A replica counts as one from the first word of its master, which has nothing to say at first.
            all.extend(["--repl-ping-replica-period", "1"]);
            all.extend(arguments);
            let arguments = all.into_iter().map(str::to_owned).collect();
            (RedisServer::with(RedisSettings { arguments, ..RedisSettings::default() }), bus)
        };
        let started: Vec<_> = (0..MASTERS * 2).map(start).collect();
        let addresses: Vec<_> = started.iter().map(|(node, bus)| (node.port().to_string(), bus.clone())).collect();
        let cluster = RedisCluster { nodes: started.into_iter().map(|(node, _)| node).collect() };
        for (i, node) in cluster.nodes.iter().enumerate() {
            let _: Value = node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()]).await;
            if i < MASTERS {
                let (from, to) = (16_384 * i / MASTERS, 16_384 * (i + 1) / MASTERS - 1);
                let _: Value = node.ask(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]).await;
            }
        }
        for (i, node) in cluster.nodes.iter().enumerate() {
            eventually("all know each other", async || {
                let nodes: String = node.ask(&["CLUSTER", "NODES"]).await;
                let met = nodes.lines().count() == MASTERS * 2 && !nodes.contains("handshake");
                // Again and again: whom a busy machine keeps from answering soon is forgotten.
                for (port, bus) in addresses.iter().filter(|(port, _)| !met && *port != node.port().to_string()) {
                    let _: Value = node.ask(&["CLUSTER", "MEET", "127.0.0.1", port, bus]).await;
                }
                met
            })
            .await;
            if i >= MASTERS {
                let master = cluster.id(i - MASTERS).await;
                let _: Value = node.ask(&["CLUSTER", "REPLICATE", &master]).await;
            }
        }
        cluster.until_well().await;
        cluster
    }

    /// Waits until every node that runs finds the cluster well, and every master that runs has a replica that follows it.
    ///
    /// # Panics
    ///
    /// If that does not happen.
    pub async fn until_well(&self) {
        for node in self.nodes.iter().filter(|node| node.is_up()) {
            eventually("the cluster is well", async || {
                let info: String = node.ask(&["CLUSTER", "INFO"]).await;
                let replication: String = node.ask(&["INFO", "replication"]).await;
                let slots: Value = node.ask(&["CLUSTER", "SLOTS"]).await;
                info.contains("cluster_state:ok")
                    && (replication.contains("role:master") || replication.contains("master_link_status:up"))
                    && matches!(slots, Value::Array(ranges) if ranges.iter().all(|range| {
                        matches!(range, Value::Array(parts) if parts.len() >= 3 + usize::from(self.all_up()))
                    }))
            })
            .await;
        }
    }

    /// An address that names all nodes.
    #[must_use]
    pub fn url(&self) -> String {
        let nodes: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis-cluster://{}", nodes.join(","))
    }

    /// All nodes: the masters of the beginning, then their replicas in the same order.
    #[must_use]
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// The slot of a key.
    pub async fn slot(&self, key: &str) -> u16 {
        self.any().ask(&["CLUSTER", "KEYSLOT", key]).await
    }

    /// The place among the nodes of the master of a slot, in the view of whoever runs.
    ///
    /// # Panics
    ///
    /// If nobody has it.
    pub async fn master_of(&self, slot: u16) -> usize {
        let ranges: Vec<Vec<Value>> = self.any().ask(&["CLUSTER", "SLOTS"]).await;
        for range in ranges {
            let [from, to, Value::Array(master), ..] = range.as_slice() else { panic!("{range:?}") };
            let number = |value: &Value| u16::from_redis_value_ref(value).expect("a number");
            if (number(from)..=number(to)).contains(&slot) {
                let port = number(&master[1]);
                return self.nodes.iter().position(|node| node.port() == port).expect("one of these");
            }
        }
        panic!("nobody has slot {slot}");
    }

    /// Names of keys, one in each master.
    ///
    /// # Panics
    ///
    /// If there is none to be found.
    pub async fn key_in_each(&self, name: &str) -> [String; MASTERS] {
        let mut keys: [Option<String>; MASTERS] = Default::default();
        for i in 0.. {
            let key = format!("{name}-{i}");
            let slot = self.slot(&format!("{{tasklock:{key}}}")).await;
            keys[usize::from(slot) * MASTERS / 16_384].get_or_insert(key);
            if keys.iter().all(Option::is_some) {
                break;
            }
        }
        keys.map(|key| key.expect("a key"))
    }

    /// Begins to move a slot: keys that are not at `from` any more are to be looked for at `to`.
    pub async fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let (slot, from_id, to_id) = (slot.to_string(), self.id(from).await, self.id(to).await);
        let _: Value = self.nodes[to].ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
        let _: Value = self.nodes[from].ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
    }

    /// The keys of a slot that are at this node.
    pub async fn keys(&self, slot: u16, node: usize) -> Vec<String> {
        self.nodes[node].ask(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "1000"]).await
    }

    /// Moves one key, whose slot is on its way.
    pub async fn move_key(&self, key: &str, from: usize, to: usize) {
        let port = self.nodes[to].port().to_string();
        let _: Value = self.nodes[from].ask(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]).await;
    }

    /// Moves the keys of a slot that are there now.
    pub async fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let keys = self.keys(slot, from).await;
        if keys.is_empty() {
            return;
        }
        let port = self.nodes[to].port().to_string();
        let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        words.extend(keys.iter().map(String::as_str));
        let _: Value = self.nodes[from].ask(&words).await;
    }

    /// Ends the move: the slot is there.
    pub async fn end_move(&self, slot: u16, from: usize, to: usize) {
        let (slot, to_id) = (slot.to_string(), self.id(to).await);
        let others = (0..self.nodes.len()).filter(|node| *node != from && *node != to);
        let _: Value = self.nodes[to].ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await;
        let _: Value = self.nodes[from].ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await;
        for node in others {
            // A replica is told by its master.
            let command = ["CLUSTER", "SETSLOT", &slot, "NODE", &to_id];
            if self.nodes[node].is_up() && !self.is_replica(node).await {
                let _: Value = self.nodes[node].ask(&command).await;
            }
        }
    }

    /// Moves a slot with all that is in it.
    pub async fn move_slot(&self, slot: u16, from: usize, to: usize) {
        self.begin_move(slot, from, to).await;
        self.move_keys(slot, from, to).await;
        self.end_move(slot, from, to).await;
    }

    /// Whether this node follows another.
    pub async fn is_replica(&self, node: usize) -> bool {
        let info: String = self.nodes[node].ask(&["INFO", "replication"]).await;
        info.contains("role:slave")
    }

    async fn id(&self, node: usize) -> String {
        self.nodes[node].ask(&["CLUSTER", "MYID"]).await
    }

    fn any(&self) -> &RedisServer {
        self.nodes.iter().rev().find(|node| node.is_up()).expect("a node that runs")
    }

    fn all_up(&self) -> bool {
        self.nodes.iter().all(RedisServer::is_up)
    }
}
