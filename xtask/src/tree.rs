//! The repository's own files: everything git does not ignore, read once, so that rules are functions of text.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::source::Source;

/// Larger files are data, not text that people write; bytes.
const TEXT_LIMIT_BYTES: u64 = 1 << 20;

/// One file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// Path from the workspace's folder, with `/`.
    pub(crate) path: String,
    /// Whole content; empty where it is no text.
    pub(crate) text: String,
    /// The same content split into code, literals and comments, where it is Rust.
    pub(crate) rust: Option<Source>,
}

impl File {
    /// A file as it would be read from `path`.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let rust = path.ends_with(".rs").then(|| Source::new(text));
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            rust,
        }
    }

    /// Last part of the path.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Whether the whole file is compiled for tests only.
    pub(crate) fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.name() == "tests.rs"
    }
}

/// Every file under `root`, in path order.
pub(crate) fn read(root: &Path) -> Result<Vec<File>> {
    let ignored = fs::read_to_string(root.join(".gitignore")).unwrap_or_default();
    let ignored: Vec<&str> = ignored
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let mut files = Vec::new();
    walk(root, "", &ignored, &mut files).context("the tree could not be read")?;
    files.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(files)
}

fn walk(folder: &Path, prefix: &str, ignored: &[&str], files: &mut Vec<File>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let kind = entry.file_type()?;
        if name == ".git" || ignored.iter().any(|pattern| matches(pattern, &path, &name)) {
            continue;
        }
        if kind.is_dir() {
            walk(&entry.path(), &format!("{path}/"), ignored, files)?;
        } else if kind.is_file() {
            files.push(File::new(&path, &text(&entry)?));
        }
    }
    Ok(())
}

/// Content of a text file; nothing of what is too large or not UTF-8, but links may lead there.
fn text(entry: &fs::DirEntry) -> Result<String> {
    let is_text = entry.metadata()?.len() <= TEXT_LIMIT_BYTES;
    Ok(if is_text {
        fs::read_to_string(entry.path()).unwrap_or_default()
    } else {
        String::new()
    })
}

/// The forms of `.gitignore` lines in use here: `/path`, `name/`, `*.ending`.
fn matches(pattern: &str, path: &str, name: &str) -> bool {
    if let Some(rooted) = pattern.strip_prefix('/') {
        return path == rooted.trim_end_matches('/');
    }
    match pattern.strip_prefix('*') {
        Some(ending) => name.ends_with(ending),
        None => name == pattern.trim_end_matches('/'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_paths_are_those_git_ignores() {
        assert!(matches("/target", "target", "target"));
        assert!(!matches("/target", "docs/target", "target"));
        assert!(matches(".suijuris/", "examples/hello/.suijuris", ".suijuris"));
        assert!(matches("*.profraw", "a/b.profraw", "b.profraw"));
        assert!(!matches("*.profraw", "a/b.rs", "b.rs"));
    }

    #[test]
    fn the_tree_holds_this_file_and_not_the_build() {
        let files = read(&crate::workspace::root()).unwrap();
        assert!(files.iter().any(|file| file.path == "xtask/src/tree.rs"));
        assert!(
            !files
                .iter()
                .any(|file| file.path.starts_with("target/") || file.path.starts_with(".git/"))
        );
    }
}
