//! Two instances of the service on one Redis server.

use std::thread;

use tasklock_tests::servers::RedisServer;

use super::{ENDLESS, service::Service};

#[test]
fn one_request_at_a_time_per_teamspace_whichever_instance_it_comes_to() {
    let server = RedisServer::start();
    let (one, two) = (Service::on(Some(&server.url())), Service::on(Some(&server.url())));
    for (busy, other) in [(&one, &two), (&two, &one)] {
        let request = busy.open("POST", ENDLESS);
        other.until_status("/teamspaces/acme", "held");
        let holder = other.get("/teamspaces/acme").body;
        assert!(holder.contains(&format!(":{} ", busy.process.id())), "{holder}");
        let refused = other.post("/teamspaces/acme/publish");
        assert_eq!((refused.status, refused.body.as_str()), (409, "locked"));
        let waited = other.post("/teamspaces/acme/index/1");
        assert_eq!((waited.status, waited.body.as_str()), (503, "busy"));
        assert_eq!(other.post("/teamspaces/zeta/publish").status, 200, "another teamspace had to wait");
        drop(request);
        other.until_status("/teamspaces/acme", "free");
    }
}

#[test]
fn requests_take_turns_across_instances() {
    let server = RedisServer::start();
    let services = [Service::on(Some(&server.url())), Service::on(Some(&server.url()))];
    thread::scope(|scope| {
        for n in 0..8 {
            let service = &services[n % 2];
            scope.spawn(|| service.post_until_served("/teamspaces/acme/index/5"));
        }
    });
    // Each instance has a store of its own; its four requests were served, five pages each.
    for service in &services {
        let answer = service.post("/teamspaces/acme/publish");
        assert_eq!((answer.status, answer.body.as_str()), (200, "20 pages of acme published\n"));
    }
}

#[test]
fn one_instance_is_killed_and_the_other_goes_on() {
    let server = RedisServer::start();
    let url = format!("{}?ttl=1s", server.url());
    let (mut killed, other) = (Service::on(Some(&url)), Service::on(Some(&url)));
    let _request = killed.open("POST", ENDLESS);
    other.until_status("/teamspaces/acme", "held");
    killed.signal("KILL");
    assert_eq!(killed.end().0, None, "it was not killed");
    other.post_until_served("/teamspaces/acme/index/1");
    other.until_status("/teamspaces/acme", "free");
}
