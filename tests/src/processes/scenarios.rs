//! What is to hold across processes, whatever the backend. Each needs a store with expiry of its own.

use std::time::{Duration, Instant};

use tasklock::{Guard, Locker};

use super::{Store, Worker};

const KEY: &str = "account:7";
/// Well above what anything here should take, well below what it takes if only the waiters' own polls help.
const SOON: Duration = Duration::from_secs(8);

/// The program `worker`, and the address of the locks.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// [`worker!`](crate::worker).
    pub program: &'a str,
    /// With parameters or without.
    pub url: &'a str,
}

impl Scene<'_> {
    fn with(&self, parameter: &str) -> String {
        let first = if self.url.contains('?') { '&' } else { '?' };
        format!("{}{first}{parameter}", self.url)
    }
}

/// Four processes of sixteen tasks. Some are stopped past their ttl while they hold and go on, some are killed while they
/// hold, stopped or not, and one while it waits or works. The fenced counter loses nothing; the other one, in the very same
/// run, does.
///
/// # Panics
///
/// If it is not so.
pub async fn a_fenced_store_loses_no_update(scene: Scene<'_>) {
    let store = Store::open();
    let url = scene.with("ttl=500ms");
    let start = || Worker::adding(scene.program, &url, &store, KEY, 16);
    let (paused, killed, stopped, last) = (start().await, start().await, start().await, start().await);
    let all = [&paused, &killed, &stopped, &last].map(Worker::pid);
    for pid in all {
        store.next_read(&[pid], 0);
    }

    for _ in 0..3 {
        let token = store.stop_after_read(paused.pid());
        // Its ttl has passed when the lock is somebody else's.
        let others: Vec<u32> = all.into_iter().filter(|pid| *pid != paused.pid()).collect();
        store.next_read(&others, token);
        store.until_written(store.totals().fenced_writes + 20);
        paused.resume();
        store.until_refused(paused.pid(), token);
        store.next_read(&[paused.pid()], token);
    }
    let open = store.totals();
    assert!(open.open < open.open_writes, "the counter that takes every write lost none: {open:?}");

    let token = store.kill_after_read(killed.pid());
    store.next_read(&[paused.pid(), stopped.pid(), last.pid()], token);
    let token = store.stop_after_read(stopped.pid());
    stopped.kill().await;
    store.next_read(&[paused.pid(), last.pid()], token);
    last.kill().await;
    let newcomer = start().await;
    store.next_read(&[newcomer.pid()], token);
    store.until_written(store.totals().fenced_writes + 50);

    paused.finish().await;
    newcomer.finish().await;
    let totals = store.totals();
    assert_eq!(totals.fenced, totals.fenced_writes, "an update was lost: {totals:?}");
    assert!(totals.refused >= 3, "{totals:?}");
    let mut tokens = store.tokens();
    tokens.sort_unstable();
    assert!(tokens.is_sorted_by(|a, b| a < b), "one token for two holders: {tokens:?}");
    everything_was_given_back(&url).await;
}

/// The holder is killed. The next has the lock soon after the ttl, not after a waiter's own patience.
///
/// # Panics
///
/// If it is not so.
pub async fn a_killed_holder_is_followed_after_its_ttl(scene: Scene<'_>) {
    let store = Store::open();
    let url = scene.with("ttl=1s");
    let start = || Worker::adding(scene.program, &url, &store, KEY, 4);
    let (killed, next) = (start().await, start().await);
    store.next_read(&[next.pid()], 0);
    let token = store.kill_after_read(killed.pid());
    let since = Instant::now();
    store.next_read(&[next.pid()], token);
    assert!(since.elapsed() < SOON, "{:?} after the holder's death", since.elapsed());
    drop(killed);
    next.finish().await;
    everything_was_given_back(&url).await;
}

/// The first in the queue is killed. Those behind it follow the holder, in order, and do not wait for the dead one's ttl.
///
/// # Panics
///
/// If it is not so.
pub async fn a_killed_first_waiter_delays_nobody_for_long(scene: Scene<'_>) {
    let store = Store::open();
    let lock = tasklock::connect(scene.url).await.unwrap();
    let (guard, [first, second, third]) = queue(scene, &lock, &store).await;
    first.kill().await;
    the_others_follow(&store, guard, &second, &third).await;
    second.finish().await;
    third.finish().await;
    everything_was_given_back(scene.url).await;
}

/// The first in the queue is stopped, and is granted the lock all the same, for nobody can know. Those behind it wait no
/// longer than for its claim; when it goes on, it does not believe what it was granted, and is served in its turn.
///
/// # Panics
///
/// If it is not so.
pub async fn a_stopped_first_waiter_delays_nobody_for_long(scene: Scene<'_>) {
    let store = Store::open();
    let lock = tasklock::connect(scene.url).await.unwrap();
    let (guard, [first, second, third]) = queue(scene, &lock, &store).await;
    first.stop();
    let token = the_others_follow(&store, guard, &second, &third).await;
    first.resume();
    store.next_read(&[first.pid()], token);
    for worker in [first, second, third] {
        worker.finish().await;
    }
    let totals = store.totals();
    assert_eq!((totals.open, totals.fenced), (totals.open_writes, totals.fenced_writes), "two at once: {totals:?}");
    assert_eq!(totals.refused, 0, "it wrote under a grant that had ended: {totals:?}");
    everything_was_given_back(scene.url).await;
}

/// Readers are killed and stopped while they hold, with a writer and a later reader behind them. The writer is let in when
/// their time is over, and not before; the later reader after the writer.
///
/// # Panics
///
/// If it is not so.
pub async fn readers_that_are_gone_make_way(scene: Scene<'_>) {
    let url = format!("{}?ttl=1s", scene.url);
    let start = || Worker::start(scene.program, &url);
    let (mut killed, mut stopped, mut late) = (start().await, start().await, start().await);
    let lock = tasklock::connect(scene.url).await.unwrap();
    let read = format!("read {KEY}");
    let tokens = [killed.number(&read, "taken").await, stopped.number(&read, "taken").await];
    assert_eq!(lock.inspect(KEY).await.unwrap().holders().count(), 2);
    let writer = tokio::spawn({
        let key = lock.rw(KEY).unwrap();
        async move { key.write().await }
    });
    until_waiting(&lock, 1).await;
    late.order(&read).await;
    until_waiting(&lock, 2).await;
    killed.kill().await;
    stopped.stop();
    let since = Instant::now();
    let writer = writer.await.unwrap().unwrap();
    assert!(since.elapsed() < SOON, "{:?} after the readers' end", since.elapsed());
    let token = writer.fencing_token().get();
    assert!(tokens[0] < tokens[1] && tokens[1] < token, "{tokens:?} {token}");
    stopped.resume();
    let writes = stopped.ask(&format!("write {KEY}")).await;
    assert_eq!(writes, format!("write {} false", tokens[1]), "it believes that it still reads");
    assert_eq!(lock.inspect(KEY).await.unwrap().holders().count(), 1, "a reader beside a writer");
    writer.release().await.unwrap();
    assert!(late.taken().await > token);
    late.kill().await;
    stopped.finish().await;
    everything_was_given_back(scene.url).await;
}

/// Three processes that wait, in order, behind a hold of the test's own.
async fn queue(scene: Scene<'_>, lock: &Locker, store: &Store) -> (Guard, [Worker; 3]) {
    let guard = lock.acquire(KEY).await.unwrap();
    let mut queue = Vec::new();
    for waiting in 1..=3 {
        queue.push(Worker::adding(scene.program, scene.url, store, KEY, 1).await);
        until_waiting(lock, waiting).await;
    }
    (guard, queue.try_into().expect("three"))
}

/// After this hold; the token of the last.
async fn the_others_follow(store: &Store, guard: Guard, second: &Worker, third: &Worker) -> u64 {
    let (since, token) = (Instant::now(), guard.fencing_token().get());
    guard.release().await.unwrap();
    let both = [second.pid(), third.pid()];
    let (pid, token) = store.next_read(&both, token);
    assert_eq!(pid, second.pid(), "out of order");
    let (pid, token) = store.next_read(&both, token);
    assert_eq!(pid, third.pid(), "out of order");
    assert!(since.elapsed() < SOON, "{:?} after the release", since.elapsed());
    token
}

async fn until_waiting(lock: &Locker, count: u64) {
    let start = Instant::now();
    while lock.inspect(KEY).await.unwrap().waiters != Some(count) {
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", lock.inspect(KEY).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The lock can be had, at once or when what a killed process left has ended.
async fn everything_was_given_back(url: &str) {
    let lock = tasklock::connect(url).await.unwrap();
    let guard = lock.key(KEY).wait(Duration::from_secs(60)).acquire().await.unwrap();
    guard.release().await.unwrap();
    assert!(lock.inspect(KEY).await.unwrap().is_free());
}
