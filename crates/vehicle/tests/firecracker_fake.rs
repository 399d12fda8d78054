//! The played Firecracker against what is known of the real one: a table of call by state, and what a snapshot and vsock do.
//! A suite that passes on a fake proves no more than this table does.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

const BEFORE: &str = "The requested operation is not supported before starting the microVM.";
const AFTER: &str = "The requested operation is not supported after starting the microVM.";
const RUNNING: &str = "save/restore unavailable while running";
const CONFIGURED: &str = "Loading a microVM snapshot not allowed after configuring boot-specific resources";
const UNKNOWN: &str = "An error occurred when deserializing the json body of a request: unknown field";

/// A process and its connection.
struct Played {
    child: Child,
    api: BufReader<UnixStream>,
}

impl Drop for Played {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connected(path: &Path) -> UnixStream {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < limit, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Played {
    fn start(dir: &Path) -> Self {
        for left in ["api.sock", "vsock.sock"] {
            let _ = std::fs::remove_file(dir.join(left));
        }
        let child = Command::new(env!("CARGO_BIN_EXE_fake-firecracker"))
            .args(["--api-sock", "api.sock", "--id", "machine"])
            .current_dir(dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            api: BufReader::new(connected(&dir.join("api.sock"))),
        }
    }

    /// Status and content.
    fn call(&mut self, method: &str, path: &str, content: &Value) -> (u16, Value) {
        let content = if content.is_null() {
            String::new()
        } else {
            content.to_string()
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
            content.len()
        );
        self.api
            .get_mut()
            .write_all((head + &content).as_bytes())
            .unwrap();
        let (mut line, mut length) = (String::new(), 0);
        self.api.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        loop {
            line.clear();
            self.api.read_line(&mut line).unwrap();
            match line.trim().split_once(": ") {
                Some(("Content-Length", value)) => length = value.parse().unwrap(),
                Some(_) => {}
                None => break,
            }
        }
        let mut content = vec![0; length];
        self.api.read_exact(&mut content).unwrap();
        let content = if length == 0 {
            Value::Null
        } else {
            serde_json::from_slice(&content).unwrap()
        };
        (status, content)
    }

    /// Does what must be possible.
    fn does(&mut self, method: &str, path: &str, content: &Value) {
        let answer = self.call(method, path, content);
        assert_eq!(answer, (204, Value::Null), "{method} {path}");
    }

    /// Why it does not.
    fn refuses(&mut self, method: &str, path: &str, content: &Value) -> String {
        let (status, content) = self.call(method, path, content);
        assert_eq!(status, 400, "{method} {path}");
        content["fault_message"].as_str().unwrap().to_owned()
    }

    fn exit(&mut self) -> Option<i32> {
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < limit, "it does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// To a state of the table.
    fn to(&mut self, state: State) {
        if state != State::NotStarted {
            self.does("PUT", "/boot-source", &json!({ "kernel_image_path": "kernel" }));
            self.does(
                "PUT",
                "/machine-config",
                &json!({ "vcpu_count": 1, "mem_size_mib": 1, "track_dirty_pages": true }),
            );
            self.does(
                "PUT",
                "/vsock",
                &json!({ "guest_cid": 3, "uds_path": "vsock.sock" }),
            );
            self.does("PUT", "/actions", &json!({ "action_type": "InstanceStart" }));
        }
        if state == State::Paused {
            self.does("PATCH", "/vm", &json!({ "state": "Paused" }));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    NotStarted,
    Running,
    Paused,
}

const STATES: [State; 3] = [State::NotStarted, State::Running, State::Paused];

fn dir() -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("kernel"), "kernel").unwrap();
    std::fs::write(dir.path().join("disk"), "disk").unwrap();
    dir
}

/// A call, and what it comes to before the start, while the machine runs, and while it stands still: `None`, it is done.
type Row = (&'static str, &'static str, Value, [Option<&'static str>; 3]);

fn table() -> Vec<Row> {
    let only_before = [None, Some(AFTER), Some(AFTER)];
    let only_after = [Some(BEFORE), None, None];
    let snapshot = json!({ "snapshot_path": "s", "mem_file_path": "m", "snapshot_type": "Full" });
    let load =
        json!({ "snapshot_path": "s", "mem_backend": { "backend_type": "File", "backend_path": "m" } });
    let drive = json!({ "drive_id": "d", "path_on_host": "disk", "is_root_device": false });
    vec![
        (
            "PUT",
            "/machine-config",
            json!({ "vcpu_count": 1, "mem_size_mib": 1 }),
            only_before,
        ),
        (
            "PUT",
            "/boot-source",
            json!({ "kernel_image_path": "kernel" }),
            only_before,
        ),
        ("PUT", "/drives/d", drive, only_before),
        (
            "PUT",
            "/network-interfaces/e",
            json!({ "iface_id": "e", "host_dev_name": "tap" }),
            only_before,
        ),
        (
            "PUT",
            "/vsock",
            json!({ "guest_cid": 3, "uds_path": "vsock.sock" }),
            only_before,
        ),
        ("PUT", "/entropy", json!({}), only_before),
        (
            "PUT",
            "/actions",
            json!({ "action_type": "InstanceStart" }),
            [
                Some("Cannot start microvm without kernel configuration."),
                Some(AFTER),
                Some(AFTER),
            ],
        ),
        (
            "PUT",
            "/actions",
            json!({ "action_type": "SendCtrlAltDel" }),
            only_after,
        ),
        ("PATCH", "/vm", json!({ "state": "Paused" }), only_after),
        ("PATCH", "/vm", json!({ "state": "Resumed" }), only_after),
        (
            "PUT",
            "/snapshot/create",
            snapshot,
            [Some(BEFORE), Some(RUNNING), None],
        ),
        // Of a file that is not there; the process ends with that.
        (
            "PUT",
            "/snapshot/load",
            load,
            [Some("Failed to restore from snapshot"), Some(AFTER), Some(AFTER)],
        ),
        ("PUT", "/entropy", json!({ "what": 1 }), [Some(UNKNOWN); 3]),
        (
            "PUT",
            "/vm",
            json!({}),
            [Some("Invalid request method and/or path: PUT vm."); 3],
        ),
        (
            "GET",
            "/nothing",
            Value::Null,
            [Some("Invalid request method and/or path"); 3],
        ),
    ]
}

#[test]
fn each_call_is_answered_by_state() {
    for (column, state) in STATES.into_iter().enumerate() {
        for (method, path, content, wanted) in table() {
            let dir = dir();
            let mut played = Played::start(dir.path());
            played.to(state);
            let (status, answer) = played.call(method, path, &content);
            match wanted[column] {
                None => assert_eq!((status, answer), (204, Value::Null), "{method} {path} {state:?}"),
                Some(wanted) => {
                    let why = answer["fault_message"].as_str().unwrap();
                    assert_eq!(status, 400, "{method} {path} {state:?}");
                    assert!(why.contains(wanted), "{method} {path} {state:?}: {why}");
                }
            }
        }
    }
}

#[test]
fn what_it_is_is_told_in_every_state() {
    for state in STATES {
        let dir = dir();
        let mut played = Played::start(dir.path());
        played.to(state);
        let (status, version) = played.call("GET", "/version", &Value::Null);
        assert_eq!((status, &version["firecracker_version"]), (200, &json!("1.16.0")));
        let (_, about) = played.call("GET", "/", &Value::Null);
        let wanted = match state {
            State::NotStarted => "Not started",
            State::Running => "Running",
            State::Paused => "Paused",
        };
        assert_eq!(about["state"], wanted);
    }
}

fn create(how: &str) -> Value {
    json!({ "snapshot_path": "s", "mem_file_path": "m", "snapshot_type": how })
}

fn load(more: &Value) -> Value {
    let mut load = json!({
        "snapshot_path": "s",
        "mem_backend": { "backend_type": "File", "backend_path": "m" },
        "track_dirty_pages": true,
    });
    load.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    load
}

/// A snapshot in `dir`, of a machine that has ended.
fn snapshot(dir: &Path) {
    let mut played = Played::start(dir);
    played.to(State::Paused);
    played.does("PUT", "/snapshot/create", &create("Full"));
}

#[test]
fn a_snapshot_is_loaded_before_anything_else_and_counts_its_generation() {
    let dir = dir();
    snapshot(dir.path());
    assert_eq!(dir.path().join("m").metadata().unwrap().len(), 1 << 20);
    let mut played = Played::start(dir.path());
    played.does("PUT", "/entropy", &json!({}));
    let why = played.refuses("PUT", "/snapshot/load", &load(&json!({})));
    assert!(why.contains(CONFIGURED), "{why}");
    drop(played);
    for generation in 1..3 {
        let mut played = Played::start(dir.path());
        played.does("PUT", "/snapshot/load", &load(&json!({ "clock_realtime": true })));
        let (_, about) = played.call("GET", "/", &Value::Null);
        assert_eq!(
            (&about["state"], &about["generation"]),
            (&json!("Paused"), &json!(generation))
        );
        // What changed goes into the file that has the rest.
        played.does("PUT", "/snapshot/create", &create("Diff"));
        assert_eq!(dir.path().join("m").metadata().unwrap().len(), 1 << 20);
    }
}

#[test]
fn what_changed_is_known_only_where_it_is_tracked() {
    let dir = dir();
    snapshot(dir.path());
    let mut played = Played::start(dir.path());
    played.does(
        "PUT",
        "/snapshot/load",
        &load(&json!({ "track_dirty_pages": false })),
    );
    let why = played.refuses("PUT", "/snapshot/create", &create("Diff"));
    assert!(why.contains("dirty page tracking disabled"), "{why}");
}

#[test]
fn a_load_that_fails_ends_the_process() {
    let broken: [(&str, Option<&str>, Value, &str); 5] = [
        ("s", Some(""), json!({}), "File too short to contain CRC"),
        (
            "s",
            Some("{not what was written}"),
            json!({}),
            "CRC64 validation failed",
        ),
        ("m", Some("short"), json!({}), "Failed to load guest memory"),
        (
            "",
            None,
            json!({ "network_overrides": [{ "iface_id": "e", "host_dev_name": "t" }] }),
            "Unknown Network Device",
        ),
        (
            "",
            None,
            json!({ "mem_backend": { "backend_type": "Uffd", "backend_path": "u" } }),
            "Error creating guest memory from uffd",
        ),
    ];
    for (file, content, more, wanted) in broken {
        let dir = dir();
        snapshot(dir.path());
        if let Some(content) = content {
            std::fs::write(dir.path().join(file), content).unwrap();
        }
        let mut played = Played::start(dir.path());
        let why = played.refuses("PUT", "/snapshot/load", &load(&more));
        assert!(why.contains(wanted), "{why}");
        assert_eq!(played.exit(), Some(1), "{why}");
    }
    // A machine without vsock cannot be given another.
    let dir = dir();
    let mut played = Played::start(dir.path());
    played.does("PUT", "/boot-source", &json!({ "kernel_image_path": "kernel" }));
    played.does("PUT", "/actions", &json!({ "action_type": "InstanceStart" }));
    played.does("PATCH", "/vm", &json!({ "state": "Paused" }));
    played.does("PUT", "/snapshot/create", &create("Full"));
    drop(played);
    let mut played = Played::start(dir.path());
    let other = json!({ "vsock_override": { "uds_path": "other" } });
    let why = played.refuses("PUT", "/snapshot/load", &load(&other));
    assert!(why.contains("Unknown Vsock Device"), "{why}");
    assert_eq!(played.exit(), Some(1));
}

#[test]
fn vsock_goes_both_ways_and_ends_with_the_process() {
    let dir = dir();
    let outside = UnixListener::bind(dir.path().join("vsock.sock_1024")).unwrap();
    let mut played = Played::start(dir.path());
    played.to(State::Running);
    // From within: the machine says that it is ready.
    let (mut inside, _) = outside.accept().unwrap();
    let mut header = [0; 9];
    inside.read_exact(&mut header).unwrap();
    assert_eq!(header[0], 0, "an order or a report");
    // From outside.
    let mut echo = BufReader::new(connected(&dir.path().join("vsock.sock")));
    echo.get_mut().write_all(b"CONNECT 52\n").unwrap();
    let mut line = String::new();
    echo.read_line(&mut line).unwrap();
    assert!(line.starts_with("OK "), "{line}");
    echo.get_mut().write_all(b"hello\n").unwrap();
    line.clear();
    echo.read_line(&mut line).unwrap();
    assert_eq!(line, "hello\n");
    let mut nobody = BufReader::new(connected(&dir.path().join("vsock.sock")));
    nobody.get_mut().write_all(b"CONNECT 53\n").unwrap();
    line.clear();
    assert_eq!(nobody.read_line(&mut line).unwrap(), 0, "closed without a word");
    drop(played);
    let mut rest = Vec::new();
    let _ = inside.read_to_end(&mut rest);
    line.clear();
    assert_eq!(echo.read_line(&mut line).unwrap_or(0), 0);
}

#[test]
fn arguments_that_it_does_not_know_end_it_with_their_code() {
    let ran = Command::new(env!("CARGO_BIN_EXE_fake-firecracker"))
        .arg("--what")
        .output()
        .unwrap();
    assert_eq!(ran.status.code(), Some(153));
}
