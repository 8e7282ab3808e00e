//! The script where several hold a lock, or several locks are taken at once: one test for each order of events in which
//! a simpler one goes wrong.

use tasklock::redis::{self, Value};
use tasklock_tests::{
    eventually,
    script::{Lock, Peer, SCRIPT, Said, TTL, said},
    servers::PATIENCE,
};

async fn read(lock: &mut Lock, peer: &Peer) -> Said {
    lock.step("wait shared", &peer.member, TTL).await
}

fn token(said: Said) -> i64 {
    match said {
        Said::Granted(token) => token,
        other => panic!("not granted: {other:?}"),
    }
}

fn rank(said: Said) -> i64 {
    match said {
        Said::Busy { rank, .. } => rank,
        other => panic!("not busy: {other:?}"),
    }
}

async fn ends(lock: &Lock, peer: &Peer) -> Option<f64> {
    lock.server.ask(&["ZSCORE", &lock.key("holders"), &peer.member]).await
}

/// Ends one holder's time, as the server's clock would.
async fn expire_one(lock: &Lock, peer: &Peer) {
    let changed: i64 = lock.server.ask(&["ZADD", &lock.key("holders"), "XX", "CH", "99", &peer.member]).await;
    assert_eq!(changed, 1);
}

/// It has not asked for so long that it may be gone.
async fn fall_silent(lock: &Lock, peer: &Peer) {
    let lease = lock.lease(&peer.member).await.unwrap() - 5_000.0;
    let _: Value = lock.server.ask(&["ZADD", &lock.key("leases"), &lease.to_string(), &peer.member]).await;
}

/// What lies in a store today is read by tomorrow's code.
#[tokio::test]
async fn the_format_is_frozen() {
    let mut lock = Lock::new().await;
    let (one, two) = (Peer::gone(), Peer::gone());
    let first = token(lock.step("try shared", &one.member, TTL).await);
    let second = token(lock.step("try shared", &two.member, 0).await);
    assert!(second > first);
    assert_eq!(lock.owner().await.unwrap(), "shared");
    let records = [&one, &two].map(|peer| (peer, lock.key("records")));
    let mut texts = Vec::new();
    for (peer, key) in &records {
        texts.push(lock.server.ask::<String>(&["HGET", key, &peer.member]).await);
    }
    let parts: Vec<Vec<_>> = texts.iter().map(|text| text.split(' ').collect()).collect();
    assert_eq!((parts[0][0], &parts[0][2..]), (&*first.to_string(), &["20000", "1", "host", "app", one.nonce()][..]));
    let (since, lease) = (parts[1][1], parts[1][2]);
    assert_eq!(lease, format!("@{since}"), "one that never ends is told by when it was heard of");
    let until: f64 = parts[0][1].parse::<f64>().unwrap() + 20_000.0;
    assert_eq!(ends(&lock, &one).await, Some(until));
    assert_eq!(ends(&lock, &two).await, Some(f64::INFINITY));
    for key in ["owner", "holders", "records"] {
        assert_eq!(lock.server.keys().await[&lock.key(key)], -1, "{key} ends before its last holder");
    }
    lock.leave(&two).await;
    for key in ["owner", "holders", "records"] {
        let ttl = lock.server.keys().await[&lock.key(key)];
        assert!(ttl > 0 && ttl <= 20_000 * 9 / 8, "{key} lasts {ttl}");
    }
    let writer = Peer::gone();
    assert_eq!(lock.busy(&writer).await, 0);
    for (what, name) in [("wait shared", "shared 1 host app"), ("wait of7", "of7 1 host app")] {
        let waiter = Peer::gone();
        lock.step(what, &waiter.member, TTL).await;
        let names: String = lock.server.ask(&["HGET", &lock.key("names"), &waiter.member]).await;
        assert_eq!(names, format!("{name} {}", waiter.nonce()));
    }
    lock.step("revoke", "", 0).await;
    let permits = Peer::gone();
    for waiter in lock.waiting().await {
        lock.step("leave", &waiter, 0).await;
    }
    token(lock.step("try of2", &permits.member, TTL).await);
    assert_eq!(lock.owner().await.unwrap(), "permits");
    lock.leave(&permits).await;
    let keys: Vec<_> = lock.server.keys().await.into_keys().collect();
    assert_eq!(keys, [lock.key("fence")], "left behind");
}

/// A live reader must not keep dead ones alive, nor a dead one the live.
#[tokio::test]
async fn each_ends_by_itself() {
    let mut lock = Lock::new().await;
    let (one, two, writer) = (Peer::gone(), Peer::gone(), Peer::gone());
    token(read(&mut lock, &one).await);
    let second = token(lock.step("wait shared", &two.member, 60_000).await);
    assert!(lock.ttl().await > 50_000);
    let before = ends(&lock, &one).await;
    assert_eq!(lock.step("renew", &two.member, 70_000).await, Said::Yes);
    assert_eq!(ends(&lock, &one).await, before, "renewed by somebody else");
    assert!(lock.ttl().await > 60_000);
    // A request that comes late does not cut what was renewed since.
    assert_eq!(token(read(&mut lock, &two).await), second);
    assert!(lock.ttl().await > 60_000);
    expire_one(&lock, &one).await;
    assert_eq!(lock.step("renew", &one.member, TTL).await, Said::No, "its time was over");
    assert_eq!(lock.leave(&one).await, Said::No);
    assert!(matches!(lock.try_to(&writer).await, Said::Busy { .. }));
    // What all of them have may last longer than those that are left: they end by themselves all the same.
    let three = Peer::gone();
    token(read(&mut lock, &three).await);
    assert_eq!(lock.leave(&two).await, Said::Yes);
    assert!(lock.ttl().await > 20_000);
    expire_one(&lock, &three).await;
    token(lock.try_to(&writer).await);
    assert!(lock.is_owned_by(&writer).await);
    assert_eq!(lock.step("renew", &three.member, TTL).await, Said::No);
    assert_eq!(lock.leave(&three).await, Said::No);
    assert!(lock.is_owned_by(&writer).await, "an expired reader's release took the writer's lock");
    assert_eq!(lock.server.ask::<i64>(&["EXISTS", &lock.key("holders"), &lock.key("records")]).await, 0);
}

/// The release of a writer lets in all readers before the next writer, each by its own push.
#[tokio::test]
async fn readers_at_the_head_are_pushed_together() {
    let mut lock = Lock::new().await;
    let holder = Peer::gone();
    let mut readers = [lock.listener().await, lock.listener().await];
    let (mut writer, mut late) = (lock.listener().await, lock.listener().await);
    let held = lock.granted(&holder).await;
    for (place, reader) in (0..).zip(&readers) {
        assert_eq!(rank(read(&mut lock, reader).await), place);
    }
    assert_eq!(lock.busy(&writer).await, 2);
    assert!(matches!(lock.step("poll", &writer.member, TTL).await, Said::Busy { .. }));
    assert_eq!(rank(read(&mut lock, &late).await), 3);
    lock.leave(&holder).await;
    let first = readers[0].told_granted().await;
    let second = readers[1].told_granted().await;
    assert!(held < first && first < second, "{held} {first} {second}");
    assert!(lock.ttl().await <= 1_000 * 9 / 8, "a claim, until it is confirmed");
    assert_eq!(writer.told().await, format!("next {} 1000", writer.member), "should the readers hang");
    late.told_nothing(&lock).await;
    assert_eq!(lock.waiting().await, [&*writer.member, &*late.member]);
    // Confirmed, each for itself.
    assert_eq!(lock.step("renew", &readers[0].member, TTL).await, Said::Yes);
    assert!(ends(&lock, &readers[0]).await > ends(&lock, &readers[1]).await);
    expire_one(&lock, &readers[1]).await;
    assert_eq!(lock.leave(&readers[0]).await, Said::Yes);
    let third = writer.told_granted().await;
    assert!(third > second);
    late.told_nothing(&lock).await;
    lock.leave(&writer).await;
    assert!(late.told_granted().await > third);
    assert_eq!(lock.owner().await.unwrap(), "shared");
}

/// Readers that are gone are passed over one by one, and leave no share.
#[tokio::test]
async fn readers_that_are_gone_get_nothing() {
    let mut lock = Lock::new().await;
    let holder = Peer::gone();
    let (gone, mut there, gone_too, mut writer) =
        (Peer::gone(), lock.listener().await, Peer::gone(), lock.listener().await);
    lock.granted(&holder).await;
    for reader in [&gone, &there, &gone_too] {
        read(&mut lock, reader).await;
    }
    lock.busy(&writer).await;
    lock.leave(&holder).await;
    there.told_granted().await;
    let shares: Vec<String> = lock.server.ask(&["ZRANGE", &lock.key("holders"), "0", "-1"]).await;
    assert_eq!(shares, [there.member.as_str()]);
    assert_eq!(lock.server.ask::<i64>(&["HLEN", &lock.key("records")]).await, 1);
    assert_eq!(lock.waiting().await.len(), 3, "they keep their places, should they come back");
    lock.leave(&there).await;
    writer.told_granted().await;
    assert!(lock.is_owned_by(&writer).await);
    // Nobody who could hold it together is there: nobody has it.
    lock.step("revoke", "", 0).await;
    lock.leave(&writer).await;
    assert_eq!(lock.owner().await, None);
    assert_eq!(lock.server.ask::<i64>(&["EXISTS", &lock.key("holders"), &lock.key("records")]).await, 0);
}

/// A writer that is gone would keep readers out for as long as its lease lasts.
#[tokio::test]
async fn a_writer_that_is_gone_keeps_no_reader_out() {
    let mut lock = Lock::new().await;
    let (reader, gone, next) = (Peer::gone(), Peer::gone(), Peer::gone());
    token(read(&mut lock, &reader).await);
    lock.busy(&gone).await;
    assert_eq!(rank(read(&mut lock, &next).await), 1, "it has just asked");
    fall_silent(&lock, &gone).await;
    token(read(&mut lock, &next).await);
    assert!(lock.lease(&gone.member).await.unwrap() > 1e12, "it keeps its place for a while");
    // One that listens is waited for, however silent, until its lease is over.
    let mut quiet = lock.listener().await;
    lock.leave(&gone).await;
    lock.busy(&quiet).await;
    fall_silent(&lock, &quiet).await;
    let late = Peer::gone();
    assert_eq!(rank(read(&mut lock, &late).await), 1);
    assert_eq!(quiet.told().await, format!("still {} {}", quiet.member, lock.key("owner")));
    let _: Value = lock.server.ask(&["ZADD", &lock.key("leases"), "99", &quiet.member]).await;
    token(read(&mut lock, &late).await);
}

/// A writer that hangs, though it is connected, keeps readers out for a claim from when it was asked, not for as long as
/// its lease lasts; one that answers keeps its place.
#[tokio::test]
async fn a_writer_that_hangs_is_passed_over() {
    let mut lock = Lock::new().await;
    let (reader, mut writer, mut behind, last) =
        (Peer::gone(), lock.listener().await, lock.listener().await, Peer::gone());
    token(read(&mut lock, &reader).await);
    lock.busy(&writer).await;
    assert_eq!(rank(read(&mut lock, &behind).await), 1);
    for answers in [true, false] {
        fall_silent(&lock, &writer).await;
        assert_eq!(rank(lock.step("poll shared", &behind.member, TTL).await), 1);
        assert_eq!(writer.told().await, format!("still {} {}", writer.member, lock.key("owner")));
        assert_eq!(behind.told().await, format!("next {} 1000", behind.member), "should it not answer");
        // Of the one that asked just now it is 29 s.
        let left = lock.lease(&behind.member).await.unwrap() - lock.lease(&writer.member).await.unwrap();
        assert!((left - 28_000.0).abs() < 1.0, "a claim is left to it, not {}", 29_000.0 - left);
        assert_eq!(rank(read(&mut lock, &last).await), 2);
        writer.told_nothing(&lock).await;
        if answers {
            assert_eq!(rank(lock.step("poll", &writer.member, TTL).await), 0);
            assert_eq!(rank(lock.step("poll shared", &behind.member, TTL).await), 1, "it is there");
            assert!(lock.lease(&writer.member).await >= lock.lease(&reader.member).await);
        }
    }
    // As its claim ends.
    let _: Value = lock.server.ask(&["ZADD", &lock.key("leases"), "99", &writer.member]).await;
    token(lock.step("poll shared", &behind.member, TTL).await);
    assert!(!lock.waiting().await.contains(&writer.member));
}

/// Who waits right behind a writer looks when that is to be asked, and then more and more rarely.
#[tokio::test]
async fn whoever_is_behind_a_writer_sees_whether_it_lives() {
    let mut lock = Lock::new().await;
    let (reader, writer, behind, last) =
        (Peer::gone(), lock.listener().await, lock.listener().await, lock.listener().await);
    token(read(&mut lock, &reader).await);
    lock.busy(&writer).await;
    let soon = look(&mut lock, "wait shared", &behind).await.expect("right behind it");
    assert!((1..=3_001).contains(&soon), "{soon}: until it has not asked for three seconds since it entered");
    assert_eq!(look(&mut lock, "wait shared", &last).await, None, "not right behind it");
    // As if they had waited for 20 s.
    let queue = lock.key("queue");
    let ticket: f64 = lock.server.ask(&["ZSCORE", &queue, &behind.member]).await;
    for (member, earlier) in [(&writer.member, 20_000_001.0), (&behind.member, 20_000_000.0)] {
        let _: Value = lock.server.ask(&["ZADD", &queue, &(ticket - earlier).to_string(), member]).await;
    }
    let soon = look(&mut lock, "poll shared", &behind).await.expect("right behind it");
    assert!(soon >= 10_000, "{soon}");
}

/// In how many milliseconds the answer says to look again, if it does. The lock is shared.
async fn look(lock: &mut Lock, what: &str, peer: &Peer) -> Option<i64> {
    let answer = lock.call(&[(what, &peer.member, TTL)]).await.remove(0);
    let Value::Array(parts) = answer else { panic!("it waits: {answer:?}") };
    match parts.as_slice() {
        [_, _, _, _, _, Value::Int(soon)] => Some(*soon),
        _ => None,
    }
}

/// A process that waits for writing and is asked whether it does keeps its place by itself.
#[tokio::test]
async fn a_writer_that_lives_keeps_its_place() {
    let mut lock = Lock::new().await;
    let reader = Peer::gone();
    let locker = tasklock::connect(lock.server.url()).await.unwrap();
    let key = "{tasklock:job}:1:owner";
    token(step_on(&mut lock, "wait shared", key, &reader.member).await);
    let waiting = tokio::spawn({
        let locker = locker.clone();
        async move { locker.acquire("job").await }
    });
    eventually("it waits", async || locker.inspect("job").await.unwrap().waiters == Some(1)).await;
    let members: Vec<String> = lock.server.ask(&["ZRANGE", "{tasklock:job}:1:queue", "0", "-1"]).await;
    let leases = "{tasklock:job}:1:leases";
    let lease: f64 = lock.server.ask(&["ZSCORE", leases, &members[0]]).await;
    let silent = lease - 10_000.0;
    let _: Value = lock.server.ask(&["ZADD", leases, &silent.to_string(), &members[0]]).await;
    // A reader behind it comes and goes, until it has answered; one that did not would be dropped by these.
    let answered = async {
        loop {
            let behind = Peer::gone();
            assert_eq!(rank(step_on(&mut lock, "wait shared", key, &behind.member).await), 1, "it was passed over");
            assert_eq!(step_on(&mut lock, "leave", key, &behind.member).await, Said::No);
            let now: f64 = lock.server.ask(&["ZSCORE", leases, &members[0]]).await;
            if now > silent + 5_000.0 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("it answers");
    assert_eq!(step_on(&mut lock, "leave", key, &reader.member).await, Said::Yes);
    waiting.await.unwrap().unwrap().release().await.unwrap();
}

/// A writer that gives up lets those in that it kept out.
#[tokio::test]
async fn a_writer_that_leaves_lets_readers_in() {
    let mut lock = Lock::new().await;
    for leave in ["leave", "withdraw"] {
        let (reader, writer, mut behind) = (Peer::gone(), Peer::gone(), lock.listener().await);
        token(read(&mut lock, &reader).await);
        lock.busy(&writer).await;
        rank(read(&mut lock, &behind).await);
        assert_eq!(lock.step(leave, &writer.member, 0).await, Said::No);
        behind.told_granted().await;
        lock.leave(&behind).await;
        lock.leave(&reader).await;
    }
}

/// Each kind keeps the others out, in the store too.
#[tokio::test]
async fn kinds_exclude_each_other() {
    let mut lock = Lock::new().await;
    for held in ["try", "try shared", "try of9"] {
        let holder = Peer::gone();
        token(lock.step(held, &holder.member, TTL).await);
        for asked in ["try", "try shared", "try of9"] {
            let said = lock.step(asked, &Peer::gone().member, TTL).await;
            let beside = asked == held && held != "try";
            assert_eq!(matches!(said, Said::Granted(_)), beside, "{asked} beside {held}: {said:?}");
        }
        lock.step("revoke", "", 0).await;
        assert_eq!(lock.owner().await, None);
    }
}

/// A permit is free as soon as its holder's time is over, and goes to who waits first.
#[tokio::test]
async fn permits_pass_on() {
    let mut lock = Lock::new().await;
    let (one, two) = (Peer::gone(), Peer::gone());
    let (mut first, mut second) = (lock.listener().await, lock.listener().await);
    token(lock.step("wait of2", &one.member, TTL).await);
    token(lock.step("wait of2", &two.member, TTL).await);
    assert_eq!(rank(lock.step("wait of2", &first.member, TTL).await), 0);
    assert_eq!(rank(lock.step("wait of2", &second.member, TTL).await), 1);
    // One more for a caller that counts three, but not before those who wait.
    assert_eq!(rank(lock.step("try of3", &Peer::gone().member, TTL).await), -1);
    expire_one(&lock, &one).await;
    assert_eq!(rank(lock.step("try of2", &Peer::gone().member, TTL).await), -1);
    first.told_granted().await;
    second.told_nothing(&lock).await;
    assert_eq!(lock.leave(&two).await, Said::Yes);
    second.told_granted().await;
    assert_eq!(lock.step("revoke", first.nonce(), 0).await, Said::Yes);
    assert_eq!(lock.step("renew", &first.member, TTL).await, Said::No);
    assert_eq!(lock.step("renew", &second.member, TTL).await, Said::Yes, "revoked with the other");
}

/// An acquisition overtaken by its own withdrawal, in any mode; and one that is withdrawn after it.
#[tokio::test]
async fn a_withdrawn_share_finds_nothing() {
    let mut lock = Lock::new().await;
    for ask in ["wait shared", "wait of1"] {
        let (late, next) = (Peer::gone(), Peer::gone());
        assert_eq!(lock.step("withdraw", &late.member, 0).await, Said::No);
        assert_eq!(lock.step(ask, &late.member, TTL).await, Said::Withdrawn);
        token(lock.step(ask, &next.member, TTL).await);
        assert_eq!(lock.step(ask, &late.member, TTL).await, Said::Withdrawn);
        assert_eq!(lock.step("withdraw", &next.member, 0).await, Said::Yes);
        assert_eq!(lock.owner().await, None);
    }
}

/// What the script costs where nobody is in the way: commands of the server within one call.
#[tokio::test]
async fn an_exclusive_lock_pays_nothing_for_the_other_kinds() {
    let mut lock = Lock::new().await;
    let peer = Peer::gone();
    let expected: [(&str, &[(&str, u64)]); 3] = [
        ("wait", &[("exists", 1), ("set", 2), ("time", 1)]),
        ("renew", &[("get", 1), ("pexpire", 1)]),
        ("leave", &[("del", 1), ("exists", 1), ("get", 1)]),
    ];
    for (what, cost) in expected {
        lock.server.reset_counts().await;
        lock.step(what, &peer.member, TTL).await;
        let mut counts = lock.server.counts().await;
        for own in ["eval", "config|resetstat", "info", "client|setinfo", "hello"] {
            counts.remove(own);
        }
        let counts: Vec<_> = counts.iter().map(|(name, calls)| (name.as_str(), *calls)).collect();
        assert_eq!(counts, cost, "{what}");
    }
}

const NAMES: [&str; 3] = ["{set}a:1:owner", "{set}b:1:owner", "{set}c:1:owner"];

/// One call for several locks; one member each.
async fn all(lock: &mut Lock, what: &str, peers: &[Peer; 3]) -> Vec<Said> {
    let mut call = redis::cmd("EVAL");
    call.arg(SCRIPT).arg(NAMES.len()).arg(&NAMES);
    for peer in peers {
        call.arg(what).arg(&peer.member).arg(TTL).arg("1 host app name");
    }
    let Value::Array(answers) = call.query_async(&mut lock.connection).await.unwrap() else { panic!("no answers") };
    answers.iter().map(|answer| said(what, answer)).collect()
}

async fn one(lock: &mut Lock, what: &str, name: &str, peer: &Peer) -> Said {
    step_on(lock, what, name, &peer.member).await
}

async fn revoke(lock: &mut Lock, name: &str) {
    step_on(lock, "revoke", name, "").await;
}

async fn step_on(lock: &mut Lock, what: &str, name: &str, member: &str) -> Said {
    let mut call = redis::cmd("EVAL");
    call.arg(SCRIPT).arg(1).arg(name).arg(what).arg(member).arg(TTL).arg("1 host app name");
    said(what, &call.query_async(&mut lock.connection).await.unwrap())
}

fn three() -> [Peer; 3] {
    [Peer::gone(), Peer::gone(), Peer::gone()]
}

fn are_granted(said: &[Said]) -> bool {
    said.iter().all(|said| matches!(said, Said::Granted(_)))
}

/// All or none, in any mode, and the same again.
#[tokio::test]
async fn several_locks_are_taken_together_or_not_at_all() {
    let mut lock = Lock::new().await;
    for what in ["all", "all shared", "all of1"] {
        let (mine, others) = (three(), three());
        let said = all(&mut lock, what, &mine).await;
        assert!(are_granted(&said), "{what}: {said:?}");
        assert_eq!(all(&mut lock, what, &mine).await, said, "asked again");
        if what == "all shared" {
            assert!(are_granted(&all(&mut lock, what, &others).await), "readers share");
            for (name, peer) in NAMES.iter().zip(&others) {
                assert_eq!(one(&mut lock, "leave", name, peer).await, Said::Yes);
            }
        } else {
            let said = all(&mut lock, what, &others).await;
            assert!(said.iter().all(|said| matches!(said, Said::Busy { .. })), "{what}: {said:?}");
        }
        assert_eq!(one(&mut lock, "leave", NAMES[0], &mine[0]).await, Said::Yes);
        assert_eq!(one(&mut lock, "leave", NAMES[2], &mine[2]).await, Said::Yes);
        let said = all(&mut lock, "all", &others).await;
        assert_eq!((&said[0], &said[2]), (&Said::No, &Said::No), "{what}");
        assert!(matches!(said[1], Said::Busy { .. }), "{what}: {said:?}");
        token(one(&mut lock, "try", NAMES[0], &Peer::gone()).await);
        // What is left of a set stays when the rest of it cannot be had any more: its holder may know of no other answer.
        let said = all(&mut lock, what, &mine).await;
        assert!(matches!(said[..], [Said::Busy { .. }, Said::No, Said::No]), "{what}: {said:?}");
        assert!(matches!(one(&mut lock, "try", NAMES[1], &Peer::gone()).await, Said::Busy { .. }), "{what}");
        token(one(&mut lock, "try", NAMES[2], &Peer::gone()).await);
        for name in NAMES {
            revoke(&mut lock, name).await;
        }
    }
}

/// Who takes several does not push before those who wait for one of them.
#[tokio::test]
async fn a_set_stands_behind_those_who_wait() {
    let mut lock = Lock::new().await;
    let (holder, mut waiter, mine) = (Peer::gone(), lock.listener().await, three());
    token(one(&mut lock, "try", NAMES[1], &holder).await);
    rank(one(&mut lock, "wait", NAMES[1], &waiter).await);
    let _: Value = lock.server.ask(&["DEL", NAMES[1]]).await;
    assert!(matches!(all(&mut lock, "all", &mine).await[..], [Said::No, Said::Busy { .. }, Said::No]));
    waiter.told_granted().await;
    assert_eq!(one(&mut lock, "leave", NAMES[1], &waiter).await, Said::Yes);
    // One that is gone is not waited for.
    token(one(&mut lock, "try", NAMES[1], &holder).await);
    rank(one(&mut lock, "wait", NAMES[1], &Peer::gone()).await);
    let _: Value = lock.server.ask(&["DEL", NAMES[1]]).await;
    assert!(are_granted(&all(&mut lock, "all", &mine).await));
}

/// Something that is no lock, or a withdrawal, among several: none is taken.
#[tokio::test]
async fn a_set_with_something_odd_in_it_takes_nothing() {
    let mut lock = Lock::new().await;
    let mine = three();
    assert_eq!(one(&mut lock, "withdraw", NAMES[2], &mine[2]).await, Said::No);
    assert_eq!(all(&mut lock, "all", &mine).await, [Said::No, Said::No, Said::Withdrawn]);
    let _: Value = lock.server.ask(&["LPUSH", NAMES[1], "x"]).await;
    let said = all(&mut lock, "all", &three()).await;
    assert!(said.iter().all(|said| matches!(said, Said::Failed(why) if why.contains("WRONGTYPE"))), "{said:?}");
    assert_eq!(lock.server.ask::<i64>(&["EXISTS", NAMES[0], NAMES[2]]).await, 0);
}
