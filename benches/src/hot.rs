//! One hot key in one process, in memory, and how long another one waits for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tasklock::{Fairness, Locker, MemoryLock};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{
    Plan,
    report::{Cell, Column, Table},
    stats::{interleave, median, quantile, worst},
    subject::{Failure, TASKS},
};

const SUBJECTS: [(&str, Fairness); 2] = [("tasklock", Fairness::Bounded), ("tasklock, strict order", Fairness::Strict)];

/// One round: nanoseconds from asking to holding, ascending.
struct Round {
    rate: f64,
    waits: Vec<u64>,
    others: Vec<u64>,
}

pub(crate) fn run(runtime: &Runtime, plan: Plan, wants: impl Fn(&str) -> bool) -> Result<Table, Failure> {
    let subjects: Vec<_> = SUBJECTS.into_iter().filter(|(name, _)| wants(name)).collect();
    let per_subject = interleave(subjects.len(), plan.rounds, |at| {
        let round = round(subjects[at].1, plan.hot);
        runtime.block_on(async { tokio::spawn(round).await? })
    })?;
    let rows = subjects.iter().zip(&per_subject).map(|((name, _), rounds)| {
        let max = worst(rounds, |round| micros(&round.others, 1.0));
        let cells = vec![
            Cell::of(median(rounds, |round| round.rate)),
            Cell::of(median(rounds, |round| micros(&round.waits, 0.5))),
            Cell::of(median(rounds, |round| micros(&round.waits, 0.99))),
            Cell::of(median(rounds, |round| micros(&round.others, 0.5))),
            Cell::of(median(rounds, |round| micros(&round.others, 0.99))),
            Cell::of(max),
        ];
        ((*name).to_owned(), cells)
    });
    Ok(Table {
        id: "hot_key_and_another".to_owned(),
        title: format!("one hot key, {TASKS} tasks of one locker without a pause, and one of another, 2 workers"),
        columns: vec![
            Column::new("per second", "per_second"),
            Column::new("wait p50 µs", "wait_p50_us"),
            Column::new("p99 µs", "wait_p99_us"),
            Column::new("other p50 µs", "other_p50_us"),
            Column::new("p99 µs", "other_p99_us"),
            Column::new("max µs", "other_max_us"),
        ],
        rows: rows.collect(),
    })
}

async fn round(fairness: Fairness, span: Duration) -> Result<Round, Failure> {
    let store = MemoryLock::new();
    let locker = || Locker::builder(store.clone()).fairness(fairness).build();
    let (hot, other) = (locker()?, locker()?);
    let stop = Arc::new(AtomicBool::new(false));
    let (started, mut tasks) = (Instant::now(), JoinSet::new());
    for _ in 0..TASKS {
        tasks.spawn(contend(hot.clone(), stop.clone()));
    }
    let others = tokio::spawn(contend(other, stop.clone()));
    // Not tokio's sleep: its timer is served by the very workers that are kept busy here.
    let clock = std::thread::spawn(move || {
        std::thread::sleep(span);
        stop.store(true, Ordering::Relaxed);
    });
    let mut waits = Vec::new();
    while let Some(task) = tasks.join_next().await {
        waits.extend(task??);
    }
    let mut others = others.await??;
    let rate = waits.len() as f64 / started.elapsed().as_secs_f64();
    clock.join().map_err(|_| "the clock panicked")?;
    waits.sort_unstable();
    others.sort_unstable();
    Ok(Round { rate, waits, others })
}

async fn contend(lock: Locker, stop: Arc<AtomicBool>) -> Result<Vec<u64>, Failure> {
    let mut waits = Vec::with_capacity(16 * 1024);
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let guard = lock.acquire("hot").await?;
        waits.push(asked.elapsed().as_nanos() as u64);
        drop(guard);
    }
    Ok(waits)
}

fn micros(ascending: &[u64], share: f64) -> f64 {
    quantile(ascending, share) as f64 / 1000.0
}
