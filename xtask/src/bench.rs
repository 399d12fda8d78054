//! Finds bench programs and runs them as they are handed out, one after the other.
//!
//! A bench is an example of a crate, named in that crate's manifest so that what is measured and how to run it stand together:
//!
//! ```toml
//! [package.metadata.bench.decide]
//! example = "bench_decide"
//! about = "decide against Cedar, CEL and regorus"
//! needs = ["valgrind"]
//! ```
//!
//! `features` names features of the package to build with, `arguments` what the program is started with, for one that has several
//! benches. `needs` names programs without which it cannot run; `suijuris`, `suijuris-init`, `bare-listener` and `fake-firecracker`
//! among them are built first. The program measures and prints with `suijuris_testkit::bench`, which also writes
//! the results to the file that this module names.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::{Metadata, TargetKind};
use serde::Deserialize;
use xshell::{Shell, cmd};

use crate::init;
use crate::workspace::{cargo, has_target, metadata, shell};

/// Which benches to run, and how long.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run these; all where none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Print the benches and stop
    #[arg(long)]
    list: bool,
    /// Fewer rounds: shows that it works, its figures are not worth quoting
    #[arg(long)]
    quick: bool,
    /// Take our own programs, where they are needed, from this directory and do not build them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// One bench.
#[derive(Debug)]
struct Bench {
    name: String,
    package: String,
    entry: Entry,
}

/// `[package.metadata.bench.<name>]` of a manifest.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Example target of the package.
    example: String,
    /// What is compared with what.
    about: String,
    /// Programs it cannot do without.
    #[serde(default)]
    needs: Vec<String>,
    /// Features of the package that its peers are behind.
    #[serde(default)]
    features: Vec<String>,
    /// What the program is started with.
    #[serde(default)]
    arguments: Vec<String>,
}

/// Runs the benches asked for. One that lacks a program is skipped with a word, or refused where it was asked for by name.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let metadata = metadata()?;
    let target = metadata.target_directory.clone().into_std_path_buf();
    let benches = select(registry(&metadata)?, &arguments.names)?;
    if arguments.list {
        benches
            .iter()
            .for_each(|bench| println!("{:<14} {} ({})", bench.name, bench.entry.about, bench.package));
        return Ok(());
    }
    let shell = shell()?;
    if arguments.programs.is_none() {
        build_own(&shell, &benches)?;
    }
    let path = search_path(&target, arguments.programs.as_deref())?;
    let (ready, lacking): (Vec<&Bench>, Vec<&Bench>) =
        benches.iter().partition(|bench| missing(bench, &path).is_empty());
    for bench in &lacking {
        let missing = missing(bench, &path).join(" ");
        eprintln!(
            "skipped: {} needs {missing}; run `sh tools/setup --bench`",
            bench.name
        );
    }
    ready
        .iter()
        .try_for_each(|bench| measure(&shell, bench, &target, &path, arguments.quick))?;
    if !lacking.is_empty() && !arguments.names.is_empty() {
        bail!("{} of the benches asked for did not run", lacking.len());
    }
    Ok(())
}

/// All benches that the manifests of the workspace name, in order of name.
fn registry(metadata: &Metadata) -> Result<Vec<Bench>> {
    let mut benches = Vec::new();
    for package in &metadata.packages {
        for (name, entry) in entries(&package.metadata)
            .with_context(|| format!("{}: [package.metadata.bench]", package.manifest_path))?
        {
            if !has_target(metadata, &package.name, &TargetKind::Example, &entry.example) {
                bail!(
                    "{}: bench `{name}` names no example of this package: `{}`",
                    package.manifest_path,
                    entry.example
                );
            }
            benches.push(Bench {
                name,
                package: package.name.to_string(),
                entry,
            });
        }
    }
    benches.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(benches)
}

fn entries(metadata: &serde_json::Value) -> Result<BTreeMap<String, Entry>> {
    metadata.get("bench").map_or_else(
        || Ok(BTreeMap::new()),
        |table| Ok(serde_json::from_value(table.clone())?),
    )
}

fn select(benches: Vec<Bench>, names: &[String]) -> Result<Vec<Bench>> {
    if let Some(unknown) = names
        .iter()
        .find(|name| !benches.iter().any(|bench| bench.name == **name))
    {
        let known: Vec<&str> = benches.iter().map(|bench| bench.name.as_str()).collect();
        bail!("no bench is called `{unknown}`; benches: {}", known.join(" "));
    }
    Ok(benches
        .into_iter()
        .filter(|bench| names.is_empty() || names.contains(&bench.name))
        .collect())
}

/// Builds those of our own programs that a bench needs.
fn build_own(shell: &Shell, benches: &[Bench]) -> Result<()> {
    let needed = |program: &str| {
        benches
            .iter()
            .any(|bench| bench.entry.needs.iter().any(|need| need == program))
    };
    if needed("suijuris") {
        cargo(
            shell,
            &["build", "--profile", init::PROFILE, "--package", "suijuris-cli"],
        )
        .run()?;
    }
    if needed("fake-firecracker") {
        let played = ["--package", "suijuris-vehicle", "--bin", "fake-firecracker"];
        cargo(
            shell,
            &[&["build", "--profile", init::PROFILE], played.as_slice()].concat(),
        )
        .run()?;
    }
    [init::Program::Init, init::Program::BareListener]
        .into_iter()
        .filter(|program| needed(program.name()))
        .try_for_each(|program| init::run(program, init::PROFILE))
}

/// Where peers live: the user's path, Debian's daemons, Envoy's virtual environment; and before all, what is given of our own programs,
/// else, after all, what was built.
fn search_path(target: &Path, programs: Option<&Path>) -> Result<OsString> {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let given = programs.map(std::path::absolute).transpose()?;
    let peers = [PathBuf::from("/usr/sbin"), target.join("bench/envoy/bin")];
    let built = given.is_none().then(|| target.join(init::PROFILE));
    let all = given
        .into_iter()
        .chain(std::env::split_paths(&inherited))
        .chain(peers)
        .chain(built);
    Ok(std::env::join_paths(all)?)
}

fn missing<'a>(bench: &'a Bench, path: &OsString) -> Vec<&'a str> {
    let found = |program: &str| std::env::split_paths(path).any(|folder| folder.join(program).is_file());
    bench
        .entry
        .needs
        .iter()
        .map(String::as_str)
        .filter(|program| !found(program))
        .collect()
}

fn measure(shell: &Shell, bench: &Bench, target: &Path, path: &OsString, quick: bool) -> Result<()> {
    let Bench { name, package, entry } = bench;
    cargo(
        shell,
        &[
            "build",
            "--profile",
            init::PROFILE,
            "--package",
            package,
            "--example",
            &entry.example,
            "--features",
            &entry.features.join(","),
        ],
    )
    .run()?;
    let program = target.join(init::PROFILE).join("examples").join(&entry.example);
    let results = target.join("bench").join(format!("{name}.json"));
    shell.create_dir(target.join("bench"))?;
    eprintln!("\n=== {name}: {}", entry.about);
    let mut command = cmd!(shell, "{program}")
        .args(&entry.arguments)
        .quiet()
        .env("PATH", path)
        .env("SUIJURIS_BENCH_JSON", &results);
    if quick {
        command = command.env("SUIJURIS_BENCH_QUICK", "1");
    }
    command.run()?;
    eprintln!("results: {}", results.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(name: &str, needs: &[&str]) -> Bench {
        let needs = needs.iter().map(|&need| need.to_owned()).collect();
        Bench {
            name: name.to_owned(),
            package: String::new(),
            entry: Entry {
                example: String::new(),
                about: String::new(),
                needs,
                features: Vec::new(),
                arguments: Vec::new(),
            },
        }
    }

    #[test]
    fn manifests_name_benches_and_a_misspelt_key_is_refused() {
        let table = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let found = entries(&table(
            r#"{"bench": {"gate": {"example": "bench_gate", "about": "x", "needs": ["nginx"]}}}"#,
        ))
        .unwrap();
        assert_eq!(
            found.get("gate").map(|entry| entry.needs.as_slice()),
            Some(&["nginx".to_owned()][..])
        );
        assert!(entries(&serde_json::Value::Null).unwrap().is_empty());
        assert!(
            entries(&table(
                r#"{"bench": {"gate": {"example": "a", "about": "x", "need": []}}}"#
            ))
            .is_err()
        );
    }

    #[test]
    fn every_registered_bench_is_an_example_of_its_package() {
        assert!(
            registry(&metadata().unwrap())
                .unwrap()
                .iter()
                .any(|bench| bench.name == "noise")
        );
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_names_of_all() {
        let error = select(vec![bench("gate", &[]), bench("store", &[])], &["gat".to_owned()])
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("gat") && error.contains("gate store"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let path = search_path(Path::new("target"), None).unwrap();
        assert_eq!(
            missing(&bench("x", &["sh", "no-such-program"]), &path),
            ["no-such-program"]
        );
    }

    #[test]
    fn programs_that_are_given_come_before_all_others() {
        let path = search_path(Path::new("target"), Some(Path::new("given"))).unwrap();
        let first = std::env::split_paths(&path).next().unwrap();
        assert!(first.is_absolute() && first.ends_with("given"), "{first:?}");
        let built = Path::new("target").join(init::PROFILE);
        assert!(std::env::split_paths(&path).all(|folder| folder != built));
    }
}
