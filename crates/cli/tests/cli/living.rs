//! A real life under `up`, and what the other commands say of it while it runs and after.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use crate::rig::Rig;

/// Guard against a hang; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `up`; killed when dropped.
struct Up {
    child: Child,
    events: Lines<BufReader<ChildStdout>>,
}

impl Up {
    fn start(rig: &Rig, dir: &str) -> Self {
        let mut command = rig.command(&["up", dir, "--json"]);
        command.env("PATH", std::env::var_os("PATH").unwrap());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let events = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, events }
    }

    /// The next event of this name.
    fn hear(&mut self, name: &str) -> serde_json::Value {
        let mut parsed = self
            .events
            .by_ref()
            .map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
        parsed
            .find(|event| event["event"] == name)
            .unwrap_or_else(|| panic!("`up` ended before `{name}`"))
    }

    fn end(mut self) {
        let pid = self.child.id().to_string();
        assert!(
            std::process::Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "`up` does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// proves A11, D6
#[test]
fn what_a_running_object_decided_comes_out_the_same_again() {
    let rig = Rig::new();
    assert_eq!(rig.run(&["new", "http", "hello"]).code, 0);
    let mut up = Up::start(&rig, "hello");
    let object = up.hear("listening")["object"].clone();
    for _ in 0..3 {
        assert_eq!(
            rig.run(&["show", "hello", "--json"]).code(0).json()["epoch"],
            0,
            "looking wakes nobody"
        );
    }
    assert_eq!(rig.run(&["ps", "--json"]).code(0).json()[0]["object"], object);
    rig.run(&["wake", "hello"]).code(0);
    while up.hear("workload")["state"] != "ready" {}
    assert_eq!(
        rig.run(&["show", "hello", "--json"]).code(0).json()["running"],
        true
    );
    rig.run(&["memory", "set", "hello", "open=false"]).code(0);
    rig.run(&["sleep", "hello"]).code(0);
    up.hear("dormant");
    up.end();
    rig.run(&["verify", "hello"]).code(0);
    let records = rig.run(&["log", "hello", "--json"]).code(0).lines();
    let kept = records.iter().filter(|record| !record["verdict"].is_null());
    let actions: Vec<_> = kept
        .map(|record| {
            let why = rig
                .run(&["why", "hello", &record["seq"].to_string(), "--json"])
                .code(0)
                .json();
            assert_eq!(why["replay"]["same"], true, "{why}");
            record["verdict"]["action"].clone()
        })
        .collect();
    assert_eq!(actions, ["wake", "sleep"]);
    let known = rig.run(&["ps", "--json"]).code(0).json();
    assert_eq!(
        (&known[0]["running"], &known[0]["url"]),
        (&false.into(), &serde_json::Value::Null)
    );
}

#[test]
fn who_has_read_enough_breaks_nothing() {
    let rig = Rig::new();
    rig.create("http", "hello").live();
    let mut command = rig.command(&["log", "hello", "--json"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}
