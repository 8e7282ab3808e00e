//! A part as it is kept: what it measured, when, and on what.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{report::Part, subject::Failure};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) date: String,
    pub(crate) machine: String,
    /// How many cores others used just before or just after, whichever was more.
    pub(crate) taken: f64,
    /// How long it was measured.
    pub(crate) plan: String,
    pub(crate) part: Part,
}

impl Record {
    /// Runs a part, if there is one.
    pub(crate) fn make(
        name: &str,
        plan: &str,
        run: impl FnOnce() -> Result<Option<Part>, Failure>,
    ) -> Result<Option<Self>, Failure> {
        let before = taken()?;
        let Some(part) = run()? else { return Ok(None) };
        let date = Command::new("date").args(["--utc", "+%Y-%m-%d %H:%M UTC"]).output()?;
        Ok(Some(Record {
            name: name.to_owned(),
            date: String::from_utf8_lossy(&date.stdout).trim().to_owned(),
            machine: machine()?,
            taken: before.max(taken()?),
            plan: plan.to_owned(),
            part,
        }))
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<(), Failure> {
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("{}.json", self.name));
        fs::write(&path, serde_json::to_string_pretty(self)?)?;
        println!("written to {}", path.display());
        Ok(())
    }

    /// What was kept of this part, if it was measured.
    pub(crate) fn read(folder: &Path, name: &str) -> Result<Option<Self>, Failure> {
        let path = folder.join(format!("{name}.json"));
        if !path.exists() {
            return Ok(None);
        }
        let record = serde_json::from_str(&fs::read_to_string(&path)?);
        Ok(Some(record.map_err(|e| format!("{}: {e}", path.display()))?))
    }

    /// Whether something else had a part in the figures.
    pub(crate) fn is_busy(&self) -> bool {
        self.taken > 0.1
    }
}

fn machine() -> Result<String, Failure> {
    let cores = thread::available_parallelism()?;
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Ok(format!("{cores} cores of {}", model.map_or("an unnamed processor", |(_, name)| name.trim())))
}

/// How many cores are in use while this process rests.
fn taken() -> Result<f64, Failure> {
    let before = ticks()?;
    thread::sleep(Duration::from_secs(1));
    let after = ticks()?;
    let all = (after.0 - before.0).max(1.0);
    Ok((after.1 - before.1) / all * thread::available_parallelism()?.get() as f64)
}

/// Of all cores, since they were started: all, and those that somebody used.
fn ticks() -> Result<(f64, f64), Failure> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    // user, nice, system, idle, waiting, interrupts twice, stolen; what follows is in the first two, too.
    let ticks = line.split_whitespace().skip(1).take(8).map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    let [_, _, _, idle, waiting, ..] = ticks[..] else { return Err("/proc/stat is too short".into()) };
    let all = ticks.iter().sum::<f64>();
    Ok((all, all - idle - waiting))
}
