//! The one way in which steps reach the store: alone while few calls are under way, together otherwise.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tasklock_core::{BackendError, StepResult};
use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    link::Link,
    script::{self, Answer, Step},
};

/// The most steps in one call: the server does nothing else meanwhile.
const MOST: usize = 64;
/// The room that is kept for those who wait, when none does.
const ROOM_KEPT: usize = 1024;
/// The most calls under way: the server has one to work on while the answers to the other are taken in, and a caller
/// that goes on while its last lock is given back does not wait for that.
const LANES: usize = 2;

/// Steps on their way to the store.
///
/// A step that finds a lane free is sent at once, by its caller. Else it waits with others until a call has been
/// answered, and they go together. So the busier it is, the more steps share a call.
#[derive(Clone, Debug)]
pub(crate) struct Calls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    link: Arc<Link>,
    runtime: Handle,
    traffic: Mutex<Traffic>,
}

#[derive(Debug, Default)]
struct Traffic {
    under_way: usize,
    waiting: VecDeque<Waiting>,
}

type Waiting = (Step, oneshot::Sender<StepResult<Answer>>);

impl Calls {
    pub(crate) fn new(link: Arc<Link>, runtime: Handle) -> Self {
        Calls(Arc::new(Shared { link, runtime, traffic: Mutex::default() }))
    }

    /// What does not keep the connections open.
    pub(crate) fn downgrade(&self) -> WeakCalls {
        WeakCalls(Arc::downgrade(&self.0))
    }

    /// Carries out one step.
    pub(crate) async fn submit(&self, step: Step) -> StepResult<Answer> {
        let turn = {
            let mut traffic = self.0.traffic();
            if traffic.under_way < LANES {
                traffic.under_way += 1;
                Ok((Lane { calls: self.0.clone(), used: true }, step))
            } else {
                Err(traffic.wait(step))
            }
        };
        match turn {
            Ok((_lane, step)) => self.0.send(&[step]).await.pop().unwrap_or_else(unanswered),
            Err(answer) => answer.await.unwrap_or_else(|_| unanswered()),
        }
    }

    /// Carries out many; one answer each, in order.
    pub(crate) async fn submit_all(&self, steps: Vec<Step>) -> Vec<StepResult<Answer>> {
        let (waiting, lane) = {
            let mut traffic = self.0.traffic();
            let waiting: Vec<_> = steps.into_iter().map(|step| traffic.wait(step)).collect();
            let free = traffic.under_way < LANES;
            traffic.under_way += usize::from(free);
            (waiting, free.then(|| Lane { calls: self.0.clone(), used: true }))
        };
        // It finds them waiting.
        drop(lane);
        let mut answers = Vec::with_capacity(waiting.len());
        for answer in waiting {
            answers.push(answer.await.unwrap_or_else(|_| unanswered()));
        }
        answers
    }
}

/// [`Calls`] for what the connections themselves hold on to.
#[derive(Clone, Debug)]
pub(crate) struct WeakCalls(Weak<Shared>);

impl WeakCalls {
    pub(crate) fn upgrade(&self) -> Option<Calls> {
        self.0.upgrade().map(Calls)
    }
}

impl Shared {
    async fn send(&self, steps: &[Step]) -> Vec<StepResult<Answer>> {
        match self.link.call(|whole| script::command(steps, whole)).await {
            Ok(value) => script::answers(steps, value),
            Err(error) => steps.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Traffic {
    fn wait(&mut self, step: Step) -> oneshot::Receiver<StepResult<Answer>> {
        let (reply, answer) = oneshot::channel();
        self.waiting.push_back((step, reply));
        answer
    }

    /// Those who go next, if any.
    fn next(&mut self) -> Vec<Waiting> {
        let next = self.waiting.drain(..self.waiting.len().min(MOST)).collect();
        if self.waiting.is_empty() && self.waiting.capacity() > ROOM_KEPT {
            self.waiting = VecDeque::new();
        }
        next
    }
}

/// The right to have a call under way. Whoever waits takes it over when it is dropped, in a task of its own: none of
/// them hangs if another's caller goes.
struct Lane {
    calls: Arc<Shared>,
    /// Whether it was used: if not, the runtime takes no tasks any more.
    used: bool,
}

impl Lane {
    async fn carry(mut self, mut steps: Vec<Waiting>) {
        self.used = true;
        while !steps.is_empty() {
            let (asked, replies): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
            for (answer, reply) in self.calls.send(&asked).await.into_iter().zip(replies) {
                let _ = reply.send(answer);
            }
            // Answers come together; so does what follows them.
            tokio::task::yield_now().await;
            steps = self.calls.traffic().next();
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut traffic = self.calls.traffic();
        let next = if self.used { traffic.next() } else { Vec::new() };
        traffic.under_way -= usize::from(next.is_empty());
        let unanswered = if self.used { VecDeque::new() } else { mem::take(&mut traffic.waiting) };
        drop(traffic);
        drop(unanswered);
        if !next.is_empty() {
            let lane = Lane { calls: self.calls.clone(), used: false };
            self.calls.runtime.spawn(lane.carry(next));
        }
    }
}

fn unanswered() -> StepResult<Answer> {
    Err(BackendError::unknown("redis: the call was not carried to its end"))
}
