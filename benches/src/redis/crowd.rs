//! Several processes on one key: this program, started again as a child.

use std::{
    env,
    fmt::Write as _,
    io::{Read as _, stdin},
    process::Command,
    time::{Duration, Instant},
};

use tasklock_tests::servers::RedisServer;
use tokio::{runtime::Runtime, task::JoinSet};

use super::{
    peers::{Kind, Times},
    sent,
};
use crate::{
    apart::Apart,
    stats::{Laps, Spread, quantile},
    subject::Failure,
};

/// Who contends, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    pub(crate) processes: usize,
    /// In each process.
    pub(crate) tasks: usize,
    /// In one process more, whose waits are counted apart.
    pub(crate) guests: usize,
    pub(crate) hold: Duration,
    pub(crate) span: Duration,
}

/// What one round saw.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Nanoseconds from asking to holding, ascending.
    waits: Vec<u64>,
    /// Those of the guests.
    guest_waits: Vec<u64>,
    /// Nanoseconds from a release in one process to the grant in another, ascending.
    hand_overs: Vec<u64>,
    mean_hold: f64,
    /// Acquisitions per task.
    per_task: Vec<usize>,
    elapsed: Duration,
    /// That of a GET, just before, at the same pace.
    pub(crate) round_trip_us: f64,
    /// What the clients sent, per acquisition.
    pub(crate) calls: f64,
    /// With what scripts did.
    pub(crate) commands: f64,
}

impl Crowd {
    pub(crate) fn run(self, runtime: &Runtime, kind: Kind, server: &RedisServer) -> Result<Seen, Failure> {
        let round_trip_us = runtime.block_on(round_trip(server, self.hold))?;
        let processes = self.processes + usize::from(self.guests > 0);
        let crowd = |process| if process < self.processes { self.tasks } else { self.guests };
        let children =
            (0..processes).map(|process| self.spawn(kind, server, crowd(process))).collect::<Result<Vec<_>, _>>()?;
        for child in &children {
            child.hear()?;
        }
        runtime.block_on(server.reset_counts());
        for child in &children {
            child.tell("go")?;
        }
        let lines = children.iter().map(Apart::hear).collect::<Result<Vec<_>, _>>()?;
        let counts = runtime.block_on(server.counts());
        for child in children {
            child.end()?;
        }

        let tasks: Vec<(usize, Vec<Times>)> = lines
            .iter()
            .enumerate()
            .flat_map(|(process, line)| {
                line.trim_end().split_terminator('.').map(move |task| Ok((process, parse(task)?)))
            })
            .collect::<Result<_, Failure>>()?;
        let mut all: Vec<(usize, Times)> =
            tasks.iter().flat_map(|(process, times)| times.iter().map(move |times| (*process, *times))).collect();
        all.sort_by_key(|(_, times)| times.held);
        let each = |count: f64| count / all.len().max(1) as f64;
        let waits = |of: &dyn Fn(usize) -> bool| {
            let mut waits: Vec<u64> = all
                .iter()
                .filter(|(process, _)| of(*process))
                .map(|(_, times)| times.held.saturating_sub(times.asked))
                .collect();
            waits.sort_unstable();
            waits
        };
        let mut seen = Seen {
            waits: waits(&|process| process < self.processes),
            guest_waits: waits(&|process| process >= self.processes),
            hand_overs: all
                .windows(2)
                .filter(|pair| pair[0].0 != pair[1].0)
                .map(|pair| pair[1].1.held.saturating_sub(pair[0].1.released))
                .collect(),
            mean_hold: all.iter().map(|(_, times)| (times.released - times.held) as f64).sum::<f64>()
                / all.len().max(1) as f64,
            per_task: tasks.iter().map(|(_, times)| times.len()).collect(),
            elapsed: Duration::from_nanos(
                all.iter().map(|(_, times)| times.released).max().unwrap_or(0)
                    - all.iter().map(|(_, times)| times.asked).min().unwrap_or(0),
            ),
            round_trip_us,
            calls: each(sent(&counts, if kind.sets() { &["set"] } else { &[] })),
            commands: each(counts.values().sum::<u64>() as f64),
        };
        seen.hand_overs.sort_unstable();
        Ok(seen)
    }

    fn spawn(self, kind: Kind, server: &RedisServer, tasks: usize) -> Result<Apart, Failure> {
        let numbers = [tasks as u128, self.hold.as_millis(), self.span.as_millis()].map(|n| n.to_string());
        let mut command = Command::new(env::current_exe()?);
        Apart::start(command.arg("--child").arg(kind.name()).arg(server.url()).args(numbers))
    }
}

impl Seen {
    pub(crate) fn rate(&self) -> f64 {
        self.waits.len() as f64 / self.elapsed.as_secs_f64()
    }

    pub(crate) fn wait_ms(&self, share: f64) -> f64 {
        quantile(&self.waits, share) as f64 / 1e6
    }

    pub(crate) fn guest_wait_ms(&self, share: f64) -> f64 {
        quantile(&self.guest_waits, share) as f64 / 1e6
    }

    pub(crate) fn hand_over_us(&self, share: f64) -> f64 {
        quantile(&self.hand_overs, share) as f64 / 1e3
    }

    /// Every task once, with nothing between a release and the next grant but a round trip.
    pub(crate) fn ideal_ms(&self) -> f64 {
        self.per_task.len() as f64 * (self.mean_hold / 1e6 + self.round_trip_us / 1e3)
    }

    pub(crate) fn least(&self) -> usize {
        self.per_task.iter().copied().min().unwrap_or_default()
    }

    pub(crate) fn most(&self) -> usize {
        self.per_task.iter().copied().max().unwrap_or_default()
    }
}

/// What a child does: `NAME URL TASKS HOLD_MS SPAN_MS`.
pub(crate) fn child(runtime: &Runtime, arguments: &[String]) -> Result<(), Failure> {
    let [name, url, tasks, hold, span] = arguments else { return Err("a child needs five arguments".into()) };
    let kind = Kind::named(name).ok_or_else(|| format!("no subject is called {name}"))?;
    let (tasks, hold) = (tasks.parse::<usize>()?, Duration::from_millis(hold.parse()?));
    let span = Duration::from_millis(span.parse()?);
    let peer = runtime.block_on(kind.connect(url))?;
    let mut line = String::new();
    println!("ready");
    stdin().read_line(&mut line)?;
    let text = runtime.block_on(async {
        let (started, mut running) = (Instant::now(), JoinSet::new());
        for _ in 0..tasks {
            let peer = peer.share();
            running.spawn(async move {
                let mut all = Vec::new();
                while started.elapsed() < span {
                    all.push(peer.cycle(0, hold).await?);
                }
                Ok::<_, Failure>(all)
            });
        }
        let mut all = Vec::new();
        while let Some(task) = running.join_next().await {
            all.push(task??);
        }
        // Written out when all is over: that takes as long as many a cycle.
        let mut text = String::new();
        for task in all {
            for Times { asked, held, released } in task {
                write!(text, "{asked} {held} {released} ")?;
            }
            text.push('.');
        }
        Ok::<_, Failure>(text)
    })?;
    println!("{text}");
    // Until the parent has asked the server what it cost.
    stdin().read_to_string(&mut line)?;
    Ok(())
}

/// One task's.
fn parse(times: &str) -> Result<Vec<Times>, Failure> {
    let numbers = times.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    Ok(numbers.chunks_exact(3).map(|n| Times { asked: n[0], held: n[1], released: n[2] }).collect())
}

/// A GET's, p50 in microseconds, at the pace of those who hold for so long: a processor that sleeps in between takes its time to wake. Spawned, as they
/// are.
pub(crate) async fn round_trip(server: &RedisServer, pace: Duration) -> Result<f64, Failure> {
    let peer = Kind::RoundTrip.connect(&server.url()).await?;
    let task = async move {
        let mut laps = Laps::default();
        for _ in 0..200 {
            if !pace.is_zero() {
                tokio::time::sleep(pace).await;
            }
            laps.time(peer.cycle(0, Duration::ZERO)).await?;
        }
        Ok::<_, Failure>(Spread::from(laps).p50)
    };
    tokio::spawn(task).await?
}
