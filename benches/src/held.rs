//! Many leases held at once by one process, which renews them: this program, started again as a child.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tasklock::Guard;
use tasklock_tests::servers::RedisServer;
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{
    Plan,
    report::{Cell, Column, Part, Table},
    subject::Failure,
};

const NOTES: &str = "\
Leases of 30 s, in a process of their own. A core: processor time of that process, of one core's. KiB: what its resident
memory grew by, for each lease, names and guards included. Requests: what the server carried out for the clients,
scripts as one.";

/// Tasks that acquire.
const TASKS: usize = 64;

pub(crate) fn run(runtime: &Runtime, plan: Plan) -> Result<Part, Failure> {
    let server = RedisServer::start();
    let rows = [("memory", "memory:".to_owned()), ("redis", server.url())].map(|(name, url)| {
        let (figures, requests) = held(runtime, plan, &url, &server)?;
        let [per_second, core, kib] = figures;
        let cells = vec![Cell::of(per_second), Cell::of(core), Cell::ratio(kib), Cell::of(requests)];
        Ok::<_, Failure>((format!("tasklock, {name}"), cells))
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
            rows: rows.into_iter().collect::<Result<_, _>>()?,
        }],
        notes: NOTES.into(),
    })
}

/// What the child measured, and the requests per second that the server saw meanwhile.
fn held(runtime: &Runtime, plan: Plan, url: &str, server: &RedisServer) -> Result<([f64; 3], f64), Failure> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["--child", "held", url, &plan.held.to_string(), &plan.held_span.as_secs().to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut output = BufReader::new(child.stdout.take().ok_or("its output is piped")?);
    let mut read = || {
        let mut line = String::new();
        output.read_line(&mut line)?;
        let figures = line.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        Ok::<_, Failure>(figures)
    };
    let acquired = read()?;
    runtime.block_on(server.reset_counts());
    let renewed = read()?;
    let counts = runtime.block_on(server.counts());
    drop(child.stdin.take());
    let status = child.wait()?;
    let ([per_second, kib], [core], true) = (&acquired[..], &renewed[..], status.success()) else {
        return Err(format!("a child: {status}").into());
    };
    let requests = ["evalsha", "eval", "ping"].iter().filter_map(|name| counts.get(*name)).sum::<u64>();
    Ok(([*per_second, *core, *kib], requests as f64 / plan.held_span.as_secs_f64()))
}

/// What a child does: `URL LEASES SECONDS`.
pub(crate) fn child(runtime: &Runtime, arguments: &[String]) -> Result<(), Failure> {
    let [url, leases, seconds] = arguments else { return Err("a child that holds needs three arguments".into()) };
    let (leases, span) = (leases.parse::<usize>()?, Duration::from_secs(seconds.parse()?));
    let locker = runtime.block_on(tasklock::connect(url))?;
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
    let (rested, spent) = (Instant::now(), processor_seconds()?);
    std::thread::sleep(span);
    println!("{}", 100.0 * (processor_seconds()? - spent) / rested.elapsed().as_secs_f64());
    // Until the parent has asked the server what it cost.
    std::io::stdin().read_to_string(&mut String::new())?;
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
