//! A thousand machines of which 950 rest: what the daemon takes, how long a list and a plan take, how long a restart.

use std::io;
use std::time::Instant;

use serde_json::{Value, json};
use suijuris_testkit::bench::host::{APP, Client, Host};
use suijuris_testkit::bench::{Better, Report, Settings, drive, memory};

use crate::{Result, against_budget};

/// Machines, and those among them that run.
const MACHINES: usize = 1_000;
const RUNNING: usize = 50;
/// Clients that make them.
const CLIENTS: usize = 8;
/// Lists and plans.
const LOOKS: usize = 50;
/// Restarts.
const RESTARTS: usize = 5;
const MIB: f64 = 1_048_576.0;
/// What is asked for.
const MEMORY_MIB: f64 = 64.0;
const LIST_MS: f64 = 20.0;
const RECONCILE_MS: f64 = 50.0;
const RESTART_MS: f64 = 1_000.0;

fn config(runs: bool) -> Value {
    let program = if runs {
        json!(["/bin/sleep", "100000"])
    } else {
        json!(["/bin/true"])
    };
    json!({"image": "host:sleep", "init": {"exec": program}, "restart": {"policy": "no"}, "guest": {"memory_mb": 256},
        "env": {"ROLE": "bench"}, "metadata": {"role": "bench"}, "stop_config": {"signal": "SIGKILL", "timeout": "5s"},
        "services": [{"protocol": "tcp", "internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}]}]})
}

/// The table of this bench.
pub(crate) fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    // Programs of this bench take no memory to speak of, and what is reserved for them is more than there may be.
    let arguments = ["--proxy", "127.0.0.1:0", "--memory", "10000000"];
    let mut host = Host::start(&folder.path().join("data"), &arguments)?;
    let list = format!("/apps/{APP}/machines");
    let count = if settings.quick { MACHINES / 10 } else { MACHINES };
    let begin = Instant::now();
    let make = |client: &mut Client, number: usize| -> io::Result<()> {
        let runs = number < count * RUNNING / MACHINES;
        let made = client.must("POST", &list, Some(&json!({"config": config(runs)})))?;
        let id = made.get("id").and_then(Value::as_str).unwrap_or_default();
        client.wait(id, if runs { "started" } else { "stopped" })
    };
    drive(CLIENTS, count, || host.client(), make)?;
    report.note(format!(
        "{count} machines were made and {} have ended after {:.1} s",
        count - count * RUNNING / MACHINES,
        begin.elapsed().as_secs_f64()
    ));
    used(report, "after they were made", &host)?;
    let looks = settings.scale(LOOKS);
    let bytes = std::sync::atomic::AtomicUsize::new(0);
    let look = |client: &mut Client, _: usize| {
        let (status, body) = client.bytes("GET", &list, None)?;
        bytes.store(body.len(), std::sync::atomic::Ordering::Relaxed);
        if status == 200 {
            Ok(())
        } else {
            Err(io::Error::other(format!("{status}")))
        }
    };
    let listed = drive(1, looks, || host.client(), look)?;
    against_budget(
        report,
        "list of all, p50",
        "ms",
        Better::Lower,
        listed.ms(50),
        LIST_MS,
    );
    let bytes = bytes.into_inner();
    report.note(format!(
        "the list has {} KiB; p99 {:.1} ms",
        bytes / 1_024,
        listed.ms(99)
    ));
    let summary = format!("{list}?summary=true");
    let look = |client: &mut Client, _: usize| client.bytes("GET", &summary, None).map(drop);
    let listed = drive(1, looks, || host.client(), look)?;
    against_budget(
        report,
        "the same, ?summary=true, p50",
        "ms",
        Better::Lower,
        listed.ms(50),
        LIST_MS,
    );
    let look = |(): &mut (), _: usize| host.control("/plan").map(drop);
    let planned = drive(1, looks, || Ok(()), look)?;
    against_budget(
        report,
        "reconcile: observe and plan all, p50",
        "ms",
        Better::Lower,
        planned.ms(50),
        RECONCILE_MS,
    );
    let mut restarts = Vec::new();
    let mut listens = Vec::new();
    for _ in 0..settings.scale(RESTARTS) {
        let begin = Instant::now();
        listens.push(host.restart()?.as_secs_f64() * 1e3);
        let all = host.client()?.must("GET", &list, None)?;
        restarts.push(begin.elapsed().as_secs_f64() * 1e3);
        let known = all.as_array().map_or(0, Vec::len);
        let started = |machine: &&Value| machine.get("state").is_some_and(|state| state == "started");
        let up = all.as_array().into_iter().flatten().filter(started).count();
        if (known, up) != (count, count * RUNNING / MACHINES) {
            return Err(format!("{known} machines are known after a restart, {up} of them started").into());
        }
    }
    restarts.sort_by(f64::total_cmp);
    listens.sort_by(f64::total_cmp);
    let middle = |all: &[f64]| all.get(all.len() / 2).copied().unwrap_or(f64::NAN);
    against_budget(
        report,
        "restart: exec until all are listed",
        "ms",
        Better::Lower,
        middle(&restarts),
        RESTART_MS,
    );
    report.note(format!(
        "it listened after {:.0} ms, with {} machines running",
        middle(&listens),
        count * RUNNING / MACHINES
    ));
    used(report, "after a restart", &host)
}

fn used(report: &mut Report, when: &str, host: &Host) -> Result<()> {
    let memory = memory(host.pid())?;
    let [resident, own] = [memory.resident, memory.own].map(|bytes| bytes as f64 / MIB);
    let what = format!("memory of the daemon, {when}");
    against_budget(report, &what, "MiB", Better::Lower, resident, MEMORY_MIB);
    report.note(format!("{what}: {own:.1} MiB of its own"));
    Ok(())
}
