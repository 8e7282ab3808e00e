//! Six nodes, and many at a time who want something of one of them.

use std::time::Duration;

use tasklock::{
    Applied, AsyncLock, Attempt, Claim, Clock, Intent, Key, LockError, Nonce, Owner, RedisConfig, Renewed, Request,
    Ttl, connector,
};
use tasklock_tests::{
    eventually,
    servers::{PATIENCE, RedisCluster, RedisServer},
    soon,
};
use tokio::task::JoinSet;

/// Masters of the beginning.
const MASTERS: usize = 3;

/// A master that no client has bound a slot at, as it does at one of them to begin with.
async fn unused_master(cluster: &RedisCluster) -> usize {
    for (master, node) in cluster.nodes()[..MASTERS].iter().enumerate() {
        if node.ask::<Vec<String>>(&["PUBSUB", "SHARDCHANNELS"]).await.is_empty() {
            return master;
        }
    }
    panic!("all are used");
}

/// So many keys whose slots are at this master.
async fn keys_of(cluster: &RedisCluster, master: usize, count: usize) -> Vec<String> {
    let mut keys = Vec::new();
    for i in 0.. {
        let key = format!("job-{i}");
        if usize::from(cluster.slot(&format!("{{tasklock:{key}}}")).await) * MASTERS / 16_384 == master {
            keys.push(key);
        }
        if keys.len() == count {
            break;
        }
    }
    keys
}

/// How often this server has read from a client.
async fn reads(server: &RedisServer) -> u64 {
    let stats: String = server.ask(&["INFO", "stats"]).await;
    let reads = stats.lines().find_map(|line| line.strip_prefix("total_reads_processed:"));
    reads.unwrap().trim().parse().unwrap()
}

/// A master hangs to which there is no connection yet. Those who want one fail together, by one attempt; one after the
/// other, most would not know in the end whether they had been heard.
#[tokio::test]
async fn who_waits_for_a_node_fails_with_the_others() {
    let cluster = RedisCluster::start().await;
    // A call is given up after as long: time for some attempts to connect, and not for one by each.
    let patience = Duration::from_secs(5);
    let lock = connector(format!("{}?timeout=1s", cluster.url())).await.unwrap().patience(patience).build().unwrap();
    let master = unused_master(&cluster).await;
    let keys = keys_of(&cluster, master, 20).await;
    let silent = [&cluster.nodes()[master], &cluster.nodes()[MASTERS + master]];
    silent.iter().for_each(|node| node.pause());
    let mut tries = JoinSet::new();
    for key in keys.clone() {
        let lock = lock.clone();
        tries.spawn(async move { lock.try_acquire(key).await.map(drop) });
    }
    while let Some(tried) = soon("a try ends", tries.join_next()).await {
        let error = tried.unwrap().unwrap_err();
        let LockError::Backend(error) = error else { panic!("{error:?}") };
        assert!(error.is_retryable() && error.applied() == Applied::No, "{error}");
    }
    silent.iter().for_each(|node| node.resume());
    cluster.until_well().await;
    eventually("it is there again", async || lock.try_acquire(&keys[0]).await.is_ok_and(|guard| guard.is_some())).await;
}

/// A replica has taken over in good order, and nobody has said so. Renewals go to the former master, and from there to the
/// new one together, as they came.
#[tokio::test]
async fn renewals_follow_together() {
    let cluster = RedisCluster::start().await;
    let client = RedisConfig::from_url(&cluster.url()).unwrap().connect().await.unwrap();
    let master = unused_master(&cluster).await;
    let (old, new) = (&cluster.nodes()[master], &cluster.nodes()[MASTERS + master]);
    let keys = keys_of(&cluster, master, 101).await;
    let (last, keys) = keys.split_last().unwrap();
    let slot = cluster.slot(&format!("{{tasklock:{last}}}")).await;
    let mut claims = Vec::new();
    for key in keys {
        let (owner, now, key) = (Owner::named("test"), Clock::current().now(), format!("tasklock:{key}"));
        let ttl = Ttl::For(Duration::from_secs(600));
        let request = Request::new(Key::new(key).unwrap(), Nonce::fresh(), ttl, Intent::Try, owner, now);
        assert!(matches!(client.try_acquire(&request).await, Ok(Attempt::Granted(_))));
        claims.push(Claim::of(&request));
    }
    let _: String = new.ask(&["CLUSTER", "FAILOVER"]).await;
    eventually("it has taken over", async || cluster.master_of(slot).await == MASTERS + master).await;
    eventually("the former one knows", async || cluster.is_replica(master).await).await;
    // The new one learns the script from somebody else: it is sent whole to who does not know it.
    let other = connector(cluster.url()).await.unwrap().patience(PATIENCE).build().unwrap();
    other.acquire(last).await.unwrap().release().await.unwrap();
    let before = [reads(old).await, reads(new).await];
    for outcome in client.renew(&claims).await {
        assert!(matches!(outcome, Ok(Renewed::Held { .. })), "{outcome:?}");
    }
    for (node, before) in [old, new].into_iter().zip(before) {
        let read = reads(node).await - before;
        assert!(read < 50, "{read} times for {} renewals", claims.len());
    }
}
