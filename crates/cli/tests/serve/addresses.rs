//! How callers name an object: by host, by path; and what names none.

use std::io::{Read as _, Write as _};

use crate::home::{FOUND, Home, OPEN, STAY};
use crate::http::{read_answer, send};
use crate::ran::run;

fn lines(body: &str) -> Vec<&str> {
    body.lines().collect()
}

// proves G7
#[test]
fn the_first_use_founds_and_the_next_ones_reach_the_same_object_by_host_and_by_path() {
    let home = Home::new();
    let daemon = home.serve();
    let class = home.add(&home.class("tenant", "max_instances = 9", &[FOUND, OPEN, STAY].concat()));
    assert_eq!(
        (&class["class"], &class["instances"]),
        (&"tenant".into(), &0.into())
    );
    assert!(home.keys("tenant").is_empty());
    let first = daemon.get("acme.tenant", "/a?b").status(200).body;
    let object = daemon.document("tenant/acme")["object"].clone();
    let again = daemon.get("acme.tenant", "/a?b").status(200).body;
    assert_eq!(first, again, "the same workload, asked the same");
    let by_path = daemon.by_path("/o/tenant/acme/a?b").status(200).body;
    assert_eq!(
        lines(&by_path)[..2],
        lines(&first)[..2],
        "the same, and it sees the same path"
    );
    assert_eq!(daemon.document("tenant/acme")["object"], object);
    // A class by path first, then by host; another object.
    daemon.by_path("/o/tenant/other").status(200);
    daemon.get("other.tenant", "/").status(200);
    assert_ne!(daemon.document("tenant/other")["object"], object);
    assert_eq!(home.keys("tenant"), ["acme", "other"]);
    assert_eq!(home.names_in_depot(), ["acme", "other"]);
    assert!(home.staged().is_empty());
    assert_eq!(home.kinds("tenant/acme")[..2], ["inception", "woke"]);
    let inception = &home.log("tenant/acme")[0];
    assert_eq!(inception["verdict"]["action"], "instantiate", "{inception}");
    daemon.terminate();
    home.nobody_is_left();
    for key in ["acme", "other"] {
        home.verify(&home.instance("tenant", key));
    }
}

#[test]
fn by_path_the_workload_sees_no_prefix_and_is_told_it_and_the_connection_ends() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", "max_instances = 9", &[FOUND, OPEN, STAY].concat()));
    for (target, path) in [
        ("/o/tenant/acme/x/y?z=1", "/x/y?z=1"),
        ("/o/tenant/acme", "/"),
        ("/o/tenant/acme?q", "/?q"),
    ] {
        let mut socket = daemon.connect();
        // One behind it, which would have the prefix of another.
        let behind = "GET /o/tenant/other/ HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
        let headers = [
            ("host", "127.0.0.1"),
            ("connection", "keep-alive"),
            ("x-forwarded-prefix", "/lie"),
        ];
        let head: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        write!(socket, "GET {target} HTTP/1.1\r\n{head}\r\n{behind}").unwrap();
        let answer = read_answer(&mut socket).unwrap().status(200);
        assert_eq!(lines(&answer.body)[1], format!("GET {path} HTTP/1.1"), "{target}");
        let body = answer.body.to_lowercase();
        let prefixes: Vec<_> = body.lines().filter(|line| line.contains("prefix")).collect();
        assert_eq!(prefixes, ["x-forwarded-prefix: /o/tenant/acme"], "{target}");
        // It ends, or is reset with what was behind.
        assert_eq!(socket.read(&mut [0; 16]).unwrap_or(0), 0, "{target}");
    }
    assert_eq!(home.keys("tenant"), ["acme"]);
    daemon.terminate();
    home.nobody_is_left();
}

#[test]
fn by_host_one_connection_serves_several_requests_and_http2_is_understood() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", "max_instances = 9", &[FOUND, OPEN, STAY].concat()));
    let mut socket = daemon.connect();
    for path in ["/one", "/two"] {
        send(&mut socket, "GET", path, &[("host", "acme.tenant.localhost")], "");
        let answer = read_answer(&mut socket).unwrap().status(200);
        assert_eq!(lines(&answer.body)[1], format!("GET {path} HTTP/1.1"));
    }
    let port = daemon.address.rsplit_once(':').unwrap().1;
    // One is founded by it, one is there.
    for _ in 0..2 {
        let mut curl = home.command("curl");
        curl.args(["-s", "--max-time", "60", "--http2-prior-knowledge"]);
        curl.args(["-w", "%{http_code} %{http_version}"]);
        curl.args(["--resolve", &format!("h2.tenant.localhost:{port}:127.0.0.1")]);
        let ran = run(curl.arg(format!("http://h2.tenant.localhost:{port}/two"))).code(0);
        assert!(
            ran.out.contains("GET /two HTTP/1.1") && ran.out.ends_with("200 2"),
            "{}",
            ran.out
        );
    }
    assert_eq!(home.keys("tenant"), ["acme", "h2"]);
    daemon.terminate();
    home.nobody_is_left();
}

#[test]
fn what_is_no_key_is_refused_and_nothing_is_founded() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", "max_instances = 9", &[FOUND, OPEN, STAY].concat()));
    let long = "a".repeat(10_000);
    for key in [
        "..",
        "%2f",
        "a%2fb",
        "Acme",
        "aCME",
        &long,
        "%D0%B6",
        "",
        "xn--80ak6aa92e",
        "-a",
        "a-",
        "a_b",
        "a.b",
        "%00",
    ] {
        let answer = daemon.by_path(&format!("/o/tenant/{key}/"));
        assert!([400, 404].contains(&answer.status), "{key:.20}: {answer:?}");
    }
    for key in [
        "Acme",
        &long[..5_000],
        "%D0%B6",
        "xn--80ak6aa92e",
        "-a",
        "a_b",
        "a.b",
        "",
    ] {
        daemon
            .by_path(&format!("/o/tenant/{key}"))
            .problem(400, "bad_key");
    }
    for host in ["-a.tenant", "xn--80ak6aa92e.tenant", "a_b.tenant", "a.b.tenant"] {
        daemon.get(host, "/").problem(400, "bad_key");
    }
    for host in ["..tenant", "\u{436}.tenant", ".tenant"] {
        let answer = daemon.get(host, "/");
        assert!([400, 404].contains(&answer.status), "{host}: {answer:?}");
    }
    assert!(home.keys("tenant").is_empty(), "{:?}", home.keys("tenant"));
    assert!(home.names_in_depot().is_empty() && home.staged().is_empty());
    daemon.terminate();
}

#[test]
fn a_host_in_capitals_is_the_same_host() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", "max_instances = 9", &[FOUND, OPEN, STAY].concat()));
    daemon.get("ACME.Tenant", "/").status(200);
    daemon.get("acme.tenant", "/").status(200);
    assert_eq!(home.keys("tenant"), ["acme"]);
    daemon.terminate();
}

#[test]
fn what_names_nothing_is_unknown_and_wakes_nobody() {
    let home = Home::new();
    let mut daemon = home.serve();
    home.add(&home.class("tenant", "max_instances = 9", &[FOUND, OPEN, STAY].concat()));
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    for host in ["nobody", "a.nobody", "tenant"] {
        daemon.get(host, "/").problem(404, "unknown_object");
    }
    for path in [
        "/",
        "/o/",
        "/o/nobody/",
        "/o/nobody/a/",
        "/p/tenant/a/",
        "/O/tenant/a/",
    ] {
        daemon.by_path(path).problem(404, "unknown_object");
    }
    for host in ["example.org", "tenant.localhost.example.org", "xlocalhost"] {
        daemon
            .request("/", &[("host", host)])
            .problem(404, "unknown_object");
    }
    assert!(home.keys("tenant").is_empty());
    daemon.wait_phase("hello", "dormant");
    assert_eq!(daemon.count(&serde_json::json!({"event": "machine"})), 0);
    daemon.get("hello", "/").status(200);
    daemon.wait(serde_json::json!({"event": "woke", "name": "hello"}));
    daemon.terminate();
}

#[test]
fn the_reserved_path_is_never_a_use() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", "max_instances = 9", &[FOUND, OPEN, STAY].concat()));
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    for path in [
        "/.suijuris/",
        "/.suijuris/x",
        "/%2esuijuris/x",
        "//.suijuris/",
        "/a/../.suijuris/x",
    ] {
        for host in ["hello", "acme.tenant"] {
            let answer = daemon.get(host, path);
            assert!([400, 404].contains(&answer.status), "{host}{path}: {answer:?}");
        }
        for base in ["/o/hello", "/o/tenant/acme"] {
            let answer = daemon.by_path(&format!("{base}{path}"));
            assert!([400, 404].contains(&answer.status), "{base}{path}: {answer:?}");
        }
    }
    assert!(home.keys("tenant").is_empty() && home.names_in_depot().is_empty());
    assert_eq!(daemon.count(&serde_json::json!({"event": "machine"})), 0);
    daemon.terminate();
}

/// What cannot be served is not founded either.
#[test]
fn a_prefix_that_cannot_be_taken_off_founds_nothing() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", "max_instances = 9", &[FOUND, OPEN, STAY].concat()));
    for target in [
        "/o/tenant/%61cme/",
        "/o/%74enant/acme/",
        "/o//tenant/acme/",
        "/x/../o/tenant/acme/",
    ] {
        let answer = daemon.by_path(target);
        assert!([400, 404].contains(&answer.status), "{target}: {answer:?}");
    }
    let mut curl = home.command("curl");
    curl.args([
        "-s",
        "--max-time",
        "60",
        "--http2-prior-knowledge",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
    ]);
    let ran = run(curl.arg(format!("http://{}/o/tenant/acme/", daemon.address))).code(0);
    assert_eq!(ran.out, "404");
    assert!(home.keys("tenant").is_empty() && home.names_in_depot().is_empty());
    daemon.terminate();
}

/// By path all tenants are one origin to a browser.
#[test]
fn a_browser_is_sent_from_the_path_to_the_host_unless_the_class_serves_paths() {
    let home = Home::new();
    let daemon = home.serve();
    let rules = [FOUND, OPEN, STAY].concat();
    home.add(&home.class("tenant", "max_instances = 9", &rules));
    home.add(&home.class("shared", "max_instances = 9\npaths = true", &rules));
    let port = daemon.address.rsplit_once(':').unwrap().1;
    for header in [
        ("sec-fetch-mode", "navigate"),
        ("Sec-Fetch-Dest", "document"),
        ("service-worker", "script"),
    ] {
        for (target, rest) in [
            ("/a/b?c=d", "a/b?c=d"),
            ("", ""),
            ("/", ""),
            ("//evil.example/", "evil.example/"),
        ] {
            let path = format!("/o/tenant/acme{target}");
            let answer = daemon
                .request(&path, &[("host", "127.0.0.1"), header])
                .status(307);
            let url = format!("http://acme.tenant.localhost:{port}/{rest}");
            assert_eq!(answer.header("location"), Some(url.as_str()), "{path}");
        }
        daemon
            .request("/o/tenant/Acme/", &[("host", "127.0.0.1"), header])
            .problem(400, "bad_key");
        daemon
            .request("/o/shared/acme/", &[("host", "127.0.0.1"), header])
            .status(200);
    }
    assert!(home.keys("tenant").is_empty(), "it founds nothing");
    daemon.terminate();
}

/// One tenant's connection is no way to another tenant.
#[test]
fn another_host_on_the_connection_of_one_object_is_not_answered_by_it() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", "max_instances = 9", &[FOUND, OPEN, STAY].concat()));
    daemon.get("b.tenant", "/").status(200);
    for other in ["b.tenant.localhost", "new.tenant.localhost"] {
        let mut socket = daemon.connect();
        send(&mut socket, "GET", "/", &[("host", "a.tenant.localhost")], "");
        read_answer(&mut socket).unwrap().status(200);
        send(&mut socket, "GET", "/", &[("host", other)], "");
        let answer = read_answer(&mut socket).unwrap();
        assert_eq!(answer.status, 421, "{other}: {answer:?}");
    }
    assert_eq!(home.keys("tenant"), ["a", "b"]);
    daemon.terminate();
}

// proves G7
#[test]
fn a_header_names_the_object_where_its_class_says_so() {
    let home = Home::new();
    let daemon = home.serve();
    let class = "max_instances = 9\nfrom = [\"header x-tenant\"]";
    home.add(&home.class("tenant", class, &[FOUND, OPEN, STAY].concat()));
    let ask = |headers: &[(&str, &str)]| {
        let host = [("host", "tenant.localhost"), ("connection", "close")];
        daemon.request("/page", &[&host, headers].concat())
    };
    for key in ["acme", "zenith", "acme"] {
        ask(&[("x-tenant", key)]).status(200);
    }
    assert_eq!(home.keys("tenant"), ["acme", "zenith"]);
    // Neither without it, nor by what the class does not take its keys from.
    ask(&[]).problem(404, "unknown_object");
    daemon.get("acme.tenant", "/").problem(404, "unknown_object");
    ask(&[("x-tenant", "../up")]).problem(400, "bad_key");
    assert_eq!(home.keys("tenant"), ["acme", "zenith"]);
    daemon.terminate();
    home.nobody_is_left();
}
