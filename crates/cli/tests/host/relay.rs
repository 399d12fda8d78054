//! Raw connections through the proxy that outlive the daemon, killed or ended, and that the next one counts.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::proxy::free_port;
use crate::rig::{Host, PATIENCE, until};

/// A server as databases are: it greets first, and answers line by line for as long as somebody is there.
const SERVER: &str = r#"
import os, socketserver
class Lines(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"hello\n")
        for number, line in enumerate(self.rfile):
            self.wfile.write(b"%d %s" % (number, line))
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
Server(("127.0.0.1", int(os.environ["PORT"])), Lines).serve_forever()
"#;

const ARGS: [&str; 5] = [
    "--no-rate-limit",
    "--hold",
    "30",
    "--proxy",
    "127.0.0.1:0,port=5432",
];

struct Session(BufReader<TcpStream>);

impl Session {
    fn open(host: &Host) -> Self {
        let stream = TcpStream::connect(&host.proxy[0]).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// The next line; empty where it has ended.
    fn hears(&mut self) -> String {
        let mut line = String::new();
        // One that was broken has ended, too.
        let _ = self.0.read_line(&mut line);
        line
    }

    #[track_caller]
    fn asks(&mut self, number: usize, text: &str) {
        writeln!(self.0.get_mut(), "{text}").unwrap();
        assert_eq!(self.hears(), format!("{number} {text}\n"));
    }
}

fn serve(host: &Host, concurrency: &Value) -> String {
    let port = free_port();
    let service = json!({"protocol": "tcp", "internal_port": port, "ports": [{"port": 5432}], "concurrency": concurrency, "autostop": "stop"});
    let config = json!({"image": "host:python3", "init": {"exec": ["/usr/bin/env", "python3", "-c", SERVER]}, "restart": {"policy": "no"},
        "env": {"PORT": port.to_string()}, "services": [service]});
    let made = host
        .post("/apps/a/machines", &json!({ "config": config }))
        .is(200);
    let id = made["id"].as_str().unwrap().to_owned();
    host.wait(&id, "started");
    id
}

fn metric(host: &Host, name: &str) -> Option<f64> {
    let asked = Command::new("curl")
        .args(["-s", "--unix-socket"])
        .arg(host.data().join("host.sock"))
        .arg("http://localhost/metrics")
        .output()
        .unwrap();
    let text = String::from_utf8(asked.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn in_flight(host: &Host) -> Option<f64> {
    metric(host, "suijuris_proxy_requests_in_flight")
}

/// Ends the daemon as `systemctl restart` does.
fn end(host: &mut Host) {
    let asked = Command::new("kill").arg(host.pid().to_string()).status().unwrap();
    assert!(asked.success());
    until("the daemon has ended", || host.is_dead());
}

// proves F2
#[test]
fn a_raw_connection_outlives_a_killed_and_an_ended_daemon_and_is_counted_by_the_next() {
    let mut host = Host::start_with(&ARGS);
    host.app("a");
    let id = serve(
        &host,
        &json!({"type": "connections", "soft_limit": 1, "hard_limit": 2}),
    );
    let mut first = Session::open(&host);
    assert_eq!(first.hears(), "hello\n");
    first.asks(0, "begin");
    let mut second = Session::open(&host);
    assert_eq!(second.hears(), "hello\n");
    host.kill();
    // While no daemon is there.
    first.asks(1, "without a daemon");
    host.run(&ARGS);
    first.asks(2, "with the next one");
    assert_eq!(in_flight(&host), Some(2.0));
    // Both count: a third has no room, until one goes.
    let mut third = Session::open(&host);
    third
        .0
        .get_mut()
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    assert_eq!(third.hears(), "");
    third.0.get_mut().set_read_timeout(Some(PATIENCE)).unwrap();
    second.asks(0, "was idle all the while");
    drop(second);
    assert_eq!(third.hears(), "hello\n", "it had waited for this");
    third.asks(0, "room");
    // The same relay has what came before and what came after; a daemon that is told to end leaves both.
    end(&mut host);
    first.asks(3, "ended");
    host.run(&ARGS);
    first.asks(4, "again");
    third.asks(1, "again");
    until("both are counted", || in_flight(&host) == Some(2.0));
    drop(third);
    until("one has ended", || in_flight(&host) == Some(1.0));
    // What its machine's end is to it.
    host.post(&format!("/apps/a/machines/{id}/stop"), &json!({}))
        .is(200);
    host.wait(&id, "stopped");
    assert_eq!(first.hears(), "");
    drop(first);
    until("nothing is open", || in_flight(&host) == Some(0.0));
}

#[test]
fn a_machine_with_an_open_connection_of_an_earlier_daemon_is_not_put_to_rest() {
    let args = [&ARGS[..], &["--autostop-every", "1"]].concat();
    let mut host = Host::start_with(&args);
    host.app("a");
    let id = serve(&host, &json!({"type": "connections"}));
    let mut session = Session::open(&host);
    assert_eq!(session.hears(), "hello\n");
    host.kill();
    host.run(&args);
    // Passes of autostop see both, and put the other one to rest.
    let idle = serve(&host, &json!({"type": "connections"}));
    host.wait(&idle, "stopped");
    assert_eq!(host.state(&id), "started");
    session.asks(0, "still there");
    drop(session);
    host.wait(&id, "stopped");
}

#[test]
fn a_relay_that_is_killed_ends_what_it_carried_and_is_started_anew() {
    let host = Host::start_with(&ARGS);
    host.app("a");
    serve(&host, &json!({"type": "connections", "hard_limit": 1}));
    let mut session = Session::open(&host);
    assert_eq!(session.hears(), "hello\n");
    let relay = relay_of(&host).unwrap();
    let killed = Command::new("kill")
        .args(["-9", &relay.to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    assert_eq!(session.hears(), "");
    let mut next = Session::open(&host);
    assert_eq!(next.hears(), "hello\n", "the place of the broken one is free");
    next.asks(0, "well");
    assert_ne!(relay_of(&host), Some(relay));
}

#[test]
fn a_relay_without_daemon_and_connections_ends() {
    let mut host = Host::start_with(&ARGS);
    host.app("a");
    serve(&host, &json!({"type": "connections"}));
    let mut session = Session::open(&host);
    assert_eq!(session.hears(), "hello\n");
    let relay = relay_of(&host).unwrap();
    host.kill();
    session.asks(0, "alone");
    let at = std::path::PathBuf::from(format!("/proc/{relay}"));
    assert!(at.exists());
    let mut stream = session.0.into_inner();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    until("the relay has ended", || !at.exists());
}

/// The relay of a host, by what listens at its socket.
fn relay_of(host: &Host) -> Option<u32> {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let inodes: Vec<String> = sockets
        .lines()
        .filter(|line| line.ends_with("/relay.sock") || line.contains("relay.sock"))
        .filter_map(|line| Some(format!("socket:[{}]", line.split_whitespace().nth(6)?)))
        .collect();
    let of_daemon = format!("{}", host.pid());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut found = processes.filter_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let words = std::fs::read(process.path().join("cmdline")).ok()?;
        let is_relay = words.split(|byte| *byte == 0).nth(1) == Some(b"__relay");
        let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.to_owned();
        let listens = std::fs::read_link(process.path().join("fd/0")).ok()?;
        (is_relay && parent == of_daemon && inodes.contains(&listens.to_string_lossy().into_owned()))
            .then_some(pid)
    });
    found.next()
}
