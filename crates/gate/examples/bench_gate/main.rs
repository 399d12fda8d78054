//! HTTP through the gate of a real object with its rules on, beside the same server directly and behind other proxies.
//!
//! `bench_gate`: the table. `bench_gate serve PORT`: the server behind all of them, and Envoy's authority.
//!
//! Servers run on the first CPU; the load runs there too ("one CPU"), or on the second ("split"). wrk keeps its
//! connections; rounds of all contenders alternate. The gate runs as `suijuris-init`, as in a machine: bundle, memory
//! of ten fields, seven rules for `admit`, judged on each request.

mod peers;

use std::cell::Cell;
use std::error::Error;
use std::io;

use suijuris_testkit::bench::{
    Better, Object, Report, Round, Row, Running, Samples, Settings, allowed_cpus, children, free_port,
    governed, interleave_many, load, pin, server,
};

use self::peers::Proxy;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Connections kept open by the load.
const CONNECTIONS: [usize; 3] = [1, 32, 256];
/// Rounds of a second each.
const ROUNDS: usize = 7;
/// Rate, p50, p99, CPU.
const FIGURES: usize = 4;

fn main() -> Result<()> {
    match server::as_asked() {
        Some(served) => Ok(served?),
        None => measure(&Settings::from_env()),
    }
}

/// One way to the server.
struct Way {
    name: &'static str,
    url: String,
    /// Processes whose CPU time is the price of this way.
    pids: Vec<u32>,
}

/// Everything that runs, on the first CPU.
struct Stage {
    ways: Vec<Way>,
    _object: Object,
    _folder: tempfile::TempDir,
    _running: Vec<Running>,
}

fn measure(settings: &Settings) -> Result<()> {
    let cpus = allowed_cpus()?;
    let first = cpus.first().copied().ok_or("no CPU")?;
    let last = cpus.last().copied().ok_or("no CPU")?;
    pin(0, &[first])?;
    let mut report = Report::new("gate", settings);
    let stage = stage(&mut report)?;
    for (place, cpu) in [("one CPU", first), ("split", last)] {
        if place == "split" && first == last {
            report.note("one CPU only: nothing was split");
            continue;
        }
        for connections in CONNECTIONS {
            let samples = compare(&stage.ways, connections, cpu, settings)?;
            rows(
                &mut report,
                &format!("{place}, {connections}"),
                &stage.ways,
                &samples,
            );
        }
    }
    report.note(format!(
        "medians of {} rounds of 1 s each",
        settings.scale(ROUNDS)
    ));
    report.note("CPU of Envoy is that of Envoy and of its authority, a null HTTP service");
    report.publish(settings)?;
    Ok(())
}

fn stage(report: &mut Report) -> Result<Stage> {
    let folder = tempfile::tempdir()?;
    let mut running = Vec::new();
    // The object's own workload is what all of them stand before: one process, started and scheduled in one way.
    let upstream = free_port()?;
    let workload = format!("network = \"host\"\nport = {upstream}");
    let object = governed(&["serve", "{port}"], &workload, "protocol = \"http\"", "true")?;
    let (port, gate) = object.serve()?;
    let mut ways = vec![
        Way {
            name: "gate",
            url: url(port),
            pids: vec![gate.pid()],
        },
        Way {
            name: "direct",
            url: url(upstream),
            pids: Vec::new(),
        },
    ];
    running.push(gate);
    let mut add = |name, Proxy { port, running: proxy }: Proxy, more: Option<u32>| -> io::Result<()> {
        let pids = [proxy.pid()]
            .into_iter()
            .chain(children(proxy.pid())?)
            .chain(more)
            .collect();
        ways.push(Way {
            name,
            url: url(port),
            pids,
        });
        running.push(proxy);
        Ok(())
    };
    add("nginx", peers::nginx(folder.path(), upstream)?, None)?;
    add("HAProxy", peers::haproxy(folder.path(), upstream)?, None)?;
    let (authority, null) = server::spawn()?;
    match peers::envoy(folder.path(), upstream, authority) {
        Ok(proxy) => add("Envoy + ext_authz", proxy, Some(null.pid()))?,
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

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/public/page")
}

fn compare(
    ways: &[Way],
    connections: usize,
    cpu: usize,
    settings: &Settings,
) -> Result<Vec<[Samples; FIGURES]>> {
    let failed: Cell<Option<io::Error>> = Cell::new(None);
    let failed = &failed;
    let mut contenders: Vec<(&str, Round<'_, FIGURES>)> = ways
        .iter()
        .map(|way| {
            let run: Round<'_, FIGURES> = Box::new(move || match on(cpu, way, connections) {
                Ok(figures) => figures,
                Err(error) => {
                    failed.set(Some(error));
                    [f64::NAN; FIGURES]
                }
            });
            (way.name, run)
        })
        .collect();
    let samples = interleave_many(settings.scale(ROUNDS), &mut contenders);
    match failed.take() {
        Some(error) => Err(error.into()),
        None => Ok(samples),
    }
}

/// One round, with the load on `cpu`.
fn on(cpu: usize, way: &Way, connections: usize) -> io::Result<[f64; FIGURES]> {
    pin(0, &[cpu])?;
    let load = load(&way.url, connections, 1, &way.pids)?;
    Ok([load.rate, load.p50_us, load.p99_us, load.cpu_us])
}

fn rows(report: &mut Report, place: &str, ways: &[Way], samples: &[[Samples; FIGURES]]) {
    let Some((ours, peers)) = samples.split_first() else {
        return;
    };
    let [rate, p50, p99, cpu] = ours.each_ref().map(Samples::median);
    for (way, theirs) in ways.iter().skip(1).zip(peers) {
        let [peer_rate, peer_p50, peer_p99, peer_cpu] = theirs.each_ref().map(Samples::median);
        let is = |name: &str| way.name.starts_with(name);
        let mut row = |what: &str, unit, better, ours, theirs, budget| {
            report.row(Row {
                what: format!("{place}: {what}"),
                unit,
                better,
                ours,
                peer: way.name.to_owned(),
                theirs,
                budget,
            });
        };
        let asked = is("nginx").then_some(1.0);
        row("requests/s", "/s", Better::Higher, rate, peer_rate, asked);
        row("p50", "µs", Better::Lower, p50, peer_p50, None);
        row("p99", "µs", Better::Lower, p99, peer_p99, None);
        if !way.pids.is_empty() {
            let asked = asked.or(is("Envoy").then_some(15.0));
            row("CPU/request", "µs", Better::Lower, cpu, peer_cpu, asked);
        }
    }
}
