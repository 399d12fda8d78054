//! `--access-log`: a line for each request, whoever answers it, and nothing of it but what a log may keep.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::ran::run;
use crate::rig::{OPEN, Object, STAY, read_answer};

const CLOSED: &str = r#"@id("closed") @reason("closed on this path")
forbid (principal, action == Action::"admit", resource) when { context.request.path like "/closed*" };"#;

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

// proves C14
#[test]
fn each_request_is_a_line_whoever_answers_it_and_what_is_secret_is_in_none() {
    let object = Object::new("", &format!("{OPEN}{STAY}{CLOSED}"));
    let path = object.home().join("access");
    let up = object.up_with(&["--access-log", path.to_str().unwrap()]);
    let secret = [
        ("authorization", "Bearer in-confidence"),
        ("x-key", "in-confidence"),
    ];
    // Asleep; the request that wakes it; awake.
    up.get_with("/closed/1?in-confidence", &secret)
        .problem(403, "admit_refused");
    up.get("/%68ello?in-confidence").status(200);
    up.get_with("/closed/2", &secret[1..])
        .problem(403, "admit_refused");
    up.get("/.suijuris/nothing").problem(404, "no_such_route");
    let mut curl = object.command("curl");
    curl.args([
        "-s",
        "--max-time",
        "60",
        "--http2-prior-knowledge",
        "-o",
        "/dev/null",
    ]);
    run(curl.arg(format!("http://{}/two", up.address))).code(0);
    let id = up.id.clone();
    assert_eq!(up.interrupt(), Some(0));

    let told = lines(&path);
    let of = |line: &Value| {
        let of = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        (of("version"), of("path"), line["status"].as_u64(), of("code"))
    };
    let expected = [
        ("1.1", "/closed/1", 403, "admit_refused"),
        ("1.1", "/hello", 200, ""),
        ("1.1", "/closed/2", 403, "admit_refused"),
        ("1.1", "/.suijuris/nothing", 404, "no_such_route"),
        ("2", "/two", 200, ""),
    ];
    let expected = expected.map(|(version, path, status, code)| {
        (version.to_owned(), path.to_owned(), Some(status), code.to_owned())
    });
    assert_eq!(told.iter().map(of).collect::<Vec<_>>(), expected, "{told:?}");
    for line in &told {
        assert_eq!(line["event"], "request", "{line}");
        assert_eq!(line["object"], json!(id), "{line}");
        assert_eq!(line["peer"], "127.0.0.1", "{line}");
        assert!(line["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{line}");
        assert!(line["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{line}");
        assert!(
            line.get("query").is_none() && line.get("lost").is_none(),
            "{line}"
        );
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("in-confidence"), "{text}");
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn on_standard_output_it_stands_among_the_events_and_queries_are_asked_for() {
    let object = Object::new("", &format!("{OPEN}{STAY}"));
    let mut up = object.up_with(&["--access-log", "-", "--access-log-query"]);
    up.get("/a?b=c").status(200);
    up.wait(json!({"event": "request", "path": "/a", "query": "b=c", "status": 200}));
    assert_eq!(up.interrupt(), Some(0));

    let nowhere = object.home().join("nowhere").join("access");
    let ran = object
        .up_fails(&["--access-log", nowhere.to_str().unwrap()])
        .code(3);
    assert!(
        ran.err.contains("the access log cannot be written"),
        "{}",
        ran.err
    );
}

// proves C13
#[test]
fn a_log_that_nobody_reads_stops_nothing_and_what_is_lost_is_counted() {
    let object = Object::new("", &format!("{OPEN}{STAY}"));
    let pipe = object.home().join("pipe");
    run(Command::new("mkfifo").arg(&pipe)).code(0);
    let refused = object.up_fails(&["--access-log", pipe.to_str().unwrap()]).code(3);
    assert!(
        refused.err.contains("the access log cannot be written"),
        "{}",
        refused.err
    );
    let mut options = std::fs::File::options();
    // O_NONBLOCK: it is open before anybody writes.
    let mut reader = options.read(true).custom_flags(0o4000).open(&pipe).unwrap();
    let up = object.up_with(&["--access-log", pipe.to_str().unwrap()]);
    let mut socket = up.connect();
    // More than a pipe takes.
    let request = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(1_000));
    for _ in 0..200 {
        socket.write_all(request.as_bytes()).unwrap();
        assert_eq!(read_answer(&mut socket).unwrap().status, 200);
    }
    // Until the line of the last request is read, or it was lost, which the next one says.
    let mut text = Vec::new();
    let told = |text: &[u8]| {
        let whole = BufReader::new(text).lines().map_while(Result::ok);
        let told = whole.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        let told: Vec<Value> = told.collect();
        let lost: u64 = told.iter().filter_map(|line| line["lost"].as_u64()).sum();
        (u64::try_from(told.len()).unwrap(), lost)
    };
    let mut asked = 200;
    loop {
        let _nothing_more = reader.read_to_end(&mut text);
        let (lines, lost) = told(&text);
        if lost > 0 && lines + lost == asked {
            break;
        }
        assert!(asked < 10_000, "{lines} lines, {lost} lost of {asked}");
        socket
            .write_all(b"GET /again HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        assert_eq!(read_answer(&mut socket).unwrap().status, 200);
        asked += 1;
    }
    drop(socket);
    assert_eq!(up.interrupt(), Some(0));
}
