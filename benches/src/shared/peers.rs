//! What readers, writers and permits are taken from.

use std::time::{Duration, Instant};

use distributed_lock_core::traits::{
    DistributedReaderWriterLock as _, DistributedSemaphore as _, LockHandle as _, ReaderWriterLockProvider as _,
    SemaphoreProvider as _,
};
use distributed_lock_redis::{
    RedisDistributedReaderWriterLock, RedisDistributedSemaphore, RedisLockProvider, RedisReadLockHandle,
    RedisSemaphoreHandle, RedisWriteLockHandle,
};
use tasklock::{Guard, RwKey, Semaphore};
use tokio::time::sleep;

use super::room::{PERMITS, Room, Way};
use crate::{crew::Turn, subject::Failure};

const KEY: &str = "catalogue";

pub(super) enum Peer {
    Tasklock { rw: RwKey, permits: Semaphore },
    Distributed { rw: RedisDistributedReaderWriterLock, permits: RedisDistributedSemaphore },
}

impl Peer {
    /// All there are, each by a connection of its own.
    pub(super) async fn all(url: &str) -> Result<Vec<Peer>, Failure> {
        let locker = tasklock::connect(url).await?;
        let provider = RedisLockProvider::new(url).await.map_err(|e| e.to_string())?;
        Ok(vec![
            Peer::Tasklock { rw: locker.rw(KEY)?, permits: locker.semaphore("seats", PERMITS as u32)? },
            Peer::Distributed {
                rw: provider.create_reader_writer_lock(KEY),
                permits: provider.create_semaphore("seats", PERMITS as u32),
            },
        ])
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Peer::Tasklock { .. } => "tasklock",
            Peer::Distributed { .. } => "distributed-lock-redis",
        }
    }

    /// What it sends besides scripts.
    pub(super) fn plain(&self, way: Way) -> &'static [&'static str] {
        match (self, way) {
            (Peer::Tasklock { .. }, _) | (_, Way::Permit) => &[],
            (Peer::Distributed { .. }, Way::Read | Way::Write) => {
                &["exists", "sadd", "srem", "scard", "sismember", "get", "set", "del", "pttl", "pexpire"]
            }
        }
    }

    pub(super) async fn take(&self, way: Way) -> Result<Held, Failure> {
        Ok(match (self, way) {
            (Peer::Tasklock { rw, .. }, Way::Read) => Held::Guard(rw.read().await?),
            (Peer::Tasklock { rw, .. }, Way::Write) => Held::Guard(rw.write().await?),
            (Peer::Tasklock { permits, .. }, Way::Permit) => Held::Guard(permits.acquire().await?),
            (Peer::Distributed { rw, .. }, Way::Read) => {
                // Its readers do not wait, whatever they are told; this does, as its semaphore does.
                let mut pause = Duration::from_millis(10);
                loop {
                    if let Some(handle) = rw.try_acquire_read().await.map_err(|e| e.to_string())? {
                        break Held::Read(handle);
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(200));
                }
            }
            (Peer::Distributed { rw, .. }, Way::Write) => {
                Held::Write(rw.acquire_write(None).await.map_err(|e| e.to_string())?)
            }
            (Peer::Distributed { permits, .. }, Way::Permit) => {
                Held::Permit(permits.acquire(None).await.map_err(|e| e.to_string())?)
            }
        })
    }

    pub(super) async fn turn(&self, way: Way, hold: Duration, room: &Room) -> Result<Turn, Failure> {
        let asked = Instant::now();
        let taken = self.take(way).await?;
        let held = Instant::now();
        room.enter(way);
        if !hold.is_zero() {
            sleep(hold).await;
        }
        room.leave(way);
        let turn = Turn::ends(asked, held);
        taken.give_back().await?;
        Ok(turn)
    }
}

pub(super) enum Held {
    Guard(Guard),
    Read(RedisReadLockHandle),
    Write(RedisWriteLockHandle),
    Permit(RedisSemaphoreHandle),
}

impl Held {
    pub(super) async fn give_back(self) -> Result<(), Failure> {
        let given = match self {
            Held::Guard(guard) => return Ok(guard.release().await.map(drop)?),
            Held::Read(handle) => handle.release().await,
            Held::Write(handle) => handle.release().await,
            Held::Permit(handle) => handle.release().await,
        };
        Ok(given.map_err(|e| e.to_string())?)
    }
}
