//! Traces of a host's calls and requests, as a collector gets them.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::images::{layout, machine, name};
use crate::rig::{Host, until};

/// A collector of OTLP over HTTP: spans in the order in which they came.
fn collector() -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let spans = Arc::<Mutex<Vec<Value>>>::default();
    let kept = Arc::clone(&spans);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = Vec::new();
            let mut part = [0; 4_096];
            let body = loop {
                let read = stream.read(&mut part).unwrap();
                bytes.extend_from_slice(&part[..read]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    continue;
                };
                assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
                assert!(head.contains("content-type: application/json"), "{head}");
                let length = head.split("content-length: ").nth(1).unwrap();
                let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
                if body.len() >= length {
                    break body.to_owned();
                }
                assert!(read > 0, "{text}");
            };
            let document: Value = serde_json::from_str(&body).unwrap();
            let resource = &document["resourceSpans"][0];
            let service = json!([{"key": "service.name", "value": {"stringValue": "suijuris-host"}}]);
            assert_eq!(resource["resource"]["attributes"], service);
            let told = resource["scopeSpans"][0]["spans"].as_array().unwrap();
            kept.lock().unwrap().extend(told.iter().cloned());
            let _gone = stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
            );
        }
    });
    (url, spans)
}

fn attribute<'a>(span: &'a Value, key: &str) -> &'a Value {
    let all = span["attributes"].as_array().unwrap();
    let found = all.iter().find(|attribute| attribute["key"] == key);
    found.map_or(&Value::Null, |attribute| &attribute["value"])
}

#[test]
fn calls_and_requests_are_told_to_a_collector_in_the_trace_of_who_asked() {
    let (url, spans) = collector();
    let dir = layout();
    let host = Host::start_with(&[
        "--no-rate-limit",
        "--oci-root",
        dir.path().to_str().unwrap(),
        "--proxy",
        "127.0.0.1:0",
        "--traces",
        &url,
    ]);
    host.app("a");
    // What the machine is sent is what it answers with.
    let echo = "while :; do /bin/busybox nc -l -p 8080 -e /bin/busybox sh -c 'read l; echo HTTP/1.1 200 OK; echo; echo \"$l\"; while read l && [ ${#l} -gt 1 ]; do echo \"$l\"; done'; done";
    let id = machine(
        &host,
        &name(&dir),
        &json!({
            "init": {"exec": ["/bin/busybox", "sh", "-c", echo]},
            "services": [{"protocol": "tcp", "internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}]}],
        }),
    );
    host.wait(&id, "started");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let ask = |path: &str| {
        let mut stream = std::net::TcpStream::connect(&host.proxy[0]).unwrap();
        let said = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01");
        let head = format!("GET {path} HTTP/1.1\r\nHost: a.localhost\r\n{said}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = ask("/hello");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let find = |what: &dyn Fn(&Value) -> bool| {
        let mut found = None;
        until("the span is told", || {
            found = spans.lock().unwrap().iter().find(|span| what(span)).cloned();
            found.is_some()
        });
        found.unwrap()
    };
    let span = find(&|span| span["name"] == "GET a");
    assert_eq!(
        (&span["traceId"], &span["parentSpanId"]),
        (&json!(trace), &json!("00f067aa0ba902b7"))
    );
    assert_eq!(attribute(&span, "url.path")["stringValue"], "/hello");
    assert_eq!(attribute(&span, "http.response.status_code")["intValue"], "200");
    // Whoever serves it goes on from the proxy's span, and hears of no other.
    let parent = format!("traceparent: 00-{trace}-{}-01", span["spanId"].as_str().unwrap());
    assert!(answer.to_lowercase().contains(&parent), "{answer}");
    assert!(!answer.contains("00f067aa0ba902b7"), "{answer}");
    // Calls of the API too, whose replies name their trace.
    let shown = host.get(&format!("/apps/a/machines/{id}"));
    let ids = |field: &str| {
        let head = shown.head.to_lowercase();
        let line = head
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{field}: ")).map(str::to_owned));
        line.unwrap()
    };
    let call = find(&|span| span["spanId"] == ids("fly-span-id").as_str());
    assert_eq!(call["traceId"], ids("fly-trace-id").as_str());
    assert_eq!(attribute(&call, "http.response.status_code")["intValue"], "200");
}
