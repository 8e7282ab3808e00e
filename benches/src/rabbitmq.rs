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
    stats::{Summary, interleave, quantile},
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
    Ok(Part { tables, notes: NOTES.into() })
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

    /// Microseconds, ascending.
    async fn measure(&self, step: Step, cycles: usize) -> Result<Vec<f64>, Failure> {
        let (here, key) = (&self.here, self.key.as_str());
        let mut times = Times::default();
        match step {
            Step::RoundTrip => {
                for _ in 0..cycles {
                    times.time(here.ping()).await?;
                }
            }
            Step::Acquire => {
                for _ in 0..cycles {
                    times.time(here.acquire(key)).await?.release().await?;
                }
            }
            Step::Release => {
                for _ in 0..cycles {
                    let guard = here.acquire(key).await?;
                    times.time(guard.release()).await?;
                }
            }
            Step::Cycle => {
                for _ in 0..cycles {
                    times.time(async { here.acquire(key).await?.release().await }).await?;
                }
            }
            Step::Refused => {
                let guard = here.acquire(key).await?;
                for _ in 0..cycles.div_ceil(10) {
                    if times.time(self.there.try_acquire(key)).await?.is_some() {
                        return Err("two holders".into());
                    }
                }
                guard.release().await?;
            }
            Step::HandOver => self.hand_over(cycles, &mut times).await?,
            Step::Bare => times.0 = self.raw[0].hand_overs(&self.raw[1], &self.bare, cycles).await,
        }
        let mut micros: Vec<f64> = times.0.iter().map(|time| time.as_nanos() as f64 / 1000.0).collect();
        micros.sort_by(f64::total_cmp);
        Ok(micros)
    }

    async fn hand_over(&self, cycles: usize, times: &mut Times) -> Result<(), Failure> {
        let (lockers, key) = ([&self.here, &self.there], self.key.as_str());
        let mut guard = self.here.acquire(key).await?;
        for n in 1..=cycles {
            let mut next = Box::pin(lockers[n % 2].acquire(key));
            if tokio::time::timeout(IN_LINE, &mut next).await.is_ok() {
                return Err("two holders".into());
            }
            let (released, granted) = tokio::join!(guard.release(), times.time(next));
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
        let micros = runtime.block_on(async { tokio::spawn(measured).await? })?;
        Ok((quantile(&micros, 0.5), quantile(&micros, 0.99)))
    })?;
    let medians: Vec<(f64, f64)> = per_step
        .iter()
        .map(|rounds| {
            let over = |of: fn(&(f64, f64)) -> f64| Summary::of(rounds.iter().map(of)).median;
            (over(|round| round.0), over(|round| round.1))
        })
        .collect();
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
            let mut times = Times::default();
            for n in 0..names {
                times.time(lock.acquire(format!("{n}.{mark}"))).await?.release().await?;
            }
            Ok::<_, Failure>(times)
        }
    };
    let mut times = runtime.block_on(async { tokio::spawn(acquire).await? })?;
    times.0.sort_unstable();
    let (full, gone) = runtime.block_on(async {
        let full = broker.memory().await;
        broker.control(&["set_policy", "soon", "^tasklock\\.1", r#"{"expires":1000}"#, "--apply-to", "queues"]).await;
        let started = Instant::now();
        until("gone", async || broker.queues(&mark).await.is_empty()).await;
        (full, started.elapsed())
    });
    let micros = |share| quantile(&times.0, share).as_nanos() as f64 / 1000.0;
    let kib = full.saturating_sub(before) as f64 * 1024.0 / names as f64;
    let cells = vec![Cell::of(micros(0.5)), Cell::of(micros(0.99)), Cell::of(kib), Cell::of(gone.as_secs_f64())];
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

#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    async fn time<T>(&mut self, future: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let value = future.await;
        self.0.push(started.elapsed());
        value
    }
}
