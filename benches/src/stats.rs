//! Rounds, medians and percentiles, nothing more.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use crate::subject::Failure;

/// The value at `share` (0 to 1) of an ascending slice, by nearest rank; the default of an empty one.
pub(crate) fn quantile<T: Copy + Default>(ascending: &[T], share: f64) -> T {
    let rank = (share * ascending.len() as f64).ceil() as usize;
    ascending.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// One figure over all rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    pub(crate) p10: f64,
    pub(crate) median: f64,
    pub(crate) p90: f64,
}

impl Summary {
    pub(crate) fn of(rounds: impl IntoIterator<Item = f64>) -> Self {
        let mut ascending: Vec<f64> = rounds.into_iter().collect();
        ascending.sort_by(f64::total_cmp);
        Self { p10: quantile(&ascending, 0.1), median: quantile(&ascending, 0.5), p90: quantile(&ascending, 0.9) }
    }
}

/// The median of one figure over all rounds.
pub(crate) fn median<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    Summary::of(rounds.iter().map(figure)).median
}

/// The worst of one figure in any round.
pub(crate) fn worst<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    rounds.iter().map(figure).fold(0.0, f64::max)
}

/// How long things took, one after the other, in microseconds.
#[derive(Debug, Default)]
pub(crate) struct Laps(Vec<f64>);

impl Laps {
    pub(crate) async fn time<T>(&mut self, step: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let value = step.await;
        self.0.push(micros(started.elapsed()));
        value
    }

    /// Per second.
    #[cfg_attr(not(feature = "dynamodb"), allow(dead_code))]
    pub(crate) fn rate(&self) -> f64 {
        1e6 * self.0.len() as f64 / self.0.iter().sum::<f64>()
    }

    /// Ascending, as [`quantile`] wants them.
    pub(crate) fn sorted(mut self) -> Vec<f64> {
        self.0.sort_by(f64::total_cmp);
        self.0
    }
}

impl From<Vec<f64>> for Laps {
    fn from(micros: Vec<f64>) -> Self {
        Laps(micros)
    }
}

/// Half and nearly all of what took so long: p50 and p99.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl From<Laps> for Spread {
    fn from(laps: Laps) -> Self {
        let ascending = laps.sorted();
        Spread { p50: quantile(&ascending, 0.5), p99: quantile(&ascending, 0.99) }
    }
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

/// Runs each of `count` subjects once per round, starting with another one each time, after a round that is thrown away.
pub(crate) fn interleave<T>(
    count: usize,
    rounds: usize,
    measure: impl Fn(usize) -> Result<T, Failure>,
) -> Result<Vec<Vec<T>>, Failure> {
    let (started, watched) = (Instant::now(), std::io::stderr().is_terminal());
    let mut seen: Vec<Vec<T>> = (0..count).map(|_| Vec::with_capacity(rounds)).collect();
    for at in 0..count {
        measure(at)?;
    }
    for round in 0..rounds {
        for step in 0..count {
            let at = (round + step) % count;
            seen[at].push(measure(at)?);
        }
        if watched {
            eprint!("\rround {} of {rounds}, {:.0} s ", round + 1, started.elapsed().as_secs_f64());
        }
    }
    if watched {
        eprint!("\r{:40}\r", "");
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_take_the_nearest_rank() {
        let ascending: Vec<u64> = (1..=100).collect();
        assert_eq!(quantile(&ascending, 0.5), 50);
        assert_eq!(quantile(&ascending, 0.99), 99);
        assert_eq!(quantile(&ascending, 1.0), 100);
        assert_eq!(quantile(&ascending, 0.0), 1);
        assert_eq!(quantile::<u64>(&[], 0.5), 0);
    }

    #[test]
    fn a_summary_does_not_mind_the_order_of_rounds() {
        assert_eq!(Summary::of([3.0, 1.0, 2.0]), Summary { p10: 1.0, median: 2.0, p90: 3.0 });
    }
}
