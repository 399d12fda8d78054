//! Connections decided once: handed over to the workload (the gate out of the data path) and copied (raw TCP), beside
//! the same server directly; and how long a handed-over connection lives after it was cut.
//!
//! `bench_connections`: the table. With `serve PORT` or `take` it is the workload.

mod cutting;

use std::cell::Cell;
use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use suijuris_testkit::bench::{
    Better, Object, Report, Round, Row, Running, Samples, Settings, Traffic, allowed_cpus, free_port,
    governed, interleave_many, load, pin, server,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Connections kept open by the load.
const CONNECTIONS: [usize; 3] = [1, 32, 256];
/// Rounds of a second each.
const ROUNDS: usize = 9;
/// Connections of one round of those that are opened for one request.
const SHORT: u32 = 300;

fn main() -> Result<()> {
    match server::as_asked() {
        Some(served) => Ok(served?),
        None => measure(&Settings::from_env()),
    }
}

/// One way to the server.
struct Way {
    name: &'static str,
    port: u16,
    pids: Vec<u32>,
}

fn measure(settings: &Settings) -> Result<()> {
    let cpus = allowed_cpus()?;
    pin(0, cpus.get(..1).unwrap_or_default())?;
    let mut report = Report::new("connections", settings);
    // Direct is the workload behind the copying gate: started and scheduled as the one that takes connections.
    let upstream = free_port()?;
    let (passing, _handed_over, hander) = gate("handover", None)?;
    let (copying, _copied, copier) = gate("tcp", Some(upstream))?;
    let ways = [
        Way {
            name: "direct",
            port: upstream,
            pids: Vec::new(),
        },
        Way {
            name: "handed over",
            port: passing,
            pids: vec![hander.pid()],
        },
        Way {
            name: "copied",
            port: copying,
            pids: vec![copier.pid()],
        },
    ];
    for connections in CONNECTIONS {
        let samples = compare(&ways, settings, |way| {
            let url = format!("http://127.0.0.1:{}/", way.port);
            let load = load(&url, Traffic::Kept, connections, 1, &way.pids)?;
            Ok([load.rate, load.p99_us, load.cpu_us])
        })?;
        kept(&mut report, connections, &samples);
    }
    let samples = compare(&ways, settings, |way| short(way.port).map(|took| [took]))?;
    for way in samples.iter().skip(1) {
        row(
            &mut report,
            "connect, one request, close",
            "µs",
            Better::Lower,
            way,
            &samples,
            None,
        );
    }
    cutting::measure(&mut report, settings)?;
    report.note(
        "everything on one CPU; the gate is suijuris-init with seven rules for admit, asked at connect",
    );
    report.publish(settings)?;
    Ok(())
}

/// The runtime with an object whose connections are decided once.
fn gate(protocol: &str, port: Option<u16>) -> Result<(u16, Object, Running)> {
    let (arguments, ready): (&[&str], _) = match protocol {
        "handover" => (&["take"], "spawned"),
        _ => (&["serve", "{port}"], "tcp"),
    };
    let port = port.map_or(String::new(), |port| format!("port = {port}"));
    let workload = format!("network = \"host\"\nready = \"{ready}\"\n{port}");
    let object = governed(
        arguments,
        &workload,
        &format!("protocol = \"{protocol}\""),
        "true",
    )?;
    let (port, running) = object.serve()?;
    // A workload that is ready as soon as it is spawned may not listen yet.
    let begin = Instant::now();
    while short_once(port).is_err() && begin.elapsed() < Duration::from_secs(5) {}
    Ok((port, object, running))
}

fn compare<const N: usize>(
    ways: &[Way],
    settings: &Settings,
    round: impl Fn(&Way) -> io::Result<[f64; N]>,
) -> Result<Vec<[Samples; N]>> {
    let failed: Cell<Option<io::Error>> = Cell::new(None);
    let (failed, round) = (&failed, &round);
    let mut contenders: Vec<(&str, Round<'_, N>)> = ways
        .iter()
        .map(|way| {
            let run: Round<'_, N> = Box::new(move || {
                round(way).unwrap_or_else(|error| {
                    failed.set(Some(error));
                    [f64::NAN; N]
                })
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

fn kept(report: &mut Report, connections: usize, samples: &[[Samples; 3]]) {
    let only = |index: usize| -> Vec<[Samples; 1]> {
        let figure = |way: &[Samples; 3]| way.get(index).cloned().map(|samples| [samples]);
        samples.iter().filter_map(figure).collect()
    };
    let (rates, slowest, spent) = (only(0), only(1), only(2));
    for (index, way) in rates.iter().enumerate().skip(1) {
        let asked = (index == 1).then_some(0.95);
        row(
            report,
            &format!("{connections}: requests/s"),
            "/s",
            Better::Higher,
            way,
            &rates,
            asked,
        );
    }
    for way in slowest.iter().skip(1) {
        row(
            report,
            &format!("{connections}: p99"),
            "µs",
            Better::Lower,
            way,
            &slowest,
            None,
        );
    }
    for way in spent.iter().skip(1) {
        let name = way.first().map(|way| way.name.clone()).unwrap_or_default();
        let spent = way.first().map_or(f64::NAN, Samples::median);
        report.note(format!(
            "{connections} connections, {name}: the gate spent {spent:.2} µs of CPU a request"
        ));
    }
}

fn row(
    report: &mut Report,
    what: &str,
    unit: &'static str,
    better: Better,
    ours: &[Samples; 1],
    all: &[[Samples; 1]],
    budget: Option<f64>,
) {
    let ([ours], Some([direct])) = (ours, all.first()) else {
        return;
    };
    report.row(Row {
        what: format!("{}, {what}", ours.name),
        unit,
        better,
        ours: ours.median(),
        peer: direct.name.clone(),
        theirs: direct.median(),
        budget,
    });
}

/// Time of one connection with one request, µs, over [`SHORT`] of them.
fn short(port: u16) -> io::Result<f64> {
    let begin = Instant::now();
    for _ in 0..SHORT {
        short_once(port)?;
    }
    Ok(begin.elapsed().as_secs_f64() * 1e6 / f64::from(SHORT))
}

fn short_once(port: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /public/page HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let read = stream.read(&mut [0; 4096])?;
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
