//! Several locks in one transaction: all or none, once, and by the same nonces.

use std::time::Duration;

use tasklock::{
    AsyncLock, Attempt, BackendError, Claim, Many, Released, Renewed, Request, StepResult, Together,
    dynamodb::DynamoLock,
};
use tasklock_tests_dynamodb::{Emulator, Fault, Kind, request};

const TTL: Duration = Duration::from_secs(10);

fn requests(names: &[&str]) -> Vec<Request> {
    names.iter().map(|name| request(name, TTL)).collect()
}

fn many(store: &DynamoLock) -> &dyn Many {
    store.powers().many.expect("the power")
}

fn granted(outcome: StepResult<Together>) -> Vec<u64> {
    match outcome {
        Ok(Together::Granted(grants)) => grants.iter().map(|grant| grant.token.expect("a token").get()).collect(),
        other => panic!("not granted: {other:?}"),
    }
}

fn busy(outcome: StepResult<Together>) -> Vec<usize> {
    match outcome {
        Ok(Together::Busy(busy)) => busy.into_iter().map(|(n, _)| n).collect(),
        other => panic!("not busy: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn all_or_none() {
    let emulator = Emulator::start().await;
    let (here, there) = (emulator.direct(), emulator.direct());
    let one = request("b", TTL);
    here.try_acquire(&one).await.unwrap();
    let wanted = requests(&["a", "b", "c"]);
    assert_eq!(busy(many(&there).try_acquire_all(&wanted).await), [1]);
    assert_eq!(emulator.held(), 1, "some of a set that was not free are held");
    here.release(&Claim::of(&one)).await.unwrap();
    let tokens = granted(many(&there).try_acquire_all(&wanted).await);
    assert_eq!(emulator.held(), 3);
    for (request, token) in wanted.iter().zip(&tokens) {
        let item = emulator.item(request.key.as_str()).unwrap();
        assert_eq!(item["tok"], dynoxide::AttributeValue::N(token.to_string()));
    }
    // The same nonces again: the same grants.
    assert_eq!(granted(many(&there).try_acquire_all(&wanted).await), tokens);
    // They are renewed and released one by one, as any other.
    let claims: Vec<_> = wanted.iter().map(Claim::of).collect();
    assert!(there.renew(&claims).await.iter().all(|outcome| matches!(outcome, Ok(Renewed::Held { .. }))));
    for claim in &claims {
        assert_eq!(there.release(claim).await.unwrap(), Released::Released);
    }
    let again = granted(many(&here).try_acquire_all(&requests(&["c", "b", "a"])).await);
    assert_eq!(again, [tokens[2] + 1, tokens[1] + 1, tokens[0] + 1]);
}

#[tokio::test(start_paused = true)]
async fn a_set_with_a_dead_holder_is_taken_after_its_lease() {
    let emulator = Emulator::start().await;
    emulator.direct().try_acquire(&request("b", TTL)).await.unwrap();
    let store = emulator.direct();
    assert_eq!(busy(many(&store).try_acquire_all(&requests(&["a", "b"])).await), [1]);
    tokio::time::advance(TTL).await;
    granted(many(&store).try_acquire_all(&requests(&["a", "b"])).await);
}

/// Not `Twice`: DynamoDB knows the SDK's token for a repetition, and answers it with the first outcome.
#[tokio::test]
async fn what_goes_wrong_doubles_nothing() {
    for fault in [
        Fault::Answer(400, "ThrottlingException"),
        Fault::Answer(400, "TransactionInProgressException"),
        Fault::Answer(500, "InternalServerError"),
        Fault::AnswerAfter(500, "InternalServerError"),
        Fault::Reset,
        Fault::LoseReply,
        Fault::Truncate,
    ] {
        let emulator = Emulator::start().await;
        let store = emulator.store();
        let wanted = requests(&["a", "b"]);
        emulator.proxy().next(Kind::Many, fault.clone());
        let error: BackendError = many(&store).try_acquire_all(&wanted).await.unwrap_err();
        assert!(error.is_retryable(), "{fault:?}: {error}");
        let tokens = granted(many(&store).try_acquire_all(&wanted).await);
        assert_eq!(emulator.proxy().count(Kind::Many), 2);
        for (request, token) in wanted.iter().zip(&tokens) {
            assert_eq!(store.release(&Claim::of(request)).await.unwrap(), Released::Released, "{fault:?}");
            let next = store.try_acquire(&tasklock_tests_dynamodb::request(request.key.as_str(), TTL)).await;
            let Ok(Attempt::Granted(next)) = next else { panic!("{fault:?}: {next:?}") };
            assert_eq!(next.token.unwrap().get(), token + 1, "{fault:?}: granted twice");
        }
    }
}

/// The tokens are read after the transaction. If that fails, the locks are taken, and asking again tells them.
#[tokio::test]
async fn tokens_that_were_not_read() {
    let emulator = Emulator::start().await;
    let store = emulator.store();
    let wanted = requests(&["a", "b"]);
    emulator.proxy().next(Kind::Read, Fault::Answer(400, "ThrottlingException"));
    let error = many(&store).try_acquire_all(&wanted).await.unwrap_err();
    assert_eq!(error.applied(), tasklock::Applied::Unknown, "{error}");
    assert_eq!(emulator.held(), 2);
    granted(many(&store).try_acquire_all(&wanted).await);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_set_is_not_granted() {
    let emulator = Emulator::start().await;
    let store = emulator.direct();
    let wanted = requests(&["a", "b"]);
    let mut claim = Claim::of(&wanted[1]);
    claim.unsettled = true;
    store.release(&claim).await.unwrap();
    many(&store).try_acquire_all(&wanted).await.unwrap_err();
    assert_eq!(emulator.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn limits_are_named() {
    let emulator = Emulator::start().await;
    let store = emulator.direct();
    assert_eq!(many(&store).most(), 100);
    let names: Vec<_> = (0..101).map(|n| format!("job:{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    granted(many(&store).try_acquire_all(&requests(&names[..100])).await);
    let error = many(&store).try_acquire_all(&requests(&names)).await.unwrap_err().to_string();
    assert!(error.contains("101") && error.contains("100"), "{error}");
    let error = many(&store).try_acquire_all(&requests(&["a", "a"])).await.unwrap_err();
    assert!(error.to_string().contains("twice") && !error.is_retryable(), "{error}");
    assert!(granted(many(&store).try_acquire_all(&[]).await).is_empty());
}
