//! Holders that went silent: found on the watcher's own clock, taken over by what was seen, and by nothing else.

use std::time::Duration;

use serde_json::json;
use tasklock::{
    Administer, AsyncLock, Attempt, Claim, Clock, Intent, Locker, LossReason, Nonce, Released, Renew, Renewed, Request,
    Ttl, dynamodb::DynamoLock, wall_micros,
};
use tasklock_tests_dynamodb::{Emulator, in_time, request};
use tokio::time::advance;

const LEASE: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_millis(1);

async fn granted(store: &DynamoLock, request: &Request) -> u64 {
    match store.try_acquire(request).await {
        Ok(Attempt::Granted(grant)) => grant.token.expect("a token").get(),
        other => panic!("not granted: {other:?}"),
    }
}

async fn busy_for(store: &DynamoLock, request: &Request) -> Option<Duration> {
    match store.try_acquire(request).await {
        Ok(Attempt::Busy(busy)) => busy.retry_in,
        other => panic!("not busy: {other:?}"),
    }
}

/// Tries that come one by one find a dead holder out together: what one saw, the next one knows.
#[tokio::test(start_paused = true)]
async fn a_try_takes_an_expired_lock() {
    let emulator = Emulator::start().await;
    let (dead, store) = (emulator.direct(), emulator.direct());
    let first = granted(&dead, &request("job", LEASE)).await;
    // However long ago that was: a client that sees it for the first time knows nothing yet.
    advance(LEASE * 5).await;
    assert_eq!(busy_for(&store, &request("job", LEASE)).await, Some(LEASE));
    advance(LEASE - MOMENT).await;
    assert_eq!(busy_for(&store, &request("job", LEASE)).await, Some(MOMENT));
    advance(MOMENT).await;
    assert!(granted(&store, &request("job", LEASE)).await > first);
    assert_eq!(store.watched(), 0);
}

/// Through the locker's own `try_acquire`, without waiting.
#[tokio::test(start_paused = true)]
async fn a_service_that_only_tries() {
    let emulator = Emulator::start().await;
    granted(&emulator.direct(), &request("tasklock:job", LEASE)).await;
    let lock = Locker::new(emulator.direct()).unwrap();
    assert!(lock.try_acquire("job").await.unwrap().is_none());
    advance(LEASE).await;
    assert!(lock.try_acquire("job").await.unwrap().is_some());
}

/// The holder's lease counts, not that of whoever waits.
#[tokio::test(start_paused = true)]
async fn by_the_holders_lease() {
    let emulator = Emulator::start().await;
    let store = emulator.direct();
    granted(&emulator.direct(), &request("job", LEASE)).await;
    let short = request("job", Duration::from_millis(100));
    assert_eq!(busy_for(&store, &short).await, Some(LEASE));
    advance(Duration::from_secs(1)).await;
    assert_eq!(busy_for(&store, &short).await, Some(LEASE - Duration::from_secs(1)));
    // And a holder that extends for longer is believed for longer, from the answer that shows it.
    let long = request("long", LEASE);
    let holder = emulator.direct();
    granted(&holder, &long).await;
    busy_for(&store, &request("long", LEASE)).await;
    let claim = {
        let mut claim = Claim::of(&long);
        claim.ttl = Ttl::For(LEASE * 6);
        claim
    };
    assert!(matches!(holder.renew(&[claim]).await[..], [Ok(Renewed::Held { .. })]));
    assert_eq!(busy_for(&store, &request("long", LEASE)).await, Some(LEASE * 6));
}

/// Each renewal is a sign of life, however rarely others look.
#[tokio::test(start_paused = true)]
async fn a_holder_that_renews_is_never_taken_over() {
    let emulator = Emulator::start().await;
    let (holder, store) = (emulator.direct(), emulator.direct());
    let held = request("job", LEASE);
    granted(&holder, &held).await;
    for _ in 0..20 {
        busy_for(&store, &request("job", LEASE)).await;
        advance(LEASE / 2).await;
        assert!(matches!(holder.renew(&[Claim::of(&held)]).await[..], [Ok(Renewed::Held { .. })]));
        advance(LEASE / 2 + MOMENT).await;
    }
    assert_eq!(holder.release(&Claim::of(&held)).await.unwrap(), Released::Released);
}

/// An observation is of one holder's one beat. Neither the next holder nor the next beat is taken for it: `hb` goes on
/// counting over release, take-over and a new acquisition.
#[tokio::test(start_paused = true)]
async fn what_was_seen_once_never_comes_again() {
    let emulator = Emulator::start().await;
    let (holder, watcher) = (emulator.direct(), emulator.direct());
    let beat = || emulator.item("job").unwrap()["hb"].clone();
    let mut beats = Vec::new();
    for _ in 0..3 {
        let held = request("job", LEASE);
        granted(&holder, &held).await;
        beats.push(beat());
        busy_for(&watcher, &request("job", LEASE)).await;
        holder.renew(&[Claim::of(&held)]).await;
        beats.push(beat());
        holder.release(&Claim::of(&held)).await.unwrap();
        beats.push(beat());
    }
    let numbers = ["1", "2", "2", "3", "4", "4", "5", "6", "6"].map(|n| dynoxide::AttributeValue::N(n.to_owned()));
    assert_eq!(beats, numbers);
    // The watcher's last sighting is long stale, and of nobody: the lock is held by another now.
    let held = request("job", LEASE);
    granted(&holder, &held).await;
    advance(LEASE * 3).await;
    assert_eq!(busy_for(&watcher, &request("job", LEASE)).await, Some(LEASE), "taken by a stale sighting of another");
}

/// The beats of an item that was deleted begin anew. What was seen of the last holder says nothing of the next.
#[tokio::test(start_paused = true)]
async fn the_same_beat_of_another() {
    let emulator = Emulator::start().await;
    let watcher = emulator.direct();
    granted(&emulator.direct(), &request("job", LEASE)).await;
    assert_eq!(busy_for(&watcher, &request("job", LEASE)).await, Some(LEASE));
    let beat = emulator.item("job").unwrap()["hb"].clone();
    emulator.delete("job");
    granted(&emulator.direct(), &request("job", LEASE)).await;
    assert_eq!(emulator.item("job").unwrap()["hb"], beat);
    advance(LEASE).await;
    assert_eq!(busy_for(&watcher, &request("job", LEASE)).await, Some(LEASE), "taken by the sighting of another");
}

/// Several tokens at once: the grant names the first, and the next grant is above the last.
#[tokio::test(start_paused = true)]
async fn tokens_in_a_row() {
    let emulator = Emulator::start().await;
    let store = emulator.direct();
    let mut five = request("job", LEASE);
    five.span = std::num::NonZeroU32::new(5).unwrap();
    let first = granted(&store, &five).await;
    assert_eq!(emulator.item("job").unwrap()["tok"], dynoxide::AttributeValue::N((first + 4).to_string()));
    assert_eq!(granted(&store, &five).await, first, "asked again");
    store.release(&Claim::of(&five)).await.unwrap();
    assert_eq!(granted(&store, &request("job", LEASE)).await, first + 5);
}

/// Two see the same holder dead. One of them gets it.
#[tokio::test(start_paused = true)]
async fn one_of_many_takes_over() {
    let emulator = Emulator::start().await;
    granted(&emulator.direct(), &request("job", LEASE)).await;
    let watchers: Vec<_> = (0..8).map(|_| emulator.direct()).collect();
    for watcher in &watchers {
        busy_for(watcher, &request("job", LEASE)).await;
    }
    advance(LEASE).await;
    let mut grants = 0;
    for watcher in &watchers {
        grants += usize::from(matches!(watcher.try_acquire(&request("job", LEASE)).await, Ok(Attempt::Granted(_))));
    }
    assert_eq!(grants, 1);
}

/// A reply is lost, the caller never asks again, and another acquisition of the same client takes over from it: its own
/// earlier sighting and the new hold are not mistaken for each other.
#[tokio::test(start_paused = true)]
async fn a_take_over_from_oneself() {
    let emulator = Emulator::start().await;
    let store = emulator.direct();
    let lost = request("job", LEASE);
    let first = granted(&store, &lost).await;
    let next = request("job", LEASE);
    assert_eq!(busy_for(&store, &next).await, Some(LEASE));
    advance(LEASE).await;
    let second = granted(&store, &next).await;
    assert_eq!(second, first + 1);
    // The one that was lost is told so, and a third must watch for a whole lease again.
    assert!(matches!(store.renew(&[Claim::of(&lost)]).await[..], [Ok(Renewed::NotOwner)]));
    assert_eq!(busy_for(&store, &lost).await, Some(LEASE));
    advance(LEASE - MOMENT).await;
    assert_eq!(busy_for(&store, &request("job", LEASE)).await, Some(MOMENT));
}

/// The nonce that holds it, asked long after: dated from its first attempt, so that core does not believe it.
#[tokio::test(start_paused = true)]
async fn a_grant_told_late_is_dated_early() {
    let emulator = Emulator::start().await;
    let store = emulator.direct();
    let mut late = request("job", LEASE);
    granted(&store, &late).await;
    advance(LEASE * 2).await;
    late.intent = Intent::Poll { attempt: 1 };
    let Ok(Attempt::Granted(grant)) = store.try_acquire(&late).await else { panic!("it has it") };
    let tasklock::Validity::Until(until) = grant.validity else { panic!("an end") };
    assert!(until < Clock::current().now(), "a lease that is over was told as fresh");
}

/// A lock without an end is nobody's to take but an operator's, who may break what was seen and nothing else.
#[tokio::test(start_paused = true)]
async fn a_lock_without_an_end_stays() {
    let emulator = Emulator::start().await;
    let (holder, store) = (emulator.direct(), emulator.direct());
    let before = request("job", LEASE);
    granted(&holder, &before).await;
    holder.release(&Claim::of(&before)).await.unwrap();
    assert!(emulator.item("job").unwrap().contains_key("purge_at"));
    let mut held = request("job", LEASE);
    held.ttl = Ttl::Never;
    let first = granted(&holder, &held).await;
    let purge_at_of = |key: &str| match emulator.item(key).unwrap().get("purge_at") {
        Some(dynoxide::AttributeValue::N(seconds)) => seconds.parse().unwrap(),
        Some(other) => panic!("{other:?}"),
        None => u64::MAX,
    };
    let purge_at = || purge_at_of("job");
    let in_a_century = wall_micros() / 1_000_000 + 100 * 365 * 86_400;
    assert!(purge_at() > in_a_century, "the table would delete it one day");
    assert_eq!(busy_for(&store, &request("job", LEASE)).await, None);
    // One who waited for it and does not know what became of the last attempt leaves it as it is.
    let mut gone = Claim::of(&request("job", LEASE));
    gone.unsettled = true;
    assert_eq!(store.release(&gone).await.unwrap(), Released::NotOwner);
    assert!(purge_at() > in_a_century, "the table would delete it after a withdrawal");
    advance(Duration::from_secs(1_000_000)).await;
    assert_eq!(busy_for(&store, &request("job", LEASE)).await, None);
    let key = &held.key;
    assert!(!store.revoke(key, Some(Nonce::fresh())).await.unwrap());
    assert!(store.revoke(key, Some(held.nonce)).await.unwrap());
    assert!(purge_at() < in_a_century, "broken, it is never deleted");
    assert!(granted(&store, &request("job", LEASE)).await > first);
    assert!(purge_at() < in_a_century);
    let mut other = request("other", LEASE);
    other.ttl = Ttl::Never;
    granted(&holder, &other).await;
    holder.release(&Claim::of(&other)).await.unwrap();
    assert!(purge_at_of("other") < in_a_century, "given back, it is never deleted");
}

/// Clocks hours apart: tokens rise all the same, nobody is taken over early, and who holds it since when is only told.
#[tokio::test(start_paused = true)]
async fn wall_clocks_two_hours_off() {
    let emulator = Emulator::start().await;
    let store = emulator.direct();
    for (name, hours) in [("ahead", 2_i64), ("behind", -2)] {
        let then = (wall_micros() / 1_000_000).checked_add_signed(hours * 3600).unwrap();
        let minted = then * 1_000_000;
        emulator.put(&json!({
            "pk": {"S": name}, "fmt": {"N": "1"}, "own": {"S": Nonce::fresh().to_string()}, "hb": {"N": "7"},
            "ld": {"N": "10000"}, "tok": {"N": minted.to_string()}, "purge_at": {"N": (then + 30 * 86_400).to_string()},
            "holder": {"M": {"name": {"S": "elsewhere"}, "since": {"N": then.to_string()}}},
        }));
        let Ok(Attempt::Busy(busy)) = store.try_acquire(&request(name, LEASE)).await else { panic!("it is held") };
        assert_eq!(busy.retry_in, Some(LEASE));
        assert_eq!(busy.holder.unwrap().owner.name(), "elsewhere");
        advance(LEASE).await;
        assert_eq!(granted(&store, &request(name, LEASE)).await, minted + 1);
    }
    assert_eq!(emulator.database().sweep_ttl().unwrap(), 0, "the table takes items in use for rubbish");
}

/// Waiters of several processes behind a dead holder, by the locker: all are through, one after the other.
#[tokio::test(start_paused = true)]
async fn waiters_behind_a_dead_holder() {
    let emulator = Emulator::start().await;
    let dead = Locker::builder(emulator.direct()).ttl(LEASE).renew(Renew::Off).build().unwrap();
    let guard = dead.acquire("job").await.unwrap();
    let token = guard.fencing_token();
    std::mem::forget(guard);
    let mut waiters = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let lock = Locker::new(emulator.direct()).unwrap();
        waiters.spawn(async move {
            let guard = in_time(lock.acquire("job")).await.unwrap();
            let token = guard.fencing_token();
            guard.release().await.unwrap();
            token
        });
    }
    let mut tokens = vec![token];
    while let Some(token) = waiters.join_next().await {
        tokens.push(token.unwrap());
    }
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    assert_eq!(tokens.len(), 11);
}

/// The first holder learns by its next renewal that somebody took over, and why.
#[tokio::test(start_paused = true)]
async fn the_one_taken_over_is_told() {
    let emulator = Emulator::start().await;
    let here = Locker::builder(emulator.direct()).ttl(LEASE).build().unwrap();
    let guard = here.acquire("job").await.unwrap();
    let there = Locker::new(emulator.direct()).unwrap();
    assert!(there.break_lock("job").await.unwrap());
    let next = there.acquire("job").await.unwrap();
    assert_eq!(in_time(guard.lost()).await, LossReason::Stolen);
    assert!(next.is_held() && next.fencing_token() > guard.fencing_token());
}
