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

/// Says something that is no data on standard error; on a terminal its lines end between words.
pub(crate) fn note(text: &str) {
    let text = format!("suijuris: {text}");
    let width = columns_of(&console::Term::stderr());
    let lines = text.split('\n').map(|line| match width {
        Some(width) => wrapped(line, 0, width, 2),
        None => line.to_owned(),
    });
    drawing(&lines.collect::<Vec<_>>().join("\n"));
}

/// Shows a drawing of several lines on standard error.
pub(crate) fn drawing(text: &str) {
    // Nobody to tell when standard error is gone.
    let _ = writeln!(io::stderr(), "{}", text.trim_matches('\n'));
}

/// A path or name as a shell takes it for one word.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", clean(word).replace('\'', r"'\''"))
    }
}

/// Columns of the terminal at standard output; none where it is no terminal.
pub(crate) fn columns() -> Option<usize> {
    columns_of(&console::Term::stdout())
}

fn columns_of(term: &console::Term) -> Option<usize> {
    let found = term
        .is_term()
        .then(|| term.size_checked().map(|(_, columns)| usize::from(columns)));
    // A terminal that does not say is as wide as they have always been.
    found.map(|columns| columns.unwrap_or(80))
}

/// Text in lines of at most `width` columns, broken between words; lines after the first begin with `indent` spaces, or with
/// fewer where the word is whole then. A word that is longer than a line stands alone.
pub(crate) fn wrapped(text: &str, first: usize, width: usize, indent: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut column = first;
    let mut begun = false;
    for word in text.split(' ') {
        let length = word.chars().count();
        if begun && column + 1 + length > width {
            out.push('\n');
            let indent = indent.min(width.saturating_sub(length));
            out.push_str(&" ".repeat(indent));
            column = indent + length;
        } else {
            if begun {
                out.push(' ');
                column += 1;
            }
            column += length;
        }
        out.push_str(word);
        begun = true;
    }
    out
}

/// A secret that somebody types at the terminal, not shown.
pub(crate) fn hidden(field: &str) -> io::Result<String> {
    let term = console::Term::stderr();
    term.write_str(&format!("{field} (not shown): "))?;
    term.read_secure_line()
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

/// Columns that the last one of a table has at least before its lines are broken.
const LEAST_LAST: usize = 20;

/// Rows in aligned columns, two spaces between them; the last column is as wide as it wants, and on a terminal goes on below
/// itself where the terminal ends.
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
        self.text_on(columns(), indent)
    }

    /// As [`Table::text`], on a terminal of so many columns.
    fn text_on(&self, terminal: Option<usize>, indent: usize) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.0.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let before_last = widths.split_last().map_or(0, |(_, before)| {
            before.iter().map(|width| width + 2).sum::<usize>() + indent
        });
        let room = terminal.filter(|room| *room >= before_last + LEAST_LAST);
        let mut text = String::new();
        for row in &self.0 {
            let mut line = " ".repeat(indent);
            for (place, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let cell = match room {
                    // A path is copied as one.
                    Some(room) if place + 1 == columns && !cell.starts_with('/') => {
                        wrapped(cell, before_last, room, before_last)
                    }
                    _ => cell.clone(),
                };
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
    fn the_last_column_goes_on_below_itself_where_the_terminal_ends() {
        let mut table = Table::default();
        table.row(["qemu", "no", "no kernel is here; install one first, please"]);
        table.row(["process", "yes", "namespaces"]);
        let wide = "qemu     no   no kernel is here; install one first, please\nprocess  yes  namespaces\n";
        assert_eq!(table.text_on(None, 0), wide);
        assert_eq!(table.text_on(Some(20), 0), wide, "too narrow to break");
        let broken = "qemu     no   no kernel is here;\n              install one first,\n              please\nprocess  yes  namespaces\n";
        assert_eq!(table.text_on(Some(36), 0), broken);
        let mut table = Table::default();
        table.row(["hello", "/srv/somebody/my objects/of today/hello"]);
        assert_eq!(
            table.text_on(Some(36), 0),
            table.text_on(None, 0),
            "a path is whole"
        );
    }

    #[test]
    fn lines_break_between_words_and_what_follows_is_indented() {
        assert_eq!(wrapped("one two three", 0, 80, 4), "one two three");
        assert_eq!(wrapped("one two three", 2, 9, 4), "one two\n    three");
        assert_eq!(wrapped("abcdefghij kl", 0, 5, 2), "abcdefghij\n  kl");
        assert_eq!(wrapped("one abcdefg", 0, 8, 4), "one\n abcdefg");
        for line in wrapped(&"word ".repeat(50), 25, 80, 25).lines().skip(1) {
            assert!(
                line.chars().count() <= 80 && line.starts_with(&" ".repeat(25)),
                "{line}"
            );
        }
    }

    #[test]
    fn a_path_is_one_word_for_a_shell() {
        for (path, expect) in [
            ("a/b-c.d", "a/b-c.d"),
            ("my object", "'my object'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
            ("$HOME", "'$HOME'"),
        ] {
            assert_eq!(quoted(path), expect);
        }
    }

    #[test]
    fn a_long_value_is_cut_at_a_character() {
        let text = cell(&Value::String("ü".repeat(100)));
        assert_eq!(text.chars().count(), MAX_CELL + 1);
        assert!(text.ends_with('…'));
    }
}
