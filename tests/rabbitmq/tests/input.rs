//! Addresses, users, certificates, and the example that takes any address.

use std::process::Stdio;

use tasklock::{LockError, RabbitLock, connect};
use tasklock_tests_rabbitmq::{Broker, Settings, name, soon};

#[tokio::test]
async fn addresses() {
    for (url, says) in [
        ("amqp://user:hunter2@h?hartbeat=5s", "unknown parameter `hartbeat`, did you mean `heartbeat`?"),
        ("amqp://user:hunter2@h?heartbeat=2m", "1s to 60s"),
        ("amqp://user:hunter2@h/a/b", "virtual host"),
        ("amqps://user:hunter2@h?ca=/nonexistent", "cannot read `/nonexistent`"),
    ] {
        let error = connect(url).await.unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(says) && !error.is_retryable(), "{url}: {shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

/// What the broker refuses for good is told apart from a broker that is not there, and no secret is told at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_virtual_hosts() {
    let broker = Broker::shared();
    broker.control(&["add_user", "me", "p@ss/word"]).await;
    broker.control(&["add_vhost", "team/a"]).await;
    broker.control(&["set_permissions", "-p", "team/a", "me", ".*", ".*", ".*"]).await;
    broker.control(&["add_user", "reader", "p"]).await;
    broker.control(&["set_permissions", "-p", "/", "reader", "", "", ".*"]).await;
    let at = |user: &str, vhost: &str| format!("{}/{vhost}", broker.url().replace("//", &format!("//{user}@")));

    let lock = RabbitLock::connect(at("me:p%40ss%2fword", "team%2fa")).await.unwrap();
    drop(lock.acquire(name("job")).await.unwrap());
    assert!(!format!("{lock:?}").contains("p@ss"), "{lock:?}");
    lock.ping().await.unwrap();

    for (url, says) in [
        (at("me:hunter2", "team%2fa"), "refuses this user or password"),
        (at("me:p%40ss%2fword", "nowhere"), "no such virtual host"),
        (at("me:p%40ss%2fword", ""), "no such virtual host"),
    ] {
        let error = connect(&url).await.unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(says) && !error.is_retryable(), "{shown}");
        assert!(!shown.contains("hunter2") && !shown.contains("p@ss") && !shown.contains("p%40ss"), "{shown}");
    }
    let error = connect(at("reader:p", "")).await.unwrap().acquire(name("job")).await.unwrap_err();
    assert!(error.to_string().contains("ACCESS_REFUSED") && !error.is_retryable(), "{error}");

    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let error = connect(format!("amqp://u:hunter2@127.0.0.1:{free}?timeout=2s")).await.unwrap_err();
    assert!(
        error.is_retryable() && !error.is_contended() && error.to_string().contains("cannot be reached"),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

/// Somebody listens there who never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_says_nothing() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let error = soon("an end", connect(format!("amqp://127.0.0.1:{port}?timeout=200ms"))).await.unwrap_err();
    assert!(matches!(error, LockError::Backend(_)) && error.is_retryable(), "{error}");
    assert!(error.to_string().contains("200ms"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_tls() {
    let broker = Broker::start(Settings { tls: true, ..Settings::default() });
    let lock = connect(broker.tls_url()).await.unwrap();
    lock.acquire(name("job")).await.unwrap().release().await.unwrap();
    // Nobody told it to believe this one.
    let error = connect(broker.tls_url_without_authority()).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}

/// The example as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quickstart() {
    let mut example = tokio::process::Command::new(env!("CARGO_BIN_EXE_rabbitmq_quickstart"));
    example.env("TASKLOCK_URL", Broker::shared().url()).stdin(Stdio::null()).kill_on_drop(true);
    let output = soon("its end", example.output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    for line in ["locks by rabbitmq, fencing Weak", "Not on this store: ", "Done; 0 locks were still held."] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("not what was to be shown"), "{said}");
}
