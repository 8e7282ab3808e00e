//! Nodes that end, stop and forget. As long as most are there nothing is lost but time; when they are not it is an outage,
//! and no contention. Tokens never go back.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tasklock::{
    AsyncLock, Attempt, Claim, Clock, Fence, FencingToken, Guard, Intent, Key, LockError, Locker, LossReason, Nonce,
    Owner, QuorumLock, ReleaseOutcome, Released, Renew, Renewed, Request, Ttl, connect, redis,
    testing::{poll_times, until_quiet},
};
use tasklock_tests::{eventually, script::QUORUM_SCRIPT, servers::RedisQuorum};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    task::{JoinHandle, JoinSet},
};

/// Longer than anything here takes, and less than what would pass if a slow node were waited for.
const PATIENCE: Duration = Duration::from_secs(50);
const LONG: Duration = Duration::from_secs(7200);
const ALL: [usize; 5] = [0, 1, 2, 3, 4];

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

async fn locker(quorum: &RedisQuorum) -> Locker {
    connect(quorum.url()).await.unwrap()
}

fn waiting(lock: &Locker) -> JoinHandle<Result<Guard, LockError>> {
    let lock = lock.clone();
    tokio::spawn(async move { lock.acquire("job").await })
}

async fn got(waiter: JoinHandle<Result<Guard, LockError>>) -> Guard {
    soon("the waiter has it", waiter).await.unwrap().unwrap()
}

fn request(ttl: Duration) -> Request {
    let (owner, now) = (Owner::named("test"), Clock::current().now());
    let key = Key::new("tasklock:job").unwrap();
    Request::new(key, Nonce::fresh(), Ttl::For(ttl), Intent::Try, owner, now)
}

async fn granted(lock: &QuorumLock, request: &Request) -> FencingToken {
    match lock.try_acquire(request).await {
        Ok(Attempt::Granted(grant)) => grant.token.unwrap(),
        other => panic!("not granted: {other:?}"),
    }
}

fn is_outage(error: &LockError) -> bool {
    error.is_retryable() && !error.is_contended()
}

/// How many nodes have voted for whoever has the most votes.
async fn most(quorum: &RedisQuorum, nodes: &[usize]) -> usize {
    let votes = quorum.votes(nodes, "tasklock:job").await;
    votes
        .iter()
        .filter(|vote| !vote.is_empty())
        .map(|vote| votes.iter().filter(|v| *v == vote).count())
        .max()
        .unwrap_or(0)
}

/// A vote for somebody who is none of the clients here.
async fn vote_of_a_stranger(quorum: &RedisQuorum, node: usize, what: &str, ballot: u64) {
    assert_eq!(step_of_a_stranger(quorum, node, what, ballot).await, redis::Value::Int(1), "{what}");
}

async fn step_of_a_stranger(quorum: &RedisQuorum, node: usize, what: &str, ballot: u64) -> redis::Value {
    let mut call = redis::cmd("EVAL");
    call.arg(QUORUM_SCRIPT).arg(1).arg("{tasklock:job}:1:vote").arg(60_000).arg(0);
    call.arg(what)
        .arg("0000000000000000000000000000beef")
        .arg(ballot)
        .arg(60_000)
        .arg("1 host app stranger")
        .arg("")
        .arg(0);
    call.query_async(&mut quorum.nodes[node].connection().await).await.unwrap()
}

/// They have room for nothing more, but for what makes room.
#[tokio::test]
async fn full_nodes_take_votes_back() {
    let quorum = RedisQuorum::start("max_ttl=60s").await;
    let (here, there) = (locker(&quorum).await, locker(&quorum).await);
    let held = here.acquire("job").await.unwrap();
    let limit = async |bytes: &str| {
        for node in &quorum.nodes {
            let _: redis::Value = node.ask(&["CONFIG", "SET", "maxmemory", bytes]).await;
        }
    };
    limit("1").await;
    held.extend(Duration::from_secs(50)).await.unwrap();
    assert_eq!(held.release().await.unwrap(), ReleaseOutcome::Released);
    until_quiet(&here).await;
    assert_eq!(most(&quorum, &ALL).await, 0, "votes that nobody has given back");
    // As one that is repeated, since its answer was lost.
    for what in ["leave", "drop"] {
        assert_eq!(step_of_a_stranger(&quorum, 0, what, 7).await, redis::Value::Int(0), "{what}");
    }
    limit("0").await;
    there.acquire("job").await.unwrap().release().await.unwrap();
}

/// Killed, not stopped: connections end.
#[tokio::test]
async fn with_a_minority_down_it_works() {
    let quorum = RedisQuorum::start("").await;
    let (here, there) = (locker(&quorum).await, locker(&quorum).await);
    let held = here.key("job").ttl(Duration::from_secs(3)).acquire().await.unwrap();
    quorum.nodes[0].kill();
    quorum.nodes[3].kill();
    // Renewed by the others, for longer than its ttl.
    while held.held() < Duration::from_secs(5) {
        assert!(there.try_acquire("job").await.unwrap().is_none());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(held.is_held());
    let waiter = waiting(&there);
    let token = held.fencing_token();
    assert_eq!(held.release().await.unwrap(), ReleaseOutcome::Released);
    let next = got(waiter).await;
    assert!(next.fencing_token() > token);
    // A client that comes meanwhile.
    let third = locker(&quorum).await;
    third.ping().await.unwrap();
    assert_eq!(third.inspect("job").await.unwrap().holder.unwrap().token, Some(next.fencing_token()));
}

#[tokio::test]
async fn with_a_majority_down_it_is_an_outage() {
    let quorum = RedisQuorum::start("max_ttl=2s&ttl=1s&timeout=500ms").await;
    let (here, there) = (locker(&quorum).await, locker(&quorum).await);
    let held = here.acquire("job").await.unwrap();
    for node in &quorum.nodes[..3] {
        node.kill();
    }
    // Held by another, as far as the rest can tell; but they cannot.
    let error = soon("a try ends", there.try_acquire("job")).await.unwrap_err();
    assert!(is_outage(&error), "{error}");
    let error = soon("a wait ends", there.key("other").wait(Duration::from_millis(300)).acquire()).await.unwrap_err();
    assert!(is_outage(&error), "{error}");
    assert!(there.ping().await.is_err() && there.inspect("job").await.is_err());
    assert_eq!(soon("the holder is told", held.lost()).await, LossReason::Unreachable);
    let late = soon("no connection", quorum.config().connect()).await.unwrap_err();
    assert!(is_outage(&late), "{late}");
    let token = held.fencing_token();
    let waiter = waiting(&there);
    for node in &quorum.nodes[..3] {
        node.restart();
    }
    // They may have forgotten votes, and wait.
    assert!(got(waiter).await.fencing_token() > token);
    drop(held);
    soon("nothing is left to do", until_quiet(&here)).await;
}

/// Nodes that hang: with `timeout` and ttl this long, whoever waited for them would be seen to.
#[tokio::test]
async fn slow_nodes_are_not_waited_for() {
    let quorum = RedisQuorum::start("max_ttl=24h&ttl=2h&timeout=60s").await;
    let (here, there) = (locker(&quorum).await, locker(&quorum).await);
    for slow in [1, 2] {
        let paused = &quorum.nodes[..slow];
        paused.iter().for_each(|node| node.pause());
        let held = soon("granted", here.acquire("job")).await.unwrap();
        assert!(soon("refused", there.try_acquire("job")).await.unwrap().is_none());
        assert!(!soon("seen", there.inspect("job")).await.unwrap().is_free());
        soon("renewed", held.extend(LONG)).await.unwrap();
        let waiter = waiting(&there);
        assert_eq!(soon("released", held.release()).await.unwrap(), ReleaseOutcome::Released);
        drop(got(waiter).await);
        soon("nothing is left to do", until_quiet(&there)).await;
        paused.iter().for_each(|node| node.resume());
        // What they were asked for late they were told to forget.
        eventually("no vote is left", async || most(&quorum, &ALL).await == 0).await;
    }
}

/// Votes that come when nobody counts any more are taken back, long before they would end.
#[tokio::test]
async fn late_votes_are_taken_back() {
    let quorum = RedisQuorum::start("max_ttl=24h&ttl=2h&timeout=200ms").await;
    let lock = quorum.client().await;
    for node in &quorum.nodes[..3] {
        node.pause();
    }
    let error = soon("given up", lock.try_acquire(&request(LONG))).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    eventually("what was won is given back at once", async || most(&quorum, &[3, 4]).await == 0).await;
    for node in &quorum.nodes[..3] {
        node.resume();
    }
    eventually("and what was won late", async || {
        let counters = async |node: &usize| quorum.nodes[*node].keys().await.contains_key("{tasklock:job}:1:ballots");
        counters(&0).await && counters(&1).await && counters(&2).await && most(&quorum, &ALL).await == 0
    })
    .await;
    let granted = async || matches!(lock.try_acquire(&request(LONG)).await, Ok(Attempt::Granted(_)));
    eventually("nothing stands in the way", granted).await;
}

/// The first holder has the votes of three, one of which forgets it. Were that one to vote again at once, as it does here
/// when it is told that it is new, there would be two.
#[tokio::test]
async fn without_quarantine_there_would_be_two_holders() {
    for waits in [true, false] {
        let quorum = RedisQuorum::start("max_ttl=60s").await;
        let (first, second) = (quorum.client().await, quorum.client().await);
        // So that the first gets no more than three.
        for node in [3, 4] {
            vote_of_a_stranger(&quorum, node, "try", 1).await;
        }
        let held = request(Duration::from_secs(55));
        let until = held.until(held.since);
        granted(&first, &held).await;
        for node in [3, 4] {
            vote_of_a_stranger(&quorum, node, "leave", 1).await;
        }
        quorum.nodes[0].kill();
        quorum.nodes[0].restart_empty();
        if !waits {
            let one = quorum.nodes[0].connection().await;
            let mut call = redis::cmd("EVAL");
            call.arg(QUORUM_SCRIPT).arg(1).arg("tasklock:1:boot").arg(60_000).arg(0).arg("found");
            call.arg("").arg(0).arg(0).arg("").arg("").arg(0);
            let marked: i64 = call.query_async(&mut one.clone()).await.unwrap();
            assert_eq!(marked, 1);
        }
        let steal = async || {
            let thief = request(Duration::from_secs(10));
            matches!(second.try_acquire(&thief).await, Ok(Attempt::Granted(_)))
        };
        if waits {
            let asked = async || {
                assert!(!steal().await, "two holders");
                quorum.nodes[0].keys().await.contains_key("tasklock:1:boot")
            };
            eventually("the node that forgot was asked", asked).await;
            // What the first has left is no majority, and what it lacks could not be another's: its deadline decides.
            let renewed = first.renew(&[Claim::of(&held)]).await;
            assert!(matches!(&renewed[..], [Err(error)] if error.is_retryable()), "{renewed:?}");
        } else {
            eventually("the schedule bites", steal).await;
        }
        assert!(Clock::current().now() < until, "the first may no longer believe so, and this shows nothing");
    }
}

/// All of them forget everything: nobody is granted anything until whoever may still believe does not, and the next token is
/// higher.
#[tokio::test]
async fn tokens_rise_though_every_node_forgets() {
    let quorum = RedisQuorum::start("max_ttl=2s&ttl=2s").await;
    let lock = locker(&quorum).await;
    let held = lock.key("job").renew(Renew::Off).acquire().await.unwrap();
    for node in &quorum.nodes {
        node.kill();
        node.restart_empty();
    }
    let other = locker(&quorum).await;
    let next = got(waiting(&other)).await;
    assert!(!held.is_held(), "two holders");
    assert!(next.fencing_token() > held.fencing_token());
}

/// A node that was not there, and one that has forgotten, have the owner's vote again after a renewal, whoever tries to
/// acquire meanwhile.
#[tokio::test]
async fn renewals_mend() {
    let quorum = RedisQuorum::start("max_ttl=3s&ttl=3s").await;
    let (here, there) = (locker(&quorum).await, locker(&quorum).await);
    quorum.nodes[4].kill();
    let held = here.key("job").renew(Renew::Every(Duration::from_millis(200))).acquire().await.unwrap();
    eventually("four have it", async || most(&quorum, &ALL[..4]).await == 4).await;
    quorum.nodes[4].restart_empty();
    let waiter = waiting(&there);
    eventually("five have it", async || most(&quorum, &ALL).await == 5).await;
    // One after the other, until none is left of those it began with.
    for node in &quorum.nodes {
        node.kill();
        node.restart_empty();
        eventually("five have it again", async || most(&quorum, &ALL).await == 5).await;
        assert!(held.is_held());
    }
    let token = held.fencing_token();
    assert!(!waiter.is_finished());
    held.release().await.unwrap();
    assert!(got(waiter).await.fencing_token() > token);
}

/// A majority forgets it was held, and says so: the holder is told before its time is over.
#[tokio::test]
async fn a_broken_lock_is_not_mended() {
    let quorum = RedisQuorum::start("").await;
    let (here, there) = (locker(&quorum).await, locker(&quorum).await);
    let held = here.key("job").renew(Renew::Every(Duration::from_millis(200))).acquire().await.unwrap();
    assert!(there.break_lock("job").await.unwrap());
    assert_eq!(soon("told", held.lost()).await, LossReason::Stolen);
    assert_eq!(held.release().await.unwrap(), ReleaseOutcome::AlreadyLost);
    eventually("no vote is left", async || most(&quorum, &ALL).await == 0).await;
}

/// Whoever gives back has a waiter look again, which is all that `wait` waits for.
#[tokio::test]
async fn a_waiter_is_told() {
    let quorum = RedisQuorum::start("").await;
    let (here, there) = (quorum.client().await, quorum.client().await);
    for down in [false, true] {
        if down {
            quorum.nodes[0].kill();
            quorum.nodes[4].kill();
        }
        let (held, mut waits) = (request(Duration::from_secs(50)), request(Duration::from_secs(50)));
        waits.intent = Intent::Wait;
        granted(&here, &held).await;
        assert!(matches!(there.try_acquire(&waits).await, Ok(Attempt::Busy(_))));
        let mut wait = pin!(there.wait(&waits));
        assert!(poll_times(wait.as_mut(), 1).await.is_none(), "told while it is held");
        assert!(matches!(here.release(&Claim::of(&held)).await, Ok(Released::Released)));
        soon("it is told", wait).await.unwrap();
        let mut again = waits.clone();
        again.intent = Intent::Poll { attempt: 1 };
        granted(&there, &again).await;
        assert!(matches!(there.release(&Claim::of(&waits)).await, Ok(Released::Released)));
    }
}

/// A client whose tasks want it again and again lets another have it in between, however often that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_keeps_it_from_the_others() {
    let quorum = RedisQuorum::start("").await;
    let (hot, other) = (locker(&quorum).await, locker(&quorum).await);
    let (taken, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (hot, taken, done) = (hot.clone(), taken.clone(), done.clone());
        tasks.spawn(async move {
            while !done.load(Ordering::SeqCst) {
                hot.acquire("job").await.unwrap().release().await.unwrap();
                taken.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    eventually("it is hot", async || taken.load(Ordering::SeqCst) > 20).await;
    let mut passed_over = 0;
    for _ in 0..100 {
        let before = taken.load(Ordering::SeqCst);
        soon("the other has it", other.acquire("job")).await.unwrap().release().await.unwrap();
        passed_over += u32::from(taken.load(Ordering::SeqCst) > before + 2);
    }
    // Without turns it is one in three.
    assert!(passed_over < 15, "{passed_over} times of 100 more than two came before it");
    done.store(true, Ordering::SeqCst);
    while let Some(task) = soon("everybody ends", tasks.join_next()).await {
        task.unwrap();
    }
}

/// What is asked for twice is one hold; a release is one release.
#[tokio::test]
async fn asked_again_a_hold_is_the_same() {
    let quorum = RedisQuorum::start("").await;
    let lock = quorum.client().await;
    let held = request(Duration::from_secs(20));
    let token = granted(&lock, &held).await;
    quorum.nodes[2].kill();
    assert_eq!(granted(&lock, &held).await, token);
    assert!(matches!(lock.release(&Claim::of(&held)).await, Ok(Released::Released)));
    assert!(matches!(lock.release(&Claim::of(&held)).await, Ok(Released::NotOwner)));
    assert!(granted(&lock, &request(Duration::from_secs(20))).await > token);
}

/// Through whatever the nodes go, one at a time, and no token twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_time_through_restarts() {
    let quorum = Arc::new(RedisQuorum::start("max_ttl=2s&ttl=2s").await);
    let (fence, inside) = (Arc::new(Fence::new()), Arc::new(AtomicU64::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (lock, fence, inside) = (locker(&quorum).await, fence.clone(), inside.clone());
        tasks.spawn(async move {
            for _ in 0..40 {
                let guard = lock.key("job").acquire().await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                fence.admit(guard.fencing_token()).unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
                inside.fetch_sub(1, Ordering::SeqCst);
                drop(guard);
            }
        });
    }
    for node in [0, 1, 2, 3, 4] {
        let (seen, quorum) = (fence.seen(), quorum.clone());
        eventually("it goes on", async || fence.seen().get() > seen.get() || tasks.is_empty()).await;
        tokio::task::spawn_blocking(move || {
            quorum.nodes[node].kill();
            quorum.nodes[node].restart_empty();
        })
        .await
        .unwrap();
    }
    while let Some(task) = soon("everybody ends", tasks.join_next()).await {
        task.unwrap();
    }
}

/// Who answers late, but answers, is not asked for more and more: nobody waits for that, and it would have no end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_slow_node_is_behind_by_is_bounded() {
    let quorum = RedisQuorum::start("").await;
    let slow = slowed(quorum.nodes[4].port()).await;
    let lock = connect(quorum.url().replace(&quorum.nodes[4].port().to_string(), &slow.to_string())).await.unwrap();
    let mut crew = JoinSet::new();
    for task in 0..32 {
        let lock = lock.clone();
        crew.spawn(async move {
            // Few enough that what comes within a second is not much, whatever the machine can do.
            let mut pace = tokio::time::interval(Duration::from_millis(30));
            for turn in 0..200 {
                pace.tick().await;
                lock.acquire(format!("{task} {turn}")).await.unwrap().release().await.unwrap();
            }
        });
    }
    while let Some(done) = crew.join_next().await {
        done.unwrap();
    }
    let tasks = Handle::current().metrics().num_alive_tasks();
    assert!(tasks < 4_000, "{tasks} are under way, after 6400 locks were taken and given back");
}

/// The way to a server whose answers take a third of a second, however many come at a time.
async fn slowed(port: u16) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let here = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            let ((mut asks, mut told), (mut answers, mut asked)) = (client.into_split(), server.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut asks, &mut asked).await });
            tokio::spawn(async move {
                let mut some = vec![0; 1 << 16];
                while let Ok(read @ 1..) = answers.read(&mut some).await {
                    tokio::time::sleep(Duration::from_millis(333)).await;
                    told.write_all(&some[..read]).await?;
                }
                Ok::<_, std::io::Error>(())
            });
        }
    });
    here
}

/// Core releases nothing that was stolen.
#[tokio::test]
async fn who_was_robbed_is_forgotten() {
    let quorum = RedisQuorum::start("").await;
    let (lock, other) = (quorum.client().await, quorum.client().await);
    let request = request(Duration::from_secs(60));
    let token = granted(&lock, &request).await;
    let broken = other.powers().administer.unwrap().revoke(&request.key, None).await.unwrap();
    assert!(broken, "there was a holder");
    let mut claim = Claim::of(&request);
    claim.token = Some(token);
    let renewed = soon("an answer", lock.renew(&[claim])).await;
    assert!(matches!(renewed[..], [Ok(Renewed::NotOwner)]), "{renewed:?}");
    let seen = format!("{lock:?}");
    assert!(seen.contains("tries: 0"), "{seen}");
}
