//! Raw connections: to an object by its port; to instances by port, by the name that TLS asks for, by certificate. And
//! requests whose instance a certificate or a claim of a token names.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::daemon::Daemon;
use crate::home::{FOUND, Home, OPEN, PATIENCE, STAY};
use crate::ran::{Ran, run};

/// A workload that answers a line with it and with whose data it has.
const ECHO: &str = r#"
import os, socket, sys, threading
def talk(peer):
    for line in peer.makefile("rb"):
        peer.sendall(os.path.basename(os.path.dirname(os.environ["SUIJURIS_DATA"])).encode() + b" " + line)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()
"#;

/// A caller by TLS: says a line, prints the answer. Asks for TLS as a client of PostgreSQL does, if told to.
const CALLER: &str = r#"
import socket, ssl, sys
port, ca, name, ask = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
context = ssl.create_default_context(cafile=ca)
if len(sys.argv) > 5:
    context.load_cert_chain(sys.argv[5] + ".pem", sys.argv[5] + ".key")
plain = socket.create_connection(("127.0.0.1", port), timeout=60)
for question in ask.split():
    plain.sendall(bytes.fromhex({"gss": "0000000804d21630", "ssl": "0000000804d2162f"}[question]))
    sys.stdout.write(plain.recv(1).decode())
with context.wrap_socket(plain, server_hostname=name) as tls:
    tls.sendall(b"hello\n")
    sys.stdout.write(tls.makefile().readline())
"#;

/// A definition whose workload is reached by raw connections.
pub(crate) fn raw(home: &Home, name: &str, class: &str, rules: &str) -> PathBuf {
    let workload = "[workload]\ncommand = [\"python3\", \"-I\", \"-S\", \"{object}/echo.py\", \"{port}\"]\n";
    let text = format!("{workload}[gate]\nprotocol = \"tcp\"\n{class}");
    let dir = home.define(name, &text, rules);
    std::fs::write(dir.join("echo.py"), ECHO).unwrap();
    dir
}

#[track_caller]
pub(crate) fn add(home: &Home, dir: &Path, more: &[&str]) -> Value {
    let args = [&["add", "--json", dir.to_str().unwrap()], more].concat();
    home.suijuris(&args).code(0).json()
}

pub(crate) fn port_of(added: &Value) -> u16 {
    let url = added["url"].as_str().unwrap();
    let port = url.rsplit([':', '-']).next().unwrap();
    port.parse().unwrap_or_else(|_| panic!("{url}"))
}

/// What is answered to these bytes; nothing where the connection ends without a word.
fn says(port: u16, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(std::net::Shutdown::Write);
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    answer
}

#[test]
fn an_object_has_a_port_of_its_own_and_keeps_it() {
    let home = Home::new();
    let daemon = home.serve();
    let added = add(
        &home,
        &raw(&home, "echo", "", &[OPEN, STAY].concat()),
        &["--port", "0"],
    );
    let port = port_of(&added);
    assert_eq!(added["url"], format!("tcp://127.0.0.1:{port}"));
    assert_eq!(says(port, b"one\n"), "echo one\n", "asleep");
    assert_eq!(says(port, b"two\n"), "echo two\n", "awake");
    // Who is refused gets no byte.
    let closed = add(&home, &raw(&home, "closed", "", STAY), &["--port", "0"]);
    assert_eq!(says(port_of(&closed), b"one\n"), "");
    let taken = ["add", "--name", "second", "--port", &port.to_string()];
    let dir = raw(&home, "second", "", OPEN);
    let refused = home
        .suijuris(&[&taken[..], &[dir.to_str().unwrap()]].concat())
        .code(3);
    assert!(
        refused.err.contains("choose another with --port"),
        "{}",
        refused.err
    );
    let http = home.object("http", OPEN);
    let refused = home
        .suijuris(&["add", http.to_str().unwrap(), "--port", "0"])
        .code(3);
    assert!(refused.err.contains("protocol = \"tcp\""), "{}", refused.err);
    daemon.terminate();
    home.nobody_is_left();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    let daemon = home.serve();
    assert_eq!(daemon.document("echo")["url"], added["url"]);
    assert_eq!(says(port, b"three\n"), "echo three\n");
    daemon.terminate();
}

#[test]
fn instances_by_port_and_behind_a_proxy() {
    let home = Home::new();
    let daemon = home.serve_with(&["--trust", "127.0.0.1"]);
    let rules = r#"@id("network") permit (principal, action in [Action::"instantiate", Action::"wake", Action::"admit"], resource)
when { context has request && context.request.peer_ip.isInRange(ip("192.0.2.0/24")) };
"#;
    let dir = raw(
        &home,
        "tenant",
        "[class]\nmax_instances = 9\n",
        &[rules, STAY].concat(),
    );
    let added = add(&home, &dir, &["--port", "0", "--proxy"]);
    let port = port_of(&added);
    let from = |client: &str| {
        says(
            port,
            format!("PROXY TCP4 {client} 127.0.0.1 7 80\r\none\n").as_bytes(),
        )
    };
    assert_eq!(from("6.6.6.6"), "");
    assert_eq!(home.keys("tenant"), [""; 0], "who is refused founds nothing");
    assert_eq!(from("192.0.2.1"), format!("{port} one\n"));
    assert_eq!(from("6.6.6.6"), "", "awake");
    assert_eq!(from("192.0.2.2"), format!("{port} one\n"));
    assert_eq!(says(port, b"one\n"), "");
    assert_eq!(home.keys("tenant"), [port.to_string()]);
    daemon.terminate();
}

#[test]
fn instances_by_the_name_that_tls_asks_for_and_by_certificate() {
    let home = Home::new();
    let made = home.suijuris(&["trust", "--json"]).code(0).json();
    let ca = made["certificate"].as_str().unwrap().to_owned();
    home.suijuris(&["trust", "--client", "zenith"]).code(0);
    let daemon = home.serve();
    let class = "[class]\nmax_instances = 9\nfrom = [\"sni\", \"client_cert\"]\n";
    let added = add(
        &home,
        &raw(&home, "tenant", class, &[FOUND, OPEN, STAY].concat()),
        &["--port", "0"],
    );
    let port = port_of(&added);
    assert_eq!(added["url"], format!("tls://KEY.tenant.localhost:{port}"));
    let caller = |name: &str, ask: &str, more: &[&str]| -> Ran {
        let mut python = home.command("python3");
        python
            .args(["-I", "-c", CALLER, &port.to_string(), &ca, name, ask])
            .args(more);
        run(&mut python)
    };
    let by_name = |ask: &str| caller("acme.tenant.localhost", ask, &[]).code(0).out;
    assert_eq!(by_name(""), "acme hello\n", "asleep");
    assert_eq!(by_name(""), "acme hello\n", "awake");
    assert_eq!(by_name("ssl"), "Sacme hello\n");
    assert_eq!(by_name("gss ssl"), "NSacme hello\n");
    // A name that is no instance's, and a certificate that is one's.
    assert_eq!(caller("localhost", "", &["zenith"]).code(0).out, "zenith hello\n");
    // The name comes first, as the class says.
    assert_eq!(
        caller("acme.tenant.localhost", "", &["zenith"]).code(0).out,
        "acme hello\n"
    );
    for name in ["localhost", "acme.other.localhost"] {
        let ended = caller(name, "", &[]);
        assert_eq!(ended.out, "", "{name}: {}", ended.err);
    }
    let told = says(port, &[&[0, 0, 0, 16, 0, 3, 0, 0][..], b"user\0a\0\0"].concat());
    assert!(told.contains("sslmode=require"), "{told}");
    assert_eq!(home.keys("tenant"), ["acme", "zenith"]);
    daemon.terminate();
}

#[test]
fn requests_by_certificate_and_by_claim() {
    let home = Home::new();
    let made = home.suijuris(&["trust", "--json"]).code(0).json();
    let ca = made["certificate"].as_str().unwrap().to_owned();
    home.suijuris(&["trust", "--client", "acme"]).code(0);
    let mode =
        std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(home.path().join("acme.key")).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let daemon: Daemon = home.serve_with(&["--listen", "https://127.0.0.1:0"]);
    let class = "max_instances = 9\nfrom = [\"client_cert\", \"claim tenant\"]\n[callers.claims]\ntenant = \"string\"\n\
                 [[callers.keys]]\nalgorithm = \"EdDSA\"\nfile = \"callers.pem\"\naudience = \"tenant\"\n";
    let dir = home.class("tenant", class, &[FOUND, OPEN, STAY].concat());
    let pem = dir.join("callers.pem");
    home.suijuris(&["token", "key", "--write", pem.to_str().unwrap()])
        .code(0);
    home.add(&dir);
    let port = daemon.secure().rsplit(':').next().unwrap().to_owned();
    let ask = |more: &[&str]| {
        let mut curl = home.command("curl");
        curl.args(["-s", "--max-time", "60", "--cacert", &ca, "--resolve"]);
        curl.args([
            &format!("tenant.localhost:{port}:127.0.0.1"),
            &format!("https://tenant.localhost:{port}/"),
        ]);
        run(curl.args(more)).code(0).out
    };
    let shown = ask(&["--cert", "acme.pem", "--key", "acme.key"]);
    assert!(shown.contains("x-suijuris-client-name: acme"), "{shown}");
    assert_eq!(home.keys("tenant"), ["acme"]);
    let none = ask(&[]);
    assert!(none.contains("token_required"), "{none}");
    let issued = home
        .suijuris(&["token", "issue", "--claim", "tenant=zenith", "tenant"])
        .code(0)
        .out;
    let bearer = |token: &str| format!("authorization: Bearer {token}");
    let token = issued.trim_end();
    let by_claim = ask(&["-H", &bearer(token)]);
    assert!(by_claim.contains("GET / HTTP/1.1"), "{by_claim}");
    assert_eq!(home.keys("tenant"), ["acme", "zenith"]);
    let forged = ask(&["-H", &bearer(&format!("{}x", &token[..token.len() - 1]))]);
    assert!(forged.contains("invalid_token"), "{forged}");
    daemon.terminate();
}
