//! `#[synchronized(…, shared)]`, `permits = n`, `all(…)` and `reentrant = owner`.

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

#[derive(Clone)]
struct Bank {
    locker: Locker,
    teller: String,
}

impl Bank {
    #[synchronized(all("account:{from}", "account:{to}"), lock = self.locker, guard = leases)]
    async fn transfer(&self, from: u8, to: u8, together: &Barrier) -> Result<Vec<String>, LockError> {
        together.wait().await;
        together.wait().await;
        Ok(leases.iter().map(|lease| lease.key().name().to_owned()).collect())
    }

    #[synchronized(all("account:{from}", "account:{to}"), lock = self.locker, skip_if_locked)]
    async fn transfer_if_free(&self, from: u8, to: u8) -> Result<Option<u8>, LockError> {
        Ok(Some(from + to))
    }

    #[synchronized("account:{id}", lock = self.locker, reentrant = self.teller, wait = Duration::from_secs(60))]
    async fn audit(&self, id: u8, depth: u8) -> Result<u8, LockError> {
        if depth == 0 { Ok(id) } else { Box::pin(self.audit(id, depth - 1)).await.map(|deeper| deeper + 1) }
    }

    #[synchronized("account:{id}", lock = self.locker, reentrant = teller, try_only)]
    async fn audit_by_number(&self, id: u8, teller: u32) -> Result<u8, LockError> {
        Ok(id)
    }

    #[synchronized("account:{id}", lock = self.locker, reentrant = format!("{}!", self.teller), skip_if_locked)]
    async fn audit_if_free(&self, id: u8) -> Result<Option<u8>, LockError> {
        Ok(Some(id))
    }
}

fn bank(teller: &str) -> Bank {
    Bank { locker: Locker::new(MemoryLock::new()).unwrap(), teller: teller.to_owned() }
}

#[tokio::test]
async fn several_locks_are_held_together() {
    let bank = bank("a");
    let together = Barrier::new(2);
    let others = async {
        together.wait().await;
        for key in ["account:1", "account:2"] {
            assert!(bank.locker.try_acquire(key).await.unwrap().is_none(), "{key} is free");
        }
        assert_eq!(bank.transfer_if_free(2, 3).await.unwrap(), None);
        assert_eq!(bank.transfer_if_free(3, 4).await.unwrap(), Some(7));
        assert!(bank.locker.try_acquire("account:3").await.unwrap().is_some(), "taken without the other");
        together.wait().await;
    };
    let (leases, ()) = tokio::join!(bank.transfer(2, 1, &together), others);
    assert_eq!(leases.unwrap(), ["account:1", "account:2"]);
    assert_eq!(bank.transfer_if_free(1, 1).await.unwrap(), Some(2), "a key named twice is one");
    let nowhere = bank.transfer_if_free(1, 2);
    bank.locker.shutdown().await;
    assert!(matches!(nowhere.await, Err(LockError::ShutDown)));
}

#[tokio::test]
async fn an_owner_enters_again() {
    let bank = bank("a");
    assert_eq!(bank.audit(1, 3).await.unwrap(), 4);
    let other = Bank { teller: "b".to_owned(), ..bank.clone() };
    let held = bank.locker.reentrant("account:1", "a").unwrap().acquire().await.unwrap();
    assert_eq!(bank.audit(1, 1).await.unwrap(), 2);
    assert_eq!(other.audit_if_free(1).await.unwrap(), None);
    let seven = bank.locker.reentrant("account:2", "7").unwrap().acquire().await.unwrap();
    assert_eq!(bank.audit_by_number(2, 7).await.unwrap(), 2);
    assert!(matches!(bank.audit_by_number(2, 8).await, Err(LockError::Held { .. })));
    drop(seven);
    let waits = tokio::spawn(async move { other.audit(1, 0).await });
    while bank.locker.stats().queued_keys == 0 && bank.locker.inspect("account:1").await.unwrap().waiters == Some(0) {
        tokio::task::yield_now().await;
    }
    held.release().await.unwrap();
    assert_eq!(waits.await.unwrap().unwrap(), 1);
    assert_eq!(bank.audit_if_free(1).await.unwrap(), Some(1));
    let nobody = Bank { teller: String::new(), ..bank };
    assert!(matches!(nobody.audit(1, 0).await, Err(LockError::InvalidOption(_))));
}
