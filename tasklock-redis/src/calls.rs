//! The one way in which steps reach the store: alone while few calls are under way, together otherwise.

use std::{
    collections::VecDeque,
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use redis::{Cmd, Value};
use tasklock_core::{BackendError, StepResult};
use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    link::Link,
    script::{Needs, Step},
    slots::Slot,
};

/// One step of a script that carries out any number of them.
pub(crate) trait Carried: Sized + fmt::Debug + Send + Sync + 'static {
    /// What a step is answered with.
    type Answer: fmt::Debug + Send + 'static;

    /// Those that may share a call have the same.
    fn company(&self) -> Option<(Slot, Needs)> {
        None
    }

    /// Whether it is one of the many that come at a time and have time: the others do not stand behind all of them.
    fn is_one_of_many(&self) -> bool {
        false
    }

    /// The command that carries out these steps, by the script's hash or, if the server does not know it, by its text.
    fn command(steps: &[Self], whole: bool) -> Cmd;

    /// The answers to these steps, in order.
    fn answers(steps: &[Self], value: Value) -> Vec<StepResult<Self::Answer>>;
}

/// Steps that are carried out together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a, S> {
    pub(crate) steps: &'a [S],
    /// At the node that their slot is on the way to.
    pub(crate) asking: bool,
}

/// The most steps in one call: the server does nothing else meanwhile.
pub(crate) const MOST: usize = 64;
/// The room that is kept for those who wait, when none does.
const ROOM_KEPT: usize = 1024;
/// The most calls under way: the server has some to work on while the answers to others are taken in, and a caller that goes
/// on while its last lock is given back does not wait for that.
const LANES: usize = 4;
/// What a call takes of those who wait, if there are as many; more if many do.
const LEAST: usize = 16;

/// Steps on their way to the store.
///
/// A step that finds no call under way is sent at once, by its caller. Else it waits with others, for another call, which a task
/// carries, or until one has been answered, and they go together. So the busier it is, the more steps share a call. Renewals, of
/// which thousands may be due at once, stand in a line of their own, and each line has half of a call if the other one needs its
/// half.
#[derive(Debug)]
pub(crate) struct Calls<S: Carried = Step>(Arc<Shared<S>>);

#[derive(Debug)]
struct Shared<S: Carried> {
    link: Arc<Link>,
    runtime: Handle,
    traffic: Mutex<Traffic<S>>,
}

#[derive(Debug)]
struct Traffic<S: Carried> {
    under_way: usize,
    waiting: VecDeque<Waiting<S>>,
    /// Those that are each one of many.
    many: VecDeque<Waiting<S>>,
}

#[derive(Debug)]
struct Waiting<S: Carried> {
    step: S,
    reply: oneshot::Sender<StepResult<S::Answer>>,
    since: Instant,
}

impl<S: Carried> Calls<S> {
    pub(crate) fn new(link: Arc<Link>, runtime: Handle) -> Self {
        let traffic = Mutex::new(Traffic { under_way: 0, waiting: VecDeque::new(), many: VecDeque::new() });
        Calls(Arc::new(Shared { link, runtime, traffic }))
    }

    /// Carries out one step.
    pub(crate) async fn submit(&self, step: S) -> StepResult<S::Answer> {
        let turn = {
            let mut traffic = self.0.traffic();
            if traffic.under_way == 0 {
                traffic.under_way += 1;
                Ok((Lane { calls: self.0.clone(), used: true }, step))
            } else {
                // Whoever has the first lane may not be polled for long: the others are always tasks.
                Err((traffic.wait(step), self.0.lane(&mut traffic)))
            }
        };
        match turn {
            Ok((_lane, step)) => self.0.send(&[step]).await.pop().unwrap_or_else(unanswered),
            Err((answer, lane)) => {
                // It finds the step waiting.
                drop(lane);
                answer.await.unwrap_or_else(|_| unanswered())
            }
        }
    }

    /// For how long the first of the line has waited that this step would join.
    pub(crate) fn behind(&self, step: &S) -> Duration {
        let mut traffic = self.0.traffic();
        traffic.line(step).front().map(|one| one.since.elapsed()).unwrap_or_default()
    }

    /// Carries out one step at a node that its slot is on the way to. It goes by itself: others are not to follow it.
    pub(crate) async fn submit_asking(&self, step: S) -> StepResult<S::Answer> {
        let call = Call { steps: &[step], asking: true };
        self.0.send_calls(&[call]).await.pop().unwrap_or_else(unanswered)
    }

    /// Carries out many; one answer each, in order.
    pub(crate) async fn submit_all(&self, steps: Vec<S>) -> Vec<StepResult<S::Answer>> {
        let (waiting, lane) = {
            let mut traffic = self.0.traffic();
            let waiting: Vec<_> = steps.into_iter().map(|step| traffic.wait(step)).collect();
            (waiting, self.0.lane(&mut traffic))
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
    pub(crate) async fn submit_together(&self, steps: &[S]) -> Vec<StepResult<S::Answer>> {
        self.0.send(steps).await
    }
}

impl<S: Carried> Clone for Calls<S> {
    fn clone(&self) -> Self {
        Calls(self.0.clone())
    }
}

impl<S: Carried> Shared<S> {
    async fn send(&self, steps: &[S]) -> Vec<StepResult<S::Answer>> {
        // As few as can be: one where there are no slots.
        let alike = steps.chunk_by(|a, b| a.company() == b.company());
        let calls: Vec<_> = alike.map(|steps| Call { steps, asking: false }).collect();
        self.send_calls(&calls).await
    }

    async fn send_calls(&self, calls: &[Call<'_, S>]) -> Vec<StepResult<S::Answer>> {
        let answers = self.link.call(calls).await;
        let each = |(call, answer): (&Call<'_, S>, StepResult<_>)| match answer {
            Ok(value) => S::answers(call.steps, value),
            Err(error) => call.steps.iter().map(|_| Err(error.clone())).collect(),
        };
        calls.iter().zip(answers).flat_map(each).collect()
    }

    /// One more call, if so many may be under way.
    fn lane(self: &Arc<Self>, traffic: &mut Traffic<S>) -> Option<Lane<S>> {
        let free = traffic.under_way < LANES;
        traffic.under_way += usize::from(free);
        free.then(|| Lane { calls: self.clone(), used: true })
    }

    fn traffic(&self) -> MutexGuard<'_, Traffic<S>> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Carried> Traffic<S> {
    fn wait(&mut self, step: S) -> oneshot::Receiver<StepResult<S::Answer>> {
        let (reply, answer) = oneshot::channel();
        self.line(&step).push_back(Waiting { step, reply, since: Instant::now() });
        answer
    }

    fn line(&mut self, step: &S) -> &mut VecDeque<Waiting<S>> {
        if step.is_one_of_many() { &mut self.many } else { &mut self.waiting }
    }

    /// Those who go next, if any.
    fn next(&mut self) -> Vec<Waiting<S>> {
        // One call takes its part only, so that the server is at one while the answers to another are taken in here.
        let part = self.waiting.len().div_ceil(LANES).clamp(LEAST, MOST).min(self.waiting.len());
        let room = MOST - part.min(MOST / 2);
        let mut next = Vec::with_capacity(room.min(self.many.len()));
        while next.len() < room {
            match self.many.pop_front() {
                // Nobody waits for a renewal that has taken too long: it would keep those behind it from being in time.
                Some(one) if one.reply.is_closed() => {}
                Some(one) => next.push(one),
                None => break,
            }
        }
        let others = part.min(MOST - next.len());
        next.extend(self.waiting.drain(..others));
        for line in [&mut self.waiting, &mut self.many] {
            if line.is_empty() && line.capacity() > ROOM_KEPT {
                *line = VecDeque::new();
            }
        }
        next
    }
}

/// The right to have a call under way. Whoever waits takes it over when it is dropped, in a task of its own: none of
/// them hangs if another's caller goes.
struct Lane<S: Carried> {
    calls: Arc<Shared<S>>,
    /// Whether it was used: if not, the runtime takes no tasks any more.
    used: bool,
}

impl<S: Carried> Lane<S> {
    async fn carry(mut self) {
        self.used = true;
        loop {
            // Those that came in one breath go together.
            let mut steps = self.calls.traffic().next();
            if steps.is_empty() {
                return;
            }
            // Of those on one lock each keeps its place.
            steps.sort_by_key(|one| one.step.company());
            let (asked, replies): (Vec<_>, Vec<_>) = steps.into_iter().map(|one| (one.step, one.reply)).unzip();
            for (answer, reply) in self.calls.send(&asked).await.into_iter().zip(replies) {
                let _ = reply.send(answer);
            }
            // Answers come together; so does what follows them.
            tokio::task::yield_now().await;
        }
    }
}

impl<S: Carried> Drop for Lane<S> {
    fn drop(&mut self) {
        let mut traffic = self.calls.traffic();
        if self.used && !(traffic.waiting.is_empty() && traffic.many.is_empty()) {
            drop(traffic);
            self.calls.runtime.spawn(Lane { calls: self.calls.clone(), used: false }.carry());
            return;
        }
        traffic.under_way -= 1;
        let unanswered = (mem::take(&mut traffic.waiting), mem::take(&mut traffic.many));
        drop(traffic);
        drop(unanswered);
    }
}

pub(crate) fn unanswered<A>() -> StepResult<A> {
    Err(BackendError::unknown("redis: the call was not carried to its end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is one of many.
    #[derive(Debug)]
    struct One(bool);

    impl Carried for One {
        type Answer = ();

        fn is_one_of_many(&self) -> bool {
            self.0
        }

        fn command(_: &[Self], _: bool) -> Cmd {
            Cmd::new()
        }

        fn answers(steps: &[Self], _: Value) -> Vec<StepResult<()>> {
            steps.iter().map(|_| Ok(())).collect()
        }
    }

    /// How many of a line go next, and how many of the many.
    fn next(traffic: &mut Traffic<One>) -> (usize, usize) {
        let next = traffic.next();
        let many = next.iter().filter(|one| one.step.0).count();
        (next.len() - many, many)
    }

    #[test]
    fn no_line_stands_behind_the_other() {
        let mut traffic = Traffic { under_way: 0, waiting: VecDeque::new(), many: VecDeque::new() };
        let line = |traffic: &mut Traffic<One>, count: usize, many: bool| -> Vec<_> {
            (0..count).map(|_| traffic.wait(One(many))).collect()
        };
        let renewals = line(&mut traffic, 100, true);
        let lone = line(&mut traffic, 1, false);
        assert_eq!(next(&mut traffic), (1, MOST - 1), "the lone one goes with the first of them");
        let others = line(&mut traffic, 100, false);
        assert_eq!(next(&mut traffic), (25, 37), "a part of those who wait, for there are other calls");
        assert_eq!(next(&mut traffic), (19, 0));
        drop(line(&mut traffic, 100, true));
        assert_eq!(next(&mut traffic), (LEAST, 0), "nobody waits for these");
        let more = line(&mut traffic, 1000, false);
        let renewals = (renewals, line(&mut traffic, 100, true));
        assert_eq!(next(&mut traffic), (MOST / 2, MOST / 2), "each has its half");
        assert_eq!(next(&mut traffic), (MOST / 2, MOST / 2));
        assert_eq!(next(&mut traffic), (MOST / 2, MOST / 2));
        assert_eq!(next(&mut traffic), (MOST - 4, 4), "the many need less than that");
        drop(more);
        drop((renewals, lone, others));
    }
}
