//! HTTP load by wrk, or h2load for HTTP/2, and what it cost the servers.

use std::io::{self, ErrorKind};
use std::process::Command;
use std::time::Duration;

use super::cpu::process_cpu;

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// HTTP/1.1 over connections that are kept.
    Kept,
    /// HTTP/1.1, each request over a connection of its own; of https that is a whole handshake.
    Fresh,
    /// HTTP/2 over connections that are kept, one request at a time on each.
    Http2,
}

/// One run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Requests answered.
    pub requests: f64,
    /// Requests a second.
    pub rate: f64,
    /// Median of the time from request to answer, µs; no number where there is none.
    pub p50_us: f64,
    /// 99th percentile of the same, µs; no number where there is none.
    pub p99_us: f64,
    /// CPU time of the servers asked about, µs a request.
    pub cpu_us: f64,
}

/// Loads `url` from one thread with `connections` for `seconds`; what processes `pids` spent meanwhile is theirs.
///
/// # Errors
/// Where wrk (h2load) is absent or fails, an answer is none of 2xx and 3xx, a connection broke, or a process is gone.
pub fn load(
    url: &str,
    traffic: Traffic,
    connections: usize,
    seconds: usize,
    pids: &[u32],
) -> io::Result<Load> {
    let spent = || {
        pids.iter().try_fold(Duration::ZERO, |all, pid| {
            Ok::<_, io::Error>(all + process_cpu(*pid)?)
        })
    };
    let (connections, duration) = (connections.to_string(), format!("{seconds}s"));
    // h2load tells how long each request took there, and no percentiles.
    let log = tempfile::NamedTempFile::new()?;
    let mut command = match traffic {
        Traffic::Http2 => {
            let mut h2load = Command::new("h2load");
            h2load.args([
                "--threads=1",
                "--max-concurrent-streams=1",
                "--clients",
                &connections,
            ]);
            h2load.args(["--duration", duration.trim_end_matches('s')]);
            h2load.arg("--log-file").arg(log.path());
            h2load
        }
        Traffic::Kept | Traffic::Fresh => {
            let mut wrk = Command::new("wrk");
            wrk.args(["--threads", "1", "--latency", "--timeout", "10s"]);
            wrk.args(["--connections", &connections, "--duration", &duration]);
            if traffic == Traffic::Fresh {
                wrk.args(["--header", "Connection: close"]);
            }
            wrk
        }
    };
    let before = spent()?;
    let output = command.arg(url).output()?;
    let spent = spent()?.saturating_sub(before);
    let text = String::from_utf8_lossy(&output.stdout);
    let parsed = match traffic {
        Traffic::Http2 => parse_h2load(&text, &std::fs::read_to_string(log.path())?),
        Traffic::Kept | Traffic::Fresh => parse(&text),
    };
    let mut load = parsed.ok_or_else(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        io::Error::other(format!("load on {url}: {text}{errors}"))
    })?;
    load.cpu_us = spent.as_secs_f64() * 1e6 / load.requests;
    Ok(load)
}

/// Reads h2load's report and its log: start, status and duration in µs on a line. `None` where it tells of errors or has no figures.
fn parse_h2load(text: &str, log: &str) -> Option<Load> {
    let line = |start: &str| {
        text.lines()
            .map(str::trim)
            .find_map(|line| line.strip_prefix(start))
    };
    let finished = line("finished in ")?;
    let rate = finished.split(", ").nth(1)?.split_whitespace().next()?;
    let counts: Vec<(f64, &str)> = line("requests: ")?
        .split(", ")
        .filter_map(|count| count.split_once(' '))
        .filter_map(|(count, what)| Some((count.parse().ok()?, what)))
        .collect();
    let count = |what: &str| counts.iter().find(|(_, is)| *is == what).map(|(count, _)| *count);
    let requests = count("succeeded")?;
    let took = log
        .lines()
        .filter_map(|line| line.split('\t').nth(2)?.parse().ok());
    let mut took: Vec<f64> = took.collect();
    took.sort_by(f64::total_cmp);
    let percentile = |percent: usize| {
        let at = took.len().saturating_sub(1) * percent / 100;
        took.get(at).copied().unwrap_or(f64::NAN)
    };
    (requests > 0.0 && count("failed")? == 0.0).then_some(Load {
        requests,
        rate: rate.parse().ok()?,
        p50_us: percentile(50),
        p99_us: percentile(99),
        cpu_us: 0.0,
    })
}

/// Reads wrk's report; `None` where it tells of errors or has no figures.
fn parse(text: &str) -> Option<Load> {
    let line = |start: &str| text.lines().map(str::trim).find(|line| line.starts_with(start));
    if line("Non-2xx").is_some() || line("Socket errors").is_some() {
        return None;
    }
    let percentile = |name| micros(line(name)?.split_whitespace().nth(1)?);
    let requests = text.lines().find(|line| line.contains(" requests in "))?;
    let requests: f64 = requests.split_whitespace().next()?.parse().ok()?;
    let rate = line("Requests/sec:")?.split_whitespace().nth(1)?.parse().ok()?;
    (requests > 0.0).then_some(Load {
        requests,
        rate,
        p50_us: percentile("50%")?,
        p99_us: percentile("99%")?,
        cpu_us: 0.0,
    })
}

/// `12.50us`, `1.20ms` or `1.00s` in µs.
fn micros(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    units
        .iter()
        .find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}

/// A port of loopback that nobody uses at this moment.
///
/// # Errors
/// The system's, where no socket can be bound.
pub fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until something accepts connections at `port` of loopback.
///
/// # Errors
/// `TimedOut` after ten seconds.
pub fn await_port(port: u16) -> io::Result<()> {
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(ErrorKind::TimedOut.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 1s test @ http://127.0.0.1:1/\n  1 threads and 1 connections\n  Thread Stats   Avg \
        Stdev     Max   +/- Stdev\n    Latency    37.12us   12.00us   1.20ms   97.00%\n  Latency Distribution\n     50%   \
        36.00us\n     75%   38.00us\n     90%   41.00us\n     99%    1.25ms\n  26,000 requests in 1.00s, 2.00MB read\n\
        Requests/sec:  25999.50\nTransfer/sec:      2.00MB\n";

    #[test]
    fn figures_of_h2load_are_read() {
        let report = "finished in 1.00s, 34567.00 req/s, 5.00MB/s\nrequests: 34600 total, 34599 started, 34567 done, 34567 \
            succeeded, 0 failed, 0 errored, 0 timeout\nstatus codes: 34568 2xx, 0 3xx, 0 4xx, 0 5xx\n";
        let log = "1\t200\t30\n2\t200\t10\n3\t200\t20\n";
        let load = parse_h2load(report, log).unwrap();
        assert_eq!((load.requests, load.rate), (34_567.0, 34_567.0));
        assert_eq!((load.p50_us, load.p99_us), (20.0, 20.0));
        assert!(parse_h2load(&report.replace("0 failed", "1 failed"), log).is_none());
        assert!(parse_h2load("could not connect", "").is_none());
    }

    #[test]
    fn figures_are_read_and_errors_are_not_figures() {
        let report = REPORT.replace("26,000", "26000");
        let load = parse(&report).unwrap();
        assert_eq!((load.requests, load.rate), (26_000.0, 25_999.5));
        assert_eq!((load.p50_us, load.p99_us), (36.0, 1_250.0));
        assert!(parse(&format!("{report}  Non-2xx or 3xx responses: 1\n")).is_none());
        assert!(parse("unable to connect").is_none());
    }
}
