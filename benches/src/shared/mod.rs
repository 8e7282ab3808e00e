//! Read-write locks and semaphores on a Redis server of the harness's own, on loopback.

mod peers;
mod room;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tasklock_tests::servers::RedisServer;
use tokio::runtime::Runtime;

use self::{
    peers::Peer,
    room::{PERMITS, Room, Way},
};
use crate::{
    Plan,
    crew::{Crew, Turn},
    redis::{Kind, round_trip, sent},
    report::{Cell, Column, Part, Table},
    stats::{Laps, Spread, interleave, median, worst},
    subject::Failure,
};

const NOTES: &str = "\
redis-server on loopback, without persistence; all tasks in one process, on one key. A round trip is that of a GET.
distributed-lock-redis looks again after 10 ms, doubled up to 200 ms, for permits; after 50 ms, doubled up to 1 s, to write.
Its readers do not wait: here they look again as for permits. It has no fencing token, and a reader does not expire by itself.
calls: what a client sent for each acquisition, renewals included. overlaps: how often, in all rounds, somebody was let in
who should not have been: beside a writer, or as one too many. ideal: the rounds of holds that it takes until every task
had its turn, each with a round trip.
Medians over interleaved rounds; max is the worst wait of any round. Compare within one run only.";

const TASKS: usize = 64;
/// Of the tasks, where others read.
const WRITERS: usize = 8;
/// Long enough to be in one another's way.
const HOLD: Duration = Duration::from_millis(1);

pub(crate) fn run(runtime: &Runtime, plan: Plan, wants: impl Fn(&str) -> bool) -> Result<Part, Failure> {
    let server = RedisServer::start();
    let mut peers = runtime.block_on(Peer::all(&server.url()))?;
    peers.retain(|peer| wants(peer.name()));
    let stage = Stage { runtime, plan, server, peers: peers.into_iter().map(Arc::new).collect() };
    let tables = vec![stage.alone(wants("one round trip (GET)"))?, stage.readers()?, stage.mixed()?, stage.permits()?];
    Ok(Part::new(tables, NOTES))
}

struct Stage<'a> {
    runtime: &'a Runtime,
    plan: Plan,
    server: RedisServer,
    peers: Vec<Arc<Peer>>,
}

/// What a round of many tasks saw.
struct Round {
    crew: Crew,
    round_trip_us: f64,
    calls: f64,
    overlaps: usize,
}

impl Stage<'_> {
    /// One task, one cycle after the other.
    fn alone(&self, trip: bool) -> Result<Table, Failure> {
        let ways = [(Way::Read, "read"), (Way::Write, "write"), (Way::Permit, "a permit of 8")];
        let subjects: Vec<(&Arc<Peer>, Way, String)> = ways
            .iter()
            .flat_map(|(way, what)| self.peers.iter().map(move |peer| (peer, *way, format!("{}, {what}", peer.name()))))
            .collect();
        let get = self.runtime.block_on(Kind::RoundTrip.connect(&self.server.url()))?;
        let cycles = self.plan.redis_cycles;
        // The round trip is last, and measured in each round as the others are.
        let per_subject = interleave(subjects.len() + 1, self.plan.redis_rounds, |at| {
            self.runtime.block_on(self.server.reset_counts());
            let subject = subjects.get(at).map(|(peer, way, _)| (Arc::clone(peer), *way));
            let plain = subject.as_ref().map_or(&["get"][..], |(peer, way)| peer.plain(*way));
            let get = get.share();
            let task = async move {
                let mut laps = Laps::default();
                for _ in 0..cycles {
                    match &subject {
                        Some((peer, way)) => laps.time(async { peer.take(*way).await?.give_back().await }).await?,
                        None => laps.time(get.cycle(0, Duration::ZERO)).await.map(drop)?,
                    }
                }
                Ok::<_, Failure>(Spread::from(laps))
            };
            // Spawned, as in a service: what is blocked on is on a thread apart from the connection's.
            let spread = self.runtime.block_on(async { tokio::spawn(task).await? })?;
            let counts = self.runtime.block_on(self.server.counts());
            Ok((spread, sent(&counts, plain) / cycles as f64))
        })?;
        let get_us = median(&per_subject[subjects.len()], |round| round.0.p50);
        let row = |name: &str, rounds: &[(Spread, f64)]| {
            let p50 = median(rounds, |round| round.0.p50);
            let cells = vec![
                Cell::of(p50),
                Cell::of(median(rounds, |round| round.0.p99)),
                Cell::ratio(p50 / get_us),
                Cell::ratio(median(rounds, |round| round.1)),
            ];
            (name.to_owned(), cells)
        };
        let mut rows = Vec::new();
        if trip {
            rows.push(row("one round trip (GET)", &per_subject[subjects.len()]));
        }
        rows.extend(subjects.iter().zip(&per_subject).map(|((_, _, name), rounds)| row(name, rounds)));
        Ok(Table {
            id: "shared_uncontended".to_owned(),
            title: "Redis: readers, writers and permits, one task, nobody waiting".to_owned(),
            columns: vec![
                Column::new("µs p50", "us_p50"),
                Column::new("µs p99", "us_p99"),
                Column::new("round trips", "round_trips"),
                Column::new("calls", "calls_per_acquisition"),
            ],
            rows,
        })
    }

    /// All tasks read.
    fn readers(&self) -> Result<Table, Failure> {
        let per_peer = self.rounds(Way::Read, Duration::ZERO)?;
        let rows = self.peers.iter().zip(&per_peer).map(|(peer, rounds)| {
            let cells = vec![
                Cell::of(median(rounds, |round| round.crew.rate())),
                Cell::of(median(rounds, |round| round.crew.wait_ms(0.5))),
                Cell::of(median(rounds, |round| round.crew.wait_ms(0.99))),
                Cell::ratio(median(rounds, |round| round.calls)),
            ];
            (peer.name().to_owned(), cells)
        });
        Ok(Table {
            id: "shared_readers".to_owned(),
            title: format!("Redis: {TASKS} tasks that read under one key, no hold"),
            columns: vec![
                Column::new("per second", "per_second"),
                Column::new("wait p50 ms", "wait_p50_ms"),
                Column::new("p99 ms", "wait_p99_ms"),
                Column::new("calls", "calls_per_acquisition"),
            ],
            rows: rows.collect(),
        })
    }

    /// Some write, the others read.
    fn mixed(&self) -> Result<Table, Failure> {
        let per_peer = interleave(self.peers.len(), self.plan.crowd_rounds, |at| {
            let room = Arc::new(Room::default());
            let (readers, writers) = self.runtime.block_on(async {
                let readers = self.crew(at, Way::Read, TASKS - WRITERS, HOLD, &room);
                let writers = self.crew(at, Way::Write, WRITERS, HOLD, &room);
                let (readers, writers) = tokio::join!(readers, writers);
                Ok::<_, Failure>((readers?, writers?))
            })?;
            Ok((readers, writers, room.broken()))
        })?;
        let rows = self.peers.iter().zip(&per_peer).map(|(peer, rounds)| {
            let overlaps: usize = rounds.iter().map(|round| round.2).sum();
            let cells = vec![
                Cell::of(median(rounds, |round| round.0.rate())),
                Cell::of(median(rounds, |round| round.0.wait_ms(0.5))),
                Cell::of(median(rounds, |round| round.0.wait_ms(0.99))),
                Cell::of(median(rounds, |round| round.1.rate())),
                Cell::of(median(rounds, |round| round.1.wait_ms(0.5))),
                Cell::of(median(rounds, |round| round.1.wait_ms(0.99))),
                Cell::count(overlaps),
            ];
            (peer.name().to_owned(), cells)
        });
        Ok(Table {
            id: "shared_mixed".to_owned(),
            title: format!("Redis: {} readers and {WRITERS} writers on one key, held for 1 ms", TASKS - WRITERS),
            columns: vec![
                Column::new("reads per second", "reads_per_second"),
                Column::new("wait p50 ms", "read_wait_p50_ms"),
                Column::new("p99 ms", "read_wait_p99_ms"),
                Column::new("writes per second", "writes_per_second"),
                Column::new("wait p50 ms", "write_wait_p50_ms"),
                Column::new("p99 ms", "write_wait_p99_ms"),
                Column::new("overlaps", "overlaps"),
            ],
            rows: rows.collect(),
        })
    }

    /// All want a permit.
    fn permits(&self) -> Result<Table, Failure> {
        let per_peer = self.rounds(Way::Permit, HOLD)?;
        let rows = self.peers.iter().zip(&per_peer).map(|(peer, rounds)| {
            let ideal = |round: &Round| round.crew.ideal_ms(PERMITS, round.round_trip_us);
            let cells = vec![
                Cell::of(median(rounds, |round| round.crew.rate())),
                Cell::of(median(rounds, |round| round.crew.wait_ms(0.5))),
                Cell::of(median(rounds, |round| round.crew.wait_ms(0.99))),
                Cell::of(worst(rounds, |round| round.crew.wait_ms(1.0))),
                Cell::ratio(median(rounds, |round| round.crew.wait_ms(0.99) / ideal(round))),
                Cell::share(rounds.iter().map(|round| (round.crew.least(), round.crew.most()))),
                Cell::ratio(median(rounds, |round| round.calls)),
                Cell::count(rounds.iter().map(|round| round.overlaps).sum()),
            ];
            (peer.name().to_owned(), cells)
        });
        Ok(Table {
            id: "shared_permits".to_owned(),
            title: format!("Redis: {TASKS} tasks, a semaphore of {PERMITS}, held for 1 ms"),
            columns: vec![
                Column::new("per second", "per_second"),
                Column::new("wait p50 ms", "wait_p50_ms"),
                Column::new("p99 ms", "wait_p99_ms"),
                Column::new("max ms", "wait_max_ms"),
                Column::new("p99 / ideal", "wait_p99_over_ideal"),
                Column::new("least:most", "least_over_most"),
                Column::new("calls", "calls_per_acquisition"),
                Column::new("overlaps", "overlaps"),
            ],
            rows: rows.collect(),
        })
    }

    fn rounds(&self, way: Way, hold: Duration) -> Result<Vec<Vec<Round>>, Failure> {
        interleave(self.peers.len(), self.plan.crowd_rounds, |at| {
            let round_trip_us = self.runtime.block_on(round_trip(&self.server, hold))?;
            self.runtime.block_on(self.server.reset_counts());
            let room = Arc::new(Room::default());
            let crew = self.runtime.block_on(self.crew(at, way, TASKS, hold, &room))?;
            let counts = self.runtime.block_on(self.server.counts());
            let calls = sent(&counts, self.peers[at].plain(way)) / crew.turns().max(1) as f64;
            Ok(Round { crew, round_trip_us, calls, overlaps: room.broken() })
        })
    }

    async fn crew(&self, at: usize, way: Way, tasks: usize, hold: Duration, room: &Arc<Room>) -> Result<Crew, Failure> {
        let (started, span) = (Instant::now(), self.plan.crowd_span);
        let task = |_| {
            let (peer, room) = (self.peers[at].clone(), room.clone());
            async move {
                let mut turns: Vec<Turn> = Vec::new();
                while started.elapsed() < span {
                    turns.push(peer.turn(way, hold, &room).await?);
                }
                Ok(turns)
            }
        };
        Crew::work((0..tasks).map(task)).await
    }
}
