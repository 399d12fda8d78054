//! The static runtime: `suijuris-init`, linked against nothing, beside the released `suijuris` that looks for it there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::workspace::{cargo, metadata, shell};

const PACKAGE: &str = "suijuris-runtime";

/// How long rustup may take to install a target, seconds.
const MUSL_WITHIN_S: u32 = 120;

/// A program of the runtime's package that is linked statically.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// The runtime.
    Init,
    /// What the bench compares its start with.
    BareListener,
}

impl Program {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Init => "suijuris-init",
            Self::BareListener => "bare-listener",
        }
    }

    /// How cargo selects it, and where it puts it.
    const fn kind(self) -> (&'static str, &'static str) {
        match self {
            Self::Init => ("--bin", ""),
            Self::BareListener => ("--example", "examples"),
        }
    }
}

/// How to link without a dynamic loader.
pub(crate) struct Linking {
    pub(crate) target: String,
    pub(crate) flags: &'static str,
}

impl Linking {
    /// The compiler of this machine, for what a bench's dependencies have in assembler: musl's own is not needed for it.
    fn compiler(&self) -> [(String, &'static str); 1] {
        [(format!("CC_{}", self.target.replace('-', "_")), "cc")]
    }
}

/// The profile of what is handed out and measured.
pub(crate) const PROFILE: &str = "dist";

/// Builds `program` statically, copies it beside what was built with `profile`, prints its size.
pub(crate) fn run(program: Program, profile: &str) -> Result<()> {
    let (built, target) = build(program)?;
    let placed = metadata()?
        .target_directory
        .into_std_path_buf()
        .join(profile)
        .join(program.name());
    place(&built, &placed)
        .with_context(|| format!("{} could not be put beside suijuris", built.display()))?;
    let bytes = std::fs::metadata(&placed)?.len();
    println!("{} ({target}): {bytes} bytes", placed.display());
    Ok(())
}

/// Builds `program` statically where cargo puts it, which is not where a released `suijuris` looks; the file and its target.
pub(crate) fn build(program: Program) -> Result<(PathBuf, String)> {
    let shell = shell()?;
    let linking = linking(&shell)?;
    let (selector, folder) = program.kind();
    cargo(
        &shell,
        &[
            "build",
            "--profile",
            PROFILE,
            "--package",
            PACKAGE,
            selector,
            program.name(),
            "--target",
            &linking.target,
        ],
    )
    .env("RUSTFLAGS", linking.flags)
    .envs(linking.compiler())
    .run()?;
    let target = metadata()?.target_directory.into_std_path_buf();
    let built = target
        .join(&linking.target)
        .join(PROFILE)
        .join(folder)
        .join(program.name());
    Ok((built, linking.target))
}

/// Musl, whose target rustup is asked for where it is not installed; glibc linked statically where it cannot be had.
pub(crate) fn linking(shell: &Shell) -> Result<Linking> {
    let architecture = std::env::consts::ARCH;
    let musl = format!("{architecture}-unknown-linux-musl");
    if !has_library(shell, &musl)? {
        eprintln!("asking rustup for {musl}, {MUSL_WITHIN_S} s at most");
        let within = MUSL_WITHIN_S.to_string();
        let asked = cmd!(shell, "timeout {within} rustup target add {musl}").quiet();
        if asked.run().is_err() {
            eprintln!("{musl} cannot be had: linking glibc statically");
        }
    }
    if has_library(shell, &musl)? {
        return Ok(Linking {
            target: musl,
            flags: "",
        });
    }
    let flags = "-C target-feature=+crt-static -C relocation-model=static";
    Ok(Linking {
        target: format!("{architecture}-unknown-linux-gnu"),
        flags,
    })
}

fn has_library(shell: &Shell, target: &str) -> Result<bool> {
    let library = cmd!(shell, "rustc --print target-libdir --target {target}")
        .quiet()
        .ignore_stderr()
        .read()?;
    Ok(Path::new(&library).is_dir())
}

/// Replaces `placed` in one step: a program that runs may not be written to.
fn place(built: &Path, placed: &Path) -> std::io::Result<()> {
    if let Some(folder) = placed.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let fresh = placed.with_extension("new");
    std::fs::copy(built, &fresh)?;
    std::fs::rename(fresh, placed)
}
