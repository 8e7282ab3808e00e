//! Tasks of one process that take, hold and give back, each again and again.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::{
    stats::{micros, quantile},
    subject::Failure,
};

/// One acquisition, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) waited: f64,
    pub(crate) held: f64,
}

impl Turn {
    /// Of somebody who asked and held then, and is about to give back.
    pub(crate) fn ends(asked: Instant, held: Instant) -> Self {
        Turn { waited: micros(held - asked), held: micros(held.elapsed()) }
    }
}

/// What a round of them saw.
#[derive(Debug)]
pub(crate) struct Crew {
    /// Microseconds from asking to holding, ascending.
    waits: Vec<f64>,
    mean_hold: f64,
    /// Acquisitions.
    per_task: Vec<usize>,
    elapsed: Duration,
}

impl Crew {
    /// Sees them all to their end.
    pub(crate) async fn work<T>(tasks: impl IntoIterator<Item = T>) -> Result<Self, Failure>
    where
        T: Future<Output = Result<Vec<Turn>, Failure>> + Send + 'static,
    {
        let started = Instant::now();
        let mut running: JoinSet<_> = tasks.into_iter().collect();
        let mut turns = Vec::new();
        while let Some(task) = running.join_next().await {
            turns.push(task??);
        }
        Ok(Self::of(&turns, started.elapsed()))
    }

    pub(crate) fn of(turns: &[Vec<Turn>], elapsed: Duration) -> Self {
        let all = turns.iter().flatten();
        let mut waits: Vec<f64> = all.clone().map(|turn| turn.waited).collect();
        waits.sort_by(f64::total_cmp);
        let mean_hold = all.map(|turn| turn.held).sum::<f64>() / waits.len().max(1) as f64;
        Crew { waits, mean_hold, per_task: turns.iter().map(Vec::len).collect(), elapsed }
    }

    pub(crate) fn turns(&self) -> usize {
        self.waits.len()
    }

    pub(crate) fn rate(&self) -> f64 {
        self.turns() as f64 / self.elapsed.as_secs_f64()
    }

    pub(crate) fn wait_ms(&self, share: f64) -> f64 {
        quantile(&self.waits, share) / 1000.0
    }

    /// Every task once, so many of them together, with nothing between one and the next but a round trip.
    pub(crate) fn ideal_ms(&self, room: usize, round_trip_us: f64) -> f64 {
        (self.per_task.len() as f64 / room as f64) * (self.mean_hold + round_trip_us) / 1000.0
    }

    pub(crate) fn least(&self) -> usize {
        self.per_task.iter().copied().min().unwrap_or_default()
    }

    pub(crate) fn most(&self) -> usize {
        self.per_task.iter().copied().max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crew_counts_by_task() {
        let turns = [1.0, 2.0, 3.0].map(|waited| Turn { waited: waited * 1000.0, held: 500.0 });
        let seen = Crew::of(&[turns[1..].to_vec(), turns[..1].to_vec()], Duration::from_secs(2));
        assert_eq!((seen.turns(), seen.least(), seen.most()), (3, 1, 2));
        assert_eq!((seen.rate(), seen.wait_ms(0.5), seen.wait_ms(1.0)), (1.5, 2.0, 3.0));
        assert_eq!(seen.ideal_ms(1, 500.0), 2.0);
        assert_eq!(seen.ideal_ms(2, 500.0), 1.0);
    }
}
