//! Every text file: no paths of one machine, no package index of one network, no marks of unfinished work; links resolve; licences stand.

use std::collections::BTreeSet;

use super::Finding;
use crate::tree::File;

/// Most lines of the architecture page: it is read in one sitting.
const ARCHITECTURE_LINES_MAX: usize = 250;

/// Files that must stand at the root.
const REQUIRED: &[(&str, &str)] = &[
    (
        "LICENSE-MIT",
        "the licence is MIT OR Apache-2.0: both texts are part of the repository",
    ),
    (
        "LICENSE-APACHE",
        "the licence is MIT OR Apache-2.0: both texts are part of the repository",
    ),
    ("CHANGELOG.md", "users read there what changed"),
];

/// Words that may stand nowhere: word, rule, advice. Spelled in two parts, so that this table does not find itself.
const BANNED: &[(&str, &str, &str)] = &[
    (
        concat!("/wo", "rk/"),
        "machine-path",
        "a path of one machine: make it relative",
    ),
    (
        concat!("/ro", "ot/"),
        "machine-path",
        "a path of one machine: make it relative",
    ),
    (
        concat!("/ho", "me/"),
        "machine-path",
        "a path of one machine: make it relative",
    ),
    (
        concat!("index", "-url"),
        "package-index",
        "a package index of one network: leave it to the user's configuration",
    ),
    (
        concat!("replace", "-with"),
        "package-index",
        "a package index of one network: leave it to the user's configuration",
    ),
    (
        concat!("sparse", "+http"),
        "package-index",
        "a package index of one network: leave it to the user's configuration",
    ),
    (
        concat!("TO", "DO"),
        "unfinished",
        "finish it, or leave it out cleanly",
    ),
    (
        concat!("FIX", "ME"),
        "unfinished",
        "finish it, or leave it out cleanly",
    ),
];

/// Checks every text file, and the links between them.
pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut findings: Vec<Finding> = REQUIRED
        .iter()
        .filter(|(path, _)| !paths.contains(path))
        .map(|(path, why)| Finding::error(path, 0, "required-file", format!("missing: {why}")))
        .collect();
    for file in files {
        findings.extend(banned_words(file));
        findings.extend(architecture_length(file));
        if file.path.ends_with(".md") {
            findings.extend(broken_links(file, files));
        }
    }
    findings
}

fn banned_words(file: &File) -> Vec<Finding> {
    let of_line = |(index, line): (usize, &str)| {
        let hit = |(word, _, _): &&(&str, &str, &str)| {
            line.match_indices(word).any(|(at, _)| begins_there(line, at))
        };
        let found = |(word, rule, advice): &(&str, &'static str, &str)| {
            Finding::error(&file.path, index + 1, rule, format!("`{word}`: {advice}"))
        };
        BANNED.iter().filter(hit).map(found).collect::<Vec<_>>()
    };
    file.text.lines().enumerate().flat_map(of_line).collect()
}

/// Whether the word at `at` is not the middle of a longer path or word.
fn begins_there(line: &str, at: usize) -> bool {
    let before = line.get(..at).and_then(|text| text.chars().next_back());
    !before.is_some_and(|letter| letter.is_alphanumeric() || "._-}$".contains(letter))
}

fn architecture_length(file: &File) -> Option<Finding> {
    let lines = file.text.lines().count();
    let too_long = file.path == "ARCHITECTURE.md" && lines > ARCHITECTURE_LINES_MAX;
    too_long.then(|| {
        Finding::error(
            &file.path,
            0,
            "length",
            format!("{lines} lines, at most {ARCHITECTURE_LINES_MAX}: move detail to docs/"),
        )
    })
}

fn broken_links(file: &File, files: &[File]) -> Vec<Finding> {
    let broken = |(line, target): (usize, String)| {
        let reason = unresolved(&file.path, &target, files)?;
        Some(Finding::error(
            &file.path,
            line,
            "link",
            format!("`{target}`: {reason}"),
        ))
    };
    links(&file.text).into_iter().filter_map(broken).collect()
}

/// Line and target of each `[…](target)` outside code that points into the repository.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        // Code spans hold examples, not links.
        let line: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let targets = line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', ' ']).next());
        let inside = |target: &&str| !target.contains("://") && !target.starts_with("mailto:");
        found.extend(targets.filter(inside).map(|target| (number, target.to_owned())));
    }
    found
}

/// Lines outside fenced code, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fence && !fenced).then_some((index + 1, line))
    })
}

/// Why `target`, written in `from`, leads nowhere.
fn unresolved(from: &str, target: &str, files: &[File]) -> Option<&'static str> {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let Some(path) = (if path.is_empty() {
        Some(from.to_owned())
    } else {
        resolve(from, path)
    }) else {
        return Some("it leads out of the repository");
    };
    let folder = format!("{path}/");
    match files.iter().find(|file| file.path == path) {
        Some(file)
            if anchor.is_empty()
                || !path.ends_with(".md")
                || anchors(&file.text).any(|found| found == anchor) =>
        {
            None
        }
        Some(_) => Some("the page has no such heading"),
        None if path.is_empty() || files.iter().any(|file| file.path.starts_with(&folder)) => None,
        None => Some("there is no such file"),
    }
}

/// `path`, written in the file `from`, from the root; `None` where it leads out.
fn resolve(from: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Anchors of a page's headings: lowercase, blanks to hyphens, punctuation dropped.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let headings = prose(text)
        .map(|(_, line)| line)
        .filter(|line| line.starts_with('#'));
    headings.map(|heading| {
        let letters = heading
            .trim_start_matches('#')
            .trim()
            .chars()
            .flat_map(char::to_lowercase);
        let kept = letters.filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
        kept.map(|letter| if letter == ' ' { '-' } else { letter })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::super::rules;
    use super::*;

    /// Findings of `text` at `path`, in a repository that has what it must.
    fn check_at(path: &str, text: &str) -> Vec<&'static str> {
        let mut files: Vec<File> = REQUIRED.iter().map(|(path, _)| File::new(path, "")).collect();
        files.push(File::new("docs/page.md", "# A Page, at last\n"));
        files.push(File::new(path, text));
        rules(&check(&files))
    }

    #[test]
    fn a_missing_licence_is_caught() {
        assert_eq!(rules(&check(&[])), ["required-file"; 3]);
    }

    #[test]
    fn each_banned_word_is_caught_in_any_text_file() {
        for (word, rule, _) in BANNED {
            assert_eq!(
                check_at("crates/x/a.toml", &format!("first\nsee {word}x")),
                [*rule],
                "{word}"
            );
        }
    }

    #[test]
    fn longer_paths_and_words_are_no_machine_paths() {
        for prefix in ["examples", "$HOME", "${DIR}", "https://host"] {
            assert_eq!(
                check_at("a.txt", &format!("{prefix}{}x", concat!("/wo", "rk/"))),
                Vec::<&str>::new(),
                "{prefix}"
            );
        }
    }

    #[test]
    fn links_that_lead_nowhere_are_caught() {
        assert_eq!(check_at("docs/a.md", "see [it](missing.md)"), ["link"]);
        assert_eq!(check_at("docs/a.md", "see [it](../../up.md)"), ["link"]);
        assert_eq!(check_at("docs/a.md", "see [it](page.md#absent)"), ["link"]);
    }

    #[test]
    fn links_that_lead_somewhere_are_not() {
        let text = "[a](page.md) [b](../docs/page.md#a-page-at-last) [c](https://x.example/y) [d](../docs) [e](#here)\n# Here\n\
                    `[f](missing.md)`\n```\n[g](missing.md)\n```\n";
        assert_eq!(check_at("docs/a.md", text), Vec::<&str>::new());
    }

    #[test]
    fn a_long_architecture_page_is_caught() {
        assert_eq!(check_at("ARCHITECTURE.md", &"line\n".repeat(251)), ["length"]);
        assert_eq!(
            check_at("ARCHITECTURE.md", &"line\n".repeat(250)),
            Vec::<&str>::new()
        );
    }
}
