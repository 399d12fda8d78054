//! A terminal in a machine: over a real pseudo terminal by the command, and over the API by callers who may run commands there.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use suijuris_sys::descriptors::{poll, read, write};
use suijuris_sys::terminals::{Size, pair, set_size};

use crate::images;
use crate::rig::{Host, PATIENCE, until};

/// Somebody before a terminal in which a console is shown.
struct Person {
    terminal: OwnedFd,
    child: Child,
    seen: String,
}

impl Person {
    fn before(host: &Host, machine: &str, command: &[&str]) -> Self {
        let (terminal, program) = pair(Size {
            rows: 33,
            columns: 101,
        })
        .unwrap();
        // Its terminal is that of its session: only so is it told of a new size.
        let mut console = Command::new("setsid");
        console.args([
            "--ctty",
            "--wait",
            env!("CARGO_BIN_EXE_suijuris"),
            "host",
            "console",
            "--data",
        ]);
        console.arg(host.data()).args(["a", machine]);
        if !command.is_empty() {
            console.arg("--").args(command);
        }
        let side = || Stdio::from(program.try_clone().unwrap());
        let child = console
            .env("TERM", "vt100")
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap();
        Self {
            terminal,
            child,
            seen: String::new(),
        }
    }

    fn types(&self, text: &str) {
        write(self.terminal.as_fd(), text.as_bytes()).unwrap();
    }

    /// Waits until `text` was shown, and forgets all up to there, which is returned.
    #[track_caller]
    fn sees(&mut self, text: &str) -> String {
        let limit = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                return self.seen.drain(..at + text.len()).collect();
            }
            assert!(Instant::now() < limit, "{text:?} is not in {:?}", self.seen);
            self.look();
        }
    }

    fn look(&mut self) {
        let mut bytes = [0; 4_096];
        if poll(&[self.terminal.as_fd()], 100).unwrap()[0]
            && let Ok(length) = read(self.terminal.as_fd(), &mut bytes)
        {
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    }

    /// Its exit code, once it has ended.
    #[track_caller]
    fn ends(&mut self) -> Option<i32> {
        let limit = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < limit, "it has not ended: {:?}", self.seen);
            self.look();
        }
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// proves F1
#[test]
fn a_person_works_in_a_machine_as_at_a_terminal_of_its_own() {
    let dir = images::layout();
    let host = images::host(&dir);
    host.app("a");
    let id = images::machine(&host, &images::name(&dir), &json!({"env": {"GREETING": "hello"}}));
    host.wait(&id, "started");
    let mut person = Person::before(&host, &id, &[]);
    // What is typed is taken apart, so that its echo is not what is looked for.
    person.types("b=/bin/busybox; [ -t 0 ]; echo terminal=$? $GREETING-$TERM uid=$($b id -u)\r");
    person.sees("terminal=0 hello-vt100 uid=1000");
    person.types("$b stty size\r");
    person.sees("33 101");
    set_size(
        person.terminal.as_fd(),
        Size {
            rows: 20,
            columns: 60,
        },
    )
    .unwrap();
    until("the new size is known there", || {
        person.types("$b stty size; echo si''ze\r");
        person.sees("si''ze");
        person.sees("size").contains("20 60")
    });
    // Ctrl-C is the program's, and neither the shell's nor ours.
    person.types("$b sleep 1000; echo after=$?\r");
    let sleeps = |time: &str| images::says(&host, &id, "/bin/busybox ps").contains(&format!("sleep {time}"));
    until("it sleeps", || sleeps("1000"));
    person.types("\u{3}");
    until("it was interrupted", || !sleeps("1000"));
    person.types("echo still=$((40 + 2))\r");
    person.sees("still=42");
    person.types("exit 7\r");
    assert_eq!(person.ends(), Some(7));
    // A tilde and a dot at the beginning of a line end it, and what it ran.
    let mut second = Person::before(&host, &id, &["/bin/busybox", "sleep", "2000"]);
    until("it sleeps", || sleeps("2000"));
    second.types("\r~.");
    assert_eq!(second.ends(), Some(0));
    until("it is gone", || !sleeps("2000"));
    // A signal's number is told as a shell tells it, and the terminal is as it was before.
    let mut third = Person::before(&host, &id, &["/bin/sh", "-c", "kill -9 $$"]);
    assert_eq!(third.ends(), Some(137));
    // The end of the machine is the end of its consoles.
    let mut fourth = Person::before(&host, &id, &[]);
    fourth.types("echo he''re\r");
    fourth.sees("here");
    host.post(&format!("/apps/a/machines/{id}/stop"), &json!({}))
        .is(200);
    host.wait(&id, "stopped");
    assert!(
        [Some(137), Some(129)].contains(&fourth.ends()),
        "{:?}",
        fourth.seen
    );
    // A machine that does not run has none, and an unknown one neither.
    for (machine, text) in [
        (id.as_str(), "'stopped'; start it first"),
        ("nobody", "no such machine"),
    ] {
        let ended = host.suijuris(&["console", "a", machine]);
        assert_eq!(ended.status.code(), Some(3));
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(said.contains(text), "{said}");
    }
}

#[test]
fn without_a_terminal_the_end_of_input_is_the_commands() {
    let host = Host::start();
    host.app("a");
    let id = host.machine("exec sleep 100000", &json!({}));
    host.wait(&id, "started");
    let mut child = Command::new(env!("CARGO_BIN_EXE_suijuris"))
        .args(["host", "console", "--data"])
        .arg(host.data())
        .args(["a", &id, "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"one\ntwo").unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(
        text.matches("one").count() >= 2 && text.matches("two").count() >= 2,
        "{text:?}"
    );
}

/// A request for a console with this token: the status and what came with it, and the connection where it is one.
fn ask(host: &Host, token: &str, machine: &str, upgrade: &str, body: &Value) -> (u16, String, TcpStream) {
    let mut stream = TcpStream::connect(&host.api).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = body.to_string();
    let head = format!(
        "POST /v1/apps/a/machines/{machine}/console HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{upgrade}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
        text.push(byte[0]);
    }
    let head = String::from_utf8(text).unwrap().to_lowercase();
    let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut answer = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut answer).unwrap();
    (status, String::from_utf8_lossy(&answer).into_owned(), stream)
}

fn token(host: &Host, args: &[&str]) -> String {
    let made = host.suijuris(&[&["token", "create"][..], args].concat());
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

/// Frames of a console until it has ended: what was written, and how it ended.
fn hear(stream: &mut TcpStream) -> (String, Value) {
    let (mut text, mut head) = (String::new(), [0; 3]);
    loop {
        stream.read_exact(&mut head).unwrap();
        let mut bytes = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        stream.read_exact(&mut bytes).unwrap();
        match head[0] {
            0 => text.push_str(&String::from_utf8_lossy(&bytes)),
            2 => return (text, serde_json::from_slice(&bytes).unwrap()),
            other => panic!("frame {other}"),
        }
    }
}

// proves F1
#[test]
fn whoever_may_run_commands_may_open_a_console_and_nobody_else() {
    let host = Host::start();
    host.app("a");
    let id = host.machine("exec sleep 100000", &json!({}));
    host.wait(&id, "started");
    let upgrade = "Connection: Upgrade\r\nUpgrade: suijuris-console\r\n";
    let exec = token(&host, &["--exec"]);
    let asked = json!({"command": ["/bin/sh", "-c", "read line; echo \"got $line\"; stty size; exit 3"], "rows": 12, "columns": 34});
    let (status, _, mut stream) = ask(&host, &exec, &id, upgrade, &asked);
    assert_eq!(status, 101);
    stream.write_all(b"\0\0\x03hi\n").unwrap();
    let (text, ended) = hear(&mut stream);
    assert!(
        text.contains("got hi\r\n") && text.contains("12 34\r\n"),
        "{text:?}"
    );
    assert_eq!(ended, json!({"exit_code": 3, "exit_signal": 0}));
    // A client that goes away takes its command along.
    let (status, _, stream) = ask(
        &host,
        &exec,
        &id,
        upgrade,
        &json!({"command": ["/bin/sleep", "3000"]}),
    );
    assert_eq!(status, 101);
    let ps = || host.get(&format!("/apps/a/machines/{id}/ps")).is(200).to_string();
    let sleeps = || {
        Command::new("pgrep")
            .args(["-f", "^/bin/sleep 3000"])
            .output()
            .unwrap()
            .status
            .success()
    };
    until("it sleeps", || sleeps() || ps().contains("sleep 3000"));
    drop(stream);
    until("it is gone", || !sleeps() && !ps().contains("sleep 3000"));
    // Who may only look, who is of another org, who shows nothing.
    let read_only = token(&host, &["--read-only"]);
    let foreign = token(&host, &["--org", "others"]);
    let elsewhere = token(&host, &["--app", "b"]);
    for (token, expected) in [
        (&read_only, 403),
        (&foreign, 403),
        (&elsewhere, 403),
        (&String::new(), 401),
    ] {
        let (status, text, _) = ask(&host, token, &id, upgrade, &json!({}));
        assert_eq!(status, expected, "{text}");
    }
    // What is no console.
    let (status, text, _) = ask(&host, &exec, &id, "", &json!({}));
    assert!(
        status == 426 && text.contains("Upgrade: suijuris-console"),
        "{status} {text}"
    );
    for bad in [
        json!({"command": []}),
        json!({"term": "a b"}),
        json!({"rows": "x"}),
    ] {
        let (status, text, _) = ask(&host, &exec, &id, upgrade, &bad);
        assert_eq!(status, 400, "{text}");
    }
    let (status, _, _) = ask(&host, &exec, "00000000000000", upgrade, &json!({}));
    assert_eq!(status, 404);
    // A lease keeps others out, as of exec.
    let lease = host
        .post(&format!("/apps/a/machines/{id}/lease"), &json!({"ttl": 60}))
        .is(201);
    assert_eq!(ask(&host, &exec, &id, upgrade, &json!({})).0, 409);
    let nonce = format!(
        "{upgrade}fly-machine-lease-nonce: {}\r\n",
        lease["data"]["nonce"].as_str().unwrap()
    );
    let (status, _, stream) = ask(&host, &exec, &id, &nonce, &json!({"command": ["/bin/cat"]}));
    assert_eq!(status, 101);
    // As many as there may be, and one more once one has gone.
    let more: Vec<_> = (0..7)
        .map(|_| ask(&host, &exec, &id, &nonce, &json!({"command": ["/bin/cat"]})))
        .collect();
    assert!(more.iter().all(|(status, ..)| *status == 101));
    let (status, text, _) = ask(&host, &exec, &id, &nonce, &json!({}));
    assert!(
        status == 409 && text.contains("close one first"),
        "{status} {text}"
    );
    drop((stream, more));
    // Each is a line in the audit log, allowed or not.
    let audit = host.suijuris(&["audit", "--json"]);
    let rows: Vec<Value> = String::from_utf8(audit.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|row: &Value| row["operation"] == "Console")
        .collect();
    let count = |status: u64| rows.iter().filter(|row| row["status"] == status).count();
    assert_eq!(
        (count(101), count(403), count(401), count(426), count(409)),
        (10, 3, 1, 1, 2),
        "{rows:?}"
    );
    let path = format!("/v1/apps/a/machines/{id}/console");
    assert!(
        rows.iter()
            .filter(|row| row["status"] == 101)
            .all(|row| row["path"] == path.as_str())
    );
}
