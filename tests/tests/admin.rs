//! What others see of a lock, and what they may do about it.

use std::time::Duration;

use tasklock::{
    Attempt, Busy, LockError, Locker, LossReason, MemoryLock, Renew, Status, Ttl,
    testing::{Fault, Op},
};
use tasklock_tests::{Script, faulty, other};
use tokio::time::Instant;

const S: fn(u64) -> Duration = Duration::from_secs;

#[tokio::test(start_paused = true)]
async fn four_kinds_of_status() {
    let store = MemoryLock::new();
    let (here, there) = (other(&store), other(&store));
    assert_eq!(there.status("job", S(9)).await.unwrap(), Status::Free);
    let guard = here.key("job").ttl(S(10)).acquire().await.unwrap();
    let status = there.status("job", S(9)).await.unwrap();
    assert!(matches!(&status, Status::Unavailable(by) if by.token == Some(guard.fencing_token())), "{status:?}");
    assert!(matches!(there.status("job", S(10)).await.unwrap(), Status::Locked(_)));
    drop(guard);
    let _endless = here.key("job").ttl(Ttl::Never).acquire().await.unwrap();
    assert!(matches!(there.status("job", Duration::MAX).await.unwrap(), Status::Endless(_)));
    // Of those who share, the last to go counts.
    let _short = here.key("doc").shared().ttl(S(5)).acquire().await.unwrap();
    let _long = here.key("doc").shared().ttl(S(50)).acquire().await.unwrap();
    assert!(matches!(there.status("doc", S(20)).await.unwrap(), Status::Unavailable(_)));
    assert!(matches!(there.status("doc", S(50)).await.unwrap(), Status::Locked(_)));
    assert!(matches!(there.status("", S(1)).await, Err(LockError::InvalidKey(_))));
}

#[tokio::test(start_paused = true)]
async fn many_are_asked_about_at_once() {
    let (lock, faults, store) = faulty();
    let there = other(&store);
    let keys: Vec<String> = (0..200).map(|n| format!("job:{n}")).collect();
    let mut held = Vec::new();
    for key in keys.iter().step_by(3) {
        held.push(there.acquire(key).await.unwrap());
    }
    faults.always(Op::Inspect, Fault::DelayReply(S(1)));
    let started = Instant::now();
    let states = lock.who(&keys).await.unwrap();
    // By 64, on a clock that moves only while all wait.
    assert_eq!(started.elapsed().as_secs(), 4);
    for (number, (key, state)) in states.iter().enumerate() {
        assert_eq!((key.name(), state.is_free()), (keys[number].as_str(), number % 3 != 0), "{number}");
    }
    faults.always(Op::Inspect, Fault::Refuse);
    assert!(matches!(lock.who(&keys).await, Err(LockError::Backend(_))));
    assert!(matches!(lock.who(Vec::<&str>::new()).await, Err(LockError::InvalidOption(_))));
}

/// However old it is: who gives signs of life is not stale.
#[tokio::test(start_paused = true)]
async fn only_the_silent_are_stale() {
    let store = MemoryLock::new();
    let (here, there) = (other(&store), other(&store));
    let live = here.acquire("job").await.unwrap();
    let silent = here.key("other").ttl(S(600)).renew(Renew::Off).acquire().await.unwrap();
    tokio::time::sleep(S(120)).await;
    assert!(!there.break_if_stale("job", S(30)).await.unwrap(), "old, and renewed");
    assert!(!there.break_if_stale("other", S(121)).await.unwrap(), "not yet silent for so long");
    assert!(there.break_if_stale("other", S(120)).await.unwrap());
    let next = there.acquire("other").await.unwrap();
    assert!(next.fencing_token() > silent.fencing_token());
    assert!(!here.break_if_stale("other", S(1)).await.unwrap(), "the next one is fresh");
    assert!(!here.break_if_stale("nobody", S(0)).await.unwrap());
    assert!(live.is_held() && next.is_held());
}

/// A permanent lock whose holder hangs is what this is for.
#[tokio::test(start_paused = true)]
async fn a_permanent_lock_whose_holder_is_dead() {
    let (lock, faults, store) = faulty();
    let there = other(&store);
    let hung = lock.key("job").ttl(Ttl::Never).acquire().await.unwrap();
    tokio::time::sleep(S(100)).await;
    assert!(!there.break_if_stale("job", S(60)).await.unwrap(), "looked after every 30 s");
    faults.always(Op::Renew, Fault::Refuse);
    tokio::time::sleep(S(100)).await;
    assert!(there.break_if_stale("job", S(60)).await.unwrap());
    let next = there.acquire("job").await.unwrap();
    faults.clear();
    assert_eq!(hung.lost().await, LossReason::Stolen);
    drop(hung);
    assert!(next.is_held());
}

#[tokio::test(start_paused = true)]
async fn of_those_who_share_only_the_silent_are_broken() {
    let store = MemoryLock::new();
    let (here, there) = (other(&store), other(&store));
    let slots = here.semaphore("slots", 2).unwrap();
    let silent = slots.clone().ttl(S(600)).renew(Renew::Off).acquire().await.unwrap();
    let live = slots.acquire().await.unwrap();
    tokio::time::sleep(S(60)).await;
    assert!(there.break_if_stale("slots", S(30)).await.unwrap());
    let state = there.inspect("slots").await.unwrap();
    let left: Vec<_> = state.holders().map(|holder| holder.token.unwrap()).collect();
    assert_eq!(left, [live.fencing_token()]);
    assert_eq!(silent.release().await.unwrap(), tasklock::ReleaseOutcome::AlreadyLost);
}

#[tokio::test]
async fn a_store_that_cannot_says_so() {
    let lock = Locker::new(Script::new(|_| Attempt::Busy(Busy::default()))).unwrap();
    for broken in [lock.break_if_stale("job", S(1)).await, lock.break_lock("job").await] {
        assert!(matches!(broken, Err(LockError::Unsupported { backend: "script", .. })), "{broken:?}");
    }
}
