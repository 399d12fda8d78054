//! What is outside of `up` and does not do its part: a reader that does not read, a runtime that stands still.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::rig::{OPEN, Object, STAY, kill, read_answer, until};

/// Each tells of a proposal and a verdict: together more than a pipe holds.
const REQUESTS: usize = 600;

// proves C13
#[test]
fn a_reader_that_does_not_read_stops_nobody() {
    let object = Object::new("", "");
    let mut command = object.command(env!("CARGO_BIN_EXE_suijuris"));
    command.args([
        "up",
        object.dir().to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--json",
    ]);
    let mut up = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::with_capacity(1, up.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let listening: Value = serde_json::from_str(&line).unwrap();
    let url = listening["url"]
        .as_str()
        .unwrap()
        .trim_end_matches('/')
        .to_owned();
    let address = url.rsplit('/').next().unwrap();
    // From now on nobody reads what it tells.
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    for n in 0..REQUESTS {
        let request = format!("GET /{n} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        if socket.write_all(request.as_bytes()).is_err() {
            socket = TcpStream::connect(address).unwrap();
            socket.write_all(request.as_bytes()).unwrap();
        }
        match read_answer(&mut socket) {
            Some(answer) => assert_eq!(answer.status, 403, "request {n}: {answer:?}"),
            // A connection is good for so many requests.
            None => socket = TcpStream::connect(address).unwrap(),
        }
    }
    let asked = Instant::now();
    kill(up.id(), "INT");
    until("it ends", || up_has_ended(&object));
    let _ = up.wait();
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    object.nobody_is_left();
    object.verify();
}

// proves C13
#[test]
fn a_reader_that_comes_back_learns_how_much_it_has_missed() {
    const CHATTY: &str = "import os, time\nfor n in range(20000): print('line', n)\nprint(end='', flush=True)\n\
                          open(os.environ['SUIJURIS_DATA'] + '/said', 'w').close()\ntime.sleep(1000)\n";
    let definition = "name = \"chatty\"\n[workload]\ncommand = [\"python3\", \"{object}/chatty.py\"]\nready = \"spawned\"\n";
    let object = Object::defined(definition, &[OPEN, STAY].concat());
    object.file("chatty.py", CHATTY);
    let mut command = object.command(env!("CARGO_BIN_EXE_suijuris"));
    command.args(["up", object.dir().to_str().unwrap(), "--json"]);
    let mut up = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdout = up.stdout.take().unwrap();
    until("it listens", || object.data().join("run/up.sock").exists());
    object.ask(&["wake"]).code(0);
    until("its workload has said all", || {
        object.data().join("volume/said").exists()
    });
    // What nobody reads has arrived, and does not wait for a reader.
    object.ask(&["sleep"]).code(0);
    let asleep = || object.ask(&["show", "--json"]).code(0).json()["phase"] == "dormant";
    until("it sleeps", asleep);
    let reading = std::thread::spawn(move || {
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let event = |line: String| -> Value {
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
        };
        lines.map(event).collect::<Vec<_>>()
    });
    // It reads again, and hears of something new.
    until("there is something to tell", || {
        object.ask(&["wake"]);
        object.ask(&["sleep"]).code == 0
    });
    kill(up.id(), "INT");
    let _ = up.wait();
    let events = reading.join().unwrap();
    let lost = events
        .iter()
        .find(|event| event["code"] == "events_dropped")
        .unwrap();
    let words = lost["message"].as_str().unwrap();
    let count: usize = words.split(' ').next().unwrap().parse().unwrap();
    assert!(count > 1_000, "{lost}");
    let said = |event: &&Value| event["event"] == "output";
    assert!(
        events.iter().filter(said).count() + count >= 20_000,
        "each line was read or counted: {lost}"
    );
}

/// Its control socket answers nobody any more.
fn up_has_ended(object: &Object) -> bool {
    std::os::unix::net::UnixStream::connect(object.data().join("run/up.sock")).is_err()
}

// proves C13
#[test]
fn a_runtime_that_stands_still_is_noticed_and_replaced() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let mut up = object.up();
    up.get("/").status(200);
    kill(up.runtime_pid(), "STOP");
    up.wait(json!({"event": "machine", "state": "paused"}));
    up.get("/").status(200);
    up.wait(json!({"event": "woke", "epoch": 2}));
    // One that stands still does not keep it from ending either.
    kill(up.runtime_pid(), "STOP");
    let asked = Instant::now();
    up.signal("INT");
    up.signal("INT");
    up.ended();
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    object.nobody_is_left();
    object.verify();
}
