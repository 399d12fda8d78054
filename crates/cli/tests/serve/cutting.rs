//! Connections that an object's sleep ends: what was written is read, the end is an end, and the event says how many.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::json;

use crate::home::{Home, OPEN, PATIENCE, STAY};
use crate::raw::{add, port_of, raw};

/// A caller by TLS who keeps the connection: says a line, prints the answer, and how the connection ended. It takes no end for one that
/// TLS did not say.
const KEEPER: &str = r#"
import socket, ssl, sys
port, ca, name, line = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
context = ssl.create_default_context(cafile=ca)
plain = socket.create_connection(("127.0.0.1", port), timeout=60)
with context.wrap_socket(plain, server_hostname=name, suppress_ragged_eofs=False) as tls:
    tls.sendall(line.encode().decode("unicode_escape").encode())
    print(tls.recv(4096).decode().splitlines()[0], flush=True)
    try:
        while tls.recv(4096):
            pass
        print("closed", flush=True)
    except (ssl.SSLError, OSError) as error:
        print(repr(error), flush=True)
"#;

/// Somebody whose connection by TLS is open.
struct Keeper {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Keeper {
    fn new(home: &Home, port: u16, ca: &str, name: &str, line: &str) -> Self {
        let mut python = home.command("python3");
        python.args(["-I", "-c", KEEPER, &port.to_string(), ca, name, line]);
        let mut child = python.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    #[track_caller]
    fn next(&mut self) -> String {
        self.lines.next().expect("a line").unwrap()
    }

    fn ends(mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

fn port(url: &str) -> u16 {
    url.trim_end_matches('/')
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn a_raw_connection_ends_in_order_when_the_object_falls_asleep_and_the_event_counts_it() {
    let home = Home::new();
    let mut daemon = home.serve();
    let dir = raw(&home, "echo", "drain = \"1s\"\n", &[OPEN, STAY].concat());
    let port = port_of(&add(&home, &dir, &["--port", "0"]));
    let open = || {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(b"one\n").unwrap();
        let mut said = [0; 9];
        socket.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"echo one\n");
        socket
    };
    let mut open = [open(), open()];
    home.suijuris(&["sleep", "echo"]).code(0);
    for socket in &mut open {
        let mut rest = Vec::new();
        let ended = socket.read_to_end(&mut rest);
        assert_eq!(ended.expect("an end, and no reset"), 0);
    }
    daemon.wait(json!({"event": "dormant", "name": "echo", "cut": 2}));
    let mut more = TcpStream::connect(("127.0.0.1", port)).unwrap();
    more.write_all(b"two\n").unwrap();
    more.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    more.read_to_string(&mut said).unwrap();
    assert_eq!(said, "echo two\n");
    home.suijuris(&["sleep", "echo"]).code(0);
    let slept = daemon.wait(json!({"event": "dormant", "name": "echo"}));
    assert!(slept.get("cut").is_none(), "{slept}");
    daemon.terminate();
    home.nobody_is_left();
}

#[test]
fn a_connection_by_tls_is_closed_by_its_word_when_the_object_falls_asleep() {
    let home = Home::new();
    let made = home.suijuris(&["trust", "--json"]).code(0).json();
    let ca = made["certificate"].as_str().unwrap().to_owned();
    let daemon = home.serve_with(&["--listen", "https://127.0.0.1:0"]);
    let class = "drain = \"1s\"\n[class]\nmax_instances = 9\nfrom = [\"sni\"]\n";
    let dir = raw(&home, "tenant", class, &[crate::home::FOUND, OPEN, STAY].concat());
    let raw_port = port_of(&add(&home, &dir, &["--port", "0"]));
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let get = "GET / HTTP/1.1\\r\\nhost: hello.localhost\\r\\n\\r\\n";
    let mut by_http = Keeper::new(&home, port(&daemon.secure()), &ca, "hello.localhost", get);
    assert_eq!(by_http.next(), "HTTP/1.1 200 OK");
    let mut by_raw = Keeper::new(&home, raw_port, &ca, "acme.tenant.localhost", "one\\n");
    assert_eq!(by_raw.next(), "acme one");
    for (keeper, object) in [(by_http, "hello"), (by_raw, "tenant/acme")] {
        let mut keeper = keeper;
        home.suijuris(&["sleep", object]).code(0);
        assert_eq!(keeper.next(), "closed", "{object}");
        keeper.ends();
    }
    daemon.terminate();
    home.nobody_is_left();
}
