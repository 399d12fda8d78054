//! Every check of continuous integration, in an order where cheap answers come first and later steps reuse what earlier ones built.
//!
//! A failed step does not stop the others, so that one run tells everything. To add a step, add a line to [`steps`].

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use cargo_metadata::{Metadata, TargetKind};
use xshell::Shell;

use crate::workspace::{cargo, has_target, metadata, shell};
use crate::{dist, first, fuzz, init, openapi, proofs, tidy};

/// Random cases of the differential test of policy; the issue asks for at least this many.
const DIFFERENTIAL_CASES: &str = "50000";

/// Which steps to run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run this step alone; may be given more than once
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// Print the steps and stop
    #[arg(long)]
    list: bool,
}

struct Step {
    name: &'static str,
    about: &'static str,
    run: fn(&Shell) -> Result<()>,
}

#[rustfmt::skip]
fn steps(metadata: &Metadata) -> Vec<Step> {
    let mut steps = vec![
        Step { name: "fmt", about: "the code is formatted", run: |shell| run_cargo(shell, "fmt --all --check -- --color never") },
        Step { name: "tidy", about: "repository rules hold", run: |_| tidy::run() },
        Step { name: "proofs", about: "each claimed requirement has a test", run: |_| proofs::run(&proofs::Arguments::default()) },
        Step { name: "clippy", about: "no lint fires", run: |shell| with_documents(shell, &["clippy", "--all-targets", "--keep-going"], &["--", "-D", "warnings"]) },
        Step { name: "doc", about: "the documentation builds without a warning", run: doc },
        Step { name: "build", about: "tests, examples and programs build", run: |shell| with_documents(shell, &["test", "--no-run"], &[]) },
        Step { name: "fuzz", about: "each decoder of foreign bytes answers mutated input for five seconds", run: fuzz::five_seconds },
        Step { name: "openapi", about: "the committed OpenAPI document is what the types say", run: openapi::check },
        Step { name: "static", about: "the runtime links statically", run: |_| init::build(init::Program::Init).map(drop) },
        Step { name: "dist", about: "an archive, a package and an image are made, and used where nothing else is", run: |_| dist::check() },
        Step { name: "first", about: "the README's first command runs with Rust and a C compiler alone", run: first::run },
        Step { name: "test", about: "the tests pass, those in the documentation too", run: |shell| with_documents(shell, &["test", "--no-fail-fast"], &[]) },
    ];
    if has_target(metadata, "suijuris-policy", &TargetKind::Test, "differential") {
        steps.push(Step { name: "differential", about: "decision programs agree with Cedar on 50,000 random cases", run: differential });
    }
    steps
}

fn run_cargo(shell: &Shell, arguments: &str) -> Result<()> {
    Ok(cargo(shell, &arguments.split(' ').collect::<Vec<_>>()).run()?)
}

/// Cargo over the workspace, with what prints the API documents: their step finds it built.
fn with_documents(shell: &Shell, subcommand: &[&str], rest: &[&str]) -> Result<()> {
    let arguments = [
        subcommand,
        &["--workspace", "--features", openapi::FEATURES],
        rest,
    ]
    .concat();
    Ok(cargo(shell, &arguments).run()?)
}

fn doc(shell: &Shell) -> Result<()> {
    Ok(cargo(shell, &["doc", "--no-deps", "--workspace", "--keep-going"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()?)
}

fn differential(shell: &Shell) -> Result<()> {
    let arguments = [
        "test",
        "--release",
        "--package",
        "suijuris-policy",
        "--test",
        "differential",
    ];
    Ok(cargo(shell, &arguments).env("CASES", DIFFERENTIAL_CASES).run()?)
}

/// How a step ended.
struct Outcome {
    name: &'static str,
    took: Duration,
    passed: bool,
}

/// Runs the steps; fails, after the last, if one of them did.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let steps = select(steps(&metadata()?), &arguments.only)?;
    if arguments.list {
        steps
            .iter()
            .for_each(|step| println!("{:<14} {}", step.name, step.about));
        return Ok(());
    }
    let shell = shell()?;
    let count = steps.len();
    let outcomes: Vec<Outcome> = steps
        .iter()
        .enumerate()
        .map(|(index, step)| perform(step, &format!("{}/{count}", index + 1), &shell))
        .collect();
    summarise(&outcomes)
}

fn select(steps: Vec<Step>, only: &[String]) -> Result<Vec<Step>> {
    let names: Vec<&str> = steps.iter().map(|step| step.name).collect();
    if let Some(unknown) = only.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("no step is called `{unknown}`; steps: {}", names.join(" "));
    }
    Ok(steps
        .into_iter()
        .filter(|step| only.is_empty() || only.iter().any(|name| name == step.name))
        .collect())
}

fn perform(step: &Step, number: &str, shell: &Shell) -> Outcome {
    eprintln!("\n=== {number} {}: {}", step.name, step.about);
    let start = Instant::now();
    let result = (step.run)(shell);
    let took = start.elapsed();
    match &result {
        Ok(()) => eprintln!("=== {} passed in {:.1} s", step.name, took.as_secs_f64()),
        Err(error) => eprintln!(
            "=== {} FAILED in {:.1} s: {error:#}",
            step.name,
            took.as_secs_f64()
        ),
    }
    Outcome {
        name: step.name,
        took,
        passed: result.is_ok(),
    }
}

fn summarise(outcomes: &[Outcome]) -> Result<()> {
    println!("\n{:<14} {:>9}  result", "step", "seconds");
    for Outcome { name, took, passed } in outcomes {
        println!(
            "{name:<14} {:>9.1}  {}",
            took.as_secs_f64(),
            if *passed { "passed" } else { "FAILED" }
        );
    }
    println!(
        "{:<14} {:>9.1}",
        "all",
        outcomes
            .iter()
            .map(|outcome| outcome.took)
            .sum::<Duration>()
            .as_secs_f64()
    );
    let failed: Vec<&str> = outcomes
        .iter()
        .filter(|outcome| !outcome.passed)
        .map(|outcome| outcome.name)
        .collect();
    if !failed.is_empty() {
        bail!(
            "failed: {}; run one alone with `cargo xtask ci --only {}`",
            failed.join(" "),
            failed.first().unwrap_or(&"")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &'static str, run: fn(&Shell) -> Result<()>) -> Step {
        Step { name, about: "", run }
    }

    #[test]
    fn an_unknown_step_is_refused_with_the_names_of_all() {
        let steps = vec![step("fmt", |_| Ok(())), step("test", |_| Ok(()))];
        let error = select(steps, &["tset".to_owned()]).err().unwrap().to_string();
        assert!(error.contains("tset") && error.contains("fmt test"), "{error}");
    }

    #[test]
    fn a_failure_is_kept_and_named_after_the_others_ran() {
        let shell = Shell::new().unwrap();
        let steps = [step("bad", |_| bail!("broken")), step("good", |_| Ok(()))];
        let outcomes: Vec<_> = steps.iter().map(|step| perform(step, "1/2", &shell)).collect();
        assert!(outcomes.last().unwrap().passed);
        assert!(
            summarise(&outcomes)
                .err()
                .unwrap()
                .to_string()
                .starts_with("failed: bad;")
        );
    }
}
