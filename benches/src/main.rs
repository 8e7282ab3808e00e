//! Peers side by side, in one run.
//!
//! `cargo xtask bench` builds this in the bench profile and runs it. Every round runs every subject once, in an
//! order that rotates, so that whatever else the machine does meets all of them alike. Figures are medians over the
//! rounds; compare them within one run only. Nothing is asserted.

mod apart;
mod crew;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod figures;
mod held;
mod hot;
mod local;
mod locking;
mod memory;
mod ours;
mod peers;
mod pools;
mod python;
mod rabbitmq;
mod record;
mod redis;
mod report;
mod shared;
mod stats;
mod subject;

use std::{path::PathBuf, time::Duration};

use tokio::runtime::Runtime;

use crate::{record::Record, report::Part, subject::Failure};

const USAGE: &str = "\
usage: tasklock-benches [--quick] [--rounds N] [--part NAME] [--only TEXT] [--names N]
                        [--json FOLDER] [--render DOCUMENT] [--dynamodb-lock PATH]

  --quick       few short rounds: does it run, not what it measures
  --rounds N    rounds per table
  --part NAME   only this part: memory, local, redis, shared, pools, held, rabbitmq, dynamodb
  --only TEXT   only subjects whose name contains TEXT (may be repeated)
  --names N     how many new names RabbitMQ is given

  --json FOLDER         also keep the figures there, in a file for each part; not with --only
  --render DOCUMENT     measure nothing: write the figures that are kept into this document
  --dynamodb-lock PATH  the program built from benches/dynamodb-lock, a peer";

/// In the order in which they run.
const PARTS: [&str; 8] = ["memory", "local", "redis", "shared", "pools", "held", "rabbitmq", "dynamodb"];

/// How long a run takes.
#[derive(Debug, Clone, Copy)]
struct Plan {
    rounds: usize,
    /// Lock and unlock this often, per thread and round.
    cycles: usize,
    /// How long a round contends for the hot key.
    hot: Duration,
    redis_rounds: usize,
    redis_cycles: usize,
    /// How long a round works on distinct keys.
    redis_span: Duration,
    /// Each cycle of a peer is three requests to an emulator in the same process.
    #[cfg_attr(not(feature = "dynamodb"), allow(dead_code))]
    dynamodb_cycles: usize,
    crowd_rounds: usize,
    /// How long a round of several processes takes, or one of many tasks that wait for each other.
    crowd_span: Duration,
    rabbit_rounds: usize,
    rabbit_cycles: usize,
    /// Each costs the broker a queue.
    rabbit_names: usize,
    /// Members given to a pool at once.
    pool_members: usize,
    /// Leases held at once.
    held: usize,
    held_span: Duration,
}

impl Plan {
    const FULL: Self = Self {
        rounds: 21,
        cycles: 65_536,
        hot: Duration::from_millis(200),
        redis_rounds: 11,
        redis_cycles: 2_000,
        redis_span: Duration::from_millis(500),
        dynamodb_cycles: 500,
        crowd_rounds: 5,
        crowd_span: Duration::from_secs(2),
        rabbit_rounds: 5,
        rabbit_cycles: 200,
        rabbit_names: 1_000,
        pool_members: 20_000,
        held: 100_000,
        held_span: Duration::from_secs(30),
    };
    const QUICK: Self = Self {
        rounds: 3,
        cycles: 4_096,
        hot: Duration::from_millis(20),
        redis_rounds: 3,
        redis_cycles: 200,
        redis_span: Duration::from_millis(50),
        dynamodb_cycles: 50,
        crowd_rounds: 1,
        crowd_span: Duration::from_millis(300),
        rabbit_rounds: 1,
        rabbit_cycles: 20,
        rabbit_names: 20,
        pool_members: 2_000,
        held: 1_000,
        held_span: Duration::from_secs(2),
    };

    fn with_rounds(self, rounds: usize) -> Self {
        let rounds = rounds.max(1);
        Self { rounds, redis_rounds: rounds, crowd_rounds: rounds, rabbit_rounds: rounds, ..self }
    }
}

/// What the command line asked for.
#[derive(Debug)]
struct Arguments {
    plan: Plan,
    /// The plan in words.
    length: String,
    part: Option<String>,
    only: Vec<String>,
    json: Option<PathBuf>,
    render: Option<PathBuf>,
    #[cfg_attr(not(feature = "dynamodb"), allow(dead_code))]
    dynamodb_lock: Option<PathBuf>,
}

impl Arguments {
    /// `None` when only the usage was asked for.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut parsed = Self {
            plan: Plan::FULL,
            length: "at full length".to_owned(),
            part: None,
            only: Vec::new(),
            json: None,
            render: None,
            dynamodb_lock: None,
        };
        let (mut rounds, mut names) = (None, None);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
            match word.as_str() {
                "--quick" => (parsed.plan, parsed.length) = (Plan::QUICK, "few short rounds".to_owned()),
                "--rounds" => rounds = Some(value()?.parse().map_err(|e| format!("--rounds: {e}"))?),
                "--part" => parsed.part = Some(value()?),
                "--only" => parsed.only.push(value()?),
                "--names" => names = Some(value()?.parse().map_err(|e| format!("--names: {e}"))?),
                "--json" => parsed.json = Some(value()?.into()),
                "--render" => parsed.render = Some(value()?.into()),
                "--dynamodb-lock" => parsed.dynamodb_lock = Some(value()?.into()),
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("unknown argument {word}\n{USAGE}")),
            }
        }
        if let Some(rounds) = rounds {
            parsed.plan = parsed.plan.with_rounds(rounds);
            parsed.length.push_str(&format!(", rounds: {rounds}"));
        }
        parsed.plan.rabbit_names = names.unwrap_or(parsed.plan.rabbit_names);
        Ok(Some(parsed))
    }

    fn has(&self, part: &str) -> bool {
        self.part.as_deref().is_none_or(|only| only == part)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|text| name.contains(text.as_str()))
    }

    /// This part, if there is one.
    fn run(&self, runtime: &Runtime, part: &str) -> Result<Option<Part>, Failure> {
        let (plan, wants) = (self.plan, |name: &str| self.wants(name));
        Ok(Some(match part {
            "memory" => memory::run(runtime, plan, wants)?,
            "local" => local::run(runtime, plan, wants)?,
            "redis" => redis::run(runtime, plan, wants)?,
            "shared" => shared::run(runtime, plan, wants)?,
            "pools" => pools::run(runtime, plan, wants)?,
            "held" => held::run(runtime, plan, wants)?,
            "rabbitmq" => rabbitmq::run(runtime, plan, wants)?,
            #[cfg(feature = "dynamodb")]
            "dynamodb" => dynamodb::run(runtime, plan, self.dynamodb_lock.as_deref(), wants)?,
            _ => return Ok(None),
        }))
    }
}

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // Two workers, as many as the two-thread table has threads: all figures come from the same shape of machine.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let [first, rest @ ..] = words.as_slice()
        && first == "--child"
    {
        return match rest {
            [held, rest @ ..] if held == "held" => held::child(&runtime, rest),
            _ => redis::child(&runtime, rest),
        };
    }
    let Some(arguments) = Arguments::parse(words.into_iter())? else {
        println!("{USAGE}");
        return Ok(());
    };

    if let (Some(document), Some(folder)) = (&arguments.render, &arguments.json) {
        let kept = PARTS.map(|name| Ok::<_, Failure>((name, Record::read(folder, name)?)));
        return figures::render(document, &kept.into_iter().collect::<Result<Vec<_>, _>>()?);
    }

    let mut any = false;
    for name in PARTS.into_iter().filter(|name| arguments.has(name)) {
        let made = Record::make(name, &arguments.length, || arguments.run(&runtime, name))?;
        let Some(record) = made else { continue };
        any |= record.part.tables.iter().any(|table| !table.rows.is_empty());
        print!("{}", record.part);
        if let Some(folder) = &arguments.json
            && arguments.only.is_empty()
        {
            record.write(folder)?;
        }
    }
    if !any {
        return Err("no part or subject has such a name".into());
    }
    println!("\n{:?}", arguments.plan);
    Ok(())
}
