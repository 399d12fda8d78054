//! What an object's door refuses, before a machine that is stopped: how long until the caller knows, and that nothing is started.

use std::io::{self, BufReader, Write as _};
use std::net::TcpStream;

use serde_json::Value;
use suijuris_testkit::bench::host::{APP, Host, answer, machine_path};
use suijuris_testkit::bench::{Better, Report, Settings, drive, free_port, governed};

use crate::wake::{config, first_byte};
use crate::{Result, activation, against_budget, beside};

/// Requests, one after the other over one connection.
const REQUESTS: usize = 5_000;
/// Starts by the activator, which knows nothing of rules.
const ACTIVATIONS: usize = 20;
/// What is asked of the 99th percentile, ms.
const ASKED_MS: f64 = 1.5;

/// The table of this bench.
pub(crate) fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    let object = governed(
        &["serve", "{port}"],
        "network = \"host\"",
        "protocol = \"http\"",
        "true",
    )?;
    let (up, _events, listening) = object.up(&["--plain"])?;
    let id = listening
        .get("object")
        .and_then(Value::as_str)
        .ok_or("no object")?;
    up.interrupt()?;
    let (_door, listening) = object.door()?;
    let door = listening.get("url").and_then(Value::as_str).ok_or("no door")?;
    let folder = tempfile::tempdir()?;
    let hook = format!("{APP}={}/ext_authz", door.trim_end_matches('/'));
    let arguments = ["--proxy", "127.0.0.1:0", "--authz", &hook];
    let host = Host::start(&folder.path().join("data"), &arguments)?;
    let machine = host.machine(&config(free_port()?)?)?;
    let mut client = host.client()?;
    client.wait(&machine, "started")?;
    client.must("POST", &machine_path(&machine, "/stop"), None)?;
    client.wait(&machine, "stopped")?;
    let proxy = host.proxy()?;
    let begin = || -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect(proxy)?;
        stream.set_nodelay(true)?;
        Ok(BufReader::new(stream))
    };
    let one = |stream: &mut BufReader<TcpStream>, _: usize| {
        let request =
            format!("GET /closed HTTP/1.1\r\nHost: {APP}.localhost\r\nX-Suijuris-Object: {id}\r\n\r\n");
        stream.get_mut().write_all(request.as_bytes())?;
        match answer(stream)? {
            (403, _) => Ok(()),
            (status, body) => Err(io::Error::other(format!(
                "{status}: {}",
                String::from_utf8_lossy(&body)
            ))),
        }
    };
    let refused = drive(1, settings.scale(REQUESTS), begin, one)?;
    let record = client.must("GET", &machine_path(&machine, ""), None)?;
    let events = record.get("events").and_then(Value::as_array);
    let by_proxy = |event: &&Value| event.get("source").is_some_and(|by| by == "proxy");
    let starts = events.into_iter().flatten().filter(by_proxy).count();
    if starts > 0 || record.get("state").is_none_or(|state| state != "stopped") {
        return Err(format!("it was started: {record}").into());
    }
    let (port, _activator) = activation::start()?;
    let at = format!("127.0.0.1:{port}");
    let start = |(): &mut (), _: usize| first_byte(&at).map(drop);
    let activated = drive(1, settings.scale(ACTIVATIONS), || Ok(()), start)?;
    against_budget(
        report,
        "refused before a stopped machine, p99",
        "ms",
        Better::Lower,
        refused.ms(99),
        ASKED_MS,
    );
    beside(
        report,
        "refused, p50",
        refused.ms(50),
        "an activator, which starts it",
        activated.ms(50),
        None,
    );
    report.note(format!(
        "{} requests were refused, and {starts} machines started",
        refused.count
    ));
    Ok(())
}
