//! The nodes of a Redis Cluster: which of them has a slot, and what to do when it has moved.
//!
//! Each master has its two connections, made when they are needed. A slot is where the map says, until a node says that
//! it has moved; then the request is sent again, there: it was not carried out, and if it had been, its nonce would be
//! known. What is pushed comes on a channel for each slot, from the slot's master; when that changes, who waits in the
//! slot looks again, and is bound anew by that.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use redis::Value;
use tasklock_core::{BackendError, LockError, StepResult};
use tokio::{
    runtime::Handle,
    sync::{Notify, OnceCell},
    task::{JoinHandle, JoinSet},
};

use crate::{
    calls::{Carried, unanswered},
    config::RedisConfig,
    error::{self, Redirect},
    inbox::Inbox,
    layout::Client,
    link::Turn,
    newer::IfEqual,
    node::Node,
    script::{Answer, Step},
    server::Heard,
    slots::{Map, Slot, host_of},
};

/// How often a request follows a slot before it is given back to be asked again.
const REDIRECTIONS: usize = 5;
/// Between two looks at a cluster in trouble.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// All masters of a cluster.
pub(crate) struct Cluster {
    me: Weak<Cluster>,
    config: RedisConfig,
    client: Client,
    heard: Heard,
    inbox: Arc<Inbox>,
    runtime: Handle,
    table: Mutex<Table>,
    /// Something does not fit the map.
    trouble: Arc<Notify>,
    /// Nodes have different views now and then: each look begins with another one.
    looks: AtomicUsize,
    surveyor: Mutex<Option<JoinHandle<()>>>,
}

struct Table {
    map: Map,
    nodes: HashMap<Arc<str>, Arc<Way>>,
    closed: bool,
}

/// A node, once it is connected to.
#[derive(Default)]
struct Way {
    node: OnceCell<Arc<Node>>,
    /// The last attempt that failed, and when.
    failed: Mutex<Option<(Instant, BackendError)>>,
}

impl Cluster {
    /// Finds the nodes, and makes sure that they can do what is needed.
    pub(crate) async fn open(
        config: RedisConfig,
        client: Client,
        heard: Heard,
        inbox: Arc<Inbox>,
        runtime: Handle,
    ) -> Result<Arc<Self>, LockError> {
        let cluster = Arc::new_cyclic(|me| Cluster {
            me: me.clone(),
            config,
            client,
            heard,
            inbox,
            runtime,
            table: Mutex::new(Table { map: Map::new(), nodes: HashMap::new(), closed: false }),
            trouble: Arc::default(),
            looks: AtomicUsize::new(0),
            surveyor: Mutex::default(),
        });
        cluster.look().await?;
        // Whether grants can be heard is found out now, and not when somebody waits.
        let (_, slot) = cluster.table().map.masters().into_iter().next().ok_or_else(nobody)?;
        cluster.listen(slot).await?;
        let surveyor = cluster.runtime.spawn(survey(Arc::downgrade(&cluster), cluster.trouble.clone()));
        *cluster.surveyor.lock().unwrap_or_else(PoisonError::into_inner) = Some(surveyor);
        Ok(cluster)
    }

    /// Carries out one step at the master of its slot.
    pub(crate) async fn submit(&self, step: Step) -> StepResult<Answer> {
        let slot = step.slot.ok_or_else(without_slot)?;
        let ask = |node: Arc<Node>, asking| {
            let step = step.clone();
            async move { if asking { node.calls.submit_asking(step).await } else { node.calls.submit(step).await } }
        };
        self.follow(slot, ask).await
    }

    /// Calls the script with one step alone, at the master of its slot; while that is on its way to another, at neither.
    pub(crate) async fn call<S: Carried>(&self, slot: Option<Slot>, step: &S) -> StepResult<Value> {
        let slot = slot.ok_or_else(without_slot)?;
        let ask = |node: Arc<Node>, asking| async move {
            if asking {
                return Err(BackendError::transient("redis: the slot is on its way to another node"));
            }
            node.link.call_alone(step).await
        };
        self.follow(slot, ask).await
    }

    /// Calls it with each of these steps alone. Each in a task: a node that does not answer is not to keep the others' back.
    pub(crate) async fn call_each<S: Carried>(&self, steps: Vec<(Option<Slot>, S)>) -> Vec<StepResult<Value>> {
        let mut answers: Vec<_> = steps.iter().map(|_| unanswered()).collect();
        let mut calls = JoinSet::new();
        for (i, (slot, step)) in steps.into_iter().enumerate() {
            let Some(me) = self.me.upgrade() else { continue };
            calls.spawn_on(async move { (i, me.call(slot, &step).await) }, &self.runtime);
        }
        while let Some(done) = calls.join_next().await {
            let Ok((i, done)) = done else { continue };
            answers[i] = done;
        }
        answers
    }

    /// Carries it out by a command of its own, if the master of its slot has one for it.
    pub(crate) async fn if_equal(&self, change: &IfEqual) -> StepResult<Option<bool>> {
        let ask = |node: Arc<Node>, asking| async move { node.link.if_equal(change, asking).await };
        self.follow(Slot::of(&change.owner), ask).await
    }

    /// Carries out many, those of a node together.
    pub(crate) async fn submit_all(&self, steps: Vec<Step>) -> Vec<StepResult<Answer>> {
        let mut answers: Vec<Option<StepResult<Answer>>> = steps.iter().map(|_| None).collect();
        let mut by_master: HashMap<Option<Arc<str>>, Vec<usize>> = HashMap::new();
        {
            let table = self.table();
            for (i, step) in steps.iter().enumerate() {
                by_master.entry(step.slot.and_then(|slot| table.map.master(slot).cloned())).or_default().push(i);
            }
        }
        // Each in a task: a node that does not answer is not to keep the others' steps back.
        let mut nodes = JoinSet::new();
        for (master, places) in by_master {
            let (Some(master), Some(me)) = (master, self.me.upgrade()) else { continue };
            let steps: Vec<Step> = places.iter().map(|i| steps[*i].clone()).collect();
            nodes.spawn_on(
                async move {
                    let answers = match me.node(&master).await {
                        Ok(node) => node.calls.submit_all(steps).await,
                        Err(error) => steps.iter().map(|_| Err(error.clone())).collect(),
                    };
                    (master, places, answers)
                },
                &self.runtime,
            );
        }
        while let Some(done) = nodes.join_next().await {
            let Ok((master, places, done)) = done else { continue };
            for (i, answer) in places.into_iter().zip(done) {
                if let (Some(Redirect::Moved(to)), Some(slot)) = (redirect_of(&answer), steps[i].slot) {
                    self.moved(slot, &whole(&to, &master));
                }
                answers[i] = Some(answer);
            }
        }
        let mut again = JoinSet::new();
        for (i, answer) in answers.iter_mut().enumerate() {
            match answer.take().map(|answer| (redirect_of(&answer), answer)) {
                Some((None, done)) => *answer = Some(self.noted(done)),
                // It is elsewhere, or was not asked for want of a master. All at once, so that those of a node go together
                // there, too.
                _ => {
                    let (Some(me), step) = (self.me.upgrade(), steps[i].clone()) else { continue };
                    again.spawn_on(async move { (i, me.submit(step).await) }, &self.runtime);
                }
            }
        }
        while let Some(done) = again.join_next().await {
            let Ok((i, done)) = done else { continue };
            answers[i] = Some(done);
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect()
    }

    pub(crate) fn is_heard(&self, slot: Slot) -> bool {
        let table = self.table();
        let node = table.map.master(slot).and_then(|master| table.nodes.get(master)?.get());
        node.is_some_and(|node| node.link.is_bound(slot))
    }

    pub(crate) async fn listen(&self, slot: Slot) -> StepResult<()> {
        let bind = |node: Arc<Node>, _| {
            let channel = self.client.inbox_of(slot);
            async move { node.link.bind(slot, &channel).await }
        };
        self.follow(slot, bind).await
    }

    pub(crate) async fn ping(&self) -> StepResult<()> {
        let masters = self.table().map.masters();
        let mut pings = JoinSet::new();
        for (master, _) in masters {
            let Some(me) = self.me.upgrade() else { continue };
            pings.spawn_on(async move { me.node(&master).await?.ping().await }, &self.runtime);
        }
        while let Some(ping) = pings.join_next().await {
            let ping = ping.unwrap_or_else(|e| Err(BackendError::transient(format!("redis: {e}"))));
            self.noted(ping)?;
        }
        Ok(())
    }

    pub(crate) fn close(&self) {
        let nodes = {
            let mut table = self.table();
            table.closed = true;
            std::mem::take(&mut table.nodes)
        };
        for node in nodes.values().filter_map(|node| node.get()) {
            node.close();
        }
        if let Some(surveyor) = self.surveyor.lock().unwrap_or_else(PoisonError::into_inner).take() {
            surveyor.abort();
        }
    }

    /// The node that told of this slot no longer does: its master is another one, or soon will be.
    pub(crate) fn unheard(&self, slot: Slot) {
        self.inbox.look_again(|waiters| waiters == slot);
        self.trouble.notify_one();
    }

    /// Asks the slot's master, and then whoever it names: from now on, or (`true`) for this once.
    async fn follow<T, F>(&self, slot: Slot, ask: impl Fn(Arc<Node>, bool) -> F) -> StepResult<T>
    where
        F: Future<Output = StepResult<T>> + Send,
    {
        let mut error = nobody();
        for _ in 0..REDIRECTIONS {
            let Some(master) = self.table().map.master(slot).cloned() else { break };
            let node = self.noted(self.node(&master).await)?;
            let mut answer = ask(node.clone(), false).await;
            if let Some(Redirect::Ask(to)) = redirect_of(&answer) {
                let to = self.noted(self.node(&whole(&to, &master)).await)?;
                answer = ask(to, true).await;
            }
            match redirect_of(&answer) {
                Some(Redirect::Moved(to)) => self.moved(slot, &whole(&to, &master)),
                Some(Redirect::Ask(_)) => {}
                None => return self.noted(answer),
            }
            if let Err(redirected) = answer {
                error = BackendError::transient(redirected.to_string());
            }
        }
        self.noted(Err(error))
    }

    /// The node at this address, connected to if it was not.
    async fn node(&self, address: &Arc<str>) -> StepResult<Arc<Node>> {
        let asked = Instant::now();
        let way = {
            let mut table = self.table();
            if table.closed {
                return Err(BackendError::fatal("redis: the connection was closed"));
            }
            table.nodes.entry(address.clone()).or_default().clone()
        };
        if let Some(node) = way.get() {
            return Ok(node.clone());
        }
        let server = self.config.node(address, self.heard.clone())?;
        let (me, at) = (self.me.clone(), address.clone());
        let turned = move |turn| {
            if let Some(me) = me.upgrade() {
                me.turned(&at, turn);
            }
        };
        let runtime = self.runtime.clone();
        // In a task: who no longer waits does not end what others wait for.
        let open = async move { way.open(asked, async || Node::open(server, None, &runtime, turned).await).await };
        let opened = self.runtime.spawn(open).await;
        opened.unwrap_or_else(|e| Err(BackendError::transient(format!("redis: {e}"))))
    }

    fn turned(&self, address: &str, turn: Turn) {
        let map = self.table().map.clone();
        let is_there = |slot| map.master(slot).is_some_and(|master| **master == *address);
        match turn {
            Turn::Lost => {
                self.inbox.undate(|slot| slot.is_some_and(&is_there));
                self.trouble.notify_one();
            }
            Turn::Reopened => self.inbox.look_again(is_there),
        }
    }

    /// A node said that it no longer has this slot.
    fn moved(&self, slot: Slot, to: &str) {
        {
            let map = &mut self.table().map;
            if map.master(slot).is_some_and(|master| **master == *to) {
                return;
            }
            map.moved(slot, to);
        }
        self.unheard(slot);
    }

    /// What fails for now is looked into.
    fn noted<T>(&self, answer: StepResult<T>) -> StepResult<T> {
        if answer.as_ref().is_err_and(BackendError::is_retryable) {
            self.trouble.notify_one();
        }
        answer
    }

    /// Reads the map anew, from whichever node tells it.
    async fn look(&self) -> StepResult<()> {
        let open: Vec<Arc<Node>> = self.table().nodes.values().filter_map(|node| node.get().cloned()).collect();
        let open: Vec<_> = open.into_iter().filter(|node| node.link.is_open()).collect();
        let turn = self.looks.fetch_add(1, Ordering::Relaxed);
        let command = slots_command();
        for i in 0..open.len() {
            let node = &open[(turn + i) % open.len()];
            let Ok(answer) = node.link.command(&command).await else { continue };
            if let Some(map) = Map::parse(&answer, node.link.address()).filter(|map| map.known() > 0) {
                self.adopt(map);
                return Ok(());
            }
        }
        let mut error = nobody();
        for address in self.config.seeds() {
            let asked = async { self.config.node(&address, self.heard.clone())?.ask(&[slots_command()]).await };
            match asked.await {
                Ok(answers) => {
                    let map = answers.first().and_then(|answer| Map::parse(answer, &address));
                    if let Some(map) = map.filter(|map| map.known() > 0) {
                        self.adopt(map);
                        return Ok(());
                    }
                }
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    /// Who waits in a slot that has another master by now looks again.
    fn adopt(&self, map: Map) {
        let (before, gone) = {
            let mut table = self.table();
            let before = std::mem::replace(&mut table.map, map.clone());
            let masters = map.masters();
            let is_master = |address: &str| masters.iter().any(|(master, _)| **master == *address);
            let stays =
                |address: &str, node: &Way| is_master(address) || node.get().is_some_and(|node| node.link.is_open());
            let (stay, gone) = std::mem::take(&mut table.nodes).into_iter().partition(|(at, node)| stays(at, node));
            table.nodes = stay;
            (before, gone)
        };
        // Not closed: who is about to ask one of them is told to ask again, and finds another.
        drop::<HashMap<_, _>>(gone);
        let has_moved = |slot| before.master(slot).is_some() && before.master(slot) != map.master(slot);
        self.inbox.look_again(has_moved);
    }

    /// Whether every master that somebody talks to can be talked to.
    fn is_well(&self) -> bool {
        let table = self.table();
        table.nodes.values().all(|node| node.get().is_none_or(|node| node.link.is_open()))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Way {
    fn get(&self) -> Option<&Arc<Node>> {
        self.node.get()
    }

    /// One attempt at a time. Those who have waited for one that fails do not make another, or each would wait for those of
    /// all before.
    async fn open(&self, asked: Instant, open: impl AsyncFnOnce() -> StepResult<Node>) -> StepResult<Arc<Node>> {
        let failed = || self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = async || {
            if let Some((_, error)) = failed().as_ref().filter(|(at, _)| *at >= asked) {
                return Err(error.clone());
            }
            let opened = open().await;
            if let Err(error) = &opened {
                *failed() = Some((Instant::now(), error.clone()));
            }
            opened.map(Arc::new)
        };
        self.node.get_or_try_init(attempt).await.cloned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("nodes", &self.table().nodes.keys()).finish_non_exhaustive()
    }
}

/// Looks at the cluster whenever there is trouble, for as long as there is.
async fn survey(cluster: Weak<Cluster>, trouble: Arc<Notify>) {
    loop {
        trouble.notified().await;
        let mut pause = PAUSES.0;
        loop {
            let Some(cluster) = cluster.upgrade() else { return };
            let looked = cluster.look().await;
            if let Err(error) = &looked {
                tracing::debug!(target: "tasklock", backend = "redis", "no node tells who has which slot: {error}");
            }
            let well = looked.is_ok() && cluster.is_well();
            drop(cluster);
            tokio::time::sleep(pause).await;
            if well {
                break;
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

fn redirect_of<T>(answer: &StepResult<T>) -> Option<Redirect> {
    answer.as_ref().err().and_then(error::redirect)
}

/// The address named by a node, which leaves out its own host if that is the same.
fn whole(named: &str, asked: &str) -> Arc<str> {
    if named.starts_with(':') { format!("{}{named}", host_of(asked)).into() } else { named.into() }
}

fn slots_command() -> redis::Cmd {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    command
}

fn without_slot() -> BackendError {
    BackendError::fatal("redis: a step without a slot")
}

fn nobody() -> BackendError {
    BackendError::transient("redis: no node of the cluster has this slot")
}
