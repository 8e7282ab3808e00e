//! Many leases held at once by one process, which renews them: this program, started again as a child.

use std::{
    env, fs,
    io::stdin,
    process::Command,
    time::{Duration, Instant},
};

use tasklock::Guard;
use tasklock_tests::servers::RedisServer;
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{
    Plan,
    apart::Apart,
    redis::sent,
    report::{Cell, Column, Part, Table},
    subject::Failure,
};

const NOTES: &str = "\
Leases of 30 s, in a process of their own. A core: processor time of that process, of one core's. KiB: what its resident
memory grew by, for each lease, names and guards included. Requests: what the server carried out for the clients,
scripts as one.";

/// Tasks that acquire.
const TASKS: usize = 64;

pub(crate) fn run(runtime: &Runtime, plan: Plan, wants: impl Fn(&str) -> bool) -> Result<Part, Failure> {
    let server = RedisServer::start();
    let subjects = [("tasklock, memory", "memory:".to_owned()), ("tasklock, redis", server.url())];
    let rows = subjects.into_iter().filter(|(name, _)| wants(name)).map(|(name, url)| {
        let (figures, requests) = held(runtime, plan, &url, &server)?;
        let [per_second, core, kib] = figures;
        let cells = vec![Cell::of(per_second), Cell::of(core), Cell::ratio(kib), Cell::of(requests)];
        Ok::<_, Failure>((name.to_owned(), cells))
    });
    Ok(Part {
        tables: vec![Table {
            id: "held".to_owned(),
            title: format!("{} leases held and renewed for {} s", plan.held, plan.held_span.as_secs()),
            columns: vec![
                Column::new("acquired per second", "acquired_per_second"),
                Column::new("% of a core", "percent_of_a_core"),
                Column::new("KiB each", "kib_each"),
                Column::new("requests per second", "requests_per_second"),
            ],
            rows: rows.collect::<Result<_, _>>()?,
        }],
        notes: NOTES.into(),
    })
}

/// What the child measured, and the requests per second that the server saw meanwhile.
fn held(runtime: &Runtime, plan: Plan, url: &str, server: &RedisServer) -> Result<([f64; 3], f64), Failure> {
    let mut command = Command::new(env::current_exe()?);
    let child = Apart::start(command.args(["--child", "held", url]))?;
    let acquired = child.ask(&plan.held.to_string())?;
    runtime.block_on(server.reset_counts());
    let renewed = child.ask(&plan.held_span.as_secs().to_string())?;
    let counts = runtime.block_on(server.counts());
    child.end()?;
    let ([per_second, kib], [core]) = (&acquired[..], &renewed[..]) else { return Err("too few figures".into()) };
    Ok(([*per_second, *core, *kib], sent(&counts, &[]) / plan.held_span.as_secs_f64()))
}

/// What a child does: it is given an address, told how many leases to acquire and then for how many seconds to keep them.
pub(crate) fn child(runtime: &Runtime, arguments: &[String]) -> Result<(), Failure> {
    let [url] = arguments else { return Err("a child that holds needs an address".into()) };
    let mut lines = stdin().lines();
    let mut told = || Ok::<usize, Failure>(lines.next().ok_or("told nothing")??.parse()?);
    let locker = runtime.block_on(tasklock::connect(url))?;
    let leases = told()?;
    let (started, before) = (Instant::now(), resident_kib()?);
    let guards = runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let locker = locker.clone();
            tasks.spawn(async move {
                let mut guards = Vec::new();
                for n in (task..leases).step_by(TASKS) {
                    guards.push(locker.acquire(format!("held:{n}")).await?);
                }
                Ok::<_, Failure>(guards)
            });
        }
        let mut all: Vec<Vec<Guard>> = Vec::new();
        while let Some(guards) = tasks.join_next().await {
            all.push(guards??);
        }
        Ok::<_, Failure>(all)
    })?;
    let per_second = leases as f64 / started.elapsed().as_secs_f64();
    println!("{per_second} {}", (resident_kib()? - before) / leases as f64);
    let span = Duration::from_secs(told()? as u64);
    let (rested, spent) = (Instant::now(), processor_seconds()?);
    std::thread::sleep(span);
    println!("{}", 100.0 * (processor_seconds()? - spent) / rested.elapsed().as_secs_f64());
    // Until the parent has asked the server what it cost.
    lines.for_each(drop);
    let lost = guards.iter().flatten().filter(|guard| !guard.is_held()).count();
    if lost > 0 {
        return Err(format!("{lost} of {leases} leases were lost").into());
    }
    drop(guards);
    runtime.block_on(locker.shutdown());
    Ok(())
}

fn resident_kib() -> Result<f64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}

/// By all threads, from `/proc/self/stat`: fields 14 and 15, in hundredths.
fn processor_seconds() -> Result<f64, Failure> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| Ok::<_, Failure>(fields.get(at).ok_or("a short line")?.parse::<f64>()?);
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}
