//! The API: reads, durable writes, starts and stops, from many clients at once, each over a connection that it keeps.

use std::io::{self, Write as _};

use serde_json::json;
use suijuris_testkit::bench::host::{APP, Client, Host, machine_path};
use suijuris_testkit::bench::{Better, Figures, Report, Settings, drive};

use crate::{Result, against_budget};

/// Clients at once.
const CLIENTS: usize = 32;
/// Calls of each kind that change something, and that only look.
const WRITES: usize = 3_000;
const READS: usize = 20_000;
/// Machines that are started and stopped.
const MACHINES: usize = 64;
/// What is asked for, a second.
const WRITES_ASKED: f64 = 500.0;
const READS_ASKED: f64 = 5_000.0;

/// The table of this bench.
pub(crate) fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let host = Host::start(&folder.path().join("data"), &["--no-proxy"])?;
    let begin = || host.client();
    let resting =
        json!({"skip_launch": true, "config": {"image": "host:true", "init": {"exec": ["/bin/true"]}}});
    let machines = format!("/apps/{APP}/machines");
    let create = |client: &mut Client, _: usize| client.must("POST", &machines, Some(&resting)).map(drop);
    let created = drive(CLIENTS, settings.scale(WRITES), begin, create)?;
    rows(report, "create, without starting it", &created, WRITES_ASKED);

    let id = host.machine(&json!({"image": "host:true", "init": {"exec": ["/bin/true"]}}))?;
    let path = machine_path(&id, "");
    let get = |client: &mut Client, _: usize| match client.bytes("GET", &path, None)? {
        (200, _) => Ok(()),
        (status, _) => Err(io::Error::other(format!("GET {path}: {status}"))),
    };
    let got = drive(CLIENTS, settings.scale(READS), begin, get)?;
    rows(report, "get", &got, READS_ASKED);

    let values = machine_path(&id, "/metadata");
    let set = |client: &mut Client, number: usize| {
        let key = format!("{values}/k{}", number % 8);
        client
            .must("POST", &key, Some(&json!({"value": number.to_string()})))
            .map(drop)
    };
    let one = drive(CLIENTS, settings.scale(WRITES), begin, set)?;
    rows(report, "set metadata, all of one machine", &one, WRITES_ASKED);

    let stays = json!({"image": "host:sleep", "init": {"exec": ["/bin/sleep", "1000"]}, "restart": {"policy": "no"},
        "guest": {"memory_mb": 256}, "stop_config": {"signal": "SIGKILL", "timeout": "5s"}});
    let asked = json!({"skip_launch": true, "config": stays});
    let mut client = host.client()?;
    let mut ids = Vec::new();
    for _ in 0..settings.scale(MACHINES).max(8) {
        let made = client.must("POST", &machines, Some(&asked))?;
        ids.push(
            made.get("id")
                .and_then(|id| id.as_str())
                .unwrap_or_default()
                .to_owned(),
        );
    }
    let mut spread = Vec::new();
    let each = |number: usize| ids.get(number % ids.len()).cloned().unwrap_or_default();
    let set = |client: &mut Client, number: usize| {
        let key = machine_path(&each(number), "/metadata/k");
        client
            .must("POST", &key, Some(&json!({"value": number.to_string()})))
            .map(drop)
    };
    spread.push((
        "set metadata, of many machines",
        drive(CLIENTS, settings.scale(WRITES), begin, set)?,
    ));
    for (what, call, state) in [
        ("start, until it is answered", "/start", "started"),
        ("stop, until it is answered", "/stop", "stopped"),
    ] {
        let ask = |client: &mut Client, number: usize| {
            client
                .must("POST", &machine_path(&each(number), call), None)
                .map(drop)
        };
        let wait = |client: &mut Client, number: usize| client.wait(&each(number), state);
        let since = std::time::Instant::now();
        spread.push((what, drive(CLIENTS, ids.len(), begin, ask)?));
        drive(CLIENTS, ids.len(), begin, wait)?;
        let all = since.elapsed().as_secs_f64();
        report.note(format!(
            "{} machines were {state} {:.0} ms after the first was asked: {:.0} a second",
            ids.len(),
            all * 1e3,
            ids.len() as f64 / all
        ));
    }
    for (what, figures) in &spread {
        rows(report, what, figures, WRITES_ASKED);
    }
    report.note(format!(
        "{CLIENTS} clients, each over a connection that it keeps; every write is on the disk before its answer"
    ));
    report.note(format!(
        "the disk: {:.2} ms for a write of 1 KiB and fdatasync, one at a time",
        synced(folder.path())?
    ));
    Ok(())
}

fn rows(report: &mut Report, what: &str, figures: &Figures, asked: f64) {
    let rate = format!("{what}: calls/s");
    against_budget(report, &rate, "/s", Better::Higher, figures.rate, asked);
    report.note(format!(
        "{what}: p50 {:.2} ms, p99 {:.2} ms, of {}",
        figures.ms(50),
        figures.ms(99),
        figures.count
    ));
}

/// Milliseconds for a small write and its sync, the median of 50.
fn synced(folder: &std::path::Path) -> io::Result<f64> {
    let mut file = std::fs::File::create(folder.join("synced"))?;
    let mut write = |(): &mut (), _: usize| {
        file.write_all(&[7; 1_024])?;
        file.sync_data()
    };
    let mut took = Vec::new();
    for number in 0..50 {
        let since = std::time::Instant::now();
        write(&mut (), number)?;
        took.push(since.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    Ok(took.get(25).copied().unwrap_or(f64::NAN))
}
