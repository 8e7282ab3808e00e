//! Futures that have timers and connections wherever they are polled.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use tokio::runtime::Handle;

use crate::{LockError, lock::BoxFuture, shared::Shared};

/// Polls a future inside the locker's runtime, whatever executor awaits it: what it starts there lives as long as the
/// locker, also if it is driven on by somebody else. Once that runtime is gone, so are its timers, and the future ends
/// with [`LockError::ShutDown`] instead of being polled.
pub(crate) struct InRuntime<'a, T> {
    shared: Arc<Shared>,
    future: Option<BoxFuture<'a, Result<T, LockError>>>,
}

impl<'a, T> InRuntime<'a, T> {
    pub(crate) fn new(shared: &Arc<Shared>, future: impl Future<Output = Result<T, LockError>> + Send + 'a) -> Self {
        InRuntime { shared: shared.clone(), future: Some(Box::pin(future)) }
    }
}

impl<T> Future for InRuntime<'_, T> {
    type Output = Result<T, LockError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let InRuntime { shared, future } = &mut *self;
        if Handle::try_current().is_err_and(|e| e.is_thread_local_destroyed()) {
            // The thread is ending, and nothing can be entered from it.
            return Poll::Ready(Err(LockError::NoRuntime));
        }
        let _entered = shared.runtime.enter();
        let gone = || shared.gone.load(Ordering::Acquire);
        if let (Some(future), false) = (&mut *future, gone()) {
            // The runtime may go while this polls, and its timers panic then.
            match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
                Ok(polled) => return polled,
                Err(panic) if !gone() => resume_unwind(panic),
                Err(_) => {}
            }
        }
        *future = None;
        Poll::Ready(Err(LockError::ShutDown))
    }
}
