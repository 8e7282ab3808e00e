//! Tasks that go on adding to a fenced counter, whatever happens to their locks' store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tasklock::{Fence, FencingToken, Locker};
use tokio::{sync::watch, task::JoinSet, time::Duration};

use crate::{eventually, servers::PATIENCE};

/// So many tasks, one lock.
#[derive(Debug)]
pub struct Load {
    book: Arc<Book>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// A counter that refuses older tokens than it has seen, when it is read as when it is written.
#[derive(Debug, Default)]
struct Book(Mutex<(Fence, Page)>);

#[derive(Clone, Copy, Debug, Default)]
struct Page {
    value: u64,
    written: u64,
    last: u64,
}

impl Load {
    /// Begins, with so many tasks for each locker.
    #[must_use]
    pub fn start(lockers: &[Locker], key: &str, tasks_each: usize) -> Self {
        let (book, stop) = (Arc::new(Book::default()), watch::channel(false).0);
        let mut tasks = JoinSet::new();
        for lock in lockers.iter().flat_map(|lock| std::iter::repeat_n(lock, tasks_each)) {
            tasks.spawn(work(lock.clone(), key.to_owned(), book.clone(), stop.subscribe()));
        }
        Load { book, stop, tasks }
    }

    /// Waits until it has been added to so often again.
    ///
    /// # Panics
    ///
    /// If that takes too long, or a task has failed.
    pub async fn goes_on(&mut self, times: u64) {
        let from = self.book.page().written;
        eventually("it goes on", async || self.book.page().written >= from + times).await;
        if let Some(Err(failed)) = self.tasks.try_join_next() {
            panic!("a task failed: {failed}");
        }
    }

    /// Ends it: every task does, and nothing that was written was lost.
    ///
    /// # Panics
    ///
    /// If not.
    pub async fn end(mut self) {
        self.stop.send_replace(true);
        let all = async {
            while let Some(task) = self.tasks.join_next().await {
                task.expect("a task that did not fail");
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("everybody ends");
        let page = self.book.page();
        assert_eq!(page.value, page.written, "an update was lost");
    }
}

async fn work(lock: Locker, key: String, book: Arc<Book>, stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let before = book.page().last;
        let guard = match lock.acquire(&key).await {
            Ok(guard) => guard,
            Err(error) => {
                assert!(error.is_retryable() && !error.is_contended(), "{error}");
                continue;
            }
        };
        let token = guard.fencing_token();
        assert!(token.get() > before, "{token} was granted after {before} had been used");
        if let Some(value) = book.read(token) {
            tokio::time::sleep(Duration::from_millis(1)).await;
            book.write(token, value + 1);
        }
        // Lost or not, it comes to an end.
        let _ = guard.release().await;
    }
}

impl Book {
    fn page(&self) -> Page {
        self.open().1
    }

    fn read(&self, token: FencingToken) -> Option<u64> {
        let mut open = self.open();
        open.0.admit(token).ok()?;
        open.1.last = token.get();
        Some(open.1.value)
    }

    fn write(&self, token: FencingToken, value: u64) {
        let mut open = self.open();
        if open.0.admit(token).is_ok() {
            open.1.value = value;
            open.1.written += 1;
        }
    }

    fn open(&self) -> MutexGuard<'_, (Fence, Page)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
