//! `suijuris host`, beside what does without it.
//!
//! `bench_host api`: calls a second. `wake`: from a request to a machine that is stopped or suspended until the first byte, beside
//! activation by a socket and a bare start. `refuse`: what an object's door refuses, before a stopped machine. `create`: from a
//! call until the first byte of what it made. `volumes`: snapshot and fork beside `cp --reflink`. `many`: a thousand machines.
//!
//! The program is the `suijuris` that is found first on the path: `cargo xtask bench host-api --programs DIR` takes another's.
//! `bench_host serve PORT` is the workload; `bench_host activate PORT` starts it as systemd-socket-proxyd has a service started.

mod activation;
mod api;
mod create;
mod many;
mod refuse;
mod volumes;
mod wake;

use std::error::Error;

use suijuris_testkit::bench::{Better, Report, Row, Settings, server};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    if let Some(activated) = activation::as_asked() {
        return Ok(activated?);
    }
    if let Some(served) = server::as_asked() {
        return Ok(served?);
    }
    let what = std::env::args().nth(1).unwrap_or_default();
    let measure = match what.as_str() {
        "api" => api::measure,
        "create" => create::measure,
        "many" => many::measure,
        "refuse" => refuse::measure,
        "volumes" => volumes::measure,
        "wake" => wake::measure,
        _ => return Err("one of api, create, many, refuse, volumes, wake".into()),
    };
    let settings = Settings::from_env();
    let mut report = Report::new(&format!("host-{what}"), &settings);
    report.note(format!("suijuris: {}", program()));
    measure(&settings, &mut report)?;
    report.publish(&settings)?;
    Ok(())
}

/// Which program is measured.
fn program() -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join("suijuris"))
        .find(|program| program.is_file());
    found.map_or_else(|| "none".to_owned(), |program| program.display().to_string())
}

/// A figure that has no peer but what is asked of it.
fn against_budget(
    report: &mut Report,
    what: &str,
    unit: &'static str,
    better: Better,
    ours: f64,
    asked: f64,
) {
    report.row(Row {
        what: what.to_owned(),
        unit,
        better,
        ours,
        peer: "budget".to_owned(),
        theirs: asked,
        budget: Some(1.0),
    });
}

/// Milliseconds beside a peer's.
fn beside(report: &mut Report, what: &str, ours: f64, peer: &str, theirs: f64, budget: Option<f64>) {
    report.row(Row {
        what: what.to_owned(),
        unit: "ms",
        better: Better::Lower,
        ours,
        peer: peer.to_owned(),
        theirs,
        budget,
    });
}
