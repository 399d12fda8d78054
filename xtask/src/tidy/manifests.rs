//! Cargo.toml files: each outside dependency is named once, with its reason, and used; the lock file knows one registry.

use super::Finding;
use crate::tree::File;
use crate::workspace::Crate;

const RULE: &str = "dependency";
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks the root manifest, every crate's manifest, and the lock file.
pub(super) fn check(files: &[File], crates: &[Crate]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        match (file.path.as_str(), file.name()) {
            ("Cargo.toml", _) => findings.extend(check_root(file, crates)),
            (_, "Cargo.toml") => findings.extend(check_member(file)),
            ("Cargo.lock", _) => findings.extend(check_lock(file)),
            _ => {}
        }
    }
    findings
}

/// Lines of dependency tables: number, name, all after the first `=`.
fn dependencies<'a>(file: &'a File, wanted: &'a str) -> impl Iterator<Item = (usize, &'a str, &'a str)> {
    let mut inside = false;
    file.text.lines().enumerate().filter_map(move |(index, line)| {
        if line.starts_with('[') {
            inside = line.trim_end().ends_with(wanted);
            return None;
        }
        let (name, value) = line
            .split_once('=')
            .filter(|_| inside && line.starts_with(char::is_alphanumeric))?;
        Some((index + 1, name.trim(), value))
    })
}

fn check_root(file: &File, crates: &[Crate]) -> Vec<Finding> {
    let used = |name: &str| {
        crates
            .iter()
            .flat_map(|found| found.normal.iter().chain(&found.dev))
            .any(|to| !to.ours && to.name == name)
    };
    let outside = dependencies(file, "dependencies]").filter(|(_, name, _)| !name.starts_with("suijuris-"));
    let check = |(line, name, value): (usize, &str, &str)| {
        let has_reason = value
            .split_once('#')
            .is_some_and(|(_, reason)| !reason.trim().is_empty());
        if !has_reason {
            return Some(Finding::error(
                &file.path,
                line,
                RULE,
                format!("`{name}` has no reason: add `# why` on its line"),
            ));
        }
        (!used(name)).then(|| {
            Finding::warning(
                &file.path,
                line,
                RULE,
                format!("no crate uses `{name}`: take it out"),
            )
        })
    };
    outside.filter_map(check).collect()
}

fn check_member(file: &File) -> Vec<Finding> {
    // A workspace of its own, which cannot inherit.
    if file.text.lines().any(|line| line.trim() == "[workspace]") {
        return Vec::new();
    }
    let own = |(_, name, value): &(usize, &str, &str)| {
        !name.ends_with(".workspace") && !value.contains("workspace = true")
    };
    let advice = |name: &str| {
        format!("`{name}` has a version of its own: name it in [workspace.dependencies] with its reason")
    };
    dependencies(file, "dependencies]")
        .filter(own)
        .map(|(line, name, _)| Finding::error(&file.path, line, RULE, advice(name)))
        .collect()
}

fn check_lock(file: &File) -> Vec<Finding> {
    let foreign = |(_, line): &(usize, &str)| line.starts_with("source = ") && !line.contains(CRATES_IO);
    let advice = "a package does not come from crates.io: others could not build this";
    file.text
        .lines()
        .enumerate()
        .filter(foreign)
        .map(|(index, _)| Finding::error(&file.path, index + 1, RULE, advice))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{fixture, rules};
    use super::*;

    fn check_file(path: &str, text: &str) -> Vec<Finding> {
        check(
            &[File::new(path, text)],
            &[fixture("x", &["+serde", "+tokio"], &[])],
        )
    }

    #[test]
    fn a_dependency_without_reason_is_caught() {
        let text = "[workspace.dependencies]\nserde = \"1\" # wire types\nsuijuris-core = { path = \"x\" }\ntokio = \"1\"\n[profile.dev]\ndebug = 1\n";
        let findings = check_file("Cargo.toml", text);
        assert_eq!(
            findings.iter().map(|finding| finding.line).collect::<Vec<_>>(),
            [4]
        );
        assert!(findings.iter().all(|finding| finding.grave));
    }

    #[test]
    fn an_unused_dependency_is_noted() {
        let findings = check_file(
            "Cargo.toml",
            "[workspace.dependencies]\nrayon = \"1\" # threads\n",
        );
        assert!(rules(&findings) == [RULE] && findings.iter().all(|finding| !finding.grave));
    }

    #[test]
    fn a_version_outside_the_root_is_caught() {
        let text = "[dependencies]\nserde.workspace = true\nnix = { workspace = true, features = [\"fs\"] }\n[dev-dependencies]\nrand = \"0.9\"\n";
        assert_eq!(rules(&check_file("crates/x/Cargo.toml", text)), [RULE]);
    }

    #[test]
    fn a_foreign_registry_in_the_lock_file_is_caught() {
        let text = format!("source = \"{CRATES_IO}\"\nsource = \"registry+https://mirror.example/index\"\n");
        assert_eq!(rules(&check_file("Cargo.lock", &text)), [RULE]);
    }
}
