//! What is not as it should be: settings, tables, items. Each is told so that it can be mended.

use std::time::Duration;

use aws_smithy_http_client::test_util::infallible_client_fn;
use serde_json::{Value, json};
use tasklock::{
    AsyncLock, BackendError, Claim, Intent, LockError, Locker, Mode, Nonce, connect,
    dynamodb::{DynamoError, DynamoLock, aws_sdk_dynamodb::Client},
    wall_micros,
};
use tasklock_tests_dynamodb::{Emulator, Fault, Kind, REGION, TABLE, in_time, request};

const TTL: Duration = Duration::from_secs(30);

fn cause(error: &BackendError) -> &DynamoError {
    std::error::Error::source(error).and_then(|e| e.downcast_ref()).expect("the backend's own error")
}

#[tokio::test]
async fn addresses() {
    for (address, told) in [
        ("dynamodb://ab?region=eu-central-1", "3 to 255"),
        ("dynamodb://a%20b%20c?region=eu-central-1", "3 to 255"),
        ("dynamodb://locks?region=EU", "eu-central-1"),
        ("dynamodb://locks?region=eu-central-1&endpoint=nowhere", "http://host:port"),
        ("dynamodb://locks?region=eu-central-1&endpoint=ftp://host", "http://host:port"),
        ("dynamodb://locks?region=eu-central-1&endpoint=http://me:hunter2@host", "without user"),
        ("dynamodb://locks?regoin=eu-central-1", "did you mean `region`?"),
        ("dynamodb://locks?region=eu-central-1&shards=4", "unknown parameter `shards`"),
        ("dynamodb://locks:80?region=eu-central-1", "dynamodb://table"),
        ("dynamodb://locks/more?region=eu-central-1", "dynamodb://table"),
        ("dynamodb:locks", "dynamodb://table"),
        ("dynamodb://AKIAEXAMPLE:hunter2@locks?region=eu-central-1", "credentials are not part of it"),
        ("dynamodb://locks?region=eu-central-1&ttl=1ms&endpoint=http://127.0.0.1:1", ""),
    ] {
        let error = connect(address).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(told), "{address}: {text}");
        assert!(!text.contains("hunter2"), "{address}: {text}");
        assert!(!error.is_contended(), "{address}");
    }
}

#[tokio::test]
async fn settings() {
    let build = || DynamoLock::builder("locks").region(REGION);
    for timeout in [Duration::ZERO, Duration::from_millis(49), Duration::from_secs(61)] {
        let error = build().call_timeout(timeout).open().await.unwrap_err();
        assert!(error.to_string().contains("50 ms to 60 s"), "{error}");
    }
    let store = build().endpoint("https://dynamodb.eu-central-1.amazonaws.com").open().await.unwrap();
    assert_eq!(store.table(), "locks");
    let shown = format!("{store:?} {:?}", build().endpoint("http://me:hunter2@host"));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn a_table_that_is_not_there() {
    let emulator = Emulator::empty();
    let store = emulator.store();
    let error = store.check().await.unwrap_err();
    assert!(matches!(&error, DynamoError::NoTable { table } if table == TABLE), "{error}");
    for error in [
        store.try_acquire(&request("job", TTL)).await.unwrap_err(),
        store.ping().await.unwrap_err(),
        store.release(&Claim::of(&request("job", TTL))).await.unwrap_err(),
    ] {
        assert!(!error.is_retryable() && error.to_string().contains("create_table()"), "{error}");
    }
}

#[tokio::test]
async fn a_table_for_something_else() {
    for (key, kind) in [("id", "S"), ("pk", "N")] {
        let emulator = Emulator::empty();
        let create = json!({
            "TableName": TABLE, "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": key, "AttributeType": kind}],
            "KeySchema": [{"AttributeName": key, "KeyType": "HASH"}],
        });
        emulator.database().create_table(serde_json::from_value(create).unwrap()).unwrap();
        let store = emulator.store();
        for error in [
            store.check().await.unwrap_err(),
            store.create_table([("", ""); 0]).await.unwrap_err(),
            cause(&store.try_acquire(&request("job", TTL)).await.unwrap_err()).clone(),
        ] {
            assert!(matches!(error, DynamoError::KeySchema { .. }), "{key} {kind}: {error}");
        }
    }
}

#[tokio::test]
async fn rights_credentials_and_clocks() {
    let emulator = Emulator::start().await;
    let store = emulator.store();
    for (code, told) in [
        ("AccessDeniedException", "allow dynamodb:GetItem"),
        ("UnrecognizedClientException", "no credentials that AWS accepts"),
        ("ExpiredTokenException", "no credentials that AWS accepts"),
    ] {
        emulator.proxy().next(Kind::Check, Fault::Answer(400, code));
        let error = store.check().await.unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
    }
}

/// A table is made once, by whoever is first, and left as it is by the others.
#[tokio::test]
async fn a_table_is_made() {
    let emulator = Emulator::empty();
    let stores = [emulator.store(), emulator.store()];
    // What was just asked for is not always seen at once.
    emulator.proxy().next(Kind::Describe, Fault::Answer(400, "ResourceNotFoundException"));
    let (first, second) = tokio::join!(
        stores[0].create_table([("team", "billing"), ("stage", "test")]),
        stores[1].create_table([("team", "other")]),
    );
    first.unwrap();
    second.unwrap();
    let told = |request: Value| serde_json::from_value(request).unwrap();
    let ttl = emulator.database().describe_time_to_live(serde_json::from_value(json!({"TableName": TABLE})).unwrap());
    let ttl = serde_json::to_value(ttl.unwrap()).unwrap();
    assert_eq!(ttl["TimeToLiveDescription"]["AttributeName"], "purge_at", "{ttl}");
    let table = emulator.database().describe_table(told(json!({"TableName": TABLE}))).unwrap();
    let table = serde_json::to_value(table).unwrap();
    assert_eq!(table["Table"]["BillingModeSummary"]["BillingMode"], "PAY_PER_REQUEST", "{table}");
    let arn = table["Table"]["TableArn"].clone();
    let tags = emulator.database().list_tags_of_resource(serde_json::from_value(json!({"ResourceArn": arn})).unwrap());
    let tags = serde_json::to_value(tags.unwrap()).unwrap().to_string();
    assert!(tags.contains("team") && (tags.contains("billing") || tags.contains("other")), "{tags}");
    stores[0].check().await.unwrap();
}

/// What is being deleted, or archived, does not become a table by waiting for it.
#[tokio::test(start_paused = true)]
async fn a_table_that_cannot_be_used() {
    let emulator = Emulator::empty();
    for (status, is_ready) in [("DELETING", false), ("ARCHIVED", false), ("ACTIVE", true)] {
        let table = json!({"Table": {
            "TableName": TABLE, "TableStatus": status, "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
            "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}],
        }});
        let http = infallible_client_fn(move |request| {
            let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
            let (code, body) = match target.unwrap_or_default().rsplit('.').next() {
                Some("CreateTable") => (400, json!({"__type": "ResourceInUseException"})),
                Some("DescribeTable") => (200, table.clone()),
                _ => (200, json!({"TimeToLiveDescription": {"AttributeName": "purge_at"}})),
            };
            http::Response::builder().status(code).body(body.to_string()).unwrap()
        });
        let config = emulator.direct().client().config().to_builder().http_client(http).build();
        let store = DynamoLock::new(Client::from_conf(config), TABLE).unwrap();
        let made = in_time(store.create_table([("", ""); 0])).await;
        assert_eq!(made.is_ok(), is_ready, "{status}: {made:?}");
        assert!(made.is_ok() || made.unwrap_err().to_string().contains(status));
    }
}

fn held() -> Value {
    json!({
        "pk": {"S": "job"}, "fmt": {"N": "1"}, "own": {"S": Nonce::from_u128(7).to_string()}, "hb": {"N": "3"},
        "ld": {"N": "30000"}, "tok": {"N": "41"}, "purge_at": {"N": "4000000000"},
        "holder": {"M": {
            "name": {"S": "w"}, "host": {"S": "h"}, "pid": {"N": "9"}, "app": {"S": "a"}, "since": {"N": "1700000000"},
        }},
    })
}

/// An item whose attributes are of other types names the lock and the attribute, whoever finds it.
#[tokio::test(start_paused = true)]
async fn damaged_items() {
    let emulator = Emulator::start().await;
    let store = emulator.direct();
    for (name, value) in [
        ("own", json!({"N": "7"})),
        ("own", json!({"S": "7"})),
        ("own", json!({"S": "ABCDEFABCDEFABCDEFABCDEFABCDEFAB"})),
        ("hb", json!({"S": "3"})),
        ("hb", json!({"N": "-1"})),
        ("ld", json!({"S": "30000"})),
        ("ld", json!({"N": "0.5"})),
        ("ld", json!({"N": u64::MAX.to_string()})),
        ("tok", json!({"S": "41"})),
        ("tok", json!({"N": "1e30"})),
        ("fmt", json!({"S": "1"})),
        ("gone_at", json!({"S": "7"})),
        ("hb", Value::Null),
        ("tok", Value::Null),
    ] {
        let mut item = held();
        item[name] = value.clone();
        item.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        emulator.put(&item);
        let mut poll = request("job", TTL);
        poll.intent = Intent::Poll { attempt: 1 };
        for error in [
            store.try_acquire(&request("job", TTL)).await.unwrap_err(),
            store.try_acquire(&poll).await.unwrap_err(),
            store.inspect(&poll.key).await.unwrap_err(),
        ] {
            let told =
                matches!(cause(&error), DynamoError::Damaged { key, what, .. } if key == "job" && what.contains(name));
            assert!(told && !error.is_retryable(), "{name} = {value}: {error}");
        }
    }
    // Free, it is not taken either.
    for (name, value) in [
        ("hb", json!({"S": "x"})),
        ("hb", json!({"N": "-1"})),
        ("tok", json!({"S": "x"})),
        ("tok", json!({"N": "-7"})),
        ("tok", json!({"N": "1e30"})),
        ("tok", json!({"N": u64::MAX.to_string()})),
        ("gone_at", json!({"S": "7"})),
    ] {
        let mut item = held();
        item.as_object_mut().unwrap().remove("own");
        item[name] = value.clone();
        emulator.put(&item);
        let before = emulator.item("job");
        let error = store.try_acquire(&request("job", TTL)).await.unwrap_err();
        let told = matches!(cause(&error), DynamoError::Damaged { what, .. } if what.contains(name));
        assert!(told && !error.is_retryable(), "{name} = {value}: {error}");
        assert_eq!(emulator.item("job"), before, "{name} = {value}: the item was touched");
    }
    // What is only for people to read may be anything.
    let mut item = held();
    item["holder"] = json!({"S": "somebody"});
    emulator.put(&item);
    let state = store.inspect(&request("job", TTL).key).await.unwrap();
    assert_eq!(state.holder.unwrap().owner.name(), "unknown");
}

/// Numbers that are right and make no sense: nobody is taken over, and nothing counts beyond its end.
#[tokio::test(start_paused = true)]
async fn items_beyond_measure() {
    let emulator = Emulator::start().await;
    let lock = Locker::builder(emulator.direct()).prefix("").build().unwrap();
    for since in ["0", "18446744073709551615"] {
        let mut item = held();
        item["ld"] = json!({"N": i64::MAX.to_string()});
        item["holder"]["M"]["since"] = json!({"N": since});
        emulator.put(&item);
        let before = emulator.item("job");
        assert!(lock.try_acquire("job").await.unwrap().is_none());
        let error = lock.key("job").wait(Duration::from_secs(60)).acquire().await.unwrap_err();
        assert!(error.is_contended() && error.holder().is_some(), "{error}");
        assert!(lock.inspect("job").await.is_ok());
        assert_eq!(emulator.item("job"), before);
    }
}

/// A later version's item is left alone, free or held, and who finds it is told to update.
#[tokio::test(start_paused = true)]
async fn items_of_a_later_version() {
    let emulator = Emulator::start().await;
    let store = emulator.direct();
    for is_held in [true, false] {
        let mut item = held();
        item["fmt"] = json!({"N": "2"});
        if !is_held {
            item.as_object_mut().unwrap().remove("own");
        }
        emulator.put(&item);
        let before = emulator.item("job");
        let late = request("job", TTL);
        let mut withdrawn = Claim::of(&late);
        withdrawn.unsettled = true;
        let power = store.powers().administer.unwrap();
        for error in [
            store.try_acquire(&late).await.unwrap_err(),
            store.inspect(&late.key).await.unwrap_err(),
            store.release(&withdrawn).await.unwrap_err(),
            power.revoke(&late.key, None).await.unwrap_err(),
        ] {
            let newer = matches!(cause(&error), DynamoError::NewerFormat { found: 2, known: 1, .. });
            assert!(newer && !error.is_retryable(), "{error}");
        }
        assert_eq!(emulator.item("job"), before, "touched an item of a later version");
    }
}

/// The format is frozen: what version 1 wrote, every later one of format 1 reads, and writes.
#[tokio::test(start_paused = true)]
async fn the_format_is_frozen() {
    let emulator = Emulator::start().await;
    let store = emulator.direct();
    emulator.put(&held());
    let state = store.inspect(&request("job", TTL).key).await.unwrap();
    let holder = state.holder.unwrap();
    assert_eq!(
        (holder.owner.name(), holder.owner.host(), holder.owner.pid(), holder.owner.application()),
        ("w", "h", 9, "a")
    );
    assert_eq!((holder.remaining, holder.token.map(u64::from)), (Some(TTL), Some(41)));

    let mut claim = Claim::for_release(request("job", TTL).key, Nonce::from_u128(7));
    claim.unsettled = true;
    assert_eq!(store.release(&claim).await.unwrap(), tasklock::Released::Released);
    let written = request("job", TTL);
    store.try_acquire(&written).await.unwrap();
    let item = serde_json::to_value(emulator.item("job").unwrap()).unwrap();
    let mut names: Vec<_> =
        item.as_object().unwrap().keys().map(String::as_str).filter(|n| !n.starts_with("gone")).collect();
    names.sort_unstable();
    assert_eq!(names, ["fmt", "hb", "holder", "ld", "own", "pk", "purge_at", "tok"]);
    for (name, value) in [
        ("pk", json!({"S": "job"})),
        ("fmt", json!({"N": "1"})),
        ("own", json!({"S": written.nonce.to_string()})),
        ("hb", json!({"N": "4"})),
        ("ld", json!({"N": "30000"})),
        ("tok", json!({"N": "42"})),
    ] {
        assert_eq!(item[name], value, "{name}");
    }
    assert_eq!(item["gone"], json!({"SS": [Nonce::from_u128(7).to_string()]}));
}

/// Withdrawals are remembered for a quarter of an hour at least, and not for ever.
#[tokio::test(start_paused = true)]
async fn withdrawals_make_room_for_others() {
    let emulator = Emulator::start().await;
    let store = emulator.direct();
    let [before, last, now, again] = [(); 4].map(|()| request("job", TTL));
    let mut item = held();
    item.as_object_mut().unwrap().remove("own");
    item["gone"] = json!({"SS": [last.nonce.to_string()]});
    item["gone_before"] = json!({"SS": [before.nonce.to_string()]});
    item["gone_at"] = json!({"N": "7"});
    emulator.put(&item);
    for withdrawn in [&last, &before] {
        let error = store.try_acquire(withdrawn).await.unwrap_err();
        assert!(matches!(cause(&error), DynamoError::Withdrawn), "{error}");
    }
    let all = |name: &str| {
        serde_json::to_value(&emulator.item("job").unwrap()[name]).unwrap()["SS"].as_array().unwrap().len()
    };
    for withdrawn in [&now, &again, &again] {
        let mut claim = Claim::of(withdrawn);
        claim.unsettled = true;
        assert_eq!(store.release(&claim).await.unwrap(), tasklock::Released::NotOwner);
    }
    assert_eq!((all("gone") + all("gone_before")), 3, "two of now, and the last");
    for withdrawn in [&last, &now, &again] {
        let error = store.try_acquire(withdrawn).await.unwrap_err();
        assert!(matches!(cause(&error), DynamoError::Withdrawn), "{error}");
    }
    store.try_acquire(&before).await.unwrap();
    assert_eq!(emulator.held(), 1, "what was withdrawn two periods ago is forgotten");
    let ahead = wall_micros() / 1_000_000;
    let mut item = serde_json::to_value(emulator.item("job").unwrap()).unwrap();
    item["gone_at"] = json!({"N": ahead.to_string()});
    emulator.put(&item);
    let mut claim = Claim::of(&request("job", TTL));
    claim.unsettled = true;
    store.release(&claim).await.unwrap();
    assert_eq!((all("gone"), all("gone_before")), (3, 1), "joined to what a clock ahead of ours began");
}

/// Long names of owners do not make a write cost more, nor fail.
#[tokio::test(start_paused = true)]
async fn long_owners_are_cut() {
    let emulator = Emulator::start().await;
    let store = emulator.direct();
    let mut wordy = request(&"k".repeat(512), TTL);
    wordy.owner = tasklock::Owner::recorded("ä".repeat(5_000), "h".repeat(5_000), 1, "");
    store.try_acquire(&wordy).await.unwrap();
    let item = serde_json::to_string(&emulator.item(wordy.key.as_str()).unwrap()).unwrap();
    assert!(item.len() < 1_300, "{} bytes of JSON", item.len());
}

#[tokio::test(start_paused = true)]
async fn what_it_cannot_do() {
    let emulator = Emulator::start().await;
    let mut shared = request("job", TTL);
    shared.mode = Mode::Shared;
    let error = emulator.direct().try_acquire(&shared).await.unwrap_err();
    assert!(error.to_string().contains("Shared") && !error.is_retryable(), "{error}");
    assert_eq!(emulator.held(), 0);
    let LockError::InvalidOption(error) = DynamoLock::new(emulator.direct().client().clone(), "x").unwrap_err() else {
        panic!("another error")
    };
    assert_eq!((error.option, error.value.as_str()), ("table", "\"x\""));
}
