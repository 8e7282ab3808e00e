//! The tables measured against a Redis server of the harness's own, on loopback.

mod crowd;
mod peers;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tasklock_tests::servers::RedisServer;
use tokio::{runtime::Runtime, task::JoinSet};

use self::crowd::{Crowd, Seen};
pub(crate) use self::{
    crowd::{child, round_trip},
    peers::{Kind, Peer},
};
use crate::{
    Plan,
    report::{Cell, Column, Part, Table},
    stats::{Laps, Spread, Summary, interleave, median, worst},
    subject::{Failure, KEYS},
};

const NOTES: &str = "\
redis-server on loopback, without persistence. A round trip is that of a GET in the same round, by the same crate, at the
same pace.
raw: SET NX PX and a script that compares and deletes; no fencing, no renewal, no queue. With backoff: 1 ms, doubled up to
128 ms, half of it random. rslock and distributed-lock-redis as their documentation shows; the latter does not wait.
calls: what a client sent for each acquisition, renewals and connection checks included; whole: with what scripts did.
hand-over: from before the release in one process to the grant in another. ideal: 64 times the hold and a round trip.
Medians over interleaved rounds; max is the worst wait of any round. Compare within one run only.";

/// How many tasks work on distinct keys.
const TASKS: usize = 64;

pub(crate) fn run(runtime: &Runtime, plan: Plan, wants: impl Fn(&str) -> bool) -> Result<Part, Failure> {
    let server = RedisServer::start();
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| wants(kind.name())).collect();
    let peers = runtime.block_on(async {
        let mut peers = Vec::new();
        for kind in &kinds {
            peers.push(kind.connect(&server.url()).await?);
        }
        Ok::<_, Failure>(peers)
    })?;
    let mut tables = vec![uncontended(runtime, plan, &peers)?, distinct(runtime, plan, &peers)?];
    drop(peers);
    for hold in [Duration::ZERO, Duration::from_millis(1)] {
        tables.push(hot(runtime, plan, &kinds, &server, hold)?);
    }
    for guests in [0, 1] {
        tables.push(one_process(runtime, plan, &kinds, &server, guests)?);
    }
    for hold in [Duration::ZERO, Duration::from_millis(2)] {
        tables.push(hand_over(runtime, plan, &kinds, &server, hold)?);
    }
    Ok(Part::new(tables, NOTES))
}

/// One task, one cycle after the other.
fn uncontended(runtime: &Runtime, plan: Plan, peers: &[Box<dyn Peer>]) -> Result<Table, Failure> {
    let per_peer = interleave(peers.len(), plan.redis_rounds, |at| {
        let peer = peers[at].share();
        let task = async move {
            let mut laps = Laps::default();
            for n in 0..plan.redis_cycles {
                laps.time(peer.cycle(n % KEYS, Duration::ZERO)).await?;
            }
            Ok::<_, Failure>(Spread::from(laps))
        };
        // Spawned, as in a service: what is blocked on is on a thread apart from the connection's.
        runtime.block_on(async { tokio::spawn(task).await? })
    })?;
    let trip = peers.iter().position(|peer| peer.kind() == Kind::RoundTrip);
    let trip = trip.map_or(f64::NAN, |at| median(&per_peer[at], |round| round.p50));
    let rows = peers.iter().zip(&per_peer).map(|(peer, rounds)| {
        let (p50, p99) = (median(rounds, |round| round.p50), median(rounds, |round| round.p99));
        (peer.name().to_owned(), vec![Cell::of(p50), Cell::of(p99), Cell::ratio(p50 / trip)])
    });
    Ok(Table {
        id: "redis_uncontended".to_owned(),
        title: "Redis: lock + unlock, one task, nobody waiting".to_owned(),
        columns: vec![
            Column::new("µs p50", "us_p50"),
            Column::new("µs p99", "us_p99"),
            Column::new("round trips", "round_trips"),
        ],
        rows: rows.collect(),
    })
}

/// Many tasks at once, which share no key.
fn distinct(runtime: &Runtime, plan: Plan, peers: &[Box<dyn Peer>]) -> Result<Table, Failure> {
    let peers: Vec<_> = peers.iter().filter(|peer| peer.kind() != Kind::RoundTrip).collect();
    let per_peer = interleave(peers.len(), plan.redis_rounds, |at| {
        runtime.block_on(async {
            let (started, mut tasks) = (Instant::now(), JoinSet::new());
            for slot in 0..TASKS {
                let peer = peers[at].share();
                tasks.spawn(async move {
                    let mut cycles = 0_usize;
                    while started.elapsed() < plan.redis_span {
                        // Never the key that is just being released in the background.
                        peer.cycle((slot + cycles * TASKS) % KEYS, Duration::ZERO).await?;
                        cycles += 1;
                    }
                    Ok::<_, Failure>(cycles)
                });
            }
            let mut cycles = 0;
            while let Some(done) = tasks.join_next().await {
                cycles += done??;
            }
            Ok(cycles as f64 / started.elapsed().as_secs_f64())
        })
    })?;
    let rates: Vec<Summary> = per_peer.into_iter().map(Summary::of).collect();
    let raw = peers.iter().zip(&rates).find(|(peer, _)| peer.kind() == Kind::Raw).map_or(f64::NAN, |(_, s)| s.median);
    let rows = peers
        .iter()
        .zip(&rates)
        .map(|(peer, rate)| (peer.name().to_owned(), vec![Cell::of(rate.median), Cell::ratio(rate.median / raw)]));
    Ok(Table {
        id: format!("redis_distinct_{TASKS}"),
        title: format!("Redis: lock + unlock, {TASKS} tasks that share no key, 2 workers"),
        columns: vec![Column::new("per second", "per_second"), Column::new("of raw", "of_raw")],
        rows: rows.collect(),
    })
}

/// Four processes of sixteen tasks on one key.
fn hot(runtime: &Runtime, plan: Plan, kinds: &[Kind], server: &RedisServer, hold: Duration) -> Result<Table, Failure> {
    let kinds: Vec<Kind> = kinds.iter().copied().filter(|kind| kind.waits()).collect();
    let crowd = Crowd { processes: 4, tasks: 16, guests: 0, hold, span: plan.crowd_span };
    let per_kind = interleave(kinds.len(), plan.crowd_rounds, |at| crowd.run(runtime, kinds[at], server))?;
    let rows = kinds.iter().zip(&per_kind).map(|(kind, rounds)| {
        let max = worst(rounds, |seen| seen.wait_ms(1.0));
        let cells = vec![
            Cell::of(median(rounds, Seen::rate)),
            Cell::of(median(rounds, |seen| seen.wait_ms(0.5))),
            Cell::of(median(rounds, |seen| seen.wait_ms(0.99))),
            Cell::of(max),
            Cell::ratio(median(rounds, |seen| seen.wait_ms(0.99) / seen.ideal_ms())),
            Cell::share(rounds.iter().map(|seen| (seen.least(), seen.most()))),
            Cell::ratio(median(rounds, |seen| seen.calls)),
            Cell::of(median(rounds, |seen| seen.commands)),
        ];
        (kind.name().to_owned(), cells)
    });
    Ok(Table {
        id: format!("redis_hot_key_{}_ms", hold.as_millis()),
        title: format!("Redis: one hot key, 4 processes of 16 tasks, held for {} ms", hold.as_millis()),
        columns: vec![
            Column::new("per second", "per_second"),
            Column::new("wait p50 ms", "wait_p50_ms"),
            Column::new("p99 ms", "wait_p99_ms"),
            Column::new("max ms", "wait_max_ms"),
            Column::new("p99 / ideal", "wait_p99_over_ideal"),
            Column::new("least:most", "least_over_most"),
            Column::new("calls", "calls_per_acquisition"),
            Column::new("whole", "commands_per_acquisition"),
        ],
        rows: rows.collect(),
    })
}

/// One process of many tasks on one key, alone or with another that has one task.
fn one_process(
    runtime: &Runtime,
    plan: Plan,
    kinds: &[Kind],
    server: &RedisServer,
    guests: usize,
) -> Result<Table, Failure> {
    let kinds: Vec<Kind> = kinds.iter().copied().filter(|kind| kind.waits()).collect();
    let crowd = Crowd { processes: 1, tasks: TASKS, guests, hold: Duration::ZERO, span: plan.crowd_span };
    let per_kind = interleave(kinds.len(), plan.crowd_rounds, |at| crowd.run(runtime, kinds[at], server))?;
    let rows = kinds.iter().zip(&per_kind).map(|(kind, rounds)| {
        let max = worst(rounds, |seen| seen.guest_wait_ms(1.0));
        let cells = vec![
            Cell::of(median(rounds, Seen::rate)),
            Cell::of(median(rounds, |seen| seen.wait_ms(0.5))),
            Cell::of(median(rounds, |seen| seen.wait_ms(0.99))),
            Cell::of(median(rounds, |seen| seen.guest_wait_ms(0.5))),
            Cell::of(median(rounds, |seen| seen.guest_wait_ms(0.99))),
            Cell::of(max),
            Cell::ratio(median(rounds, |seen| seen.calls)),
        ];
        (kind.name().to_owned(), cells)
    });
    Ok(Table {
        id: format!("redis_one_process_{guests}_guests"),
        title: format!("Redis: one hot key, one process of {TASKS} tasks, no hold, and another of {guests}"),
        columns: vec![
            Column::new("per second", "per_second"),
            Column::new("wait p50 ms", "wait_p50_ms"),
            Column::new("p99 ms", "wait_p99_ms"),
            Column::new("other p50 ms", "other_p50_ms"),
            Column::new("p99 ms", "other_p99_ms"),
            Column::new("max ms", "other_max_ms"),
            Column::new("calls", "calls_per_acquisition"),
        ],
        rows: rows.collect(),
    })
}

/// Two processes that pass one key to and fro.
fn hand_over(
    runtime: &Runtime,
    plan: Plan,
    kinds: &[Kind],
    server: &RedisServer,
    hold: Duration,
) -> Result<Table, Failure> {
    let kinds: Vec<Kind> = kinds.iter().copied().filter(|kind| kind.waits()).collect();
    let crowd = Crowd { processes: 2, tasks: 1, guests: 0, hold, span: plan.crowd_span };
    let per_kind = interleave(kinds.len(), plan.crowd_rounds, |at| crowd.run(runtime, kinds[at], server))?;
    let rows = kinds.iter().zip(&per_kind).map(|(kind, rounds)| {
        let cells = vec![
            Cell::of(median(rounds, |seen| seen.hand_over_us(0.5))),
            Cell::of(median(rounds, |seen| seen.hand_over_us(0.99))),
            Cell::of(median(rounds, |seen| seen.round_trip_us)),
            Cell::ratio(median(rounds, |seen| seen.hand_over_us(0.5) / seen.round_trip_us)),
        ];
        (kind.name().to_owned(), cells)
    });
    Ok(Table {
        id: format!("redis_hand_over_{}_ms", hold.as_millis()),
        title: format!(
            "Redis: from a release to the grant in another process, 2 processes of one task, held for {} ms",
            hold.as_millis()
        ),
        columns: vec![
            Column::new("µs p50", "us_p50"),
            Column::new("µs p99", "us_p99"),
            Column::new("GET µs", "round_trip_us"),
            Column::new("round trips", "round_trips"),
        ],
        rows: rows.collect(),
    })
}

/// What clients sent, scripts as one, where they send nothing else but `also`.
pub(crate) fn sent(counts: &BTreeMap<String, u64>, also: &[&str]) -> f64 {
    let names = ["evalsha", "eval", "ping", "subscribe"].iter().chain(also);
    names.filter_map(|name| counts.get(*name)).sum::<u64>() as f64
}
