//! Waits for members of a pool, dropped at any await, on any store.

use tasklock::{
    Locker,
    testing::{Faults, Op},
};

use crate::{
    cancellation::{Scene, drop_everything_everywhere},
    eventually,
};

const POOL: &str = "pool";

/// Drops an acquisition after each number of polls, from a pool of one member that is free, held, or given back meanwhile.
/// `make` gives a locker whose calls go wrong on demand, and another on the same store.
///
/// # Panics
///
/// If anything is left.
pub async fn drop_everywhere(make: impl AsyncFn() -> ((Locker, Faults), Locker), on: Op) {
    let make = async || {
        let (here, other) = make().await;
        other.pool(POOL).expect("pools").assign(["member"]).await.expect("a change");
        Scene { key: POOL.to_owned(), ..Scene::new(here, other) }
    };
    let is_empty = async |scene: &Scene, fault| {
        scene.settled(fault).await;
        let pool = scene.other.pool(POOL).expect("pools");
        eventually(&format!("nothing is left in the pool, {fault:?} on {on:?}"), async || {
            let health = pool.health().await.expect("an answer");
            (health.locked, health.free, health.waiters) == (0, 1, 0)
        })
        .await;
        true
    };
    let take = async |lock: &Locker| lock.pool(POOL).expect("pools").acquire().await;
    let (hold, acquire) =
        (async |scene: &Scene| take(&scene.other).await, async |scene: &Scene| take(&scene.lock).await);
    drop_everything_everywhere(make, is_empty, on, hold, acquire).await;
}
