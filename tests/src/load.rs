//! Tasks that go on adding to a fenced counter, whatever happens to their locks' store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tasklock::{Fence, Guard, Lease, Locker};
use tokio::{
    sync::watch,
    task::{JoinSet, yield_now},
    time::Duration,
};

use crate::{eventually, servers::PATIENCE};

/// So many tasks more take the lock "job" so often each; nobody else has it meanwhile, and no token is lower than one
/// before.
pub fn crowd(tasks: &mut JoinSet<()>, lock: &Locker, fence: &Arc<Fence>, count: usize, times: usize) {
    for _ in 0..count {
        let (lock, fence) = (lock.clone(), fence.clone());
        tasks.spawn(async move {
            for _ in 0..times {
                let guard = lock.acquire("job").await.expect("the lock");
                assert!(fence.seen() < guard.fencing_token(), "a token was given twice, or went back");
                fence.admit(guard.fencing_token()).expect("no token above it");
                yield_now().await;
                fence.admit(guard.fencing_token()).expect("nobody else in between");
            }
        });
    }
}

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

#[derive(Clone, Debug, Default)]
struct Page {
    value: u64,
    written: u64,
    last: u64,
    /// Who did what, under which token, in order.
    history: Vec<(usize, &'static str, u64, u64, bool)>,
    /// Who is between reading and writing.
    inside: Vec<(usize, Lease)>,
    overlaps: usize,
}

impl Load {
    /// Begins, with so many tasks for each locker.
    #[must_use]
    pub fn start(lockers: &[Locker], key: &str, tasks_each: usize) -> Self {
        let (book, stop) = (Arc::new(Book::default()), watch::channel(false).0);
        let mut tasks = JoinSet::new();
        for (who, lock) in lockers.iter().flat_map(|lock| std::iter::repeat_n(lock, tasks_each)).enumerate() {
            tasks.spawn(work(who, lock.clone(), key.to_owned(), book.clone(), stop.subscribe()));
        }
        Load { book, stop, tasks }
    }

    /// Waits until it has been added to so often again.
    ///
    /// # Panics
    ///
    /// If that takes too long, or a task has failed.
    pub async fn goes_on(&mut self, times: u64) {
        let from = self.book.written();
        eventually("it goes on", async || self.book.written() >= from + times).await;
        if let Some(Err(failed)) = self.tasks.try_join_next() {
            panic!("a task failed: {failed}");
        }
    }

    /// How often somebody came in while another held it still, by the reckoning of both: what the counter refuses to be harmed
    /// by, and an exclusive lock rules out as long as its store forgets nothing.
    #[must_use]
    pub fn overlaps(&self) -> usize {
        self.book.open().1.overlaps
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
        let page = &self.book.open().1;
        let gap = page.history.windows(2).position(|two| {
            let [before, after] = two else { return false };
            before.1 == "writes" && after.1 == "writes" && after.3 <= before.3
        });
        let near = gap.map(|at| &page.history[at.saturating_sub(6)..(at + 6).min(page.history.len())]);
        assert_eq!(page.value, page.written, "an update was lost: {near:?}");
    }
}

async fn work(who: usize, lock: Locker, key: String, book: Arc<Book>, stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let before = book.last();
        let guard = match lock.acquire(&key).await {
            Ok(guard) => guard,
            Err(error) => {
                assert!(error.is_retryable() && !error.is_contended(), "{error}");
                continue;
            }
        };
        let token = guard.fencing_token();
        assert!(token.get() > before, "{token} was granted after {before} had been used");
        if let Some(value) = book.read(who, &guard) {
            tokio::time::sleep(Duration::from_millis(1)).await;
            book.write(who, &guard, value + 1);
        }
        book.leave(who);
        // Lost or not, it comes to an end.
        let _ = guard.release().await;
    }
}

impl Page {
    fn recent(&self) -> &[(usize, &'static str, u64, u64, bool)] {
        &self.history[self.history.len().saturating_sub(12)..]
    }
}

impl Book {
    fn written(&self) -> u64 {
        self.open().1.written
    }

    fn last(&self) -> u64 {
        self.open().1.last
    }

    fn read(&self, who: usize, guard: &Guard) -> Option<u64> {
        let (mut open, token) = (self.open(), guard.fencing_token());
        let held = guard.is_held();
        let others = open.1.inside.iter().filter(|(_, lease)| lease.is_held()).count();
        open.1.overlaps += usize::from(held && others > 0);
        open.1.inside.push((who, guard.lease().clone()));
        open.0.admit(token).ok()?;
        let page = &mut open.1;
        page.history.push((who, "reads", token.get(), page.value, held));
        assert!(token.get() > page.last, "{token} was granted twice: {:?}", page.recent());
        page.last = token.get();
        Some(page.value)
    }

    fn write(&self, who: usize, guard: &Guard, value: u64) {
        let (mut open, token) = (self.open(), guard.fencing_token());
        if open.0.admit(token).is_ok() {
            let (page, held) = (&mut open.1, guard.is_held());
            page.history.push((who, "writes", token.get(), value, held));
            page.value = value;
            page.written += 1;
        }
    }

    fn leave(&self, who: usize) {
        self.open().1.inside.retain(|(other, _)| *other != who);
    }

    fn open(&self) -> MutexGuard<'_, (Fence, Page)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
