//! Futures that find their timers wherever they are polled.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::runtime::Handle;

/// Polls a future inside the locker's runtime if the caller is in none, so that any executor may await a lock.
pub(crate) struct InRuntime<'a, T> {
    runtime: Handle,
    future: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
}

impl<'a, T> InRuntime<'a, T> {
    pub(crate) fn new(runtime: &Handle, future: impl Future<Output = T> + Send + 'a) -> Self {
        InRuntime { runtime: runtime.clone(), future: Box::pin(future) }
    }
}

impl<T> Future for InRuntime<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let InRuntime { runtime, future } = &mut *self;
        let _entered = Handle::try_current().is_err().then(|| runtime.enter());
        future.as_mut().poll(cx)
    }
}
