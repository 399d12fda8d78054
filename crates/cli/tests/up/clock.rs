//! A clock that is stepped under a runtime that was stopped.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::{Value, json};

use crate::rig::{OPEN, Object, STAY, is_like, kill, read_answer, until};

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
