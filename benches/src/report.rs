//! Tables for people and JSON for programs.

use std::{borrow::Cow, fmt::Write as _};

use crate::Plan;

/// Tables that belong together, and what is to be known to read them.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) tables: Vec<Table>,
    pub(crate) notes: Cow<'static, str>,
}

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

    /// Where the second decimal matters. Nothing, if what it is compared with was not asked for.
    pub(crate) fn ratio(value: f64) -> Self {
        let text = if value.is_finite() { format!("{value:.2}") } else { "-".to_owned() };
        Self { text, value }
    }
}

pub(crate) fn text(plan: Plan, parts: &[Part]) -> String {
    let mut out = String::new();
    for part in parts {
        for table in &part.tables {
            write_table(&mut out, table);
        }
        let _ = writeln!(out, "\n{}", part.notes);
    }
    let _ = writeln!(out, "\n{plan:?}");
    out
}

fn write_table(out: &mut String, table: &Table) {
    let names = table.rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
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

pub(crate) fn json(plan: Plan, parts: &[Part]) -> String {
    let tables: Vec<String> = parts.iter().flat_map(|part| &part.tables).map(json_table).collect();
    format!("{{\n  \"plan\": {},\n  \"tables\": {{\n{}\n  }}\n}}\n", quoted(&format!("{plan:?}")), tables.join(",\n"))
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
                .map(|(column, cell)| format!("{}: {}", quoted(column.field), number(cell.value)))
                .collect();
            format!("      {}: {{ {} }}", quoted(name), fields.join(", "))
        })
        .collect();
    format!("    {}: {{\n{}\n    }}", quoted(&table.id), rows.join(",\n"))
}

/// What could not be reckoned, as the subject to compare with was not asked for, is null.
fn number(value: f64) -> String {
    if value.is_finite() { format!("{value:.3}") } else { "null".to_owned() }
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
    fn json_has_no_numbers_that_are_none() {
        assert_eq!((number(0.5).as_str(), number(f64::NAN).as_str()), ("0.500", "null"));
    }

    #[test]
    fn cells_are_short() {
        assert_eq!(Cell::of(42.25).text, "42.2");
        assert_eq!((Cell::ratio(1.049).text.as_str(), Cell::ratio(f64::NAN).text.as_str()), ("1.05", "-"));
        assert_eq!(Cell::of(181.4).text, "181");
        assert_eq!(Cell::of(412_345.0).text, "412k");
    }
}
