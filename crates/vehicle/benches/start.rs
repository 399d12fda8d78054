//! What a machine's start costs over the plain start of the same program: from the call until the program
//! has been executed, for every isolation and freezer that this host has. Rounds are interleaved, so that
//! noise falls on all alike. Prints one line each: name, median and 95th percentile in µs, ratio of medians.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use suijuris_vehicle::process::{Process, Shim, Want};
use suijuris_vehicle::{Driver, Isolation, Machine, Network, Output, Spec, Suspending};

const ROUNDS: usize = 100;
const PROGRAM: &str = "/bin/true";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let drivers = drivers().await;
    let mut times: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        times.entry(" spawn".to_owned()).or_default().push(spawn());
        for driver in &drivers {
            let networks = match driver.describe().isolation {
                Isolation::Plain => vec![Network::Host],
                _ => vec![Network::Host, Network::Private],
            };
            for network in networks {
                let description = driver.describe();
                let name = format!(
                    "{} {} {network:?}",
                    description.isolation,
                    description.suspending.unwrap()
                );
                times
                    .entry(format!("{name} prepared"))
                    .or_default()
                    .push(start(driver, network).await);
                times.entry(name).or_default().push(start(driver, network).await);
                driver.prepare(None).unwrap();
                // Until the shim has come up, which is what preparing takes out of a start.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    print(&mut times);
}

async fn drivers() -> Vec<Process> {
    let mut found = Vec::new();
    for isolation in [Isolation::Plain, Isolation::UserNamespaces, Isolation::Namespaces] {
        for suspending in [Suspending::Signals, Suspending::CgroupV1, Suspending::CgroupV2] {
            let shim = Shim {
                exe: env!("CARGO_BIN_EXE_vehicle-actor").into(),
                args: vec!["__shim".into()],
            };
            let want = Want {
                isolation: Some(isolation),
                suspending: Some(suspending),
            };
            found.extend(Process::detect(shim, want).await.ok());
        }
    }
    found
}

fn spawn() -> Duration {
    let begin = Instant::now();
    let mut child = Command::new(PROGRAM).stdin(Stdio::null()).spawn().unwrap();
    let took = begin.elapsed();
    child.wait().unwrap();
    took
}

async fn start(driver: &Process, network: Network) -> Duration {
    let mut spec = Spec::new("bench", PROGRAM);
    (spec.network, spec.stdout, spec.stderr) = (network, Output::Null, Output::Null);
    let begin = Instant::now();
    let machine = driver.start(spec).await.unwrap();
    let took = begin.elapsed();
    machine.wait().await;
    took
}

fn print(times: &mut BTreeMap<String, Vec<Duration>>) {
    let mut base = None;
    for (name, times) in times {
        times.sort();
        let at = |percent: usize| times.get(times.len() * percent / 100).unwrap().as_secs_f64() * 1e6;
        let (median, high) = (at(50), at(95));
        let base = *base.get_or_insert(median);
        println!("{name:50} {median:9.0} {high:9.0} {:8.1}", median / base);
    }
}
