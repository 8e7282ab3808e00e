//! What goes wrong between the SDK and the table, and what becomes of the locks.

use std::time::Duration;

use tasklock::{
    Administer, Applied, AsyncLock, Attempt, BackendError, Claim, Clock, Intent, LockError, Locker, LossReason,
    Released, Renew, Renewed, Ttl, Validity,
    dynamodb::{DynamoError, aws_sdk_dynamodb::config::retry::RetryConfig},
    testing::until_quiet,
};
use tasklock_tests::Seen;
use tasklock_tests_dynamodb::{Emulator, Fault, Gate, Kind, in_time, request, until};

const TTL: Duration = Duration::from_secs(30);

/// All that may meet one request and pass.
fn passing() -> Vec<Fault> {
    vec![
        Fault::Answer(400, "ThrottlingException"),
        Fault::Answer(400, "ProvisionedThroughputExceededException"),
        Fault::Answer(400, "TransactionConflictException"),
        Fault::Answer(500, "InternalServerError"),
        Fault::Answer(503, "ServiceUnavailable"),
        Fault::AnswerAfter(500, "InternalServerError"),
        Fault::Reset,
        Fault::LoseReply,
        Fault::Truncate,
        Fault::Twice,
    ]
}

fn refused(error: &BackendError) -> &DynamoError {
    std::error::Error::source(error).and_then(|e| e.downcast_ref()).expect("the backend's own error")
}

/// One failure costs a pause, never the lock; and no fault makes two grants of one.
#[tokio::test]
async fn an_acquisition_survives_each() {
    for fault in passing() {
        let emulator = Emulator::start().await;
        let lock = Locker::builder(emulator.store()).prefix("").build().unwrap();
        emulator.proxy().next(Kind::Acquire, fault.clone());
        let guard = lock.acquire("job").await.unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        let token = emulator.item("job").unwrap()["tok"].clone();
        assert_eq!(token, dynoxide::AttributeValue::N(guard.fencing_token().to_string()), "{fault:?}");
        guard.release().await.unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        until_quiet(&lock).await;
        assert_eq!(emulator.held(), 0, "{fault:?}");
        // No grant was made twice: one token for each.
        let next = lock.acquire("job").await.unwrap().fencing_token();
        let dynoxide::AttributeValue::N(token) = token else { panic!("{token:?}") };
        assert_eq!(next.get(), token.parse::<u64>().unwrap() + 1, "{fault:?}");
    }
}

#[tokio::test]
async fn a_poll_survives_each() {
    for fault in passing() {
        let emulator = Emulator::start().await;
        let (here, there) = (Locker::new(emulator.store()).unwrap(), Locker::new(emulator.store()).unwrap());
        let guard = here.acquire("job").await.unwrap();
        emulator.proxy().next(Kind::Read, fault.clone());
        let waiter = tokio::spawn(async move { there.acquire("job").await.map(|guard| guard.fencing_token()) });
        until(|| emulator.proxy().count(Kind::Read) >= 3).await;
        let token = guard.fencing_token();
        guard.release().await.unwrap();
        assert!(waiter.await.unwrap().unwrap_or_else(|e| panic!("{fault:?}: {e}")) > token, "{fault:?}");
    }
}

#[tokio::test]
async fn a_renewal_survives_each() {
    for fault in passing() {
        let emulator = Emulator::start().await;
        let lock = Locker::builder(emulator.store()).ttl(TTL).build().unwrap();
        let guard = lock.acquire("job").await.unwrap();
        emulator.proxy().next(Kind::Renew, fault.clone());
        // One that failed is told, and the lock goes on; the next one succeeds.
        if let Err(error) = guard.extend(TTL).await {
            assert!(error.is_retryable(), "{fault:?}: {error}");
            guard.extend(TTL).await.unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        }
        assert!(guard.is_held(), "{fault:?}");
        guard.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_release_survives_each() {
    // Twice is what only a client does that repeats by itself, and then it is known.
    for fault in passing().into_iter().filter(|fault| !matches!(fault, Fault::Twice)) {
        let emulator = Emulator::start().await;
        let lock = Locker::new(emulator.store()).unwrap();
        let guard = lock.acquire("job").await.unwrap();
        emulator.proxy().next(Kind::Release, fault.clone());
        let outcome = guard.release().await.unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        assert_eq!(outcome, tasklock::ReleaseOutcome::Released, "{fault:?}");
        assert_eq!(emulator.held(), 0, "{fault:?}");
    }
}

/// What is known of a failed write, core must be told right: it decides what has to be withdrawn.
#[tokio::test]
async fn each_is_told_as_what_it_is() {
    let emulator = Emulator::start().await;
    let store = emulator.store_with(RetryConfig::disabled(), Duration::from_millis(500));
    let (no, unknown) = (Applied::No, Applied::Unknown);
    let cases = [
        (Fault::Answer(400, "ThrottlingException"), no),
        (Fault::Answer(400, "RequestLimitExceeded"), no),
        (Fault::Answer(400, "TransactionConflictException"), no),
        (Fault::Answer(500, "InternalServerError"), unknown),
        (Fault::AnswerAfter(500, "InternalServerError"), unknown),
        (Fault::Reset, unknown),
        (Fault::LoseReply, unknown),
        (Fault::Truncate, unknown),
        (Fault::HoldReply(Gate::default()), unknown),
    ];
    for (n, (fault, applied)) in cases.into_iter().enumerate() {
        emulator.proxy().next(Kind::Acquire, fault.clone());
        let error = store.try_acquire(&request(&format!("job:{n}"), TTL)).await.unwrap_err();
        assert!(error.is_retryable(), "{fault:?}: {error}");
        assert_eq!(error.applied(), applied, "{fault:?}: {error}");
    }
    for (code, kind) in [("AccessDeniedException", "Denied"), ("ResourceNotFoundException", "NoTable")] {
        emulator.proxy().next(Kind::Acquire, Fault::Answer(400, code));
        let error = store.try_acquire(&request("job", TTL)).await.unwrap_err();
        assert!(!error.is_retryable() && format!("{:?}", refused(&error)).starts_with(kind), "{error}");
    }
}

/// Nobody listens: nothing was sent, and it may go better later.
#[tokio::test]
async fn a_refused_connection_is_not_an_unknown_outcome() {
    let emulator = Emulator::start().await;
    let store = emulator.store();
    drop(emulator);
    let error = store.try_acquire(&request("job", TTL)).await.unwrap_err();
    assert!(matches!(refused(&error), DynamoError::NotSent { passing: true, .. }), "{error}");
    assert_eq!(error.applied(), Applied::No);
}

/// Asked again after a reply was lost: the same grant, dated from before the first attempt.
#[tokio::test]
async fn a_reply_lost_after_the_commit_doubles_no_grant() {
    let emulator = Emulator::start().await;
    let store = emulator.store();
    let mut request = request("job", TTL);
    emulator.proxy().next(Kind::Acquire, Fault::LoseReply);
    store.try_acquire(&request).await.unwrap_err();
    let item = emulator.item("job").unwrap();
    for intent in [Intent::Try, Intent::Poll { attempt: 1 }] {
        request.intent = intent;
        let Ok(Attempt::Granted(grant)) = store.try_acquire(&request).await else { panic!("not granted") };
        let token = dynoxide::AttributeValue::N(grant.token.unwrap().to_string());
        assert_eq!(item["tok"], token);
        assert_eq!(grant.validity, tasklock::Validity::Until(request.until(request.since)), "{intent:?}");
        assert!(grant.confirm, "it must be renewed at once");
    }
    assert_eq!(emulator.item("job").unwrap(), item, "asking again changed the item");
}

/// The SDK's own repetition meets what the first had done, and knows it for its own.
#[tokio::test]
async fn a_client_that_repeats_by_itself() {
    let emulator = Emulator::start().await;
    let store = emulator.store_with(RetryConfig::standard().with_max_attempts(3), Duration::from_secs(3));
    emulator.proxy().next(Kind::Acquire, Fault::AnswerAfter(500, "InternalServerError"));
    let request = request("job", TTL);
    let Ok(Attempt::Granted(grant)) = store.try_acquire(&request).await else { panic!("not granted") };
    assert_eq!(emulator.proxy().count(Kind::Acquire), 2);
    assert_eq!(grant.validity, tasklock::Validity::Until(request.until(request.since)));
    // The last answer says throttled; an attempt before it may have got through.
    for _ in 0..3 {
        emulator.proxy().next(Kind::Acquire, Fault::Answer(400, "ThrottlingException"));
    }
    let error = store.try_acquire(&tasklock_tests_dynamodb::request("other", TTL)).await.unwrap_err();
    assert_eq!(error.applied(), Applied::Unknown, "{error}");
    // The locks are right over such a client too.
    let lock = Locker::new(store).unwrap();
    emulator.proxy().next(Kind::Acquire, Fault::LoseReply);
    emulator.proxy().next(Kind::Release, Fault::LoseReply);
    let released = lock.acquire("third").await.unwrap().release().await.unwrap();
    assert_eq!(released, tasklock::ReleaseOutcome::Released);
    assert_eq!((emulator.proxy().count(Kind::Release), emulator.held()), (2, 1));
    // What was lost is still told as lost.
    let guard = lock.acquire("fourth").await.unwrap();
    let other = Locker::new(emulator.store()).unwrap();
    assert!(other.break_lock("fourth").await.unwrap());
    let _next = other.acquire("fourth").await.unwrap();
    assert_eq!(guard.release().await.unwrap(), tasklock::ReleaseOutcome::AlreadyLost);
}

/// The first attempt hangs on its way, its caller leaves and withdraws; then it arrives.
#[tokio::test]
async fn an_attempt_that_arrives_after_its_withdrawal_takes_nothing() {
    let emulator = Emulator::start().await;
    let store = emulator.store_with(RetryConfig::disabled(), Duration::from_millis(300));
    let gates: [Gate; 3] = Default::default();
    let late = [request("job", TTL), request("job", TTL), request("job", TTL)];
    for (gate, late) in gates.iter().zip(&late) {
        emulator.proxy().next(Kind::Acquire, Fault::HoldRequest(gate.clone()));
        let error = store.try_acquire(late).await.unwrap_err();
        assert_eq!(error.applied(), Applied::Unknown);
        let mut claim = Claim::of(late);
        claim.unsettled = true;
        assert_eq!(store.release(&claim).await.unwrap(), Released::NotOwner);
    }
    // There is room for all of them.
    for gate in &gates {
        gate.open();
        in_time(gate.carried_out()).await;
    }
    assert_eq!(emulator.held(), 0, "a withdrawn attempt took the lock");
    let error = store.try_acquire(&late[0]).await.unwrap_err();
    assert!(matches!(refused(&error), DynamoError::Withdrawn), "{error}");
    assert!(matches!(store.try_acquire(&request("job", TTL)).await, Ok(Attempt::Granted(_))));
}

/// The same through a locker: a caller that is dropped leaves nothing, though its attempt arrives late.
#[tokio::test]
async fn a_dropped_acquisition_whose_attempt_is_late() {
    let emulator = Emulator::start().await;
    let store = emulator.store_with(RetryConfig::disabled(), Duration::from_millis(300));
    let lock = Locker::new(store).unwrap();
    let gate = Gate::default();
    emulator.proxy().next(Kind::Acquire, Fault::HoldRequest(gate.clone()));
    let waiter = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire("job").await.map(drop) }
    });
    in_time(gate.arrived()).await;
    waiter.abort();
    assert!(waiter.await.unwrap_err().is_cancelled());
    until_quiet(&lock).await;
    assert_eq!(emulator.proxy().count(Kind::Withdraw), 1);
    gate.open();
    in_time(gate.carried_out()).await;
    assert_eq!(emulator.held(), 0);
}

/// A process that dies with an attempt on its way cannot withdraw it. The lock is then held by nobody for one lease.
#[tokio::test]
async fn an_orphan_lasts_one_lease() {
    let emulator = Emulator::start().await;
    let dying = emulator.store_with(RetryConfig::disabled(), Duration::from_millis(100));
    let gate = Gate::default();
    emulator.proxy().next(Kind::Acquire, Fault::HoldRequest(gate.clone()));
    let lease = Duration::from_millis(700);
    dying.try_acquire(&request("tasklock:job", lease)).await.unwrap_err();
    drop(dying);
    gate.open();
    in_time(gate.carried_out()).await;
    assert_eq!(emulator.held(), 1, "it is taken");
    let lock = Locker::new(emulator.store()).unwrap();
    let guard = in_time(lock.acquire("job")).await.unwrap();
    // It looked once at the start, and took it when its lease had passed; not before, and not by a second lease.
    assert!(guard.is_held());
    guard.release().await.unwrap();
}

/// The renewal of a holder that was taken over arrives at last. Nothing of the next one's changes.
#[tokio::test]
async fn a_renewal_that_arrives_after_a_take_over_changes_nothing() {
    let emulator = Emulator::start().await;
    let (old, new) = (emulator.store(), emulator.store());
    let holder = request("job", Duration::from_millis(300));
    old.try_acquire(&holder).await.unwrap();
    let gate = Gate::default();
    emulator.proxy().next(Kind::Renew, Fault::HoldRequest(gate.clone()));
    let mut claim = Claim::of(&holder);
    claim.ttl = Ttl::For(TTL);
    let renewal = tokio::spawn({
        let old = old.clone();
        async move { old.renew(&[claim]).await }
    });
    in_time(gate.arrived()).await;
    let taken = in_time(async {
        loop {
            let next = request("job", TTL);
            if let Ok(Attempt::Granted(_)) = new.try_acquire(&next).await {
                break next;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let item = emulator.item("job").unwrap();
    gate.open();
    let outcome = renewal.await.unwrap();
    assert!(matches!(outcome[..], [Ok(Renewed::NotOwner)]), "{outcome:?}");
    assert_eq!(emulator.item("job").unwrap(), item, "a late renewal changed the item");
    // So does its release.
    assert_eq!(old.release(&Claim::of(&holder)).await.unwrap(), Released::NotOwner);
    assert_eq!(emulator.item("job").unwrap(), item);
    assert_eq!(new.release(&Claim::of(&taken)).await.unwrap(), Released::Released);
}

/// One item that hangs is told as not answered in time for the others of its batch to be believed.
#[tokio::test]
async fn one_renewal_that_hangs_does_not_cost_the_others() {
    let emulator = Emulator::start().await;
    let store = emulator.store_with(RetryConfig::disabled(), Duration::from_secs(30));
    let ttl = Duration::from_secs(24);
    let requests: Vec<_> = (0..20).map(|n| request(&format!("job:{n}"), ttl)).collect();
    for request in &requests {
        store.try_acquire(request).await.unwrap();
    }
    let hung = requests[7].nonce.to_string();
    emulator.proxy().always(Kind::Renew, &hung, Fault::HoldRequest(Gate::default()));
    let claims: Vec<_> = requests.iter().map(Claim::of).collect();
    // After a third of the ttl, the locker gives the call a quarter of what is left.
    let outcomes = tokio::time::timeout(ttl * 2 / 3 / 4, store.renew(&claims)).await;
    let outcomes = outcomes.expect("a locker would have given up the whole batch");
    for (n, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Err(error) if n == 7 => assert_eq!(error.applied(), Applied::Unknown, "{error}"),
            outcome => assert!(matches!(outcome, Ok(Renewed::Held { .. })), "{n}: {outcome:?}"),
        }
    }
    // Through a locker: that lease alone is lost.
    let seen = Seen::default();
    let store = emulator.store_with(RetryConfig::disabled(), Duration::from_secs(30));
    let lock = Locker::builder(store).observer(seen.clone()).ttl(Duration::from_secs(4)).build().unwrap();
    let guards = [lock.acquire("a").await.unwrap(), lock.acquire("b").await.unwrap(), lock.acquire("c").await.unwrap()];
    emulator.proxy().always(Kind::Renew, "tasklock:b", Fault::HoldRequest(Gate::default()));
    assert_eq!(in_time(guards[1].lost()).await, LossReason::Unreachable);
    let renewed = |key: &str| seen.count(&format!("renewed {key} true"));
    let before = (renewed("a"), renewed("c"));
    until(|| renewed("a") >= before.0 + 3 && renewed("c") >= before.1 + 3).await;
    assert!(guards[0].is_held() && guards[2].is_held());
}

/// Not every emulator tells the item that a condition met: it is read then, and means the same.
#[tokio::test]
async fn a_refusal_without_the_item() {
    let emulator = Emulator::start().await;
    let (store, holder) = (emulator.store(), request("job", TTL));
    store.try_acquire(&holder).await.unwrap();
    let refuse = || emulator.proxy().next(Kind::Acquire, Fault::Answer(400, "ConditionalCheckFailedException"));
    refuse();
    emulator.proxy().reset_counts();
    let Ok(Attempt::Busy(busy)) = store.try_acquire(&request("job", TTL)).await else { panic!("it is held") };
    assert_eq!(busy.holder.unwrap().owner.name(), "a test");
    assert_eq!(emulator.proxy().seen(), [Kind::Acquire, Kind::Read]);
    refuse();
    assert!(matches!(store.try_acquire(&holder).await, Ok(Attempt::Granted(_))), "its own nonce was not known");
}

/// Through a client that repeats, a release that finds the lock free may be the repetition of one that was done. It is
/// not if somebody else has had the lock since.
#[tokio::test]
async fn a_release_after_somebody_elses() {
    let emulator = Emulator::start().await;
    let store = emulator.store_with(RetryConfig::standard().with_max_attempts(3), Duration::from_secs(3));
    let (lost, next) = (request("job", TTL), request("job", TTL));
    let Ok(Attempt::Granted(grant)) = store.try_acquire(&lost).await else { panic!("not granted") };
    let mut claim = Claim::of(&lost);
    claim.token = grant.token;
    assert!(store.revoke(&lost.key, None).await.unwrap());
    assert!(matches!(store.try_acquire(&next).await, Ok(Attempt::Granted(_))));
    assert_eq!(store.release(&Claim::of(&next)).await.unwrap(), Released::Released);
    assert_eq!(store.release(&claim).await.unwrap(), Released::NotOwner);
}

/// However long an answer takes: a lease runs from before its request was sent, and another's silence from after the
/// answer that showed it.
#[tokio::test]
async fn slow_answers_make_no_lease_longer_and_no_silence() {
    let emulator = Emulator::start().await;
    let (store, clock) = (emulator.store(), Clock::current());
    let held = request("job", TTL);
    let behind_a_gate = |kind| {
        let gate = Gate::default();
        emulator.proxy().next(kind, Fault::HoldReply(gate.clone()));
        gate
    };
    let gate = behind_a_gate(Kind::Acquire);
    let (answer, sent) = tokio::join!(store.try_acquire(&held), async {
        in_time(gate.arrived()).await;
        let sent = clock.now();
        gate.open();
        sent
    });
    let Ok(Attempt::Granted(grant)) = answer else { panic!("not granted") };
    let Validity::Until(until) = grant.validity else { panic!("an end") };
    assert!(until <= sent.after(TTL), "an acquisition counted from its answer");

    let gate = behind_a_gate(Kind::Renew);
    let claims = [Claim::of(&held)];
    let (answers, sent) = tokio::join!(store.renew(&claims), async {
        in_time(gate.arrived()).await;
        let sent = clock.now();
        gate.open();
        sent
    });
    let [Ok(Renewed::Held { validity: Validity::Until(until), .. })] = answers[..] else { panic!("{answers:?}") };
    assert!(until <= sent.after(TTL), "a renewal counted from its answer");

    let other = emulator.store();
    let gate = behind_a_gate(Kind::Acquire);
    let waiter = request("job", TTL);
    let (_, answered) = tokio::join!(other.try_acquire(&waiter), async {
        in_time(gate.arrived()).await;
        // What a holder does in this time is not seen.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let answered = clock.now();
        gate.open();
        answered
    });
    let Ok(Attempt::Busy(busy)) = other.try_acquire(&waiter).await else { panic!("it is held") };
    let silent = TTL - busy.retry_in.unwrap();
    assert!(silent <= clock.now().since(answered), "a silence of {silent:?} counted from before the answer");
}

/// A table that throttles everybody all the time is an outage, and says so.
#[tokio::test]
async fn an_outage_is_told_as_one() {
    let emulator = Emulator::start().await;
    emulator.proxy().always(Kind::Acquire, "", Fault::Answer(400, "ThrottlingException"));
    let lock = Locker::new(emulator.store()).unwrap();
    let error = lock.key("job").patience(Duration::from_millis(200)).acquire().await.unwrap_err();
    assert!(!error.is_contended() && error.is_retryable(), "{error}");
    assert!(matches!(&error, LockError::Backend(e) if matches!(refused(e), DynamoError::Throttled { .. })), "{error}");
    // Refused for good, it is told at once.
    emulator.proxy().clear();
    emulator.proxy().always(Kind::Acquire, "", Fault::Answer(400, "AccessDeniedException"));
    emulator.proxy().reset_counts();
    let error = lock.acquire("job").await.unwrap_err();
    assert!(!error.is_retryable() && error.to_string().contains("docs/dynamodb.md"), "{error}");
    assert_eq!(emulator.proxy().count(Kind::Acquire), 1);
}

/// An item that is deleted under its holder: the lock is lost at the next renewal, and tokens go on rising.
#[tokio::test]
async fn a_deleted_item_is_a_loss() {
    let emulator = Emulator::start().await;
    let builder =
        Locker::builder(emulator.store()).ttl(Duration::from_secs(9)).renew(Renew::Every(Duration::from_millis(50)));
    let lock = builder.build().unwrap();
    let guard = lock.acquire("job").await.unwrap();
    emulator.delete("tasklock:job");
    assert_eq!(in_time(guard.lost()).await, LossReason::Stolen);
    let next = lock.acquire("job").await.unwrap();
    assert!(next.fencing_token() > guard.fencing_token());
}
