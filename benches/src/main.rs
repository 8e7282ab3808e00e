//! Peers side by side, in one process and one run.
//!
//! `cargo xtask bench` builds this in the bench profile and runs it. Every round runs every subject once, in an
//! order that rotates, so that whatever else the machine does meets all of them alike. Figures are medians over the
//! rounds; compare them within one run only. Nothing is asserted.

mod local;
mod memory;
mod ours;
mod peers;
mod report;
mod stats;
mod subject;

use std::{path::PathBuf, time::Duration};

use crate::subject::{Entrant, Failure};

const USAGE: &str = "\
usage: tasklock-benches [--quick] [--rounds N] [--only TEXT] [--json PATH]

  --quick       few short rounds: does it run, not what it measures
  --rounds N    rounds per table
  --only TEXT   only subjects whose name contains TEXT (may be repeated)
  --json PATH   also write the figures to PATH";

/// How long a run takes.
#[derive(Debug, Clone, Copy)]
struct Plan {
    rounds: usize,
    /// Lock and unlock this often, per thread and round.
    cycles: usize,
    /// How long a round contends for the hot key.
    hot: Duration,
}

impl Plan {
    const FULL: Self = Self { rounds: 21, cycles: 65_536, hot: Duration::from_millis(200) };
    const QUICK: Self = Self { rounds: 3, cycles: 4_096, hot: Duration::from_millis(20) };
}

/// What the command line asked for.
#[derive(Debug)]
struct Arguments {
    plan: Plan,
    only: Vec<String>,
    json: Option<PathBuf>,
}

impl Arguments {
    /// `None` when only the usage was asked for.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut parsed = Self { plan: Plan::FULL, only: Vec::new(), json: None };
        let mut rounds = None;
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
            match word.as_str() {
                "--quick" => parsed.plan = Plan::QUICK,
                "--rounds" => rounds = Some(value()?.parse().map_err(|e| format!("--rounds: {e}"))?),
                "--only" => parsed.only.push(value()?),
                "--json" => parsed.json = Some(value()?.into()),
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("unknown argument {word}\n{USAGE}")),
            }
        }
        parsed.plan.rounds = rounds.unwrap_or(parsed.plan.rounds).max(1);
        Ok(Some(parsed))
    }

    fn wants(&self, entrant: &dyn Entrant) -> bool {
        self.only.is_empty() || self.only.iter().any(|text| entrant.name().contains(text.as_str()))
    }
}

fn main() -> Result<(), Failure> {
    let Some(arguments) = Arguments::parse(std::env::args().skip(1))? else {
        println!("{USAGE}");
        return Ok(());
    };
    // Two workers, as many as the two-thread table has threads: all figures come from the same shape of machine.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;

    let mut entrants = peers::all();
    {
        let _within = runtime.enter();
        entrants.extend(ours::all()?);
    }
    let folder = local::Folder::new()?;
    let mut files = local::all(&runtime, &folder)?;
    for entrants in [&mut entrants, &mut files] {
        entrants.retain(|entrant| arguments.wants(entrant.as_ref()));
    }
    if entrants.is_empty() && files.is_empty() {
        return Err("no subject has such a name".into());
    }

    let mut tables = Vec::new();
    if !entrants.is_empty() {
        tables = memory::run(&runtime, &entrants, arguments.plan)?;
    }
    if !files.is_empty() {
        tables.push(local::run(&files, arguments.plan)?);
    }
    print!("{}", report::text(arguments.plan, &tables));
    if let Some(path) = &arguments.json {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, report::json(arguments.plan, &tables))?;
        println!("\nwritten to {}", path.display());
    }
    Ok(())
}
