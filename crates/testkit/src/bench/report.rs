//! The one table that all benches print: ours, a peer from the same run, the ratio, and the budget it is held against.

use std::fmt;
use std::fs;
use std::io::{self, Write};

use serde::{Serialize, Serializer};

use super::{Machine, Settings};

/// Which direction is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Time, memory, instructions.
    Lower,
    /// Rates.
    Higher,
}

/// Our figure beside a peer's.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was measured, as in `admit, CPU per decision`.
    pub what: String,
    /// Unit of both figures.
    pub unit: &'static str,
    /// Direction that is good.
    pub better: Better,
    /// Our figure.
    pub ours: f64,
    /// Who stands beside us; for a budget without a peer, `budget`.
    pub peer: String,
    /// The peer's figure.
    pub theirs: f64,
    /// Ratio asked for, where one is: above 1 means better than the peer.
    pub budget: Option<f64>,
}

impl Row {
    /// How many times better ours is than the peer's: above 1 is good, whatever the direction.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        match self.better {
            Better::Lower => self.theirs / self.ours,
            Better::Higher => self.ours / self.theirs,
        }
    }

    fn judgement(&self) -> String {
        match self.budget {
            None => String::new(),
            Some(asked) if self.ratio() >= asked => format!("≥ {} met", figure(asked)),
            Some(asked) => format!(
                "≥ {} MISSED by {:.0}%",
                figure(asked),
                (1.0 - self.ratio() / asked) * 100.0
            ),
        }
    }

    fn cells(&self) -> [String; 6] {
        let with_unit = |value| format!("{} {}", figure(value), self.unit);
        let ratio = format!("{} ×", figure(self.ratio()));
        [
            self.what.clone(),
            with_unit(self.ours),
            self.peer.clone(),
            with_unit(self.theirs),
            ratio,
            self.judgement(),
        ]
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut out = serializer.serialize_struct("Row", 8)?;
        out.serialize_field("what", &self.what)?;
        out.serialize_field("unit", self.unit)?;
        out.serialize_field("better", &self.better)?;
        out.serialize_field("ours", &self.ours)?;
        out.serialize_field("peer", &self.peer)?;
        out.serialize_field("theirs", &self.theirs)?;
        out.serialize_field("ratio", &self.ratio())?;
        out.serialize_field("budget", &self.budget)?;
        out.end()
    }
}

/// The results of one bench program.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Name of the bench.
    pub name: String,
    /// Whether it ran with few rounds.
    pub quick: bool,
    /// Where it ran.
    pub machine: Machine,
    /// Figures, in order of printing.
    pub rows: Vec<Row>,
    /// What a reader must know to judge the figures: versions of peers, what was left out and why.
    pub notes: Vec<String>,
}

impl Report {
    /// An empty report of bench `name` on this machine.
    #[must_use]
    pub fn new(name: &str, settings: &Settings) -> Self {
        Self {
            name: name.to_owned(),
            quick: settings.quick,
            machine: Machine::read(),
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Adds a note.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Prints the table to stdout, and writes the results where `settings` says.
    ///
    /// # Errors
    /// Those of writing.
    pub fn publish(&self, settings: &Settings) -> io::Result<()> {
        write!(io::stdout(), "{self}")?;
        settings
            .json
            .as_ref()
            .map_or(Ok(()), |path| fs::write(path, serde_json::to_vec_pretty(self)?))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["what", "ours", "peer", "theirs", "ratio", "budget"].map(str::to_owned);
        let lines: Vec<[String; 6]> = [head]
            .into_iter()
            .chain(self.rows.iter().map(Row::cells))
            .collect();
        let mut widths = [0; 6];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.chars().count().max(*width);
            }
        }
        writeln!(
            out,
            "{}{}",
            self.machine,
            if self.quick {
                " (quick: not worth quoting)"
            } else {
                ""
            }
        )?;
        for line in &lines {
            let cells: Vec<String> = line
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            writeln!(out, "{}", cells.join("  ").trim_end())?;
        }
        self.notes
            .iter()
            .try_for_each(|note| writeln!(out, "note: {note}"))
    }
}

/// Three digits that mean something.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(better: Better, ours: f64, theirs: f64, budget: Option<f64>) -> Row {
        Row {
            what: "admit".into(),
            unit: "ns",
            better,
            ours,
            peer: "Cedar".into(),
            theirs,
            budget,
        }
    }

    #[test]
    fn above_one_is_better_in_both_directions() {
        assert_eq!(row(Better::Lower, 10.0, 500.0, None).ratio(), 50.0);
        assert_eq!(row(Better::Higher, 500.0, 10.0, None).ratio(), 50.0);
    }

    #[test]
    fn a_missed_budget_says_by_how_much() {
        assert_eq!(
            row(Better::Lower, 10.0, 500.0, Some(50.0)).judgement(),
            "≥ 50.0 met"
        );
        assert_eq!(
            row(Better::Lower, 10.0, 250.0, Some(50.0)).judgement(),
            "≥ 50.0 MISSED by 50%"
        );
    }

    #[test]
    fn table_and_json_say_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            quick: true,
            json: Some(folder.path().join("x.json")),
        };
        let mut report = Report::new("x", &settings);
        report.row(row(Better::Lower, 16.25, 4_000.0, None));
        report.note("Cedar 4.14");
        report.publish(&settings).unwrap();
        let text = report.to_string();
        assert!(
            text.contains("admit  16.2 ns  Cedar  4000 ns  246 ×") && text.contains("not worth quoting"),
            "{text}"
        );
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(settings.json.unwrap()).unwrap()).unwrap();
        assert_eq!(json["rows"][0]["theirs"], 4_000.0);
        assert_eq!(json["notes"][0], "Cedar 4.14");
    }
}
