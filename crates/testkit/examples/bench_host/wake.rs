//! From a request to a machine that is stopped or suspended until the first byte of its answer.

use std::io::{self, BufReader, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use suijuris_testkit::bench::host::{APP, Host, answer, machine_path};
use suijuris_testkit::bench::{Better, Contender, Report, Samples, Settings, free_port, interleave};

use crate::activation::{self, reach, signal, workload};
use crate::{Result, against_budget, beside};

/// Wakes of each.
const ROUNDS: usize = 40;
/// Before each: the disk has come to rest by then.
const PAUSE: Duration = Duration::from_millis(100);
/// What the proxy may take beyond the floor, ms.
const OVER_MS: f64 = 5.0;

/// What serves, as a machine of this program at `port`.
pub(crate) fn config(port: u16) -> io::Result<Value> {
    let exe = std::env::current_exe()?;
    Ok(
        json!({"image": "host:bench", "init": {"exec": [exe, "serve", port.to_string()]}, "restart": {"policy": "no"},
        "guest": {"memory_mb": 256}, "stop_config": {"signal": "SIGKILL", "timeout": "5s"},
        "services": [{"protocol": "tcp", "internal_port": port, "autostop": "off", "autostart": true,
            "ports": [{"port": 80, "handlers": ["http"]}]}]}),
    )
}

/// Asks at `authority` and waits for the whole answer, which must be a success: ms from connecting to its first byte.
pub(crate) fn first_byte(authority: &str) -> io::Result<f64> {
    let begin = Instant::now();
    let mut stream = TcpStream::connect(authority)?;
    asked(&mut stream, begin)
}

fn asked(stream: &mut TcpStream, begin: Instant) -> io::Result<f64> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {APP}.localhost\r\n\r\n")?;
    let mut byte = [0];
    stream.peek(&mut byte)?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    match answer(&mut BufReader::new(stream))? {
        (200, _) => Ok(took),
        (status, body) => Err(io::Error::other(format!(
            "{status}: {}",
            String::from_utf8_lossy(&body)
        ))),
    }
}

/// The table of this bench.
pub(crate) fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let host = Host::start(&folder.path().join("data"), &["--proxy", "127.0.0.1:0"])?;
    let id = host.machine(&config(free_port()?)?)?;
    host.client()?.wait(&id, "started")?;
    let (activated, _activator) = activation::start()?;
    let (port, sleeper) = workload()?;
    drop(reach(port)?);

    let rest = |how: &str, state: &str| -> io::Result<()> {
        let mut client = host.client()?;
        client.must("POST", &machine_path(&id, how), None)?;
        client.wait(&id, state)
    };
    let by_host = |how: &str, state: &str| -> io::Result<f64> {
        rest(how, state)?;
        std::thread::sleep(PAUSE);
        first_byte(host.proxy()?)
    };
    let by_socket = || -> io::Result<f64> {
        std::thread::sleep(PAUSE);
        first_byte(&format!("127.0.0.1:{activated}"))
    };
    let bare = || -> io::Result<f64> {
        std::thread::sleep(PAUSE);
        let begin = Instant::now();
        let (port, _running) = workload()?;
        asked(&mut reach(port)?, begin)
    };
    let continued = || -> io::Result<f64> {
        signal(&sleeper, Signal::SIGSTOP)?;
        std::thread::sleep(PAUSE);
        let begin = Instant::now();
        signal(&sleeper, Signal::SIGCONT)?;
        asked(&mut reach(port)?, begin)
    };
    let failed = std::cell::Cell::new(None);
    let figure = |took: io::Result<f64>| {
        took.unwrap_or_else(|error| {
            failed.set(Some(error));
            f64::NAN
        })
    };
    let mut contenders = [
        Contender::new("stopped", || figure(by_host("/stop", "stopped"))),
        Contender::new("by a socket", || figure(by_socket())),
        Contender::new("fork and exec", || figure(bare())),
        Contender::new("suspended", || figure(by_host("/suspend", "suspended"))),
        Contender::new("SIGCONT", || figure(continued())),
    ];
    let samples = interleave(settings.scale(ROUNDS), &mut contenders);
    drop(contenders);
    if let Some(error) = failed.take() {
        return Err(error.into());
    }
    let [stopped, socket, bare, suspended, continued] = samples.as_slice() else {
        return Ok(());
    };
    rows(
        report,
        "stopped → first byte",
        stopped,
        &[("activation by a socket", socket), ("fork and exec", bare)],
    );
    rows(
        report,
        "suspended → first byte",
        suspended,
        &[("SIGCONT", continued)],
    );
    report.note(format!(
        "medians of {} wakes, {PAUSE:?} after the machine came to rest",
        settings.scale(ROUNDS)
    ));
    Ok(())
}

/// Ours beside each peer, the last of which is the floor.
fn rows(report: &mut Report, what: &str, ours: &Samples, peers: &[(&str, &Samples)]) {
    for (name, peer) in peers {
        beside(report, what, ours.median(), name, peer.median(), None);
    }
    if let Some((name, floor)) = peers.last() {
        let over = format!("{what}, over {name}");
        let (ours, floor) = (ours.median(), floor.median());
        against_budget(report, &over, "ms", Better::Lower, ours - floor, OVER_MS);
    }
    report.note(format!("{what}: p99 {:.2} ms", ours.at(99)));
}
