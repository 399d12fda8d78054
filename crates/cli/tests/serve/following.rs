//! The log and the memory of an object as they grow, through the control API: resumed where a reader was, the same as from files, and
//! no reader is a burden to others.

use std::io::{BufRead as _, BufReader, Lines};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::home::{Home, OPEN, STAY, until};
use crate::http::{read_answer, read_head, send};

/// Readers of a daemon at most.
const READERS: usize = 64;

/// A stream of an object, of which nothing was read yet.
fn open(daemon: &Daemon, path: &str, last: Option<u64>) -> UnixStream {
    let mut socket = daemon.control();
    let last = last.map(|last| last.to_string());
    let mut headers = vec![("host", "localhost")];
    headers.extend(last.as_deref().map(|last| ("last-event-id", last)));
    send(&mut socket, "GET", path, &headers, "");
    socket
}

/// A stream whose answer has begun.
struct Stream(Lines<BufReader<UnixStream>>);

impl Stream {
    #[track_caller]
    fn new(daemon: &Daemon, path: &str, last: Option<u64>) -> Self {
        let mut socket = open(daemon, path, last);
        let head = read_head(&mut socket).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        Self(BufReader::new(socket).lines())
    }

    /// The next event: its number, and what it says.
    #[track_caller]
    fn next(&mut self) -> (u64, Value) {
        let mut id = None;
        for line in &mut self.0 {
            let line = line.unwrap();
            if let Some(number) = line.strip_prefix("id: ") {
                id = number.parse().ok();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (id.unwrap(), serde_json::from_str(data).unwrap());
            }
        }
        panic!("the stream ended");
    }
}

fn set(daemon: &Daemon, note: &str) {
    let patch = json!({"patch": {"set": {"note": note}}});
    let answer = daemon.api("PATCH", "/v1/objects/hello/memory", &patch);
    assert!(answer.body.contains("patched"), "{answer:?}");
}

// proves G9
#[test]
fn the_log_is_followed_and_resumed_behind_the_last_record_that_was_read() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let path = "/v1/objects/hello/log/follow";
    let mut fresh = Stream::new(&daemon, path, None);
    let mut all = Stream::new(&daemon, &format!("{path}?from=0"), None);
    assert_eq!(all.next().1["kind"], "inception");
    set(&daemon, "one");
    let (first, record) = all.next();
    assert_eq!((first, &record["kind"]), (1, &json!("mutated")));
    assert_eq!(fresh.next(), (first, record), "from now on");
    drop(all);
    set(&daemon, "two");
    set(&daemon, "three");
    let mut resumed = Stream::new(&daemon, path, Some(first));
    let kinds = format!("{path}?from=0&kind=inception&kind=woke");
    let mut some = Stream::new(&daemon, &kinds, None);
    let mut seen = vec![resumed.next(), resumed.next()];
    assert_eq!(some.next().1["kind"], "inception");
    home.suijuris(&["wake", "hello"]).code(0);
    seen.push(resumed.next());
    let told = some.next();
    assert_eq!(told.1["kind"], "woke");
    let log = home.log("hello");
    for (number, record) in seen.iter().chain([&told]) {
        assert_eq!(log[usize::try_from(*number).unwrap()], *record);
    }
    let numbers: Vec<u64> = seen.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [2, 3, 4]);
    let get = |path: &str| daemon.api("GET", path, &Value::Null);
    get(&format!("{path}?kind=nothing")).problem(400, "bad_request");
    get("/v1/objects/nobody/log/follow").problem(404, "unknown_object");
    daemon.terminate();
}

// proves G9
#[test]
fn memory_is_watched_and_what_was_written_meanwhile_is_told_on_return() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let path = "/v1/objects/hello/memory/watch";
    for phase in ["dormant", "active"] {
        if phase == "active" {
            home.suijuris(&["wake", "hello"]).code(0);
        }
        daemon.wait_phase("hello", phase);
        let mut stream = Stream::new(&daemon, path, None);
        set(&daemon, "one");
        let (number, change) = stream.next();
        assert_eq!(change["fields"]["note"]["value"], "one", "{phase}");
        assert_eq!(change["seq"], number);
        // The same once more is a write too.
        set(&daemon, "one");
        let (again, _) = stream.next();
        assert!(again > number, "{phase}");
        drop(stream);
        set(&daemon, "two");
        let mut resumed = Stream::new(&daemon, path, Some(again));
        assert_eq!(resumed.next().1["fields"]["note"]["value"], "two", "{phase}");
        set(&daemon, "three");
        assert_eq!(resumed.next().1["fields"]["note"]["value"], "three", "{phase}");
    }
    daemon.terminate();
}

/// A command that goes on, ended when dropped.
struct Going(Child, Lines<BufReader<ChildStdout>>);

impl Going {
    fn new(home: &Home, variables: &[(&str, &str)], args: &[&str]) -> Self {
        let mut command = home.command(env!("CARGO_BIN_EXE_suijuris"));
        command.envs(variables.iter().copied()).args(args);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut going = Self(child, lines);
        if args.contains(&"watch") {
            // It says when it has looked first.
            let mut said = BufReader::new(going.0.stderr.take().unwrap()).lines();
            assert!(said.next().unwrap().unwrap().contains("watching"));
        }
        going
    }

    #[track_caller]
    fn next(&mut self) -> Value {
        serde_json::from_str(&self.1.next().unwrap().unwrap()).unwrap()
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// proves A14
#[test]
fn commands_show_the_same_of_a_served_object_and_of_its_files() {
    let home = Home::new();
    let daemon = home.serve_with(&["--api", "127.0.0.1:0"]);
    let added = home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let data = added["data"].as_str().unwrap().to_owned();
    let token = home.path().join("read.token");
    let token = token.to_str().unwrap();
    home.suijuris(&["token", "api", "create", "reader", "-o", token])
        .code(0);
    let url = daemon.api_url();
    let elsewhere = [
        ("SUIJURIS_API_TOKEN_FILE", token),
        ("SUIJURIS_SERVER", url.as_str()),
    ];
    // No daemon is there, so that files are read.
    let nobody = home.path().join("nobody");
    let by_files = [("SUIJURIS_SERVER", nobody.to_str().unwrap())];
    let places: [(&[(&str, &str)], &str); 3] = [(&[], "hello"), (&elsewhere, "hello"), (&by_files, &data)];
    let mut logs = places
        .map(|(variables, object)| Going::new(&home, variables, &["log", object, "--follow", "--json"]));
    let mut watches = places
        .map(|(variables, object)| Going::new(&home, variables, &["memory", "watch", object, "--json"]));
    for (round, note) in ["a", "b", "a"].into_iter().enumerate() {
        if round == 0 {
            let [first, others @ ..] = &mut logs;
            let inception = first.next();
            assert_eq!(inception["kind"], "inception");
            assert!(others.iter_mut().all(|log| log.next() == inception));
        }
        set(&daemon, note);
        let [first, others @ ..] = &mut logs;
        let record = first.next();
        assert_eq!(record["kind"], "mutated");
        assert!(others.iter_mut().all(|log| log.next() == record));
        let [first, others @ ..] = &mut watches;
        let change = first.next();
        assert_eq!(
            (&change["field"], &change["value"]),
            (&json!("note"), &json!(note))
        );
        assert!(others.iter_mut().all(|watch| watch.next() == change));
    }
    daemon.terminate();
}

// proves C13
#[test]
fn readers_who_never_read_are_bounded_and_harm_nobody() {
    let home = Home::new();
    let daemon = home.serve();
    let text = "[workload]\ncommand = [\"true\"]\n[memory]\nnote = { type = \"string\", default = \"\", max_bytes = 200000 }\n";
    home.add(&home.define("hello", text, OPEN));
    let path = "/v1/objects/hello/memory/watch";
    let mut reader = Stream::new(&daemon, path, None);
    let paths = [path, "/v1/objects/hello/log/follow?from=0", "/v1/events?"];
    let silent = |number: usize| open(&daemon, paths[number % paths.len()], Some(0));
    let mut all_silent: Vec<UnixStream> = (1..READERS).map(silent).collect();
    let more = || {
        let mut socket = open(&daemon, "/v1/events", None);
        let head = read_head(&mut socket).unwrap();
        head.split(' ').nth(1).unwrap().to_owned()
    };
    // On a slow machine the first are ended before the last has come: others take their place.
    until("all are there", || {
        let full = more() == "503";
        if !full {
            all_silent.push(silent(all_silent.len()));
        }
        full
    });
    let mut socket = open(&daemon, "/v1/events", None);
    read_answer(&mut socket).unwrap().problem(503, "not_now");
    // More than any of them takes unread; who reads has each.
    for letter in "abcdefghijklmnopqrst".chars() {
        let note = letter.to_string().repeat(100_000);
        set(&daemon, &note);
        let (_, change) = reader.next();
        assert!(change["fields"]["note"]["value"] == note, "{letter}");
    }
    daemon.api("GET", "/v1/objects", &Value::Null).status(200);
    // Those whose streams stand still are ended, and leave room.
    until("there is room again", || more() == "200");
    set(&daemon, "after all");
    assert_eq!(reader.next().1["fields"]["note"]["value"], "after all");
    drop(all_silent);
    daemon.terminate();
}
