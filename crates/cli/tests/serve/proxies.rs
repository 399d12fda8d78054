//! Whose word on clients counts: proxies that are trusted, real ones among them, and everybody else.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::daemon::Daemon;
use crate::home::{FOUND, Home, OPEN, PATIENCE, STAY};
use crate::http::{Answer, read_answer, send};
use crate::ran::run;
use crate::servers::Server;

/// Who comes from 192.0.2.0/24 is let in, and nobody else.
const ONE_NETWORK: &str = r#"
@id("network") permit (principal, action in [Action::"wake", Action::"admit"], resource)
when { context has request && context.request.peer_ip.isInRange(ip("192.0.2.0/24")) };
"#;

/// What the workload was sent of these fields.
fn got<'a>(answer: &'a Answer, names: &[&str]) -> Vec<&'a str> {
    let is = |line: &&str| {
        let name = line.split_once(':').map_or("", |(name, _)| name);
        names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted))
    };
    answer.body.lines().filter(is).collect()
}

const ABOUT_CLIENTS: [&str; 8] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x_forwarded_for",
    "x-real-ip",
    "forwarded",
    "x-suijuris-client-name",
];

#[track_caller]
fn ask(daemon: &Daemon, fields: &[(&str, &str)]) -> Answer {
    let fields = [&[("host", "hello.localhost")], fields].concat();
    daemon.request("/", &fields)
}

#[test]
fn what_a_client_says_of_itself_is_neither_judged_nor_forwarded() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.object("closed", &[ONE_NETWORK, STAY].concat()));
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let forged = [
        ("host", "closed.localhost"),
        ("x-forwarded-for", "192.0.2.7"),
        ("forwarded", "for=192.0.2.7"),
    ];
    daemon.request("/", &forged).status(403);
    let lies = [
        ("host", "hello.localhost"),
        ("x-forwarded-for", "192.0.2.7"),
        ("X_Forwarded_For", "192.0.2.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "closed.localhost"),
        ("x-forwarded-prefix", "/lie"),
        ("x-real-ip", "192.0.2.7"),
        ("forwarded", "for=192.0.2.7"),
        ("x-suijuris-client-name", "root"),
    ];
    let truth = ["x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http"];
    // Asleep at first, then awake, and again on a connection that the runtime has had since.
    let mut socket = daemon.connect();
    for _ in 0..3 {
        send(&mut socket, "GET", "/", &lies, "");
        let answer = read_answer(&mut socket).unwrap().status(200);
        assert_eq!(got(&answer, &ABOUT_CLIENTS), truth, "{answer:?}");
    }
    // The same over HTTP/2.
    let url = format!("http://{}/", daemon.address);
    let mut curl = home.command("curl");
    curl.args(["-s", "--http2-prior-knowledge", "--max-time", "60", &url]);
    for (name, value) in lies {
        curl.args(["-H", &format!("{name}: {value}")]);
    }
    let body = run(&mut curl).code(0).out;
    let answer = Answer {
        status: 200,
        headers: Vec::new(),
        body,
    };
    assert_eq!(got(&answer, &ABOUT_CLIENTS), truth, "{answer:?}");
    daemon.terminate();
}

#[test]
fn a_trusted_proxys_word_counts_for_one_request_at_a_time() {
    let home = Home::new();
    let daemon = home.serve_with(&["--trust", "127.0.0.0/8", "--trust", "10.0.0.0/8"]);
    home.add(&home.object("hello", &[ONE_NETWORK, STAY].concat()));
    for others in [
        "",
        "6.6.6.6",
        "192.0.2.7, 6.6.6.6",
        "192.0.2.7, 6.6.6.6, 10.1.1.1",
    ] {
        let fields = [("x-forwarded-for", others)];
        let refused = ask(&daemon, &fields[usize::from(others.is_empty())..]).problem(403, "wake_refused");
        assert_eq!(refused["object"].as_str().unwrap().len(), 59, "{refused}");
    }
    let let_in = |fields: &[(&str, &str)]| {
        let all = [
            &[("host", "hello.localhost"), ("connection", "keep-alive")],
            fields,
        ]
        .concat();
        let mut socket = daemon.connect();
        send(&mut socket, "GET", "/", &all, "");
        // Another client's, whom the proxy sends over the same connection: it must not be taken for the first one's.
        send(
            &mut socket,
            "GET",
            "/",
            &[("host", "hello.localhost"), ("x-forwarded-for", "6.6.6.6")],
            "",
        );
        let answer = read_answer(&mut socket).unwrap().status(200);
        assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
        assert_eq!(socket.read(&mut [0; 16]).unwrap_or(0), 0);
        answer
    };
    let answer = let_in(&[("x-forwarded-for", "6.6.6.6, 192.0.2.7, 10.1.1.1")]);
    let about = got(&answer, &ABOUT_CLIENTS);
    assert_eq!(about, ["x-forwarded-for: 192.0.2.7", "x-forwarded-proto: http"]);
    // One that asks for another protocol is one request all the same.
    let answer = let_in(&[
        ("x-forwarded-for", "192.0.2.8"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-prefix", "/app"),
        ("x-forwarded-host", "other.localhost"),
        ("upgrade", "other"),
    ]);
    let about = got(&answer, &ABOUT_CLIENTS);
    let truth = [
        "x-forwarded-for: 192.0.2.8",
        "x-forwarded-proto: https",
        "x-forwarded-prefix: /app",
    ];
    assert_eq!(about, truth, "{answer:?}");
    // By path, what the proxy took off comes before what is taken off here.
    let fields = [
        ("host", "127.0.0.1"),
        ("x-forwarded-for", "192.0.2.8"),
        ("x-forwarded-prefix", "/app"),
    ];
    let answer = daemon.request("/o/hello/x", &fields).status(200);
    let prefix = got(&answer, &["x-forwarded-prefix"]);
    assert_eq!(prefix, ["x-forwarded-prefix: /app/o/hello"]);
    // Awake, the runtime judges the same facts.
    ask(&daemon, &[("x-forwarded-for", "6.6.6.6")]).problem(403, "admit_refused");
    ask(&daemon, &[("x-forwarded-for", "unknown")]).problem(400, "bad_request");
    let mut curl = home.command("curl");
    let url = format!("http://{}/", daemon.address);
    curl.args([
        "-s",
        "--http2-prior-knowledge",
        "--max-time",
        "60",
        "-o",
        "/dev/null",
    ]);
    curl.args(["-w", "%{http_code}", "-H", "host: hello.localhost", &url]);
    assert_eq!(run(&mut curl).code(0).out, "505");
    daemon.terminate();
}

/// Two requests of one client through a proxy that keeps its connections, with a forged field.
#[track_caller]
fn through(server: &Server, host: &str) -> Vec<Answer> {
    let mut socket = TcpStream::connect(server.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let fields = [("host", host), ("x-forwarded-for", "203.0.113.9")];
    let mut answers = Vec::new();
    for path in ["/a", "/b"] {
        send(&mut socket, "GET", path, &fields, "");
        answers.push(read_answer(&mut socket).expect("an answer"));
    }
    answers
}

#[test]
fn nginx_and_haproxy_say_for_whom_they_speak() {
    let home = Home::new();
    let daemon = home.serve_with(&["--listen", "proxy://127.0.0.1:0", "--trust", "127.0.0.1"]);
    home.add(&home.class("tenant", "max_instances = 9", &[FOUND, OPEN, STAY].concat()));
    let (plain, proxied) = (&daemon.address, daemon.proxied().replace("proxy://", ""));
    let nginx = Server::nginx(
        &home,
        &format!(
            "upstream suijuris {{ server {plain}; keepalive 8; }}\nserver {{ listen 127.0.0.1:PORT; location / {{ proxy_pass http://suijuris;\n\
             proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host; proxy_set_header X-Forwarded-Proto https;\n\
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_bind 127.0.0.1; }} }}"
        ),
    );
    // The client is 127.0.0.1 as well, which is trusted: so the first that is not is what it wrote itself.
    for answer in through(&nginx, "acme.tenant.localhost") {
        let answer = answer.status(200);
        let about = got(&answer, &ABOUT_CLIENTS);
        assert_eq!(
            about,
            ["x-forwarded-for: 203.0.113.9", "x-forwarded-proto: https"]
        );
    }
    drop(nginx);
    for version in ["send-proxy", "send-proxy-v2"] {
        let haproxy = Server::haproxy(
            &home,
            &format!("listen x\n mode http\n bind 127.0.0.1:PORT\n server s {proxied} {version}\n"),
        );
        // From another loopback address, which is nobody's proxy.
        let mut curl = home.command("curl");
        let url = format!("http://{}/", haproxy.address);
        curl.args(["-s", "--max-time", "60", "--interface", "127.0.0.7"]);
        curl.args([
            "-H",
            "host: zenith.tenant.localhost",
            "-H",
            "x-forwarded-for: 203.0.113.9",
        ]);
        let body = run(curl.args([&url, &url])).code(0).out;
        let answer = Answer {
            status: 200,
            headers: Vec::new(),
            body,
        };
        let about = got(&answer, &["x-forwarded-for"]);
        assert_eq!(about, ["x-forwarded-for: 127.0.0.7"; 2], "{version}");
    }
    daemon.terminate();
}

#[test]
fn a_proxy_header_is_required_or_forbidden_and_never_guessed() {
    let home = Home::new();
    let daemon = home.serve_with(&["--listen", "proxy://127.0.0.1:0", "--trust", "127.0.0.1"]);
    home.add(&home.object("hello", &[ONE_NETWORK, STAY].concat()));
    let proxied = daemon.proxied().replace("proxy://", "");
    let request = "GET / HTTP/1.1\r\nhost: hello.localhost\r\nconnection: close\r\n\r\n";
    let says = |address: &str, bytes: &str| {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(bytes.as_bytes()).unwrap();
        let mut answer = String::new();
        // A connection that is turned away may be reset.
        let _ = socket.read_to_string(&mut answer);
        answer
    };
    let header = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 7 80\r\n{request}");
    assert!(says(&proxied, &header("6.6.6.6")).starts_with("HTTP/1.1 403"));
    assert!(says(&proxied, &header("192.0.2.7")).starts_with("HTTP/1.1 200"));
    assert!(
        says(&proxied, &header("6.6.6.6")).starts_with("HTTP/1.1 403"),
        "awake"
    );
    assert_eq!(says(&proxied, request), "", "required");
    assert_eq!(says(&proxied, "PROXY TCP4 nonsense\r\n\r\n"), "");
    let forbidden = says(&daemon.address, &header("192.0.2.7"));
    assert!(forbidden.starts_with("HTTP/1.1 505"), "{forbidden}");
    // Whoever is no proxy of ours gets nowhere, whatever it says.
    let mut curl = home.command("curl");
    curl.args([
        "-s",
        "--max-time",
        "60",
        "--interface",
        "127.0.0.9",
        "--haproxy-protocol",
    ]);
    curl.args(["-H", "host: hello.localhost", &format!("http://{proxied}/")]);
    let ran = run(&mut curl);
    assert!(ran.code != 0 && ran.out.is_empty(), "{} {}", ran.code, ran.out);
    daemon.terminate();
    let args = ["serve", "elsewhere", "--listen", "proxy://127.0.0.1:0"];
    let refused = home.suijuris(&args).code(2);
    assert!(refused.err.contains("--trust"), "{}", refused.err);
}
