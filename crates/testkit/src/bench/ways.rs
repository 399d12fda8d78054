//! HTTP by several ways to one server: the same load on each in turn, and a row of ours beside each other way.
//!
//! Servers run on the first CPU; the load runs there too ("one CPU"), or on the second ("split"). The load keeps its connections,
//! unless each request is to have one of its own; rounds of all ways alternate.

use std::cell::Cell;
use std::io;

use super::{
    Better, Report, Round, Row, Running, Samples, Settings, Traffic, allowed_cpus, children, interleave_many,
    load, pin,
};

/// Connections kept open by the load.
const CONNECTIONS: [usize; 3] = [1, 32, 256];
/// Rounds of a second each.
const ROUNDS: usize = 7;
/// Rate, p50, p99, CPU.
const FIGURES: usize = 4;

/// One way to the server.
#[derive(Debug)]
pub struct Way {
    /// Ours, or a peer's.
    pub name: &'static str,
    /// What is asked for.
    pub url: String,
    /// Processes whose CPU time is the price of this way.
    pub pids: Vec<u32>,
}

impl Way {
    /// To `port` of loopback, past a process and its children.
    ///
    /// # Errors
    /// The system's, where the process is gone.
    pub fn past(name: &'static str, scheme: &str, port: u16, proxy: &Running) -> io::Result<Self> {
        let pid = proxy.pid();
        Ok(Self {
            pids: [pid].into_iter().chain(children(pid)?).collect(),
            ..Self::direct(name, scheme, port)
        })
    }

    /// To `port` of loopback, past nobody whose CPU time counts.
    #[must_use]
    pub fn direct(name: &'static str, scheme: &str, port: u16) -> Self {
        Self {
            name,
            url: format!("{scheme}://127.0.0.1:{port}/public/page"),
            pids: Vec::new(),
        }
    }
}

/// What is asked of ours beside a way, as ratios, above 1 is better: requests a second, CPU a request.
pub type Budgets<'a> = &'a dyn Fn(&str) -> [Option<f64>; 2];

/// Loads all `ways`, the first of which is ours, with each number of connections and with the load at each of `places` ("one CPU",
/// "split"), and adds rows that begin with `what`.
///
/// # Errors
/// The load's: a way that answers wrongly, or a tool that is not there.
pub fn compare(
    report: &mut Report,
    settings: &Settings,
    what: &str,
    traffic: Traffic,
    (ways, places): (&[Way], &[&str]),
    budgets: Budgets<'_>,
) -> io::Result<()> {
    let cpus = allowed_cpus()?;
    let (Some(first), Some(last)) = (cpus.first().copied(), cpus.last().copied()) else {
        return Err(io::Error::other("no CPU"));
    };
    for &place in places {
        let cpu = if place == "split" { last } else { first };
        if place == "split" && first == last {
            report.note("one CPU only: nothing was split");
            continue;
        }
        for connections in CONNECTIONS {
            pin(0, &[cpu])?;
            let samples = rounds(ways, traffic, connections, settings)?;
            rows(
                report,
                &format!("{what}{place}, {connections}"),
                ways,
                &samples,
                budgets,
            );
        }
    }
    Ok(())
}

/// Says how figures of [`compare`] were taken.
pub fn note(report: &mut Report, settings: &Settings) {
    let rounds = settings.scale(ROUNDS);
    report.note(format!("medians of {rounds} rounds of 1 s each"));
}

fn rounds(
    ways: &[Way],
    traffic: Traffic,
    connections: usize,
    settings: &Settings,
) -> io::Result<Vec<[Samples; FIGURES]>> {
    let failed: Cell<Option<io::Error>> = Cell::new(None);
    let failed = &failed;
    let contender = |way: &'_ Way| {
        let (url, pids) = (way.url.clone(), way.pids.clone());
        let run: Round<'_, FIGURES> = Box::new(move || match load(&url, traffic, connections, 1, &pids) {
            Ok(load) => [load.rate, load.p50_us, load.p99_us, load.cpu_us],
            Err(error) => {
                failed.set(Some(error));
                [f64::NAN; FIGURES]
            }
        });
        run
    };
    let mut contenders: Vec<_> = ways.iter().map(|way| (way.name, contender(way))).collect();
    let samples = interleave_many(settings.scale(ROUNDS), &mut contenders);
    failed.take().map_or(Ok(samples), Err)
}

fn rows(
    report: &mut Report,
    place: &str,
    ways: &[Way],
    samples: &[[Samples; FIGURES]],
    budgets: Budgets<'_>,
) {
    let Some((ours, peers)) = samples.split_first() else {
        return;
    };
    let ours = ours.each_ref().map(Samples::median);
    for (way, theirs) in ways.iter().skip(1).zip(peers) {
        let theirs = theirs.each_ref().map(Samples::median);
        let [rate, cpu] = budgets(way.name);
        let figures = [
            ("requests/s", "/s", Better::Higher, rate),
            ("p50", "µs", Better::Lower, None),
            ("p99", "µs", Better::Lower, None),
            ("CPU/request", "µs", Better::Lower, cpu),
        ];
        for ((what, unit, better, budget), (ours, theirs)) in
            figures.into_iter().zip(ours.into_iter().zip(theirs))
        {
            // What has no price, or what a tool does not tell.
            if ours.is_nan() || theirs.is_nan() || unit == "µs" && theirs == 0.0 {
                continue;
            }
            report.row(Row {
                what: format!("{place}: {what}"),
                unit,
                better,
                ours,
                peer: way.name.to_owned(),
                theirs,
                budget,
            });
        }
    }
}
