//! The OpenAPI document of the control API, `docs/openapi.json`: made from the types of `suijuris-api`, and committed, so that
//! clients are made from it without building anything, and a change of the API shows in review.

use anyhow::{Context as _, Result, bail};
use xshell::Shell;

use crate::workspace::{cargo, root, shell};

/// Where it stands.
const PATH: &str = "docs/openapi.json";

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write nothing; fail where the committed one is another
    #[arg(long)]
    check: bool,
}

/// Writes the document, or compares it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let shell = shell()?;
    if arguments.check {
        return check(&shell);
    }
    std::fs::write(root().join(PATH), made(&shell)?).with_context(|| format!("{PATH} cannot be written"))
}

/// Fails where the committed document is not what the types say.
pub(crate) fn check(shell: &Shell) -> Result<()> {
    let committed = std::fs::read_to_string(root().join(PATH)).unwrap_or_default();
    if committed != made(shell)? {
        bail!("{PATH} is not what the types say: run `cargo xtask openapi`, and commit it");
    }
    Ok(())
}

fn made(shell: &Shell) -> Result<String> {
    let arguments = [
        "run",
        "--quiet",
        "--package",
        "suijuris-api",
        "--features",
        "openapi",
        "--example",
        "openapi",
    ];
    let text = cargo(shell, &arguments).read()?;
    Ok(format!("{text}\n"))
}
