//! TLS at the edge: the development authority, certificates from files that change, callers who are slow on purpose.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use rcgen::{CertificateParams, KeyPair};
use serde_json::json;

use crate::daemon::Daemon;
use crate::home::{FOUND, Home, OPEN, PATIENCE, STAY, until};
use crate::ran::{Ran, run};

/// `curl` of this host by TLS, trusting this authority.
fn curl(home: &Home, daemon: &Daemon, host: &str, authority: &Path) -> Command {
    let (_, port) = daemon
        .secure()
        .rsplit_once(':')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let mut curl = home.command("curl");
    curl.args(["-s", "--max-time", "60", "--cacert"]).arg(authority);
    curl.args(["--resolve", &format!("{host}:{port}:127.0.0.1")]);
    curl.arg(format!("https://{host}:{port}/"));
    curl
}

fn authority(home: &Home) -> std::path::PathBuf {
    let made = home.suijuris(&["trust", "--json"]).code(0).json();
    made["certificate"].as_str().unwrap().into()
}

#[test]
fn the_development_authority_serves_every_name_by_http_2_and_1() {
    let home = Home::new();
    let args = ["serve", "elsewhere", "--listen", "https://127.0.0.1:0"];
    let refused = home.suijuris(&args).code(3);
    assert!(refused.err.contains("suijuris trust"), "{}", refused.err);
    let ca = authority(&home);
    assert_eq!(authority(&home), ca, "it stays");
    let key = std::fs::metadata(ca.with_extension("key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    let daemon = home.serve_with(&["--listen", "https://127.0.0.1:0"]);
    home.add(&home.class("tenant", "max_instances = 9", &[FOUND, OPEN, STAY].concat()));
    // Asleep, then awake.
    for (version, asked) in [("2", "--http2"), ("1.1", "--http1.1"), ("2", "--http2")] {
        let mut curl = curl(&home, &daemon, "acme.tenant.localhost", &ca);
        curl.args([asked, "-w", "by %{http_version}", "-H", "x-forwarded-proto: http"]);
        let said = run(&mut curl).code(0).out;
        assert!(
            said.contains("GET / HTTP/1.1") && said.ends_with(&format!("by {version}")),
            "{said}"
        );
        assert!(said.contains("x-forwarded-proto: https"), "{said}");
        assert!(said.contains("x-forwarded-for: 127.0.0.1"), "{said}");
    }
    // A large answer and a large request go through whole.
    let body = "x".repeat(300_000);
    let mut large = curl(&home, &daemon, "acme.tenant.localhost", &ca);
    large.args([
        "--http1.1",
        "-H",
        &format!("x-large: {}", "y".repeat(9_000)),
        "--data",
        &body[..90_000],
    ]);
    let said = run(&mut large).code(0).out;
    assert!(said.contains(&"y".repeat(9_000)), "{}", said.len());
    // Who does not trust the authority says so, and what is no TLS gets no word.
    let other = home.path().join("other.pem");
    std::fs::write(&other, own("localhost").0).unwrap();
    let untrusting = run(&mut curl(&home, &daemon, "acme.tenant.localhost", &other));
    assert_eq!(untrusting.code, 60, "{}", untrusting.err);
    let mut plain = TcpStream::connect(daemon.secure_address()).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: acme.tenant.localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{}", answer.escape_ascii());
    daemon.terminate();
    home.nobody_is_left();
}

/// A certificate that signs itself, and its key.
fn own(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn certificates_are_read_again_when_they_change_and_kept_while_they_are_broken() {
    let home = Home::new();
    let at = |name: &str| home.path().join(name);
    let write = |(certificate, key): &(String, String)| {
        std::fs::write(at("own.pem"), certificate).unwrap();
        std::fs::write(at("own.key"), key).unwrap();
    };
    let (first, second) = (own("hello.localhost"), own("hello.localhost"));
    std::fs::write(at("first.pem"), &first.0).unwrap();
    std::fs::write(at("second.pem"), &second.0).unwrap();
    write(&first);
    let files = ["--certificate", "own.pem", "--key", "own.key"];
    let args = [&["--listen", "https://127.0.0.1:0"][..], &files].concat();
    let mut daemon = home.serve_with(&args);
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let ask = |daemon: &Daemon, trusted: &str| run(&mut curl(&home, daemon, "hello.localhost", &at(trusted)));
    assert!(ask(&daemon, "first.pem").code(0).out.contains("GET /"));
    assert_eq!(ask(&daemon, "second.pem").code, 60);
    write(&second);
    until("the new certificate is used", || {
        ask(&daemon, "second.pem").code == 0
    });
    assert_eq!(ask(&daemon, "first.pem").code, 60);
    std::fs::write(at("own.key"), &first.1).unwrap();
    until("the wrong key is noticed", || {
        assert!(
            ask(&daemon, "second.pem").code(0).out.contains("GET /"),
            "those of before stay"
        );
        daemon.count(&json!({"event": "error", "code": "certificate_failed"})) > 0
    });
    let told = daemon.wait(json!({"event": "error", "code": "certificate_failed"}));
    assert!(
        told["message"].as_str().unwrap().contains("is not the key of"),
        "{told}"
    );
    daemon.terminate();
    let broken = [
        &["serve", "elsewhere", "--listen", "https://127.0.0.1:0"][..],
        &files,
    ]
    .concat();
    let refused = home.suijuris(&broken).code(3);
    assert!(refused.err.contains("is not the key of"), "{}", refused.err);
}

#[test]
fn whoever_is_slow_on_purpose_keeps_nobody_else_out() {
    let home = Home::new();
    let ca = authority(&home);
    let daemon = home.serve_with(&["--listen", "https://127.0.0.1:0"]);
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    // More than one peer may have under way; each says the beginning of a handshake and no more.
    let slow: Vec<TcpStream> = (0..80)
        .map(|_| {
            let mut socket = TcpStream::connect(daemon.secure_address()).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = socket.write_all(&[22, 3, 1, 2]);
            socket
        })
        .collect();
    let mut others = curl(&home, &daemon, "hello.localhost", &ca);
    let served = run(others.args(["--interface", "127.0.0.5"])).code(0);
    assert!(served.out.contains("GET /"), "{}", served.out);
    // All of them are ended in the end, without a word of ours.
    for mut socket in slow {
        let mut said = Vec::new();
        let _ = socket.read_to_end(&mut said);
        assert!(said.is_empty(), "{}", said.escape_ascii());
    }
    let served: Ran = run(&mut curl(&home, &daemon, "hello.localhost", &ca)).code(0);
    assert!(served.out.contains("GET /"));
    daemon.terminate();
}

// proves E11
#[test]
fn rules_about_tls_and_certificates_hold_asleep_and_awake() {
    let home = Home::new();
    let ca = authority(&home);
    for name in ["billing", "shipping"] {
        home.suijuris(&["trust", "--client", name]).code(0);
    }
    let daemon = home.serve_with(&["--listen", "https://127.0.0.1:0"]);
    let rules = r#"
@id("by-certificate") permit (principal, action in [Action::"wake", Action::"admit"], resource)
when {
  context has request && context.request has tls && context.request.tls.version == "1.3" &&
  context.request.tls has sni && context.request.tls.sni == "hello.localhost" &&
  context.request has client_cert.name && context.request.client_cert.name == "billing" &&
  context.request.client_cert.subject like "*CN=billing*" && context.now < context.request.client_cert.not_after
};
"#;
    home.add(&home.object("hello", &[rules, STAY].concat()));
    let ask = |more: &[&str]| {
        let mut curl = curl(&home, &daemon, "hello.localhost", &ca);
        run(curl.args(more)).code(0).out
    };
    let by = |name: &str| -> [String; 4] {
        [
            "--cert".into(),
            format!("{name}.pem"),
            "--key".into(),
            format!("{name}.key"),
        ]
    };
    let shown = |name: &str, more: &[&str]| {
        let words = by(name);
        let words: Vec<&str> = words
            .iter()
            .map(String::as_str)
            .chain(more.iter().copied())
            .collect();
        ask(&words)
    };
    // What a host's proxy would say, said by a client: nobody gave this daemon a key to believe it by.
    let forged = "x-suijuris-tls: session=eyJ2ZXJzaW9uIjoiMS4zIiwiY2VydGlmaWNhdGUiOnsibmFtZSI6ImJpbGxpbmcifX0;expires=1;hmac-sha256=00";
    let named = "x-suijuris-client-name: billing";
    let refused = |said: &str| {
        assert!(
            said.contains("\"status\":403") && !said.contains("GET /"),
            "{said}"
        );
    };
    let all_refused = || {
        refused(&ask(&[]));
        refused(&ask(&["-H", forged, "-H", named]));
        refused(&shown("shipping", &[]));
        refused(&shown("billing", &["--tls-max", "1.2"]));
    };
    all_refused();
    let woken = shown("billing", &[]);
    assert!(woken.contains("GET / HTTP/1.1"), "{woken}");
    assert!(woken.contains("x-suijuris-client-name: billing"), "{woken}");
    all_refused();
    let http2 = shown("billing", &["--http2"]);
    assert!(http2.contains("GET / HTTP/1.1"), "{http2}");
    // The owner learns that nobody vouched; the facts are kept with the decision, which replays.
    let id = ask(&[]);
    let id: serde_json::Value = serde_json::from_str(&id).unwrap();
    let why = home
        .suijuris(&["why", id["id"].as_str().unwrap(), "hello"])
        .code(0)
        .out;
    assert!(
        why.contains("no client certificate came with this request"),
        "{why}"
    );
    daemon.terminate();
}
