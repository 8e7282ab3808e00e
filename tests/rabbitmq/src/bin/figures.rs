//! What RabbitMQ's locks take, beside what the broker itself takes: `cargo run --profile bench -p
//! tasklock-tests-rabbitmq --bin figures [NAMES]`. Nothing is asserted; compare within one run only.

use std::time::{Duration, Instant};

use tasklock_tests_rabbitmq::{Broker, Raw, Settings, builder, locker, name, until};

const CYCLES: usize = 1_000;

#[tokio::main]
async fn main() {
    let names: usize = std::env::args().nth(1).map_or(10_000, |text| text.parse().expect("how many names"));
    let broker = Broker::start(Settings::default());
    let url = broker.url();
    let (here, there, raw, key) = (locker(&url).await, locker(&url).await, Raw::connect(&url).await, name("hot"));
    here.acquire(&key).await.unwrap().release().await.unwrap();

    let (mut ping, mut bare, mut acquire, mut release, mut hand_over, mut refused) =
        (Times::default(), Times::default(), Times::default(), Times::default(), Times::default(), Times::default());
    for _ in 0..CYCLES {
        ping.time(here.ping()).await.unwrap();
        let guard = acquire.time(here.acquire(&key)).await.unwrap();
        release.time(guard.release()).await.unwrap();
    }
    for _ in 0..CYCLES / 10 {
        let guard = here.acquire(&key).await.unwrap();
        refused.time(there.try_acquire(&key)).await.unwrap();
        guard.release().await.unwrap();
    }
    // From the release to the grant, with the waiter in the line before.
    let lockers = [&here, &there];
    let mut guard = here.acquire(&key).await.unwrap();
    for n in 1..=CYCLES {
        let mut next = Box::pin(lockers[n % 2].acquire(&key));
        let early = tokio::time::timeout(Duration::from_millis(8), &mut next).await;
        assert!(early.is_err(), "two holders");
        let (released, granted) = tokio::join!(guard.release(), hand_over.time(next));
        released.unwrap();
        guard = granted.unwrap();
    }
    guard.release().await.unwrap();
    bare.0 = raw.hand_overs(&Raw::connect(&url).await, &name("bare"), CYCLES).await;

    println!("one round trip                          {ping}");
    println!("acquire, nobody waiting                 {acquire}");
    println!("release, nobody waiting                 {release}");
    println!("try that finds it held (grace 25 ms)    {refused}");
    println!("hand-over between two connections       {hand_over}");
    println!("the same by cancel and nack alone       {bare}");

    let before = broker.memory().await;
    let (mark, started) = (name("names"), Instant::now());
    let one = builder(&url).await.build().unwrap();
    let mut fresh = Times::default();
    for n in 0..names {
        let guard = fresh.time(one.acquire(format!("{n}.{mark}"))).await.unwrap();
        guard.release().await.unwrap();
    }
    println!("acquire, a new name                     {fresh}");
    println!("{names} names, one after the other: {:.1?}", started.elapsed());
    println!("queues: {}", broker.queues(&mark).await.len());
    let full = broker.memory().await;
    println!("the broker's memory: {before} MiB before, {full} MiB with them");
    broker.control(&["set_policy", "soon", "^tasklock\\.1", r#"{"expires":1000}"#, "--apply-to", "queues"]).await;
    let started = Instant::now();
    until("gone", async || broker.queues(&mark).await.is_empty()).await;
    println!("gone {:.1?} after a policy of one second; memory then {} MiB", started.elapsed(), broker.memory().await);
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

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |percent: usize| sorted[(sorted.len() - 1) * percent / 100];
        write!(f, "p50 {:>9.1?}  p99 {:>9.1?}", at(50), at(99))
    }
}
