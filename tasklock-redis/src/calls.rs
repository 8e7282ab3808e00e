//! The one way in which steps reach the store: alone while few calls are under way, together otherwise.

use std::{
    collections::VecDeque,
    future::poll_fn,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::Poll,
};

use tasklock_core::{BackendError, StepResult};
use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    link::Link,
    script::{self, Answer, Step},
};

/// The most steps in one call: the server does nothing else meanwhile.
pub(crate) const MOST: usize = 64;
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
    /// How many hold their step back for those that come in the same breath.
    gathering: usize,
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

    /// The same, together with what others of its kind submit in the same breath: the releases of several locks, or
    /// questions about them. Nothing is waited for but that each task that can run has had its turn.
    pub(crate) async fn submit_in_company(&self, step: Step) -> StepResult<Answer> {
        let gathering = Gathering::new(&self.0);
        let mut turns = 0;
        poll_fn(|cx| {
            turns += 1;
            if turns > 1 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        let answer = {
            let mut traffic = self.0.traffic();
            // Others are still to come, or have come before: the last one sends them all.
            let alone = traffic.gathering == 1 && traffic.waiting.is_empty();
            if alone { Err(step) } else { Ok(traffic.wait(step)) }
        };
        drop(gathering);
        match answer {
            Ok(answer) => answer.await.unwrap_or_else(|_| unanswered()),
            Err(step) => self.submit(step).await,
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

    /// Carries out these in a call of their own; one answer each, in order.
    pub(crate) async fn submit_together(&self, steps: &[Step]) -> Vec<StepResult<Answer>> {
        self.0.send(steps).await
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

/// One that holds its step back. The last to go sends those that wait, if nobody else will.
struct Gathering(Arc<Shared>);

impl Gathering {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.traffic().gathering += 1;
        Gathering(shared.clone())
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        let free = {
            let mut traffic = self.0.traffic();
            traffic.gathering -= 1;
            let free = traffic.gathering == 0 && !traffic.waiting.is_empty() && traffic.under_way < LANES;
            traffic.under_way += usize::from(free);
            free
        };
        // It finds them waiting.
        drop(free.then(|| Lane { calls: self.0.clone(), used: true }));
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
