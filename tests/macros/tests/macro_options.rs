//! The options of `#[synchronized]`.

#![allow(clippy::unwrap_used, clippy::future_not_send)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tasklock::{LockError, Locker, MemoryLock, synchronized};

fn locker() -> Locker {
    Locker::new(MemoryLock::new()).unwrap()
}

const SOON: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Service<L> {
    locker: L,
    ttl: Duration,
}

impl Service<Locker> {
    #[synchronized("id", lock = self.locker, try_only)]
    async fn by_field(&self, id: u8) -> Result<u8, LockError> {
        Ok(id)
    }

    #[synchronized("id", lock = &self.locker, ttl = self.ttl * 2, try_only)]
    async fn by_reference(&self, id: u8) -> Result<u8, LockError> {
        Ok(id)
    }

    #[synchronized("id", lock = self.locker.clone(), try_only)]
    async fn by_clone(&mut self, id: u8) -> Result<u8, LockError> {
        Ok(id)
    }

    #[synchronized("id", lock = self.locker, try_only)]
    async fn by_value(self, id: u8) -> Result<Locker, LockError> {
        assert_eq!(id, 1);
        Ok(self.locker)
    }
}

#[tokio::test]
async fn lock_names_the_locker() {
    #[synchronized("id", lock = locker, try_only)]
    async fn argument(locker: &Locker, id: u8) -> Result<u8, LockError> {
        Ok(id)
    }
    #[synchronized("id", lock = if *primary { a } else { b }, try_only)]
    async fn chosen(a: &Locker, b: &Locker, primary: &bool, id: u8) -> Result<u8, LockError> {
        Ok(id)
    }
    #[synchronized("id", lock = pick().await, try_only)]
    async fn awaited<F: AsyncFn() -> Arc<Locker>>(pick: F, id: u8) -> Result<u8, LockError> {
        Ok(id)
    }
    #[synchronized("id", lock = maybe, try_only)]
    async fn optional(maybe: Option<Locker>, id: u8) -> Result<u8, LockError> {
        Ok(id)
    }
    let (free, busy) = (locker(), locker());
    let guard = busy.acquire("id=1").await.unwrap();

    assert_eq!(argument(&free, 1).await.unwrap(), 1);
    assert!(argument(&busy, 1).await.unwrap_err().is_contended());
    assert!(chosen(&free, &busy, &true, 1).await.is_ok());
    assert!(chosen(&free, &busy, &false, 1).await.is_err());
    let shared = Arc::new(busy.clone());
    assert!(awaited(async || shared.clone(), 1).await.is_err());
    assert!(optional(Some(free.clone()), 1).await.is_ok());
    assert!(matches!(optional(None, 1).await, Err(LockError::NoLocker)));

    let service = |locker: &Locker| Service { locker: locker.clone(), ttl: SOON };
    assert!(service(&free).by_field(1).await.is_ok());
    assert!(service(&busy).by_field(1).await.is_err());
    assert!(service(&busy).by_reference(1).await.is_err());
    assert!(service(&free).by_reference(1).await.is_ok());
    assert!(service(&busy).by_clone(1).await.is_err());
    assert!(service(&busy).by_value(1).await.is_err());
    assert!(service(&free).by_value(1).await.is_ok());
    guard.release().await.unwrap();
    assert!(argument(&busy, 1).await.is_ok());
}

#[tokio::test]
async fn lock_wins_over_the_scoped_locker() {
    #[synchronized("id", lock = locker, try_only)]
    async fn f(locker: &Locker, id: u8) -> Result<(), LockError> {
        Ok(())
    }
    let (mine, scoped) = (locker(), locker());
    let guard = mine.acquire("id=1").await.unwrap();
    assert!(tasklock::scope(scoped, f(&mine, 1)).await.is_err());
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn waits_as_long_as_told() {
    #[synchronized("id", lock = locker, wait = limit)]
    async fn f(locker: &Locker, id: u8, limit: Duration) -> Result<u8, LockError> {
        Ok(id)
    }
    let locker = locker();
    let guard = locker.acquire("id=1").await.unwrap();
    let refused = f(&locker, 1, SOON).await.unwrap_err();
    assert!(matches!(refused, LockError::Timeout { .. }), "{refused}");

    let waiting = tokio::spawn({
        let locker = locker.clone();
        async move { f(&locker, 1, SOON).await }
    });
    tokio::time::sleep(SOON / 2).await;
    guard.release().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn waits_for_ever_unless_told() {
    #[synchronized("id", lock = locker)]
    async fn f(locker: &Locker, id: u8) -> Result<u8, LockError> {
        Ok(id)
    }
    let locker = locker();
    let guard = locker.acquire("id=1").await.unwrap();
    let waiting = tokio::spawn({
        let locker = locker.clone();
        async move { f(&locker, 1).await }
    });
    tokio::time::sleep(SOON * 1000).await;
    assert!(!waiting.is_finished());
    guard.release().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn try_only_never_waits() {
    #[synchronized("id", lock = locker, try_only)]
    async fn f(locker: &Locker, id: u8) -> Result<u8, LockError> {
        Ok(id)
    }
    let locker = locker();
    let guard = locker.acquire("id=1").await.unwrap();
    assert!(matches!(f(&locker, 1).await, Err(LockError::Held { .. })));
    guard.release().await.unwrap();
    assert_eq!(f(&locker, 1).await.unwrap(), 1);
}

#[tokio::test]
async fn guard_binds_the_lease() {
    #[synchronized("id", lock = locker, guard = lease, ttl = Duration::from_secs(9))]
    async fn f(locker: &Locker, id: u8) -> Result<String, LockError> {
        assert!(lease.is_held());
        let current = tasklock::current().expect("a lock is held");
        assert_eq!(current.fencing_token(), lease.fencing_token());
        Ok(lease.key().to_string())
    }
    assert_eq!(f(&locker(), 1).await.unwrap(), "id=1");
}

#[tokio::test]
async fn other_values_do_not_wait_for_each_other() {
    #[synchronized("id", lock = locker)]
    async fn meet(locker: &Locker, id: u8, barrier: &tokio::sync::Barrier) {
        barrier.wait().await;
    }
    let (locker, barrier) = (locker(), tokio::sync::Barrier::new(2));
    let both = tokio::join!(meet(&locker, 1, &barrier), meet(&locker, 2, &barrier));
    both.0.unwrap();
    both.1.unwrap();
}

#[tokio::test]
async fn one_at_a_time() {
    #[synchronized("id", lock = locker)]
    async fn count(locker: Locker, id: u8, inside: Arc<Mutex<(u32, u32)>>) {
        {
            let mut inside = inside.lock().unwrap();
            inside.0 += 1;
            inside.1 = inside.1.max(inside.0);
        }
        tokio::task::yield_now().await;
        inside.lock().unwrap().0 -= 1;
    }
    let (locker, inside) = (locker(), Arc::default());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        tasks.spawn(count(locker.clone(), 1, Arc::clone(&inside)));
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(*inside.lock().unwrap(), (0, 1));
}

#[tokio::test]
async fn every_other_option_is_understood() {
    #[synchronized("id", lock = locker, on_lost = cancel, release = await)]
    async fn cancel(locker: &Locker, id: u8) {}
    #[synchronized("id", lock = locker, on_lost = finish, release = background)]
    async fn finish(locker: &Locker, id: u8) {}
    #[synchronized("id", lock = locker, crate = ::tasklock, wait = tasklock::Wait::Forever, ttl = tasklock::Ttl::Never)]
    async fn renamed(locker: &Locker, id: u8) {}
    let locker = locker();
    cancel(&locker, 1).await.unwrap();
    finish(&locker, 1).await.unwrap();
    renamed(&locker, 1).await.unwrap();
}

mod reexported {
    pub(crate) mod deep {
        pub(crate) use ::tasklock as lock;
    }
}

#[tokio::test]
async fn the_crate_may_be_elsewhere() {
    use reexported::deep::lock::{LockKey, synchronized};

    #[derive(LockKey)]
    #[lock_key(crate = reexported::deep::lock)]
    struct Id(u8);

    #[synchronized("id", lock = locker, crate = reexported::deep::lock)]
    async fn f(locker: &Locker, id: Id) {}
    f(&locker(), Id(1)).await.unwrap();
}

/// A locker whose locks are lost after [`SOON`].
fn short_lived() -> Locker {
    Locker::builder(MemoryLock::new()).max_hold(SOON).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_lost_lock_ends_the_body() {
    #[synchronized("id", lock = locker)]
    async fn by_default(locker: &Locker, id: u8, alive: Arc<()>) {
        std::future::pending::<()>().await;
        drop(alive);
    }
    #[synchronized("id", lock = locker, on_lost = cancel)]
    async fn told(locker: &Locker, id: u8) -> Result<u8, LockError> {
        std::future::pending().await
    }
    let alive = Arc::new(());
    let lost = by_default(&short_lived(), 1, alive.clone()).await.unwrap_err();
    assert!(matches!(lost, LockError::Lost { .. }), "{lost}");
    assert_eq!(Arc::strong_count(&alive), 1);
    assert!(matches!(told(&short_lived(), 1).await, Err(LockError::Lost { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_body_may_finish_without_its_lock() {
    #[synchronized("id", lock = locker, on_lost = finish, guard = lease)]
    async fn f(locker: &Locker, id: u8) -> Result<bool, LockError> {
        tokio::time::sleep(SOON * 2).await;
        Ok(lease.is_held())
    }
    assert!(!f(&short_lived(), 1).await.unwrap());
}

/// Runs blocking code on a thread that no runtime knows.
async fn on_a_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // The receiver is gone only if the test has failed already.
        let _ = done.send(run());
    });
    answer.await.unwrap()
}

mod blocking {
    use super::*;

    #[synchronized("id", lock = locker, blocking, guard = lease)]
    fn named(locker: &Locker, id: u8) -> Result<String, LockError> {
        if id == 0 {
            return Ok("zero".into());
        }
        Ok(lease.key().to_string())
    }

    #[synchronized("id", lock = locker, blocking, try_only)]
    fn silent(locker: &Locker, id: u8, mut log: Vec<u8>) {
        log.push(id);
    }

    #[synchronized("id", lock = locker, blocking, skip_if_locked, on_error = |_| None)]
    fn skipping(locker: &Locker, id: u8) -> Option<u8> {
        Some(id)
    }

    #[synchronized("id", lock = locker, blocking)]
    fn anonymous(locker: &Locker, id: u8) -> Result<impl Iterator<Item = u8> + use<>, LockError> {
        Ok(0..id)
    }

    impl Service<Locker> {
        #[synchronized("id", lock = self.locker, blocking, ttl = self.ttl)]
        fn method(&mut self, id: u8) -> Result<&mut Duration, LockError> {
            self.ttl += Duration::from_secs(u64::from(id));
            Ok(&mut self.ttl)
        }
    }

    #[tokio::test]
    async fn functions() {
        let free = locker();
        on_a_thread(move || {
            assert_eq!(named(&free, 1).unwrap(), "id=1");
            assert_eq!(named(&free, 0).unwrap(), "zero");
            silent(&free, 1, vec![]).unwrap();
            assert_eq!(skipping(&free, 1), Some(1));
            assert_eq!(anonymous(&free, 3).unwrap().count(), 3);
            let mut service = Service { locker: free, ttl: SOON };
            *service.method(1).unwrap() += SOON;
            assert_eq!(service.ttl, SOON * 2 + Duration::from_secs(1));
        })
        .await;
    }

    #[tokio::test]
    async fn functions_while_held() {
        let busy = locker();
        let guard = busy.acquire("id=1").await.unwrap();
        on_a_thread(move || {
            assert!(silent(&busy, 1, vec![]).unwrap_err().is_contended());
            assert_eq!(skipping(&busy, 1), None);
        })
        .await;
        guard.release().await.unwrap();
    }
}
