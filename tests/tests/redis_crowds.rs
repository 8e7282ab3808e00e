//! Many at one lock: no call does more than its part, the next goes on, and nobody is left.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tasklock::{
    AsyncLock, Attempt, Claim, Clock, Intent, Key, Mode, Nonce, Owner, RedisConfig, RedisLock, Request, Ttl, Wake,
    redis::{self, Client, Pipeline, Value, aio::MultiplexedConnection},
};
use tasklock_tests::{
    script::{Lock, Peer, SCRIPT, Said, TTL},
    servers::PATIENCE,
};
use tokio::task::JoinSet;

/// What a call may come to in commands of the server: what it lets in, passes over, and tells besides.
const A_PART: u64 = 64 * 8 + 128 * 8 + 200;

/// Steps as they are sent, many at a time.
struct Sender {
    connection: MultiplexedConnection,
    hash: String,
    owner: String,
}

impl Sender {
    async fn to(lock: &Lock) -> Self {
        let mut connection = lock.server.connection().await;
        let hash = redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query_async(&mut connection).await.unwrap();
        Sender { connection, hash, owner: lock.key("owner") }
    }

    async fn all(&mut self, what: &str, members: &[String]) -> Vec<Value> {
        let mut answers = Vec::with_capacity(members.len());
        for some in members.chunks(1_000) {
            let mut calls = Pipeline::with_capacity(some.len());
            for member in some {
                calls.cmd("EVALSHA").arg(&self.hash).arg(1).arg(&self.owner);
                calls.arg(what).arg(member).arg(TTL).arg("1 host app name");
            }
            answers.extend(calls.query_async::<Vec<Value>>(&mut self.connection).await.unwrap());
        }
        answers
    }

    /// One step, and whether its answer says to look again at once.
    async fn one(&mut self, what: &str, member: &str) -> (Value, bool) {
        let answer = self.all(what, &[member.to_owned()]).await.remove(0);
        let again =
            matches!(&answer, Value::Array(parts) if parts.len() > 4 && matches!(parts.last(), Some(Value::Int(_))));
        (answer, again)
    }
}

/// So many acquisitions of one client.
fn members_of(peer: &Peer, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{}.{number:032x}", &peer.member[..32])).collect()
}

async fn commands(lock: &Lock) -> u64 {
    let counts = lock.server.counts().await;
    let own = ["info", "config|resetstat", "hello", "client|setinfo", "evalsha", "ping"];
    counts.iter().filter(|(name, _)| !own.contains(&name.as_str())).map(|(_, calls)| calls).sum()
}

/// Twenty thousand readers are let in by parts, in order, each part begun by one of those that are left.
#[tokio::test]
async fn twenty_thousand_readers_get_in_by_parts() {
    const READERS: usize = 20_000;
    let mut lock = Lock::new().await;
    let (writer, mut readers) = (Peer::gone(), lock.listener().await);
    let mut sender = Sender::to(&lock).await;
    lock.granted(&writer).await;
    let members = members_of(&readers, READERS);
    sender.all("wait shared", &members).await;
    lock.server.reset_counts().await;
    sender.one("leave", &writer.member).await;
    let did = commands(&lock).await;
    assert!(did <= A_PART, "{did} commands in one call");
    let (mut got, mut calls) = (Vec::with_capacity(READERS), 0_usize);
    while got.len() < READERS {
        let told = readers.told().await;
        let words: Vec<_> = told.split(' ').collect();
        match (words[0], words[2]) {
            ("granted", _) => got.push(words[1].to_owned()),
            ("next", "0") => {
                let watched = calls % 50 == 0;
                if watched {
                    lock.server.reset_counts().await;
                }
                let (answer, _) = sender.one("poll shared", words[1]).await;
                assert!(matches!(answer, Value::Int(1..)), "whoever goes on is the first that is left: {answer:?}");
                got.push(words[1].to_owned());
                calls += 1;
                if watched {
                    let did = commands(&lock).await;
                    assert!(did <= A_PART, "{did} commands in one call");
                }
            }
            other => panic!("{other:?}"),
        }
    }
    // Whoever goes on has its answer before those behind it have their pushes.
    assert_eq!(got, members, "in order");
    assert!(calls <= READERS / 50, "{calls} calls");
    assert!(lock.waiting().await.is_empty());
}

/// Five thousand that are gone are passed over by parts, and whoever waits behind them does it; in order, once they are.
#[tokio::test]
async fn five_thousand_dead_waiters_are_passed_over_by_parts() {
    let mut lock = Lock::new().await;
    let (holder, mut first, mut last) = (Peer::gone(), lock.listener().await, lock.listener().await);
    let mut sender = Sender::to(&lock).await;
    lock.granted(&holder).await;
    let dead: Vec<String> = (0..5_000).map(|_| Peer::gone().member).collect();
    sender.all("wait", &dead).await;
    lock.busy(&first).await;
    lock.busy(&last).await;
    lock.server.reset_counts().await;
    sender.one("leave", &holder.member).await;
    let did = commands(&lock).await;
    assert!(did <= A_PART, "{did} commands in one call");
    assert_eq!(last.told().await, format!("next {} 0", last.member), "who came last is there most likely");
    let mut calls = 0;
    loop {
        lock.server.reset_counts().await;
        let (_, again) = sender.one("poll", &last.member).await;
        let did = commands(&lock).await;
        assert!(did <= A_PART, "{did} commands in one call");
        calls += 1;
        if !again {
            break;
        }
    }
    assert!(calls <= 60, "{calls} calls");
    first.told_granted().await;
    assert!(lock.is_owned_by(&first).await);
    // Whoever was passed over and is there again has its place again.
    assert!(!lock.waiting().await.is_empty(), "they keep their places for a while");
    let back = lock.waiting().await[0].clone();
    sender.one("poll", &back).await;
    let late = lock.listener().await;
    lock.busy(&late).await;
    let line: Vec<String> =
        lock.server.ask(&["ZRANGEBYSCORE", &lock.key("queue"), "0", "+inf", "LIMIT", "0", "3"]).await;
    assert_eq!(line, [&*back, &*last.member, &*late.member]);
}

/// Whoever was told to go on hangs: the one behind it looks by itself, and goes on.
#[tokio::test]
async fn who_was_to_go_on_may_hang() {
    let mut lock = Lock::new().await;
    let (writer, mut one, mut hung, mut other) =
        (Peer::gone(), lock.listener().await, lock.listener().await, lock.listener().await);
    let mut sender = Sender::to(&lock).await;
    lock.granted(&writer).await;
    let (ones, others) = (members_of(&one, 64), members_of(&other, 100));
    sender.all("wait shared", &ones).await;
    sender.all("wait shared", &[hung.member.clone()]).await;
    sender.all("wait shared", &others).await;
    // It has looked before: it is told when to do so again.
    sender.one("poll shared", &others[0]).await;
    sender.one("leave", &writer.member).await;
    for _ in &ones {
        assert!(one.told().await.starts_with("granted "));
    }
    assert_eq!(hung.told().await, format!("next {} 0", hung.member));
    assert_eq!(other.told().await, format!("next {} 1000", others[0]));
    // Neither does: any that looks goes on.
    let (answer, again) = sender.one("poll shared", &others[99]).await;
    assert!(matches!(answer, Value::Array(_)) && again, "not its turn yet, but soon: {answer:?}");
    assert!(hung.told().await.starts_with("granted "));
    for member in &others[..63] {
        assert!(other.told().await.starts_with(&format!("granted {member} ")));
    }
    let (answer, again) = sender.one("poll shared", &others[99]).await;
    assert!(matches!(answer, Value::Int(1..)) && !again, "{answer:?}");
    assert!(lock.waiting().await.is_empty());
}

/// Readers whose time is over hold nothing, though they are cleared away by parts.
#[tokio::test]
async fn readers_whose_time_is_over_are_cleared_away_by_parts() {
    let mut lock = Lock::new().await;
    let mut sender = Sender::to(&lock).await;
    let readers: Vec<String> = (0..5_000).map(|_| Peer::gone().member).collect();
    sender.all("wait shared", &readers).await;
    let living = &readers[4_999];
    let mut end_all = redis::cmd("ZADD");
    end_all.arg(lock.key("holders"));
    for reader in &readers[..4_999] {
        end_all.arg("99").arg(reader);
    }
    let _: Value = end_all.query_async(&mut sender.connection).await.unwrap();
    lock.server.reset_counts().await;
    assert_eq!(lock.step("leave", &readers[4_998], 0).await, Said::No, "it was over");
    assert_eq!(lock.step("renew shared", &readers[4_997], TTL).await, Said::No);
    let did = commands(&lock).await;
    assert!(did <= 50, "{did} commands in two calls");
    let Said::Busy { record, .. } = lock.try_to(&Peer::gone()).await else { panic!("one holds it") };
    assert!(record.starts_with(living.as_str()), "{record}");
    assert!(matches!(lock.step("try of7", &Peer::gone().member, TTL).await, Said::Busy { .. }));
    assert_eq!(lock.step("leave", living, 0).await, Said::Yes);
    assert!(matches!(lock.try_to(&Peer::gone()).await, Said::Granted(_)));
    assert_eq!(lock.server.ask::<i64>(&["EXISTS", &lock.key("holders"), &lock.key("records")]).await, 0);
}

/// The last reader that lives lets in the writer that waits, though dead ones are still to be cleared away: else it would find
/// out by itself, seconds later.
#[tokio::test]
async fn the_last_living_reader_lets_the_writer_in() {
    let mut lock = Lock::new().await;
    let (dead, reader, mut writer) = (Peer::gone(), Peer::gone(), lock.listener().await);
    let mut sender = Sender::to(&lock).await;
    let dead = members_of(&dead, 300);
    sender.all("try shared", &dead).await;
    assert!(matches!(lock.step("try shared", &reader.member, TTL).await, Said::Granted(_)));
    let mut end_all = Pipeline::with_capacity(dead.len());
    for member in &dead {
        end_all.cmd("ZADD").arg(lock.key("holders")).arg(1).arg(member).ignore();
    }
    let _: Value = end_all.query_async(&mut sender.connection).await.unwrap();
    lock.busy(&writer).await;
    assert_eq!(lock.leave(&reader).await, Said::Yes);
    assert!(lock.is_owned_by(&writer).await, "{:?}", lock.owner().await);
    writer.told_granted().await;
}

/// A call that is spent on another lock does not push those further away who stand aside: back, they are in their places.
#[tokio::test]
async fn who_stands_aside_does_so_once() {
    let mut lock = Lock::new().await;
    let (away, too, readers) = (Peer::gone(), Peer::gone(), lock.listener().await);
    let [first, second, third] = [Peer::gone(), Peer::gone(), Peer::gone()];
    lock.granted(&first).await;
    lock.busy(&away).await;
    assert_eq!(lock.leave(&first).await, Said::Yes);
    assert!(matches!(lock.try_to(&second).await, Said::Granted(_)));
    lock.busy(&too).await;
    let mut sender = Sender { owner: "{other}:1:owner".to_owned(), ..Sender::to(&lock).await };
    sender.one("try", &first.member).await;
    sender.all("wait shared", &members_of(&readers, 70)).await;
    let mut both = redis::cmd("EVALSHA");
    both.arg(&sender.hash).arg(2).arg(&sender.owner).arg(lock.key("owner"));
    both.arg("leave").arg(&first.member).arg(0).arg("").arg("leave").arg(&second.member).arg(0).arg("");
    assert_eq!(both.query_async::<Vec<i64>>(&mut sender.connection).await.unwrap(), [1, 1]);
    assert!(matches!(lock.try_to(&third).await, Said::Granted(_)));
    let mut inbox = Client::open(lock.server.url()).unwrap().get_async_pubsub().await.unwrap();
    inbox.subscribe(format!("tasklock:1:inbox:{}", &away.member[..32])).await.unwrap();
    assert!(matches!(lock.step("poll", &away.member, TTL).await, Said::Busy { rank: 0, .. }));
    assert_eq!(lock.leave(&third).await, Said::Yes);
    assert!(lock.is_owned_by(&away).await, "{:?}", lock.owner().await);
}

/// The same through the backend: five hundred readers behind as many waiters that are gone, and all get in.
#[tokio::test]
async fn readers_behind_the_dead_get_in() {
    let lock = Lock::new().await;
    let mut sender = Sender::to(&lock).await;
    let backends = [client(&lock).await, client(&lock).await];
    let held = request(Mode::Exclusive, Intent::Try);
    assert!(matches!(backends[0].try_acquire(&held).await, Ok(Attempt::Granted(_))));
    let dead: Vec<String> = (0..500).map(|_| Peer::gone().member).collect();
    sender.all("wait", &dead).await;
    let mut waiting = JoinSet::new();
    for number in 0..500 {
        let (backend, mut request) = (backends[number % 2].clone(), request(Mode::Shared, Intent::Wait));
        let Ok(Attempt::Busy(_)) = backend.try_acquire(&request).await else { panic!("it is held") };
        waiting.spawn(async move {
            // As core does: it asks when it is told to, or when the hint is over.
            let mut hint = Duration::from_secs(1);
            loop {
                if let Ok(Ok(Wake::Granted(_))) = tokio::time::timeout(hint, backend.wait(&request)).await {
                    return request.nonce;
                }
                request.intent = Intent::Poll { attempt: 1 };
                match backend.try_acquire(&request).await.unwrap() {
                    Attempt::Busy(busy) => hint = busy.retry_in.unwrap(),
                    _ => return request.nonce,
                }
            }
        });
    }
    backends[0].release(&Claim::of(&held)).await.unwrap();
    let all = tokio::time::timeout(PATIENCE, waiting.join_all()).await.expect("all get in");
    assert_eq!(all.into_iter().collect::<HashSet<_>>().len(), 500);
}

async fn client(lock: &Lock) -> Arc<RedisLock> {
    Arc::new(RedisConfig::from_url(&lock.server.url()).unwrap().connect().await.unwrap())
}

fn request(mode: Mode, intent: Intent) -> Request {
    let (owner, now) = (Owner::named("test"), Clock::current().now());
    let ttl = Ttl::For(Duration::from_secs(600));
    let mut request = Request::new(Key::new("job").unwrap(), Nonce::fresh(), ttl, intent, owner, now);
    request.mode = mode;
    request
}
