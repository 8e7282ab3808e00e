//! What members are taken from.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tasklock::Pool;
use tokio::time::sleep;

use crate::{
    apart::Apart,
    crew::{Crew, Turn},
    stats::{Laps, micros},
    subject::Failure,
};

/// Who share a pool, where they are more than its members.
pub(super) const WORKERS: usize = 64;
pub(super) const HOLD: Duration = Duration::from_millis(5);

pub(super) enum Peer {
    Tasklock(Box<Pool>),
    Allocator(Arc<Apart>),
}

impl Peer {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Peer::Tasklock(_) => "tasklock",
            Peer::Allocator(_) => "redis-allocator (Python)",
        }
    }

    /// Replaces what there is by so many members. The milliseconds that takes.
    pub(super) async fn assign(&self, prefix: &str, count: usize) -> Result<f64, Failure> {
        let (micros, members) = match self {
            Peer::Tasklock(pool) => {
                let names: Vec<String> = (0..count).map(|n| format!("{prefix}{n}")).collect();
                let started = Instant::now();
                pool.assign(&names).await?;
                (micros(started.elapsed()), pool.len().await? as f64)
            }
            Peer::Allocator(apart) => match ask(apart, format!("assign {prefix} {count}")).await?[..] {
                [micros, members] => (micros, members),
                _ => return Err("two figures were asked for".into()),
            },
        };
        if members == count as f64 { Ok(micros / 1000.0) } else { Err(format!("{members} members of {count}").into()) }
    }

    pub(super) async fn clear(&self) -> Result<(), Failure> {
        match self {
            Peer::Tasklock(pool) => pool.clear().await?,
            Peer::Allocator(apart) => drop(ask(apart, "clear".to_owned()).await?),
        }
        Ok(())
    }

    /// Takes a member and gives it back, so many times.
    pub(super) async fn cycles(&self, count: usize) -> Result<Laps, Failure> {
        match self {
            Peer::Tasklock(pool) => {
                let mut laps = Laps::default();
                for _ in 0..count {
                    laps.time(async { pool.acquire().await?.release().await }).await?;
                }
                Ok(laps)
            }
            Peer::Allocator(apart) => Ok(ask(apart, format!("cycle {count}")).await?.into()),
        }
    }

    pub(super) async fn work(&self, span: Duration) -> Result<Crew, Failure> {
        match self {
            Peer::Tasklock(pool) => {
                let started = Instant::now();
                let task = |_| {
                    let pool = pool.clone();
                    async move {
                        let mut turns = Vec::new();
                        while started.elapsed() < span {
                            let asked = Instant::now();
                            let guard = pool.acquire().await?;
                            let held = Instant::now();
                            sleep(HOLD).await;
                            turns.push(Turn::ends(asked, held));
                            guard.release().await?;
                        }
                        Ok(turns)
                    }
                };
                Crew::work((0..WORKERS).map(task)).await
            }
            Peer::Allocator(apart) => {
                let question = format!("busy {WORKERS} {} {}", HOLD.as_millis(), span.as_millis());
                let figures = ask(apart, question).await?;
                let (elapsed, figures) = figures.split_first().ok_or("no figures")?;
                let mut turns = vec![Vec::new(); WORKERS];
                for turn in figures.chunks_exact(3) {
                    turns[turn[0] as usize].push(Turn { waited: turn[1], held: turn[2] });
                }
                Ok(Crew::of(&turns, Duration::from_secs_f64(*elapsed)))
            }
        }
    }
}

/// Without keeping a worker of the runtime from what else it has to do.
pub(super) async fn ask(apart: &Arc<Apart>, question: String) -> Result<Vec<f64>, Failure> {
    let apart = apart.clone();
    tokio::task::spawn_blocking(move || apart.ask(&question)).await?
}
