//! Tables for people and JSON for programs.

use std::fmt::Write as _;

use crate::Plan;

const NOTES: &str = "\
Keys: the peers take theirs by value, so a String is cloned, and allocated, per call; u64 and Arc<str> spare them that.
tasklock's guards are 'static and carry a fencing token, a deadline, its renewal and the news of a loss; the peers' do not.
Between processes, tasklock writes down who holds and a token that outlives it, and checks that the file is still the lock.
The floor, a tokio Mutex found by index, has no keys to look up and none to forget.
Medians over interleaved rounds; max is the worst wait of any round. Compare within one run only.";

/// What one workload measured.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<(String, Vec<Cell>)>,
}

#[derive(Debug)]
pub(crate) struct Column {
    head: &'static str,
    field: &'static str,
}

impl Column {
    pub(crate) fn new(head: &'static str, field: &'static str) -> Self {
        Self { head, field }
    }
}

#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) value: f64,
}

impl Cell {
    pub(crate) fn of(value: f64) -> Self {
        let text = match value {
            v if v >= 10_000.0 => format!("{:.0}k", v / 1000.0),
            v if v >= 100.0 => format!("{v:.0}"),
            v => format!("{v:.1}"),
        };
        Self { text, value }
    }
}

pub(crate) fn text(plan: Plan, tables: &[Table]) -> String {
    let names = tables.iter().flat_map(|t| &t.rows).map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut out = String::new();
    for table in tables {
        let _ = writeln!(out, "\n{}", table.title);
        let _ = write!(out, "  {:names$}", "");
        for column in &table.columns {
            let _ = write!(out, "  {:>12}", column.head);
        }
        out.push('\n');
        for (name, cells) in &table.rows {
            let _ = write!(out, "  {name:names$}");
            for cell in cells {
                let _ = write!(out, "  {:>12}", cell.text);
            }
            out.push('\n');
        }
    }
    let _ = writeln!(
        out,
        "\n{NOTES}\n{} rounds of {} cycles per thread, {:?} per round on the hot key.",
        plan.rounds, plan.cycles, plan.hot
    );
    out
}

pub(crate) fn json(plan: Plan, tables: &[Table]) -> String {
    let tables: Vec<String> = tables.iter().map(json_table).collect();
    format!(
        "{{\n  \"rounds\": {},\n  \"cycles\": {},\n  \"hot_ms\": {},\n  \"tables\": {{\n{}\n  }}\n}}\n",
        plan.rounds,
        plan.cycles,
        plan.hot.as_millis(),
        tables.join(",\n")
    )
}

fn json_table(table: &Table) -> String {
    let rows: Vec<String> = table
        .rows
        .iter()
        .map(|(name, cells)| {
            let fields: Vec<String> = table
                .columns
                .iter()
                .zip(cells)
                .map(|(column, cell)| format!("{}: {:.3}", quoted(column.field), cell.value))
                .collect();
            format!("      {}: {{ {} }}", quoted(name), fields.join(", "))
        })
        .collect();
    format!("    {}: {{\n{}\n    }}", quoted(&table.id), rows.join(",\n"))
}

/// A JSON string. Names are written in this crate, so quotes and backslashes are all there is to escape.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_every_figure() {
        let table = Table {
            id: "t".into(),
            title: "T".into(),
            columns: vec![Column::new("ns p50", "ns_p50")],
            rows: vec![("a \"b\"".into(), vec![Cell::of(1.5)])],
        };
        assert_eq!(json_table(&table), "    \"t\": {\n      \"a \\\"b\\\"\": { \"ns_p50\": 1.500 }\n    }");
    }

    #[test]
    fn cells_are_short() {
        assert_eq!(Cell::of(42.25).text, "42.2");
        assert_eq!(Cell::of(181.4).text, "181");
        assert_eq!(Cell::of(412_345.0).text, "412k");
    }
}
