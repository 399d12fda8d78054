//! No request reaches the workload as something else than what was judged, however it is spelt.
//!
//! The judge writes what it saw into a field that the workload echoes, so that both stand side by side in one answer.

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use suijuris_testkit::spellings;

use crate::http2::{ask_all, build};
use crate::rig::{Rig, Workload};

/// What the workload received, as an echo has it; or the status of the refusal.
type Outcome = Result<String, u16>;

fn rig(workload: &Workload) -> Rig {
    let rig = Rig::http(workload);
    rig.script.tells.store(true, Ordering::SeqCst);
    rig
}

fn over_http1(rig: &Rig, request: &str) -> Outcome {
    let mut client = rig.client();
    client.send(request.as_bytes());
    let reply = client.reply();
    match reply.status() {
        200 => Ok(reply.body),
        status => Err(status),
    }
}

/// None where this protocol's client cannot write such a request.
fn over_http2(rig: &Rig, method: &str, target: &str, host: &str, fields: &[(&str, &str)]) -> Option<Outcome> {
    let request = build(method, target, host, fields)?;
    let got = ask_all(rig.addr, vec![request]).pop()?.ok()?;
    Some(match got.status {
        200 => Ok(got.body),
        status => Err(status),
    })
}

/// What was judged: method, target, host with port, protocol, `x-allow`.
fn judged(echo: &str) -> Vec<&str> {
    field(echo, "x-suijuris-judged")[0].split(' ').collect()
}

fn field<'a>(echo: &'a str, name: &str) -> Vec<&'a str> {
    let lines = echo.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(have, _)| have.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

/// What the workload received is what was judged.
fn assert_same(echo: &str, what: &str) {
    let judged = judged(echo);
    let line: Vec<&str> = echo.lines().next().unwrap().split(' ').collect();
    assert_eq!((line[0], line[1]), (judged[0], judged[1]), "{what}: {echo}");
    assert_eq!(field(echo, "host"), [judged[2]], "{what}: {echo}");
    let upgrade = field(echo, "upgrade");
    assert_eq!(!upgrade.is_empty(), judged[3] == "websocket", "{what}: {echo}");
    assert!(
        upgrade.iter().all(|protocol| *protocol == "websocket"),
        "{what}: {echo}"
    );
    let lines = echo.lines().filter_map(|line| line.split_once(": "));
    let alike = lines
        .filter(|(name, _)| name.len() == 7 && name.to_lowercase().replace(['_', '.'], "-") == "x-allow");
    let alike: Vec<_> = alike.map(|(_, value)| value.trim()).collect();
    match judged[4] {
        "-" => assert!(alike.is_empty(), "{what}: {echo}"),
        value => assert_eq!(alike, [value], "{what}: {echo}"),
    }
    assert!(field(echo, "authorization").len() <= 1, "{what}: {echo}");
    let path = judged[1].split('?').next().unwrap();
    assert!(
        !path.contains("//") && !path.contains("/./") && !path.contains("/../"),
        "{what}"
    );
    assert!(!path.starts_with("/.suijuris/"), "{what}");
}

// proves C11
#[test]
fn every_spelling_of_the_corpus_becomes_what_it_says_over_both_protocols() {
    let workload = Workload::echo();
    let rig = rig(&workload);
    let corpus = spellings::all();
    assert!(corpus.len() > 50);
    for spelling in corpus {
        let sent = spelling.request();
        let what = format!("{spelling:?}");
        let http1 = over_http1(&rig, &sent.http1());
        let http2 = over_http2(&rig, sent.method, sent.target, sent.host, &sent.fields);
        for outcome in [Some(http1), http2].into_iter().flatten() {
            match (&outcome, spelling.becomes) {
                (Ok(echo), Ok(canonical)) => {
                    assert_same(echo, &what);
                    let judged = judged(echo);
                    let found = match spelling.part {
                        "method" => judged[0],
                        "path" => judged[1],
                        "host" => judged[2],
                        _ => judged[4],
                    };
                    assert_eq!(found, canonical.split(' ').next().unwrap(), "{what}");
                }
                (Err(status), Err(expected)) => assert_eq!(*status, expected, "{what}"),
                _ => panic!("{what} became {outcome:?}"),
            }
        }
    }
}

// proves C11
#[test]
fn upgrades_and_foreign_bytes_have_one_meaning() {
    let workload = Workload::echo();
    let rig = rig(&workload);
    let check = |fields: &str, protocol: Result<&str, u16>| {
        let request = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
        let outcome = over_http1(&rig, &request);
        if let Ok(echo) = &outcome {
            assert_same(echo, fields);
        }
        let found = outcome
            .as_deref()
            .map(|echo| judged(echo)[3])
            .map_err(|status| *status);
        assert_eq!(found, protocol, "{fields:?}");
    };
    check("Connection: upgrade\r\nUpgrade: websocket", Ok("websocket"));
    check("Connection: upgrade\r\nUpgrade: WebSocket", Ok("websocket"));
    check("Connection: upgrade\r\nUpgrade: websocket,", Ok("websocket"));
    check("Connection: upgrade\r\nUpgrade: ,websocket", Ok("websocket"));
    check("Connection: upgrade\r\nUpgrade: websocket, x", Err(400));
    check(
        "Connection: upgrade\r\nUpgrade: x\r\nUpgrade: websocket",
        Err(400),
    );
    check("Connection: upgrade\r\nUpgrade: websocket/13", Err(400));
    check("Connection: upgrade, http2-settings\r\nUpgrade: h2c", Ok("http"));
    check("Upgrade: websocket", Ok("http"));
    check("Connection: X-Allow\r\nX-Allow: yes", Err(400));
    check("X-Allow: y\u{e9}s", Err(400));
    check("Authorization: Bearer \u{e9}", Err(400));
    check("X-Other: \u{e9}", Ok("http"));
}

// proves C11
#[test]
fn http2_takes_what_http1_takes() {
    let workload = Workload::echo();
    let rig = rig(&workload);
    let characters = (b'!'..=b'~').flat_map(|byte| {
        let byte = char::from(byte);
        [format!("/a{byte}b"), format!("/a?b{byte}c")]
    });
    let targets = characters.map(|target| ("GET", target));
    for (method, target) in targets.chain([("GET", "*".to_owned()), ("OPTIONS", "*".to_owned())]) {
        let http1 = over_http1(&rig, &format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        // What is no address at all is refused by its parser.
        let http2 = over_http2(&rig, method, &target, "h", &[]).unwrap_or(Err(400));
        let line = |outcome: &Outcome| {
            outcome
                .clone()
                .map(|echo| echo.lines().next().unwrap().to_owned())
        };
        assert_eq!(line(&http1), line(&http2), "{method} {target}");
    }
    let spaced = over_http2(&rig, "GET", "/", "h", &[("x-allow", "yes ")]);
    assert_eq!(
        spaced,
        Some(Err(400)),
        "the workload would see it without the space"
    );
}

/// A path below `/private` or `/public`, spelt with escapes, detours and what is no path at all.
fn path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => prop::sample::select(vec!["/", "private", "public", "a"]).prop_map(str::to_owned),
        4 => prop::sample::select(vec!["//", "/.", "/..", "/./", "/../", "%2e", "%2E%2e/", ";", "%3b", "%2f", "%5c", "\\"]).prop_map(str::to_owned),
        2 => (0u8..=255).prop_map(|byte| format!("%{byte:02x}")),
        1 => "[!-~]".prop_map(|text| text),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| format!("/{}", pieces.concat()))
}

fn fields() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let name = prop::sample::select(vec!["x-allow", "x_allow", "x.allow", "authorization", "x-other"]);
    let value = prop::sample::select(vec!["yes", "no", "y\u{e9}s"]);
    prop::collection::vec((name, value), 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    // proves C11
    #[test]
    fn nothing_reaches_the_workload_but_what_was_judged(
        method in "(GET|get|POST|OPTIONS)", path in path(), host in "[Hh]([.]|[.][.])?(:0?80?)?",
        fields in fields(), upgrade in prop::option::of("[ ,]?(websocket|WebSocket|h2c)(,| ,x)?"),
    ) {
        let workload = Workload::echo();
        let rig = rig(&workload);
        let lines = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>();
        let upgraded = upgrade.map_or(String::new(), |value| format!("Connection: upgrade\r\nUpgrade: {value}\r\n"));
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{lines}{upgraded}\r\n");
        let http1 = over_http1(&rig, &request);
        if let Ok(echo) = &http1 {
            assert_same(echo, &request);
        }
        let http2 = over_http2(&rig, &method, &path, &host, &fields);
        if let Some(Ok(echo)) = &http2 {
            assert_same(echo, &request);
        }
        if upgraded.is_empty() && let Some(http2) = &http2 {
            let line = |outcome: &Outcome| outcome.clone().map(|echo| echo.lines().next().unwrap().to_owned());
            prop_assert_eq!(line(&http1), line(http2), "{}", request);
        }
    }
}
