//! All traffic crosses the gate, and what is refused does not reach the workload with a single byte.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::rig::{OPEN, Object, STAY, Up, read_answer, read_to_end, run, until};

/// Only this path is for callers.
const ONLY_OK: &str = r#"
@id("not-for-you") @reason("Only /ok is for you.") @retry_after("7s")
forbid (principal, action == Action::"admit", resource) when { context.request.path != "/ok" };
"#;

const OPEN_FIELD: &str = "[memory]\nopen = { type = \"bool\", default = true }\n[gate]\nprotocol = \"tcp\"\n";

/// Connections are for nobody while the object is not open.
const ONLY_OPEN: &str = r#"
@id("not-open") forbid (principal, action == Action::"admit", resource) when { !resource.memory.open };
"#;

const REFUSED: &str = "/refused";

/// Everybody who is refused, each in their own way of speaking.
fn refused_in_every_way(object: &Object, up: &Up) {
    // When asking again may help is known, so that it is 503.
    let problem = up.get(REFUSED).problem(503, "admit_refused");
    assert_eq!(problem.get("rules"), None, "rules are the owner's affair");
    assert!(problem["id"].as_str().unwrap().starts_with("r-"), "{problem}");
    assert_eq!(
        (&problem["retry_after"], &problem["action"]),
        (&json!(7), &json!("admit"))
    );
    assert_eq!(problem["detail"], "Only /ok is for you.");
    refused_body(up);
    refused_websocket(up);
    refused_http2(object, up);
    refused_slowly(up);
}

/// A body that is announced and sent is not forwarded either.
fn refused_body(up: &Up) {
    let mut socket = up.connect();
    let request = format!("POST {REFUSED} HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\n\r\nsecret-bytes");
    socket.write_all(request.as_bytes()).unwrap();
    read_answer(&mut socket).unwrap().problem(503, "admit_refused");
}

fn refused_websocket(up: &Up) {
    let upgrade = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let mut socket = up.connect();
    let fields: String = upgrade
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    write!(socket, "GET {REFUSED} HTTP/1.1\r\nhost: x\r\n{fields}\r\n").unwrap();
    read_answer(&mut socket).unwrap().problem(503, "admit_refused");
}

fn refused_http2(object: &Object, up: &Up) {
    let url = format!("http://{}{REFUSED}", up.address);
    let args = [
        "--silent",
        "--max-time",
        "30",
        "--http2-prior-knowledge",
        "--write-out",
        "\n%{http_code} %{http_version}",
    ];
    let ran = run(object.command("curl").args(args).arg(url)).code(0);
    let (body, status) = ran.out.rsplit_once('\n').unwrap();
    assert_eq!(status, "503 2");
    assert_eq!(
        serde_json::from_str::<Value>(body).unwrap()["code"],
        "admit_refused"
    );
}

/// A client that sends its request byte by byte.
fn refused_slowly(up: &Up) {
    let mut socket = up.connect();
    socket.set_nodelay(true).unwrap();
    for byte in format!("GET {REFUSED} HTTP/1.1\r\nhost: x\r\n\r\n").bytes() {
        socket.write_all(&[byte]).unwrap();
    }
    read_answer(&mut socket).unwrap().problem(503, "admit_refused");
}

// proves C3, C4, C14, D5
#[test]
fn asleep_the_refused_start_nothing() {
    let object = Object::new("", &[OPEN, STAY, ONLY_OK].concat());
    let up = object.up();
    refused_in_every_way(&object, &up);
    assert_eq!(up.count(&json!({"event": "machine"})), 0, "{:?}", up.events());
    assert_eq!(up.interrupt(), Some(0));
    assert_eq!(object.received(), "");
}

// proves C3, C4, C14
#[test]
fn awake_the_refused_reach_nothing() {
    let object = Object::new("", &[OPEN, STAY, ONLY_OK].concat());
    let up = object.up();
    up.get("/ok").status(200);
    let before = object.received();
    refused_in_every_way(&object, &up);
    assert_eq!(object.received(), before, "not a byte");
    up.get("/ok").status(200);
    let recorded = || {
        let by = |record: &Value| record["verdict"]["rules"] == json!(["not-for-you"]);
        object.records("refused").iter().any(by)
    };
    until("the refusal is recorded", recorded);
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

// proves C3
#[test]
fn a_kept_connection_is_judged_at_each_request() {
    let object = Object::new("", &[OPEN, STAY, ONLY_OK].concat());
    let up = object.up();
    let mut socket = up.connect();
    let mut ask = |path: &str| {
        write!(socket, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        read_answer(&mut socket)
    };
    assert_eq!(ask("/ok").unwrap().body, "served /ok\n");
    assert_eq!(ask("/ok").unwrap().body, "served /ok\n");
    ask(REFUSED).unwrap().problem(503, "admit_refused");
    // The connection may have been kept or not; a request on it is judged all the same.
    if let Some(answer) = ask("/refused/again") {
        answer.problem(503, "admit_refused");
    }
    assert!(!object.received().contains(REFUSED), "{}", object.received());
    assert_eq!(object.received().matches("/ok").count(), 2);
    assert_eq!(up.interrupt(), Some(0));
}

// proves C3
#[test]
fn what_cannot_be_understood_safely_is_refused_before_anything() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up();
    up.get("/ok").status(200);
    let before = object.received();
    let shapes = [
        "GET /a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /a HTTP/1.1\r\nhost: x\r\nfolded: a\r\n b\r\n\r\n",
        "GET /a HTTP/1.1\r\nhost : x\r\n\r\n",
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n",
    ];
    for shape in shapes {
        let mut socket = up.connect();
        socket.write_all(shape.as_bytes()).unwrap();
        let answer = read_answer(&mut socket).unwrap();
        assert!(
            (400..500).contains(&answer.status) || answer.status == 501,
            "{shape:?}: {answer:?}"
        );
        assert_eq!(object.received(), before, "{shape:?}");
    }
    assert_eq!(up.interrupt(), Some(0));
}

/// Says a line over a raw connection; what comes back until the end, or until a line has come.
fn line(up: &Up, line: &str) -> String {
    let mut socket = up.connect();
    if socket.write_all(line.as_bytes()).is_err() {
        return String::new();
    }
    let mut answer = [0; 64];
    let count = socket.read(&mut answer).unwrap_or(0);
    String::from_utf8_lossy(&answer[..count]).into_owned()
}

// proves C3, C4, D5
#[test]
fn raw_connections_are_judged_when_they_open() {
    let object = Object::new(OPEN_FIELD, &[OPEN, STAY, ONLY_OPEN].concat());
    let mut up = object.up();
    up.set(&json!({"open": false}));
    assert_eq!(line(&up, "asleep\n"), "");
    up.wait(json!({"event": "refused", "rules": ["not-open"]}));
    assert_eq!(up.count(&json!({"event": "machine"})), 0);
    up.set(&json!({"open": true}));
    assert_eq!(line(&up, "hello\n"), "raw hello\n");
    up.set(&json!({"open": false}));
    assert_eq!(line(&up, "awake\n"), "");
    up.wait(json!({"event": "refused", "rules": ["not-open"]}));
    assert_eq!(object.received(), "hello\n");
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

// proves C5
#[test]
fn websockets_and_http2_reach_a_workload_that_speaks_http1() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up();
    let url = format!("http://{}/two", up.address);
    let ran = run(object
        .command("curl")
        .args(["-s", "--max-time", "30", "--http2-prior-knowledge"])
        .arg(url))
    .code(0);
    assert_eq!(ran.out, "served /two\n");
    let mut socket = up.connect();
    let upgrade = "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(upgrade.as_bytes()).unwrap();
    read_answer(&mut socket).unwrap().status(101);
    socket.write_all(b"echo").unwrap();
    let mut echo = [0; 4];
    socket.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"echo");
    assert_eq!(up.interrupt(), Some(0));
}

/// Process and port of the running workload.
fn workload(object: &Object) -> (u32, u16) {
    let find = || {
        std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let cmdline = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            let arguments: Vec<_> = cmdline.split('\0').collect();
            let ours = arguments.get(1)?.ends_with("server.py") && cmdline.contains(object.home().to_str()?);
            ours.then(|| arguments[2].parse().ok().map(|port| (pid, port)))?
        })
    };
    until("the workload runs", || find().is_some());
    find().unwrap()
}

/// Local addresses of listening sockets with this port, as the network of `pid` shows them.
fn listening(pid: &str, port: u16) -> Vec<String> {
    let tables = ["tcp", "tcp6"]
        .map(|table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
    let suffix = format!(":{port:04X}");
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    let sockets = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    sockets
        .filter(|fields| fields[3] == "0A" && fields[1].ends_with(&suffix))
        .map(|fields| fields[1].to_owned())
        .collect()
}

// proves C2
#[test]
fn in_a_namespace_nobody_goes_around_the_gate() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up();
    up.get("/ok").status(200);
    let (pid, port) = workload(&object);
    if !up.machine.starts_with("namespaces") {
        eprintln!("this host gives no namespaces: {}", up.machine);
        return;
    }
    assert_eq!(
        listening(&pid.to_string(), port).len(),
        1,
        "it listens where it is"
    );
    assert_eq!(
        listening("self", port),
        Vec::<String>::new(),
        "but not where we are"
    );
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(network(&pid.to_string()), network("self"));
    let gate = up.address.rsplit(':').next().unwrap().parse().unwrap();
    assert_eq!(listening("self", gate), [format!("0100007F:{gate:04X}")]);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    assert_eq!(up.interrupt(), Some(0));
}

// proves C2, G1
#[test]
fn as_a_plain_process_it_is_reached_from_loopback_alone() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up_with(&["--plain"]);
    assert!(up.machine.starts_with("plain"), "{}", up.machine);
    up.get("/ok").status(200);
    let (_, port) = workload(&object);
    assert_eq!(listening("self", port), [format!("0100007F:{port:04X}")]);
    assert_eq!(up.interrupt(), Some(0));
    object.nobody_is_left();
}

// proves C3
#[test]
fn requests_that_arrive_while_it_starts_are_held_and_all_are_answered() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up();
    let sockets: Vec<_> = (0..40)
        .map(|number| {
            let mut socket = up.connect();
            write!(
                socket,
                "GET /{number} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            )
            .unwrap();
            socket
        })
        .collect();
    for (number, socket) in sockets.iter().enumerate() {
        let answer = String::from_utf8(read_to_end(socket)).unwrap();
        assert!(
            answer.ends_with(&format!("served /{number}\n")),
            "{number}: {answer:?}"
        );
    }
    assert_eq!(up.count(&json!({"event": "machine", "state": "started"})), 1);
    assert_eq!(up.interrupt(), Some(0));
}

// proves C3, A1
#[test]
fn a_request_for_another_object_is_sent_away_and_nobody_can_claim_who_they_are() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up();
    let stranger = [(
        "x-suijuris-object",
        "bafyreiersbx7y22plsjffbnqvjpllysb76adbqswoc6og45ms4kkpuikjy",
    )];
    up.get_with("/other", &stranger).problem(421, "wrong_object");
    assert_eq!(up.count(&json!({"event": "machine"})), 0, "asleep it stays");
    up.get_with("/mine", &[("x-suijuris-object", &up.id)]).status(200);
    up.get_with("/other", &stranger).problem(421, "wrong_object");
    up.get_with(
        "/claim",
        &[("x-suijuris-caller", "the-owner"), ("x-suijuris-epoch", "77")],
    );
    let received = object.received();
    assert!(
        received.contains("/mine") && !received.contains("/other"),
        "{received}"
    );
    assert!(
        !received.contains("the-owner") && !received.contains("x-suijuris-epoch: 77"),
        "{received}"
    );
    assert!(
        received
            .to_lowercase()
            .contains(&format!("x-suijuris-object: {}", up.id)),
        "{received}"
    );
    assert_eq!(up.interrupt(), Some(0));
}

// proves A3, C3
#[test]
fn open_connections_are_cut_when_it_goes_to_sleep_and_hear_no_more() {
    let definition = OPEN_FIELD.replace("[gate]", "[gate]\ndrain = \"100ms\"");
    let remain = r#"@id("while-open") permit (principal, action == Action::"remain", resource) when { resource.memory.open };"#;
    let object = Object::new(&definition, &[OPEN, remain].concat());
    let mut up = object.up();
    let mut socket = up.connect();
    socket.write_all(b"hello\n").unwrap();
    let mut answer = [0; 10];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"raw hello\n");
    up.set(&json!({"open": false}));
    assert_eq!(read_to_end(&socket), b"", "cut without another byte");
    up.wait_event("dormant");
    up.wait(json!({"event": "machine", "state": "stopped"}));
    assert_eq!(object.received(), "hello\n");
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}
