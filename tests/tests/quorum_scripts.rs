//! A node of a quorum, step by step: one test for each order of events in which a simpler one goes wrong.

use tasklock::redis::{self, Value, aio::MultiplexedConnection};
use tasklock_tests::{
    eventually,
    script::QUORUM_SCRIPT,
    servers::{RedisServer, RedisSettings},
};

const TTL: u64 = 20_000;
const LONGEST: u64 = 60_000;
/// Three acquisitions, and a client.
const A: &str = "000000000000000000000000000000aa";
const B: &str = "000000000000000000000000000000bb";
const C: &str = "000000000000000000000000000000cc";
const CLIENT: &str = "00112233445566778899aabbccddeeff";

/// One node, and steps on one lock as they are sent to it.
struct Node {
    server: RedisServer,
    longest: u64,
    durable: u8,
}

#[derive(PartialEq, Debug)]
enum Said {
    Yes,
    No,
    /// Held by this one, or nobody; the counter.
    Stands(String, u64),
    Quarantined(u64),
    Other(Value),
}

impl Node {
    /// One that has never voted.
    async fn new() -> Self {
        let node = Node::unmarked(RedisServer::start());
        assert_eq!(node.found().await, Said::Yes);
        node
    }

    fn unmarked(server: RedisServer) -> Self {
        Node { server, longest: LONGEST, durable: 0 }
    }

    async fn call(
        &self,
        connection: &mut MultiplexedConnection,
        what: &str,
        nonce: &str,
        ballot: u64,
        ttl: u64,
    ) -> Said {
        let mut call = redis::cmd("EVAL");
        call.arg(QUORUM_SCRIPT).arg(1).arg("{job}:1:vote").arg(self.longest).arg(self.durable);
        // Which no longer waits, if it drops what it has.
        let (what, client, since) = match what {
            "wait" | "poll" | "leave" => (what, CLIENT, ballot),
            "forgo" => ("drop", CLIENT, 0),
            what => (what, "", 0),
        };
        call.arg(what).arg(nonce).arg(ballot).arg(ttl).arg("1 host app me").arg(client).arg(since);
        said(call.query_async(connection).await.unwrap())
    }

    async fn step(&self, what: &str, nonce: &str, ballot: u64) -> Said {
        self.call(&mut self.server.connection().await, what, nonce, ballot, TTL).await
    }

    async fn found(&self) -> Said {
        self.step("found", "", 0).await
    }

    async fn ttl(&self) -> i64 {
        self.server.ask(&["PTTL", "{job}:1:vote"]).await
    }

    async fn set_ttl(&self, ms: u64) {
        let _: i64 = self.server.ask(&["PEXPIRE", "{job}:1:vote", &ms.to_string()]).await;
    }

    /// Ends the vote, as time would.
    async fn expire(&self) {
        let _: i64 = self.server.ask(&["DEL", "{job}:1:vote"]).await;
    }

    /// Its clock, in microseconds.
    async fn clock(&self) -> u64 {
        let (seconds, micros): (u64, u64) = self.server.ask(&["TIME"]).await;
        seconds * 1_000_000 + micros
    }

    async fn until_it_votes(&self) {
        eventually("it votes again", async || !matches!(self.step("try", B, 0).await, Said::Quarantined(_))).await;
    }
}

fn said(answer: Value) -> Said {
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).split(' ').next().unwrap_or_default().to_owned(),
        other => panic!("{other:?}"),
    };
    match answer {
        Value::Int(1) => Said::Yes,
        Value::Int(0) => Said::No,
        Value::Array(parts) => match parts.as_slice() {
            [Value::Int(-1), _, Value::Int(left), _] => Said::Quarantined(u64::try_from(*left).unwrap()),
            [Value::Int(counter), record, _, _] => Said::Stands(text(record), u64::try_from(*counter).unwrap()),
            _ => Said::Other(Value::Array(parts)),
        },
        other => Said::Other(other),
    }
}

fn low(counter: u64) -> Said {
    Said::Stands(String::new(), counter)
}

fn held(by: &str, counter: u64) -> Said {
    Said::Stands(by.to_owned(), counter)
}

/// Else a reply that is lost locks its own acquisition out, and a deadline counted from the second question outlives the
/// vote.
#[tokio::test]
async fn the_same_ballot_gets_the_same_answer_and_its_time_anew() {
    let node = Node::new().await;
    assert_eq!(node.step("try", A, 10).await, Said::Yes);
    node.set_ttl(5_000).await;
    assert_eq!(node.step("poll", A, 10).await, Said::Yes);
    assert!(node.ttl().await > 15_000);
    // But never less: a question that comes late must not cut what was renewed since.
    node.set_ttl(50_000).await;
    assert_eq!(node.step("try", A, 10).await, Said::Yes);
    assert!(node.ttl().await > 40_000);
}

/// Votes of one nonce under two ballots make no majority: counted together, the token would be one that those under the
/// lower ballot do not know, and the next may get a lower one.
#[tokio::test]
async fn a_vote_counts_for_its_own_ballot_only() {
    let node = Node::new().await;
    assert_eq!(node.step("try", A, 10).await, Said::Yes);
    assert_eq!(node.step("try", A, 12).await, held(A, 10), "voted for under 10");
    assert_eq!(node.step("renew", A, 12).await, held(A, 10));
    assert_eq!(node.step("drop", A, 10).await, Said::Yes);
    assert_eq!(node.step("try", A, 12).await, Said::Yes);
    assert_eq!(node.step("try", B, 12).await, held(A, 12), "the counter went with it");
}

#[tokio::test]
async fn votes_rise_and_a_refusal_tells_above_what() {
    let node = Node::new().await;
    assert_eq!(node.step("try", A, 10).await, Said::Yes);
    node.expire().await;
    for ballot in [9, 10] {
        assert_eq!(node.step("try", B, ballot).await, low(10), "not above what it has voted for");
    }
    assert_eq!(node.step("try", B, 11).await, Said::Yes);
    let ttl: i64 = node.server.ask(&["PTTL", "{job}:1:ballots"]).await;
    assert!(ttl > 29 * 24 * 3_600_000, "counters outlive leases, and not for ever: {ttl}");
}

/// Else a late acquisition, or the second of two copies, takes the lock for one who has left.
#[tokio::test]
async fn an_acquisition_that_comes_after_its_release_is_dead() {
    let node = Node::new().await;
    for end in ["leave", "drop"] {
        let ballot = if end == "leave" { 10 } else { 20 };
        assert_eq!(node.step(end, A, ballot).await, Said::No);
        for late in ["try", "wait", "poll", "renew"] {
            assert_eq!(node.step(late, A, ballot).await, low(ballot), "{late} after {end}");
        }
    }
    assert_eq!(node.step("mend", A, 10).await, Said::No, "mended after its release");
    // The highest ballot of a nonce ends the lower ones.
    assert_eq!(node.step("try", A, 30).await, Said::Yes);
    assert_eq!(node.step("leave", A, 35).await, Said::Yes);
    assert_eq!(node.step("try", A, 35).await, low(35));
}

#[tokio::test]
async fn a_release_ends_nobody_elses_vote() {
    let node = Node::new().await;
    assert_eq!(node.step("try", A, 10).await, Said::Yes);
    assert_eq!(node.step("leave", B, 99).await, Said::No);
    assert_eq!(node.step("leave", A, 9).await, Said::No, "of an earlier ballot, and late");
    assert_eq!(node.step("renew", A, 10).await, Said::Yes);
    assert_eq!(node.step("leave", A, 10).await, Said::Yes);
    assert_eq!(node.step("leave", A, 10).await, Said::No);
}

/// A node that has missed the acquisition votes when it is asked to renew, as if it had been asked then.
#[tokio::test]
async fn a_renewal_is_an_acquisition_where_that_was_missed() {
    let node = Node::new().await;
    assert_eq!(node.step("renew", A, 10).await, Said::Yes);
    node.set_ttl(5_000).await;
    assert_eq!(node.step("renew", A, 10).await, Said::Yes);
    assert!(node.ttl().await > 15_000);
    assert_eq!(node.step("try", B, 11).await, held(A, 10));
    // Its vote has ended and another's since: it is not given back below that.
    node.expire().await;
    assert_eq!(node.step("try", B, 11).await, Said::Yes);
    node.expire().await;
    assert_eq!(node.step("renew", A, 10).await, low(11));
}

/// Those who try while it is held raise the counters of nodes that miss its vote. Without mending each restart would cost a
/// long hold a node, for good.
#[tokio::test]
async fn a_confirmed_owner_is_mended_below_the_counter() {
    let node = Node::new().await;
    assert_eq!(node.step("try", B, 50).await, Said::Yes);
    assert_eq!(node.step("mend", A, 10).await, Said::No, "another has the vote just now");
    assert_eq!(node.step("drop", B, 50).await, Said::Yes);
    assert_eq!(node.step("renew", A, 10).await, low(50));
    assert_eq!(node.step("mend", A, 10).await, Said::Yes);
    assert_eq!(node.step("try", B, 60).await, held(A, 50));
    // The counter does not go back with it.
    assert_eq!(node.step("leave", A, 10).await, Said::Yes);
    assert_eq!(node.step("try", B, 50).await, low(50));
    // Above what has ended here, it is dead.
    assert_eq!(node.step("try", B, 60).await, Said::Yes);
    assert_eq!(node.step("leave", B, 60).await, Said::Yes);
    assert_eq!(node.step("mend", A, 20).await, Said::No, "somebody has held it since");
}

/// Without its data it may have voted for anybody: it votes for nobody, neither new nor old nor to be mended, for the longest
/// ttl. And it counts from its clock on: else it would vote for less than it has voted for.
#[tokio::test]
async fn a_node_that_has_lost_its_data_waits_and_counts_from_its_clock() {
    let mut node = Node::new().await;
    node.longest = 1_000;
    let before = node.clock().await;
    assert_eq!(node.step("try", A, before).await, Said::Yes);
    node.server.kill();
    node.server.restart_empty();
    let Said::Quarantined(left) = node.step("try", B, before + 60_000_000).await else { panic!("voted") };
    assert!(left <= LONGEST, "{left}");
    let longest = u64::try_from(node.server.ask::<i64>(&["PTTL", "{job}:1:vote"]).await.max(0)).unwrap();
    assert_eq!(longest, 0, "it has no vote");
    assert!(matches!(node.step("renew", A, before).await, Said::Quarantined(_)), "a renewal is a vote");
    assert_eq!(node.step("mend", A, before).await, Said::No, "and so is what is mended");
    node.until_it_votes().await;
    let Said::Stands(_, counter) = node.step("try", B, before).await else { panic!("voted for less") };
    assert!(counter > before, "{counter}");
    assert_eq!(node.step("try", B, counter + 1).await, Said::Yes);
}

/// A snapshot is old data: the mark is there, and what was voted for since is not.
#[tokio::test]
async fn a_node_with_old_data_waits_too() {
    let server = RedisServer::with(RedisSettings::default());
    let mut node = Node::unmarked(server);
    node.longest = 1_000;
    assert_eq!(node.found().await, Said::Yes);
    assert_eq!(node.step("try", A, 10).await, Said::Yes);
    assert_eq!(node.step("leave", A, 10).await, Said::Yes);
    let _: Value = node.server.ask(&["SAVE"]).await;
    assert_eq!(node.step("try", A, 20).await, Said::Yes);
    node.server.kill();
    node.server.restart();
    let mark: Option<String> = node.server.ask(&["GET", "tasklock:1:boot"]).await;
    assert!(mark.is_some(), "the snapshot has the mark");
    assert!(matches!(node.step("try", B, 15).await, Said::Quarantined(_)), "it has voted for 20");
    node.until_it_votes().await;
    assert!(matches!(node.step("try", B, 15).await, Said::Stands(..)), "voted for less than before");
}

/// Where every vote is on disk before it is answered, there is nothing to wait for; but for what was lost all the same.
#[tokio::test]
async fn a_node_that_loses_nothing_does_not_wait() {
    let mut node = Node::unmarked(RedisServer::durable());
    node.durable = 1;
    assert_eq!(node.found().await, Said::Yes);
    assert_eq!(node.step("try", A, 10).await, Said::Yes);
    node.server.kill();
    node.server.restart();
    assert_eq!(node.step("try", B, 11).await, held(A, 10));
    assert_eq!(node.step("leave", A, 10).await, Said::Yes);
    assert_eq!(node.step("try", B, 11).await, Said::Yes);
    let _: Value = node.server.ask(&["FLUSHALL"]).await;
    assert!(matches!(node.step("try", A, 12).await, Said::Quarantined(_)), "the mark is gone");
}

#[tokio::test]
async fn an_emptied_node_waits() {
    let node = Node::new().await;
    assert_eq!(node.step("try", A, 10).await, Said::Yes);
    let _: Value = node.server.ask(&["FLUSHALL"]).await;
    assert!(matches!(node.step("try", B, u64::MAX >> 12).await, Said::Quarantined(_)));
    assert_eq!(node.found().await, Said::No, "a node that waits is not new");
    assert!(matches!(node.step("try", B, u64::MAX >> 12).await, Said::Quarantined(_)));
}

/// The longest ttl of any client counts, also if it is told after the restart.
#[tokio::test]
async fn it_waits_for_the_longest_ttl_that_anybody_asks_for() {
    let mut node = Node::unmarked(RedisServer::start());
    node.longest = 100;
    assert!(matches!(node.step("try", A, 10).await, Said::Quarantined(left) if left <= 100));
    node.longest = 3_600_000;
    assert!(matches!(node.step("try", A, 10).await, Said::Quarantined(left) if left > 3_000_000));
    node.longest = 100;
    assert!(matches!(node.step("try", A, 10).await, Said::Quarantined(left) if left > 3_000_000));
}

/// A broken lock is not renewed and not mended, and the next ballot is above it.
#[tokio::test]
async fn what_is_revoked_is_closed() {
    let node = Node::new().await;
    assert_eq!(node.step("try", A, 10).await, Said::Yes);
    assert_eq!(node.step("revoke", B, 0).await, Said::No, "another than the one seen");
    assert_eq!(node.step("revoke", A, 0).await, Said::Yes);
    assert_eq!(node.step("revoke", "", 0).await, Said::No);
    assert_eq!(node.step("renew", A, 10).await, low(10));
    assert_eq!(node.step("mend", A, 10).await, Said::No);
    assert_eq!(node.step("try", B, 11).await, Said::Yes);
    assert_eq!(node.step("revoke", "", 0).await, Said::Yes);
}

/// Who has waited for longest is told, if it listens; a hint is for one, and nothing depends on it.
#[tokio::test]
async fn a_hint_goes_to_one_who_waits() {
    let node = Node::new().await;
    assert_eq!(node.step("try", A, 10).await, Said::Yes);
    assert_eq!(node.step("wait", B, 11).await, held(A, 10));
    let waiters = async || node.server.ask::<Vec<String>>(&["ZRANGE", "{job}:1:waiters", "0", "-1"]).await;
    assert_eq!(waiters().await, [format!("{CLIENT}.{B}")]);
    assert_eq!(node.step("drop", B, 11).await, Said::No);
    assert_eq!(waiters().await.len(), 1, "a round that failed tells nobody");
    assert_eq!(node.step("leave", A, 10).await, Said::Yes);
    assert!(waiters().await.is_empty(), "told, or gone");
    assert_eq!(node.step("try", A, 12).await, Said::Yes);
    assert_eq!(node.step("poll", B, 13).await, held(A, 12));
    node.expire().await;
    assert_eq!(node.step("poll", B, 14).await, Said::Yes);
    assert!(waiters().await.is_empty(), "it waits no more");
}

/// Else one that takes the lock again and again is always there before whoever was told that it is free.
#[tokio::test]
async fn whoever_is_told_comes_first_for_a_while() {
    let node = Node::new().await;
    let whose = async || node.server.ask::<Option<String>>(&["GET", "{job}:1:next"]).await;
    let mut inbox = redis::Client::open(node.server.url()).unwrap().get_async_pubsub().await.unwrap();
    inbox.subscribe(format!("tasklock:1:inbox:{CLIENT}")).await.unwrap();
    assert_eq!(node.step("try", A, 10).await, Said::Yes);
    assert_eq!(node.step("wait", B, 11).await, held(A, 10));
    assert_eq!(node.step("leave", A, 10).await, Said::Yes);
    assert_eq!(whose().await.as_deref(), Some(B));
    let ttl: i64 = node.server.ask(&["PTTL", "{job}:1:next"]).await;
    assert!((0..=500).contains(&ttl), "a turn ends: {ttl}");
    let _: i64 = node.server.ask(&["PEXPIRE", "{job}:1:next", "60000"]).await;
    assert_eq!(node.step("leave", A, 10).await, Said::No);
    assert_eq!(whose().await.as_deref(), Some(B), "a release that is repeated ends no turn");
    assert_eq!(node.step("wait", A, 12).await, low(10), "it is not its turn");
    assert_eq!(node.step("poll", B, 13).await, Said::Yes);
    assert_eq!(whose().await, None, "it was taken");
    // The one before waits by now. If it no longer does, it is the next one's turn.
    assert_eq!(node.step("wait", C, 14).await, held(B, 13));
    assert_eq!(node.step("leave", B, 13).await, Said::Yes);
    assert_eq!(whose().await.as_deref(), Some(A));
    assert_eq!(node.step("forgo", A, 12).await, Said::No);
    assert_eq!(whose().await.as_deref(), Some(C));
    // Who renews what a majority has confirmed need not wait for its turn.
    assert_eq!(node.step("renew", A, 15).await, Said::Yes);
}

/// Without the right to publish a release is a release all the same.
#[tokio::test]
async fn without_the_right_to_publish_nothing_is_lost() {
    let node = Node::new().await;
    let rules = "on >secret resetkeys resetchannels ~{job}:1:* ~tasklock:1:boot -@all +eval +evalsha +time +info +get +set \
                 +del +pexpire +pttl +zadd +zrem +zrange";
    let _: Value =
        node.server.ask(&[&["ACL", "SETUSER", "mute"][..], &rules.split(' ').collect::<Vec<_>>()].concat()).await;
    let mut mute = node.server.connection().await;
    let _: Value = redis::cmd("AUTH").arg("mute").arg("secret").query_async(&mut mute).await.unwrap();
    assert_eq!(node.call(&mut mute, "try", A, 10, TTL).await, Said::Yes);
    assert_eq!(node.call(&mut mute, "wait", B, 11, TTL).await, held(A, 10));
    assert_eq!(node.call(&mut mute, "leave", A, 10, 0).await, Said::Yes);
    assert_eq!(node.call(&mut mute, "poll", B, 12, TTL).await, Said::Yes);
    assert!(matches!(node.call(&mut mute, "hello", "", 0, 0).await, Said::Other(_)));
}

/// Something else under its name is an error, and the steps beside it are done.
#[tokio::test]
async fn a_step_that_fails_is_told_apart() {
    let node = Node::new().await;
    let _: Value = node.server.ask(&["HSET", "{other}:1:vote", "a", "b"]).await;
    let mut call = redis::cmd("EVAL");
    call.arg(QUORUM_SCRIPT).arg(2).arg("{other}:1:vote").arg("{job}:1:vote").arg(LONGEST).arg(0);
    for _ in 0..2 {
        call.arg("try").arg(A).arg(10).arg(TTL).arg("1 host app me").arg("").arg(0);
    }
    let answer: Value = call.query_async(&mut node.server.connection().await).await.unwrap();
    let Value::Array(answers) = answer else { panic!("{answer:?}") };
    assert!(matches!(&answers[0], Value::Array(message) if message.len() == 1), "{answers:?}");
    assert_eq!(answers[1], Value::Int(1));
    assert!(node.ttl().await > 0);
}
