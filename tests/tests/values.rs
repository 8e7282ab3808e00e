//! Values beside locks: what core makes of the power, on a store that goes wrong, and where there is none.

use std::{pin::pin, time::Duration};

use tasklock::{
    LockError, Locker, LossReason, Renew, Ttl, When, connect,
    testing::{Fault, Op, poll_times, until_quiet},
};
use tasklock_tests::{faulty, servers::Folder};

const MINUTE: Duration = Duration::from_secs(60);

async fn value(lock: &Locker) -> Option<String> {
    lock.value("job").unwrap().get().await.unwrap()
}

#[tokio::test]
async fn a_backend_that_cannot_refuses_at_construction() {
    let folder = Folder::new();
    let lock = connect(format!("file:{}", folder.file("locks").display())).await.unwrap();
    let refused = lock.value("job").unwrap_err();
    assert!(matches!(&refused, LockError::Unsupported { what, .. } if what.contains("values")), "{refused}");
    let guard = lock.acquire("job").await.unwrap();
    let refused = guard.update("x", MINUTE).await;
    assert!(matches!(refused, Err(LockError::Unsupported { .. })), "{refused:?}");
    assert!(guard.is_held(), "a refusal is no loss");
}

#[tokio::test]
async fn limits_are_named() {
    let (lock, ..) = faulty();
    let job = lock.value("job").unwrap();
    let guard = lock.acquire("job").await.unwrap();
    let long = "x".repeat(4097);
    for refused in [
        job.set(long.clone(), MINUTE).await.unwrap_err(),
        job.delete_if(When::Equal(long.clone())).await.unwrap_err(),
        guard.update(long, MINUTE).await.unwrap_err(),
    ] {
        assert!(refused.to_string().contains("4097 bytes") && refused.to_string().contains("4096"), "{refused}");
    }
    assert!(job.set("x", Duration::from_millis(1)).await.unwrap_err().to_string().contains("50 ms"));
    assert!(guard.update("x", Duration::ZERO).await.is_err());
    assert!(job.delete_if(When::Less(i64::MAX)).await.unwrap_err().to_string().contains("2^53"));
    assert!(lock.value("").is_err());
    assert_eq!(value(&lock).await, None);
    job.set("x".repeat(4096), Ttl::Never).await.unwrap();
}

/// An update is an extension: what the store may have heard counts at its worst.
#[tokio::test(start_paused = true)]
async fn an_update_whose_reply_is_lost() {
    let (lock, faults, _) = faulty();
    let guard = lock.key("job").renew(Renew::Off).acquire().await.unwrap();
    faults.next(Op::Renew, Fault::LoseReply);
    let failed = guard.update("half", Duration::from_secs(5)).await;
    assert!(matches!(failed, Err(LockError::Backend(_))), "{failed:?}");
    assert!(guard.remaining() <= Duration::from_secs(5), "{:?}", guard.remaining());
    assert_eq!(value(&lock).await.as_deref(), Some("half"));
    guard.update("whole", MINUTE).await.unwrap();
    assert_eq!(value(&lock).await.as_deref(), Some("whole"));
    // The one that was lost may still come, for all that is known.
    assert!(guard.remaining() <= Duration::from_secs(5), "{:?}", guard.remaining());
    faults.next(Op::Renew, Fault::Refuse);
    assert!(guard.update("no", MINUTE).await.is_err());
    assert_eq!(value(&lock).await.as_deref(), Some("whole"));
}

#[tokio::test(start_paused = true)]
async fn who_has_lost_it_updates_nothing() {
    let (lock, _, store) = faulty();
    let guard = lock.key("job").renew(Renew::Off).ttl(Duration::from_secs(1)).acquire().await.unwrap();
    let other = Locker::new(store).unwrap();
    let next = other.acquire("job").await.unwrap();
    let late = guard.update("late", MINUTE).await;
    assert!(matches!(late, Err(LockError::Lost { reason: LossReason::Expired, .. })), "{late:?}");
    next.update("next", MINUTE).await.unwrap();
    drop(guard);
    until_quiet(&lock).await;
    assert_eq!(value(&lock).await.as_deref(), Some("next"));
    assert!(next.is_held());
}

/// Once begun it is carried out, whoever awaits it.
#[tokio::test(start_paused = true)]
async fn an_update_that_is_dropped_is_carried_out() {
    let (lock, faults, _) = faulty();
    let guard = lock.acquire("job").await.unwrap();
    faults.next(Op::Renew, Fault::DelayRequest(Duration::from_millis(50)));
    assert!(poll_times(pin!(guard.update("half", MINUTE)), 1).await.is_none());
    until_quiet(&lock).await;
    assert_eq!(value(&lock).await.as_deref(), Some("half"));
}

/// A question that is not answered is not asked again, for a change is not the same twice.
#[tokio::test(start_paused = true)]
async fn a_change_is_sent_once() {
    let (lock, faults, _) = faulty();
    let job = lock.value("job").unwrap();
    faults.next(Op::Change, Fault::LoseReply);
    let unknown = job.set_if(When::Absent, "1", MINUTE).await;
    assert!(matches!(unknown, Err(LockError::Backend(_))), "{unknown:?}");
    assert_eq!(value(&lock).await.as_deref(), Some("1"));
    assert!(!job.set_if(When::Absent, "2", MINUTE).await.unwrap());
    faults.next(Op::Value, Fault::Refuse);
    assert!(job.get().await.is_err());
}

/// Values whose time is over take no room for ever.
#[tokio::test(start_paused = true)]
async fn many_values_come_and_go() {
    let lock = connect("memory:").await.unwrap();
    for round in 0..3 {
        for number in 0..1_000 {
            let value = lock.value(format!("{round}:{number}")).unwrap();
            value.set(number.to_string(), Duration::from_millis(50)).await.unwrap();
            assert_eq!(value.get().await.unwrap(), Some(number.to_string()));
        }
        tokio::time::sleep(MINUTE).await;
        assert_eq!(lock.value(format!("{round}:7")).unwrap().get().await.unwrap(), None);
    }
}

/// One store is enough: nobody has to keep the locker beside it.
#[tokio::test]
async fn a_value_keeps_its_locker() {
    let value = connect("memory:").await.unwrap().value("job").unwrap();
    value.set("x", MINUTE).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(value.get().await.unwrap().as_deref(), Some("x"));
}

/// The store knows both holds by one nonce, if one was handed to the next: so it is not, while that may be confused.
#[tokio::test(start_paused = true)]
async fn a_late_update_is_not_the_next_holders() {
    let (lock, faults, _) = faulty();
    let first = lock.key("job").acquire().await.unwrap();
    let next = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire("job").await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    faults.next(Op::Renew, Fault::Straggle(Duration::from_secs(1)));
    let late = first.update("half", Duration::from_secs(30)).await;
    assert!(matches!(late, Err(LockError::Backend(_))), "{late:?}");
    drop(first);
    let second = next.await.unwrap().unwrap();
    second.update("done", MINUTE).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(value(&lock).await.as_deref(), Some("done"));
}
