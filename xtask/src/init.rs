//! The static runtime: `suijuris-init`, linked against nothing, beside the released `suijuris` that looks for it there.

use std::path::Path;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::workspace::{cargo, metadata, shell};

const PACKAGE: &str = "suijuris-runtime";
const PROGRAM: &str = "suijuris-init";

/// How to link without a dynamic loader.
struct Linking {
    target: String,
    flags: &'static str,
}

/// Builds `suijuris-init` statically, copies it to `target/release`, prints its size.
pub(crate) fn run() -> Result<()> {
    let shell = shell()?;
    let linking = linking(&shell)?;
    cargo(
        &shell,
        &[
            "build",
            "--release",
            "--package",
            PACKAGE,
            "--bin",
            PROGRAM,
            "--target",
            &linking.target,
        ],
    )
    .env("RUSTFLAGS", linking.flags)
    .run()?;
    let target = metadata()?.target_directory.into_std_path_buf();
    let built = target.join(&linking.target).join("release").join(PROGRAM);
    let placed = target.join("release").join(PROGRAM);
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
