//! When a workload can serve, whether it still can, and where: one answer for check and gate.

use std::io::{Read as _, Write as _};

use serde_json::json;

use crate::rig::{OPEN, Object, STAY, run};

fn server(command: &str, keys: &str) -> Object {
    let definition = format!("name = \"probe\"\n[workload]\ncommand = {command}\n{keys}");
    Object::defined(&definition, &[OPEN, STAY].concat())
}

// proves C5
#[test]
fn a_workload_that_listens_on_the_other_loopback_is_served_however_it_is_asked() {
    let command = r#"["python3", "-m", "http.server", "{port}", "--bind", "::1"]"#;
    for ready in ["\"tcp\"", "\"http:/\""] {
        let object = server(command, &format!("ready = {ready}\n"));
        let up = object.up();
        up.get("/").status(200);
        assert_eq!(up.interrupt(), Some(0));
    }
}

/// Says to its agent socket that it is ready, once it listens on `::1`.
const SAYS: &str = "import http.server, os, socket, sys
class Server(http.server.ThreadingHTTPServer): address_family = socket.AF_INET6
server = Server(('::1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler)
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ['SUIJURIS_AGENT_SOCKET'])
s.sendall(b'POST /v1/ready HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: 0\\r\\nconnection: close\\r\\n\\r\\n')
s.recv(4096)
server.serve_forever()
";

// proves C5
#[test]
fn however_it_says_that_it_is_ready_it_is_reached_where_it_listens() {
    let command = r#"["python3", "{object}/says.py", "{port}"]"#;
    for keys in [
        "ready = \"agent\"\n",
        "ready = \"agent\"\n[gate]\nprotocol = \"tcp\"\n",
        "ready = \"tcp\"\n[gate]\nprotocol = \"tcp\"\n",
    ] {
        let object = server(command, keys);
        object.file("says.py", SAYS);
        let up = object.up();
        up.get("/").status(200);
        assert_eq!(up.interrupt(), Some(0));
    }
}

// proves C5
#[test]
fn redis_says_itself_when_it_is_ready() {
    let object = server(
        r#"["redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--save", "", "--dir", "{data}", "--supervised", "systemd"]"#,
        "ready = \"notify\"\n[gate]\nprotocol = \"tcp\"\n",
    );
    let mut up = object.up();
    let mut socket = up.connect();
    socket.write_all(b"PING\r\n").unwrap();
    let mut pong = [0; 7];
    socket.read_exact(&mut pong).unwrap();
    assert_eq!(&pong, b"+PONG\r\n");
    up.wait(json!({"event": "workload", "state": "ready"}));
    assert_eq!(up.interrupt(), Some(0));
}

// proves C5
#[test]
fn caddy_says_itself_when_it_is_ready() {
    let script = r"cd {data}; printf '\173\nadmin off\n\175\n:%s\nbind 127.0.0.1\nrespond hi\n' {port} > Caddyfile
        exec caddy run --config Caddyfile --adapter caddyfile";
    let object = server(&json!(["sh", "-c", script]).to_string(), "ready = \"notify\"\n");
    let mut up = object.up();
    assert_eq!(up.get("/").status(200).body, "hi");
    up.wait(json!({"event": "workload", "state": "ready"}));
    assert_eq!(up.interrupt(), Some(0));
}

// proves C5
#[test]
fn a_command_that_is_asked_sees_what_the_workload_sees() {
    let file = format!("/tmp/ready-{}", std::process::id());
    let script = format!(
        "python3 -m http.server --bind 127.0.0.1 {{port}} & until curl -s -o /dev/null 127.0.0.1:{{port}}; do :; done; : > {file}; wait"
    );
    let object = server(
        &json!(["sh", "-c", script]).to_string(),
        &format!("ready = {{ command = [\"test\", \"-e\", \"{file}\"] }}\n"),
    );
    let mut up = object.up();
    up.get("/").status(200);
    up.wait(json!({"event": "workload", "state": "ready"}));
    assert_eq!(up.interrupt(), Some(0));
    let _ = std::fs::remove_file(file);
}

// proves C5
#[test]
fn a_workload_that_does_not_answer_any_more_is_stopped_and_wakes_anew() {
    let script = ": > {data}/up; exec python3 -m http.server --bind 127.0.0.1 {port}";
    let object = server(
        &json!(["sh", "-c", script]).to_string(),
        "live = { command = [\"test\", \"-e\", \"{data}/up\"] }\nlive_every = \"100ms\"\nlive_failures = 2\n",
    );
    let mut up = object.up();
    up.get("/").status(200);
    std::fs::remove_file(object.data().join("volume/up")).unwrap();
    let stuck = up.wait(json!({"event": "error", "code": "workload_stuck"}));
    assert!(stuck["message"].as_str().unwrap().contains("status 1"), "{stuck}");
    up.wait(json!({"event": "machine", "state": "stopped"}));
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

#[test]
fn a_program_in_a_directory_that_is_the_workloads_own_is_named_with_the_remedy() {
    let interpreter = format!("/tmp/interpreter-{}", std::process::id());
    std::fs::write(&interpreter, "").unwrap();
    let object = server(r#"["{object}/run"]"#, "");
    suijuris_testkit::program::script(object.dir().join("run"), &format!("#!{interpreter}\n"));
    let mut up = object.up();
    up.get("/").problem(503, "workload_failed");
    let error = up.wait(json!({"event": "error", "code": "workload_failed"}));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("its /tmp and /var/tmp are its own"), "{error}");
    up.wait(json!({"event": "machine", "state": "stopped"}));
    assert_eq!(up.interrupt(), Some(0));
    let _ = std::fs::remove_file(interpreter);
}

// proves C4
#[test]
fn a_page_of_another_origin_reads_why_a_sleeping_object_refuses() {
    let rules = r#"@id("admit") permit (principal, action == Action::"admit", resource);"#;
    let object = Object::new("[gate]\ncors = [\"https://site.example\"]\n", rules);
    let up = object.up();
    let url = format!("http://{}/", up.address);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let mut curl = object.command("curl");
        let asked = [
            "--silent",
            "--max-time",
            "30",
            "--include",
            version,
            "--header",
            "Origin: https://site.example",
        ];
        let answer = run(curl.args(asked).arg(&url)).code(0).out;
        assert!(
            answer.contains("access-control-allow-origin: https://site.example\r\n"),
            "{answer}"
        );
        assert!(answer.contains("wake_refused"), "{answer}");
    }
    assert_eq!(up.interrupt(), Some(0));
}
