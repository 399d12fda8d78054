//! What the daemon and systemd say to each other, and the unit: what systemd's own tool thinks of it.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use serde_json::Value;

use crate::daemon::Daemon;
use crate::home::{Home, OPEN, PATIENCE, STAY};
use crate::ran::run;

fn heard(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 256];
    let length = socket.recv(&mut bytes).expect("it is told");
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

#[test]
fn systemd_is_told_when_it_is_ready_that_it_lives_and_when_it_ends() {
    let home = Home::new();
    let path = home.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = home.command(env!("CARGO_BIN_EXE_suijuris"));
    command.arg("serve").arg(home.root());
    command.args(["--listen", "127.0.0.1:0", "--json"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000");
    let daemon = Daemon::start(command);
    let mut first = heard(&socket);
    while first == "WATCHDOG=1" {
        first = heard(&socket);
    }
    assert_eq!(first, "READY=1");
    for _ in 0..3 {
        assert_eq!(heard(&socket), "WATCHDOG=1");
    }
    daemon.signal("TERM");
    let mut last = heard(&socket);
    while last == "WATCHDOG=1" {
        last = heard(&socket);
    }
    assert_eq!(last, "STOPPING=1");
    daemon.terminate();
}

/// Opens sockets as systemd does, and becomes the daemon.
const ACTIVATE: &str = r#"
import os, socket, sys
opened = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
kept = [os.dup(one.fileno()) for one in opened]
for number, fd in enumerate(kept):
    os.dup2(fd, 30 + number)
for number in range(2):
    os.dup2(30 + number, 3 + number)
os.closerange(5, 64)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="suijuris.socket:proxy")
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn sockets_that_systemd_opened_are_listened_on_and_no_others() {
    let home = Home::new();
    let mut command = home.command("python3");
    command.args(["-I", "-c", ACTIVATE, env!("CARGO_BIN_EXE_suijuris"), "serve"]);
    command.arg(home.root()).args(["--json", "--trust", "127.0.0.1"]);
    let daemon = Daemon::start(command);
    let listening = &daemon.events()[0];
    let count = |what: &str| listening[what].as_array().unwrap().len();
    assert_eq!((count("urls"), count("proxied")), (1, 1), "{listening}");
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let answer = daemon.get("hello", "/").status(200);
    // The workload has none of them.
    let pid: u32 = answer
        .body
        .lines()
        .next()
        .unwrap()
        .trim_start_matches("pid ")
        .parse()
        .unwrap();
    assert!(pid > 0);
    daemon.terminate();
    home.nobody_is_left();
}

/// The unit, with the program under test.
fn unit(home: &Home) -> PathBuf {
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools");
    let text = std::fs::read_to_string(format!("{tools}/suijuris.service")).unwrap();
    let path = home.path().join("suijuris.service");
    let program = env!("CARGO_BIN_EXE_suijuris");
    std::fs::write(&path, text.replace("/usr/local/bin/suijuris", program)).unwrap();
    suijuris_testkit::program::copy(
        format!("{tools}/suijuris.socket"),
        home.path().join("suijuris.socket"),
    );
    path
}

#[test]
fn the_unit_is_sound_and_lets_machines_outlive_the_daemon() {
    let home = Home::new();
    let unit = unit(&home);
    let socket = unit.with_extension("socket");
    let verified = run(home
        .command("systemd-analyze")
        .arg("verify")
        .arg(&unit)
        .arg(&socket))
    .code(0);
    assert_eq!(verified.out + &verified.err, "");
    let mut analyze = home.command("systemd-analyze");
    analyze
        .args(["security", "--offline=true", "--json=short"])
        .arg(&unit);
    // The exit code says how exposed it is.
    let line = run(&mut analyze).out;
    let found: Vec<Value> = serde_json::from_str(&line).unwrap();
    let set = |name: &str| {
        let found = found
            .iter()
            .find(|found| found["json_field"] == name || found["name"] == name);
        found.unwrap_or_else(|| panic!("{name} in {line}"))["set"].as_bool()
    };
    for on in [
        "NoNewPrivileges",
        "LockPersonality",
        "RestrictSUIDSGID",
        "CapabilityBoundingSet_CAP_SYS_ADMIN",
        "ProtectKernelModules",
    ] {
        assert_eq!(set(on), Some(true), "{on}");
    }
    // Without these machines die with the daemon, or cannot be made.
    for off in [
        "RestrictNamespaces_user",
        "ProtectKernelTunables",
        "ProtectKernelLogs",
        "ProtectProc",
    ] {
        assert_eq!(set(off), Some(false), "{off}");
    }
    let text = std::fs::read_to_string(&unit).unwrap();
    for line in ["KillMode=process", "Delegate=yes", "Type=notify"] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
}
