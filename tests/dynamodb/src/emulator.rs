//! The emulator, one for each test.

use std::{collections::HashMap, fmt, net::SocketAddr, thread::JoinHandle, time::Duration};

use aws_smithy_http_client::{Builder, test_util::infallible_client_fn};
use dynoxide::{AttributeValue, Database, DynoxideError};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tasklock::{
    Clock, Intent, Key, Nonce, Owner, Request, Ttl,
    dynamodb::{
        DynamoLock,
        aws_sdk_dynamodb::{
            Client, Config,
            config::{
                BehaviorVersion, Credentials, Region, SharedHttpClient, retry::RetryConfig, timeout::TimeoutConfig,
            },
        },
    },
};
use tokio::{net::TcpListener, sync::oneshot};

use crate::Proxy;

/// The table that an emulator has from the start.
pub const TABLE: &str = "locks";
/// The region all clients are told.
pub const REGION: &str = "us-east-1";

/// DynamoDB in this process, behind a proxy. Both end with it.
pub struct Emulator {
    database: Database,
    proxy: Proxy,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Emulator {
    /// With the table as `create_table` makes it.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub async fn start() -> Self {
        let emulator = Self::empty();
        let made = emulator.direct().create_table([("made", "by a test")]).await;
        made.expect("a table");
        emulator
    }

    /// Without a table.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[must_use]
    pub fn empty() -> Self {
        let database = Database::memory().expect("an emulator");
        let (stop, stopped) = oneshot::channel();
        let (told, tell) = std::sync::mpsc::channel();
        // A runtime of its own: that of a test may have its time paused, or be blocked on purpose.
        let thread = std::thread::spawn({
            let database = database.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async move {
                    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                    let behind = listener.local_addr().expect("an address");
                    let proxy = Proxy::start(behind).await;
                    told.send(proxy).expect("the test waits");
                    tokio::select! {
                        () = dynoxide::server::serve_on(listener, database) => {}
                        _ = stopped => {}
                    }
                });
            }
        });
        let proxy = tell.recv().expect("the emulator starts");
        Emulator { database, proxy, stop: Some(stop), thread: Some(thread) }
    }

    /// What stands between clients and the emulator.
    #[must_use]
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Where clients reach it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.proxy.address()
    }

    /// A client over HTTP, set up as the backend sets up its own.
    #[must_use]
    pub fn store(&self) -> DynamoLock {
        self.store_with(RetryConfig::disabled(), Duration::from_secs(3))
    }

    /// The same, with other retries and another bound on each request.
    ///
    /// # Panics
    ///
    /// Never.
    #[must_use]
    pub fn store_with(&self, retries: RetryConfig, call_timeout: Duration) -> DynamoLock {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(call_timeout).build();
        let config = config(Builder::new().build_http(), &format!("http://{}", self.address()));
        let config = config.to_builder().retry_config(retries).timeout_config(timeouts).build();
        DynamoLock::new(Client::from_conf(config), TABLE).expect("a table's name")
    }

    /// A client without a socket: the SDK's requests are carried out where they are made. Time may be paused.
    ///
    /// # Panics
    ///
    /// Never.
    #[must_use]
    pub fn direct(&self) -> DynamoLock {
        let database = self.database.clone();
        let http = infallible_client_fn(move |request| {
            let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
            answer(&database, target.unwrap_or_default(), request.body().bytes().unwrap_or_default())
        });
        let config = config(http, "http://emulator");
        DynamoLock::new(Client::from_conf(config), TABLE).expect("a table's name")
    }

    /// The item of a lock.
    ///
    /// # Panics
    ///
    /// If there is no table.
    #[must_use]
    pub fn item(&self, key: &str) -> Option<HashMap<String, AttributeValue>> {
        let get = from(&json!({"TableName": TABLE, "Key": {"pk": {"S": key}}, "ConsistentRead": true}));
        self.database.get_item(get).expect("an answer").item
    }

    /// Writes an item as somebody else would, in DynamoDB's JSON.
    ///
    /// # Panics
    ///
    /// If DynamoDB would refuse it.
    pub fn put(&self, item: &serde_json::Value) {
        self.database.put_item(from(&json!({"TableName": TABLE, "Item": item}))).expect("an item");
    }

    /// Deletes the item of a lock, as an operator would.
    ///
    /// # Panics
    ///
    /// If there is no table.
    pub fn delete(&self, key: &str) {
        let delete = from(&json!({"TableName": TABLE, "Key": {"pk": {"S": key}}}));
        self.database.delete_item(delete).expect("an answer");
    }

    /// How many locks are held.
    ///
    /// # Panics
    ///
    /// If there is no table.
    #[must_use]
    pub fn held(&self) -> usize {
        let scan = from(&json!({"TableName": TABLE, "FilterExpression": "attribute_exists(own)", "Select": "COUNT"}));
        self.database.scan(scan).expect("an answer").count
    }

    /// Asks the emulator itself.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A first attempt on `key` that does not wait.
///
/// # Panics
///
/// If no lock can have this name.
#[must_use]
pub fn request(key: &str, ttl: Duration) -> Request {
    let (key, now) = (Key::new(key).expect("a name"), Clock::current().now());
    Request::new(key, Nonce::fresh(), Ttl::For(ttl), Intent::Try, Owner::named("a test"), now)
}

fn config(http: SharedHttpClient, endpoint: &str) -> Config {
    Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
        .endpoint_url(endpoint)
        .http_client(http)
        .retry_config(RetryConfig::disabled())
        .build()
}

fn answer(database: &Database, target: &str, body: &[u8]) -> http::Response<Vec<u8>> {
    let done = match target.rsplit('.').next().unwrap_or_default() {
        "CreateTable" => run(body, |r| database.create_table(r)),
        "DescribeTable" => run(body, |r| database.describe_table(r)),
        "DescribeTimeToLive" => run(body, |r| database.describe_time_to_live(r)),
        "UpdateTimeToLive" => run(body, |r| database.update_time_to_live(r)),
        "GetItem" => run(body, |r| database.get_item(r)),
        "UpdateItem" => run(body, |r| database.update_item(r)),
        "TransactWriteItems" => run(body, |r| database.transact_write_items(r)),
        other => panic!("a request for {other}, which no lock needs"),
    };
    let (status, body) = match done {
        Ok(body) => (200, body),
        Err(error) => (error.status_code(), error.to_json().into_bytes()),
    };
    let response = http::Response::builder().status(status).header("content-type", "application/x-amz-json-1.0");
    response.body(body).expect("a response")
}

fn run<Q: DeserializeOwned, A: Serialize>(
    body: &[u8],
    call: impl FnOnce(Q) -> Result<A, DynoxideError>,
) -> Result<Vec<u8>, DynoxideError> {
    let request = serde_json::from_slice(body).expect("a request as the SDK writes it");
    call(request).map(|answer| serde_json::to_vec(&answer).expect("an answer"))
}

fn from<T: DeserializeOwned>(value: &serde_json::Value) -> T {
    serde_json::from_value(value.clone()).expect("a request")
}
