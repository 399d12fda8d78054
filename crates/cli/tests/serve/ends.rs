//! How a daemon ends, and begins again.

use std::io::{Read as _, Write as _};

use serde_json::json;

use crate::home::{FOUND, Home, OPEN, STAY};
use crate::http::send;
use crate::ran::run;

#[test]
fn two_daemons_do_not_share_a_directory() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let mut second = home.command(env!("CARGO_BIN_EXE_suijuris"));
    second
        .arg("serve")
        .arg(home.root())
        .args(["--listen", "127.0.0.1:0", "--json"]);
    let ran = run(&mut second).code(3);
    assert!(ran.err.contains("another daemon serves"), "{}", ran.err);
    assert_eq!(ran.out, "");
    daemon.get("hello", "/").status(200);
    assert!(daemon.control.exists());
    daemon.terminate();
}

#[test]
fn two_daemons_of_one_depot_and_one_definition_do_not_disturb_each_other() {
    let home = Home::new();
    let other_root = home.path().join("other");
    let (daemon, other) = (home.serve(), home.serve_in(&other_root));
    let dir = home.class("tenant", "max_instances = 2", &[FOUND, OPEN, STAY].concat());
    home.add(&dir);
    let root = other_root.to_str().unwrap();
    home.suijuris(&["add", dir.to_str().unwrap(), "--server", root])
        .code(0);
    std::thread::scope(|scope| {
        for daemon in [&daemon, &other] {
            for key in ["a", "b"] {
                scope.spawn(move || daemon.get(&format!("{key}.tenant"), "/").status(200));
            }
        }
    });
    for key in ["tenant/a", "tenant/b"] {
        assert_ne!(daemon.document(key)["object"], other.document(key)["object"]);
    }
    other.terminate();
    daemon.get("a.tenant", "/").status(200);
    daemon.terminate();
    home.nobody_is_left();
}

#[test]
fn asked_to_end_all_that_are_awake_fall_asleep_by_their_own_record() {
    let home = Home::new();
    let daemon = home.serve();
    let class = "max_instances = 9";
    home.add(&home.class("tenant", class, &[FOUND, OPEN, STAY].concat()));
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let keys = ["a", "b", "c"];
    for key in keys {
        daemon.get(&format!("{key}.tenant"), "/").status(200);
    }
    daemon.get("hello", "/").status(200);
    let hello = daemon.document("hello")["data"].as_str().unwrap().to_owned();
    daemon.terminate();
    home.nobody_is_left();
    let places = keys.map(|key| home.instance("tenant", key).to_str().unwrap().to_owned());
    for data in places.iter().chain([&hello]) {
        let kinds = home.kinds(data);
        assert_eq!(kinds.last().unwrap(), "dormant", "{kinds:?}");
        assert!(!kinds.iter().any(|kind| kind == "unsealed"), "{kinds:?}");
        home.verify(data.as_ref());
    }
}

#[test]
fn asked_twice_it_kills_what_does_not_end() {
    let home = Home::new();
    let mut daemon = home.serve();
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    home.add(&home.object("other", &[OPEN, STAY].concat()));
    daemon.get("other", "/").status(200);
    // A request that is never answered: there is something to drain for long.
    let mut socket = daemon.connect();
    send(&mut socket, "GET", "/hang", &[("host", "hello.localhost")], "");
    daemon.wait(json!({"event": "output", "line": "hanging"}));
    let data = daemon.document("hello")["data"].as_str().unwrap().to_owned();
    daemon.signal("TERM");
    daemon.wait(json!({"event": "dormant", "name": "other"}));
    assert_eq!(daemon.count(&json!({"event": "dormant", "name": "hello"})), 0);
    daemon.signal("TERM");
    let ended = daemon.ended();
    assert_eq!(ended.code(), Some(0), "{ended}");
    home.nobody_is_left();
    // It goes on where it was, and says how it ended.
    let daemon = home.serve();
    daemon.get("hello", "/").status(200);
    daemon.terminate();
    let kinds = home.kinds(&data);
    assert_eq!(kinds, ["inception", "woke", "unsealed", "woke", "dormant"]);
    home.verify(data.as_ref());
}

#[test]
fn killed_it_leaves_those_that_are_awake_to_the_next_daemon() {
    let home = Home::new();
    let mut daemon = home.serve();
    home.add(&home.class("tenant", "max_instances = 9", &[FOUND, OPEN, STAY].concat()));
    daemon.get("acme.tenant", "/").status(200);
    daemon.wait(json!({"event": "woke"}));
    let workloads = || {
        home.processes()
            .iter()
            .filter(|line| line.contains("server.py"))
            .count()
    };
    assert_eq!(workloads(), 1);
    daemon.kill();
    assert_eq!(workloads(), 1);
    let daemon = home.serve();
    daemon.get("acme.tenant", "/").status(200);
    home.suijuris(&["memory", "set", "tenant/acme", "note=kept"])
        .code(0);
    assert_eq!(daemon.count(&json!({"event": "woke"})), 0);
    daemon.terminate();
    home.nobody_is_left();
    let data = home.instance("tenant", "acme");
    let kinds = home.kinds(data.to_str().unwrap());
    assert_eq!(kinds, ["inception", "woke", "mutated", "dormant"]);
    home.verify(&data);
}

/// Answers with what it is told by whoever listens at the port that its bundle names.
const ASKS: &str = r#"
import http.server, socket, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            with socket.create_connection(("host.internal", int(sys.argv[2])), timeout=20) as outside:
                said = outside.recv(100)
        except OSError as error:
            said = repr(error).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

/// The way out of a machine is the daemon's; the next one's once that has taken over.
// proves E12
#[test]
fn what_a_workload_may_reach_it_reaches_by_whichever_daemon_there_is() {
    let outside = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = outside.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in outside.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut client, b"outside");
        }
    });
    let home = Home::new();
    let daemon = home.serve();
    let definition = format!(
        "[workload]\ncommand = [\"python3\", \"{{object}}/asks.py\", \"{{port}}\", \"{port}\"]\negress = [\"host.internal:{port}\"]\n"
    );
    let dir = home.define("curious", &definition, &[OPEN, STAY].concat());
    std::fs::write(dir.join("asks.py"), ASKS).unwrap();
    home.add(&dir);
    assert_eq!(daemon.get("curious", "/").status(200).body, "outside");
    daemon.kill();
    let daemon = home.serve();
    assert_eq!(daemon.get("curious", "/").status(200).body, "outside");
    assert_eq!(daemon.count(&json!({"event": "woke"})), 0);
    daemon.terminate();
    home.nobody_is_left();
}

// proves C13
#[test]
fn a_machine_that_hangs_at_its_start_delays_nobody_else() {
    let home = Home::new();
    let mut daemon = home.serve();
    let hangs = "[workload]\ncommand = [\"sleep\", \"1000\"]\nready = \"tcp\"\n";
    home.add(&home.define("stuck", hangs, &[OPEN, STAY].concat()));
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let mut socket = daemon.connect();
    send(&mut socket, "GET", "/", &[("host", "stuck.localhost")], "");
    daemon.wait(json!({"event": "machine", "name": "stuck", "state": "started"}));
    for _ in 0..3 {
        daemon.get("hello", "/").status(200);
    }
    home.suijuris(&["sleep", "hello"]).code(0);
    home.suijuris(&["show", "stuck"]).code(0);
    assert_ne!(daemon.document("stuck")["phase"], "dormant");
    // It does not delay the end either.
    daemon.terminate();
    home.nobody_is_left();
}

#[test]
fn what_was_there_is_there_again_with_its_memory() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", "max_instances = 9", &[FOUND, OPEN, STAY].concat()));
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    daemon.get("acme.tenant", "/").status(200);
    home.suijuris(&["memory", "set", "tenant/acme", "note=kept"])
        .code(0);
    home.suijuris(&["memory", "set", "hello", "note=too"]).code(0);
    let ids = ["tenant/acme", "hello"].map(|name| daemon.document(name)["object"].clone());
    daemon.terminate();
    let mut daemon = home.serve();
    for ((name, host), (id, note)) in [("tenant/acme", "acme.tenant"), ("hello", "hello")]
        .into_iter()
        .zip(ids.iter().zip(["kept", "too"]))
    {
        daemon.wait_phase(name, "dormant");
        assert_eq!(daemon.document(name)["object"], *id);
        let ran = home.suijuris(&["memory", "get", name, "note"]).code(0);
        assert!(ran.out.contains(note), "{}", ran.out);
        daemon.get(host, "/").status(200);
        daemon.wait(json!({"event": "woke", "object": id}));
    }
    daemon.get("new.tenant", "/").status(200);
    assert_eq!(home.keys("tenant"), ["acme", "new"]);
    daemon.terminate();
    home.nobody_is_left();
}

/// What a connection still gives, to its clean end.
fn rest(mut socket: std::net::TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).expect("it is not reset");
    bytes
}

#[test]
fn who_was_accepted_when_it_ends_is_told_and_never_reset() {
    for signal in ["TERM", "HUP"] {
        let home = Home::new();
        let mut daemon = home.serve();
        home.add(&home.object("hello", &[OPEN, STAY].concat()));
        let silent = daemon.connect();
        let mut half = daemon.connect();
        half.write_all(b"GET / HTTP/1.1\r\nhost: hello.localhost\r\n")
            .unwrap();
        let mut http2 = daemon.connect();
        http2.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        http2.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
        daemon.signal(signal);
        daemon.ended();
        assert_eq!(rest(silent), b"", "{signal}");
        let told = String::from_utf8_lossy(&rest(half)).into_owned();
        assert!(told.starts_with("HTTP/1.1 503 "), "{signal}: {told}");
        let lower = told.to_ascii_lowercase();
        assert!(
            lower.contains("connection: close") && lower.contains("retry-after: 1"),
            "{told}"
        );
        assert!(told.contains("draining"), "{told}");
        // The sort of a frame is its fourth byte: GOAWAY is 7.
        let (mut frames, mut sorts) = (&rest(http2)[..], Vec::new());
        while let [a, b, c, sort, ..] = frames {
            sorts.push(*sort);
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            frames = &frames[9 + length..];
        }
        assert!(sorts.contains(&7), "{signal}: {sorts:?}");
        home.nobody_is_left();
    }
}
