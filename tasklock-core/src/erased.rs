//! The object-safe twin of [`AsyncLock`], so that a [`Locker`](crate::Locker) has no type parameter.

use std::{any::Any, fmt, sync::Arc};

use crate::{
    AsyncLock, Attempt, BackendError, Capabilities, Claim, Event, Key, MemoryLock, Released, Renewed, Request, State,
    Together, Wake,
    lock::{BoxFuture, Powers, StepResult},
};

/// Calls that must outlive their caller take `Arc<Self>` and owned arguments: their futures are `'static`.
pub(crate) trait DynLock: Send + Sync {
    fn capabilities(&self) -> &Capabilities;
    fn try_acquire_now(&self, request: &Request) -> Option<StepResult<Attempt>>;
    fn release_now(&self, claim: &Claim) -> Option<StepResult<Released>>;
    fn try_acquire(self: Arc<Self>, request: Request) -> BoxFuture<'static, StepResult<Attempt>>;
    /// Fails without the power.
    fn try_acquire_all(self: Arc<Self>, requests: Vec<Request>) -> BoxFuture<'static, StepResult<Together>>;
    fn wait<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, StepResult<Wake>>;
    fn renew<'a>(&'a self, claims: &'a [Claim]) -> BoxFuture<'a, Vec<StepResult<Renewed>>>;
    fn release<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, StepResult<Released>>;
    fn inspect<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, StepResult<State>>;
    fn event(self: Arc<Self>) -> BoxFuture<'static, Event>;
    fn ping(&self) -> BoxFuture<'_, StepResult<()>>;
    fn close(&self) -> BoxFuture<'_, ()>;
    fn powers(&self) -> Powers<'_>;
    /// The store in memory, if that is what it is, and not behind something else.
    fn as_memory(&self) -> Option<&MemoryLock>;
}

impl<B: AsyncLock> DynLock for B {
    fn capabilities(&self) -> &Capabilities {
        AsyncLock::capabilities(self)
    }

    fn try_acquire_now(&self, request: &Request) -> Option<StepResult<Attempt>> {
        AsyncLock::try_acquire_now(self, request)
    }

    fn release_now(&self, claim: &Claim) -> Option<StepResult<Released>> {
        AsyncLock::release_now(self, claim)
    }

    fn try_acquire(self: Arc<Self>, request: Request) -> BoxFuture<'static, StepResult<Attempt>> {
        Box::pin(async move { AsyncLock::try_acquire(&*self, &request).await })
    }

    fn try_acquire_all(self: Arc<Self>, requests: Vec<Request>) -> BoxFuture<'static, StepResult<Together>> {
        Box::pin(async move {
            match AsyncLock::powers(&*self).many {
                Some(power) => power.try_acquire_all(&requests).await,
                None => Err(BackendError::fatal("several locks in one step: not on this backend")),
            }
        })
    }

    fn wait<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, StepResult<Wake>> {
        Box::pin(AsyncLock::wait(self, request))
    }

    fn renew<'a>(&'a self, claims: &'a [Claim]) -> BoxFuture<'a, Vec<StepResult<Renewed>>> {
        Box::pin(AsyncLock::renew(self, claims))
    }

    fn release<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, StepResult<Released>> {
        Box::pin(AsyncLock::release(self, claim))
    }

    fn inspect<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, StepResult<State>> {
        Box::pin(AsyncLock::inspect(self, key))
    }

    fn event(self: Arc<Self>) -> BoxFuture<'static, Event> {
        Box::pin(async move { AsyncLock::event(&*self).await })
    }

    fn ping(&self) -> BoxFuture<'_, StepResult<()>> {
        Box::pin(AsyncLock::ping(self))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(AsyncLock::close(self))
    }

    fn powers(&self) -> Powers<'_> {
        AsyncLock::powers(self)
    }

    fn as_memory(&self) -> Option<&MemoryLock> {
        (self as &dyn Any).downcast_ref()
    }
}

impl fmt::Debug for dyn DynLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.capabilities().backend)
    }
}
