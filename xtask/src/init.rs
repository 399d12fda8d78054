//! The static runtime: `suijuris-init`, linked against nothing, beside the released `suijuris` that looks for it there.

use std::path::Path;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::workspace::{cargo, metadata, shell};

const PACKAGE: &str = "suijuris-runtime";

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
struct Linking {
    target: String,
    flags: &'static str,
}

/// Builds `program` statically, copies it to `target/release`, prints its size.
pub(crate) fn run(program: Program) -> Result<()> {
    let shell = shell()?;
    let linking = linking(&shell)?;
    let (selector, folder) = program.kind();
    cargo(
        &shell,
        &[
            "build",
            "--release",
            "--package",
            PACKAGE,
            selector,
            program.name(),
            "--target",
            &linking.target,
        ],
    )
    .env("RUSTFLAGS", linking.flags)
    .run()?;
    let target = metadata()?.target_directory.into_std_path_buf();
    let built = target
        .join(&linking.target)
        .join("release")
        .join(folder)
        .join(program.name());
    let placed = target.join("release").join(program.name());
    place(&built, &placed)
        .with_context(|| format!("{} could not be put beside suijuris", built.display()))?;
    let bytes = std::fs::metadata(&placed)?.len();
    println!("{} ({}): {bytes} bytes", placed.display(), linking.target);
    Ok(())
}

/// Musl where its target is installed (it starts faster), else glibc linked statically.
fn linking(shell: &Shell) -> Result<Linking> {
    let architecture = std::env::consts::ARCH;
    let musl = format!("{architecture}-unknown-linux-musl");
    let library = cmd!(shell, "rustc --print target-libdir --target {musl}")
        .quiet()
        .ignore_stderr()
        .read()?;
    if Path::new(&library).is_dir() {
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

/// Replaces `placed` in one step: a program that runs may not be written to.
fn place(built: &Path, placed: &Path) -> std::io::Result<()> {
    if let Some(folder) = placed.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let fresh = placed.with_extension("new");
    std::fs::copy(built, &fresh)?;
    std::fs::rename(fresh, placed)
}
