//! Templates that `new` starts an object from.

use std::io;
use std::path::{Path, PathBuf};

use suijuris_core::manifest::is_label;

/// The name that stands in a template for that of the object.
const NAME: &str = "__NAME__";

/// A start for an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    /// Name, as `new` takes it.
    pub name: &'static str,
    /// What it starts, in a line.
    pub summary: &'static str,
    /// Files by name.
    files: &'static [(&'static str, &'static str)],
}

/// Keeps what an object writes out of images that are built beside its definition.
const DOCKERIGNORE: &str = include_str!("../templates/dockerignore");

macro_rules! template {
    ($name:literal, $summary:literal, [$($file:literal),*]) => {
        Template {
            name: $name,
            summary: $summary,
            files: &[(".dockerignore", DOCKERIGNORE), $(($file, include_str!(concat!("../templates/", $name, "/", $file)))),*],
        }
    };
}

const TEMPLATES: &[Template] = &[
    template!(
        "http",
        "a web server that wakes for requests and sleeps when they cease",
        [
            "object.toml",
            "governance.cedar",
            "README.md",
            "tests/rules.toml",
            "public/index.html"
        ]
    ),
    template!(
        "tcp",
        "a server of raw connections that serves only under fresh consent",
        [
            "object.toml",
            "governance.cedar",
            "README.md",
            "tests/rules.toml",
            "server.py"
        ]
    ),
    template!(
        "agent",
        "a worker with a budget and a queue of jobs, awake only while there is work",
        [
            "object.toml",
            "governance.cedar",
            "README.md",
            "tests/rules.toml",
            "agent.py"
        ]
    ),
    template!(
        "class",
        "a class: one object for each key, created on first use, serving a page to anybody on loopback",
        [
            "object.toml",
            "governance.cedar",
            "README.md",
            "tests/rules.toml",
            "public/index.html"
        ]
    ),
];

/// All templates.
#[must_use]
pub const fn templates() -> &'static [Template] {
    TEMPLATES
}

/// Why no object was started.
#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    /// No such template.
    #[error("there is no template `{0}`; choose http, tcp, agent or class")]
    UnknownTemplate(String),
    /// Not a name for an object.
    #[error(
        "`{0}` is not a name for an object; use 1 to 63 lower-case letters, digits and hyphens, a letter first"
    )]
    Name(String),
    /// Something is there already; nothing was touched.
    #[error("`{0}` is not empty; name a new or empty directory")]
    NotEmpty(PathBuf),
    /// The operating system refuses.
    #[error("`{path}` cannot be written")]
    Write {
        /// File or directory.
        path: PathBuf,
        /// What it says.
        #[source]
        source: io::Error,
    },
}

/// Writes `template` into `dir`, which is made if need be, for an object called `name`; gives the files written.
///
/// # Errors
/// [`ScaffoldError`]; a directory that is not empty is left as it is.
pub fn scaffold(template: &str, dir: &Path, name: &str) -> Result<Vec<PathBuf>, ScaffoldError> {
    let known = TEMPLATES.iter().find(|known| known.name == template);
    let template = known.ok_or_else(|| ScaffoldError::UnknownTemplate(template.to_owned()))?;
    if !is_label(name) {
        return Err(ScaffoldError::Name(name.to_owned()));
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| ScaffoldError::Write { path, source }
    };
    std::fs::create_dir_all(dir).map_err(failed(dir))?;
    if std::fs::read_dir(dir).map_err(failed(dir))?.next().is_some() {
        return Err(ScaffoldError::NotEmpty(dir.to_owned()));
    }
    let write = |(file, text): &(&str, &str)| {
        let path = dir.join(file);
        let parent = path.parent().unwrap_or(dir);
        std::fs::create_dir_all(parent).map_err(failed(parent))?;
        std::fs::write(&path, text.replace(NAME, name)).map_err(failed(&path))?;
        Ok(path)
    };
    template.files.iter().map(write).collect()
}
