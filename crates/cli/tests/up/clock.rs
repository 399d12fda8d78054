//! A clock that is stepped under a runtime that was stopped.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::{Value, json};

use crate::rig::{OPEN, Object, STAY, Up, is_like, kill, read_answer, stood_by, until};

/// The runtime on its own, with a wall clock that the test sets.
struct Runtime {
    child: Child,
    port: u16,
    offset: PathBuf,
    events: Arc<Mutex<Vec<Value>>>,
}

fn faketime() -> PathBuf {
    let libraries = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let found = libraries
        .map(|entry| entry.path().join("faketime/libfaketime.so.1"))
        .find(|path| path.exists());
    found.expect("libfaketime is not there: run `sh tools/setup --test`")
}

impl Runtime {
    fn start(object: &Object) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let inherited = listener.as_raw_fd().to_string();
        let (port, offset) = (
            listener.local_addr().unwrap().port(),
            object.home().join("offset"),
        );
        std::fs::write(&offset, "+0").unwrap();
        let mut command = object.command(env!("CARGO_BIN_EXE_suijuris"));
        command
            .args(["__init", "--listen-fd", &inherited, "--data"])
            .arg(object.data())
            .arg("--object")
            .arg(object.dir())
            .env("LD_PRELOAD", faketime())
            .env("FAKETIME_TIMESTAMP_FILE", &offset)
            .env("FAKETIME_NO_CACHE", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let (said, heard) = (child.stderr.take().unwrap(), Arc::clone(&events));
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                let said: Value = serde_json::from_str(&line).unwrap_or_default();
                heard.lock().unwrap().push(said["event"].clone());
            }
        });
        let runtime = Self {
            child,
            port,
            offset,
            events,
        };
        until("it serves", || {
            runtime.count(&json!({"event": "boot", "step": "serve"})) == 1
        });
        runtime
    }

    fn count(&self, like: &Value) -> usize {
        let events = self.events.lock().unwrap();
        events.iter().filter(|event| is_like(event, like)).count()
    }

    /// Stops it, sets its clock off by this, lets it go on.
    fn step(&self, offset: &str) {
        kill(self.child.id(), "STOP");
        std::fs::write(&self.offset, offset).unwrap();
        kill(self.child.id(), "CONT");
    }

    fn get(&self, path: &str) -> u16 {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        read_answer(&mut socket).map_or(0, |answer| answer.status)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// proves C6
#[test]
fn a_runtime_whose_clock_was_stepped_while_it_stood_still_decides_again_before_the_next_byte() {
    let object = Object::new("", &format!("{OPEN}{STAY}"));
    assert_eq!(object.up().interrupt(), Some(0));
    let mut runtime = Runtime::start(&object);
    assert_eq!(runtime.get("/before"), 200);
    assert_eq!(runtime.count(&json!({"event": "resumed"})), 0);
    for (steps, offset) in [(1, "+3600"), (2, "-3600")] {
        runtime.step(offset);
        assert_eq!(runtime.get("/after"), 200);
        // The record is there before the answer; its event is read from a pipe, by another thread.
        assert_eq!(object.records("resumed").len(), steps, "{offset}");
        until("its event was read", || {
            runtime.count(&json!({"event": "resumed"})) == steps
        });
        assert_eq!(runtime.get("/again"), 200);
        assert_eq!(runtime.count(&json!({"event": "resumed"})), steps, "{offset}");
    }
    kill(runtime.child.id(), "TERM");
    runtime.child.wait().unwrap();
    let resumed = object.records("resumed");
    assert_eq!(resumed.len(), 2);
    assert!(resumed.iter().all(|record| record["verdict"]["action"] == "wake"));
    assert_ne!(resumed[0]["body"]["next"], resumed[1]["body"]["next"]);
    object.verify();
}

/// A workload that keeps one connection to the world, and answers with what comes back over it.
const FAR: &str = r#"
import http.server, socket, sys

far = socket.create_connection(("host.internal", int(sys.argv[2])))

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self):
        to = far if self.path == "/kept" else socket.create_connection(("host.internal", int(sys.argv[2])))
        to.sendall(b"word")
        body = to.recv(4)
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

/// What says back what it hears, at this port.
fn echoes() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                let _ = std::io::copy(&mut from, &mut to);
            });
        }
    });
    port
}

/// The wall clock of the process that keeps machines is stepped, an hour on and two back: what waits and what is connected goes by another clock.
#[test]
fn a_step_of_the_clock_disturbs_neither_who_stands_by_nor_what_the_workload_reaches() {
    let port = echoes();
    let object = Object::defined(
        &format!(
            "name = \"far\"\n[workload]\ncommand = [\"python3\", \"{{object}}/far.py\", \"{{port}}\", \"{port}\"]\n\
             egress = [\"host.internal:{port}\"]\n"
        ),
        &format!("{OPEN}{STAY}"),
    );
    object.file("far.py", FAR);
    let offset = object.home().join("offset");
    std::fs::write(&offset, "+0").unwrap();
    let mut command = object.command(env!("CARGO_BIN_EXE_suijuris"));
    command
        .arg("up")
        .arg(object.dir())
        .env("LD_PRELOAD", faketime())
        .env("FAKETIME_TIMESTAMP_FILE", &offset)
        .env("FAKETIME_NO_CACHE", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    let up = Up::start(command);
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", up.pid())).unwrap();
    assert!(maps.contains("libfaketime"), "its clock is the test's");
    let asked = |up: &Up, path: &str| {
        let answer = up.get(path);
        assert_eq!((answer.status, answer.body.as_str()), (200, "word"), "{path}");
    };
    asked(&up, "/kept");
    for step in ["+3600", "-3600"] {
        std::fs::write(&offset, step).unwrap();
        asked(&up, "/kept");
        asked(&up, "/new");
    }
    let runtime = up.runtime_pid();
    up.control(&json!("sleep"));
    until("it is gone", || {
        !std::path::Path::new(&format!("/proc/{runtime}")).exists()
    });
    for step in ["+0", "-7200"] {
        up.is_ready_to_wake();
        std::fs::write(&offset, step).unwrap();
        asked(&up, "/new");
        assert!(stood_by(up.runtime_pid()), "it woke from one that stood by");
        let runtime = up.runtime_pid();
        up.control(&json!("sleep"));
        until("it is gone", || {
            !std::path::Path::new(&format!("/proc/{runtime}")).exists()
        });
    }
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}
