//! Which node has which lock: always the same, or that which has its slot.

use std::{slice, sync::Arc};

use redis::Value;
use tasklock_core::{BackendError, StepResult};

use crate::{
    calls::{Call, Carried},
    cluster::Cluster,
    newer::IfEqual,
    node::Node,
    script::{Answer, Step},
    slots::Slot,
};

/// The servers of a store.
#[derive(Debug)]
pub(crate) enum Nodes {
    One(Node),
    Cluster(Arc<Cluster>),
}

impl Nodes {
    /// The slot, where there are any.
    pub(crate) fn slot(&self, of: impl FnOnce() -> Slot) -> Option<Slot> {
        match self {
            Nodes::One(_) => None,
            Nodes::Cluster(_) => Some(of()),
        }
    }

    /// Carries out one step, where it belongs.
    pub(crate) async fn submit(&self, step: Step) -> StepResult<Answer> {
        match self {
            Nodes::One(node) => node.calls.submit(step).await,
            Nodes::Cluster(cluster) => cluster.submit(step).await,
        }
    }

    /// Calls the script with one step alone, where it belongs.
    pub(crate) async fn call<S: Carried>(&self, slot: Option<Slot>, step: &S) -> StepResult<Value> {
        match self {
            Nodes::One(node) => node.link.call_alone(step).await,
            Nodes::Cluster(cluster) => cluster.call(slot, step).await,
        }
    }

    /// Calls it with each of these steps alone; one answer each, in order.
    pub(crate) async fn call_each<S: Carried>(&self, steps: Vec<(Option<Slot>, S)>) -> Vec<StepResult<Value>> {
        match self {
            Nodes::One(node) => {
                let calls: Vec<_> =
                    steps.iter().map(|(_, step)| Call { steps: slice::from_ref(step), asking: false }).collect();
                node.link.call(&calls).await
            }
            Nodes::Cluster(cluster) => cluster.call_each(steps).await,
        }
    }

    /// Carries it out by a command of its own, if the server that has this lock has one for it.
    pub(crate) async fn if_equal(&self, change: &IfEqual) -> StepResult<Option<bool>> {
        match self {
            Nodes::One(node) => node.link.if_equal(change, false).await,
            Nodes::Cluster(cluster) => cluster.if_equal(change).await,
        }
    }

    /// Carries out these in one call, if there is a server that has all of them.
    pub(crate) async fn submit_together(&self, steps: &[Step]) -> Vec<StepResult<Answer>> {
        match self {
            Nodes::One(node) => node.calls.submit_together(steps).await,
            Nodes::Cluster(_) => {
                let why = BackendError::fatal("redis: several locks of a cluster are not taken in one step");
                steps.iter().map(|_| Err(why.clone())).collect()
            }
        }
    }

    /// The server that has all locks, if there is one.
    pub(crate) fn one(&self) -> Option<&Node> {
        match self {
            Nodes::One(node) => Some(node),
            Nodes::Cluster(_) => None,
        }
    }

    /// Carries out many; one answer each, in order.
    pub(crate) async fn submit_all(&self, steps: Vec<Step>) -> Vec<StepResult<Answer>> {
        match self {
            Nodes::One(node) => node.calls.submit_all(steps).await,
            Nodes::Cluster(cluster) => cluster.submit_all(steps).await,
        }
    }

    /// Whether what is granted in this slot would be heard here, as far as is known.
    pub(crate) fn is_heard(&self, slot: Option<Slot>) -> bool {
        match (self, slot) {
            (Nodes::Cluster(cluster), Some(slot)) => cluster.is_heard(slot),
            _ => true,
        }
    }

    /// Sees to it that it is.
    pub(crate) async fn listen(&self, slot: Option<Slot>) -> StepResult<()> {
        match (self, slot) {
            (Nodes::Cluster(cluster), Some(slot)) => cluster.listen(slot).await,
            _ => Ok(()),
        }
    }

    /// What is granted in this slot is no longer heard.
    pub(crate) fn unheard(&self, slot: Slot) {
        if let Nodes::Cluster(cluster) = self {
            cluster.unheard(slot);
        }
    }

    /// Whether all of them answer.
    pub(crate) async fn ping(&self) -> StepResult<()> {
        match self {
            Nodes::One(node) => node.ping().await,
            Nodes::Cluster(cluster) => cluster.ping().await,
        }
    }

    /// Ends the connections for good.
    pub(crate) fn close(&self) {
        match self {
            Nodes::One(node) => node.close(),
            Nodes::Cluster(cluster) => cluster.close(),
        }
    }
}
