//! What a part measured: tables for people, and the same for programs.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

/// Tables that belong together, and what is to be known to read them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) tables: Vec<Table>,
    pub(crate) notes: String,
}

impl Part {
    pub(crate) fn new(tables: Vec<Table>, notes: impl Into<String>) -> Self {
        Part { tables, notes: notes.into() }
    }
}

/// What one workload measured.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) columns: Vec<Column>,
    /// A subject, and a figure for each column.
    pub(crate) rows: Vec<(String, Vec<Cell>)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Column {
    pub(crate) head: Cow<'static, str>,
    pub(crate) field: Cow<'static, str>,
}

impl Column {
    pub(crate) fn new(head: &'static str, field: &'static str) -> Self {
        Self { head: head.into(), field: field.into() }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) text: String,
    /// Nothing, if what it is compared with was not asked for.
    pub(crate) value: Option<f64>,
}

impl Cell {
    fn new(text: String, value: f64) -> Self {
        if value.is_finite() { Self { text, value: Some(value) } } else { Self { text: "-".to_owned(), value: None } }
    }

    pub(crate) fn of(value: f64) -> Self {
        let text = match value {
            v if v >= 10_000.0 => format!("{:.0}k", v / 1000.0),
            v if v >= 100.0 => format!("{v:.0}"),
            v => format!("{v:.1}"),
        };
        Self::new(text, value)
    }

    /// Where the second decimal matters.
    pub(crate) fn ratio(value: f64) -> Self {
        Self::new(format!("{value:.2}"), value)
    }

    pub(crate) fn count(value: usize) -> Self {
        Self::new(value.to_string(), value as f64)
    }

    /// What the least and the most served had, as `least:most`: of the round in the middle, so that both are of the same.
    pub(crate) fn share(rounds: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let fairness = |(least, most): (usize, usize)| least as f64 / most.max(1) as f64;
        let mut rounds: Vec<(usize, usize)> = rounds.into_iter().collect();
        rounds.sort_by(|a, b| fairness(*a).total_cmp(&fairness(*b)));
        let middle = rounds.get(rounds.len() / 2).copied().unwrap_or_default();
        Self::new(format!("{}:{}", middle.0, middle.1), fairness(middle))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.tables {
            table.fmt(f)?;
        }
        writeln!(f, "\n{}", self.notes)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        write!(f, "\n{}\n  {:names$}", self.title, "")?;
        for column in &self.columns {
            write!(f, "  {:>12}", column.head)?;
        }
        writeln!(f)?;
        for (name, cells) in &self.rows {
            write!(f, "  {name:names$}")?;
            for cell in cells {
                write!(f, "  {:>12}", cell.text)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_short() {
        assert_eq!(Cell::of(42.25).text, "42.2");
        assert_eq!((Cell::ratio(1.049).text.as_str(), Cell::ratio(f64::NAN).text.as_str()), ("1.05", "-"));
        assert_eq!(Cell::of(181.4).text, "181");
        assert_eq!(Cell::of(412_345.0).text, "412k");
    }

    #[test]
    fn shares_are_of_the_round_in_the_middle() {
        let cell = Cell::share([(1, 10), (9, 10), (5, 10)]);
        assert_eq!((cell.text.as_str(), cell.value), ("5:10", Some(0.5)));
        assert_eq!(Cell::share([]).text, "0:0");
    }
}
