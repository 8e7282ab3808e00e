//! The tables measured within one process.

use tokio::runtime::Runtime;

use crate::{
    Plan, hot, ours, peers,
    report::{Cell, Column, Part, Table},
    stats::{Summary, interleave, median, quantile, worst},
    subject::{Contended, Entrant, Failure, KEYS, TASKS, Walk},
};

const NOTES: &str = "\
Keys: the peers take theirs by value, so a String is cloned, and allocated, per call; u64 and Arc<str> spare them that.
tasklock's guards are 'static and carry a fencing token, a deadline, its renewal and the news of a loss; the peers' do not.
The floor, a tokio Mutex found by index, has no keys to look up and none to forget.
Medians over interleaved rounds; max is the worst wait of any round. Compare within one run only.";

pub(crate) fn run(runtime: &Runtime, plan: Plan, wants: impl Fn(&str) -> bool) -> Result<Part, Failure> {
    let mut entrants = peers::all();
    {
        let _within = runtime.enter();
        entrants.extend(ours::all()?);
    }
    entrants.retain(|entrant| wants(entrant.name()));
    let entrants = entrants.as_slice();
    let alone = |threads: usize, how: &str| {
        let title = format!("lock + unlock, {KEYS} keys, nobody waiting, {how}");
        let walk = Walk { threads, keys: KEYS, cycles: plan.cycles };
        uncontended(entrants, plan.rounds, walk, &format!("uncontended_{threads}"), title)
    };
    let tables = vec![
        alone(1, "1 thread")?,
        alone(2, "2 threads that share no key")?,
        contended(runtime, entrants, plan)?,
        hot::run(runtime, plan, wants)?,
    ];
    Ok(Part::new(tables, NOTES))
}

pub(crate) fn uncontended(
    entrants: &[Box<dyn Entrant>],
    rounds: usize,
    walk: Walk,
    id: &str,
    title: String,
) -> Result<Table, Failure> {
    let per_entrant = interleave(entrants.len(), rounds, |at| entrants[at].uncontended(walk))?;
    let rows = entrants.iter().zip(per_entrant).map(|(entrant, rounds)| {
        let ns = Summary::of(rounds);
        (entrant.name().to_owned(), vec![Cell::of(ns.median), Cell::of(ns.p10), Cell::of(ns.p90)])
    });
    Ok(Table {
        id: id.to_owned(),
        title,
        columns: vec![
            Column::new("ns p50", "ns_p50"),
            Column::new("round p10", "ns_p10"),
            Column::new("round p90", "ns_p90"),
        ],
        rows: rows.collect(),
    })
}

fn contended(runtime: &Runtime, entrants: &[Box<dyn Entrant>], plan: Plan) -> Result<Table, Failure> {
    let per_entrant =
        interleave(entrants.len(), plan.rounds, |at| Ok(Hot::from(&entrants[at].contended(runtime, plan.hot)?)))?;
    let rows = entrants.iter().zip(per_entrant).map(|(entrant, rounds)| {
        let over = |figure: fn(&Hot) -> f64| median(&rounds, figure);
        let (rate, p50, p99) = (over(|h| h.rate), over(|h| h.p50_us), over(|h| h.p99_us));
        let max = worst(&rounds, |h| h.max_us);
        let cells = vec![
            Cell::of(rate),
            Cell::of(p50),
            Cell::of(p99),
            Cell::of(max),
            Cell::share(rounds.iter().map(|h| (h.least, h.most))),
        ];
        (entrant.name().to_owned(), cells)
    });
    Ok(Table {
        id: format!("hot_key_{TASKS}"),
        title: format!("one hot key, {TASKS} tasks, no hold, 2 workers"),
        columns: vec![
            Column::new("per second", "per_second"),
            Column::new("wait p50 µs", "wait_p50_us"),
            Column::new("p99 µs", "wait_p99_us"),
            Column::new("max µs", "wait_max_us"),
            Column::new("least:most", "least_over_most"),
        ],
        rows: rows.collect(),
    })
}

/// One round on the hot key, without its samples.
struct Hot {
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
    least: usize,
    most: usize,
}

impl From<&Contended> for Hot {
    fn from(seen: &Contended) -> Self {
        let micros = |share| quantile(&seen.waits, share) as f64 / 1000.0;
        Self {
            rate: seen.waits.len() as f64 / seen.elapsed.as_secs_f64(),
            p50_us: micros(0.5),
            p99_us: micros(0.99),
            max_us: micros(1.0),
            least: seen.per_task.iter().copied().min().unwrap_or_default(),
            most: seen.per_task.iter().copied().max().unwrap_or_default(),
        }
    }
}
