//! What of the workload's heads passes, and who can read what the gate itself answers.

use suijuris_gate::limits::{RESPONSE_HEAD_BYTES, RESPONSE_HEADERS};
use suijuris_gate::{Cors, Limits, Phase, Protocol, Upstream};

use crate::http2::{ask, request};
use crate::rig::{Plan, Rig, Workload, get};

/// A workload whose response head has `fields` fields of about `bytes` bytes.
fn heads(fields: usize, bytes: usize) -> Workload {
    Workload::start(move |conn| {
        while conn.request().is_some() {
            let lines: String = (0..fields)
                .map(|field| format!("Set-Cookie: c{field:03}={}\r\n", "v".repeat(bytes)))
                .collect();
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n{lines}\r\nok\n").as_bytes());
        }
    })
}

// proves C5
#[test]
fn response_heads_have_one_bound_for_both_versions_and_its_excess_is_told() {
    let line = "Set-Cookie: c000=\r\n".len();
    let most = RESPONSE_HEAD_BYTES - "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n".len();
    for (fields, bytes, passes) in [
        (8, 3_000, true),
        (120, 10, true),
        (RESPONSE_HEADERS - 1, 10, true),
        (RESPONSE_HEADERS, 10, false),
        (2, most / 2 - line, true),
        (2, most / 2 - line + 1, false),
        (3, 40_000, false),
    ] {
        let workload = heads(fields, bytes);
        let rig = Rig::http(&workload);
        let one = rig.client().ask(&get("/"));
        let two = ask(rig.addr, request("/", ""));
        let expect = if passes { 200 } else { 502 };
        let what = format!("{fields} fields of {bytes} bytes");
        assert_eq!((one.status(), two.status), (expect, expect), "{what}");
        if passes {
            continue;
        }
        for problem in [one.problem(), two.problem()] {
            assert_eq!(problem.code, "upstream_head_too_large", "{what}");
            for bound in [RESPONSE_HEAD_BYTES, RESPONSE_HEADERS] {
                assert!(problem.detail.contains(&bound.to_string()), "{problem:?}");
            }
        }
        let told = rig.script.unanswered.lock().unwrap().clone();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told.iter().all(|(code, _)| code == "upstream_head_too_large"),
            "{told:?}"
        );
    }
}

// proves C5
#[test]
fn trailers_of_an_http1_workload_stay_behind_for_both_versions() {
    let answer =
        b"HTTP/1.1 200 OK\r\nTrailer: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n";
    let workload = Workload::fixed(answer);
    let rig = Rig::http(&workload);
    let mut client = rig.client();
    client.send(&get("/"));
    assert!(client.until(b"0\r\n\r\n").ends_with(b"3\r\nabc\r\n0\r\n\r\n"));
    let got = ask(rig.addr, request("/", ""));
    assert_eq!((got.status, got.body.as_str()), (200, "abc"));
    assert!(got.trailers.is_none(), "{got:?}");
}

// proves C4
#[test]
fn pages_of_named_origins_can_read_a_refusal_and_nothing_else_is_added() {
    let workload = Workload::fixed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let check = |origins: &'static [&'static str], origin: &str, allowed: Option<&str>| {
        let plan = Plan {
            upstream: Upstream::Tcp(workload.addr),
            protocol: Protocol::Http,
            limits: Limits::default(),
            phase: Phase::Open,
        };
        let cors = move || Cors::new(origins.iter().copied());
        let (rig, _listener) = Rig::launch(plan, move |gate| gate.readable_by(cors()));
        let asks = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\n\r\n");
        let named = allowed.filter(|allowed| *allowed != "*");
        let refused = rig.client().ask(asks("/no").as_bytes());
        assert_eq!(refused.status(), 403);
        let has = |line: String| refused.head.contains(&format!("\r\n{line}\r\n"));
        for (field, expect) in [
            ("access-control-allow-origin", allowed),
            ("access-control-allow-credentials", named.map(|_| "true")),
            ("vary", named.map(|_| "origin")),
            (
                "access-control-expose-headers",
                allowed.map(|_| "retry-after, www-authenticate"),
            ),
        ] {
            match expect {
                Some(value) => assert!(has(format!("{field}: {value}")), "{field}: {refused:?}"),
                None => assert!(!refused.head.contains(field), "{field}: {refused:?}"),
            }
        }
        let mut over_http2 = request("/no", "");
        over_http2.headers_mut().insert("origin", origin.parse().unwrap());
        let over_http2 = ask(rig.addr, over_http2);
        let read = over_http2.headers.get("access-control-allow-origin");
        assert_eq!(
            read.map(|value| value.to_str().unwrap()),
            allowed,
            "{over_http2:?}"
        );
        let passed = rig.client().ask(asks("/").as_bytes());
        assert_eq!(passed.status(), 200);
        assert!(
            !passed.head.contains("access-control"),
            "the workload's own affair: {passed:?}"
        );
    };
    let named = &["https://app.example", "http://localhost:3000"];
    check(&[], "https://app.example", None);
    check(named, "https://app.example", Some("https://app.example"));
    check(named, "http://localhost:3000", Some("http://localhost:3000"));
    check(named, "https://other.example", None);
    check(named, "null", None);
    check(&["*"], "https://other.example", Some("*"));
    check(
        &["*", "https://app.example"],
        "https://app.example",
        Some("https://app.example"),
    );
}
