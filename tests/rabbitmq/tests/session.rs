//! What a holder and its waiters are told when the broker, the connection or the queue goes.

use std::{error::Error, time::Duration};

use futures_util::future::join_all;
use tasklock::{
    AsyncLock as _, ChannelsInUse, Clock, Demand, Fencing, Intent, Key, LockError, LossReason, Nonce, Owner,
    ReleaseOutcome, Renew, Request, Ttl,
    testing::{poll_times, until_quiet},
};
use tasklock_tests::{Seen, logged};
use tasklock_tests_rabbitmq::{Broker, Proxy, Raw, Settings, builder, client, locker, name, soon, until};

/// An operator closes a holder's connection: it is told, and the next one has the lock at once, under a higher token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_closed_by_an_operator() {
    let (broker, key) = (Broker::shared(), name("closed"));
    broker.control(&["add_user", "doomed", "p"]).await;
    broker.control(&["set_permissions", "doomed", ".*", ".*", ".*"]).await;
    let (here, there) = (locker(&broker.url().replace("//", "//doomed:p@")).await, locker(&broker.url()).await);
    let held = here.acquire(&key).await.unwrap();
    let waiter = tokio::spawn({
        let (there, key) = (there.clone(), key.clone());
        async move { there.acquire(&key).await }
    });
    let connections = broker.control(&["list_connections", "pid", "user", "--no-table-headers"]).await;
    let doomed = connections.lines().filter_map(|line| line.strip_suffix("\tdoomed")).collect::<Vec<_>>();
    assert_eq!(doomed.len(), 1, "{connections}");
    broker.control(&["close_connection", doomed[0], "for the test"]).await;
    assert_eq!(soon("the loss", held.lost()).await, LossReason::SessionClosed);
    assert!(!held.is_held());
    let next = soon("the next holder", waiter).await.unwrap().unwrap();
    assert!(next.fencing_token() > held.fencing_token());
    assert_eq!(held.release().await.unwrap(), ReleaseOutcome::AlreadyLost);
    assert!(next.is_held(), "the first one's release took it");
    assert!(here.try_acquire(&key).await.unwrap().is_none());
    next.release().await.unwrap();
    drop(soon("a new connection", here.acquire(&key)).await.unwrap());
}

/// All of them at once: every holder is told, and every waiter is served in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_connections_closed_by_an_operator() {
    let broker = Broker::start(Settings::default());
    let (here, there, key) = (locker(&broker.url()).await, locker(&broker.url()).await, name("closed"));
    let mut held = vec![here.acquire(&key).await.unwrap()];
    for _ in 0..10 {
        held.push(here.acquire(name("closed")).await.unwrap());
    }
    let waiter = tokio::spawn({
        let (there, key) = (there.clone(), key.clone());
        // It may be granted on a connection that is the next to be closed.
        async move { there.acquire(&key).await.map(drop) }
    });
    broker.control(&["close_all_connections", "for the test"]).await;
    for guard in held {
        assert_eq!(soon("the loss", guard.lost()).await, LossReason::SessionClosed);
    }
    soon("the waiter", waiter).await.unwrap().unwrap();
    drop(soon("a new connection", here.acquire(&key)).await.unwrap());
}

/// The broker is killed and comes back: the token has survived, and rises.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_and_comes_back() {
    let broker = Broker::start(Settings::default());
    let lock = builder(&broker.url()).await.patience(Duration::from_secs(120)).build().unwrap();
    let (key, idle) = (name("restarted"), name("idle"));
    for name in [&key, &idle] {
        lock.acquire(name).await.unwrap().release().await.unwrap();
    }
    // A broker that is killed right after it made a queue may forget where it keeps it: let it end in order, once.
    broker.stop().await;
    broker.restart();
    let idle_token = soon("the lock", lock.acquire(&idle)).await.unwrap().fencing_token();
    let held = lock.acquire(&key).await.unwrap();
    until_quiet(&lock).await;
    broker.kill();
    assert_eq!(soon("the loss", held.lost()).await, LossReason::SessionClosed);
    let token = held.fencing_token();
    drop(held);
    let error = tasklock::connect(broker.url()).await.unwrap_err();
    assert!(error.is_retryable() && !error.is_contended(), "{error}");
    let waiter = tokio::spawn({
        let (lock, key) = (lock.clone(), key.clone());
        async move { lock.acquire(&key).await }
    });
    broker.restart();
    assert!(soon("the lock", waiter).await.unwrap().unwrap().fencing_token() > token);
    assert!(soon("the other", lock.acquire(&idle)).await.unwrap().fencing_token() > idle_token);
    // The very message, not a new one: its base is still the old one.
    assert!(lock.acquire(&idle).await.unwrap().fencing_token().get() - idle_token.get() < 10);
}

/// The broker's consumer timeout takes the token from a live holder. It is told, and the log says what to do.
#[tokio::test]
async fn a_hold_longer_than_the_consumer_timeout() {
    let rabbit = "{consumer_timeout, 1000}, {channel_tick_interval, 500}".to_owned();
    let broker = Broker::start(Settings { rabbit, ..Settings::default() });
    let (log, _gathering) = logged();
    let (lock, other, key) = (locker(&broker.url()).await, locker(&broker.url()).await, name("long"));
    let bystander = lock.acquire(name("bystander")).await;
    drop(bystander);
    let held = lock.acquire(&key).await.unwrap();
    assert_eq!(soon("the loss", held.lost()).await, LossReason::SessionClosed);
    let said = log.lines().join("\n");
    assert!(said.contains("consumer_timeout") && said.contains("max_hold"), "{said}");
    let next = soon("the next", other.acquire(&key)).await.unwrap();
    assert!(next.fencing_token() > held.fencing_token());
    // Only that channel ended: the connection goes on.
    drop(soon("another", lock.acquire(name("another"))).await.unwrap());
}

/// A broker that answers nothing: the holder gives up by its own clock, no later than the broker would.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stands_still() {
    let broker = Broker::start(Settings::default());
    let url = format!("{}?heartbeat=2s&timeout=3s", broker.url());
    // Nothing else would end it: neither renewal nor ttl.
    let lock = builder(&url).await.ttl(Duration::from_secs(3600)).renew(Renew::Off).build().unwrap();
    let held = lock.acquire(name("still")).await.unwrap();
    broker.pause();
    assert_eq!(soon("the loss", held.lost()).await, LossReason::SessionClosed);
    let error = lock.key(name("meanwhile")).try_acquire().await.unwrap_err();
    assert!(error.is_retryable() && !error.is_contended(), "{error}");
    broker.resume();
    drop(held);
    drop(soon("a new connection", lock.acquire(name("afterwards"))).await);
}

/// The broker hears nothing but heartbeats, so that neither side misses the other. However long answers may take, what is
/// not confirmed within two heartbeats is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hears_nothing() {
    let proxy = Proxy::to(&Broker::shared().url()).await;
    let url = format!("{}?heartbeat=1s&timeout=60s", proxy.url());
    let lock = builder(&url).await.ttl(Duration::from_secs(3600)).renew(Renew::Off).build().unwrap();
    let held = lock.acquire(name("unheard")).await.unwrap();
    until_quiet(&lock).await;
    proxy.deafen();
    // Half of what an answer may take.
    let lost = tokio::time::timeout(Duration::from_secs(30), held.lost()).await;
    assert_eq!(lost, Ok(LossReason::SessionClosed), "it waited for an answer");
}

/// A connection that cannot be made is tried once for all who came meanwhile: they fail together, not one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_for_a_connection_fail_together() {
    let proxy = Proxy::to(&Broker::shared().url()).await;
    let store = client(&format!("{}?timeout=500ms", proxy.url())).await;
    proxy.cut();
    until("the end of the connection", async || store.ping().await.is_err()).await;
    let before = proxy.came();
    let requests: Vec<Request> = (0..10)
        .map(|_| {
            let (key, ttl) = (Key::new(name("together")).unwrap(), Ttl::For(Duration::from_secs(20)));
            Request::new(key, Nonce::fresh(), ttl, Intent::Wait, Owner::named("test"), Clock::current().now())
        })
        .collect();
    let answers = join_all(requests.iter().map(|request| store.try_acquire(request))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(error) if error.is_retryable())), "{answers:?}");
    assert_eq!(proxy.came() - before, 1);
    // Who comes later tries anew.
    assert!(store.try_acquire(&requests[0]).await.is_err());
    assert_eq!(proxy.came() - before, 2);
}

/// Somebody removes the queue of a lock that is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_removed() {
    let url = Broker::shared().url();
    let (here, there, key) = (locker(&url).await, locker(&url).await, name("removed"));
    let held = here.acquire(&key).await.unwrap();
    let waiter = tokio::spawn({
        let (there, key) = (there.clone(), key.clone());
        async move { there.acquire(&key).await }
    });
    Raw::connect(&url).await.delete(&key).await;
    assert_eq!(soon("the loss", held.lost()).await, LossReason::SessionClosed);
    let next = soon("the next holder", waiter).await.unwrap().unwrap();
    assert!(next.fencing_token() > held.fencing_token());
}

/// Each lock that is held takes a channel. Who finds none is told so, by a type, and goes on as soon as there is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_locks_than_channels() {
    let url = format!("{}?channels=3", Broker::shared().url());
    let lock = builder(&url).await.patience(Duration::ZERO).build().unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(lock.acquire(name("channel")).await.unwrap());
    }
    let error = lock.acquire(name("channel")).await.unwrap_err();
    assert!(error.is_retryable() && !error.is_contended(), "{error}");
    assert!(error.to_string().contains("all 3 channels"), "{error}");
    let LockError::Backend(backend) = &error else { panic!("{error:?}") };
    let source = backend.source().and_then(|source| source.downcast_ref::<ChannelsInUse>());
    assert_eq!(source.map(|source| source.limit), Some(3));
    held.pop().unwrap().release().await.unwrap();
    drop(lock.acquire(name("channel")).await.unwrap());
    assert!(held.iter().all(|guard| guard.is_held()));
}

/// The broker allows fewer than were asked for: its limit is kept, with room to spare.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fewer_channels_than_asked_for() {
    let broker = Broker::start(Settings { rabbit: "{channel_max, 12}".to_owned(), ..Settings::default() });
    let lock = builder(&broker.url()).await.patience(Duration::ZERO).build().unwrap();
    let mut held = Vec::new();
    let error = loop {
        match lock.acquire(name("channel")).await {
            Ok(guard) => held.push(guard),
            Err(error) => break error,
        }
        assert!(held.len() < 12, "more than there are");
    };
    assert_eq!(held.len(), 4);
    assert!(error.to_string().contains("all 4 channels"), "{error}");
    assert!(held.iter().all(|guard| guard.is_held()));
}

/// A pushed grant that nobody takes up goes to the next, without a timeout of anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_that_is_not_polled() {
    let url = Broker::shared().url();
    let (holder, key, seen) = (locker(&url).await, name("hung"), Seen::default());
    let hung = builder(&url).await.observer(seen.clone()).build().unwrap();
    let next = builder(&url).await.observer(seen.clone()).build().unwrap();
    let held = holder.acquire(&key).await.unwrap();
    let mut unpolled = Box::pin(hung.acquire(&key));
    // Until it is in the broker's queue.
    while seen.count("waiting") < 1 {
        assert!(poll_times(unpolled.as_mut(), 1).await.is_none(), "two holders");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let waiter = tokio::spawn({
        let (next, key) = (next.clone(), key.clone());
        async move { next.acquire(&key).await }
    });
    until("the one behind is in the queue", async || seen.count("waiting") == 2).await;
    held.release().await.unwrap();
    soon("the one behind", waiter).await.unwrap().unwrap().release().await.unwrap();
    drop(soon("the one that hung", unpolled).await.unwrap());
}

/// What a service must not build on, it can refuse when it starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strong_fencing_is_refused() {
    let url = Broker::shared().url();
    let error = builder(&url).await.demand(Demand::new().fencing(Fencing::Strong)).build().unwrap_err();
    assert!(error.to_string().contains("Strong") && error.to_string().contains("Weak"), "{error}");
    let error = builder(&url).await.demand(Demand::new().server_expiry()).build().unwrap_err();
    assert!(matches!(error, LockError::Unsupported { backend: "rabbitmq", .. }), "{error}");
    assert!(builder(&url).await.demand(Demand::new().fencing(Fencing::Weak).fair().push()).build().is_ok());
}

/// Queues that nobody uses go; those that somebody holds or waits for stay, however long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_queues_are_removed() {
    let broker = Broker::start(Settings::default());
    // The shorter of the two counts: the queue's own is ten minutes.
    broker.control(&["set_policy", "soon", "^tasklock\\.1", r#"{"expires":1000}"#, "--apply-to", "queues"]).await;
    let (lock, other) = (locker(&broker.url()).await, locker(&broker.url()).await);
    let (held_key, mark) = (name("held"), name("idle"));
    let held = lock.acquire(&held_key).await.unwrap();
    let waiter = tokio::spawn({
        let (other, key) = (other.clone(), held_key.clone());
        async move { other.acquire(&key).await }
    });
    let mut last = Vec::new();
    for n in 0..200 {
        let guard = lock.acquire(format!("{n}.{mark}")).await.unwrap();
        last.push(guard.fencing_token());
        guard.release().await.unwrap();
    }
    until("all idle queues gone", async || broker.queues(&mark).await.is_empty()).await;
    assert!(held.is_held() && broker.queues(&held_key).await.len() == 1, "the one that is held is gone");
    // A name that comes back has a queue of its own again, and goes on above.
    for (n, before) in last.iter().enumerate().take(10) {
        assert!(lock.acquire(format!("{n}.{mark}")).await.unwrap().fencing_token() > *before);
    }
    let token = held.fencing_token();
    held.release().await.unwrap();
    assert!(soon("the waiter", waiter).await.unwrap().unwrap().fencing_token() > token);
}
