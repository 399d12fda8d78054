//! Sockets outlive the daemon where systemd keeps them (`FDSTORE`): a client that connects while there is none is answered by the next one.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::rig::PATIENCE;

/// The part of systemd that keeps sockets: what a service stores comes with its next start.
const SYSTEMD: &str = r#"
import os, socket, subprocess, sys
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(sys.argv[1])
os.environ["NOTIFY_SOCKET"] = sys.argv[1]
store = {}
def become():
    for number, fd in enumerate(store.values()):
        os.dup2(fd, 40 + number)
    for number in range(len(store)):
        os.dup2(40 + number, 3 + number)
    os.closerange(3 + len(store), 64)
    if store:
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(store)), LISTEN_FDNAMES=":".join(store))
service = None
for line in sys.stdin:
    if line == "start\n":
        service = subprocess.Popen(sys.argv[2:], close_fds=False, preexec_fn=become, stdin=subprocess.DEVNULL)
        while True:
            text, fds, _, _ = socket.recv_fds(notify, 4096, 8)
            lines = dict(part.split("=", 1) for part in text.decode().splitlines())
            if "FDSTORE" in lines:
                store.setdefault(lines["FDNAME"], fds[0])
            if lines.get("READY") == "1":
                break
    elif line == "kill\n":
        service.kill()
        service.wait()
        print("killed", flush=True)
service.kill()
"#;

// proves F2
#[test]
fn whoever_connects_between_two_daemons_is_answered_by_the_second() {
    let dir = TempDir::new().unwrap();
    let mut systemd = Command::new("python3");
    systemd.args(["-I", "-c", SYSTEMD]).arg(dir.path().join("notify"));
    systemd.args([
        env!("CARGO_BIN_EXE_suijuris"),
        "host",
        "--json",
        "--no-rate-limit",
    ]);
    systemd.args(["--api", "127.0.0.1:0", "--proxy", "127.0.0.1:0", "--data"]);
    systemd.arg(dir.path().join("data"));
    let mut systemd = systemd
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut say = systemd.stdin.take().unwrap();
    let mut lines = BufReader::new(systemd.stdout.take().unwrap());
    let mut heard = || {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        line
    };
    say.write_all(b"start\n").unwrap();
    let first: Value = serde_json::from_str(&heard()).unwrap();
    say.write_all(b"kill\n").unwrap();
    assert_eq!(heard(), "killed\n");
    let ask = |url: &Value, path: &str, host: &str| {
        let mut stream = TcpStream::connect(url.as_str().unwrap().strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let token = first["token"].as_str().unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let mut waiting = [
        ask(&first["api"], "/v1/apps?org_slug=personal", "localhost"),
        ask(&first["proxy"][0], "/", "nobody.localhost"),
    ];
    say.write_all(b"start\n").unwrap();
    let second: Value = serde_json::from_str(&heard()).unwrap();
    assert_eq!(
        (&second["api"], &second["proxy"]),
        (&first["api"], &first["proxy"])
    );
    for (stream, expected) in waiting.iter_mut().zip(["HTTP/1.1 200", "HTTP/1.1 404"]) {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with(expected), "{text}");
    }
    drop(say);
    systemd.wait().unwrap();
}
