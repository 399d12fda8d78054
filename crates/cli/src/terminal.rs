//! What people see: standard output and error, columns, colours, and values that cannot play tricks on a terminal.
//!
//! Colour only on a terminal that wants it, and never alone.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use serde::Serialize;
use suijuris_core::memory::{Plain, Value};

/// Characters of a value in a table at most.
const MAX_CELL: usize = 64;

/// Writes data to standard output.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a value as one line of JSON to standard output.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    Ok(print(&line)?)
}

/// Says something that is no data on standard error.
pub(crate) fn note(text: &str) {
    drawing(&format!("suijuris: {text}"));
}

/// Shows a drawing of several lines on standard error.
pub(crate) fn drawing(text: &str) {
    // Nobody to tell when standard error is gone.
    let _ = writeln!(io::stderr(), "{}", text.trim_matches('\n'));
}

/// So many of a thing: `1 record`, `2 records`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{ending}")
}

/// How a word is coloured.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tone {
    Good,
    Bad,
    Faint,
    Strong,
}

/// The terminal at standard output, or what stands in its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    colour: bool,
}

impl Screen {
    pub(crate) fn stdout() -> Self {
        Self {
            colour: colour(&io::stdout()),
        }
    }

    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => 32,
            Tone::Bad => 31,
            Tone::Faint => 2,
            Tone::Strong => 1,
        };
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Whether this stream is a terminal that wants colour.
pub(crate) fn colour(stream: &impl io::IsTerminal) -> bool {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    wanted && stream.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Rows in aligned columns, two spaces between them; the last column is as wide as it wants.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Vec<String>>);

impl Table {
    pub(crate) fn row<const N: usize>(&mut self, cells: [&str; N]) {
        self.0.push(cells.iter().map(|cell| clean(cell)).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rows, each indented by `indent` spaces.
    pub(crate) fn text(&self, indent: usize) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.0.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in &self.0 {
            let mut line = " ".repeat(indent);
            for (cell, width) in row.iter().zip(&widths) {
                // Writing to a String cannot fail.
                let _ = write!(line, "{cell:width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Text without control characters, which could move a terminal's cursor or forge a line.
pub(crate) fn clean(text: &str) -> String {
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().collect::<String>()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escape).collect()
}

/// A value for a table: short, clean, secrets veiled.
pub(crate) fn cell(value: &Value) -> String {
    let text = clean(&plain(value));
    match text.char_indices().nth(MAX_CELL) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// A value whole: bare text for what is text, JSON for the rest, secrets veiled.
pub(crate) fn plain(value: &Value) -> String {
    match json(value) {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    }
}

/// A value as JSON, secrets veiled.
pub(crate) fn json(value: &Value) -> serde_json::Value {
    serde_json::to_value(Plain(value)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_control_characters_shown() {
        let mut table = Table::default();
        table.row(["a", "bcd", "x\x1b[2Jy"]);
        table.row(["ef", "g", ""]);
        assert_eq!(table.text(1), " a   bcd  x\\u{1b}[2Jy\n ef  g\n");
    }

    #[test]
    fn a_long_value_is_cut_at_a_character() {
        let text = cell(&Value::String("ü".repeat(100)));
        assert_eq!(text.chars().count(), MAX_CELL + 1);
        assert!(text.ends_with('…'));
    }
}
