//! What RabbitMQ's locks take, beside what the broker itself takes: a broker of the harness's own, on loopback.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tasklock::Locker;
use tasklock_tests_rabbitmq::{Broker, Raw, Settings, locker, name, until};
use tokio::runtime::Runtime;

use crate::{
    Plan,
    report::{Cell, Column, Part, Table},
    stats::{Laps, Spread, interleave, median, micros},
    subject::Failure,
};

const NOTES: &str = "\
rabbitmq-server on loopback, one node. A round trip writes nothing; a hand-over is bound by the broker's log.
hand-over: from before the release on one connection to the grant on another, whose waiter was in the line before. By cancel
and nack alone: the same by the broker's driver, without this library.
new names: a quorum queue each, held one after the other; gone: after a policy that removes them when idle for a second.
Medians over interleaved rounds. Compare within one run only.";

/// How long the next one stands in line before a hand-over: a broker at rest is a slower one.
const IN_LINE: Duration = Duration::from_millis(8);

pub(crate) fn run(runtime: &Runtime, plan: Plan, wants: impl Fn(&str) -> bool) -> Result<Part, Failure> {
    let broker = Broker::start(Settings::default());
    let scene = Arc::new(runtime.block_on(Scene::open(&broker))?);
    let steps: Vec<Step> = Step::ALL.into_iter().filter(|step| wants(step.name())).collect();
    let mut tables = vec![steps_of(runtime, plan, &scene, &steps)?];
    if wants(NEW_NAMES) && plan.rabbit_names > 0 {
        tables.push(new_names(runtime, plan, &scene, &broker)?);
    }
    Ok(Part::new(tables, NOTES))
}

/// What is measured, one at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    RoundTrip,
    Acquire,
    Release,
    Cycle,
    Refused,
    HandOver,
    Bare,
}

impl Step {
    const ALL: [Step; 7] =
        [Step::RoundTrip, Step::Acquire, Step::Release, Step::Cycle, Step::Refused, Step::HandOver, Step::Bare];

    fn name(self) -> &'static str {
        match self {
            Step::RoundTrip => "one round trip",
            Step::Acquire => "tasklock, acquire, nobody waiting",
            Step::Release => "tasklock, release, nobody waiting",
            Step::Cycle => "tasklock, acquire + release",
            Step::Refused => "tasklock, try that finds it held (grace 25 ms)",
            Step::HandOver => "tasklock, hand-over between two connections",
            Step::Bare => "hand-over by cancel and nack alone",
        }
    }
}

/// Clients of one broker, and a lock that is there already.
struct Scene {
    here: Locker,
    there: Locker,
    raw: [Raw; 2],
    key: String,
    bare: String,
}

impl Scene {
    async fn open(broker: &Broker) -> Result<Self, Failure> {
        let url = broker.url();
        let raw = [Raw::connect(&url).await, Raw::connect(&url).await];
        let (here, there, key) = (locker(&url).await, locker(&url).await, name("hot"));
        here.acquire(&key).await?.release().await?;
        Ok(Scene { here, there, raw, key, bare: name("bare") })
    }

    async fn measure(&self, step: Step, cycles: usize) -> Result<Laps, Failure> {
        let (here, key) = (&self.here, self.key.as_str());
        let mut laps = Laps::default();
        match step {
            Step::RoundTrip => {
                for _ in 0..cycles {
                    laps.time(here.ping()).await?;
                }
            }
            Step::Acquire => {
                for _ in 0..cycles {
                    laps.time(here.acquire(key)).await?.release().await?;
                }
            }
            Step::Release => {
                for _ in 0..cycles {
                    let guard = here.acquire(key).await?;
                    laps.time(guard.release()).await?;
                }
            }
            Step::Cycle => {
                for _ in 0..cycles {
                    laps.time(async { here.acquire(key).await?.release().await }).await?;
                }
            }
            Step::Refused => {
                let guard = here.acquire(key).await?;
                for _ in 0..cycles.div_ceil(10) {
                    if laps.time(self.there.try_acquire(key)).await?.is_some() {
                        return Err("two holders".into());
                    }
                }
                guard.release().await?;
            }
            Step::HandOver => self.hand_over(cycles, &mut laps).await?,
            Step::Bare => {
                let times = self.raw[0].hand_overs(&self.raw[1], &self.bare, cycles).await;
                laps = times.into_iter().map(micros).collect::<Vec<f64>>().into();
            }
        }
        Ok(laps)
    }

    async fn hand_over(&self, cycles: usize, laps: &mut Laps) -> Result<(), Failure> {
        let (lockers, key) = ([&self.here, &self.there], self.key.as_str());
        let mut guard = self.here.acquire(key).await?;
        for n in 1..=cycles {
            let mut next = Box::pin(lockers[n % 2].acquire(key));
            if tokio::time::timeout(IN_LINE, &mut next).await.is_ok() {
                return Err("two holders".into());
            }
            let (released, granted) = tokio::join!(guard.release(), laps.time(next));
            released?;
            guard = granted?;
        }
        guard.release().await?;
        Ok(())
    }
}

fn steps_of(runtime: &Runtime, plan: Plan, scene: &Arc<Scene>, steps: &[Step]) -> Result<Table, Failure> {
    let per_step = interleave(steps.len(), plan.rabbit_rounds, |at| {
        let (scene, step) = (scene.clone(), steps[at]);
        // Spawned, as in a service: what is blocked on is on a thread apart from the connection's.
        let measured = async move { scene.measure(step, plan.rabbit_cycles).await };
        Ok(Spread::from(runtime.block_on(async { tokio::spawn(measured).await? })?))
    })?;
    let medians: Vec<(f64, f64)> =
        per_step.iter().map(|rounds| (median(rounds, |round| round.p50), median(rounds, |round| round.p99))).collect();
    let trip = steps.iter().position(|step| *step == Step::RoundTrip).map_or(f64::NAN, |at| medians[at].0);
    let rows = steps.iter().zip(medians).map(|(step, (p50, p99))| {
        (step.name().to_owned(), vec![Cell::of(p50), Cell::of(p99), Cell::ratio(p50 / trip)])
    });
    Ok(Table {
        id: "rabbitmq".to_owned(),
        title: "RabbitMQ: one lock, one task at a time".to_owned(),
        columns: vec![
            Column::new("µs p50", "us_p50"),
            Column::new("µs p99", "us_p99"),
            Column::new("round trips", "round_trips"),
        ],
        rows: rows.collect(),
    })
}

const NEW_NAMES: &str = "tasklock, new names";

/// Many locks, each used once.
fn new_names(runtime: &Runtime, plan: Plan, scene: &Arc<Scene>, broker: &Broker) -> Result<Table, Failure> {
    let (names, mark, lock) = (plan.rabbit_names, name("names"), scene.here.clone());
    let before = runtime.block_on(broker.memory());
    let acquire = {
        let mark = mark.clone();
        async move {
            let mut laps = Laps::default();
            for n in 0..names {
                laps.time(lock.acquire(format!("{n}.{mark}"))).await?.release().await?;
            }
            Ok::<_, Failure>(laps)
        }
    };
    let spread = Spread::from(runtime.block_on(async { tokio::spawn(acquire).await? })?);
    let (full, gone) = runtime.block_on(async {
        let full = broker.memory().await;
        broker.control(&["set_policy", "soon", "^tasklock\\.1", r#"{"expires":1000}"#, "--apply-to", "queues"]).await;
        let started = Instant::now();
        until("gone", async || broker.queues(&mark).await.is_empty()).await;
        (full, started.elapsed())
    });
    let kib = full.saturating_sub(before) as f64 * 1024.0 / names as f64;
    let cells = vec![Cell::of(spread.p50), Cell::of(spread.p99), Cell::of(kib), Cell::of(gone.as_secs_f64())];
    Ok(Table {
        id: "rabbitmq_names".to_owned(),
        title: format!("RabbitMQ: {names} names, each locked once"),
        columns: vec![
            Column::new("µs p50", "us_p50"),
            Column::new("µs p99", "us_p99"),
            Column::new("KiB a name", "kib_per_name"),
            Column::new("gone after s", "gone_after_s"),
        ],
        rows: vec![(NEW_NAMES.to_owned(), cells)],
    })
}
