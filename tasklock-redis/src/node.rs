//! A server, the calls to it, and what keeps the way to it open.

use std::{fmt, sync::Arc};

use redis::{Value, aio::MultiplexedConnection};
use tasklock_core::StepResult;
use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    calls::Calls,
    link::{Link, Turn},
    server::Server,
};

/// One server that is a store, or one master of several that are. Closed when dropped.
pub(crate) struct Node {
    pub(crate) link: Arc<Link>,
    pub(crate) calls: Calls,
    keeper: JoinHandle<()>,
}

impl Node {
    /// Connects, with this connection for commands if there is one. `turned` is told whenever the way to it is lost, and
    /// when it is open again.
    pub(crate) async fn open(
        server: Server,
        commands: Option<MultiplexedConnection>,
        runtime: &Handle,
        turned: impl Fn(Turn) + Send + Sync + 'static,
    ) -> StepResult<Self> {
        let link = Link::open(server, commands).await?;
        warn_if_locks_may_be_evicted(&link).await;
        let calls = Calls::new(link.clone(), runtime.clone());
        let keeper = runtime.spawn(link.clone().keep(turned));
        Ok(Node { link, calls, keeper })
    }

    pub(crate) async fn ping(&self) -> StepResult<()> {
        self.link.command(&redis::cmd("PING")).await.map(drop)
    }

    pub(crate) fn close(&self) {
        self.link.close();
        self.keeper.abort();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Node").field(&self.link.address()).finish()
    }
}

/// Says so, once, if the server is set up to drop what has a ttl when it runs out of memory. Who may not ask is not
/// told.
pub(crate) async fn warn_if_locks_may_be_evicted(link: &Link) {
    let Ok(info) = link.command(redis::cmd("INFO").arg("memory")).await else { return };
    let info = match info {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::VerbatimString { text, .. } => text,
        _ => return,
    };
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let (Some(policy), Some(limit)) = (field("maxmemory_policy"), field("maxmemory")) else { return };
    if policy != "noeviction" && limit != "0" {
        tracing::warn!(
            target: "tasklock", backend = "redis", address = link.address(), policy,
            "the server may drop locks when its memory is full: set maxmemory-policy to noeviction"
        );
    }
}
