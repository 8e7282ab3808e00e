//! One question to all nodes at once.

use std::{fmt, future::poll_fn, pin::pin, task::Poll, time::Duration};

use tasklock_core::BoxFuture;
use tokio::runtime::Handle;

/// Answers as they come, for a time. What is still unanswered when this is dropped is driven to its end: a call that was
/// sent takes effect, and those after it on its connection are not to wait for its caller.
pub(super) struct Round<T: Send + 'static> {
    runtime: Handle,
    calls: Vec<Option<BoxFuture<'static, T>>>,
}

impl<T: Send + 'static> Round<T> {
    pub(super) fn new(runtime: &Handle, calls: impl IntoIterator<Item = BoxFuture<'static, T>>) -> Self {
        Round { runtime: runtime.clone(), calls: calls.into_iter().map(Some).collect() }
    }

    /// Tells each answer, by its place, until `done` or for `patience`; and then how many are missing.
    pub(super) async fn until(&mut self, patience: Duration, mut done: impl FnMut(usize, T) -> bool + Send) {
        let mut over = pin!(tokio::time::sleep(patience));
        poll_fn(|cx| {
            // All of them are sent before any answer is looked at.
            let mut answered = Vec::new();
            for (place, call) in self.calls.iter_mut().enumerate() {
                if let Some(Poll::Ready(answer)) = call.as_mut().map(|call| call.as_mut().poll(cx)) {
                    *call = None;
                    answered.push((place, answer));
                }
            }
            let mut is_done = false;
            for (place, answer) in answered {
                is_done |= done(place, answer);
            }
            if is_done || self.calls.iter().all(Option::is_none) || over.as_mut().poll(cx).is_ready() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

impl<T: Send + 'static> Drop for Round<T> {
    fn drop(&mut self) {
        for call in self.calls.drain(..).flatten() {
            self.runtime.spawn(call);
        }
    }
}

impl<T: Send + 'static> fmt::Debug for Round<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Round").field("unanswered", &self.calls.iter().flatten().count()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    fn call(after: u64, answered: &Arc<AtomicU32>) -> BoxFuture<'static, u64> {
        let answered = answered.clone();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            answered.fetch_add(1, Ordering::SeqCst);
            after
        })
    }

    /// The slow are not waited for, and are driven to their end all the same.
    #[tokio::test(start_paused = true)]
    async fn the_slow_are_not_waited_for_and_not_given_up() {
        let answered = Arc::new(AtomicU32::new(0));
        let calls = [10, 20, 30, 5_000, 9_000].map(|after| call(after, &answered));
        let mut round = Round::new(&Handle::current(), calls);
        let start = tokio::time::Instant::now();
        let mut seen = Vec::new();
        round
            .until(Duration::from_secs(1), |place, after| {
                seen.push((place, after));
                seen.len() == 3
            })
            .await;
        assert_eq!((seen, start.elapsed()), (vec![(0, 10), (1, 20), (2, 30)], Duration::from_millis(30)));
        let mut more = 0;
        round
            .until(Duration::from_secs(1), |_, _| {
                more += 1;
                false
            })
            .await;
        assert_eq!((more, start.elapsed()), (0, Duration::from_millis(1_030)), "not beyond its patience");
        drop(round);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(answered.load(Ordering::SeqCst), 5);
    }
}
