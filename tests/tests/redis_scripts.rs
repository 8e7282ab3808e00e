//! The script against a real server: one test for each order of events in which a simpler one goes wrong.

use tasklock::redis::{self, Value};
use tasklock_tests::{
    script::{Lock, Peer, SCRIPT, Said, TTL, said},
    servers::{RedisServer, connection_to},
};

/// What lies in a store today is read by tomorrow's code.
#[tokio::test]
async fn the_format_is_frozen() {
    let mut lock = Lock::new().await;
    let (holder, waiter) = (lock.listener().await, lock.listener().await);
    let token = lock.granted(&holder).await;
    assert_eq!(lock.busy(&waiter).await, 0);
    let record = lock.owner().await.unwrap();
    let parts: Vec<_> = record.split(' ').collect();
    assert_eq!(parts.len(), 8, "{record}");
    assert_eq!(
        (parts[0], parts[1], &parts[3..]),
        (&*holder.member, &*token.to_string(), &["20000", "1", "host", "app", holder.nonce()][..])
    );
    let since: i64 = parts[2].parse().unwrap();
    assert!((since - token / 1000).abs() < 1000, "the token is the server's time in µs, since in ms");
    assert_eq!(lock.server.ask::<String>(&["GET", &lock.key("fence")]).await, token.to_string());
    assert_eq!(lock.waiting().await, [waiter.member.as_str()]);
    let names: String = lock.server.ask(&["HGET", &lock.key("names"), &waiter.member]).await;
    assert_eq!(names, format!("1 host app {}", waiter.nonce()));
    let keys = lock.server.keys().await;
    assert_eq!(keys.len(), 5);
    for (key, ttl) in keys {
        let most = match key.rsplit(':').next().unwrap() {
            "owner" => 20_000,
            "fence" => 30 * 86_400_000,
            _ => 90_000,
        };
        assert!(ttl > 0 && ttl <= most && ttl > most - 20_000, "{key} lasts {ttl}");
    }
}

/// Whoever has just entered the queue looks again a claim later by itself, and is not told to.
#[tokio::test]
async fn only_who_looked_before_is_told_to_look_again() {
    let mut lock = Lock::new().await;
    let holder = Peer::gone();
    let mut waiters = [lock.listener().await, lock.listener().await, lock.listener().await];
    lock.granted(&holder).await;
    for waiter in &waiters {
        lock.busy(waiter).await;
    }
    // As if the third had entered only now, however long this test takes.
    let entered: f64 = lock.lease(&waiters[2].member).await.unwrap();
    let later = (entered + 600_000.0).to_string();
    let _: Value = lock.server.ask(&["ZADD", &lock.key("leases"), &later, &waiters[2].member]).await;
    assert!(matches!(lock.step("poll", &waiters[1].member, TTL).await, Said::Busy { rank: 1, .. }));
    lock.leave(&holder).await;
    waiters[0].told_granted().await;
    assert_eq!(waiters[1].told().await, format!("next {} 1000", waiters[1].member));
    lock.leave(&waiters[0]).await;
    waiters[1].told_granted().await;
    waiters[2].told_nothing(&lock).await;
    // A first request that was lost was not followed by a first look.
    let late = lock.listener().await;
    assert!(matches!(lock.step("poll", &late.member, TTL).await, Said::Busy { rank: 1, .. }));
    let [polled, waits] = [&late, &waiters[2]].map(|peer| peer.member.clone());
    let polled = lock.lease(&polled).await.unwrap();
    assert!(polled < lock.lease(&waits).await.unwrap());
    assert_eq!(lock.ask(&late).await, Said::Busy { record: lock.owner().await.unwrap(), rank: 1 });
    assert!(lock.lease(&late.member).await.unwrap() - polled < 1_000.0, "nor does it look because that came late");
}

/// A lost reply: the request comes again.
#[tokio::test]
async fn the_same_member_gets_the_same_answer() {
    let mut lock = Lock::new().await;
    let peer = Peer::gone();
    let token = lock.granted(&peer).await;
    // Its ttl begins anew, or its holder would believe in it for longer than it lasts.
    let _: Value = lock.server.ask(&["PEXPIRE", &lock.key("owner"), "500"]).await;
    assert_eq!(lock.granted(&peer).await, token);
    assert!(lock.ttl().await > 10_000);
    // It is never cut: a request that comes late must not undo a renewal.
    assert_eq!(lock.step("renew", &peer.member, 80_000).await, Said::Yes);
    assert_eq!(lock.granted(&peer).await, token);
    assert!(lock.ttl().await > 60_000);
    assert_eq!(lock.step("wait", &peer.member, 0).await, Said::Granted(token));
    assert_eq!(lock.ttl().await, -1, "asked for without an end");
    assert_eq!(lock.granted(&peer).await, token);
    assert_eq!(lock.ttl().await, -1);
    assert_eq!(lock.step("renew", &peer.member, TTL).await, Said::Yes);
    assert!(lock.ttl().await > 0, "a renewal says how long");
}

/// An acquisition overtaken by its own withdrawal would hold the lock for nobody, for a whole ttl.
#[tokio::test]
async fn a_withdrawn_acquisition_finds_nothing() {
    let mut lock = Lock::new().await;
    let (late, next) = (Peer::gone(), Peer::gone());
    assert_eq!(lock.step("withdraw", &late.member, 0).await, Said::No);
    assert_eq!(lock.ask(&late).await, Said::Withdrawn);
    assert_eq!(lock.try_to(&late).await, Said::Withdrawn);
    lock.granted(&next).await;
    assert_eq!(lock.ask(&late).await, Said::Withdrawn);
    assert!(lock.waiting().await.is_empty());
    assert_eq!(lock.leave(&next).await, Said::Yes);
    // What is remembered is forgotten in time.
    assert!(lock.lease(&format!("x{}", late.member)).await.is_some());
    let _: Value = lock.server.ask(&["ZADD", &lock.key("leases"), "1", &format!("x{}", late.member)]).await;
    lock.granted(&next).await;
    assert_eq!(lock.lease(&format!("x{}", late.member)).await, None);
}

/// A withdrawal that comes after its acquisition gives back what that took.
#[tokio::test]
async fn a_withdrawal_gives_back() {
    let mut lock = Lock::new().await;
    let (holder, mut waiter) = (Peer::gone(), lock.listener().await);
    lock.granted(&holder).await;
    lock.busy(&waiter).await;
    assert_eq!(lock.step("withdraw", &holder.member, 0).await, Said::Yes);
    waiter.told_granted().await;
    assert_eq!(lock.step("withdraw", &waiter.member, 0).await, Said::Yes);
    assert_eq!(lock.owner().await, None);
    assert_eq!(lock.ask(&waiter).await, Said::Withdrawn);
}

/// A repeated release changes nothing for whoever has it by then.
#[tokio::test]
async fn a_release_is_repeatable() {
    let mut lock = Lock::new().await;
    let (first, mut second) = (Peer::gone(), lock.listener().await);
    lock.granted(&first).await;
    lock.busy(&second).await;
    assert_eq!(lock.leave(&first).await, Said::Yes);
    second.told_granted().await;
    assert_eq!(lock.leave(&first).await, Said::No);
    assert!(lock.is_owned_by(&second).await);
    assert_eq!(lock.step("renew", &first.member, TTL).await, Said::No);
}

/// The release itself grants: in order, with a higher token, for a claim, and its record is there before it is told.
#[tokio::test]
async fn a_release_grants_to_the_first() {
    let mut lock = Lock::new().await;
    let holder = Peer::gone();
    let mut waiters = [lock.listener().await, lock.listener().await, lock.listener().await];
    let mut last = lock.granted(&holder).await;
    for (rank, waiter) in (0..).zip(&waiters) {
        assert_eq!(lock.busy(waiter).await, rank);
    }
    for (rank, waiter) in (0..).zip(&waiters) {
        assert_eq!(lock.busy(waiter).await, rank, "asking again keeps the place");
    }
    lock.leave(&holder).await;
    for i in 0..3 {
        let token = waiters[i].told_granted().await;
        assert!(token > last);
        last = token;
        assert!(lock.is_owned_by(&waiters[i]).await);
        assert!(lock.ttl().await <= 1_000);
        // The one behind is told to look again, and nobody else anything.
        if let Some(next) = waiters.get_mut(i + 1) {
            assert_eq!(next.told().await, format!("next {} 1000", next.member));
        }
        for other in waiters.iter_mut().skip(i + 2) {
            other.told_nothing(&lock).await;
        }
        // Confirmed, it lasts; asked for once more instead, it is the same grant.
        assert_eq!(lock.granted(&waiters[i]).await, token);
        assert!(lock.ttl().await > 10_000);
        assert_eq!(lock.leave(&waiters[i]).await, Said::Yes);
    }
    assert_eq!(lock.owner().await, None);
}

/// Newcomers do not barge in after an expiry: whoever touches a free lock settles it in favour of the first.
#[tokio::test]
async fn an_expired_lock_goes_to_the_first() {
    let mut lock = Lock::new().await;
    let (holder, newcomer) = (Peer::gone(), Peer::gone());
    let (mut first, second) = (lock.listener().await, lock.listener().await);
    for touch in ["wait", "try", "leave", "revoke"] {
        lock.granted(&holder).await;
        lock.busy(&first).await;
        lock.busy(&second).await;
        lock.expire().await;
        let member = if touch == "revoke" { "" } else { &newcomer.member };
        let said = lock.step(touch, member, TTL).await;
        assert!(!matches!(said, Said::Granted(_) | Said::Yes), "{touch}: {said:?}");
        first.told_granted().await;
        assert!(lock.is_owned_by(&first).await);
        for peer in [&newcomer, &second, &first] {
            lock.leave(peer).await;
        }
        assert_eq!(lock.owner().await, None, "{touch}");
    }
}

/// The one behind a dead head takes what is free when it looks, for its whole ttl.
#[tokio::test]
async fn a_dead_head_is_passed_over() {
    let mut lock = Lock::new().await;
    let (holder, dead, second) = (Peer::gone(), Peer::gone(), lock.listener().await);
    lock.granted(&holder).await;
    lock.busy(&dead).await;
    lock.busy(&second).await;
    lock.expire().await;
    lock.granted(&second).await;
    assert!(lock.ttl().await > 10_000);
    assert_eq!(lock.waiting().await, [dead.member.as_str()], "it keeps its place, should it come back");
    let lease = lock.lease(&dead.member).await.unwrap();
    assert_eq!(lock.busy(&dead).await, 0);
    assert!(lock.lease(&dead.member).await.unwrap() > lease + 20_000.0, "it has come back");
}

/// Nobody alive: nobody has it, however many wait.
#[tokio::test]
async fn fifty_dead_waiters_hold_nobody_up() {
    let mut lock = Lock::new().await;
    let (holder, mut last, newcomer) = (Peer::gone(), lock.listener().await, Peer::gone());
    lock.granted(&holder).await;
    for _ in 0..50 {
        lock.busy(&Peer::gone()).await;
    }
    lock.leave(&holder).await;
    assert_eq!(lock.owner().await, None, "granted to one that is gone");
    assert!(matches!(lock.try_to(&newcomer).await, Said::Granted(_)), "held up by those that are gone");
    assert_eq!(lock.busy(&last).await, 0, "those aside do not count");
    lock.leave(&newcomer).await;
    last.told_granted().await;
    assert!(lock.is_owned_by(&last).await);
}

/// A waiter that did not ask for the length of its lease has lost its place; one that asks keeps it.
#[tokio::test]
async fn asking_keeps_the_place() {
    let mut lock = Lock::new().await;
    let (holder, silent, loud) = (Peer::gone(), lock.listener().await, lock.listener().await);
    lock.granted(&holder).await;
    lock.busy(&silent).await;
    assert_eq!(lock.busy(&loud).await, 1);
    for peer in [&silent, &loud] {
        let _: Value = lock.server.ask(&["ZADD", &lock.key("leases"), "99", &peer.member]).await;
    }
    lock.busy(&loud).await;
    assert_eq!(lock.waiting().await, [loud.member.as_str()]);
    assert_eq!(lock.lease(&silent.member).await, None);
    assert!(lock.lease(&loud.member).await.unwrap() > 1e12);
    assert_eq!(lock.server.ask::<i64>(&["HLEN", &lock.key("names")]).await, 1);
}

/// More than are dropped at one time.
#[tokio::test]
async fn many_dead_waiters_go_in_the_end() {
    let mut lock = Lock::new().await;
    let holder = Peer::gone();
    lock.granted(&holder).await;
    for _ in 0..150 {
        lock.busy(&Peer::gone()).await;
    }
    let members = lock.waiting().await;
    for member in &members {
        let _: Value = lock.server.ask(&["ZADD", &lock.key("leases"), "99", member]).await;
    }
    for left in [86, 22, 0] {
        lock.try_to(&Peer::gone()).await;
        assert_eq!(lock.waiting().await.len(), left);
    }
}

/// Without the right to publish, a script that is stopped midway would leave a lock that nobody has and nobody gets.
#[tokio::test]
async fn without_the_right_to_publish_waiters_poll() {
    let mut lock = Lock::new().await;
    let (holder, mut waiter) = (Peer::gone(), lock.listener().await);
    mute(&mut lock).await;
    lock.granted(&holder).await;
    lock.busy(&waiter).await;
    assert_eq!(lock.leave(&holder).await, Said::Yes);
    assert_eq!(lock.owner().await, None);
    waiter.told_nothing(&lock).await;
    lock.granted(&waiter).await;
}

/// Tokens never go back: not behind the last one, not behind the server's clock.
#[tokio::test]
async fn tokens_rise_whatever_the_clock_says() {
    let mut lock = Lock::new().await;
    let peer = Peer::gone();
    let first = lock.granted(&peer).await;
    lock.leave(&peer).await;
    let ahead = first + 3_600_000_000;
    let _: Value = lock.server.ask(&["SET", &lock.key("fence"), &ahead.to_string()]).await;
    assert_eq!(lock.granted(&peer).await, ahead + 1);
    lock.leave(&peer).await;
    assert_eq!(lock.granted(&peer).await, ahead + 2);
    assert!(lock.server.ask::<i64>(&["PTTL", &lock.key("fence")]).await > 0);
    lock.leave(&peer).await;
    // A server that has forgotten its fence begins with its clock.
    let _: Value = lock.server.ask(&["FLUSHALL"]).await;
    assert!(lock.granted(&peer).await > first);
}

/// Within one call too.
#[tokio::test]
async fn steps_of_one_call_do_not_touch_each_other() {
    let mut lock = Lock::new().await;
    let (one, two) = (Peer::gone(), Peer::gone());
    let _: Value = lock.server.ask(&["LPUSH", "{list}:1:owner", "x"]).await;
    let mut call = redis::cmd("EVAL");
    call.arg(SCRIPT).arg(3).arg("{job}:1:owner").arg("{list}:1:owner").arg("{other}:1:owner");
    for peer in [&one, &one, &two] {
        call.arg("wait").arg(&peer.member).arg(TTL).arg("1 h a n");
    }
    let Value::Array(answers) = call.query_async(&mut lock.connection).await.unwrap() else { panic!("no answers") };
    let answers: Vec<_> = answers.iter().map(|answer| said("wait", answer)).collect();
    assert!(matches!(answers[0], Said::Granted(_)) && matches!(answers[2], Said::Granted(_)), "{answers:?}");
    let Said::Failed(why) = &answers[1] else { panic!("{answers:?}") };
    assert!(why.contains("WRONGTYPE"), "{why}");
    // Steps on one lock are done in their order, whether or not they are quick.
    let steps = [
        ("wait", &*one.member, TTL),
        ("wait", &*two.member, TTL),
        ("leave", &*one.member, 0),
        ("renew", &*one.member, TTL),
        ("inspect", "", 0),
    ];
    let answers = lock.call(&steps).await;
    let said: Vec<_> = steps.iter().zip(&answers).map(|((what, ..), answer)| said(what, answer)).collect();
    assert!(matches!(said[0], Said::Granted(_)) && matches!(said[1], Said::Busy { rank: 0, .. }), "{answers:?}");
    assert_eq!(said[2..4], [Said::Yes, Said::No]);
    let left_by_one_and_two_is_gone = Said::Busy { record: String::new(), rank: 1 };
    assert_eq!(said[4], left_by_one_and_two_is_gone);
    assert_eq!(lock.waiting().await, [two.member.as_str()]);
}

/// Breaking a lock is on condition of whom one saw, lets the next in, and its token is higher.
#[tokio::test]
async fn revocation_passes_the_lock_on() {
    let mut lock = Lock::new().await;
    let (holder, mut waiter) = (Peer::gone(), lock.listener().await);
    assert_eq!(lock.step("revoke", "", 0).await, Said::No);
    let first = lock.granted(&holder).await;
    lock.busy(&waiter).await;
    assert_eq!(lock.step("revoke", waiter.nonce(), 0).await, Said::No);
    assert!(lock.is_owned_by(&holder).await);
    assert_eq!(lock.step("revoke", holder.nonce(), 0).await, Said::Yes);
    assert!(waiter.told_granted().await > first);
    assert_eq!(lock.step("renew", &holder.member, TTL).await, Said::No);
    assert_eq!(lock.leave(&holder).await, Said::No);
    assert!(lock.is_owned_by(&waiter).await);
    assert_eq!(lock.step("revoke", "", 0).await, Said::Yes);
    assert_eq!(lock.owner().await, None);
}

/// Nor does who then takes it while others wait stay among those.
#[tokio::test]
async fn without_the_right_to_publish_nobody_stays_in_line() {
    let mut lock = Lock::new().await;
    mute(&mut lock).await;
    let (holder, waiter, comes) = (Peer::gone(), lock.listener().await, Peer::gone());
    lock.granted(&holder).await;
    lock.busy(&waiter).await;
    lock.expire().await;
    lock.granted(&comes).await;
    assert_eq!(lock.waiting().await, [waiter.member.as_str()]);
    assert_eq!(lock.leave(&comes).await, Said::Yes);
    assert_eq!(lock.waiting().await, [waiter.member.as_str()]);
}

/// Nor do readers pass a writer that nobody can ask whether it is still there.
#[tokio::test]
async fn without_the_right_to_publish_writers_keep_their_places() {
    let mut lock = Lock::new().await;
    mute(&mut lock).await;
    let (reader, writer, late) = (Peer::gone(), lock.listener().await, Peer::gone());
    assert!(matches!(lock.step("wait shared", &reader.member, TTL).await, Said::Granted(_)));
    lock.busy(&writer).await;
    // It has not asked for four seconds, and does so every ten.
    let _: Value = lock.server.ask(&["ZINCRBY", &lock.key("leases"), "-4000", &writer.member]).await;
    assert!(matches!(lock.step("wait shared", &late.member, TTL).await, Said::Busy { .. }));
    assert_eq!(lock.waiting().await, [writer.member.as_str(), &late.member]);
}

/// Those who stand aside are before nobody: else whoever is first would look again later by as many claims.
#[tokio::test]
async fn those_aside_do_not_count() {
    let mut lock = Lock::new().await;
    let (holder, mut hung, waiter) = (Peer::gone(), lock.listener().await, lock.listener().await);
    lock.granted(&holder).await;
    for _ in 0..5 {
        lock.busy(&Peer::gone()).await;
    }
    assert_eq!(lock.busy(&hung).await, 5);
    assert_eq!(lock.busy(&waiter).await, 6);
    lock.leave(&holder).await;
    hung.told_granted().await;
    assert!(matches!(lock.step("poll", &waiter.member, TTL).await, Said::Busy { rank: 0, .. }));
}

/// The name as the backend encodes it is the one that this file tests.
#[tokio::test]
async fn the_backend_writes_these_keys() {
    let server = RedisServer::start();
    let lock = tasklock::connect(format!("{}?prefix=p", server.url())).await.unwrap();
    let _guard = lock.acquire("a}{b%").await.unwrap();
    let keys: Vec<_> = server.keys().await.into_keys().collect();
    assert_eq!(keys, ["{p:a%7D%7Bb%25}:1:fence", "{p:a%7D%7Bb%25}:1:owner"]);
}

/// A client that stands still is told with the grant, and its other waiters hear as little of it.
#[tokio::test]
async fn the_next_to_look_again_is_another_client() {
    let mut lock = Lock::new().await;
    let holder = Peer::gone();
    let mut hung = lock.listener().await;
    let mut behind = lock.listener().await;
    lock.granted(&holder).await;
    lock.busy(&hung).await;
    let second = format!("{}.{:032x}", &hung.member[..32], 7);
    assert!(matches!(lock.step("wait", &second, TTL).await, Said::Busy { rank: 1, .. }));
    lock.busy(&behind).await;
    assert!(matches!(lock.step("poll", &second, TTL).await, Said::Busy { rank: 1, .. }));
    assert!(matches!(lock.step("poll", &behind.member, TTL).await, Said::Busy { rank: 2, .. }));
    lock.leave(&holder).await;
    hung.told_granted().await;
    assert_eq!(behind.told().await, format!("next {} 1000", behind.member));
}

/// Has its steps sent by a user without the right to publish.
async fn mute(lock: &mut Lock) {
    let rights = ["ACL", "SETUSER", "mute", "on", "nopass", "~*", "+@all", "resetchannels"];
    let _: Value = lock.server.ask(&rights).await;
    lock.connection = connection_to(&lock.server.url().replace("redis://", "redis://mute:x@")).await;
}
