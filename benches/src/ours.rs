//! tasklock over memory, used the way its documentation shows.
//!
//! Every guard is `'static`, carries a fencing token, has a deadline that is kept up by renewal, and could be told
//! of a loss: what the peers do not have. A row of its own reads token and deadline under each lock, because a
//! figure for things that nobody looks at is worth little.

use std::hint::black_box;

use tasklock::{Guard, KeyLock, LockError, Locker, MemoryLock};

use crate::{
    peers::texts,
    subject::{Entrant, Failure, Subject, entrant},
};

/// Lockers live on the runtime they are made in: to be called within one.
pub(crate) fn all() -> Result<Vec<Box<dyn Entrant>>, Failure> {
    let locker = || Locker::new(MemoryLock::new());
    let reused = locker()?;
    Ok(vec![
        entrant("tasklock, &str", Text { locker: locker()?, keys: texts() }),
        entrant("tasklock, &str, token + remaining read", Read(Text { locker: locker()?, keys: texts() })),
        entrant("tasklock, &str, synchronized", Body(Text { locker: locker()?, keys: texts() })),
        entrant("tasklock, KeyLock", Reused(texts().iter().map(|key| reused.key(key.as_str())).collect())),
    ])
}

/// A refusal would make figures of nothing.
fn held(acquired: Result<Guard, LockError>) -> Guard {
    acquired.unwrap_or_else(|refused| panic!("not acquired: {refused}"))
}

pub(crate) struct Text {
    pub(crate) locker: Locker,
    pub(crate) keys: Vec<String>,
}

impl Subject for Text {
    async fn lock(&self, slot: usize) -> impl Send {
        held(self.locker.acquire(self.keys[slot].as_str()).await)
    }
}

struct Read(Text);

impl Subject for Read {
    async fn lock(&self, slot: usize) -> impl Send {
        let guard = held(self.0.locker.acquire(self.0.keys[slot].as_str()).await);
        black_box((guard.fencing_token(), guard.remaining()));
        guard
    }
}

/// Locks, runs an empty body and unlocks, all before it is handed back.
struct Body(Text);

impl Subject for Body {
    async fn lock(&self, slot: usize) -> impl Send {
        let done = self.0.locker.synchronized(self.0.keys[slot].as_str(), async {}).await;
        done.unwrap_or_else(|refused| panic!("not run: {refused}"));
    }

    async fn occupy(&self, slot: usize) -> impl Send {
        self.0.lock(slot).await
    }
}

struct Reused(Vec<KeyLock>);

impl Subject for Reused {
    async fn lock(&self, slot: usize) -> impl Send {
        held(self.0[slot].acquire().await)
    }
}
