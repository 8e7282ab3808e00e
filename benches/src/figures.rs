//! The figures of the last run in Markdown, beside what they are to be.

use std::{fmt::Write as _, fs, path::Path};

use crate::{record::Record, report::Table, subject::Failure};

const BEGIN: &str = "<!-- figures: written by `cargo xtask bench --render` -->\n";
const END: &str = "<!-- end of figures -->\n";

/// What a subject's figure is to be.
struct Target {
    table: &'static str,
    row: &'static str,
    field: &'static str,
    bound: Bound,
}

enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// At most so many times what this row has in the same table.
    Within(f64, &'static str),
    /// At least so many times that.
    Beyond(f64, &'static str),
}

use Bound::{AtLeast, AtMost, Beyond, Within};

const fn target(table: &'static str, row: &'static str, field: &'static str, bound: Bound) -> Target {
    Target { table, row, field, bound }
}

const STRICT: &str = "tasklock, strict order";
const RAW: &str = "raw SET NX PX + script";
const TARGETS: &[Target] = &[
    target(
        "uncontended_1",
        "tasklock, &str, token + remaining read",
        "ns_p50",
        Within(1.0, "lockable LockPool, String"),
    ),
    target(
        "uncontended_2",
        "tasklock, &str, token + remaining read",
        "ns_p50",
        Within(1.0, "lockable LockPool, String"),
    ),
    target("hot_key_64", "tasklock, &str", "per_second", AtLeast(400_000.0)),
    target("local_16", "tasklock, file:", "ns_p50", Within(1.0, "locking (Python), FileLock")),
    target("local_16", "tasklock, socket:", "ns_p50", Within(1.0, "locking (Python), SocketLock")),
    target("redis_uncontended", "tasklock", "us_p50", Within(1.05, RAW)),
    target("redis_uncontended", "tasklock, synchronized, background release", "round_trips", AtMost(1.15)),
    target("redis_distinct_64", "tasklock", "per_second", Beyond(1.0, RAW)),
    target("redis_distinct_64", "tasklock", "per_second", Beyond(1.4, "rslock")),
    target("redis_hot_key_0_ms", "tasklock", "calls_per_acquisition", AtMost(2.5)),
    target("redis_hot_key_0_ms", STRICT, "calls_per_acquisition", AtMost(2.5)),
    target("redis_hot_key_1_ms", "tasklock", "wait_p99_over_ideal", AtMost(1.2)),
    target("redis_hot_key_1_ms", "tasklock", "least_over_most", AtLeast(0.9)),
    target("redis_hot_key_1_ms", "tasklock", "calls_per_acquisition", AtMost(2.5)),
    target("redis_hot_key_1_ms", STRICT, "wait_p99_over_ideal", AtMost(1.2)),
    target("redis_hot_key_1_ms", STRICT, "least_over_most", AtLeast(0.9)),
    target("redis_hot_key_1_ms", STRICT, "calls_per_acquisition", AtMost(2.5)),
    target("redis_one_process_0_guests", "tasklock", "per_second", AtLeast(400_000.0)),
    target("redis_hand_over_0_ms", "tasklock", "round_trips", AtMost(1.15)),
    target("redis_hand_over_2_ms", "tasklock", "round_trips", AtMost(1.15)),
    target("shared_uncontended", "tasklock, read", "us_p50", Within(1.0, "distributed-lock-redis, read")),
    target("shared_uncontended", "tasklock, write", "us_p50", Within(1.0, "distributed-lock-redis, write")),
    target(
        "shared_uncontended",
        "tasklock, a permit of 8",
        "us_p50",
        Within(1.0, "distributed-lock-redis, a permit of 8"),
    ),
    target("shared_readers", "tasklock", "per_second", Beyond(1.0, "distributed-lock-redis")),
    target("shared_mixed", "tasklock", "write_wait_p99_ms", Within(1.0, "distributed-lock-redis")),
    target("shared_mixed", "tasklock", "overlaps", AtMost(0.0)),
    target("shared_permits", "tasklock", "wait_p99_over_ideal", AtMost(1.2)),
    target("shared_permits", "tasklock", "least_over_most", AtLeast(0.9)),
    target("shared_permits", "tasklock", "calls_per_acquisition", AtMost(2.5)),
    target("shared_permits", "tasklock", "overlaps", AtMost(0.0)),
    target("pools_uncontended", "tasklock", "us_p50", Within(1.0, "redis-allocator (Python)")),
    target("pools_busy", "tasklock", "per_second", Beyond(1.0, "redis-allocator (Python)")),
    target("pools_busy", "tasklock", "wait_p99_ms", Within(1.0, "redis-allocator (Python)")),
    target("pools_assign", "tasklock", "full_stall_ms", Within(1.0, "redis-allocator (Python)")),
    target("held", "tasklock, memory", "percent_of_a_core", AtMost(5.0)),
    target("held", "tasklock, memory", "kib_each", AtMost(1.0)),
    target("held", "tasklock, redis", "percent_of_a_core", AtMost(5.0)),
    target("held", "tasklock, redis", "kib_each", AtMost(1.0)),
    target("dynamodb_uncontended", "tasklock", "requests", AtMost(2.0)),
];

/// Writes the figures of what was measured last of each part into this document, between its marks.
pub(crate) fn render(document: &Path, parts: &[(&str, Option<Record>)]) -> Result<(), Failure> {
    let text = fs::read_to_string(document)?;
    let marks = || format!("{} has no marks to write the figures between", document.display());
    let (before, rest) = text.split_once(BEGIN).ok_or_else(marks)?;
    let (_, after) = rest.split_once(END).ok_or_else(marks)?;
    fs::write(document, format!("{before}{BEGIN}{}{END}{after}", figures(parts)?))?;
    Ok(())
}

fn figures(parts: &[(&str, Option<Record>)]) -> Result<String, Failure> {
    let mut out = "\n".to_owned();
    let records: Vec<&Record> = parts.iter().filter_map(|(_, record)| record.as_ref()).collect();
    for (name, record) in parts {
        let Some(record) = record else {
            let _ = writeln!(out, "- `{name}`: not measured");
            continue;
        };
        let Record { date, machine, taken, plan, .. } = record;
        let _ = write!(out, "- `{name}`: {date}, {machine}, {plan}");
        if record.is_busy() {
            let _ = write!(out, "; **busy machine**: others used {taken:.1} cores");
        }
        out.push('\n');
    }
    let mut verdicts = Vec::new();
    let (mut lines, mut missed) = (String::new(), String::new());
    for table in records.iter().flat_map(|record| &record.part.tables) {
        let _ = writeln!(lines, "| **{}** | | |", table.title);
        for (name, cells) in &table.rows {
            let figures =
                table.columns.iter().zip(cells).map(|(column, cell)| format!("{} **{}**", column.head, cell.text));
            let targets = TARGETS.iter().filter(|target| target.table == table.id && target.row == name);
            let judged = targets.map(|target| target.judge(table)).collect::<Result<Vec<_>, _>>()?;
            for verdict in judged.iter().filter(|verdict| verdict.met == Some(false)) {
                let _ = writeln!(missed, "- {}; {name}: {}", table.title, verdict.text);
            }
            let said: Vec<&str> = judged.iter().map(|verdict| verdict.text.as_str()).collect();
            let _ = writeln!(lines, "| {name} | {} | {} |", figures.collect::<Vec<_>>().join(", "), said.join("; "));
            verdicts.extend(judged);
        }
        if let Some(lost) =
            TARGETS.iter().find(|t| t.table == table.id && !table.rows.iter().any(|(row, _)| row == t.row))
        {
            return Err(format!("{} has no row {:?}, for which there is a target", table.id, lost.row).into());
        }
    }
    let met = verdicts.iter().filter(|verdict| verdict.met == Some(true)).count();
    let judged = verdicts.iter().filter(|verdict| verdict.met.is_some()).count();
    let _ = writeln!(out, "\n{met} of {judged} targets were met{}\n", if missed.is_empty() { "." } else { "; not:" });
    let _ = writeln!(out, "{missed}\n| | figures | targets |\n|---|---|---|\n{lines}");
    for record in records {
        let _ = writeln!(out, "**`{}`**: {}\n", record.name, record.part.notes.trim());
    }
    // What looks like a tag would be taken for one; the marks are not within.
    Ok(out.replace('<', "&lt;"))
}

struct Verdict {
    met: Option<bool>,
    text: String,
}

impl Target {
    fn judge(&self, table: &Table) -> Result<Verdict, Failure> {
        let at = table.columns.iter().position(|column| column.field == self.field);
        let at = at.ok_or_else(|| format!("{} has no figure {}, for which there is a target", table.id, self.field))?;
        let value =
            |row: &str| table.rows.iter().find(|(name, _)| name == row).and_then(|(_, cells)| cells.get(at)?.value);
        let (sign, limit, than) = match self.bound {
            AtMost(limit) => ("≤", Some(limit), String::new()),
            AtLeast(limit) => ("≥", Some(limit), String::new()),
            Within(times, row) => ("≤", value(row).map(|value| times * value), format!(" ({times} × {row})")),
            Beyond(times, row) => ("≥", value(row).map(|value| times * value), format!(" ({times} × {row})")),
        };
        let head = &table.columns[at].head;
        let (Some(value), Some(limit)) = (value(self.row), limit) else {
            return Ok(Verdict { met: None, text: format!("{head} {sign}{than}: not compared") });
        };
        let met = if sign == "≤" { value <= limit } else { value >= limit };
        let verdict = if met { "met".to_owned() } else { format!("**missed**, {}", short(value)) };
        Ok(Verdict { met: Some(met), text: format!("{head} {sign} {}{than}: {verdict}", short(limit)) })
    }
}

fn short(value: f64) -> String {
    match value {
        v if v >= 10_000.0 => format!("{:.0}k", v / 1000.0),
        v if v >= 100.0 => format!("{v:.0}"),
        v if v.fract() == 0.0 => format!("{v}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Cell, Column, Part};

    fn table(ours: f64, raw: Option<f64>) -> Table {
        let mut rows = vec![("tasklock".to_owned(), vec![Cell::of(ours)])];
        rows.extend(raw.map(|raw| (RAW.to_owned(), vec![Cell::of(raw)])));
        Table {
            id: "redis_distinct_64".into(),
            title: "Distinct".into(),
            columns: vec![Column::new("per second", "per_second")],
            rows,
        }
    }

    fn record(taken: f64, part: Part) -> Record {
        let [name, date, machine, plan] = ["redis", "today", "2 cores", "3 rounds"].map(str::to_owned);
        Record { name, date, machine, taken, plan, part }
    }

    fn judge(bound: Bound, table: &Table) -> Verdict {
        target("redis_distinct_64", "tasklock", "per_second", bound).judge(table).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn targets_are_met_at_their_bound() {
        let seen = table(100.0, Some(80.0));
        for (bound, met) in [
            (AtMost(100.0), true),
            (AtMost(99.0), false),
            (AtLeast(100.0), true),
            (AtLeast(101.0), false),
            (Within(1.25, RAW), true),
            (Within(1.0, RAW), false),
            (Beyond(1.25, RAW), true),
            (Beyond(1.4, RAW), false),
        ] {
            assert_eq!(judge(bound, &seen).met, Some(met));
        }
        assert_eq!(
            judge(Beyond(1.4, RAW), &seen).text,
            "per second ≥ 112 (1.4 × raw SET NX PX + script): **missed**, 100"
        );
    }

    #[test]
    fn what_is_not_there_is_not_met_by_accident() {
        assert_eq!(judge(Within(1.0, RAW), &table(100.0, None)).met, None);
        let gone = target("redis_distinct_64", "tasklock", "us_p50", AtMost(1.0)).judge(&table(1.0, None));
        assert!(gone.is_err());
    }

    #[test]
    fn a_target_without_its_row_is_an_error() {
        let mut seen = table(100.0, Some(80.0));
        seen.rows.remove(0);
        let part = Part::new(vec![seen], "notes");
        assert!(figures(&[("redis", Some(record(0.0, part)))]).is_err());
    }

    #[test]
    fn figures_go_between_the_marks() {
        let part = Part::new(vec![table(100.0, Some(80.0))], "notes\na <note>");
        let json = serde_json::to_string(&record(0.5, part)).unwrap_or_else(|e| panic!("{e}"));
        let record: Record = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}"));
        let path = std::env::temp_dir().join(format!("tasklock-figures-{}.md", std::process::id()));
        let write = |text: &str| fs::write(&path, text).unwrap_or_else(|e| panic!("{e}"));
        write(&format!("before\n{BEGIN}old\n{END}after\n"));
        render(&path, &[("redis", Some(record)), ("held", None)]).unwrap_or_else(|e| panic!("{e}"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        write("none");
        let unmarked = render(&path, &[]);
        let _ = fs::remove_file(&path);
        assert!(text.starts_with("before\n") && text.ends_with("after\n") && !text.contains("old"), "{text}");
        assert!(text.contains("**busy machine**: others used 0.5 cores"), "{text}");
        assert!(
            text.contains("| tasklock | per second **100** | per second ≥ 80 (1 × raw SET NX PX + script): met; "),
            "{text}"
        );
        assert!(text.contains("\n1 of 1 targets were met.\n"), "{text}");
        assert!(text.contains("- `held`: not measured\n"), "{text}");
        assert!(text.contains("\na &lt;note>\n"), "{text}");
        assert!(unmarked.is_err());
    }
}
