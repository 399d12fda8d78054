//! `check`: everything that is wrong with a definition, at once and in its place.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;
use suijuris_bundle::{Built, Report, Severity, Style, build};
use suijuris_core::manifest::Destination;
use suijuris_supervisor::limits;
use suijuris_vehicle::process::{Process, Shim, Want};
use suijuris_vehicle::{Description, Driver as _, ImageUsers};

use crate::{Answer, images, terminal};

/// Check a definition: everything that is wrong, at once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints the id of the bundle when it can be built. Warnings are likely mistakes and do not fail the
check. Says what a workload is not kept from on this host, where that is anything.

Exit codes: 0 it can be built, 3 it cannot.

Example:
  suijuris check hello")]
pub(crate) struct Args {
    /// Object's directory
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Checked<'a> {
    ok: bool,
    bundle: Option<String>,
    name: Option<&'a str>,
    errors: usize,
    warnings: usize,
    machine: Option<&'a Description>,
    diagnostics: &'a Report,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    // Where this fails, the name is told as one that is not pinned.
    if let Err(error) = images::pin_blocking(&args.dir, images::Lookup::Local) {
        terminal::note(&format!("the image cannot be used: {error:#}"));
    }
    let built = build(&args.dir);
    let (report, built) = match &built {
        Ok(built) => (&built.findings, Some(built)),
        Err(report) => (report, None),
    };
    let machine = machine();
    if args.json {
        terminal::print_json(&Checked {
            ok: built.is_some(),
            bundle: built.map(|built| built.id.to_string()),
            name: built.map(|built| built.manifest.name.as_str()),
            errors: report.count(Severity::Error),
            warnings: report.count(Severity::Warning),
            machine: machine.as_ref(),
            diagnostics: report,
        })?;
    } else {
        show(report, built)?;
        if let Some(machine) = &machine {
            say_of_machines(machine, built);
        }
    }
    Ok(if built.is_some() {
        Answer::Yes
    } else {
        Answer::Broken
    })
}

/// What machines can do on this host, found out by starting one that ends at once; none where none can be started.
fn machine() -> Option<Description> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let detected = tokio.block_on(Process::detect(Shim::itself("__shim"), Want::default()));
    detected.ok().map(|driver| driver.describe().clone())
}

/// What is missing on this host, and what makes the limits hold.
fn say_of_machines(machine: &Description, built: Option<&Built>) {
    if let Some(warning) = machine.warning() {
        terminal::note(&warning);
    }
    let egress = built.map(|built| &built.manifest.workload.egress);
    if let Some(egress) = egress.filter(|egress| !egress.is_empty()) {
        terminal::note(&egress_words(egress, machine));
    }
    let has_image = built.is_some_and(|built| built.manifest.workload.image.is_some());
    if has_image && !machine.images {
        terminal::note(&format!(
            "machines here are {}: no image runs in them",
            machine.isolation
        ));
    } else if has_image {
        match machine.users {
            ImageUsers::All => {}
            ImageUsers::Mapped => terminal::note(
                "users on this host: all of the image's, as numbers of this user in /etc/subuid (docs/images.md)",
            ),
            ImageUsers::One => terminal::note(
                "users on this host: the workload's is the only one in its image; programs that change to another user fail. An administrator may give this user more: numbers in /etc/subuid and /etc/subgid, and newuidmap (docs/images.md)",
            ),
        }
    }
    let limited = built.map(|built| limits::limited(&built.manifest.workload.limits, machine));
    if let Some(limited) = limited.filter(|limited| !limited.words.is_empty()) {
        terminal::note(&format!("limits on this host: {}", limited.words.join(", ")));
    }
}

/// What the workload may reach, and who keeps it to that.
fn egress_words(egress: &BTreeSet<Destination>, machine: &Description) -> String {
    let named: Vec<String> = egress.iter().map(ToString::to_string).collect();
    let here = match machine.private_network {
        true => "kept to that by processes here",
        false => "not kept to that by processes here, which share this host's network",
    };
    format!(
        "the workload may reach {}: {here}, and by virtual machines; not where a platform carries its machine (`suijuris deploy`)",
        named.join(", ")
    )
}

fn show(report: &Report, built: Option<&Built>) -> anyhow::Result<()> {
    if !report.is_empty() {
        let style = Style {
            colour: terminal::colour(&std::io::stderr()),
            ..Style::PLAIN
        };
        terminal::drawing(&report.render(style));
    }
    let count = |severity, word: &str| match report.count(severity) {
        1 => format!("1 {word}"),
        n => format!("{n} {word}s"),
    };
    let counts = format!(
        "{}, {}",
        count(Severity::Error, "error"),
        count(Severity::Warning, "warning")
    );
    match built {
        Some(built) => {
            terminal::note(&format!("`{}` can be built; {counts}", built.manifest.name));
            Ok(terminal::print(&format!("{}\n", built.id))?)
        }
        None => {
            terminal::note(&format!("cannot be built; {counts}"));
            Ok(())
        }
    }
}
