//! Locks that are shared, and several at once.

use std::{collections::HashSet, sync::Barrier, thread};

use tasklock::{
    AsyncLock as _, Attempt, Claim, FencingToken, FileLock, Intent, Mode, Released, Renewed, Request, StepResult,
    Together, testing::Faulty,
};
use tasklock_tests::{
    local::{files, is_free, request},
    servers::Folder,
};

fn shared(key: &str) -> Request {
    let mut request = request(key, Intent::Try);
    request.mode = Mode::Shared;
    request
}

fn token(answer: StepResult<Attempt>) -> Option<FencingToken> {
    match answer.expect("an answer") {
        Attempt::Granted(grant) => Some(grant.token.expect("a token")),
        Attempt::Busy(_) => None,
    }
}

async fn release(store: &FileLock, request: &Request) {
    assert_eq!(store.release(&Claim::of(request)).await.unwrap(), Released::Released);
}

#[tokio::test]
async fn readers_share_and_writers_do_not() {
    let folder = Folder::new();
    let (here, there) = (files(folder.path()), files(folder.path()));
    let (one, two, writer) = (shared("doc"), shared("doc"), request("doc", Intent::Try));
    let first = token(here.try_acquire(&one).await).expect("a free key");
    let second = token(there.try_acquire(&two).await).expect("a shared key");
    assert!(second > first, "each grant has a token of its own");
    assert_eq!(token(here.try_acquire(&one).await), Some(first), "the same nonce again");
    assert_eq!(token(there.try_acquire(&writer).await), None, "held by readers");
    assert!(!there.inspect(&writer.key).await.unwrap().is_free());
    for (store, request) in [(&here, &one), (&there, &two)] {
        let renewed = store.renew(&[Claim::of(request)]).await;
        assert!(matches!(renewed[..], [Ok(Renewed::Held { .. })]), "{renewed:?}");
    }
    release(&there, &two).await;
    assert!(!there.inspect(&writer.key).await.unwrap().is_free(), "one of two is left");
    assert_eq!(token(there.try_acquire(&writer).await), None);
    release(&here, &one).await;
    assert!(there.inspect(&writer.key).await.unwrap().is_free());
    let third = token(there.try_acquire(&writer).await).expect("a free key");
    assert!(third > second);
    assert_eq!(token(here.try_acquire(&one).await), None, "held by a writer");
    release(&there, &writer).await;
    assert!(is_free(folder.path()));
}

/// They take tokens at the same time, and none twice.
#[test]
fn readers_never_have_the_same_token() {
    let folder = Folder::new();
    // Ahead of the clock, which would keep most of them apart.
    let ahead = format!("tasklock 1\ntoken {}\ncheck c19f479d60722457\n", 1_u64 << 62);
    std::fs::write(folder.file("doc.lock"), ahead).unwrap();
    let start = Barrier::new(4);
    let tokens: Vec<FencingToken> = thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let store = files(folder.path());
                    start.wait();
                    let (mut tokens, mut held) = (Vec::new(), Vec::new());
                    while tokens.len() < 200 {
                        let request = shared("doc");
                        if let Some(token) = store.try_acquire_now(&request).and_then(token) {
                            assert!(tokens.last().is_none_or(|last| *last < token), "tokens fell");
                            tokens.push(token);
                            held.push(request);
                        }
                        if held.len() > 5 {
                            held.drain(..).for_each(|request| drop(store.release_now(&Claim::of(&request))));
                        }
                    }
                    held.drain(..).for_each(|request| drop(store.release_now(&Claim::of(&request))));
                    tokens
                })
            })
            .collect();
        readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect()
    });
    assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), 800);
    assert!(is_free(folder.path()));
}

async fn all(store: &FileLock, requests: &[Request]) -> Together {
    store.powers().many.expect("a power").try_acquire_all(requests).await.expect("an answer")
}

fn three() -> Vec<Request> {
    ["c", "a", "b"].map(|key| request(key, Intent::Try)).to_vec()
}

#[tokio::test]
async fn several_are_taken_all_or_none() {
    let folder = Folder::new();
    let (here, there) = (files(folder.path()), files(folder.path()));
    let (ours, theirs) = (three(), three());
    let Together::Granted(grants) = all(&here, &ours).await else { panic!("all are free") };
    for (request, grant) in ours.iter().zip(&grants) {
        let holder = there.inspect(&request.key).await.unwrap().holder.expect("a holder that others can read");
        assert_eq!((holder.owner.name(), holder.token), ("test", grant.token));
        assert!(holder.held.is_some() && holder.remaining.is_some());
    }
    let Together::Granted(again) = all(&here, &ours).await else { panic!("the same requests again") };
    let tokens = |grants: &[tasklock::Grant]| grants.iter().map(|grant| grant.token).collect::<Vec<_>>();
    assert_eq!(tokens(&again), tokens(&grants));

    // One of three is held: none is taken, and which one is said by its place.
    release(&here, &ours[0]).await;
    release(&here, &ours[1]).await;
    let Together::Busy(busy) = all(&there, &theirs).await else { panic!("b is held") };
    let [(place, busy)] = &busy[..] else { panic!("{busy:?}") };
    assert_eq!((*place, busy.holder.as_ref().and_then(|holder| holder.token)), (2, grants[2].token));
    for request in &theirs[..2] {
        assert!(here.inspect(&request.key).await.unwrap().is_free(), "{} is kept", request.key);
        assert_eq!(there.release(&Claim::of(request)).await.unwrap(), Released::NotOwner);
    }
    // What it has from before, it keeps when the rest cannot be had.
    let own = request("a", Intent::Try);
    token(there.try_acquire(&own).await).expect("a free key");
    let mut with_own = three();
    with_own[1] = own.clone();
    assert!(matches!(all(&there, &with_own).await, Together::Busy(_)));
    release(&there, &own).await;
    release(&here, &ours[2]).await;
    let Together::Granted(_) = all(&there, &theirs).await else { panic!("all are free") };
    for request in &theirs {
        release(&there, request).await;
    }
    assert!(is_free(folder.path()));
}

#[tokio::test]
async fn several_have_a_limit_and_survive_errors() {
    let folder = Folder::new();
    let store = files(folder.path());
    let most = store.powers().many.unwrap().most();
    let too_many: Vec<_> = (0..=most).map(|n| request(&format!("k{n}"), Intent::Try)).collect();
    let error = store.powers().many.unwrap().try_acquire_all(&too_many).await.unwrap_err();
    assert!(error.to_string().contains(&most.to_string()), "{error}");
    assert!(matches!(all(&store, &too_many[1..]).await, Together::Granted(grants) if grants.len() == most));
    for request in &too_many[1..] {
        release(&store, request).await;
    }
    // An error in the middle gives back what was taken before it.
    std::fs::create_dir(folder.file("b.lock")).unwrap();
    let requests = three();
    assert!(store.powers().many.unwrap().try_acquire_all(&requests).await.is_err());
    assert!(store.inspect(&requests[1].key).await.unwrap().is_free());
    // The power is found behind a wrapper as well.
    assert!(Faulty::new(store).0.powers().many.is_some());
}

/// Two who want the same, in different order, both get on.
#[test]
fn several_at_once_do_not_deadlock() {
    let folder = Folder::new();
    thread::scope(|scope| {
        for turn in 0..2 {
            let folder = &folder;
            scope.spawn(move || {
                let store = files(folder.path());
                let mut done = 0;
                while done < 50 {
                    let mut requests = three();
                    requests.rotate_left(turn);
                    match futures_executor::block_on(all(&store, &requests)) {
                        Together::Granted(_) => {
                            done += 1;
                            for request in &requests {
                                store.release_now(&Claim::of(request)).unwrap().unwrap();
                            }
                        }
                        Together::Busy(_) => thread::yield_now(),
                    }
                }
            });
        }
    });
    assert!(is_free(folder.path()));
}
