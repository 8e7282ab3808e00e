//! Pools of a Redis server of the harness's own, on loopback, beside those of the Python package `redis-allocator`.

mod peers;
mod pings;

use std::{sync::Arc, time::Duration};

use tasklock_tests::servers::{Folder, RedisServer};
use tokio::runtime::Runtime;

use self::{
    peers::{HOLD, Peer, WORKERS, ask},
    pings::Pings,
};
use crate::{
    Plan,
    python::Python,
    redis::{Kind, sent},
    report::{Cell, Column, Part, Table},
    stats::{Laps, Spread, interleave, median, worst},
    subject::Failure,
};

const NOTES: &str = "\
redis-server on loopback, without persistence. redis-allocator: malloc_key and free_keys, 64 threads of one interpreter; it
has no fencing token, no renewal and no line to wait in: here its users look again after 1 ms, doubled up to 128 ms, half of
it random. A round trip is a GET by the same client: that of redis-py takes longer.
calls: what a client sent for each acquisition, or for the whole change.
stall: the longest answer to a PING on another connection, which sends one every 0.2 ms.
Medians over interleaved rounds; max is the worst wait of any round. Compare within one run only.";

const PACKAGES: [&str; 3] = ["redis-allocator==0.7.0", "redis==8.1.0", "cachetools==8.0.1"];
const MEMBERS: usize = 16;

pub(crate) fn run(runtime: &Runtime, plan: Plan, wants: impl Fn(&str) -> bool) -> Result<Part, Failure> {
    let (server, folder, mut notes) = (RedisServer::start(), Folder::new(), NOTES.to_owned());
    let mut peers = Vec::new();
    let ours = runtime.block_on(tasklock::connect(&server.url()))?;
    peers.push(Peer::Tasklock(Box::new(ours.pool("licences")?)));
    match Python::with(folder.path(), &PACKAGES) {
        Ok(python) => {
            let apart = python.run(include_str!("allocator.py"), &[&server.port().to_string()])?;
            peers.push(Peer::Allocator(Arc::new(apart)));
        }
        Err(missing) => notes.push_str(&format!("\n{missing}")),
    }
    peers.retain(|peer| wants(peer.name()));
    let stage = Stage { runtime, plan, server, peers };
    let tables = vec![stage.alone()?, stage.busy()?, stage.assigned()?];
    Ok(Part::new(tables, notes))
}

struct Stage<'a> {
    runtime: &'a Runtime,
    plan: Plan,
    server: RedisServer,
    peers: Vec<Peer>,
}

impl Stage<'_> {
    /// One worker, and members enough. Each peer comes after the round trip of its client.
    fn alone(&self) -> Result<Table, Failure> {
        let get = self.runtime.block_on(Kind::RoundTrip.connect(&self.server.url()))?;
        self.all(|peer| peer.assign("seat", MEMBERS))?;
        let cycles = self.plan.redis_cycles;
        let per_peer = interleave(self.peers.len(), self.plan.redis_rounds, |at| {
            self.runtime.block_on(async {
                let trips = match &self.peers[at] {
                    Peer::Allocator(apart) => ask(apart, format!("get {cycles}")).await?.into(),
                    Peer::Tasklock(_) => {
                        let mut laps = Laps::default();
                        for _ in 0..cycles {
                            laps.time(get.cycle(0, Duration::ZERO)).await?;
                        }
                        laps
                    }
                };
                self.server.reset_counts().await;
                let laps = self.peers[at].cycles(cycles).await?;
                let calls = sent(&self.server.counts().await, &[]) / cycles as f64;
                Ok((Spread::from(trips), Spread::from(laps), calls))
            })
        })?;
        let mut rows = Vec::new();
        for (peer, rounds) in self.peers.iter().zip(&per_peer) {
            let trip = median(rounds, |round| round.0.p50);
            let client = match peer {
                Peer::Tasklock(_) => "one round trip (GET)",
                Peer::Allocator(_) => "one round trip (GET), redis-py",
            };
            let cells = |of: fn(&(Spread, Spread, f64)) -> Spread, calls: f64| {
                let (p50, p99) = (median(rounds, |round| of(round).p50), median(rounds, |round| of(round).p99));
                vec![Cell::of(p50), Cell::of(p99), Cell::ratio(p50 / trip), Cell::ratio(calls)]
            };
            rows.push((client.to_owned(), cells(|round| round.0, 1.0)));
            rows.push((peer.name().to_owned(), cells(|round| round.1, median(rounds, |round| round.2))));
        }
        Ok(Table {
            id: "pools_uncontended".to_owned(),
            title: format!("pools: acquire + give back, {MEMBERS} members, one worker"),
            columns: vec![
                Column::new("µs p50", "us_p50"),
                Column::new("µs p99", "us_p99"),
                Column::new("round trips", "round_trips"),
                Column::new("calls", "calls_per_acquisition"),
            ],
            rows,
        })
    }

    /// More workers than members.
    fn busy(&self) -> Result<Table, Failure> {
        self.all(|peer| peer.assign("seat", MEMBERS))?;
        let per_peer = interleave(self.peers.len(), self.plan.crowd_rounds, |at| {
            self.runtime.block_on(async {
                self.server.reset_counts().await;
                let crew = self.peers[at].work(self.plan.crowd_span).await?;
                let calls = sent(&self.server.counts().await, &[]) / crew.turns().max(1) as f64;
                Ok((crew, calls))
            })
        })?;
        let rows = self.peers.iter().zip(&per_peer).map(|(peer, rounds)| {
            let cells = vec![
                Cell::of(median(rounds, |round| round.0.rate())),
                Cell::of(median(rounds, |round| round.0.wait_ms(0.5))),
                Cell::of(median(rounds, |round| round.0.wait_ms(0.99))),
                Cell::of(worst(rounds, |round| round.0.wait_ms(1.0))),
                Cell::share(rounds.iter().map(|round| (round.0.least(), round.0.most()))),
                Cell::ratio(median(rounds, |round| round.1)),
            ];
            (peer.name().to_owned(), cells)
        });
        Ok(Table {
            id: "pools_busy".to_owned(),
            title: format!("pools: {WORKERS} workers, {MEMBERS} members, held for {} ms", HOLD.as_millis()),
            columns: vec![
                Column::new("per second", "per_second"),
                Column::new("wait p50 ms", "wait_p50_ms"),
                Column::new("p99 ms", "wait_p99_ms"),
                Column::new("max ms", "wait_max_ms"),
                Column::new("least:most", "least_over_most"),
                Column::new("calls", "calls_per_acquisition"),
            ],
            rows: rows.collect(),
        })
    }

    /// Many members at once, into an empty pool and in the place of as many others.
    fn assigned(&self) -> Result<Table, Failure> {
        let count = self.plan.pool_members;
        let per_peer = interleave(self.peers.len(), self.plan.crowd_rounds, |at| {
            let peer = &self.peers[at];
            self.runtime.block_on(peer.clear())?;
            let mut figures = Vec::new();
            for prefix in ["a", "b"] {
                self.runtime.block_on(self.server.reset_counts());
                let pings = Pings::start(&self.server)?;
                figures.push(self.runtime.block_on(peer.assign(prefix, count))?);
                let (stall, pings) = pings.stop()?;
                let counts = self.runtime.block_on(self.server.counts());
                figures.extend([stall, sent(&counts, &[]) - pings as f64]);
            }
            Ok(figures)
        })?;
        let rows = self.peers.iter().zip(&per_peer).map(|(peer, rounds)| {
            let figure = |at: usize| median(rounds, |round| round[at]);
            let mut cells: Vec<Cell> = [0, 1, 3, 4].map(|at| Cell::of(figure(at))).into();
            cells.push(Cell::of(figure(5)));
            (peer.name().to_owned(), cells)
        });
        Ok(Table {
            id: "pools_assign".to_owned(),
            title: format!("pools: assign {count} members"),
            columns: vec![
                Column::new("ms, to none", "empty_ms"),
                Column::new("stall ms", "empty_stall_ms"),
                Column::new("ms, to as many", "full_ms"),
                Column::new("stall ms", "full_stall_ms"),
                Column::new("calls", "full_calls"),
            ],
            rows: rows.collect(),
        })
    }

    fn all<'s, T>(&'s self, step: impl Fn(&'s Peer) -> T) -> Result<(), Failure>
    where
        T: Future<Output = Result<f64, Failure>>,
    {
        self.peers.iter().try_for_each(|peer| self.runtime.block_on(step(peer)).map(drop))
    }
}
