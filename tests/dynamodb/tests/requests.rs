//! What is asked of the table, counted between the SDK and the table: DynamoDB bills by it.

use std::time::Duration;

use tasklock::{AsyncLock, Claim, Intent, LockError, Locker, Renew, RetryPolicy, Ttl, testing::until_quiet};
use tasklock_tests::Seen;
use tasklock_tests_dynamodb::{Emulator, Kind, request, until};

#[tokio::test]
async fn a_cycle_is_two_writes_and_no_read() {
    let emulator = Emulator::start().await;
    let lock = Locker::new(emulator.store()).unwrap();
    for key in ["new", "used", "used"] {
        emulator.proxy().reset_counts();
        lock.acquire(key).await.unwrap().release().await.unwrap();
        assert_eq!(emulator.proxy().seen(), [Kind::Acquire, Kind::Release]);
    }
    emulator.proxy().reset_counts();
    drop(lock.try_acquire("used").await.unwrap().unwrap());
    until_quiet(&lock).await;
    assert_eq!(emulator.proxy().seen(), [Kind::Acquire, Kind::Release]);
}

/// The first attempt is a write, for it hopes; whoever looks again reads.
#[tokio::test]
async fn a_look_at_a_held_lock_is_one_read() {
    let emulator = Emulator::start().await;
    let (store, holder) = (emulator.store(), request("job", Duration::from_secs(30)));
    store.try_acquire(&holder).await.unwrap();
    emulator.proxy().reset_counts();
    let mut waiter = request("job", Duration::from_secs(30));
    waiter.intent = Intent::Wait;
    store.try_acquire(&waiter).await.unwrap();
    for attempt in 1..=10 {
        waiter.intent = Intent::Poll { attempt };
        store.try_acquire(&waiter).await.unwrap();
    }
    let reads = [Kind::Read; 10];
    assert_eq!(emulator.proxy().seen(), [&[Kind::Acquire][..], &reads].concat());
    // Free again: one read sees it, one write takes it.
    store.release(&Claim::of(&holder)).await.unwrap();
    emulator.proxy().reset_counts();
    store.try_acquire(&waiter).await.unwrap();
    assert_eq!(emulator.proxy().seen(), [Kind::Read, Kind::Acquire]);
}

/// The table has answered that somebody else has it: there is nothing to give back.
#[tokio::test]
async fn giving_up_costs_nothing() {
    let emulator = Emulator::start().await;
    let (here, there) = (Locker::new(emulator.store()).unwrap(), Locker::new(emulator.store()).unwrap());
    let _guard = here.acquire("job").await.unwrap();
    emulator.proxy().reset_counts();
    assert!(there.try_acquire("job").await.unwrap().is_none());
    until_quiet(&there).await;
    assert_eq!(emulator.proxy().seen(), [Kind::Acquire]);
    // Asked once, and long answered when the time is over: what is under way then has to be withdrawn.
    let seldom = RetryPolicy::fixed(Duration::from_secs(60));
    let error = there.key("job").retry(seldom).wait(Duration::from_secs(2)).acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Timeout { .. }), "{error}");
    until_quiet(&there).await;
    assert_eq!(emulator.proxy().count(Kind::Release) + emulator.proxy().count(Kind::Withdraw), 0);
    assert_eq!(emulator.proxy().count(Kind::Acquire), 2, "{:?}", emulator.proxy().seen());
}

#[tokio::test]
async fn a_renewal_is_one_write() {
    let emulator = Emulator::start().await;
    let seen = Seen::default();
    let builder = Locker::builder(emulator.store()).observer(seen.clone());
    let lock = builder.renew(Renew::Every(Duration::from_millis(100))).build().unwrap();
    let guards = [lock.acquire("a").await.unwrap(), lock.acquire("b").await.unwrap()];
    until(|| seen.count("renewed") >= 20).await;
    drop(guards);
    until_quiet(&lock).await;
    // One of each lock may have been under way when its guard was dropped, and is not told any more.
    let (sent, told) = (emulator.proxy().count(Kind::Renew), seen.count("renewed"));
    assert!((told..=told + 2).contains(&sent), "{sent} writes for {told} renewals");
    assert_eq!(emulator.proxy().count(Kind::Read), 0);
}

/// One more if it is not the first of a quarter of an hour, and one more if it had the lock.
#[tokio::test]
async fn a_withdrawal_is_one_write_to_three() {
    let emulator = Emulator::start().await;
    let store = emulator.store();
    let [holder, first, second] = [(); 3].map(|()| request("job", Duration::from_secs(30)));
    store.try_acquire(&holder).await.unwrap();
    let withdraw = async |request| {
        let mut claim = Claim::of(request);
        claim.unsettled = true;
        emulator.proxy().reset_counts();
        store.release(&claim).await.unwrap();
        emulator.proxy().seen()
    };
    assert_eq!(withdraw(&first).await, [Kind::Withdraw]);
    // Should a quarter begin just here, it is the first of that.
    let next = withdraw(&second).await;
    assert!(next == [Kind::Withdraw; 2] || next == [Kind::Withdraw], "{next:?}");
    let held = withdraw(&holder).await;
    assert!(held.ends_with(&[Kind::Withdraw, Kind::Release]) && held.len() <= 3, "{held:?}");
}

#[tokio::test]
async fn a_lock_without_an_end_costs_the_same() {
    let emulator = Emulator::start().await;
    let lock = Locker::new(emulator.store()).unwrap();
    let guard = lock.key("job").ttl(Ttl::Never).acquire().await.unwrap();
    guard.extend(Ttl::Never).await.unwrap();
    guard.release().await.unwrap();
    assert_eq!(emulator.proxy().seen(), [Kind::Acquire, Kind::Renew, Kind::Release]);
}
