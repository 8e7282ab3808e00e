//! Commands that newer servers have are used where they do what the script does, and nowhere else.

use std::time::Duration;

use tasklock::{Locker, Ttl, When, connect};
use tasklock_tests::servers::{Knows, RedisCluster, RedisOfVersion, RedisServer};

const SOON: Duration = Duration::from_secs(600);

fn equals(text: &str) -> When {
    When::Equal(text.to_owned())
}

/// What a condition on equality comes to, whatever the server knows.
async fn values_change(lock: &Locker, server: &RedisServer, key: &str) {
    let value = lock.value("job").unwrap();
    let ttl = async || server.ask::<i64>(&["PTTL", key]).await;
    assert!(!value.set_if(equals("a"), "b", Ttl::Never).await.unwrap(), "there is none");
    assert!(!value.delete_if(equals("a")).await.unwrap());
    assert_eq!(value.get().await.unwrap(), None);
    value.set("a", SOON).await.unwrap();
    assert!(!value.set_if(equals("b"), "c", SOON).await.unwrap());
    assert!(!value.delete_if(equals("b")).await.unwrap());
    assert_eq!(value.get().await.unwrap().as_deref(), Some("a"));
    assert!(value.set_if(equals("a"), "b c", Ttl::Never).await.unwrap());
    assert_eq!((value.get().await.unwrap().as_deref(), ttl().await), (Some("b c"), -1), "its ttl is the new one");
    assert!(value.set_if(equals("b c"), "", SOON).await.unwrap());
    assert!(ttl().await > 0);
    assert!(value.delete_if(equals("")).await.unwrap());
    assert_eq!(value.get().await.unwrap(), None);
    // What is no value is told, and stays.
    let _: i64 = server.ask(&["LPUSH", key, "a"]).await;
    for failed in [value.set_if(equals("a"), "b", SOON).await, value.delete_if(equals("a")).await] {
        assert!(failed.unwrap_err().to_string().contains("WRONGTYPE"));
    }
    let _: i64 = server.ask(&["DEL", key]).await;
}

/// The script is asked once what the server was found not to know, and never what it knows. What is refused is not tried
/// again on the same connection.
#[tokio::test]
async fn what_the_server_knows_is_used() {
    for (knows, first, later) in [
        (Knows::Nothing, "SET SCRIPT DELIFEQ DELEX SCRIPT", "SCRIPT SCRIPT"),
        (Knows::SetIfEqual, "SET DELIFEQ DELEX SCRIPT", "SET SCRIPT"),
        (Knows::DelIfEqual, "SET DELIFEQ", "SET DELIFEQ"),
        (Knows::DelEx, "SET DELIFEQ DELEX", "SET DELEX"),
    ] {
        let server = RedisServer::start();
        let front = RedisOfVersion::start(&server, knows).await;
        let seen = || {
            let seen = front.seen();
            let name =
                |name: &str| if name == "EVAL" || name == "EVALSHA" { "SCRIPT".to_owned() } else { name.to_owned() };
            seen.iter().map(|seen| name(seen)).collect::<Vec<_>>().join(" ")
        };
        let lock = connect(front.url()).await.unwrap();
        lock.acquire("warm").await.unwrap().release().await.unwrap();
        for expected in [first, later] {
            let value = lock.value("job").unwrap();
            value.set("a", SOON).await.unwrap();
            let _ = seen();
            assert!(value.set_if(equals("a"), "b", SOON).await.unwrap());
            assert!(value.delete_if(equals("b")).await.unwrap());
            assert_eq!(seen(), expected, "{knows:?}");
        }
        values_change(&lock, &server, "{tasklock:job}:1:value").await;
        // All else is the script's, whatever the server knows: a token is minted, a queue is told.
        let _ = seen();
        let guard = lock.acquire("job").await.unwrap();
        guard.extend(SOON).await.unwrap();
        guard.release().await.unwrap();
        assert!(lock.value("job").unwrap().set_if(When::Absent, "a", SOON).await.unwrap());
        assert_eq!(seen(), "SCRIPT SCRIPT SCRIPT SCRIPT", "{knows:?}");
        // Another connection may be to another server: it is found out anew.
        assert!(lock.value("job").unwrap().delete_if(equals("a")).await.unwrap());
        let other = connect(front.url()).await.unwrap();
        let _ = seen();
        assert!(!other.value("job").unwrap().set_if(equals("a"), "b", SOON).await.unwrap());
        assert!(seen().starts_with("SET"), "{knows:?}");
    }
}

/// The same by the server that is installed, whatever it knows; by a user who has no right to more than the documents
/// name; and in a cluster, at the node of the lock's slot.
#[tokio::test]
async fn values_change_on_the_installed_server() {
    let server = RedisServer::start();
    values_change(&connect(server.url()).await.unwrap(), &server, "{tasklock:job}:1:value").await;
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/redis.md");
    let page = std::fs::read_to_string(page).expect("docs/redis.md");
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER locks ")).expect("the line with the rights");
    assert_eq!(server.ask::<String>(&line.split(' ').collect::<Vec<_>>()).await, "OK");
    let lock = connect(server.url().replace("//", "//locks:secret@")).await.unwrap();
    values_change(&lock, &server, "{tasklock:job}:1:value").await;
    let cluster = RedisCluster::start().await;
    let slot = cluster.slot("{tasklock:job}").await;
    let master = cluster.master_of(slot).await;
    let lock = connect(cluster.url()).await.unwrap();
    values_change(&lock, &cluster.nodes()[master], "{tasklock:job}:1:value").await;
}
