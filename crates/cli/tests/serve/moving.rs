//! An object that somebody runs moves: its daemon, or its `up`, puts it to sleep by its rules, lets it depart, and one copy
//! arrives.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::home::{Home, MOVE, OPEN, STAY};

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn phase(home: &Home, data: &Path) -> Value {
    home.suijuris(&["show", text(data), "--json"]).code(0).json()["phase"].clone()
}

#[test]
fn a_daemon_moves_an_awake_object_to_a_directory_with_its_volume_or_takes_it_back() {
    let home = Home::new();
    let mut daemon = home.serve();
    let added = home.add(&home.object("hello", &[OPEN, STAY, MOVE].concat()));
    let data = PathBuf::from(added["data"].as_str().unwrap());
    daemon.get("hello", "/").status(200);
    home.suijuris(&["memory", "set", "hello", "note=travels"]).code(0);
    std::fs::write(data.join("volume/file"), b"travels too").unwrap();

    // Into a file, and back.
    let file = home.path().join("hello.sui");
    let events = home
        .suijuris(&["migrate", "hello", "--to", text(&file), "--json"])
        .code(0)
        .lines();
    assert_eq!(events[0]["event"], "departed", "{events:?}");
    daemon.wait(json!({"event": "dormant", "name": "hello"}));
    daemon.get("hello", "/").problem(503, "departed");
    assert_eq!(daemon.document("hello")["phase"], "departed");
    daemon.terminate();
    let daemon = home.serve();
    daemon.wait_phase("hello", "departed");
    daemon.get("hello", "/").problem(503, "departed");
    home.suijuris(&["migrate", "hello", "--back"]).code(0);
    daemon.get("hello", "/").status(200);
    let late = home.path().join("late");
    home.suijuris(&["import", text(&file), "--data", text(&late)])
        .code(1);

    // To a directory, where it arrives.
    let there = home.path().join("there");
    let events = home
        .suijuris(&["migrate", "hello", "--to-dir", text(&there), "--json"])
        .code(0)
        .lines();
    let names: Vec<_> = events.iter().map(|event| event["event"].clone()).collect();
    assert_eq!(names, ["departed", "arrived"], "{events:?}");
    assert_eq!(std::fs::read(there.join("volume/file")).unwrap(), b"travels too");
    assert_eq!(phase(&home, &there), "dormant");
    daemon.get("hello", "/").problem(503, "departed");
    let back = home.suijuris(&["migrate", "hello", "--back"]).code(3);
    assert!(back.err.contains("does not arrive here"), "{back:?}");
    home.suijuris(&["memory", "set", text(&there), "note=lives"])
        .code(0);
    home.verify(&there);
    daemon.terminate();
    home.nobody_is_left();
}

#[test]
fn what_refuses_to_move_goes_on_being_served() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    daemon.get("hello", "/").status(200);
    let there = home.path().join("there");
    let refused = home
        .suijuris(&["migrate", "hello", "--to-dir", text(&there), "--json"])
        .code(1)
        .json();
    assert_eq!(refused["action"], "migrate", "{refused}");
    assert!(!there.exists());
    daemon.get("hello", "/").status(200);
    daemon.terminate();
    home.nobody_is_left();
}

#[test]
fn up_lets_go_of_an_object_that_moves_and_ends() {
    let home = Home::new();
    let dir = home.object("alone", &[OPEN, STAY, MOVE].concat());
    let mut up = home.command(env!("CARGO_BIN_EXE_suijuris"));
    up.args(["up", "--json"]).arg(&dir).stdout(Stdio::piped());
    let mut up = up.spawn().unwrap();
    let mut lines = BufReader::new(up.stdout.take().unwrap()).lines();
    let heard = |lines: &mut std::io::Lines<BufReader<_>>, wanted: &str| {
        let mut events = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        events
            .find(|event| event["event"] == wanted)
            .unwrap_or_else(|| panic!("no {wanted}"))
    };
    heard(&mut lines, "listening");
    home.suijuris(&["wake", text(&dir)]).code(0);
    heard(&mut lines, "woke");
    let there = home.path().join("there");
    let events = home
        .suijuris(&["migrate", text(&dir), "--to-dir", text(&there), "--json"])
        .code(0)
        .lines();
    let names: Vec<_> = events.iter().map(|event| event["event"].clone()).collect();
    assert_eq!(names, ["departed", "arrived"], "{events:?}");
    heard(&mut lines, "departed");
    lines.for_each(drop);
    assert_eq!(up.wait().unwrap().code(), Some(0));
    assert_eq!(phase(&home, &there), "dormant");
    home.verify(&there);
    home.nobody_is_left();
}

/// A workload that needs nothing of its definition's directory.
pub(crate) const TRAVELLER: &str = r#"
[workload]
command = ["python3", "-m", "http.server", "{port}"]
cwd = "{data}"

[memory]
note = { type = "string", default = "" }
"#;

/// Another daemon of this home, with a token for its API in a file.
pub(crate) fn other(home: &Home, root: &Path, args: &[&str]) -> (Daemon, PathBuf) {
    let mut command = home.command(env!("CARGO_BIN_EXE_suijuris"));
    command.arg("serve").arg(root);
    command.args(["--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--json"]);
    let daemon = Daemon::start({
        command.args(args);
        command
    });
    let token = home.path().join("there.token");
    if !token.exists() {
        let mut made = home.command(env!("CARGO_BIN_EXE_suijuris"));
        made.env("SUIJURIS_SERVER", root);
        let operate = ["--scope", "operate", "-o", text(&token)];
        crate::ran::run(made.args(["token", "api", "create", "there"]).args(operate)).code(0);
    }
    (daemon, token)
}

pub(crate) fn owner(home: &Home) -> String {
    home.suijuris(&["key"]).code(0).out.trim().to_owned()
}

/// The command that moves an object there.
pub(crate) fn migrating(home: &Home, token: &Path, object: &str, to: &str) -> Command {
    let mut command = home.command(env!("CARGO_BIN_EXE_suijuris"));
    command.env("SUIJURIS_API_TOKEN_FILE", token);
    command.args(["migrate", object, "--to", to, "--json"]);
    command
}

pub(crate) fn migrate(home: &Home, token: &Path, object: &str, to: &str) -> crate::ran::Ran {
    crate::ran::run(&mut migrating(home, token, object, to))
}

// proves B4
#[test]
fn another_daemon_receives_an_object_with_its_volume_and_gives_it_back() {
    let home = Home::new();
    let here = home.serve();
    let owner = owner(&home);
    let root = home.path().join("there");
    let listed = ["--receive", &owner, "--receive-command", "python3"];
    let (there, token) = other(&home, &root, &listed);
    let added = home.add(&home.define("traveller", TRAVELLER, &[OPEN, STAY, MOVE].concat()));
    let data = PathBuf::from(added["data"].as_str().unwrap());
    here.get("traveller", "/").status(200);
    std::fs::write(data.join("volume/file"), b"travels too").unwrap();
    home.suijuris(&["memory", "set", "traveller", "note=travels"])
        .code(0);
    let events = migrate(&home, &token, "traveller", &there.api_url())
        .code(0)
        .lines();
    let names: Vec<_> = events.iter().map(|event| event["event"].clone()).collect();
    assert_eq!(names, ["departed", "arrived"], "{events:?}");
    let document = there.document("traveller");
    assert_eq!(document["object"], added["object"]);
    assert_eq!(there.get("traveller", "/file").status(200).body, "travels too");
    here.get("traveller", "/").problem(503, "departed");
    let back = home.suijuris(&["migrate", "traveller", "--back"]).code(3);
    assert!(back.err.contains("does not arrive here"), "{back:?}");
    let again = migrate(&home, &token, "traveller", &there.api_url()).code(0);
    assert_eq!(again.lines()[0]["event"], "arrived", "it is there already");
    home.verify(&PathBuf::from(document["data"].as_str().unwrap()));
    assert!(crate::home::names(&home.root().join("outgoing")).is_empty());

    // And back, to where its history was left behind.
    let ask = |args: &[&str]| {
        let mut command = home.command(env!("CARGO_BIN_EXE_suijuris"));
        command.env("SUIJURIS_SERVER", &root);
        crate::ran::run(command.args(args))
    };
    let to = format!("unix:{}", text(home.root()));
    let nobody = ask(&["migrate", "traveller", "--to", &to]).code(3);
    assert!(nobody.err.contains("receives from nobody"), "{nobody:?}");
    there.get("traveller", "/file").status(200);
    here.terminate();
    let here = home.serve_with(&listed);
    ask(&["migrate", "traveller", "--to", &to]).code(0);
    assert_eq!(here.get("traveller", "/file").status(200).body, "travels too");
    let note = home.suijuris(&["memory", "get", "traveller", "note"]).code(0);
    assert_eq!(note.out.trim(), "travels");
    assert_eq!(here.document("traveller")["object"], added["object"]);
    there.get("traveller", "/").problem(503, "departed");
    here.terminate();
    there.terminate();
    home.nobody_is_left();
}

#[test]
fn a_daemon_takes_nothing_but_from_listed_owners_and_runs_nothing_but_listed_programs() {
    let home = Home::new();
    let here = home.serve();
    let owner = owner(&home);
    home.add(&home.define("traveller", TRAVELLER, &[OPEN, STAY, MOVE].concat()));
    home.add(&home.object("rooted", &[OPEN, STAY, MOVE].concat()));
    let mounts = "[[workload.mounts]]\nfrom = \"/etc\"\nto = \"/mnt/etc\"\n";
    home.add(&home.define(
        "curious",
        &format!("{TRAVELLER}{mounts}"),
        &[OPEN, STAY, MOVE].concat(),
    ));
    home.add(&home.define(
        "neighbourly",
        &TRAVELLER.replace("[workload]", "[workload]\negress = [\"host.internal:1\"]"),
        &[OPEN, STAY, MOVE].concat(),
    ));
    for name in ["traveller", "rooted"] {
        here.get(name, "/").status(200);
    }
    let stranger = "00".repeat(32);
    let foreign = format!("file://{}", text(&home.path().join("foreign")));
    let cases: [(&str, &[&str], &str); 6] = [
        (
            "traveller",
            &["--receive", &stranger, "--receive-command", "python3"],
            "does not receive from this owner",
        ),
        ("traveller", &["--receive", &owner], "none of them"),
        (
            "rooted",
            &["--receive", &owner, "--receive-command", "python3"],
            "{object}",
        ),
        (
            "curious",
            &["--receive", &owner, "--receive-command", "python3"],
            "files of its host",
        ),
        (
            "neighbourly",
            &["--receive", &owner, "--receive-command", "python3"],
            "host.internal",
        ),
        (
            "traveller",
            &[
                "--receive",
                &owner,
                "--receive-command",
                "python3",
                "--depot",
                &foreign,
            ],
            "one depot",
        ),
    ];
    for (number, (name, args, why)) in cases.into_iter().enumerate() {
        let root = home.path().join(format!("there-{number}"));
        let _ = std::fs::remove_file(home.path().join("there.token"));
        let (there, token) = other(&home, &root, args);
        let refused = migrate(&home, &token, name, &there.api_url()).code(3);
        assert!(refused.err.contains(why), "{refused:?}");
        there.terminate();
    }
    // Nobody was even asked to sleep.
    for name in ["traveller", "rooted"] {
        assert_eq!(here.document(name)["phase"], "active");
    }
    here.terminate();
    home.nobody_is_left();
}

#[test]
fn killed_anywhere_between_two_daemons_it_is_one_object_and_goes_on() {
    let home = Home::new();
    let here = home.serve();
    let owner = owner(&home);
    let root = home.path().join("there");
    let listed = ["--receive", &owner, "--receive-command", "python3"];
    let (mut there, token) = other(&home, &root, &listed);
    let dir = home.define("traveller", TRAVELLER, &[OPEN, STAY, MOVE].concat());
    let add = |name: &str| {
        home.suijuris(&["add", text(&dir), "--name", name]).code(0);
        here.get(name, "/").status(200);
    };
    add("probe");
    let began = std::time::Instant::now();
    migrate(&home, &token, "probe", &there.api_url()).code(0);
    let takes = began.elapsed();
    for round in 0_u32..8 {
        let name = format!("t{round}");
        add(&name);
        let mut child = migrating(&home, &token, &name, &there.api_url())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // A fault at a moment of its own each time; nothing waits for it.
        std::thread::sleep(takes * round / 7 + std::time::Duration::from_millis(1));
        there.kill();
        child.wait().unwrap();
        (there, _) = other(&home, &root, &listed);
        let path = format!("/v1/objects/{name}");
        let left = here.document(&name)["phase"] == "departed";
        let arrived = || {
            let shown = there.api("GET", &path, &Value::Null);
            shown.status == 200 && shown.json()["phase"] != "departed"
        };
        crate::home::until("it is opened", || {
            let shown = there.api("GET", &path, &Value::Null);
            shown.status != 200 || shown.json()["phase"] != "opening"
        });
        assert!(left || !arrived(), "two of one in round {round}");
        if !arrived() && left && round % 2 == 0 {
            home.suijuris(&["migrate", &name, "--back"]).code(0);
            here.get(&name, "/").status(200);
        }
        if !arrived() {
            migrate(&home, &token, &name, &there.api_url()).code(0);
        }
        there.get(&name, "/").status(200);
        here.get(&name, "/").problem(503, "departed");
    }
    here.terminate();
    there.terminate();
    home.nobody_is_left();
}
