//! One of the nodes, whether or not it can be reached just now.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tasklock_core::{BackendError, BoxFuture, StepResult};
use tokio::{runtime::Handle, sync::watch, task::JoinHandle, time::Instant};

use super::step::{Answer, Step};
use crate::{calls::Calls, link::Link, node::warn_if_locks_may_be_evicted, server::Server};

/// Pauses between attempts to connect for the first time.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How often a node that cannot be told is tried again, how much it is owed at most, and is told at a time.
const AGAIN: Duration = Duration::from_millis(500);
const MOST_OWED: usize = 4096;
const SOME_OWED: usize = 64;
/// A node that has not come to a step for so long is asked for nothing more: it counts as one that does not answer.
const MOST_BEHIND: Duration = Duration::from_secs(1);

/// A server of its own: its connections, and the task that keeps them open.
#[derive(Debug)]
pub(super) struct Node {
    address: String,
    way: Arc<Mutex<Way>>,
    /// How the first attempt to connect ended, once it has.
    tried: watch::Receiver<Option<StepResult<()>>>,
    keeper: JoinHandle<()>,
    owed: Arc<Owed>,
    /// Shared by each vote that is being given back.
    giving_back: Arc<()>,
    runtime: Handle,
}

/// Votes that were to be given back while the node could not be told.
#[derive(Debug, Default)]
struct Owed(Mutex<Debts>);

#[derive(Debug, Default)]
struct Debts {
    /// And until when it matters.
    steps: VecDeque<(Instant, Step)>,
    /// Whether a task is at it.
    settling: bool,
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
        Node {
            address,
            way,
            tried,
            keeper,
            owed: Arc::default(),
            giving_back: Arc::default(),
            runtime: runtime.clone(),
        }
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
        Box::pin(async move { asked.await.pop().unwrap_or_else(no_step) })
    }

    /// Sends it these steps; one answer each.
    pub(super) fn ask_all(&self, steps: Vec<Step>) -> BoxFuture<'static, Vec<StepResult<Answer>>> {
        let calls = calls(&self.way);
        Box::pin(async move { send(calls, steps).await })
    }

    /// Has it give back a vote: should it not answer, it is told again when it can be, as long as that matters.
    pub(super) fn give_back(&self, step: Step, matters_for: Duration) -> BoxFuture<'static, StepResult<Answer>> {
        let until = Instant::now() + matters_for;
        let (calls, way, owed, runtime) = (calls(&self.way), self.way.clone(), self.owed.clone(), self.runtime.clone());
        let giving_back = self.giving_back.clone();
        Box::pin(async move {
            let _giving_back = giving_back;
            let answer = send(calls, vec![step.clone()]).await.pop().unwrap_or_else(no_step);
            if matches!(&answer, Err(error) if error.is_retryable()) && owed.add(until, step) {
                runtime.spawn(settle(way, owed));
            }
            answer
        })
    }

    /// Whether it is being told of a vote that it is to give back.
    pub(super) fn is_giving_back(&self) -> bool {
        Arc::strong_count(&self.giving_back) > 1
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
        // What is under way goes on.
        *lock(&self.way) = Way::Closed;
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
    link.keep(|_| {}).await;
}

impl Owed {
    /// Whether somebody has to begin with it.
    fn add(&self, until: Instant, step: Step) -> bool {
        let mut debts = self.debts();
        // A release is repeated until it is answered, and owed once.
        if !debts.steps.iter().any(|(_, owed)| owed.is_of(&step)) {
            if debts.steps.len() == MOST_OWED {
                debts.steps.pop_front();
            }
            debts.steps.push_back((until, step));
        }
        !std::mem::replace(&mut debts.settling, true)
    }

    /// Those that still matter, some at a time; `None` when there are none.
    fn take(&self) -> Option<Vec<(Instant, Step)>> {
        let (mut debts, now) = (self.debts(), Instant::now());
        debts.steps.retain(|(until, _)| *until > now);
        debts.settling = !debts.steps.is_empty();
        let some = debts.steps.len().min(SOME_OWED);
        debts.settling.then(|| debts.steps.drain(..some).collect())
    }

    fn debts(&self) -> MutexGuard<'_, Debts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells a node what it is owed, until there is nothing, or nobody to ask for it any more.
async fn settle(way: Arc<Mutex<Way>>, owed: Arc<Owed>) {
    let mut failed = true;
    loop {
        if failed {
            tokio::time::sleep(AGAIN).await;
        }
        let Some(debts) = owed.take() else { return };
        let steps = debts.iter().map(|(_, step)| step.clone()).collect();
        let calls = calls(&way);
        if matches!(&calls, Err(error) if !error.is_retryable()) {
            return;
        }
        failed = false;
        for ((until, step), answer) in debts.into_iter().zip(send(calls, steps).await) {
            if matches!(answer, Err(error) if error.is_retryable()) {
                failed = true;
                owed.add(until, step);
            }
        }
    }
}

fn calls(way: &Mutex<Way>) -> StepResult<Calls<Step>> {
    match &*lock(way) {
        Way::Open(_, calls) => Ok(calls.clone()),
        Way::Not(why) => Err(why.clone()),
        Way::Closed => Err(BackendError::fatal("redis: the connection was closed")),
    }
}

async fn send(calls: StepResult<Calls<Step>>, mut steps: Vec<Step>) -> Vec<StepResult<Answer>> {
    match calls {
        // Rounds do not wait for it, and what it is still to be asked would grow without an end.
        Ok(calls) if steps.first().is_some_and(|step| calls.behind(step) > MOST_BEHIND) => {
            let behind = format!("redis quorum: this node is more than {MOST_BEHIND:?} behind");
            steps.iter().map(|_| Err(BackendError::transient(behind.clone()))).collect()
        }
        Ok(calls) if steps.len() == 1 => match steps.pop() {
            Some(step) => vec![calls.submit(step).await],
            None => Vec::new(),
        },
        Ok(calls) => calls.submit_all(steps).await,
        Err(why) => steps.iter().map(|_| Err(why.clone())).collect(),
    }
}

fn no_step() -> StepResult<Answer> {
    Err(BackendError::fatal("redis: no step"))
}

fn lock(way: &Mutex<Way>) -> MutexGuard<'_, Way> {
    way.lock().unwrap_or_else(PoisonError::into_inner)
}
