//! `#[synchronized(…, shared)]` and `permits = n`.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tasklock::{LockError, Locker, MemoryLock, scope, synchronized};
use tokio::sync::Barrier;

/// Returns when so many are in at once.
#[synchronized("doc", shared)]
async fn read(doc: u8, together: &Barrier) -> Result<u8, LockError> {
    together.wait().await;
    Ok(doc)
}

#[synchronized("doc", try_only)]
async fn try_write(doc: u8) -> Result<u8, LockError> {
    Ok(doc)
}

struct Service {
    locker: Locker,
    slots: u32,
}

impl Service {
    #[synchronized("export", lock = self.locker, permits = self.slots)]
    async fn export(&self, export: u8, together: &Barrier) -> Result<u8, LockError> {
        together.wait().await;
        Ok(export)
    }

    #[synchronized("export", lock = self.locker, permits = 2, skip_if_locked)]
    async fn export_if_free(&self, export: u8) -> Result<Option<u8>, LockError> {
        Ok(Some(export))
    }

    #[synchronized("export", lock = self.locker, shared, blocking, wait = Duration::from_secs(5))]
    fn look(&self, export: u8) -> Result<u8, LockError> {
        Ok(export)
    }
}

#[tokio::test]
async fn readers_run_beside_each_other_and_not_beside_a_writer() {
    let lock = Locker::new(MemoryLock::new()).unwrap();
    let together = Barrier::new(4);
    let inside = scope(lock.clone(), async {
        let fourth = async {
            while lock.inspect("doc=1").await.unwrap().holders().count() < 3 {
                tokio::task::yield_now().await;
            }
            let write = try_write(1).await;
            assert!(matches!(write, Err(LockError::Held { .. })), "{write:?}");
            together.wait().await;
        };
        let (a, b, c, ()) = tokio::join!(read(1, &together), read(1, &together), read(1, &together), fourth);
        assert_eq!((a.unwrap(), b.unwrap(), c.unwrap()), (1, 1, 1));
        try_write(1).await
    });
    assert_eq!(inside.await.unwrap(), 1);
}

#[tokio::test]
async fn as_many_as_there_are_permits() {
    let service = Service { locker: Locker::new(MemoryLock::new()).unwrap(), slots: 2 };
    let together = Barrier::new(3);
    let third = async {
        while service.locker.inspect("export=1").await.unwrap().holders().count() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(service.export_if_free(1).await.unwrap(), None);
        together.wait().await;
    };
    let (a, b, ()) = tokio::join!(service.export(1, &together), service.export(1, &together), third);
    assert_eq!((a.unwrap(), b.unwrap()), (1, 1));
    assert_eq!(service.export_if_free(1).await.unwrap(), Some(1));
    let nobody = Service { slots: 0, ..service };
    let refused = nobody.export(1, &together).await;
    assert!(matches!(refused, Err(LockError::InvalidOption(_))), "{refused:?}");
    let locker = nobody.locker.clone();
    let held = locker.key("export=1").shared().acquire().await.unwrap();
    let looked = tokio::task::spawn_blocking(|| std::thread::spawn(move || nobody.look(1)).join().unwrap());
    assert_eq!(looked.await.unwrap().unwrap(), 1);
    drop(held);
}
