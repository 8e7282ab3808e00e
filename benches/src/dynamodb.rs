//! Locks in a DynamoDB table: an emulator in this process, reached over HTTP, through a proxy that counts.
//!
//! The crate `dynamodb_lock` works in a process of its own, built apart by `cargo xtask bench`: it is made on rusoto,
//! which nothing else here is to depend on.

use std::{path::Path, process::Command};

use tasklock::{
    Locker,
    dynamodb::{
        DynamoLock,
        aws_sdk_dynamodb::{
            Client,
            types::{
                AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
                TimeToLiveSpecification,
            },
        },
    },
};
use tasklock_tests_dynamodb::{Emulator, REGION, TABLE};
use tokio::runtime::Runtime;

use crate::{
    Plan,
    apart::Apart,
    report::{Cell, Column, Part, Table},
    stats::{Laps, Spread, interleave, median},
    subject::Failure,
};

const NOTES: &str = "\
An emulator in this process, in memory, over HTTP without TLS: its work is most of each figure, and no network is in it.
requests: what came to the table for each cycle. DynamoDB bills them, and each is a round trip to it.
tasklock: one write each way, a fencing token in the first. dynamodb-lease: the same two, expiry by wall clocks, no token.
dynamodb_lock: reads first; no token, no renewal. Built by `cargo xtask bench` alone; without it, its row is missing.
Medians over interleaved rounds. Compare within one run only.";

/// The table of the peers, whose key has another name.
const PEERS: &str = "peers";
const KEY: &str = "job";

pub(crate) fn run(
    runtime: &Runtime,
    plan: Plan,
    dynamodb_lock: Option<&Path>,
    wants: impl Fn(&str) -> bool,
) -> Result<Part, Failure> {
    let emulator = runtime.block_on(Emulator::start());
    let mut subjects = runtime.block_on(subjects(&emulator))?;
    if let Some(program) = dynamodb_lock {
        subjects.push(("dynamodb_lock", Subject::Apart(start(program, &emulator)?)));
    }
    subjects.retain(|(name, _)| wants(name));
    let rounds = interleave(subjects.len(), plan.redis_rounds, |at| {
        emulator.proxy().reset_counts();
        let laps = subjects[at].1.round(runtime, plan.dynamodb_cycles)?;
        let requests = emulator.proxy().seen().len() as f64 / plan.dynamodb_cycles as f64;
        Ok((laps.rate(), Spread::from(laps), requests))
    })?;
    let rows = subjects.iter().zip(&rounds).map(|((name, _), rounds)| {
        let cells = vec![
            Cell::of(median(rounds, |round| round.0)),
            Cell::of(median(rounds, |round| round.1.p50)),
            Cell::of(median(rounds, |round| round.1.p99)),
            Cell::ratio(median(rounds, |round| round.2)),
        ];
        ((*name).to_owned(), cells)
    });
    let columns = vec![
        Column::new("per second", "per_second"),
        Column::new("µs p50", "us_p50"),
        Column::new("µs p99", "us_p99"),
        Column::new("requests", "requests"),
    ];
    let title = "DynamoDB: lock + unlock, one task, nobody waiting".to_owned();
    let table = Table { id: "dynamodb_uncontended".to_owned(), title, columns, rows: rows.collect() };
    Ok(Part::new(vec![table], NOTES))
}

/// What is measured within this process.
async fn subjects(emulator: &Emulator) -> Result<Vec<(&'static str, Subject)>, Failure> {
    let store: DynamoLock = emulator.store();
    let client = store.client().clone();
    make_peers_table(&client).await?;
    let lease = dynamodb_lease::Client::builder().table_name(PEERS).build_and_check_db(client.clone()).await?;
    Ok(vec![
        ("one round trip (GetItem)", Subject::RoundTrip(client)),
        ("tasklock", Subject::Tasklock(Locker::new(store)?)),
        ("dynamodb-lease", Subject::Lease(lease)),
    ])
}

async fn make_peers_table(client: &Client) -> Result<(), Failure> {
    let key = AttributeDefinition::builder().attribute_name("key").attribute_type(ScalarAttributeType::S).build()?;
    let schema = KeySchemaElement::builder().attribute_name("key").key_type(KeyType::Hash).build()?;
    let create = client.create_table().table_name(PEERS).billing_mode(BillingMode::PayPerRequest);
    create.attribute_definitions(key).key_schema(schema).send().await?;
    let expiry = TimeToLiveSpecification::builder().attribute_name("lease_expiry").enabled(true).build()?;
    client.update_time_to_live().table_name(PEERS).time_to_live_specification(expiry).send().await?;
    Ok(())
}

enum Subject {
    /// No lock at all: the measure for the others.
    RoundTrip(Client),
    Tasklock(Locker),
    Lease(dynamodb_lease::Client),
    Apart(Apart),
}

impl Subject {
    fn round(&self, runtime: &Runtime, cycles: usize) -> Result<Laps, Failure> {
        match self {
            Self::RoundTrip(client) => timed(runtime, cycles, client, async |client| {
                let get = client.get_item().table_name(TABLE).key("pk", AttributeValue::S(KEY.to_owned()));
                get.consistent_read(true).send().await?;
                Ok(())
            }),
            Self::Tasklock(lock) => timed(runtime, cycles, lock, async |lock| {
                lock.acquire(KEY).await?.release().await?;
                Ok(())
            }),
            Self::Lease(client) => timed(runtime, cycles, client, async |client| {
                client.acquire(KEY).await?.release().await?;
                Ok(())
            }),
            Self::Apart(process) => {
                let nanos = process.ask(&cycles.to_string())?;
                Ok(Laps::from(nanos.into_iter().map(|nanos| nanos / 1000.0).collect::<Vec<f64>>()))
            }
        }
    }
}

fn timed<S>(
    runtime: &Runtime,
    cycles: usize,
    subject: &S,
    cycle: impl AsyncFn(&S) -> Result<(), Failure>,
) -> Result<Laps, Failure> {
    runtime.block_on(async {
        let mut laps = Laps::default();
        for _ in 0..cycles {
            laps.time(cycle(subject)).await?;
        }
        Ok(laps)
    })
}

/// A process that works with `dynamodb_lock`: told how many cycles, it answers with the nanoseconds of each.
fn start(program: &Path, emulator: &Emulator) -> Result<Apart, Failure> {
    let mut command = Command::new(program);
    command.args([&format!("http://{}", emulator.address()), PEERS, "apart"]);
    Apart::start(command.envs([
        ("AWS_ACCESS_KEY_ID", "bench"),
        ("AWS_SECRET_ACCESS_KEY", "bench"),
        ("AWS_REGION", REGION),
    ]))
}
