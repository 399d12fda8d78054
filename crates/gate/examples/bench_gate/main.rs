//! HTTP through the gate of a real object with its rules on, beside the same server directly and behind other proxies.
//!
//! `bench_gate`: the table. `bench_gate serve PORT`: the server behind all of them, and Envoy's authority.
//!
//! Servers run on the first CPU; the load runs there too ("one CPU"), or on the second ("split"). wrk keeps its
//! connections; rounds of all contenders alternate. The gate runs as `suijuris-init`, as in a machine: bundle, memory
//! of ten fields, seven rules for `admit`, judged on each request.

use std::error::Error;

use suijuris_testkit::bench::ways::{self, Way};
use suijuris_testkit::bench::{
    Object, Report, Running, Settings, Traffic, allowed_cpus, free_port, governed, peers, pin, server,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    match server::as_asked() {
        Some(served) => Ok(served?),
        None => measure(&Settings::from_env()),
    }
}

/// Everything that runs, on the first CPU.
struct Stage {
    ways: Vec<Way>,
    _object: Object,
    _folder: tempfile::TempDir,
    _running: Vec<Running>,
}

fn measure(settings: &Settings) -> Result<()> {
    pin(0, allowed_cpus()?.get(..1).ok_or("no CPU")?)?;
    let mut report = Report::new("gate", settings);
    let stage = stage(&mut report)?;
    let budgets = |peer: &str| match peer {
        "nginx" => [Some(1.05); 2],
        "Envoy + ext_authz" => [None, Some(15.0)],
        _ => [None; 2],
    };
    ways::compare(
        &mut report,
        settings,
        "",
        Traffic::Kept,
        (&stage.ways, &["one CPU", "split"]),
        &budgets,
    )?;
    ways::note(&mut report, settings);
    report.note("CPU of Envoy is that of Envoy and of its authority, a null HTTP service");
    report.publish(settings)?;
    Ok(())
}

fn stage(report: &mut Report) -> Result<Stage> {
    let folder = tempfile::tempdir()?;
    // The object's own workload is what all of them stand before: one process, started and scheduled in one way.
    let upstream = free_port()?;
    let workload = format!("network = \"host\"\nport = {upstream}");
    let object = governed(&["serve", "{port}"], &workload, "protocol = \"http\"", "true")?;
    let (port, gate) = object.serve()?;
    let mut ways = vec![
        Way {
            pids: vec![gate.pid()],
            ..Way::direct("gate", "http", port)
        },
        Way::direct("direct", "http", upstream),
    ];
    let mut running = vec![gate];
    for (name, peer) in [
        ("nginx", peers::nginx(folder.path(), upstream, None)?),
        ("HAProxy", peers::haproxy(folder.path(), upstream, None)?),
    ] {
        ways.push(Way::past(name, "http", peer.port, &peer.running)?);
        running.push(peer.running);
    }
    let (authority, null) = server::spawn()?;
    match peers::envoy(folder.path(), upstream, Some(authority), None) {
        Ok(peer) => {
            let mut way = Way::past("Envoy + ext_authz", "http", peer.port, &peer.running)?;
            way.pids.push(null.pid());
            ways.push(way);
            running.push(peer.running);
        }
        Err(error) => report.note(format!(
            "Envoy was left out ({error}): run `sh tools/setup --bench`"
        )),
    }
    running.push(null);
    Ok(Stage {
        ways,
        _object: object,
        _folder: folder,
        _running: running,
    })
}
