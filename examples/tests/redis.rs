//! Examples on a Redis server, as a reader would run it.

mod run;

use std::{collections::HashMap, fs, path::Path};

use tasklock::redis::Value;
use tasklock_tests::servers::RedisServer;

#[test]
fn quickstart_shows_on_redis_what_it_shows_in_memory() {
    run::quickstart_shows_the_same(&RedisServer::start().url(), "redis");
}

#[test]
fn licences_on_redis() {
    run::licences_are_shared(&RedisServer::start().url());
}

/// Nothing that the documents leave out is needed: the server keeps a list of what it refused.
#[tokio::test]
async fn the_rights_in_the_documents_are_enough() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/redis.md");
    let text = fs::read_to_string(document).expect("docs/redis.md");
    let line = text.lines().find(|line| line.starts_with("ACL SETUSER locks ")).expect("the line with the rights");
    let server = RedisServer::start();
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(server.ask::<String>(&words).await, "OK");
    let url = server.url().replace("//", "//locks:secret@");
    let output = run::quickstart(&url);
    let mut refused: Vec<HashMap<String, Value>> = server.ask(&["ACL", "LOG"]).await;
    // The driver tells its name, where the server knows what to do with it, and goes on.
    refused.retain(|entry| entry.get("object") != Some(&Value::BulkString(b"client|setinfo".to_vec())));
    assert!(refused.is_empty(), "{refused:?}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let server = RedisServer::start();
    let url = server.url();
    server.stop();
    let output = run::quickstart(&url);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot be reached") && text.contains("127.0.0.1"), "{text}");
}
