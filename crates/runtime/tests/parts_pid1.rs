//! Duties of the first process. Each test plays its part in a process of its own: this test program, started again
//! with the part in its environment.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use suijuris_core::manifest::{self, Network, Ready};
use suijuris_core::time::Span;
use suijuris_runtime::pid1::{self, Role, Signal, Signals};
use suijuris_runtime::workload::{self, Output, Placement, Running};

const PART: &str = "SUIJURIS_TEST_PART";

/// Starts this program again to play `part`, under `wrapper`.
fn play(part: &str, wrapper: &[&str]) -> (Child, std::io::Lines<BufReader<ChildStdout>>) {
    let program = std::env::current_exe().unwrap();
    let own = ["--exact", "plays_its_part", "--nocapture", "--quiet"];
    let mut words: Vec<_> = wrapper.iter().map(std::ffi::OsString::from).collect();
    words.push(program.into());
    words.extend(own.iter().map(std::ffi::OsString::from));
    let mut child = Command::new(words.remove(0))
        .args(words)
        .env(PART, part)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

/// The lines that a part says; each starts with `> `.
fn said(lines: &mut std::io::Lines<BufReader<ChildStdout>>) -> Option<String> {
    lines
        .map_while(Result::ok)
        .find_map(|line| line.split_once("> ").map(|(_, said)| said.to_owned()))
}

fn say(text: impl std::fmt::Display) {
    println!("> {text}");
}

/// Waits until the test has seen what it waited for and lets go of our standard input.
fn wait_for_the_test() {
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

fn kill(child: &Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}

fn spawn(script: &str) -> Running {
    let workload = manifest::Workload {
        image: None,
        argv: ["sh", "-c", script].map(str::to_owned).into(),
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        cwd: None,
        user: None,
        port: 0,
        ready: Ready::Spawned,
        ready_within: Span(20_000),
        live: None,
        stop_signal: 15,
        stop_within: Span(20_000),
        network: Network::Host,
        egress: std::collections::BTreeSet::new(),
        limits: manifest::UseLimits::default(),
        mounts: Vec::new(),
        read_only: true,
    };
    let placement = Placement {
        data_dir: "/".into(),
        private: Vec::new(),
        object_dir: "/".into(),
        port: 0,
        agent_socket: "/none".into(),
        object_id: "bafyobject".to_owned(),
        path: std::env::var_os("PATH"),
        home: "/".into(),
        connections: None,
        limits: workload::MachineLimits::default(),
        secrets: workload::Secrets::default(),
        image: None,
        hosts: None,
    };
    workload::spawn(&workload, &placement, Output::inherited()).unwrap()
}

/// Not a test of its own: the process that the tests below start. Does nothing where no part is given.
#[test]
fn plays_its_part() {
    let Ok(part) = std::env::var(PART) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let role = pid1::adopt();
    match part.as_str() {
        "reaper" => runtime.block_on(reaper()),
        "forwarder" => runtime.block_on(forwarder()),
        "daemon" => runtime.block_on(daemon()),
        "teardown" => runtime.block_on(teardown(role)),
        "mounts" => mounts(),
        "killed" => runtime.block_on(async {
            let running = spawn("exec sleep 1000");
            say(running.pid());
            running.ended().await;
        }),
        _ => unreachable!("no such part"),
    }
}

/// Reaps orphans while a workload runs, then takes the workload's own status.
async fn reaper() {
    let mut signals = Signals::new(Role::Plain).unwrap();
    let running = spawn("trap 'exit 5' TERM; (sh -c 'exit 3' &); (true &); while :; do sleep 0.05; done");
    let mut reaped = 0;
    while reaped < 2 {
        assert_eq!(signals.next().await, Signal::Child);
        reaped += pid1::reap(Some(running.pid()));
    }
    say(reaped);
    running.signal(15).unwrap();
    say(running.ended().await);
}

async fn forwarder() {
    let mut signals = Signals::new(Role::Plain).unwrap();
    let running = spawn(
        "trap 'echo \"> hup\"' HUP; trap 'echo \"> usr1\"' USR1; echo '> up'; while :; do sleep 0.05; done",
    );
    loop {
        match signals.next().await {
            Signal::Forward(number) => running.signal(number).unwrap(),
            Signal::Stop(number) => {
                say(format!("stop {number}: {}", running.stop(9, Span(20_000)).await));
                return;
            }
            Signal::Child => {
                pid1::reap(Some(running.pid()));
            }
        }
    }
}

/// A workload that leaves its session and its parent is still known, and ended.
async fn daemon() {
    let running = spawn("setsid sh -c 'sleep 1000 & echo \"> up\"; wait' & exec true");
    wait_for_the_test();
    let ended = running.ended().await;
    assert!(ended.left > 0, "{ended}");
    let stopped = running.stop(15, Span(20_000)).await;
    say(format!("{stopped}, forced {}", stopped.forced));
    pid1::reap(None);
    let teardown = pid1::teardown(Role::Subreaper, Duration::from_secs(20)).await;
    say(format!("asked {}", teardown.asked));
}

/// One orphan that ends when asked and one that must be killed.
async fn teardown(role: Role) {
    let workload =
        spawn("setsid sh -c 'trap \"\" TERM; echo \"> up\"; while :; do sleep 0.05; done' & sleep 1000");
    wait_for_the_test();
    let done = pid1::teardown(role, Duration::from_secs(3)).await;
    assert!(done.asked >= 3 && workload.poll_ended().is_some(), "{done:?}");
    say(format!(
        "{role:?}: left {}, forced {}",
        done.left,
        done.killed > 0
    ));
}

fn mounts() {
    let root = tempfile::tempdir().unwrap();
    for mount in pid1::mount_missing(Role::BareMachine, root.path()) {
        let place = mount
            .target
            .strip_prefix(root.path())
            .unwrap()
            .display()
            .to_string();
        say(format!("{place} {}", mount.result.is_ok()));
    }
    let again = pid1::mount_missing(Role::BareMachine, root.path());
    say(format!(
        "again {}",
        again.iter().filter(|mount| mount.result.is_ok()).count()
    ));
}

// proves C7
#[test]
fn orphans_are_reaped_and_the_workloads_status_is_not_stolen() {
    let (mut child, mut lines) = play("reaper", &[]);
    assert_eq!(said(&mut lines).unwrap(), "2");
    assert_eq!(said(&mut lines).unwrap(), "exited 5");
    assert!(child.wait().unwrap().success());
}

// proves C7
#[test]
fn signals_reach_the_workload_and_a_wish_to_stop_reaches_us() {
    use nix::sys::signal::Signal::{SIGHUP, SIGTERM, SIGUSR1};
    let (mut child, mut lines) = play("forwarder", &[]);
    assert_eq!(said(&mut lines).unwrap(), "up");
    for (signal, answer) in [
        (SIGHUP, "hup"),
        (SIGUSR1, "usr1"),
        (SIGTERM, "stop 15: killed by signal 9"),
    ] {
        kill(&child, signal);
        assert_eq!(said(&mut lines).unwrap(), answer);
    }
    assert!(child.wait().unwrap().success());
}

// proves C7
#[test]
fn a_daemon_that_left_its_session_is_ended_all_the_same() {
    let (mut child, mut lines) = play("daemon", &[]);
    assert_eq!(said(&mut lines).unwrap(), "up");
    drop(child.stdin.take());
    assert_eq!(said(&mut lines).unwrap(), "exited 0, forced false");
    assert_eq!(said(&mut lines).unwrap(), "asked 0");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_killed_runtime_leaves_no_workload() {
    let (mut child, mut lines) = play("killed", &[]);
    let workload = said(&mut lines).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let stat = format!("/proc/{workload}/stat");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let alive = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z"));
    while alive() {
        assert!(
            std::time::Instant::now() < deadline,
            "the workload outlived the runtime"
        );
        std::thread::yield_now();
    }
}

/// A namespace in which we are the first process, where this machine lets us make one.
fn first_process() -> Option<Vec<&'static str>> {
    let wrapper = [
        "unshare",
        "--user",
        "--map-root-user",
        "--pid",
        "--mount",
        "--net",
        "--fork",
        "--mount-proc",
    ];
    let may = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg("true")
        .stderr(Stdio::null())
        .status();
    let may = may.is_ok_and(|status| status.success());
    if !may {
        eprintln!("this machine makes no user namespaces: the first process is not tested here");
    }
    may.then(|| wrapper.into())
}

// proves C7
#[test]
fn the_first_process_ends_everything_within_its_budget() {
    let mut parts = vec![(vec![], "Subreaper")];
    parts.extend(first_process().map(|wrapper| (wrapper, "First")));
    for (wrapper, role) in parts {
        let (mut child, mut lines) = play("teardown", &wrapper);
        assert_eq!(said(&mut lines).unwrap(), "up");
        drop(child.stdin.take());
        assert_eq!(said(&mut lines).unwrap(), format!("{role}: left 0, forced true"));
        assert!(child.wait().unwrap().success());
    }
}

// proves C7
#[test]
fn a_bare_machine_gets_its_mounts_and_a_refused_one_is_tolerated() {
    let Some(wrapper) = first_process() else { return };
    let (mut child, mut lines) = play("mounts", &wrapper);
    let told: Vec<_> = std::iter::from_fn(|| said(&mut lines)).collect();
    for place in ["run true", "tmp true"] {
        assert!(told.iter().any(|line| line == place), "{place}: {told:?}");
    }
    // The kernel refuses device files to a namespace.
    assert!(told.iter().any(|line| line == "dev false"), "{told:?}");
    assert_eq!(told.last().unwrap(), "again 0");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_prepared_machine_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    for role in [Role::First, Role::Subreaper, Role::Plain] {
        assert_eq!(pid1::mount_missing(role, root.path()), []);
    }
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}
