//! The workspace as cargo sees it, and cargo itself as a child process.

use std::path::PathBuf;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, TargetKind};
use xshell::{Cmd, Shell, cmd};

/// Folder of the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    let xtask = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// A shell that stands in the workspace's folder.
pub(crate) fn shell() -> Result<Shell> {
    let shell = Shell::new()?;
    shell.change_dir(root());
    Ok(shell)
}

/// Packages of the workspace, without the crates they depend on.
pub(crate) fn metadata() -> Result<Metadata> {
    MetadataCommand::new()
        .current_dir(root())
        .no_deps()
        .exec()
        .context("cargo metadata failed: repair the Cargo.toml it names")
}

/// Cargo, without the variables that the cargo which runs this program has set: they make build scripts of dependencies run again.
pub(crate) fn cargo<'a>(shell: &'a Shell, arguments: &[&str]) -> Cmd<'a> {
    let own = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
        "CARGO_PRIMARY_",
    ];
    std::env::vars_os()
        .filter(|(key, _)| {
            key.to_str()
                .is_some_and(|key| own.iter().any(|prefix| key.starts_with(prefix)))
        })
        .fold(cmd!(shell, "cargo {arguments...}"), |command, (key, _)| {
            command.env_remove(key)
        })
}

/// A package with what the dependency rules look at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Crate {
    /// Package name without `suijuris-`.
    pub(crate) name: String,
    /// Names of normal and build dependencies, ours without `suijuris-`.
    pub(crate) normal: Vec<Dependency>,
    /// Names of dependencies of tests and examples.
    pub(crate) dev: Vec<Dependency>,
}

/// One line of a `[dependencies]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependency {
    /// Package name, ours without `suijuris-`.
    pub(crate) name: String,
    /// Whether it is a package of this workspace.
    pub(crate) ours: bool,
}

impl From<&Package> for Crate {
    fn from(package: &Package) -> Self {
        let of = |dev: bool| {
            let kinds = package.dependencies.iter();
            kinds
                .filter(|found| (found.kind == DependencyKind::Development) == dev)
                .map(Dependency::from)
                .collect()
        };
        Self {
            name: short(&package.name).to_owned(),
            normal: of(false),
            dev: of(true),
        }
    }
}

impl From<&cargo_metadata::Dependency> for Dependency {
    fn from(found: &cargo_metadata::Dependency) -> Self {
        Self {
            name: short(&found.name).to_owned(),
            ours: found.path.is_some(),
        }
    }
}

fn short(package: &str) -> &str {
    package.strip_prefix("suijuris-").unwrap_or(package)
}

/// Whether `package` has a target `name` of `kind`.
pub(crate) fn has_target(metadata: &Metadata, package: &str, kind: &TargetKind, name: &str) -> bool {
    metadata
        .packages
        .iter()
        .filter(|found| found.name.as_str() == package)
        .flat_map(|found| &found.targets)
        .any(|target| target.name == name && target.kind.contains(kind))
}
