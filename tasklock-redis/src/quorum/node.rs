//! One of the nodes, whether or not it can be reached just now.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tasklock_core::{BackendError, BoxFuture, StepResult};
use tokio::{runtime::Handle, sync::watch, task::JoinHandle};

use super::step::{Answer, Step};
use crate::{
    backend::warn_if_locks_may_be_evicted,
    calls::Calls,
    link::{Link, Server},
};

/// Pauses between attempts to connect for the first time.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A server of its own: its connections, and the task that keeps them open.
#[derive(Debug)]
pub(super) struct Node {
    address: String,
    way: Arc<Mutex<Way>>,
    /// How the first attempt to connect ended, once it has.
    tried: watch::Receiver<Option<StepResult<()>>>,
    keeper: JoinHandle<()>,
}

#[derive(Debug)]
enum Way {
    /// Never connected so far; why.
    Not(BackendError),
    Open(Arc<Link>, Calls<Step>),
    Closed,
}

impl Node {
    pub(super) fn start(server: Server, runtime: &Handle) -> Self {
        let address = server.address.clone();
        let why = BackendError::transient(format!("redis at {address} is not connected yet"));
        let (way, (told, tried)) = (Arc::new(Mutex::new(Way::Not(why))), watch::channel(None));
        let keeper = runtime.spawn(keep(server, way.clone(), told, runtime.clone()));
        Node { address, way, tried, keeper }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// How the first attempt to connect has ended; it is made again if it has failed.
    pub(super) fn tried(&self) -> BoxFuture<'static, StepResult<()>> {
        let mut tried = self.tried.clone();
        Box::pin(async move {
            let outcome = tried.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
            outcome.unwrap_or_else(|| Err(BackendError::transient("redis: the connection was given up")))
        })
    }

    /// Sends it these steps, in this order; its answer to the last.
    pub(super) fn ask(&self, steps: Vec<Step>) -> BoxFuture<'static, StepResult<Answer>> {
        let asked = self.ask_all(steps);
        Box::pin(async move { asked.await.pop().unwrap_or_else(|| Err(BackendError::fatal("redis: no step"))) })
    }

    /// Sends it these steps; one answer each.
    pub(super) fn ask_all(&self, mut steps: Vec<Step>) -> BoxFuture<'static, Vec<StepResult<Answer>>> {
        let calls = match &*lock(&self.way) {
            Way::Open(_, calls) => Ok(calls.clone()),
            Way::Not(why) => Err(why.clone()),
            Way::Closed => Err(BackendError::fatal("redis: the connection was closed")),
        };
        Box::pin(async move {
            match calls {
                Ok(calls) if steps.len() == 1 => match steps.pop() {
                    Some(step) => vec![calls.submit(step).await],
                    None => Vec::new(),
                },
                Ok(calls) => calls.submit_all(steps).await,
                Err(why) => steps.iter().map(|_| Err(why.clone())).collect(),
            }
        })
    }

    pub(super) fn close(&self) {
        self.keeper.abort();
        if let Way::Open(link, _) = std::mem::replace(&mut *lock(&self.way), Way::Closed) {
            link.close();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Connects, however long that takes, and stays connected.
async fn keep(server: Server, way: Arc<Mutex<Way>>, told: watch::Sender<Option<StepResult<()>>>, runtime: Handle) {
    let mut pause = PAUSES.0;
    let link = loop {
        match Link::open(server.clone(), None).await {
            Ok(link) => break link,
            Err(why) => {
                tracing::debug!(target: "tasklock", backend = "redis-quorum", "not connected: {why}");
                // Whatever it is, it may pass.
                *lock(&way) = Way::Not(BackendError::transient(why.to_string()));
                if told.borrow().is_none() {
                    told.send_replace(Some(Err(why)));
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    };
    warn_if_locks_may_be_evicted(&link).await;
    {
        let mut way = lock(&way);
        if matches!(*way, Way::Closed) {
            return;
        }
        *way = Way::Open(link.clone(), Calls::new(link.clone(), runtime));
    }
    if told.borrow().is_none() {
        told.send_replace(Some(Ok(())));
    }
    link.keep(|| {}).await;
}

fn lock(way: &Mutex<Way>) -> MutexGuard<'_, Way> {
    way.lock().unwrap_or_else(PoisonError::into_inner)
}
