//! Synchronous code: it has whatever asynchronous code has.

use std::{thread, time::Duration};

use tasklock::{
    LockError, Locker, MemoryLock, ReleaseMode, ReleaseOutcome, Renew, When, blocking, current,
    testing::{Fault, Faulty, Op},
};

const S: fn(u64) -> Duration = Duration::from_secs;

fn memory() -> (blocking::Locker, MemoryLock) {
    let store = MemoryLock::new();
    let made = store.clone();
    (blocking::Locker::start(async { Locker::new(made) }).unwrap(), store)
}

#[test]
fn several_keys_together() {
    let (lock, store) = memory();
    let all = lock.all(["b", "a", "c"]).unwrap();
    let mut guards = all.acquire().unwrap();
    assert_eq!((guards.len(), guards.is_held()), (3, true));
    assert!(all.try_acquire().unwrap().is_none());
    let one = guards.take("b").expect("one of them");
    assert_eq!(one.release().unwrap(), ReleaseOutcome::Released);
    assert!(lock.try_acquire("b").unwrap().is_some());
    assert_eq!(guards.release().unwrap(), ReleaseOutcome::Released);
    let leases = all.synchronized_with(|leases| {
        assert_eq!(current().unwrap().key().name(), "c");
        leases
    });
    assert_eq!(leases.unwrap().iter().filter(|lease| !lease.is_held()).count(), 3, "given back at the end");
    assert!(store.is_empty());
    let held = lock.acquire("a").unwrap();
    assert!(all.synchronized_if_free_with(|_| ()).unwrap().is_none());
    let late = all.with(|all| all.wait(Duration::from_millis(20))).acquire().map(drop).unwrap_err();
    assert!(late.is_contended(), "{late}");
    drop(held);
    assert!(matches!(lock.all([""]), Err(LockError::InvalidKey(_))));
}

#[test]
fn whichever_is_free() {
    let (lock, _) = memory();
    let any = lock.any(["a", "b"]).unwrap();
    let (one, two) = (any.acquire().unwrap(), any.acquire().unwrap());
    assert_ne!(one.key(), two.key());
    assert!(any.try_acquire().unwrap().is_none());
    drop(one);
    assert!(any.synchronized_with(|lease| lease.is_held()).unwrap());
}

#[test]
fn entered_again_by_its_owner() {
    let (lock, store) = memory();
    let mine = lock.reentrant("job", "me").unwrap();
    let outer = mine.acquire().unwrap();
    let inner = mine.acquire().unwrap();
    assert_eq!((inner.count(), inner.fencing_token()), (2, outer.fencing_token()));
    assert!(lock.reentrant("job", "you").unwrap().try_acquire().unwrap().is_none());
    inner.call(async |inner| inner.extend(S(300)).await).unwrap();
    assert!(outer.remaining() > S(200));
    assert_eq!(outer.release().unwrap(), None);
    assert_eq!(inner.release().unwrap(), Some(ReleaseOutcome::Released));
    let nested = mine.synchronized_with(|outer| mine.synchronized_with(|inner| inner.key() == outer.key()).unwrap());
    assert!(nested.unwrap());
    assert!(store.is_empty());
    assert!(matches!(lock.reentrant("job", ""), Err(LockError::InvalidOption(_))));
}

#[test]
fn values() {
    let (lock, _) = memory();
    let value = lock.value("job").unwrap();
    assert_eq!(value.call(async |value| value.get().await).unwrap(), None);
    assert!(value.call(async |value| value.set_if(When::Absent, "1", S(60)).await).unwrap());
    assert!(!value.call(async |value| value.set_if(When::Absent, "2", S(60)).await).unwrap());
    let guard = lock.acquire("job").unwrap();
    guard.call(async |guard| guard.update("half done", S(60)).await).unwrap();
    assert_eq!(value.call(async |value| value.get().await).unwrap().as_deref(), Some("half done"));
    assert!(guard.remaining() > S(30), "extended, too");
}

#[test]
fn pools() {
    let (lock, _) = memory();
    let pool = lock.pool("licences").unwrap();
    pool.call(async |pool| pool.assign(["a"]).await).unwrap();
    let guard = pool.acquire().unwrap();
    assert_eq!(guard.member(), Some("a"));
    assert!(pool.try_acquire().unwrap().is_none());
    assert_eq!(pool.call(async |pool| pool.health().await).unwrap().locked, 1);
    guard.release().unwrap();
    assert_eq!(pool.synchronized_with(|lease| lease.member().map(str::to_owned)).unwrap().as_deref(), Some("a"));
    let bad = pool.with(|pool| pool.ttl(Duration::ZERO)).acquire().map(drop).unwrap_err();
    assert!(matches!(bad, LockError::InvalidOption(_)), "{bad}");
}

#[test]
fn all_else() {
    let (lock, _) = memory();
    let guard = lock.acquire("job").unwrap();
    assert!(!lock.call(async |lock| lock.inspect("job").await).unwrap().is_free());
    assert!(lock.call(async |lock| lock.break_lock("job").await).unwrap());
    assert_eq!(guard.release().unwrap(), ReleaseOutcome::AlreadyLost);
    let wrong = lock.key("").acquire().map(drop).unwrap_err();
    assert!(matches!(wrong, LockError::InvalidKey(_)), "{wrong}");
    lock.shutdown().unwrap();
    assert!(matches!(lock.all(["a"]).unwrap().acquire(), Err(LockError::ShutDown)));
}

/// Whatever noun it is had by, and however its body ends.
#[test]
fn bodies_end_with_their_release() {
    let store = MemoryLock::new();
    let (backend, faults) = Faulty::new(store.clone());
    let lock = blocking::Locker::start(async { Locker::new(backend) }).unwrap();
    let mine = lock.reentrant("job", "me").unwrap();
    mine.synchronized_with(|_| ()).unwrap();
    assert!(store.is_empty(), "released before it returns");
    faults.always(Op::Release, Fault::DelayRequest(Duration::from_millis(50)));
    mine.clone().with(|mine| mine.release_mode(ReleaseMode::Background)).synchronized_with(|_| ()).unwrap();
    let panics = thread::spawn(move || mine.synchronized_with(|_| panic!("on purpose")));
    assert!(panics.join().is_err());
    // The last to go waits for what is in the background.
    lock.shutdown().unwrap();
    assert!(store.is_empty());
}

/// A guard keeps the runtime of its locker, whatever it holds.
#[test]
fn guards_outlive_their_locker() {
    let (lock, store) = memory();
    let unrenewed = |all: tasklock::AllKeys| all.renew(Renew::Off);
    let guards = lock.all(["a", "b"]).unwrap().with(unrenewed).acquire().unwrap();
    let one = lock.reentrant("c", "me").unwrap().acquire().unwrap();
    drop(lock);
    assert_eq!(guards.release().unwrap(), ReleaseOutcome::Released);
    assert_eq!(store.len(), 1);
    assert_eq!(one.release().unwrap(), Some(ReleaseOutcome::Released));
    assert!(store.is_empty());
}
