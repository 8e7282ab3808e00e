//! The service of the example `axum`, started as a process of its own and spoken to over HTTP.

#![cfg(unix)]

#[cfg(feature = "redis-tests")]
mod redis;
mod service;

use std::{net::TcpStream, process::Command, thread};

use service::{Answer, Service, program};

/// More pages than any test waits for.
pub(crate) const ENDLESS: &str = "/teamspaces/acme/index/100000";

#[test]
fn requests_for_one_teamspace_take_turns() {
    let service = Service::start();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| service.post_until_served("/teamspaces/acme/index/5"));
        }
    });
    let answer = service.post("/teamspaces/acme/publish");
    assert_eq!((answer.status, answer.body.as_str()), (200, "40 pages of acme published\n"), "pages were lost");
}

#[test]
fn other_teamspaces_do_not_wait() {
    let service = Service::start();
    let _busy = service.open("POST", ENDLESS);
    service.until_status("/teamspaces/acme", "held");
    assert_eq!(service.post("/teamspaces/zeta/index/1").status, 200);
    assert_eq!(service.post("/teamspaces/zeta/publish").status, 200);
    assert!(service.get("/teamspaces/acme").body.starts_with("held by axum@"), "acme was not held all the time");
}

#[test]
fn who_cannot_have_its_turn_is_told_when_to_come_back() {
    let service = Service::start();
    let _busy = service.open("POST", ENDLESS);
    service.until_status("/teamspaces/acme", "held");
    let held = service.post("/teamspaces/acme/publish");
    assert_eq!((held.status, held.body.as_str()), (409, "locked"));
    assert!(held.retry_after >= Some(1), "{held:?}");
    let waited = service.post("/teamspaces/acme/index/1");
    assert_eq!((waited.status, waited.body.as_str()), (503, "busy"));
    assert!(waited.retry_after >= Some(1), "{waited:?}");
    let ready = service.get("/ready");
    assert_eq!(ready.status, 200, "contention is no reason to be taken out of service");
}

#[test]
fn a_client_that_goes_away_gives_its_lock_back() {
    let service = Service::start();
    let busy = service.open("POST", ENDLESS);
    service.until_status("/teamspaces/acme", "held");
    drop(busy);
    service.until_status("/teamspaces/acme", "free");
}

#[test]
fn a_signal_lets_what_has_begun_end() {
    let mut service = Service::start();
    let mut begun = service.open("POST", "/teamspaces/acme/index/100");
    service.until_status("/teamspaces/acme", "held");
    service.signal("TERM");
    let answer = Answer::read(&mut begun);
    assert_eq!((answer.status, answer.body.as_str()), (200, "100 pages of acme indexed\n"));
    assert_eq!(service.end(), (Some(0), "drained; 0 locks were still held\n".to_owned()));
    assert!(TcpStream::connect(service.address).is_err(), "somebody still listens");
}

#[test]
fn a_store_that_is_not_compiled_in_is_named_with_its_feature() {
    let output = Command::new(program()).env("TASKLOCK_URL", "etcd-no-such://x").output().expect("the example runs");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("unknown scheme") && text.contains("memory"), "{text}");
}
