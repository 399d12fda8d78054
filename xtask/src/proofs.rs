//! Requirement rows and the tests that prove them.
//!
//! A test proves rows by a comment directly above its attributes, in the form `proves A5` or `proves C2, C3`; so does a step of
//! continuous integration that is a function of its own. This module finds them, prints the table, and fails where a claimed row has no
//! test, a row is unknown, or the comment stands above something else.

mod specification;

use std::fs;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::requirements::{ROWS, Row, row};
use crate::tree::{self, File};
use crate::workspace;

/// How to print, and how strict to be.
#[derive(Default, Args)]
pub(crate) struct Arguments {
    /// One JSON array on stdout in place of the table
    #[arg(long)]
    json: bool,
    /// Exit with 0 even where a claimed row has no test
    #[arg(long)]
    allow_missing: bool,
    /// Write the table into SPECIFICATION.md
    #[arg(long, conflicts_with = "json")]
    write: bool,
}

/// A test that proves a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Test {
    file: String,
    line: usize,
    name: String,
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    row: &'a str,
    level: &'a str,
    what: &'a str,
    claimed: bool,
    tests: Vec<&'a Test>,
}

/// What the comments of the tree say.
#[derive(Debug, Default)]
struct Found {
    proofs: Vec<(&'static Row, Test)>,
    faults: Vec<String>,
}

/// Prints the table; fails on a fault or, unless allowed, on a claimed row without a test.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let files = tree::read(&workspace::root())?;
    let found = scan(&files);
    let entries = table(&found.proofs);
    if arguments.write {
        write(&files, &entries)?;
    } else if arguments.json {
        println!("{}", serde_json::to_string_pretty(&entries)?);
    } else {
        entries
            .iter()
            .filter(|entry| entry.claimed || !entry.tests.is_empty())
            .for_each(print);
    }
    let missing = missing(&entries);
    found.faults.iter().for_each(|fault| eprintln!("{fault}"));
    if !missing.is_empty() {
        eprintln!("claimed rows without a test: {}", missing.join(" "));
    }
    if !found.faults.is_empty() || (!missing.is_empty() && !arguments.allow_missing) {
        bail!(
            "{} rows lack a test, {} comments are wrong",
            missing.len(),
            found.faults.len()
        );
    }
    Ok(())
}

fn write(files: &[File], entries: &[Entry<'_>]) -> Result<()> {
    let page = files.iter().find(|file| file.path == specification::PAGE);
    let renewed = page.and_then(|page| specification::renewed(&page.text, entries));
    let renewed =
        renewed.with_context(|| format!("{} has lost the marks of its made part", specification::PAGE))?;
    fs::write(workspace::root().join(specification::PAGE), renewed)?;
    Ok(())
}

/// What is wrong with SPECIFICATION.md, where it is there: path and advice.
pub(crate) fn stale(files: &[File]) -> Option<(&str, &'static str)> {
    let page = files.iter().find(|file| file.path == specification::PAGE)?;
    let advice = match specification::renewed(&page.text, &table(&scan(files).proofs)) {
        Some(renewed) if renewed == page.text => return None,
        Some(_) => "the tests have changed: run `cargo xtask proofs --write`",
        None => "the marks of its made part are gone: put them back",
    };
    Some((&page.path, advice))
}

fn print(entry: &Entry<'_>) {
    println!("{:<4} {:<6} {}", entry.row, entry.level, entry.what);
    for test in &entry.tests {
        println!("            {}:{} {}", test.file, test.line, test.name);
    }
    if entry.tests.is_empty() {
        println!("            no test");
    }
}

fn table<'a>(proofs: &'a [(&'static Row, Test)]) -> Vec<Entry<'a>> {
    let entry = |row: &'static Row| {
        let tests = proofs
            .iter()
            .filter(|(proved, _)| proved.id == row.id)
            .map(|(_, test)| test)
            .collect();
        Entry {
            row: row.id,
            level: row.level,
            what: row.what,
            claimed: row.claimed,
            tests,
        }
    };
    ROWS.iter().map(entry).collect()
}

fn missing<'a>(entries: &[Entry<'a>]) -> Vec<&'a str> {
    entries
        .iter()
        .filter(|entry| entry.claimed && entry.tests.is_empty())
        .map(|entry| entry.row)
        .collect()
}

fn scan(files: &[File]) -> Found {
    let mut found = Found::default();
    let steps = files
        .iter()
        .find(|file| file.path == STEPS)
        .map_or("", |file| &file.text);
    for file in files {
        let Some(source) = &file.rust else { continue };
        let lines: Vec<(&str, &str)> = source.code.lines().zip(source.text.lines()).collect();
        for (index, comment) in source.comments.lines().enumerate() {
            let Some(claim) = claim(comment) else { continue };
            let place = format!("{}:{}", file.path, index + 1);
            let below = lines.get(index + 1..).unwrap_or_default();
            let Some((below, name)) = test_below(below).or_else(|| step_below(below, &file.path, steps))
            else {
                found.faults.push(format!(
                    "{place}: `proves` stands above no test: put it directly above #[test]"
                ));
                continue;
            };
            for id in claim.split(',').map(str::trim) {
                match row(id) {
                    Some(row) => {
                        let test = Test {
                            file: file.path.clone(),
                            line: index + 2 + below,
                            name: name.to_owned(),
                        };
                        found.proofs.push((row, test));
                    }
                    None => found.faults.push(format!(
                        "{place}: no requirement is called `{id}`: name rows as in `A5, B1`"
                    )),
                }
            }
        }
    }
    found
}

/// The rows that a comment line names; `None` for prose. A line is a claim where its first word after `proves` looks like a row.
fn claim(comment: &str) -> Option<&str> {
    let rows = comment
        .trim()
        .strip_prefix("//")?
        .trim_start()
        .strip_prefix("proves ")?
        .trim();
    let mut letters = rows.chars();
    let looks_like_row = letters.next()?.is_ascii_alphabetic() && letters.next()?.is_ascii_digit();
    looks_like_row.then_some(rows)
}

/// Offset and name of the test function whose attributes begin on the first of `lines` (code, text); comments may stand between.
fn test_below<'a>(lines: &[(&'a str, &'a str)]) -> Option<(usize, &'a str)> {
    let mut is_test = false;
    for (offset, (code, text)) in lines.iter().enumerate() {
        let code = code.trim();
        if code.starts_with("#[") {
            is_test |= ["#[test", "#[tokio::test"]
                .iter()
                .any(|attribute| code.starts_with(attribute));
        } else if let Some((_, after)) = code.split_once("fn ") {
            let name = after.split(['(', '<']).next()?;
            return is_test.then_some((offset, name));
        } else if !is_test && (!code.is_empty() || text.trim().is_empty()) {
            return None;
        }
    }
    None
}

/// Where the steps of continuous integration are listed.
const STEPS: &str = "xtask/src/ci.rs";

/// Offset and name of the function that `lines` begin with, where `steps` has it as a step.
fn step_below<'a>(lines: &[(&'a str, &'a str)], path: &str, steps: &str) -> Option<(usize, &'a str)> {
    let module = path.strip_prefix("xtask/src/")?.strip_suffix(".rs")?;
    let (code, _) = lines.first()?;
    let name = code.split_once("fn ")?.1.split('(').next()?;
    steps.contains(&format!("{module}::{name}")).then_some((0, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan_text(text: &str) -> Found {
        scan(&[File::new("crates/x/tests/t.rs", text)])
    }

    #[test]
    fn a_comment_above_a_test_is_a_proof_of_each_row_it_names() {
        let found = scan_text(
            "// proves C2, C3\n// in passing\n#[tokio::test(flavor = \"x\")]\nasync fn gate_holds() {}\n",
        );
        assert_eq!(found.faults, Vec::<String>::new());
        let rows: Vec<_> = found
            .proofs
            .iter()
            .map(|(row, test)| (row.id, test.name.as_str(), test.line))
            .collect();
        assert_eq!(rows, [("C2", "gate_holds", 4), ("C3", "gate_holds", 4)]);
    }

    #[test]
    fn attributes_may_span_lines_and_property_tests_count() {
        let found = scan_text(
            "proptest! {\n    // proves B1\n    #[test]\n    #[cfg(\n  unix)]\n    fn typed(x in 0..9u8) {}\n}",
        );
        assert_eq!(
            found.proofs.first().map(|(_, test)| test.name.as_str()),
            Some("typed")
        );
    }

    #[test]
    fn a_proof_above_no_test_is_a_fault() {
        for text in [
            "// proves A1\nfn helper() {}\n",
            "// proves A1\n",
            "// proves A1\n\n#[test]\nfn a() {}\n",
            "// proves A1\nconst X: u8 = 1;\n#[test]\nfn a() {}\n",
        ] {
            assert_eq!(scan_text(text).faults.len(), 1, "{text}");
        }
    }

    #[test]
    fn a_step_proves_and_a_function_that_is_none_does_not() {
        let steps = File::new(STEPS, "Step { name: \"dist\", run: |_| dist::check() }");
        let text = |name: &str| {
            File::new(
                "xtask/src/dist.rs",
                &format!("// proves G8\npub(crate) fn {name}() {{}}\n"),
            )
        };
        let found = scan(&[steps.clone(), text("check")]);
        assert_eq!(
            found
                .proofs
                .first()
                .map(|(row, test)| (row.id, test.name.as_str())),
            Some(("G8", "check"))
        );
        assert_eq!(scan(&[steps, text("make")]).faults.len(), 1);
    }

    #[test]
    fn an_unknown_row_is_a_fault() {
        assert_eq!(
            scan_text("// proves A99, A1\n#[test]\nfn a() {}\n").faults.len(),
            1
        );
        assert_eq!(scan_text("// proves a1\n#[test]\nfn a() {}\n").faults.len(), 1);
    }

    #[test]
    fn prose_and_strings_are_no_claims() {
        let found = scan_text("// proves that it works\nfn a() { \"// proves A1\"; }\n");
        assert!(found.proofs.is_empty() && found.faults.is_empty());
    }

    #[test]
    fn claimed_rows_without_a_test_are_named() {
        let found = scan_text("// proves A1\n#[test]\nfn a() {}\n");
        let entries = table(&found.proofs);
        let missing = missing(&entries);
        let later = ROWS.iter().find(|row| !row.claimed).unwrap();
        assert!(!missing.contains(&"A1") && missing.contains(&"A2") && !missing.contains(&later.id));
    }
}
