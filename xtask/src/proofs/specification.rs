//! The part of SPECIFICATION.md that lists rows and their tests: made from the comments, compared by tidy.

use super::Entry;

/// Path of the page.
pub(crate) const PAGE: &str = "SPECIFICATION.md";

const BEGIN: &str = "<!-- Made by `cargo xtask proofs --write`; what is written by hand here is lost. -->\n";
const END: &str = "<!-- End of what is made. -->\n";

/// Columns of a line at most.
const COLUMNS: usize = 120;

/// Parts of the page, by the letter of their rows.
const PARTS: &[(char, &str)] = &[
    ('A', "The object governs itself"),
    ('B', "Memory, identity, lineage"),
    ('C', "Inside the machine"),
    ('D', "Wake sources"),
    ('E', "On Fly and other vehicles"),
    ('F', "The host"),
    ('G', "For people"),
];

/// `page` with the made part as these entries give it; none where the page has no such part.
pub(crate) fn renewed(page: &str, entries: &[Entry<'_>]) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_made, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{}{END}{after}", made(entries)))
}

fn made(entries: &[Entry<'_>]) -> String {
    let mut text = String::from("\n");
    for (letter, title) in PARTS {
        let mut proven = entries
            .iter()
            .filter(|entry| is_listed(entry) && entry.row.starts_with(*letter))
            .peekable();
        if proven.peek().is_some() {
            text += &format!("## {title}\n\n");
        }
        proven.for_each(|entry| text += &listed(entry));
    }
    text += "## Not claimed\n\nDesigned, and not part of this version or not to the level that the row asks for.\n\n";
    text += "| Row | What | Level |\n|---|---|---|\n";
    for entry in entries.iter().filter(|entry| !entry.claimed) {
        let in_part = if entry.tests.is_empty() {
            ""
        } else {
            " (tests of a part above)"
        };
        text += &format!(
            "| {} | {}{in_part} | {} |\n",
            entry.row,
            entry.what,
            levels(entry.level)
        );
    }
    text + "\n"
}

fn is_listed(entry: &Entry<'_>) -> bool {
    entry.claimed || !entry.tests.is_empty()
}

fn listed(entry: &Entry<'_>) -> String {
    let mut text = format!("### {}: {} ({})\n\n", entry.row, entry.what, levels(entry.level));
    if !entry.claimed {
        text += "A part of it, which is not claimed as a whole:\n\n";
    }
    let mut files: Vec<&str> = entry.tests.iter().map(|test| test.file.as_str()).collect();
    files.dedup();
    for file in files {
        let tests = entry.tests.iter().filter(|test| test.file == file);
        let names: Vec<String> = tests.map(|test| format!("`{}`", test.name)).collect();
        text += &wrapped(&format!("- `{file}`:"), &names);
    }
    text + "\n"
}

/// A list of `names` after `head`, in lines of [`COLUMNS`] where a name fits.
fn wrapped(head: &str, names: &[String]) -> String {
    let (mut text, mut line) = (String::new(), head.to_owned());
    for (index, name) in names.iter().enumerate() {
        let comma = if index + 1 < names.len() { "," } else { "" };
        if line.len() + 1 + name.len() + comma.len() > COLUMNS && line != head {
            text += &format!("{line}\n");
            line = format!("  {name}{comma}");
        } else {
            line += &format!(" {name}{comma}");
        }
    }
    format!("{text}{line}\n")
}

fn levels(level: &str) -> String {
    if level == "bench" {
        return "benchmark".to_owned();
    }
    let letters: Vec<String> = level.chars().map(String::from).collect();
    letters.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::{Test, table};
    use super::*;
    use crate::requirements::{ROWS, row};

    fn test(name: &str, line: usize) -> Test {
        let file = "crates/x/tests/t.rs".to_owned();
        Test {
            file,
            line,
            name: name.to_owned(),
        }
    }

    #[test]
    fn the_page_is_renewed_between_its_marks_only() {
        let later = ROWS.iter().find(|row| !row.claimed).unwrap();
        let proofs = [
            (row("A1").unwrap(), test("one", 3)),
            (row("A1").unwrap(), test("two", 9)),
            (later, test("three", 12)),
        ];
        let page = format!("# Mine\n{BEGIN}of another day\n{END}\n## Figures\n");
        let renewed = renewed(&page, &table(&proofs)).unwrap();
        assert!(renewed.starts_with("# Mine\n") && renewed.ends_with("\n## Figures\n"));
        assert!(!renewed.contains("of another day"));
        assert!(
            renewed.contains("(U)\n\n- `crates/x/tests/t.rs`: `one`, `two`\n\n"),
            "{renewed}"
        );
        assert!(
            renewed.contains(&format!(
                "| {} | {} (tests of a part above) |",
                later.id, later.what
            )),
            "{renewed}"
        );
        assert_eq!(super::renewed(&renewed, &table(&proofs)), Some(renewed.clone()));
        assert_eq!(super::renewed("# No marks", &table(&proofs)), None);
    }

    #[test]
    fn long_lists_are_wrapped() {
        let names: Vec<String> = (0..9).map(|n| format!("`a_test_with_a_long_name_{n}`")).collect();
        let text = wrapped("- `file`:", &names);
        assert!(
            text.lines().count() > 1 && text.lines().all(|line| line.len() <= COLUMNS),
            "{text}"
        );
    }
}
