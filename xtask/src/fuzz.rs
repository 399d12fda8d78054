//! Fuzzing: every target for so long, with cargo-fuzz and its coverage where that is installed, else by the plain loop of
//! `crates/fuzzing`. In CI each target runs five seconds by the plain loop.

use anyhow::{Result, bail};
use xshell::{Shell, cmd};

use crate::workspace::{cargo, metadata, shell};

/// How long, and what.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Minutes for each target
    #[arg(long, default_value_t = 1)]
    minutes: u64,
    /// Targets; all where none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// The plain loop, even where cargo-fuzz is installed
    #[arg(long)]
    plain: bool,
    /// The plain loop under AddressSanitizer, which the compiler at hand has with it
    #[arg(long)]
    asan: bool,
    /// Seed of the plain loop
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the targets; fails where one breaks, after the last.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let shell = shell()?;
    let covered = !arguments.plain && !arguments.asan && has_cargo_fuzz(&shell);
    if covered {
        return with_coverage(&shell, arguments);
    }
    if !arguments.plain && !arguments.asan {
        eprintln!(
            "cargo-fuzz is missing (cargo install cargo-fuzz): the plain loop runs, which mutates without looking at coverage"
        );
    }
    plain(&shell, arguments)
}

/// The step of CI.
pub(crate) fn five_seconds(shell: &Shell) -> Result<()> {
    // What the step before it built; alone, it builds it as that does.
    let program = metadata()?
        .target_directory
        .into_std_path_buf()
        .join("debug/suijuris-fuzzing");
    if !program.is_file() {
        cargo(shell, &["test", "--workspace", "--no-run"]).run()?;
    }
    Ok(cmd!(shell, "{program} --seconds 5 --seed 1").run()?)
}

fn has_cargo_fuzz(shell: &Shell) -> bool {
    let listed = cmd!(shell, "cargo fuzz --version").quiet().ignore_stderr().read();
    listed.is_ok()
}

fn plain(shell: &Shell, asked: &Arguments) -> Result<()> {
    let seconds = asked.minutes.saturating_mul(60).to_string();
    let seed = asked.seed.to_string();
    let mut arguments = vec!["run", "--release", "--package", "suijuris-fuzzing"];
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    if asked.asan {
        // With a target named, what runs while it is built is built without.
        arguments.extend(["--target", &host, "--target-dir", "target/asan"]);
    }
    arguments.extend(["--", "--seconds", &seconds, "--seed", &seed]);
    arguments.extend(asked.targets.iter().map(String::as_str));
    let mut command = cargo(shell, &arguments);
    if asked.asan {
        command = command
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", "-Zsanitizer=address");
    }
    Ok(command.run()?)
}

/// cargo-fuzz: AddressSanitizer, and a corpus in `fuzz/corpus` that grows.
fn with_coverage(shell: &Shell, arguments: &Arguments) -> Result<()> {
    let known = cmd!(shell, "cargo fuzz list").read()?;
    let known: Vec<&str> = known.lines().collect();
    let named: Vec<&str> = arguments.targets.iter().map(String::as_str).collect();
    if let Some(unknown) = named.iter().find(|name| !known.contains(name)) {
        bail!("no target is called `{unknown}`; targets: {}", known.join(" "));
    }
    let seconds = format!("-max_total_time={}", arguments.minutes.saturating_mul(60));
    let mut broken = Vec::new();
    for target in known
        .iter()
        .filter(|target| named.is_empty() || named.contains(target))
    {
        let ran = cmd!(
            shell,
            "cargo fuzz run {target} -- {seconds} -max_len=65536 -timeout=20"
        )
        // Sanitizers and coverage are the compiler's own; it takes their flags from a stable release so.
        .env("RUSTC_BOOTSTRAP", "1")
        .run();
        if ran.is_err() {
            broken.push(*target);
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!("broken: {}; their inputs lie in fuzz/artifacts", broken.join(" "))
}
