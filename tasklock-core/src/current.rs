//! Synchronized bodies: run while the lock is held, and known to the calls they make.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    slice,
    sync::Arc,
    task::Poll,
};

use crate::{
    Guard, Guards, Key, Lease, LockError, LossReason, Mode, OnLost, ReleaseMode, ReleaseOutcome, shared::Shared,
};

tokio::task_local! {
    static RUNNING: Arc<Frame>;
}

/// One synchronized body, and the one around it.
struct Frame {
    lease: Lease,
    locker: usize,
    task: Option<tokio::task::Id>,
    around: Option<Arc<Frame>>,
}

/// What a body runs under.
pub(crate) trait Releasable {
    fn lease(&self) -> &Lease;
    fn shared(&self) -> &Arc<Shared>;
    /// As [`Guard::release`].
    fn give_back(self) -> impl Future<Output = Result<ReleaseOutcome, LockError>> + Send;
}

impl Releasable for Guard {
    fn lease(&self) -> &Lease {
        self.lease()
    }

    fn shared(&self) -> &Arc<Shared> {
        self.shared()
    }

    async fn give_back(self) -> Result<ReleaseOutcome, LockError> {
        self.release().await
    }
}

impl Frame {
    fn new(guard: &impl Releasable) -> Self {
        let around = RUNNING.try_with(Arc::clone).ok();
        Frame { lease: guard.lease().clone(), locker: id(guard.shared()), task: tokio::task::try_id(), around }
    }

    /// One within the other; none if there are no guards, nor a body around.
    fn of_all(guards: &Guards) -> Option<Arc<Self>> {
        let around = RUNNING.try_with(Arc::clone).ok();
        guards.iter().fold(around, |around, guard| Some(Arc::new(Frame { around, ..Frame::new(guard) })))
    }
}

/// The lease under which the running synchronized body runs; the innermost if they are nested. `None` outside of one,
/// and in tasks it spawned.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
/// # let lock = tasklock_core::Locker::new(tasklock_core::MemoryLock::new())?;
/// lock.synchronized("job:7", async {
///     let lease = tasklock_core::current().expect("inside a synchronized body");
///     assert_eq!(lease.key().name(), "job:7");
/// }).await?;
/// # Ok(()) }
/// ```
#[must_use]
pub fn current() -> Option<Lease> {
    RUNNING.try_with(|frame| frame.lease.clone()).ok()
}

/// Whether the calling task is inside a body that holds `key`, will go on holding it, and so keeps itself from having it
/// in this `mode`.
pub(crate) fn would_wait_for_itself(shared: &Arc<Shared>, key: &Key, mode: Mode) -> bool {
    let holds = |frame: &Frame| {
        let hold = &frame.lease.0;
        // A lease that ends by itself ends the wait, too; and a task polled inside of the body is not the body.
        let certain = !hold.ends_by_itself() && frame.task == tokio::task::try_id();
        frame.locker == id(shared) && hold.claim.key == *key && hold.is_held() && certain
    };
    let search = |frame: &Arc<Frame>| {
        let (mut next, mut permits) = (Some(frame), 0);
        while let Some(frame) = next {
            if holds(frame) {
                permits += 1;
                match (frame.lease.0.claim.mode, mode) {
                    // A pool may have another member, or get one.
                    (Mode::Shared, Mode::Shared) | (Mode::Member, Mode::Member) => {}
                    (Mode::Permit { .. }, Mode::Permit { of }) if permits < of.get() => {}
                    _ => return true,
                }
            }
            next = frame.around.as_ref();
        }
        false
    };
    RUNNING.try_with(search).unwrap_or(false)
}

/// Runs `body` under `guard`, and releases.
pub(crate) async fn run<G, F, Fut>(
    guard: G,
    (on_lost, release): (OnLost, ReleaseMode),
    body: F,
) -> Result<Fut::Output, LockError>
where
    G: Releasable,
    F: FnOnce(Lease) -> Fut,
    Fut: Future,
{
    let lease = guard.lease().clone();
    let frame = Frame::new(&guard);
    let value = {
        let body = pin!(RUNNING.scope(Arc::new(frame), body(lease.clone())));
        match on_lost {
            OnLost::Cancel => while_held(slice::from_ref(&lease), async { _ = lease.lost().await }, body).await?,
            OnLost::Finish => body.await,
        }
        // The body is dropped here, before anyone else can have the lock.
    };
    if release == ReleaseMode::Background {
        drop(guard);
        return Ok(value);
    }
    let released = guard.give_back().await;
    was_held_to_the_end(&lease, on_lost, released).map(|()| value)
}

/// The same under several.
pub(crate) async fn run_all<F: Future>(
    guards: Guards,
    (on_lost, release): (OnLost, ReleaseMode),
    body: F,
) -> Result<F::Output, LockError> {
    let (leases, frame) = (guards.leases(), Frame::of_all(&guards));
    let value = {
        let body = pin!(async {
            match frame {
                Some(frame) => RUNNING.scope(frame, body).await,
                None => body.await,
            }
        });
        match on_lost {
            OnLost::Cancel => while_held(&leases, async { _ = guards.lost().await }, body).await?,
            OnLost::Finish => body.await,
        }
    };
    if release == ReleaseMode::Background {
        drop(guards);
        return Ok(value);
    }
    let released = guards.release_each().await;
    for (lease, released) in leases.iter().zip(released) {
        was_held_to_the_end(lease, on_lost, released)?;
    }
    Ok(value)
}

/// What the release after a body says of the body.
fn was_held_to_the_end(
    lease: &Lease,
    on_lost: OnLost,
    released: Result<ReleaseOutcome, LockError>,
) -> Result<(), LockError> {
    match released {
        // Ours by the clock to the last, and yet the store had it for somebody else: they may have run together.
        Ok(ReleaseOutcome::AlreadyLost) if on_lost == OnLost::Cancel && lease.0.within_its_time() => {
            let reason = LossReason::Stolen;
            Err(LockError::Lost { key: lease.key().clone(), token: lease.fencing_token(), reason })
        }
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::warn!(target: "tasklock", "body done, release failed: {error}");
            Ok(())
        }
    }
}

/// Runs a synchronous body under `guard`.
pub(crate) fn run_blocking<T>(guard: &impl Releasable, body: impl FnOnce(Lease) -> T) -> T {
    let lease = guard.lease().clone();
    RUNNING.sync_scope(Arc::new(Frame::new(guard)), || body(lease))
}

/// The same under several.
pub(crate) fn run_all_blocking<T>(guards: &Guards, body: impl FnOnce(Vec<Lease>) -> T) -> T {
    let leases = guards.leases();
    match Frame::of_all(guards) {
        Some(frame) => RUNNING.sync_scope(frame, || body(leases)),
        None => body(leases),
    }
}

/// Polls the body as long as the locks are held, and not once after. `lost` completes when one of them is lost.
async fn while_held<F: Future>(
    leases: &[Lease],
    lost: impl Future<Output = ()>,
    mut body: Pin<&mut F>,
) -> Result<F::Output, LockError> {
    let mut lost = pin!(lost);
    let gone = || leases.iter().find(|lease| !lease.is_held()).map(|lease| lease.0.lost_error());
    poll_fn(|cx| {
        // The clock is asked, not only the keeper: a process that was paused finds its deadline passed before anyone
        // has told it.
        if let Some(error) = gone() {
            return Poll::Ready(Err(error));
        }
        if let Poll::Ready(value) = body.as_mut().poll(cx) {
            return Poll::Ready(gone().map_or(Ok(value), Err));
        }
        match (lost.as_mut().poll(cx), gone()) {
            (Poll::Ready(()), Some(error)) => Poll::Ready(Err(error)),
            _ => Poll::Pending,
        }
    })
    .await
}

fn id(shared: &Arc<Shared>) -> usize {
    Arc::as_ptr(shared) as usize
}
