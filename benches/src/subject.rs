//! What is measured: anything that locks one of many keys.

use std::{
    error::Error,
    hint::{self, black_box},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Runtime};

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// How many keys there are, and how many the uncontended tables walk over unless they say otherwise.
pub(crate) const KEYS: usize = 1024;
/// How many tasks contend for the hot key.
pub(crate) const TASKS: usize = 64;

/// A lock by key. Slots stand for keys, so that each subject can keep its keys in the form it likes best.
pub(crate) trait Subject: Send + Sync + 'static {
    /// Locks the key of `slot`; what comes out unlocks it when dropped.
    fn lock(&self, slot: usize) -> impl Future<Output = impl Send> + Send;

    /// The same where `lock` is a whole cycle, and nothing is held when it is over.
    fn occupy(&self, slot: usize) -> impl Future<Output = impl Send> + Send {
        self.lock(slot)
    }
}

/// How a round without contention goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    pub(crate) threads: usize,
    /// Shared out among the threads.
    pub(crate) keys: usize,
    /// Of each thread.
    pub(crate) cycles: usize,
}

/// A subject with its name, erased: the loops inside stay monomorphic, only a whole round is called through this.
pub(crate) trait Entrant {
    fn name(&self) -> &str;

    /// Nanoseconds per lock and unlock, nobody waiting.
    fn uncontended(&self, walk: Walk) -> Result<f64, Failure>;

    /// All tasks on one key for as long as `span`, nothing done while holding it.
    fn contended(&self, runtime: &Runtime, span: Duration) -> Result<Contended, Failure>;
}

/// What one round on the hot key saw.
#[derive(Debug)]
pub(crate) struct Contended {
    pub(crate) elapsed: Duration,
    /// Nanoseconds from asking to holding, ascending.
    pub(crate) waits: Vec<u64>,
    /// Acquisitions per task.
    pub(crate) per_task: Vec<usize>,
}

struct Named<S> {
    name: String,
    subject: Arc<S>,
}

pub(crate) fn entrant<S: Subject>(name: impl Into<String>, subject: S) -> Box<dyn Entrant> {
    Box::new(Named { name: name.into(), subject: Arc::new(subject) })
}

impl<S: Subject> Entrant for Named<S> {
    fn name(&self) -> &str {
        &self.name
    }

    fn uncontended(&self, Walk { threads, keys, cycles }: Walk) -> Result<f64, Failure> {
        // A thread and a runtime for each walker: left to one scheduler, two tasks may well share a thread.
        let started = AtomicUsize::new(0);
        let per_thread = std::thread::scope(|scope| {
            let walkers: Vec<_> = (0..threads)
                .map(|thread| {
                    let started = &started;
                    scope.spawn(move || -> Result<Duration, Failure> {
                        let runtime = Builder::new_current_thread().enable_time().build();
                        // Not asleep: woken on one processor they would walk one after the other.
                        started.fetch_add(1, Ordering::AcqRel);
                        while started.load(Ordering::Acquire) < threads {
                            hint::spin_loop();
                        }
                        let walk = walk(self.subject.clone(), slots(keys, thread, threads), cycles);
                        // Spawned, not blocked on: library code may look at the task it runs in.
                        runtime?.block_on(async { Ok(tokio::spawn(walk).await?) })
                    })
                })
                .collect();
            walkers.into_iter().map(|w| w.join().map_err(|_| "a walker panicked")?).collect::<Result<Vec<_>, _>>()
        })?;
        let total: Duration = per_thread.iter().sum();
        Ok(total.as_nanos() as f64 / (threads * cycles) as f64)
    }

    fn contended(&self, runtime: &Runtime, span: Duration) -> Result<Contended, Failure> {
        runtime.block_on(async {
            let stop = Arc::new(AtomicBool::new(false));
            let arrived = Arc::new(AtomicUsize::new(0));
            // Held until all tasks wait: whoever came first would else have the key to itself for as long as it takes
            // to start the others, which says nothing about the lock.
            let gate = self.subject.occupy(0).await;
            let tasks: Vec<_> = (0..TASKS)
                .map(|_| tokio::spawn(contend(self.subject.clone(), arrived.clone(), stop.clone())))
                .collect();
            while arrived.load(Ordering::Relaxed) < TASKS {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            let started = Instant::now();
            drop(gate);
            // Not tokio's sleep: its timer is served by the very workers that are kept busy here.
            let clock = std::thread::spawn({
                let stop = stop.clone();
                move || {
                    std::thread::sleep(span);
                    stop.store(true, Ordering::Relaxed);
                }
            });
            let mut seen = Contended { elapsed: Duration::ZERO, waits: Vec::new(), per_task: Vec::new() };
            let mut each = Vec::with_capacity(TASKS);
            for task in tasks {
                each.push(task.await?);
            }
            seen.elapsed = started.elapsed();
            clock.join().map_err(|_| "the clock panicked")?;
            for waits in each {
                seen.per_task.push(waits.len());
                seen.waits.extend(waits);
            }
            seen.waits.sort_unstable();
            Ok(seen)
        })
    }
}

async fn walk<S: Subject>(subject: Arc<S>, slots: Vec<usize>, cycles: usize) -> Duration {
    let started = Instant::now();
    for slot in slots.iter().cycle().take(cycles) {
        drop(black_box(subject.lock(black_box(*slot)).await));
    }
    started.elapsed()
}

async fn contend<S: Subject>(subject: Arc<S>, arrived: Arc<AtomicUsize>, stop: Arc<AtomicBool>) -> Vec<u64> {
    let mut waits = Vec::with_capacity(16 * 1024);
    arrived.fetch_add(1, Ordering::Relaxed);
    // Behind the gate: no wait of the lock's own making.
    drop(black_box(subject.lock(0).await));
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let guard = black_box(subject.lock(0).await);
        waits.push(asked.elapsed().as_nanos() as u64);
        drop(guard);
    }
    waits
}

/// The keys of one thread in an order no prefetcher knows: every `threads`-th slot of a fixed shuffle.
fn slots(keys: usize, thread: usize, threads: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..keys).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for i in (1..keys).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        all.swap(i, (state >> 33) as usize % (i + 1));
    }
    all.into_iter().skip(thread).step_by(threads).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_no_key() {
        let mut all: Vec<usize> = (0..2).flat_map(|thread| slots(KEYS, thread, 2)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..KEYS).collect::<Vec<_>>());
    }
}
