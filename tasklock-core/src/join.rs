//! Several futures in one: all of them, or whichever is first.
//!
//! Each is polled whenever one is woken. None draws on the task's budget, which so many would use up: those at the end
//! would never be polled, and the task would be woken without a pause.

use std::{future::poll_fn, task::Poll};

use tokio::task::coop::unconstrained;

use crate::lock::BoxFuture;

/// The values of all, in order.
pub(crate) async fn all<T: Send>(futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut running: Vec<_> = futures.into_iter().map(Running::Not).collect();
    unconstrained(poll_fn(|cx| {
        let mut pending = false;
        for one in &mut running {
            if let Running::Not(future) = one {
                match future.as_mut().poll(cx) {
                    Poll::Ready(value) => *one = Running::Done(value),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    }))
    .await;
    let value = |one| match one {
        Running::Done(value) => Some(value),
        Running::Not(_) => None,
    };
    running.into_iter().filter_map(value).collect()
}

enum Running<'a, T> {
    Not(BoxFuture<'a, T>),
    Done(T),
}

/// The value of the first that `counts`, or of the last one if none does; `None` if there are no futures. The others are
/// dropped.
pub(crate) async fn first<T: Send>(
    mut futures: Vec<BoxFuture<'_, T>>,
    counts: impl Fn(&T) -> bool + Send + Sync,
) -> Option<T> {
    let mut last = None;
    unconstrained(poll_fn(|cx| {
        let mut at = 0;
        while at < futures.len() {
            match futures[at].as_mut().poll(cx) {
                Poll::Pending => at += 1,
                Poll::Ready(value) if counts(&value) => return Poll::Ready(Some(value)),
                Poll::Ready(value) => {
                    drop(futures.remove(at));
                    last = Some(value);
                }
            }
        }
        if futures.is_empty() { Poll::Ready(last.take()) } else { Poll::Pending }
    }))
    .await
}
