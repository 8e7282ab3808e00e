//! The crate `dynamodb_lock` as its documentation shows, for the bench beside it: `… ENDPOINT TABLE KEY`, then a count
//! on each line of its input. It locks and unlocks so many times, and answers with the nanoseconds of each cycle.

use std::{
    collections::HashMap,
    env,
    error::Error,
    io::{BufRead as _, Write as _, stdin, stdout},
    time::Instant,
};

use dynamodb_lock::{DynamoDbLockClient, DynamoDbOptions, Region, dynamo_lock_options};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [endpoint, table, key] = &arguments[..] else { return Err("ENDPOINT TABLE KEY".into()) };
    let options = HashMap::from([
        (dynamo_lock_options::DYNAMO_LOCK_TABLE_NAME.to_owned(), table.clone()),
        (dynamo_lock_options::DYNAMO_LOCK_PARTITION_KEY_VALUE.to_owned(), key.clone()),
    ]);
    let region = Region::Custom { name: "us-east-1".to_owned(), endpoint: endpoint.clone() };
    let client = DynamoDbLockClient::for_region(region).with_options(DynamoDbOptions::from_map(options));
    for line in stdin().lock().lines() {
        let mut nanos = Vec::new();
        for _ in 0..line?.parse::<usize>()? {
            let started = Instant::now();
            let lock = client.try_acquire_lock(None).await?.ok_or("not acquired")?;
            if !client.release_lock(&lock).await? {
                return Err("not released".into());
            }
            nanos.push(started.elapsed().as_nanos().to_string());
        }
        writeln!(stdout(), "{}", nanos.join(" "))?;
    }
    Ok(())
}
