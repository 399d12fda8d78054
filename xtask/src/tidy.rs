//! Rules of the repository that no compiler checks. Each rule is a function of text or of the crate graph, and each has a test
//! that shows it a violation.
//!
//! `error` fails the run; `warning` wants another look.

mod arrows;
mod budgets;
mod codes;
mod manifests;
mod names;
mod rust;
mod text;

use std::fmt;

use anyhow::{Context as _, Result, bail};

use crate::proofs;
use crate::tree::{self, File};
use crate::workspace::{self, Crate};

/// One violation: where, which rule, what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    file: String,
    /// From 1; 0 where the whole file is meant.
    line: usize,
    rule: &'static str,
    advice: String,
    grave: bool,
}

impl Finding {
    fn error(file: &str, line: usize, rule: &'static str, advice: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line,
            rule,
            advice: advice.into(),
            grave: true,
        }
    }

    fn warning(file: &str, line: usize, rule: &'static str, advice: impl Into<String>) -> Self {
        Self {
            grave: false,
            ..Self::error(file, line, rule, advice)
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            rule,
            advice,
            grave,
        } = self;
        let level = if *grave { "error" } else { "warning" };
        write!(out, "{file}:{line}: {level}[{rule}]: {advice}")
    }
}

/// Checks every rule; fails if one finding is an error.
pub(crate) fn run() -> Result<()> {
    let (files, crates) = read()?;
    let mut findings = check(&files, &crates);
    findings.extend(budgets::check_runtime_tree(&budgets::runtime_tree(
        &workspace::shell()?,
    )?));
    let lock =
        std::fs::read_to_string(workspace::root().join("Cargo.lock")).context("Cargo.lock cannot be read")?;
    findings.extend(budgets::check_lock(&lock));
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.grave).count();
    println!(
        "tidy: {} files, {} crates, {errors} errors, {} warnings",
        files.len(),
        crates.len(),
        findings.len() - errors
    );
    if errors > 0 {
        bail!("{errors} rules are broken");
    }
    Ok(())
}

fn read() -> Result<(Vec<File>, Vec<Crate>)> {
    let crates = workspace::metadata()?.packages.iter().map(Crate::from).collect();
    Ok((tree::read(&workspace::root())?, crates))
}

fn check(files: &[File], crates: &[Crate]) -> Vec<Finding> {
    let mut findings = arrows::check(crates);
    findings.extend(budgets::check(crates));
    findings.extend(codes::check(files));
    findings.extend(manifests::check(files, crates));
    findings.extend(names::check(files));
    findings.extend(rust::check(files));
    findings.extend(text::check(files));
    findings
        .extend(proofs::stale(files).map(|(page, advice)| Finding::error(page, 0, "specification", advice)));
    findings
}

/// `crates/<name>/Cargo.toml`, or xtask's.
fn manifest_of(name: &str) -> String {
    if name == "xtask" {
        "xtask/Cargo.toml".to_owned()
    } else {
        format!("crates/{name}/Cargo.toml")
    }
}

#[cfg(test)]
fn rules(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.rule).collect()
}

#[cfg(test)]
fn fixture(name: &str, normal: &[&str], dev: &[&str]) -> Crate {
    // In fixtures a name with a leading `+` is a package from the registry.
    let of = |names: &[&str]| {
        let each = |name: &&str| workspace::Dependency {
            name: name.trim_start_matches('+').to_owned(),
            ours: !name.starts_with('+'),
        };
        names.iter().map(each).collect()
    };
    Crate {
        name: name.to_owned(),
        normal: of(normal),
        dev: of(dev),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_repository_is_tidy() {
        let (files, crates) = read().unwrap();
        let errors: Vec<String> = check(&files, &crates)
            .iter()
            .filter(|finding| finding.grave)
            .map(Finding::to_string)
            .collect();
        assert!(errors.is_empty(), "{}", errors.join("\n"));
    }

    #[test]
    fn a_finding_reads_like_a_compiler_message() {
        let finding = Finding::warning("a.rs", 3, "length", "split it");
        assert_eq!(finding.to_string(), "a.rs:3: warning[length]: split it");
    }
}
