//! A small service whose requests for one teamspace take turns: `cargo run --example axum`.
//!
//! ```text
//! curl -X POST localhost:3000/teamspaces/acme/index/100    # rebuilds an index of 100 pages, 10 ms each
//! curl -X POST localhost:3000/teamspaces/acme/publish      # 409 while somebody is at acme
//! curl localhost:3000/teamspaces/acme                      # who is at acme
//! curl localhost:3000/ready                                # 503 if the store does not answer
//! ```
//!
//! `ADDR` is where it listens (`127.0.0.1:3000`), `TASKLOCK_URL` which store it locks by (`memory:`, which is enough
//! for one instance). It serves until ctrl-c or SIGTERM, then finishes what it has begun.

use std::{
    collections::HashMap,
    env,
    error::Error,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tasklock::{Fence, FencingToken, LockError, Locker, StaleToken, synchronized};
use tokio::{net::TcpListener, time::sleep};

/// How long a request waits for its turn. The client is told to come back, rather than kept for ever.
const WAIT: Duration = Duration::from_secs(1);
/// How long requests may take to end after a signal: less than whoever sends it waits before it kills.
const DRAIN: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("axum: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let url = env::var("TASKLOCK_URL").unwrap_or_else(|_| "memory:".to_owned());
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let lock = tasklock::connect(&url).await?;
    let listener = TcpListener::bind(&address).await.map_err(|e| format!("{address}: {e}"))?;
    println!("listening on {}, locks by {}", listener.local_addr()?, lock.capabilities().backend);

    let service = axum::serve(listener, app(lock.clone())).with_graceful_shutdown(stopped());
    tokio::select! {
        served = service => served?,
        () = async { stopped().await; sleep(DRAIN).await } => println!("some requests take too long: left behind"),
    }
    // After the last request, so that none loses its lock. Those left behind lose theirs, and answer 503.
    let drained = lock.shutdown().await;
    println!("drained; {} locks were still held", drained.lost);
    Ok(())
}

fn app(lock: Locker) -> Router {
    Router::new()
        .route("/teamspaces/{teamspace}", get(status))
        .route("/teamspaces/{teamspace}/index/{pages}", post(index))
        .route("/teamspaces/{teamspace}/publish", post(publish))
        .route("/ready", get(ready))
        .with_state(App { lock, store: Arc::default() })
}

#[derive(Clone)]
struct App {
    lock: Locker,
    store: Arc<Store>,
}

/// Waits for its turn. A `LockError` becomes the response: 503 with `Retry-After` if the turn does not come in time.
///
/// If the client goes away, axum drops this future: the body ends where it stands, and the lock is released.
#[synchronized("teamspace", lock = app.lock, wait = WAIT, guard = lease)]
async fn index(State(app): State<App>, Path((teamspace, pages)): Path<(String, u32)>) -> Result<String, Failure> {
    for _ in 0..pages {
        // Read, work, write: two at once would lose each other's pages.
        let indexed = app.store.pages(&teamspace);
        sleep(Duration::from_millis(10)).await;
        app.store.write(&teamspace, indexed + 1, lease.fencing_token())?;
    }
    Ok(format!("{} pages of {teamspace} indexed\n", app.store.pages(&teamspace)))
}

/// Does not wait: 409 with `Retry-After` while somebody else is at the teamspace.
#[synchronized("teamspace", lock = app.lock, try_only)]
async fn publish(State(app): State<App>, Path(teamspace): Path<String>) -> Result<String, Failure> {
    Ok(format!("{} pages of {teamspace} published\n", app.store.pages(&teamspace)))
}

/// Who is at the teamspace. The key is that of `#[synchronized]`, for names that need no escaping.
async fn status(State(app): State<App>, Path(teamspace): Path<String>) -> Result<String, Failure> {
    let state = app.lock.inspect(format!("teamspace={teamspace}")).await?;
    Ok(state.holder.map_or_else(|| "free\n".to_owned(), |holder| format!("held by {holder}\n")))
}

/// For the load balancer: whether the store answers.
async fn ready(State(app): State<App>) -> Result<&'static str, Failure> {
    app.lock.ping().await?;
    Ok("ready\n")
}

/// What a handler may fail with. `#[synchronized]` needs no more than the first `From`.
enum Failure {
    Lock(LockError),
    Stale(StaleToken),
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        Failure::Lock(error)
    }
}

impl From<StaleToken> for Failure {
    fn from(error: StaleToken) -> Self {
        Failure::Stale(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Failure::Lock(error) => error.into_response(),
            Failure::Stale(error) => {
                eprintln!("{error}");
                (StatusCode::CONFLICT, "the lock has changed hands\n").into_response()
            }
        }
    }
}

/// Stands for a database: pages per teamspace, and beside them the highest fencing token that has written.
#[derive(Default)]
struct Store(Mutex<HashMap<String, (u64, Fence)>>);

impl Store {
    fn pages(&self, teamspace: &str) -> u64 {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.get(teamspace).map_or(0, |(pages, _)| *pages)
    }

    /// `UPDATE … SET pages = $pages, fence = $token WHERE teamspace = $teamspace AND fence <= $token`.
    fn write(&self, teamspace: &str, pages: u64, token: FencingToken) -> Result<(), StaleToken> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (written, fence) = rows.entry(teamspace.to_owned()).or_default();
        fence.admit(token)?;
        *written = pages;
        Ok(())
    }
}

/// Completes when the process is asked to end.
async fn stopped() {
    let interrupted = async {
        // Without a handler for it ctrl-c ends the process at once, which is right then.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = interrupted => {}
        () = terminated() => {}
    }
}

#[cfg(unix)]
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn terminated() {
    std::future::pending().await
}
