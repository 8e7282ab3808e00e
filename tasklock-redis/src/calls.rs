//! The one way in which steps reach the store: alone if nothing else is under way, together otherwise.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tasklock_core::{BackendError, StepResult};
use tokio::sync::oneshot;

use crate::{
    link::Link,
    script::{self, Answer, Step},
};

/// The most steps in one call: the server does nothing else meanwhile.
const MOST: usize = 64;

/// Steps on their way to the store.
///
/// A step that finds no other under way is sent at once, by its caller. Else it joins those that gather until the
/// runtime has run whatever else is ready now: answers come together, so what follows them goes together. Nobody waits
/// for an answer to somebody else, or for a time.
#[derive(Clone, Debug)]
pub(crate) struct Calls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    link: Arc<Link>,
    under_way: AtomicUsize,
    gathered: Mutex<Gathered>,
}

type Gathered = Vec<(Step, Reply)>;
type Reply = oneshot::Sender<StepResult<Answer>>;

impl Calls {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Calls(Arc::new(Shared { link, under_way: AtomicUsize::new(0), gathered: Mutex::default() }))
    }

    /// Carries out one step.
    pub(crate) async fn submit(&self, step: Step) -> StepResult<Answer> {
        let under_way = UnderWay::begin(&self.0);
        if under_way.alone {
            return self.0.send(&[step]).await.pop().unwrap_or_else(unanswered);
        }
        self.gather(step).await.unwrap_or_else(|_| unanswered())
    }

    /// Carries out many; one answer each, in order.
    pub(crate) async fn submit_all(&self, steps: Vec<Step>) -> Vec<StepResult<Answer>> {
        if steps.len() == 1 {
            return self.0.send(&steps).await;
        }
        let replies: Vec<_> = steps.into_iter().map(|step| self.gather(step)).collect();
        let mut answers = Vec::with_capacity(replies.len());
        for reply in replies {
            answers.push(reply.await.unwrap_or_else(|_| unanswered()));
        }
        answers
    }

    /// Puts a step with those that go together. What carries them is a task of its own: none of them hangs if another's
    /// caller goes.
    fn gather(&self, step: Step) -> oneshot::Receiver<StepResult<Answer>> {
        let (reply, answer) = oneshot::channel();
        let first = {
            let mut gathered = self.0.gathered();
            gathered.push((step, reply));
            gathered.len() == 1
        };
        if first {
            let carrier = Carrier(Some(self.0.clone()));
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                let Some((shared, mut steps)) = carrier.take() else { return };
                while steps.len() > MOST {
                    let more = steps.split_off(steps.len() - MOST);
                    tokio::spawn(carry(shared.clone(), more));
                }
                carry(shared, steps).await;
            });
        }
        answer
    }
}

impl Shared {
    async fn send(&self, steps: &[Step]) -> Vec<StepResult<Answer>> {
        match self.link.call(|whole| script::command(steps, whole)).await {
            Ok(value) => script::answers(steps, value),
            Err(error) => steps.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn carry(shared: Arc<Shared>, steps: Gathered) {
    let (steps, replies): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
    for (answer, reply) in shared.send(&steps).await.into_iter().zip(replies) {
        let _ = reply.send(answer);
    }
}

/// Takes what has gathered, also if its runtime ends before it runs: the next to come is the first again.
struct Carrier(Option<Arc<Shared>>);

impl Carrier {
    fn take(mut self) -> Option<(Arc<Shared>, Gathered)> {
        let shared = self.0.take()?;
        let steps = mem::take(&mut *shared.gathered());
        Some((shared, steps))
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            let unanswered = mem::take(&mut *shared.gathered());
            drop(unanswered);
        }
    }
}

/// Counts a caller in, until this is dropped.
struct UnderWay<'a> {
    shared: &'a Shared,
    alone: bool,
}

impl<'a> UnderWay<'a> {
    fn begin(shared: &'a Shared) -> Self {
        UnderWay { shared, alone: shared.under_way.fetch_add(1, Ordering::AcqRel) == 0 }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.shared.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

fn unanswered() -> StepResult<Answer> {
    Err(BackendError::unknown("redis: the call was not carried to its end"))
}
